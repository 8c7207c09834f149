//! Damage of every kind in every object, whatever is run next, is put right as far as it can be: nothing that is whole is
//! touched, what is lost is told, and what the source still has comes back.

mod packs;
mod records;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use lakebed_engine::copy::{CopyOptions, copy};
use lakebed_engine::core::codec::frame::{FrameKind, FrameScratch};
use lakebed_engine::core::codec::seal::Encryption;
use lakebed_engine::core::forward_storage;
use lakebed_engine::core::id::{PackId, SegmentId, SessionId, SnapshotId};
use lakebed_engine::core::layout;
use lakebed_engine::core::monitor::Monitor;
use lakebed_engine::core::pack::{Removal, decode_segment, encode_removal};
use lakebed_engine::core::process::Processes;
use lakebed_engine::core::protocol::{Step, WriterStep};
use lakebed_engine::core::record::RECORD_VERSION;
use lakebed_engine::core::record::gc::{Awaited, Claim, Condemnation, Done, Resolution, Tombstone, Verdict};
use lakebed_engine::core::record::key_slot::{Secret, Unlock};
use lakebed_engine::core::record::session::{Expiry, Process, Session};
use lakebed_engine::core::record::snapshot::Original;
use lakebed_engine::core::record::tree::EntryKind;
use lakebed_engine::core::storage::{ObjectKey, Storage, StorageError, StorageErrorKind};
use lakebed_engine::core::time::{Clock, Timestamp};
use lakebed_engine::forget::{Choice, ForgetOptions};
use lakebed_engine::query::{Listed, walk, write_content};
use lakebed_engine::repair::{AFFECTED_MAX, Action, Remedy, RepairOptions, RepairPlan, RepairReport, apply, plan};
use lakebed_engine::repository::SnapshotInfo;
use lakebed_engine::storage::ReadOnlyStorage;
use lakebed_engine::system::{SystemClock, SystemProcesses};
use lakebed_engine::{Error, OpenOptions, Repository, Silent};
use lakebed_testkit::clock::{FakeClock, SeededRandom};
use lakebed_testkit::compare::{CompareOptions, assert_same_tree};
use lakebed_testkit::storage::{Fault, FaultStorage, Operation, is_stopped};
use lakebed_testkit::tree::{Content, Item, TreeSpec};

use crate::common::*;

/// Hash of the content of each file of a snapshot, by path; what is no file has none.
type Contents = BTreeMap<String, Option<String>>;

fn hash(bytes: &[u8]) -> String {
    lakebed_engine::core::hash::object_hash(bytes).to_hex().to_string()
}

/// What a snapshot holds; fails where anything of it cannot be read.
fn contents(repository: &Repository, info: &SnapshotInfo) -> Contents {
    let reader = repository.reader(&Silent).unwrap();
    let mut all = Contents::new();
    walk(&reader, info.snapshot.root, b"", &mut |path, entry| {
        let content = (entry.kind == EntryKind::File).then(|| {
            let mut bytes = Vec::new();
            write_content(&reader, entry, "x", &mut bytes).unwrap();
            hash(&bytes)
        });
        all.insert(String::from_utf8_lossy(path).into_owned(), content);
        Ok(Listed::Descend)
    })
    .unwrap();
    all
}

fn live(repository: &Repository) -> Vec<SnapshotInfo> {
    repository.catalogue().unwrap().snapshots
}

fn read_all() -> RepairOptions {
    RepairOptions { read_data: true, threads: 2, ..RepairOptions::default() }
}

/// Options whose clock is an hour ahead of the files, and goes on: no two snapshots are of one moment.
fn later() -> OpenOptions {
    static CLOCK: LazyLock<FakeClock> = LazyLock::new(|| {
        let now = SystemClock::default().now();
        FakeClock::new(Timestamp { secs: now.secs + 3600, nanos: now.nanos }).with_step(Duration::from_secs(1))
    });
    OpenOptions { clock: Arc::new(CLOCK.clone()), ..OpenOptions::default() }
}

fn open_with(storage: &Arc<dyn Storage>, secret: &Secret) -> Repository {
    Repository::open(storage.clone(), secret, &later()).unwrap()
}

fn open(storage: &Arc<dyn Storage>) -> Repository {
    open_with(storage, &secret())
}

