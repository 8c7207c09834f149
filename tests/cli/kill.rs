//! Processes that are killed at any moment, alone and beside each other, and what they have reported is still there.
//!
//! `LAKEBED_SOAK=1` kills more of them. `SEED` repeats the choices, though not to the microsecond when a process dies.

use std::collections::{BTreeMap, HashMap};
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use lakebed_engine::core::record::key_slot::Secret;
use lakebed_testkit::chance::{Chance, is_soak};
use lakebed_testkit::compare::{CompareOptions, Observation, assert_tree_is, snapshot_of};
use lakebed_testkit::tree::{Content, TreeSpec};
use serde_json::Value;

use crate::kit::{Kit, said};
use crate::reachable;

/// Each has a source, a host and a cache folder of its own.
const WRITERS: usize = 3;

/// The cache whose index is made anew now and then.
const REBUILT_CACHE: &str = "cache-rebuilt";

/// A repository into which snapshots are copied.
const COPIES: &str = "copies";

/// So many snapshots of each source are kept.
const KEPT: usize = 2;

/// How long a command takes, before one was seen to end.
const FIRST_GUESS: Duration = Duration::from_millis(150);

/// A snapshot that is known to be there.
struct Known {
    id: String,
    tree: Observation,
    /// A command has begun that may forget it.
    may_go: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Job {
    Backup(usize),
    Forget,
    ForgetAndPrune,
    Prune,
    Repair,
    RebuildIndex,
    Copy,
}

/// A process, and when it is to die.
struct Running {
    job: Job,
    child: Child,
    began: Instant,
    dies_after: Option<Duration>,
}

struct Soak {
    kit: Kit,
    chance: Chance,
    /// The snapshots of each writer, the oldest first.
    known: Vec<Vec<Known>>,
    /// How long each kind of command takes when it is left alone.
    takes: HashMap<&'static str, Duration>,
    /// How many of each kind of command were killed.
    killed: BTreeMap<&'static str, usize>,
    /// How many backups were killed after they had committed.
    committed_and_killed: usize,
    rounds: u64,
}

fn source(writer: usize) -> String {
    format!("source-{writer}")
}

fn host(writer: usize) -> String {
    format!("host-{writer}")
}

impl Job {
    fn verb(self) -> &'static str {
        match self {
            Self::Backup(_) => "backup",
            Self::Forget => "forget",
            Self::ForgetAndPrune => "forget --prune",
            Self::Prune => "prune",
            Self::Repair => "repair",
            Self::RebuildIndex => "index rebuild",
            Self::Copy => "copy",
        }
    }

    fn frees(self) -> bool {
        matches!(self, Self::ForgetAndPrune | Self::Prune)
    }

    fn arguments(self) -> Vec<String> {
        let kept = KEPT.to_string();
        let freeing = ["--max-unused", "0", "--max-delete", "100%"];
        let arguments: Vec<&str> = match self {
            Self::Backup(writer) => {
                return ["--json", "backup", &source(writer), "--host", &host(writer)].map(String::from).to_vec();
            }
            Self::Forget => vec!["forget", "--keep-last", &kept],
            Self::ForgetAndPrune => [&["forget", "--keep-last", &kept, "--prune"], &freeing[..]].concat(),
            Self::Prune => [&["prune"], &freeing[..]].concat(),
            Self::Repair => vec!["repair", "--read-data", "--apply"],
            Self::RebuildIndex => vec!["index", "rebuild"],
            Self::Copy => vec!["copy", "--from-repo", "repo", "--repo", COPIES],
        };
        arguments.into_iter().map(String::from).collect()
    }
}

impl Soak {
    fn new(chance: Chance) -> Self {
        let kit = Kit::new();
        std::fs::write(kit.path("key"), [7; 32]).unwrap();
        let known = (0..WRITERS).map(|_| Vec::new()).collect();
        let soak = Self {
            kit,
            chance,
            known,
            takes: HashMap::new(),
            killed: BTreeMap::new(),
            committed_and_killed: 0,
            rounds: 0,
        };
        soak.run("cache", &["init"]);
        soak.run("cache", &["init", "--repo", COPIES]);
        for writer in 0..WRITERS as u64 {
            let mut tree = TreeSpec::new();
            for file in 0..40u64 {
                // a third of it is what the others have too
                let seed = if file % 3 == 0 { file } else { writer * 1000 + file };
                tree = tree.file(format!("d{}/f{file}", file % 5), Content::random(seed, 500 + file * 700));
            }
            tree = tree.file("large", Content::Generated { seed: writer, length: 3_000_000, compressibility: 60 });
            tree.write(&soak.kit.path(&source(writer as usize)));
        }
        soak
    }

    fn command(&self, cache: &str, arguments: &[&str]) -> std::process::Command {
        let mut command = self.kit.command(arguments);
        for variable in ["LAKEBED_KEY_FILE", "LAKEBED_FROM_KEY_FILE"] {
            command.env(variable, self.kit.path("key"));
        }
        command.env("LAKEBED_CACHE_DIR", self.kit.path(cache));
        command
    }

