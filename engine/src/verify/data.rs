//! The data: packs read from front to back, hashed, opened, and compared with what is said of them.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use lakebed_core::codec::frame::{
    DIRECTORY_NUMBER, FRAME_HEADER_LEN, FrameHeader, FrameKind, FrameName, OpenFrame, open_frame,
};
use lakebed_core::hash::{ObjectHasher, object_hash};
use lakebed_core::id::{ContentId, PackId, SegmentId};
use lakebed_core::layout;
use lakebed_core::monitor::{Monitor, Phase, Progress};
use lakebed_core::pack::{BlobId, BlobInfo, FrameInfo, PackDirectory, PackKind, TRAILER_LEN, Trailer, decode_segment};
use lakebed_core::record::tree::Content;
use rayon::prelude::*;

use super::structure::{Checked, problem};
use super::{ReadData, VerifyOptions};
use crate::error::{Error, Result};
use crate::query::join;
use crate::repository::{BlobReader, Repository};

/// Bytes read at once. A pack is never held whole.
const READ_BYTES: usize = 2 << 20;

pub(super) fn check(
    repository: &Repository,
    options: &VerifyOptions,
    checked: &mut Checked,
    monitor: &dyn Monitor,
) -> Result<()> {
    let chosen = choose(repository, options, checked)?;
    let bytes = chosen.iter().map(|(_, size)| size).sum();
    monitor.phase(Phase::VerifyData, Some(Progress { entries: chosen.len() as u64, bytes }));
    let deadline_ns = match options.read {
        ReadData::Budget { time: Some(time), .. } => {
            let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
            repository.clock().monotonic_ns().saturating_add(ns)
        }
        _ => u64::MAX,
    };
    let good = Mutex::new(Vec::new());
    let bad = Mutex::new(Vec::new());
    let read = AtomicU64::new(0);
    let next = AtomicUsize::new(0);
    let results = checked.pool.broadcast(|_| {
        // strictly in order, the oldest first; the clock is looked at before each pack
        while let Some(&(id, size)) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
            if monitor.is_cancelled() {
                return Err(Error::Interrupted);
            }
            if repository.clock().monotonic_ns() >= deadline_ns {
                break;
            }
            let expected = checked.described.get(&id);
            match check_pack(&checked.reader, id, size, expected) {
                Ok(()) => good.lock().unwrap_or_else(PoisonError::into_inner).push(id),
                Err(Error::Storage(error)) if error.is_not_found() => continue,
                Err(error) => bad.lock().unwrap_or_else(PoisonError::into_inner).push((id, size, error)),
            }
            read.fetch_add(size, Ordering::Relaxed);
            monitor.advance(Progress { entries: 1, bytes: size });
        }
        Ok(())
    });
    results.into_iter().collect::<Result<()>>()?;
    let good = good.into_inner().unwrap_or_else(PoisonError::into_inner);
    checked.report.packs_read = good.len() as u64;
    checked.report.bytes_read = read.load(Ordering::Relaxed);
    let bad = bad.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut unreadable = None;
    let bad_packs: HashSet<PackId> = bad.iter().map(|(id, _, _)| *id).collect();
    for (id, size, error) in bad {
        // what was good once is not good any more
        checked.ledger.packs.remove(&id);
        let problem = match problem(error) {
            Ok(problem) => problem,
            // one pack that we may not look at does not hide what was found of the others
            Err(error) => {
                unreadable.get_or_insert(error);
                continue;
            }
        };
        let number = checked.damage(layout::pack(id).to_string(), problem);
        for blob in bad_blobs(&checked.reader, id, size, &bad_packs)? {
            checked.bad_blobs.entry(blob).or_insert(number);
        }
    }
    super::ledger::enter(repository, checked, &good, !bad_packs.is_empty(), monitor)?;
    match unreadable {
        Some(error) if checked.report.is_good() => Err(error),
        Some(error) => {
            monitor.warn(&crate::error_chain(&error));
            Ok(())
        }
        None => Ok(()),
    }
}

/// Returns the packs to read, the first first, with their sizes.
fn choose(repository: &Repository, options: &VerifyOptions, checked: &Checked) -> Result<Vec<(PackId, u64)>> {
    let mut packs: Vec<(PackId, u64)> = checked.packs.iter().map(|(&id, &size)| (id, size)).collect();
    packs.sort_unstable();
    match options.read {
        ReadData::None => Ok(Vec::new()),
        ReadData::All => Ok(packs),
        ReadData::Sample(part) => {
            shuffle(&mut packs, repository)?;
            let wanted = (checked.report.pack_bytes as f64 * part.clamp(0.0, 1.0)).ceil() as u64;
            Ok(first_bytes(packs, wanted))
        }
        ReadData::Budget { bytes, .. } => {
            // a clock that was ahead must not keep a pack from being read until the others have caught up
            let now = checked.report.started;
            packs.sort_by_key(|(id, _)| checked.ledger.packs.get(id).copied().filter(|time| *time <= now));
            Ok(first_bytes(packs, bytes.unwrap_or(u64::MAX)))
        }
    }
}

