//! The data: packs read from front to back, hashed, opened, and compared with what is said of them.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use lakebed_core::codec::frame::{FrameKind, FrameName, OpenFrame, open_frame};
use lakebed_core::hash::object_hash;
use lakebed_core::id::{PackId, SegmentId};
use lakebed_core::layout;
use lakebed_core::monitor::{Monitor, Phase, Progress};
use lakebed_core::pack::{BlobId, PackDirectory, decode_segment};
use lakebed_core::record::tree::{Content, Entry, EntryKind};
use rayon::prelude::*;

use super::structure::{Checked, problem};
use super::{ReadData, VerifyOptions};
use crate::check::{PacksRead, REMOTE_READERS, ahead_of_packs, read_packs};
use crate::error::{Error, Result};
use crate::query::join;
use crate::repository::{BlobReader, Repository};

/// Packs that are read.
pub(super) struct Reading {
    packs: Vec<(PackId, u64)>,
    /// Has begun to read them ahead.
    reader: BlobReader,
    pool: rayon::ThreadPool,
    described: HashMap<PackId, [u8; 32]>,
    deadline_ns: u64,
}

impl Reading {
    /// Chooses the packs to be read, and begins to read them ahead.
    pub(super) fn begin(repository: &Repository, options: &VerifyOptions, checked: &mut Checked) -> Result<Self> {
        let packs = choose(repository, options, checked)?;
        let threads = match repository.store().storage().capabilities().is_remote {
            true => checked.pool.current_num_threads().min(REMOTE_READERS),
            false => options.threads,
        };
        let pool = crate::system::threads(threads, "verify-data")?;
        // unless what was listed first is read, by now it is known what is
        let ahead = checked.packs_ahead.take().or_else(|| {
            let copied = checked.copied.clone();
            ahead_of_packs(repository.store(), pool.current_num_threads(), &packs, copied)
        });
        let reader = checked.reader.clone().with_ahead(ahead);
        let deadline_ns = match options.read {
            ReadData::Budget { time: Some(time), .. } => {
                let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
                repository.clock().monotonic_ns().saturating_add(ns)
            }
            _ => u64::MAX,
        };
        Ok(Self { packs, reader, pool, described: std::mem::take(&mut checked.records.described), deadline_ns })
    }

    /// Returns the reader that takes from what is read ahead.
    pub(super) fn reader(&self) -> BlobReader {
        self.reader.clone()
    }

    /// Says what is going to be read.
    pub(super) fn announce(&self, monitor: &dyn Monitor) {
        let bytes = self.packs.iter().map(|(_, size)| size).sum();
        monitor.phase(Phase::VerifyData, Some(Progress { entries: self.packs.len() as u64, bytes }));
    }

    /// Reads the packs.
    pub(super) fn read(&self, repository: &Repository, monitor: &dyn Monitor) -> Result<PacksRead> {
        // strictly in order, the oldest first; the clock is looked at before each pack
        let goes_on = || repository.clock().monotonic_ns() < self.deadline_ns;
        read_packs(&self.reader, &self.pool, &self.packs, &self.described, &goes_on, monitor)
    }
}

/// Tells a monitor of progress only from when it is told to: another phase may still be going on.
pub(super) struct Later<'a> {
    monitor: &'a dyn Monitor,
    held: Mutex<Option<Progress>>,
    is_given_up: AtomicBool,
}

impl<'a> Later<'a> {
    pub(super) fn new(monitor: &'a dyn Monitor) -> Self {
        Self { monitor, held: Mutex::new(Some(Progress::default())), is_given_up: AtomicBool::new(false) }
    }

    /// Tells what was held back, and from now on everything at once.
    pub(super) fn release(&self) {
        if let Some(held) = self.held.lock().unwrap_or_else(PoisonError::into_inner).take() {
            self.monitor.advance(held);
        }
    }

    /// Ends what it monitors.
    pub(super) fn give_up(&self) {
        self.is_given_up.store(true, Ordering::Relaxed);
    }
}

impl Monitor for Later<'_> {
    fn advance(&self, step: Progress) {
        match &mut *self.held.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(held) => {
                held.entries += step.entries;
                held.bytes += step.bytes;
            }
            None => self.monitor.advance(step),
        }
    }

    fn warn(&self, message: &str) {
        self.monitor.warn(message);
    }

    fn is_cancelled(&self) -> bool {
        self.is_given_up.load(Ordering::Relaxed) || self.monitor.is_cancelled()
    }
}

/// Tells of what reading packs came to.
pub(super) fn check(
    repository: &Repository,
    PacksRead { good, bad, bytes }: PacksRead,
    checked: &mut Checked,
    monitor: &dyn Monitor,
) -> Result<()> {
    checked.report.packs_read = good.len() as u64;
    checked.report.bytes_read = bytes;
    let mut unreadable = None;
    let bad_packs: HashSet<PackId> = bad.iter().map(|(id, _, _)| *id).collect();
    for (id, size, error) in bad {
        // what was good once is not good any more
        checked.records.ledger.packs.remove(&id);
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
            packs.sort_by_key(|(id, _)| checked.records.ledger.packs.get(id).copied().filter(|time| *time <= now));
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
        bytes.clear();
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
    // with the size of each, and a path where it is
    let mut contents: HashMap<Content, (u64, Vec<u8>)> = HashMap::new();
    let mut roots = HashSet::new();
    for (_, snapshot) in &checked.records.snapshots {
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
                } else if let Content::Extents { .. } | Content::Indirect { .. } = entry.content {
                    contents.entry(entry.content).or_insert((entry.size, full));
                }
            }
        }
    }
    let bytes = contents.values().map(|(size, _)| size).sum();
    monitor.phase(Phase::VerifyData, Some(Progress { entries: contents.len() as u64, bytes }));
    let reader = &checked.reader;
    let checks: Vec<(&Content, Result<()>)> = checked.pool.install(|| {
        let check = |(content, (size, path)): (_, &(u64, Vec<u8>))| {
            if monitor.is_cancelled() {
                return (content, Err(Error::Interrupted));
            }
            let shown = lakebed_core::text::escape_path(path);
            let entry = Entry { size: *size, content: Content::clone(content), ..Entry::new("", EntryKind::File) };
            let result = crate::query::write_content(reader, &entry, &shown, &mut std::io::sink());
            monitor.advance(Progress { entries: 1, bytes: *size });
            (content, result)
        };
        contents.par_iter().map(check).collect()
    });
    for (content, result) in checks {
        match result {
            Ok(()) => checked.report.whole_files += 1,
            Err(Error::WrongContent { path }) => {
                let number = checked.damage(format!("content of {path}"), "the hash of the whole file is another one");
                checked.bad_contents.insert(content.clone(), number);
            }
            // its chunks are at fault, and reported by themselves where data were read
            Err(error) => {
                let (_, path) = &contents[content];
                let shown = lakebed_core::text::escape_path(path);
                let number = checked.damage(format!("content of {shown}"), problem(error)?);
                checked.bad_contents.insert(content.clone(), number);
            }
        }
    }
    Ok(())
}
