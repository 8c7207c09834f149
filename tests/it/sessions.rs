//! Sessions as others see them: who is at them, and how they end.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lakebed_engine::backup::BackupOptions;
use lakebed_engine::core::codec::seal::Encryption;
use lakebed_engine::core::id::SessionId;
use lakebed_engine::core::layout;
use lakebed_engine::core::monitor::{Monitor, Phase, Progress};
use lakebed_engine::core::record::RECORD_VERSION;
use lakebed_engine::core::record::session::{Outcome, Process, Session};
use lakebed_engine::core::time::{Clock, Timestamp};
use lakebed_engine::prune::{PruneOptions, PruneReport, Unfinished};
use lakebed_engine::repository::SessionState;
use lakebed_engine::source::{Filter, FilterOptions, LocalOptions, local_mounts};
use lakebed_engine::{Error, Repository, Silent};
use lakebed_testkit::clock::FakeClock;
use lakebed_testkit::tree::{Content, TreeSpec};

use crate::common::*;

/// Puts the registration of a writer, as that process.
fn register(repository: &Repository, id: u8, process: Process) -> SessionId {
    beat(repository, id, 0, repository.clock().now(), process)
}

/// Puts a heartbeat of a writer, as that process.
fn beat(repository: &Repository, id: u8, number: u32, time: Timestamp, process: Process) -> SessionId {
    let id = SessionId::new([id; 32]);
    let session = Session {
        version: RECORD_VERSION,
        number,
        time,
        base_generation: 0,
        process,
        sources: Vec::new(),
        parent: None,
        checkpoint: None,
        progress: None,
        shard: None,
        unknown: Default::default(),
    };
    repository.store().put_record(&layout::session(id, number), &session, repository.random()).unwrap();
    id
}

/// A repository in which a prune has something to free, and whose clock goes on only while somebody sleeps.
fn with_something_to_free() -> (Place, Repository, FakeClock) {
    let (mut place, repository) = Place::memory(Encryption::Aes256Gcm);
    let source = place.path("source");
    for night in 0..2 {
        TreeSpec::new().file("a", Content::random(night, 10_000)).write(&source);
        let id = backup(&repository, std::slice::from_ref(&source)).snapshot.unwrap().id;
        if night == 0 {
            forget(&repository, vec![id]);
        }
        lakebed_testkit::remove_all(&source);
    }
    let clock = FakeClock::new(repository.clock().now());
    place.open.clock = Arc::new(clock.clone());
    let repository = place.reopen();
    (place, repository, clock)
}

fn elsewhere(repository: &Repository) -> Process {
    Process { boot_id: "another".into(), ..repository.processes().this("another") }
}

const MINUTE: Duration = Duration::from_secs(60);

/// A prune that waits so long at most.
fn waiting(wait: Duration) -> PruneOptions {
    let mut options = prune_all();
    (options.wait, options.stale_after) = (wait, MINUTE * 10);
    options
}

/// Returns what a prune did, and how long it took by its clock.
fn prune_for(repository: &Repository, options: &PruneOptions, monitor: &dyn Monitor) -> (PruneReport, Duration) {
    let before = repository.clock().monotonic_ns();
    let report = repository.prune(options, monitor).unwrap();
    (report, Duration::from_nanos(repository.clock().monotonic_ns() - before))
}

#[test]
fn a_prune_waits_for_whoever_may_be_at_work_and_ends_the_sessions_of_the_dead() {
    let (_place, repository, _) = with_something_to_free();
    let me = repository.processes().this("host");
    let dead = register(&repository, 1, Process { start_ticks: me.start_ticks + 1, ..me.clone() });
    let away = register(&repository, 2, elsewhere(&repository));
    let alive = register(&repository, 3, me);
    let options = waiting(MINUTE * 5);
    let (report, took) = prune_for(&repository, &options, &Silent);
    assert_eq!(report.sessions_expired, [dead]);
    assert_eq!(report.unfinished, Some(Unfinished::Waiting(vec![away, alive])));
    assert_eq!(report.deleted.packs, 0);
    assert!((MINUTE * 5..MINUTE * 6).contains(&took), "{took:?}");
    // whoever comes after something was condemned is not waited for before that goes
    let late = register(&repository, 4, elsewhere(&repository));
    for id in [away, alive] {
        assert!(repository.expire_session(id, id, "a test").unwrap());
    }
    let (report, _) = prune_for(&repository, &options, &Silent);
    assert_eq!(report.taken_over, [1]);
    assert!(report.deleted.packs > 0 && report.sessions_expired.is_empty(), "{report:?}");
    assert_eq!(repository.sessions().unwrap().into_iter().map(|info| info.id).collect::<Vec<_>>(), [late]);
}

