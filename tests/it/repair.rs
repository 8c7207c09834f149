//! Damage of every kind in every object, whatever is run next, is put right as far as it can be: nothing that is whole is
//! touched, what is lost is told, and what the source still has comes back.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use lakebed_engine::copy::{CopyOptions, copy};
use lakebed_engine::core::codec::frame::{FrameKind, FrameScratch};
use lakebed_engine::core::codec::seal::Encryption;
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
use lakebed_engine::core::storage::{
    Capabilities, ObjectInfo, ObjectKey, ObjectWriter, Storage, StorageError, StorageErrorKind,
};
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

#[test]
fn what_can_be_read_of_a_damaged_pack_is_saved() {
    let base = Base::new();
    let storage = base.storage();
    let repository = open(&storage);
    let pack =
        packs(&repository, FrameKind::Chunks).into_iter().max_by_key(|pack| storage.size(pack).unwrap()).unwrap();
    let pack_bytes = storage.get(&pack).unwrap();
    let known = repository.store().list_packs().unwrap();
    flip(&*storage, &pack, pack_bytes.len() / 2);
    let snapshots = live(&repository);
    let (planned, report) = repair(&storage);
    assert!(planned.actions.iter().any(|action| matches!(action.remedy, Remedy::Salvage { .. })), "{planned:#?}");
    let salvage = planned.actions.iter().find(|action| matches!(action.remedy, Remedy::Salvage { .. })).unwrap();
    assert!(!salvage.affected.is_empty() && salvage.problem.contains("damaged at offset"), "{salvage:#?}");
    assert!(report.salvaged > 0);
    assert!(storage.get(&key(&format!("quarantine/{pack}"))).unwrap() != pack_bytes);
    assert!(storage.size(&pack).is_err());
    // what was saved is stored as it was: many chunks in a frame
    let repository = open(&storage);
    let all = repository.index(&Silent).unwrap().all().unwrap();
    let saved: Vec<_> = all.into_iter().filter(|(_, place)| !known.contains_key(&place.pack)).collect();
    let frames: BTreeSet<_> = saved.iter().map(|(_, place)| (place.pack, place.frame_offset)).collect();
    assert!(saved.len() as u64 >= report.salvaged && frames.len() * 4 < saved.len(), "{} frames", frames.len());
    // one frame is lost, so less than the whole
    for (original, made) in &report.snapshots {
        let old = snapshots.iter().find(|info| info.id == *original).unwrap();
        let lost = made.snapshot.failures.len() as u64;
        // a frame holds a megabyte at most: so many of these files
        assert!((1..=30).contains(&lost), "{made:#?}");
        assert_eq!(made.snapshot.summary.files, old.snapshot.summary.files - lost);
        let reference = Original { repository: repository.info().id, snapshot: *original };
        assert_eq!(made.snapshot.original, Some(reference));
        let failure = &made.snapshot.failures[0];
        assert!(failure.reason.starts_with("lost in the repository: The chunk"), "{failure:?}");
    }
    assert_eq!(report.snapshots.len(), snapshots.iter().filter(|info| info.snapshot.summary.files > 5).count());
    assert_eq!(report.remaining.losses.len(), report.snapshots.len());

    // the source still has everything: with the next backup the old snapshots are whole again
    backup(&repository, std::slice::from_ref(&base.source));
    let restored = restore_to(&repository, &latest(&repository), &base.place.path("out"), &base.source);
    assert_same_tree(&base.source, &restored, &CompareOptions::default());
    let repository = open(&storage);
    assert!(plan(&repository, &read_all(), &Silent).unwrap().is_good());
    assert_good(&repository);
}

/// Of a pack that much is lost with, the plan names some of it and counts the rest.
#[test]
fn a_plan_says_how_much_is_lost_with_each_pack() {
    let (place, repository) = Place::memory(Encryption::Aes256Gcm);
    let source = place.path("source");
    let files = AFFECTED_MAX + 7;
    (0..files)
        .fold(TreeSpec::new(), |tree, file| tree.file(format!("{file:03}"), Content::random(file as u64, 100)))
        .write(&source);
    backup(&repository, std::slice::from_ref(&source));
    let [pack] = &packs(&repository, FrameKind::Chunks)[..] else { panic!("one pack holds them all") };
    place.storage.delete(pack).unwrap();
    let planned = plan(&open(&place.storage), &read_all(), &Silent).unwrap();
    let [drop, derive] = &planned.actions[..] else { panic!("{planned:#?}") };
    assert_eq!((drop.affected.len(), drop.affected_more), (AFFECTED_MAX, 7));
    assert_eq!(derive.problem, format!("it lacks something at {files} paths"));
    assert_eq!((planned.losses.len(), planned.losses[0].paths.len()), (1, files));
}

