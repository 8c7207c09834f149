//! One pack, read from front to back: is it what its name says, and if not, which frames of it can be read?

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use lakebed_core::codec::frame::{
    DIRECTORY_NUMBER, FRAME_HEADER_LEN, FRAME_MAGIC, FrameError, FrameHeader, FrameKind, OpenFrame,
};
use lakebed_core::hash::{ObjectHasher, object_hash};
use lakebed_core::id::PackId;
use lakebed_core::layout;
use lakebed_core::monitor::{Monitor, Progress};
use lakebed_core::pack::{BlobInfo, FrameInfo, PackDirectory, PackKind, TRAILER_LEN, Trailer};
use lakebed_core::wire::DecodeError;

use crate::error::{Error, Result};
use crate::repository::{BlobReader, Part, ReadAhead, Store, Taken};

/// Bytes held of a pack, which is never held whole, unless one frame is longer.
const READ_BYTES: usize = 2 << 20;

/// So many threads read packs of a remote medium at most: each has a piece that is read ahead.
pub(crate) const REMOTE_READERS: usize = 4;

/// So much of a pack is read ahead as one piece, about: the pieces of a pack are of one length. A full one of an object store
/// has three.
const AHEAD_BYTES: u64 = (32 << 20) / 3;

/// Returns how long the pieces are in which a pack of that size is read ahead.
fn piece_bytes(size: u64) -> u64 {
    let pieces = (size.saturating_add(AHEAD_BYTES / 2) / AHEAD_BYTES).max(1);
    size.div_ceil(pieces).max(1)
}

/// Where frames are looked for in a damaged pack, so many bytes are tried in vain before it is given up, beside four times
/// its length: one that was made to look like the beginning of a frame everywhere must not keep us for days.
const TRIED_BYTES_MIN: u64 = 64 << 20;

/// What reading packs came to.
#[derive(Default)]
pub(crate) struct PacksRead {
    pub(crate) good: Vec<PackId>,
    /// Packs that are not what they should be, with their sizes.
    pub(crate) bad: Vec<(PackId, u64, Error)>,
    /// Bytes of all that were read.
    pub(crate) bytes: u64,
}

/// Packs that are not read ahead, once that is known: of them copies are made.
pub(crate) type Copied = Arc<OnceLock<HashSet<PackId>>>;

/// Begins to read packs ahead that so many threads of [`read_packs`] are going to read in this order; `None` where that is no
/// use.
pub(crate) fn ahead_of_packs(
    store: &Store,
    threads: usize,
    packs: &[(PackId, u64)],
    copied: Copied,
) -> Option<ReadAhead> {
    if !store.storage().capabilities().is_remote {
        return None;
    }
    let parts = in_reading_order(packs, threads).into_iter();
    let window_bytes = (threads as u64 + 1) * AHEAD_BYTES;
    let is_copied = move |part: &Part| copied.get().is_some_and(|copied| copied.contains(&part.pack));
    ReadAhead::start(store, Taken::Each, window_bytes, parts.filter(move |part| !is_copied(part)))
}

/// Reads packs whole, the first first, on as many threads as the pool has, as long as `goes_on` says so. `described` has
/// the hash of each pack's directory as segments have it. A pack that is gone is passed over.
pub(crate) fn read_packs(
    reader: &BlobReader,
    pool: &rayon::ThreadPool,
    chosen: &[(PackId, u64)],
    described: &HashMap<PackId, [u8; 32]>,
    goes_on: &(dyn Fn() -> bool + Sync),
    monitor: &dyn Monitor,
) -> Result<PacksRead> {
    let all = Mutex::new(PacksRead::default());
    let next = AtomicUsize::new(0);
    let results = pool.broadcast(|_| {
        while let Some(&(id, size)) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
            if monitor.is_cancelled() {
                return Err(Error::Interrupted);
            }
            if !goes_on() {
                break;
            }
            let result = check_pack(reader, id, size, described.get(&id));
            {
                let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
                match result {
                    Ok(()) => all.good.push(id),
                    Err(Error::Storage(error)) if error.is_not_found() => continue,
                    Err(error) => all.bad.push((id, size, error)),
                }
                all.bytes += size;
            }
            monitor.advance(Progress { entries: 1, bytes: size });
        }
        Ok(())
    });
    results.into_iter().collect::<Result<()>>()?;
    Ok(all.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// Cuts packs into pieces, in the order in which so many threads come to them that each read one pack after the other.
fn in_reading_order(packs: &[(PackId, u64)], threads: usize) -> Vec<Part> {
    let mut rest = packs.iter();
    // what each thread has read, and where it is
    let mut lanes: Vec<(u64, PackId, u64, u64)> =
        rest.by_ref().take(threads.max(1)).map(|&(pack, size)| (0, pack, 0, size)).collect();
    let mut parts = Vec::new();
    while let Some(at) = (0..lanes.len()).min_by_key(|&lane| lanes[lane].0) {
        let (read, pack, offset, size) = lanes[at];
        let length = piece_bytes(size).min(size - offset);
        if length > 0 {
            parts.push(Part { pack, offset, length });
            lanes[at] = (read + length, pack, offset + length, size);
        } else if let Some(&(pack, size)) = rest.next() {
            lanes[at] = (read, pack, 0, size);
        } else {
            lanes.remove(at);
        }
    }
    parts
}

/// Reads a pack from front to back in bounded pieces.
struct PackReader<'a> {
    reader: &'a BlobReader,
    id: PackId,
    size: u64,
    /// How far the pack was consumed.
    offset: u64,
    /// What was read and, behind `start`, is not consumed.
    buffer: Vec<u8>,
    start: usize,
    hasher: ObjectHasher,
    /// Zeros stand for what cannot be read.
    takes_anything: bool,
}

