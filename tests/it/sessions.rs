//! Sessions as others see them: who is at them, and how they end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lakebed_engine::backup::BackupOptions;
use lakebed_engine::core::codec::seal::Encryption;
use lakebed_engine::core::id::SessionId;
use lakebed_engine::core::layout;
use lakebed_engine::core::monitor::{Monitor, Phase, Progress};
use lakebed_engine::core::record::RECORD_VERSION;
use lakebed_engine::core::record::session::{Outcome, Process, Session};
use lakebed_engine::repository::SessionState;
use lakebed_engine::source::{Filter, FilterOptions, LocalOptions, local_mounts};
use lakebed_engine::{Error, Repository};
use lakebed_testkit::tree::{Content, TreeSpec};

use crate::common::*;

/// Puts the registration of a writer, as that process.
fn register(repository: &Repository, id: u8, process: Process) -> SessionId {
    let id = SessionId::new([id; 32]);
    let session = Session {
        version: RECORD_VERSION,
        number: 0,
        time: repository.clock().now(),
        base_generation: 0,
        process,
        sources: Vec::new(),
        parent: None,
        checkpoint: None,
        unknown: Default::default(),
    };
    repository.store().put_record(&layout::session(id, 0), &session, repository.random()).unwrap();
    id
}

fn state_of(repository: &Repository, id: SessionId) -> SessionState {
    let info = repository.find_session(&id.to_string()).unwrap();
    repository.session_state(&info).unwrap()
}

#[test]
fn it_is_told_who_is_at_a_session() {
    let (_place, repository) = Place::memory(Encryption::Aes256Gcm);
    let me = repository.processes().this("host");
    let alive = register(&repository, 1, me.clone());
    let dead = register(&repository, 2, Process { start_ticks: me.start_ticks + 1, ..me.clone() });
    let elsewhere = register(&repository, 3, Process { boot_id: "another".into(), ..me.clone() });
    let unknown = register(&repository, 4, Process { boot_id: String::new(), ..me });
    assert_eq!(state_of(&repository, alive), SessionState::Alive);
    assert_eq!(state_of(&repository, dead), SessionState::Dead);
    assert_eq!(state_of(&repository, elsewhere), SessionState::Elsewhere);
    assert_eq!(state_of(&repository, unknown), SessionState::Elsewhere);
    assert!(SessionState::Dead.is_over() && !SessionState::Elsewhere.is_over() && !SessionState::Alive.is_over());

    assert_eq!(repository.find_session("0202").unwrap().id, dead);
    for (prefix, expected) in [("", 4), ("ff", 0), ("05", 0)] {
        let error = repository.find_session(prefix).unwrap_err();
        assert!(matches!(&error, Error::SessionChoice { count, .. } if *count == expected), "{prefix}: {error:?}");
    }
    assert!(repository.expire_session(dead, dead, "a test").unwrap());
    assert!(matches!(repository.find_session("02"), Err(Error::SessionChoice { count: 0, .. })));
}

/// Looks at the running session, then stops the run after so many entries, as a signal would.
struct LookThenStop<'a>(&'a Repository, AtomicU64);

impl Monitor for LookThenStop<'_> {
    fn phase(&self, phase: Phase, _: Option<Progress>) {
        if phase == Phase::Backup {
            let info = self.0.sessions().unwrap().remove(0);
            assert_eq!(self.0.session_state(&info).unwrap(), SessionState::Alive);
        }
    }

    fn advance(&self, step: Progress) {
        let left = |left: u64| Some(left.saturating_sub(step.entries));
        let _ = self.1.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left);
    }

    fn is_cancelled(&self) -> bool {
        self.1.load(Ordering::Relaxed) == 0
    }
}

#[test]
fn a_run_that_was_interrupted_says_so_and_when_it_began() {
    let (place, repository) = Place::memory(Encryption::Aes256Gcm);
    let source = place.path("source");
    let files = (0..300).fold(TreeSpec::new(), |tree, n| tree.file(format!("{n}"), Content::random(n, 20_000)));
    files.write(&source);
    let filter = Arc::new(Filter::new(&FilterOptions::default()).unwrap());
    let mounts = local_mounts(&[source], &filter, &LocalOptions::default()).unwrap();
    let options = BackupOptions { checkpoint_bytes: 1 << 20, ..options() };
    let before = repository.clock().now();
    let monitor = LookThenStop(&repository, AtomicU64::new(250));
    assert!(matches!(repository.backup(mounts, &options, &monitor), Err(Error::Interrupted)));
    let info = repository.sessions().unwrap().remove(0);
    assert!(before <= info.started && info.started <= info.newest.time);
    let SessionState::Ended(Some(run)) = repository.session_state(&info).unwrap() else { panic!("it has ended") };
    assert_eq!((run.outcome, run.error), (Outcome::Interrupted, None));
    assert!(info.checkpoint.is_some());
}