/// Returns the first packs that together reach so many bytes, at least one.
fn first_bytes(packs: Vec<(PackId, u64)>, wanted: u64) -> Vec<(PackId, u64)> {
    let mut sum = 0u64;
    let reaches = |&(_, size): &(PackId, u64)| {
        let before = sum;
        sum = sum.saturating_add(size);
        before < wanted.max(1)
    };
    packs.into_iter().take_while(reaches).collect()
}

fn shuffle(packs: &mut [(PackId, u64)], repository: &Repository) -> Result<()> {
    let seed = crate::repository::draw(repository.random())?;
    packs.sort_by_cached_key(|(id, _)| *object_hash(&[&seed[..], id.as_bytes()].concat()).as_bytes());
    Ok(())
}

/// Reads a pack from front to back in bounded pieces.
struct PackReader<'a> {
    reader: &'a BlobReader,
    id: PackId,
    size: u64,
    /// Where the buffer begins in the pack.
    offset: u64,
    buffer: Vec<u8>,
    next: Vec<u8>,
    hasher: ObjectHasher,
}

impl PackReader<'_> {
    /// Makes `length` bytes from the current place on available, as far as the pack reaches.
    fn fill(&mut self, length: usize) -> Result<()> {
        while self.buffer.len() < length {
            let at = self.offset + self.buffer.len() as u64;
            let left = self.size - at;
            if left == 0 {
                return Ok(());
            }
            let piece = left.min(READ_BYTES.max(length - self.buffer.len()) as u64) as usize;
            let storage = self.reader.store().storage();
            storage.get_range(&layout::pack(self.id), at, piece, &mut self.next)?;
            self.hasher.update(&self.next);
            self.buffer.extend_from_slice(&self.next);
        }
        Ok(())
    }

    fn consume(&mut self, length: usize) {
        self.buffer.drain(..length);
        self.offset += length as u64;
    }
}

