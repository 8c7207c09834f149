//! Every call to storage fails once, in every way in which storage fails: whatever a command makes of it, what was
//! reported before it, or by it, comes back bit for bit, and the next backup works.
//!
//! A further command is a further line of [`COMMANDS`].

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lakebed_engine::copy::{CopyOptions, copy};
use lakebed_engine::core::codec::seal::Encryption;
use lakebed_engine::core::id::{SessionId, SnapshotId};
use lakebed_engine::core::layout;
use lakebed_engine::core::record::RECORD_VERSION;
use lakebed_engine::core::record::key_slot::{Secret, Unlock};
use lakebed_engine::core::record::session::Session;
use lakebed_engine::core::storage::{ObjectInfo, ObjectKey, Storage, StorageErrorKind};
use lakebed_engine::core::time::Timestamp;
use lakebed_engine::forget::{Choice, ForgetOptions};
use lakebed_engine::query::{DiffOptions, FindOptions, Listed, diff, find, walk};
use lakebed_engine::repair::{self, RepairOptions};
use lakebed_engine::repository::{SnapshotFilter, SnapshotInfo};
use lakebed_engine::restore::{RestoreOptions, restore};
use lakebed_engine::rewrite::RewriteOptions;
use lakebed_engine::source::{Filter, FilterOptions};
use lakebed_engine::storage::MemoryStorage;
use lakebed_engine::verify::{ReadData, VerifyOptions};
use lakebed_engine::{Error, OpenOptions, Repository, Result, Silent};
use lakebed_testkit::compare::{CompareOptions, Observation, assert_tree_is, snapshot_of};
use lakebed_testkit::storage::{Fault, FaultStorage, Operation};
use lakebed_testkit::tree::{Content, TreeSpec};
use tempfile::TempDir;

use crate::common::*;

/// A repository with a history, and the tree that the next backup finds.
struct World {
    folder: TempDir,
    objects: Vec<(ObjectKey, Vec<u8>)>,
    /// The snapshots that were reported, oldest first, and what their source was.
    snapshots: Vec<(SnapshotId, Observation)>,
    /// What the source is now.
    now: Observation,
    /// Another repository, with a snapshot of another source.
    other: Arc<dyn Storage>,
}

impl World {
    fn new() -> Self {
        let (place, repository) = Place::memory(Encryption::Aes256Gcm);
        let folder = TempDir::new().unwrap();
        let source = folder.path().join("source");
        let mut tree =
            TreeSpec::new().file("big", Content::random(1, 700_000)).directory("empty").symlink("link", "big");
        for number in 0..6u64 {
            tree = tree.file(format!("d{}/{number}", number % 2), Content::random(number, 900 + number));
        }
        tree.write(&source);
        let mut snapshots = Vec::new();
        for round in 0..2 {
            std::fs::write(source.join("d0/changing"), format!("round {round}")).unwrap();
            let report = backup(&repository, std::slice::from_ref(&source));
            snapshots.push((report.snapshot.unwrap().id, snapshot_of(&source)));
        }
        verify_all(&repository);
        std::fs::write(source.join("d0/changing"), "not backed up yet").unwrap();
        TreeSpec::new().file("large", Content::random(77, 400_000)).write(&source.join("new"));
        let key = |key: &ObjectKey| (key.clone(), place.storage.get(key).unwrap());
        let objects = place.storage.list("").unwrap().iter().map(|info| key(&info.key)).collect();
        let now = snapshot_of(&source);
        let (other, repository) = Place::memory(Encryption::Aes256Gcm);
        let elsewhere = folder.path().join("elsewhere");
        TreeSpec::new().file("a", Content::random(5, 300_000)).file("d/b", "b").write(&elsewhere);
        backup(&repository, &[elsewhere]);
        Self { folder, objects, snapshots, now, other: other.storage.clone() }
    }

    fn source(&self) -> PathBuf {
        self.folder.path().join("source")
    }

    /// Tells whether storage has the objects that it had at first. They are immutable, so names and sizes tell.
    fn is_untouched(&self, storage: &dyn Storage) -> bool {
        let listed = storage.list("").unwrap();
        let same = |(info, (key, bytes)): (&ObjectInfo, &(ObjectKey, Vec<u8>))| {
            info.key == *key && info.size_bytes == bytes.len() as u64
        };
        listed.len() == self.objects.len() && listed.iter().zip(&self.objects).all(same)
    }

    /// Returns a copy of the repository's objects.
    fn storage(&self) -> Arc<dyn Storage> {
        let storage = MemoryStorage::new();
        self.objects.iter().for_each(|(key, bytes)| storage.put(key, bytes).unwrap());
        Arc::new(storage)
    }
}

