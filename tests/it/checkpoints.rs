//! A run that is cut off is continued from its checkpoint.

use lakebed_engine::backup::BackupOptions;
use lakebed_engine::source::FilterOptions;
use lakebed_testkit::compare::{CompareOptions, assert_same_tree};
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
