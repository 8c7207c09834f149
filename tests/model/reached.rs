//! What the actors get to: a model in which nothing happens would hold, too.

use lakebed_core::protocol::PruneStep;
use stateright::Property;

use crate::check::reaches_everything;
use crate::packs::{PRUNES, packs_of_prune};
use crate::protocol::Protocol;
use crate::reader::Reader;
use crate::scope::Scope;
use crate::set::Set;
use crate::snapshots::{Mark, OLD_SNAPSHOT, Record, snapshot_of};
use crate::state::{Progress, State};

/// Returns what has to happen in some state.
pub(crate) fn all() -> Vec<Property<Protocol>> {
    vec![
        Property::sometimes("a writer commits beside an unfinished prune", |_, state: &State| {
            state.snapshots.record(snapshot_of(0)) == Record::Snapshot && unfinished(state) == 1
        }),
        Property::sometimes("a writer finds that it was expired", |_, state: &State| {
            state.writers[0].at == Progress::Stopped
        }),
        Property::sometimes("a prune copies, deletes and ends", |_, state: &State| {
            let copies: Set = (0..PRUNES).flat_map(packs_of_prune).collect();
            !state.packs.deleted.is_empty() && !state.packs.findable().and(copies).is_empty() && unfinished(state) == 0
        }),
        Property::sometimes("everything is pruned", |_, state: &State| {
            state.packs.stored.is_empty() && state.snapshots.mark(OLD_SNAPSHOT) == Mark::Cleared
        }),
        Property::sometimes("a forgotten snapshot comes back and is forgotten again", |_, state: &State| {
            state.snapshots.mark(OLD_SNAPSHOT) == Mark::Tombstone { again: true }
        }),
        Property::sometimes("two prunes work at one generation in which packs are condemned", |_, state: &State| {
            let at = works_at(state, 0);
            at == works_at(state, 1) && at.is_some_and(|at| !state.generations[at].condemned.is_empty())
        }),
        Property::sometimes("a prune is at a generation that another one has finished", |_, state: &State| {
            let is_done = |at: usize| state.generations[at].done && state.generations[at].awaited.is_none();
            (0..PRUNES).filter_map(|prune| works_at(state, prune)).any(is_done)
        }),
        Property::sometimes("a reader that began before packs were deleted succeeds", |_, state: &State| {
            state.reader == Reader::Done && !state.packs.deleted.is_empty()
        }),
        Property::sometimes("a reader fails", |_, state: &State| matches!(state.reader, Reader::Failed { .. })),
    ]
}

/// Returns the generation that a prune has claimed or taken over.
fn works_at(state: &State, prune: usize) -> Option<usize> {
    let prune = &state.prunes[prune];
    let works = matches!(prune.at, Progress::At(step) if step != PruneStep::ClaimGeneration);
    works.then_some(usize::from(prune.generation))
}

fn unfinished(state: &State) -> usize {
    state.generations.iter().filter(|generation| generation.is_unfinished()).count()
}

#[test]
fn everything_that_could_go_wrong_is_tried() {
    reaches_everything(Scope { describes_orphans: false, ..Scope::whole(1, 2) });
}