/// Plans and carries out. The plan is made over a storage that nobody can write.
fn repair_with(storage: &Arc<dyn Storage>, secret: &Secret, options: &RepairOptions) -> (RepairPlan, RepairReport) {
    let read_only: Arc<dyn Storage> = Arc::new(ReadOnlyStorage::new(storage.clone()));
    let planned = plan(&open_with(&read_only, secret), options, &Silent).unwrap();
    let report = apply(&open_with(storage, secret), &planned, options, &Silent).unwrap();
    (planned, report)
}

fn repair(storage: &Arc<dyn Storage>) -> (RepairPlan, RepairReport) {
    repair_with(storage, &secret(), &read_all())
}

fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).unwrap()
}

fn keys_under(storage: &dyn Storage, prefix: &str) -> Vec<ObjectKey> {
    storage.list(prefix).unwrap().into_iter().map(|object| object.key).collect()
}

/// Gives an object other bytes.
fn overwrite(storage: &dyn Storage, key: &ObjectKey, bytes: &[u8]) {
    storage.delete(key).unwrap();
    storage.put(key, bytes).unwrap();
}

fn flip(storage: &dyn Storage, key: &ObjectKey, at: usize) {
    let mut bytes = storage.get(key).unwrap();
    bytes[at] ^= 1;
    overwrite(storage, key, &bytes);
}

/// Packs by kind of what they hold: data, then trees.
fn packs(repository: &Repository, kind: FrameKind) -> Vec<ObjectKey> {
    let storage = repository.store().storage();
    let holds = |key: &ObjectKey| storage.get(key).unwrap()[4] == kind.code();
    keys_under(storage, layout::PACKS).into_iter().filter(holds).collect()
}

/// Tells whether an object of the index describes a pack.
fn describes(repository: &Repository, segment: &ObjectKey, pack: &ObjectKey) -> bool {
    let store = repository.store();
    let id: SegmentId = layout::last_part(segment).parse().unwrap();
    let kinds = [FrameKind::Segment, FrameKind::RemovalSegment];
    let mut scratch = FrameScratch::new().unwrap();
    let (kind, plain) = store.read_hashed(segment, id.as_bytes(), &kinds, layout::INDEX, &mut scratch).unwrap();
    kind == FrameKind::Segment && decode_segment(&plain).unwrap().iter().any(|info| layout::pack(info.id) == *pack)
}

/// A repository with every kind of object, and a source.
struct Base {
    place: Place,
    source: PathBuf,
    /// Opens the second key slot.
    other_secret: Secret,
}

impl Base {
    fn new() -> Self {
        let (place, repository) = Place::memory(Encryption::Aes256Gcm);
        let source = place.path("source");
        let mut tree = TreeSpec::new()
            .file("notebooks/a.py", b"print('a')\n".to_vec())
            .file("notebooks/b.py", b"print('b')\n".to_vec())
            .file("big/one", Content::random(1, 700_000))
            .file("big/two", Content::random(2, 700_000))
            .file("empty", b"".to_vec())
            .with("link", Item::symlink("notebooks/a.py"));
        for number in 0..40u64 {
            tree = tree.file(format!("many/{number}"), Content::random(100 + number, 40_000));
        }
        tree.write(&source);
        drop(repository);
        let repository = open(&place.storage);
        backup(&repository, std::slice::from_ref(&source));
        std::fs::write(source.join("notebooks/c.py"), "print('c')\n").unwrap();
        backup(&repository, std::slice::from_ref(&source));
        std::fs::write(source.join("notebooks/d.py"), "print('d')\n").unwrap();
        let undone = backup(&repository, std::slice::from_ref(&source)).snapshot.unwrap();
        let other = place.path("other");
        TreeSpec::new().file("x", b"x".to_vec()).write(&other);
        let forgotten = backup(&repository, &[other]).snapshot.unwrap();
        repository.annotate(&undone, vec!["first".into()], String::new()).unwrap();
        let other_secret = Secret::KeyFile(vec![9; 32].into());
        repository.add_key(Unlock::KeyFile, &other_secret, "other").unwrap();
        let base = Self { place, source, other_secret };
        base.put_what_others_write(&repository, &undone, &forgotten);
        assert_good(&open(&base.place.storage));
        assert!(plan(&open(&base.place.storage), &read_all(), &Silent).unwrap().is_good());
        base
    }

