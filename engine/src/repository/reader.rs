//! Reading chunks and trees: index, storage, and a few decoded frames kept at hand.
//!
//! Every byte that is read is checked: the seal of its frame, then the hash that names it.

use std::collections::{HashSet, VecDeque};
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use lakebed_core::codec::frame::{FrameHeader, FrameName, OpenFrame, open_frame};
use lakebed_core::id::{ChunkId, PackId, TreeId};
use lakebed_core::layout;
use lakebed_core::monitor::Silent;
use lakebed_core::pack::{BlobId, PackKind};
use lakebed_core::record::tree::{Content, Entry, Extent, Node};

use super::read_ahead::WINDOW_BYTES;
use super::{Part, ReadAhead, Store, Taken, TreeCopies};
use crate::error::{Error, Result};
use crate::index::{Index, Location};

/// A chunk may move again while we look for it.
const REFOLDS: usize = 3;

/// In a repository that lacks much, not every chunk that the index does not know is a reason to list the segments once
/// more, as long as that has brought nothing so often in a row.
const FRUITLESS_MAX: u32 = 64;

/// Decoded frames are kept up to this many bytes.
const CACHE_BYTES: usize = 16 << 20;

#[derive(Debug, Default)]
struct FrameCache {
    /// Least recently used first. There are a few dozen at most, so a walk is as good as a map.
    frames: VecDeque<((PackId, u32), Arc<OpenFrame>)>,
    bytes: usize,
    /// Frames that a thread is reading.
    coming: HashSet<(PackId, u32)>,
}

impl FrameCache {
    fn get(&mut self, key: (PackId, u32)) -> Option<Arc<OpenFrame>> {
        let at = self.frames.iter().rposition(|(found, _)| *found == key)?;
        let frame = self.frames.remove(at)?;
        self.frames.push_back(frame.clone());
        Some(frame.1)
    }

    fn put(&mut self, key: (PackId, u32), frame: Arc<OpenFrame>) {
        self.bytes += frame.plain.len();
        self.frames.push_back((key, frame));
        while self.bytes > CACHE_BYTES && self.frames.len() > 1 {
            if let Some((_, old)) = self.frames.pop_front() {
                self.bytes -= old.plain.len();
            }
        }
    }
}

/// A frame that this thread is reading. However that ends, the others go on.
struct Coming<'r> {
    reader: &'r BlobReader,
    key: (PackId, u32),
}

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        self.reader.cache.lock().unwrap_or_else(PoisonError::into_inner).coming.remove(&self.key);
        self.reader.came.notify_all();
    }
}

/// Something that is about to be read.
pub(crate) enum Need {
    /// A part of a pack.
    Part(Part),
    /// A file, from front to back.
    File(Box<Entry>),
}

/// Reads chunks and trees of a repository. Cheap to clone; may be used from many threads.
#[derive(Debug, Clone)]
pub struct BlobReader {
    store: Store,
    index: Arc<Index>,
    cache: Arc<Mutex<FrameCache>>,
    /// Somebody has read a frame, or failed to.
    came: Arc<Condvar>,
    /// How often in a row there was nothing new to fold.
    fruitless: Arc<AtomicU32>,
    /// Copies of packs of trees, which are read whole then.
    copies: Option<Arc<TreeCopies>>,
    /// What is read ahead of packs.
    ahead: Option<Arc<ReadAhead>>,
    /// Packs that are not there and that nobody has removed: they are lost, not moved.
    lost: Arc<Mutex<HashSet<PackId>>>,
}

impl BlobReader {
    /// Joins objects and index.
    pub fn new(store: Store, index: Arc<Index>) -> Self {
        let (cache, came) = (Arc::default(), Arc::default());
        let (fruitless, lost) = (Arc::default(), Arc::default());
        Self { store, index, cache, came, fruitless, copies: None, ahead: None, lost }
    }

    /// Reads nodes of trees from copies of their packs.
    pub(crate) fn with_copies(self, copies: Option<TreeCopies>) -> Self {
        Self { copies: copies.map(Arc::new), ..self }
    }

