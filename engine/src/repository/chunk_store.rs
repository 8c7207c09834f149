//! Where chunks and nodes go in a session: deduplicated, framed, handed over to packs, published.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use lakebed_core::codec::compress::{Compression, FrameContent};
use lakebed_core::id::{ChunkId, PackId, SessionId, TreeId};
use lakebed_core::pack::{BlobId, PackInfo, PackKind};
use lakebed_core::record::tree::NodeSink;

use super::limit::RateLimit;
use super::{FrameBuilder, PackWriter, Repository, Store};
use crate::error::Result;
use crate::index::Index;

/// Chunks and nodes that this session has taken upon itself and that the index does not know yet.
struct InFlight {
    shards: [Mutex<HashSet<BlobId>>; 64],
}

impl Default for InFlight {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()) }
    }
}

impl InFlight {
    /// Takes a chunk; `false` where somebody has it already.
    fn claim(&self, id: BlobId) -> bool {
        // ids are uniform: any of their bits choose a shard
        let shard = &self.shards[usize::from(id.as_bytes()[31]) % self.shards.len()];
        shard.lock().unwrap_or_else(PoisonError::into_inner).insert(id)
    }

    fn clear(&self) {
        self.shards.iter().for_each(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).clear());
    }
}

/// Bytes that went one way or the other.
#[derive(Default)]
pub(crate) struct ByteCounts {
    pub(crate) new: AtomicU64,
    pub(crate) deduplicated: AtomicU64,
    pub(crate) stored: AtomicU64,
}

/// Stores what one session has to store.
pub(crate) struct ChunkStore {
    store: Store,
    repository: Repository,
    index: Arc<Index>,
    in_flight: InFlight,
    /// Packs that the index knows and nothing counts as present in.
    without: HashSet<PackId>,
    writers: Option<(PackWriter, PackWriter)>,
    nodes: Mutex<FrameBuilder>,
    compression: Compression,
    pub(crate) counts: Arc<ByteCounts>,
    /// Plain bytes since the last checkpoint.
    pub(crate) since_checkpoint: AtomicU64,
    /// Chunks and nodes that are in flight.
    pub(crate) unpublished: AtomicU64,
    limit: Option<RateLimit>,
}

impl ChunkStore {
    /// `session` is `None` in a dry run: then nothing is written.
    pub(crate) fn new(
        repository: &Repository,
        index: Arc<Index>,
        session: Option<SessionId>,
        compression: Compression,
        limit: Option<RateLimit>,
    ) -> Result<Self> {
        let store = repository.store().clone();
        let writer =
            |kind, session| PackWriter::new(store.clone(), kind, session, compression, repository.shared_random());
        let writers = match session {
            Some(session) => Some((writer(PackKind::Data, session)?, writer(PackKind::Tree, session)?)),
            None => None,
        };
        Ok(Self {
            repository: repository.clone(),
            index,
            in_flight: InFlight::default(),
            without: HashSet::new(),
            writers,
            nodes: Mutex::new(FrameBuilder::new(FrameContent::Metadata)),
            compression,
            counts: Arc::default(),
            since_checkpoint: AtomicU64::new(0),
            unpublished: AtomicU64::new(0),
            limit,
            store,
        })
    }

    /// Counts nothing as present that lies in these packs only, however well they can be read: they are condemned, and
    /// the index was not told so, since what is in them is still needed for reading.
    pub(crate) fn without(mut self, packs: HashSet<PackId>) -> Self {
        self.without = packs;
        self
    }

    pub(crate) fn chunk_id(&self, plain: &[u8]) -> ChunkId {
        self.store.keys().chunk_id(plain)
    }

    /// Tells whether the caller has to store a chunk: nobody has it and nobody is at it.
    pub(crate) fn claim(&self, id: ChunkId, length: u64) -> Result<bool> {
        let new = self.is_new(id.into())?;
        let count = if new { &self.counts.new } else { &self.counts.deduplicated };
        count.fetch_add(length, Ordering::Relaxed);
        Ok(new)
    }

    fn is_new(&self, id: BlobId) -> Result<bool> {
        let new = !self.is_present(&id)? && self.in_flight.claim(id);
        self.unpublished.fetch_add(u64::from(new), Ordering::Relaxed);
        Ok(new)
    }

