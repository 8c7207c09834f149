//! Backup: walk, compare, read, chunk, hash, dedup, frame, compress, seal, check, pack, store, commit.
//!
//! Workers own every step: each takes directories from a shared queue and carries their files through to a sealed frame
//! in a pack. What is shared is the queue, the set of chunks in flight, the pack that is filling, and the directories that
//! are not finished. Nothing is held whole: not a file, and not a directory.
//!
//! Order of durability: packs, then segments, then the snapshot. The local index comes whenever it can.

mod checkpoint;
mod compressed;
mod desk;
mod directory;
mod file;
mod mount_point;
mod moves;
mod node;
mod parent;
mod pieces;
mod place;
mod queue;
mod run;

use std::time::Duration;

use lakebed_core::codec::compress::Compression;
use lakebed_core::id::SnapshotId;
use lakebed_core::monitor::Monitor;
use lakebed_core::record::snapshot::{Failure, Shard, Snapshot, Summary};
use lakebed_core::time::Timestamp;

use crate::error::Result;
use crate::repository::{BlobReader, Repository, SnapshotInfo};
use crate::source::Mount;

/// Which snapshot a backup is compared with.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ParentChoice {
    /// The newest of the same host and the same sources.
    #[default]
    Newest,
    /// This one.
    Snapshot(SnapshotId),
    /// None: everything is read.
    None,
}

/// How a backup is made.
#[derive(Debug, Clone)]
pub struct BackupOptions {
    /// Host that the snapshot is filed under.
    pub host: String,
    /// User who makes it.
    pub user: String,
    /// Tags.
    pub tags: Vec<String>,
    /// Free text.
    pub description: String,
    /// The moment that the snapshot stands for; `None`: when the run begins.
    pub time: Option<Timestamp>,
    /// What to compare with.
    pub parent: ParentChoice,
    /// A file whose change time differs but nothing else counts as unchanged. For file systems that touch it.
    pub ignore_ctime: bool,
    /// A file whose number differs but nothing else counts as unchanged. For network file systems.
    pub ignore_inode: bool,
    /// Read everything, also what looks untouched. What is not as it looked is told.
    pub read_all: bool,
    /// The same where the last snapshot for which that was done is so old; `None`: never.
    pub full_every: Option<Duration>,
    /// Go on from a run of the same sources that did not finish.
    pub resume: bool,
    /// Make no snapshot where the tree is the parent's.
    pub skip_if_unchanged: bool,
    /// More failures than this end the run without a snapshot; `None`: however many there are.
    pub max_failures: Option<u64>,
    /// A snapshot that lacks more than this share of the parent's files is not made; `None`: however much is gone.
    pub max_shrink: Option<f64>,
    /// Take only a part of the sources, as one of several machines do: see [`crate::join`].
    pub shard: Option<Shard>,
    /// Do everything but write.
    pub dry_run: bool,
    /// How hard to compress.
    pub compression: Compression,
    /// Worker threads; 0: one for each processor.
    pub threads: usize,
    /// Bytes a second to read from sources at most; `None`: as fast as can be.
    pub read_limit: Option<u64>,
    /// Bytes a second to write to storage at most; `None`: as fast as can be.
    pub write_limit: Option<u64>,
    /// Publish a checkpoint after so many new plain bytes.
    pub checkpoint_bytes: u64,
    /// Publish a first checkpoint after so much time, and each further one after twice as long as the one before, up to
    /// five minutes: a short run that is cut off loses little, and a long one does not fill the repository with them.
    pub checkpoint_interval: Duration,
    /// Name and version of the tool, for the record.
    pub tool: String,
}

impl Default for BackupOptions {
    fn default() -> Self {
        Self {
            host: crate::system::host_name(),
            user: crate::system::user_name(),
            tags: Vec::new(),
            description: String::new(),
            time: None,
            parent: ParentChoice::default(),
            ignore_ctime: false,
            ignore_inode: false,
            read_all: false,
            full_every: None,
            resume: true,
            skip_if_unchanged: false,
            max_failures: None,
            max_shrink: None,
            shard: None,
            dry_run: false,
            compression: Compression::default(),
            threads: 0,
            read_limit: None,
            write_limit: None,
            // about ten seconds of work on a small machine, and long enough that closing a pack early costs nothing
            checkpoint_bytes: 4 << 30,
            checkpoint_interval: Duration::from_secs(15),
            tool: concat!("lakebed ", env!("CARGO_PKG_VERSION")).into(),
        }
    }
}

/// What a backup did.
#[derive(Debug, Clone)]
pub struct BackupReport {
    /// The snapshot, unless the run was dry or nothing had changed.
    pub snapshot: Option<SnapshotInfo>,
    /// What it was compared with.
    pub parent: Option<SnapshotId>,
    /// An interrupted run was continued from its checkpoint.
    pub resumed: bool,
    /// Everything was read, also what looked untouched.
    pub read_all: bool,
    /// Files that looked untouched and were not: known where everything is read.
    pub mistaken: u64,
    /// Counts and bytes.
    pub summary: Summary,
    /// What is missing or doubtful.
    pub failures: Vec<Failure>,
}

/// What the pipeline is asked for: by a backup, or by another verb that stores a source of its own through it.
pub(crate) struct Request<'a> {
    /// The verb, as the record of the run has it.
    pub(crate) command: &'static str,
    pub(crate) options: &'a BackupOptions,
    /// Nothing of the parent counts as present before it was looked up.
    pub(crate) distrust: bool,
    /// Nodes are read from storage, also those that this machine has copies of.
    pub(crate) reads_storage: bool,
    /// Sees the snapshot when all that it needs is durable and can be read, may change it, and says whether it is to be
    /// committed. An error ends the run without a commit. Not asked in a dry run.
    pub(crate) review: Review<'a>,
}

pub(crate) type Review<'a> = &'a dyn Fn(&mut Snapshot, &BlobReader) -> Result<bool>;

impl Repository {
    /// Makes a snapshot of the given sources.
    ///
    /// An entry that cannot be read is told to the monitor, listed in the snapshot and skipped. When the call returns a
    /// snapshot, it is durable.
    ///
    /// # Errors
    /// Any failure of the repository: then there is no snapshot. `NothingRead` where no source could be read at all.
    pub fn backup(&self, mounts: Vec<Mount>, options: &BackupOptions, monitor: &dyn Monitor) -> Result<BackupReport> {
        let request =
            Request { command: "backup", options, distrust: false, reads_storage: false, review: &|_, _| Ok(true) };
        self.fill(mounts, &request, monitor)
    }

    /// Stores sources through the pipeline of a backup.
    ///
    /// # Errors
    /// As [`Repository::backup`], and what the review says.
    pub(crate) fn fill(
        &self,
        mounts: Vec<Mount>,
        request: &Request<'_>,
        monitor: &dyn Monitor,
    ) -> Result<BackupReport> {
        run::run(self, mounts, request, monitor)
    }
}