#[test]
fn a_pack_that_is_missing_leaves_the_index_and_the_next_backup_stores_it_again() {
    let base = Base::new();
    for kind in [FrameKind::Chunks, FrameKind::Nodes] {
        let storage = base.storage();
        for pack in packs(&open(&storage), kind) {
            storage.delete(&pack).unwrap();
        }
        let (planned, report) = repair(&storage);
        assert!(planned.actions.iter().any(|action| matches!(action.remedy, Remedy::Drop(_))), "{planned:#?}");
        assert!(report.remaining.losses.iter().all(|loss| loss.is_total == (kind == FrameKind::Nodes)));
        let repository = open(&storage);
        assert!(
            repository.index(&Silent).unwrap().packs().iter().all(|pack| storage.size(&layout::pack(pack.id)).is_ok())
        );
        let report = backup(&repository, std::slice::from_ref(&base.source));
        assert!(report.parent.is_some());
        let target = base.place.path(&format!("out{}", kind.code()));
        let restored = restore_to(&repository, &latest(&repository), &target, &base.source);
        assert_same_tree(&base.source, &restored, &CompareOptions::default());
    }
}

/// A pack whose end is gone, and with it what says what it holds, in a repository without segments.
#[test]
fn frames_are_found_without_any_list_of_them() {
    let base = Base::new();
    let storage = base.storage();
    for segment in keys_under(&*storage, layout::INDEX) {
        storage.delete(&segment).unwrap();
    }
    let mut lost = 0;
    for pack in keys_under(&*storage, layout::PACKS) {
        let bytes = storage.get(&pack).unwrap();
        // garbage before, and the directory cut off
        let middle = [&b"garbage LBF\x01\x01 and more garbage"[..], &bytes[..bytes.len() - 200]].concat();
        overwrite(&*storage, &pack, &middle);
        lost += 1;
    }
    let (planned, report) = repair(&storage);
    let salvaged = planned.actions.iter().filter(|action| matches!(action.remedy, Remedy::Salvage { .. })).count();
    assert_eq!(salvaged, lost);
    assert!(report.remaining.is_good(), "{:#?}", report.remaining);
    let repository = open(&storage);
    assert_good(&repository);
    assert_eq!(all_contents(&repository), all_contents(&open(&base.place.storage)));
}

#[test]
fn lost_segments_are_written_anew() {
    let base = Base::new();
    for harm in [Harm::Delete, Harm::Flip] {
        let storage = base.storage();
        for segment in keys_under(&*storage, layout::INDEX) {
            harm.do_to(&*storage, &segment);
        }
        let (planned, report) = repair_with(&storage, &secret(), &RepairOptions::default());
        assert!(matches!(planned.actions[0].remedy, Remedy::Describe { .. }), "{planned:#?}");
        assert_eq!(planned.actions.len(), 1);
        assert!(report.remaining.is_good());
        assert_good(&open(&storage));
        assert_eq!(all_contents(&open(&storage)), all_contents(&open(&base.place.storage)));
    }
}

/// An index in RocksDB that was folded before its segments were damaged knows more than storage: it is not believed.
#[test]
fn an_index_that_knows_more_than_storage_is_made_anew() {
    let (place, repository) = Place::local();
    let source = place.path("source");
    TreeSpec::new().file("a", b"a".to_vec()).write(&source);
    backup(&repository, std::slice::from_ref(&source));
    drop(repository);
    for segment in keys_under(&*place.storage, layout::INDEX) {
        flip(&*place.storage, &segment, 60);
    }
    let repository = place.reopen();
    let planned = plan(&repository, &RepairOptions::default(), &Silent).unwrap();
    assert!(matches!(planned.actions[0].remedy, Remedy::Describe { packs: 2, .. }), "{planned:#?}");
    let report = apply(&repository, &planned, &RepairOptions::default(), &Silent).unwrap();
    assert!(report.remaining.is_good(), "{:#?}", report.remaining);
    assert_good(&place.reopen());
}

