//! Paths are taken out of snapshots: nothing of them is left there, and everything else is as it was.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use lakebed_engine::core::codec::seal::Encryption;
use lakebed_engine::core::id::{PackId, TreeId};
use lakebed_engine::core::layout;
use lakebed_engine::core::protocol::{Step, WriterStep};
use lakebed_engine::core::record::RECORD_VERSION;
use lakebed_engine::core::record::gc::{Condemnation, Tombstone};
use lakebed_engine::core::record::snapshot::Original;
use lakebed_engine::core::record::tree::EntryKind;
use lakebed_engine::query::{Listed, walk};
use lakebed_engine::repository::SnapshotInfo;
use lakebed_engine::rewrite::{RewriteOptions, RewriteReport};
use lakebed_engine::source::{Filter, FilterOptions};
use lakebed_engine::{Error, OpenOptions, Repository, Silent};
use lakebed_testkit::clock::SeededRandom;
use lakebed_testkit::compare::{CompareOptions, assert_tree_is, snapshot_of};
use lakebed_testkit::storage::{CountingStorage, FaultStorage, is_stopped};
use lakebed_testkit::tree::{Content, Item, TreeSpec};

use crate::common::*;

fn patterns(exclude: &[&str]) -> Filter {
    let exclude = exclude.iter().map(|&pattern| pattern.to_owned()).collect();
    Filter::new(&FilterOptions { exclude, ..FilterOptions::default() }).unwrap()
}

fn rewrite_with(repository: &Repository, exclude: &[&str], options: &RewriteOptions) -> RewriteReport {
    let snapshots = repository.catalogue().unwrap().snapshots;
    repository.rewrite(&snapshots, &patterns(exclude), options, &Silent).unwrap()
}

fn rewrite(repository: &Repository, exclude: &[&str]) -> RewriteReport {
    rewrite_with(repository, exclude, &RewriteOptions::default())
}

/// A tree with a secret in it, and a folder that has nothing to do with it.
fn tree() -> TreeSpec {
    let mut tree = TreeSpec::new()
        .file("app/secrets.env", b"TOKEN=hunter2\n".to_vec())
        .file("app/main.py", b"print(1)\n".to_vec())
        .with("app/link", Item::symlink("main.py"))
        .file("app/keys/a.pem", b"-----BEGIN".to_vec())
        .file("app/keys/b.pem", b"-----BEGIN b".to_vec())
        .file("big", Content::random(1, 700_000));
    for number in 0..300u64 {
        tree = tree.file(format!("other/{}/{number}", number % 10), Content::random(number, 200));
    }
    tree
}

/// What a snapshot holds: paths with kinds, and the node of each directory.
fn listed(repository: &Repository, info: &SnapshotInfo) -> BTreeMap<String, (EntryKind, Option<TreeId>)> {
    let reader = repository.reader(&Silent).unwrap();
    let mut all = BTreeMap::new();
    walk(&reader, info.snapshot.root, b"", &mut |path, entry| {
        all.insert(String::from_utf8_lossy(path).into_owned(), (entry.kind, entry.subtree));
        Ok(Listed::Descend)
    })
    .unwrap();
    all
}

