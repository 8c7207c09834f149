//! What holds in every state.
//!
//! 1. As long as a snapshot is live, or forgotten and not condemned, some pack in storage has the chunk that it needs.
//! 2. And it is found there: a segment describes such a pack and no removal segment names it.
//! 3. A session is never both committed and expired, so the snapshot of an expired writer never counts.
//! 4. A pack is deleted only if a removal segment names it.
//! 5. A pack that a prune may still delete stands on a list of condemned packs, so nobody comes to count on it.
//! 6. A reader of a snapshot that is not condemned never fails.
//! 7. A condemned snapshot never looks live again.

use stateright::Property;

use crate::protocol::Protocol;
use crate::reader::Reader;
use crate::set::Set;
use crate::snapshots::Record;
use crate::state::State;

pub(crate) const STORED: &str = "1: what a snapshot needs is in storage";
pub(crate) const FINDABLE: &str = "2: what a snapshot needs is found";
pub(crate) const ONE_END: &str = "3: no session is both committed and expired";
pub(crate) const REMOVED_FIRST: &str = "4: a deleted pack is named by a removal segment";
pub(crate) const CONDEMNED_FOR_EVER: &str = "5: what may still be deleted is condemned";
pub(crate) const READER_SUCCEEDS: &str = "6: a reader fails only if its snapshot is condemned";
pub(crate) const CONDEMNED_IS_HIDDEN: &str = "7: a condemned snapshot never looks live again";

/// Returns the invariants.
pub(crate) fn all() -> Vec<Property<Protocol>> {
    vec![
        Property::always(STORED, |_, state: &State| {
            state.snapshots.wanted().is_empty() || !state.packs.stored.is_empty()
        }),
        Property::always(FINDABLE, |_, state: &State| {
            state.snapshots.wanted().is_empty() || !state.packs.findable().is_empty()
        }),
        Property::always(ONE_END, |_, state: &State| {
            state.snapshots.ever_committed.and(state.snapshots.ever_expired).is_empty()
        }),
        Property::always(REMOVED_FIRST, |_, state: &State| state.packs.removed.covers(state.packs.deleted)),
        Property::always(CONDEMNED_FOR_EVER, |protocol: &Protocol, state: &State| {
            state.condemned().covers(may_be_deleted(protocol, state).and(state.packs.stored))
        }),
        Property::always(READER_SUCCEEDS, |_, state: &State| match state.reader {
            Reader::Failed { snapshot } => state.snapshots.ever_condemned.contains(snapshot),
            _ => true,
        }),
        Property::always(CONDEMNED_IS_HIDDEN, |_, state: &State| {
            let shown = state.snapshots.with_mark(|mark| !mark.hides());
            let records = state.snapshots.with_record(|record| record == Record::Snapshot);
            state.snapshots.ever_condemned.and(shown).and(records).is_empty()
        }),
    ]
}

/// Returns the packs that some prune may delete without asking anybody any more.
fn may_be_deleted(protocol: &Protocol, state: &State) -> Set {
    let of_generations = state.generations.iter().filter_map(|generation| generation.awaited).map(|it| it.packs);
    let of_prunes = state.prunes.iter().map(|prune| prune.goes_by(protocol, state).packs);
    of_generations.chain(of_prunes).fold(Set::EMPTY, Set::or)
}
