//! Prune: what nobody needs goes, and nothing else, whoever runs beside it and wherever it stops.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use lakebed_engine::core::codec::seal::Encryption;
use lakebed_engine::core::id::SessionId;
use lakebed_engine::core::layout;
use lakebed_engine::core::monitor::Monitor;
use lakebed_engine::core::protocol::{PruneStep, Step};
use lakebed_engine::core::record::session::{Outcome, Run};
use lakebed_engine::core::storage::{Storage, StorageError, StorageErrorKind};
use lakebed_engine::core::time::Timestamp;
use lakebed_engine::prune::{PruneOptions, PruneReport, Unfinished, Unused};
use lakebed_engine::repository::SnapshotInfo;
use lakebed_engine::source::Mount;
use lakebed_engine::storage::MemoryStorage;
use lakebed_engine::{Error, OpenOptions, Repository, Silent};
use lakebed_testkit::compare::{CompareOptions, Observation, assert_tree_is, snapshot_of};
use lakebed_testkit::damage::{Damage, damage, object_files, plant};
use lakebed_testkit::source::MemorySource;
use lakebed_testkit::storage::{Call, Fault, FaultStorage, Hook, Hooked, Operation};
use lakebed_testkit::tree::{Content, TreeSpec};

use crate::common::*;

/// A repository whose source changes from night to night, and what each night's snapshot must come back as.
struct Nights {
    place: Place,
    repository: Repository,
    source: PathBuf,
    kept: Vec<(SnapshotInfo, Observation)>,
}

impl Nights {
    fn new(place: (Place, Repository)) -> Self {
        let (place, repository) = place;
        let source = place.path("source");
        TreeSpec::new().file("always", b"the same every night".to_vec()).write(&source);
        Self { place, repository, source, kept: Vec::new() }
    }

    /// Half of the files are new each night, a quarter stays for two nights, one stays for ever.
    fn night(&mut self) -> &SnapshotInfo {
        let night = self.kept.len() as u64;
        self.change(night);
        self.commit()
    }

    fn change(&self, night: u64) {
        for file in 0..20u64 {
            let seed = night * 1000 + file;
            std::fs::write(self.source.join(format!("new-{file}")), Content::random(seed, 3000 + file * 500).bytes())
                .unwrap();
            let slow = night / 2 * 1000 + 500 + file;
            std::fs::write(self.source.join(format!("slow-{file}")), Content::random(slow, 2000).bytes()).unwrap();
        }
        std::fs::write(self.source.join("large"), Content::random(night / 3, 900_000).bytes()).unwrap();
    }

    fn commit(&mut self) -> &SnapshotInfo {
        let report = backup(&self.repository, std::slice::from_ref(&self.source));
        let observed = snapshot_of(&self.source);
        self.kept.push((report.snapshot.unwrap(), observed));
        &self.kept.last().unwrap().0
    }

    fn forget(&mut self, nights: &[usize]) {
        let ids = nights.iter().map(|&night| self.kept[night].0.id).collect();
        forget(&self.repository, ids);
        let mut number = 0;
        self.kept.retain(|_| {
            number += 1;
            !nights.contains(&(number - 1))
        });
    }

    /// Every snapshot that was not forgotten is there, whole, and comes back as it was.
    fn check(&self) {
        self.check_in(&self.place.reopen());
    }

    fn check_in(&self, repository: &Repository) {
        assert_good(repository);
        let listed: Vec<_> = repository.catalogue().unwrap().snapshots.into_iter().map(|info| info.id).collect();
        for (info, observed) in &self.kept {
            assert!(listed.contains(&info.id), "snapshot {} is gone", info.id.short());
            let target = tempfile::TempDir::new().unwrap();
            let restored = restore_to(repository, info, target.path(), &self.source);
            assert_tree_is(observed, &restored, &CompareOptions::default());
        }
    }
}

/// Everything that nobody needs; no waiting.
fn all() -> PruneOptions {
    let mut options = prune_all();
    options.wait = Duration::ZERO;
    options
}

fn prune(repository: &Repository) -> PruneReport {
    repository.prune(&all(), &Silent).unwrap()
}

fn stored_bytes(storage: &dyn Storage) -> u64 {
    storage.list("").unwrap().iter().map(|object| object.size_bytes).sum()
}

