//! What was backed up comes back, whatever it is and however it changes.

use std::collections::BTreeMap;

use lakebed_engine::Silent;
use lakebed_engine::core::codec::seal::Encryption;
use lakebed_engine::core::id::TreeId;
use lakebed_engine::core::record::tree::{Entry, EntryKind};
use lakebed_engine::query::{Change, ChangeKind, DiffOptions, Listed, diff, walk, write_content};
use lakebed_engine::repository::BlobReader;
use lakebed_testkit::compare::{CompareOptions, assert_same_tree, assert_tree_is, snapshot_of};
use lakebed_testkit::strategies::{arb_changes, arb_tree};
use lakebed_testkit::tree::{Content, Item, TreeSpec, apply_changes};
use proptest::prelude::*;

use crate::common::*;

/// Returns every entry below a directory, by its path.
fn all_entries(reader: &BlobReader, root: TreeId) -> BTreeMap<Vec<u8>, Entry> {
    let mut entries = BTreeMap::new();
    let mut visit = |path: &[u8], entry: &Entry| {
        entries.insert(path.to_vec(), entry.clone());
        Ok(Listed::Descend)
    };
    walk(reader, root, b"", &mut visit).unwrap();
    entries
}

/// Returns what an entry holds, read from its chunks, its target and its device.
fn bytes_of(reader: &BlobReader, entry: &Entry) -> (Vec<u8>, Vec<u8>, u64) {
    let mut bytes = Vec::new();
    if entry.kind == EntryKind::File {
        write_content(reader, entry, "", &mut bytes).unwrap();
    }
    (bytes, entry.link_target.clone(), entry.device)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// What differs between two nights is what a comparison of all their entries finds, in the order of their paths.
    #[test]
    fn a_diff_tells_of_every_entry_that_differs_and_of_no_other(tree in arb_tree(), changes in arb_changes()) {
        let (place, repository) = Place::memory(Encryption::None);
        let source = place.path("source");
        tree.write(&source);
        let before = backup(&repository, std::slice::from_ref(&source)).snapshot.unwrap().snapshot.root;
        apply_changes(&source, &changes);
        let after = backup(&repository, std::slice::from_ref(&source)).snapshot.unwrap().snapshot.root;

        let reader = repository.reader(&Silent).unwrap();
        let (old, new) = (all_entries(&reader, before), all_entries(&reader, after));
        let mut expected = Vec::new();
        for path in old.keys().chain(new.keys().filter(|path| !old.contains_key(*path))) {
            let kind = match (old.get(path), new.get(path)) {
                (None, _) => ChangeKind::Added,
                (_, None) => ChangeKind::Removed,
                (Some(a), Some(b)) if a.kind != b.kind => ChangeKind::Type,
                (Some(a), Some(b)) if bytes_of(&reader, a) != bytes_of(&reader, b) => ChangeKind::Modified,
                (Some(a), Some(b)) if (a.mode, a.uid, a.gid, a.mtime) != (b.mode, b.uid, b.gid, b.mtime) => {
                    ChangeKind::Metadata
                }
                (Some(a), Some(b)) if a.xattrs != b.xattrs => ChangeKind::Metadata,
                _ => continue,
            };
            expected.push((path.split(|byte| *byte == b'/').map(<[u8]>::to_vec).collect::<Vec<_>>(), kind));
        }
        expected.sort_by(|(a, _), (b, _)| a.cmp(b));

        for ignore_metadata in [false, true] {
            let options = DiffOptions { ignore_metadata };
            let mut found = Vec::new();
            let mut visit = |change: Change| {
                assert_eq!(change.before, old.get(&change.path).cloned());
                assert_eq!(change.after, new.get(&change.path).cloned());
                found.push((change.path.split(|byte| *byte == b'/').map(<[u8]>::to_vec).collect(), change.kind));
                Ok(())
            };
            diff(&reader, Some(before), Some(after), b"", &options, &mut visit).unwrap();
            expected.retain(|(_, kind)| !ignore_metadata || *kind != ChangeKind::Metadata);
            prop_assert_eq!(&found, &expected);
        }
    }

    /// Three nights of random changes: each night's snapshot gives back that night's tree, also after the others.
    #[test]
    fn every_night_comes_back(tree in arb_tree(), first in arb_changes(), second in arb_changes(), encrypted: bool) {
        let encryption = if encrypted { Encryption::Aes256Gcm } else { Encryption::None };
        let (place, repository) = Place::memory(encryption);
        let source = place.path("source");
        tree.write(&source);
        let mut nights = Vec::new();
        for changes in [Vec::new(), first, second] {
            apply_changes(&source, &changes);
            let report = backup(&repository, std::slice::from_ref(&source));
            prop_assert!(report.failures.is_empty(), "{:?}", report.failures);
            nights.push((report.snapshot.unwrap(), snapshot_of(&source)));
        }
        assert_good(&repository);
        for (night, (info, expected)) in nights.iter().enumerate() {
            let target = place.path(&format!("out{night}"));
            let restored = restore_to(&repository, info, &target, &source);
            assert_tree_is(expected, &restored, &CompareOptions { check_holes: false, ..CompareOptions::default() });
        }
    }
}

