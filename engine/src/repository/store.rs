//! The objects of a repository: storage and keys together.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::{Arc, Mutex};

use lakebed_core::codec::frame::{FRAME_HEADER_LEN, FrameHeader, FrameKind, FrameScratch, open_record, seal_record};
use lakebed_core::codec::seal::{RepositoryKeys, SALT_LEN, Salt};
use lakebed_core::id::{ID_LEN, PackId};
use lakebed_core::layout;
use lakebed_core::record::Record;
use lakebed_core::storage::{ObjectInfo, ObjectKey, Storage, StorageErrorKind};
use lakebed_core::time::Random;
use lakebed_core::wire::DecodeError;

use super::ObjectCache;
use crate::error::{Error, Result};
use crate::storage::{Survey, SurveyedStorage};

/// Storage and keys. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    storage: SurveyedStorage,
    keys: Arc<RepositoryKeys>,
    copies: Option<Arc<ObjectCache>>,
    scratches: Arc<Mutex<Vec<FrameScratch>>>,
}

/// Draws an id or a salt.
pub(crate) fn draw(random: &dyn Random) -> Result<[u8; ID_LEN]> {
    let mut bytes = [0; SALT_LEN];
    random.fill(&mut bytes).map_err(|source| Error::Machine { operation: "get randomness", source })?;
    Ok(bytes)
}

/// Returns the packs in a listing with their sizes in bytes.
pub(crate) fn packs_in(objects: &[ObjectInfo]) -> HashMap<PackId, u64> {
    let pack = |object: &ObjectInfo| {
        let id = layout::last_part(&object.key).parse::<PackId>().ok()?;
        (layout::pack(id) == object.key).then_some((id, object.size_bytes))
    };
    objects.iter().filter_map(pack).collect()
}

impl Store {
    /// Joins storage and keys.
    pub fn new(storage: Arc<dyn Storage>, keys: Arc<RepositoryKeys>) -> Self {
        Self::with_copies(SurveyedStorage::new(storage), keys, None)
    }

    /// Joins storage, of which copies may be kept, and keys.
    pub(crate) fn with_copies(
        storage: SurveyedStorage,
        keys: Arc<RepositoryKeys>,
        copies: Option<Arc<ObjectCache>>,
    ) -> Self {
        Self { storage, keys, copies, scratches: Arc::default() }
    }

    /// Returns where copies of objects are kept, where that is worth it.
    pub(crate) fn copies(&self) -> Option<Arc<ObjectCache>> {
        self.copies.clone()
    }

    /// Returns the storage.
    pub fn storage(&self) -> &dyn Storage {
        &self.storage
    }

    /// Opens other objects with the same keys.
    pub fn over(&self, storage: Arc<dyn Storage>) -> Self {
        Self { storage: SurveyedStorage::new(storage), ..self.clone() }
    }

    /// Puts care before the storage; what was looked up ahead stays.
    pub(crate) fn with_care(&self, careful: Arc<dyn Storage>) -> Self {
        Self { storage: self.storage.through(careful), ..self.clone() }
    }

    /// Returns the keys.
    pub fn keys(&self) -> &RepositoryKeys {
        &self.keys
    }

    /// Looks ahead at the listings of prefixes, where that takes fewer requests: see [`SurveyedStorage`].
    ///
    /// # Errors
    /// Storage.
    pub(crate) fn look_ahead(&self, prefixes: &[&str]) -> Result<Survey> {
        Ok(self.storage.look_ahead(prefixes)?)
    }

    /// Lends buffers and contexts for sealing and opening.
    pub(crate) fn with_scratch<T>(&self, work: impl FnOnce(&mut FrameScratch) -> Result<T>) -> Result<T> {
        let pop = || self.scratches.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop();
        let mut scratch = match pop() {
            Some(scratch) => scratch,
            None => FrameScratch::new().map_err(|source| Error::Machine { operation: "make a compressor", source })?,
        };
        let result = work(&mut scratch);
        self.scratches.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(scratch);
        result
    }

    /// Lists the ids that objects right under a prefix are named by. Other names are passed over.
    ///
    /// # Errors
    /// Storage.
    pub fn list_ids<T: FromStr>(&self, prefix: &str) -> Result<Vec<T>> {
        let objects = self.storage.list(prefix)?;
        Ok(objects.iter().filter_map(|object| layout::last_part(&object.key).parse().ok()).collect())
    }

    /// Lists the packs in storage with their sizes in bytes.
    ///
    /// # Errors
    /// Storage.
    pub fn list_packs(&self) -> Result<HashMap<PackId, u64>> {
        Ok(packs_in(&self.storage.list(layout::PACKS)?))
    }

    /// Seals a record for a key and stores it. It is durable after [`Storage::sync`].
    ///
    /// # Errors
    /// `AlreadyExists` where the key is taken, and every other failure of storage.
    pub fn put_record<R: Record>(&self, key: &ObjectKey, record: &R, random: &dyn Random) -> Result<u64> {
        let bytes = self.seal_checked(R::KIND, key.as_str(), &record.encode(), random)?;
        self.storage.put(key, &bytes)?;
        Ok(bytes.len() as u64)
    }

    /// As [`Store::put_record`], for what this machine is going to read again: it keeps a copy.
    pub(crate) fn put_kept_record<R: Record>(&self, key: &ObjectKey, record: &R, random: &dyn Random) -> Result<u64> {
        let bytes = self.seal_checked(R::KIND, key.as_str(), &record.encode(), random)?;
        self.storage.put(key, &bytes)?;
        if let Some(copies) = &self.copies {
            copies.keep(key, &bytes);
        }
        Ok(bytes.len() as u64)
    }

