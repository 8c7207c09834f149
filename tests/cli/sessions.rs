//! `sessions`: who is writing, and what happens to those that are ended.

use std::io::Write;
use std::process::{Child, Stdio};
use std::sync::Arc;

use lakebed_engine::core::id::{SessionId, TreeId};
use lakebed_engine::core::layout;
use lakebed_engine::core::record::RECORD_VERSION;
use lakebed_engine::core::record::key_slot::Secret;
use lakebed_engine::core::record::session::{Checkpoint, Outcome, Process, Run, Session};
use lakebed_engine::core::record::snapshot::{SourceRecord, Summary};
use lakebed_engine::core::time::Timestamp;
use lakebed_engine::storage::LocalStorage;
use lakebed_engine::{OpenOptions, Repository};

use crate::kit::{Kit, said};

/// Begins a backup of a stream and returns once it reads: its session is registered by then.
fn begin_backup(kit: &Kit) -> Child {
    let mut command = kit.command(&["backup", "--stdin", "dump.sql", "--host", "node7"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // more than a pipe holds
    child.stdin.as_mut().unwrap().write_all(&[b'x'; 1 << 20]).unwrap();
    child
}

fn only_session(kit: &Kit) -> serde_json::Value {
    let sessions = kit.run(&["--json", "sessions", "list"]).exits(0).result()["sessions"].clone();
    assert_eq!(sessions.as_array().map(Vec::len), Some(1), "{sessions:#}");
    sessions[0].clone()
}

#[test]
fn a_running_session_is_shown_and_ended_only_by_force() {
    let kit = Kit::with_repo();
    kit.run(&["sessions", "list"]).exits(0).says("no sessions");
    let mut child = begin_backup(&kit);
    let session = only_session(&kit);
    assert_eq!(session["pid"], child.id(), "{session:#}");
    assert_eq!((&session["host"], &session["state"]), (&"node7".into(), &"running".into()));
    assert_eq!((&session["heartbeat"]["number"], &session["checkpoint"]), (&0.into(), &serde_json::Value::Null));
    assert_eq!(session["sources"][0]["uri"], "stdin:dump.sql");
    let id = &session["id"].as_str().unwrap()[..12];
    kit.run(&["sessions", "list"]).exits(0).says("running").says("stdin:dump.sql").says(" ago").says("1 session\n");
    kit.run(&["sessions", "show", id]).exits(0).says("running: its process lives").says("checkpoint: none");

    kit.run(&["sessions", "expire", "--dead"]).exits(0).says("no session is dead");
    let refused = kit.run(&["sessions", "expire", id]).exits(1);
    refused.says("lives on this machine").says("with --force").says("makes no snapshot");
    let forced = kit.run(&["sessions", "expire", id, "--force"]).exits(0);
    forced.says("its run fails with a message and makes no snapshot");
    kit.run(&["sessions", "list"]).exits(0).says("no sessions");
    drop(child.stdin.take());
    said(child.wait_with_output().unwrap())
        .exits(1)
        .says("was expired while it ran")
        .says("Hint: run the backup again");
    kit.run(&["snapshots"]).exits(0).says("no snapshots");
}

#[test]
fn a_killed_session_is_dead_and_can_be_ended() {
    let kit = Kit::with_repo();
    let mut child = begin_backup(&kit);
    child.kill().unwrap();
    child.wait().unwrap();
    let session = only_session(&kit);
    assert_eq!(session["state"], "dead", "{session:#}");
    let ended = kit.run(&["--json", "sessions", "expire", "--dead"]).exits(0).result();
    assert_eq!(ended["expired"], serde_json::json!([session["id"]]), "{ended:#}");
    assert_eq!(ended["committed"], serde_json::json!([]));
    kit.run(&["sessions", "list"]).exits(0).says("no sessions");
    kit.run(&["backup", "src"]).exits(0);
    kit.run(&["verify", "--read-data"]).exits(0);
}

/// Puts what a run leaves that had a checkpoint: a session, and how the run ended.
fn leave_session(kit: &Kit, number: u8, outcome: Option<Outcome>, boot_id: &str) {
    let storage = Arc::new(LocalStorage::open(kit.path("repo")).unwrap());
    let secret = Secret::Passphrase(b"secret".to_vec().into());
    let repository = Repository::open(storage, &secret, &OpenOptions::default()).unwrap();
    let id = SessionId::new([number; 32]);
    let process = Process { host: "node7".into(), boot_id: boot_id.into(), pid: 4711, start_ticks: 1 };
    let time = |minutes: i64| Timestamp { secs: 1_767_225_600 + i64::from(number) * 86_400 + minutes * 60, nanos: 0 };
    let summary = Summary { started: time(0), files: 1234, bytes: 5 << 30, ..Summary::default() };
    for record in 0..2 {
        let checkpoint = Checkpoint { root: TreeId::new([1; 32]), summary, read_all: false };
        let session = Session {
            version: RECORD_VERSION,
            number: record,
            time: time(record.into()),
            base_generation: 0,
            process: process.clone(),
            sources: vec![SourceRecord { uri: "file:///data/my%20lake".into(), path: "data".into(), version: None }],
            parent: None,
            checkpoint: (record > 0).then_some(checkpoint),
            progress: None,
            shard: None,
            unknown: Default::default(),
        };
        repository.store().put_record(&layout::session(id, record), &session, repository.random()).unwrap();
    }
    let Some(outcome) = outcome else { return };
    let error = (outcome == Outcome::Failed).then(|| "no space is left".into());
    let (command, tool) = ("backup".into(), "lakebed".into());
    let unknown = Default::default();
    let (summary, failures) = (Summary::default(), 0);
    let run = Run { version: RECORD_VERSION, command, process, outcome, error, summary, failures, tool, unknown };
    repository.store().put_record(&layout::run(id), &run, repository.random()).unwrap();
}

#[test]
fn sessions_that_wait_for_a_run_to_continue_them_are_shown_as_what_they_are() {
    let kit = Kit::with_repo();
    leave_session(&kit, 0x11, Some(Outcome::Interrupted), "another boot");
    leave_session(&kit, 0x22, Some(Outcome::Failed), "another boot");
    leave_session(&kit, 0x33, None, "another boot");
    let listed = kit.run(&["sessions", "list"]).exits(0).out;
    let lines: Vec<&str> = listed.lines().collect();
    for (line, id, state) in [(1, "11111111", "interrupted"), (2, "22222222", "failed"), (3, "33333333", "elsewhere")] {
        assert!(lines[line].starts_with(id) && lines[line].ends_with(state), "{listed}");
        assert!(lines[line].contains("/data/my lake  1,234  5.00 GiB"), "{listed}");
    }
    kit.run(&["sessions", "show", "22"]).exits(0).says("goes on from its checkpoint: no space is left");
    let shown = kit.run(&["--json", "sessions", "show", "22"]).exits(0).result()["session"].clone();
    assert_eq!((&shown["state"], &shown["error"]), (&"failed".into(), &"no space is left".into()));
    assert_eq!((&shown["checkpoint"]["files"], &shown["checkpoint"]["bytes"]), (&1234.into(), &(5u64 << 30).into()));
    assert_eq!(shown["heartbeat"]["number"], 1);
    assert!(shown["started"].as_str() < shown["heartbeat"]["time"].as_str(), "{shown:#}");

    kit.run(&["sessions", "show", "44"]).exits(1).says("0 sessions match `44`").says("lakebed sessions list");
    let ended = kit.run(&["sessions", "expire", "--dead"]).exits(0);
    ended.says("session 11111111 expired: nobody can continue it any more").says("session 22222222 expired");
    kit.run(&["sessions", "expire", "33"]).exits(0).says("if it still runs somewhere, it fails");
    kit.run(&["sessions", "expire", "33"]).exits(1).says("0 sessions match");
    kit.run(&["sessions", "expire"]).exits(2);
}
