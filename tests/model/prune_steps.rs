//! The steps of a prune, carried out.

use lakebed_core::protocol::PruneStep;

use crate::action::PruneMove;
use crate::generation::Awaited;
use crate::listing::Listing;
use crate::packs::packs_of_prune;
use crate::protocol::Protocol;
use crate::prune::{Memory, Prune, has_no_home};
use crate::rules::Breakage;
use crate::set::Set;
use crate::snapshots::{Mark, Record, Snapshots};
use crate::state::{Progress, State};

/// Does what a prune may do.
pub(crate) fn go(protocol: &Protocol, state: &mut State, number: usize, what: PruneMove) {
    let mut prune = state.prunes[number];
    let Progress::At(step) = prune.at else { return };
    match step {
        PruneStep::ClaimGeneration => claim(protocol, state, number, &mut prune, what),
        PruneStep::CondemnTombstones => match what {
            PruneMove::Condemn(snapshot) => state.snapshots.set_mark(snapshot, Mark::Condemned),
            _ => prune.step(PruneStep::ChoosePacks, Memory::Nothing),
        },
        PruneStep::ChoosePacks => choose(protocol, state, &mut prune, what),
        PruneStep::PublishCondemned => publish(state, &mut prune, what),
        PruneStep::ListSessions => list_sessions(protocol, state, &mut prune),
        PruneStep::AwaitSessions => end_waiting(protocol, state, &mut prune, what),
        PruneStep::ListSnapshotsAgain => list_snapshots(protocol, state, &mut prune, what),
        PruneStep::CopyLive => copy(protocol, state, number, &mut prune, what),
        PruneStep::PublishRemovals => publish_removals(protocol, state, &mut prune),
        PruneStep::DeletePacks => delete_packs(protocol, state, &mut prune, what),
        PruneStep::DeleteSnapshots => delete_snapshots(protocol, state, &mut prune, what),
        PruneStep::MarkDone => mark_done(protocol, state, number, &mut prune),
    }
    state.prunes[number] = prune;
}

fn claim(protocol: &Protocol, state: &mut State, number: usize, prune: &mut Prune, what: PruneMove) {
    if let PruneMove::TakeOver(taken) = what {
        let generation = &state.generations[usize::from(taken)];
        prune.generation = taken;
        // the condemned lists are read before the sessions are listed
        prune.step(PruneStep::ListSessions, begin_sessions(&state.snapshots, generation.condemned));
        if generation.awaited.is_some() && !protocol.breaks(Breakage::AwaitedAfresh) {
            prune.awaited = generation.awaited;
            prune.step(PruneStep::AwaitSessions, Memory::Nothing);
        }
    } else {
        prune.generation = number as u8;
        state.generations[number].claimed = true;
        prune.step(PruneStep::CondemnTombstones, Memory::Nothing);
    }
}

fn choose(protocol: &Protocol, state: &State, prune: &mut Prune, what: PruneMove) {
    let PruneMove::Choose(packs) = what else { return };
    let condemned = state.snapshots.with_mark(|mark| mark == Mark::Condemned);
    if protocol.breaks(Breakage::NoSecondListing) {
        prune.needed_at_first = !state.snapshots.ever_committed.minus(condemned).is_empty();
    }
    if protocol.breaks(Breakage::SessionsListedEarly) {
        let sessions = state.snapshots.look_at_sessions().there;
        let awaited = Awaited { packs, condemned, sessions };
        prune.step(PruneStep::PublishCondemned, Memory::ListedEarly { awaited, left: packs });
    } else {
        prune.step(PruneStep::PublishCondemned, Memory::Chosen { packs, left: packs });
    }
}

fn publish(state: &mut State, prune: &mut Prune, what: PruneMove) {
    let left = match &mut prune.memory {
        Memory::Chosen { left, .. } | Memory::ListedEarly { left, .. } => left,
        _ => return,
    };
    let generation = &mut state.generations[usize::from(prune.generation)];
    let now = if let PruneMove::Publish(pack) = what { Set::one(pack) } else { *left };
    generation.publish(now);
    *left = left.minus(now);
    if !left.is_empty() {
        return;
    }
    match prune.memory {
        Memory::ListedEarly { awaited, .. } => {
            prune.awaited = Some(*generation.awaited.get_or_insert(awaited));
            prune.step(PruneStep::AwaitSessions, Memory::Nothing);
        }
        Memory::Chosen { packs, .. } => prune.step(PruneStep::ListSessions, begin_sessions(&state.snapshots, packs)),
        _ => {}
    }
}

