//! What must be true of a repository after a crash, whatever the crash has left of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lakebed_engine::backup::BackupReport;
use lakebed_engine::core::id::SnapshotId;
use lakebed_engine::core::layout;
use lakebed_engine::core::record::key_slot::Unlock;
use lakebed_engine::core::storage::{ObjectKey, Storage};
use lakebed_engine::core::time::Timestamp;
use lakebed_engine::repository::SnapshotInfo;
use lakebed_engine::restore::{RestoreOptions, restore};
use lakebed_engine::source::FilterOptions;
use lakebed_engine::storage::MemoryStorage;
use lakebed_engine::verify::{ReadData, VerifyOptions};
use lakebed_engine::{Error, OpenOptions, Repository, Silent};
use lakebed_testkit::clock::{FakeClock, SeededRandom};
use lakebed_testkit::compare::{CompareOptions, Observation, differences, snapshot_of};
use lakebed_testkit::crash::History;

use super::scenarios::{Mend, repair_in};
use super::world::{Cause, Crash, Expected, KeyByte, World, key_file, one_thread, prune_options};
use crate::common::{forget, try_backup};

/// What is wrong, in words.
pub type Verdict<T = ()> = Result<T, String>;

fn told<T>(what: &str, result: lakebed_engine::Result<T>) -> Verdict<T> {
    result.map_err(|error| {
        let causes = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
        format!("{what}: {}", causes.map(ToString::to_string).collect::<Vec<_>>().join(": "))
    })
}

fn require(holds: bool, otherwise: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(otherwise()) }
}

/// A repository after a crash.
pub struct Aftermath<'a> {
    world: &'a World,
    cause: Cause,
    /// An object that has only half of its bytes. Until it is repaired it may be reported as damaged, and must do no other
    /// harm.
    torn: Option<&'a ObjectKey>,
    expected: Expected,
    storage: Arc<dyn Storage>,
    open: OpenOptions,
    mend: Option<Mend>,
    /// For what is restored.
    folder: PathBuf,
}

/// So many prunes leave nothing unused: the first may have copied what the one that was cut off had copied too.
const PRUNES: usize = 3;

/// What was seen on the way, for the summary.
#[derive(Debug, Default, Clone, Copy)]
pub struct Seen {
    /// Snapshots that were restored and compared.
    pub restored: usize,
    /// The backup that followed went on from a checkpoint.
    pub resumed: bool,
}

impl<'a> Aftermath<'a> {
    pub fn new(world: &'a World, history: &'a History, crash: &Crash, mend: Option<Mend>, folder: PathBuf) -> Self {
        let Crash { state, cause } = crash;
        let now = world.now();
        let clock = FakeClock::new(Timestamp { secs: now.secs + 3600, nanos: 0 });
        Self {
            world,
            cause: *cause,
            torn: history.torn_key(state),
            expected: world.expected(&state.windows),
            storage: Arc::new(MemoryStorage::from(history.objects(state))),
            open: OpenOptions {
                clock: Arc::new(clock.with_step(std::time::Duration::from_millis(1))),
                random: Arc::new(SeededRandom::new(2)),
                processes: Arc::new(world.processes_after(*cause)),
                ..OpenOptions::default()
            },
            mend,
            folder,
        }
    }

    /// Uses a cache folder of this machine, with whatever it remembers, in the place of an index in memory.
    pub fn with_cache(mut self, cache: PathBuf) -> Self {
        self.open.cache_dir = Some(cache);
        self
    }

