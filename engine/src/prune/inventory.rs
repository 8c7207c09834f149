//! What there is: packs in storage, what segments say of them, which snapshots live.
//!
//! Listings are not taken at one moment: what is put or deleted meanwhile may be missed by one of them. So they are
//! repeated until nothing changes, or until what was missed can do no harm. And a listing may lack what is there: it only
//! adds to what is known, and whatever else is known to be possible is asked for by name.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use lakebed_core::codec::frame::FrameKind;
use lakebed_core::id::{PackId, SegmentId, SnapshotId};
use lakebed_core::layout;
use lakebed_core::pack::{PackInfo, Removal};
use lakebed_core::record::snapshot::Snapshot;

use crate::error::{Error, Result};
use crate::index::{Segment, read_segment};
use crate::repository::parallel::each;
use crate::repository::{Repository, snapshot_of};

/// How often listings are repeated while others change what is listed.
pub(super) const LISTINGS: usize = 100;

/// What the segments say, without what they say of single packs.
#[derive(Debug, Default)]
pub(super) struct Segments {
    pub(super) additions: Vec<SegmentId>,
    pub(super) removals: Vec<(SegmentId, Removal)>,
    pub(super) removed: HashSet<PackId>,
}

/// Told of every pack that segments describe.
pub(super) trait Visitor {
    /// Segments were replaced while they were read: everything comes once more. Called before the first pack, too.
    fn restart(&mut self);

    /// A pack that was not removed, each once.
    ///
    /// # Errors
    /// Whatever ends the stream.
    fn pack(&mut self, pack: PackInfo) -> Result<()>;
}

impl Segments {
    /// Passes the descriptions of all packs to a visitor, one segment in memory at a time.
    ///
    /// # Errors
    /// Storage; a segment is damaged: then nobody can say what it described.
    pub(super) fn stream(repository: &Repository, visitor: &mut impl Visitor) -> Result<Self> {
        for _ in 0..LISTINGS {
            match Self::stream_once(repository, visitor) {
                Err(Error::Storage(error)) if error.is_not_found() => {}
                result => return result,
            }
        }
        Err(Error::Busy { what: "the index segments" })
    }

    fn stream_once(repository: &Repository, visitor: &mut impl Visitor) -> Result<Self> {
        let store = repository.store();
        let read = |id| store.with_scratch(|scratch| read_segment(store, id, scratch));
        let mut segments = Self::default();
        let ids = store.list_ids::<SegmentId>(layout::INDEX)?;
        // the kind stands in the clear; long segments are not opened before all removals are known
        let kinds = each(store, &ids, |id| store.read_kind(&layout::segment(*id)));
        for (id, kind) in ids.into_iter().zip(kinds) {
            if kind? != FrameKind::RemovalSegment {
                segments.additions.push(id);
            } else if let (Segment::Removal(removal), _) = read(id)? {
                segments.removed.extend(&removal.packs);
                segments.removals.push((id, removal));
            }
        }
        visitor.restart();
        let mut seen = HashSet::new();
        for &id in &segments.additions {
            if let (Segment::Addition(packs), _) = read(id)? {
                for pack in packs {
                    if !segments.removed.contains(&pack.id) && seen.insert(pack.id) {
                        visitor.pack(pack)?;
                    }
                }
            }
        }
        Ok(segments)
    }
}

/// The snapshots that count.
#[derive(Debug, Default)]
pub(super) struct Living {
    pub(super) snapshots: BTreeMap<SnapshotId, Snapshot>,
}

impl Living {
    /// Lists the snapshots until two listings are equal and every record is read, and returns all but those in `gone`.
    ///
    /// A snapshot that goes while we list was freed by another prune, after every writer that had built upon it had
    /// ended: the next listing has those writers' snapshots.
    pub(super) fn list(repository: &Repository, gone: &BTreeSet<SnapshotId>) -> Result<Self> {
        let store = repository.store();
        let mut known: BTreeMap<SnapshotId, Option<Snapshot>> = BTreeMap::new();
        let mut before: Option<BTreeSet<SnapshotId>> = None;
        for _ in 0..LISTINGS {
            let (outcomes, joined) = store.outcomes(|id| !gone.contains(&id) && !known.contains_key(&id))?;
            let listed: BTreeSet<SnapshotId> = joined.listed().iter().copied().collect();
            let mut vanished = false;
            let mut unreadable = Vec::new();
            for (id, outcome) in outcomes {
                match outcome.and_then(|outcome| snapshot_of(id, &outcome)) {
                    Ok(snapshot) => drop(known.insert(id, snapshot)),
                    Err(Error::Storage(error)) if error.is_not_found() => vanished = true,
                    Err(Error::Storage(error)) => return Err(error.into()),
                    Err(_) => unreadable.push(id),
                }
            }
            if !unreadable.is_empty() {
                // nobody can say what it needs, so nobody can say what may go
                return Err(Error::UnreadableSnapshots { snapshots: unreadable });
            }
            let lacks = !vanished && lacks_some(repository, &listed)?;
            if !vanished && !lacks && before.as_ref() == Some(&listed) {
                known.retain(|id, _| listed.contains(id));
                let snapshots = known.into_iter().filter_map(|(id, snapshot)| Some((id, snapshot?)));
                return Ok(Self { snapshots: snapshots.collect() });
            }
            before = (!vanished).then_some(listed);
        }
        Err(Error::Busy { what: "the snapshots" })
    }
}

/// Tells whether there is a snapshot that a listing lacks. The records of runs say of which sessions there may be one.
fn lacks_some(repository: &Repository, listed: &BTreeSet<SnapshotId>) -> Result<bool> {
    for session in repository.store().list_ids::<SnapshotId>(layout::RUNS)? {
        if !listed.contains(&session) && repository.has_outcome(session)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Packs in storage: name and size in bytes.
pub(super) type Listed = HashMap<PackId, u64>;
