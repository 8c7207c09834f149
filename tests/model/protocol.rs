//! `Protocol`: the model itself, as the checker walks through it.

use stateright::{Model, Property};

use crate::action::Action;
use crate::generation::Generation;
use crate::packs::{PRUNES, Packs, WRITERS};
use crate::prune::{self, Prune};
use crate::prune_steps;
use crate::reader::{self, Reader};
use crate::rules::{Breakage, Rules};
use crate::scope::Scope;
use crate::snapshots::{Mark, Record, Snapshots};
use crate::state::State;
use crate::writer::{self, Writer};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Protocol {
    pub(crate) scope: Scope,
    pub(crate) rules: Rules,
    /// What is asked about it: [`crate::invariant::all`] or [`crate::reached::all`].
    pub(crate) questions: fn() -> Vec<Property<Protocol>>,
}

impl Protocol {
    pub(crate) fn breaks(&self, breakage: Breakage) -> bool {
        self.rules.are_broken_by(breakage)
    }

    fn somebody_moves(&self, state: &State, actions: &mut Vec<Action>) {
        let snapshots = &state.snapshots;
        for snapshot in self.scope.forgettable.iter() {
            let mark = snapshots.mark(snapshot);
            let may_be_forgotten = matches!(mark, Mark::None | Mark::Undone { again: false });
            if may_be_forgotten && snapshots.record(snapshot) == Record::Snapshot {
                actions.push(Action::Forget(snapshot));
            }
            if mark.is_unresolved() && self.scope.undoable.contains(snapshot) {
                actions.push(Action::Undo(snapshot));
            }
        }
        if self.scope.expiry {
            snapshots.look_at_sessions().there.iter().for_each(|session| actions.push(Action::Expire(session)));
        }
        if self.scope.describes_orphans {
            let orphans = state.packs.stored.or(state.packs.deleted).minus(state.packs.described);
            orphans.iter().for_each(|pack| actions.push(Action::DescribeOrphan(pack)));
        }
    }
}

fn somebody(state: &mut State, action: Action) {
    let snapshots = &mut state.snapshots;
    match action {
        Action::Forget(snapshot) => {
            let again = snapshots.mark(snapshot) != Mark::None;
            snapshots.set_mark(snapshot, Mark::Tombstone { again });
        }
        Action::Undo(snapshot) => {
            let again = snapshots.mark(snapshot) != Mark::Tombstone { again: false };
            snapshots.set_mark(snapshot, Mark::Undone { again });
        }
        Action::Expire(session) => {
            snapshots.put(session, Record::Expiry);
            snapshots.registered = snapshots.registered.without(session);
        }
        Action::DescribeOrphan(pack) => state.packs.describe(pack),
        _ => {}
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            packs: Packs::at_first(),
            snapshots: Snapshots::at_first(),
            generations: [Generation::default(); PRUNES],
            writers: std::array::from_fn::<_, WRITERS, _>(|number| {
                if number < self.scope.writers { Writer::at_first(self) } else { Writer::IDLE }
            }),
            prunes: std::array::from_fn(
                |number| {
                    if number < self.scope.prunes { Prune::at_first() } else { Prune::IDLE }
                },
            ),
            reader: if self.scope.reader { Reader::Idle } else { Reader::Done },
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.somebody_moves(state, actions);
        (0..self.scope.writers).for_each(|number| writer::moves(self, state, number, actions));
        (0..self.scope.prunes).for_each(|number| prune::moves(self, state, number, actions));
        reader::moves(state, actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = *state;
        match action {
            Action::Writer(number, what) => writer::go(self, &mut next, usize::from(number), what),
            Action::Prune(number, what) => prune_steps::go(self, &mut next, usize::from(number), what),
            Action::Reader(what) => reader::go(self, &mut next, what),
            _ => somebody(&mut next, action),
        }
        next.forget_what_makes_no_difference(self);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        (self.questions)()
    }
}
