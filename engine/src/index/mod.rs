//! The index: in which pack, and where in it, each chunk and tree node lies.
//!
//! What is true is in the packs and the index segments in storage; the index is folded from the segments and lies in
//! RocksDB, in the cache folder of this machine. It may lag behind storage and is never ahead of it: only published
//! segments are folded. Anything wrong with it leads to a new one, never to a loss.
//!
//! One process holds RocksDB (under a lock file of our own); others beside it read it as a secondary and keep in memory
//! what they do not find there. So does whoever finds that the cache folder cannot be written. Where nothing can be read
//! either, everything is in memory: a cache is no reason to fail.

mod packs;
mod rocks;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::RwLock;

use lakebed_core::codec::frame::{FrameKind, FrameScratch};
use lakebed_core::id::{PackId, SegmentId};
use lakebed_core::layout;
use lakebed_core::monitor::{Monitor, Phase, Progress};
use lakebed_core::pack::{BlobId, FrameInfo, PackInfo, PackKind, Removal, decode_removal, decode_segment};

use crate::error::{Error, Result};
use crate::repository::{Part, Store, parallel};
use packs::PackTable;
pub use packs::{PackEntry, PackNumber};
use rocks::{Rocks, RocksError};

/// Where a chunk or node lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    /// The pack.
    pub pack: PackId,
    /// Where its frame begins in the pack, in bytes.
    pub frame_offset: u32,
    /// Length of the whole frame in bytes.
    pub frame_len: u32,
    /// Where it begins in the plain bytes of the frame.
    pub offset: u32,
    /// Its plain length in bytes.
    pub length: u32,
}

impl Location {
    /// Returns the part of its pack that the frame is.
    pub(crate) fn frame(&self) -> Part {
        Part { pack: self.pack, offset: self.frame_offset.into(), length: self.frame_len.into() }
    }
}

/// A location as the index keeps it: 20 bytes, the pack by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    pack: PackNumber,
    frame_offset: u32,
    frame_len: u32,
    offset: u32,
    length: u32,
}

const PLACE_LEN: usize = 20;

impl Place {
    fn encode(&self) -> [u8; PLACE_LEN] {
        let mut out = [0; PLACE_LEN];
        let fields = [self.pack, self.frame_offset, self.frame_len, self.offset, self.length];
        for (bytes, field) in out.chunks_exact_mut(4).zip(fields) {
            bytes.copy_from_slice(&field.to_le_bytes());
        }
        out
    }

    /// Reads all places in a value; bytes left over are a broken index and yield nothing.
    fn decode_all(bytes: &[u8]) -> impl Iterator<Item = Self> {
        bytes.as_chunks::<PLACE_LEN>().0.iter().map(|place| {
            let fields: [u32; 5] = std::array::from_fn(|i| {
                u32::from_le_bytes([place[i * 4], place[i * 4 + 1], place[i * 4 + 2], place[i * 4 + 3]])
            });
            let [pack, frame_offset, frame_len, offset, length] = fields;
            Self { pack, frame_offset, frame_len, offset, length }
        })
    }
}

/// Calls `each` for everything that a pack holds.
fn places(number: PackNumber, pack: &PackInfo, mut each: impl FnMut(BlobId, Place)) {
    for (frame_offset, frame) in pack.directory.frames_at() {
        // a pack is smaller than 4 GiB: its decoder and its writer see to it
        places_in(number, frame_offset as u32, frame, &mut each);
    }
}

/// Calls `each` for everything that a frame holds.
fn places_in(pack: PackNumber, frame_offset: u32, frame: &FrameInfo, mut each: impl FnMut(BlobId, Place)) {
    let mut offset = 0;
    for blob in &frame.blobs {
        each(blob.id, Place { pack, frame_offset, frame_len: frame.frame_len, offset, length: blob.length });
        offset += blob.length;
    }
}

/// How this process uses RocksDB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It holds RocksDB and folds segments into it.
    Primary,
    /// Another process holds it: this one reads beside it.
    Secondary,
    /// It cannot be written: this process reads what is there.
    ReadOnly,
    /// There is no RocksDB, all is in memory.
    Memory,
}

