//! Packs that are kept open, since a restore reads many parts of each.

use std::fs::File;
use std::sync::Arc;

use lakebed_core::storage::ObjectKey;

/// Packs kept open for ranged reads.
pub(super) const OPEN_PACKS_MAX: usize = 16;

/// A file of the repository that is open.
pub(super) struct OpenObject {
    pub(super) file: File,
    /// The size when it was opened. Objects do not change.
    pub(super) size_bytes: u64,
}

/// The packs read last, oldest first. They are few, so a search through all of them is cheap.
#[derive(Default)]
pub(super) struct OpenPacks {
    pub(super) packs: Vec<(ObjectKey, Arc<OpenObject>)>,
    /// Counts deletions, so that a pack opened just before it was deleted is not kept.
    pub(super) deletions: u64,
}

impl OpenPacks {
    pub(super) fn find(&mut self, key: &ObjectKey) -> Option<Arc<OpenObject>> {
        let at = self.packs.iter().position(|(open, _)| open == key)?;
        self.packs[at..].rotate_left(1);
        self.packs.last().map(|(_, pack)| Arc::clone(pack))
    }

    pub(super) fn keep(&mut self, key: &ObjectKey, pack: &Arc<OpenObject>, deletions: u64) {
        if deletions != self.deletions || self.packs.iter().any(|(open, _)| open == key) {
            return;
        }
        if self.packs.len() >= OPEN_PACKS_MAX {
            self.packs.remove(0);
        }
        self.packs.push((key.clone(), Arc::clone(pack)));
    }

    pub(super) fn forget(&mut self, key: &ObjectKey) {
        self.deletions += 1;
        self.packs.retain(|(open, _)| open != key);
    }
}
