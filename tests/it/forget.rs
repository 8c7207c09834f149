//! Forgetting snapshots: plans say why, tombstones hide, and until something is condemned all of it can be taken back.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use lakebed_engine::backup::BackupOptions;
use lakebed_engine::core::codec::seal::Encryption;
use lakebed_engine::core::id::SnapshotId;
use lakebed_engine::core::layout;
use lakebed_engine::core::monitor::Monitor;
use lakebed_engine::core::record::RECORD_VERSION;
use lakebed_engine::core::record::gc::{Resolution, Tombstone, Verdict};
use lakebed_engine::core::retention::{Count, Policy};
use lakebed_engine::core::storage::{ObjectKey, Storage, StorageError, StorageErrorKind};
use lakebed_engine::core::time::Timestamp;
use lakebed_engine::forget::{Choice, Decision, ForgetOptions, ForgetPlan, GroupBy};
use lakebed_engine::repository::SnapshotFilter;
use lakebed_engine::source::FilterOptions;
use lakebed_engine::storage::{MemoryStorage, ReadOnlyStorage};
use lakebed_engine::{Error, OpenOptions, Repository, Silent};
use lakebed_testkit::clock::FakeClock;
use lakebed_testkit::storage::{
    Call, CountingStorage, Fault, FaultStorage, Hook, Hooked, Operation, RecordingStorage, is_stopped,
};

use crate::common::*;

fn time(text: &str) -> Timestamp {
    text.parse::<jiff::Timestamp>().unwrap().into()
}

/// Makes a snapshot of a source that stands for that moment, as that host.
fn snapshot_of_host(repository: &Repository, source: &Path, at: &str, host: &str) -> SnapshotId {
    let options = BackupOptions { time: Some(time(at)), host: host.into(), ..options() };
    let report = backup_with(repository, &[source.to_path_buf()], &options, &FilterOptions::default());
    report.snapshot.unwrap().id
}

/// A repository in memory with a snapshot for each of those nights, oldest first.
struct Nights {
    place: Place,
    repository: Repository,
    source: PathBuf,
    ids: Vec<SnapshotId>,
}

impl Nights {
    fn new(nights: &[&str]) -> Self {
        let (place, repository) = Place::memory(Encryption::Aes256Gcm);
        let source = place.path("source");
        std::fs::create_dir(&source).unwrap();
        let mut ids = Vec::new();
        for night in nights {
            std::fs::write(source.join("file"), night).unwrap();
            ids.push(snapshot_of_host(&repository, &source, night, "host"));
        }
        Self { place, repository, source, ids }
    }

    fn three() -> Self {
        Self::new(&["2026-03-01T02:00:00Z", "2026-03-02T02:00:00Z", "2026-03-03T02:00:00Z"])
    }

    /// Opens the repository over a decorated storage.
    fn over(&self, storage: Arc<dyn Storage>) -> Repository {
        Repository::open(storage, &secret(), &OpenOptions::default()).unwrap()
    }
}

fn keep_last(count: u32) -> ForgetOptions {
    let policy = Policy { last: Count::AtMost(count), ..Policy::default() };
    with_policy(policy)
}

fn with_policy(policy: Policy) -> ForgetOptions {
    let choice = Choice::Policy { policy, filter: SnapshotFilter::default() };
    ForgetOptions { zone: jiff::tz::TimeZone::UTC, ..ForgetOptions::new(choice) }
}

fn by_id(ids: &[SnapshotId]) -> ForgetOptions {
    ForgetOptions::new(Choice::Snapshots(ids.iter().copied().collect()))
}

fn forget(repository: &Repository, options: &ForgetOptions) -> Vec<SnapshotId> {
    let plan = repository.plan_forget(options).unwrap();
    repository.apply_forget(&plan, &Silent).unwrap().forgotten
}

fn live(repository: &Repository) -> Vec<SnapshotId> {
    repository.catalogue().unwrap().snapshots.iter().map(|info| info.id).collect()
}

fn forgotten(repository: &Repository) -> Vec<SnapshotId> {
    repository.forgotten_snapshots().unwrap().snapshots.iter().map(|forgotten| forgotten.info.id).collect()
}

