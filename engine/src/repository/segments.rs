//! Publishing index segments, and joining those that say little each.
//!
//! Each night adds a segment or two, and a machine that comes new reads all of them. So small ones are joined, as
//! logarithmic merging does it: the new ones are durable before a removal segment names the old ones as replaced, and only
//! then the old ones go.

use std::collections::{BTreeSet, HashSet};

use lakebed_core::codec::frame::FrameKind;
use lakebed_core::id::{PackId, SegmentId};
use lakebed_core::layout;
use lakebed_core::pack::{PackInfo, Removal, encode_removal, encode_segment};

use super::{Repository, parallel};
use crate::error::{Error, Result};
use crate::index::{Index, Segment, read_segment};

/// Packs whose directories are read, or that are moved, at a time.
pub(crate) const PACKS_PER_BATCH: usize = 64;

/// Chunks and nodes described by one segment, that of its last pack aside: bounds the memory of whoever folds it.
const BLOBS_PER_SEGMENT: usize = 1 << 17;

/// A segment of so many bytes is joined with no other.
pub(crate) const FULL_BYTES: u64 = 2 << 20;

/// So many small segments are joined.
const JOINED_MIN: usize = 8;

/// No more bytes of segments are joined at once.
const JOINED_BYTES: u64 = 32 << 20;

/// A segment is taken in where the smaller ones are together at least a part of its size.
const GROWTH: u64 = 3;

/// Smaller ones count as this large: a request costs more than their bytes.
const SMALLEST_BYTES: u64 = 16 << 10;

/// Small segments of which this machine keeps a copy, so that joining them asks for nothing.
const COPIED_BYTES: usize = 256 << 10;

/// An index that was not opened for long knows segments that went some joins ago: so many names are passed on.
pub(crate) const REPLACED_MAX: usize = 10_000;

/// A segment that was published.
pub(crate) struct Published<'a> {
    pub(crate) id: SegmentId,
    pub(crate) packs: &'a [PackInfo],
    /// Size of the object in bytes.
    pub(crate) size_bytes: u64,
}

/// Tells whether so many chunks and nodes make a segment of their own.
pub(crate) fn fill_a_segment(blobs: usize) -> bool {
    blobs >= BLOBS_PER_SEGMENT
}

/// Cuts packs into what one segment each describes.
fn cut(mut packs: &[PackInfo]) -> Vec<&[PackInfo]> {
    let mut parts = Vec::new();
    while !packs.is_empty() {
        let mut blobs = 0;
        let fits = |pack: &&PackInfo| {
            let fits = !fill_a_segment(blobs);
            blobs += pack.blobs();
            fits
        };
        let (part, rest) = packs.split_at(packs.iter().take_while(fits).count());
        parts.push(part);
        packs = rest;
    }
    parts
}

/// Returns how many of the smallest segments are worth being joined, by their sizes in bytes, ascending; 0 where there are
/// too few.
fn joinable(sizes: &[u64]) -> usize {
    let (mut sum, mut joined) = (0, 0);
    for (before, &size) in sizes.iter().take_while(|size| **size < FULL_BYTES).enumerate() {
        let size = size.max(SMALLEST_BYTES);
        if before + 1 >= JOINED_MIN && size <= GROWTH * sum {
            joined = before + 1;
        }
        sum += size;
    }
    joined
}