#[test]
fn an_empty_tree_a_huge_file_and_many_small_files_come_back() {
    let (place, repository) = Place::local();
    let mut tree = TreeSpec::new().directory("empty").file("huge", Content::random(1, 40 << 20));
    for number in 0..3000u64 {
        tree = tree.file(format!("small/{}/{number}", number % 40), Content::random(number, number % 900));
    }
    let source = place.path("source");
    tree.write(&source);
    backup(&repository, std::slice::from_ref(&source));
    let restored = restore_to(&repository, &latest(&repository), &place.path("out"), &source);
    assert_same_tree(&source, &restored, &CompareOptions::default());
    assert_good(&repository);
}

#[test]
fn an_unchanged_night_reads_nothing_and_adds_next_to_nothing() {
    let (place, repository) = Place::local();
    let source = place.path("source");
    TreeSpec::new().file("a/b", Content::random(1, 5000)).file("c", Content::random(2, 3 << 20)).write(&source);
    let repository = place.reopen_later(&repository);
    let first = backup(&repository, std::slice::from_ref(&source));
    let second = backup(&repository, std::slice::from_ref(&source));
    assert_eq!(second.parent, first.snapshot.as_ref().map(|info| info.id));
    assert_eq!((second.summary.bytes_read, second.summary.files_unmodified), (0, 2));
    // the folders above the source may have other times now; what is below them is the same
    assert!(second.summary.bytes_stored < 5000, "{:?}", second.summary);
}

#[test]
fn the_index_may_be_deleted() {
    let (place, repository) = Place::local();
    let source = place.path("source");
    TreeSpec::new().file("a", Content::random(1, 600_000)).with("l", Item::symlink("a")).write(&source);
    backup(&repository, std::slice::from_ref(&source));
    std::fs::remove_dir_all(place.path("cache")).unwrap();
    let repository = place.reopen();
    let again = backup(&repository, std::slice::from_ref(&source));
    assert_eq!(again.summary.bytes_new, 0);
    assert_good(&repository);
}

/// One folder with 100,000 entries: it comes back, and one more file rewrites a few nodes of its tree.
#[test]
fn a_folder_of_100_000_entries_comes_back_and_grows_by_little() {
    let (place, repository) = Place::local();
    let source = place.path("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("first"), "content").unwrap();
    for number in 0..100_000 {
        std::os::unix::fs::symlink("first", source.join(format!("notebook-{number:06}.py"))).unwrap();
    }
    let first = backup(&repository, std::slice::from_ref(&source));
    assert_eq!((first.summary.files, first.summary.others), (1, 100_000));
    std::fs::write(source.join("notebook-077777x.py"), "added").unwrap();
    let second = backup(&repository, std::slice::from_ref(&source));
    assert!(second.summary.bytes_stored < 300_000, "{:?}", second.summary);
    let restored = restore_to(&repository, &latest(&repository), &place.path("out"), &source);
    assert_same_tree(&source, &restored, &CompareOptions::default());
}

/// A directory whose listing shows that something went must not take over the node that still has it, whoever finishes it.
#[test]
fn what_was_removed_never_comes_back() {
    let (place, repository) = Place::memory(Encryption::Aes256Gcm);
    let source = place.path("source");
    let mut tree = TreeSpec::new();
    for number in 0..60 {
        tree = tree.file(format!("{number:02}/a"), b"removed later".to_vec()).directory(format!("{number:02}/z"));
    }
    tree.write(&source);
    let options = lakebed_engine::backup::BackupOptions { threads: 8, ..options() };
    for round in 0..40 {
        for number in 0..60 {
            std::fs::write(source.join(format!("{number:02}/a")), "removed later").unwrap();
        }
        backup_with(&repository, std::slice::from_ref(&source), &options, &Default::default());
        for number in 0..60 {
            let folder = source.join(format!("{number:02}"));
            std::fs::remove_file(folder.join("a")).unwrap();
        }
        let report = backup_with(&repository, std::slice::from_ref(&source), &options, &Default::default());
        assert_eq!(report.summary.files, 0);
        let info = report.snapshot.unwrap();
        let reader = repository.reader(&lakebed_engine::Silent).unwrap();
        lakebed_engine::query::walk(&reader, info.snapshot.root, b"", &mut |path, _| {
            assert!(!path.ends_with(b"/a"), "round {round}");
            Ok(lakebed_engine::query::Listed::Descend)
        })
        .unwrap();
    }
}

#[test]
fn an_explicit_parent_with_other_sources_lends_nothing_that_was_not_asked_for() {
    let (place, repository) = Place::memory(Encryption::Aes256Gcm);
    let (one, other) = (place.path("lake/one"), place.path("lake/other"));
    TreeSpec::new().file("a", b"a".to_vec()).write(&one);
    TreeSpec::new().file("b", b"b".to_vec()).write(&other);
    let both = backup(&repository, &[one.clone(), other.clone()]).snapshot.unwrap();
    let parent = lakebed_engine::backup::ParentChoice::Snapshot(both.id);
    let options = lakebed_engine::backup::BackupOptions { parent, ..options() };
    backup_with(&repository, std::slice::from_ref(&one), &options, &Default::default());
    restore_to(&repository, &latest(&repository), &place.path("out"), &one);
    assert!(!place.path("out").join(other.strip_prefix("/").unwrap()).exists());
}