    /// Runs a command that is not killed, and must succeed.
    fn run(&self, cache: &str, arguments: &[&str]) -> crate::kit::Said {
        said(self.command(cache, arguments).output().unwrap()).exits(0)
    }

    /// Any of the caches: what a process that was killed has left in it must not matter.
    fn any_cache(&self) -> String {
        match self.chance.below(WRITERS as u64 + 1) {
            number if number < WRITERS as u64 => format!("cache-{number}"),
            _ => REBUILT_CACHE.to_owned(),
        }
    }

    /// Changes a source in a few places. Sizes differ each time, so that a change is never missed for the clock's tick.
    fn change(&self, writer: usize) {
        let root = self.kit.path(&source(writer));
        let round = self.rounds;
        for _ in 0..1 + self.chance.below(6) {
            let file = self.chance.below(60);
            let path = root.join(format!("d{}/f{file}", file % 5));
            match self.chance.happens(1, 4) {
                true => drop(std::fs::remove_file(path)),
                false => std::fs::write(path, Content::random(round * 100 + file, 1000 + round * 7).bytes()).unwrap(),
            }
        }
        if self.chance.happens(1, 2) {
            let content = Content::Generated { seed: round, length: 2_000_000 + round, compressibility: 60 };
            std::fs::write(root.join("large"), content.bytes()).unwrap();
        }
    }

    fn choose_jobs(&self) -> Vec<Job> {
        let writer = self.chance.below(WRITERS as u64) as usize;
        let first = match self.chance.below(13) {
            0..=5 => Job::Backup(writer),
            6 => Job::Forget,
            7 => Job::ForgetAndPrune,
            8..=9 => Job::Prune,
            10 => Job::Repair,
            11 => Job::RebuildIndex,
            _ => Job::Copy,
        };
        let mut jobs = vec![first];
        if self.chance.happens(1, 3) {
            jobs.push(Job::Backup((writer + 1) % WRITERS));
        }
        if self.chance.happens(1, 6) {
            jobs.push(Job::Prune);
        }
        jobs
    }

    fn start(&mut self, job: Job) -> Running {
        let cache = match job {
            Job::Backup(writer) => {
                self.change(writer);
                format!("cache-{writer}")
            }
            Job::RebuildIndex => REBUILT_CACHE.to_owned(),
            _ => self.any_cache(),
        };
        let takes = self.takes.get(job.verb()).copied().unwrap_or(FIRST_GUESS);
        let permille = self.chance.below(1200) as u32;
        let dies_after = self.chance.happens(4, 5).then(|| takes * permille / 1000);
        let arguments = job.arguments();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut command = self.command(&cache, &arguments);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Running { job, child, began: Instant::now(), dies_after }
    }

    /// Marks what the jobs may forget: all but the newest snapshots of each source. A backup beside them may add one
    /// before they look, which takes the place of an older one.
    fn expect_forgetting(&mut self, jobs: &[Job]) {
        if !jobs.iter().any(|job| matches!(job, Job::Forget | Job::ForgetAndPrune)) {
            return;
        }
        for (writer, known) in self.known.iter_mut().enumerate() {
            let kept = if jobs.contains(&Job::Backup(writer)) { KEPT - 1 } else { KEPT };
            let going = known.len().saturating_sub(kept);
            known[..going].iter_mut().for_each(|known| known.may_go = true);
        }
    }

    /// Lets processes run beside each other until each has ended or was killed, and returns what they said: nothing where
    /// it was killed.
    fn run_and_kill(&mut self, mut running: Vec<Running>) -> Vec<(Job, Option<Output>)> {
        let mut ended = Vec::new();
        while !running.is_empty() {
            let mut still = Vec::new();
            for mut process in running {
                if process.child.try_wait().unwrap().is_some() {
                    let took = process.began.elapsed();
                    let longest = self.takes.entry(process.job.verb()).or_default();
                    *longest = took.max(*longest * 9 / 10);
                    ended.push((process.job, Some(process.child.wait_with_output().unwrap())));
                } else if process.dies_after.is_some_and(|after| process.began.elapsed() >= after) {
                    process.child.kill().unwrap();
                    process.child.wait().unwrap();
                    *self.killed.entry(process.job.verb()).or_default() += 1;
                    ended.push((process.job, None));
                } else {
                    still.push(process);
                }
            }
            running = still;
            std::thread::sleep(Duration::from_micros(200));
        }
        ended
    }

    fn round(&mut self) {
        self.rounds += 1;
        let jobs = self.choose_jobs();
        self.expect_forgetting(&jobs);
        let running = jobs.iter().map(|&job| self.start(job)).collect();
        let ended = self.run_and_kill(running);
        let listed = self.listed();
        if jobs.contains(&Job::Copy) {
            self.run(&self.any_cache(), &["verify", "--repo", COPIES, "--read-data"]);
        }
        for (job, output) in ended {
            let reported = output.map(|output| self.check_output(job, &jobs, output));
            if let Job::Backup(writer) = job {
                self.learn(writer, &listed, reported.as_ref());
            }
        }
        self.check(&listed);
    }