/// Begins to list the sessions. Whoever had taken a snapshot as its parent that is condemned by now is registered, or has
/// ended: such a snapshot need not count.
fn begin_sessions(snapshots: &Snapshots, packs: Set) -> Memory {
    let condemned = snapshots.with_mark(|mark| mark == Mark::Condemned);
    Memory::Sessions { condemned, packs, listing: Listing::begin(snapshots.look_at_sessions()) }
}

fn list_sessions(protocol: &Protocol, state: &mut State, prune: &mut Prune) {
    let Memory::Sessions { condemned, packs, listing } = prune.memory else { return };
    // what it may find besides makes it wait for more, and that is like being slow
    let sessions = match protocol.breaks(Breakage::RegistrationReplaced) {
        true => Set::EMPTY,
        false => listing.bounds(state.snapshots.look_at_sessions()).0,
    };
    let listed = Awaited { packs, condemned, sessions };
    let first = *state.generations[usize::from(prune.generation)].awaited.get_or_insert(listed);
    prune.awaited = Some(if protocol.breaks(Breakage::AwaitedAfresh) { listed } else { first });
    prune.step(PruneStep::AwaitSessions, Memory::Nothing);
}

fn end_waiting(protocol: &Protocol, state: &mut State, prune: &mut Prune, what: PruneMove) {
    if what == PruneMove::GiveUp {
        state.generations[usize::from(prune.generation)].condemned = Set::EMPTY;
        *prune = Prune { at: Progress::Stopped, ..Prune::IDLE };
    } else if prune.goes_by(protocol, state).packs.and(state.packs.stored).is_empty() {
        // nothing to delete, nothing to look for
        prune.step(PruneStep::DeleteSnapshots, Memory::Nothing);
    } else if protocol.breaks(Breakage::NoSecondListing) {
        end_marking(protocol, prune, prune.needed_at_first);
    } else {
        let listing = Listing::begin(state.snapshots.look());
        prune.step(PruneStep::ListSnapshotsAgain, Memory::Snapshots { before: None, listing });
    }
}

fn list_snapshots(protocol: &Protocol, state: &State, prune: &mut Prune, what: PruneMove) {
    let (PruneMove::Found(found), Memory::Snapshots { before, .. }) = (what, prune.memory) else { return };
    let again = Listing::begin(state.snapshots.look());
    let has_gone = found.iter().any(|snapshot| state.snapshots.record(snapshot) == Record::Deleted);
    if protocol.breaks(Breakage::SingleListing) || (before == Some(found) && !has_gone) {
        let condemned = prune.goes_by(protocol, state).condemned;
        end_marking(protocol, prune, found.iter().any(|snapshot| counts(protocol, state, condemned, snapshot)));
    } else {
        prune.memory = Memory::Snapshots { before: (!has_gone).then_some(found), listing: again };
    }
}

/// Tells whether a snapshot that was listed keeps its chunks.
fn counts(protocol: &Protocol, state: &State, condemned: Set, snapshot: u8) -> bool {
    let mark = state.snapshots.mark(snapshot);
    let is_ignored = protocol.breaks(Breakage::ForgottenParentIgnored) && mark.hides()
        || protocol.breaks(Breakage::CondemnedParentIgnored) && mark == Mark::Condemned;
    state.snapshots.record(snapshot) == Record::Snapshot && !condemned.contains(snapshot) && !is_ignored
}

fn end_marking(protocol: &Protocol, prune: &mut Prune, needed: bool) {
    match needed {
        true => prune.step(PruneStep::CopyLive, Memory::Nothing),
        false => end_copying(protocol, prune),
    }
}

fn end_copying(protocol: &Protocol, prune: &mut Prune) {
    let next = match protocol.breaks(Breakage::DeletedBeforeRemoval) {
        true => PruneStep::DeletePacks,
        false => PruneStep::PublishRemovals,
    };
    prune.step(next, Memory::Nothing);
}

