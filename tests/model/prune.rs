//! `Prune`: one that frees space, or takes over from one that does.
//!
//! It may stop for ever between any two moves, or be slow and go on after another prune has taken its generation over and
//! finished it.

use lakebed_core::protocol::PruneStep;

use crate::action::{Action, PruneMove};
use crate::generation::Awaited;
use crate::listing::Listing;
use crate::packs::Packs;
use crate::protocol::Protocol;
use crate::rules::Breakage;
use crate::set::Set;
use crate::snapshots::{Mark, Record};
use crate::state::{Progress, State};

/// What a prune remembers within a step, and from one step to the next.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Memory {
    #[default]
    Nothing,
    /// The packs that are chosen, and those of them that are to be published yet.
    Chosen { packs: Set, left: Set },
    /// What `awaited` will say, while the sessions are listed.
    Sessions { condemned: Set, packs: Set, listing: Listing },
    /// What `awaited` will say, while packs are to be published yet. Only with [`Breakage::SessionsListedEarly`].
    ListedEarly { awaited: Awaited, left: Set },
    /// The listing of snapshots that goes on, and what the one before it found.
    Snapshots { before: Option<Set>, listing: Listing },
    /// Packs that are condemned.
    CondemnedPacks(Set),
    /// Packs that the index names and storage has. Only with [`Breakage::HomeFoldedEarly`].
    Folded(Set),
    /// The pack to copy from.
    Source(u8),
    /// The copy is in this pack.
    Copied(u8),
    /// The same, and removal segments are published. Only with [`Breakage::RemovalBeforeCopy`].
    CopiedAndRemoved(u8),
    /// No other generation has condemned packs: records may be deleted.
    MayDelete,
    /// The done mark is put.
    Marked,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Prune {
    pub(crate) at: Progress<PruneStep>,
    /// The generation that it works at.
    pub(crate) generation: u8,
    pub(crate) memory: Memory,
    /// The chunk was needed when the packs were chosen. Only with [`Breakage::NoSecondListing`].
    pub(crate) needed_at_first: bool,
    /// What it goes by, once the sessions are listed.
    pub(crate) awaited: Option<Awaited>,
}

impl Prune {
    /// One that has nothing to do.
    pub(crate) const IDLE: Self =
        Self { at: Progress::Done, generation: 0, memory: Memory::Nothing, needed_at_first: false, awaited: None };

    pub(crate) fn at_first() -> Self {
        Self { at: Progress::At(PruneStep::ClaimGeneration), ..Self::IDLE }
    }

    pub(crate) fn step(&mut self, step: PruneStep, memory: Memory) {
        self.at = Progress::At(step);
        self.memory = memory;
    }

    /// Returns what it goes by.
    pub(crate) fn goes_by(&self, protocol: &Protocol, state: &State) -> Awaited {
        let mut awaited = self.awaited.unwrap_or_default();
        if protocol.breaks(Breakage::EveryListCovered) {
            awaited.packs = awaited.packs.or(state.generations[usize::from(self.generation)].condemned);
        }
        awaited
    }
}

/// Adds what a prune may do next.
pub(crate) fn moves(protocol: &Protocol, state: &State, number: usize, actions: &mut Vec<Action>) {
    let prune = &state.prunes[number];
    let Progress::At(step) = prune.at else { return };
    let awaited = prune.goes_by(protocol, state);
    let mut may = |what| actions.push(Action::Prune(number as u8, what));
    match (step, prune.memory) {
        (PruneStep::ClaimGeneration, _) => {
            may(PruneMove::Go);
            takeovers(protocol, state).for_each(|generation| may(PruneMove::TakeOver(generation)));
        }
        (PruneStep::CondemnTombstones, _) => {
            let forgotten = state.snapshots.with_mark(Mark::is_unresolved);
            forgotten.iter().for_each(|snapshot| may(PruneMove::Condemn(snapshot)));
            may(PruneMove::Go);
        }
        (PruneStep::ChoosePacks, _) => {
            state.packs.stored.subsets().for_each(|packs| may(PruneMove::Choose(packs)));
        }
        (PruneStep::PublishCondemned, Memory::Chosen { left, .. } | Memory::ListedEarly { left, .. }) => {
            one_by_one(protocol, left, PruneMove::Publish, &mut may);
        }
        (PruneStep::AwaitSessions, _) => {
            if state.snapshots.ended().covers(awaited.sessions) {
                may(PruneMove::Go);
            }
            if protocol.breaks(Breakage::PackUncondemned) {
                may(PruneMove::GiveUp);
            }
        }
        (PruneStep::ListSnapshotsAgain, Memory::Snapshots { listing, .. }) => {
            listing.results(state.snapshots.look()).for_each(|found| may(PruneMove::Found(found)));
        }
        (PruneStep::CopyLive, Memory::CondemnedPacks(condemned)) if has_no_home(&state.packs, condemned) => {
            let sources = state.packs.findable();
            sources.iter().for_each(|pack| may(PruneMove::CopyFrom(pack)));
            if sources.is_empty() {
                may(PruneMove::Go);
            }
        }
        (PruneStep::DeletePacks, _) => {
            one_by_one(protocol, awaited.packs.and(state.packs.stored), PruneMove::Delete, &mut may);
        }
        (PruneStep::DeleteSnapshots, Memory::MayDelete) => deletions(protocol, state, awaited.condemned, &mut may),
        _ => may(PruneMove::Go),
    }
}

/// Returns the generations that may be taken over: whether their prune is dead or slow nobody can tell.
fn takeovers(protocol: &Protocol, state: &State) -> impl Iterator<Item = u8> {
    let prunes = if protocol.scope.takeover { protocol.scope.prunes } else { 0 };
    (0..prunes as u8).filter(|other| state.generations[usize::from(*other)].is_unfinished())
}

/// Adds a move for each of these packs, or one for all that are left.
fn one_by_one(protocol: &Protocol, left: Set, what: impl Fn(u8) -> PruneMove, may: &mut impl FnMut(PruneMove)) {
    if protocol.scope.piecewise && !left.is_empty() {
        left.iter().for_each(|pack| may(what(pack)));
    } else {
        may(PruneMove::Go);
    }
}

/// Tells whether the chunk lies in condemned packs only.
pub(crate) fn has_no_home(packs: &Packs, condemned: Set) -> bool {
    packs.findable().minus(condemned).is_empty()
}

/// Adds what may be deleted next of the records of condemned snapshots.
fn deletions(protocol: &Protocol, state: &State, condemned: Set, may: &mut impl FnMut(PruneMove)) {
    let mut all_gone = true;
    for snapshot in condemned.iter() {
        let record_is_gone = state.snapshots.record(snapshot) != Record::Snapshot;
        let mark = state.snapshots.mark(snapshot);
        let mark_is_gone = matches!(mark, Mark::None | Mark::Cleared);
        all_gone &= record_is_gone && mark_is_gone;
        let marks_first = protocol.breaks(Breakage::TombstoneDeletedFirst);
        if !record_is_gone && (!marks_first || mark_is_gone) {
            may(PruneMove::DeleteRecord(snapshot));
        }
        if !mark_is_gone && (record_is_gone || marks_first) {
            if mark != Mark::ResolutionLeft {
                may(PruneMove::DeleteTombstone(snapshot));
            }
            if mark != Mark::TombstoneLeft {
                may(PruneMove::DeleteResolution(snapshot));
            }
        }
    }
    if all_gone {
        may(PruneMove::Go);
    }
}
