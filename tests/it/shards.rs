//! One snapshot that several machines take: parts, and what is joined from them.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lakebed_engine::backup::{BackupOptions, BackupReport};
use lakebed_engine::core::codec::seal::Encryption;
use lakebed_engine::core::id::TreeId;
use lakebed_engine::core::protocol::WriterStep;
use lakebed_engine::core::record::RECORD_VERSION;
use lakebed_engine::core::record::session::Session;
use lakebed_engine::core::record::snapshot::{Shard, Summary};
use lakebed_engine::core::record::tree::EntryKind;
use lakebed_engine::core::time::Timestamp;
use lakebed_engine::forget::{Choice, ForgetOptions};
use lakebed_engine::join::JoinOptions;
use lakebed_engine::repository::{SessionHandle, SnapshotFilter, SnapshotInfo, SnapshotSelector};
use lakebed_engine::source::FilterOptions;
use lakebed_engine::{Error, Repository, Silent};
use lakebed_testkit::compare::{CompareOptions, assert_tree_is, snapshot_of};
use lakebed_testkit::tree::{Content, Item, TreeSpec};

use crate::common::*;

const COUNT: u32 = 3;

fn tree() -> TreeSpec {
    let spec = (0..40).fold(TreeSpec::new(), |tree, n| {
        let tree = tree.file(format!("Clients/{}/{n}/NOTEBOOKS/a.py", n % 3), Content::random(n, 700));
        tree.file(format!("Clients/{}/{n}/NOTEBOOKS/b.py", n % 3), Content::random(n + 100, 700))
    });
    spec.file("large", Content::random(9, 400_000))
        .with("link", Item::symlink("large"))
        .file("Clients/empty", b"".to_vec())
}

fn world() -> (Place, Repository, PathBuf) {
    let (place, repository) = Place::memory(Encryption::Aes256Gcm);
    let source = place.path("source");
    tree().write(&source);
    (place, repository, source)
}

fn shard(run: &str, index: u32) -> Option<Shard> {
    Some(Shard { run: run.into(), index, count: COUNT, depth: Some(3) })
}

/// One machine takes its part.
fn take(place: &Place, source: &Path, run: &str, index: u32) -> BackupReport {
    let options = BackupOptions { shard: shard(run, index), ..options() };
    // long after anything was changed
    let machine = place.reopen_later(&place.reopen());
    let report = backup_with(&machine, &[source.to_path_buf()], &options, &FilterOptions::default());
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    report
}

fn live(repository: &Repository) -> Vec<SnapshotInfo> {
    repository.snapshots(&SnapshotFilter::default()).unwrap()
}

fn counts(summary: &Summary) -> (u64, u64, u64, u64) {
    (summary.files, summary.directories, summary.others, summary.bytes)
}

/// Counts what is in a snapshot.
fn count(repository: &Repository, snapshot: &SnapshotInfo) -> (u64, u64, u64, u64) {
    let reader = repository.reader(&Silent).unwrap();
    let mut found = (0, 0, 0, 0);
    let mut directories = vec![snapshot.snapshot.root];
    while let Some(directory) = directories.pop() {
        for entry in reader.entries(directory).map(Result::unwrap) {
            match entry.kind {
                EntryKind::Directory => found.1 += 1,
                EntryKind::File => (found.0, found.3) = (found.0 + 1, found.3 + entry.size),
                _ => found.2 += 1,
            }
            directories.extend(entry.subtree);
        }
    }
    found
}

/// Returns the tree of the source in a snapshot: what lies above it changes with everything else that this machine does.
fn source_tree(repository: &Repository, snapshot: &SnapshotInfo, source: &Path) -> TreeId {
    let reader = repository.reader(&Silent).unwrap();
    source.components().skip(1).fold(snapshot.snapshot.root, |directory, name| {
        let entry = reader.lookup_name(directory, name.as_os_str().as_bytes()).unwrap().unwrap();
        entry.subtree.unwrap()
    })
}

