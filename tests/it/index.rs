//! The index is a cache: whatever happens to it, nothing is lost and nothing is claimed that is not there.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use lakebed_engine::core::storage::Storage;
use lakebed_engine::storage::LocalStorage;
use lakebed_engine::{Mode, OpenOptions, Repository, Silent};
use lakebed_testkit::damage::{Damage, damage, object_files};
use lakebed_testkit::tree::{Content, TreeSpec};

use crate::common::*;

fn with_snapshot() -> (Place, Repository, std::path::PathBuf) {
    let (place, repository) = Place::local();
    let source = place.path("source");
    let mut tree = TreeSpec::new().file("big", Content::random(1, 2 << 20));
    for number in 0..200u64 {
        tree = tree.file(format!("d{}/{number}", number % 7), Content::random(number, 100 + number * 13));
    }
    tree.write(&source);
    backup(&repository, std::slice::from_ref(&source));
    (place, repository, source)
}

/// What an index says, independent of the order in which it learned it.
fn logical(repository: &Repository) -> BTreeSet<String> {
    let index = repository.index(&Silent).unwrap();
    index.all().unwrap().into_iter().map(|(id, place)| format!("{id} {place:?}")).collect()
}

fn index_files(place: &Place) -> Vec<std::path::PathBuf> {
    object_files(&place.path("cache")).into_iter().filter(|file| !file.ends_with("lock")).collect()
}

#[test]
fn an_index_that_is_deleted_truncated_or_garbage_is_made_anew() {
    let (place, repository, _) = with_snapshot();
    let expected = logical(&repository);
    assert!(expected.len() > 200);
    std::fs::remove_dir_all(place.path("cache")).unwrap();
    assert_eq!(logical(&place.reopen()), expected);
    for kind in [Damage::Empty, Damage::Truncate { length: 20 }, Damage::Delete] {
        for file in index_files(&place) {
            if std::fs::metadata(&file).is_ok_and(|metadata| metadata.len() > 20) {
                let undo = damage(&file, kind);
                assert_eq!(logical(&place.reopen()), expected, "{} {kind:?}", file.display());
                undo.keep();
            }
        }
    }
}

#[test]
fn an_index_of_another_repository_or_of_a_later_time_is_not_believed() {
    let (place, repository, source) = with_snapshot();
    let (other, other_repository, _) = with_snapshot();
    let expected = logical(&repository);
    let cache = |place: &Place, repository: &Repository| {
        place.path("cache").join(repository.info().id.to_string()).join("index")
    };
    copy_folder(&cache(&other, &other_repository), &cache(&place, &repository));
    assert_eq!(logical(&place.reopen()), expected);

    // the repository is put back to an older state: the index knows segments that are gone
    let older = place.path("older");
    copy_folder(&place.path("repo"), &older);
    std::fs::write(source.join("later"), "later").unwrap();
    backup(&place.reopen(), std::slice::from_ref(&source));
    let storage: Arc<dyn Storage> = Arc::new(LocalStorage::open(&older).unwrap());
    let back = Repository::open(storage, &secret(), &place.open).unwrap();
    assert_eq!(logical(&back), expected);
}

fn copy_folder(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &to.join(entry.file_name()));
        } else {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

#[test]
fn lost_segments_are_made_anew_from_the_packs() {
    let (place, repository, source) = with_snapshot();
    let expected = logical(&repository);
    for file in object_files(&place.path("repo").join("index")) {
        std::fs::remove_file(file).unwrap();
    }
    let repository = place.reopen();
    assert!(!verify_all(&repository).is_good());
    repository.rebuild_index(true, &Silent).unwrap();
    assert_eq!(logical(&place.reopen()), expected);
    assert_good(&place.reopen());
    restore_to(&place.reopen(), &latest(&repository), &place.path("out"), &source);
}

#[test]
fn a_second_process_reads_beside_the_one_that_holds_the_index() {
    let (place, repository, source) = with_snapshot();
    let held = repository.index(&Silent).unwrap();
    assert_eq!(held.mode(), Mode::Primary);
    let beside = place.reopen();
    assert_ne!(beside.index(&Silent).unwrap().mode(), Mode::Primary);
    assert_eq!(logical(&beside).len(), held.all().unwrap().len());
    restore_to(&beside, &latest(&beside), &place.path("out"), &source);
    assert_good(&beside);
    // and a writer beside it keeps what it adds in memory and publishes it
    std::fs::write(source.join("beside"), "written beside").unwrap();
    let report = backup(&beside, std::slice::from_ref(&source));
    assert!(report.snapshot.is_some());
    drop(held);
    assert_good(&place.reopen());
}

/// The index against a plain map: random packs, folded in random order, some removed.
#[test]
fn an_index_in_memory_and_one_on_disk_say_the_same() {
    let (place, repository, _) = with_snapshot();
    let in_memory = OpenOptions { cache_dir: None, ..place.open.clone() };
    let memory = Repository::open(place.storage.clone(), &secret(), &in_memory).unwrap();
    assert_eq!(logical(&memory), logical(&repository));
}

/// Whichever segment is lost, the next backup stores again what nobody can find, and its snapshot comes back: also if what
/// the segment described was written by a prune, or for a snapshot that was freed.
#[test]
fn a_lost_segment_costs_time_and_no_data() {
    for is_pruned in [false, true] {
        let (place, repository, source) = with_snapshot();
        let first = latest(&repository).id;
        std::fs::remove_dir_all(source.join("d1")).unwrap();
        std::fs::write(source.join("d0/second"), "second night").unwrap();
        backup(&repository, std::slice::from_ref(&source));
        if is_pruned {
            forget(&repository, vec![first]);
            let report = repository.prune(&prune_all(), &Silent).unwrap();
            assert!(report.written.packs > 0, "{report:?}");
        }
        drop(repository);
        for (round, segment) in object_files(&place.path("repo").join("index")).into_iter().enumerate() {
            let undo = damage(&segment, Damage::Delete);
            std::fs::remove_dir_all(place.path("cache")).unwrap();
            let repository = place.reopen();
            backup(&repository, std::slice::from_ref(&source));
            let target = place.path(&format!("out{round}"));
            let restored = restore_to(&repository, &latest(&repository), &target, &source);
            lakebed_testkit::compare::assert_same_tree(&source, &restored, &Default::default());
            drop(repository);
            undo.restore();
        }
        assert_good(&place.reopen());
    }
}