    /// Tells whether the repository has a chunk, in a pack that can be used.
    pub(crate) fn has(&self, id: ChunkId) -> Result<bool> {
        self.is_present(&id.into())
    }

    fn is_present(&self, id: &BlobId) -> Result<bool> {
        match self.without.is_empty() {
            true => Ok(self.index.lookup(id)?.is_some()),
            false => Ok(self.index.lookup_all(id)?.iter().any(|place| !self.without.contains(&place.pack))),
        }
    }

    /// Stores a frame of chunks or nodes, whoever has them already.
    pub(crate) fn store_again(&self, kind: PackKind, frame: &FrameBuilder) -> Result<()> {
        self.write(kind, frame)
    }

    /// Stores a full frame of chunks.
    pub(crate) fn store_frame(&self, frame: &FrameBuilder) -> Result<()> {
        self.since_checkpoint.fetch_add(frame.plain.len() as u64, Ordering::Relaxed);
        self.write(PackKind::Data, frame)
    }

    fn write(&self, kind: PackKind, frame: &FrameBuilder) -> Result<()> {
        let stored = match &self.writers {
            Some((data, tree)) => if kind == PackKind::Data { data } else { tree }.store(frame)?,
            // a dry run says what would be stored
            None => super::measure_frame(&self.store, frame, self.compression)?,
        };
        if let Some(limit) = &self.limit {
            limit.take(stored);
        }
        self.counts.stored.fetch_add(stored, Ordering::Relaxed);
        Ok(())
    }

    fn put_node(&self, plain: &[u8]) -> Result<TreeId> {
        let id = self.store.keys().tree_id(plain);
        if !self.is_new(id.into())? {
            return Ok(id);
        }
        let full = {
            let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
            let full = (!nodes.has_room(plain.len()))
                .then(|| std::mem::replace(&mut *nodes, FrameBuilder::new(FrameContent::Metadata)));
            nodes.push(id.into(), plain);
            full
        };
        if let Some(frame) = full {
            self.write(PackKind::Tree, &frame)?;
        }
        Ok(id)
    }

    /// Returns where nodes of trees are put.
    pub(crate) fn node_sink(&self) -> impl NodeSink<Error = crate::Error> + '_ {
        struct Sink<'a>(&'a ChunkStore);
        impl NodeSink for Sink<'_> {
            type Error = crate::Error;

            fn put_node(&mut self, bytes: Vec<u8>) -> Result<TreeId> {
                self.0.put_node(&bytes)
            }
        }
        Sink(self)
    }

    /// Makes everything stored so far durable and publishes it: packs, then segments, then the local index. Nobody may
    /// store frames meanwhile.
    pub(crate) fn publish(&self) -> Result<()> {
        self.publish_checked(&|_| Ok(()))
    }

    /// The same, after `check` has found each new pack good, as it lies in storage.
    pub(crate) fn publish_checked(&self, check: &dyn Fn(&PackInfo) -> Result<()>) -> Result<()> {
        let nodes = {
            let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *nodes, FrameBuilder::new(FrameContent::Metadata))
        };
        if !nodes.is_empty() {
            self.write(PackKind::Tree, &nodes)?;
        }
        let Some((data, tree)) = &self.writers else { return Ok(()) };
        let mut packs = data.finish()?.packs;
        packs.extend(tree.finish()?.packs);
        if packs.is_empty() {
            return Ok(());
        }
        self.store.storage().sync()?;
        packs.iter().try_for_each(check)?;
        self.publish_segments(&packs)?;
        self.in_flight.clear();
        self.unpublished.store(0, Ordering::Relaxed);
        Ok(())
    }

    fn publish_segments(&self, packs: &[PackInfo]) -> Result<()> {
        let published = self.repository.publish_segments(packs)?;
        let segments: u64 = published.iter().map(|segment| segment.size_bytes).sum();
        let tails: u64 = packs.iter().map(|pack| pack.size_bytes - pack.directory.frames_len()).sum();
        self.counts.stored.fetch_add(segments + tails, Ordering::Relaxed);
        published.iter().for_each(|segment| self.index.apply(segment.id, segment.packs));
        Ok(())
    }
}