/// Returns what a plan says of each snapshot.
fn said(plan: &ForgetPlan) -> Vec<String> {
    let all = plan.groups.iter().flat_map(|group| &group.snapshots);
    let text =
        |decision: &Decision| decision.reasons().into_iter().map(|(_, text)| text).collect::<Vec<_>>().join(", ");
    all.map(|planned| text(&planned.decision)).collect()
}

/// Puts what a prune puts when it condemns a forgotten snapshot.
fn condemn(repository: &Repository, id: SnapshotId, number: u32) {
    let resolution = Resolution {
        version: RECORD_VERSION,
        time: repository.clock().now(),
        verdict: Verdict::Condemned,
        generation: Some(1),
        unknown: Default::default(),
    };
    repository.store().put_record(&layout::resolution(id, number), &resolution, repository.random()).unwrap();
}

fn delete_all(storage: &dyn Storage, prefix: &str) {
    for object in storage.list(prefix).unwrap() {
        storage.delete(&object.key).unwrap();
    }
}

#[test]
fn a_plan_explains_each_snapshot_and_its_tombstones_hide() {
    let Nights { repository, ids, .. } = &Nights::three();
    let policy = Policy { last: Count::AtMost(1), weekly: Count::AtMost(1), ..Policy::default() };
    let plan = repository.plan_forget(&with_policy(policy)).unwrap();
    assert_eq!(said(&plan), ["no rule keeps it", "no rule keeps it", "last 1 of 1, weekly 2026-W10"]);
    assert_eq!(plan.rule, "keep last 1, weekly 1");
    assert_eq!(
        plan.groups[0].key.to_string(),
        format!("host host, {}", plan.groups[0].key.sources.as_ref().unwrap()[0])
    );
    assert_eq!(live(repository), *ids, "a plan changes nothing");

    let report = repository.apply_forget(&plan, &Silent).unwrap();
    assert_eq!(report.forgotten, ids[..2]);
    assert_eq!(live(repository), ids[2..]);
    let catalogue = repository.forgotten_snapshots().unwrap();
    assert_eq!(forgotten(repository), ids[..2]);
    assert_eq!(catalogue.snapshots[0].tombstone.as_ref().unwrap().reason, "keep last 1, weekly 1");
    assert_good(repository);
}

#[test]
fn planning_writes_nothing_and_forgetting_only_tombstones() {
    let nights = Nights::three();
    let counting = CountingStorage::new(nights.place.storage.clone());
    let repository = nights.over(Arc::new(ReadOnlyStorage::new(nights.place.storage.clone())));
    let plan = repository.plan_forget(&keep_last(1)).unwrap();
    let refused = repository.apply_forget(&plan, &Silent).unwrap_err();
    assert!(matches!(&refused, Error::Storage(error) if error.kind == StorageErrorKind::ReadOnly), "{refused:?}");

    let repository = nights.over(Arc::new(counting.clone()));
    counting.take();
    repository.apply_forget(&plan, &Silent).unwrap();
    let counts = counting.counts();
    assert_eq!(counts.stored("").calls, 2, "{counts:?}");
    assert_eq!(counts.stored(layout::FORGOTTEN).calls, 2, "{counts:?}");
    assert_eq!(counts.of(Operation::Delete).calls, 0, "{counts:?}");
    assert_eq!(counts.of(Operation::Sync).calls, 1, "{counts:?}");
}

#[test]
fn tombstones_are_durable_when_they_are_reported() {
    let nights = Nights::three();
    let recording = RecordingStorage::new(nights.place.storage.clone());
    let repository = nights.over(Arc::new(recording.clone()));
    for act in [true, false] {
        recording.take_log();
        match act {
            true => drop(forget(&repository, &keep_last(1))),
            false => repository.undo_forget(&nights.ids[..2]).unwrap(),
        }
        let log = recording.take_log();
        let last_put = log.iter().rposition(|record| record.operation == Operation::Put).unwrap();
        assert!(log[last_put..].iter().any(|record| record.operation == Operation::Sync), "{log:?}");
    }
}