impl<'a> PackReader<'a> {
    fn new(reader: &'a BlobReader, id: PackId, size: u64) -> Self {
        let buffer = Vec::with_capacity(READ_BYTES);
        let hasher = ObjectHasher::default();
        Self { reader, id, size, offset: 0, buffer, start: 0, hasher, takes_anything: false }
    }

    /// Returns what was read from the current place on.
    fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// Makes `length` bytes from the current place on available, as far as the pack reaches.
    fn fill(&mut self, length: usize) -> Result<()> {
        while self.bytes().len() < length {
            self.buffer.drain(..self.start);
            self.start = 0;
            let kept = self.buffer.len();
            let at = self.offset + kept as u64;
            let left = self.size - at;
            if left == 0 {
                return Ok(());
            }
            // not across what is read ahead as one piece
            let piece = piece_bytes(self.size);
            let to_boundary = piece - at % piece;
            let piece = left.min((READ_BYTES.max(length) - kept) as u64).min(to_boundary) as usize;
            match self.takes_anything {
                true => {
                    self.reader.store().read_what_can_be(&layout::pack(self.id), at, piece, &mut self.buffer)?;
                }
                false => self.reader.read_part(self.id, at, piece, &mut self.buffer)?,
            }
            self.hasher.update(&self.buffer[kept..]);
        }
        Ok(())
    }

    fn consume(&mut self, length: usize) {
        self.start += length;
        self.offset += length as u64;
    }

    /// Goes on to the next place where a frame may begin, behind the current one. Returns whether there is one.
    fn find_next(&mut self) -> Result<bool> {
        let mut from = 1;
        loop {
            let magics = self.bytes().get(from..).unwrap_or_default().windows(FRAME_MAGIC.len());
            if let Some(at) = magics.enumerate().find(|(_, bytes)| *bytes == FRAME_MAGIC).map(|(at, _)| at) {
                self.consume(from + at);
                return Ok(true);
            }
            // its first bytes may be the last ones here
            let kept = (FRAME_MAGIC.len() - 1).min(self.bytes().len());
            self.consume(self.bytes().len() - kept);
            self.fill(kept + 1)?;
            if self.bytes().len() == kept {
                return Ok(false);
            }
            from = 0;
        }
    }
}

/// Checks a whole pack: its name, its frames, its directory, and that the segments say the same of it.
///
/// # Errors
/// It is damaged; a newer version than ours is found only in what its writer wrote.
pub(crate) fn check_pack(reader: &BlobReader, id: PackId, size: u64, described: Option<&[u8; 32]>) -> Result<()> {
    // a copy that was damaged here says nothing of what storage holds
    if reader.has_fresh_copy(id, size) && check_bytes(reader, id, size, described).is_ok() {
        return Ok(());
    }
    check_bytes(&reader.without_copies(), id, size, described)
}