    /// Makes a copy of a pack of trees, unless that was done; tells whether there is one now that says what storage holds.
    /// From then on parts of it are read from there.
    pub(crate) fn has_fresh_copy(&self, pack: PackId, size: u64) -> bool {
        let copies = self.copies.as_ref().filter(|copies| copies.is_fresh());
        copies.is_some_and(|copies| {
            // what storage says to that it says again to who reads the pack itself
            self.index.kind_of(&pack) == Some(PackKind::Tree)
                && copies.make(pack, size, || self.whole_pack(pack, size)).unwrap_or_default()
        })
    }

    /// As it is, without copies.
    pub(crate) fn without_copies(&self) -> Self {
        Self { copies: None, ..self.clone() }
    }

    /// Returns the index.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Returns the index, to be kept.
    pub(crate) fn shared_index(&self) -> Arc<Index> {
        self.index.clone()
    }

    /// Returns the objects.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Opens the frame whose bytes are given: all of one frame of that pack and kind.
    pub(crate) fn open_bytes(
        &self,
        pack: PackId,
        offset: u64,
        kind: PackKind,
        bytes: &[u8],
        out: &mut OpenFrame,
    ) -> Result<()> {
        let damaged = |source| Error::DamagedFrame { pack, offset, source };
        let header = FrameHeader::decode(bytes).map_err(|error| damaged(error.into()))?;
        let name = FrameName { kind: kind.frame_kind(), salt: &header.salt, number: header.number, context: b"" };
        self.store.with_scratch(|scratch| {
            open_frame(&self.store.keys().object_key(&header.salt), name, bytes, scratch, out).map_err(damaged)
        })
    }

    /// Reads ahead what is about to be needed, in that order, where that saves time. It goes on for as long as the reader
    /// that is returned is there.
    pub(crate) fn ahead_of(&self, needs: Vec<Need>) -> Self {
        let planner = Self { ahead: None, ..self.clone() };
        let parts = needs.into_iter().flat_map(move |need| {
            let (part, entry) = match need {
                Need::Part(part) => (Some(part), None),
                Need::File(entry) => (None, Some(entry)),
            };
            let reader = planner.clone();
            // what cannot be found is told by whoever reads it
            let extents = entry.map(|entry| planner.extent_runs(&entry)).into_iter().flatten().flatten().flatten();
            part.into_iter().chain(extents.filter_map(move |extent| reader.part_with(extent)))
        });
        self.clone().with_ahead(ReadAhead::start(&self.store, Taken::Most, WINDOW_BYTES, parts))
    }

    /// Takes from what is read ahead, as long as it has it.
    pub(crate) fn with_ahead(self, ahead: Option<ReadAhead>) -> Self {
        Self { ahead: ahead.map(Arc::new), ..self }
    }

    fn part_with(&self, extent: Extent) -> Option<Part> {
        let Extent::Data { id, .. } = extent else { return None };
        Some(self.index.lookup(&id.into()).ok()??.frame())
    }

