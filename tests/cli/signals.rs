//! Signals: a run that is told to stop ends in good order, and the next one goes on from there.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use lakebed_testkit::compare::{CompareOptions, assert_same_tree};
use lakebed_testkit::damage::{Damage, damage, object_files};
use lakebed_testkit::tree::Content;
use rustix::process::{Pid, Signal, kill_process};

use crate::kit::{Kit, said};

const FILES: u64 = 64;
const FILE_BYTES: u64 = 256 << 10;

fn start(mut command: Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// Waits for something that a run does. One that ends before it has done it fails the test.
fn wait_until(child: &mut Child, is_so: impl Fn() -> bool) {
    while !is_so() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it was told to");
        std::thread::yield_now();
    }
}

/// Returns the bytes that are on their way into packs.
fn bytes_in_progress(kit: &Kit) -> u64 {
    let files = std::fs::read_dir(kit.path("repo/tmp")).unwrap();
    files.filter_map(|file| Some(file.ok()?.metadata().ok()?.len())).sum()
}

fn checkpoints(kit: &Kit) -> Vec<PathBuf> {
    // the folder goes with the last session
    if !kit.path("repo/sessions").exists() {
        return Vec::new();
    }
    let mut records = object_files(&kit.path("repo/sessions"));
    records.retain(|record| !record.ends_with("00000000"));
    records
}

/// A file that changed within the clock tick of a run is read again by the next one, on purpose: waits until the clock of
/// the file system has gone well past everything that was written so far.
fn wait_for_the_tick(kit: &Kit) {
    let probe = kit.path("probe");
    let stamp = || {
        std::fs::write(&probe, "").unwrap();
        let metadata = std::fs::metadata(&probe).unwrap();
        i128::from(metadata.ctime()) * 1_000_000_000 + i128::from(metadata.ctime_nsec())
    };
    let written = stamp();
    while stamp() < written + 100_000_000 {
        std::thread::yield_now();
    }
}

#[test]
fn a_backup_that_is_told_to_stop_is_continued_by_the_next() {
    for signal in [Signal::INT, Signal::TERM] {
        let kit = Kit::with_repo();
        for number in 0..FILES {
            let path = kit.path(&format!("src/large/{number}"));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, Content::random(number, FILE_BYTES).bytes()).unwrap();
        }
        wait_for_the_tick(&kit);
        // slow enough that it cannot end before it is told to
        let mut child = start(kit.command(&["backup", "src", "--limit-read", "2MiB", "--threads", "2"]));
        wait_until(&mut child, || bytes_in_progress(&kit) > 4 * FILE_BYTES);
        send(&child, signal);
        let stopped = said(child.wait_with_output().unwrap()).exits(130);
        assert!(
            stopped.err.contains("Interrupted") && stopped.err.contains("run the same command again"),
            "{stopped:#?}"
        );
        assert_eq!(checkpoints(&kit).len(), 1);
        assert_eq!(bytes_in_progress(&kit), 0);
        assert!(kit.run(&["--json", "snapshots"]).exits(0).result()["snapshots"].as_array().unwrap().is_empty());
        kit.run(&["verify", "--read-data"]).exits(0);

        let next = kit.run(&["--json", "backup", "src"]).exits(0).result();
        assert_eq!(next["resumed"], true, "{next:#}");
        let read = next["summary"]["bytes_read"].as_u64().unwrap();
        // what was stored before the signal came is in the checkpoint
        assert!(read <= (FILES - 4) * FILE_BYTES, "{read} bytes were read again");
        assert!(checkpoints(&kit).is_empty());
        kit.run(&["restore", "latest", "--target", "out"]).exits(0);
        assert_same_tree(&kit.path("src"), &kit.path("out/src"), &CompareOptions::default());
        kit.run(&["verify", "--read-data"]).exits(0);
    }
}

#[test]
fn further_signals_end_a_run_that_cannot_come_to_an_end() {
    let kit = Kit::with_repo();
    let pipe = kit.path("never");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    // the program waits for what this test does not write
    let program = "exec < never; : > started; exec cat";
    let mut child = start(kit.command(&["backup", "--command", "dump", "--", "sh", "-c", program]));
    let writer = std::fs::File::options().read(true).write(true).open(&pipe).unwrap();
    wait_until(&mut child, || kit.path("started").exists());
    // two that come at once may be taken for one
    while child.try_wait().unwrap().is_none() {
        send(&child, Signal::INT);
        std::thread::yield_now();
    }
    drop(writer);
    said(child.wait_with_output().unwrap()).exits(130);
    kit.run(&["backup", "src"]).exits(0);
    kit.run(&["verify", "--read-data"]).exits(0);
}

