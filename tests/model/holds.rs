//! The protocol as it is: the invariants hold in every state of each of these scopes.
//!
//! The large ones take minutes and gigabytes: `cargo test --release --workspace --test model -- --ignored --test-threads 1`.

use crate::check::holds;
use crate::scope::Scope;
use crate::set::Set;
use crate::snapshots::OLD_SNAPSHOT;

/// What a scope with two prunes or two writers leaves out so that it can be walked through in seconds.
fn smaller(scope: Scope) -> Scope {
    Scope { reader: false, continues: false, describes_orphans: false, ..scope }
}

/// Only the first snapshot is forgotten, once; no session is expired; lists, packs and records go all at once.
fn smallest(scope: Scope) -> Scope {
    let forgettable = Set::one(OLD_SNAPSHOT);
    Scope { forgettable, undoable: Set::EMPTY, expiry: false, piecewise: false, ..smaller(scope) }
}

#[test]
fn one_writer_and_one_prune() {
    holds(Scope::whole(1, 1), 112_296);
}

#[test]
fn two_writers_and_one_prune() {
    holds(Scope { reader: false, ..Scope::whole(2, 1) }, 952_392);
}

#[test]
fn one_writer_and_two_prunes() {
    holds(Scope { reader: false, continues: false, ..Scope::whole(1, 2) }, 2_482_013);
}

#[test]
fn one_writer_and_two_prunes_that_go_on_with_their_own_generation() {
    holds(Scope { continues: true, ..smaller(Scope::whole(1, 2)) }, 8_155_739);
}

#[test]
fn one_writer_and_two_prunes_and_a_reader() {
    let scope = smallest(Scope::whole(1, 2));
    holds(Scope { reader: true, ..scope }, 3_995_676);
}

#[test]
fn two_writers_and_two_prunes() {
    holds(smallest(Scope::whole(2, 2)), 7_873_757);
}

#[test]
#[ignore = "large: see the head of this file"]
fn two_writers_and_one_prune_and_a_reader() {
    holds(Scope::whole(2, 1), 15_732_491);
}

#[test]
#[ignore = "large: see the head of this file"]
fn one_writer_and_two_prunes_and_a_reader_with_everything_but_orphans() {
    holds(Scope { reader: true, ..smaller(Scope::whole(1, 2)) }, 40_053_762);
}

#[test]
#[ignore = "large: see the head of this file"]
fn two_writers_and_two_prunes_and_every_snapshot_forgotten() {
    let scope = smallest(Scope::whole(2, 2));
    holds(Scope { forgettable: Scope::whole(2, 2).forgettable, takeover: false, ..scope }, 32_063_247);
}

#[test]
#[ignore = "large: see the head of this file"]
fn one_writer_and_three_prunes() {
    holds(Scope { takeover: false, ..smallest(Scope::whole(1, 3)) }, 28_272_814);
}