    fn check_output(&self, job: Job, beside: &[Job], output: Output) -> Value {
        let said = said(output);
        let freeing = beside.iter().filter(|job| job.frees()).count();
        // of two prunes that finish what a third one left, the slower one ends when there is nothing left to do
        let overtaken = freeing > 1 && said.err.contains("so nothing more is deleted");
        // nobody waits for a copy that reads what is forgotten and freed beside it
        let lost_its_source = freeing > 0 && job == Job::Copy;
        assert!(
            said.code == 0 || overtaken || lost_its_source,
            "round {}: {job:?} of {beside:?}: {said:#?}",
            self.rounds
        );
        if matches!(job, Job::Backup(_)) { said.result()["snapshot"].clone() } else { Value::Null }
    }

    /// Returns the listed snapshots as host and id, the oldest first.
    fn listed(&self) -> Vec<(String, String)> {
        let result = self.run(&self.any_cache(), &["--json", "snapshots"]).result();
        assert_eq!(result["damaged"].as_array().map(Vec::len), Some(0), "{result:#}");
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let snapshots = result["snapshots"].as_array().unwrap();
        snapshots.iter().map(|snapshot| (text(&snapshot["host"]), text(&snapshot["id"]))).collect()
    }

    /// A backup has ended: its snapshot is there if it was reported, and may be there if it was killed.
    fn learn(&mut self, writer: usize, listed: &[(String, String)], reported: Option<&Value>) {
        let known = &self.known[writer];
        let own = listed.iter().filter(|(of, id)| *of == host(writer) && known.iter().all(|known| known.id != *id));
        let new: Vec<String> = own.map(|(_, id)| id.clone()).collect();
        match reported {
            Some(id) => assert_eq!(new, [id.as_str().unwrap()], "round {}: what was reported is there", self.rounds),
            None => {
                assert!(new.len() <= 1, "round {}: {new:?}", self.rounds);
                self.committed_and_killed += new.len();
            }
        }
        for id in new {
            let tree = snapshot_of(&self.kit.path(&source(writer)));
            self.known[writer].push(Known { id, tree, may_go: false });
        }
    }

    /// Everything that was reported is there, whole, and comes back as it was.
    fn check(&mut self, listed: &[(String, String)]) {
        let round = self.rounds;
        for known in &mut self.known {
            known.retain(|known| {
                let is_listed = listed.iter().any(|(_, id)| *id == known.id);
                assert!(is_listed || known.may_go, "round {round}: snapshot {} is gone", known.id);
                is_listed
            });
        }
        let all: usize = self.known.iter().map(Vec::len).sum();
        assert_eq!(listed.len(), all, "round {round}: {listed:?}");
        self.run(&self.any_cache(), &["verify", "--read-data"]);
        for (writer, known) in self.known.iter().enumerate() {
            if let Some(newest) = known.last() {
                self.check_restore(writer, newest);
            }
        }
        if all > 0 {
            let secret = Secret::KeyFile(vec![7; 32].into());
            assert!(reachable::check(&self.kit.path("repo"), &secret) > 0);
        }
    }

    /// What was copied is whole, and a copy that is left alone ends well.
    fn check_copies(&self) {
        self.run(&self.any_cache(), &["verify", "--repo", COPIES, "--read-data"]);
        self.run(&self.any_cache(), &["copy", "--from-repo", "repo", "--repo", COPIES]);
        let copies = self.run(&self.any_cache(), &["--json", "snapshots", "--repo", COPIES]).result();
        let copies = copies["snapshots"].as_array().unwrap();
        for known in self.known.iter().flatten() {
            let count = copies.iter().filter(|copy| copy["original"]["snapshot"] == *known.id).count();
            assert_eq!(count, 1, "round {}: copies of {}", self.rounds, known.id);
        }
        self.run(&self.any_cache(), &["verify", "--repo", COPIES, "--read-data"]);
    }

    fn check_restore(&self, writer: usize, known: &Known) {
        let target = self.kit.path("out");
        self.run(&self.any_cache(), &["restore", &known.id, "--target", "out"]);
        assert_tree_is(&known.tree, &target.join(source(writer)), &CompareOptions::default());
        lakebed_testkit::remove_all(&target);
    }
}

#[test]
fn whatever_is_killed_what_was_reported_comes_back() {
    let chance = Chance::from_environment(Chance::any_seed);
    let wanted = if is_soak() { 200 } else { 20 };
    println!("SEED={}", chance.seed());
    let mut soak = Soak::new(chance);
    while soak.killed.values().sum::<usize>() < wanted {
        soak.round();
    }
    for (writer, known) in soak.known.iter().enumerate() {
        known.iter().for_each(|known| soak.check_restore(writer, known));
    }
    soak.check_copies();
    let Soak { killed, committed_and_killed, rounds, .. } = &soak;
    println!("killed in {rounds} rounds: {killed:?}; {committed_and_killed} backups had committed by then");
}
