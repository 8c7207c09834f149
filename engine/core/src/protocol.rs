//! The steps of writers and prunes, in the order that keeps data safe while they run beside each other.
//!
//! Names only: the engine carries the steps out and announces each to its [`crate::monitor::Monitor`] right before it
//! begins, and the model in `tests/model` walks through the same ones in every order that several processes, crashes and
//! slow listings allow. What the order protects is told in `docs/concurrency.md`.

/// A step of whoever adds to a repository: a backup, a copy, a rewrite, a repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WriterStep {
    /// Put `sessions/<session>/00000000`, so that every prune that condemns something from now on waits for it.
    Register,
    /// Read every list of condemned packs: nothing in one of them counts as present, it is stored again.
    ReadCondemned,
    /// Fold new index segments, and list the packs: a chunk is present only in a pack that is there at its size.
    FoldSegments,
    /// Choose what to compare with among the snapshots that are not forgotten.
    ChooseParent,
    /// Look chunks up and put packs with those that are not present.
    StorePacks,
    /// Put the segments that describe those packs, which are durable by now.
    PublishSegments,
    /// Put the snapshot under the session's key. An expiry under that key makes it fail.
    Commit,
}

/// A step of a prune.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PruneStep {
    /// Put the claim of the next generation. Another prune may take an unfinished generation over, from any step on.
    ClaimGeneration,
    /// Resolve tombstones as condemned: from here on their snapshots are gone, for this prune and for everybody.
    CondemnTombstones,
    /// Mark what snapshots and checkpoints need, and choose packs to condemn.
    ChoosePacks,
    /// Put the lists of condemned packs. They are never taken back.
    PublishCondemned,
    /// Only now list the sessions, and put the list of those to wait for, which also names the condemned lists that it is
    /// good for and the snapshots that are condemned by then. Only packs of those lists are deleted.
    ListSessions,
    /// Wait until each of those has committed or was expired.
    AwaitSessions,
    /// List the snapshots again, until two listings are equal, and mark again from all of them but those that were
    /// condemned before the sessions were listed.
    ListSnapshotsAgain,
    /// Copy what is live and lies only in condemned packs, and publish the segments of the copies.
    CopyLive,
    /// Put the removal segments of packs in which nothing is live any more.
    PublishRemovals,
    /// Delete those packs.
    DeletePacks,
    /// Delete the records of condemned snapshots: the snapshot itself first, then what says that it is forgotten. They
    /// stay while another generation has condemned packs: its prune may be listing the snapshots.
    DeleteSnapshots,
    /// Put the done mark, then delete what the generation needed.
    MarkDone,
}

/// A step of either.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// Of a writer.
    Writer(WriterStep),
    /// Of a prune.
    Prune(PruneStep),
}

impl From<WriterStep> for Step {
    fn from(step: WriterStep) -> Self {
        Self::Writer(step)
    }
}

impl From<PruneStep> for Step {
    fn from(step: PruneStep) -> Self {
        Self::Prune(step)
    }
}
