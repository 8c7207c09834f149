//! Snapshots: the record of one moment, and what was noted about it later.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use super::{Record, Unknown};
use crate::codec::frame::FrameKind;
use crate::id::{RepositoryId, SessionId, SnapshotId, TreeId};
use crate::time::Timestamp;

/// The record of one moment. Written last, under its session's key: the one commit point.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Version of the record.
    pub version: u32,
    /// The moment that it stands for: when the run began, unless the user said another.
    pub time: Timestamp,
    /// Its directory tree.
    pub root: TreeId,
    /// The snapshot that it was compared with.
    pub parent: Option<SnapshotId>,
    /// Where its entries came from.
    pub sources: Vec<SourceRecord>,
    /// The host that made it.
    pub host: String,
    /// The user who made it.
    pub user: String,
    /// Tags, sorted, each once.
    pub tags: Vec<String>,
    /// What its maker wrote about it.
    pub description: String,
    /// Counts and bytes.
    pub summary: Summary,
    /// What could not be read, or was read while it changed. Empty: the snapshot is complete.
    pub failures: Vec<Failure>,
    /// Names of the users and groups whose numbers its entries have.
    pub owners: Owners,
    /// The snapshot that this one was made from, where it was not made from its sources.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original: Option<Original>,
    /// The part of a whole that it is, where several machines have taken one together. It counts only until it is joined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<Shard>,
    /// The parts that it was joined from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joined: Option<Joined>,
    /// Everything was read for it, also what looked untouched.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_all: bool,
    /// The session that made it.
    pub session: SessionId,
    /// The generation that the session knew when it began.
    pub base_generation: u64,
    /// Name and version of the tool that made it.
    pub tool: String,
    /// Keys of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl Record for Snapshot {
    const KIND: FrameKind = FrameKind::Snapshot;
}

impl Snapshot {
    /// Tells whether everything that was asked for is in it.
    pub fn is_complete(&self) -> bool {
        self.failures.is_empty()
    }

    /// Returns its place among others, where it is stored under `id`.
    pub fn order(&self, id: SnapshotId) -> SnapshotOrder {
        let Self { time, original, summary, .. } = self;
        SnapshotOrder { time: *time, is_made_of_another: original.is_some(), finished: summary.finished, id }
    }
}

/// The order of snapshots: the newest one is the greatest. One that was made of another stands for the same moment, and
/// takes its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SnapshotOrder {
    /// The moment that it stands for.
    pub time: Timestamp,
    /// It was not made from its sources.
    pub is_made_of_another: bool,
    /// When it was about to commit.
    pub finished: Timestamp,
    /// Its id, where all else is equal.
    pub id: SnapshotId,
}

/// A snapshot of this or another repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Original {
    /// The repository.
    pub repository: RepositoryId,
    /// The snapshot in it.
    pub snapshot: SnapshotId,
}

/// A part of a snapshot that several machines take together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// What all parts of one snapshot have in common, and no others.
    pub run: String,
    /// Which one it is, from 0.
    pub index: u32,
    /// How many there are.
    pub count: u32,
    /// Directories so many levels below a source go to one part with all that is in them. `None`: each goes by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depth: Option<u32>,
}

impl std::fmt::Display for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{} of {}", self.index, self.count, self.run)
    }
}

/// What a snapshot was joined from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// The run that the parts were of.
    pub run: String,
    /// The parts, by ascending number.
    pub shards: Vec<SnapshotId>,
    /// How many there are in all: fewer in `shards` make a partial snapshot.
    pub count: u32,
}

impl Joined {
    /// Tells whether no part is missing.
    pub fn is_whole(&self) -> bool {
        self.shards.len() == self.count as usize
    }

    /// Tells whether it has all that another one was joined from.
    pub fn covers(&self, other: &Self) -> bool {
        self.run == other.run && other.shards.iter().all(|shard| self.shards.contains(shard))
    }
}

/// One source of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRecord {
    /// Where it is, without secrets.
    pub uri: String,
    /// Where it lies in the snapshot's tree, as escaped text.
    pub path: String,
    /// The source's own version, of sources that have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// Counts and bytes of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Summary {
    /// When the run began.
    pub started: Timestamp,
    /// When it was about to commit.
    pub finished: Timestamp,
    /// Files in the snapshot.
    pub files: u64,
    /// Directories in the snapshot.
    pub directories: u64,
    /// Links, pipes, devices in the snapshot.
    pub others: u64,
    /// Files that the parent did not have.
    pub files_new: u64,
    /// Files that were different in the parent.
    pub files_changed: u64,
    /// Files taken over from the parent unread.
    pub files_unmodified: u64,
    /// Files that could not be seen and are kept as the parent has them.
    #[serde(default, skip_serializing_if = "crate::record::is_zero")]
    pub files_unseen: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Bytes that were read.
    pub bytes_read: u64,
    /// Plain bytes of chunks that the repository did not have.
    pub bytes_new: u64,
    /// Bytes that were read and that the repository already had.
    pub bytes_deduplicated: u64,
    /// Bytes added to storage: packs and segments, and in the record of the run the snapshot's record too.
    pub bytes_stored: u64,
}

/// An entry that is missing or doubtful.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Its path in the snapshot, as escaped text.
    pub path: String,
    /// What happened, in words.
    pub reason: String,
}

/// Names of users and groups by number.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Owners {
    /// Users.
    pub users: BTreeMap<u32, String>,
    /// Groups.
    pub groups: BTreeMap<u32, String>,
}

/// New tags and a new description of a snapshot; the one with the highest number counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Annotation {
    /// Version of the record.
    pub version: u32,
    /// When it was made.
    pub time: Timestamp,
    /// All tags of the snapshot from now on, sorted, each once.
    pub tags: Vec<String>,
    /// Its description from now on.
    pub description: String,
    /// Keys of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl Record for Annotation {
    const KIND: FrameKind = FrameKind::Annotation;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::RECORD_VERSION;

    #[test]
    fn a_snapshot_with_a_failure_is_not_complete() {
        let mut snapshot = Snapshot {
            version: RECORD_VERSION,
            time: Timestamp::default(),
            root: TreeId::new([1; 32]),
            parent: None,
            sources: Vec::new(),
            host: "nightly".into(),
            user: "ops".into(),
            tags: Vec::new(),
            description: String::new(),
            summary: Summary::default(),
            failures: Vec::new(),
            owners: Owners::default(),
            original: None,
            shard: None,
            joined: None,
            read_all: false,
            session: SessionId::new([2; 32]),
            base_generation: 0,
            tool: "lakebed".into(),
            unknown: Unknown::new(),
        };
        assert!(snapshot.is_complete());
        snapshot.failures.push(Failure { path: "/a".into(), reason: "gone".into() });
        assert!(!snapshot.is_complete());
    }
}
