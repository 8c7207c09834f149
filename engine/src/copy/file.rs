//! The content of a file in a snapshot, read extent by extent: every chunk is checked by its id, and the hash of the whole
//! at the end.

use std::ops::Range;
use std::sync::Arc;

use lakebed_core::codec::seal::ContentHasher;
use lakebed_core::id::{ChunkId, ContentId};
use lakebed_core::record::tree::{Content, Entry, Extent};
use lakebed_core::source::{Fingerprint, SourceError, SourceFile};
use lakebed_core::text::escape_path;

use super::source::Shared;
use crate::error::{Error, Result};

pub(super) struct SnapshotFile {
    shared: Arc<Shared>,
    path: Vec<u8>,
    print: Fingerprint,
    extents: Vec<Extent>,
    /// The extent at hand, and where it begins in the file.
    at: usize,
    start: u64,
    position: u64,
    /// Plain bytes of the extent that was read last.
    chunk: Vec<u8>,
    loaded: Option<usize>,
    /// What the bytes of several chunks must hash to, and their hash so far.
    whole: Option<(ContentId, ContentHasher)>,
}

impl SnapshotFile {
    pub(super) fn open(shared: Arc<Shared>, path: Vec<u8>, entry: &Entry) -> std::result::Result<Self, SourceError> {
        let extents = shared.reader.extents(entry).map_err(|error| shared.failed("open", &path, error))?;
        let whole = match entry.content {
            Content::Extents { hash, .. } | Content::Indirect { hash, .. } => {
                Some((hash, shared.reader.store().keys().content_hasher()))
            }
            Content::None | Content::Chunk(_) => None,
        };
        let print = Fingerprint { size: entry.size, mtime: entry.mtime, ctime: entry.ctime, inode: entry.inode };
        Ok(Self { shared, path, print, extents, at: 0, start: 0, position: 0, chunk: Vec::new(), loaded: None, whole })
    }

    /// Reads the chunk of the extent at hand.
    fn load(&mut self, id: ChunkId, length: u64) -> Result<()> {
        if self.loaded == Some(self.at) {
            return Ok(());
        }
        let (chunk, whole) = (&mut self.chunk, &mut self.whole);
        chunk.clear();
        self.shared.reader.with_chunk(id, |plain| chunk.extend_from_slice(plain))?;
        if chunk.len() as u64 != length {
            return Err(Error::WrongContent { path: escape_path(&self.path) });
        }
        if let Some((_, hasher)) = whole {
            hasher.update(chunk);
        }
        self.loaded = Some(self.at);
        Ok(())
    }

    fn next_extent(&mut self) {
        self.start += self.extents[self.at].length();
        self.at += 1;
    }
}

impl SourceFile for SnapshotFile {
    fn read(&mut self, buffer: &mut [u8]) -> std::result::Result<usize, SourceError> {
        while let Some(&extent) = self.extents.get(self.at) {
            let within = self.position - self.start;
            let left = usize::try_from(extent.length() - within).unwrap_or(usize::MAX);
            if left == 0 {
                self.next_extent();
                continue;
            }
            let count = buffer.len().min(left);
            match extent {
                Extent::Hole { .. } => buffer[..count].fill(0),
                Extent::Data { id, length } => {
                    self.load(id, length).map_err(|error| self.shared.failed("read", &self.path, error))?;
                    // a chunk that is loaded has the length of its extent
                    let within = within as usize;
                    buffer[..count].copy_from_slice(&self.chunk[within..within + count]);
                }
            }
            self.position += count as u64;
            return Ok(count);
        }
        Ok(0)
    }

    fn next_data(&mut self, offset: u64) -> std::result::Result<Option<Range<u64>>, SourceError> {
        while let Some(extent) = self.extents.get(self.at) {
            if matches!(extent, Extent::Data { .. }) && self.start + extent.length() > offset {
                self.position = offset.max(self.start);
                let stretch = self.extents[self.at..].iter().take_while(|extent| matches!(extent, Extent::Data { .. }));
                return Ok(Some(self.position..self.start + stretch.map(Extent::length).sum::<u64>()));
            }
            self.next_extent();
        }
        Ok(None)
    }

    /// Checks the hash of the whole: whoever asks has read it all. Nobody can change a snapshot behind our back.
    fn fingerprint(&mut self) -> std::result::Result<Fingerprint, SourceError> {
        match &self.whole {
            Some((expected, hasher)) if *expected != hasher.finish() => {
                let error = Error::WrongContent { path: escape_path(&self.path) };
                Err(self.shared.failed("read", &self.path, error))
            }
            _ => Ok(self.print),
        }
    }
}
