//! A repository on which commands run while each of their writes is recorded, together with what they have promised.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lakebed_engine::backup::BackupOptions;
use lakebed_engine::core::chunker::ChunkerParameters;
use lakebed_engine::core::codec::seal::Encryption;
use lakebed_engine::core::id::SnapshotId;
use lakebed_engine::core::record::key_slot::Secret;
use lakebed_engine::core::storage::Storage;
use lakebed_engine::core::time::{Clock, Timestamp};
use lakebed_engine::prune::PruneOptions;
use lakebed_engine::repository::SnapshotInfo;
use lakebed_engine::source::FilterOptions;
use lakebed_engine::storage::MemoryStorage;
use lakebed_engine::system::SystemClock;
use lakebed_engine::{InitOptions, OpenOptions, Repository};
use lakebed_testkit::clock::{FakeClock, SeededRandom};
use lakebed_testkit::compare::{Observation, snapshot_of};
use lakebed_testkit::crash::{CrashState, Fate, History, Objects, Window, objects_of};
use lakebed_testkit::processes::FakeProcesses;
use lakebed_testkit::storage::RecordingStorage;
use lakebed_testkit::tree::{Content, TreeSpec};
use tempfile::TempDir;

use super::mutant::{Flaw, Mutant};
use crate::common::*;

/// A key of the repository, told apart by the byte that its key file is full of.
pub type KeyByte = u8;

/// The key that every repository is made with.
pub const FIRST_KEY: KeyByte = 7;

pub fn key_file(byte: KeyByte) -> Secret {
    Secret::KeyFile(vec![byte; 32].into())
}

/// What ended a run. Whoever comes after a killed process knows that it is dead; after a loss of power nobody can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    Kill,
    PowerLoss,
}

/// What a crash has left, and what it was.
#[derive(Debug, Clone)]
pub struct Crash {
    pub state: CrashState,
    pub cause: Cause,
}

impl Crash {
    /// Returns all that may happen to a run: a killed process loses nothing, a loss of power may.
    pub fn all(history: &History) -> Vec<Self> {
        let mut crashes = Vec::new();
        for state in history.states() {
            if state.fate == Fate::AllKept {
                crashes.push(Self { state: state.clone(), cause: Cause::Kill });
            }
            crashes.push(Self { state, cause: Cause::PowerLoss });
        }
        crashes
    }

    pub fn describe(&self, history: &History) -> String {
        format!("{:?} {}", self.cause, history.describe(&self.state))
    }
}

/// What holds from some moment of the run on.
enum Promise {
    /// There is a repository.
    Made,
    /// The snapshot was reported.
    Kept(SnapshotId),
    /// A command has begun that forgets the snapshot.
    MayGo(SnapshotId),
    /// A command has begun that makes the key open the repository.
    MayOpen(KeyByte),
    /// The key opens the repository.
    Opens(KeyByte),
    /// A command has begun that takes the key away.
    MayClose(KeyByte),
}

/// A folder that goes, whatever is in it.
struct Folder(TempDir);

impl Drop for Folder {
    fn drop(&mut self) {
        lakebed_testkit::remove_all(self.0.path());
    }
}

pub struct World {
    folder: Arc<Folder>,
    recording: RecordingStorage,
    /// What the engine sees: the recording, or a mutant over it.
    storage: Arc<dyn Storage>,
    clock: FakeClock,
    random: SeededRandom,
    processes: FakeProcesses,
    /// The power went before: there may be sessions of which nobody can tell whether they live.
    pub lost_power: bool,
    /// The path that a rewrite takes out of the snapshots.
    pub purged: Option<&'static str>,
    /// The repository that snapshots are copied from.
    pub from: Option<Repository>,
    /// Where the commands keep what this machine remembers; `None`: in memory.
    pub cache: Option<PathBuf>,
    /// Which key the commands open the repository with.
    pub key: KeyByte,
    base: Objects,
    /// Each with the number of calls that had returned when it was made.
    promises: Vec<(usize, Promise)>,
    /// What each snapshot holds, whether it was reported yet or not.
    trees: Vec<(SnapshotId, Arc<Observation>)>,
}

impl World {
    pub fn new() -> Self {
        let recording = RecordingStorage::keeping_content(Arc::new(MemoryStorage::new()));
        // Later than any file is made: one that changed within the clock's tick of a run is read again, on purpose. No
        // two moments are the same, so that snapshots have an order.
        let now = SystemClock::default().now();
        let clock = FakeClock::new(Timestamp { secs: now.secs + 3600, nanos: 0 }).with_step(Duration::from_millis(1));
        // thousands of small trees are restored: where memory is a file system, no disk has to bear that
        let folder = TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap();
        let folder = Arc::new(Folder(folder));
        TreeSpec::new()
            .file("notebooks/a.py", "print('a')\n")
            .file("notebooks/b.py", "print('b')\n")
            .file("notebooks/old/c.py", "print('c')\n")
            .file("table.csv", Content::Generated { seed: 1, length: 40_000, compressibility: 50 })
            .directory("empty")
            .symlink("link", "table.csv")
            .write(&folder.0.path().join("source"));
        Self {
            folder,
            storage: Arc::new(recording.clone()),
            recording,
            clock,
            random: SeededRandom::new(1),
            processes: FakeProcesses::default(),
            lost_power: false,
            purged: None,
            from: None,
            cache: None,
            key: FIRST_KEY,
            base: Objects::new(),
            promises: Vec::new(),
            trees: Vec::new(),
        }
    }

