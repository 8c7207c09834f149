//! What is small is joined on remote mediums, so that a machine that comes new needs few requests.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use lakebed_engine::backup::BackupOptions;
use lakebed_engine::core::codec::frame::{FrameKind, FrameScratch};
use lakebed_engine::core::codec::seal::Encryption;
use lakebed_engine::core::id::{CatalogueId, PackId, SnapshotId};
use lakebed_engine::core::layout;
use lakebed_engine::core::monitor::Monitor;
use lakebed_engine::core::protocol::WriterStep;
use lakebed_engine::core::record::catalogue::{CatalogueEntry, decode_catalogue, encode_catalogue};
use lakebed_engine::core::record::gc::Condemnation;
use lakebed_engine::core::record::{RECORD_VERSION, Record};
use lakebed_engine::core::storage::{Storage, StorageErrorKind};
use lakebed_engine::repair::{self, RepairOptions};
use lakebed_engine::repository::{SnapshotFilter, SnapshotSelector};
use lakebed_engine::source::{Filter, FilterOptions, LocalOptions, local_mounts};
use lakebed_engine::storage::MemoryStorage;
use lakebed_engine::{OpenOptions, Repository, Silent};
use lakebed_testkit::clock::{FakeClock, SeededRandom};
use lakebed_testkit::lax::{Faults, LaxStorage};
use lakebed_testkit::storage::{CountingStorage, Fault, FaultStorage, Operation};
use lakebed_testkit::tree::TreeSpec;
use tempfile::TempDir;

use crate::common::*;

/// A repository on a remote medium, and a source that changes every night.
struct Nights {
    folder: TempDir,
    memory: MemoryStorage,
    clock: FakeClock,
    nights: u32,
}

impl Nights {
    fn begin() -> Self {
        let folder = TempDir::new().unwrap();
        TreeSpec::new().file("notebook.py", b"print(0)".to_vec()).write(&folder.path().join("source"));
        let memory = MemoryStorage::new();
        let nights = Self { folder, memory, clock: FakeClock::at_secs(1_790_000_000), nights: 0 };
        let init = init_options(Encryption::Aes256Gcm);
        Repository::init(nights.remote(Faults::default()), &secret(), &init, &nights.options(None)).unwrap();
        nights
    }

    fn source(&self) -> PathBuf {
        self.folder.path().join("source")
    }

    fn remote(&self, faults: Faults) -> Arc<dyn Storage> {
        Arc::new(LaxStorage::new(Arc::new(self.memory.clone()), "here", faults))
    }

    fn options(&self, cache: Option<&str>) -> OpenOptions {
        OpenOptions {
            cache_dir: cache.map(|name| self.folder.path().join(name)),
            clock: Arc::new(self.clock.clone()),
            ..OpenOptions::default()
        }
    }

    fn open(&self, cache: Option<&str>) -> Repository {
        Repository::open(self.remote(Faults::default()), &secret(), &self.options(cache)).unwrap()
    }

    /// Takes a snapshot of something new.
    fn night(&mut self, repository: &Repository) -> SnapshotId {
        self.nights += 1;
        self.clock.advance(std::time::Duration::from_secs(86_400));
        std::fs::write(self.source().join("notebook.py"), format!("print({})", self.nights)).unwrap();
        backup(repository, &[self.source()]).snapshot.unwrap().id
    }

    fn count(&self, prefix: &str) -> usize {
        self.memory.list(prefix).unwrap().len()
    }

    /// Which sessions each catalogue has.
    fn catalogues(&self) -> Vec<(CatalogueId, BTreeSet<SnapshotId>)> {
        let repository = self.open(None);
        let store = repository.store();
        let all = store.list_ids::<CatalogueId>(layout::CATALOGUE).unwrap().into_iter().map(|id| {
            let mut scratch = FrameScratch::new().unwrap();
            let (key, kinds) = (layout::catalogue(id), [FrameKind::Catalogue]);
            let (_, plain) = store.read_hashed(&key, id.as_bytes(), &kinds, layout::CATALOGUE, &mut scratch).unwrap();
            (id, decode_catalogue(&plain).unwrap().into_iter().map(|entry| entry.id).collect())
        });
        all.collect()
    }
}

