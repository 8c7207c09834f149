//! Crashes: a command runs while every write is recorded, and then every state in which a loss of power may leave the
//! repository is opened, checked, restored from and worked on.
//!
//! `LAKEBED_SOAK=1` checks every state; else a part of them is checked, which follows from `SEED`.

mod mutant;
mod oracle;
mod scenarios;
mod world;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use lakebed_testkit::chance::{Chance, is_soak};
use lakebed_testkit::crash::{CrashState, Fate, History};

use mutant::Flaw;
use oracle::{Aftermath, Seen, Verdict};
use scenarios::{Mend, SCENARIOS, Scenario};
use world::World;

/// No more states of one scenario are checked, unless there is time.
const STATES_MAX: usize = 200;

/// No more crashes of one scenario are followed by a second one, unless there is time.
const SECOND_CRASHES_MAX: usize = 3;

/// What came of a scenario.
#[derive(Default)]
struct Outcome {
    changes: usize,
    states: usize,
    checked: usize,
    restored: usize,
    resumed: usize,
    /// In words, the first state first.
    failures: Vec<String>,
}

impl Outcome {
    fn add(&mut self, other: Self) {
        self.changes += other.changes;
        self.states += other.states;
        self.checked += other.checked;
        self.restored += other.restored;
        self.resumed += other.resumed;
        self.failures.extend(other.failures);
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { changes, states, checked, restored, resumed, failures } = self;
        write!(
            f,
            "{changes:>4} changes, {states:>4} states, {checked:>4} checked, {restored:>4} snapshots restored, "
        )?;
        write!(f, "{resumed:>3} runs resumed, {} failed", failures.len())
    }
}

fn named(name: &str) -> &'static Scenario {
    SCENARIOS.iter().find(|scenario| scenario.name == name).unwrap()
}

/// Prepares a scenario and carries it out.
fn carry_out(scenario: &Scenario, mut world: World, flaw: Option<Flaw>) -> (World, History) {
    (scenario.before)(&mut world);
    world.begin(flaw);
    (scenario.run)(&mut world);
    let history = world.history();
    (world, history)
}

/// Checks the states that a crash may leave of a run, or a part of them.
fn check_states(world: &World, history: &History, mend: Option<Mend>, chance: &Chance) -> Outcome {
    let states = history.states();
    let mut outcome = Outcome { changes: history.changes(), states: states.len(), ..Outcome::default() };
    let chosen = sample(chance, states, STATES_MAX);
    outcome.checked = chosen.len();
    for (state, seen) in chosen.iter().zip(check_all(world, history, mend, &chosen)) {
        match seen {
            Ok(Seen { restored, resumed }) => {
                outcome.restored += restored;
                outcome.resumed += usize::from(resumed);
            }
            Err(what) => outcome.failures.push(format!("{}\n    {what}", history.describe(state))),
        }
    }
    outcome
}

fn sample<T>(chance: &Chance, items: Vec<T>, count: usize) -> Vec<T> {
    if is_soak() { items } else { chance.sample(items, count) }
}

/// Checks states with all processors and returns what was seen in each.
fn check_all(world: &World, history: &History, mend: Option<Mend>, states: &[CrashState]) -> Vec<Verdict<Seen>> {
    let next = AtomicUsize::new(0);
    let checked = Mutex::new(BTreeMap::new());
    let check = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(state) = states.get(at) else { break };
            let folder = world.path(&format!("state-{at}"));
            let seen = Aftermath::new(world, history, state, mend, folder).check();
            checked.lock().unwrap().insert(at, seen);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(check);
        }
    });
    checked.into_inner().unwrap().into_values().collect()
}

