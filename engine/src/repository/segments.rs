//! Publishing index segments.

use lakebed_core::codec::frame::FrameKind;
use lakebed_core::id::SegmentId;
use lakebed_core::layout;
use lakebed_core::pack::{PackInfo, Removal, encode_removal, encode_segment};

use super::Repository;
use crate::error::Result;

/// Packs described by one segment: bounds the memory of whoever folds it.
pub(crate) const PACKS_PER_SEGMENT: usize = 64;

/// A segment that was published.
pub(crate) struct Published<'a> {
    pub(crate) id: SegmentId,
    pub(crate) packs: &'a [PackInfo],
    /// Size of the object in bytes.
    pub(crate) size_bytes: u64,
}

impl Repository {
    /// Describes packs, which are durable, in segments. They are durable when it returns.
    ///
    /// # Errors
    /// Storage.
    pub(crate) fn publish_segments<'a>(&self, packs: &'a [PackInfo]) -> Result<Vec<Published<'a>>> {
        let mut published = Vec::new();
        for packs in packs.chunks(PACKS_PER_SEGMENT) {
            let plain = encode_segment(packs);
            let (name, size_bytes) = self.store.put_hashed(FrameKind::Segment, layout::INDEX, &plain, self.random())?;
            published.push(Published { id: SegmentId::new(name), packs, size_bytes });
        }
        if !published.is_empty() {
            self.store.storage().sync()?;
        }
        Ok(published)
    }

    /// Says that packs leave for ever and that segments were replaced. It is durable when it returns: from then on the
    /// packs and segments may be deleted.
    ///
    /// # Errors
    /// Storage.
    pub(crate) fn publish_removal(&self, removal: &Removal) -> Result<()> {
        let plain = encode_removal(removal);
        self.store.put_hashed(FrameKind::RemovalSegment, layout::INDEX, &plain, self.random())?;
        Ok(self.store.storage().sync()?)
    }
}
