//! Copying what is needed out of condemned packs: opened, hashed, joined into full frames, sealed anew, checked again.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

use lakebed_core::codec::compress::{Compression, FrameContent};
use lakebed_core::codec::frame::OpenFrame;
use lakebed_core::id::{PackId, SessionId};
use lakebed_core::monitor::{Monitor, Progress};
use lakebed_core::pack::{BlobId, FrameInfo, PackDirectory, PackInfo, PackKind};
use lakebed_core::storage::StorageErrorKind;

use super::mark::{Home, Marks};
use crate::error::{Error, Result};
use crate::repository::{self, BlobReader, FrameBuilder, Need, PackWriter, Repository, large_content};

/// A condemned pack, and what of it has no home elsewhere.
pub(super) struct Source {
    pub(super) id: PackId,
    pub(super) directory: PackDirectory,
}

/// Workers take so many bytes of frames at a time, in the order in which they lie: packs are copied one after the other, so
/// that where room runs out the first ones are whole.
const PART_BYTES: u64 = 4 << 20;

/// Frames of a pack that lie side by side, and what is copied out of them.
struct Part<'a> {
    source: &'a Source,
    /// With the offset of each.
    frames: Vec<(u64, &'a FrameInfo)>,
    /// In the order in which they lie.
    wanted: Vec<BlobId>,
}

/// Divides packs into parts in which something is needed. What lies in several places is copied once.
fn parts<'a>(sources: &'a [Source], marks: &mut Marks) -> Vec<Part<'a>> {
    let mut parts: Vec<Part<'a>> = Vec::new();
    for source in sources {
        let mut room = 0;
        for (offset, frame) in source.directory.frames_at() {
            let blobs = frame.blobs.iter().filter(|blob| marks.found(&blob.id, Home::Found));
            let mut wanted: Vec<BlobId> = blobs.map(|blob| blob.id).collect();
            if wanted.is_empty() {
                continue;
            }
            match parts.last_mut().filter(|_| u64::from(frame.frame_len) <= room) {
                Some(part) => {
                    part.frames.push((offset, frame));
                    part.wanted.append(&mut wanted);
                }
                None => {
                    parts.push(Part { source, frames: vec![(offset, frame)], wanted });
                    room = PART_BYTES;
                }
            }
            room = room.saturating_sub(frame.frame_len.into());
        }
    }
    parts
}

/// What all workers of a copy share.
pub(super) struct Copier<'a> {
    pub(super) repository: &'a Repository,
    pub(super) reader: &'a BlobReader,
    pub(super) pool: &'a rayon::ThreadPool,
    pub(super) session: SessionId,
    pub(super) compression: Compression,
    pub(super) monitor: &'a dyn Monitor,
}

impl Copier<'_> {
    /// Copies whatever is needed of these packs and has no home in a pack that stays, and publishes where it lies now:
    /// also if that failed for want of room, as far as it came. Returns the packs that were written, which are durable and
    /// described, and whether all is in them.
    ///
    /// # Errors
    /// Something that is needed cannot be read, from none of the places where it lies; storage. Then nothing of these
    /// packs may be removed.
    pub(super) fn copy(&self, sources: &[Source], marks: &mut Marks) -> (Vec<PackInfo>, Result<()>) {
        let parts = parts(sources, marks);
        let mut packs = Vec::new();
        let copied = self.copy_parts(&parts, &mut packs);
        if copied.is_err() {
            parts.iter().flat_map(|part| &part.wanted).for_each(|blob| marks.lost(blob));
            packs.iter().for_each(|pack| marks.found_all(&pack.directory, Home::Found));
        }
        (packs, copied)
    }

    /// Adds the packs that were published.
    fn copy_parts(&self, parts: &[Part<'_>], published: &mut Vec<PackInfo>) -> Result<()> {
        let store = self.repository.store();
        let writer = |kind| {
            PackWriter::new(store.clone(), kind, self.session, self.compression, self.repository.shared_random())
        };
        let writers = Writers { data: writer(PackKind::Data)?, tree: writer(PackKind::Tree)? };
        let mut packs = Vec::new();
        let written = self.write(parts, &writers, &mut packs);
        match &written {
            Ok(()) => {}
            Err(Error::Storage(error)) if error.kind == StorageErrorKind::NoSpace => {
                packs.extend(writers.data.abandon());
                packs.extend(writers.tree.abandon());
            }
            Err(_) => return written,
        }
        if !packs.is_empty() {
            store.storage().sync()?;
            for segment in self.repository.publish_segments(&packs)? {
                self.reader.index().apply(segment.id, segment.packs);
            }
        }
        published.append(&mut packs);
        written
    }

    /// Writes the copies and adds the packs that they lie in.
    fn write(&self, parts: &[Part<'_>], writers: &Writers, packs: &mut Vec<PackInfo>) -> Result<()> {
        let next = AtomicUsize::new(0);
        let left_over = Mutex::new(Vec::new());
        let frames =
            parts.iter().flat_map(|part| part.frames.iter().map(|&(offset, info)| (part.source.id, offset, info)));
        let needs = frames
            .map(|(pack, offset, info)| Need::Part(repository::Part { pack, offset, length: info.frame_len.into() }));
        let reader = self.reader.ahead_of(needs.collect());
        let results = self.pool.broadcast(|_| {
            let mut worker = Worker { copier: self, reader: &reader, writers, frames: Vec::new() };
            while let Some(part) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
                if self.monitor.is_cancelled() {
                    return Err(Error::Interrupted);
                }
                worker.part(part)?;
            }
            left_over.lock().unwrap_or_else(PoisonError::into_inner).append(&mut worker.frames);
            Ok(())
        });
        results.into_iter().collect::<Result<()>>()?;
        store_joined(left_over.into_inner().unwrap_or_else(PoisonError::into_inner), writers)?;
        for writer in [&writers.data, &writers.tree] {
            packs.extend(writer.finish()?.packs);
        }
        Ok(())
    }
}