impl Repository {
    /// Describes packs, which are durable, in segments. They are durable when it returns.
    ///
    /// # Errors
    /// Storage.
    pub(crate) fn publish_segments<'a>(&self, packs: &'a [PackInfo]) -> Result<Vec<Published<'a>>> {
        let mut published = Vec::new();
        for packs in cut(packs) {
            let plain = encode_segment(packs);
            let (name, bytes) = self.store.put_hashed(FrameKind::Segment, layout::INDEX, &plain, self.random())?;
            let id = SegmentId::new(name);
            self.keep_small(id, &bytes);
            published.push(Published { id, packs, size_bytes: bytes.len() as u64 });
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
    pub(crate) fn publish_removal(&self, removal: &Removal) -> Result<SegmentId> {
        let plain = encode_removal(removal);
        let (name, bytes) = self.store.put_hashed(FrameKind::RemovalSegment, layout::INDEX, &plain, self.random())?;
        let id = SegmentId::new(name);
        self.keep_small(id, &bytes);
        self.store.storage().sync()?;
        Ok(id)
    }

    fn keep_small(&self, id: SegmentId, bytes: &[u8]) {
        if let Some(copies) = self.store.copies().filter(|_| bytes.len() <= COPIED_BYTES) {
            copies.keep(&layout::segment(id), bytes);
        }
    }

    /// Joins small segments where there are many: on remote mediums, where each costs a request of whoever comes new.
    ///
    /// # Errors
    /// Storage. Nothing depends on it.
    pub(crate) fn join_segments(&self, index: &Index) -> Result<()> {
        let store = &self.store;
        if !store.storage().capabilities().is_remote {
            return Ok(());
        }
        // what was listed at the beginning says whether it is worth a look, with what came since
        let mut sizes = index.listed_bytes();
        sizes.push(SMALLEST_BYTES);
        sizes.sort_unstable();
        if joinable(&sizes) == 0 {
            return Ok(());
        }
        self.join_listed_segments(index)
    }

    /// Joins the small segments that storage lists, where there are many.
    ///
    /// # Errors
    /// As [`Repository::join_segments`].
    pub(crate) fn join_listed_segments(&self, index: &Index) -> Result<()> {
        let objects = self.store.storage().list(layout::INDEX)?;
        let mut listed: Vec<(u64, SegmentId)> = objects
            .iter()
            .filter_map(|object| Some((object.size_bytes, layout::last_part(&object.key).parse().ok()?)))
            .collect();
        listed.sort_unstable();
        let sizes: Vec<u64> = listed.iter().map(|(size, _)| *size).collect();
        listed.truncate(joinable(&sizes));
        // all of them are held: the rest is for the next one
        let mut sum = 0;
        listed.retain(|(size, _)| {
            sum += size;
            sum <= JOINED_BYTES
        });
        self.replace_segments(listed.into_iter().map(|(_, id)| id).collect(), index)
    }

    /// Joins segments. Where somebody else joins them just now it does nothing, and one that is damaged is passed over.
    fn replace_segments(&self, ids: Vec<SegmentId>, index: &Index) -> Result<()> {
        let store = &self.store;
        let read = parallel::each(store, &ids, |id| store.with_scratch(|scratch| read_segment(store, *id, scratch)));
        let mut packs = Vec::new();
        let (mut removed, mut replaced, mut passed_on) = (BTreeSet::new(), Vec::new(), Vec::new());
        for (id, read) in ids.into_iter().zip(read) {
            match read {
                Ok((Segment::Addition(described), _)) => packs.extend(described),
                Ok((Segment::Removal(removal), _)) => {
                    removed.extend(removal.packs);
                    passed_on.extend(removal.replaced);
                }
                Err(Error::Storage(error)) if error.is_not_found() => return Ok(()),
                Err(error) if error.keeps_from_looking() => return Err(error),
                Err(_) => continue,
            }
            replaced.push(id);
        }
        if replaced.len() < 2 {
            return Ok(());
        }
        let mut seen = HashSet::new();
        packs.retain(|pack| !removed.contains(&pack.id) && !index.is_removed(&pack.id) && seen.insert(pack.id));
        for segment in self.publish_segments(&packs)? {
            index.apply(segment.id, segment.packs);
        }
        let packs: Vec<PackId> = removed.into_iter().collect();
        let names: BTreeSet<SegmentId> =
            replaced.iter().copied().chain(passed_on.into_iter().take(REPLACED_MAX)).collect();
        let removal = Removal { packs, replaced: names.into_iter().collect() };
        index.apply_removal(self.publish_removal(&removal)?, &removal);
        for id in replaced {
            let key = layout::segment(id);
            self.delete_if_there(&key)?;
            if let Some(copies) = store.copies() {
                copies.forget(&key);
            }
        }
        Ok(store.storage().sync()?)
    }
}

#[cfg(test)]
mod tests {
    use lakebed_core::id::SessionId;
    use lakebed_core::pack::{BlobId, BlobInfo, FrameInfo, PackDirectory, PackKind};

    use super::*;

    #[test]
    fn small_segments_are_joined_where_they_are_many() {
        assert_eq!(joinable(&[]), 0);
        assert_eq!(joinable(&[300; 7]), 0);
        assert_eq!(joinable(&[300; 8]), 8);
        // what was joined before is taken in once what came since is a part of it
        let with = |count, last| [vec![10 << 10; count], vec![last]].concat();
        assert_eq!(joinable(&with(8, 300 << 10)), 9);
        assert_eq!(joinable(&with(8, 500 << 10)), 8);
        assert_eq!(joinable(&with(7, 500 << 10)), 0);
        assert_eq!(joinable(&with(7, 300 << 10)), 8);
        // and one that is full never is
        assert_eq!(joinable(&[vec![1 << 20; 8], vec![FULL_BYTES; 8]].concat()), 8);
        assert_eq!(joinable(&[vec![300], vec![100 << 10; 9]].concat()), 10);
        assert_eq!(joinable(&[vec![300; 20], vec![FULL_BYTES; 3]].concat()), 20);
    }

    #[test]
    fn joining_again_and_again_leaves_few_and_reads_little() {
        let (mut sizes, mut read) = (Vec::new(), 0);
        for _ in 0..10_000 {
            sizes.push(20_000);
            sizes.sort_unstable();
            let joined: u64 = sizes.drain(..joinable(&sizes)).sum();
            read += joined;
            sizes.extend((joined > 0).then_some(joined));
        }
        let all = 10_000 * 20_000;
        assert!(sizes.len() < 120, "{}", sizes.len());
        assert!(read < 5 * all, "{read}");
    }

    #[test]
    fn a_segment_describes_so_many_chunks_and_each_pack_once() {
        let pack = |number: u8, blobs: usize| {
            let blob = BlobInfo { id: BlobId::new([number; 32]), length: 1 };
            let frame = FrameInfo { number: 0, frame_len: 48, blobs: vec![blob; blobs] };
            let (kind, session) = (PackKind::Data, SessionId::new([1; 32]));
            let directory = PackDirectory { kind, session, salt: [2; 32], frames: vec![frame] };
            PackInfo { id: PackId::new([number; 32]), size_bytes: 1, directory }
        };
        let most = BLOBS_PER_SEGMENT;
        let packs = [pack(1, most - 1), pack(2, 1), pack(3, 2 * most), pack(4, 1), pack(5, 1)];
        let parts: Vec<usize> = cut(&packs).iter().map(|part| part.len()).collect();
        assert_eq!(parts, [2, 1, 2]);
        assert!(cut(&[]).is_empty());
    }
}
