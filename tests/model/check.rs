//! Runs the checker and says what it found.

use std::collections::BTreeSet;

use stateright::{Checker, HasDiscoveries, Model, Path};

use crate::action::Action;
use crate::invariant;
use crate::protocol::Protocol;
use crate::reached;
use crate::rules::{Breakage, Rules};
use crate::scope::Scope;
use crate::state::State;

/// States are visited by so many threads where the whole model is walked through.
const THREADS: usize = 2;

/// Walks through the whole model with some rules broken. All invariants hold, in so many states. The number is fixed so
/// that a change of the model that leaves something out is noticed.
pub(crate) fn holds_without(breakages: &[Breakage], scope: Scope, states: usize) {
    let model = Protocol { scope, rules: Rules::without(breakages), questions: invariant::all };
    let checker = model.checker().threads(THREADS).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    if let Some((name, path)) = checker.discoveries().into_iter().next() {
        panic!("broken: {name}\n{}", told(path));
    }
    assert_eq!(checker.unique_state_count(), states, "states");
}

/// Walks through the whole model. All invariants hold, in so many states.
pub(crate) fn holds(scope: Scope, states: usize) {
    holds_without(&[], scope, states);
}

/// Walks through the model with some rules broken until it finds that an invariant does not hold.
pub(crate) fn finds(breakages: &[Breakage], scope: Scope, invariant: &'static str) {
    let model = Protocol { scope, rules: Rules::without(breakages), questions: invariant::all };
    let until = HasDiscoveries::AllOf(BTreeSet::from([invariant]));
    let checker = model.checker().finish_when(until).spawn_bfs().join();
    assert!(checker.discovery(invariant).is_some(), "{breakages:?}: nothing was found in any state");
}

/// Walks through the model until everything that is asked has happened.
pub(crate) fn reaches_everything(scope: Scope) {
    let model = Protocol { scope, rules: Rules::default(), questions: reached::all };
    model.checker().finish_when(HasDiscoveries::All).spawn_bfs().join().assert_properties();
}

fn told(path: Path<State, Action>) -> String {
    let end = path.last_state().to_owned();
    let actions = path.into_actions().into_iter().map(|action| format!("  {action:?}\n"));
    format!("{}{end:#?}", actions.collect::<String>())
}
