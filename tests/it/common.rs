//! What the tests share.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use lakebed_engine::backup::{BackupOptions, BackupReport};
use lakebed_engine::core::codec::seal::Encryption;
use lakebed_engine::core::id::SnapshotId;
use lakebed_engine::core::monitor::{Monitor, Progress};
use lakebed_engine::core::protocol::{PruneStep, Step};
use lakebed_engine::core::record::key_slot::{Secret, Unlock};
use lakebed_engine::core::storage::Storage;
use lakebed_engine::core::time::Timestamp;
use lakebed_engine::forget::{Choice, ForgetOptions};
use lakebed_engine::prune::{PruneOptions, Unused};
use lakebed_engine::repository::{SnapshotFilter, SnapshotInfo, SnapshotSelector};
use lakebed_engine::restore::{RestoreOptions, RestoreReport, restore};
use lakebed_engine::source::{Filter, FilterOptions, LocalOptions, local_mounts};
use lakebed_engine::storage::{LocalStorage, MemoryStorage};
use lakebed_engine::verify::{ReadData, VerifyOptions, VerifyReport};
use lakebed_engine::{Error, InitOptions, OpenOptions, Repository, Silent};
use lakebed_testkit::clock::FakeClock;
use tempfile::TempDir;

/// The key of every test repository: a key file, which needs no derivation.
pub fn secret() -> Secret {
    Secret::KeyFile(zeroize::Zeroizing::new(vec![7; 32]))
}

pub fn init_options(encryption: Encryption) -> InitOptions {
    InitOptions { encryption, unlock: Unlock::KeyFile, label: "test".into(), chunker: Default::default() }
}

/// A folder for one test, with a source tree, a repository and caches in it.
pub struct Place {
    pub folder: TempDir,
    pub storage: Arc<dyn Storage>,
    pub open: OpenOptions,
}

impl Drop for Place {
    fn drop(&mut self) {
        lakebed_testkit::remove_all(self.folder.path());
    }
}

impl Place {
    /// A repository in a folder, its index in RocksDB.
    pub fn local() -> (Self, Repository) {
        let folder = TempDir::new().unwrap();
        let storage: Arc<dyn Storage> = Arc::new(LocalStorage::create(folder.path().join("repo")).unwrap());
        let open = OpenOptions { cache_dir: Some(folder.path().join("cache")), ..OpenOptions::default() };
        Self::init(folder, storage, open, Encryption::Aes256Gcm)
    }

    /// A repository in a folder, its index in memory.
    pub fn over_folder(encryption: Encryption) -> (Self, Repository) {
        let folder = TempDir::new().unwrap();
        let storage: Arc<dyn Storage> = Arc::new(LocalStorage::create(folder.path().join("repo")).unwrap());
        Self::init(folder, storage, OpenOptions::default(), encryption)
    }

    /// A repository in memory, its index too.
    pub fn memory(encryption: Encryption) -> (Self, Repository) {
        let folder = TempDir::new().unwrap();
        Self::init(folder, Arc::new(MemoryStorage::new()), OpenOptions::default(), encryption)
    }

    fn init(
        folder: TempDir,
        storage: Arc<dyn Storage>,
        open: OpenOptions,
        encryption: Encryption,
    ) -> (Self, Repository) {
        let repository = Repository::init(storage.clone(), &secret(), &init_options(encryption), &open).unwrap();
        (Self { folder, storage, open }, repository)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Opens the repository an hour later, by its clock: a file that changed within the file system's clock tick of a
    /// run is read again by the next one, on purpose.
    pub fn reopen_later(&self, repository: &Repository) -> Repository {
        let now = repository.clock().now();
        let later = Timestamp { secs: now.secs + 3600, nanos: now.nanos };
        let open = OpenOptions { clock: Arc::new(FakeClock::new(later)), ..self.open.clone() };
        Repository::open(self.storage.clone(), &secret(), &open).unwrap()
    }

    pub fn reopen(&self) -> Repository {
        Repository::open(self.storage.clone(), &secret(), &self.open).unwrap()
    }
}

/// Returns a storage in memory with the same objects.
pub fn copy_of(storage: &dyn Storage) -> Arc<dyn Storage> {
    let copy = MemoryStorage::new();
    for object in storage.list("").unwrap() {
        copy.put(&object.key, &storage.get(&object.key).unwrap()).unwrap();
    }
    Arc::new(copy)
}

/// Options whose results do not depend on the machine.
pub fn options() -> BackupOptions {
    BackupOptions { host: "host".into(), user: "user".into(), threads: 2, ..BackupOptions::default() }
}

pub fn backup(repository: &Repository, paths: &[PathBuf]) -> BackupReport {
    backup_with(repository, paths, &options(), &FilterOptions::default())
}

pub fn backup_with(
    repository: &Repository,
    paths: &[PathBuf],
    options: &BackupOptions,
    filter: &FilterOptions,
) -> BackupReport {
    try_backup(repository, paths, options, filter).unwrap()
}

pub fn try_backup(
    repository: &Repository,
    paths: &[PathBuf],
    options: &BackupOptions,
    filter: &FilterOptions,
) -> lakebed_engine::Result<BackupReport> {
    let filter = Arc::new(Filter::new(filter).unwrap());
    let mounts = local_mounts(paths, &filter, &LocalOptions::default()).unwrap();
    repository.backup(mounts, options, &Silent)
}

/// Stops a run after so many entries, as a signal would.
pub struct StopAfter(AtomicU64);

impl StopAfter {
    pub fn new(entries: u64) -> Self {
        Self(AtomicU64::new(entries))
    }
}

impl Monitor for StopAfter {
    fn advance(&self, step: Progress) {
        let _ =
            self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left.saturating_sub(step.entries)));
    }

    fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