/// Lets the next backup after a crash be cut off as well.
fn check_second_crash(
    world: &World,
    history: &History,
    state: &CrashState,
    mend: Option<Mend>,
    chance: &Chance,
) -> Outcome {
    let mut second = world.after(history, state);
    let Some(key) = second.keys().into_iter().find(|&key| second.try_open(key).is_ok()) else {
        // it was not made yet
        return Outcome::default();
    };
    second.key = key;
    second.begin(None);
    mend.map_or(Ok(()), |mend| mend(&second.open())).unwrap();
    second.backup();
    let mut outcome = check_states(&second, &second.history(), mend, chance);
    for failure in &mut outcome.failures {
        *failure = format!("{}, and once more {failure}", history.describe(state));
    }
    outcome
}

#[test]
fn every_state_that_a_crash_leaves_is_survived() {
    let chance = Chance::from_environment(|| 1);
    println!("seed {}", chance.seed());
    let mut failed = Vec::new();
    for scenario in SCENARIOS {
        let (world, history) = carry_out(scenario, World::new(), None);
        let outcome = check_states(&world, &history, scenario.mend, &chance);
        println!("{:<40}{outcome}", scenario.name);
        failed.extend(outcome.failures.into_iter().map(|what| format!("{}: {what}", scenario.name)));
    }
    assert!(failed.is_empty(), "{} states were not survived:\n{}", failed.len(), failed.join("\n"));
}

/// Whoever cleans up after a crash may be cut off as well.
#[test]
fn a_second_crash_is_survived() {
    let chance = Chance::from_environment(|| 1);
    println!("seed {}", chance.seed());
    let mut failed = Vec::new();
    for scenario in SCENARIOS {
        let (world, history) = carry_out(scenario, World::new(), None);
        let mut states = history.states();
        states.retain(|state| matches!(state.fate, Fate::AllKept | Fate::AllLost));
        let mut outcome = Outcome::default();
        for state in sample(&chance, states, SECOND_CRASHES_MAX) {
            outcome.add(check_second_crash(&world, &history, &state, scenario.mend, &chance));
        }
        println!("{:<40}{outcome}", scenario.name);
        failed.extend(outcome.failures.into_iter().map(|what| format!("{}: {what}", scenario.name)));
    }
    assert!(failed.is_empty(), "{} states were not survived:\n{}", failed.len(), failed.join("\n"));
}

/// The cache folder may lie on a disk of its own, which lost nothing: its index knows segments that storage has lost.
#[test]
fn an_index_that_is_ahead_of_storage_is_made_anew() {
    for name in ["first backup", "second backup", "index rebuild"] {
        let scenario = named(name);
        let mut world = World::new();
        world.cache = Some(world.path("cache"));
        let (world, history) = carry_out(scenario, world, None);
        let states = history.states();
        for (at, state) in states.iter().filter(|state| state.fate == Fate::AllLost).enumerate() {
            let cache = world.path(&format!("cache-{at}"));
            copy_folder(&world.path("cache"), &cache);
            let aftermath = Aftermath::new(&world, &history, state, scenario.mend, world.path("out"));
            if let Err(what) = aftermath.with_cache(cache).check() {
                panic!("{name}: {}\n    {what}", history.describe(state));
            }
        }
    }
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_folder(&entry.path(), &to),
            false => drop(std::fs::copy(entry.path(), to).unwrap()),
        }
    }
}

/// If this fails, the tests above prove nothing.
#[test]
fn an_engine_that_makes_things_durable_too_late_is_found_out() {
    let flawed = [
        (Flaw::NeverSyncs, "first backup"),
        (Flaw::NeverSyncs, "second backup"),
        (Flaw::NeverSyncs, "key passwd"),
        (Flaw::SyncsAfterCommit, "first backup"),
        (Flaw::SyncsAfterCommit, "second backup"),
        (Flaw::PacksLast, "first backup"),
        (Flaw::PacksLast, "second backup"),
    ];
    for (flaw, name) in flawed {
        let scenario = named(name);
        let (world, history) = carry_out(scenario, World::new(), Some(flaw));
        let outcome = check_states(&world, &history, scenario.mend, &Chance::new(1));
        println!("{flaw:?}, {name}: {outcome}");
        assert!(!outcome.failures.is_empty(), "{flaw:?} in `{name}` was survived");
    }
}