fn check_bytes(reader: &BlobReader, id: PackId, size: u64, described: Option<&[u8; 32]>) -> Result<()> {
    let key = layout::pack(id);
    let invalid = |why: &str| Error::Record { key: key.clone(), source: DecodeError::invalid("pack", why) };
    let mut pack = PackReader::new(reader, id, size);
    let mut frames: Vec<FrameInfo> = Vec::new();
    let mut frame = OpenFrame::default();
    let mut first_problem = None;
    loop {
        pack.fill(FRAME_HEADER_LEN)?;
        let header = match FrameHeader::decode(pack.bytes()) {
            Ok(header) => header,
            Err(error) => {
                first_problem.get_or_insert(Error::DamagedFrame {
                    pack: id,
                    offset: pack.offset,
                    source: error.into(),
                });
                break;
            }
        };
        if header.number == DIRECTORY_NUMBER && header.kind == FrameKind::PackDirectory {
            break;
        }
        let kind = if header.kind == FrameKind::Nodes { PackKind::Tree } else { PackKind::Data };
        let frame_len = header.frame_len();
        pack.fill(frame_len)?;
        let opened = match pack.bytes().get(..frame_len) {
            Some(bytes) => reader.open_bytes(id, pack.offset, kind, bytes, &mut frame),
            None => Err(invalid("it ends within a frame")),
        };
        if let Err(error) = opened {
            first_problem.get_or_insert(error);
            break;
        }
        frames.push(frame_info(reader, kind, &header, &frame));
        pack.consume(frame_len);
    }
    // the rest is read in any case, so that the hash of the whole can be told
    let rest = usize::try_from(size - pack.offset).unwrap_or(usize::MAX);
    if first_problem.is_none() {
        pack.fill(rest)?;
    } else {
        while pack.offset + (pack.bytes().len() as u64) < size {
            pack.consume(pack.bytes().len());
            pack.fill(1)?;
        }
    }
    let found = pack.hasher.finish();
    if found.as_bytes() != id.as_bytes() {
        let found = lakebed_core::id::to_hex(&found.as_bytes()[..4]);
        // what looks like a newer version is damage too: its writer did not write it
        let problem = first_problem.filter(|error| !error.is_newer());
        return Err(problem.unwrap_or(Error::WrongHash { key, found }));
    }
    if let Some(error) = first_problem {
        return Err(error);
    }
    let directory = open_tail(reader, pack.bytes()).ok_or_else(|| invalid("its directory cannot be read"))??;
    if directory.frames != frames {
        return Err(invalid("its directory names other chunks than its frames hold"));
    }
    let hash = *object_hash(&directory.encode()).as_bytes();
    match described {
        Some(expected) if *expected != hash => Err(invalid("an index segment says other things of it than it does")),
        _ => Ok(()),
    }
}

fn frame_info(reader: &BlobReader, kind: PackKind, header: &FrameHeader, frame: &OpenFrame) -> FrameInfo {
    let keys = reader.store().keys();
    let blobs = frame.chunks().map(|plain| BlobInfo { id: kind.blob_id(keys, plain), length: plain.len() as u32 });
    // a header says less than 4 GiB
    FrameInfo { number: header.number, frame_len: header.frame_len() as u32, blobs: blobs.collect() }
}

/// Opens the directory in the last bytes of a pack.
fn open_tail(reader: &BlobReader, tail: &[u8]) -> Option<Result<PackDirectory>> {
    let (sealed, trailer) = tail.split_at_checked(tail.len().checked_sub(TRAILER_LEN)?)?;
    let failed = |source: FrameError| Error::FrameCheck { source };
    let trailer = match Trailer::decode(trailer) {
        Ok(trailer) => trailer,
        Err(error) => return Some(Err(failed(error.into()))),
    };
    if trailer.directory_len as usize != sealed.len() {
        return None;
    }
    let store = reader.store();
    Some(store.with_scratch(|scratch| trailer.open_directory(store.keys(), sealed, scratch).map_err(failed)))
}

/// A frame that can be read, wherever it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FoundFrame {
    pub(crate) kind: PackKind,
    /// Where it begins, in bytes.
    pub(crate) offset: u64,
    /// What it holds, by the hashes of what was found there.
    pub(crate) info: FrameInfo,
}

/// Looks for every frame of a pack that can be read, whatever lies before, between and behind them, and passes each, opened
/// and hashed, to `each`. The pack's own directory is not asked.
///
/// # Errors
/// The pack is gone or cannot be looked at; what `each` says.
pub(crate) fn scan(
    reader: &BlobReader,
    id: PackId,
    size: u64,
    each: &mut dyn FnMut(FoundFrame, &OpenFrame) -> Result<()>,
) -> Result<()> {
    let mut pack = PackReader::new(reader, id, size);
    pack.takes_anything = true;
    let mut frame = OpenFrame::default();
    let mut tries = size.saturating_mul(4).saturating_add(TRIED_BYTES_MIN);
    loop {
        pack.fill(FRAME_HEADER_LEN)?;
        let header = FrameHeader::decode(pack.bytes()).ok();
        let kind = header.and_then(|header| match header.kind {
            FrameKind::Chunks => Some(PackKind::Data),
            FrameKind::Nodes => Some(PackKind::Tree),
            _ => None,
        });
        if let (Some(header), Some(kind)) = (header, kind)
            && header.frame_len() as u64 <= (size - pack.offset).min(tries)
        {
            let frame_len = header.frame_len();
            pack.fill(frame_len)?;
            let bytes = pack.bytes().get(..frame_len).unwrap_or_default();
            if reader.open_bytes(id, pack.offset, kind, bytes, &mut frame).is_ok() {
                let info = frame_info(reader, kind, &header, &frame);
                each(FoundFrame { kind, offset: pack.offset, info }, &frame)?;
                pack.consume(frame_len);
                continue;
            }
            tries -= frame_len as u64;
        }
        if !pack.find_next()? {
            return Ok(());
        }
    }
}
