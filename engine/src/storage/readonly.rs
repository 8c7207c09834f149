//! `ReadOnlyStorage`: a storage that refuses every write, whatever the one behind it would allow.

use std::io;
use std::sync::Arc;

use lakebed_core::forward_storage;
use lakebed_core::storage::{Capabilities, ObjectKey, ObjectWriter, Promise, Storage, StorageError};

/// A storage seen through glass.
///
/// Reads go to the storage behind it; writes fail with `ReadOnly` before that storage hears of them.
#[derive(Debug, Clone)]
pub struct ReadOnlyStorage {
    inner: Arc<dyn Storage>,
}

impl ReadOnlyStorage {
    /// Puts a storage behind the glass.
    pub fn new(inner: Arc<dyn Storage>) -> Self {
        Self { inner }
    }
}

fn refusal(operation: &'static str, subject: impl std::fmt::Display) -> StorageError {
    let source = io::Error::new(io::ErrorKind::ReadOnlyFilesystem, "the storage was opened for reading only");
    StorageError::new(operation, subject, source)
}

impl Storage for ReadOnlyStorage {
    forward_storage!(inner: location, identity, get, get_range, size, list, survey);

    /// Nothing is put, so there is nothing to find out about that.
    fn capabilities(&self) -> Capabilities {
        let mut capabilities = self.inner.capabilities();
        capabilities.put_if_absent = Promise::Kept;
        capabilities.consistent_listing = Promise::Kept;
        capabilities
    }

    fn put(&self, key: &ObjectKey, _bytes: &[u8]) -> Result<(), StorageError> {
        Err(refusal("write", key))
    }

    fn writer(&self) -> Result<Box<dyn ObjectWriter>, StorageError> {
        Err(refusal("write", self.inner.location()))
    }

    fn delete(&self, key: &ObjectKey) -> Result<(), StorageError> {
        Err(refusal("delete", key))
    }

    /// Succeeds without doing anything: nothing was put through here.
    fn sync(&self) -> Result<(), StorageError> {
        Ok(())
    }

    fn release_reserve(&self) -> Result<bool, StorageError> {
        Err(refusal("release the reserve of", self.inner.location()))
    }

    fn restore_reserve(&self) -> Result<(), StorageError> {
        Err(refusal("restore the reserve of", self.inner.location()))
    }

    fn sweep(&self) -> Result<u64, StorageError> {
        Err(refusal("delete what is abandoned in", self.inner.location()))
    }
}

#[cfg(test)]
mod tests {
    use lakebed_core::storage::StorageErrorKind;

    use super::super::MemoryStorage;
    use super::*;

    #[test]
    fn reads_pass_and_writes_are_refused() {
        let memory = MemoryStorage::new();
        let key = ObjectKey::new("packs/aa/1").unwrap();
        memory.put(&key, b"content").unwrap();
        let storage = ReadOnlyStorage::new(Arc::new(memory.clone()));

        let mut buffer = Vec::new();
        storage.get_range(&key, 3, 4, &mut buffer).unwrap();
        assert_eq!(buffer, b"tent");
        assert_eq!(storage.get(&key).unwrap(), b"content");
        assert_eq!(storage.size(&key).unwrap(), 7);
        assert_eq!(storage.list("").unwrap(), memory.list("").unwrap());
        storage.sync().unwrap();

        let other = ObjectKey::new("packs/aa/2").unwrap();
        for refused in [
            storage.put(&other, b"x"),
            storage.delete(&key),
            storage.writer().map(drop),
            storage.release_reserve().map(drop),
            storage.restore_reserve(),
            storage.sweep().map(drop),
        ] {
            assert_eq!(refused.unwrap_err().kind, StorageErrorKind::ReadOnly);
        }
        assert_eq!(memory.list("").unwrap().len(), 1);
    }

    #[test]
    fn a_refusal_reads_well() {
        let storage = ReadOnlyStorage::new(Arc::new(MemoryStorage::new()));
        let error = storage.delete(&ObjectKey::new("packs/aa/1").unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "Cannot delete `packs/aa/1`");
        assert_eq!(error.source.to_string(), "the storage was opened for reading only");
    }
}
