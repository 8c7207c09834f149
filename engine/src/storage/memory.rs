//! `MemoryStorage`: a storage in memory, for tests and for programs that embed lakebed.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lakebed_core::storage::{Capabilities, ObjectInfo, ObjectKey, ObjectWriter, Storage, StorageError};

/// As for a local folder, so that tests cut packs the way users do.
const PACK_TARGET_BYTES: u64 = 32 << 20;

/// Objects in a map. Clones share it.
#[derive(Clone)]
pub struct MemoryStorage {
    objects: Arc<Mutex<BTreeMap<ObjectKey, Arc<[u8]>>>>,
    pack_target_bytes: u64,
}

impl Default for MemoryStorage {
    fn default() -> Self {
        Self { objects: Arc::default(), pack_target_bytes: PACK_TARGET_BYTES }
    }
}

impl MemoryStorage {
    /// Returns an empty storage.
    pub fn new() -> Self {
        Self::default()
    }

    /// Says that packs of so many bytes suit it.
    pub fn with_pack_target(mut self, bytes: u64) -> Self {
        self.pack_target_bytes = bytes;
        self
    }

    /// The map is whole between any two of our statements, so a panic elsewhere cannot have left it half changed.
    fn objects(&self) -> MutexGuard<'_, BTreeMap<ObjectKey, Arc<[u8]>>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn object(&self, key: &ObjectKey) -> Result<Arc<[u8]>, StorageError> {
        let object = self.objects().get(key).cloned();
        object.ok_or_else(|| StorageError::new("read", key, io::ErrorKind::NotFound.into()))
    }

    fn insert(&self, key: &ObjectKey, bytes: Arc<[u8]>) -> Result<(), StorageError> {
        use std::collections::btree_map::Entry;
        match self.objects().entry(key.clone()) {
            Entry::Occupied(_) => Err(StorageError::new("write", key, io::ErrorKind::AlreadyExists.into())),
            Entry::Vacant(place) => {
                place.insert(bytes);
                Ok(())
            }
        }
    }
}

impl From<BTreeMap<ObjectKey, Arc<[u8]>>> for MemoryStorage {
    /// Takes objects as they are; their bytes stay shared.
    fn from(objects: BTreeMap<ObjectKey, Arc<[u8]>>) -> Self {
        Self { objects: Arc::new(Mutex::new(objects)), ..Self::default() }
    }
}

impl fmt::Debug for MemoryStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStorage").field("objects", &self.objects().len()).finish()
    }
}

impl Storage for MemoryStorage {
    fn location(&self) -> String {
        "memory:".to_owned()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::strict(self.pack_target_bytes)
    }

    fn put(&self, key: &ObjectKey, bytes: &[u8]) -> Result<(), StorageError> {
        self.insert(key, bytes.into())
    }

    fn writer(&self) -> Result<Box<dyn ObjectWriter>, StorageError> {
        Ok(Box::new(MemoryWriter { storage: self.clone(), bytes: Some(Vec::new()) }))
    }

    fn get(&self, key: &ObjectKey) -> Result<Vec<u8>, StorageError> {
        Ok(self.object(key)?.to_vec())
    }

    fn get_range(&self, key: &ObjectKey, offset: u64, length: usize, buffer: &mut Vec<u8>) -> Result<(), StorageError> {
        let object = self.object(key)?;
        let start = usize::try_from(offset).ok();
        let range = start.and_then(|start| object.get(start..start.checked_add(length)?));
        match range {
            Some(bytes) => {
                buffer.extend_from_slice(bytes);
                Ok(())
            }
            None => Err(StorageError::new("read", key, io::ErrorKind::UnexpectedEof.into())),
        }
    }

    fn size(&self, key: &ObjectKey) -> Result<u64, StorageError> {
        Ok(self.object(key)?.len() as u64)
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StorageError> {
        if !prefix.is_empty() && !prefix.ends_with('/') {
            let source = io::Error::new(io::ErrorKind::InvalidInput, "a prefix is empty or ends in `/`");
            return Err(StorageError::new("list", prefix, source));
        }
        let objects = self.objects();
        let infos = objects
            .iter()
            .filter(|(key, _)| key.as_str().starts_with(prefix))
            .map(|(key, bytes)| ObjectInfo { key: key.clone(), size_bytes: bytes.len() as u64 });
        Ok(infos.collect())
    }

    fn delete(&self, key: &ObjectKey) -> Result<(), StorageError> {
        match self.objects().remove(key) {
            Some(_) => Ok(()),
            None => Err(StorageError::new("delete", key, io::ErrorKind::NotFound.into())),
        }
    }

    /// Succeeds: memory has no power loss to survive.
    fn sync(&self) -> Result<(), StorageError> {
        Ok(())
    }
}

struct MemoryWriter {
    storage: MemoryStorage,
    /// What was appended; nothing any more once it was finished.
    bytes: Option<Vec<u8>>,
}

impl MemoryWriter {
    fn over(subject: impl fmt::Display) -> StorageError {
        StorageError::new("write", subject, io::Error::other("the object is finished"))
    }
}

impl ObjectWriter for MemoryWriter {
    fn append(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        let all = self.bytes.as_mut().ok_or_else(|| Self::over(self.storage.location()))?;
        all.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(&mut self, key: &ObjectKey) -> Result<(), StorageError> {
        let bytes = self.bytes.take().ok_or_else(|| Self::over(key))?;
        self.storage.insert(key, bytes.into())
    }
}

#[cfg(test)]
mod tests {
    use super::super::contract;
    use super::*;

    #[test]
    fn memory_keeps_the_contract() {
        let storage = MemoryStorage::new();
        contract::check(&storage).unwrap();
        assert!(storage.list("").unwrap().is_empty());
    }

    #[test]
    fn clones_share_their_objects() {
        let one = MemoryStorage::new();
        let other = one.clone();
        let key = ObjectKey::new("keys/1").unwrap();
        one.put(&key, b"content").unwrap();
        assert_eq!(other.get(&key).unwrap(), b"content");
        assert_eq!(format!("{other:?}"), "MemoryStorage { objects: 1 }");
    }

    #[test]
    fn a_prefix_that_is_no_folder_is_refused() {
        assert!(MemoryStorage::new().list("packs").is_err());
    }
}
