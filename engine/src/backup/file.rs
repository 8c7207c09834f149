//! One entry that is no directory: is it as before, and if not, what is in it.

use std::borrow::Cow;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use lakebed_core::codec::compress::FrameContent;
use lakebed_core::id::ChunkId;
use lakebed_core::record::tree::{Content, Entry, EntryKind, Extent};
use lakebed_core::source::{ContentChange, Fingerprint, SourceError, SourceErrorKind, SourceFile};
use lakebed_core::time::Timestamp;

use super::compressed::is_compressed;
use super::pieces::{Pieces, Rest};
use super::place::Place;
use super::run::{LinkedFile, Run, Worker};
use crate::error::Result;
use crate::repository::{ExtentRuns, large_content};

/// Files of fewer bytes are compressed as small files are.
const LARGE_MIN_BYTES: usize = 1 << 20;

/// How often a file that changes while it is read is read again before it is kept as it came.
const TRIES: usize = 3;

/// File systems stamp changes with a clock of a few milliseconds: a file that changed so shortly before it was read may
/// have changed again with the same stamp, so it is read again the next time.
const STAMP_GRANULARITY_NS: i64 = 50_000_000;

/// What reading a file came to.
struct Read {
    content: Content,
    size: u64,
    /// As it was when the last byte had been read.
    after: Fingerprint,
    consistent: bool,
}

/// Either side may have failed: the source, which skips the entry, or the repository, which ends the run.
enum Failure {
    Source(SourceError),
    Repository(crate::Error),
}

impl From<SourceError> for Failure {
    fn from(error: SourceError) -> Self {
        Self::Source(error)
    }
}

impl From<crate::Error> for Failure {
    fn from(error: crate::Error) -> Self {
        Self::Repository(error)
    }
}

fn fingerprint(entry: &Entry) -> Fingerprint {
    Fingerprint { size: entry.size, mtime: entry.mtime, ctime: entry.ctime, inode: entry.inode }
}

impl Run<'_> {
    /// Fills in attributes and link target, from the entry's counterpart where it was not touched. A file without some
    /// attribute can be kept: that is told, and marked.
    ///
    /// # Errors
    /// The entry cannot be kept: it is gone or another one, or a link without its target. That is for the caller to tell.
    pub(super) fn complete_entry(
        &self,
        entry: &mut Entry,
        matching: &[(usize, Entry)],
        path: &[Vec<u8>],
        place: &Place,
    ) -> std::result::Result<(), SourceError> {
        let untouched = |(which, other): &&(usize, Entry)| {
            let same = other.kind == entry.kind && other.ctime == entry.ctime && other.inode == entry.inode;
            same && !other.inconsistent
                && entry.ctime != Timestamp::default()
                && !stamped_too_late(other, self.comparisons[*which].started)
        };
        if let Some((_, known)) = matching.iter().find(untouched).filter(|_| !self.options.ignore_ctime) {
            entry.xattrs.clone_from(&known.xattrs);
            entry.attributes.clone_from(&known.attributes);
            return Ok(());
        }
        let Err(error) = place.complete(entry) else { return Ok(()) };
        let is_gone = matches!(error.kind, SourceErrorKind::Vanished | SourceErrorKind::Replaced);
        if is_gone || (entry.kind == EntryKind::Symlink && entry.link_target.is_empty()) {
            return Err(error);
        }
        self.keep_doubtful(entry, path, &error);
        Ok(())
    }

    /// Marks an entry that is kept though something about it is not known or not of one moment, so that the next run asks
    /// again instead of taking it over as whole.
    pub(super) fn keep_doubtful(&self, entry: &mut Entry, path: &[Vec<u8>], error: &SourceError) {
        entry.inconsistent = true;
        self.entry_failed(path, error);
    }
}

