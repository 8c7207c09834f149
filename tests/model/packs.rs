//! `Packs`: what storage and the index segments say of them. Each pack in this model holds the one chunk that matters.

use crate::set::Set;

/// The pack that is there from the beginning.
pub(crate) const OLD_PACK: u8 = 0;
/// Writers at most.
pub(crate) const WRITERS: usize = 2;
/// Prunes at most. With three of them none works at two generations.
pub(crate) const PRUNES: usize = 3;

/// Returns the pack that a writer stores.
pub(crate) fn pack_of_writer(writer: usize) -> u8 {
    1 + writer as u8
}

/// Returns the packs that a prune copies into: the second one is for its second generation.
pub(crate) fn packs_of_prune(prune: usize) -> [u8; 2] {
    [(1 + WRITERS + prune) as u8, (1 + WRITERS + PRUNES + prune) as u8]
}

/// Packs, and what is published about them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Packs {
    /// In storage.
    pub(crate) stored: Set,
    /// They were in storage.
    pub(crate) deleted: Set,
    /// Named by a segment that says what they hold.
    pub(crate) described: Set,
    /// Named by a removal segment.
    pub(crate) removed: Set,
}

impl Packs {
    pub(crate) fn at_first() -> Self {
        let old = Set::one(OLD_PACK);
        Self { stored: old, deleted: Set::EMPTY, described: old, removed: Set::EMPTY }
    }

    /// Returns those that a whole index names: a removal wins, whenever it came.
    pub(crate) fn indexed(self) -> Set {
        self.described.minus(self.removed)
    }

    /// Returns those in which whoever looks the chunk up finds it.
    pub(crate) fn findable(self) -> Set {
        self.stored.and(self.indexed())
    }

    pub(crate) fn store(&mut self, pack: u8) {
        self.stored = self.stored.with(pack);
    }

    pub(crate) fn describe(&mut self, pack: u8) {
        self.described = self.described.with(pack);
    }

    pub(crate) fn delete(&mut self, packs: Set) {
        self.deleted = self.deleted.or(self.stored.and(packs));
        self.stored = self.stored.minus(packs);
    }
}