fn copy(protocol: &Protocol, state: &mut State, number: usize, prune: &mut Prune, what: PruneMove) {
    let awaited = prune.goes_by(protocol, state);
    let condemned = match protocol.breaks(Breakage::CopyTrustsCondemned) {
        true => awaited.packs,
        false => state.condemned().or(awaited.packs),
    };
    match (prune.memory, what) {
        (Memory::CondemnedPacks(_), PruneMove::CopyFrom(pack)) => prune.memory = Memory::Source(pack),
        (Memory::CondemnedPacks(condemned), _) if has_no_home(&state.packs, condemned) => {
            prune.memory = Memory::Nothing;
        }
        (Memory::CondemnedPacks(_), _) => end_copying(protocol, prune),
        (Memory::Source(pack), _) => {
            prune.memory = match state.packs.stored.contains(pack) {
                true => Memory::Copied(store_copy(state, number)),
                // it went meanwhile: fold again
                false => Memory::Nothing,
            };
        }
        (Memory::Copied(pack), _) if protocol.breaks(Breakage::RemovalBeforeCopy) => {
            state.packs.removed = state.packs.removed.or(awaited.packs);
            prune.memory = Memory::CopiedAndRemoved(pack);
        }
        (Memory::Copied(pack) | Memory::CopiedAndRemoved(pack), _) => {
            state.packs.describe(pack);
            end_copying(protocol, prune);
        }
        (Memory::Folded(folded), _) if !folded.minus(condemned).is_empty() => end_copying(protocol, prune),
        (Memory::Folded(_), _) => prune.memory = Memory::CondemnedPacks(condemned),
        _ if protocol.breaks(Breakage::HomeFoldedEarly) => prune.memory = Memory::Folded(state.packs.findable()),
        _ => prune.memory = Memory::CondemnedPacks(condemned),
    }
}

/// Stores the chunk in a new pack.
fn store_copy(state: &mut State, number: usize) -> u8 {
    let used = state.packs.stored.or(state.packs.deleted);
    let pack = packs_of_prune(number).into_iter().find(|pack| !used.contains(*pack));
    let pack = pack.expect("a prune copies once for each generation that it works at, and at most two");
    state.packs.store(pack);
    pack
}

fn publish_removals(protocol: &Protocol, state: &mut State, prune: &mut Prune) {
    state.packs.removed = state.packs.removed.or(prune.goes_by(protocol, state).packs);
    let next = match protocol.breaks(Breakage::DeletedBeforeRemoval) {
        true => PruneStep::DeleteSnapshots,
        false => PruneStep::DeletePacks,
    };
    prune.step(next, Memory::Nothing);
}

fn delete_packs(protocol: &Protocol, state: &mut State, prune: &mut Prune, what: PruneMove) {
    let packs = prune.goes_by(protocol, state).packs;
    if let PruneMove::Delete(pack) = what {
        state.packs.delete(Set::one(pack));
        return;
    }
    state.packs.delete(packs);
    let next = match protocol.breaks(Breakage::DeletedBeforeRemoval) {
        true => PruneStep::PublishRemovals,
        false => PruneStep::DeleteSnapshots,
    };
    prune.step(next, Memory::Nothing);
}

fn delete_snapshots(protocol: &Protocol, state: &mut State, prune: &mut Prune, what: PruneMove) {
    match what {
        PruneMove::DeleteRecord(snapshot) => state.snapshots.put(snapshot, Record::Deleted),
        PruneMove::DeleteTombstone(snapshot) => {
            let nothing_left = state.snapshots.mark(snapshot) == Mark::TombstoneLeft;
            state.snapshots.set_mark(snapshot, if nothing_left { Mark::Cleared } else { Mark::ResolutionLeft });
        }
        PruneMove::DeleteResolution(snapshot) => {
            let nothing_left = state.snapshots.mark(snapshot) == Mark::ResolutionLeft;
            state.snapshots.set_mark(snapshot, if nothing_left { Mark::Cleared } else { Mark::TombstoneLeft });
        }
        _ if prune.memory == Memory::Nothing && may_delete_records(protocol, state, prune) => {
            prune.memory = Memory::MayDelete;
        }
        _ => prune.step(PruneStep::MarkDone, Memory::Nothing),
    }
}

/// Tells whether no other generation has condemned packs: somebody who works at one may be listing the snapshots.
fn may_delete_records(protocol: &Protocol, state: &State, prune: &Prune) -> bool {
    let others = state.generations.iter().enumerate().filter(|(number, _)| *number != usize::from(prune.generation));
    protocol.breaks(Breakage::RecordsDeletedBesidePrunes)
        || others.map(|(_, generation)| generation.condemned).all(Set::is_empty)
}

fn mark_done(protocol: &Protocol, state: &mut State, number: usize, prune: &mut Prune) {
    if prune.memory != Memory::Marked {
        state.generations[usize::from(prune.generation)].done = true;
        prune.memory = Memory::Marked;
        return;
    }
    let generation = &mut state.generations[usize::from(prune.generation)];
    generation.awaited = None;
    // only lists that `awaited` covered go, and their packs are deleted by now
    if protocol.breaks(Breakage::EveryListDropped) {
        generation.condemned = Set::EMPTY;
    }
    let goes_on = protocol.scope.continues && !state.generations[number].claimed;
    *prune = if goes_on { Prune::at_first() } else { Prune::IDLE };
}
