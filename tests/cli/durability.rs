//! What the binary asks of the operating system: every object is flushed before it gets its name, every name before the
//! commit, the commit before it is reported, and nothing is deleted before what says so is durable; and the marker of a
//! restore before what it marks.
//!
//! `strace` writes down the calls. What a storage must promise is tested elsewhere; this is about whether the folder on
//! disk keeps that promise.

use std::collections::BTreeMap;
use std::process::Command;

use lakebed_testkit::tree::Content;

use crate::kit::{Kit, said};

const CALLS: &str = "trace=write,pwrite64,fsync,fdatasync,renameat2,rename,linkat,unlink,unlinkat,mkdir";

/// A call that succeeded, and when it began and ended.
#[derive(Debug, Clone)]
struct Call {
    name: String,
    /// Of a rename: from, then to.
    paths: Vec<String>,
    began: usize,
    ended: usize,
}

/// Runs a command under `strace` and returns the lines that it wrote.
fn traced(kit: &Kit, arguments: &[&str]) -> Vec<String> {
    let inner = kit.command(arguments);
    let trace = kit.path("trace");
    let mut command = Command::new("strace");
    command.args(["-f", "-y", "-s", "0", "-e", CALLS, "-o"]).arg(&trace);
    command.arg(inner.get_program()).args(inner.get_args()).current_dir(inner.get_current_dir().unwrap());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    said(command.output().unwrap()).exits(0);
    std::fs::read_to_string(trace).unwrap().lines().map(str::to_owned).collect()
}

/// Reads the lines. A call that another thread interrupts stands in two of them.
fn parse(lines: &[String]) -> Vec<Call> {
    let mut begun: BTreeMap<&str, (usize, String)> = BTreeMap::new();
    let mut calls = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let Some((process, text)) = line.split_once(' ') else { continue };
        let text = text.trim_start();
        if let Some(start) = text.strip_suffix(" <unfinished ...>") {
            begun.insert(process, (at, start.to_owned()));
            continue;
        }
        let (began, text) = match text.strip_prefix("<... ").and_then(|rest| rest.split_once(" resumed>")) {
            Some((_, rest)) => {
                let (began, start) = begun.remove(process).unwrap();
                (began, format!("{start}{rest}"))
            }
            None => (at, text.to_owned()),
        };
        let Some((name, arguments)) = text.split_once('(') else { continue };
        if !text.contains(" = ") || text.contains(" = -1 ") {
            continue;
        }
        let is_by_number = ["write", "pwrite64", "fsync", "fdatasync"].contains(&name);
        let paths: Vec<String> = match is_by_number {
            true => {
                arguments.split_once('<').and_then(|(_, rest)| rest.split_once('>')).into_iter().collect::<Vec<_>>()
            }
            false => Vec::new(),
        }
        .into_iter()
        .map(|(path, _)| path.to_owned())
        .chain(arguments.split('"').skip(1).step_by(2).filter(|_| !is_by_number).map(str::to_owned))
        .collect();
        calls.push(Call { name: name.to_owned(), paths, began, ended: at });
    }
    calls
}

/// Returns what is not as it must be, for a repository in that folder.
fn problems(calls: &[Call], repo: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let flushed = |path: &str, after: usize, before: usize| {
        calls.iter().any(|call| {
            ["fsync", "fdatasync"].contains(&&*call.name)
                && call.paths == [path]
                && call.began > after
                && call.ended < before
        })
    };
    let folder = |path: &str| path.rsplit_once('/').unwrap().0.to_owned();
    let named = || calls.iter().filter(|call| ["renameat2", "rename", "linkat"].contains(&&*call.name));
    let under = |path: &str, name: &str| path.starts_with(&format!("{repo}/{name}/"));
    for call in named().filter(|call| call.paths[1].starts_with(repo)) {
        let [from, to] = &call.paths[..] else { panic!("{call:?}") };
        let writes = calls.iter().filter(|write| write.name.contains("write") && write.paths == [from.as_str()]);
        let last_write = writes.map(|write| write.ended).max().unwrap_or(0);
        if !flushed(from, last_write, call.began) {
            problems.push(format!("{to} got its name before its content was flushed"));
        }
    }
    // what must be durable before something else begins: each name that was given by then, and each folder made
    let durable_before = |what: &str, parts: &[&str], moment: usize, problems: &mut Vec<String>| {
        let made = calls.iter().filter(|call| call.name == "mkdir");
        for call in named().chain(made).filter(|call| call.ended < moment) {
            let name = call.paths.last().unwrap();
            let counts = parts.iter().any(|part| under(&format!("{name}/"), part));
            if counts && !flushed(&folder(name), call.ended, moment) {
                problems.push(format!("the name {name} was not flushed before {what}"));
            }
        }
    };
    for call in named().filter(|call| under(&call.paths[1], "snapshots")) {
        durable_before("the commit", &["packs", "index"], call.began, &mut problems);
        durable_before("the end", &["snapshots"], usize::MAX, &mut problems);
    }
    for call in calls.iter().filter(|call| call.name.starts_with("unlink") && under(&call.paths[0], "packs")) {
        durable_before("a pack was deleted", &["packs", "index"], call.began, &mut problems);
        if !named().any(|segment| under(&segment.paths[1], "index") && segment.ended < call.began) {
            problems.push(format!("{} was deleted and no segment says so", call.paths[0]));
        }
    }
    problems
}