/// Waiting for a backup is nothing that a prune must not be told to stop.
#[test]
fn a_prune_that_is_told_to_stop_is_continued_by_the_next() {
    for signal in [Signal::INT, Signal::TERM] {
        let kit = Kit::with_repo();
        for night in 0..2 {
            std::fs::write(kit.path("src/large"), Content::random(night, 1 << 20).bytes()).unwrap();
            kit.run(&["backup", "src"]).exits(0);
        }
        kit.run(&["forget", "--keep-last", "1"]).exits(0);
        let pipe = kit.path("never");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
        let program = "exec < never; : > started; exec cat";
        let mut backup = start(kit.command(&["backup", "--command", "dump", "--", "sh", "-c", program]));
        let writer = std::fs::File::options().read(true).write(true).open(&pipe).unwrap();
        wait_until(&mut backup, || kit.path("started").exists());

        let mut prune = start(kit.command(&["prune", "--max-unused", "0"]));
        wait_until(&mut prune, || kit.path("repo/gc/0000000000000001/awaited").exists());
        send(&prune, signal);
        said(prune.wait_with_output().unwrap()).exits(130);
        kit.run(&["verify", "--read-data"]).exits(0);
        drop(writer);
        said(backup.wait_with_output().unwrap()).exits(0);
        kit.run(&["prune", "--max-unused", "0"]).exits(0).says("finished what 1 prune had left");
        kit.run(&["verify", "--read-data"]).exits(0);
        assert_eq!(kit.run(&["--json", "snapshots"]).result()["snapshots"].as_array().unwrap().len(), 2);
    }
}

/// Tells whether a process is to end in good order when this signal comes.
fn catches(child: &Child, signal: Signal) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap_or("0");
    u64::from_str_radix(caught.trim(), 16).unwrap() >> (signal.as_raw() - 1) & 1 == 1
}

/// Runs a command anew until it was told to stop before it was done.
fn stop(make: impl Fn() -> Command, signal: Signal, is_time: impl Fn() -> bool) {
    for _ in 0..100 {
        let mut child = start(make());
        while child.try_wait().unwrap().is_none() && !(catches(&child, signal) && is_time()) {
            std::thread::yield_now();
        }
        if child.try_wait().unwrap().is_none() {
            send(&child, signal);
        }
        let ended = said(child.wait_with_output().unwrap());
        if ended.code == 130 {
            ended.says("run the same command again");
            return;
        }
        assert!([0, 4].contains(&ended.code), "{ended:#?}");
    }
    panic!("it was never told to stop in time: {:?}", make());
}

fn remove(folder: &std::path::Path) {
    if folder.exists() {
        lakebed_testkit::remove_all(folder);
    }
}

fn snapshots(kit: &Kit, repo: &str) -> usize {
    kit.run(&["--json", "snapshots", "--repo", repo]).exits(0).result()["snapshots"].as_array().unwrap().len()
}

fn files_below(folder: &std::path::Path) -> usize {
    if folder.is_dir() { object_files(folder).len() } else { 0 }
}

#[test]
fn reading_copying_and_repairing_can_be_told_to_stop_and_run_again() {
    let kit = Kit::with_repo();
    for number in 0..FILES {
        let path = kit.path(&format!("src/large/{number}"));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, Content::random(number, 2 * FILE_BYTES).bytes()).unwrap();
    }
    kit.run(&["backup", "src"]).exits(0);
    for (round, signal) in [Signal::INT, Signal::TERM].into_iter().enumerate() {
        let target = format!("out-{round}");
        let restore = || {
            remove(&kit.path(&target));
            kit.command(&["restore", "latest", "--target", &target])
        };
        stop(restore, signal, || files_below(&kit.path(&target)) > 0);
        kit.run(&["restore", "latest", "--target", &target]).exits(0);
        assert_same_tree(&kit.path("src"), &kit.path(&target).join("src"), &CompareOptions::default());

        let other = format!("other-{round}");
        let copy = || {
            remove(&kit.path(&other));
            kit.run(&["init", "--repo", &other]).exits(0);
            let mut command = kit.command(&["copy", "--from-repo", "repo", "--repo", &other]);
            command.env("LAKEBED_FROM_PASSWORD", "secret");
            command
        };
        stop(copy, signal, || files_below(&kit.path(&other).join("tmp")) > 0);
        kit.run(&["verify", "--read-data", "--repo", &other]).exits(0);
        let copied = kit
            .command(&["copy", "--from-repo", "repo", "--repo", &other])
            .env("LAKEBED_FROM_PASSWORD", "secret")
            .output();
        said(copied.unwrap()).exits(0).says("there already");
        assert_eq!(snapshots(&kit, &other), snapshots(&kit, "repo"));
        kit.run(&["verify", "--read-data", "--repo", &other]).exits(0);

        stop(|| kit.command(&["verify", "--read-data"]), signal, || true);
        stop(|| kit.command(&["index", "rebuild"]), signal, || true);
        kit.run(&["verify", "--read-data"]).exits(0);

        // one of data: of folders as they were the source has nothing any more
        let pack = kit.data_packs().into_iter().next().unwrap();
        let undo = damage(&pack, Damage::FlipByte { offset: 60, mask: 1 });
        stop(|| kit.command(&["repair", "--read-data", "--apply"]), signal, || true);
        kit.run(&["repair", "--read-data", "--apply"]).exits(4);
        undo.keep();
        // the source still has what was lost
        kit.run(&["backup", "src"]).exits(0);
        kit.run(&["verify", "--read-data"]).exits(0);
    }
}