    /// Returns the bytes of a frame, which may have been read ahead.
    pub(crate) fn frame_bytes(&self, place: &Location) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.read_part(place.pack, place.frame_offset.into(), place.frame_len as usize, &mut bytes)?;
        Ok(bytes)
    }

    /// Appends a part of a pack, of which there may be a fresh copy and which may have been read ahead, to a buffer.
    pub(crate) fn read_part(&self, pack: PackId, offset: u64, length: usize, buffer: &mut Vec<u8>) -> Result<()> {
        let part = Part { pack, offset, length: length as u64 };
        let fresh = self.copies.as_ref().filter(|copies| copies.is_fresh());
        if fresh.is_some_and(|copies| copies.part(part, buffer))
            || self.ahead.as_ref().is_some_and(|ahead| ahead.take(pack, offset, length, buffer))
        {
            return Ok(());
        }
        Ok(self.store.storage().get_range(&layout::pack(pack), offset, length, buffer)?)
    }

    /// Reads a pack of that size whole, by one request, unless it is being read ahead.
    fn whole_pack(&self, pack: PackId, size: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        // what was announced of it may lie in several pieces
        while self.ahead.as_ref().is_some_and(|ahead| ahead.take_on(pack, &mut bytes)) {}
        match bytes.len() as u64 {
            0 => bytes = self.store.storage().get(&layout::pack(pack))?,
            at => {
                let rest = usize::try_from(size.saturating_sub(at)).unwrap_or(usize::MAX);
                if rest > 0 {
                    self.store.storage().get_range(&layout::pack(pack), at, rest, &mut bytes)?;
                }
            }
        }
        Ok(bytes)
    }

    fn frame(&self, place: &Location, kind: PackKind) -> Result<Arc<OpenFrame>> {
        let key = (place.pack, place.frame_offset);
        let cache = || self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let mut cached = cache();
        loop {
            if let Some(frame) = cached.get(key) {
                return Ok(frame);
            }
            // where another thread is at it already, its frame will do; unless it fails
            if cached.coming.insert(key) {
                break;
            }
            cached = self.came.wait(cached).unwrap_or_else(PoisonError::into_inner);
        }
        drop(cached);
        let _coming = Coming { reader: self, key };
        let frame = Arc::new(self.read_frame(place, kind)?);
        cache().put(key, frame.clone());
        Ok(frame)
    }

    fn read_frame(&self, place: &Location, kind: PackKind) -> Result<OpenFrame> {
        let mut frame = OpenFrame::default();
        let offset = u64::from(place.frame_offset);
        let from_copy = match &self.copies {
            Some(copies) if kind == PackKind::Tree => {
                let size = self.index.pack_size(&place.pack).unwrap_or_default();
                let mut bytes = Vec::new();
                copies.make(place.pack, size, || self.whole_pack(place.pack, size))?
                    && copies.part(place.frame(), &mut bytes)
                    && self.open_bytes(place.pack, offset, kind, &bytes, &mut frame).is_ok()
            }
            _ => false,
        };
        if !from_copy {
            let mut bytes = Vec::new();
            match kind {
                PackKind::Data => self.read_part(place.pack, offset, place.frame_len as usize, &mut bytes)?,
                // never waits for what is read ahead: whoever plans that reads nodes
                PackKind::Tree => {
                    let key = layout::pack(place.pack);
                    self.store.storage().get_range(&key, offset, place.frame_len as usize, &mut bytes)?;
                }
            }
            self.open_bytes(place.pack, offset, kind, &bytes, &mut frame)?;
        }
        Ok(frame)
    }

    /// Passes the bytes of a chunk or node to `read`, after checking them. Where one place is damaged, others are tried.
    /// Where its pack is gone, a prune has moved it: what was published since is folded, and it is looked up again.
    pub(crate) fn with_blob<T>(&self, id: BlobId, kind: PackKind, mut read: impl FnMut(&[u8]) -> T) -> Result<T> {
        self.with_blob_in_frame(id, kind, |frame, place| read(&frame.plain[place]))
    }

    /// As [`BlobReader::with_blob`], with all of the frame and the range of its bytes. Only those of the range were checked.
    fn with_blob_in_frame<T>(
        &self,
        id: BlobId,
        kind: PackKind,
        mut read: impl FnMut(&OpenFrame, Range<usize>) -> T,
    ) -> Result<T> {
        for _ in 0..REFOLDS {
            // what others fold while we look is news as well
            let before = self.index.changes();
            let mut gone = None;
            match self.find_blob(id, kind, &mut gone, &mut read) {
                Err(Error::Missing { .. }) if self.has_news(before, None)? => {}
                Err(_) if gone.is_some() && self.has_news(before, gone)? => {}
                result => return result,
            }
        }
        self.find_blob(id, kind, &mut None, &mut read)
    }

    /// Tells whether a chunk of that length lies in a pack that can be used. Where it does not, what was published since
    /// is folded: a prune may have moved it.
    ///
    /// # Errors
    /// RocksDB failed, or the segments cannot be listed.
    pub(crate) fn has_chunk(&self, id: ChunkId, length: u64) -> Result<bool> {
        let is_there = || Ok(self.index.lookup(&id.into())?.is_some_and(|place| u64::from(place.length) == length));
        for _ in 0..REFOLDS {
            let before = self.index.changes();
            if is_there()? {
                return Ok(true);
            }
            if !self.has_news(before, None)? {
                return Ok(false);
            }
        }
        is_there()
    }

    /// Folds what was published; tells whether anything came since the index had changed `before` times.
    ///
    /// A pack that is `gone` though the index names it is always a reason to do so: whoever deletes one has said so before
    /// and described what lies elsewhere now. Where nobody has, it is lost.
    fn has_news(&self, before: usize, gone: Option<PackId>) -> Result<bool> {
        let is_hopeless = gone.is_none() && self.fruitless.load(Ordering::Relaxed) >= FRUITLESS_MAX;
        if is_hopeless && self.index.changes() == before {
            return Ok(false);
        }
        if gone.is_some() {
            // something was moved: until that is folded whole, nobody may take it for lost
            self.fruitless.store(0, Ordering::Relaxed);
        }
        self.index.fold_new(&self.store, &Silent)?;
        let has_news = self.index.changes() != before;
        if has_news {
            self.fruitless.store(0, Ordering::Relaxed);
        } else if let Some(pack) = gone {
            self.lost().insert(pack);
        } else {
            self.fruitless.fetch_add(1, Ordering::Relaxed);
        }
        Ok(has_news)
    }

    fn lost(&self) -> MutexGuard<'_, HashSet<PackId>> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `gone` becomes a pack that is not there though the index names it, unless it is known to be lost.
    fn find_blob<T>(
        &self,
        id: BlobId,
        kind: PackKind,
        gone: &mut Option<PackId>,
        mut read: impl FnMut(&OpenFrame, Range<usize>) -> T,
    ) -> Result<T> {
        let what = if kind == PackKind::Data { "The chunk" } else { "The tree node" };
        let place = self.index.lookup(&id)?.ok_or(Error::Missing { what, blob: id })?;
        let first = match self.with_blob_at(id, kind, &place, &mut read) {
            Err(error @ (Error::Storage(_) | Error::DamagedFrame { .. } | Error::WrongBlob { .. })) => error,
            result => return result,
        };
        let mut note = |place: &Location, error: &Error| {
            if matches!(error, Error::Storage(error) if error.is_not_found()) && !self.lost().contains(&place.pack) {
                *gone = Some(place.pack);
            }
        };
        note(&place, &first);
        for other in self.index.lookup_all(&id)?.into_iter().filter(|other| *other != place) {
            match self.with_blob_at(id, kind, &other, &mut read) {
                Ok(done) => return Ok(done),
                Err(error) => note(&other, &error),
            }
        }
        Err(first)
    }

    fn with_blob_at<T>(
        &self,
        id: BlobId,
        kind: PackKind,
        place: &Location,
        read: &mut impl FnMut(&OpenFrame, Range<usize>) -> T,
    ) -> Result<T> {
        let frame = self.frame(place, kind)?;
        let range = place.offset as usize..place.offset as usize + place.length as usize;
        let wrong = || Error::WrongBlob { pack: place.pack, offset: place.frame_offset.into(), blob: id };
        let plain = frame.plain.get(range.clone()).ok_or_else(wrong)?;
        if kind.blob_id(self.store.keys(), plain) != id {
            return Err(wrong());
        }
        Ok(read(&frame, range))
    }

    /// Tells whether a chunk or node can be read from a pack that is not one of these.
    pub(crate) fn is_readable_outside(&self, id: BlobId, kind: PackKind, packs: &HashSet<PackId>) -> Result<bool> {
        let places = self.index.lookup_all(&id)?;
        let mut others = places.iter().filter(|place| !packs.contains(&place.pack));
        Ok(others.any(|place| self.with_blob_at(id, kind, place, &mut |_, _| ()).is_ok()))
    }

    /// Passes the bytes of a chunk to `read`.
    ///
    /// # Errors
    /// It is nowhere, or damaged.
    pub fn with_chunk<T>(&self, id: ChunkId, read: impl FnMut(&[u8]) -> T) -> Result<T> {
        self.with_blob(id.into(), PackKind::Data, read)
    }

    /// Passes the bytes of the first extent, which must be data, to `read`, and with it those of as many that follow it as
    /// lie behind it in the same frame. Returns how many extents that were.
    ///
    /// # Errors
    /// The first is nowhere, or damaged. What is wrong with the others is for the next call to say.
    pub(crate) fn with_chunks<T>(&self, extents: &[Extent], mut read: impl FnMut(&[u8]) -> T) -> Result<(usize, T)> {
        let Some((Extent::Data { id, .. }, others)) = extents.split_first() else {
            return Err(Error::Poisoned { message: "a hole was read as data".into() });
        };
        self.with_blob_in_frame((*id).into(), PackKind::Data, |frame, first| {
            let mut end = first.end;
            let mut count = 1;
            for (extent, length) in others.iter().zip(frame.lengths_from(end)) {
                let plain = &frame.plain[end..end + length];
                let follows = matches!(extent, Extent::Data { id, length: expected }
                    if *expected == length as u64 && self.store.keys().chunk_id(plain) == *id);
                if !follows {
                    break;
                }
                end += length;
                count += 1;
            }
            (count, read(&frame.plain[first.start..end]))
        })
    }

    /// Reads a node of a tree.
    ///
    /// # Errors
    /// It is nowhere, or damaged.
    pub fn node(&self, id: TreeId) -> Result<Node> {
        self.with_blob(id.into(), PackKind::Tree, Node::decode)?.map_err(|source| Error::TreeNode { node: id, source })
    }

    /// Iterates over the entries of a directory, in the order of their names.
    pub fn entries(&self, directory: TreeId) -> TreeEntries {
        let above = vec![vec![directory].into_iter()];
        TreeEntries { reader: self.clone(), above, node: directory, leaf: Vec::new().into_iter() }
    }

    /// Returns a directory's entry of that name, reading no more nodes than lie on the way.
    ///
    /// # Errors
    /// A node is missing or damaged.
    pub fn lookup_name(&self, directory: TreeId, name: &[u8]) -> Result<Option<Entry>> {
        let mut node = directory;
        for _ in 0..MAX_DEPTH {
            match self.node(node)? {
                Node::Entries(mut entries) => {
                    let found = entries.binary_search_by(|entry| entry.name.as_slice().cmp(name));
                    return Ok(found.ok().map(|at| entries.swap_remove(at)));
                }
                Node::EntryIndex(items) => {
                    let after = items.partition_point(|item| item.first_name.as_slice() <= name);
                    match after.checked_sub(1) {
                        Some(at) => node = items[at].node,
                        None => return Ok(None),
                    }
                }
                _ => break,
            }
        }
        Err(wrong_node(node, "directory"))
    }

    /// Returns the extents of a file, in order. Long lists take memory: see [`BlobReader::extent_runs`].
    ///
    /// # Errors
    /// Nodes of a long list are missing or damaged, or do not add up to the file's size.
    pub fn extents(&self, entry: &Entry) -> Result<Vec<Extent>> {
        let mut all = Vec::new();
        for run in self.extent_runs(entry) {
            all.extend(run?);
        }
        Ok(all)
    }

    /// Iterates over the extents of a file, in order, some thousand at a time.
    pub fn extent_runs(&self, entry: &Entry) -> ExtentRuns {
        match &entry.content {
            Content::None => ExtentRuns::of(self, Vec::new()),
            Content::Chunk(id) => ExtentRuns::of(self, vec![Extent::Data { id: *id, length: entry.size }]),
            Content::Extents { extents, .. } => ExtentRuns::of(self, extents.clone()),
            Content::Indirect { root, .. } => {
                ExtentRuns { expected: Some((*root, entry.size)), ..ExtentRuns::below(self, *root) }
            }
        }
    }
}

