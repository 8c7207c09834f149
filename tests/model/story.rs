//! What takes too many actors to be found by walking through everything, told step by step.

use stateright::Model;

use crate::action::{Action, PruneMove, WriterMove};
use crate::invariant::{self, STORED};
use crate::protocol::Protocol;
use crate::rules::{Breakage, Rules};
use crate::scope::Scope;
use crate::set::Set;
use crate::snapshots::{OLD_SNAPSHOT, snapshot_of};
use crate::state::State;

/// The slow prune condemns the old pack and stops in the middle of its second listing of snapshots.
const SLOW: u8 = 0;

fn prune(number: u8, moves: &[PruneMove]) -> Vec<Action> {
    moves.iter().map(|what| Action::Prune(number, *what)).collect()
}

/// A writer registers and takes a snapshot as its parent, which is then forgotten.
fn takes_parent(number: u8, parent: u8) -> Vec<Action> {
    use WriterMove::{Go, Look, TakeParent};
    let moves = [Go, Go, Go, Look(parent), TakeParent(parent)].map(|what| Action::Writer(number, what));
    [moves.as_slice(), &[Action::Forget(parent)]].concat()
}

/// A prune condemns a snapshot and no packs, and lists the sessions; then the writer commits.
fn condemns(number: u8, snapshot: u8, writer: u8) -> Vec<Action> {
    use PruneMove::{Choose, Condemn, Go};
    let moves = prune(number, &[Go, Condemn(snapshot), Go, Choose(Set::EMPTY), Go, Go]);
    [moves.as_slice(), &[Action::Writer(writer, WriterMove::Go)]].concat()
}

/// That prune goes on and deletes the record.
fn deletes(number: u8, snapshot: u8) -> Vec<Action> {
    prune(number, &[PruneMove::Go, PruneMove::Go, PruneMove::DeleteRecord(snapshot)])
}

/// Two listings of snapshots are equal, and both have missed what keeps the chunk: during the first one the old snapshot
/// went and the first writer's came, during the second one that one went and the second writer's came.
fn two_listings_miss_everything() -> Vec<Action> {
    use PruneMove::{Choose, Found, Go};
    let first = snapshot_of(0);
    [
        prune(SLOW, &[Go, Go, Choose(Set::one(0)), Go, Go, Go]),
        takes_parent(0, OLD_SNAPSHOT),
        condemns(1, OLD_SNAPSHOT, 0),
        deletes(1, OLD_SNAPSHOT),
        prune(SLOW, &[Found(Set::EMPTY)]),
        takes_parent(1, first),
        condemns(2, first, 1),
        deletes(2, first),
        prune(SLOW, &[Found(Set::EMPTY), Go, Go]),
    ]
    .concat()
}

fn model(breakages: &[Breakage]) -> Protocol {
    let scope = Scope { piecewise: false, takeover: false, reader: false, ..Scope::whole(2, 3) };
    Protocol { scope, rules: Rules::without(breakages), questions: invariant::all }
}

/// Carries the story out as far as the protocol allows it.
fn carry_out(model: &Protocol, story: &[Action]) -> (State, Option<Action>) {
    let mut state = model.init_states().remove(0);
    for action in story {
        let mut possible = Vec::new();
        model.actions(&state, &mut possible);
        if !possible.contains(action) {
            return (state, Some(*action));
        }
        state = model.next_state(&state, *action).unwrap();
    }
    (state, None)
}

#[test]
fn two_equal_listings_are_not_enough_beside_two_other_prunes() {
    let model = model(&[Breakage::RecordsDeletedBesidePrunes]);
    let (state, stopped_at) = carry_out(&model, &two_listings_miss_everything());
    assert_eq!(stopped_at, None);
    assert!(!(model.property(STORED).condition)(&model, &state), "the chunk is still there");
}

#[test]
fn no_record_is_deleted_beside_an_unfinished_prune() {
    let (_, stopped_at) = carry_out(&model(&[]), &two_listings_miss_everything());
    assert_eq!(stopped_at, Some(Action::Prune(1, PruneMove::DeleteRecord(OLD_SNAPSHOT))));
}