/// How the index is to be opened.
#[derive(Debug, Clone)]
pub struct IndexOptions {
    /// Folder for the index, one for each repository; `None` keeps it in memory.
    pub folder: Option<PathBuf>,
    /// Memory that it may take, in bytes: block cache, filters and write buffers together.
    pub memory_bytes: u64,
}

/// Figures about the index.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IndexStats {
    /// Packs that it knows.
    pub packs: u64,
    /// Chunks and nodes that it knows, about.
    pub blobs: u64,
    /// Bytes on disk.
    pub disk_bytes: u64,
    /// Bytes in memory: caches, filters, buffers and what is kept beside RocksDB.
    pub memory_bytes: u64,
}

#[derive(Debug, Default)]
struct State {
    packs: PackTable,
    /// What RocksDB does not have: everything, or what a secondary did not see there.
    overlay: HashMap<BlobId, Vec<Place>>,
    segments: HashSet<SegmentId>,
    removed: HashSet<PackId>,
    replaced: HashSet<SegmentId>,
    /// How many segments were entered in this process.
    changes: usize,
    /// Sizes of the segments that were listed last, in bytes.
    listed_bytes: Vec<u64>,
    /// What [`Index::check_packs`] was told is condemned; `None` before that.
    condemned: Option<HashSet<PackId>>,
    /// A segment could not be read.
    passed_over: bool,
    /// RocksDB could not be written: nothing more is written to it in this process.
    degraded: bool,
}

/// The index of one repository in one process.
#[derive(Debug)]
pub struct Index {
    rocks: Option<Rocks>,
    mode: Mode,
    state: RwLock<State>,
}

/// So many listings are looked at before a segment that is not there counts as lost.
const LISTINGS: usize = 4;

/// Rows of fewer removed packs are no reason to make the index anew.
const REMOVED_MIN: usize = 16;

/// Segments of so many chunks and nodes are held until all removals are known: some megabytes.
const HELD_BLOBS: usize = 200_000;

/// Applying a segment of this many packs at once bounds the memory of a batch.
const PACKS_PER_BATCH: usize = 2;

impl Index {
    /// Opens the index and folds the segments that it lacks. An index that is missing, broken, ahead of storage or of
    /// another repository is made anew. One that cannot be written (a full disk, no permission) is read as it is, or not
    /// used at all, with a warning.
    ///
    /// # Errors
    /// Storage.
    pub fn open(store: &Store, options: &IndexOptions, monitor: &dyn Monitor) -> Result<Self> {
        let Some(folder) = &options.folder else { return Self::in_memory(store, monitor) };
        let open = |how| Self::try_open(store, folder, options.memory_bytes, how, monitor);
        let trouble = match open(How::Write) {
            Ok(index) => return Ok(index),
            Err(Attempt::Storage(error)) => return Err(error),
            Err(Attempt::Broken(message)) => {
                monitor.warn(&format!("the local index is made anew: {message}"));
                match open(How::WriteAnew) {
                    Ok(index) => return Ok(index),
                    Err(Attempt::Storage(error)) => return Err(error),
                    Err(Attempt::Broken(message)) => message,
                    Err(Attempt::Unusable(error)) => crate::error_chain(&error),
                }
            }
            Err(Attempt::Unusable(error)) => {
                let trouble = crate::error_chain(&error);
                match open(How::Read) {
                    Ok(index) => {
                        monitor.warn(&format!(
                            "the local index is not written; what it lacks is kept in memory: {trouble}"
                        ));
                        return Ok(index);
                    }
                    Err(Attempt::Storage(error)) => return Err(error),
                    Err(Attempt::Broken(_) | Attempt::Unusable(_)) => trouble,
                }
            }
        };
        monitor.warn(&format!("the local index is not used; all of it is kept in memory: {trouble}"));
        Self::in_memory(store, monitor)
    }

    fn in_memory(store: &Store, monitor: &dyn Monitor) -> Result<Self> {
        let index = Self::load(None)?;
        index.fold_new(store, monitor)?;
        Ok(index)
    }