#[test]
fn what_matches_is_gone_and_everything_else_is_as_it_was() {
    let (place, repository) = Place::local();
    let source = place.path("source");
    tree().write(&source);
    let repository = place.reopen_later(&repository);
    let tagged = lakebed_engine::backup::BackupOptions { tags: vec!["nightly".into()], ..options() };
    let old = backup_with(&repository, std::slice::from_ref(&source), &tagged, &FilterOptions::default());
    let old = old.snapshot.unwrap();
    repository.annotate(&old, vec!["kept".into()], "the first".into()).unwrap();
    let expected = {
        let mut tree = snapshot_of(&source);
        tree.retain(|path, _| !path.starts_with(b"app/keys") && path != b"app/secrets.env");
        tree
    };
    let before = listed(&repository, &old);

    let report = rewrite(&repository, &["secrets.env", "keys/"]);
    assert!(report.unchanged.is_empty());
    let [rewritten] = report.rewritten.as_slice() else { panic!("{report:?}") };
    let new = rewritten.snapshot.clone().unwrap();
    let shown = source.strip_prefix("/").unwrap().display().to_string();
    let left_out: Vec<_> = rewritten.left_out.iter().map(|one| String::from_utf8_lossy(&one.path)).collect();
    assert_eq!(left_out, [format!("{shown}/app/keys"), format!("{shown}/app/secrets.env")]);
    assert_eq!((rewritten.files, rewritten.bytes), (3, 14 + 10 + 12));

    // the record says what the old one said, with the tags that count now, and whose it is
    let catalogue = repository.catalogue().unwrap();
    let [live] = catalogue.snapshots.as_slice() else { panic!("{catalogue:?}") };
    assert_eq!(live, &new);
    assert_eq!((&new.snapshot.tags[..], new.snapshot.description.as_str()), (&["kept".to_owned()][..], "the first"));
    let same = |info: &SnapshotInfo| {
        let snapshot = &info.snapshot;
        (snapshot.time, snapshot.host.clone(), snapshot.user.clone(), snapshot.sources.clone(), snapshot.owners.clone())
    };
    assert_eq!(same(&new), same(&old));
    let original = Original { repository: repository.info().id, snapshot: old.id };
    assert_eq!(new.snapshot.original, Some(original));
    let (was, is) = (old.snapshot.summary, new.snapshot.summary);
    assert_eq!(is.started, was.started);
    assert_eq!((is.files, is.directories, is.others), (was.files - 3, was.directories - 1, was.others));
    assert_eq!((is.bytes, is.bytes_read), (was.bytes - 36, 0));
    let tombstone: Tombstone = repository.store().read_record(&layout::tombstone(old.id, 0)).unwrap();
    assert_eq!(tombstone.reason, format!("rewritten as {}", new.id.short()));

    // directories that are not on the way keep their nodes
    let after = listed(&repository, &new);
    assert!(!after.keys().any(|path| path.contains("secrets") || path.contains("keys")), "{after:?}");
    let other = format!("{shown}/other");
    assert!(before.iter().filter(|(path, _)| path.starts_with(&other)).all(|(path, node)| after[path] == *node));
    let restored = restore_to(&repository, &new, &place.path("out"), &source);
    assert_tree_is(&expected, &restored, &CompareOptions { ignore_directory_mtimes: true, ..Default::default() });
    assert_good(&place.reopen());

    // and the next backup goes on from it, without reading what is known
    let next = backup(&repository, std::slice::from_ref(&source));
    assert_eq!(next.parent, Some(new.id));
    assert_eq!((next.summary.files_new, next.summary.files_unmodified), (3, was.files - 3));
}

#[test]
fn only_what_is_on_the_way_is_written() {
    let (place, repository) = Place::memory(Encryption::Aes256Gcm);
    let source = place.path("source");
    tree().write(&source);
    backup(&repository, std::slice::from_ref(&source));
    let counting = CountingStorage::new(place.storage.clone());
    let repository = Repository::open(Arc::new(counting.clone()), &secret(), &OpenOptions::default()).unwrap();
    counting.take();
    rewrite(&repository, &["secrets.env"]);
    let counts = counting.take();
    assert_eq!(counts.stored("packs/").calls, 1);
    assert!(counts.stored("packs/").bytes < 3000, "{:?}", counts.stored("packs/"));
}

#[test]
fn a_snapshot_in_which_nothing_matches_stays_as_it_is() {
    let (place, repository) = Place::memory(Encryption::Aes256Gcm);
    let source = place.path("source");
    TreeSpec::new().file("a", b"a".to_vec()).write(&source);
    let first = backup(&repository, std::slice::from_ref(&source)).snapshot.unwrap();
    std::fs::write(source.join("secret"), "x").unwrap();
    let second = backup(&repository, std::slice::from_ref(&source)).snapshot.unwrap();
    let report = rewrite(&repository, &["secret"]);
    assert_eq!(report.unchanged, [first.id]);
    assert_eq!(report.rewritten.iter().map(|one| one.original.id).collect::<Vec<_>>(), [second.id]);
    let live: Vec<_> = repository.catalogue().unwrap().snapshots.into_iter().map(|info| info.id).collect();
    assert_eq!(live, [first.id, report.rewritten[0].snapshot.as_ref().unwrap().id]);
    let before = place.storage.list("").unwrap();
    assert!(rewrite(&repository, &["secret"]).rewritten.is_empty());
    assert_eq!(place.storage.list("").unwrap(), before);
}

