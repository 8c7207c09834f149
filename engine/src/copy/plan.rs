//! Which snapshots are asked for, and what the destination has of them.

use std::collections::{BTreeSet, HashMap, HashSet};

use lakebed_core::id::{RepositoryId, SnapshotId, TreeId};
use lakebed_core::monitor::{Monitor, Phase};
use lakebed_core::record::snapshot::{Original, Snapshot};

use super::{CopyOptions, CopySelection};
use crate::error::{Error, Result};
use crate::repository::{BlobReader, Catalogue, Repository, SnapshotInfo, is_whole};

/// A snapshot of the destination that stands for one of the source.
#[derive(Debug, Clone)]
pub(super) struct Twin {
    pub(super) id: SnapshotId,
    pub(super) root: TreeId,
    /// Its tree has everything that the original's has.
    pub(super) has_all: bool,
    /// And nothing else.
    pub(super) is_exact: bool,
    /// Everything that its tree needs is in packs that are there.
    pub(super) is_whole: bool,
}

/// What is to be done.
#[derive(Debug)]
pub(super) enum Task {
    /// Nothing: the destination has it.
    Leave(SnapshotId),
    /// It is to be stored. What is there of it already lacks something.
    Store(Vec<Twin>),
}

/// A snapshot that was asked for, by its place among the snapshots of the source.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) at: usize,
    pub(super) task: Task,
}

/// A copy that is whole and holds exactly what its original holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct ExactCopy {
    pub(super) id: SnapshotId,
    pub(super) root: TreeId,
}

/// What is to be done, oldest snapshot first.
#[derive(Debug)]
pub(super) struct Plan {
    /// The snapshots of the source.
    pub(super) snapshots: Vec<SnapshotInfo>,
    pub(super) items: Vec<Item>,
    /// Copies to compare with, by original.
    pub(super) exact: HashMap<SnapshotId, ExactCopy>,
}

impl Plan {
    /// Looks at what the destination has. Its index is closed again when this returns.
    pub(super) fn make(
        from: RepositoryId,
        snapshots: Vec<SnapshotInfo>,
        to: &Repository,
        options: &CopyOptions,
        monitor: &dyn Monitor,
    ) -> Result<Self> {
        let selected = select(&snapshots, &options.selection)?;
        let destination = Destination::open(from, to, options, monitor)?;
        monitor.phase(Phase::Plan, None);
        let plan = Self { snapshots, items: Vec::new(), exact: HashMap::new() };
        destination.examine(plan, selected, monitor)
    }

    /// Returns the snapshots whose copies a copy of this one may be compared with, the best first.
    pub(super) fn relatives(&self, at: usize) -> impl Iterator<Item = usize> {
        let snapshot = &self.snapshots[at].snapshot;
        let parent = snapshot.parent.and_then(|id| self.snapshots.iter().position(|info| info.id == id));
        let related = move |other: &usize| is_related(&self.snapshots[*other].snapshot, snapshot);
        parent.into_iter().chain((0..at).rev().chain(at + 1..self.snapshots.len()).filter(related))
    }
}

fn is_related(one: &Snapshot, other: &Snapshot) -> bool {
    let sources = |snapshot: &Snapshot| {
        let sources = snapshot.sources.iter();
        sources.map(|source| (source.uri.clone(), source.path.clone())).collect::<BTreeSet<_>>()
    };
    one.host == other.host && sources(one) == sources(other)
}

/// Returns the places of what is asked for.
fn select(snapshots: &[SnapshotInfo], selection: &CopySelection) -> Result<Vec<usize>> {
    match selection {
        CopySelection::Matching(filter) => {
            let all = snapshots.iter().enumerate();
            Ok(all.filter(|(_, info)| filter.matches(&info.snapshot)).map(|(at, _)| at).collect())
        }
        CopySelection::These(ids) => {
            let place = |id: &SnapshotId| {
                let found = snapshots.iter().position(|info| info.id == *id);
                found.ok_or_else(|| Error::NoSnapshot { selector: id.to_string() })
            };
            // a set: each once, oldest first
            Ok(ids.iter().map(place).collect::<Result<BTreeSet<_>>>()?.into_iter().collect())
        }
    }
}

