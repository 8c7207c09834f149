//! Restore: plan what is wanted and what is there already, then write it.
//!
//! What is written is checked first: the seal of its frame, the hash of its chunk, and for files of several chunks the
//! hash of the whole. An existing file is only ever replaced by a whole new one. Metadata come last, those of directories
//! after everything in them. The tree is planned and written in bounded batches, each in the order in which its content
//! lies in packs, so that each frame is read and decoded once.

mod elsewhere;
mod filter;
mod marker;
mod run;
mod target;
mod unread;
mod walk;
mod write;

use std::path::PathBuf;

use lakebed_core::monitor::{Monitor, Phase};
pub use lakebed_core::target::Overwrite;

use crate::error::Result;
use crate::repository::{BlobReader, SnapshotInfo};

pub use elsewhere::restore_into;
pub use filter::PathFilter;

/// How a snapshot is restored.
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    /// Folder to restore into; paths below it are those in the snapshot.
    pub target: PathBuf,
    /// What is restored.
    pub filter: PathFilter,
    /// What to do with what is there already.
    pub overwrite: Overwrite,
    /// Delete what the snapshot does not have, in the directories that are restored and that its backup listed: not in
    /// those above its sources. What it may lack only because it could not be read, its failures say so, is spared, and
    /// so is what lies on another file system within a source.
    pub delete: bool,
    /// Directories, by (device, inode), that are never deleted, nor anything in them: the repository itself may lie in
    /// what is restored.
    pub never_delete: Vec<(u64, u64)>,
    /// Change nothing, only say what would be done.
    pub dry_run: bool,
    /// Set owners. Sensible only for root.
    pub owners: bool,
    /// Make everything durable before the call returns.
    pub sync: bool,
    /// Worker threads; 0: one for each processor.
    pub threads: usize,
}

impl Default for RestoreOptions {
    fn default() -> Self {
        Self {
            target: PathBuf::new(),
            filter: PathFilter::default(),
            overwrite: Overwrite::default(),
            delete: false,
            never_delete: Vec::new(),
            dry_run: false,
            owners: rustix::process::geteuid().is_root(),
            sync: false,
            threads: 0,
        }
    }
}

/// What happened, or would happen, to an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It was not there.
    Created,
    /// It was there and was replaced.
    Replaced,
    /// It was there and was left as it was.
    Kept,
    /// It was there and is not in the snapshot.
    Deleted,
}

/// An entry that could not be restored as it should be.
#[derive(Debug)]
pub struct RestoreFailure {
    /// Where it should be.
    pub path: PathBuf,
    /// Why it is not.
    pub error: crate::Error,
    /// The repository is damaged there; else the target is at fault.
    pub damage: bool,
}

/// What a restore did.
#[derive(Debug, Default)]
pub struct RestoreReport {
    /// Entries created.
    pub created: u64,
    /// Entries replaced.
    pub replaced: u64,
    /// Entries left as they were.
    pub kept: u64,
    /// Those of the kept that the snapshot does not have, and may lack only because its backup did not, or could not, look
    /// at them.
    pub spared: u64,
    /// Entries deleted.
    pub deleted: u64,
    /// Bytes of the files that were created or replaced.
    pub bytes: u64,
    /// Entries that the target has no place for.
    pub left_out: u64,
    /// What could not be restored.
    pub failures: Vec<RestoreFailure>,
    /// A restore that had been interrupted was continued.
    pub continued: bool,
}

/// Told of each entry, in a dry run and where the caller wants to know.
pub type Visitor<'a> = &'a (dyn Fn(Action, &std::path::Path) + Sync);

/// Restores a snapshot, or a part of it.
///
/// # Errors
/// The tree cannot be read, or the target cannot be written at all. What fails for one entry is in the report.
pub fn restore(
    reader: &BlobReader,
    info: &SnapshotInfo,
    options: &RestoreOptions,
    visitor: Visitor<'_>,
    monitor: &dyn Monitor,
) -> Result<RestoreReport> {
    monitor.phase(Phase::Plan, None);
    run::run(reader, info, options, visitor, monitor)
}
