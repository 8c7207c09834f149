//! A directory that is not finished: its entries, in the order of their names, on their way into nodes of the tree.
//!
//! However many entries it has, few are held: what is finished at the front goes into nodes as soon as there is much of
//! it, and what is equal to the tree compared with is held as its place there. Only what waits behind an entry that is not
//! finished is held whole; where that is much, whoever lists the directory sees to it that it gets finished,
//! or waits for who has it in hand.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lakebed_core::id::TreeId;
use lakebed_core::record::tree::{Content, DirectoryWriter, Entry, EntryKind, Extent};

use crate::error::{Error, Result};
use crate::repository::{BlobReader, ChunkStore, TreeEntries};

/// Finished entries of a directory are held up to so many bytes before they go into nodes: some thousand files.
const HELD_MAX_BYTES: usize = 4 << 20;

/// Where a directory holds so many bytes, what is equal to the tree compared with is rather read from there again.
const HELD_EQUAL_MAX_BYTES: usize = 2 << 20;

/// What became of an entry.
#[derive(Clone)]
enum Slot {
    /// Nothing yet.
    Pending,
    /// A directory whose entries are being worked on.
    Open(Arc<DirNode>),
    /// It is finished.
    Done(Box<Entry>),
    /// It is finished, and equal to the one at that place of the node that stays.
    Equal(usize),
    /// It is left out.
    Skipped,
}

/// An entry that is finished.
pub(super) struct Finished {
    pub(super) entry: Entry,
    /// Its place in the first tree compared with, if it is equal to the one there.
    pub(super) equal_to: Option<usize>,
}

/// A directory that is not finished.
pub(super) struct DirNode {
    /// The directory that it lies in, and its place there.
    pub(super) parent: Option<(Arc<DirNode>, usize)>,
    /// The same directory in the trees that are compared with: (which one, its node).
    pub(super) comparisons: Vec<(usize, TreeId)>,
    /// Its node in the first of them, where that is a live snapshot's: nobody deletes it.
    stays: Option<TreeId>,
    state: Mutex<State>,
}

struct State {
    entry: Entry,
    pending: usize,
    /// Everything so far is as in the node that stays: then that is taken over.
    same: bool,
    entries: Entries,
    finished: Option<TreeId>,
}

/// The entries of a directory: those at the front in nodes, then slots.
#[derive(Clone, Default)]
struct Entries {
    writer: DirectoryWriter,
    /// How many of them went into nodes.
    written: usize,
    slots: VecDeque<Slot>,
    /// Bytes of the slots that hold a whole entry, about.
    held_bytes: usize,
    /// The node that stays, as far as equal entries of it went into nodes, and the place of the next one.
    equals: Option<(TreeEntries, usize)>,
}

/// What is needed to make nodes.
#[derive(Clone, Copy)]
pub(super) struct Nodes<'a> {
    pub(super) reader: &'a BlobReader,
    pub(super) chunks: &'a ChunkStore,
}

/// Returns how many bytes an entry takes in memory, about.
fn held_bytes(entry: &Entry) -> usize {
    let extents = if let Content::Extents { extents, .. } = &entry.content { extents.len() } else { 0 };
    let xattrs: usize = entry.xattrs.iter().map(|xattr| xattr.name.len() + xattr.value.len()).sum();
    let attributes: usize = entry.attributes.iter().map(|(name, value)| name.len() + value.len()).sum();
    let bytes = entry.name.len() + entry.link_target.len() + xattrs + attributes;
    size_of::<Entry>() + bytes + extents * size_of::<Extent>()
}

impl Entries {
    fn set(&mut self, slot: usize, value: Slot) {
        if let Slot::Done(entry) = &value {
            self.held_bytes += held_bytes(entry);
        }
        self.slots[slot - self.written] = value;
    }