fn ids(repository: &Repository) -> Vec<SnapshotId> {
    repository.snapshots(&SnapshotFilter::default()).unwrap().iter().map(|info| info.id).collect()
}

/// Keeps the warnings.
#[derive(Default)]
struct Warnings(Mutex<Vec<String>>);

impl Monitor for Warnings {
    fn warn(&self, message: &str) {
        self.0.lock().unwrap().push(message.into());
    }
}

#[test]
fn whoever_comes_new_after_many_nights_needs_few_requests() {
    let mut nights = Nights::begin();
    // the machine of every night, and one that has looked once and comes again after all of them
    let (repository, other) = (nights.open(Some("nightly")), nights.open(Some("other")));
    drop(other.reader(&Warnings::default()).unwrap());
    let all: Vec<SnapshotId> = (0..60).map(|_| nights.night(&repository)).collect();
    assert!(nights.count(layout::CATALOGUE) <= 5, "{}", nights.count(layout::CATALOGUE));
    assert!(nights.count(layout::INDEX) <= 16, "{}", nights.count(layout::INDEX));

    let counting = CountingStorage::new(nights.remote(Faults::default()));
    let fresh = Repository::open(Arc::new(counting.clone()), &secret(), &nights.options(Some("fresh"))).unwrap();
    assert_eq!(ids(&fresh), all);
    let reads = counting.take().of(Operation::Get).calls;
    assert!(reads <= 12, "{reads} reads");
    drop(fresh.reader(&Warnings::default()).unwrap());
    let reads = counting.take().of(Operation::Get).calls;
    assert!(reads <= 20, "{reads} reads");
    // and once it knows them, none
    assert_eq!(ids(&fresh), all);
    assert_eq!(counting.take().of(Operation::Get).calls, 0);

    // an index that knows segments which others have replaced since goes on
    let (warnings, other) = (Warnings::default(), nights.open(Some("other")));
    drop(other.reader(&warnings).unwrap());
    assert_eq!(*warnings.0.lock().unwrap(), Vec::<String>::new());
    assert_good(&fresh);
    assert_good(&other);
}

#[test]
fn a_snapshot_that_is_asked_for_by_its_id_is_read_alone() {
    let mut nights = Nights::begin();
    let repository = nights.open(None);
    let all: Vec<SnapshotId> = (0..2).map(|_| nights.night(&repository)).collect();
    let counting = CountingStorage::new(nights.remote(Faults::default()));
    let fresh = Repository::open(Arc::new(counting.clone()), &secret(), &nights.options(Some("fresh"))).unwrap();
    counting.take();
    let selector = SnapshotSelector::Id(all[0].short());
    let filter = SnapshotFilter::default();
    assert_eq!(fresh.find_snapshot(&selector, &filter, &Silent).unwrap().id, all[0]);
    assert_eq!(counting.take().of(Operation::Get).calls, 1);
}

#[test]
fn what_counts_is_what_is_listed_whatever_a_catalogue_has() {
    let mut nights = Nights::begin();
    let repository = nights.open(None);
    let all: Vec<SnapshotId> = (0..4).map(|_| nights.night(&repository)).collect();
    assert_eq!(nights.catalogues().len(), 1);
    // gone without a trace, as no prune does it: the catalogue brings nothing back
    nights.memory.delete(&layout::snapshot(all[1])).unwrap();
    assert_eq!(ids(&nights.open(None)), [all[0], all[2], all[3]]);

    // one that is damaged, and one that says something else, cost requests and are found by who looks
    let key = nights.memory.list(layout::CATALOGUE).unwrap().remove(0).key;
    let mut bytes = nights.memory.get(&key).unwrap();
    bytes[60] ^= 1;
    nights.memory.delete(&key).unwrap();
    nights.memory.put(&key, &bytes).unwrap();
    assert_eq!(ids(&nights.open(None)), [all[0], all[2], all[3]]);
    let repository = nights.open(None);
    let record = repository.read_snapshot(all[0]).unwrap().unwrap();
    let entry = CatalogueEntry { id: all[2], kind: FrameKind::Expiry, record: record.encode() };
    let (name, _) = repository
        .store()
        .put_hashed(FrameKind::Catalogue, layout::CATALOGUE, &encode_catalogue(&[entry]), &SeededRandom::new(1))
        .unwrap();
    let report = verify_all(&repository);
    let damaged: BTreeSet<&str> = report.damage.iter().map(|damage| damage.subject.as_str()).collect();
    let lying = layout::catalogue(CatalogueId::new(name));
    assert_eq!(damaged, BTreeSet::from([key.as_str(), lying.as_str()]));
    let options = RepairOptions::default();
    let planned = repair::plan(&repository, &options, &Silent).unwrap();
    repair::apply(&repository, &planned, &options, &Silent).unwrap();
    assert_eq!(nights.count(layout::CATALOGUE), 0);
    assert_eq!(ids(&nights.open(None)), [all[0], all[2], all[3]]);
}

