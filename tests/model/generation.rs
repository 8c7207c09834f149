//! `Generation`: what stands under `gc/<generation>/`.

use crate::set::Set;

/// `gc/<generation>/awaited`: what whoever works at the generation goes by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Awaited {
    /// The packs of those lists of condemned packs that were published before the sessions were listed. Only these are
    /// deleted.
    pub(crate) packs: Set,
    /// The snapshots that were condemned before the sessions were listed. All others count.
    pub(crate) condemned: Set,
    /// The sessions to wait for.
    pub(crate) sessions: Set,
}

/// What storage has of one generation. Its number is that of the prune that claims it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Generation {
    pub(crate) claimed: bool,
    /// The packs of all lists of condemned packs, but for those that are deleted.
    pub(crate) condemned: Set,
    pub(crate) awaited: Option<Awaited>,
    pub(crate) done: bool,
}

impl Generation {
    /// Tells whether a prune began it and none has finished it.
    pub(crate) fn is_unfinished(&self) -> bool {
        self.claimed && !self.done
    }

    /// Puts a list of condemned packs. If somebody has taken it over and finished it meanwhile, it begins once more.
    pub(crate) fn publish(&mut self, packs: Set) {
        self.condemned = self.condemned.or(packs);
        self.done &= packs.is_empty();
    }
}
