//! The world of a sequence: a source, a repository, who works with it, and what was promised.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use lakebed_engine::core::chunker::ChunkerParameters;
use lakebed_engine::core::codec::seal::Encryption;
use lakebed_engine::core::id::SnapshotId;
use lakebed_engine::core::layout;
use lakebed_engine::core::monitor::{Monitor, Silent};
use lakebed_engine::core::protocol::Step;
use lakebed_engine::core::record::key_slot::{Secret, Unlock};
use lakebed_engine::core::storage::Storage;
use lakebed_engine::core::time::{Clock, Timestamp};
use lakebed_engine::prune::{PruneOptions, Unused};
use lakebed_engine::repository::SnapshotInfo;
use lakebed_engine::storage::MemoryStorage;
use lakebed_engine::verify::{ReadData, VerifyOptions};
use lakebed_engine::{Error, InitOptions, OpenOptions, Repository};
use lakebed_testkit::clock::{FakeClock, SeededRandom};
use lakebed_testkit::processes::FakeProcesses;
use lakebed_testkit::storage::FaultStorage;
use lakebed_testkit::tree::{Content, Item, TreeSpec};

use super::command::{Command, Edit, Verb};
use super::copy::Copy;

/// Packs are closed so early that a few small files fill several.
const PACK_TARGET_BYTES: u64 = 4096;

/// Folders and names that a place stands for. A file may come to lie where a folder is, and the other way round.
const FOLDERS: [&str; 4] = ["", "d/", "d/e/", "f/"];
const NAMES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g\n", "h"];

/// What may be expected of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is listed, and whole.
    Live,
    /// It is not listed.
    Forgotten,
    /// Nobody knows: whoever forgot it or brought it back did not come to an end. If it is listed, it is whole.
    Unsure,
    /// It may be listed or not, and may be damaged: an object was taken away.
    Lost,
}

/// A snapshot that was made.
#[derive(Debug, Clone)]
pub struct Kept {
    pub info: SnapshotInfo,
    pub copy: Arc<Copy>,
    pub fate: Fate,
    /// A prune has begun since it was forgotten.
    pub may_be_condemned: bool,
    /// Its tags; `None`: whoever changed them did not come to an end.
    pub tags: Option<Vec<String>>,
}

/// Whether something may go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Calm {
    /// Nothing is in the way.
    Undisturbed,
    /// It runs beside something else.
    Crowded,
    /// It is told to stop.
    Interrupted,
    /// It is killed.
    Killed,
}

/// How much was taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Damage {
    None,
    /// Objects that the rest does not depend on.
    Bounded,
    /// Records of who may do what: nothing is promised any more, but that nothing wrong is read.
    Unbounded,
}

pub struct World {
    memory: MemoryStorage,
    faults: FaultStorage,
    clock: FakeClock,
    random: SeededRandom,
    processes: FakeProcesses,
    pub tree: TreeSpec,
    edits: u32,
    /// `None` once it cannot be opened any more.
    repository: Option<Repository>,
    kept: Mutex<BTreeMap<SnapshotId, Kept>>,
    /// Snapshots in the order in which they were first seen.
    order: Mutex<Vec<SnapshotId>>,
    damage: Damage,
    segment_is_lost: bool,
}

fn secret() -> Secret {
    Secret::KeyFile(vec![7; 32].into())
}

impl World {
    pub fn new() -> Self {
        let memory = MemoryStorage::new().with_pack_target(PACK_TARGET_BYTES);
        let mut world = Self {
            faults: FaultStorage::new(Arc::new(memory.clone())),
            memory,
            clock: FakeClock::default().with_step(Duration::from_millis(1)),
            random: SeededRandom::new(1),
            processes: FakeProcesses::default(),
            tree: TreeSpec::new(),
            edits: 0,
            repository: None,
            kept: Mutex::default(),
            order: Mutex::default(),
            damage: Damage::None,
            segment_is_lost: false,
        };
        let chunker = ChunkerParameters {
            small_file_bytes: 1024,
            min_bytes: 256,
            average_bytes: 512,
            max_bytes: 2048,
            ..ChunkerParameters::default()
        };
        let encryption = Encryption::Aes256Gcm;
        let init = InitOptions { encryption, unlock: Unlock::KeyFile, label: "test".into(), chunker };
        let storage = Arc::new(world.faults.clone());
        let options = world.open_options(world.processes);
        world.repository = Some(Repository::init(storage, &secret(), &init, &options).unwrap());
        world
    }

    fn open_options(&self, processes: FakeProcesses) -> OpenOptions {
        OpenOptions {
            clock: Arc::new(self.clock.clone()),
            random: Arc::new(self.random.clone()),
            processes: Arc::new(processes),
            ..OpenOptions::default()
        }
    }

