//! `Breakage`: the rules of the protocol, each as what is done where it is not kept.
//!
//! The tests in `broken.rs` say which invariant falls with which rule, and which rules only double another one.

/// A rule that is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Breakage {
    /// A prune lists the sessions before it publishes the condemned packs.
    SessionsListedEarly,
    /// A writer deletes its registration when it puts a heartbeat, so that a slow listing may see neither.
    RegistrationReplaced,
    /// A prune does not list the snapshots a second time: it goes by what it marked when it chose the packs.
    NoSecondListing,
    /// A prune lists the snapshots once and believes it.
    SingleListing,
    /// A prune deletes records of snapshots while another generation has condemned packs.
    RecordsDeletedBesidePrunes,
    /// A snapshot that was forgotten since the packs were chosen does not count at the second marking.
    ForgottenParentIgnored,
    /// A snapshot that was condemned by anybody by the second marking does not count.
    CondemnedParentIgnored,
    /// A prune that gives up takes its condemned packs back.
    PackUncondemned,
    /// An expiry does not take the key of the session's snapshot.
    ExpiryWithoutSharedKey,
    /// Packs are deleted before a removal segment names them.
    DeletedBeforeRemoval,
    /// Removal segments are published before the segments of the copies.
    RemovalBeforeCopy,
    /// A snapshot's tombstone and resolution are deleted before its record.
    TombstoneDeletedFirst,
    /// A copy counts as unneeded if the chunk lies in a pack that another prune has condemned.
    CopyTrustsCondemned,
    /// The condemned lists are read after the index was folded, when the home of a chunk is looked for.
    HomeFoldedEarly,
    /// `awaited` does not say which condemned lists it covers: every list of the generation is taken to be covered.
    EveryListCovered,
    /// When a generation is done every list of it is deleted, not only those that `awaited` covered.
    EveryListDropped,
    /// Everybody who works at a generation reads its lists, lists the sessions himself and goes by that, whatever is there.
    AwaitedAfresh,
    /// A writer chooses its parent before it registers.
    ParentBeforeRegister,
    /// A writer reads the condemned lists before it registers.
    CondemnedReadBeforeRegister,
    /// A writer folds segments and lists packs before it reads the condemned lists.
    FoldedBeforeCondemnedRead,
    /// A writer counts a chunk as present in a condemned pack.
    CondemnedCounted,
    /// A writer takes over the chunks of a checkpoint without looking them up.
    CheckpointTrusted,
    /// Whoever looks for snapshots reads their records before it lists the tombstones.
    RecordReadFirst,
    /// A reader that finds nothing in its index folds once and then fails.
    ReaderFoldsOnce,
}

/// Which rules are broken.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Rules {
    broken: u32,
}

impl Rules {
    pub(crate) fn without(breakages: &[Breakage]) -> Self {
        Self { broken: breakages.iter().fold(0, |broken, breakage| broken | 1 << *breakage as u32) }
    }

    pub(crate) fn are_broken_by(self, breakage: Breakage) -> bool {
        self.broken >> breakage as u32 & 1 == 1
    }
}
