//! The plan: what is needed, and which packs are not worth keeping.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashSet};

use lakebed_core::id::{PackId, SessionId, SnapshotId, TreeId};
use lakebed_core::monitor::Monitor;
use lakebed_core::pack::{PackInfo, PackKind, Trailer};
use lakebed_core::protocol::PruneStep;
use lakebed_core::record::snapshot::Snapshot;

use super::inventory::{LISTINGS, Listed, Living, Segments, Visitor};
use super::mark::{Home, Marks};
use super::{PruneOptions, PruneSummary, Tally, Unused, brakes};
use crate::error::{Error, Result};
use crate::index_rebuild::read_trailers;
use crate::repository::{BlobReader, Repository, snapshot_of};

/// A pack is small if it has less than this part of what packs aim at.
const SMALL_PART: u64 = 4;

/// What a pack holds for those who need it.
#[derive(Debug, Clone, Copy)]
struct Use {
    id: PackId,
    kind: PackKind,
    size_bytes: u64,
    /// Bytes of frames that somebody needs, by their part of the plain bytes.
    needed_bytes: u64,
    /// Bytes of frames that nobody needs.
    unused_bytes: u64,
    /// A writer or another prune is at work on it.
    in_work: bool,
}

/// What a prune is going to do.
pub(super) struct Plan {
    pub(super) summary: PruneSummary,
    /// Packs to condemn, sorted.
    pub(super) condemn: Vec<PackId>,
    pub(super) marks: Marks,
    /// Snapshots that are gone though nobody has forgotten them, which was accepted.
    pub(super) vanished: BTreeSet<SnapshotId>,
}

/// Who counts when packs are chosen.
pub(super) struct Scope<'a> {
    /// Snapshots that do not count.
    pub(super) gone: &'a BTreeSet<SnapshotId>,
    /// Packs that are condemned already.
    pub(super) condemned: &'a HashSet<PackId>,
}

pub(super) fn plan(
    repository: &Repository,
    reader: &BlobReader,
    pool: &rayon::ThreadPool,
    scope: &Scope<'_>,
    options: &PruneOptions,
    monitor: &dyn Monitor,
) -> Result<Plan> {
    monitor.step(PruneStep::ChoosePacks.into());
    // in this order: a pack that is listed belongs to a session that was registered before, so if that session is not
    // found it has ended; and whatever it committed is found after that
    let listed = repository.store().list_packs()?;
    let (working, checkpoints) = at_work(repository)?;
    let living = Living::list(repository, scope.gone)?;
    let vanished = brakes::vanished(repository, &living, scope.gone, options, monitor)?;
    let mut marks = Marks::default();
    marks.add_snapshots(&living.snapshots, reader, pool, monitor)?;
    marks.add_checkpoints(checkpoints.into_iter(), reader, pool, monitor)?;

    let mut visitor =
        Uses { listed: &listed, working: &working, condemned: scope.condemned, marks: &mut marks, uses: Vec::new() };
    Segments::stream(repository, &mut visitor)?;
    let uses = visitor.uses;
    find_late(repository, &listed, scope, &mut marks)?;
    let missing = marks.nowhere();
    if missing > 0 {
        return Err(Error::NeededMissing { count: missing });
    }
    let store = repository.store();
    let (forgotten, _) = store.outcomes(|id| scope.gone.contains(&id))?;
    let going: Vec<(SnapshotId, Snapshot)> = forgotten
        .iter()
        .filter_map(|(id, outcome)| Some((*id, snapshot_of(*id, outcome.as_ref().ok()?).ok()??)))
        .collect();
    let all = living.snapshots.values().chain(going.iter().map(|(_, snapshot)| snapshot));
    let joined: HashSet<SnapshotId> =
        all.filter_map(|snapshot| snapshot.joined.as_ref()).flat_map(|it| &it.shards).copied().collect();
    let parts_kept = living.snapshots.keys().filter(|id| joined.contains(id)).count() as u64;
    let parts_going = going.iter().filter(|(id, _)| joined.contains(id)).count() as u64;
    let mut summary = PruneSummary {
        snapshots_forgotten: forgotten.into_iter().map(|(id, _)| id).collect(),
        parts: (parts_kept, parts_going),
        snapshots_kept: living.snapshots.len() as u64,
        all: listed.values().fold(Tally::default(), |mut all, size| {
            all.add(*size);
            all
        }),
        ..PruneSummary::default()
    };
    for id in scope.condemned {
        listed.get(id).into_iter().for_each(|size| summary.condemned_before.add(*size));
    }
    let mut condemn = choose(&uses, repository, options, &mut summary);
    for (id, size) in unknown(repository, &listed, &uses, &working, scope) {
        summary.deleted.add(size);
        summary.unused_bytes += size;
        condemn.push(id);
    }
    condemn.sort_unstable();
    Ok(Plan { summary, condemn, marks, vanished })
}