#[test]
fn what_is_joined_is_what_one_machine_would_have_taken() {
    let (place, repository, source) = world();
    let alone = BackupOptions { host: "another".into(), ..options() };
    let whole = backup_with(&repository, std::slice::from_ref(&source), &alone, &FilterOptions::default());
    let whole = whole.snapshot.unwrap();
    let parts: Vec<_> = (0..COUNT).map(|index| take(&place, &source, "night", index).snapshot.unwrap()).collect();
    let report = place.reopen().join_if_complete(&parts[0].snapshot, &JoinOptions::default(), &Silent);
    let report = report.unwrap().unwrap();
    let joined = report.snapshot.snapshot.clone();
    let same = [&report.snapshot, &whole].map(|snapshot| source_tree(&repository, snapshot, &source));
    assert_eq!(same[0], same[1]);
    assert!(joined.is_complete() && joined.shard.is_none() && report.missing.is_empty());
    assert_eq!(counts(&joined.summary), counts(&whole.snapshot.summary));
    assert_eq!(joined.joined.unwrap().shards, parts.iter().map(|part| part.id).collect::<Vec<_>>());
    assert!(parts.iter().all(|part| part.snapshot.summary.files > 0), "a part without work");

    // the parts are forgotten, and what they stored stays
    let reopened = place.reopen();
    assert_eq!(live(&reopened).len(), 2);
    reopened.prune(&prune_all(), &Silent).unwrap();
    assert_good(&reopened);
    let restored = restore_to(&reopened, &report.snapshot, &place.path("out"), &source);
    assert_tree_is(&snapshot_of(&source), &restored, &CompareOptions::default());
}

/// However deep the folders are that go to one part as a whole: at 1 these are those of the source itself.
#[test]
fn parts_of_any_depth_are_joined_to_the_same_snapshot() {
    let (place, _, source) = world();
    // long after anything was changed
    let repository = place.reopen_later(&place.reopen());
    let trees: Vec<_> = [Some(1), Some(2), Some(100), None]
        .into_iter()
        .map(|depth| {
            let run = format!("{depth:?}");
            for index in 0..COUNT {
                let shard = Shard { depth, ..shard(&run, index).unwrap() };
                let options = BackupOptions { shard: Some(shard), ..options() };
                backup_with(&repository, std::slice::from_ref(&source), &options, &FilterOptions::default());
            }
            let joined = place.reopen().join(&run, &JoinOptions::default(), &Silent).unwrap().snapshot;
            assert_eq!(counts(&joined.snapshot.summary), count(&repository, &joined));
            source_tree(&repository, &joined, &source)
        })
        .collect();
    let whole = backup(&repository, std::slice::from_ref(&source)).snapshot.unwrap();
    assert_eq!(trees, [source_tree(&repository, &whole, &source); 4]);
    assert_good(&place.reopen());
}

/// Where a part does not list what is not its own, it has nothing of it.
#[test]
fn a_part_has_only_its_own_of_the_folders_at_the_depth() {
    let (place, repository, source) = world();
    let parts: Vec<_> = (0..COUNT).map(|index| take(&place, &source, "night", index).snapshot.unwrap()).collect();
    let directories: u64 = parts.iter().map(|part| part.snapshot.summary.directories).sum();
    let joined = repository.join("night", &JoinOptions::default(), &Silent).unwrap().snapshot;
    // the mounts' own, `Clients` and the three in it are in all of them, the forty below with one more each in one
    assert_eq!(joined.snapshot.summary.directories + u64::from(COUNT - 1) * shared(&joined), directories);
}

/// How many directories are above those that only one part has.
fn shared(joined: &SnapshotInfo) -> u64 {
    joined.snapshot.summary.directories - 2 * 40
}

#[test]
fn a_second_night_reads_only_what_changed_and_has_the_joined_snapshot_as_its_parent() {
    let (place, _, source) = world();
    (0..COUNT).for_each(|index| drop(take(&place, &source, "first", index)));
    let first = place.reopen().join("first", &JoinOptions::default(), &Silent).unwrap().snapshot;
    std::fs::write(source.join("Clients/1/7/NOTEBOOKS/a.py"), "edited").unwrap();
    let later = place.reopen_later(&place.reopen());
    let reports: Vec<_> = (0..COUNT)
        .map(|index| {
            let options = BackupOptions { shard: shard("second", index), ..options() };
            backup_with(&later, std::slice::from_ref(&source), &options, &FilterOptions::default())
        })
        .collect();
    assert!(reports.iter().all(|report| report.parent == Some(first.id)));
    let changed: u64 = reports.iter().map(|report| report.summary.files_changed + report.summary.files_new).sum();
    assert_eq!(changed, 1);
    let second = later.join("second", &JoinOptions::default(), &Silent).unwrap().snapshot;
    assert_eq!(second.snapshot.parent, Some(first.id));
    assert_good(&later);
}