#[test]
fn to_forget_twice_forgets_once_and_after_an_undo_again() {
    let Nights { repository, ids, place, .. } = &Nights::three();
    let plan = repository.plan_forget(&keep_last(2)).unwrap();
    assert_eq!(repository.apply_forget(&plan, &Silent).unwrap().forgotten, ids[..1]);
    let again = repository.apply_forget(&plan, &Silent).unwrap();
    assert_eq!((again.forgotten.len(), &again.forgotten_before[..]), (0, &ids[..1]));

    repository.undo_forget(&ids[..1]).unwrap();
    assert_eq!(live(repository), *ids);
    assert!(forgotten(repository).is_empty());
    // once more changes nothing
    repository.undo_forget(ids).unwrap();

    assert_eq!(forget(repository, &by_id(&ids[..1])), ids[..1]);
    assert_eq!(live(repository), ids[1..]);
    let names: Vec<_> = place.storage.list(layout::FORGOTTEN).unwrap().into_iter().map(|object| object.key).collect();
    let expected = [layout::resolution(ids[0], 0), layout::tombstone(ids[0], 0), layout::tombstone(ids[0], 1)];
    assert_eq!(names, expected);
}

#[test]
fn each_group_is_decided_over_by_itself() {
    let Nights { repository, ids, source, .. } = &Nights::three();
    let other = snapshot_of_host(repository, source, "2026-03-01T02:00:00Z", "other");
    let first = ids[0];
    repository.annotate(&latest(repository), vec!["gold".into()], String::new()).unwrap();
    let gold = latest(repository).id;

    let plan = |group_by, count| repository.plan_forget(&ForgetOptions { group_by, ..keep_last(count) }).unwrap();
    let sizes = |plan: &ForgetPlan| plan.groups.iter().map(|group| group.snapshots.len()).collect::<Vec<_>>();
    assert_eq!(sizes(&plan(GroupBy::default(), 1)), [3, 1]);
    assert_eq!(sizes(&plan(GroupBy { tags: true, ..GroupBy::default() }, 1)), [2, 1, 1]);
    let all = plan(GroupBy { host: false, source: false, tags: false }, 3);
    assert_eq!(sizes(&all), [4]);
    assert_eq!(all.forgotten().count(), 1);
    assert_eq!(all.groups[0].key.to_string(), "the repository");

    // what the filter leaves out neither counts nor goes
    let filter =
        SnapshotFilter { hosts: vec!["host".into()], until: Some(time("2026-03-02T12:00:00Z")), ..Default::default() };
    let policy = Policy { last: Count::AtMost(1), ..Policy::default() };
    let plan = repository.plan_forget(&ForgetOptions::new(Choice::Policy { policy, filter })).unwrap();
    assert_eq!(plan.forgotten().map(|info| info.id).collect::<Vec<_>>(), [first]);
    assert_eq!((plan.groups.len(), plan.groups[0].others), (1, 1));

    let kept = Policy { tags: vec![vec!["gold".into()]], ..Policy::default() };
    let options = ForgetOptions { group_by: GroupBy { host: false, ..GroupBy::default() }, ..with_policy(kept) };
    forget(repository, &options);
    assert_eq!(live(repository), [gold]);
    assert!(forgotten(repository).contains(&other));
}

#[test]
fn no_group_is_left_without_a_snapshot_unless_that_is_said() {
    let Nights { repository, ids, .. } = &Nights::three();
    let refused = |options: &ForgetOptions| repository.plan_forget(options).unwrap_err();
    assert!(matches!(refused(&with_policy(Policy::default())), Error::NothingToKeep));
    let tagged = with_policy(Policy { tags: vec![vec!["none has it".into()]], ..Policy::default() });
    for options in [&tagged, &by_id(ids)] {
        let error = refused(options);
        assert!(matches!(&error, Error::EmptiesGroup { forgotten: 3, .. }), "{error:?}");
        assert!(error.to_string().starts_with("No snapshot of host host, file:///"), "{error}");
    }
    assert_eq!(live(repository), *ids);
    assert_eq!(forget(repository, &by_id(&ids[..2])), ids[..2]);
    // the last one of what is left
    assert!(matches!(refused(&by_id(&ids[2..])), Error::EmptiesGroup { forgotten: 1, .. }));
    let all = ForgetOptions { allow_empty: true, ..with_policy(Policy::default()) };
    assert_eq!(forget(repository, &all), ids[2..]);
    assert!(live(repository).is_empty());
    repository.undo_forget(ids).unwrap();
    assert_eq!(live(repository), *ids);
}

