//! Copy: snapshots of one repository into another, whatever the keys and chunkers of the two.
//!
//! A copy is a backup whose source is a snapshot, so that it is parallel, continued after an interruption, deduplicated,
//! cut by the destination's chunker, and committed as every other snapshot is. What is special:
//!
//! * What has changed is known and not guessed: beside the snapshot that was copied before, equal ids mean equal content.
//! * Every chunk is checked as it is read, and the hash of each file; the tree that came of it is compared with the
//!   original before it is committed.
//! * The copy's record says what the original's says, and whose copy it is.
//! * A copy that is there but lacks something is healed: what is missing is stored again, under the same names.

mod compare;
mod file;
mod plan;
mod run;
mod source;

use lakebed_core::codec::compress::Compression;
use lakebed_core::id::SnapshotId;
use lakebed_core::monitor::Monitor;
use lakebed_core::record::snapshot::{Failure, Summary};
use lakebed_core::storage::ObjectKey;

use crate::error::{Error, Result};
use crate::repository::{Repository, SnapshotFilter, SnapshotInfo};

/// Which snapshots are copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopySelection {
    /// All that match.
    Matching(SnapshotFilter),
    /// These.
    These(Vec<SnapshotId>),
}

/// How snapshots are copied.
#[derive(Debug, Clone)]
pub struct CopyOptions {
    /// Which.
    pub selection: CopySelection,
    /// Host that the runs are registered under; the copies keep their originals' hosts.
    pub host: String,
    /// How hard to compress.
    pub compression: Compression,
    /// Worker threads; 0: one for each processor.
    pub threads: usize,
    /// Plain bytes a second to read at most; `None`: as fast as can be.
    pub read_limit: Option<u64>,
    /// Bytes a second to write to the destination at most; `None`: as fast as can be.
    pub write_limit: Option<u64>,
    /// Only say what would be done.
    pub dry_run: bool,
    /// Name and version of the tool, for the records of the runs.
    pub tool: String,
}

impl Default for CopyOptions {
    fn default() -> Self {
        Self {
            selection: CopySelection::Matching(SnapshotFilter::default()),
            host: crate::system::host_name(),
            compression: Compression::default(),
            threads: 0,
            read_limit: None,
            write_limit: None,
            dry_run: false,
            tool: concat!("lakebed ", env!("CARGO_PKG_VERSION")).into(),
        }
    }
}

/// What became of a snapshot, or would.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyOutcome {
    /// It was copied.
    Copied,
    /// The destination has it.
    Present,
    /// The destination had it, and has again what it lacked of it.
    Healed,
    /// Nothing of its tree can be read.
    Unreadable,
}

/// A snapshot that was asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct CopiedSnapshot {
    /// The snapshot in the repository that is copied from.
    pub original: SnapshotInfo,
    /// The one in the destination; `None` where there is none, or none yet in a dry run.
    pub copy: Option<SnapshotId>,
    /// What became of it.
    pub outcome: CopyOutcome,
    /// What the copy lacks and the original has: it is damaged there.
    pub failures: Vec<Failure>,
    /// An interrupted copy was continued.
    pub resumed: bool,
    /// Counts and bytes of the run; zero where there was none.
    pub summary: Summary,
}

/// What copying did.
#[derive(Debug, Default)]
pub struct CopyReport {
    /// Every snapshot that was asked for, oldest first.
    pub snapshots: Vec<CopiedSnapshot>,
    /// Records of snapshots that cannot be read, with what is wrong: they may have been asked for too.
    pub damaged: Vec<(ObjectKey, Error)>,
}

impl CopyReport {
    /// Tells whether the destination has all that was asked for.
    pub fn is_complete(&self) -> bool {
        let complete =
            |copied: &CopiedSnapshot| copied.outcome != CopyOutcome::Unreadable && copied.failures.is_empty();
        self.damaged.is_empty() && self.snapshots.iter().all(complete)
    }
}

/// Told of each snapshot as soon as it is known what became of it.
pub type CopyVisitor<'a> = &'a dyn Fn(&CopiedSnapshot);

/// Copies snapshots, oldest first. What is damaged in one of them is left out, told to the monitor and listed in its copy,
/// which the next call then tries to complete. When the call returns, every copy is durable and was compared with its
/// original.
///
/// # Errors
/// Either repository cannot be used; the two are one; a snapshot is not there; a copy differs from its original. What was
/// copied until then stays.
pub fn copy(
    from: &Repository,
    to: &Repository,
    options: &CopyOptions,
    visitor: CopyVisitor<'_>,
    monitor: &dyn Monitor,
) -> Result<CopyReport> {
    if from.config().repository_id == to.config().repository_id {
        return Err(Error::SameRepository { location: to.info().location });
    }
    if !options.dry_run {
        to.config().check_writable().map_err(Error::Config)?;
    }
    run::run(from, to, options, visitor, monitor)
}