/// Returns the sessions whose packs are left alone, and the roots of their checkpoints.
fn at_work(repository: &Repository) -> Result<(HashSet<SessionId>, Vec<TreeId>)> {
    let mut working: HashSet<SessionId> = repository.registered_sessions()?.into_iter().collect();
    let (sessions, ended) = repository.sessions_and_leftovers(None, None)?;
    // what is left of a session that has ended says nothing: its snapshot, if it has one, was there before snapshots are
    // listed
    working.retain(|id| !ended.contains(id));
    let checkpoints = sessions.into_iter().filter_map(|session| Some(session.checkpoint?.root)).collect();
    for (number, generation) in repository.generations()? {
        if generation.done || repository.prune_is_over(number)? {
            continue;
        }
        if let Some(claim) = repository.read_claim(number)? {
            working.insert(claim.session);
        }
    }
    Ok((working, checkpoints))
}

/// Finds out what each described pack holds for those who need it. Of a chunk that lies in several, the first counts.
struct Uses<'a> {
    listed: &'a Listed,
    working: &'a HashSet<SessionId>,
    condemned: &'a HashSet<PackId>,
    marks: &'a mut Marks,
    uses: Vec<Use>,
}

impl Visitor for Uses<'_> {
    fn restart(&mut self) {
        self.marks.reset_homes();
        self.uses.clear();
    }

    fn pack(&mut self, pack: PackInfo) -> Result<()> {
        if self.listed.get(&pack.id) != Some(&pack.size_bytes) {
            return Ok(());
        }
        if self.condemned.contains(&pack.id) {
            self.marks.found_all(&pack.directory, Home::Condemned);
        } else {
            let in_work = self.working.contains(&pack.directory.session);
            self.uses.push(use_of(&pack, in_work, self.marks));
        }
        Ok(())
    }
}

/// Finds what lies in packs that came after they were listed.
struct Late<'a> {
    listed: &'a Listed,
    condemned: &'a HashSet<PackId>,
    marks: &'a mut Marks,
}

impl Visitor for Late<'_> {
    fn restart(&mut self) {}

    fn pack(&mut self, pack: PackInfo) -> Result<()> {
        if self.listed.get(&pack.id) == Some(&pack.size_bytes) {
            let is_condemned = self.condemned.contains(&pack.id);
            self.marks.found_all(&pack.directory, if is_condemned { Home::Condemned } else { Home::Found });
        }
        Ok(())
    }
}

/// Looks once more for what was found nowhere. Packs were listed before snapshots: what has committed in between lies in
/// packs that came later, and another prune may have moved what lay in those that were listed.
fn find_late(repository: &Repository, listed: &Listed, scope: &Scope<'_>, marks: &mut Marks) -> Result<()> {
    let mut before = Cow::Borrowed(listed);
    for _ in 0..LISTINGS {
        if marks.nowhere() == 0 {
            break;
        }
        let now = repository.store().list_packs()?;
        if now == *before {
            break;
        }
        Segments::stream(repository, &mut Late { listed: &now, condemned: scope.condemned, marks })?;
        before = Cow::Owned(now);
    }
    Ok(())
}

fn use_of(pack: &PackInfo, in_work: bool, marks: &mut Marks) -> Use {
    let (mut needed_bytes, mut unused_bytes) = (0u64, 0u64);
    for frame in &pack.directory.frames {
        let all: u64 = frame.blobs.iter().map(|blob| u64::from(blob.length)).sum();
        let needed = frame.blobs.iter().filter(|blob| marks.found(&blob.id, Home::Found));
        let needed: u64 = needed.map(|blob| u64::from(blob.length)).sum();
        // lengths of frames and chunks are below 2^32 each, so this fits
        // rounded up: where anything is needed, the pack does not go whole
        let part = (u64::from(frame.frame_len) * needed).div_ceil(all.max(1));
        needed_bytes += part;
        unused_bytes += u64::from(frame.frame_len) - part;
    }
    Use { id: pack.id, kind: pack.directory.kind, size_bytes: pack.size_bytes, needed_bytes, unused_bytes, in_work }
}