#[test]
fn a_dry_run_says_the_same_and_writes_nothing() {
    let (place, repository) = Place::memory(Encryption::Aes256Gcm);
    let source = place.path("source");
    tree().write(&source);
    backup(&repository, std::slice::from_ref(&source));
    let before = place.storage.list("").unwrap();
    let dry = rewrite_with(&repository, &["*.pem"], &RewriteOptions { dry_run: true, ..Default::default() });
    assert_eq!(place.storage.list("").unwrap(), before);
    assert!(dry.rewritten[0].snapshot.is_none() && !dry.rewritten[0].forgotten);
    let real = rewrite(&repository, &["*.pem"]);
    assert_eq!(real.rewritten[0].left_out, dry.rewritten[0].left_out);
    assert_eq!(dry.rewritten[0].left_out.len(), 2);
}

#[test]
fn a_kept_original_is_not_rewritten_twice() {
    let (place, repository) = Place::memory(Encryption::Aes256Gcm);
    let source = place.path("source");
    tree().write(&source);
    let old = backup(&repository, std::slice::from_ref(&source)).snapshot.unwrap();
    let options = RewriteOptions { keep_original: true, ..RewriteOptions::default() };
    let new = rewrite_with(&repository, &["*.pem"], &options).rewritten.remove(0).snapshot.unwrap();
    let live = |repository: &Repository| {
        repository.catalogue().unwrap().snapshots.into_iter().map(|info| info.id).collect::<Vec<_>>()
    };
    // the new one stands for the same moment and comes after the one that it was made of
    assert_eq!(live(&repository), [old.id, new.id]);
    let again = rewrite_with(&repository, &["*.pem"], &options);
    assert_eq!(again.rewritten.iter().map(|one| one.snapshot.clone().unwrap().id).collect::<Vec<_>>(), [new.id]);
    assert_eq!(live(&repository), [old.id, new.id]);
    assert_good(&repository);
}

#[test]
fn patterns_that_leave_nothing_and_snapshots_that_were_forgotten_are_refused() {
    let (place, repository) = Place::memory(Encryption::Aes256Gcm);
    let source = place.path("source");
    tree().write(&source);
    backup(&repository, std::slice::from_ref(&source));
    let snapshots = repository.catalogue().unwrap().snapshots;
    let options = RewriteOptions::default();
    let error = repository.rewrite(&snapshots, &patterns(&["*"]), &options, &Silent).unwrap_err();
    assert!(matches!(error, Error::Argument { .. }), "{error:?}");
    assert_eq!(repository.catalogue().unwrap().snapshots, snapshots);
    rewrite(&repository, &["*.pem"]);
    let error = repository.rewrite(&snapshots, &patterns(&["secrets.env"]), &options, &Silent).unwrap_err();
    assert!(matches!(error, Error::NoSnapshot { .. }), "{error:?}");
    assert!(repository.sessions().unwrap().is_empty());
}