#[test]
fn a_prune_takes_what_is_gone_out_of_catalogues() {
    let mut nights = Nights::begin();
    let repository = nights.open(None);
    let all: Vec<SnapshotId> = (0..7).map(|_| nights.night(&repository)).collect();
    forget(&repository, all[..3].to_vec());
    repository.prune(&prune_all(), &Silent).unwrap();
    let left: BTreeSet<SnapshotId> = nights.catalogues().into_iter().flat_map(|(_, sessions)| sessions).collect();
    assert_eq!(left, all[3..6].iter().copied().collect());
    assert_eq!(ids(&nights.open(None)), all[3..]);
    assert_good(&repository);
    // and where nothing is gone it leaves them alone
    let before = nights.catalogues();
    repository.prune(&prune_all(), &Silent).unwrap();
    assert_eq!(nights.catalogues(), before);
}

#[test]
fn who_may_not_delete_joins_nothing() {
    let mut nights = Nights::begin();
    let keeps = Faults { keeps: true, ..Faults::default() };
    let repository = Repository::open(nights.remote(keeps), &secret(), &nights.options(Some("writer"))).unwrap();
    let all: Vec<SnapshotId> = (0..12).map(|_| nights.night(&repository)).collect();
    assert_eq!((nights.count(layout::CATALOGUE), nights.count(layout::INDEX)), (0, 12));
    assert_eq!(ids(&nights.open(None)), all);
    // the next one that may does it
    let repository = nights.open(Some("other"));
    nights.night(&repository);
    assert_eq!((nights.count(layout::CATALOGUE), nights.count(layout::INDEX)), (1, 2));
    assert_good(&nights.open(None));
}

/// Whoever dies between putting what is joined and deleting what it was joined from leaves both.
#[test]
fn joining_that_is_cut_off_harms_nothing_and_is_put_right() {
    for prefix in [layout::CATALOGUE, layout::INDEX] {
        for operation in [Operation::Put, Operation::Delete] {
            let mut nights = Nights::begin();
            let faulty = FaultStorage::new(nights.remote(Faults::default()));
            let fault = Fault::kind(StorageErrorKind::Other).on(operation).under(prefix);
            let open = || Repository::open(Arc::new(faulty.clone()), &secret(), &nights.options(Some("writer")));
            let repository = open().unwrap();
            let mut all: Vec<SnapshotId> = (0..5).map(|_| nights.night(&repository)).collect();
            let before = nights.count(prefix);
            // the next two nights join records, those after them segments
            if operation == Operation::Delete {
                faulty.inject(fault.sticky());
            } else if prefix == layout::CATALOGUE {
                faulty.inject(fault);
            } else {
                // not the segment of the night itself
                (0..2).for_each(|_| all.push(nights.night(&repository)));
                faulty.inject(fault.nth(2));
            }
            (0..4).for_each(|_| all.push(nights.night(&repository)));
            assert!(faulty.fired() > 0, "{prefix} {operation:?}");
            assert!(operation == Operation::Put || nights.count(prefix) > before);
            assert_eq!(ids(&nights.open(None)), all);
            assert_good(&nights.open(None));
            faulty.heal();
            (0..9).for_each(|_| all.push(nights.night(&repository)));
            assert_eq!(ids(&nights.open(None)), all);
            assert_good(&nights.open(None));
            let mut seen = BTreeSet::new();
            for (id, sessions) in nights.catalogues() {
                assert!(sessions.iter().any(|session| seen.insert(*session)), "{id} has nothing of its own");
            }
        }
    }
}