#[test]
fn a_snapshot_that_is_not_there_cannot_be_named() {
    let Nights { repository, ids, .. } = &Nights::three();
    forget(repository, &by_id(&ids[..1]));
    for id in [ids[0], SnapshotId::new([9; 32])] {
        let error = repository.plan_forget(&by_id(&[ids[1], id])).unwrap_err();
        assert!(matches!(&error, Error::NoSnapshot { selector } if *selector == id.to_string()), "{error:?}");
    }
    let prefix = |id: SnapshotId| id.to_string()[..12].to_owned();
    assert_eq!(repository.find_forgotten(&prefix(ids[0])).unwrap(), ids[0]);
    let live = repository.find_forgotten(&prefix(ids[1])).unwrap_err();
    assert!(matches!(live, Error::NotForgotten { snapshot } if snapshot == ids[1]), "{live:?}");
    assert!(matches!(repository.find_forgotten(&"0".repeat(32)).unwrap_err(), Error::NoSnapshot { .. }));
    forget(repository, &by_id(&ids[1..2]));
    assert!(matches!(repository.find_forgotten("").unwrap_err(), Error::AmbiguousSnapshot { count: 2, .. }));
}

#[test]
fn partial_snapshots_do_not_push_out_the_newest_complete_one() {
    let (place, repository) = Place::memory(Encryption::None);
    let sources = [place.path("there"), place.path("gone")];
    sources.iter().for_each(|source| std::fs::create_dir(source).unwrap());
    for night in ["2026-03-01T02:00:00Z", "2026-03-02T02:00:00Z", "2026-03-03T02:00:00Z", "2026-03-04T02:00:00Z"] {
        let options = BackupOptions { time: Some(time(night)), ..options() };
        if night > "2026-03-03" && sources[1].exists() {
            std::fs::remove_dir(&sources[1]).unwrap();
        }
        backup_with(&repository, &sources, &options, &FilterOptions::default());
    }
    let plan = repository.plan_forget(&keep_last(2)).unwrap();
    assert_eq!(said(&plan), ["no rule keeps it", "newest complete one", "last 2 of 2", "last 1 of 2"]);
    let complete: Vec<_> = plan.groups[0].snapshots.iter().map(|p| p.info.snapshot.is_complete()).collect();
    assert_eq!(complete, [true, true, false, false]);
}

#[test]
fn what_cannot_be_read_is_not_forgotten_and_keeps_nothing_else() {
    let (place, repository) = Place::over_folder(Encryption::Aes256Gcm);
    let source = place.path("source");
    std::fs::create_dir(&source).unwrap();
    let days = ["2026-03-01", "2026-03-02", "2026-03-03", "2026-03-04"];
    let ids: Vec<_> =
        days.iter().map(|day| snapshot_of_host(&repository, &source, &format!("{day}T02:00:00Z"), "host")).collect();
    let info = repository.catalogue().unwrap().snapshots.remove(2);
    repository.annotate(&info, vec!["keep".into()], String::new()).unwrap();
    let flip = lakebed_testkit::damage::Damage::FlipByte { offset: 60, mask: 1 };
    for key in [layout::snapshot(ids[3]), layout::annotation(ids[2], 0)] {
        lakebed_testkit::damage::damage(&place.path("repo").join(key.as_str()), flip).keep();
    }
    let plan = repository.plan_forget(&keep_last(1)).unwrap();
    assert_eq!(said(&plan), ["no rule keeps it", "last 1 of 1", "its tags cannot be read"]);
    let damaged: BTreeSet<_> = plan.damaged.iter().map(|(key, _)| key.clone()).collect();
    assert_eq!(damaged, BTreeSet::from([layout::annotation(ids[2], 0), layout::snapshot(ids[3])]));
    repository.apply_forget(&plan, &Silent).unwrap();
    assert_eq!(live(&repository), ids[1..3]);
    // whoever names it has looked at it
    assert_eq!(forget(&repository, &by_id(&ids[2..3])), ids[2..3]);
}