fn without_flushes(calls: &[Call], which: impl Fn(&&Call) -> bool) -> Vec<Call> {
    calls.iter().filter(|call| !(call.name.ends_with("sync") && which(call))).cloned().collect()
}

#[test]
fn everything_is_flushed_before_what_counts_on_it() {
    let kit = Kit::with_repo();
    let repo = kit.path("repo").display().to_string();
    for night in 0..3 {
        kit.file(&format!("src/night-{night}"), "something small");
        std::fs::write(kit.path("src/large"), Content::random(night, 2_000_000).bytes()).unwrap();
        let calls = parse(&traced(&kit, &["backup", "src"]));
        assert_eq!(problems(&calls, &repo), Vec::<String>::new());
        let commits = |calls: &[Call]| {
            calls.iter().filter(|call| call.paths.get(1).is_some_and(|to| to.contains("/snapshots/"))).count()
        };
        assert_eq!(commits(&calls), 1);
        // each kind of flush is missed
        let of_files = |call: &&Call| call.name == "fdatasync";
        let of_packs = |call: &&Call| call.paths[0].contains("/packs");
        let of_index = |call: &&Call| call.paths[0].ends_with("/index");
        let of_snapshots = |call: &&Call| call.paths[0].ends_with("/snapshots");
        for (which, gone) in [
            ("files", without_flushes(&calls, of_files)),
            ("packs", without_flushes(&calls, of_packs)),
            ("index", without_flushes(&calls, of_index)),
            ("snapshots", without_flushes(&calls, of_snapshots)),
        ] {
            assert!(gone.len() < calls.len(), "{which}");
            assert!(!problems(&gone, &repo).is_empty(), "without the flushes of {which}");
        }
    }
    kit.run(&["forget", "--keep-last", "1"]).exits(0);
    let calls = parse(&traced(&kit, &["prune", "--max-unused", "0"]));
    let deleted =
        calls.iter().filter(|call| call.name.starts_with("unlink") && call.paths[0].contains("/packs/")).count();
    assert!(deleted > 0);
    assert_eq!(problems(&calls, &repo), Vec::<String>::new());
    kit.run(&["verify", "--read-data"]).exits(0);
}

/// Files that are not whole may not outlive the marker that says so.
#[test]
fn the_marker_of_a_restore_is_durable_before_anything_is_restored() {
    let kit = Kit::with_repo();
    kit.run(&["backup", "src"]).exits(0);
    let calls = parse(&traced(&kit, &["restore", "latest", "--target", "out"]));
    let out = kit.path("out").display().to_string();
    let named = |call: &&Call| call.name == "rename" && call.paths[1].ends_with("out/.lakebed-restore");
    let marked = calls.iter().find(named).unwrap().ended;
    let below = format!("{out}/src/");
    let first_write = calls.iter().filter(|call| call.name == "write" && call.paths[0].starts_with(&below));
    let first_write = first_write.map(|call| call.began).min().unwrap();
    let is_flush = |call: &Call| call.name == "fsync" && call.paths == [out.as_str()];
    assert!(calls.iter().any(|call| is_flush(call) && call.began > marked && call.ended < first_write), "{calls:#?}");
}
