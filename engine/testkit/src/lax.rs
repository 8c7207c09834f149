//! A storage that promises nothing: as object stores may be of which only the name of the protocol is known.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use lakebed_core::forward_storage;
use lakebed_core::storage::{Capabilities, ObjectInfo, ObjectKey, ObjectWriter, Storage, StorageError};

/// What a medium leaves to be wished.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults {
    /// It answers that a put went well and has replaced what was there.
    pub replaces: bool,
    /// It lists nothing that was put since.
    pub lists_nothing: bool,
    /// It forgets the last byte of what is put.
    pub cuts: bool,
    /// It lets nobody delete.
    pub keeps: bool,
}

/// A storage of which nothing is known before it was tried.
#[derive(Clone)]
pub struct LaxStorage {
    inner: Arc<dyn Storage>,
    faults: Faults,
    place: &'static str,
    puts: Arc<AtomicU64>,
    after_survey: Arc<Mutex<Option<Act>>>,
}

/// What happens meanwhile.
type Act = Box<dyn FnOnce() + Send>;

impl fmt::Debug for LaxStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LaxStorage").field("faults", &self.faults).field("place", &self.place).finish_non_exhaustive()
    }
}

impl LaxStorage {
    /// Makes a storage lax; `place` is its identity.
    pub fn new(inner: Arc<dyn Storage>, place: &'static str, faults: Faults) -> Self {
        Self { inner, faults, place, puts: Arc::default(), after_survey: Arc::default() }
    }

    /// Returns how often something was put, or tried to be.
    pub fn puts(&self) -> u64 {
        self.puts.load(Ordering::Relaxed)
    }

    /// Does something right after everything was listed at once the next time.
    pub fn after_survey(&self, act: impl FnOnce() + Send + 'static) {
        *self.after_survey.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(act));
    }

    fn make_way(&self, key: &ObjectKey) -> Result<(), StorageError> {
        self.puts.fetch_add(1, Ordering::Relaxed);
        match self.inner.delete(key) {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}

impl Storage for LaxStorage {
    forward_storage!(inner: get, get_range, size, sync);

    fn location(&self) -> String {
        "lax".into()
    }

    fn identity(&self) -> String {
        self.place.into()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::remote(self.inner.capabilities().pack_target_bytes)
    }

    fn put(&self, key: &ObjectKey, bytes: &[u8]) -> Result<(), StorageError> {
        match self.faults.replaces {
            true => self.make_way(key)?,
            false => drop(self.puts.fetch_add(1, Ordering::Relaxed)),
        }
        self.inner.put(key, &bytes[..bytes.len() - usize::from(self.faults.cuts)])
    }

    fn writer(&self) -> Result<Box<dyn ObjectWriter>, StorageError> {
        Ok(Box::new(LaxWriter { storage: self.clone(), bytes: Vec::new() }))
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StorageError> {
        if self.faults.lists_nothing { Ok(Vec::new()) } else { self.inner.list(prefix) }
    }

    /// As an object store does that lists everything at once.
    fn survey(&self, prefixes: &[&str]) -> Result<Option<Vec<Vec<ObjectInfo>>>, StorageError> {
        let everything = self.list("")?;
        let below = |prefix: &&str| {
            let is_wanted = |key: &str| match prefix.is_empty() || prefix.ends_with('/') {
                true => key.starts_with(prefix),
                false => key == *prefix,
            };
            everything.iter().filter(|object| is_wanted(object.key.as_str())).cloned().collect()
        };
        let listings = prefixes.iter().map(below).collect();
        if let Some(act) = self.after_survey.lock().unwrap_or_else(PoisonError::into_inner).take() {
            act();
        }
        Ok(Some(listings))
    }

    fn delete(&self, key: &ObjectKey) -> Result<(), StorageError> {
        match self.faults.keeps {
            true => Err(StorageError::new("delete", key, std::io::ErrorKind::PermissionDenied.into())),
            false => self.inner.delete(key),
        }
    }
}

/// A long object in memory.
struct LaxWriter {
    storage: LaxStorage,
    bytes: Vec<u8>,
}

impl ObjectWriter for LaxWriter {
    fn append(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(&mut self, key: &ObjectKey) -> Result<(), StorageError> {
        self.storage.put(key, &self.bytes)
    }
}
