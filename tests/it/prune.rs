//! Prune: what nobody needs goes, and nothing else, whoever runs beside it and wherever it stops.

mod beside;
mod refusals;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use lakebed_engine::core::codec::seal::Encryption;
use lakebed_engine::core::id::SessionId;
use lakebed_engine::core::layout;
use lakebed_engine::core::monitor::{Monitor, Progress};
use lakebed_engine::core::pack::PackKind;
use lakebed_engine::core::protocol::{PruneStep, Step};
use lakebed_engine::core::record::session::{Outcome, Run};
use lakebed_engine::core::storage::{ObjectKey, Storage, StorageError, StorageErrorKind};
use lakebed_engine::core::time::Timestamp;
use lakebed_engine::prune::{PruneOptions, PruneReport, Unfinished, Unused};
use lakebed_engine::repository::SnapshotInfo;
use lakebed_engine::source::Mount;
use lakebed_engine::storage::MemoryStorage;
use lakebed_engine::{Error, OpenOptions, Repository, Silent};
use lakebed_testkit::clock::FakeClock;
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

/// Forgetting one of two equal snapshots frees nothing but its record.
#[test]
fn a_snapshot_that_needs_nothing_of_its_own_goes_too() {
    let (place, repository) = Place::over_folder(Encryption::Aes256Gcm);
    // a folder on disk lies in others that change
    let source = Arc::new(MemorySource::new(TreeSpec::new().file("a", Content::random(1, 10_000))));
    let [first, twin] = [0; 2].map(|_| {
        let mount = Mount::new(vec![b"top".to_vec()], source.clone());
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

/// Lines of words, in which a harder search finds more.
fn text(seed: u64, lines: usize) -> Vec<u8> {
    let words = ["select", "from", "sales", "orders", "where", "join", "customer", "group by", "region", "limit"];
    let mut random = Content::random(seed, lines as u64 * 12).bytes().into_iter();
    let mut line = |_| -> String {
        let words = random.by_ref().take(12).map(|byte| words[usize::from(byte) % words.len()]);
        words.collect::<Vec<_>>().join(" ") + "\n"
    };
    (0..lines).map(&mut line).collect::<String>().into_bytes()
}

/// Nobody writes down how hard a frame was compressed, so a prune has to find out.
#[test]
fn what_is_written_anew_is_compressed_as_hard_as_before() {
    let mut nights = Nights::new(Place::over_folder(Encryption::Aes256Gcm));
    let mut fresh = Nights::new(Place::over_folder(Encryption::Aes256Gcm));
    std::fs::write(nights.source.join("goes"), Content::random(7, 300_000).bytes()).unwrap();
    for place in [&nights, &fresh] {
        std::fs::write(place.source.join("log"), text(1, 40_000)).unwrap();
        (0..100).for_each(|n| std::fs::write(place.source.join(format!("note-{n}")), text(n, 40)).unwrap());
    }
    nights.commit();
    std::fs::remove_file(nights.source.join("goes")).unwrap();
    nights.commit();
    fresh.commit();
    nights.forget(&[0]);
    let report = prune(&nights.repository);
    assert!(report.written.packs > 0, "{report:?}");
    nights.check();
    let packs = |nights: &Nights| -> u64 {
        nights.place.storage.list("packs/").unwrap().iter().map(|object| object.size_bytes).sum()
    };
    let (pruned, made) = (packs(&nights), packs(&fresh));
    assert!(pruned * 50 <= made * 51, "{pruned} bytes in packs, {made} in a fresh repository");
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

/// What was brought back while it ran is not told of as freed.
#[test]
fn a_report_tells_of_the_plan_that_was_carried_out() {
    let mut nights = Nights::new(Place::over_folder(Encryption::Aes256Gcm));
    for _ in 0..3 {
        nights.night();
    }
    let [first, second] = [0, 1].map(|night: usize| nights.kept[night].0.id);
    forget(&nights.repository, vec![first, second]);
    let undoing = nights.place.reopen();
    let at = At::new(PruneStep::CondemnTombstones, || undoing.undo_forget(&[first]).unwrap());
    let plan = nights.repository.prune(&all(), &at).unwrap().plan;
    assert_eq!((plan.snapshots_kept, &plan.snapshots_forgotten[..]), (2, &[second][..]), "{plan:?}");
    nights.kept.remove(1);
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

fn twenty_files(seed: u64) -> TreeSpec {
    (0..20).fold(TreeSpec::new(), |tree, n| tree.file(format!("{n}"), Content::random(seed + n, 20_000)))
}

/// Two backups beside each other that store the same: all of it lies in two packs.
fn back_up_twice(place: &Place, repository: &Repository, source: &Path) -> SnapshotInfo {
    twenty_files(0).write(source);
    back_up_beside(place, repository, source, source)
}

/// Backs up two folders beside each other: what is in both is stored twice. Returns the snapshot of the first.
fn back_up_beside(place: &Place, repository: &Repository, source: &Path, other: &Path) -> SnapshotInfo {
    use lakebed_engine::core::protocol::WriterStep;

    let beside = place.reopen();
    let filter = Arc::new(lakebed_engine::source::Filter::new(&Default::default()).unwrap());
    let mounts = |path: &Path| {
        let mut mounts =
            lakebed_engine::source::local_mounts(&[path.to_owned()], &filter, &Default::default()).unwrap();
        // the folder that all tests are in changes from moment to moment, and a node of it would be in one pack only
        mounts.iter_mut().for_each(|mount| mount.ancestors.clear());
        mounts
    };
    let at = At::new(WriterStep::StorePacks, || drop(beside.backup(mounts(other), &options(), &Silent).unwrap()));
    repository.backup(mounts(source), &options(), &at).unwrap().snapshot.unwrap()
}

/// What lies in two packs is read in the one before the other goes. That may take long, and it is not what frees most.
#[test]
fn what_is_dead_goes_also_where_there_is_no_time_to_read_the_rest() {
    let (place, repository) = Place::memory(Encryption::Aes256Gcm);
    let other = place.path("other");
    TreeSpec::new().file("other", Content::random(99, 50_000)).write(&other);
    let old = backup(&repository, std::slice::from_ref(&other)).snapshot.unwrap();
    let source = place.path("source");
    let info = back_up_twice(&place, &repository, &source);
    let observed = snapshot_of(&source);
    forget(&repository, vec![old.id]);
    let packs = || place.storage.list(layout::PACKS).unwrap().len();
    assert_eq!(packs(), 6, "of data and of trees");
    let mut short = all();
    short.max_time = Some(Duration::ZERO);
    let report = place.reopen().prune(&short, &Silent).unwrap();
    assert!(matches!(report.unfinished, Some(Unfinished::OutOfTime)), "{report:#?}");
    assert_eq!(packs(), 4);
    let report = prune(&place.reopen());
    assert!(report.unfinished.is_none(), "{report:#?}");
    assert_eq!(packs(), 2);
    assert_good(&place.reopen());
    let target = place.path("out");
    assert_tree_is(&observed, &restore_to(&place.reopen(), &info, &target, &source), &CompareOptions::default());
}

/// However long it takes to read what lies in two places, each night some of it is read and then copied.
#[test]
fn prunes_that_have_too_little_time_to_read_everything_come_to_an_end() {
    let (place, repository) = Place::memory(Encryption::Aes256Gcm);
    let mut kept = Vec::new();
    for pair in 0..6 {
        let (source, other) = (place.path(&format!("source-{pair}")), place.path(&format!("other-{pair}")));
        for (folder, alone) in [(&source, 1), (&other, 2)] {
            twenty_files(1000 * pair).file("alone", Content::random(1000 * pair + 500 + alone, 20_000)).write(folder);
        }
        let info = back_up_beside(&place, &repository, &source, &other);
        kept.push((info, snapshot_of(&source), source));
    }
    let mut short = all();
    short.max_time = Some(Duration::from_secs(100));
    let mut now = repository.clock().now();
    let mut nights = 0;
    loop {
        nights += 1;
        assert!(nights < 20);
        now.secs += 3600;
        let clock = FakeClock::new(now).with_step(Duration::from_secs(1));
        let open = OpenOptions { clock: Arc::new(clock), ..place.open.clone() };
        let report = Repository::open(place.storage.clone(), &secret(), &open).unwrap().prune(&short, &Silent).unwrap();
        match report.unfinished {
            None => break,
            Some(Unfinished::OutOfTime) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(nights > 1, "there was time enough for everything");
    assert_good(&place.reopen());
    for (number, (info, observed, source)) in kept.iter().enumerate() {
        let target = place.path(&format!("out-{number}"));
        let restored = restore_to(&place.reopen(), info, &target, source);
        assert_tree_is(observed, &restored, &CompareOptions::default());
    }
}

/// One of two packs with the same in them goes, and bits of the other one may have rotted without a trace in its size.
#[test]
fn what_cannot_be_read_in_the_pack_that_stays_is_kept_from_the_one_that_goes() {
    let (place, repository) = Place::memory(Encryption::Aes256Gcm);
    let source = place.path("source");
    let info = back_up_twice(&place, &repository, &source);
    let packs = place.storage.list(layout::PACKS).unwrap();
    assert_eq!(packs.len(), 4, "two of data, two of trees");
    let observed = snapshot_of(&source);
    for (number, pack) in packs.iter().enumerate() {
        // a frame, and the directory
        for offset in [60, pack.size_bytes as usize - 100] {
            let storage = copy_of(&*place.storage);
            let mut bytes = storage.get(&pack.key).unwrap();
            bytes[offset] ^= 1;
            storage.delete(&pack.key).unwrap();
            storage.put(&pack.key, &bytes).unwrap();
            let open = || Repository::open(storage.clone(), &secret(), &OpenOptions::default()).unwrap();
            prune(&open());
            let target = place.path(&format!("out-{number}-{offset}"));
            assert_tree_is(&observed, &restore_to(&open(), &info, &target, &source), &CompareOptions::default());
        }
    }
}

/// Notes how many entries were counted at once, at most, and in all.
#[derive(Default)]
struct Counted {
    most: AtomicU64,
    all: AtomicU64,
}

impl Monitor for Counted {
    fn advance(&self, step: Progress) {
        self.most.fetch_max(step.entries, Ordering::Relaxed);
        self.all.fetch_add(step.entries, Ordering::Relaxed);
    }
}

#[test]
fn however_wide_trees_are_a_bounded_part_of_them_is_marked_at_once() {
    let (_place, repository) = Place::memory(Encryption::Aes256Gcm);
    let wide = (0..1500u64).fold(TreeSpec::new(), |tree, n| tree.file(format!("{n}/file"), Content::random(n, 10)));
    let mount = Mount::new(vec![b"top".to_vec()], Arc::new(MemorySource::new(wide)));
    repository.backup(vec![mount], &options(), &Silent).unwrap();
    let mut planning = all();
    planning.dry_run = true;
    let counted = Counted::default();
    repository.prune(&planning, &counted).unwrap();
    assert!(counted.all.into_inner() > 1500);
    let most = counted.most.into_inner();
    assert!(most <= 1024, "{most}");
}