/// Checks a whole pack: its name, its frames, its directory, and that the segments say the same of it.
fn check_pack(reader: &BlobReader, id: PackId, size: u64, described: Option<&[u8; 32]>) -> Result<()> {
    let key = layout::pack(id);
    let invalid =
        |why: &str| Error::Record { key: key.clone(), source: lakebed_core::wire::DecodeError::invalid("pack", why) };
    let buffer = Vec::with_capacity(2 * READ_BYTES);
    let mut pack =
        PackReader { reader, id, size, offset: 0, buffer, next: Vec::new(), hasher: ObjectHasher::default() };
    let mut frames: Vec<FrameInfo> = Vec::new();
    let mut frame = OpenFrame::default();
    let mut first_problem = None;
    loop {
        pack.fill(FRAME_HEADER_LEN)?;
        let header = match FrameHeader::decode(&pack.buffer) {
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
        let opened = match pack.buffer.get(..frame_len) {
            Some(bytes) => reader.open_bytes(id, pack.offset, kind, bytes, &mut frame),
            None => Err(invalid("it ends within a frame")),
        };
        if let Err(error) = opened {
            first_problem.get_or_insert(error);
            break;
        }
        let keys = reader.store().keys();
        let blobs = frame.chunks().map(|plain| BlobInfo { id: kind.blob_id(keys, plain), length: plain.len() as u32 });
        frames.push(FrameInfo { number: header.number, frame_len: frame_len as u32, blobs: blobs.collect() });
        pack.consume(frame_len);
    }
    // the rest is read in any case, so that the hash of the whole can be told
    let rest = usize::try_from(size - pack.offset).unwrap_or(usize::MAX);
    if first_problem.is_none() {
        pack.fill(rest)?;
    } else {
        while pack.offset + (pack.buffer.len() as u64) < size {
            pack.consume(pack.buffer.len());
            pack.fill(1)?;
        }
    }
    let found = pack.hasher.finish();
    if found.as_bytes() != id.as_bytes() {
        let found = lakebed_core::id::to_hex(&found.as_bytes()[..4]);
        return Err(first_problem.unwrap_or(Error::WrongHash { key, found }));
    }
    if let Some(error) = first_problem {
        return Err(error);
    }
    let directory = open_tail(reader, &pack.buffer).ok_or_else(|| invalid("its directory cannot be read"))??;
    if directory.frames != frames {
        return Err(invalid("its directory names other chunks than its frames hold"));
    }
    let hash = *object_hash(&directory.encode()).as_bytes();
    match described {
        Some(expected) if *expected != hash => Err(invalid("an index segment says other things of it than it does")),
        _ => Ok(()),
    }
}

/// Opens the directory in the last bytes of a pack.
fn open_tail(reader: &BlobReader, tail: &[u8]) -> Option<Result<PackDirectory>> {
    let (sealed, trailer) = tail.split_at_checked(tail.len().checked_sub(TRAILER_LEN)?)?;
    let failed = |source: lakebed_core::codec::frame::FrameError| Error::FrameCheck { source };
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

/// Returns what cannot be read of a damaged pack, by trying each frame that it should have.
fn bad_blobs(reader: &BlobReader, id: PackId, size: u64, bad_packs: &HashSet<PackId>) -> Result<Vec<BlobId>> {
    let store = reader.store();
    let directory = match described_directory(reader, id)? {
        Some(directory) => directory,
        None => match crate::index_rebuild::read_directory(store, id, size) {
            Ok(info) => info.directory,
            // nobody can say what it held; what is missing is found by the trees that need it
            Err(_) => return Ok(Vec::new()),
        },
    };
    let mut bad = Vec::new();
    let mut bytes = Vec::new();
    let mut frame = OpenFrame::default();
    for (offset, info) in directory.frames_at() {
        let name =
            FrameName { kind: directory.kind.frame_kind(), salt: &directory.salt, number: info.number, context: b"" };
        let read = store.storage().get_range(&layout::pack(id), offset, info.frame_len as usize, &mut bytes);
        let opened = read.map_err(Error::from).and_then(|()| {
            store.with_scratch(|scratch| {
                let sealer = store.keys().object_key(&directory.salt);
                let failed = |source| Error::DamagedFrame { pack: id, offset, source };
                open_frame(&sealer, name, &bytes, scratch, &mut frame).map_err(failed)
            })
        });
        let readable = opened.is_ok() && frame.lengths.len() == info.blobs.len();
        let mut chunks = frame.chunks();
        for blob in &info.blobs {
            let good =
                readable && chunks.next().is_some_and(|plain| directory.kind.blob_id(store.keys(), plain) == blob.id);
            // a pack that is whole may hold it as well
            if !good && !is_elsewhere(reader, blob.id, bad_packs)? {
                bad.push(blob.id);
            }
        }
    }
    Ok(bad)
}

fn is_elsewhere(reader: &BlobReader, blob: BlobId, bad_packs: &HashSet<PackId>) -> Result<bool> {
    Ok(reader.index().lookup_all(&blob)?.iter().any(|place| !bad_packs.contains(&place.pack)))
}

/// Returns what the segments say of a pack.
fn described_directory(reader: &BlobReader, id: PackId) -> Result<Option<PackDirectory>> {
    let store = reader.store();
    for segment in store.list_ids::<SegmentId>(layout::INDEX)? {
        let key = layout::segment(segment);
        let read = store.with_scratch(|scratch| {
            store.read_hashed(&key, segment.as_bytes(), &[FrameKind::Segment], layout::INDEX, scratch)
        });
        if let Ok((_, plain)) = read
            && let Some(pack) = decode_segment(&plain).into_iter().flatten().find(|pack| pack.id == id)
        {
            return Ok(Some(pack.directory));
        }
    }
    Ok(None)
}

/// Reads every file of several chunks from front to back, each content once.
pub(super) fn check_whole_files(checked: &mut Checked, monitor: &dyn Monitor) -> Result<()> {
    let mut contents: HashMap<ContentId, (lakebed_core::record::tree::Entry, Vec<u8>)> = HashMap::new();
    let mut roots = HashSet::new();
    for (_, snapshot) in &checked.snapshots {
        if !roots.insert(snapshot.root) {
            continue;
        }
        let mut directories = vec![(snapshot.root, Vec::new())];
        while let Some((directory, path)) = directories.pop() {
            // what cannot be read is reported by the structure
            for entry in checked.reader.entries(directory).flatten() {
                let full = join(&path, &entry.name);
                if let Some(subtree) = entry.subtree {
                    directories.push((subtree, full));
                } else if let Content::Extents { hash, .. } | Content::Indirect { hash, .. } = entry.content {
                    contents.entry(hash).or_insert_with(|| (entry, full));
                }
            }
        }
    }
    let bytes = contents.values().map(|(entry, _)| entry.size).sum();
    monitor.phase(Phase::VerifyData, Some(Progress { entries: contents.len() as u64, bytes }));
    let reader = &checked.reader;
    let checks: Vec<(ContentId, Result<()>)> = checked.pool.install(|| {
        let check = |(hash, (entry, path)): (&ContentId, &(lakebed_core::record::tree::Entry, Vec<u8>))| {
            if monitor.is_cancelled() {
                return (*hash, Err(Error::Interrupted));
            }
            let shown = lakebed_core::text::escape_path(path);
            let result = crate::query::write_content(reader, entry, &shown, &mut std::io::sink());
            monitor.advance(Progress { entries: 1, bytes: entry.size });
            (*hash, result)
        };
        contents.par_iter().map(check).collect()
    });
    for (hash, result) in checks {
        match result {
            Ok(()) => checked.report.whole_files += 1,
            Err(Error::WrongContent { path }) => {
                let number = checked.damage(format!("content of {path}"), "the hash of the whole file is another one");
                checked.bad_contents.insert(hash, number);
            }
            // its chunks are at fault, and reported by themselves where data were read
            Err(error) => {
                let (_, path) = &contents[&hash];
                let shown = lakebed_core::text::escape_path(path);
                let number = checked.damage(format!("content of {shown}"), problem(error)?);
                checked.bad_contents.insert(hash, number);
            }
        }
    }
    Ok(())
}
