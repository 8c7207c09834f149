//! A run that is cut off is continued from its checkpoint.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lakebed_engine::backup::BackupOptions;
use lakebed_engine::core::codec::seal::Encryption;
use lakebed_engine::core::monitor::{Monitor, Progress};
use lakebed_engine::core::storage::Storage;
use lakebed_engine::core::time::Timestamp;
use lakebed_engine::source::{Filter, FilterOptions, LocalOptions, local_mounts};
use lakebed_engine::{OpenOptions, Repository, Silent};
use lakebed_testkit::clock::FakeClock;
use lakebed_testkit::compare::{CompareOptions, assert_same_tree};
use lakebed_testkit::processes::FakeProcesses;
use lakebed_testkit::storage::FaultStorage;
use lakebed_testkit::tree::{Content, TreeSpec};

use crate::common::*;

#[test]
fn what_a_checkpoint_holds_is_not_read_again() {
    let (place, repository) = Place::local();
    let source = place.path("source");
    let mut tree = TreeSpec::new();
    for number in 0..1200u64 {
        tree = tree.file(format!("d{:02}/{number}", number / 30), Content::random(number, 10_000));
    }
    tree.write(&source);
    let repository = place.reopen_later(&repository);
    let options = BackupOptions { checkpoint_bytes: 1 << 20, ..options() };
    stop_after(&repository, &source, &options, 700);
    assert!(repository.catalogue().unwrap().snapshots.is_empty());
    let session = repository.sessions().unwrap().remove(0);
    let checkpoint = session.checkpoint.unwrap();
    assert!(checkpoint.summary.files > 300, "{checkpoint:?}");

    let report = backup_with(&place.reopen(), std::slice::from_ref(&source), &options, &FilterOptions::default());
    assert!(report.resumed);
    // nothing beyond one checkpoint's worth of bytes and what was in flight is read twice
    let read_before = 700 * 10_000;
    let read_now = report.summary.bytes_read;
    assert!(read_now < 12_000_000 - read_before + 4_000_000, "{read_now} bytes read");
    let restored = restore_to(&repository, &latest(&repository), &place.path("out"), &source);
    assert_same_tree(&source, &restored, &CompareOptions::default());
    assert_good(&place.reopen());
}

/// Whenever a run is killed, the next one reads what its last checkpoint does not hold, and nothing else; and no more than
/// a checkpoint's worth of bytes, and what was on its way, was read in vain.
#[test]
fn what_a_killed_run_had_checkpointed_is_not_read_again() {
    const FILES: u64 = 1000;
    const FILE_BYTES: u64 = 10_000;
    const CHECKPOINT_BYTES: u64 = 1 << 20;
    let (mut place, repository) = Place::memory(Encryption::Aes256Gcm);
    let source = place.path("source");
    (0..FILES)
        .fold(TreeSpec::new(), |tree, number| {
            tree.file(format!("d{:02}/{number}", number / 30), Content::random(number, FILE_BYTES))
        })
        .write(&source);
    // an hour later: no file changed within the tick of a run
    let now = repository.clock().now();
    place.open.clock = Arc::new(FakeClock::new(Timestamp { secs: now.secs + 3600, nanos: 0 }));
    let objects = place.storage.list("").unwrap();
    let options = BackupOptions { checkpoint_bytes: CHECKPOINT_BYTES, threads: 1, ..options() };
    let mut checkpoints = 0;
    for writes in (8..).step_by(9) {
        let storage: Arc<dyn Storage> = copy_of(&*place.storage);
        assert_eq!(storage.list("").unwrap(), objects);
        let dying = FaultStorage::new(storage.clone());
        dying.stop_after_writes(writes);
        let processes = FakeProcesses::default();
        let open = |storage: Arc<dyn Storage>, processes: FakeProcesses| {
            let open = OpenOptions { processes: Arc::new(processes), ..place.open.clone() };
            Repository::open(storage, &secret(), &open).unwrap()
        };
        let read = Read::default();
        let filter = Arc::new(Filter::new(&FilterOptions::default()).unwrap());
        let mounts = || local_mounts(std::slice::from_ref(&source), &filter, &LocalOptions::default()).unwrap();
        if open(Arc::new(dying), processes).backup(mounts(), &options, &read).is_ok() {
            break;
        }
        let repository = open(storage, processes.after_kill());
        let checkpoint = repository.sessions().unwrap().pop().and_then(|session| session.checkpoint);
        let held = checkpoint.map_or(0, |checkpoint| checkpoint.summary.bytes);
        let in_vain = read.0.into_inner() - held;
        assert!(in_vain < CHECKPOINT_BYTES + (2 << 20), "{in_vain} bytes after {writes} writes");
        let report = repository.backup(mounts(), &options, &Silent).unwrap();
        assert_eq!(report.resumed, held > 0);
        assert_eq!(report.summary.bytes_read, FILES * FILE_BYTES - held, "after {writes} writes");
        checkpoints += usize::from(held > 0);
        assert_good(&repository);
    }
    assert!(checkpoints > 5, "{checkpoints}");
}

/// Counts the bytes that were read.
#[derive(Default)]
struct Read(AtomicU64);

impl Monitor for Read {
    fn advance(&self, step: Progress) {
        self.0.fetch_add(step.bytes, Ordering::Relaxed);
    }
}

#[test]
fn a_checkpoint_is_no_snapshot() {
    let (place, repository) = Place::local();
    let source = place.path("source");
    let mut tree = TreeSpec::new();
    for number in 0..300u64 {
        tree = tree.file(format!("{number}"), Content::random(number, 20_000));
    }
    tree.write(&source);
    let options = BackupOptions { checkpoint_bytes: 1 << 20, ..options() };
    stop_after(&repository, &source, &options, 250);
    assert!(repository.catalogue().unwrap().snapshots.is_empty());
    assert_good(&repository);
    backup(&repository, std::slice::from_ref(&source));
    assert_eq!(repository.catalogue().unwrap().snapshots.len(), 1);
    assert_good(&repository);
}

/// A backup of other folders ends no session that is for these.
#[test]
fn a_checkpoint_waits_for_a_run_over_the_same_sources() {
    let (place, repository) = Place::local();
    let (source, other) = (place.path("source"), place.path("other"));
    for root in [&source, &other] {
        (0..300u64)
            .fold(TreeSpec::new(), |tree, number| tree.file(format!("{number}"), Content::random(number, 20_000)))
            .write(root);
    }
    let repository = place.reopen_later(&repository);
    let options = BackupOptions { checkpoint_bytes: 1 << 20, ..options() };
    stop_after(&repository, &source, &options, 250);
    assert!(!backup(&repository, std::slice::from_ref(&other)).resumed);
    assert_eq!(repository.sessions().unwrap().len(), 1);
    assert!(backup(&repository, std::slice::from_ref(&source)).resumed);
    assert!(repository.sessions().unwrap().is_empty());
    assert_good(&place.reopen());
}