    /// Puts what is finished at the front into nodes. `open` says what a directory that is not finished comes to; without
    /// that everything behind it waits.
    fn write(
        &mut self,
        nodes: Nodes<'_>,
        stays: Option<TreeId>,
        open: impl Fn(&Arc<DirNode>) -> Option<Entry>,
    ) -> Result<()> {
        let sink = &mut nodes.chunks.node_sink();
        while let Some(slot) = self.slots.pop_front() {
            let entry = match slot {
                Slot::Done(entry) => {
                    self.held_bytes -= held_bytes(&entry);
                    Some(*entry)
                }
                Slot::Equal(place) => Some(self.equal(nodes.reader, stays, place)?),
                Slot::Skipped => None,
                Slot::Pending => {
                    self.slots.push_front(slot);
                    break;
                }
                Slot::Open(child) => match open(&child) {
                    Some(entry) => Some(entry),
                    None => {
                        self.slots.push_front(Slot::Open(child));
                        break;
                    }
                },
            };
            self.written += 1;
            entry.map_or(Ok(()), |entry| self.writer.push(entry, sink))?;
        }
        Ok(())
    }

    /// Reads an entry of the tree compared with. Places must be asked for in ascending order.
    fn equal(&mut self, reader: &BlobReader, stays: Option<TreeId>, place: usize) -> Result<Entry> {
        let gone = || Error::Poisoned { message: "an entry of the previous snapshot is not where it was".into() };
        let (entries, next) = match &mut self.equals {
            Some(equals) => equals,
            None => self.equals.insert((reader.entries(stays.ok_or_else(gone)?), 0)),
        };
        for entry in entries {
            let entry = entry?;
            *next += 1;
            if *next > place {
                return Ok(entry);
            }
        }
        Err(gone())
    }
}

impl DirNode {
    /// `takes_over`: the first tree compared with is a live snapshot's, whose nodes nobody deletes.
    pub(super) fn new(
        parent: Option<(Arc<Self>, usize)>,
        comparisons: Vec<(usize, TreeId)>,
        takes_over: bool,
        entry: Entry,
    ) -> Arc<Self> {
        let stays = comparisons.first().filter(|(which, _)| takes_over && *which == 0).map(|(_, id)| *id);
        let state = State { entry, pending: 1, same: stays.is_some(), entries: Entries::default(), finished: None };
        Arc::new(Self { parent, comparisons, stays, state: Mutex::new(state) })
    }