#[test]
fn a_condemned_snapshot_cannot_be_brought_back() {
    let Nights { repository, ids, place, .. } = &Nights::three();
    forget(repository, &by_id(&ids[..2]));
    condemn(repository, ids[1], 0);
    assert_eq!(forgotten(repository), ids[..1], "what cannot be brought back is not offered");
    assert_eq!(repository.find_forgotten(&ids[1].to_string()).unwrap(), ids[1]);
    let error = repository.undo_forget(&ids[..2]).unwrap_err();
    assert!(matches!(error, Error::Condemned { snapshot } if snapshot == ids[1]), "{error:?}");
    assert_eq!(live(repository), ids[2..], "nothing is brought back where one cannot be");

    // a prune that is cut off while it cleans up leaves a tombstone alone
    place.storage.delete(&layout::snapshot(ids[1])).unwrap();
    place.storage.delete(&layout::resolution(ids[1], 0)).unwrap();
    assert_eq!(forgotten(repository), ids[..1]);
    let error = repository.undo_forget(&ids[1..2]).unwrap_err();
    assert!(matches!(error, Error::Condemned { snapshot } if snapshot == ids[1]), "{error:?}");
    assert!(place.storage.size(&layout::resolution(ids[1], 0)).is_err());
    repository.undo_forget(&ids[..1]).unwrap();
    assert_eq!(live(repository), [ids[0], ids[2]]);
}

/// Does something beside the storage right before the first call of an operation under a prefix.
struct Before<F> {
    operation: Operation,
    prefix: &'static str,
    act: Mutex<Option<F>>,
}

impl<F> std::fmt::Debug for Before<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Before")
    }
}

impl<F: FnOnce() + Send> Hook for Before<F> {
    type Ticket = ();

    fn before(&self, call: &Call<'_>) -> Result<(), StorageError> {
        if call.operation == self.operation && call.key.starts_with(self.prefix) {
            let act = self.act.lock().unwrap().take();
            act.into_iter().for_each(|act| act());
        }
        Ok(())
    }

    fn after(&self, _: &Call<'_>, (): (), _: Option<u64>) -> Result<(), StorageError> {
        Ok(())
    }
}

fn before<F: FnOnce() + Send + 'static>(nights: &Nights, operation: Operation, act: F) -> Repository {
    let act = Mutex::new(Some(act));
    let hook = Before { operation, prefix: layout::FORGOTTEN, act };
    nights.over(Arc::new(Hooked::with_hook(nights.place.storage.clone(), hook)))
}

#[test]
fn two_may_forget_the_same_at_once() {
    let nights = Nights::three();
    let other = nights.repository.clone();
    let slow = before(&nights, Operation::Put, move || drop(forget(&other, &keep_last(2))));
    let plan = slow.plan_forget(&keep_last(1)).unwrap();
    let report = slow.apply_forget(&plan, &Silent).unwrap();
    assert_eq!(report.forgotten_before, nights.ids[..1]);
    assert_eq!(report.forgotten, nights.ids[1..2]);
    assert_eq!(live(&nights.repository), nights.ids[2..]);
}

#[test]
fn of_undoing_and_condemning_one_wins() {
    let nights = Nights::three();
    let id = nights.ids[0];
    forget(&nights.repository, &by_id(&[id]));
    let other = nights.repository.clone();
    let slow = before(&nights, Operation::Put, move || condemn(&other, id, 0));
    let error = slow.undo_forget(&[id]).unwrap_err();
    assert!(matches!(error, Error::Condemned { snapshot } if snapshot == id), "{error:?}");
    assert_eq!(live(&nights.repository), nights.ids[1..]);

    // the other way round the snapshot stays: the key is taken
    let id = nights.ids[1];
    forget(&nights.repository, &by_id(&[id]));
    nights.repository.undo_forget(&[id]).unwrap();
    let taken = nights.place.storage.put(&layout::resolution(id, 0), b"condemned").unwrap_err();
    assert_eq!(taken.kind, StorageErrorKind::AlreadyExists);
    assert_eq!(live(&nights.repository), nights.ids[1..]);
}

