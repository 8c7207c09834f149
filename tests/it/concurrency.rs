//! Several at once: readers beside a writer, writers beside writers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lakebed_engine::source::{Filter, FilterOptions, LocalOptions, local_mounts};
use lakebed_engine::{OpenOptions, Repository};
use lakebed_testkit::compare::{CompareOptions, assert_same_tree};
use lakebed_testkit::tree::{Content, TreeSpec};

use crate::common::*;

fn tree(seed: u64, files: u64) -> TreeSpec {
    let mut tree = TreeSpec::new();
    for number in 0..files {
        tree = tree.file(format!("d{}/{number}", number % 9), Content::random(seed + number, 4000));
    }
    tree
}

#[test]
fn two_readers_restore_and_verify_while_a_backup_runs() {
    let (place, repository) = Place::local();
    let (first, second) = (place.path("first"), place.path("second"));
    tree(0, 300).write(&first);
    tree(10_000, 3000).write(&second);
    backup(&repository, std::slice::from_ref(&first));
    let info = latest(&repository);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..3 {
                backup(&repository, std::slice::from_ref(&second));
                std::fs::write(second.join("d0/more"), "more").unwrap();
            }
            done.store(true, Ordering::Relaxed);
        });
        for reader in 0..2 {
            let (place, info, first, done) = (&place, &info, &first, &done);
            scope.spawn(move || {
                let mut round = 0;
                while !done.load(Ordering::Relaxed) || round < 2 {
                    let repository = place.reopen();
                    let target = place.path(&format!("out-{reader}-{round}"));
                    let restored = restore_to(&repository, info, &target, first);
                    assert_same_tree(first, &restored, &CompareOptions::default());
                    assert_good(&repository);
                    round += 1;
                }
            });
        }
    });
}

/// Four writers as four machines would be: each with a cache of its own.
#[test]
fn writers_with_caches_of_their_own_do_not_disturb_each_other() {
    let (place, repository) = Place::local();
    std::thread::scope(|scope| {
        for writer in 0..4u64 {
            let place = &place;
            scope.spawn(move || {
                let open =
                    OpenOptions { cache_dir: Some(place.path(&format!("cache-{writer}"))), ..place.open.clone() };
                let repository = Repository::open(place.storage.clone(), &secret(), &open).unwrap();
                let source = place.path(&format!("source-{writer}"));
                // half of it is what the others have too
                tree(writer / 2 * 1000, 400).write(&source);
                for night in 0..3 {
                    std::fs::write(source.join("d0/night"), format!("{writer} {night}")).unwrap();
                    backup(&repository, std::slice::from_ref(&source));
                }
            });
        }
    });
    let infos = repository.catalogue().unwrap().snapshots;
    assert_eq!(infos.len(), 12);
    assert_good(&repository);
    assert!(repository.sessions().unwrap().is_empty());
}

/// A session that somebody has expired must not commit.
#[test]
fn an_expired_session_fails_loudly() {
    use lakebed_engine::core::monitor::Monitor;

    struct Expire<'a>(&'a Repository);
    impl Monitor for Expire<'_> {
        fn phase(&self, phase: lakebed_engine::Phase, _: Option<lakebed_engine::Progress>) {
            if phase == lakebed_engine::Phase::Commit {
                let session = self.0.sessions().unwrap().remove(0).id;
                assert!(self.0.expire_session(session, session, "a test").unwrap());
            }
        }
    }
    let (place, repository) = Place::local();
    let source = place.path("source");
    tree(0, 5).write(&source);
    let filter = Arc::new(Filter::new(&FilterOptions::default()).unwrap());
    let mounts = local_mounts(&[source], &filter, &LocalOptions::default()).unwrap();
    let error = repository.backup(mounts, &options(), &Expire(&repository)).unwrap_err();
    assert!(matches!(error, lakebed_engine::Error::SessionExpired { .. }), "{error:?}");
    assert!(repository.snapshots(&Default::default()).unwrap().is_empty());
}