    /// Keeps the repository as one to copy from, and begins again without one.
    pub fn put_aside(&mut self) {
        self.from = Some(self.open());
        self.recording = RecordingStorage::keeping_content(Arc::new(MemoryStorage::new()));
        self.storage = Arc::new(self.recording.clone());
        self.promises.clear();
    }

    /// The world after a crash, from which commands go on.
    pub fn after(&self, history: &History, crash: &Crash) -> Self {
        let state = &crash.state;
        let objects = Arc::new(MemoryStorage::from(history.objects(state)));
        let recording = RecordingStorage::keeping_content(objects);
        let Expected { made, snapshots, keys } = self.expected(&state.windows);
        let mut promises: Vec<Promise> = snapshots.into_iter().map(Promise::Kept).collect();
        promises.extend(keys.into_iter().map(Promise::Opens));
        promises.extend(self.keys().into_iter().map(Promise::MayOpen));
        promises.extend(made.then_some(Promise::Made));
        Self {
            folder: self.folder.clone(),
            storage: Arc::new(recording.clone()),
            recording,
            clock: self.clock.clone(),
            random: self.random.clone(),
            processes: self.processes_after(crash.cause),
            lost_power: self.lost_power || crash.cause == Cause::PowerLoss,
            purged: self.purged,
            from: self.from.clone(),
            cache: None,
            key: self.key,
            base: Objects::new(),
            promises: promises.into_iter().map(|promise| (0, promise)).collect(),
            trees: self.trees.clone(),
        }
    }

    /// What is there now is durable; from here on a crash may come.
    pub fn begin(&mut self, flaw: Option<Flaw>) {
        self.recording.take_log();
        self.base = objects_of(&**self.recording.inner());
        self.promises.iter_mut().for_each(|(at, _)| *at = 0);
        if let Some(flaw) = flaw {
            self.storage = Arc::new(Mutant::new(self.storage.clone(), flaw));
        }
    }

    /// What was promised does not hold any more: the repository was taken away.
    pub fn forget_promises(&mut self) {
        self.promises.clear();
    }

    /// Returns the process that goes on after a crash.
    pub fn processes_after(&self, cause: Cause) -> FakeProcesses {
        match cause {
            Cause::Kill => self.processes.after_kill(),
            Cause::PowerLoss => self.processes.after_reboot(),
        }
    }

    /// Returns what the medium saw since the beginning.
    pub fn history(&self) -> History {
        History::new(self.base.clone(), &self.recording.log())
    }

    pub fn storage(&self) -> &dyn Storage {
        &*self.storage
    }