/// The extents of a file, one node of a long list in memory at a time. After an error nothing follows.
#[derive(Debug)]
pub struct ExtentRuns {
    reader: BlobReader,
    inline: Option<Vec<Extent>>,
    above: Vec<std::vec::IntoIter<TreeId>>,
    /// The topmost node, and the bytes that its extents add up to, less those that came.
    expected: Option<(TreeId, u64)>,
}

impl ExtentRuns {
    /// A list that is at hand.
    pub(crate) fn of(reader: &BlobReader, extents: Vec<Extent>) -> Self {
        let inline = Some(extents).filter(|extents| !extents.is_empty());
        Self { reader: reader.clone(), inline, above: Vec::new(), expected: None }
    }

    /// A list that is kept in nodes, of a file of any size.
    pub(crate) fn below(reader: &BlobReader, root: TreeId) -> Self {
        Self { reader: reader.clone(), inline: None, above: vec![vec![root].into_iter()], expected: None }
    }

    fn fail(&mut self, error: Error) -> Option<Result<Vec<Extent>>> {
        self.above.clear();
        self.expected = None;
        Some(Err(error))
    }

    fn wrong_size(&mut self, node: TreeId) -> Option<Result<Vec<Extent>>> {
        let source = lakebed_core::wire::DecodeError::invalid(
            "content list",
            "its extents do not add up to the size of the file",
        );
        self.fail(Error::TreeNode { node, source })
    }
}