/// Whatever is cut off where: the same run once more comes to the same end.
#[test]
fn a_rewrite_that_is_cut_off_at_any_write_is_completed_by_the_next_one() {
    let (place, repository) = Place::memory(Encryption::Aes256Gcm);
    let source = place.path("source");
    TreeSpec::new().file("a/secret", b"x".to_vec()).file("a/b", b"b".to_vec()).write(&source);
    backup(&repository, std::slice::from_ref(&source));
    std::fs::write(source.join("a/c"), "c").unwrap();
    backup(&repository, std::slice::from_ref(&source));
    let mut cuts = 0;
    for writes in 0.. {
        let copy = copy_of(&*place.storage);
        let fault = FaultStorage::new(copy.clone());
        let repository = Repository::open(Arc::new(fault.clone()), &secret(), &OpenOptions::default()).unwrap();
        let snapshots = repository.catalogue().unwrap().snapshots;
        fault.stop_after_writes(writes);
        let result = repository.rewrite(&snapshots, &patterns(&["secret"]), &RewriteOptions::default(), &Silent);
        fault.heal();
        match result {
            Ok(_) if fault.writes() < writes => break,
            Ok(_) => {}
            Err(error) => assert!(is_stopped(&error) || matches!(error, Error::Poisoned { .. }), "{error:?}"),
        }
        cuts += 1;
        let repository = Repository::open(copy, &secret(), &OpenOptions::default()).unwrap();
        // nothing that is live was lost on the way
        assert_good(&repository);
        rewrite(&repository, &["secret"]);
        let live = repository.catalogue().unwrap().snapshots;
        assert_eq!(live.len(), 2, "cut off after {writes} writes: {live:?}");
        for info in &live {
            assert!(!listed(&repository, info).keys().any(|path| path.ends_with("secret")));
            let old = repository.read_snapshot(info.snapshot.original.unwrap().snapshot).unwrap().unwrap();
            assert_eq!(old.time, info.snapshot.time);
        }
        assert_good(&repository);
    }
    assert!(cuts > 20, "{cuts}");
}

#[test]
fn the_steps_come_in_the_order_of_the_protocol() {
    let (place, repository) = Place::memory(Encryption::Aes256Gcm);
    let source = place.path("source");
    tree().write(&source);
    backup(&repository, std::slice::from_ref(&source));
    let steps = Steps::default();
    let snapshots = repository.catalogue().unwrap().snapshots;
    repository.rewrite(&snapshots, &patterns(&["*.pem"]), &RewriteOptions::default(), &steps).unwrap();
    use WriterStep::*;
    let expected =
        [Register, ReadCondemned, FoldSegments, ChooseParent, StorePacks, PublishSegments, Commit].map(Step::from);
    assert_eq!(*steps.0.lock().unwrap(), expected);
}

/// A directory without the secret was there once, in a pack that is condemned now: it is read, but not built upon.
#[test]
fn nothing_new_is_built_upon_what_is_condemned() {
    let (place, repository) = Place::memory(Encryption::Aes256Gcm);
    let source = place.path("source");
    TreeSpec::new().file("a", b"a".to_vec()).with("d/x", Item::file(b"x".to_vec())).write(&source);
    let clean = backup(&repository, std::slice::from_ref(&source)).snapshot.unwrap();
    std::fs::write(source.join("d/secret"), "s").unwrap();
    backup(&repository, std::slice::from_ref(&source));
    let condemned: HashSet<PackId> = repository.store().list_packs().unwrap().into_keys().collect();
    let mut packs: Vec<PackId> = condemned.iter().copied().collect();
    packs.sort();
    let record = Condemnation { version: RECORD_VERSION, generation: 1, packs, unknown: Default::default() };
    repository.store().put_record(&layout::condemnation(1, 0), &record, &SeededRandom::new(3)).unwrap();
    let report = rewrite(&repository, &["secret"]);
    let new = report.rewritten[0].snapshot.clone().unwrap();
    assert_ne!(new.id, clean.id);
    let index = repository.index(&Silent).unwrap();
    let places = index.lookup_all(&new.snapshot.root.into()).unwrap();
    assert!(places.iter().any(|place| !condemned.contains(&place.pack)), "{places:?}");
    assert_good(&repository);
}

#[test]
fn failures_of_what_goes_go_too() {
    let (place, repository) = Place::memory(Encryption::Aes256Gcm);
    let source = place.path("source");
    tree().write(&source);
    let mounts = [source.clone(), place.path("missing.pem"), place.path("missing")];
    let old = backup(&repository, &mounts).snapshot.unwrap();
    assert_eq!(old.snapshot.failures.len(), 2);
    let new = rewrite(&repository, &["*.pem"]).rewritten.remove(0).snapshot.unwrap();
    let paths: Vec<_> = new.snapshot.failures.iter().map(|failure| failure.path.as_str()).collect();
    assert_eq!(paths, [place.path("missing").strip_prefix("/").unwrap().to_str().unwrap()]);
}
