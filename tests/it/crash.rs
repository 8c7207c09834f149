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

use lakebed_engine::Silent;
use lakebed_testkit::chance::{Chance, is_soak};
use lakebed_testkit::crash::History;

use mutant::Flaw;
use oracle::{Aftermath, Seen, Verdict};
use scenarios::{Mend, SCENARIOS, Scenario};
use world::{Crash, World, prune_options};

/// No more crashes of one scenario are tried, unless there is time.
const CRASHES_MAX: usize = 250;

/// No more of them are followed by a second crash, ...
const FOLLOWED_MAX: usize = 3;

/// ... by no more of those.
const SECOND_CRASHES_MAX: usize = 60;

/// No more of them are tried with an index that is ahead of storage.
const AHEAD_MAX: usize = 20;

/// What came of a scenario.
#[derive(Default)]
struct Outcome {
    changes: usize,
    crashes: usize,
    tried: usize,
    restored: usize,
    resumed: usize,
    /// In words, the first state first.
    failures: Vec<String>,
}

impl Outcome {
    fn add(&mut self, other: Self) {
        self.changes += other.changes;
        self.crashes += other.crashes;
        self.tried += other.tried;
        self.restored += other.restored;
        self.resumed += other.resumed;
        self.failures.extend(other.failures);
    }

    /// Says of each failure which scenario it is of.
    fn of(mut self, scenario: &Scenario) -> Self {
        self.failures.iter_mut().for_each(|failure| *failure = format!("{}: {failure}", scenario.name));
        self
    }

    fn assert_survived(&self) {
        let failures = &self.failures;
        assert!(failures.is_empty(), "{} crashes were not survived:\n{}", failures.len(), failures.join("\n"));
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { changes, crashes, tried, restored, resumed, failures } = self;
        write!(f, "{changes:>4} changes, {crashes:>4} crashes, {tried:>4} tried, {restored:>5} snapshots restored, ")?;
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

/// Tries the crashes that may happen to a run, or a part of them.
fn try_crashes(world: &World, history: &History, mend: Option<Mend>, chance: &Chance, most: usize) -> Outcome {
    let crashes = Crash::all(history);
    let mut outcome = Outcome { changes: history.changes(), crashes: crashes.len(), ..Outcome::default() };
    let chosen = sample(chance, crashes, most);
    outcome.tried = chosen.len();
    for (crash, seen) in chosen.iter().zip(check_all(world, history, mend, &chosen)) {
        match seen {
            Ok(Seen { restored, resumed }) => {
                outcome.restored += restored;
                outcome.resumed += usize::from(resumed);
            }
            Err(what) => outcome.failures.push(format!("{}\n    {what}", crash.describe(history))),
        }
    }
    outcome
}

fn sample<T>(chance: &Chance, items: Vec<T>, count: usize) -> Vec<T> {
    if is_soak() { items } else { chance.sample(items, count) }
}

/// Checks what crashes leave, with all processors, and returns what was seen after each.
fn check_all(world: &World, history: &History, mend: Option<Mend>, crashes: &[Crash]) -> Vec<Verdict<Seen>> {
    let next = AtomicUsize::new(0);
    let checked = Mutex::new(BTreeMap::new());
    let check = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(crash) = crashes.get(at) else { break };
            let folder = world.path(&format!("crash-{at}"));
            let seen = Aftermath::new(world, history, crash, mend, folder).check();
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

/// Lets the backup and the prune that come after a crash be cut off as well.
fn try_second_crashes(world: &World, history: &History, first: &Crash, mend: Option<Mend>, chance: &Chance) -> Outcome {
    let mut second = world.after(history, first);
    let Some(key) = second.keys().into_iter().find(|&key| second.try_open(key).is_ok()) else {
        // it was not made yet
        return Outcome::default();
    };
    second.key = key;
    second.begin(None);
    mend.map_or(Ok(()), |mend| mend(&second, &second.open())).unwrap();
    second.backup();
    second.open().prune(&prune_options(), &Silent).unwrap();
    let mut outcome = try_crashes(&second, &second.history(), mend, chance, SECOND_CRASHES_MAX);
    for failure in &mut outcome.failures {
        *failure = format!("{}, then {failure}", first.describe(history));
    }
    outcome
}

#[test]
fn every_crash_is_survived() {
    let chance = Chance::from_environment(|| 1);
    println!("seed {}", chance.seed());
    let mut total = Outcome::default();
    for scenario in SCENARIOS {
        let (world, history) = carry_out(scenario, World::new(), None);
        let outcome = try_crashes(&world, &history, scenario.mend, &chance, CRASHES_MAX);
        println!("{:<40}{outcome}", scenario.name);
        total.add(outcome.of(scenario));
    }
    total.assert_survived();
    assert!(total.restored > 0 && total.resumed > 0, "{total}");
}

/// Whoever cleans up after a crash may be cut off as well.
#[test]
fn a_second_crash_is_survived() {
    let chance = Chance::from_environment(|| 1);
    println!("seed {}", chance.seed());
    let mut total = Outcome::default();
    for scenario in SCENARIOS {
        let (world, history) = carry_out(scenario, World::new(), None);
        let mut crashes = Crash::all(&history);
        crashes.retain(|crash| history.torn_key(&crash.state).is_none());
        let mut outcome = Outcome::default();
        for first in sample(&chance, crashes, FOLLOWED_MAX) {
            outcome.add(try_second_crashes(&world, &history, &first, scenario.mend, &chance));
        }
        println!("{:<40}{outcome}", scenario.name);
        total.add(outcome.of(scenario));
    }
    total.assert_survived();
}

/// The cache folder may lie on a disk of its own, which lost nothing: its index knows segments that storage has lost, and
/// lacks others that came back.
#[test]
fn an_index_that_is_ahead_of_storage_is_made_anew() {
    let chance = Chance::from_environment(|| 1);
    for name in ["first backup", "second backup", "index rebuild", "prune", "prune of nearly everything"] {
        let scenario = named(name);
        let mut world = World::new();
        world.cache = Some(world.path("cache"));
        let (world, history) = carry_out(scenario, world, None);
        let crashes = sample(&chance, Crash::all(&history), AHEAD_MAX);
        assert!(!crashes.is_empty());
        for (at, crash) in crashes.iter().enumerate() {
            let cache = world.path(&format!("cache-{at}"));
            copy_folder(&world.path("cache"), &cache);
            let aftermath = Aftermath::new(&world, &history, crash, scenario.mend, world.path("out"));
            if let Err(what) = aftermath.with_cache(cache.clone()).check() {
                panic!("{name}: {}\n    {what}", crash.describe(&history));
            }
            lakebed_testkit::remove_all(&cache);
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
        (Flaw::NeverSyncs, "prune"),
        (Flaw::NeverSyncs, "copy"),
        (Flaw::SyncsAfterCommit, "first backup"),
        (Flaw::SyncsAfterCommit, "second backup"),
        (Flaw::PacksLast, "first backup"),
        (Flaw::PacksLast, "second backup"),
    ];
    for (flaw, name) in flawed {
        let scenario = named(name);
        let (world, history) = carry_out(scenario, World::new(), Some(flaw));
        let outcome = try_crashes(&world, &history, scenario.mend, &Chance::new(1), CRASHES_MAX);
        println!("{flaw:?}, {name}: {outcome}");
        assert!(!outcome.failures.is_empty(), "{flaw:?} in `{name}` was survived");
    }
}