/// One attempt to run a command, on storage that will fail.
struct Attempt<'a> {
    world: &'a World,
    storage: Arc<dyn Storage>,
    /// Where a restore goes.
    target: &'a Path,
}

impl Attempt<'_> {
    fn open(&self) -> Result<Repository> {
        open(&self.storage)
    }

    fn backup(&self) -> Result<Option<SnapshotId>> {
        let report = try_backup(&self.open()?, &[self.world.source()], &options(), &FilterOptions::default())?;
        Ok(report.snapshot.map(|info| info.id))
    }

    /// Returns the oldest snapshot, unless it is forgotten.
    fn first(&self, repository: &Repository) -> Result<Option<SnapshotInfo>> {
        let snapshots = repository.snapshots(&SnapshotFilter::default())?;
        Ok(snapshots.into_iter().find(|info| info.id == self.world.snapshots[0].0))
    }

    fn forget(&self, repository: &Repository) -> Result<()> {
        let Some(first) = self.first(repository)? else { return Ok(()) };
        let plan = repository.plan_forget(&ForgetOptions::new(Choice::Snapshots([first.id].into())))?;
        repository.apply_forget(&plan, &Silent).map(drop)
    }

    fn copy(&self, from: &Repository, to: &Repository) -> Result<()> {
        let options = CopyOptions { host: "host".into(), threads: 2, ..CopyOptions::default() };
        copy(from, to, &options, &|_| {}, &Silent).map(drop)
    }

    /// Restores the newest snapshot. A report with failures counts as one.
    fn restore(&self) -> Result<()> {
        let repository = self.open()?;
        let (id, expected) = self.world.snapshots.last().unwrap();
        let catalogue = repository.catalogue()?;
        let Some(info) = catalogue.snapshots.iter().find(|info| info.id == *id) else {
            return Err(catalogue.damaged.into_iter().next().unwrap().1);
        };
        let options = RestoreOptions { target: self.target.into(), threads: 2, ..RestoreOptions::default() };
        let report = restore(&repository.reader(&Silent)?, info, &options, &|_, _| {}, &Silent)?;
        if report.failures.is_empty() {
            assert_restored(self.world, expected, self.target);
        }
        Ok(())
    }
}