/// Chooses the packs to condemn: those that nobody needs, and those whose rest is worth being written anew.
fn choose(uses: &[Use], repository: &Repository, options: &PruneOptions, summary: &mut PruneSummary) -> Vec<PackId> {
    let small_bytes = repository.store().storage().capabilities().pack_target_bytes / SMALL_PART;
    let is_small = |pack: &Use| options.repack_small && pack.size_bytes < small_bytes;
    let small_of = |kind| uses.iter().filter(|pack| !pack.in_work && pack.kind == kind && is_small(pack)).count();
    let (small_data, small_tree) = (small_of(PackKind::Data), small_of(PackKind::Tree));
    let mut condemn = Vec::new();
    let mut candidates = Vec::new();
    let (mut staying_bytes, mut unused_bytes) = (0, 0);
    for pack in uses {
        summary.unused_bytes += pack.unused_bytes;
        if pack.in_work {
            summary.kept.add(pack.size_bytes);
            continue;
        }
        if pack.needed_bytes == 0 && pack.unused_bytes > 0 {
            summary.deleted.add(pack.size_bytes);
            condemn.push(pack.id);
            continue;
        }
        staying_bytes += pack.needed_bytes;
        unused_bytes += pack.unused_bytes;
        let many = if pack.kind == PackKind::Data { small_data } else { small_tree };
        let joins = is_small(pack) && many > 1;
        if pack.unused_bytes > 0 || joins {
            candidates.push((*pack, joins));
        } else {
            summary.kept.add(pack.size_bytes);
        }
    }
    let limit = match options.max_unused {
        Unused::Share(share) => (staying_bytes as f64 * share.clamp(0.0, 1.0)) as u64,
        Unused::Bytes(bytes) => bytes,
        Unused::Unlimited => u64::MAX,
    };
    // small ones first, then those that free most for what has to be copied
    let waste = |pack: &Use| pack.unused_bytes as f64 / pack.size_bytes.max(1) as f64;
    candidates.sort_by(|(a, a_joins), (b, b_joins)| {
        b_joins.cmp(a_joins).then(waste(b).total_cmp(&waste(a))).then(a.id.cmp(&b.id))
    });
    for (pack, joins) in candidates {
        let fits = options.max_repack.is_none_or(|most| summary.repacked.bytes + pack.size_bytes <= most);
        if fits && (joins || unused_bytes > limit) {
            unused_bytes -= pack.unused_bytes;
            summary.repacked.add(pack.size_bytes);
            summary.copied_bytes += pack.needed_bytes;
            condemn.push(pack.id);
        } else {
            summary.kept.add(pack.size_bytes);
        }
    }
    summary.unused_after_bytes = unused_bytes;
    condemn
}

/// Returns the packs that no segment describes, or that were removed: what killed runs left behind.
fn unknown(
    repository: &Repository,
    listed: &Listed,
    uses: &[Use],
    working: &HashSet<SessionId>,
    scope: &Scope<'_>,
) -> Vec<(PackId, u64)> {
    let known: HashSet<PackId> = uses.iter().map(|pack| pack.id).collect();
    let unknown = listed.iter().filter(|(id, _)| !known.contains(id) && !scope.condemned.contains(id));
    let unknown: Vec<(PackId, u64)> = unknown.map(|(id, size)| (*id, *size)).collect();
    let is_free = |trailer| match trailer {
        Ok(Trailer { session, .. }) => !working.contains(&session),
        // one that nobody can read is of no use to anybody, and nothing that is needed is missing
        Err(Error::Storage(_)) => false,
        Err(_) => true,
    };
    let trailers = read_trailers(repository.store(), &unknown);
    unknown.into_iter().zip(trailers).filter_map(|(pack, trailer)| is_free(trailer).then_some(pack)).collect()
}

#[cfg(test)]
mod tests {
    use lakebed_core::pack::{BlobId, BlobInfo, FrameInfo, PackDirectory};

    use super::*;

    #[test]
    fn however_little_is_needed_of_a_pack_it_is_not_nothing() {
        let blob = |id, length| BlobInfo { id: BlobId::new([id; 32]), length };
        let frame = FrameInfo { number: 0, frame_len: 500, blobs: vec![blob(1, 1), blob(2, 1_000_000)] };
        let directory = PackDirectory {
            kind: PackKind::Data,
            session: SessionId::new([1; 32]),
            salt: [0; 32],
            frames: vec![frame.clone(), frame],
        };
        let pack = PackInfo { id: PackId::new([1; 32]), size_bytes: 1000, directory };
        let none = use_of(&pack, false, &mut Marks::default());
        assert_eq!((none.needed_bytes, none.unused_bytes), (0, 1000));
        let some = use_of(&pack, false, &mut Marks::of(&[BlobId::new([1; 32])]));
        assert_eq!((some.needed_bytes, some.unused_bytes), (1, 999));
    }
}