#[test]
fn parts_are_no_snapshots_to_anybody_until_they_are_joined() {
    let (place, repository, source) = world();
    let whole = backup(&repository, std::slice::from_ref(&source)).snapshot.unwrap();
    let part = take(&place, &source, "night", 1).snapshot.unwrap();
    let repository = place.reopen();
    assert_eq!(latest(&repository).id, whole.id);
    assert_eq!(live(&repository).len(), 1);
    let all = SnapshotFilter { shards: true, ..SnapshotFilter::default() };
    assert_eq!(repository.snapshots(&all).unwrap().len(), 2);
    // whoever names one means it
    let by_id = SnapshotSelector::Id(part.id.to_string());
    assert_eq!(repository.find_snapshot(&by_id, &SnapshotFilter::default(), &Silent).unwrap().id, part.id);
    let policy = lakebed_engine::core::retention::Policy {
        last: lakebed_engine::core::retention::Count::AtMost(1),
        ..Default::default()
    };
    let choice = Choice::Policy { policy, filter: SnapshotFilter::default() };
    let plan = repository.plan_forget(&ForgetOptions::new(choice)).unwrap();
    assert_eq!(plan.forgotten().count(), 0);
    // and nothing that one of them needs goes
    repository.prune(&prune_all(), &Silent).unwrap();
    assert_good(&repository);
}

#[test]
fn a_run_that_lacks_a_part_is_joined_only_on_request_and_again_once_the_part_is_there() {
    let (place, _, source) = world();
    let part = take(&place, &source, "night", 0).snapshot.unwrap();
    take(&place, &source, "night", 2);
    let repository = place.reopen();
    let mut options = JoinOptions::default();
    let error = repository.join("night", &options, &Silent).unwrap_err();
    assert!(matches!(&error, Error::ShardsMissing { missing, count: 3, .. } if missing == &[1]), "{error}");
    assert!(repository.join_if_complete(&part.snapshot, &options, &Silent).unwrap().is_none());
    assert!(live(&repository).is_empty());

    options.allow_missing = true;
    let partial = repository.join("night", &options, &Silent).unwrap();
    assert_eq!(partial.missing, [1]);
    assert!(!partial.snapshot.snapshot.is_complete());
    assert!(repository.join("night", &options, &Silent).unwrap().was_there);
    assert_eq!(live(&repository), std::slice::from_ref(&partial.snapshot));

    take(&place, &source, "night", 1);
    let repository = place.reopen();
    let whole = repository.join_if_complete(&part.snapshot, &JoinOptions::default(), &Silent).unwrap().unwrap();
    assert!(whole.snapshot.snapshot.is_complete());
    assert_eq!(live(&repository), std::slice::from_ref(&whole.snapshot));
    assert!(repository.join("night", &JoinOptions::default(), &Silent).unwrap().was_there);
    let all = SnapshotFilter { shards: true, ..SnapshotFilter::default() };
    assert_eq!(repository.snapshots(&all).unwrap().len(), 1);
    let restored = restore_to(&repository, &whole.snapshot, &place.path("out"), &source);
    assert_tree_is(&snapshot_of(&source), &restored, &CompareOptions::default());
}

#[test]
fn a_part_that_is_run_again_takes_the_place_of_the_one_before() {
    let (place, _, source) = world();
    take(&place, &source, "night", 0);
    (0..COUNT).for_each(|index| drop(take(&place, &source, "night", index)));
    let repository = place.reopen();
    repository.join("night", &JoinOptions::default(), &Silent).unwrap();
    let all = SnapshotFilter { shards: true, ..SnapshotFilter::default() };
    assert_eq!(repository.snapshots(&all).unwrap().len(), 1);
}

#[test]
fn two_that_join_at_the_same_time_leave_one_snapshot() {
    let (place, _, source) = world();
    (0..COUNT).for_each(|index| drop(take(&place, &source, "night", index)));
    let (one, other) = (place.reopen(), place.reopen());
    let beside = std::sync::Mutex::new(None);
    let at = At::new(WriterStep::Commit, || {
        *beside.lock().unwrap() = Some(other.join("night", &JoinOptions::default(), &Silent).unwrap());
    });
    let first = one.join("night", &JoinOptions::default(), &at).unwrap();
    let second = beside.lock().unwrap().take().unwrap();
    let left = live(&place.reopen());
    assert_eq!(left.len(), 1);
    assert!(left[0].id == first.snapshot.id, "whoever looked last knows which one stays");
    assert_eq!(left[0].snapshot.root, second.snapshot.snapshot.root);
    assert_good(&place.reopen());
}