    fn put_what_others_write(&self, repository: &Repository, undone: &SnapshotInfo, forgotten: &SnapshotInfo) {
        let store = repository.store();
        let random = SeededRandom::new(2);
        let time = Timestamp { secs: 1_790_400_000, nanos: 5 };
        let (version, unknown) = (RECORD_VERSION, serde_json::Map::new());
        let process = Process { host: "elsewhere".into(), boot_id: "boot".into(), pid: 1, start_ticks: 2 };
        let nowhere = PackId::new([0xee; 32]);
        let tombstone = Tombstone { version, time, reason: "by id".into(), unknown: unknown.clone() };
        store.put_record(&layout::tombstone(undone.id, 0), &tombstone, &random).unwrap();
        let resolution =
            Resolution { version, time, verdict: Verdict::Undone, generation: None, unknown: unknown.clone() };
        store.put_record(&layout::resolution(undone.id, 0), &resolution, &random).unwrap();
        store.put_record(&layout::tombstone(forgotten.id, 0), &tombstone, &random).unwrap();
        let session = SessionId::new([0xdd; 32]);
        let claim = Claim { version, generation: 1, time, session, process: process.clone(), unknown: unknown.clone() };
        store.put_record(&layout::claim(1), &claim, &random).unwrap();
        let condemned = Condemnation { version, generation: 1, packs: vec![nowhere], unknown: unknown.clone() };
        store.put_record(&layout::condemnation(1, 0), &condemned, &random).unwrap();
        let done = Done {
            version,
            generation: 1,
            time,
            packs_deleted: 1,
            bytes_freed: 1000,
            snapshots: Vec::new(),
            unknown: unknown.clone(),
        };
        store.put_record(&layout::done(1), &done, &random).unwrap();
        let awaited = Awaited {
            version,
            generation: 1,
            time,
            lists: vec![0],
            sessions: Vec::new(),
            snapshots: Vec::new(),
            unknown: unknown.clone(),
        };
        store.put_record(&layout::awaited(1), &awaited, &random).unwrap();
        store
            .put_hashed(
                FrameKind::RemovalSegment,
                layout::INDEX,
                &encode_removal(&Removal { packs: vec![nowhere], replaced: Vec::new() }),
                &random,
            )
            .unwrap();
        let expiry =
            Expiry { version, time, reason: "its process is dead".into(), by: session, unknown: unknown.clone() };
        store.put_record(&layout::snapshot(SessionId::new([0xcc; 32])), &expiry, &random).unwrap();
        let running = Session {
            version,
            number: 0,
            time,
            base_generation: 1,
            process,
            sources: Vec::new(),
            parent: None,
            checkpoint: None,
            progress: None,
            shard: None,
            unknown,
        };
        store.put_record(&layout::session(SessionId::new([0xbb; 32]), 0), &running, &random).unwrap();
    }

    fn storage(&self) -> Arc<dyn Storage> {
        copy_of(&*self.place.storage)
    }

    /// One object of each kind, with a name for it; of packs and segments all.
    fn one_of_each(&self) -> Vec<(&'static str, ObjectKey)> {
        let repository = open(&self.place.storage);
        let storage = &*self.place.storage;
        let first = |prefix: &str| keys_under(storage, prefix).remove(0);
        let mut all = vec![
            ("tombstone", keys_under(storage, layout::FORGOTTEN).pop().unwrap()),
            ("claim", layout::claim(1)),
            ("condemnation", layout::condemnation(1, 0)),
            ("done mark", layout::done(1)),
            ("awaited", layout::awaited(1)),
            ("expiry", layout::snapshot(SessionId::new([0xcc; 32]))),
            ("session", layout::session(SessionId::new([0xbb; 32]), 0)),
            ("snapshot", layout::snapshot(live(&repository)[0].id)),
            ("annotation", first(layout::ANNOTATIONS)),
            ("run", first(layout::RUNS)),
            ("ledger", first(layout::LEDGER)),
            ("key slot", self.slot_of(&secret())),
        ];
        all.extend(packs(&repository, FrameKind::Chunks).into_iter().map(|pack| ("data pack", pack)));
        all.extend(packs(&repository, FrameKind::Nodes).into_iter().map(|pack| ("tree pack", pack)));
        let resolution = keys_under(storage, layout::FORGOTTEN);
        all.extend(
            resolution.into_iter().find(|key| layout::last_part(key) == "resolution").map(|k| ("resolution", k)),
        );
        for segment in keys_under(storage, layout::INDEX) {
            let kind = storage.get(&segment).unwrap()[4];
            all.push(if kind == FrameKind::Segment.code() { ("segment", segment) } else { ("removal", segment) });
        }
        all
    }