impl Iterator for ExtentRuns {
    type Item = Result<Vec<Extent>>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(extents) = self.inline.take() {
            return Some(Ok(extents));
        }
        loop {
            let node = loop {
                let Some(above) = self.above.last_mut() else {
                    let missing = self.expected.take().filter(|(_, left)| *left > 0);
                    return missing.and_then(|(root, _)| self.wrong_size(root));
                };
                match above.next() {
                    Some(node) => break node,
                    None => drop(self.above.pop()),
                }
            };
            match self.reader.node(node) {
                Ok(Node::Extents(extents)) => {
                    if let Some((root, left)) = self.expected {
                        let sum = extents.iter().try_fold(0u64, |sum, extent| sum.checked_add(extent.length()));
                        match sum.and_then(|sum| left.checked_sub(sum)) {
                            Some(left) => self.expected = Some((root, left)),
                            None => return self.wrong_size(root),
                        }
                    }
                    return Some(Ok(extents));
                }
                Ok(Node::ExtentIndex(nodes)) if self.above.len() < MAX_DEPTH => self.above.push(nodes.into_iter()),
                Ok(_) => return self.fail(wrong_node(node, "content list")),
                Err(error) => return self.fail(error),
            }
        }
    }
}

/// No honest tree has more levels of index nodes: each holds at least 8 times as much as the one above it.
const MAX_DEPTH: usize = 16;

