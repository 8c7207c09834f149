//! Prune: freeing the space of what no snapshot needs any more, beside writers, readers and other prunes.
//!
//! A plan comes first: what snapshots need is marked, and packs are chosen whose rest is not worth keeping. Carrying it out
//! follows the steps of [`lakebed_core::protocol::PruneStep`], each of which can be repeated or taken over by another
//! prune. What this module keeps true:
//!
//! * a pack that was condemned stays condemned, and nothing that is needed is deleted with it: it is copied first;
//! * nothing is deleted before every writer has ended that may count on it;
//! * no segment describes what is not there: a removal segment comes before the deletion;
//! * whatever looks like a loss stops it before a pack is condemned.

mod apply;
mod brakes;
mod compact;
mod copy;
mod finish;
mod inventory;
mod mark;
mod plan;
mod wait;

use std::time::Duration;

use lakebed_core::codec::compress::Compression;
use lakebed_core::id::{SessionId, SnapshotId};
use lakebed_core::monitor::Monitor;

use crate::error::{Error, Result};
use crate::repository::{HEARTBEAT, Repository};

/// How much that no snapshot needs may stay in packs that hold other things too.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Unused {
    /// This share of the bytes that stay, from 0 to 1.
    Share(f64),
    /// So many bytes.
    Bytes(u64),
    /// Any amount: only packs that nobody needs go.
    Unlimited,
}

/// How a repository is pruned.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PruneOptions {
    /// How much may stay unused. A tenth by default: rewriting packs for less costs more than it frees.
    pub max_unused: Unused,
    /// Join packs that are much smaller than they should be.
    pub repack_small: bool,
    /// Bytes of packs to be rewritten at most.
    pub max_repack: Option<u64>,
    /// After so much time no further pack is rewritten, nor read to be compared; the next prune goes on.
    pub max_time: Option<Duration>,
    /// How long to wait for writers that began before something was condemned. What is left then is the next prune's.
    pub wait: Duration,
    /// A session whose heartbeat has not moved for so long, by this process's own clock, is expired.
    pub stale_after: Duration,
    /// No more than this share of the packs' bytes, and of the snapshots, may go at once, from 0 to 1.
    pub max_delete: f64,
    /// Go on although snapshots are gone that nobody has forgotten.
    pub accept_vanished: bool,
    /// Nobody else works with the repository meanwhile: needed on mediums that do not keep writers of one name apart.
    pub exclusive: bool,
    /// Plan, and write nothing.
    pub dry_run: bool,
    /// In a dry run, snapshots to be taken for forgotten.
    pub assume_forgotten: Vec<SnapshotId>,
    /// How hard to compress what is rewritten.
    pub compression: Compression,
    /// Worker threads; 0: one for each processor.
    pub threads: usize,
    /// Host, for the record.
    pub host: String,
    /// Name and version of the tool, for the record.
    pub tool: String,
}

impl Default for PruneOptions {
    fn default() -> Self {
        Self {
            max_unused: Unused::Share(0.1),
            repack_small: false,
            max_repack: None,
            max_time: None,
            wait: Duration::from_secs(15 * 60),
            stale_after: HEARTBEAT * 10,
            max_delete: 0.9,
            accept_vanished: false,
            exclusive: false,
            dry_run: false,
            assume_forgotten: Vec::new(),
            compression: Compression::default(),
            threads: 0,
            host: crate::system::host_name(),
            tool: concat!("lakebed ", env!("CARGO_PKG_VERSION")).into(),
        }
    }
}

/// Packs, by number and bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// How many.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Tally {
    fn add(&mut self, bytes: u64) {
        self.packs += 1;
        self.bytes += bytes;
    }
}

/// What a prune is going to do.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PruneSummary {
    /// Snapshots that stay.
    pub snapshots_kept: u64,
    /// Forgotten snapshots that go for ever.
    pub snapshots_forgotten: Vec<SnapshotId>,
    /// How many of those that stay, and of those that go, are parts that were joined to a snapshot: no loss when they go.
    pub parts: (u64, u64),
    /// All packs.
    pub all: Tally,
    /// Packs that stay as they are.
    pub kept: Tally,
    /// Packs of which a part is copied before they go.
    pub repacked: Tally,
    /// Packs that go whole.
    pub deleted: Tally,
    /// Packs that are condemned already, by prunes that are not finished.
    pub condemned_before: Tally,
    /// Bytes to be copied, as they are stored now.
    pub copied_bytes: u64,
    /// Bytes that nobody needs, in all packs that are not condemned yet.
    pub unused_bytes: u64,
    /// Bytes that nobody needs in the packs that stay.
    pub unused_after_bytes: u64,
}

impl PruneSummary {
    /// Returns how many bytes it frees, about.
    pub fn freed_bytes(&self) -> u64 {
        (self.repacked.bytes + self.deleted.bytes + self.condemned_before.bytes).saturating_sub(self.copied_bytes)
    }
}

/// More would go at once than is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooMuch {
    /// `snapshots` or `bytes in packs`.
    pub what: &'static str,
    /// How much would go, in per cent.
    pub share: u64,
    /// How much may go, in per cent.
    pub limit: u64,
}

impl From<TooMuch> for Error {
    fn from(TooMuch { what, share, limit }: TooMuch) -> Self {
        Self::TooMuchToDelete { what, share, limit }
    }
}

/// Why a prune ended before everything that it had condemned was deleted. The next one goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unfinished {
    /// Writers that began before are still at work.
    Waiting(Vec<SessionId>),
    /// Its time was up.
    OutOfTime,
}

/// What a prune did.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PruneReport {
    /// What was planned.
    pub plan: PruneSummary,
    /// Why the plan is refused: only a dry run ends well with that.
    pub too_much: Option<TooMuch>,
    /// Its generation, unless there was nothing to do.
    pub generation: Option<u64>,
    /// Earlier generations that it finished.
    pub taken_over: Vec<u64>,
    /// Generations that another prune finished before this one was through with them.
    pub finished_by_others: Vec<u64>,
    /// Packs deleted.
    pub deleted: Tally,
    /// Packs written in their stead.
    pub written: Tally,
    /// Snapshots whose records were deleted.
    pub snapshots_deleted: u64,
    /// Sessions that it expired, since nobody was at them any more.
    pub sessions_expired: Vec<SessionId>,
    /// Why it did not finish.
    pub unfinished: Option<Unfinished>,
}

impl Repository {
    /// Frees the space of what no snapshot needs. Anything else may run at the same time.
    ///
    /// # Errors
    /// Storage; damage in what is needed; a brake: `SnapshotsVanished`, `UnreadableSnapshots`, `TooMuchToDelete`. Nothing
    /// that a snapshot needs is deleted, whatever ends it.
    pub fn prune(&self, options: &PruneOptions, monitor: &dyn Monitor) -> Result<PruneReport> {
        apply::run(self, options, monitor)
    }
}