impl Worker<'_, '_> {
    /// Completes an entry: with what the trees compared with know of it, or from the source. Returns whether it is kept.
    pub(super) fn leaf(
        &mut self,
        entry: &mut Entry,
        matching: &[(usize, Entry)],
        path: &[Vec<u8>],
        place: &Place,
    ) -> Result<bool> {
        let run = self.run;
        let is_file = entry.kind == EntryKind::File;
        let change = place.content_change(entry);
        let mut complete = change != ContentChange::Unknown;
        let failed = |error: SourceError| {
            run.entry_failed(path, &error);
            Ok(false)
        };
        let looks_like = match self.unchanged(entry, matching, change, place)? {
            Some(known) => Some(Cow::Borrowed(known)),
            None => self.moved(entry, matching, place)?.map(Cow::Owned),
        };
        // a run that reads everything goes on from one that did so too
        let of_full: Vec<(usize, Entry)> = match run.read_all {
            true => matching.iter().filter(|(which, _)| run.comparisons[*which].read_all).cloned().collect(),
            false => Vec::new(),
        };
        let taken = match run.read_all {
            true => self.unchanged(entry, &of_full, change, place)?,
            false => looks_like.as_deref(),
        };
        if let Some(known) = taken {
            let mut completed = Ok(());
            if run.options.ignore_ctime && !complete {
                completed = run.complete_entry(entry, &[], path, place);
                complete = true;
            }
            match completed {
                Ok(()) => {
                    entry.content = known.content.clone();
                    // not every listing says a size
                    entry.size = known.size;
                    if !complete {
                        entry.xattrs.clone_from(&known.xattrs);
                        entry.link_target.clone_from(&known.link_target);
                        if entry.attributes.is_empty() {
                            entry.attributes.clone_from(&known.attributes);
                        }
                    }
                    if is_file {
                        run.counts.files_unmodified.fetch_add(1, Ordering::Relaxed);
                    }
                    return Ok(true);
                }
                // another one was renamed to its name: that one is read
                Err(error) if is_file && error.kind == SourceErrorKind::Replaced => {}
                Err(error) => return failed(error),
            }
        }
        if !is_file {
            let completed = if complete { Ok(()) } else { run.complete_entry(entry, &[], path, place) };
            return completed.map_or_else(failed, |()| Ok(true));
        }
        match self.content(entry, path, place) {
            Ok(()) => {}
            Err(Failure::Source(error)) => return self.unseen(entry, matching, path, place, &error),
            Err(Failure::Repository(error)) => return Err(error),
        }
        let counts = &run.counts;
        if let Some(known) = looks_like.filter(|_| run.read_all) {
            let is_as_it_looked = known.content == entry.content;
            let count = if is_as_it_looked { &counts.files_unmodified } else { &counts.files_mistaken };
            count.fetch_add(1, Ordering::Relaxed);
            if is_as_it_looked {
                return Ok(true);
            }
        }
        let known = matching.iter().any(|(which, other)| *which == 0 && other.kind == EntryKind::File);
        if known { &counts.files_changed } else { &counts.files_new }.fetch_add(1, Ordering::Relaxed);
        Ok(true)
    }

    /// Keeps a file that cannot be read as the parent has it, where the source wants that. Returns whether it is kept.
    fn unseen(
        &self,
        entry: &mut Entry,
        matching: &[(usize, Entry)],
        path: &[Vec<u8>],
        place: &Place,
        error: &SourceError,
    ) -> Result<bool> {
        let run = self.run;
        if run.is_stopping() {
            return Ok(false);
        }
        let is_parents = |(which, known): &&(usize, Entry)| {
            known.kind == EntryKind::File
                && run.comparisons[*which].protected
                && place.mount.source.manner().keeps_unseen
        };
        let Some((_, known)) = matching.iter().find(is_parents) else {
            run.entry_failed(path, error);
            return Ok(false);
        };
        *entry = Entry { inconsistent: true, ..known.clone() };
        run.entry_unseen(path, error);
        run.counts.files_unseen.fetch_add(1, Ordering::Relaxed);
        Ok(true)
    }

    /// Returns the entry of the parent that is the same object, elsewhere, and has the content that this one has.
    fn moved(&self, entry: &Entry, matching: &[(usize, Entry)], place: &Place) -> Result<Option<Entry>> {
        let run = self.run;
        if entry.kind != EntryKind::File || run.distrust || matching.iter().any(|(which, _)| *which == 0) {
            return Ok(None);
        }
        let source = &*place.mount.source;
        let Some(known) = run.moves.of(source, entry, &run.comparisons, &run.reader)? else { return Ok(None) };
        let began = run.comparisons.first().map(|parent| parent.started).unwrap_or_default();
        let is_same = !known.inconsistent && source.has_content_of(entry, &known, began) == Some(true);
        Ok(is_same.then_some(known))
    }