/// Begins a backup and interrupts it after so many entries: it leaves a checkpoint and no snapshot.
pub fn stop_after(repository: &Repository, source: &Path, options: &BackupOptions, entries: u64) {
    let filter = Arc::new(Filter::new(&FilterOptions::default()).unwrap());
    let mounts = local_mounts(&[source.to_path_buf()], &filter, &LocalOptions::default()).unwrap();
    let error = repository.backup(mounts, options, &StopAfter::new(entries)).unwrap_err();
    assert!(matches!(error, Error::Interrupted), "{error:?}");
}

/// Ends a prune when it comes to a step, as a signal would.
pub struct StopAt {
    step: PruneStep,
    reached: AtomicBool,
}

impl StopAt {
    pub fn new(step: PruneStep) -> Self {
        Self { step, reached: AtomicBool::new(false) }
    }
}

impl Monitor for StopAt {
    fn step(&self, step: Step) {
        self.reached.fetch_or(step == Step::Prune(self.step), Ordering::Relaxed);
    }

    fn is_cancelled(&self) -> bool {
        self.reached.load(Ordering::Relaxed)
    }
}

/// Does something once, right before a step.
pub struct At<'a> {
    step: Step,
    act: Mutex<Option<Box<dyn FnOnce() + Send + 'a>>>,
}

impl<'a> At<'a> {
    pub fn new(step: impl Into<Step>, act: impl FnOnce() + Send + 'a) -> Self {
        Self { step: step.into(), act: Mutex::new(Some(Box::new(act))) }
    }
}

impl Monitor for At<'_> {
    fn step(&self, step: Step) {
        if step == self.step
            && let Some(act) = self.act.lock().unwrap().take()
        {
            act();
        }
    }
}

/// Notes the steps that were taken.
#[derive(Default)]
pub struct Steps(pub Mutex<Vec<Step>>);

impl Monitor for Steps {
    fn step(&self, step: Step) {
        self.0.lock().unwrap().push(step);
    }
}

pub fn latest(repository: &Repository) -> SnapshotInfo {
    repository.find_snapshot(&SnapshotSelector::Latest, &SnapshotFilter::default(), &Silent).unwrap()
}

/// Restores a snapshot and returns where the given path of it lies then.
pub fn restore_to(repository: &Repository, info: &SnapshotInfo, target: &Path, path: &Path) -> PathBuf {
    let report = try_restore(repository, info, target);
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    target.join(path.strip_prefix("/").unwrap_or(path))
}

pub fn try_restore(repository: &Repository, info: &SnapshotInfo, target: &Path) -> RestoreReport {
    let reader = repository.reader(&Silent).unwrap();
    let options = RestoreOptions { target: target.to_path_buf(), ..RestoreOptions::default() };
    restore(&reader, info, &options, &|_, _| {}, &Silent).unwrap()
}

pub fn verify_all(repository: &Repository) -> VerifyReport {
    let options = VerifyOptions { read: ReadData::All, whole_files: true, threads: 2 };
    repository.verify(&options, &Silent).unwrap()
}

pub fn assert_good(repository: &Repository) {
    let report = verify_all(repository);
    assert!(report.is_good(), "{:#?}", report.damage);
}

/// Forgets snapshots, though it may be all that there are.
pub fn forget(repository: &Repository, ids: Vec<SnapshotId>) {
    let choice = Choice::Snapshots(ids.into_iter().collect());
    let options = ForgetOptions { allow_empty: true, ..ForgetOptions::new(choice) };
    let plan = repository.plan_forget(&options).unwrap();
    repository.apply_forget(&plan, &Silent).unwrap();
}

/// Everything that nobody needs, whatever it costs. A clock that does not move waits for nobody.
pub fn prune_all() -> PruneOptions {
    let mut options = PruneOptions::default();
    options.max_unused = Unused::Bytes(0);
    options.max_delete = 1.0;
    options.host = "host".into();
    options.threads = 2;
    options
}
