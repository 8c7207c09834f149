//! `CarefulStorage`: over a medium that replaces what has a name when another thing is put under it.
//!
//! It looks before it puts, unless only one thing can ever have that name. Of several writers at the same moment more than one may still believe to have won, so what
//! rests on one winner needs more than this; but nothing that was there is replaced by somebody who came later.

use std::io;
use std::sync::Arc;

use lakebed_core::forward_storage;
use lakebed_core::layout;
use lakebed_core::storage::{Capabilities, ObjectKey, ObjectWriter, Promise, Storage, StorageError};

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
    forward_storage!(inner:
        location, identity, get, get_range, size, list, survey, delete, sync, release_reserve, restore_reserve,
        sweep
    );

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