/// A prune condemns, frees and cleans up between two steps of an undo: its verdict is gone by then, and so is the snapshot.
#[test]
fn an_undo_that_comes_after_everything_was_freed_says_so() {
    let nights = Nights::three();
    let id = nights.ids[0];
    forget(&nights.repository, &by_id(&[id]));
    let storage = nights.place.storage.clone();
    let slow = before(&nights, Operation::Put, move || {
        storage.delete(&layout::snapshot(id)).unwrap();
        delete_all(&*storage, layout::FORGOTTEN);
    });
    let error = slow.undo_forget(&[id]).unwrap_err();
    assert!(matches!(error, Error::Condemned { snapshot } if snapshot == id), "{error:?}");
    assert!(nights.place.storage.list(layout::FORGOTTEN).unwrap().is_empty(), "nothing is left of it");
    // and one that begins after that does not say that the snapshot is back
    let error = nights.repository.undo_forget(&[id]).unwrap_err();
    assert!(matches!(&error, Error::NoSnapshot { selector } if *selector == id.to_string()), "{error:?}");
}

#[test]
fn damaged_tombstones_and_resolutions_are_told_of() {
    let (place, repository) = Place::over_folder(Encryption::Aes256Gcm);
    let source = place.path("source");
    std::fs::create_dir(&source).unwrap();
    let days = ["2026-03-01", "2026-03-02", "2026-03-03"];
    let ids: Vec<_> =
        days.iter().map(|day| snapshot_of_host(&repository, &source, &format!("{day}T02:00:00Z"), "host")).collect();
    forget(&repository, &by_id(&ids[..2]));
    let flip = lakebed_testkit::damage::Damage::FlipByte { offset: 60, mask: 1 };
    let harm = |key: ObjectKey| lakebed_testkit::damage::damage(&place.path("repo").join(key.as_str()), flip).keep();
    harm(layout::tombstone(ids[0], 0));
    let catalogue = repository.forgotten_snapshots().unwrap();
    assert_eq!(catalogue.snapshots.len(), 2);
    assert!(catalogue.snapshots[0].tombstone.is_none() && catalogue.snapshots[1].tombstone.is_some());
    assert_eq!(catalogue.damaged[0].0, layout::tombstone(ids[0], 0));
    repository.undo_forget(&ids[..1]).unwrap();
    assert_eq!(live(&repository), [ids[0], ids[2]]);

    // nobody can say which way it went: it is shown, and may be forgotten anew
    condemn(&repository, ids[1], 0);
    harm(layout::resolution(ids[1], 0));
    assert_eq!(live(&repository), ids);
    assert_eq!(forget(&repository, &by_id(&ids[1..2])), ids[1..2]);
    assert_eq!(live(&repository), [ids[0], ids[2]]);
}

#[test]
fn what_others_plant_among_tombstones_breaks_nothing() {
    let Nights { repository, ids, place, .. } = &Nights::three();
    for name in [
        format!("forgotten/{}/ffffffff/tombstone", ids[0]),
        format!("forgotten/{}/00000000", ids[0]),
        "forgotten/abc".into(),
    ] {
        place.storage.put(&ObjectKey::new(name).unwrap(), b"planted").unwrap();
    }
    assert_eq!(live(repository), *ids);
    assert_eq!(forget(repository, &by_id(&ids[..1])), ids[..1]);
    repository.undo_forget(&ids[..1]).unwrap();
    assert_eq!(live(repository), *ids);
}

#[test]
fn forgetting_that_is_cut_off_anywhere_is_finished_by_the_next() {
    let nights = Nights::three();
    let all = nights.place.storage.list("").unwrap();
    let plan = nights.repository.plan_forget(&keep_last(1)).unwrap();
    for writes in 0..=3 {
        let storage = Arc::new(MemoryStorage::new());
        for object in &all {
            storage.put(&object.key, &nights.place.storage.get(&object.key).unwrap()).unwrap();
        }
        let faults = FaultStorage::new(storage.clone());
        let repository = nights.over(Arc::new(faults.clone()));
        faults.stop_after_writes(writes);
        let result = repository.apply_forget(&plan, &Silent);
        assert!(result.is_ok() || is_stopped(&result.unwrap_err()));
        faults.heal();
        assert_eq!(live(&repository).len(), 3 - writes.min(2) as usize);
        assert_good(&repository);
        repository.apply_forget(&plan, &Silent).unwrap();
        assert_eq!(live(&repository), nights.ids[2..]);
    }
}

