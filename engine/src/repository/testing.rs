//! A small repository in memory, for unit tests of what reads one.

use std::sync::Arc;

use lakebed_core::codec::compress::Compression;
use lakebed_core::codec::seal::Encryption;
use lakebed_core::id::SessionId;
use lakebed_core::record::key_slot::{Secret, Unlock};

use super::{BlobReader, ChunkStore, Repository};
use crate::storage::MemoryStorage;
use crate::{InitOptions, OpenOptions, Silent};

/// Publishes what `store` stores, and returns a reader for it with what that returned.
pub(crate) fn reader_of<T>(store: impl FnOnce(&ChunkStore) -> T) -> (BlobReader, T) {
    let init = InitOptions {
        encryption: Encryption::None,
        unlock: Unlock::Clear,
        label: String::new(),
        chunker: Default::default(),
    };
    let storage = Arc::new(MemoryStorage::new());
    let repository = Repository::init(storage, &Secret::None, &init, &OpenOptions::default()).unwrap();
    let index = Arc::new(repository.index(&Silent).unwrap());
    let session = Some(SessionId::new([1; 32]));
    let chunks = ChunkStore::new(&repository, index.clone(), session, Compression::default(), None).unwrap();
    let stored = store(&chunks);
    chunks.publish().unwrap();
    (BlobReader::new(repository.store().clone(), index), stored)
}
