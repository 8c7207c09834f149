//! Eight writers and two prunes on one repository, each with a cache folder of its own, as machines have; one writer is
//! suspended for longer than its heartbeat may stand still. What was reported, and not forgotten, is there in the end.

use std::collections::BTreeMap;
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lakebed_testkit::compare::{CompareOptions, Observation, assert_tree_is, snapshot_of};
use rustix::process::{Pid, Signal, kill_process};

use crate::kit::{Kit, Said, said};

const WRITERS: usize = 8;
/// So many snapshots of each writer are kept.
const KEPT: usize = 3;
/// A heartbeat may stand still for ten minutes: `PruneOptions::stale_after`.
const SUSPENDED_FOR: Duration = Duration::from_secs(11 * 60);

/// What was reported and not forgotten, by snapshot.
type Known = Mutex<BTreeMap<String, (usize, Observation)>>;

fn machine(kit: &Kit, name: &str, arguments: &[&str]) -> Command {
    let mut command = kit.command(arguments);
    command.env("LAKEBED_CACHE_DIR", kit.path(&format!("cache-{name}"))).env("LAKEBED_HOST", name);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn snapshot_id(output: &Said) -> Option<String> {
    Some(output.result()["snapshot"].as_str()?.to_owned())
}

/// One night of a writer: something changes, a snapshot, and the old ones go.
fn night(kit: &Kit, writer: usize, number: u64, known: &Known) {
    let (name, source) = (format!("writer-{writer}"), format!("src-{writer}"));
    for file in 0..5 {
        kit.file(&format!("{source}/{}/{file}.py", number % 7), &format!("print('{writer} {number} {file}')\n"));
    }
    let tree = snapshot_of(&kit.path(&source));
    let output = said(machine(kit, &name, &["backup", "--json", &source]).output().unwrap()).exits(0);
    known.lock().unwrap().insert(snapshot_id(&output).unwrap(), (writer, tree));
    let keep = KEPT.to_string();
    let forget = ["forget", "--json", "--host", &name, "--keep-last", &keep];
    let forgotten = said(machine(kit, &name, &forget).output().unwrap()).exits(0);
    let mut known = known.lock().unwrap();
    for id in forgotten.result()["forgotten"].as_array().unwrap() {
        known.remove(id.as_str().unwrap());
    }
}

/// Suspends a writer that nobody else can tell from one on another machine, and lets it go on much later.
fn suspended(kit: &Kit) -> Output {
    for file in 0..3000 {
        kit.file(&format!("suspended/{}/{file}.py", file % 50), &format!("print('{file}')\n").repeat(300));
    }
    let mut command = Command::new("unshare");
    let inner = machine(kit, "suspended", &["backup", "--limit-read", "200KiB", "suspended"]);
    command.args(["--fork", "--pid", "--mount-proc", "--kill-child"]).arg(inner.get_program()).args(inner.get_args());
    command.current_dir(kit.folder.path()).env_clear();
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let registered = || {
        let sessions = kit.run(&["sessions", "list", "--json"]).exits(0).result();
        sessions["sessions"].as_array().unwrap().iter().any(|session| session["host"] == "suspended")
    };
    while !registered() {
        std::thread::yield_now();
    }
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id())).unwrap();
    let inner = Pid::from_raw(children.trim().parse().unwrap()).unwrap();
    kill_process(inner, Signal::STOP).unwrap();
    let began = Instant::now();
    while began.elapsed() < SUSPENDED_FOR {
        std::thread::park_timeout(Duration::from_secs(1));
    }
    kill_process(inner, Signal::CONT).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
#[ignore = "it takes a quarter of an hour: make soak"]
fn eight_writers_and_two_prunes_lose_nothing_while_one_is_suspended() {
    let kit = Kit::with_repo();
    let known = Known::default();
    let (over, nights, prunes) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (kit, known, over, nights) = (&kit, &known, &over, &nights);
            scope.spawn(move || {
                let mut number = 0;
                while !over.load(Ordering::Relaxed) {
                    night(kit, writer, number, known);
                    number += 1;
                    nights.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for pruner in 0..2 {
            let (kit, over, prunes) = (&kit, &over, &prunes);
            scope.spawn(move || {
                let name = format!("pruner-{pruner}");
                while !over.load(Ordering::Relaxed) {
                    // one waits until whoever stands still is taken for gone, the other one does not
                    let wait = if pruner == 0 { "30m" } else { "1s" };
                    let prune = ["prune", "--max-unused", "0", "--max-delete", "100%", "--wait", wait];
                    said(machine(kit, &name, &prune).output().unwrap()).exits(0);
                    prunes.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let output = said(suspended(&kit));
        // it was expired, and says so
        assert_eq!(output.code, 1, "{output:#?}");
        assert!(output.err.contains("expired"), "{output:#?}");
        over.store(true, Ordering::Relaxed);
    });
    let known = known.into_inner().unwrap();
    assert!(nights.into_inner() > 100 && prunes.into_inner() > 5 && known.len() == WRITERS * KEPT);
    kit.run(&["prune", "--max-unused", "0", "--max-delete", "100%"]).exits(0);
    kit.run(&["verify", "--read-data"]).exits(0);
    for (id, (writer, tree)) in known {
        let out = kit.path(&format!("out-{id}"));
        kit.run(&["restore", &id, "--target", out.to_str().unwrap()]).exits(0);
        assert_tree_is(&tree, &out.join(format!("src-{writer}")), &CompareOptions::default());
    }
}