    /// Throws the local index away and folds it again from all segments.
    ///
    /// # Errors
    /// As [`Index::open`]; and another process holds it.
    pub fn rebuild(store: &Store, options: &IndexOptions, monitor: &dyn Monitor) -> Result<Self> {
        let Some(folder) = &options.folder else { return Self::open(store, options, monitor) };
        match Self::try_open(store, folder, options.memory_bytes, How::WriteAnew, monitor) {
            Ok(index) if index.mode != Mode::Primary => Err(Error::IndexLocked { path: folder.clone() }),
            Err(Attempt::Broken(message)) => Err(Error::Index { path: folder.clone(), message }),
            result => result.map_err(Error::from),
        }
    }

    fn try_open(
        store: &Store,
        folder: &Path,
        memory_bytes: u64,
        how: How,
        monitor: &dyn Monitor,
    ) -> std::result::Result<Self, Attempt> {
        let repository = store.keys().repository();
        let rocks = match how {
            How::Read => Rocks::open_as_it_is(folder, repository, memory_bytes),
            How::Write | How::WriteAnew => Rocks::open(folder, repository, memory_bytes, how == How::WriteAnew)?,
        };
        let index = Self::load(rocks)?;
        let folded = match index.fold_new(store, monitor) {
            // the process that holds it will make it anew; until then all is in storage
            Err(Attempt::Broken(_)) if index.mode == Mode::Secondary => return Ok(Self::in_memory(store, monitor)?),
            result => result?,
        };
        if folded > 0 {
            // an index that cannot be kept is of use all the same
            if let Err(error) = index.flush() {
                monitor.warn(&format!("the local index was not kept: {}", crate::error_chain(&error)));
            }
        }
        Ok(index)
    }

    /// Takes over what RocksDB has; without it, begins with nothing.
    fn load(rocks: Option<Rocks>) -> std::result::Result<Self, Attempt> {
        let mut state = State::default();
        if let Some(rocks) = &rocks {
            state.segments = rocks.segments()?;
            state.removed = rocks.removed()?;
            state.replaced = rocks.replaced()?;
            for (number, entry) in rocks.packs()? {
                match entry {
                    Some(entry) => state.packs.insert(number, entry),
                    None => state.packs.skip(number),
                }
            }
        }
        let mode = rocks.as_ref().map_or(Mode::Memory, Rocks::mode);
        Ok(Self { rocks, mode, state: RwLock::new(state) })
    }

    /// Returns how RocksDB is used.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Folds the segments in storage that the index does not have and returns how many there were.
    ///
    /// # Errors
    /// Storage, or a damaged segment.
    pub fn fold_new(&self, store: &Store, monitor: &dyn Monitor) -> std::result::Result<usize, Attempt> {
        for _ in 1..LISTINGS {
            match self.fold_listed(store, monitor) {
                // segments are replaced by others while we look: what is in none of a listing is in the next one
                Err(Attempt::Broken(_)) => {}
                Err(Attempt::Storage(Error::Storage(error))) if error.is_not_found() => {}
                result => return result,
            }
        }
        self.fold_listed(store, monitor)
    }