    /// The key slot that a secret opens.
    fn slot_of(&self, secret: &Secret) -> ObjectKey {
        let repository = open_with(&self.place.storage, secret);
        let current = repository.list_keys().unwrap().into_iter().find(|slot| slot.current).unwrap();
        layout::key_slot(current.id)
    }
}

/// What is done to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Harm {
    Delete,
    Truncate,
    Flip,
    Replace,
    Empty,
}

impl Harm {
    const ALL: [Self; 5] = [Self::Delete, Self::Truncate, Self::Flip, Self::Replace, Self::Empty];

    fn do_to(self, storage: &dyn Storage, key: &ObjectKey) {
        let bytes = storage.get(key).unwrap();
        let folder = key.as_str().split_inclusive('/').next().unwrap();
        match self {
            Self::Delete => storage.delete(key).unwrap(),
            Self::Truncate => overwrite(storage, key, &bytes[..bytes.len() / 2]),
            Self::Flip => flip(storage, key, bytes.len() / 2),
            Self::Empty => overwrite(storage, key, b""),
            Self::Replace => {
                let others = [keys_under(storage, folder), keys_under(storage, layout::SNAPSHOTS)].concat();
                let other = others.into_iter().find(|other| other != key).unwrap();
                overwrite(storage, key, &storage.get(&other).unwrap());
            }
        }
    }
}

/// What is run after the damage and before the repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Repair,
    Backup,
    Restore,
    Verify,
    Snapshots,
    ForgetAndUndo,
    Prune,
    Copy,
}

impl Next {
    const ALL: [Self; 8] = [
        Self::Repair,
        Self::Backup,
        Self::Restore,
        Self::Verify,
        Self::Snapshots,
        Self::ForgetAndUndo,
        Self::Prune,
        Self::Copy,
    ];

    /// Runs it. It may fail, but it must not lie.
    fn run(self, repository: &Repository, base: &Base, before: &BTreeMap<SnapshotId, Contents>, newest: &Contents) {
        match self {
            Self::Repair => {}
            Self::Backup => {
                let backup =
                    try_backup(repository, std::slice::from_ref(&base.source), &options(), &Default::default());
                // that a pack has other bytes than it should nobody knows who has not read it
                if let Some(info) = backup.ok().and_then(|report| report.snapshot) {
                    tells_no_lie(repository, &info, newest);
                }
            }
            Self::Restore => {
                for info in repository.catalogue().into_iter().flat_map(|catalogue| catalogue.snapshots) {
                    before.get(&info.id).into_iter().for_each(|expected| tells_no_lie(repository, &info, expected));
                }
            }
            Self::Verify => {
                let _ = repository.verify(&Default::default(), &Silent);
            }
            Self::Snapshots => {
                let _ = repository.catalogue();
            }
            Self::ForgetAndUndo => {
                let oldest = repository.catalogue().ok().and_then(|catalogue| Some(catalogue.snapshots.first()?.id));
                if let Some(id) = oldest {
                    let options = ForgetOptions::new(Choice::Snapshots([id].into()));
                    let plan = repository.plan_forget(&options);
                    let _ = plan.and_then(|plan| repository.apply_forget(&plan, &Silent));
                    let _ = repository.undo_forget(&[id]);
                }
            }
            // what it cannot read it must not free
            Self::Prune => {
                let _ = repository.prune(&prune_all(), &Silent);
            }
            Self::Copy => {
                let (_place, other) = Place::memory(Encryption::Aes256Gcm);
                let _ = copy(repository, &other, &CopyOptions::default(), &|_| {}, &Silent);
                assert_good(&other);
            }
        }
    }
}