#[test]
fn what_nobody_needs_goes_and_everything_else_comes_back() {
    for encryption in [Encryption::Aes256Gcm, Encryption::None] {
        let mut nights = Nights::new(Place::over_folder(encryption));
        for _ in 0..6 {
            nights.night();
        }
        let before = stored_bytes(&*nights.place.storage);
        nights.forget(&[0, 2, 3]);
        let planned = {
            let mut options = all();
            options.dry_run = true;
            nights.repository.prune(&options, &Silent).unwrap()
        };
        assert!(stored_bytes(&*nights.place.storage) < before + 5000, "only the tombstones came");
        let plan = &planned.plan;
        assert_eq!((plan.snapshots_kept, plan.snapshots_forgotten.len()), (3, 3));
        let packs = nights.place.storage.list("packs/").unwrap();
        assert_eq!(
            (plan.all.packs, plan.all.bytes),
            (packs.len() as u64, packs.iter().map(|pack| pack.size_bytes).sum())
        );
        assert_eq!(plan.all.packs, plan.kept.packs + plan.repacked.packs + plan.deleted.packs);
        let report = prune(&nights.repository);
        let runs = nights.place.storage.list(layout::RUNS).unwrap().into_iter();
        let runs = runs.map(|object| nights.repository.store().read_record::<Run>(&object.key).unwrap());
        let [run] = &runs.filter(|run| run.command == "prune").collect::<Vec<_>>()[..] else { panic!("one prune") };
        assert!(run.outcome == Outcome::Done && run.summary.started > Timestamp::default(), "{run:?}");
        assert!(run.summary.finished >= run.summary.started, "{run:?}");
        assert_eq!(report.plan, planned.plan);
        assert_eq!(report.snapshots_deleted, 3);
        assert_eq!(report.unfinished, None);
        assert!(report.deleted.packs > 0, "{report:?}");
        // what is written anew differs a little in its length from what was planned
        let freed = report.deleted.bytes - report.written.bytes;
        assert!(report.plan.freed_bytes().abs_diff(freed) < freed / 10, "{report:?}");
        nights.check_in(&nights.repository);
        // a second one finds nothing to do
        let again = prune(&nights.repository);
        assert_eq!((again.generation, again.plan.unused_bytes), (None, 0), "{again:?}");
        // and nothing is left of what the first one needed
        let left = nights.place.storage.list("").unwrap();
        let left: Vec<_> = left.iter().map(|object| object.key.as_str()).collect();
        for prefix in ["forgotten/", "gc/"] {
            let found: Vec<_> = left.iter().filter(|key| key.starts_with(prefix) && !key.ends_with("/done")).collect();
            assert!(found.is_empty(), "{found:?}");
        }
    }
}

/// With nothing unused and no small packs the repository is as small as one made of the same snapshots alone.
#[test]
fn a_pruned_repository_is_as_small_as_a_fresh_one() {
    let mut nights = Nights::new(Place::over_folder(Encryption::Aes256Gcm));
    let mut fresh = Nights::new(Place::over_folder(Encryption::Aes256Gcm));
    for night in 0..10 {
        nights.night();
        if night >= 8 {
            fresh.change(night);
            fresh.commit();
        }
    }
    nights.forget(&[0, 1, 2, 3, 4, 5, 6, 7]);
    let mut options = all();
    options.repack_small = true;
    nights.repository.prune(&options, &Silent).unwrap();
    fresh.repository.prune(&options, &Silent).unwrap();
    nights.check();
    fresh.check();
    let packs = |nights: &Nights| -> u64 {
        nights.place.storage.list("packs/").unwrap().iter().map(|object| object.size_bytes).sum()
    };
    let (pruned, made) = (packs(&nights), packs(&fresh));
    assert!(pruned * 10 <= made * 11, "{pruned} bytes in packs, {made} in a fresh repository");
}

#[test]
fn what_is_left_unused_stays_within_its_limit() {
    let mut nights = Nights::new(Place::over_folder(Encryption::Aes256Gcm));
    for _ in 0..6 {
        nights.night();
    }
    nights.forget(&[0, 1, 3]);
    let mut options = all();
    options.max_unused = Unused::Unlimited;
    let lazy = nights.repository.prune(&options, &Silent).unwrap();
    assert_eq!(lazy.written.packs, 0, "nothing is written anew: {lazy:?}");
    options.max_unused = Unused::Bytes(0);
    options.max_repack = Some(0);
    let bound = nights.repository.prune(&options, &Silent).unwrap();
    assert_eq!(bound.written.packs, 0, "nothing may be written anew: {bound:?}");
    assert!(bound.plan.unused_after_bytes > 0);
    nights.check();
    assert_eq!(prune(&nights.repository).plan.unused_after_bytes, 0);
    nights.check();
}

const STEPS: [PruneStep; 12] = [
    PruneStep::ClaimGeneration,
    PruneStep::CondemnTombstones,
    PruneStep::ChoosePacks,
    PruneStep::PublishCondemned,
    PruneStep::ListSessions,
    PruneStep::AwaitSessions,
    PruneStep::ListSnapshotsAgain,
    PruneStep::CopyLive,
    PruneStep::PublishRemovals,
    PruneStep::DeletePacks,
    PruneStep::DeleteSnapshots,
    PruneStep::MarkDone,
];

