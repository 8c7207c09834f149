//! What can go wrong with a repository.
//!
//! Errors of a source are another type ([`lakebed_core::source::SourceError`]) on purpose: they skip one entry, these
//! end the run.

use std::path::PathBuf;

use lakebed_core::codec::frame::FrameError;
use lakebed_core::id::{PackId, SnapshotId, TreeId};
use lakebed_core::pack::BlobId;
use lakebed_core::record::config::ConfigError;
use lakebed_core::record::key_slot::KeySlotError;
use lakebed_core::source::SourceError;
use lakebed_core::storage::{ObjectKey, StorageError, StorageErrorKind};
use lakebed_core::target::TargetError;
use lakebed_core::wire::DecodeError;

/// Short form for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

fn numbers(numbers: &[u32]) -> String {
    numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
}

/// A failure that ends an operation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The source cannot be read any more. What was read of it is kept for the next run.
    #[error("The source cannot be read any more: {reason}")]
    SourceEnded {
        /// What happened, in words.
        reason: String,
    },
    /// More entries failed than a run may have. What was read is kept for the next run.
    #[error("More than {max} entries could not be stored: there is no snapshot")]
    TooManyFailures {
        /// How many there may be.
        max: u64,
    },
    /// So much is gone that it is rather not seen than deleted. What was read is kept for the next run.
    #[error("{files} files were found, where the snapshot before has {parent_files}: there is no snapshot")]
    Shrunk {
        /// Files that were found.
        files: u64,
        /// Files of the snapshot that was compared with.
        parent_files: u64,
    },
    /// An entry could not be put where it is restored to.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// There is no repository.
    #[error("There is no repository at `{location}`")]
    NoRepository {
        /// Where it was looked for.
        location: String,
    },
    /// The bucket or container is not there.
    #[error("There is no place `{location}`")]
    NoPlace {
        /// Where.
        location: String,
        /// What the store said.
        #[source]
        source: StorageError,
    },
    /// There is a repository already.
    #[error("There is a repository at `{location}` already")]
    RepositoryExists {
        /// Where.
        location: String,
    },
    /// What was put there cannot be read back, or is not listed at once.
    #[error("`{location}` cannot keep a repository: what was put there is not listed and read back as it was, at once")]
    UnfitStorage {
        /// Where.
        location: String,
    },
    /// The medium leaves something to be wished, so that this is only safe while nobody else works with the repository.
    #[error("{what} needs `{location}` for itself: it replaces what has a name when another thing is put under it")]
    NeedsExclusive {
        /// What was to be done.
        what: &'static str,
        /// The repository.
        location: String,
    },
    /// A part of a run was to be taken that is joined already.
    #[error("The run `{run}` was joined already, as snapshot {}: each run needs a name of its own", snapshot.short())]
    RunJoined {
        /// The run.
        run: String,
        /// What it was joined to.
        snapshot: SnapshotId,
    },
    /// There is no part of such a run.
    #[error("There is no part of a run `{run}`, and nothing that was joined from one")]
    NoShards {
        /// The run.
        run: String,
    },
    /// Parts of a run are not there.
    #[error("Of the {count} parts of the run `{run}` these are missing: {}", numbers(missing))]
    ShardsMissing {
        /// The run.
        run: String,
        /// Numbers of the parts.
        missing: Vec<u32>,
        /// How many there are in all.
        count: u32,
    },
    /// What goes by the name of one run is not of one whole.
    #[error("The parts of the run `{run}` differ in their {what}: each run needs a name of its own")]
    ShardsDiffer {
        /// The run.
        run: String,
        /// In what.
        what: &'static str,
    },
    /// The configuration is gone, and what it describes is still there.
    #[error("The repository at `{location}` has lost its `lakebed.json`")]
    ConfigLost {
        /// Where.
        location: String,
    },
    /// The configuration cannot be used.
    #[error("Cannot use the repository's configuration `lakebed.json`")]
    Config(#[source] ConfigError),
    /// The configuration is another one than this machine knows.
    #[error(
        "The repository at `{location}` is not the one that was there: its `lakebed.json` was changed or exchanged"
    )]
    ConfigExchanged {
        /// The repository.
        location: String,
    },
    /// A password or key file was given for a repository that is not encrypted and that this machine does not know.
    #[error("The repository at `{location}` is not encrypted, but a password or key file was given")]
    UnexpectedlyOpen {
        /// The repository.
        location: String,
    },
    /// No key slot opens with what the user showed.
    #[error("The password or key file opens none of the {slots} key slots of the repository at `{location}`")]
    WrongKey {
        /// The repository.
        location: String,
        /// How many slots were tried.
        slots: usize,
    },
    /// A key slot is there but cannot be used.
    #[error("Cannot use the key slot `{slot}`")]
    KeySlot {
        /// Its id or key.
        slot: String,
        /// Why.
        #[source]
        source: KeySlotError,
    },
    /// The key slot that was named does not exist, or more than one matches.
    #[error("{count} key slots match `{prefix}`")]
    KeySlotChoice {
        /// What was asked for.
        prefix: String,
        /// How many match.
        count: usize,
    },
    /// The last key slot cannot be removed.
    #[error("`{slot}` is the last key slot: without it nobody could open the repository again")]
    LastKeySlot {
        /// Its id.
        slot: String,
    },
    /// An object is damaged, exchanged, or was sealed under another key.
    #[error("The object `{key}` is damaged")]
    Damaged {
        /// The object.
        key: ObjectKey,
        /// What is wrong.
        #[source]
        source: FrameError,
    },
    /// An object's bytes do not hash to its name.
    #[error("The object `{key}` is damaged: its bytes hash to {found}")]
    WrongHash {
        /// The object.
        key: ObjectKey,
        /// The hash found, shortened.
        found: String,
    },
    /// A record cannot be read.
    #[error("The record `{key}` cannot be read")]
    Record {
        /// The object.
        key: ObjectKey,
        /// What is wrong.
        #[source]
        source: DecodeError,
    },
    /// A frame of a pack is damaged.
    #[error("Pack {} is damaged at offset {offset}", pack.short())]
    DamagedFrame {
        /// The pack.
        pack: PackId,
        /// Where the frame begins, in bytes.
        offset: u64,
        /// What is wrong.
        #[source]
        source: FrameError,
    },
    /// A chunk or node is not what its name says.
    #[error("Pack {} is damaged at offset {offset}: {blob} is not what its name says", pack.short())]
    WrongBlob {
        /// The pack.
        pack: PackId,
        /// Where the frame begins, in bytes.
        offset: u64,
        /// The chunk or node.
        blob: BlobId,
    },
    /// A chunk or node is nowhere.
    #[error("{what} {blob} is in no pack that the index knows")]
    Missing {
        /// `The chunk` or `The tree node`.
        what: &'static str,
        /// Its name.
        blob: BlobId,
    },
    /// A node of a tree cannot be read.
    #[error("The tree node {} cannot be read", node.short())]
    TreeNode {
        /// The node.
        node: TreeId,
        /// What is wrong.
        #[source]
        source: DecodeError,
    },
    /// The bytes of a file are not those that were backed up.
    #[error("The content of `{path}` is damaged: its hash is another one than was recorded")]
    WrongContent {
        /// The file, in the snapshot.
        path: String,
    },
    /// A frame could not be built, or was wrong when it was opened again. Often it means bad memory.
    #[error("A frame did not come back as it was written")]
    FrameCheck {
        /// What differed.
        #[source]
        source: FrameError,
    },
    /// No snapshot matches.
    #[error("No snapshot matches `{selector}`")]
    NoSnapshot {
        /// What was asked for.
        selector: String,
    },
    /// More than one snapshot matches.
    #[error("{count} snapshots match `{selector}`")]
    AmbiguousSnapshot {
        /// What was asked for.
        selector: String,
        /// How many match.
        count: usize,
    },
    /// A policy has no rule that could keep anything.
    #[error("No rule says what is to be kept: every snapshot that was chosen would be forgotten")]
    NothingToKeep,
    /// A group would be left without any snapshot.
    #[error("No snapshot of {group} would be left: {forgotten} would be forgotten")]
    EmptiesGroup {
        /// The group, as escaped text.
        group: String,
        /// How many snapshots it has now.
        forgotten: usize,
    },
    /// A snapshot that is to be brought back is not forgotten.
    #[error("Snapshot {} is not forgotten", snapshot.short())]
    NotForgotten {
        /// The snapshot.
        snapshot: SnapshotId,
    },
    /// A forgotten snapshot cannot be brought back any more.
    #[error("Snapshot {} cannot be brought back: it was forgotten, and a prune has condemned it", snapshot.short())]
    Condemned {
        /// The snapshot.
        snapshot: SnapshotId,
    },
    /// A path is not in a snapshot.
    #[error("`{path}` is not in snapshot {}", snapshot.short())]
    NoPath {
        /// The path, as escaped text.
        path: String,
        /// The snapshot.
        snapshot: SnapshotId,
    },
    /// A path is in a snapshot but is not what is needed.
    #[error("`{path}` is a {found}, not a {expected}")]
    WrongKind {
        /// The path, as escaped text.
        path: String,
        /// What it is.
        found: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// An archive of that kind cannot hold an entry as it is.
    #[error("`{path}` cannot be put into the archive: {why}")]
    NotInArchive {
        /// The path, as escaped text.
        path: String,
        /// What is in the way.
        why: &'static str,
    },
    /// A file of this machine cannot be used: the cache, a restored file.
    #[error("Cannot {operation} `{}`", path.display())]
    Local {
        /// The verb.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The local index failed in a way that making it anew does not cure.
    #[error("The local index at `{}` failed: {message}", path.display())]
    Index {
        /// Where it is.
        path: PathBuf,
        /// What RocksDB said.
        message: String,
    },
    /// The index is being used by another process, and the operation needs it alone.
    #[error("The local index at `{}` is in use by another lakebed process", path.display())]
    IndexLocked {
        /// Where it is.
        path: PathBuf,
    },
    /// Two sources would be stored under one path.
    #[error("Two of the given paths would both be stored as `{path}`")]
    SamePath {
        /// The path, as escaped text.
        path: String,
    },
    /// A root of a backup cannot be read.
    #[error("Cannot back up `{path}`")]
    Root {
        /// As it was given.
        path: String,
        /// Why.
        #[source]
        source: SourceError,
    },
    /// Nothing could be read at all, so there is nothing to commit.
    #[error("None of the given paths could be read; no snapshot was made")]
    NothingRead,
    /// The session was expired by somebody else; it must not commit.
    #[error("The session {} was expired while it ran: another process judged it dead; no snapshot was made", session.short())]
    SessionExpired {
        /// The session.
        session: SnapshotId,
    },
    /// Records of snapshots cannot be read, so nobody can say what they need.
    #[error("{} snapshots cannot be read, so nobody can say what may be freed", snapshots.len())]
    UnreadableSnapshots {
        /// The snapshots.
        snapshots: Vec<SnapshotId>,
    },
    /// Snapshots that were there when space was last freed are gone, and nobody has forgotten them.
    #[error("Snapshots are gone that nobody has forgotten: {}, the first is {}", snapshots.len(), snapshots.first().map(SnapshotId::short).unwrap_or_default())]
    SnapshotsVanished {
        /// The snapshots.
        snapshots: Vec<SnapshotId>,
    },
    /// More would go at once than is allowed.
    #[error("{share} % of the {what} would go at once; at most {limit} % may")]
    TooMuchToDelete {
        /// `snapshots` or `bytes in packs`.
        what: &'static str,
        /// How much would go, in per cent.
        share: u64,
        /// How much may go, in per cent.
        limit: u64,
    },
    /// Chunks or nodes that snapshots need are in no pack.
    #[error("{count} chunks and tree nodes that snapshots need are in no pack that is there")]
    NeededMissing {
        /// How many.
        count: u64,
    },
    /// A list of what a prune has condemned is gone, and no prune has finished that generation.
    #[error("The list `{key}` of condemned packs is gone, so nothing more is deleted")]
    CondemnationLost {
        /// The list.
        key: ObjectKey,
    },
    /// An object has the highest number that counts: no lakebed has got that far, so somebody has planted it.
    #[error("`{key}` has so high a number that none can follow")]
    NoNumberLeft {
        /// The object.
        key: ObjectKey,
    },
    /// What is listed changes faster than it can be listed.
    #[error("Cannot list {what}: they keep changing")]
    Busy {
        /// What was listed.
        what: &'static str,
    },
    /// The session that was named does not exist, or more than one matches.
    #[error("{count} sessions match `{prefix}`")]
    SessionChoice {
        /// What was asked for.
        prefix: String,
        /// How many match.
        count: usize,
    },
    /// The user or the embedding program said stop.
    #[error("Interrupted")]
    Interrupted,
    /// The machine cannot give what is needed (randomness, threads, memory).
    #[error("Cannot {operation}")]
    Machine {
        /// The verb.
        operation: &'static str,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Something given by the user cannot be used.
    #[error("{what} `{value}` cannot be used: {why}")]
    Argument {
        /// Which kind of thing.
        what: &'static str,
        /// Its value.
        value: String,
        /// What is wrong.
        why: String,
    },
    /// A snapshot was to be copied into the repository that it is in.
    #[error("The repository at `{location}` cannot be copied into itself")]
    SameRepository {
        /// Where it lies.
        location: String,
    },
    /// A copy did not become what its original is; it was not committed.
    #[error("The copy of snapshot {} differs from it at `{path}`: {what}; it was not committed", snapshot.short())]
    CopyDiffers {
        /// The original.
        snapshot: SnapshotId,
        /// Where, as escaped text.
        path: String,
        /// How.
        what: &'static str,
    },
    /// A thread of this process ended by a bug; nothing was committed.
    #[error("A worker failed unexpectedly; nothing was committed: {message}")]
    Poisoned {
        /// What it said.
        message: String,
    },
}

impl Error {
    /// Builds a [`Error::Local`].
    pub fn local(operation: &'static str, path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Local { operation, path: path.into(), source }
    }

    /// Tells whether it was written by a newer lakebed, as far as it can be told: what is not sealed may just be damaged.
    pub fn is_newer(&self) -> bool {
        let newer = |source: &DecodeError| matches!(source, DecodeError::NewerVersion { .. });
        match self {
            Self::Record { source, .. } | Self::TreeNode { source, .. } => newer(source),
            Self::Damaged { source, .. } | Self::DamagedFrame { source, .. } | Self::FrameCheck { source } => {
                matches!(source, FrameError::Malformed(source) if newer(source))
            }
            _ => false,
        }
    }

    /// Tells whether something is nowhere, which is not the same as being damaged or out of reach.
    pub(crate) fn is_missing(&self) -> bool {
        match self {
            Self::Missing { .. } => true,
            Self::Storage(error) => error.is_not_found(),
            _ => false,
        }
    }

    /// Tells whether something could not be looked at: that says nothing about what is there. Other failures of reading
    /// are damage.
    pub(crate) fn keeps_from_looking(&self) -> bool {
        match self {
            Self::Interrupted | Self::Machine { .. } | Self::Local { .. } | Self::Index { .. } => true,
            // we may not look, or must come again
            Self::Storage(failure) => {
                matches!(failure.kind, StorageErrorKind::PermissionDenied | StorageErrorKind::Transient)
            }
            _ => false,
        }
    }
}
