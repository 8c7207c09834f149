//! `Action`: what can happen next.

use crate::set::Set;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// A snapshot is forgotten.
    Forget(u8),
    /// That is undone.
    Undo(u8),
    /// The session with this snapshot is expired: by a prune that waits for it, or by anybody else.
    Expire(u8),
    /// A pack that no segment describes is described after its own directory.
    DescribeOrphan(u8),
    Writer(u8, WriterMove),
    Prune(u8, PruneMove),
    Reader(ReaderMove),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WriterMove {
    /// Carries its step out, which can end in one way only.
    Go,
    /// Finds a snapshot in the first half of the look for a parent.
    Look(u8),
    /// Finds it in the second half too, and takes it as its parent.
    TakeParent(u8),
    NoParent,
    /// Finds the chunk in a pack that counts.
    CountAsPresent,
    /// Stores the chunk in a pack of its own.
    Store,
    /// Takes the chunk over from what this other writer left. Only with `Breakage::CheckpointTrusted`.
    TrustCheckpoint(u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PruneMove {
    /// Carries its step out, or the next part of it, which can end in one way only.
    Go,
    /// Takes over the unfinished generation of another prune.
    TakeOver(u8),
    /// Condemns a snapshot that is forgotten.
    Condemn(u8),
    /// Chooses these packs.
    Choose(Set),
    /// Puts a list of condemned packs with this one.
    Publish(u8),
    /// A listing ends, and this was found.
    Found(Set),
    /// Takes this pack to copy the chunk from.
    CopyFrom(u8),
    /// Deletes a pack.
    Delete(u8),
    DeleteRecord(u8),
    DeleteTombstone(u8),
    DeleteResolution(u8),
    /// Stops for good and takes back what it condemned. Only with `Breakage::PackUncondemned`.
    GiveUp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReaderMove {
    /// Chooses a snapshot and begins to fold the index.
    Choose(u8),
    /// Has folded these packs as described and those as removed.
    Folded { described: Set, removed: Set },
    /// Reads from this pack.
    Read(u8),
}
