//! Marks: which chunks and nodes snapshots need.
//!
//! A name is kept as its first 16 bytes. Names are keyed hashes: that two of them begin alike by chance is as likely as
//! that memory fails unnoticed in the same second, and nobody without the key can bring it about.

use std::collections::{BTreeMap, HashMap, HashSet};

use lakebed_core::id::{SnapshotId, TreeId};
use lakebed_core::monitor::{Monitor, Phase, Progress};
use lakebed_core::pack::{BlobId, PackDirectory};
use lakebed_core::record::snapshot::Snapshot;
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::repository::BlobReader;

/// Where a needed chunk or node was found so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Home {
    /// Nowhere.
    None,
    /// In condemned packs only.
    Condemned,
    /// In a pack that stays, as far as segments and sizes tell.
    Found,
    /// In a pack that stays, and it was read there.
    Read,
}

/// So many nodes are read before what they refer to is marked: what is held of them is bounded, however wide trees are.
const NODES_AT_ONCE: usize = 1024;

type Name = [u8; 16];

fn name(id: &BlobId) -> Name {
    let bytes = id.as_bytes();
    std::array::from_fn(|i| bytes[i])
}

/// What is known of a chunk or node that somebody needs.
#[derive(Debug, Clone, Copy)]
struct Mark {
    home: Home,
    /// A snapshot needs it, not only a checkpoint.
    certain: bool,
}

/// What snapshots need, and where it was found.
#[derive(Debug, Default)]
pub(super) struct Marks {
    snapshots: BTreeMap<SnapshotId, TreeId>,
    nodes: HashSet<TreeId>,
    /// Nodes that were tried for checkpoints. What could not be read of them is missing here and must not be missing for
    /// a snapshot.
    checkpoint_nodes: HashSet<TreeId>,
    blobs: HashMap<Name, Mark>,
}

/// What one node refers to.
struct References {
    below: Vec<TreeId>,
    chunks: Vec<BlobId>,
}

impl Marks {
    /// Marks what snapshots need. What others need that were marked before stays marked.
    ///
    /// # Errors
    /// A tree cannot be read whole: nobody can say what it needs.
    pub(super) fn add_snapshots(
        &mut self,
        snapshots: &BTreeMap<SnapshotId, Snapshot>,
        reader: &BlobReader,
        pool: &rayon::ThreadPool,
        monitor: &dyn Monitor,
    ) -> Result<()> {
        monitor.phase(Phase::Mark, None);
        let new = snapshots.iter().filter(|(id, _)| !self.snapshots.contains_key(id));
        let new: BTreeMap<SnapshotId, TreeId> = new.map(|(id, snapshot)| (*id, snapshot.root)).collect();
        let mut frontier: Vec<TreeId> = new.values().copied().filter(|root| self.nodes.insert(*root)).collect();
        while !frontier.is_empty() {
            for (node, references) in read_all(take_some(&mut frontier), reader, pool, monitor)? {
                let References { below, chunks } = references?;
                self.need(node.into(), true);
                chunks.into_iter().for_each(|chunk| self.need(chunk, true));
                frontier.extend(below.into_iter().filter(|node| self.nodes.insert(*node)));
            }
        }
        self.snapshots.extend(new);
        Ok(())
    }

    /// Marks what checkpoints hold, as far as it can be read: whoever continues from one looks everything up anyway.
    pub(super) fn add_checkpoints(
        &mut self,
        roots: impl Iterator<Item = TreeId>,
        reader: &BlobReader,
        pool: &rayon::ThreadPool,
        monitor: &dyn Monitor,
    ) -> Result<()> {
        let mut frontier: Vec<TreeId> = roots.collect();
        while !frontier.is_empty() {
            let mut some = take_some(&mut frontier);
            some.retain(|node| !self.nodes.contains(node) && self.checkpoint_nodes.insert(*node));
            for (node, references) in read_all(some, reader, pool, monitor)? {
                if let Ok(References { below, chunks }) = references {
                    self.need(node.into(), false);
                    chunks.into_iter().for_each(|chunk| self.need(chunk, false));
                    frontier.extend(below);
                }
            }
        }
        Ok(())
    }

    fn need(&mut self, blob: BlobId, certain: bool) {
        self.blobs.entry(name(&blob)).or_insert(Mark { home: Home::None, certain }).certain |= certain;
    }

    /// Tells whether every snapshot that was marked is among these.
    pub(super) fn are_within(&self, snapshots: &BTreeMap<SnapshotId, Snapshot>) -> bool {
        self.snapshots.keys().all(|id| snapshots.contains_key(id))
    }

    /// Returns where a needed chunk or node was found; `None` where nobody needs it.
    pub(super) fn home(&self, blob: &BlobId) -> Option<Home> {
        self.blobs.get(&name(blob)).map(|mark| mark.home)
    }

