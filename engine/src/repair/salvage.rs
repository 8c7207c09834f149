//! Taking bad packs out of the repository: what can be read of them is stored again first.

use std::collections::HashSet;
use std::sync::Arc;

use lakebed_core::codec::compress::{Compression, FrameContent};
use lakebed_core::hash::object_hash;
use lakebed_core::id::PackId;
use lakebed_core::layout;
use lakebed_core::monitor::{Monitor, Phase};
use lakebed_core::pack::{BlobId, PackKind, Removal};
use lakebed_core::protocol::WriterStep;

use super::{Action, Remedy};
use crate::check::{check_pack, scan};
use crate::error::{Error, Result};
use crate::index_rebuild::publish_unknown_packs;
use crate::repository::{BlobReader, ChunkStore, FrameBuilder, PACKS_PER_BATCH, Repository, SessionHandle};

/// Chunks and nodes that were stored again, and their plain bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Salvaged {
    pub(super) blobs: u64,
    pub(super) bytes: u64,
}

/// Carries out what is planned for packs and segments, in an order in which it can be cut off anywhere: what takes a
/// pack's place is durable and known before the pack goes.
pub(super) fn apply(
    repository: &Repository,
    session: &SessionHandle,
    actions: &[Action],
    monitor: &dyn Monitor,
) -> Result<Salvaged> {
    let bad: HashSet<PackId> = actions
        .iter()
        .filter_map(|action| match action.remedy {
            Remedy::Salvage { pack, .. } | Remedy::Drop(pack) => Some(pack),
            _ => None,
        })
        .collect();
    let describes = actions.iter().any(|action| matches!(action.remedy, Remedy::Describe { .. }));
    if bad.is_empty() && !describes {
        return Ok(Salvaged::default());
    }
    monitor.step(WriterStep::ReadCondemned.into());
    let condemned = repository.condemned_packs()?;
    monitor.step(WriterStep::FoldSegments.into());
    if describes {
        publish_unknown_packs(repository, &bad, monitor)?;
    }
    if bad.is_empty() {
        return Ok(Salvaged::default());
    }
    let index = Arc::new(repository.index(monitor)?);
    let mut good = repository.store().list_packs()?;
    let mut leaving = Vec::new();
    for id in bad {
        let size = good.remove(&id);
        leaving.push((id, size));
    }
    leaving.sort_unstable();
    index.check_packs(&good, &HashSet::new());
    let reader = BlobReader::new(repository.store().clone(), index.clone());
    leaving.retain(|(id, size)| !is_whole_again(&reader, *id, *size));

    monitor.phase(Phase::Repack, None);
    monitor.step(WriterStep::StorePacks.into());
    let chunks = ChunkStore::new(repository, index, Some(session.id()), Compression::default(), None)?;
    let mut salvage = Salvage::new(&reader, &chunks, condemned);
    for &(id, size) in &leaving {
        if monitor.is_cancelled() {
            return Err(Error::Interrupted);
        }
        if let Some(size) = size {
            if_there(salvage.pack(id, size))?;
        }
    }
    let salvaged = salvage.finish()?;
    monitor.step(WriterStep::PublishSegments.into());
    chunks.publish_checked(&|pack| {
        let described = *object_hash(&pack.directory.encode()).as_bytes();
        check_pack(&reader, pack.id, pack.size_bytes, Some(&described))
    })?;
    monitor.phase(Phase::Repack, None);
    for batch in leaving.chunks(PACKS_PER_BATCH) {
        if monitor.is_cancelled() {
            return Err(Error::Interrupted);
        }
        take_out(repository, &reader, batch)?;
    }
    Ok(salvaged)
}

/// Tells whether an object was there: a prune may delete a pack at the same time.
fn if_there(result: Result<()>) -> Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(Error::Storage(error)) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Somebody may have put a pack back since the plan was made.
fn is_whole_again(reader: &BlobReader, id: PackId, size: Option<u64>) -> bool {
    let described = reader.index().packs().into_iter().find(|pack| pack.id == id);
    match (size, described) {
        (Some(size), Some(pack)) => size == pack.size_bytes && check_pack(reader, id, size, None).is_ok(),
        _ => false,
    }
}

/// Moves packs to quarantine and out of the index. What they held is elsewhere by now, or nowhere.
fn take_out(repository: &Repository, reader: &BlobReader, packs: &[(PackId, Option<u64>)]) -> Result<()> {
    let store = repository.store();
    for (id, size) in packs {
        let key = layout::pack(*id);
        let is_there = size.is_some() && if_there(store.copy_aside(&key))?;
        if !is_there {
            store.note_missing(&key)?;
        }
    }
    store.storage().sync()?;
    let known: Vec<PackId> = packs.iter().map(|(id, _)| *id).filter(|id| !reader.index().is_removed(id)).collect();
    if !known.is_empty() {
        repository.publish_removal(&Removal { packs: known, replaced: Vec::new() })?;
    }
    for (id, _) in packs.iter().filter(|(_, size)| size.is_some()) {
        if_there(store.storage().delete(&layout::pack(*id)).map_err(Error::from))?;
    }
    Ok(store.storage().sync()?)
}

/// Stores again what can be read of bad packs and is nowhere else.
struct Salvage<'a> {
    reader: &'a BlobReader,
    chunks: &'a ChunkStore,
    /// What lies only in these will not stay.
    condemned: HashSet<PackId>,
    seen: HashSet<BlobId>,
    data: FrameBuilder,
    nodes: FrameBuilder,
    salvaged: Salvaged,
}

impl<'a> Salvage<'a> {
    fn new(reader: &'a BlobReader, chunks: &'a ChunkStore, condemned: HashSet<PackId>) -> Self {
        Self {
            reader,
            chunks,
            condemned,
            seen: HashSet::new(),
            data: FrameBuilder::new(FrameContent::SmallFiles),
            nodes: FrameBuilder::new(FrameContent::Metadata),
            salvaged: Salvaged::default(),
        }
    }

    fn pack(&mut self, id: PackId, size: u64) -> Result<()> {
        let reader = self.reader;
        scan(reader, id, size, &mut |found, frame| {
            for (blob, plain) in found.info.blobs.iter().zip(frame.chunks()) {
                // the index may say so of another pack; only what was read from there is known to be there
                if self.seen.insert(blob.id) && !reader.is_readable_outside(blob.id, found.kind, &self.condemned)? {
                    self.keep(found.kind, blob.id, plain)?;
                }
            }
            Ok(())
        })
    }

    fn keep(&mut self, kind: PackKind, id: BlobId, plain: &[u8]) -> Result<()> {
        let builder = if kind == PackKind::Data { &mut self.data } else { &mut self.nodes };
        if !builder.has_room(plain.len()) {
            self.chunks.store_again(kind, builder)?;
            builder.clear();
        }
        builder.push(id, plain);
        self.salvaged.blobs += 1;
        self.salvaged.bytes += plain.len() as u64;
        Ok(())
    }

    fn finish(self) -> Result<Salvaged> {
        for (kind, builder) in [(PackKind::Data, &self.data), (PackKind::Tree, &self.nodes)] {
            if !builder.is_empty() {
                self.chunks.store_again(kind, builder)?;
            }
        }
        Ok(self.salvaged)
    }
}