/// Contents of all live snapshots, oldest first by id of their moment.
fn all_contents(repository: &Repository) -> BTreeMap<SnapshotId, Contents> {
    live(repository).iter().map(|info| (info.id, contents(repository, info))).collect()
}

/// What can be read of a snapshot is what was in it.
fn tells_no_lie(repository: &Repository, info: &SnapshotInfo, expected: &Contents) {
    let Ok(reader) = repository.reader(&Silent) else { return };
    let _ = walk(&reader, info.snapshot.root, b"", &mut |path, entry| {
        let mut bytes = Vec::new();
        if entry.kind == EntryKind::File && write_content(&reader, entry, "x", &mut bytes).is_ok() {
            assert_eq!(expected[&*String::from_utf8_lossy(path)].as_ref(), Some(&hash(&bytes)));
        }
        Ok(Listed::Descend)
    });
}

/// Every kind of object x every kind of damage x every command that may come next.
#[test]
fn whatever_is_damaged_and_run_next_a_repair_puts_it_right() {
    let base = Base::new();
    let before = {
        let repository = open(&base.place.storage);
        // the newest one last
        live(&repository).iter().map(|info| (info.id, contents(&repository, info))).collect::<Vec<_>>()
    };
    let newest = before.last().unwrap().1.clone();
    let by_id: BTreeMap<SnapshotId, Contents> = before.iter().cloned().collect();
    let mut cases = 0;
    for (kind, object) in base.one_of_each() {
        for harm in Harm::ALL {
            for next in Next::ALL {
                let case = format!("{kind} {object} {harm:?} then {next:?}");
                let storage = base.storage();
                harm.do_to(&*storage, &object);
                let secret = if kind == "key slot" { &base.other_secret } else { &secret() };
                let repository = open_with(&storage, secret);
                next.run(&repository, &base, &by_id, &newest);
                check_repair(&case, &base, &storage, secret, &by_id, &newest, harm);
                cases += 1;
            }
        }
    }
    assert!(cases > 560, "{cases}");
}

fn check_repair(
    case: &str,
    base: &Base,
    storage: &Arc<dyn Storage>,
    secret: &Secret,
    before: &BTreeMap<SnapshotId, Contents>,
    newest: &Contents,
    harm: Harm,
) {
    let objects = |storage: &dyn Storage| -> BTreeSet<ObjectKey> { keys_under(storage, "").into_iter().collect() };
    let (planned, report) = repair_with(storage, secret, &read_all());
    assert!(planned.held_back.is_empty(), "{case}: {planned:#?}");
    assert!(report.remaining.actions.is_empty(), "{case}: {report:#?}");
    // again: nothing more to do
    let after = objects(&**storage);
    let (again, _) = repair_with(storage, secret, &read_all());
    assert!(again.actions.is_empty(), "{case}: {again:#?}");
    assert_eq!(objects(&**storage), after, "{case}");

    // what is live is whole, or told as lost, and what was made of that is whole
    let repository = open_with(storage, secret);
    let lacking: BTreeMap<SnapshotId, _> = again.losses.iter().map(|loss| (loss.snapshot, loss)).collect();
    for info in live(&repository) {
        if lacking.contains_key(&info.id) {
            continue;
        }
        let found = contents(&repository, &info);
        match info.snapshot.original {
            Some(original) => {
                let original = before.get(&original.snapshot).unwrap_or(newest);
                assert!(!info.snapshot.is_complete(), "{case}");
                assert!(found.iter().all(|(path, content)| original[path] == *content), "{case}");
                let missing = original.len() - found.len();
                assert!(info.snapshot.failures.len() <= missing.max(1), "{case}");
            }
            // a forgotten one that is shown again is of another source
            None if found.len() < 15 => {}
            None => assert_eq!(found, *before.get(&info.id).unwrap_or(newest), "{case}: {}", info.id),
        }
    }
    for loss in lacking.values() {
        assert!(loss.is_total || loss.is_forgotten || loss.repaired.is_some(), "{case}: {loss:#?}");
        assert!(harm != Harm::Flip || loss.paths.len() < 45, "{case}: {}", loss.paths.len());
    }
    // nothing else is wrong
    let verified = verify_all(&repository);
    for damage in &verified.damage {
        assert!(!damage.affected.is_empty(), "{case}: {damage:#?}");
        for affected in &damage.affected {
            let loss = lacking.get(&affected.snapshot).unwrap_or_else(|| panic!("{case}: {damage:#?}"));
            assert_eq!(verified.repaired.get(&affected.snapshot), loss.repaired.as_ref(), "{case}");
        }
    }
    // the next backup has everything, whatever its parent lacks
    let info = backup(&repository, std::slice::from_ref(&base.source)).snapshot.unwrap();
    assert_eq!(contents(&repository, &info), *newest, "{case}");
    assert!(plan(&repository, &read_all(), &Silent).unwrap().losses.iter().all(|loss| loss.snapshot != info.id));
}