    fn fold_listed(&self, store: &Store, monitor: &dyn Monitor) -> std::result::Result<usize, Attempt> {
        let objects = store.storage().list(layout::INDEX).map_err(Error::from)?;
        let listed: HashSet<SegmentId> =
            objects.iter().filter_map(|object| layout::last_part(&object.key).parse().ok()).collect();
        self.write_state().listed_bytes = objects.iter().map(|object| object.size_bytes).collect();
        let known = self.read_state().segments.clone();
        let mut new: Vec<SegmentId> = listed.iter().filter(|id| !known.contains(id)).copied().collect();
        new.sort_unstable();
        if !new.is_empty() {
            monitor.phase(Phase::Index, Some(Progress { entries: new.len() as u64, bytes: 0 }));
        }
        // removals win over every other segment, earlier or later: they come first. Of the others as many are held as are
        // no burden; the rest is read again, which copies on this machine make cheap
        let (mut held, mut held_blobs, mut later) = (Vec::new(), 0, Vec::new());
        for ids in new.chunks(parallel::at_once(store)) {
            refuse_if_cancelled(monitor)?;
            let read = |id: &SegmentId| store.with_scratch(|scratch| read_segment(store, *id, scratch));
            for (&id, read) in ids.iter().zip(parallel::each(store, ids, read)) {
                match read {
                    Ok((Segment::Removal(removal), _)) => {
                        self.apply_removal(id, &removal);
                        monitor.advance(Progress { entries: 1, bytes: 0 });
                    }
                    Ok((Segment::Addition(packs), bytes)) => {
                        let blobs: usize = packs.iter().map(PackInfo::blobs).sum();
                        if held_blobs + blobs <= HELD_BLOBS {
                            held_blobs += blobs;
                            held.push((id, packs));
                            continue;
                        }
                        if let Some(copies) = store.copies() {
                            copies.keep(&layout::segment(id), &bytes);
                        }
                        later.push(id);
                    }
                    Err(error @ (Error::Damaged { .. } | Error::WrongHash { .. } | Error::Record { .. })) => {
                        // what it described is missing from the index then: a backup trusts nothing that it has not
                        // looked up
                        self.write_state().passed_over = true;
                        monitor.warn(&format!(
                            "an index segment was passed over: {}; `lakebed index rebuild --read-packs` replaces it",
                            crate::error_chain(&error)
                        ));
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        }
        let count = held.len() + later.len();
        for (id, packs) in held {
            refuse_if_cancelled(monitor)?;
            self.fold(store, id, &packs)?;
            monitor.advance(Progress { entries: 1, bytes: 0 });
        }
        for id in later {
            refuse_if_cancelled(monitor)?;
            if let (Segment::Addition(packs), _) = store.with_scratch(|scratch| read_segment(store, id, scratch))? {
                self.fold(store, id, &packs)?;
            }
            if let Some(copies) = store.copies() {
                copies.forget(&layout::segment(id));
            }
            monitor.advance(Progress { entries: 1, bytes: 0 });
        }
        self.forget_gone(store, known.difference(&listed).copied())?;
        Ok(count)
    }

    /// Forgets segments that are no longer in storage because others took their place. Any other that is gone means that
    /// the index is ahead of storage.
    fn forget_gone(
        &self,
        store: &Store,
        unlisted: impl Iterator<Item = SegmentId>,
    ) -> std::result::Result<(), Attempt> {
        let mut gone = Vec::new();
        for id in unlisted {
            if self.read_state().replaced.contains(&id) {
                gone.push(id);
                continue;
            }
            match store.storage().size(&layout::segment(id)) {
                // a listing may lag
                Ok(_) => {}
                Err(error) if error.is_not_found() => gone.push(id),
                Err(error) => return Err(Error::from(error).into()),
            }
        }
        let mut state = self.write_state();
        if let Some(lost) = gone.iter().find(|id| !state.replaced.contains(id)) {
            return Err(Attempt::Broken(format!("it has the segment {}, which storage does not have", lost.short())));
        }
        state.segments.retain(|id| !gone.contains(id));
        if let (Some(rocks), Mode::Primary, false) = (&self.rocks, self.mode, gone.is_empty())
            && rocks.forget_segments(&gone).is_err()
        {
            state.degraded = true;
        }
        Ok(())
    }

    /// Returns how many segments were entered since the index was opened: another number than before means that there is
    /// something new.
    pub(crate) fn changes(&self) -> usize {
        self.read_state().changes
    }

    /// Tells whether RocksDB holds more of packs that are gone than of those that are there, so that it is worth making
    /// anew: nothing else takes the rows out.
    pub(crate) fn is_mostly_removed(&self) -> bool {
        let state = self.read_state();
        self.mode == Mode::Primary && state.packs.removed() > state.packs.len() + REMOVED_MIN
    }

    /// Enters a segment that was found in storage. Once packs were compared with storage, those that come later are too.
    fn fold(&self, store: &Store, segment: SegmentId, packs: &[PackInfo]) -> std::result::Result<(), Attempt> {
        let condemned = self.read_state().condemned.clone();
        let mut unusable = HashSet::new();
        if let Some(condemned) = condemned {
            for pack in packs {
                let is_there = match store.storage().size(&layout::pack(pack.id)) {
                    Ok(size) => size == pack.size_bytes,
                    Err(error) if error.is_not_found() => false,
                    Err(error) => return Err(Error::from(error).into()),
                };
                if !is_there || condemned.contains(&pack.id) {
                    unusable.insert(pack.id);
                }
            }
        }
        self.enter(segment, packs, &unusable);
        Ok(())
    }

    /// Enters a segment that this process has just published; its packs are there.
    pub fn apply(&self, segment: SegmentId, packs: &[PackInfo]) {
        self.enter(segment, packs, &HashSet::new());
    }

    fn enter(&self, segment: SegmentId, packs: &[PackInfo], unusable: &HashSet<PackId>) {
        let mut state = self.write_state();
        let mut numbered = Vec::new();
        for pack in packs {
            if state.removed.contains(&pack.id) || state.packs.number_of(&pack.id).is_some() {
                continue;
            }
            let entry = PackEntry {
                id: pack.id,
                kind: pack.directory.kind,
                size_bytes: pack.size_bytes,
                usable: !unusable.contains(&pack.id),
            };
            numbered.push((state.packs.add(entry), pack));
        }
        state.segments.insert(segment);
        state.changes += 1;
        let written = match &self.rocks {
            Some(rocks) if self.mode == Mode::Primary && !state.degraded => {
                let all = numbered.chunks(PACKS_PER_BATCH).try_for_each(|batch| rocks.add_packs(batch));
                all.and_then(|()| rocks.mark_segment(segment)).is_ok()
            }
            _ => false,
        };
        if !written {
            // RocksDB is another process's, or cannot be written (a full disk, say): what is new stays in memory, and
            // whoever opens the index next folds it again
            state.degraded = self.mode == Mode::Primary;
            for (number, pack) in numbered {
                places(number, pack, |id, place| state.overlay.entry(id).or_default().push(place));
            }
        }
    }

    /// Returns the sizes of the segments that were listed last, in bytes.
    pub(crate) fn listed_bytes(&self) -> Vec<u64> {
        self.read_state().listed_bytes.clone()
    }

    /// Enters a removal segment.
    pub(crate) fn apply_removal(&self, segment: SegmentId, removal: &Removal) {
        let mut state = self.write_state();
        let numbers: Vec<_> = removal.packs.iter().filter_map(|id| state.packs.number_of(id)).collect();
        if let (Some(rocks), Mode::Primary, false) = (&self.rocks, self.mode, state.degraded)
            && rocks.add_removal(segment, removal, &numbers).is_err()
        {
            state.degraded = true;
        }
        removal.packs.iter().for_each(|id| state.packs.remove(id));
        state.removed.extend(&removal.packs);
        state.replaced.extend(&removal.replaced);
        state.segments.insert(segment);
        state.changes += 1;
    }

    /// Returns where a chunk or node lies, in a pack that can be used; `None` where it lies in none.
    ///
    /// # Errors
    /// RocksDB failed.
    pub fn lookup(&self, id: &BlobId) -> Result<Option<Location>> {
        self.with_places(id, |places| places.next())
    }

    /// Returns every place where a chunk or node lies, in packs that can be used.
    ///
    /// # Errors
    /// RocksDB failed.
    pub fn lookup_all(&self, id: &BlobId) -> Result<Vec<Location>> {
        let mut all = Vec::new();
        self.with_places(id, |places| {
            all.extend(places);
            None
        })?;
        Ok(all)
    }

    /// Returns the packs that a chunk or node lies in, also those that cannot be used.
    pub(crate) fn packs_with(&self, id: &BlobId) -> Result<Vec<PackId>> {
        let mut packs = Vec::new();
        self.with_places_in(
            id,
            |_| true,
            |places| {
                packs.extend(places.map(|place| place.pack));
                None
            },
        )?;
        Ok(packs)
    }

    /// Passes the places of a chunk to `take`: first those in memory, then, unless it took one, those in RocksDB.
    fn with_places(
        &self,
        id: &BlobId,
        take: impl FnMut(&mut dyn Iterator<Item = Location>) -> Option<Location>,
    ) -> Result<Option<Location>> {
        self.with_places_in(id, |entry| entry.usable, take)
    }

    fn with_places_in(
        &self,
        id: &BlobId,
        counts: impl Fn(&PackEntry) -> bool,
        mut take: impl FnMut(&mut dyn Iterator<Item = Location>) -> Option<Location>,
    ) -> Result<Option<Location>> {
        let state = self.read_state();
        let locate = |place: Place| {
            let entry = state.packs.get(place.pack).filter(|entry| counts(entry))?;
            Some(Location {
                pack: entry.id,
                frame_offset: place.frame_offset,
                frame_len: place.frame_len,
                offset: place.offset,
                length: place.length,
            })
        };
        if let Some(places) = state.overlay.get(id)
            && let Some(found) = take(&mut places.iter().filter_map(|&place| locate(place)))
        {
            return Ok(Some(found));
        }
        match &self.rocks {
            Some(rocks) if !state.packs.is_empty() => {
                Ok(rocks.get(id, |value| take(&mut Place::decode_all(value).filter_map(locate)))?.flatten())
            }
            _ => Ok(None),
        }
    }

    /// Returns every pack that the index knows.
    pub fn packs(&self) -> Vec<PackEntry> {
        self.read_state().packs.entries().cloned().collect()
    }

    /// Returns the size of a pack in bytes; `None` where the index does not know it.
    pub(crate) fn pack_size(&self, pack: &PackId) -> Option<u64> {
        let state = self.read_state();
        Some(state.packs.get(state.packs.number_of(pack)?)?.size_bytes)
    }

    /// Returns the kind of a pack; `None` where the index does not know it.
    pub(crate) fn kind_of(&self, pack: &PackId) -> Option<PackKind> {
        let state = self.read_state();
        Some(state.packs.get(state.packs.number_of(pack)?)?.kind)
    }

    /// Compares the packs that the index knows with those that storage lists: (name, size in bytes). What is not there
    /// at its size is not used any more, and neither is what is condemned. Returns how many packs are missing.
    pub fn check_packs(&self, listed: &HashMap<PackId, u64>, condemned: &HashSet<PackId>) -> usize {
        let mut state = self.write_state();
        let mut missing = 0;
        for entry in state.packs.entries_mut() {
            let is_there = listed.get(&entry.id) == Some(&entry.size_bytes);
            entry.usable = is_there && !condemned.contains(&entry.id);
            missing += usize::from(!is_there);
        }
        state.condemned = Some(condemned.clone());
        missing
    }

    /// Tells whether a segment could not be read, so that the index lacks what it described.
    pub fn lacks_segments(&self) -> bool {
        self.read_state().passed_over
    }

    /// Returns those of the listed packs that no segment describes and none removes.
    pub fn unknown_packs(&self, listed: &HashMap<PackId, u64>) -> Vec<PackId> {
        let state = self.read_state();
        let is_unknown = |id: &PackId| state.packs.number_of(id).is_none() && !state.removed.contains(id);
        listed.keys().copied().filter(is_unknown).collect()
    }

    /// Tells whether a removal segment names a pack.
    pub(crate) fn is_removed(&self, pack: &PackId) -> bool {
        self.read_state().removed.contains(pack)
    }

    /// Takes what was found in a pack for what is in it, whatever segments say. Only this process knows of it, so that it
    /// can be asked what would be there; nothing may be folded afterwards.
    pub(crate) fn assume<'a>(
        &self,
        pack: PackId,
        size_bytes: u64,
        kind: PackKind,
        frames: impl Iterator<Item = (u64, &'a FrameInfo)>,
    ) {
        let mut state = self.write_state();
        let number = state.packs.put_beside(PackEntry { id: pack, kind, size_bytes, usable: true });
        for (offset, frame) in frames {
            // what lies further back no writer of ours has put there
            let Ok(offset) = u32::try_from(offset) else { continue };
            places_in(number, offset, frame, |id, place| state.overlay.entry(id).or_default().push(place));
        }
    }

    /// Makes what was folded durable, so that the next open need not fold it again.
    ///
    /// # Errors
    /// RocksDB failed; nothing is lost by it.
    pub fn flush(&self) -> Result<()> {
        match (&self.rocks, self.mode) {
            (Some(rocks), Mode::Primary) => {
                rocks.flush()?;
                match self.read_state().degraded {
                    false => Ok(()),
                    true => Err(Error::Index { path: rocks.path().into(), message: "it could not be written".into() }),
                }
            }
            _ => Ok(()),
        }
    }

    /// Returns figures.
    pub fn stats(&self) -> IndexStats {
        let state = self.read_state();
        let (blobs, disk_bytes, memory_bytes) = self.rocks.as_ref().map(Rocks::figures).unwrap_or_default();
        let overlay = state.overlay.len() as u64;
        IndexStats {
            packs: state.packs.entries().count() as u64,
            blobs: blobs + overlay,
            disk_bytes,
            memory_bytes: memory_bytes + overlay * 96,
        }
    }

    /// Returns every chunk and node that the index knows, in no order, with its places. For checks and tests.
    ///
    /// # Errors
    /// RocksDB failed.
    pub fn all(&self) -> Result<Vec<(BlobId, Location)>> {
        let mut all = Vec::new();
        let mut ids: HashMap<BlobId, Vec<Place>> = HashMap::new();
        if let Some(rocks) = &self.rocks {
            rocks.each(|id, value| ids.entry(id).or_default().extend(Place::decode_all(value)))?;
        }
        let state = self.read_state();
        for (id, places) in &state.overlay {
            ids.entry(*id).or_default().extend(places);
        }
        for (id, places) in ids {
            for place in places {
                if let Some(entry) = state.packs.get(place.pack) {
                    all.push((
                        id,
                        Location {
                            pack: entry.id,
                            frame_offset: place.frame_offset,
                            frame_len: place.frame_len,
                            offset: place.offset,
                            length: place.length,
                        },
                    ));
                }
            }
        }
        Ok(all)
    }

    /// Returns how many packs of a kind the index knows, with their bytes.
    pub fn pack_totals(&self, kind: PackKind) -> (u64, u64) {
        let state = self.read_state();
        let of_kind = state.packs.entries().filter(|entry| entry.kind == kind);
        of_kind.fold((0, 0), |(count, bytes), entry| (count + 1, bytes + entry.size_bytes))
    }

    fn read_state(&self) -> std::sync::RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn write_state(&self) -> std::sync::RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// What a segment says.
pub(crate) enum Segment {
    Addition(Vec<PackInfo>),
    Removal(Removal),
}

/// Reads a segment, or the copy that this machine has of it. Its bytes come with it.
pub(crate) fn read_segment(store: &Store, id: SegmentId, scratch: &mut FrameScratch) -> Result<(Segment, Vec<u8>)> {
    let key = layout::segment(id);
    let copy = store.copies().and_then(|copies| copies.get(&key));
    // a copy that is damaged is noticed by its name
    let copy = copy.filter(|bytes| lakebed_core::hash::object_hash(bytes).as_bytes() == id.as_bytes());
    let bytes = copy.map_or_else(|| store.storage().get(&key), Ok)?;
    let kinds = [FrameKind::Segment, FrameKind::RemovalSegment];
    let (kind, plain) = store.open_hashed(&key, id.as_bytes(), &bytes, &kinds, layout::INDEX, scratch)?;
    let segment = match kind {
        FrameKind::RemovalSegment => decode_removal(&plain).map(Segment::Removal),
        _ => decode_segment(&plain).map(Segment::Addition),
    };
    Ok((segment.map_err(|source| Error::Record { key, source })?, bytes))
}

/// How RocksDB is to be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// To fold what is new into it.
    Write,
    /// To fold everything into a new one.
    WriteAnew,
    /// To read what is there.
    Read,
}

/// Why an index could not be opened as it is.
#[derive(Debug)]
pub enum Attempt {
    /// It is broken: making it anew will help.
    Broken(String),
    /// RocksDB cannot be used, and making it anew would not help.
    Unusable(Error),
    /// The repository's storage failed.
    Storage(Error),
}

/// What was folded so far is right; the next opening goes on.
fn refuse_if_cancelled(monitor: &dyn Monitor) -> Result<()> {
    if monitor.is_cancelled() { Err(Error::Interrupted) } else { Ok(()) }
}

impl From<Error> for Attempt {
    fn from(error: Error) -> Self {
        match error {
            Error::Index { message, .. } => Self::Broken(message),
            error => Self::Storage(error),
        }
    }
}

impl From<Attempt> for Error {
    fn from(attempt: Attempt) -> Self {
        match attempt {
            Attempt::Broken(message) => Self::Index { path: PathBuf::new(), message },
            Attempt::Unusable(error) | Attempt::Storage(error) => error,
        }
    }
}

impl From<RocksError> for Attempt {
    fn from(error: RocksError) -> Self {
        match error {
            RocksError::Corrupt { message, .. } => Self::Broken(message),
            RocksError::Failed(error) => Self::Unusable(error),
        }
    }
}

#[cfg(test)]
mod tests;
