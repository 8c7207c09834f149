//! A file that is being cut, and the list of its pieces.

use lakebed_core::codec::compress::FrameContent;
use lakebed_core::codec::seal::ContentHasher;
use lakebed_core::record::tree::{Content, Extent, ExtentsWriter, INLINE_EXTENTS_MAX, NodeSink};

/// A file that is being cut.
pub(super) struct Pieces {
    pub(super) hasher: ContentHasher,
    pub(super) list: ContentList,
    /// Everything before it is in the list; what follows is at the buffer's front.
    pub(super) offset: u64,
    /// Bytes in the buffer that are not cut.
    pub(super) end: usize,
    /// It is compressed already, and cut coarsely.
    pub(super) coarse: bool,
    /// What it is for the compression, as soon as enough of it was seen.
    pub(super) content: Option<FrameContent>,
}

impl Pieces {
    pub(super) fn new(hasher: ContentHasher) -> Self {
        Self { hasher, list: ContentList::default(), offset: 0, end: 0, coarse: false, content: None }
    }

    /// Returns how far the file was read.
    pub(super) fn read_to(&self) -> u64 {
        self.offset + self.end as u64
    }
}

/// What becomes of the bytes after which no cut was found.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Rest {
    /// They are the end of a stretch of data, and a chunk.
    Last,
    /// More follows.
    Stays,
}

/// The extents of a file. A long list goes into nodes of the tree while it grows.
#[derive(Default)]
pub(super) struct ContentList {
    extents: Vec<Extent>,
    long: Option<ExtentsWriter>,
}

impl ContentList {
    pub(super) fn is_empty(&self) -> bool {
        self.extents.is_empty() && self.long.is_none()
    }

    pub(super) fn push<S: NodeSink>(&mut self, extent: Extent, sink: &mut S) -> Result<(), S::Error> {
        if let Some(long) = &mut self.long {
            return long.push(extent, sink);
        }
        self.extents.push(extent);
        if self.extents.len() > INLINE_EXTENTS_MAX {
            let long = self.long.insert(ExtentsWriter::default());
            self.extents.drain(..).try_for_each(|extent| long.push(extent, sink))?;
        }
        Ok(())
    }

    pub(super) fn into_content<S: NodeSink>(self, hasher: &ContentHasher, sink: &mut S) -> Result<Content, S::Error> {
        Ok(match (self.long, self.extents.as_slice()) {
            (Some(long), _) => Content::Indirect { hash: hasher.finish(), root: long.finish(sink)? },
            (None, []) => Content::None,
            (None, [Extent::Data { id, .. }]) => Content::Chunk(*id),
            (None, _) => Content::Extents { hash: hasher.finish(), extents: self.extents },
        })
    }
}