#[test]
fn parts_that_are_not_of_one_whole_are_not_joined() {
    let (place, repository, source) = world();
    take(&place, &source, "night", 0);
    let other =
        BackupOptions { shard: Some(Shard { run: "night".into(), index: 1, count: 2, depth: Some(3) }), ..options() };
    backup_with(&repository, std::slice::from_ref(&source), &other, &FilterOptions::default());
    let error = place.reopen().join("night", &JoinOptions::default(), &Silent).unwrap_err();
    assert!(matches!(error, Error::ShardsDiffer { .. }), "{error}");
    let deeper = Some(Shard { depth: None, ..shard("deep", 0).unwrap() });
    take(&place, &source, "deep", 1);
    backup_with(
        &repository,
        std::slice::from_ref(&source),
        &BackupOptions { shard: deeper, ..options() },
        &FilterOptions::default(),
    );
    let error = place.reopen().join("deep", &JoinOptions::default(), &Silent).unwrap_err();
    assert!(matches!(error, Error::ShardsDiffer { .. }), "{error}");
    let error = place.reopen().join("another night", &JoinOptions::default(), &Silent).unwrap_err();
    assert!(matches!(error, Error::NoShards { .. }), "{error}");
}

/// Machines do not look at the same moment.
#[test]
fn a_source_that_changes_between_the_parts_is_joined_as_each_has_seen_its_own() {
    let (place, _, source) = world();
    take(&place, &source, "night", 0);
    std::fs::remove_dir_all(source.join("Clients/0/3")).unwrap();
    std::fs::write(source.join("Clients/new"), "new").unwrap();
    std::fs::remove_file(source.join("Clients/empty")).unwrap();
    std::fs::create_dir(source.join("Clients/empty")).unwrap();
    std::fs::write(source.join("Clients/empty/file"), "no file any more").unwrap();
    (1..COUNT).for_each(|index| drop(take(&place, &source, "night", index)));
    let repository = place.reopen();
    let joined = repository.join("night", &JoinOptions::default(), &Silent).unwrap().snapshot;
    assert_good(&repository);
    restore_to(&repository, &joined, &place.path("out"), &source);
    assert_eq!(counts(&joined.snapshot.summary), count(&repository, &joined));
}

#[test]
fn a_part_that_is_interrupted_goes_on_from_its_own_checkpoint() {
    let (place, repository, source) = world();
    let options = BackupOptions { shard: shard("night", 1), ..options() };
    stop_after(&repository, &source, &options, 12);
    let other = take(&place, &source, "night", 0);
    assert!(!other.resumed, "another part's checkpoint");
    let report = backup_with(&place.reopen(), std::slice::from_ref(&source), &options, &FilterOptions::default());
    assert!(report.resumed);
    take(&place, &source, "night", 2);
    let repository = Arc::new(place.reopen());
    repository.join("night", &JoinOptions::default(), &Silent).unwrap();
    assert_good(&repository);
}

/// Two teams may give the same name.
#[test]
fn runs_of_the_same_name_elsewhere_are_left_alone() {
    let (place, _, source) = world();
    let other = place.path("other");
    TreeSpec::new().file("a/b.py", b"other".to_vec()).write(&other);
    let mut joined = Vec::new();
    for (host, source) in [("host", &source), ("another host", &source), ("host", &other)] {
        let mut last = None;
        for index in 0..COUNT {
            let options = BackupOptions { shard: shard("night", index), host: host.into(), ..options() };
            let report =
                backup_with(&place.reopen(), std::slice::from_ref(source), &options, &FilterOptions::default());
            last = report.snapshot;
        }
        let part = last.unwrap().snapshot;
        let report = place.reopen().join_if_complete(&part, &JoinOptions::default(), &Silent).unwrap().unwrap();
        assert!(!report.was_there);
        joined.push(report.snapshot.id);
    }
    let mut left: Vec<_> = live(&place.reopen()).iter().map(|info| info.id).collect();
    left.sort_unstable();
    joined.sort_unstable();
    assert_eq!(left, joined);
    // and nobody can say which one is meant by the name alone
    let error = place.reopen().join("night", &JoinOptions::default(), &Silent).unwrap_err();
    assert!(matches!(error, Error::ShardsDiffer { .. }), "{error}");
}

#[test]
fn a_name_that_was_given_before_is_refused_and_costs_no_snapshot() {
    let (place, _, source) = world();
    (0..COUNT).for_each(|index| drop(take(&place, &source, "night", index)));
    let joined = place.reopen().join("night", &JoinOptions::default(), &Silent).unwrap().snapshot;
    let options = BackupOptions { shard: shard("night", 0), ..options() };
    let repository = place.reopen();
    let again = try_backup(&repository, &[source], &options, &FilterOptions::default()).unwrap_err();
    assert!(matches!(again, Error::RunJoined { snapshot, .. } if snapshot == joined.id), "{again}");
    assert_eq!(live(&repository).len(), 1);
}

