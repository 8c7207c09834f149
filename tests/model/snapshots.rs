//! `Snapshots`: what stands under `snapshots/`, `forgotten/` and `sessions/`. Every snapshot needs the one chunk.

use crate::listing::Look;
use crate::packs::WRITERS;
use crate::set::Set;

/// The snapshot that is there from the beginning.
pub(crate) const OLD_SNAPSHOT: u8 = 0;
/// Snapshots at most.
pub(crate) const SNAPSHOTS: usize = 1 + WRITERS;

/// Returns the snapshot that a writer commits. It has the number of the writer's session.
pub(crate) fn snapshot_of(writer: usize) -> u8 {
    1 + writer as u8
}

/// What stands under a session's key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Record {
    /// Nothing yet.
    #[default]
    Free,
    Snapshot,
    Expiry,
    /// Nothing any more: the snapshot was deleted. In storage that looks like `Free`.
    Deleted,
}

/// What stands under `forgotten/` about a snapshot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Mark {
    /// Nothing.
    #[default]
    None,
    /// A tombstone; `again`: the first one was undone.
    Tombstone { again: bool },
    /// A tombstone and its resolution: the snapshot lives again.
    Undone { again: bool },
    /// A tombstone and its resolution: the snapshot is gone for ever.
    Condemned,
    /// What is left of a condemned one whose resolution was deleted.
    TombstoneLeft,
    /// What is left of a condemned one whose tombstone was deleted.
    ResolutionLeft,
    /// Nothing any more. In storage that looks like `None`.
    Cleared,
}

impl Mark {
    /// Tells whether the snapshot is hidden from whoever looks for snapshots.
    pub(crate) fn hides(self) -> bool {
        matches!(self, Self::Tombstone { .. } | Self::Condemned | Self::TombstoneLeft | Self::ResolutionLeft)
    }

    /// Tells whether a tombstone is there and its resolution is not.
    pub(crate) fn is_unresolved(self) -> bool {
        matches!(self, Self::Tombstone { .. } | Self::TombstoneLeft)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Snapshots {
    pub(crate) records: [Record; SNAPSHOTS],
    pub(crate) marks: [Mark; SNAPSHOTS],
    /// Sessions whose registration stands, by the number of their snapshot.
    pub(crate) registered: Set,
    /// For the invariants: they were committed once.
    pub(crate) ever_committed: Set,
    /// For the invariants: they were expired once.
    pub(crate) ever_expired: Set,
    /// For the invariants: they were condemned once.
    pub(crate) ever_condemned: Set,
}

impl Snapshots {
    pub(crate) fn at_first() -> Self {
        let mut snapshots = Self {
            records: Default::default(),
            marks: Default::default(),
            registered: Set::EMPTY,
            ever_committed: Set::EMPTY,
            ever_expired: Set::EMPTY,
            ever_condemned: Set::EMPTY,
        };
        snapshots.put(OLD_SNAPSHOT, Record::Snapshot);
        snapshots
    }

    pub(crate) fn record(&self, snapshot: u8) -> Record {
        self.records[usize::from(snapshot)]
    }

    pub(crate) fn mark(&self, snapshot: u8) -> Mark {
        self.marks[usize::from(snapshot)]
    }

    pub(crate) fn set_mark(&mut self, snapshot: u8, mark: Mark) {
        self.marks[usize::from(snapshot)] = mark;
        if mark == Mark::Condemned {
            self.ever_condemned = self.ever_condemned.with(snapshot);
        }
    }

    /// Puts a snapshot or an expiry under a session's key, whatever is there.
    pub(crate) fn put(&mut self, snapshot: u8, record: Record) {
        self.records[usize::from(snapshot)] = record;
        match record {
            Record::Snapshot => self.ever_committed = self.ever_committed.with(snapshot),
            Record::Expiry => self.ever_expired = self.ever_expired.with(snapshot),
            Record::Free | Record::Deleted => {}
        }
    }

    /// Tells whether nothing stands under a session's key, as far as storage shows it.
    pub(crate) fn is_free(&self, snapshot: u8) -> bool {
        matches!(self.record(snapshot), Record::Free | Record::Deleted)
    }

    /// Returns those whose record is such.
    pub(crate) fn with_record(&self, wanted: impl Fn(Record) -> bool) -> Set {
        (0..SNAPSHOTS as u8).filter(|snapshot| wanted(self.record(*snapshot))).collect()
    }

    /// Returns those whose mark is such.
    pub(crate) fn with_mark(&self, wanted: impl Fn(Mark) -> bool) -> Set {
        (0..SNAPSHOTS as u8).filter(|snapshot| wanted(self.mark(*snapshot))).collect()
    }

    /// Returns the sessions whose key is taken, as far as storage shows it.
    pub(crate) fn ended(&self) -> Set {
        (0..SNAPSHOTS as u8).filter(|snapshot| !self.is_free(*snapshot)).collect()
    }

    /// Looks at the names under `snapshots/`.
    pub(crate) fn look(&self) -> Look {
        Look { there: self.ended(), gone: self.with_record(|record| record == Record::Deleted) }
    }

    /// Looks at the sessions that are registered and whose key is free.
    pub(crate) fn look_at_sessions(&self) -> Look {
        let ended = self.with_record(|record| record != Record::Free);
        let running = self.registered.minus(self.ended());
        Look { there: running, gone: ended.minus(running) }
    }

    /// Returns those that can be restored, or could if a forget were undone.
    pub(crate) fn wanted(&self) -> Set {
        self.with_record(|record| record == Record::Snapshot).minus(self.ever_condemned)
    }
}
