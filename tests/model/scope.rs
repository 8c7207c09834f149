//! `Scope`: how many actors there are and what they may do. Without bounds nothing could be looked at in full.

use crate::set::Set;
use crate::snapshots::OLD_SNAPSHOT;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Scope {
    pub(crate) writers: usize,
    pub(crate) prunes: usize,
    /// There is a reader.
    pub(crate) reader: bool,
    /// Snapshots that may be forgotten.
    pub(crate) forgettable: Set,
    /// Snapshots that may be forgotten and brought back, and forgotten again.
    pub(crate) undoable: Set,
    /// Sessions may be expired.
    pub(crate) expiry: bool,
    /// A prune may take the generation of another one over.
    pub(crate) takeover: bool,
    /// And then claims one of its own.
    pub(crate) continues: bool,
    /// Condemned packs are published, packs and records are deleted one by one.
    pub(crate) piecewise: bool,
    /// Somebody describes packs that no segment describes: an index is made anew from packs.
    pub(crate) describes_orphans: bool,
}

impl Scope {
    /// Everything that these actors can do.
    pub(crate) fn whole(writers: usize, prunes: usize) -> Self {
        let snapshots: Set = (0..=writers as u8).collect();
        Self {
            writers,
            prunes,
            reader: true,
            forgettable: snapshots,
            undoable: Set::one(OLD_SNAPSHOT),
            expiry: true,
            takeover: prunes > 1,
            continues: prunes == 2,
            piecewise: true,
            describes_orphans: true,
        }
    }
}