/// A directory in several nodes, some of which are lost: it keeps what the others hold.
#[test]
fn a_directory_keeps_what_its_other_nodes_hold() {
    let (place, repository) = Place::memory(Encryption::Aes256Gcm);
    let source = place.path("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("first"), "content").unwrap();
    for number in 0..5000 {
        std::os::unix::fs::symlink("first", source.join(format!("notebook-{number:06}.py"))).unwrap();
    }
    backup(&repository, std::slice::from_ref(&source));
    let first = packs(&repository, FrameKind::Nodes);
    std::fs::write(source.join("notebook-002500x.py"), "added").unwrap();
    let second = backup(&repository, std::slice::from_ref(&source)).snapshot.unwrap();
    for pack in first {
        place.storage.delete(&pack).unwrap();
    }
    let (_, report) = repair(&place.storage);
    let repository = place.reopen();
    let made = &report.snapshots.iter().find(|(original, _)| *original == second.id).unwrap().1;
    let kept = contents(&repository, made);
    assert!(kept.len() > 300 && kept.len() < 4500, "{}", kept.len());
    assert!(kept.keys().any(|path| path.ends_with("notebook-002500x.py")));
    let shown = source.strip_prefix("/").unwrap().display().to_string();
    assert!(made.snapshot.failures.iter().all(|failure| failure.path == shown), "{:?}", made.snapshot.failures);
    assert!(report.remaining.losses.iter().any(|loss| loss.is_total && loss.snapshot != second.id));
    assert!(report.remaining.actions.is_empty());
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
fn a_pack_that_comes_back_after_a_repair_heals_what_it_can() {
    let base = Base::new();
    let storage = base.storage();
    let pack =
        packs(&open(&storage), FrameKind::Chunks).into_iter().max_by_key(|pack| storage.size(pack).unwrap()).unwrap();
    let bytes = storage.get(&pack).unwrap();
    storage.delete(&pack).unwrap();
    let (_, report) = repair(&storage);
    assert!(!report.remaining.losses.is_empty());
    // somebody finds the disk that it was on
    storage.put(&pack, &bytes).unwrap();
    let (planned, report) = repair(&storage);
    assert!(matches!(planned.actions[0].remedy, Remedy::Salvage { .. }), "{planned:#?}");
    assert!(report.remaining.is_good(), "{:#?}", report.remaining);
    assert!(storage.size(&pack).is_err());
    assert_eq!(all_contents(&open(&base.place.storage)).len() + 3, all_contents(&open(&storage)).len());
    assert_good(&open(&storage));
}

/// Reading a pack fails, and does not when it is tried again.
#[test]
fn a_disk_that_fails_once_costs_nothing() {
    let base = Base::new();
    let storage = base.storage();
    let pack =
        packs(&open(&storage), FrameKind::Chunks).into_iter().max_by_key(|pack| storage.size(pack).unwrap()).unwrap();
    let fault = FaultStorage::new(storage.clone());
    let faulty: Arc<dyn Storage> = Arc::new(fault.clone());
    let repository = open(&faulty);
    fault.inject(Fault::os(5).on(Operation::GetRange).under(pack.as_str()));
    let planned = plan(&repository, &read_all(), &Silent).unwrap();
    let salvage = planned.actions.iter().find(|action| matches!(action.remedy, Remedy::Salvage { .. })).unwrap();
    assert!(salvage.problem.contains("os error 5"), "{salvage:#?}");
    // what was read at the second try is not lost
    assert!(planned.losses.is_empty(), "{:#?}", planned.losses);
    let report = apply(&repository, &planned, &read_all(), &Silent).unwrap();
    assert!(report.remaining.is_good(), "{:#?}", report.remaining);
    assert_good(&repository);
    // it was read again and found whole, so it stays
    assert!(storage.size(&pack).is_ok());
}

/// Without reading all packs a repair reads the trees: what it cannot read of them leads to the pack, and what it may not
/// read to an error.
#[test]
fn a_pack_of_trees_that_cannot_be_read_is_found_by_reading_trees() {
    let (place, repository) = Place::memory(Encryption::Aes256Gcm);
    let source = place.path("source");
    TreeSpec::new().file("a", b"1".to_vec()).file("d/b", b"2".to_vec()).write(&source);
    let info = backup(&repository, std::slice::from_ref(&source)).snapshot.unwrap();
    let [pack] = &packs(&repository, FrameKind::Nodes)[..] else { panic!("one pack holds them all") };
    let options = RepairOptions { threads: 2, ..RepairOptions::default() };
    assert!(!options.read_data);
    let planned = |storage: Arc<dyn Storage>| plan(&open(&storage), &options, &Silent);
    let fault = |fault: Fault| -> Arc<dyn Storage> {
        let faulty = FaultStorage::new(place.storage.clone());
        faulty.inject(fault.on(Operation::GetRange).under(pack.as_str()).sticky());
        Arc::new(faulty)
    };
    assert!(planned(place.storage.clone()).unwrap().actions.is_empty());

    let refused = planned(fault(Fault::kind(StorageErrorKind::PermissionDenied))).unwrap_err();
    assert!(matches!(refused, Error::Storage(_)), "{refused:?}");
    let flipped = copy_of(&*place.storage);
    flip(&*flipped, pack, 100);
    // a disk that fails, one that gives less than it says, a bit
    for storage in [fault(Fault::os(5)), fault(Fault::kind(StorageErrorKind::TooShort)), flipped] {
        let planned = planned(storage).unwrap();
        let lost: Vec<_> = planned.losses.iter().map(|loss| (loss.snapshot, loss.is_total)).collect();
        assert_eq!(lost, [(info.id, true)], "{planned:#?}");
        let id = layout::last_part(pack).parse().unwrap();
        let is_salvage = |action: &Action| matches!(action.remedy, Remedy::Salvage { pack, .. } if pack == id);
        assert!(planned.actions.iter().any(is_salvage), "{planned:#?}");
    }
}

/// A storage on a disk that fails to read one block of one object.
#[derive(Debug)]
struct BadSector {
    inner: Arc<dyn Storage>,
    key: ObjectKey,
    block: Range<u64>,
}

impl BadSector {
    fn fails(&self, key: &ObjectKey, range: Range<u64>) -> Result<(), StorageError> {
        let is_hit = *key == self.key && range.start < self.block.end && self.block.start < range.end;
        let error = || StorageError::new("read", key, std::io::Error::from_raw_os_error(5));
        if is_hit { Err(error()) } else { Ok(()) }
    }
}

impl Storage for BadSector {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn put(&self, key: &ObjectKey, bytes: &[u8]) -> Result<(), StorageError> {
        self.inner.put(key, bytes)
    }

    fn writer(&self) -> Result<Box<dyn ObjectWriter>, StorageError> {
        self.inner.writer()
    }

    fn get(&self, key: &ObjectKey) -> Result<Vec<u8>, StorageError> {
        self.fails(key, 0..u64::MAX)?;
        self.inner.get(key)
    }

    fn get_range(&self, key: &ObjectKey, offset: u64, length: usize, buffer: &mut Vec<u8>) -> Result<(), StorageError> {
        self.fails(key, offset..offset + length as u64)?;
        self.inner.get_range(key, offset, length, buffer)
    }

    fn size(&self, key: &ObjectKey) -> Result<u64, StorageError> {
        self.inner.size(key)
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StorageError> {
        self.inner.list(prefix)
    }

    fn delete(&self, key: &ObjectKey) -> Result<(), StorageError> {
        self.inner.delete(key)
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.inner.sync()
    }
}

#[test]
fn a_sector_that_cannot_be_read_costs_one_frame() {
    let base = Base::new();
    let storage = base.storage();
    let pack =
        packs(&open(&storage), FrameKind::Chunks).into_iter().max_by_key(|pack| storage.size(pack).unwrap()).unwrap();
    let bytes = storage.get(&pack).unwrap();
    let at = bytes.len() as u64 / 2 / 4096 * 4096;
    let block = at..at + 4096;
    let bad: Arc<dyn Storage> = Arc::new(BadSector { inner: storage.clone(), key: pack.clone(), block: block.clone() });
    let (planned, report) = repair(&bad);
    let salvage = planned.actions.iter().find(|action| matches!(action.remedy, Remedy::Salvage { .. })).unwrap();
    assert!(salvage.problem.contains("os error 5"), "{salvage:#?}");
    assert!(report.remaining.actions.is_empty(), "{:#?}", report.remaining);
    // a frame holds a megabyte at most: so many of these files
    assert!(report.remaining.losses.iter().all(|loss| loss.paths.len() <= 30), "{:#?}", report.remaining.losses);
    let aside = storage.get(&key(&format!("quarantine/{pack}"))).unwrap();
    assert_eq!(aside.len(), bytes.len());
    for (position, (found, was)) in aside.iter().zip(&bytes).enumerate() {
        let expected = if block.contains(&(position as u64)) { 0 } else { *was };
        assert_eq!(*found, expected, "at {position}");
    }
    backup(&open(&bad), std::slice::from_ref(&base.source));
    assert!(plan(&open(&storage), &read_all(), &Silent).unwrap().is_good());
}

#[test]
fn what_a_killed_run_left_behind_is_no_damage() {
    let base = Base::new();
    let storage = base.storage();
    let fault = FaultStorage::new(storage.clone());
    let repository = open(&(Arc::new(fault.clone()) as Arc<dyn Storage>));
    let source = base.place.path("more");
    TreeSpec::new().file("more", Content::random(7, 300_000)).write(&source);
    // packs are there, their segment is not
    fault.inject(Fault::os(5).on(Operation::Put).under(layout::INDEX));
    try_backup(&repository, &[source], &options(), &Default::default()).unwrap_err();
    let repository = open(&storage);
    assert!(repository.verify(&Default::default(), &Silent).unwrap().unreferenced_packs > 0);
    let planned = plan(&repository, &read_all(), &Silent).unwrap();
    assert!(planned.is_good(), "{planned:#?}");
}

fn dead_process() -> Process {
    let mut child = std::process::Command::new("true").spawn().unwrap();
    let pid = child.id();
    child.wait().unwrap();
    Process { pid, start_ticks: 1, ..SystemProcesses.this("host") }
}

#[test]
fn what_a_prune_may_still_need_is_put_aside_only_when_it_is_certainly_over() {
    let base = Base::new();
    let process = |process: Process| {
        let storage = base.storage();
        storage.delete(&layout::done(1)).unwrap();
        storage.delete(&layout::claim(1)).unwrap();
        let repository = open(&storage);
        let claim = Claim {
            version: RECORD_VERSION,
            generation: 1,
            time: Timestamp::default(),
            session: SessionId::new([0xdd; 32]),
            process,
            unknown: Default::default(),
        };
        repository.store().put_record(&layout::claim(1), &claim, &SeededRandom::new(5)).unwrap();
        flip(&*storage, &layout::condemnation(1, 0), 60);
        // something else is wrong too
        let data = packs(&repository, FrameKind::Chunks).remove(0);
        storage.delete(&data).unwrap();
        storage
    };
    let elsewhere = Process { host: "elsewhere".into(), boot_id: "boot".into(), pid: 1, start_ticks: 2 };
    let storage = process(elsewhere);
    let planned = plan(&open(&storage), &read_all(), &Silent).unwrap();
    assert_eq!(planned.held_back.len(), 1);
    assert!(planned.held_back[0].advice.contains("lakebed prune"), "{planned:#?}");
    assert!(planned.actions.is_empty(), "{planned:#?}");
    let forced = RepairOptions { force: true, ..read_all() };
    let (planned, report) = repair_with(&storage, &secret(), &forced);
    assert!(planned.actions.contains(&planned.actions[0]) && report.remaining.actions.is_empty());
    backup(&open(&storage), std::slice::from_ref(&base.source));

    let storage = process(dead_process());
    let (planned, report) = repair(&storage);
    assert!(planned.held_back.is_empty() && report.remaining.actions.is_empty(), "{planned:#?}");
    backup(&open(&storage), std::slice::from_ref(&base.source));
}

#[test]
fn a_session_of_which_nothing_can_be_read_is_expired_and_a_snapshot_key_stays_taken() {
    let base = Base::new();
    let storage = base.storage();
    let running = SessionId::new([0xbb; 32]);
    flip(&*storage, &layout::session(running, 0), 60);
    let lost = live(&open(&storage))[0].id;
    flip(&*storage, &layout::snapshot(lost), 60);
    let (planned, report) = repair(&storage);
    assert!(planned.actions.iter().any(|action| matches!(action.remedy, Remedy::Expire(_))), "{planned:#?}");
    assert!(report.remaining.is_good(), "{:#?}", report.remaining);
    assert_eq!(report.lost, [lost]);
    let repository = open(&storage);
    for id in [running, lost] {
        // an expiry: nobody commits under this key any more
        assert_eq!(repository.read_snapshot(id).unwrap(), None);
        let expiry: Expiry = repository.store().read_record(&layout::snapshot(id)).unwrap();
        assert_eq!(expiry.reason, "its record was damaged");
    }
    assert!(repository.sessions().unwrap().is_empty());
    assert!(storage.size(&key(&format!("quarantine/snapshots/{lost}"))).is_ok());
    // damaged once more: the first one in quarantine stays what it is
    let first = storage.get(&key(&format!("quarantine/snapshots/{lost}"))).unwrap();
    flip(&*storage, &layout::snapshot(lost), 60);
    repair(&storage);
    assert_eq!(storage.get(&key(&format!("quarantine/snapshots/{lost}"))).unwrap(), first);
    assert!(storage.size(&key(&format!("quarantine/snapshots/{lost}.1"))).is_ok());
}

#[test]
fn a_snapshot_is_rather_shown_than_hidden() {
    let base = Base::new();
    for what in ["tombstone", "resolution"] {
        let storage = base.storage();
        let forgotten: BTreeSet<SnapshotId> = {
            let repository = open(&storage);
            let shown: BTreeSet<SnapshotId> = live(&repository).into_iter().map(|info| info.id).collect();
            let all = repository.store().list_ids::<SnapshotId>(layout::SNAPSHOTS).unwrap();
            all.into_iter().filter(|id| !shown.contains(id)).collect()
        };
        for key in keys_under(&*storage, layout::FORGOTTEN) {
            if layout::last_part(&key) == what {
                flip(&*storage, &key, 60);
            }
        }
        let (_, report) = repair(&storage);
        assert!(report.remaining.is_good());
        let shown = live(&open(&storage)).len();
        let before = live(&open(&base.place.storage)).len();
        // the expired session is not a snapshot
        let hidden = forgotten.len() - 1;
        assert_eq!(shown, before + if what == "tombstone" { hidden } else { 0 }, "{what}");
    }
}

#[test]
fn what_a_newer_lakebed_seems_to_have_written_is_left_alone() {
    let base = Base::new();
    let storage = base.storage();
    let run = keys_under(&*storage, layout::RUNS).remove(0);
    let mut bytes = storage.get(&run).unwrap();
    bytes[3] = 2;
    overwrite(&*storage, &run, &bytes);
    let planned = plan(&open(&storage), &read_all(), &Silent).unwrap();
    assert!(planned.actions.is_empty() && planned.held_back[0].advice.contains("update lakebed"), "{planned:#?}");
    let forced = RepairOptions { force: true, ..read_all() };
    let (_, report) = repair_with(&storage, &secret(), &forced);
    assert!(report.remaining.is_good());
}

/// The only slot is never taken away, and a configuration can only come from a copy.
#[test]
fn the_last_slot_and_the_configuration_are_told_of_and_left() {
    let base = Base::new();
    let storage = base.storage();
    let repository = open(&storage);
    let (mine, other) = (base.slot_of(&secret()), base.slot_of(&base.other_secret));
    storage.delete(&other).unwrap();
    flip(&*storage, &mine, 40);
    flip(&*storage, &layout::config(), 40);
    let planned = plan(&repository, &read_all(), &Silent).unwrap();
    assert!(planned.actions.is_empty(), "{planned:#?}");
    let held_back: Vec<&str> = planned.held_back.iter().map(|held_back| held_back.object.as_str()).collect();
    assert_eq!(held_back, [mine.as_str(), layout::CONFIG]);
    assert!(planned.held_back.iter().all(|held_back| held_back.advice.contains("copy")), "{planned:#?}");
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

/// Two packs hold the same chunk, and one says so although it is damaged there: what can be read of the other is kept.
#[test]
fn a_copy_counts_only_if_it_can_be_read() {
    let base = Base::new();
    let storage = base.storage();
    let repository = open(&storage);
    let pack =
        packs(&repository, FrameKind::Chunks).into_iter().max_by_key(|pack| storage.size(pack).unwrap()).unwrap();
    let whole = storage.get(&pack).unwrap();
    // a repair stores what is in it again, elsewhere
    flip(&*storage, &pack, 1000);
    repair(&storage);
    // the old pack is put back whole, the copy is damaged without anybody having noticed
    storage.put(&pack, &whole).unwrap();
    let copy = packs(&open(&storage), FrameKind::Chunks)
        .into_iter()
        .filter(|other| *other != pack)
        .max_by_key(|pack| storage.size(pack).unwrap())
        .unwrap();
    flip(&*storage, &copy, 1000);
    let (_, report) = repair_with(&storage, &secret(), &RepairOptions::default());
    assert!(report.remaining.losses.is_empty(), "{:#?}", report.remaining);
    let (_, report) = repair(&storage);
    assert!(report.remaining.is_good(), "{:#?}", report.remaining);
    let before = all_contents(&open(&base.place.storage));
    let after = all_contents(&open(&storage));
    assert!(before.iter().all(|(id, contents)| after[id] == *contents));
}