/// What a composite of damage needs: everything at once.
fn harm_much(base: &Base, storage: &dyn Storage) {
    let repository = open(&base.place.storage);
    let mut data = packs(&repository, FrameKind::Chunks);
    data.sort_by_key(|pack| std::cmp::Reverse(storage.size(pack).unwrap()));
    flip(storage, &data[0], 1000);
    storage.delete(&data[1]).unwrap();
    // what is stored by now nobody knows any more: a backup does not build upon the damaged pack
    let segments = keys_under(storage, layout::INDEX);
    let describing: Vec<_> = segments.iter().filter(|segment| describes(&repository, segment, &data[0])).collect();
    assert!(!describing.is_empty());
    describing.into_iter().for_each(|segment| flip(storage, segment, 80));
    for (kind, object) in base.one_of_each() {
        if ["snapshot", "expiry", "resolution", "session", "run", "condemnation", "annotation"].contains(&kind) {
            flip(storage, &object, 70);
        }
    }
}

/// What a repair comes to, whatever way it took.
#[derive(Debug, PartialEq)]
struct End {
    /// Moments, originals and contents of the live snapshots that are whole.
    whole: Vec<(Timestamp, Option<SnapshotId>, Contents)>,
    lacking: BTreeSet<SnapshotId>,
    quarantine: BTreeSet<ObjectKey>,
    damage: BTreeSet<String>,
}

fn end_of(storage: &Arc<dyn Storage>) -> End {
    let repository = open(storage);
    let left = plan(&repository, &read_all(), &Silent).unwrap();
    assert!(left.actions.is_empty() && left.held_back.is_empty(), "{left:#?}");
    let lacking: BTreeSet<SnapshotId> = left.losses.iter().map(|loss| loss.snapshot).collect();
    let infos = live(&repository);
    let whole = infos.iter().filter(|info| !lacking.contains(&info.id));
    let original = |info: &SnapshotInfo| info.snapshot.original.map(|original| original.snapshot);
    let whole = whole.map(|info| (info.snapshot.time, original(info), contents(&repository, info))).collect();
    let quarantine = keys_under(&**storage, layout::QUARANTINE).into_iter().collect();
    let damage = verify_all(&repository).damage.into_iter().map(|damage| damage.subject).collect();
    End { whole, lacking, quarantine, damage }
}

/// Cut off at every write, and repeated: the same end. And a backup in between has everything.
#[test]
fn a_repair_that_is_cut_off_at_any_write_is_completed_by_the_next_one() {
    let base = Base::new();
    let harmed = base.storage();
    harm_much(&base, &*harmed);
    let expected = {
        let storage = copy_of(&*harmed);
        let (planned, _) = repair(&storage);
        assert!(planned.actions.len() >= 11, "{planned:#?}");
        end_of(&storage)
    };
    assert!(!expected.lacking.is_empty() && expected.whole.len() > 1, "{:?}", expected.lacking);
    let newest = contents(&open(&base.place.storage), &latest(&open(&base.place.storage)));
    let mut cuts = 0;
    for writes in 0.. {
        let storage = copy_of(&*harmed);
        let fault = FaultStorage::new(storage.clone());
        let repository = open(&(Arc::new(fault.clone()) as Arc<dyn Storage>));
        let planned = plan(&repository, &read_all(), &Silent).unwrap();
        fault.stop_after_writes(writes);
        let result = apply(&repository, &planned, &read_all(), &Silent);
        let done = result.is_ok();
        if let Err(error) = result {
            assert!(is_stopped(&error) || matches!(error, Error::Poisoned { .. }), "{error:?}");
        }
        drop(repository);
        let beside = copy_of(&*storage);
        repair(&storage);
        let end = end_of(&storage);
        assert_eq!(end.quarantine, expected.quarantine, "after {writes} writes");
        assert_eq!(end.damage, expected.damage, "after {writes} writes");
        assert!(end == expected, "after {writes} writes");
        // whoever backs up before the repair is repeated has everything too
        let repository = open(&beside);
        let backup = try_backup(&repository, std::slice::from_ref(&base.source), &options(), &Default::default());
        match backup {
            Ok(report) => assert_eq!(contents(&repository, &report.snapshot.unwrap()), newest, "after {writes} writes"),
            // a list of condemned packs cannot be read before it is put aside
            Err(error) => assert!(matches!(error, Error::Damaged { .. }), "{error:?}"),
        }
        if done {
            break;
        }
        cuts += 1;
    }
    assert!(cuts > 60, "{cuts}");
}