    /// Returns a path in a folder of its own.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.0.path().join(name)
    }

    pub fn source(&self) -> PathBuf {
        self.path("source")
    }

    pub fn open_options(&self) -> OpenOptions {
        OpenOptions {
            cache_dir: self.cache.clone(),
            clock: Arc::new(self.clock.clone()),
            random: Arc::new(self.random.clone()),
            processes: Arc::new(self.processes),
            ..OpenOptions::default()
        }
    }

    /// Chunks so small that a small file has several.
    pub fn init_options() -> InitOptions {
        let chunker = ChunkerParameters {
            small_file_bytes: 4096,
            min_bytes: 1024,
            average_bytes: 4096,
            max_bytes: 16_384,
            ..ChunkerParameters::default()
        };
        InitOptions { chunker, ..init_options(Encryption::Aes256Gcm) }
    }

    /// Returns the time that it is for the commands.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub fn open(&self) -> Repository {
        self.try_open(self.key).unwrap()
    }

    pub fn try_open(&self, key: KeyByte) -> lakebed_engine::Result<Repository> {
        Repository::open(self.storage.clone(), &key_file(key), &self.open_options())
    }

    pub fn init(&mut self) {
        let secret = key_file(self.key);
        Repository::init(self.storage.clone(), &secret, &Self::init_options(), &self.open_options()).unwrap();
        self.promise(Promise::Made);
        self.opens(self.key);
    }

    pub fn backup(&mut self) -> SnapshotId {
        self.backup_with(&one_thread())
    }

    pub fn backup_with(&mut self, options: &BackupOptions) -> SnapshotId {
        let tree = snapshot_of(&self.source());
        let source = self.source();
        let report = crate::common::backup_with(&self.open(), &[source], options, &FilterOptions::default());
        let id = report.snapshot.unwrap().id;
        self.keeps(id, tree);
        id
    }

    fn promise(&mut self, promise: Promise) {
        self.promises.push((self.recording.log().len(), promise));
    }

    /// A snapshot of this tree was just reported.
    pub fn keeps(&mut self, id: SnapshotId, tree: Observation) {
        self.trees.push((id, Arc::new(tree)));
        self.promise(Promise::Kept(id));
    }

    /// A key was just reported to open the repository.
    pub fn opens(&mut self, key: KeyByte) {
        self.promise(Promise::Opens(key));
    }

    /// The next command forgets the snapshot.
    pub fn may_go(&mut self, id: SnapshotId) {
        self.promise(Promise::MayGo(id));
    }

    /// The snapshot was reported to be there again.
    pub fn keeps_again(&mut self, id: SnapshotId) {
        self.promise(Promise::Kept(id));
    }

    /// The next command makes the key one that opens the repository.
    pub fn may_open(&mut self, key: KeyByte) {
        self.promise(Promise::MayOpen(key));
    }

    /// The next command takes a key away.
    pub fn may_close(&mut self, key: KeyByte) {
        self.promise(Promise::MayClose(key));
    }

    /// Returns what a snapshot holds: if it was made of another one, what that holds, but for what was purged.
    pub fn tree_of(&self, info: &SnapshotInfo) -> Option<Cow<'_, Observation>> {
        let find = |id: SnapshotId| self.trees.iter().find(|(known, _)| *known == id).map(|(_, tree)| &**tree);
        if let Some(tree) = find(info.id) {
            return Some(Cow::Borrowed(tree));
        }
        let original = find(info.snapshot.original.as_ref()?.snapshot)?;
        let Some(purged) = self.purged else { return Some(Cow::Borrowed(original)) };
        let mut tree = original.clone();
        tree.remove(purged.as_bytes());
        Some(Cow::Owned(tree))
    }

    /// Returns every key that the repository ever had.
    pub fn keys(&self) -> Vec<KeyByte> {
        let opens = |(_, promise): &(usize, Promise)| match promise {
            Promise::Opens(key) | Promise::MayOpen(key) => Some(*key),
            _ => None,
        };
        self.promises.iter().filter_map(opens).collect()
    }

    /// Returns what was promised at any of the given times.
    pub fn expected(&self, windows: &[Window]) -> Expected {
        let made = windows.iter().any(|window| {
            self.holds(window, |promise| match promise {
                Promise::Made => Some(true),
                _ => None,
            })
        });
        let kept: BTreeSet<SnapshotId> = self
            .promises
            .iter()
            .filter_map(|(_, promise)| match promise {
                Promise::Kept(id) => Some(*id),
                _ => None,
            })
            .collect();
        let listed = |id: &SnapshotId| {
            windows.iter().any(|window| {
                self.holds(window, |promise| match promise {
                    Promise::Kept(other) if other == id => Some(true),
                    Promise::MayGo(other) if other == id => Some(false),
                    _ => None,
                })
            })
        };
        let opens = |key: &KeyByte| {
            windows.iter().any(|window| {
                self.holds(window, |promise| match promise {
                    Promise::Opens(other) if other == key => Some(true),
                    Promise::MayClose(other) if other == key => Some(false),
                    _ => None,
                })
            })
        };
        Expected {
            made,
            snapshots: kept.into_iter().filter(listed).collect(),
            keys: self.keys().into_iter().filter(opens).collect(),
        }
    }

    /// Tells whether something is promised at some time of the window. What is promised within it counts; what is taken
    /// back within it may not have been taken back yet.
    fn holds(&self, window: &Window, says: impl Fn(&Promise) -> Option<bool>) -> bool {
        let mut holds = false;
        for (at, promise) in &self.promises {
            match says(promise) {
                Some(said) if *at <= window.earliest => holds = said,
                Some(true) if *at <= window.latest => holds = true,
                _ => {}
            }
        }
        holds
    }
}

/// What must hold in a state that a crash left.
#[derive(Default)]
pub struct Expected {
    /// There is a repository.
    pub made: bool,
    /// These are listed.
    pub snapshots: Vec<SnapshotId>,
    /// These open it.
    pub keys: Vec<KeyByte>,
}

/// One worker, so that a run does the same each time.
pub fn one_thread() -> BackupOptions {
    BackupOptions { threads: 1, ..options() }
}

/// Frees everything that nobody needs, in one thread. Waiting costs nothing: the clock runs while it waits.
pub fn prune_options() -> PruneOptions {
    let mut options = prune_all();
    options.threads = 1;
    options
}