/// Something that works with a repository.
struct Command {
    name: &'static str,
    /// Returns the snapshot that it reports to have made of the source.
    run: fn(&Attempt<'_>) -> Result<Option<SnapshotId>>,
    /// Which of the world's snapshots it is to take away, by number.
    takes: &'static [usize],
}

const COMMANDS: &[Command] = &[
    Command { name: "backup", takes: &[], run: |attempt| attempt.backup() },
    Command { name: "restore", takes: &[], run: |attempt| attempt.restore().map(|()| None) },
    Command {
        name: "verify",
        takes: &[],
        run: |attempt| {
            let options = VerifyOptions { read: ReadData::All, whole_files: true, threads: 2 };
            attempt.open()?.verify(&options, &Silent).map(|_| None)
        },
    },
    Command {
        name: "tag",
        takes: &[],
        run: |attempt| {
            let repository = attempt.open()?;
            for info in repository.catalogue()?.snapshots {
                repository.annotate(&info, vec!["tag".into()], "described".into())?;
            }
            Ok(None)
        },
    },
    Command {
        name: "key add",
        takes: &[],
        run: |attempt| attempt.open()?.add_key(Unlock::KeyFile, &other_secret(), "other").map(|_| None),
    },
    Command {
        name: "key passwd",
        takes: &[],
        run: |attempt| attempt.open()?.change_secret(Unlock::KeyFile, &other_secret()).map(|_| None),
    },
    Command {
        name: "key remove",
        takes: &[],
        run: |attempt| {
            let repository = attempt.open()?;
            let other = repository.add_key(Unlock::KeyFile, &other_secret(), "other")?;
            repository.remove_key(&other.to_string()).map(|_| None)
        },
    },
    Command {
        name: "index rebuild",
        takes: &[],
        run: |attempt| attempt.open()?.rebuild_index(false, &Silent).map(|_| None),
    },
    Command {
        name: "index rebuild --read-packs",
        takes: &[],
        run: |attempt| attempt.open()?.rebuild_index(true, &Silent).map(|_| None),
    },
    Command { name: "forget", takes: &[0], run: |attempt| attempt.forget(&attempt.open()?).map(|()| None) },
    Command {
        name: "forget and prune",
        takes: &[0],
        run: |attempt| {
            let repository = attempt.open()?;
            attempt.forget(&repository)?;
            repository.prune(&prune_all(), &Silent).map(|_| None)
        },
    },
    Command {
        name: "rewrite",
        takes: &[0],
        run: |attempt| {
            let repository = attempt.open()?;
            let exclude = FilterOptions { exclude: vec!["changing".into()], ..FilterOptions::default() };
            let first = attempt.first(&repository)?;
            let filter = Filter::new(&exclude).unwrap();
            repository.rewrite(first.as_slice(), &filter, &RewriteOptions::default(), &Silent).map(|_| None)
        },
    },
    Command {
        name: "repair",
        takes: &[],
        run: |attempt| {
            let repository = attempt.open()?;
            let options = RepairOptions { read_data: true, ..RepairOptions::default() };
            let plan = repair::plan(&repository, &options, &Silent)?;
            repair::apply(&repository, &plan, &options, &Silent).map(|_| None)
        },
    },
    Command {
        name: "forget and undo",
        takes: &[0],
        run: |attempt| {
            let repository = attempt.open()?;
            attempt.forget(&repository)?;
            repository.undo_forget(&[attempt.world.snapshots[0].0]).map(|_| None)
        },
    },
    Command {
        name: "copy into",
        takes: &[],
        run: |attempt| attempt.copy(&open(&attempt.world.other)?, &attempt.open()?).map(|()| None),
    },
    Command {
        name: "copy from",
        takes: &[],
        run: |attempt| {
            let (_place, fresh) = Place::memory(Encryption::Aes256Gcm);
            let copied = attempt.copy(&attempt.open()?, &fresh);
            // what could not be copied is reported and leaves nothing by halves
            assert_good(&fresh);
            copied.map(|()| None)
        },
    },
    Command {
        name: "sessions expire",
        takes: &[],
        run: |attempt| {
            let repository = attempt.open()?;
            let id = SessionId::new([9; 32]);
            let session = Session {
                version: RECORD_VERSION,
                number: 0,
                time: Timestamp::default(),
                base_generation: 0,
                process: repository.processes().this("host"),
                sources: Vec::new(),
                parent: None,
                checkpoint: None,
                progress: None,
                shard: None,
                unknown: Default::default(),
            };
            match repository.store().put_record(&layout::session(id, 0), &session, repository.random()) {
                Err(Error::Storage(error)) if error.kind == StorageErrorKind::AlreadyExists => {}
                result => drop(result?),
            }
            repository.expire_session(id, id, "a test").map(|_| None)
        },
    },
    Command {
        name: "snapshots, ls, find, diff",
        takes: &[],
        run: |attempt| {
            let repository = attempt.open()?;
            let snapshots = repository.snapshots(&SnapshotFilter::default())?;
            let reader = repository.reader(&Silent)?;
            let roots: Vec<_> = snapshots.iter().map(|info| info.snapshot.root).collect();
            for root in &roots {
                walk(&reader, *root, b"", &mut |_, _| Ok(Listed::Descend))?;
            }
            let options = FindOptions { patterns: vec!["changing".into()], ..FindOptions::default() };
            assert!(!find(&reader, &snapshots, &options)?.is_empty());
            let mut changes = 0;
            let mut count = |_| {
                changes += 1;
                Ok(())
            };
            diff(&reader, roots.first().copied(), roots.last().copied(), b"", &DiffOptions::default(), &mut count)?;
            assert!(changes > 0);
            Ok(None)
        },
    },
];

fn other_secret() -> Secret {
    Secret::KeyFile(zeroize::Zeroizing::new(vec![8; 32]))
}

/// Opens with whichever secret opens, as a user would who saw a change of the secret fail.
fn open(storage: &Arc<dyn Storage>) -> Result<Repository> {
    let open = |secret: &Secret| Repository::open(storage.clone(), secret, &OpenOptions::default());
    match open(&secret()) {
        Err(Error::WrongKey { .. }) => open(&other_secret()),
        result => result,
    }
}

fn assert_restored(world: &World, expected: &Observation, target: &Path) {
    let restored = target.join(world.source().strip_prefix("/").unwrap());
    assert_tree_is(expected, &restored, &CompareOptions::default());
}

fn assert_comes_back(world: &World, repository: &Repository, id: SnapshotId, expected: &Observation) {
    let target = TempDir::new().unwrap();
    let catalogue = repository.catalogue().unwrap();
    let info = catalogue.snapshots.iter().find(|info| info.id == id).expect("a snapshot that was reported");
    let report = try_restore(repository, info, target.path());
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    assert_restored(world, expected, target.path());
}

/// What must hold after any command, however it ended.
fn assert_whole(world: &World, command: &Command, storage: &Arc<dyn Storage>, made: Option<SnapshotId>) {
    if world.is_untouched(&**storage) {
        return;
    }
    let repository = open(storage).unwrap();
    let spared = world.snapshots.iter().enumerate().filter(|(number, _)| !command.takes.contains(number));
    spared.for_each(|(_, (id, expected))| assert_comes_back(world, &repository, *id, expected));
    if let Some(id) = made {
        assert_comes_back(world, &repository, id, &world.now);
    }
    assert_good(&repository);
    let next = backup(&repository, &[world.source()]).snapshot.unwrap().id;
    assert_comes_back(world, &repository, next, &world.now);
    assert_good(&repository);
}

/// What failed is told by its type, by whichever thread is heard.
fn assert_typed(error: &Error) {
    assert!(!matches!(error, Error::Poisoned { .. }), "{error:?}");
}

/// Lets each command meet the fault at its first call, its second, and so on, until it does not meet it any more.
#[expect(clippy::print_stdout, reason = "where a test fails it is shown at which call")]
fn at_every_call(fault: impl Fn() -> Fault) {
    let world = World::new();
    for command in COMMANDS {
        for n in 1.. {
            let storage = world.storage();
            let faulty = FaultStorage::new(storage.clone());
            faulty.inject(fault().nth(n));
            let target = TempDir::new().unwrap();
            let attempt = Attempt { world: &world, storage: Arc::new(faulty.clone()), target: target.path() };
            println!("{}: call {n}", command.name);
            let outcome = (command.run)(&attempt);
            let spared = faulty.fired() == 0;
            faulty.heal();
            match &outcome {
                Err(error) => assert_typed(error),
                Ok(made) => assert_whole(&world, command, &storage, *made),
            }
            if outcome.is_err() {
                assert!(!spared, "it failed without a fault: {outcome:?}");
                assert_whole(&world, command, &storage, None);
                // what was begun is gone on with
                (command.run)(&attempt).unwrap();
                assert_whole(&world, command, &storage, None);
            }
            if spared {
                assert!(n > 3 || command.name != "backup", "the fault met nothing");
                break;
            }
        }
    }
}

#[test]
fn a_disk_without_room() {
    at_every_call(|| Fault::os(28));
}

#[test]
fn a_disk_that_stays_without_room() {
    at_every_call(|| Fault::os(28).on_writes().sticky());
}

#[test]
fn a_quota_that_is_used_up() {
    at_every_call(|| Fault::os(122));
}

#[test]
fn a_broken_disk() {
    at_every_call(|| Fault::os(5));
}

#[test]
fn a_call_that_was_interrupted() {
    at_every_call(|| Fault::io(std::io::ErrorKind::Interrupted));
}

#[test]
fn a_read_or_write_that_came_short() {
    at_every_call(|| Fault::kind(StorageErrorKind::TooShort));
}

#[test]
fn an_answer_that_was_lost() {
    at_every_call(|| Fault::os(5).after_effect());
}

#[test]
fn where_nothing_may_be_deleted_all_but_what_deletes_works() {
    let world = World::new();
    for command in COMMANDS {
        let storage = world.storage();
        let faulty = FaultStorage::new(storage.clone());
        faulty.inject(Fault::os(1).on(Operation::Delete).sticky());
        let target = TempDir::new().unwrap();
        let attempt = Attempt { world: &world, storage: Arc::new(faulty), target: target.path() };
        match (command.run)(&attempt) {
            Ok(made) => assert_whole(&world, command, &storage, made),
            Err(Error::Storage(error))
                if ["key passwd", "key remove", "forget and prune", "forget and undo"].contains(&command.name) =>
            {
                assert_eq!(error.kind, StorageErrorKind::PermissionDenied);
                assert_whole(&world, command, &storage, None);
            }
            Err(error) => panic!("{}: {error:?}", command.name),
        }
    }
}

#[test]
fn a_repository_that_is_not_made_at_once_is_made_at_the_next_attempt() {
    let faults: [fn() -> Fault; 4] = [
        || Fault::os(28),
        || Fault::os(5),
        || Fault::io(std::io::ErrorKind::Interrupted),
        || Fault::os(5).after_effect(),
    ];
    let source = TempDir::new().unwrap();
    std::fs::write(source.path().join("file"), "content").unwrap();
    let init = |storage| {
        let options = init_options(Encryption::Aes256Gcm);
        Repository::init(storage, &secret(), &options, &OpenOptions::default())
    };
    for fault in faults {
        for n in 1.. {
            let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
            let faulty = FaultStorage::new(storage.clone());
            faulty.inject(fault().nth(n));
            let first = init(Arc::new(faulty.clone()));
            faulty.heal();
            match &first {
                Err(error) => assert_typed(error),
                Ok(repository) => drop(backup(repository, &[source.path().into()])),
            }
            let again = init(storage.clone());
            assert!(matches!(again, Ok(_) | Err(Error::RepositoryExists { .. })), "call {n}: {again:?}");
            let repository = Repository::open(storage, &secret(), &OpenOptions::default()).unwrap();
            backup(&repository, &[source.path().into()]);
            assert_good(&repository);
            if faulty.fired() == 0 {
                assert!(n > 5);
                break;
            }
        }
    }
}