    /// Seals a record, opens it again and compares: nothing is stored that does not come back.
    fn seal_checked(&self, kind: FrameKind, context: &str, plain: &[u8], random: &dyn Random) -> Result<Vec<u8>> {
        let salt: Salt = draw(random)?;
        self.with_scratch(|scratch| {
            let check = |source| Error::FrameCheck { source };
            let bytes = seal_record(&self.keys, kind, &salt, context, plain, scratch).map_err(check)?;
            let (_, back) = open_record(&self.keys, &[kind], context, &bytes, scratch).map_err(check)?;
            if back != plain {
                return Err(check(DecodeError::invalid(kind.as_str(), "it came back different").into()));
            }
            Ok(bytes)
        })
    }

    /// Seals a record that is named after its bytes, stores it, and returns its name and its bytes.
    ///
    /// # Errors
    /// Storage.
    pub fn put_hashed(
        &self,
        kind: FrameKind,
        prefix: &str,
        plain: &[u8],
        random: &dyn Random,
    ) -> Result<([u8; ID_LEN], Vec<u8>)> {
        let bytes = self.seal_checked(kind, prefix, plain, random)?;
        let name = *lakebed_core::hash::object_hash(&bytes).as_bytes();
        let key = ObjectKey::new(format!("{prefix}{}", lakebed_core::id::to_hex(&name)));
        // a prefix of the layout and hexadecimal digits are always a key
        #[expect(clippy::expect_used)]
        self.storage.put(&key.expect("a valid object key"), &bytes)?;
        Ok((name, bytes))
    }

    /// Reads and opens a record.
    ///
    /// # Errors
    /// It is not there, damaged, or of a newer version.
    pub fn read_record<R: Record>(&self, key: &ObjectKey) -> Result<R> {
        let (_, plain) = self.read_kinds(key, &[R::KIND])?;
        R::decode(&plain).map_err(|source| Error::Record { key: key.clone(), source })
    }

    /// Reads and opens a record that may be of several kinds.
    ///
    /// # Errors
    /// It is not there, damaged, or of another kind.
    pub fn read_kinds(&self, key: &ObjectKey, kinds: &[FrameKind]) -> Result<(FrameKind, Vec<u8>)> {
        self.open_bytes(key, kinds, &self.storage.get(key)?)
    }

    /// As [`Store::read_record`], for a record that was just listed: a copy of it will do.
    pub(crate) fn read_listed_record<R: Record>(&self, key: &ObjectKey) -> Result<R> {
        let (_, plain) = self.read_listed_kinds(key, &[R::KIND])?;
        R::decode(&plain).map_err(|source| Error::Record { key: key.clone(), source })
    }

    /// As [`Store::read_kinds`], for a record that was just listed: a copy of it will do.
    pub(crate) fn read_listed_kinds(&self, key: &ObjectKey, kinds: &[FrameKind]) -> Result<(FrameKind, Vec<u8>)> {
        let copy = self.copies.as_ref().and_then(|copies| copies.get(key));
        if let Some(Ok(record)) = copy.map(|bytes| self.open_bytes(key, kinds, &bytes)) {
            return Ok(record);
        }
        let bytes = self.storage.get(key)?;
        let record = self.open_bytes(key, kinds, &bytes)?;
        if let Some(copies) = &self.copies {
            copies.keep(key, &bytes);
        }
        Ok(record)
    }

    pub(crate) fn open_bytes(
        &self,
        key: &ObjectKey,
        kinds: &[FrameKind],
        bytes: &[u8],
    ) -> Result<(FrameKind, Vec<u8>)> {
        self.with_scratch(|scratch| {
            open_record(&self.keys, kinds, key.as_str(), bytes, scratch)
                .map_err(|source| Error::Damaged { key: key.clone(), source })
        })
    }

    /// Returns the kind that a record says it has, unchecked: whoever opens it finds out whether that is true.
    ///
    /// # Errors
    /// It is not there, or its header is damaged.
    pub(crate) fn read_kind(&self, key: &ObjectKey) -> Result<FrameKind> {
        let mut header = Vec::new();
        match self.storage.get_range(key, 0, FRAME_HEADER_LEN, &mut header) {
            // too short for a header: it is cut off
            Err(error) if error.kind == StorageErrorKind::TooShort => {}
            result => result?,
        }
        let header = FrameHeader::decode(&header);
        Ok(header.map_err(|source| Error::Damaged { key: key.clone(), source: source.into() })?.kind)
    }

    /// Reads and opens a record that is named after its bytes.
    ///
    /// # Errors
    /// It is not there, or its bytes do not hash to its name, or it is damaged or of another kind.
    pub fn read_hashed(
        &self,
        key: &ObjectKey,
        name: &[u8; ID_LEN],
        kinds: &[FrameKind],
        prefix: &str,
        scratch: &mut FrameScratch,
    ) -> Result<(FrameKind, Vec<u8>)> {
        let bytes = self.storage.get(key)?;
        self.open_hashed(key, name, &bytes, kinds, prefix, scratch)
    }

    /// Opens the bytes of a record that is named after them.
    pub(crate) fn open_hashed(
        &self,
        key: &ObjectKey,
        name: &[u8; ID_LEN],
        bytes: &[u8],
        kinds: &[FrameKind],
        prefix: &str,
        scratch: &mut FrameScratch,
    ) -> Result<(FrameKind, Vec<u8>)> {
        let found = lakebed_core::hash::object_hash(bytes);
        if found.as_bytes() != name {
            return Err(Error::WrongHash { key: key.clone(), found: lakebed_core::id::to_hex(&found.as_bytes()[..4]) });
        }
        open_record(&self.keys, kinds, prefix, bytes, scratch)
            .map_err(|source| Error::Damaged { key: key.clone(), source })
    }
}
