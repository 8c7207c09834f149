//! Storages that a correct engine must never be mistaken for: with one of them below it, a crash must be seen to lose
//! something, or the enumeration proves nothing.

use std::sync::{Arc, Mutex};

use lakebed_engine::core::forward_storage;
use lakebed_engine::core::layout;
use lakebed_engine::core::storage::{ObjectKey, ObjectWriter, Storage, StorageError};

/// What the writer does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// Nothing is ever made durable.
    NeverSyncs,
    /// Nothing is made durable before the snapshot is put: all of it together after that.
    SyncsAfterCommit,
    /// Packs come after the snapshot that needs them.
    PacksLast,
}

/// A storage that does not do, or not in this order, what it says that it did.
#[derive(Debug, Clone)]
pub struct Mutant {
    inner: Arc<dyn Storage>,
    flaw: Flaw,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    committed: bool,
    held_back: Vec<(ObjectKey, Vec<u8>)>,
}

impl Mutant {
    pub fn new(inner: Arc<dyn Storage>, flaw: Flaw) -> Self {
        Self { inner, flaw, state: Arc::default() }
    }
}

impl Storage for Mutant {
    forward_storage!(inner: location, capabilities, get, get_range, size, list, delete);

    fn put(&self, key: &ObjectKey, bytes: &[u8]) -> Result<(), StorageError> {
        let mut state = self.state.lock().unwrap();
        if self.flaw == Flaw::PacksLast && !state.committed && key.as_str().starts_with(layout::PACKS) {
            state.held_back.push((key.clone(), bytes.to_vec()));
            return Ok(());
        }
        self.inner.put(key, bytes)?;
        if key.as_str().starts_with(layout::SNAPSHOTS) {
            state.committed = true;
            state.held_back.drain(..).try_for_each(|(key, bytes)| self.inner.put(&key, &bytes))?;
        }
        Ok(())
    }

    fn writer(&self) -> Result<Box<dyn ObjectWriter>, StorageError> {
        Ok(Box::new(MutantWriter { storage: self.clone(), bytes: Vec::new() }))
    }

    fn sync(&self) -> Result<(), StorageError> {
        let committed = self.state.lock().unwrap().committed;
        match self.flaw {
            Flaw::NeverSyncs => Ok(()),
            Flaw::SyncsAfterCommit if !committed => Ok(()),
            _ => self.inner.sync(),
        }
    }
}

struct MutantWriter {
    storage: Mutant,
    bytes: Vec<u8>,
}

impl ObjectWriter for MutantWriter {
    fn append(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(&mut self, key: &ObjectKey) -> Result<(), StorageError> {
        self.storage.put(key, &self.bytes)
    }
}