    fn open(&self, processes: FakeProcesses) -> lakebed_engine::Result<Repository> {
        Repository::open(Arc::new(self.faults.clone()), &secret(), &self.open_options(processes))
    }

    fn reopen(&mut self) {
        self.repository = match self.open(self.processes) {
            Ok(repository) => Some(repository),
            Err(error) => {
                self.judge_damaged("open", &error);
                None
            }
        };
    }

    pub fn kept(&self) -> MutexGuard<'_, BTreeMap<SnapshotId, Kept>> {
        self.kept.lock().unwrap()
    }

    /// Returns the snapshot that an argument stands for, among those of a fate.
    pub fn pick(&self, nth: u8, fate: Fate) -> Option<Kept> {
        let kept = self.kept();
        let order = self.order.lock().unwrap();
        let fitting: Vec<_> = order.iter().filter_map(|id| kept.get(id)).filter(|one| one.fate == fate).collect();
        fitting.get(usize::from(nth).checked_rem(fitting.len())?).map(|one| (*one).clone())
    }

    pub fn update(&self, id: SnapshotId, change: impl FnOnce(&mut Kept)) {
        if let Some(kept) = self.kept().get_mut(&id).filter(|kept| kept.fate != Fate::Lost) {
            change(kept);
        }
    }

    pub fn keep(&self, info: SnapshotInfo, copy: Arc<Copy>) {
        let (id, tags) = (info.id, Some(info.snapshot.tags.clone()));
        let mut kept = Kept { info, copy, fate: Fate::Live, may_be_condemned: false, tags };
        // a segment of somebody who is still at work, as far as anybody can tell, is not missed
        let is_doubtful = self.segment_is_lost && self.somebody_is_at_work();
        if self.damage == Damage::Unbounded || is_doubtful && !self.reads(&kept) {
            kept.fate = Fate::Lost;
        }
        self.order.lock().unwrap().push(id);
        self.kept().insert(id, kept);
    }

    fn somebody_is_at_work(&self) -> bool {
        let is_at_work = |key: &String| key.starts_with(layout::SESSIONS) || key.ends_with("/claim");
        self.objects().iter().any(is_at_work)
    }

    pub fn is_damaged(&self) -> bool {
        self.damage != Damage::None
    }

    /// Lists what is in storage.
    pub fn objects(&self) -> Vec<String> {
        self.memory.list("").unwrap().into_iter().map(|object| object.key.to_string()).collect()
    }

    pub fn carry_out(&mut self, command: Command) {
        match command {
            Command::Edit(edit) => self.edit(edit),
            Command::Pass { minutes } => drop(self.clock.advance(Duration::from_secs(60 * u64::from(minutes)))),
            Command::SetBack { minutes } => {
                let Timestamp { secs, nanos } = self.clock.now();
                self.clock.set(Timestamp { secs: secs - 60 * i64::from(minutes), nanos });
            }
            Command::Reopen { reboot } => {
                self.processes = if reboot { self.processes.after_reboot() } else { self.processes.after_kill() };
                self.reopen();
            }
            Command::Lose { nth } => self.lose(nth),
            Command::Use(verb) => self.use_it(verb, Calm::Undisturbed, &Silent),
            Command::Killed { after_writes, verb } => {
                self.faults.stop_after_writes(after_writes.into());
                self.use_it(verb, Calm::Killed, &Silent);
                self.faults.heal();
                self.processes = self.processes.after_kill();
                self.reopen();
            }
            Command::Interrupted { at_step, verb } => {
                self.use_it(verb, Calm::Interrupted, &AtStep::new(at_step, None));
            }
            Command::Beside { at_step, elsewhere, verb, other } => {
                let processes = if elsewhere { FakeProcesses { boot: u32::MAX, pid: 1 } } else { self.processes };
                let act = || self.use_as(processes, other);
                self.use_it(verb, Calm::Crowded, &AtStep::new(at_step, Some(&act)));
            }
        }
        self.settle();
    }

    fn use_it(&self, verb: Verb, calm: Calm, monitor: &dyn Monitor) {
        if let Some(repository) = &self.repository {
            self.perform(repository, verb, calm, monitor);
        }
    }

    /// Another process uses the repository.
    fn use_as(&self, processes: FakeProcesses, verb: Verb) {
        match self.open(processes) {
            Ok(repository) => self.perform(&repository, verb, Calm::Crowded, &Silent),
            Err(error) => self.judge_damaged("open", &error),
        }
    }

    fn edit(&mut self, edit: Edit) {
        self.edits += 1;
        let secs = self.clock.now().secs;
        let nanos = self.edits;
        let (place, item) = match edit {
            Edit::Write { place, seed, size } => {
                let length = u64::from(size).pow(2) / 8;
                let content = Content::Generated { seed: u64::from(seed % 16), length, compressibility: 50 };
                (place, Some(Item::file(content)))
            }
            Edit::Sparse { place, seed } => {
                let start = u64::from(seed) * 16;
                let data = vec![start..start + 700, 6000..6000 + start];
                (place, Some(Item::file(Content::Sparse { seed: seed.into(), length: 9000, data })))
            }
            Edit::Symlink { place, target } => (place, Some(Item::symlink(NAMES[usize::from(target) % NAMES.len()]))),
            Edit::HardLink { place, nth } => (place, Some(self.hard_link(nth))),
            Edit::Remove { place } => (place, None),
        };
        let folder = FOLDERS[usize::from(place / 8) % FOLDERS.len()];
        let path = format!("{folder}{}", NAMES[usize::from(place % 8)]);
        self.make_room(&path);
        if let Some(item) = item {
            self.tree.insert(&path, item.mtime(secs, nanos));
            self.drop_broken_links();
        }
    }

    fn hard_link(&self, nth: u8) -> Item {
        let is_file = |item: &Item| matches!(item.kind, lakebed_testkit::tree::ItemKind::File(_));
        let files: Vec<_> = self.tree.items().filter(|(_, item)| is_file(item)).map(|(path, _)| path).collect();
        match files.get(usize::from(nth).checked_rem(files.len()).unwrap_or_default()) {
            Some(path) => Item::hard_link(*path),
            None => Item::file("no file to link to"),
        }
    }

    /// Removes what is at a path, and whatever stands in its way that is no directory.
    fn make_room(&mut self, path: &str) {
        for (end, _) in path.match_indices('/') {
            let above = &path[..end];
            let is_directory = |item: &Item| matches!(item.kind, lakebed_testkit::tree::ItemKind::Directory);
            if !self.tree.get(above).is_none_or(is_directory) {
                self.tree.remove(above);
            }
        }
        self.tree.remove(path);
        self.drop_broken_links();
    }

    /// A further name of a file goes with it: here it is only described by its path.
    fn drop_broken_links(&mut self) {
        use lakebed_testkit::tree::{ItemKind, LinkTo};
        let is_broken = |item: &Item| match &item.kind {
            ItemKind::HardLink(LinkTo::Path(target)) => {
                !self.tree.get(target).is_some_and(|item| matches!(item.kind, ItemKind::File(_)))
            }
            _ => false,
        };
        let broken: Vec<_> =
            self.tree.items().filter(|(_, item)| is_broken(item)).map(|(path, _)| path.to_vec()).collect();
        broken.into_iter().for_each(|path| self.tree.remove(path));
    }

    /// Takes an object away.
    fn lose(&mut self, nth: u8) {
        let objects = self.memory.list("").unwrap();
        let Some(at) = usize::from(nth).checked_rem(objects.len()) else { return };
        let key = &objects[at].key;
        self.memory.delete(key).unwrap();
        let is_bounded = |prefix: &&str| key.as_str().starts_with(prefix);
        let bounded = [layout::PACKS, layout::INDEX, layout::LEDGER, layout::RUNS, layout::ANNOTATIONS];
        let damage = if bounded.iter().any(is_bounded) { Damage::Bounded } else { Damage::Unbounded };
        self.damage = self.damage.max(damage);
        self.segment_is_lost |= is_bounded(&layout::INDEX);
        self.reopen();
        let is_promised = |kept: &Kept| self.damage == Damage::Bounded && kept.fate == Fate::Live && self.reads(kept);
        let whole: Vec<_> = self.kept().values().filter(|kept| is_promised(kept)).map(|kept| kept.info.id).collect();
        for (id, kept) in self.kept().iter_mut() {
            kept.tags = None;
            if !whole.contains(id) {
                kept.fate = Fate::Lost;
            }
        }
    }

    /// Tells whether a snapshot can be read, and is what it must be then.
    fn reads(&self, kept: &Kept) -> bool {
        let Some(repository) = &self.repository else { return false };
        let read = || {
            repository.read_snapshot(kept.info.id)?;
            kept.copy.is_held_by(&repository.reader(&Silent)?, &kept.info)
        };
        match read() {
            Ok(same) => {
                assert!(same, "snapshot {} reads as another one", kept.info.id);
                true
            }
            Err(error) => {
                self.judge_damaged("read", &error);
                false
            }
        }
    }

    /// Finds out what became of the snapshots of commands that did not come to an end, and checks what is listed.
    fn settle(&mut self) {
        let Some(repository) = &self.repository else { return };
        let catalogue = match repository.catalogue() {
            Ok(catalogue) => catalogue,
            Err(error) => return self.judge_damaged("list", &error),
        };
        assert!(self.is_damaged() || catalogue.damaged.is_empty(), "{:?}", catalogue.damaged);
        let mut listed: BTreeMap<_, _> = catalogue.snapshots.into_iter().map(|info| (info.id, info)).collect();
        for (id, kept) in self.kept().iter_mut() {
            let info = listed.remove(id);
            match (kept.fate, &info) {
                (Fate::Live, None) => panic!("snapshot {id} is not listed any more"),
                (Fate::Forgotten, Some(_)) => panic!("snapshot {id} was forgotten and is listed"),
                (Fate::Unsure, None) => kept.fate = Fate::Forgotten,
                (Fate::Unsure, Some(_)) => kept.fate = Fate::Live,
                _ => {}
            }
            if let Some(info) = info {
                match &kept.tags {
                    Some(tags) => assert_eq!(*tags, info.snapshot.tags, "tags of snapshot {id}"),
                    None if kept.fate == Fate::Live && !self.is_damaged() => kept.tags = Some(info.snapshot.tags),
                    None => {}
                }
            }
        }
        // a backup that was cut off may have committed all the same
        for (_, info) in listed {
            self.keep(info, Arc::new(Copy::of(&self.tree)));
        }
    }

    /// Reads every snapshot that must be there, and every other that is listed.
    pub fn compare(&self, repository: &Repository) -> lakebed_engine::Result<()> {
        let listed = repository.catalogue()?.snapshots;
        let reader = repository.reader(&Silent)?;
        for info in listed {
            let Some(kept) = self.kept().get(&info.id).cloned() else { continue };
            match kept.copy.is_held_by(&reader, &info) {
                Ok(same) => assert!(same, "snapshot {} is not what it was", info.id),
                Err(error) if kept.fate == Fate::Lost => self.judge_damaged("read", &error),
                Err(error) => panic!("snapshot {} cannot be read: {error:?}", info.id),
            }
        }
        Ok(())
    }

    /// After damage anything may fail, but by an error that says why.
    pub fn judge_damaged(&self, what: &str, error: &Error) {
        assert!(self.is_damaged(), "{what}: {error:?}");
        assert!(!matches!(error, Error::Poisoned { .. }), "{what}: {error:?}");
    }

    /// Everything that was promised holds, and whatever nobody needs can be freed.
    pub fn end(&mut self) {
        self.processes = self.processes.after_kill();
        self.reopen();
        self.settle();
        self.use_it(Verb::Compare, Calm::Undisturbed, &Silent);
        self.use_it(Verb::Verify { data: true }, Calm::Undisturbed, &Silent);
        let Some(repository) = self.repository.as_ref().filter(|_| !self.is_damaged()) else { return };
        // what somebody who cannot be asked may still go on with stays for a week. By then, however often the clock was set
        // back, a first prune ends what dead writers have left open, and a second one frees what they have left
        self.clock.advance(Duration::from_secs(400 * 24 * 60 * 60));
        for _ in 0..2 {
            self.use_it(Verb::Prune { thorough: true, patient: true, dry_run: false }, Calm::Undisturbed, &Silent);
        }
        let nothing = repository.prune(&thorough(), &Silent).unwrap();
        assert_eq!((nothing.plan.unused_bytes, nothing.unfinished), (0, None));
        self.use_it(Verb::Compare, Calm::Undisturbed, &Silent);
        let options = VerifyOptions { read: ReadData::All, whole_files: true, threads: 1 };
        let report = repository.verify(&options, &Silent).unwrap();
        assert!(report.is_good() && report.unreferenced_packs == 0, "{report:?}");
    }
}

/// Nothing may stay that is not needed.
pub fn thorough() -> PruneOptions {
    let mut options = PruneOptions::default();
    options.max_unused = Unused::Bytes(0);
    options.repack_small = true;
    options.max_delete = 1.0;
    options.host = "host".into();
    options.threads = 1;
    options
}

/// Does something once, right before a step, or asks to stop there.
struct AtStep<'a> {
    left: Mutex<Option<u8>>,
    act: Option<&'a (dyn Fn() + Sync)>,
}

impl<'a> AtStep<'a> {
    fn new(step: u8, act: Option<&'a (dyn Fn() + Sync)>) -> Self {
        Self { left: Mutex::new(Some(step)), act }
    }
}

impl Monitor for AtStep<'_> {
    fn step(&self, _: Step) {
        let is_here = {
            let mut left = self.left.lock().unwrap();
            let is_here = *left == Some(0);
            *left = left.and_then(|left| left.checked_sub(1));
            is_here
        };
        if is_here && let Some(act) = self.act {
            act();
        }
    }

    fn is_cancelled(&self) -> bool {
        self.act.is_none() && self.left.lock().unwrap().is_none()
    }
}