    /// Notes where a chunk or node lies. Returns whether somebody needs it and it was not found so well before.
    pub(super) fn found(&mut self, blob: &BlobId, home: Home) -> bool {
        match self.blobs.get_mut(&name(blob)) {
            Some(mark) if mark.home < home => {
                mark.home = home;
                true
            }
            _ => false,
        }
    }

    /// Notes where everything in a pack lies.
    pub(super) fn found_all(&mut self, directory: &PackDirectory, home: Home) {
        for blob in directory.frames.iter().flat_map(|frame| &frame.blobs) {
            self.found(&blob.id, home);
        }
    }

    /// Notes that something that was thought to be found is not there.
    pub(super) fn lost(&mut self, blob: &BlobId) {
        if let Some(mark) = self.blobs.get_mut(&name(blob)) {
            mark.home = Home::Condemned;
        }
    }

    /// Forgets where everything lies, not what is needed.
    pub(super) fn reset_homes(&mut self) {
        self.blobs.values_mut().for_each(|mark| mark.home = Home::None);
    }

    /// Returns how many chunks and nodes that snapshots need were found nowhere.
    pub(super) fn nowhere(&self) -> u64 {
        self.count(Home::None)
    }

    /// Returns how many chunks and nodes that snapshots need were found in no pack that stays.
    pub(super) fn without_home(&self) -> u64 {
        self.count(Home::Condemned)
    }

    fn count(&self, at_most: Home) -> u64 {
        self.blobs.values().filter(|mark| mark.certain && mark.home <= at_most).count() as u64
    }
}

/// Takes the nodes that came last: those of one tree, before others are gone into, so that few wait.
fn take_some(frontier: &mut Vec<TreeId>) -> Vec<TreeId> {
    frontier.split_off(frontier.len().saturating_sub(NODES_AT_ONCE))
}

/// Reads nodes, all at once.
fn read_all(
    nodes: Vec<TreeId>,
    reader: &BlobReader,
    pool: &rayon::ThreadPool,
    monitor: &dyn Monitor,
) -> Result<Vec<(TreeId, Result<References>)>> {
    if monitor.is_cancelled() {
        return Err(Error::Interrupted);
    }
    monitor.advance(Progress { entries: nodes.len() as u64, bytes: 0 });
    Ok(pool.install(|| nodes.into_par_iter().map(|node| (node, references(reader, node))).collect()))
}

fn references(reader: &BlobReader, node: TreeId) -> Result<References> {
    let mut references = References { below: Vec::new(), chunks: Vec::new() };
    let (below, chunks) = (&mut references.below, &mut references.chunks);
    reader.node(node)?.references(|node| below.push(node), |chunk, _| chunks.push(chunk.into()));
    Ok(references)
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Marks {
        /// What a snapshot needs.
        pub(in crate::prune) fn of(blobs: &[BlobId]) -> Self {
            let mut marks = Self::default();
            blobs.iter().for_each(|blob| marks.need(*blob, true));
            marks
        }
    }

    fn blob(number: u8) -> BlobId {
        BlobId::new([number; 32])
    }

    /// Of two chunks a snapshot needs the first, a checkpoint both.
    fn marks() -> Marks {
        let mut marks = Marks::default();
        marks.need(blob(1), true);
        marks.need(blob(1), false);
        marks.need(blob(2), false);
        marks
    }

    #[test]
    fn what_a_snapshot_needs_must_be_somewhere_and_what_a_checkpoint_holds_need_not() {
        let mut marks = marks();
        assert_eq!((marks.nowhere(), marks.without_home()), (1, 1));
        marks.need(blob(2), true);
        assert_eq!((marks.nowhere(), marks.without_home()), (2, 2));
        assert!(marks.found(&blob(1), Home::Condemned));
        assert_eq!((marks.nowhere(), marks.without_home()), (1, 2));
        assert!(marks.found(&blob(1), Home::Found) && marks.found(&blob(2), Home::Found));
        assert_eq!((marks.nowhere(), marks.without_home()), (0, 0));
        marks.lost(&blob(2));
        assert_eq!((marks.nowhere(), marks.without_home()), (0, 1));
        marks.reset_homes();
        assert_eq!((marks.nowhere(), marks.without_home()), (2, 2));
    }

    #[test]
    fn of_several_places_the_first_of_the_best_kind_counts() {
        let mut marks = marks();
        assert!(marks.found(&blob(1), Home::Condemned));
        assert!(!marks.found(&blob(1), Home::Condemned));
        assert!(marks.found(&blob(1), Home::Found));
        assert!(!marks.found(&blob(1), Home::Found) && !marks.found(&blob(1), Home::Condemned));
        assert_eq!(marks.home(&blob(1)), Some(Home::Found));
        assert!(!marks.found(&blob(9), Home::Found));
        assert_eq!((marks.home(&blob(2)), marks.home(&blob(9))), (Some(Home::None), None));
    }
}
