//! `CarefulStorage`: over a medium that replaces what has a name when another thing is put under it.
//!
//! It looks before it puts, unless only one thing can ever have that name. Of several writers at the same moment more than one may still believe to have won, so what
//! rests on one winner needs more than this; but nothing that was there is replaced by somebody who came later.

use std::io;
use std::sync::Arc;

use lakebed_core::layout;
use lakebed_core::storage::{Capabilities, ObjectInfo, ObjectKey, ObjectWriter, Promise, Storage, StorageError};

/// A storage that looks whether a name is free before it takes it.
#[derive(Debug, Clone)]
pub struct CarefulStorage {
    inner: Arc<dyn Storage>,
}

impl CarefulStorage {
    /// Puts care before a storage.
    pub fn new(inner: Arc<dyn Storage>) -> Self {
        Self { inner }
    }
}

fn refuse_taken(storage: &dyn Storage, key: &ObjectKey) -> Result<(), StorageError> {
    if layout::is_of_one_thing(key) {
        return Ok(());
    }
    match storage.size(key) {
        Ok(_) => Err(StorageError::new("write", key, io::ErrorKind::AlreadyExists.into())),
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error),
    }
}

impl Storage for CarefulStorage {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn identity(&self) -> String {
        self.inner.identity()
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = self.inner.capabilities();
        capabilities.put_if_absent = Promise::Broken;
        capabilities
    }

    fn put(&self, key: &ObjectKey, bytes: &[u8]) -> Result<(), StorageError> {
        refuse_taken(&*self.inner, key)?;
        self.inner.put(key, bytes)
    }

    fn writer(&self) -> Result<Box<dyn ObjectWriter>, StorageError> {
        Ok(Box::new(CarefulWriter { storage: self.inner.clone(), writer: self.inner.writer()? }))
    }

    fn get(&self, key: &ObjectKey) -> Result<Vec<u8>, StorageError> {
        self.inner.get(key)
    }

    fn get_range(&self, key: &ObjectKey, offset: u64, length: usize, buffer: &mut Vec<u8>) -> Result<(), StorageError> {
        self.inner.get_range(key, offset, length, buffer)
    }

    fn size(&self, key: &ObjectKey) -> Result<u64, StorageError> {
        self.inner.size(key)
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StorageError> {
        self.inner.list(prefix)
    }

    fn survey(&self, prefixes: &[&str]) -> Result<Option<Vec<Vec<ObjectInfo>>>, StorageError> {
        self.inner.survey(prefixes)
    }

    fn delete(&self, key: &ObjectKey) -> Result<(), StorageError> {
        self.inner.delete(key)
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.inner.sync()
    }

    fn release_reserve(&self) -> Result<bool, StorageError> {
        self.inner.release_reserve()
    }

    fn restore_reserve(&self) -> Result<(), StorageError> {
        self.inner.restore_reserve()
    }

    fn sweep(&self) -> Result<u64, StorageError> {
        self.inner.sweep()
    }
}

struct CarefulWriter {
    storage: Arc<dyn Storage>,
    writer: Box<dyn ObjectWriter>,
}

impl ObjectWriter for CarefulWriter {
    fn append(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        self.writer.append(bytes)
    }

    fn finish(&mut self, key: &ObjectKey) -> Result<(), StorageError> {
        refuse_taken(&*self.storage, key)?;
        self.writer.finish(key)
    }
}