struct Writers {
    data: PackWriter,
    tree: PackWriter,
}

impl Writers {
    fn store(&self, kind: PackKind, frame: &FrameBuilder) -> Result<()> {
        if kind == PackKind::Data { &self.data } else { &self.tree }.store(frame).map(drop)
    }
}

struct Worker<'a> {
    copier: &'a Copier<'a>,
    /// Reads the frames ahead.
    reader: &'a BlobReader,
    writers: &'a Writers,
    /// Frames that are filling: at most one of each kind of content.
    frames: Vec<(PackKind, FrameBuilder)>,
}

impl Worker<'_> {
    /// Copies the wanted chunks of a part, in the order in which they lie.
    fn part(&mut self, part: &Part<'_>) -> Result<()> {
        let source = part.source;
        let kind = source.directory.kind;
        let mut wanted = part.wanted.iter().peekable();
        let mut frame = OpenFrame::default();
        let mut bytes = Vec::new();
        for &(offset, info) in &part.frames {
            let reader = self.reader;
            bytes.clear();
            let opened = reader
                .read_part(source.id, offset, info.frame_len as usize, &mut bytes)
                .and_then(|()| reader.open_bytes(source.id, offset, kind, &bytes, &mut frame))
                .is_ok();
            let content = match kind {
                PackKind::Tree => FrameContent::Metadata,
                // nobody has written down how it was compressed
                PackKind::Data => large_content(reader.store(), &frame.plain, self.copier.compression)?,
            };
            let mut at = 0;
            for blob in &info.blobs {
                let range = at..at + blob.length as usize;
                at = range.end;
                if wanted.peek() != Some(&&blob.id) {
                    continue;
                }
                wanted.next();
                let plain = frame.plain.get(range).filter(|_| opened);
                match plain.filter(|plain| kind.blob_id(reader.store().keys(), plain) == blob.id) {
                    Some(plain) => self.add(kind, content, blob.id, plain)?,
                    // it may lie in another pack as well
                    None => {
                        let plain = reader.with_blob(blob.id, kind, <[u8]>::to_vec)?;
                        self.add(kind, content, blob.id, &plain)?;
                    }
                }
            }
            self.copier.monitor.advance(Progress { entries: 0, bytes: info.frame_len.into() });
        }
        Ok(())
    }

    fn add(&mut self, kind: PackKind, content: FrameContent, id: BlobId, plain: &[u8]) -> Result<()> {
        let at = self.frames.iter().position(|(_, frame)| frame.content == content);
        let frame = match at {
            Some(at) => &mut self.frames[at].1,
            None => {
                self.frames.push((kind, FrameBuilder::new(content)));
                let last = self.frames.len() - 1;
                &mut self.frames[last].1
            }
        };
        if !frame.has_room(plain.len()) {
            self.writers.store(kind, frame)?;
            frame.clear();
        }
        frame.push(id, plain);
        Ok(())
    }
}

/// Stores the frames that were not full, joined where they fit.
fn store_joined(left_over: Vec<(PackKind, FrameBuilder)>, writers: &Writers) -> Result<()> {
    let mut joined: Vec<(PackKind, FrameBuilder)> = Vec::new();
    for (kind, frame) in left_over {
        if !joined.iter_mut().any(|(into_kind, into)| *into_kind == kind && into.absorb(&frame)) {
            joined.push((kind, frame));
        }
    }
    joined.iter().filter(|(_, frame)| !frame.is_empty()).try_for_each(|(kind, frame)| writers.store(*kind, frame))
}