    /// Checks all that must hold, and then that the next commands run as if there had been no crash.
    pub fn check(mut self) -> Verdict<Seen> {
        let Some(repository) = self.repository()? else {
            // its configuration is torn: there is no repository yet that anything was put into
            return Ok(Seen::default());
        };
        if let Some(mend) = self.mend {
            match mend(self.world, &repository) {
                Err(error) if self.is_refused(&error) => {
                    self.repair(&repository)?;
                    told("mend it", mend(self.world, &repository))?;
                }
                result => told("mend it", result)?,
            }
        }
        let mut known = self.expected.snapshots.clone();
        let mut restored = self.check_snapshots(&repository, &known, None)?;
        self.verify(&repository)?;
        let mut report = self.back_up_again(&repository)?;
        if self.torn.is_some() {
            self.repair(&repository)?;
            report = report.map_or_else(|| self.back_up_again(&repository), |report| Ok(Some(report)))?;
        }
        let report = report.ok_or("the backup was refused")?;
        let newest = report.snapshot.as_ref().ok_or("the backup made no snapshot")?;
        known.push(newest.id);
        self.run_further_commands(&repository, newest)?;
        let gone = self.free_space(&repository)?;
        known.retain(|id| gone.as_ref().is_none_or(|gone| !stands_for(gone, *id)));
        restored += self.check_snapshots(&repository, &known, Some(newest.id))?;
        self.verify(&repository)?;
        Ok(Seen { restored, resumed: report.resumed })
    }

    /// Opens the repository, or makes it where it was not made yet.
    fn repository(&self) -> Verdict<Option<Repository>> {
        let open = |key: KeyByte| Repository::open(self.storage.clone(), &key_file(key), &self.open);
        for &key in &self.expected.keys {
            told("open it", open(key))?;
        }
        let mut opened = self.world.keys().into_iter().map(open).collect::<Vec<_>>();
        if let Some(at) = opened.iter().position(Result::is_ok) {
            return told("open it", opened.swap_remove(at)).map(Some);
        }
        require(!self.expected.made, || "no key opens a repository that was made".into())?;
        match opened.pop() {
            Some(Err(Error::NoRepository { .. })) => {
                let init = World::init_options();
                told("make it", Repository::init(self.storage.clone(), &key_file(self.world.key), &init, &self.open))
                    .map(Some)
            }
            Some(Err(Error::Config(_))) if self.torn == Some(&layout::config()) => Ok(None),
            Some(Err(error)) => told("open it", Err(error)),
            _ => Err("the repository has no key".into()),
        }
    }

    /// What was reported is listed, or one that was made of it, and what is listed can be restored.
    fn check_snapshots(
        &self,
        repository: &Repository,
        reported: &[SnapshotId],
        made_since: Option<SnapshotId>,
    ) -> Verdict<usize> {
        let catalogue = told("list snapshots", repository.catalogue())?;
        for (key, error) in &catalogue.damaged {
            require(Some(key) == self.torn, || format!("{key} is damaged: {error}"))?;
        }
        let listed = |id: &SnapshotId| catalogue.snapshots.iter().any(|info| stands_for(info, *id));
        for id in reported {
            require(listed(id), || format!("snapshot {} was reported and is gone", id.short()))?;
        }
        for info in &catalogue.snapshots {
            match self.world.tree_of(info) {
                Some(tree) => self.check_restore(repository, info, &tree)?,
                None if made_since == Some(info.id) => {
                    self.check_restore(repository, info, &snapshot_of(&self.world.source()))?;
                }
                None => return Err(format!("nobody knows the snapshot {}", info.id.short())),
            }
        }
        Ok(catalogue.snapshots.len())
    }

    fn check_restore(&self, repository: &Repository, info: &SnapshotInfo, tree: &Observation) -> Verdict {
        let target = self.folder.join("out");
        let options = RestoreOptions { target: target.clone(), threads: 1, ..RestoreOptions::default() };
        let reader = told("read", repository.reader(&Silent))?;
        let report = told("restore", restore(&reader, info, &options, &|_, _| {}, &Silent))?;
        let failure = report.failures.into_iter().next();
        failure.map_or(Ok(()), |failure| told("restore", Err(failure.error)))?;
        let restored = target.join(below_root(&self.world.source()));
        let found = differences(tree, &snapshot_of(&restored), &CompareOptions::default());
        lakebed_testkit::remove_all(&target);
        require(found.is_empty(), || format!("snapshot {} came back different: {}", info.id.short(), found.join(", ")))
    }