/// A joined snapshot that lacks parts never takes the place of one that has them, whoever looks last.
#[test]
fn what_lacks_parts_gives_way_to_what_has_them() {
    let (place, _, source) = world();
    take(&place, &source, "night", 0);
    take(&place, &source, "night", 2);
    let (one, other) = (place.reopen(), place.reopen());
    let mut partial = JoinOptions::default();
    partial.allow_missing = true;
    let at = At::new(WriterStep::Commit, || {
        let part = take(&place, &source, "night", 1).snapshot.unwrap();
        other.join_if_complete(&part.snapshot, &JoinOptions::default(), &Silent).unwrap().unwrap();
    });
    let report = one.join("night", &partial, &at).unwrap();
    assert!(report.snapshot.snapshot.is_complete() && report.missing.is_empty());
    let left = live(&place.reopen());
    assert_eq!(left, std::slice::from_ref(&report.snapshot));
    assert!(place.reopen().join("night", &partial, &Silent).unwrap().was_there);
    assert_eq!(live(&place.reopen()).len(), 1);
}

#[test]
fn whoever_finds_somebody_else_at_joining_leaves_it_to_him() {
    let (place, _, source) = world();
    let parts: Vec<_> = (0..COUNT).map(|index| take(&place, &source, "night", index).snapshot.unwrap()).collect();
    let other = place.reopen();
    let record = Session {
        version: RECORD_VERSION,
        number: 0,
        time: Timestamp::default(),
        base_generation: 0,
        process: other.processes().this("host"),
        sources: parts[0].snapshot.sources.clone(),
        parent: None,
        checkpoint: None,
        progress: None,
        shard: shard("night", COUNT),
        unknown: Default::default(),
    };
    // a run of the same name elsewhere, or a part of this one, is nobody who joins
    let elsewhere = Session { sources: Vec::new(), ..record.clone() };
    let part = Session { shard: shard("night", 1), ..record.clone() };
    let beside = [elsewhere, part].map(|record| SessionHandle::register(&other, record).unwrap());
    let joining = SessionHandle::register(&other, record).unwrap();
    let join = || place.reopen().join_if_complete(&parts[2].snapshot, &JoinOptions::default(), &Silent).unwrap();
    assert_eq!(join(), None);
    assert!(live(&place.reopen()).is_empty());
    // who is asked by name does it all the same, and so does whoever comes after the other has ended without it
    let id = joining.id();
    drop(joining);
    place.reopen().expire_session(id, id, "cut off").unwrap();
    assert!(join().is_some());
    drop(beside);
    assert_eq!(live(&place.reopen()).len(), 1);
}

#[test]
fn parts_that_were_joined_are_no_loss_when_they_go() {
    let (place, _, source) = world();
    for night in ["1", "2", "3", "4"] {
        std::fs::write(source.join("large"), format!("night {night}")).unwrap();
        let parts: Vec<_> = (0..COUNT).map(|index| take(&place, &source, night, index).snapshot.unwrap()).collect();
        place.reopen().join_if_complete(&parts[0].snapshot, &JoinOptions::default(), &Silent).unwrap().unwrap();
    }
    let repository = place.reopen();
    let all = live(&repository);
    forget(&repository, all[..3].iter().map(|info| info.id).collect());
    // 15 of 16 go, but only three of them are snapshots to anybody
    let mut options = prune_all();
    options.max_delete = 0.9;
    let report = repository.prune(&options, &Silent).unwrap();
    assert_eq!((report.snapshots_deleted, report.plan.parts), (15, (0, 12)));
    assert_good(&place.reopen());
}

#[test]
fn parts_that_nobody_has_joined_count_as_what_would_be_lost() {
    let (place, repository, source) = world();
    backup(&repository, std::slice::from_ref(&source));
    let parts: Vec<_> = ["1", "2", "3", "4"]
        .into_iter()
        .flat_map(|night| {
            (0..COUNT).map(|index| take(&place, &source, night, index).snapshot.unwrap().id).collect::<Vec<_>>()
        })
        .collect();
    let repository = place.reopen();
    forget(&repository, parts);
    let mut options = prune_all();
    options.max_delete = 0.9;
    let error = repository.prune(&options, &Silent).unwrap_err();
    assert!(matches!(error, Error::TooMuchToDelete { .. }), "{error}");
}