    /// The top of a snapshot.
    pub(super) fn root(comparisons: Vec<(usize, TreeId)>, takes_over: bool) -> Arc<Self> {
        Self::new(None, comparisons, takes_over, Entry::new(Vec::new(), EntryKind::Directory))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes room for the next entry, in the order of their names. The directory is not finished before
    /// [`DirNode::release`] has said that whoever fills it knows all about it.
    pub(super) fn add(&self) -> usize {
        let mut state = self.lock();
        state.pending += 1;
        state.entries.slots.push_back(Slot::Pending);
        state.entries.written + state.entries.slots.len() - 1
    }

    /// Notes that the directory has been listed and compared whole. Returns whether everything in it is finished too.
    pub(super) fn release(&self) -> bool {
        let mut state = self.lock();
        state.pending -= 1;
        state.pending == 0
    }

    /// Tells whether much is held because it waits behind an entry that is not finished.
    pub(super) fn holds_much(&self) -> bool {
        self.lock().entries.held_bytes > HELD_MAX_BYTES
    }

    /// Marks a directory that could not be listed as doubtful, where it comes out as the one that stays. Returns whether it
    /// does: nothing was entered into it, and there is one.
    pub(super) fn is_kept_unseen(&self) -> bool {
        let mut state = self.lock();
        let is_kept = self.stays.is_some() && state.same && state.entries.slots.is_empty();
        state.entry.inconsistent |= is_kept;
        is_kept
    }

    /// Returns the node that stays.
    pub(super) fn stays(&self) -> Option<TreeId> {
        self.stays
    }

    /// Notes that the directory differs from the one compared with.
    pub(super) fn differs(&self) {
        self.lock().same = false;
    }

    /// Sets what became of an entry; `None` leaves it out. Returns whether it was the last one.
    pub(super) fn complete(&self, slot: usize, finished: Option<Finished>, nodes: Nodes<'_>) -> Result<bool> {
        let mut state = self.lock();
        let value = match finished {
            Some(Finished { equal_to: Some(place), .. })
                if self.stays.is_some() && state.entries.held_bytes >= HELD_EQUAL_MAX_BYTES =>
            {
                Slot::Equal(place)
            }
            Some(Finished { entry, .. }) => Slot::Done(Box::new(entry)),
            None => {
                state.same = false;
                Slot::Skipped
            }
        };
        state.entries.set(slot, value);
        state.pending -= 1;
        if state.entries.held_bytes > HELD_MAX_BYTES {
            state.entries.write(nodes, self.stays, |_| None)?;
        }
        Ok(state.pending == 0)
    }

    pub(super) fn open(&self, slot: usize, child: Arc<Self>) {
        self.lock().entries.set(slot, Slot::Open(child));
    }

    /// Makes the node of a directory whose last entry is finished, and returns it with the directory's own entry.
    pub(super) fn finish(&self, nodes: Nodes<'_>) -> Result<(TreeId, Entry)> {
        let mut state = self.lock();
        let mut entries = std::mem::take(&mut state.entries);
        let id = match self.stays.filter(|_| state.same) {
            Some(id) => id,
            None => {
                entries.write(nodes, self.stays, |_| None)?;
                if !entries.slots.is_empty() {
                    let message = "a directory was to be finished before all that is in it".into();
                    return Err(Error::Poisoned { message });
                }
                entries.writer.finish(&mut nodes.chunks.node_sink())?
            }
        };
        state.finished = Some(id);
        Ok((id, state.entry.clone()))
    }

    /// Returns the topmost node of the finished tree.
    pub(super) fn finished(&self) -> Option<TreeId> {
        self.lock().finished
    }

    /// Writes the tree of what is finished so far. Nobody works on it meanwhile.
    pub(super) fn so_far(self: &Arc<Self>, nodes: Nodes<'_>) -> Result<TreeId> {
        // children before their parents, on no stack but this one: paths can be as deep as a file system makes them
        let mut written: HashMap<*const Self, TreeId> = HashMap::new();
        let mut open = vec![self.clone()];
        loop {
            let node = open[open.len() - 1].clone();
            let unwritten = node.open_children(&written);
            if !unwritten.is_empty() {
                open.extend(unwritten);
                continue;
            }
            let id = node.written_so_far(nodes, &written)?;
            written.insert(Arc::as_ptr(&node), id);
            open.pop();
            if open.is_empty() {
                return Ok(id);
            }
        }
    }

    fn open_children(&self, written: &HashMap<*const Self, TreeId>) -> Vec<Arc<Self>> {
        let state = self.lock();
        let open = state.entries.slots.iter().filter_map(|slot| match slot {
            Slot::Open(child) if !written.contains_key(&Arc::as_ptr(child)) => Some(child.clone()),
            _ => None,
        });
        open.collect()
    }

    fn written_so_far(&self, nodes: Nodes<'_>, written: &HashMap<*const Self, TreeId>) -> Result<TreeId> {
        let state = self.lock();
        if let Some(id) = state.finished {
            return Ok(id);
        }
        let mut entries = state.entries.clone();
        entries.slots.retain(|slot| !matches!(slot, Slot::Pending));
        entries.write(nodes, self.stays, |child| {
            let subtree = written.get(&Arc::as_ptr(child)).copied();
            Some(Entry { subtree, ..child.lock().entry.clone() })
        })?;
        entries.writer.finish(&mut nodes.chunks.node_sink())
    }
}
