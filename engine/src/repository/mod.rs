//! A repository: its objects, its keys, its index.

mod chunk_store;
mod generations;
mod keys;
mod limit;
mod medium;
mod object_cache;
mod open;
mod outcomes;
pub(crate) mod parallel;
mod quarantine;
mod read_ahead;
mod reader;
mod segments;
mod session_state;
mod sessions;
mod snapshots;
mod store;
mod structure;
#[cfg(test)]
pub(crate) mod testing;
mod tombstones;
mod tree_copies;
mod trial;
mod trust;
mod writer;

pub(crate) use chunk_store::{ByteCounts, ChunkStore};
pub use keys::KeyInfo;
pub(crate) use limit::RateLimit;
pub(crate) use object_cache::ObjectCache;
pub use open::{InitOptions, LookAhead, OpenOptions, RepositoryInfo};
pub(crate) use outcomes::{Joined, Outcome, read_catalogue};
pub(crate) use read_ahead::{Part, ReadAhead, Taken};
pub(crate) use reader::Need;
pub use reader::{BlobReader, ExtentRuns, TreeEntries};
pub(crate) use segments::{FULL_BYTES, PACKS_PER_BATCH, REPLACED_MAX, fill_a_segment};
pub use session_state::SessionState;
pub(crate) use sessions::{Gauge, HEARTBEAT};
pub use sessions::{SessionHandle, SessionInfo};
pub(crate) use snapshots::snapshot_of;
pub use snapshots::{Catalogue, SnapshotFilter, SnapshotInfo, SnapshotSelector};
pub use store::Store;
pub(crate) use store::{draw, packs_in};
pub(crate) use structure::{Step, is_whole};
pub(crate) use tombstones::TombstoneState;
pub(crate) use tree_copies::TreeCopies;
pub(crate) use trial::large_content;
pub(crate) use writer::{FrameBuilder, PackWriter, measure_frame};

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use lakebed_core::id::KeySlotId;
use lakebed_core::monitor::Monitor;
use lakebed_core::process::Processes;
use lakebed_core::record::config::Config;
use lakebed_core::storage::Storage;
use lakebed_core::time::{Clock, Random};

use crate::error::Result;
use crate::index::{Index, IndexOptions};
use crate::storage::Survey;

/// An open repository: objects and keys, without its index. Cheap to clone.
#[derive(Clone)]
pub struct Repository {
    pub(crate) store: Store,
    config: Arc<Config>,
    config_hash: [u8; 32],
    slot: KeySlotId,
    /// The storage as it is, without the care that [`Store::storage`] takes where it is needed.
    bare: Arc<dyn Storage>,
    medium: medium::Medium,
    cache: Option<PathBuf>,
    /// Holds what was listed when it was opened, for who lists it for the first time.
    ahead: Option<Arc<Survey>>,
    /// The newest generation that was seen when it was opened, for the first session.
    generation: Arc<Mutex<Option<u64>>>,
    memory_bytes: u64,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    processes: Arc<dyn Processes>,
}

impl std::fmt::Debug for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Repository").field("store", &self.store).finish_non_exhaustive()
    }
}

impl Repository {
    /// Returns the configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Returns the objects of the repository.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Returns where time comes from.
    pub fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    /// Returns where randomness comes from.
    pub fn random(&self) -> &dyn Random {
        &*self.random
    }

    /// Returns who this process is, and which others still live.
    pub fn processes(&self) -> &dyn Processes {
        &*self.processes
    }

    pub(crate) fn shared_random(&self) -> Arc<dyn Random> {
        self.random.clone()
    }

    pub(crate) fn shared_clock(&self) -> Arc<dyn Clock> {
        self.clock.clone()
    }

    fn index_options(&self) -> IndexOptions {
        IndexOptions { folder: self.cache.as_ref().map(|cache| cache.join("index")), memory_bytes: self.memory_bytes }
    }

    /// Opens the index and folds what is new in storage. A cache folder that cannot be used leads to a warning.
    ///
    /// # Errors
    /// Storage.
    pub fn index(&self, monitor: &dyn Monitor) -> Result<Index> {
        Index::open(&self.store, &self.index_options(), monitor)
    }

    /// Throws the local index away and makes it anew from the index segments, or with `read_packs` from the packs
    /// themselves: then every pack that no segment describes is published in a new one.
    ///
    /// # Errors
    /// Storage, a damaged object, or another process holds the index.
    pub fn rebuild_index(&self, read_packs: bool, monitor: &dyn Monitor) -> Result<Index> {
        if read_packs {
            crate::index_rebuild::publish_unknown_packs(self, &HashSet::new(), monitor)?;
        }
        Index::rebuild(&self.store, &self.index_options(), monitor)
    }

    /// Opens the index as [`Repository::index`] does, but first makes one anew that is mostly about packs that are gone.
    pub(crate) fn lean_index(&self, monitor: &dyn Monitor) -> Result<Index> {
        let index = self.index(monitor)?;
        if !index.is_mostly_removed() {
            return Ok(index);
        }
        drop(index);
        // where that does not work (another process has taken it just now, the disk is full) the old one is as right
        self.rebuild_index(false, monitor).or_else(|_| self.index(monitor))
    }

    /// Begins to read chunks and trees.
    ///
    /// # Errors
    /// As [`Repository::index`].
    pub fn reader(&self, monitor: &dyn Monitor) -> Result<BlobReader> {
        Ok(self.reader_over(Arc::new(self.index(monitor)?)))
    }

    /// Begins to read what storage holds: no copies on this machine are used.
    pub(crate) fn bare_reader(&self, monitor: &dyn Monitor) -> Result<BlobReader> {
        Ok(BlobReader::new(self.store.clone(), Arc::new(self.index(monitor)?)))
    }

    /// Begins to read, by an index that is open already. Tree nodes that this machine has copies of are not asked for.
    pub(crate) fn reader_over(&self, index: Arc<Index>) -> BlobReader {
        BlobReader::new(self.store.clone(), index).with_copies(self.store.copies().map(TreeCopies::known))
    }
}