fn wrong_node(node: TreeId, expected: &'static str) -> Error {
    let source = lakebed_core::wire::DecodeError::invalid(expected, "the node is of another type");
    Error::TreeNode { node, source }
}

/// The entries of a directory, one leaf in memory at a time.
#[derive(Debug, Clone)]
pub struct TreeEntries {
    reader: BlobReader,
    above: Vec<std::vec::IntoIter<TreeId>>,
    node: TreeId,
    leaf: std::vec::IntoIter<Entry>,
}

impl TreeEntries {
    /// Returns the node that was read last: where that failed, the one that it was.
    pub(crate) fn node(&self) -> TreeId {
        self.node
    }
}

impl Iterator for TreeEntries {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.leaf.next() {
                return Some(Ok(entry));
            }
            let node = loop {
                match self.above.last_mut()?.next() {
                    Some(node) => break node,
                    None => {
                        self.above.pop();
                    }
                }
            };
            self.node = node;
            match self.reader.node(node) {
                Ok(Node::Entries(entries)) => self.leaf = entries.into_iter(),
                Ok(Node::EntryIndex(items)) if self.above.len() < MAX_DEPTH => {
                    self.above.push(items.into_iter().map(|item| item.node).collect::<Vec<_>>().into_iter());
                }
                Ok(_) => return Some(Err(wrong_node(node, "directory"))),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}
