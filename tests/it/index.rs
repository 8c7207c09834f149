//! The index is a cache: whatever happens to it, nothing is lost and nothing is claimed that is not there.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lakebed_engine::core::monitor::{Monitor, Phase, Progress};
use lakebed_engine::core::pack::PackKind;
use lakebed_engine::core::protocol::WriterStep;
use lakebed_engine::core::storage::Storage;
use lakebed_engine::source::{Filter, FilterOptions, LocalOptions, local_mounts};
use lakebed_engine::storage::LocalStorage;
use lakebed_engine::{Index, Mode, OpenOptions, Repository, Silent};
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

/// Counts the segments that were folded.
#[derive(Default)]
struct Folded(AtomicU64);

impl Monitor for Folded {
    fn phase(&self, phase: Phase, total: Option<Progress>) {
        if phase == Phase::Index {
            self.0.fetch_add(total.unwrap().entries, Ordering::Relaxed);
        }
    }
}

/// Opens the index and returns it, and how many segments it had to fold.
fn open_counting(repository: &Repository) -> (Index, u64) {
    let folded = Folded::default();
    let index = repository.index(&folded).unwrap();
    (index, folded.0.into_inner())
}

#[test]
fn what_was_folded_once_is_not_folded_again_even_if_the_process_is_killed() {
    let (place, repository, source) = with_snapshot();
    std::fs::write(source.join("second"), "second night").unwrap();
    backup(&repository, std::slice::from_ref(&source));
    drop(repository);
    let segments = object_files(&place.path("repo").join("index")).len() as u64;
    std::fs::remove_dir_all(place.path("cache")).unwrap();
    let (held, folded) = open_counting(&place.reopen());
    assert_eq!(folded, segments);
    // what the folder holds now is what a killed process leaves of it
    copy_folder(&place.path("cache"), &place.path("left"));
    let open = OpenOptions { cache_dir: Some(place.path("left")), ..place.open.clone() };
    let left = Repository::open(place.storage.clone(), &secret(), &open).unwrap();
    let (index, folded) = open_counting(&left);
    assert_eq!((index.mode(), folded), (Mode::Primary, 0));
    assert_eq!(index.all().unwrap().len(), held.all().unwrap().len());
}

/// Making the index anew costs much where there are many segments.
#[test]
fn a_prune_keeps_an_index_that_is_mostly_about_what_is_there() {
    let (place, repository, source) = with_snapshot();
    let first = latest(&repository).id;
    std::fs::remove_dir_all(source.join("d1")).unwrap();
    backup(&repository, std::slice::from_ref(&source));
    forget(&repository, vec![first]);
    drop(repository);
    let repository = place.reopen();
    drop(repository.index(&Silent).unwrap());
    let folded = Folded::default();
    let report = repository.prune(&prune_all(), &folded).unwrap();
    assert!(report.deleted.packs > 0, "{report:?}");
    assert_eq!(folded.0.into_inner(), 0);
}

/// A pack that another writer published is gone before this one, which has listed the packs, reads of it.
#[test]
fn a_segment_whose_packs_are_gone_is_folded_and_they_are_not_used() {
    let (place, repository, source) = with_snapshot();
    let later = place.path("later");
    TreeSpec::new().file("later", Content::random(99, 300_000)).write(&later);
    let before = object_files(&place.path("repo").join("packs"));
    let beside = OpenOptions { cache_dir: Some(place.path("beside")), ..place.open.clone() };
    let beside = Repository::open(place.storage.clone(), &secret(), &beside).unwrap();
    let at = At::new(WriterStep::ChooseParent, || {
        backup(&beside, std::slice::from_ref(&later));
        for pack in object_files(&place.path("repo").join("packs")) {
            if !before.contains(&pack) {
                std::fs::remove_file(pack).unwrap();
            }
        }
    });
    let filter = Arc::new(Filter::new(&FilterOptions::default()).unwrap());
    let both = [source, later.clone()];
    let mounts = local_mounts(&both, &filter, &LocalOptions::default()).unwrap();
    let report = repository.backup(mounts, &options(), &at).unwrap();
    drop(at);
    let info = report.snapshot.unwrap();
    let restored = restore_to(&repository, &info, &place.path("out"), &later);
    lakebed_testkit::compare::assert_same_tree(&later, &restored, &Default::default());
}

#[test]
fn an_index_says_how_much_it_holds() {
    let (place, repository, _) = with_snapshot();
    drop(repository);
    let packs = place.storage.list("packs/").unwrap();
    let bytes: u64 = packs.iter().map(|pack| pack.size_bytes).sum();
    let in_memory = OpenOptions { cache_dir: None, ..place.open.clone() };
    for open in [in_memory, place.open.clone()] {
        let repository = Repository::open(place.storage.clone(), &secret(), &open).unwrap();
        let index = repository.index(&Silent).unwrap();
        let (data, tree) = (index.pack_totals(PackKind::Data), index.pack_totals(PackKind::Tree));
        assert!(data.0 > 0 && tree.0 > 0);
        assert_eq!((data.0 + tree.0, data.1 + tree.1), (packs.len() as u64, bytes));
        let stats = index.stats();
        assert_eq!((stats.packs, stats.blobs), (packs.len() as u64, index.all().unwrap().len() as u64));
        assert_eq!(stats.disk_bytes > 0, open.cache_dir.is_some());
        assert!(stats.memory_bytes > 0);
    }
}

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
