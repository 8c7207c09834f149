//! What a backup is compared with: the parent snapshot, and the checkpoint of a run that did not finish.

use std::collections::BTreeSet;

use lakebed_core::id::{SessionId, SnapshotId, TreeId};
use lakebed_core::process::Fate;
use lakebed_core::record::snapshot::{Snapshot, SourceRecord, Summary};
use lakebed_core::time::Timestamp;

use super::{BackupOptions, ParentChoice};
use crate::error::{Error, Result};
use crate::repository::{Catalogue, Joined, Repository, SessionInfo, SnapshotInfo, parallel};

/// A tree to compare with.
#[derive(Debug, Clone)]
pub(super) struct Comparison {
    pub(super) root: TreeId,
    /// When it began to be read: a file changed at that moment or later may have changed again unseen.
    pub(super) started: Timestamp,
    /// It is a live snapshot, whose chunks nobody deletes. Else each chunk is looked up before it counts as present.
    pub(super) protected: bool,
    /// It is a checkpoint of a run that read everything.
    pub(super) read_all: bool,
}

/// No more checkpoints are compared with.
const CHECKPOINTS_MAX: usize = 3;

/// What a run starts from.
#[derive(Debug, Default)]
pub(super) struct Base {
    pub(super) parent: Option<SnapshotId>,
    pub(super) parent_summary: Option<Summary>,
    /// The moment of the last snapshot for which everything was read.
    pub(super) last_full: Option<Timestamp>,
    pub(super) comparisons: Vec<Comparison>,
    /// Sessions of this host whose process is dead and that nobody can go on from, to be expired once this run has
    /// committed.
    pub(super) dead: Vec<SessionId>,
    /// Sessions that have ended and whose records are still there.
    pub(super) ended: Vec<SessionId>,
    pub(super) resumed: bool,
    /// What was found to be joined in catalogues.
    pub(super) joined: Joined,
}

/// Chooses the parent and looks for a checkpoint to continue from. The session is registered by now.
pub(super) fn choose(
    repository: &Repository,
    session: SessionId,
    sources: &[SourceRecord],
    options: &BackupOptions,
) -> Result<Base> {
    let uris = |sources: &[SourceRecord]| {
        sources.iter().map(|source| (source.uri.clone(), source.path.clone())).collect::<BTreeSet<_>>()
    };
    let wanted = uris(sources);
    let is_of_these = |info: &SnapshotInfo| {
        let Snapshot { shard, host, sources, .. } = &info.snapshot;
        shard.is_none() && *host == options.host && uris(sources) == wanted
    };
    let mut last_full = None;
    let mut choose_parent = |catalogue: Catalogue| -> Result<(Option<SnapshotInfo>, Joined)> {
        // where there was nothing to compare with everything was read too
        let is_first =
            |snapshot: &Snapshot| snapshot.parent.is_none() && snapshot.joined.is_none() && snapshot.original.is_none();
        let is_full = |info: &&SnapshotInfo| info.snapshot.read_all || is_first(&info.snapshot);
        let full = catalogue.snapshots.iter().filter(is_full).filter(|info| is_of_these(info));
        last_full = full.map(|info| info.snapshot.summary.started).max();
        let mut all = catalogue.snapshots.into_iter();
        let parent = match options.parent {
            ParentChoice::None => None,
            ParentChoice::Newest => all.rfind(is_of_these),
            ParentChoice::Snapshot(id) => {
                let found = all.find(|info| info.id == id);
                Some(found.ok_or_else(|| Error::NoSnapshot { selector: id.to_string() })?)
            }
        };
        Ok((parent, catalogue.joined))
    };
    let (mut parent, mut joined) = choose_parent(repository.catalogue()?)?;
    // what was listed by one request may show a snapshot that was freed meanwhile, and not that it was forgotten. Its
    // tombstones go after its record: if that is there now, they were listed, unless the listing was cut off, so the first
    // of them is asked for by its name
    if let Some(info) = &parent
        && !repository.is_live(info.id)?
    {
        (parent, joined) = choose_parent(repository.catalogue()?)?;
    }
    let parent = parent.as_ref();
    let mut base = Base {
        parent: parent.map(|info| info.id),
        parent_summary: parent.map(|info| info.snapshot.summary),
        last_full,
        joined,
        ..Base::default()
    };
    let (running, ended) = repository.sessions_and_leftovers(Some(session), Some(base.joined.listed()))?;
    base.ended = ended;
    let ours: Vec<&SessionInfo> = running.iter().filter(|other| other.newest.process.host == options.host).collect();
    let is_same = |other: &SessionInfo| uris(&other.newest.sources) == wanted && other.newest.shard == options.shard;
    // whether the run of somebody is over who is not certainly dead is asked where something can be gone on from
    let are_over = parallel::each(repository.store(), &ours, |other| match is_same(other) {
        true => repository.is_over(other.id, &other.newest.process),
        false => Ok(repository.processes().fate(&other.newest.process) == Fate::Dead),
    });
    let mut checkpoints = Vec::new();
    for (other, is_over) in ours.into_iter().zip(are_over) {
        let is_same = is_same(other);
        // of another boot of a host of this name: not certainly dead, but nobody here is at it
        if is_over? {
            // a checkpoint of other sources is for the next run over those
            if is_same || other.checkpoint.is_none() {
                base.dead.push(other.id);
            }
        } else if repository.processes().fate(&other.newest.process) == Fate::Alive {
            continue;
        }
        // one that is older than the parent holds nothing that the parent does not
        let is_of_use = parent.is_none_or(|info| other.newest.time > info.snapshot.summary.started);
        if is_of_use && is_same && options.resume {
            checkpoints.extend(other.checkpoint.as_ref().map(|checkpoint| (other.newest.time, checkpoint)));
        }
    }
    if options.parent == ParentChoice::None {
        return Ok(base);
    }
    if let Some(info) = parent {
        let started = info.snapshot.summary.started;
        base.comparisons.push(Comparison { root: info.snapshot.root, started, protected: true, read_all: false });
    }
    // a run that was cut off early has a newer checkpoint than the long one before it, and a smaller one
    checkpoints.sort_by_key(|(time, checkpoint)| std::cmp::Reverse((checkpoint.summary.files, *time)));
    for (_, checkpoint) in checkpoints.into_iter().take(CHECKPOINTS_MAX) {
        let started = checkpoint.summary.started;
        base.comparisons.push(Comparison {
            root: checkpoint.root,
            started,
            protected: false,
            read_all: checkpoint.read_all,
        });
        base.resumed = true;
    }
    Ok(base)
}