    /// Nothing is damaged but what is torn.
    fn verify(&self, repository: &Repository) -> Verdict {
        let options = VerifyOptions { read: ReadData::All, whole_files: true, threads: 1 };
        let report = told("verify", repository.verify(&options, &Silent))?;
        for damage in &report.damage {
            let is_torn = self.torn.is_some_and(|torn| damage.subject == torn.as_str());
            let own = |snapshot: SnapshotId| self.torn == Some(&layout::snapshot(snapshot));
            let harmless = is_torn && damage.affected.iter().all(|affected| own(affected.snapshot));
            require(harmless, || format!("verify found {damage:?}"))?;
        }
        Ok(())
    }

    /// Tells whether there may be sessions of which nobody can tell whether their processes live.
    fn others_may_live(&self) -> bool {
        self.world.lost_power || self.cause == Cause::PowerLoss
    }

    /// Tells whether a writer refuses to go on because nobody can tell any more which packs are condemned.
    fn is_refused(&self, error: &Error) -> bool {
        matches!(error, Error::Damaged { key, .. } if Some(key) == self.torn && key.as_str().contains("/condemned/"))
    }

    /// Puts aside what is torn: from then on nothing is damaged.
    fn repair(&mut self, repository: &Repository) -> Verdict {
        self.torn = None;
        told("repair", repair_in(repository))
    }

    /// Makes a backup; `None` where it is refused.
    fn back_up_again(&self, repository: &Repository) -> Verdict<Option<BackupReport>> {
        let source = self.world.source();
        let filter = FilterOptions::default();
        let report = match try_backup(repository, std::slice::from_ref(&source), &one_thread(), &filter) {
            Err(error) if self.is_refused(&error) => return Ok(None),
            result => told("back up", result)?,
        };
        require(report.failures.is_empty(), || format!("the backup lacks {:?}", report.failures))?;
        let left = told("list sessions", repository.sessions())?;
        let may_stay = self.others_may_live();
        require(left.is_empty() || may_stay, || format!("{} dead sessions were not cleaned up", left.len()))?;
        Ok(Some(report))
    }

    fn run_further_commands(&self, repository: &Repository, newest: &SnapshotInfo) -> Verdict {
        told("tag", repository.annotate(newest, vec!["after".into()], "after the crash".into()))?;
        told("rebuild the index", repository.rebuild_index(true, &Silent))?;
        told("list keys", repository.list_keys())?;
        let key = told("add a key", repository.add_key(Unlock::KeyFile, &key_file(99), "after the crash"))?;
        told("open with it", Repository::open(self.storage.clone(), &key_file(99), &self.open))?;
        told("remove it", repository.remove_key(&key.to_string()))?;
        let tagged = told("list snapshots", repository.catalogue())?;
        let tagged = tagged.snapshots.iter().find(|info| info.id == newest.id);
        require(tagged.is_some_and(|info| info.snapshot.tags == ["after"]), || "the tag is not there".into())
    }

    /// Forgets the oldest snapshot, unless it is the only one, and frees whatever nobody needs.
    fn free_space(&self, repository: &Repository) -> Verdict<Option<SnapshotInfo>> {
        let catalogue = told("list snapshots", repository.catalogue())?;
        let oldest = match &catalogue.snapshots[..] {
            [oldest, _, ..] => Some(oldest.clone()),
            _ => None,
        };
        forget(repository, oldest.iter().map(|info| info.id).collect());
        let mut unused = 0;
        for _ in 0..PRUNES {
            let report = told("prune", repository.prune(&prune_options(), &Silent))?;
            let unfinished = &report.unfinished;
            require(unfinished.is_none(), || format!("the prune did not finish: {unfinished:?}"))?;
            unused = report.plan.unused_bytes;
        }
        // packs of a session whose process may still live somewhere stay
        let may_stay = self.others_may_live();
        require(unused == 0 || may_stay, || format!("{unused} bytes stay unused"))?;
        Ok(oldest)
    }
}

/// Tells whether it is that snapshot, or was made of it.
fn stands_for(info: &SnapshotInfo, id: SnapshotId) -> bool {
    info.id == id || info.snapshot.original.as_ref().is_some_and(|original| original.snapshot == id)
}

fn below_root(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}
