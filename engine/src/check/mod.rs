//! Looking at what is in storage: what `verify` reports and `repair` heals.
//!
//! Nothing is changed here. A failure that keeps from looking is an error; whatever else is wrong is damage.

mod pack;
mod packs;
mod records;

use lakebed_core::id::SnapshotId;

pub(crate) use pack::{Copied, PacksRead, REMOTE_READERS, ahead_of_packs, check_pack, read_packs, scan};
pub(crate) use packs::{compare_packs, segments_are_lost, segments_may_be_lost};
pub(crate) use records::Records;

/// A part of a snapshot that damage touches.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Affected {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The path in it, as escaped text; empty for the whole snapshot.
    pub path: String,
}

/// No more paths are listed for one damage.
pub const AFFECTED_MAX: usize = 100;