/// Whether somebody elsewhere is at work is told by the heart alone, and by nobody's wall clock.
#[test]
fn a_session_elsewhere_ends_when_its_heart_stands_still() {
    /// Beats once, when four minutes of waiting have gone by.
    struct Beat<'a>(&'a Repository, u64, AtomicU64);
    impl Monitor for Beat<'_> {
        fn is_cancelled(&self) -> bool {
            let waited = Duration::from_nanos(self.0.clock().monotonic_ns() - self.1);
            if waited >= MINUTE * 4 && self.2.fetch_add(1, Ordering::Relaxed) == 0 {
                beat(self.0, 2, 1, Timestamp::default(), elsewhere(self.0));
            }
            false
        }
    }
    for beats in [false, true] {
        let (_place, repository, clock) = with_something_to_free();
        let away = register(&repository, 2, elsewhere(&repository));
        let start = clock.monotonic_ns();
        let heart = Beat(&repository, start, AtomicU64::new(u64::from(!beats)));
        let options = waiting(MINUTE * 30);
        let (report, took) = prune_for(&repository, &options, &heart);
        assert_eq!((report.unfinished, report.sessions_expired), (None, vec![away]));
        let expected = if beats { MINUTE * 14 } else { MINUTE * 10 };
        assert!((expected..expected + MINUTE).contains(&took), "{took:?}");
        assert!(report.deleted.packs > 0);
    }
}

/// Somebody who has not gone on for a week is looked at even if nothing was condemned; whoever lives is left alone.
#[test]
fn old_sessions_are_cleared_away_and_living_ones_are_not() {
    let (_place, repository, clock) = with_something_to_free();
    prune_for(&repository, &prune_all(), &Silent);
    let me = repository.processes().this("host");
    let now = clock.now();
    let ago = |days: i64| Timestamp { secs: now.secs - days * 24 * 3600, nanos: now.nanos };
    let away = beat(&repository, 1, 0, ago(8), elsewhere(&repository));
    // by a clock that is ahead of ours it is as old
    let ahead = beat(&repository, 2, 0, ago(-8), elsewhere(&repository));
    let recent = beat(&repository, 3, 0, ago(6), elsewhere(&repository));
    let mine = beat(&repository, 4, 0, ago(8), me);
    let (report, took) = prune_for(&repository, &waiting(MINUTE * 30), &Silent);
    assert_eq!(report.sessions_expired.into_iter().collect::<BTreeSet<_>>(), BTreeSet::from([away, ahead]));
    assert!((MINUTE * 10..MINUTE * 11).contains(&took), "{took:?}");
    let left: Vec<SessionId> = repository.sessions().unwrap().into_iter().map(|info| info.id).collect();
    assert_eq!(left, [recent, mine]);
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

/// A snapshot counts only under the key of the session that made it.
#[test]
fn the_snapshot_of_another_session_is_damage() {
    let (place, repository) = Place::memory(Encryption::None);
    let source = place.path("source");
    TreeSpec::new().file("a", "b").write(&source);
    let info = backup(&repository, std::slice::from_ref(&source)).snapshot.unwrap();
    let other = SessionId::new([1; 32]);
    repository.store().put_record(&layout::snapshot(other), &info.snapshot, repository.random()).unwrap();
    let error = repository.read_snapshot(other).unwrap_err();
    assert!(matches!(&error, Error::Record { key, .. } if *key == layout::snapshot(other)), "{error:?}");
    let catalogue = repository.catalogue().unwrap();
    assert_eq!((catalogue.snapshots.len(), catalogue.damaged.len()), (1, 1), "{catalogue:?}");
}