#[test]
fn a_failing_storage_fails_the_forgetting() {
    let nights = Nights::three();
    let faults = FaultStorage::new(nights.place.storage.clone());
    let repository = nights.over(Arc::new(faults.clone()));
    let plan = repository.plan_forget(&keep_last(1)).unwrap();
    for operation in [Operation::Put, Operation::Sync, Operation::List] {
        faults.inject(Fault::kind(StorageErrorKind::NoSpace).on(operation));
        let error = repository.apply_forget(&plan, &Silent).unwrap_err();
        assert!(matches!(&error, Error::Storage(error) if error.kind == StorageErrorKind::NoSpace), "{error:?}");
    }
    faults.heal();
    repository.apply_forget(&plan, &Silent).unwrap();
    assert_eq!(live(&repository), nights.ids[2..]);
}

#[test]
fn forgetting_can_be_interrupted() {
    struct Stop;
    impl Monitor for Stop {
        fn is_cancelled(&self) -> bool {
            true
        }
    }
    let Nights { repository, ids, .. } = &Nights::three();
    let plan = repository.plan_forget(&keep_last(1)).unwrap();
    assert!(matches!(repository.apply_forget(&plan, &Stop), Err(Error::Interrupted)));
    assert_eq!(live(repository), *ids);
}

#[test]
fn a_backup_goes_on_whose_parent_is_forgotten_and_is_not_compared_with_it_again() {
    struct Forget<'a>(&'a Repository, Mutex<bool>);
    impl Monitor for Forget<'_> {
        fn phase(&self, phase: lakebed_engine::Phase, _: Option<lakebed_engine::Progress>) {
            if phase == lakebed_engine::Phase::Commit && !std::mem::replace(&mut *self.1.lock().unwrap(), true) {
                let all = ForgetOptions { allow_empty: true, ..with_policy(Policy::default()) };
                forget(self.0, &all);
            }
        }
    }
    let Nights { repository, ids, source, .. } = &Nights::three();
    let filter = Arc::new(lakebed_engine::source::Filter::new(&FilterOptions::default()).unwrap());
    let mounts =
        lakebed_engine::source::local_mounts(std::slice::from_ref(source), &filter, &Default::default()).unwrap();
    let monitor = Forget(repository, Mutex::new(false));
    let report = repository.backup(mounts, &options(), &monitor).unwrap();
    assert_eq!(report.parent, Some(ids[2]));
    let new = report.snapshot.unwrap().id;
    assert_eq!(live(repository), [new]);
    assert_good(repository);
    let next = backup(repository, std::slice::from_ref(source));
    assert_eq!(next.parent, Some(new));
}

#[test]
fn snapshots_in_the_future_are_pointed_out_and_push_nothing_out() {
    let (place, _) = Place::memory(Encryption::Aes256Gcm);
    let source = place.path("source");
    std::fs::create_dir(&source).unwrap();
    let clock = Arc::new(FakeClock::new(time("2026-03-03T12:00:00Z")));
    let open = OpenOptions { clock, ..place.open.clone() };
    let repository = Repository::open(place.storage.clone(), &secret(), &open).unwrap();
    for night in ["2026-03-02T02:00:00Z", "2026-03-03T02:00:00Z", "2027-03-03T02:00:00Z"] {
        snapshot_of_host(&repository, &source, night, "host");
    }
    let plan = repository.plan_forget(&keep_last(1)).unwrap();
    assert_eq!(said(&plan), ["no rule keeps it", "newest one that is not in the future", "last 1 of 1"]);
    let future: Vec<_> = plan.groups[0].snapshots.iter().map(|planned| planned.is_in_future).collect();
    assert_eq!(future, [false, false, true]);
}

#[test]
fn a_tombstone_says_when_and_why() {
    let Nights { repository, ids, .. } = &Nights::three();
    forget(repository, &by_id(&ids[..1]));
    let tombstone: Tombstone = repository.store().read_record(&layout::tombstone(ids[0], 0)).unwrap();
    assert_eq!(tombstone.reason, "by id");
    assert!(tombstone.time <= repository.clock().now());
}
