//! Compaction of index segments: many that say little each, or speak of packs that are gone, become few.
//!
//! The new ones are durable before a removal segment names the old ones as replaced, and only then the old ones go. That
//! removal segment repeats every pack that was ever removed: an index that was not opened for years still knows some of
//! them, and 32 bytes for each pack that ever went are nothing beside what went with it.

use std::collections::BTreeSet;

use lakebed_core::id::{PackId, SegmentId};
use lakebed_core::layout;
use lakebed_core::pack::{PackInfo, Removal};

use super::inventory::{Segments, Visitor};
use crate::error::Result;
use crate::index::Index;
use crate::repository::{FULL_BYTES, REPLACED_MAX, Repository, fill_a_segment};

/// So many segments that say little each are borne before they are joined.
const SMALL_SEGMENTS: usize = 32;

/// Writes descriptions anew while they come. One that begins again leaves segments that repeat others, which is harmless.
struct Writer<'a> {
    repository: &'a Repository,
    batch: Vec<PackInfo>,
    blobs: usize,
}

impl Visitor for Writer<'_> {
    fn restart(&mut self) {
        self.batch.clear();
        self.blobs = 0;
    }

    fn pack(&mut self, pack: PackInfo) -> Result<()> {
        self.blobs += pack.blobs();
        self.batch.push(pack);
        if fill_a_segment(self.blobs) {
            self.blobs = 0;
            self.repository.publish_segments(&std::mem::take(&mut self.batch))?;
        }
        Ok(())
    }
}

/// Compacts the segments where that is worth it after so many packs were deleted: all of them where most of what they
/// describe is gone, else those that say little, where there are many.
pub(super) fn if_worth_it(repository: &Repository, index: &Index, packs_deleted: u64) -> Result<()> {
    let packs = repository.store().list_packs()?.len() as u64;
    if packs_deleted > packs / 2 {
        return compact(repository);
    }
    let segments = repository.store().storage().list(layout::INDEX)?;
    let small = segments.iter().filter(|object| object.size_bytes < FULL_BYTES).count();
    if small > SMALL_SEGMENTS { repository.join_listed_segments(index) } else { Ok(()) }
}

/// Writes all segments anew, without what they say of removed packs, and deletes the old ones.
fn compact(repository: &Repository) -> Result<()> {
    let mut writer = Writer { repository, batch: Vec::new(), blobs: 0 };
    let segments = Segments::stream(repository, &mut writer)?;
    repository.publish_segments(&writer.batch)?;
    let removals = segments.removals.iter().map(|(id, _)| *id);
    let old: Vec<SegmentId> = segments.additions.iter().copied().chain(removals).collect();
    let passed_on = segments.removals.iter().flat_map(|(_, removal)| &removal.replaced).take(REPLACED_MAX);
    let replaced: BTreeSet<SegmentId> = old.iter().chain(passed_on).copied().collect();
    let mut packs: Vec<PackId> = segments.removed.into_iter().collect();
    packs.sort_unstable();
    repository.publish_removal(&Removal { packs, replaced: replaced.into_iter().collect() })?;
    for id in old {
        repository.delete_if_there(&layout::segment(id))?;
    }
    Ok(repository.store().storage().sync()?)
}