#[test]
fn the_steps_come_in_the_order_of_the_protocol() {
    let base = Base::new();
    let storage = base.storage();
    let repository = open(&storage);
    let pack =
        packs(&repository, FrameKind::Chunks).into_iter().max_by_key(|pack| storage.size(pack).unwrap()).unwrap();
    flip(&*storage, &pack, 1000);
    let planned = plan(&repository, &read_all(), &Silent).unwrap();
    let steps = Steps::default();
    let report = apply(&repository, &planned, &read_all(), &steps).unwrap();
    use WriterStep::*;
    let mut expected = vec![Register, ReadCondemned, FoldSegments, StorePacks, PublishSegments];
    for _ in &report.snapshots {
        expected.extend([Register, ReadCondemned, FoldSegments, ChooseParent, StorePacks, PublishSegments, Commit]);
    }
    let expected: Vec<Step> = expected.into_iter().map(Step::from).collect();
    assert_eq!(*steps.0.lock().unwrap(), expected);
    assert!(!report.snapshots.is_empty());
}

/// Makes a backup at a step of a repair.
struct BackupAt<'a> {
    step: Step,
    storage: &'a Arc<dyn Storage>,
    source: &'a PathBuf,
    made: Mutex<Option<SnapshotId>>,
}

impl Monitor for BackupAt<'_> {
    fn step(&self, step: Step) {
        let mut made = self.made.lock().unwrap();
        if step == self.step && made.is_none() {
            let report = backup(&open(self.storage), std::slice::from_ref(self.source));
            *made = report.snapshot.map(|info| info.id);
        }
    }
}

/// A backup beside a repair takes for present what cannot be read: that is found, and the next one stores it.
#[test]
fn a_backup_at_any_step_of_a_repair_does_no_harm() {
    let base = Base::new();
    let newest = contents(&open(&base.place.storage), &latest(&open(&base.place.storage)));
    use WriterStep::*;
    for step in [Register, ReadCondemned, FoldSegments, StorePacks, PublishSegments, ChooseParent, Commit] {
        let storage = base.storage();
        let repository = open(&storage);
        for pack in packs(&repository, FrameKind::Chunks) {
            flip(&*storage, &pack, 1000.min(storage.size(&pack).unwrap() as usize / 2));
        }
        let planned = plan(&repository, &read_all(), &Silent).unwrap();
        let beside = BackupAt { step: step.into(), storage: &storage, source: &base.source, made: Mutex::default() };
        let report = apply(&repository, &planned, &read_all(), &beside).unwrap();
        let made = beside.made.into_inner().unwrap().unwrap();
        let told = report.remaining.losses.iter().any(|loss| loss.snapshot == made);
        let info = live(&repository).into_iter().find(|info| info.id == made).unwrap();
        assert!(told || contents(&repository, &info) == newest, "{step:?}");
        let info = backup(&open(&storage), std::slice::from_ref(&base.source)).snapshot.unwrap();
        assert_eq!(contents(&open(&storage), &info), newest, "{step:?}");
        let (_, report) = repair(&storage);
        assert!(report.remaining.actions.is_empty(), "{step:?}: {:#?}", report.remaining);
        assert!(report.remaining.losses.iter().all(|loss| loss.is_forgotten), "{step:?}");
    }
}