    /// Returns the counterpart whose content this entry certainly still has.
    fn unchanged<'m>(
        &self,
        entry: &Entry,
        matching: &'m [(usize, Entry)],
        change: ContentChange,
        place: &Place,
    ) -> Result<Option<&'m Entry>> {
        for (which, other) in matching {
            let comparison = &self.run.comparisons[*which];
            let same = match change {
                // what the source knows, it knows beside the parent
                ContentChange::Unchanged if comparison.protected => {
                    other.kind == entry.kind && other.size == entry.size
                }
                ContentChange::Changed if comparison.protected => false,
                ContentChange::Unknown => match place.mount.source.has_content_of(entry, other, comparison.started) {
                    Some(has) => has && other.kind == entry.kind && !other.inconsistent,
                    None => self.looks_untouched(entry, other) && !stamped_too_late(other, comparison.started),
                },
                // a source that knows is at rest: what an earlier attempt took of it is what it still has
                _ => self.looks_untouched(entry, other),
            };
            if same && ((comparison.protected && !self.run.distrust) || self.is_present(&other.content)?) {
                return Ok(Some(other));
            }
        }
        Ok(None)
    }

    /// Compares the fingerprints of an entry and of its counterpart.
    fn looks_untouched(&self, entry: &Entry, other: &Entry) -> bool {
        let options = self.run.options;
        // an empty stream looks like every other before it is read
        let is_stream = entry.kind == EntryKind::File && entry.size == 0 && entry.inode == 0;
        other.kind == entry.kind
            && !is_stream
            && !other.inconsistent
            && other.size == entry.size
            && other.mtime == entry.mtime
            && (options.ignore_ctime || other.ctime == entry.ctime)
            && (options.ignore_inode || other.inode == entry.inode)
            && other.device == entry.device
    }

    /// Looks up every chunk of a file's content.
    fn is_present(&self, content: &Content) -> Result<bool> {
        let extents = match content {
            Content::None => return Ok(true),
            Content::Chunk(id) => return self.run.chunks.has(*id),
            Content::Extents { extents, .. } => ExtentRuns::of(&self.run.reader, extents.clone()),
            Content::Indirect { root, .. } => ExtentRuns::below(&self.run.reader, *root),
        };
        for run in extents {
            // what cannot be read is not there
            let Ok(run) = run else { return Ok(false) };
            for extent in run {
                if let Extent::Data { id, .. } = extent
                    && !self.run.chunks.has(id)?
                {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Reads a file's content into the repository, as often as it takes to read it while it does not change. What changes
    /// all the time is kept as it was read last, and marked; so is what is gone after it was read.
    fn content(&mut self, entry: &mut Entry, path: &[Vec<u8>], place: &Place) -> std::result::Result<(), Failure> {
        let mut read = self.attempt(entry, path, place);
        for _ in 1..TRIES {
            match &read {
                // a file that another one was renamed to is looked for under its name again
                Ok(false) => {}
                Err(Failure::Source(error)) if error.kind == SourceErrorKind::Replaced => {}
                _ => break,
            }
            let again = match self.look_again(entry, path, place) {
                Ok(mut now) => self.attempt(&mut now, path, place).map(|settled| (settled, now)),
                Err(error) => Err(error.into()),
            };
            match again {
                Ok((settled, now)) => (*entry, read) = (now, Ok(settled)),
                Err(Failure::Source(error)) if read.is_ok() => {
                    self.run.keep_doubtful(entry, path, &error);
                    return Ok(());
                }
                Err(error) => read = Err(error),
            }
        }
        if !read? {
            let changed = std::io::Error::other("it kept changing while it was read; what was read is kept");
            let shown = lakebed_core::text::escape_path(&path.join(&b'/'));
            self.run.keep_doubtful(entry, path, &SourceError::new("read consistently", shown, changed));
        }
        Ok(())
    }

    /// Returns a file that changed as it is now, under its name.
    fn look_again(&self, entry: &Entry, path: &[Vec<u8>], place: &Place) -> std::result::Result<Entry, SourceError> {
        let now = place.look_again(entry)?;
        if now.kind != EntryKind::File {
            let shown = lakebed_core::text::escape_path(&path.join(&b'/'));
            let source = std::io::Error::other("it is no file any more");
            return Err(SourceError { kind: SourceErrorKind::Replaced, ..SourceError::new("read", shown, source) });
        }
        Ok(now)
    }

    /// Reads a file once, with its attributes. Returns whether it did not change meanwhile: then the entry is of one moment.
    fn attempt(&mut self, entry: &mut Entry, path: &[Vec<u8>], place: &Place) -> std::result::Result<bool, Failure> {
        if place.content_change(entry) == ContentChange::Unknown {
            self.run.complete_entry(entry, &[], path, place)?;
        }
        let before = fingerprint(entry);
        let link = entry.hard_link_device.map(|device| (device, entry.inode));
        let named = std::mem::take(&mut entry.content);
        if let Some(link) = link {
            let known = self.run.hard_links.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(file) = known.get(&link).filter(|file| file.print == before && file.named == named) {
                entry.content = file.stored.clone();
                return Ok(true);
            }
        }
        // what the source calls the content is what opens it
        entry.content = named.clone();
        let mut file = self.ask(place.is_far(), || place.open(entry))?;
        let read = self.read(&mut *file, entry.size)?;
        (entry.size, entry.content) = (read.size, read.content);
        (entry.mtime, entry.ctime) = (read.after.mtime, read.after.ctime);
        // a stream has no size before its end
        let settled = read.consistent && (read.after == before || is_stream(&before, &read.after));
        if let Some(link) = link.filter(|_| settled) {
            let mut known = self.run.hard_links.lock().unwrap_or_else(PoisonError::into_inner);
            known.insert(link, LinkedFile { print: fingerprint(entry), named, stored: entry.content.clone() });
        }
        Ok(settled)
    }

    fn read(&mut self, file: &mut dyn SourceFile, expected: u64) -> std::result::Result<Read, Failure> {
        let small = u64::from(self.run.chunker.parameters().small_file_bytes);
        if expected <= small { self.read_small(file, expected) } else { self.read_chunks(file, expected, 0) }
    }

    /// Reads a small file: one chunk. Nothing is stored before it is known that the file did not change meanwhile.
    fn read_small(&mut self, file: &mut dyn SourceFile, expected: u64) -> std::result::Result<Read, Failure> {
        let limit = self.run.chunker.parameters().small_file_bytes as usize + 1;
        let mut buffer = std::mem::take(&mut self.desk.buffer);
        if buffer.len() < limit {
            buffer.resize(limit, 0);
        }
        let mut length = 0;
        let outcome = loop {
            match file.read(&mut buffer[length..limit]) {
                Ok(0) => break Ok(()),
                Ok(count) => length += count,
                Err(error) => break Err(error),
            }
            // at its size the file is at its end; if not, the fingerprint says so
            if length as u64 == expected || length == limit {
                break Ok(());
            }
        };
        self.desk.buffer = buffer;
        outcome?;
        if length == limit {
            return self.grown(file);
        }
        self.count_read(length as u64);
        let after = file.fingerprint()?;
        let consistent = after.size == length as u64 || is_unsized(&after);
        let content = match length {
            0 => Content::None,
            _ => Content::Chunk(self.chunk(FrameContent::SmallFiles, 0..length)?),
        };
        Ok(Read { content, size: length as u64, after, consistent })
    }

    /// A file listed as small is larger, or a stream: it is read on, chunk by chunk.
    fn grown(&mut self, file: &mut dyn SourceFile) -> std::result::Result<Read, Failure> {
        let have = self.run.chunker.parameters().small_file_bytes as usize + 1;
        self.count_read(have as u64);
        self.read_chunks(file, 0, have)
    }

    /// Cuts the buffer's range off as a chunk, and stores it where nobody has it.
    fn chunk(&mut self, content: FrameContent, range: std::ops::Range<usize>) -> Result<ChunkId> {
        let buffer = std::mem::take(&mut self.desk.buffer);
        let plain = &buffer[range];
        let id = self.run.chunks.chunk_id(plain);
        let result = match self.run.chunks.claim(id, plain.len() as u64) {
            Ok(true) => self.add_chunk(content, id, plain),
            Ok(false) => Ok(()),
            Err(error) => Err(error),
        };
        self.desk.buffer = buffer;
        result.map(|()| id)
    }

    /// Reads a file of any size, chunk by chunk. The first `have` bytes of it are in the buffer already.
    fn read_chunks(
        &mut self,
        file: &mut dyn SourceFile,
        expected: u64,
        have: usize,
    ) -> std::result::Result<Read, Failure> {
        let coarse_max = self.run.coarse_chunker.parameters().max_bytes as usize;
        let capacity = LARGE_MIN_BYTES.max(2 * coarse_max);
        if self.desk.buffer.len() < capacity {
            self.desk.buffer.resize(capacity, 0);
        }
        let mut pieces = Pieces::new(self.run.reader.store().keys().content_hasher());
        pieces.hasher.update(&self.desk.buffer[..have]);
        pieces.end = have;
        let mut whole = true;
        while let Some(data) = file.next_data(pieces.read_to())? {
            if data.start > pieces.read_to() {
                // a hole: what is in the buffer ends before it
                self.cut(&mut pieces, Rest::Last)?;
                let length = data.start - pieces.offset;
                pieces.list.push(Extent::Hole { length }, &mut self.run.chunks.node_sink())?;
                pieces.offset = data.start;
            }
            while pieces.read_to() < data.end {
                let left = usize::try_from(data.end - pieces.read_to()).unwrap_or(usize::MAX);
                let room = (capacity - pieces.end).min(left);
                let count = file.read(&mut self.desk.buffer[pieces.end..pieces.end + room])?;
                if count == 0 {
                    whole = data.end == u64::MAX;
                    break;
                }
                self.count_read(count as u64);
                pieces.hasher.update(&self.desk.buffer[pieces.end..pieces.end + count]);
                pieces.end += count;
                if pieces.end == capacity {
                    self.cut(&mut pieces, Rest::Stays)?;
                }
            }
            if pieces.read_to() < data.end {
                break;
            }
        }
        self.cut(&mut pieces, Rest::Last)?;
        let Pieces { hasher, mut list, mut offset, .. } = pieces;
        let sink = &mut self.run.chunks.node_sink();
        let after = file.fingerprint()?;
        if whole && offset < expected && after.size == expected {
            // nothing but a hole is left; what a file has grown by meanwhile is no hole
            list.push(Extent::Hole { length: expected - offset }, sink)?;
            offset = expected;
        }
        let consistent = whole && (after.size == offset || is_unsized(&after));
        let content = list.into_content(&hasher, sink)?;
        Ok(Read { content, size: offset, after, consistent })
    }

    /// Cuts what is in the buffer. Where it is not the end of a stretch of data, what is left of it goes to the buffer's
    /// front, to be cut with what follows.
    fn cut(&mut self, pieces: &mut Pieces, rest: Rest) -> Result<()> {
        let mut start = 0;
        if pieces.list.is_empty() {
            pieces.coarse = is_compressed(&self.desk.buffer[..pieces.end]);
        }
        if pieces.content.is_none() && (pieces.coarse || pieces.end >= LARGE_MIN_BYTES) {
            let store = self.run.reader.store();
            pieces.content = Some(match pieces.coarse {
                true => FrameContent::LargeFiles,
                false => large_content(store, &self.desk.buffer[..pieces.end], self.run.options.compression)?,
            });
        }
        let content = pieces.content.unwrap_or(FrameContent::SmallFiles);
        let run = self.run;
        let chunker = if pieces.coarse { &run.coarse_chunker } else { &run.chunker };
        let least = match rest {
            Rest::Last => 1,
            Rest::Stays => chunker.parameters().max_bytes as usize,
        };
        while pieces.end - start >= least {
            let length = chunker.cut(&self.desk.buffer[start..pieces.end]);
            let id = self.chunk(content, start..start + length)?;
            pieces.list.push(Extent::Data { id, length: length as u64 }, &mut run.chunks.node_sink())?;
            start += length;
            pieces.offset += length as u64;
            self.pause()?;
        }
        self.desk.buffer.copy_within(start..pieces.end, 0);
        pieces.end -= start;
        Ok(())
    }

    fn count_read(&self, bytes: u64) {
        self.run.counts.bytes_read.fetch_add(bytes, Ordering::Relaxed);
        if let Some(limit) = &self.run.read_limit {
            limit.take(bytes);
        }
    }
}

/// A stream says neither size nor number.
fn is_unsized(print: &Fingerprint) -> bool {
    print.size == 0 && print.inode == 0
}

fn is_stream(before: &Fingerprint, after: &Fingerprint) -> bool {
    is_unsized(before) && is_unsized(after)
}

/// Tells whether an entry may have been changed again, unseen, after it was read in a run that began then. The change
/// time says so where there is one: anybody may set the other to any time.
fn stamped_too_late(entry: &Entry, started: Timestamp) -> bool {
    let stamp = if entry.ctime == Timestamp::default() { entry.mtime } else { entry.ctime };
    let ns = |time: Timestamp| i128::from(time.secs) * 1_000_000_000 + i128::from(time.nanos);
    ns(stamp) + i128::from(STAMP_GRANULARITY_NS) > ns(started)
}