/// A list that goes after a writer has listed everything, and before it looks at what it says: its packs were condemned all
/// the same when the writer registered.
#[test]
fn what_was_condemned_when_everything_was_listed_is_not_built_upon_though_the_list_is_gone() {
    let mut nights = Nights::begin();
    let repository = nights.open(None);
    nights.night(&repository);
    let condemned: Vec<PackId> = repository.store().list_packs().unwrap().into_keys().collect();
    let record =
        Condemnation { version: RECORD_VERSION, generation: 1, packs: condemned.clone(), unknown: Default::default() };
    let list = layout::condemnation(1, 0);
    repository.store().put_record(&list, &record, &SeededRandom::new(1)).unwrap();
    let storage = Arc::new(LaxStorage::new(Arc::new(nights.memory.clone()), "here", Faults::default()));
    let writer = Repository::open(storage.clone(), &secret(), &nights.options(None)).unwrap();
    let memory = nights.memory.clone();
    storage.after_survey(move || memory.delete(&list).unwrap());
    // another host has no parent here, so every chunk is looked up
    let options = BackupOptions { host: "another".into(), ..options() };
    let report = backup_with(&writer, &[nights.source()], &options, &Default::default());
    assert_eq!(nights.count(layout::GC), 0, "nothing was listed at once");
    assert_eq!(report.summary.bytes_deduplicated, 0);
    for pack in condemned {
        nights.memory.delete(&layout::pack(pack)).unwrap();
    }
    let out = nights.folder.path().join("out");
    restore_to(&nights.open(None), &report.snapshot.unwrap(), &out, &nights.source());
}

#[test]
fn a_record_that_a_repair_has_closed_is_not_shown_by_a_catalogue_or_a_copy() {
    let mut nights = Nights::begin();
    let repository = nights.open(Some("writer"));
    let all: Vec<SnapshotId> = (0..4).map(|_| nights.night(&repository)).collect();
    let other = nights.open(Some("other"));
    assert_eq!(ids(&other), all);
    for id in [all[0], all[3]] {
        let key = layout::snapshot(id);
        let mut bytes = nights.memory.get(&key).unwrap();
        bytes[70] ^= 1;
        nights.memory.delete(&key).unwrap();
        nights.memory.put(&key, &bytes).unwrap();
    }
    let options = RepairOptions::default();
    let planned = repair::plan(&repository, &options, &Silent).unwrap();
    repair::apply(&repository, &planned, &options, &Silent).unwrap();
    for cache in [None, Some("writer"), Some("other")] {
        assert_eq!(ids(&nights.open(cache)), all[1..3], "{cache:?}");
    }
    assert_good(&nights.open(None));
}

/// A prune frees snapshots while a backup runs that has seen them: the backup's catalogue must not bring them back.
#[test]
fn what_was_freed_while_a_backup_ran_is_in_no_catalogue() {
    let mut nights = Nights::begin();
    let repository = nights.open(Some("writer"));
    let all: Vec<SnapshotId> = (0..5).map(|_| nights.night(&repository)).collect();
    let (freed, kept) = all.split_at(2);
    // as a prune that had waited for everybody before this backup registered
    let beside = At::new(WriterStep::Commit, || {
        freed.iter().for_each(|id| nights.memory.delete(&layout::snapshot(*id)).unwrap());
    });
    std::fs::write(nights.source().join("notebook.py"), "print('at last')").unwrap();
    let filter = Arc::new(Filter::new(&FilterOptions::default()).unwrap());
    let mounts = local_mounts(&[nights.source()], &filter, &LocalOptions::default()).unwrap();
    let last = repository.backup(mounts, &options(), &beside).unwrap().snapshot.unwrap().id;
    let in_catalogues: BTreeSet<SnapshotId> = nights.catalogues().into_iter().flat_map(|(_, ids)| ids).collect();
    assert_eq!(in_catalogues, kept.iter().copied().chain([last]).collect());
}