/// A whole backup happens between two steps of a prune: one that finds again what was just forgotten, and needs it.
#[test]
fn a_backup_between_any_two_steps_keeps_what_it_found() {
    for step in STEPS {
        let mut nights = Nights::new(Place::local());
        for _ in 0..4 {
            nights.night();
        }
        nights.forget(&[0, 1]);
        let other = nights.place.path("another-cache");
        let open = OpenOptions { cache_dir: Some(other), ..nights.place.open.clone() };
        let beside = Repository::open(nights.place.storage.clone(), &secret(), &open).unwrap();
        let source = nights.source.clone();
        let made = Mutex::new(None);
        {
            let nights = &nights;
            let made = &made;
            let at = At::new(step, move || {
                nights.change(0);
                let report = backup(&beside, std::slice::from_ref(&source));
                *made.lock().unwrap() = Some((report.snapshot.unwrap(), snapshot_of(&source)));
            });
            nights.repository.prune(&all(), &at).unwrap();
        }
        let made = made.into_inner().unwrap().unwrap_or_else(|| panic!("{step:?} was not announced"));
        nights.kept.push(made);
        nights.check();
        prune(&nights.place.reopen());
        nights.check();
    }
}

/// Does something once, right before a call to storage or right after it.
struct Around {
    before: Box<dyn Fn(&Call<'_>) -> bool + Send + Sync>,
    after: Box<dyn Fn(&Call<'_>) -> bool + Send + Sync>,
    act: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Around {
    fn before(is_it: impl Fn(&Call<'_>) -> bool + Send + Sync + 'static, act: impl FnOnce() + Send + 'static) -> Self {
        Self { before: Box::new(is_it), after: Box::new(|_| false), act: Mutex::new(Some(Box::new(act))) }
    }

    fn after(is_it: impl Fn(&Call<'_>) -> bool + Send + Sync + 'static, act: impl FnOnce() + Send + 'static) -> Self {
        Self { before: Box::new(|_| false), after: Box::new(is_it), act: Mutex::new(Some(Box::new(act))) }
    }

    fn act_if(&self, is_now: bool) {
        if is_now && let Some(act) = self.act.lock().unwrap().take() {
            act();
        }
    }
}

impl std::fmt::Debug for Around {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Around")
    }
}

impl Hook for Around {
    type Ticket = ();

    fn before(&self, call: &Call<'_>) -> Result<(), StorageError> {
        self.act_if((self.before)(call));
        Ok(())
    }

    fn after(&self, call: &Call<'_>, (): (), _: Option<u64>) -> Result<(), StorageError> {
        self.act_if((self.after)(call));
        Ok(())
    }
}

/// Opens the repository over a storage with such hooks.
fn open_around(place: &Place, hooks: impl IntoIterator<Item = Around>) -> Repository {
    let storage = hooks.into_iter().fold(place.storage.clone(), |storage, hook| -> Arc<dyn Storage> {
        Arc::new(Hooked::with_hook(storage, hook))
    });
    Repository::open(storage, &secret(), &place.open).unwrap()
}

/// What is committed after packs were listed, and before snapshots are, lies in packs that this listing lacks: that is no
/// damage.
#[test]
fn a_backup_that_commits_between_two_listings_is_not_taken_for_damage() {
    let mut nights = Nights::new(Place::over_folder(Encryption::Aes256Gcm));
    for _ in 0..3 {
        nights.night();
    }
    nights.forget(&[0]);
    nights.change(7);
    let (beside, source) = (nights.place.reopen(), nights.source.clone());
    let made = Arc::new(Mutex::new(None));
    let committed = made.clone();
    let act = move || {
        let report = backup(&beside, std::slice::from_ref(&source));
        *committed.lock().unwrap() = Some((report.snapshot.unwrap(), snapshot_of(&source)));
    };
    let hook = Around::after(|call| (call.operation, call.key) == (Operation::List, layout::PACKS), act);
    let pruning = open_around(&nights.place, [hook]);
    let report = prune(&pruning);
    assert!(report.deleted.packs > 0, "{report:?}");
    nights.kept.push(made.lock().unwrap().take().unwrap());
    nights.check();
}

/// Each generation has the lists of one prune: whoever finishes it could not tell those of two apart.
#[test]
fn prunes_that_claim_one_generation_have_one_each() {
    // the other one goes on, stops while it waits, or is done by the time that this one claims
    for stop in [Some(PruneStep::CondemnTombstones), Some(PruneStep::ListSessions), None] {
        let mut nights = Nights::new(Place::over_folder(Encryption::Aes256Gcm));
        for _ in 0..4 {
            nights.night();
        }
        nights.forget(&[0, 1]);
        let beside = nights.place.reopen();
        let act = move || match stop {
            Some(step) => drop(beside.prune(&all(), &StopAt::new(step)).unwrap_err()),
            None => assert_eq!(prune(&beside).generation, Some(1)),
        };
        let hook = Around::before(|call| call.operation == Operation::Put && call.key.ends_with("/claim"), act);
        let pruning = open_around(&nights.place, [hook]);
        assert_eq!(prune(&pruning).generation, Some(2), "{stop:?}");
        nights.check();
        assert_eq!(prune(&nights.repository).unfinished, None, "{stop:?}");
        nights.check();
    }
}

/// Forgetting one of two equal snapshots frees nothing but its record.
#[test]
fn a_snapshot_that_needs_nothing_of_its_own_goes_too() {
    let (place, repository) = Place::over_folder(Encryption::Aes256Gcm);
    // a folder on disk lies in others that change
    let source = Arc::new(MemorySource::new(TreeSpec::new().file("a", Content::random(1, 10_000))));
    let [first, twin] = [0; 2].map(|_| {
        let mount = Mount { tree_path: vec![b"top".to_vec()], ancestors: Vec::new(), source: source.clone() };
        repository.backup(vec![mount], &options(), &Silent).unwrap().snapshot.unwrap()
    });
    assert_eq!(first.snapshot.root, twin.snapshot.root);
    forget(&repository, vec![twin.id]);
    let report = prune(&repository);
    assert_eq!((report.snapshots_deleted, report.deleted.packs), (1, 0), "{report:?}");
    assert!(place.storage.list("forgotten/").unwrap().is_empty());
    assert_eq!(repository.catalogue().unwrap().snapshots.len(), 1);
    assert_good(&place.reopen());
}

/// What a prune that did not get far has claimed goes with the next one that gets to its end, and so does its mark.
#[test]
fn only_the_newest_generation_leaves_a_mark() {
    let mut nights = Nights::new(Place::over_folder(Encryption::Aes256Gcm));
    for _ in 0..4 {
        nights.night();
    }
    let left = |nights: &Nights| -> Vec<String> {
        let objects = nights.place.storage.list("gc/").unwrap();
        objects.iter().map(|object| object.key.as_str().rsplit('/').next().unwrap().to_owned()).collect()
    };
    nights.forget(&[0]);
    let stopped = nights.repository.prune(&all(), &StopAt::new(PruneStep::CondemnTombstones));
    assert!(matches!(stopped, Err(Error::Interrupted)), "{stopped:?}");
    assert_eq!(prune(&nights.repository).generation, Some(2));
    assert_eq!(left(&nights), ["done"]);
    nights.forget(&[0]);
    assert_eq!(prune(&nights.repository).generation, Some(3));
    assert_eq!(left(&nights), ["done"]);
    nights.check();
}

/// Packs that nobody needs are deleted as they are, those that are needed in part are written anew, and of small ones
/// only with others of their kind.
#[test]
fn a_plan_tells_what_is_deleted_from_what_is_written_anew() {
    let mut nights = Nights::new(Place::over_folder(Encryption::Aes256Gcm));
    for _ in 0..4 {
        nights.night();
    }
    let packs = nights.place.storage.list("packs/").unwrap().len() as u64;
    let mut options = all();
    options.repack_small = true;
    options.dry_run = true;
    let joined = nights.repository.prune(&options, &Silent).unwrap().plan;
    assert_eq!((joined.repacked.packs, joined.deleted.packs, joined.unused_bytes), (packs, 0, 0), "{joined:?}");
    options.repack_small = false;
    let kept = nights.repository.prune(&options, &Silent).unwrap().plan;
    assert_eq!((kept.kept.packs, kept.repacked.packs), (packs, 0), "{kept:?}");

    // the second night is needed by nobody else, but for what stays for two nights
    nights.forget(&[1, 2, 3]);
    options.dry_run = false;
    let report = nights.repository.prune(&options, &Silent).unwrap();
    assert!(report.plan.deleted.packs >= 4, "{report:?}");
    assert_eq!(report.plan.repacked.packs, 0, "{report:?}");
    nights.check();
    options.repack_small = true;
    let report = nights.repository.prune(&options, &Silent).unwrap();
    assert_eq!((report.plan.kept.packs, report.written.packs), (2, 0), "one of each kind has no other: {report:?}");
}

/// Chunks of large files are compressed less than small files, since it costs more and gives less: they keep to frames of
/// their own.
#[test]
fn what_is_written_anew_keeps_large_and_small_apart() {
    let mut nights = Nights::new(Place::over_folder(Encryption::Aes256Gcm));
    for _ in 0..3 {
        nights.night();
    }
    nights.forget(&[0]);
    let report = prune(&nights.repository);
    assert!(report.written.packs > 0, "{report:?}");
    let mut frames: BTreeMap<_, Vec<u32>> = BTreeMap::new();
    for (_, place) in nights.place.reopen().index(&Silent).unwrap().all().unwrap() {
        frames.entry((place.pack, place.frame_offset)).or_default().push(place.length);
    }
    // the last chunk of a large file may have any length, but hardly that of a small file
    let is_large = |length: &u32| *length >= 128 << 10;
    let is_small = |length: &u32| *length == 2000 || (0..20).any(|file| *length == 3000 + file * 500);
    assert!(frames.values().flatten().any(is_large));
    for lengths in frames.values() {
        assert!(!lengths.iter().any(is_large) || !lengths.iter().any(is_small), "{lengths:?}");
    }
}

/// A backup that began before anything was condemned ends at any later time; the prune must not delete what it counts on.
#[test]
fn a_backup_that_runs_all_along_keeps_what_it_found() {
    use lakebed_engine::core::protocol::WriterStep;

    /// Runs a prune right before a step of the writer, and once more at the end.
    struct Beside<'a> {
        step: WriterStep,
        repository: &'a Repository,
        report: Mutex<Option<PruneReport>>,
    }
    impl Monitor for Beside<'_> {
        fn step(&self, step: Step) {
            if step == Step::Writer(self.step) {
                *self.report.lock().unwrap() = Some(prune(self.repository));
            }
        }
    }
    for step in [
        WriterStep::Register,
        WriterStep::ReadCondemned,
        WriterStep::FoldSegments,
        WriterStep::ChooseParent,
        WriterStep::StorePacks,
        WriterStep::PublishSegments,
        WriterStep::Commit,
    ] {
        let mut nights = Nights::new(Place::local());
        for _ in 0..4 {
            nights.night();
        }
        nights.forget(&[0, 1]);
        nights.change(0);
        let pruning = nights.place.reopen();
        let beside = Beside { step, repository: &pruning, report: Mutex::new(None) };
        let filter = Arc::new(lakebed_engine::source::Filter::new(&Default::default()).unwrap());
        let mounts =
            lakebed_engine::source::local_mounts(std::slice::from_ref(&nights.source), &filter, &Default::default())
                .unwrap();
        let report = nights.repository.backup(mounts, &options(), &beside).unwrap();
        let first = beside.report.into_inner().unwrap().unwrap();
        if step != WriterStep::Register {
            assert!(matches!(first.unfinished, Some(Unfinished::Waiting(_))), "{step:?}: {first:?}");
            assert_eq!(first.deleted.packs, 0, "{step:?}");
        }
        let observed = snapshot_of(&nights.source);
        nights.kept.push((report.snapshot.unwrap(), observed));
        nights.check();
        // the next one finishes what the first had to leave
        let second = prune(&nights.place.reopen());
        assert_eq!(second.unfinished, None);
        if step != WriterStep::Register {
            assert_eq!(second.taken_over.len(), 1, "{step:?}: {second:?}");
        }
        nights.check();
    }
}

/// A restore that has planned before the packs are rewritten and reads after that finds everything.
#[test]
fn a_reader_finds_what_a_prune_has_moved() {
    let mut nights = Nights::new(Place::local());
    for _ in 0..5 {
        nights.night();
    }
    nights.forget(&[0, 1, 3]);
    let before = nights.place.reopen();
    let reader = before.reader(&Silent).unwrap();
    prune(&nights.repository);
    for (number, (info, observed)) in nights.kept.iter().enumerate() {
        let target = nights.place.path(&format!("out-{number}"));
        let options = lakebed_engine::restore::RestoreOptions { target: target.clone(), ..Default::default() };
        let report = lakebed_engine::restore::restore(&reader, info, &options, &|_, _| {}, &Silent).unwrap();
        assert!(report.failures.is_empty(), "{:?}", report.failures);
        assert_tree_is(observed, &target.join(nights.source.strip_prefix("/").unwrap()), &CompareOptions::default());
    }
}

/// Two prunes at once, one of them begun between two steps of the other.
#[test]
fn two_prunes_do_not_harm_each_other() {
    for step in STEPS {
        let mut nights = Nights::new(Place::local());
        for _ in 0..6 {
            nights.night();
        }
        nights.forget(&[0, 2]);
        let other = nights.place.reopen();
        let second = nights.kept[0].0.id;
        let at = At::new(step, || {
            forget(&other, vec![second]);
            prune(&other);
        });
        let result = nights.repository.prune(&all(), &at);
        result.unwrap_or_else(|error| panic!("{step:?}: {error:?}"));
        nights.kept.remove(0);
        nights.check();
        prune(&nights.place.reopen());
        nights.check();
        assert_eq!(prune(&nights.place.reopen()).plan.unused_bytes, 0, "{step:?}");
    }
}

/// A prune that stops anywhere is finished by the next one.
#[test]
fn a_prune_that_was_cut_off_is_taken_over() {
    for step in STEPS {
        let mut nights = Nights::new(Place::over_folder(Encryption::Aes256Gcm));
        for _ in 0..4 {
            nights.night();
        }
        nights.forget(&[0, 1]);
        let _ = nights.repository.prune(&all(), &StopAt::new(step));
        nights.check();
        nights.night();
        nights.check();
        let report = prune(&nights.repository);
        assert_eq!(report.unfinished, None);
        nights.check();
        assert_eq!(prune(&nights.repository).plan.unused_bytes, 0, "{step:?}");
    }
}

#[test]
fn a_snapshot_can_be_brought_back_until_a_prune_has_condemned_it() {
    let mut nights = Nights::new(Place::over_folder(Encryption::Aes256Gcm));
    for _ in 0..3 {
        nights.night();
    }
    let first = nights.kept[0].0.id;
    // between the plan and the condemnation: it is back, and everything of it is there
    forget(&nights.repository, vec![first]);
    let undoing = nights.place.reopen();
    let at = At::new(PruneStep::CondemnTombstones, || undoing.undo_forget(&[first]).unwrap());
    nights.repository.prune(&all(), &at).unwrap();
    nights.check();
    forget(&nights.repository, vec![first]);
    let too_late = At::new(PruneStep::PublishCondemned, || assert!(undoing.undo_forget(&[first]).is_err()));
    nights.repository.prune(&all(), &too_late).unwrap();
    nights.kept.remove(0);
    nights.check();
}

#[test]
fn brakes_stop_a_prune_before_it_condemns_anything() {
    let mut nights = Nights::new(Place::over_folder(Encryption::Aes256Gcm));
    for _ in 0..4 {
        nights.night();
    }
    let objects = |nights: &Nights| nights.place.storage.list("").unwrap();
    // a snapshot is gone that nobody has forgotten
    let record = |night: usize| {
        let id = nights.kept[night].0.id.to_string();
        nights.place.path("repo/snapshots").join(id)
    };
    for done in [false, true] {
        let (path, bytes) = (record(1), std::fs::read(record(1)).unwrap());
        std::fs::remove_file(&path).unwrap();
        let before = objects(&nights);
        let error = nights.repository.prune(&all(), &Silent).unwrap_err();
        assert!(matches!(&error, Error::SnapshotsVanished { snapshots } if snapshots.len() == 1), "{error:?}");
        assert_eq!(objects(&nights), before);
        // one that cannot be read
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        let before = objects(&nights);
        let error = nights.repository.prune(&all(), &Silent).unwrap_err();
        assert!(matches!(error, Error::UnreadableSnapshots { .. }), "{error:?}");
        assert_eq!(objects(&nights), before);
        std::fs::write(&path, bytes).unwrap();
        if !done {
            // from now on a done mark says which there were
            forget(&nights.repository, vec![nights.kept[3].0.id]);
            prune(&nights.repository);
        }
    }
    nights.kept.remove(3);
    nights.check();
    // too much at once
    forget(&nights.repository, nights.kept.iter().map(|(info, _)| info.id).collect());
    let mut options = all();
    options.max_delete = 0.9;
    let error = nights.repository.prune(&options, &Silent).unwrap_err();
    assert!(matches!(error, Error::TooMuchToDelete { what: "snapshots", share: 100, limit: 90 }), "{error:?}");
    nights.repository.undo_forget(&nights.kept.iter().map(|(info, _)| info.id).collect::<Vec<_>>()).unwrap();
    nights.check();
}

/// A medium with little room.
#[derive(Debug)]
struct Room {
    /// Bytes that are left, and the lengths of the objects that are there.
    state: Mutex<(u64, BTreeMap<String, u64>)>,
    refused: Arc<AtomicU64>,
}

impl Hook for Room {
    type Ticket = ();

    fn keeps_content(&self) -> bool {
        true
    }

    fn before(&self, call: &Call<'_>) -> Result<(), StorageError> {
        let Some(content) = call.content else { return Ok(()) };
        if content.len() as u64 <= self.state.lock().unwrap().0 {
            return Ok(());
        }
        self.refused.fetch_add(1, Ordering::Relaxed);
        Err(StorageError::new("write", call.key, std::io::ErrorKind::StorageFull.into()))
    }

    fn after(&self, call: &Call<'_>, (): (), done: Option<u64>) -> Result<(), StorageError> {
        let (left, lengths) = &mut *self.state.lock().unwrap();
        match (call.content, done) {
            (Some(content), Some(_)) => {
                *left -= content.len() as u64;
                lengths.insert(call.key.to_owned(), content.len() as u64);
            }
            (None, Some(_)) if call.operation == Operation::Delete => *left += lengths.remove(call.key).unwrap_or(0),
            _ => {}
        }
        Ok(())
    }
}

/// What fits of the copies is kept, and what it makes superfluous goes and makes room for the rest.
#[test]
fn copies_that_do_not_fit_at_once_are_made_in_parts() {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new().with_pack_target(60_000));
    let open = OpenOptions::default();
    let repository = Repository::init(storage.clone(), &secret(), &init_options(Encryption::Aes256Gcm), &open).unwrap();
    let place = Place { folder: tempfile::TempDir::new().unwrap(), storage, open };
    let source = place.path("source");
    std::fs::create_dir(&source).unwrap();
    // each night leaves a pack of which a file stays and one goes
    let mut snapshots = Vec::new();
    for night in 0..6 {
        std::fs::write(source.join(format!("stays-{night}")), Content::random(night, 30_000).bytes()).unwrap();
        std::fs::write(source.join("goes"), Content::random(100 + night, 60_000 + night).bytes()).unwrap();
        snapshots.push(backup(&repository, std::slice::from_ref(&source)).snapshot.unwrap().id);
    }
    std::fs::remove_file(source.join("goes")).unwrap();
    let last = backup(&repository, std::slice::from_ref(&source)).snapshot.unwrap();
    forget(&repository, snapshots);
    let refused = Arc::new(AtomicU64::new(0));
    let objects = place.storage.list("").unwrap().into_iter();
    let lengths = objects.map(|object| (object.key.to_string(), object.size_bytes)).collect();
    // less than has to be copied, and more than any one pack needs
    let room = Room { state: Mutex::new((70_000, lengths)), refused: refused.clone() };
    let small = Arc::new(Hooked::with_hook(place.storage.clone(), room));
    let report = Repository::open(small, &secret(), &place.open).unwrap().prune(&all(), &Silent).unwrap();
    assert!(refused.load(Ordering::Relaxed) > 0, "there was room for all at once: {report:?}");
    assert!(report.written.bytes > 150_000 && report.unfinished.is_none(), "{report:?}");
    let restored = restore_to(&place.reopen(), &last, &place.path("out"), &source);
    assert_tree_is(&snapshot_of(&source), &restored, &CompareOptions::default());
    assert_good(&place.reopen());
    assert_eq!(prune(&place.reopen()).plan.unused_bytes, 0);
}

/// Whoever may not delete must not condemn: nobody could bring back what was forgotten, and nothing would be freed.
#[test]
fn where_nothing_may_be_deleted_nothing_is_condemned() {
    let mut nights = Nights::new(Place::over_folder(Encryption::Aes256Gcm));
    for _ in 0..3 {
        nights.night();
    }
    let first = nights.kept[0].0.id;
    forget(&nights.repository, vec![first]);
    let kept = FaultStorage::new(nights.place.storage.clone());
    kept.inject(Fault::os(1).on(Operation::Delete).sticky());
    let pruning = Repository::open(Arc::new(kept), &secret(), &nights.place.open).unwrap();
    let error = pruning.prune(&all(), &Silent).unwrap_err();
    assert!(matches!(&error, Error::Storage(error) if error.kind == StorageErrorKind::PermissionDenied), "{error:?}");
    let left = nights.place.storage.list(layout::GC).unwrap();
    assert!(left.iter().all(|object| object.key.as_str().ends_with("/claim")), "{left:?}");
    nights.repository.undo_forget(&[first]).unwrap();
    nights.check();
    prune(&nights.repository);
    nights.check();
}

/// What a run says it has made is missed also if that was after the last prune; and once that was accepted it is no more.
#[test]
fn a_snapshot_that_vanishes_is_missed_until_that_is_accepted() {
    let mut nights = Nights::new(Place::over_folder(Encryption::Aes256Gcm));
    for _ in 0..3 {
        nights.night();
    }
    nights.forget(&[0]);
    assert_eq!(prune(&nights.repository).snapshots_deleted, 1);
    // the run of what was freed went with it: nobody misses that
    assert_eq!(nights.place.storage.list(layout::RUNS).unwrap().len(), 3, "two backups and a prune");
    nights.night();
    let lost = nights.kept.pop().unwrap().0.id;
    nights.place.storage.delete(&layout::snapshot(lost)).unwrap();
    for _ in 0..2 {
        let error = nights.repository.prune(&all(), &Silent).unwrap_err();
        assert!(matches!(&error, Error::SnapshotsVanished { snapshots } if *snapshots == [lost]), "{error:?}");
    }
    let mut options = all();
    options.accept_vanished = true;
    assert!(nights.repository.prune(&options, &Silent).unwrap().deleted.packs > 0);
    prune(&nights.repository);
    nights.check();
    // and where nothing but the record is gone, there is nothing to free, and it is written off all the same
    let first = nights.kept.remove(0).0.id;
    nights.place.storage.delete(&layout::snapshot(first)).unwrap();
    options.max_unused = Unused::Unlimited;
    nights.repository.prune(&options, &Silent).unwrap();
    prune(&nights.repository);
    nights.check();
}

/// Another prune frees a snapshot while this one looks which there are: nobody has lost it.
#[test]
fn what_another_prune_frees_meanwhile_has_not_vanished() {
    let mut nights = Nights::new(Place::over_folder(Encryption::Aes256Gcm));
    for _ in 0..4 {
        nights.night();
    }
    nights.forget(&[0]);
    assert_eq!(prune(&nights.repository).generation, Some(1));
    let first = nights.kept.remove(0).0.id;
    // it gets as far as the snapshot's record before this one lists the snapshots, and ends before this one lists what is
    // forgotten
    let frees = FaultStorage::new(nights.place.storage.clone());
    frees.inject(Fault::kind(StorageErrorKind::Other).under(layout::done(2).as_str()).on(Operation::Put));
    let freeing = Repository::open(Arc::new(frees), &secret(), &nights.place.open).unwrap();
    let has_begun = Arc::new(AtomicBool::new(false));
    let begins = has_begun.clone();
    let begin = Around::after(
        |call| (call.operation, call.key) == (Operation::List, layout::PACKS),
        move || {
            forget(&freeing, vec![first]);
            let error = freeing.prune(&all(), &Silent).unwrap_err();
            assert!(matches!(error, Error::Storage(_)), "{error:?}");
            begins.store(true, Ordering::Relaxed);
        },
    );
    let finishing = nights.place.reopen();
    let end = Around::before(
        move |call| {
            has_begun.load(Ordering::Relaxed) && (call.operation, call.key) == (Operation::List, layout::FORGOTTEN)
        },
        move || assert!(prune(&finishing).unfinished.is_none()),
    );
    prune(&open_around(&nights.place, [begin, end]));
    assert!(nights.place.storage.list(layout::FORGOTTEN).unwrap().is_empty());
    nights.check();
}

/// A snapshot that was listed is gone when it is read: the listing begins anew.
#[test]
fn a_snapshot_that_goes_while_snapshots_are_listed_is_no_failure() {
    let mut nights = Nights::new(Place::over_folder(Encryption::Aes256Gcm));
    for _ in 0..4 {
        nights.night();
    }
    nights.forget(&[2]);
    let first = nights.kept.remove(0).0.id;
    let beside = nights.place.reopen();
    let act = move || {
        forget(&beside, vec![first]);
        assert_eq!(prune(&beside).snapshots_deleted, 2);
    };
    let hook = Around::after(|call| (call.operation, call.key) == (Operation::List, layout::SNAPSHOTS), act);
    assert_eq!(prune(&open_around(&nights.place, [hook])).unfinished, None);
    nights.check();
}

/// What is needed is missing: nothing may be deleted on the strength of what is left.
#[test]
fn a_missing_pack_stops_a_prune() {
    let mut nights = Nights::new(Place::over_folder(Encryption::Aes256Gcm));
    for _ in 0..3 {
        nights.night();
    }
    for pack in object_files(&nights.place.path("repo/packs")) {
        let undo = damage(&pack, Damage::Delete);
        assert!(nights.repository.prune(&all(), &Silent).is_err(), "{}", pack.display());
        undo.restore();
    }
    nights.forget(&[0]);
    prune(&nights.repository);
    nights.check();
}

/// What a run that was killed has left is freed; what a checkpoint holds is not.
#[test]
fn left_over_packs_go_and_checkpoints_stay() {
    let mut nights = Nights::new(Place::over_folder(Encryption::Aes256Gcm));
    nights.night();
    let packs = || nights.place.storage.list("packs/").unwrap().len();
    let before = packs();
    let orphan = Path::new("packs/00").join("00".repeat(31) + "01");
    plant(&nights.place.path("repo").join(orphan), b"cut off").keep();
    assert_eq!(packs(), before + 1);
    let report = prune(&nights.repository);
    assert_eq!((report.deleted.packs, packs()), (1, before));

    nights.change(7);
    stop_after(&nights.repository, &nights.source, &options(), 15);
    let with_checkpoint = packs();
    assert!(with_checkpoint > before);
    prune(&nights.repository);
    assert_eq!(packs(), with_checkpoint);

    // whoever ended its session was killed before the session's records were deleted
    let storage = &nights.place.storage;
    let records = storage.list(layout::SESSIONS).unwrap().into_iter();
    let records: Vec<_> = records.map(|object| (storage.get(&object.key).unwrap(), object.key)).collect();
    let session = nights.repository.sessions().unwrap().remove(0).id;
    assert!(nights.repository.expire_session(session, SessionId::new([1; 32]), "by hand").unwrap());
    for (bytes, key) in &records {
        storage.put(key, bytes).unwrap();
    }
    prune(&nights.repository);
    assert_eq!(packs(), before);
    nights.check();
}

/// A segment that was cut off is damage, as it is to every other command.
#[test]
fn a_segment_that_was_cut_off_is_called_damaged() {
    let mut nights = Nights::new(Place::local());
    nights.night();
    for segment in object_files(&nights.place.path("repo/index")) {
        let undo = damage(&segment, Damage::Truncate { length: 20 });
        let error = nights.repository.prune(&all(), &Silent).unwrap_err();
        // the trees cannot be read without it either, unless the index has it already
        assert!(matches!(error, Error::Damaged { .. }), "{error:?}");
        undo.restore();
    }
    nights.check();
}

/// Segments do not pile up: many nights later there are few, and an index that was not opened since is right again.
#[test]
fn segments_are_compacted_and_old_indexes_follow() {
    let mut nights = Nights::new(Place::local());
    let old = OpenOptions { cache_dir: Some(nights.place.path("old-cache")), ..nights.place.open.clone() };
    for _ in 0..3 {
        nights.night();
    }
    let open_old = || Repository::open(nights.place.storage.clone(), &secret(), &old).unwrap();
    drop(open_old().index(&Silent).unwrap());
    for night in 3..40 {
        nights.night();
        nights.forget(&[0]);
        if night % 6 == 0 {
            prune(&nights.repository);
        }
    }
    prune(&nights.repository);
    let segments = nights.place.storage.list("index/").unwrap().len();
    assert!(segments < 45, "{segments} segments");
    nights.check();
    let open_old = || Repository::open(nights.place.storage.clone(), &secret(), &old).unwrap();
    nights.check_in(&open_old());
    // what packs held that are gone does not stay in an index for ever
    let known = nights.place.reopen().index(&Silent).unwrap().stats().blobs;
    let anew = Repository::open(nights.place.storage.clone(), &secret(), &OpenOptions::default()).unwrap();
    let needed = anew.index(&Silent).unwrap().stats().blobs;
    assert!(known <= 3 * needed, "{known} of {needed}");
}
