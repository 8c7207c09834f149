//! What forgetting and pruning write down.

use serde::{Deserialize, Serialize};

use super::session::Process;
use super::{Record, Unknown};
use crate::codec::frame::FrameKind;
use crate::id::{PackId, SessionId, SnapshotId};
use crate::time::Timestamp;

/// A snapshot was forgotten. It can be undone until a prune has condemned it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tombstone {
    /// Version of the record.
    pub version: u32,
    /// When.
    pub time: Timestamp,
    /// Why: the retention rule, or `by id`.
    pub reason: String,
    /// Keys of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl Record for Tombstone {
    const KIND: FrameKind = FrameKind::Tombstone;
}

/// What became of a tombstone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The snapshot lives again.
    Undone,
    /// The snapshot is gone for ever.
    Condemned,
}

/// The end of a tombstone, one way or the other: both are put under one key, so one wins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Resolution {
    /// Version of the record.
    pub version: u32,
    /// When.
    pub time: Timestamp,
    /// Which way.
    pub verdict: Verdict,
    /// The generation whose prune condemned it.
    pub generation: Option<u64>,
    /// Keys of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl Record for Resolution {
    const KIND: FrameKind = FrameKind::Resolution;
}

/// A prune took a generation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Claim {
    /// Version of the record.
    pub version: u32,
    /// The generation.
    pub generation: u64,
    /// When.
    pub time: Timestamp,
    /// The session that prunes.
    pub session: SessionId,
    /// The process that prunes.
    pub process: Process,
    /// Keys of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl Record for Claim {
    const KIND: FrameKind = FrameKind::Claim;
}

/// Packs that are condemned, for ever.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Condemnation {
    /// Version of the record.
    pub version: u32,
    /// The generation.
    pub generation: u64,
    /// The packs, sorted.
    pub packs: Vec<PackId>,
    /// Keys of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl Record for Condemnation {
    const KIND: FrameKind = FrameKind::Condemnation;
}

/// The sessions that were running when packs had been condemned: nothing is copied or deleted before each has ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Awaited {
    /// Version of the record.
    pub version: u32,
    /// The generation.
    pub generation: u64,
    /// When.
    pub time: Timestamp,
    /// Numbers of the lists of condemned packs that were there before the sessions were listed, sorted. One that came
    /// later is not covered: writers that do not know it may not have been waited for.
    pub lists: Vec<u32>,
    /// The sessions, sorted.
    pub sessions: Vec<SessionId>,
    /// The snapshots that were condemned before the sessions were listed, sorted: they do not count any more.
    pub snapshots: Vec<SnapshotId>,
    /// Keys of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl Record for Awaited {
    const KIND: FrameKind = FrameKind::Awaited;
}

/// A prune is done: everything that its generation condemned is deleted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// Version of the record.
    pub version: u32,
    /// The generation.
    pub generation: u64,
    /// When.
    pub time: Timestamp,
    /// Packs deleted.
    pub packs_deleted: u64,
    /// Bytes freed.
    pub bytes_freed: u64,
    /// The snapshots that lived then, sorted: one that is gone later without a tombstone was not forgotten but lost.
    pub snapshots: Vec<SnapshotId>,
    /// Keys of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl Record for Done {
    const KIND: FrameKind = FrameKind::Done;
}