/// What the destination has.
struct Destination {
    id: RepositoryId,
    from: RepositoryId,
    catalogue: Catalogue,
    /// Copies by what they were made from.
    copies: HashMap<Original, Vec<usize>>,
    reader: BlobReader,
    pool: rayon::ThreadPool,
    /// Nodes below which everything is there.
    whole: HashSet<TreeId>,
}

impl Destination {
    fn open(from: RepositoryId, to: &Repository, options: &CopyOptions, monitor: &dyn Monitor) -> Result<Self> {
        let catalogue = to.catalogue()?;
        for (key, error) in &catalogue.damaged {
            monitor.warn(&format!("passed over `{key}` of the destination: {}", crate::error_chain(error)));
        }
        // in this order: what a snapshot needs was published before it, and stored before that
        let reader = to.bare_reader(monitor)?;
        reader.index().check_packs(&to.store().list_packs()?, &HashSet::new());
        let mut copies: HashMap<Original, Vec<usize>> = HashMap::new();
        for (at, info) in catalogue.snapshots.iter().enumerate() {
            if let Some(original) = info.snapshot.original {
                copies.entry(original).or_default().push(at);
            }
        }
        let pool = crate::system::threads(options.threads, "copy")?;
        Ok(Self { id: to.config().repository_id, from, catalogue, copies, reader, pool, whole: HashSet::new() })
    }

    /// Decides what is to be done with each of the selected snapshots.
    fn examine(mut self, mut plan: Plan, selected: Vec<usize>, monitor: &dyn Monitor) -> Result<Plan> {
        let mut to_store = BTreeSet::new();
        for at in selected {
            if monitor.is_cancelled() {
                return Err(Error::Interrupted);
            }
            let info = &plan.snapshots[at];
            let twins = self.twins(info)?;
            if let Some(exact) = twins.iter().find(|twin| twin.is_exact && twin.is_whole) {
                plan.exact.insert(info.id, ExactCopy { id: exact.id, root: exact.root });
            }
            let task = match twins.iter().find(|twin| twin.has_all && twin.is_whole) {
                Some(twin) => Task::Leave(twin.id),
                None => {
                    to_store.insert(at);
                    Task::Store(twins)
                }
            };
            plan.items.push(Item { at, task });
        }
        for &at in &to_store {
            let relatives: Vec<usize> = plan.relatives(at).collect();
            for relative in relatives {
                // one that is stored before this one will be there
                let will_be_there = relative < at && to_store.contains(&relative);
                let info = &plan.snapshots[relative];
                if will_be_there || plan.exact.contains_key(&info.id) {
                    break;
                }
                let twins = self.twins(info)?;
                if let Some(exact) = twins.iter().find(|twin| twin.is_exact && twin.is_whole) {
                    plan.exact.insert(info.id, ExactCopy { id: exact.id, root: exact.root });
                    break;
                }
            }
        }
        Ok(plan)
    }

    /// Returns the snapshots that stand for one of the source: its copies, and the one that it is a copy of itself.
    fn twins(&mut self, info: &SnapshotInfo) -> Result<Vec<Twin>> {
        let snapshots = &self.catalogue.snapshots;
        let copies = self.copies.get(&Original { repository: self.from, snapshot: info.id });
        let copies = copies.into_iter().flatten().map(|&at| (&snapshots[at], false));
        let home = info.snapshot.original.filter(|original| original.repository == self.id);
        let home = home.and_then(|home| snapshots.iter().find(|other| other.id == home.snapshot));
        let mut twins = Vec::new();
        for (twin, is_home) in copies.chain(home.map(|home| (home, true))) {
            // a copy has the failures of its original and may have more; then it lacks what they are about
            let is_exact = twin.snapshot.failures.len() == info.snapshot.failures.len();
            let (reader, whole) = (&self.reader, &mut self.whole);
            let is_whole = self.pool.install(|| is_whole(reader, twin.snapshot.root, whole))?;
            let (id, root) = (twin.id, twin.snapshot.root);
            twins.push(Twin { id, root, has_all: is_exact || is_home, is_exact, is_whole });
        }
        Ok(twins)
    }
}
