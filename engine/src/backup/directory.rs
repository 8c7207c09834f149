//! Directories: listing, comparing, and joining what their entries became into nodes of the tree.

use std::collections::HashMap;
use std::iter::Peekable;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lakebed_core::id::TreeId;
use lakebed_core::record::tree::{Entry, EntryKind, write_directory};
use lakebed_core::source::{ContentChange, SourceDir};

use super::run::{Run, Worker};
use crate::error::{Error, Result};
use crate::repository::TreeEntries;
use crate::source::Mount;

/// What became of an entry.
#[derive(Clone)]
pub(super) enum Slot {
    /// Nothing yet.
    Pending,
    /// A directory whose entries are being worked on.
    Open(Arc<DirNode>),
    /// It is finished.
    Done(Box<Entry>),
    /// It is left out.
    Skipped,
}

/// A directory that is not finished.
pub(super) struct DirNode {
    /// The directory that it lies in, and its place there.
    parent: Option<(Arc<DirNode>, usize)>,
    /// The same directory in the trees that are compared with: (which one, its node).
    comparisons: Vec<(usize, TreeId)>,
    state: Mutex<State>,
}

struct State {
    entry: Entry,
    slots: Vec<Slot>,
    pending: usize,
    /// Everything so far is as in the first tree compared with: then its node can be taken over.
    same: bool,
    finished: Option<TreeId>,
}

/// The counterparts of an entry: (which tree compared with, its entry).
pub(super) type Matching = Vec<(usize, Entry)>;

/// A directory, or a source that is a single file, to be worked on.
pub(super) enum Work {
    Directory { node: Arc<DirNode>, mount: Arc<Mount>, path: Vec<Vec<u8>>, entry: Box<Entry> },
    RootFile { node: Arc<DirNode>, slot: usize, mount: Arc<Mount>, entry: Box<Entry>, matching: Matching },
}

impl Work {
    /// The root of a source.
    pub(super) fn mounted(node: Arc<DirNode>, mount: Arc<Mount>, entry: Entry) -> Self {
        Self::Directory { node, mount, path: Vec::new(), entry: Box::new(entry) }
    }
}

impl DirNode {
    /// `takes_over`: the first tree compared with is a live snapshot's, whose nodes nobody deletes.
    fn new(
        parent: Option<(Arc<Self>, usize)>,
        comparisons: Vec<(usize, TreeId)>,
        takes_over: bool,
        entry: Entry,
    ) -> Arc<Self> {
        let same = takes_over && comparisons.first().is_some_and(|(which, _)| *which == 0);
        let state = State { entry, slots: Vec::new(), pending: 0, same, finished: None };
        Arc::new(Self { parent, comparisons, state: Mutex::new(state) })
    }

    /// The top of a snapshot.
    pub(super) fn root(comparisons: Vec<(usize, TreeId)>, takes_over: bool) -> Arc<Self> {
        Self::new(None, comparisons, takes_over, Entry::new(Vec::new(), EntryKind::Directory))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes room for so many entries, in the order of their names. The directory is not finished before
    /// [`DirNode::release`] has said that whoever fills it knows all about it.
    pub(super) fn fill(&self, entries: usize) {
        let mut state = self.lock();
        state.pending = entries + 1;
        state.slots = vec![Slot::Pending; entries];
    }

    /// Notes that the directory has been listed and compared whole. Returns whether everything in it is finished too.
    pub(super) fn release(&self) -> bool {
        let mut state = self.lock();
        state.pending -= 1;
        state.pending == 0
    }

    /// Notes that the directory differs from the one compared with.
    pub(super) fn differs(&self) {
        self.lock().same = false;
    }

    /// Sets what became of an entry; `None` leaves it out. Returns whether it was the last one.
    pub(super) fn complete(&self, slot: usize, entry: Option<Entry>) -> bool {
        let mut state = self.lock();
        state.slots[slot] = match entry {
            Some(entry) => Slot::Done(Box::new(entry)),
            None => {
                state.same = false;
                Slot::Skipped
            }
        };
        state.pending -= 1;
        state.pending == 0
    }

    fn open(&self, slot: usize, child: Arc<Self>) {
        self.lock().slots[slot] = Slot::Open(child);
    }

    /// Returns the topmost node of the finished tree.
    pub(super) fn finished(&self) -> Option<TreeId> {
        self.lock().finished
    }

    /// Returns what is there so far: the directory's own entry and its slots.
    pub(super) fn so_far(&self) -> (Entry, Vec<Slot>, Option<TreeId>) {
        let state = self.lock();
        (state.entry.clone(), state.slots.clone(), state.finished)
    }
}

/// Walks a directory of a tree beside a sorted listing.
struct Beside {
    which: usize,
    entries: Peekable<TreeEntries>,
}

impl Beside {
    /// Returns the entry of that name. Names must be asked for in ascending order; `passed` counts those passed over.
    fn find(&mut self, name: &[u8], passed: &mut usize) -> Result<Option<Entry>> {
        loop {
            match self.entries.peek() {
                Some(Ok(entry)) if entry.name.as_slice() < name => *passed += 1,
                Some(Ok(entry)) if entry.name == name => {}
                Some(Ok(_)) | None => return Ok(None),
                Some(Err(_)) => {}
            }
            match self.entries.next() {
                Some(Ok(entry)) if entry.name == name => return Ok(Some(entry)),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
                None => return Ok(None),
            }
        }
    }
}

impl Run<'_> {
    fn beside(&self, node: &DirNode) -> Vec<Beside> {
        let begin = |&(which, id): &(usize, TreeId)| Beside { which, entries: self.reader.entries(id).peekable() };
        node.comparisons.iter().map(begin).collect()
    }

    /// Returns every entry of a directory's counterparts, by name.
    pub(super) fn children_in_comparisons(&self, node: &DirNode) -> Result<HashMap<Vec<u8>, Matching>> {
        let mut children: HashMap<Vec<u8>, Matching> = HashMap::new();
        for beside in self.beside(node) {
            for entry in beside.entries {
                match entry {
                    Ok(entry) => children.entry(entry.name.clone()).or_default().push((beside.which, entry)),
                    Err(error) => {
                        self.comparison_failed(&error);
                        break;
                    }
                }
            }
        }
        Ok(children)
    }

    /// A tree to compare with that cannot be read costs time, not data: everything under it is read again.
    fn comparison_failed(&self, error: &Error) {
        self.monitor.warn(&format!("a part of the previous snapshot cannot be read: {}", crate::error_chain(error)));
    }

    /// Makes the node of a directory that lies in `parent`.
    pub(super) fn child_directory(
        &self,
        parent: &Arc<DirNode>,
        slot: usize,
        entry: Entry,
        matching: &[(usize, Entry)],
    ) -> Arc<DirNode> {
        let directories = matching.iter().filter(|(_, other)| other.kind == EntryKind::Directory);
        let comparisons = directories.filter_map(|(which, other)| Some((*which, other.subtree?))).collect();
        let same_but_content = matching
            .iter()
            .find(|(which, _)| *which == 0)
            .is_some_and(|(_, other)| Entry { subtree: entry.subtree, ..other.clone() } == entry);
        if !same_but_content {
            parent.differs();
        }
        let takes_over = self.comparisons.first().is_some_and(|comparison| comparison.protected);
        let child = DirNode::new(Some((parent.clone(), slot)), comparisons, takes_over, entry);
        parent.open(slot, child.clone());
        child
    }

    /// Returns the parent's subtree for a directory in which nothing has changed as far down as it goes.
    fn taken_over(&self, change: ContentChange, matching: &[(usize, Entry)]) -> Option<TreeId> {
        let (which, parent) = matching.first()?;
        let certain = self.comparisons[*which].protected && !self.distrust;
        parent.subtree.filter(|_| certain && change == ContentChange::Unchanged)
    }

    /// Joins the entries of a directory whose last entry is finished, and goes on with the directory above if this was
    /// its last one.
    pub(super) fn finish_directory(&self, mut node: Arc<DirNode>) -> Result<()> {
        loop {
            let (slots, same, mut entry) = {
                let mut state = node.lock();
                (std::mem::take(&mut state.slots), state.same, state.entry.clone())
            };
            let counterpart = node.comparisons.first().filter(|_| same).map(|(_, id)| *id);
            let id = match counterpart {
                Some(id) => id,
                None => {
                    let done = slots.into_iter().filter_map(|slot| match slot {
                        Slot::Done(entry) => Some(*entry),
                        _ => None,
                    });
                    write_directory(done.collect(), &mut self.chunks.node_sink())?
                }
            };
            node.lock().finished = Some(id);
            let Some((parent, slot)) = &node.parent else { return Ok(()) };
            self.counts.directories.fetch_add(1, Ordering::Relaxed);
            if node.comparisons.first() != Some(&(0, id)) {
                parent.differs();
            }
            entry.subtree = Some(id);
            self.note_owner(&entry);
            if !parent.complete(*slot, Some(entry)) {
                return Ok(());
            }
            let parent = parent.clone();
            node = parent;
        }
    }

    pub(super) fn note_owner(&self, entry: &Entry) {
        let mut owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        if !owners.0.contains(&entry.uid) {
            owners.0.insert(entry.uid);
        }
        if !owners.1.contains(&entry.gid) {
            owners.1.insert(entry.gid);
        }
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Worker<'_, '_> {
    /// Works on a directory, or on a source that is one file.
    pub(super) fn directory(&mut self, work: Work) -> Result<()> {
        let run = self.run;
        match work {
            Work::RootFile { node, slot, mount, entry, matching } => {
                let mut entry = *entry;
                let tree_path = mount.tree_path.clone();
                let kept = self.leaf(&mut entry, &matching, &tree_path, None, &|_| mount.source.open_root())?;
                if kept {
                    count(&run.counts.roots_read);
                }
                if self.settle(&node, slot, kept.then_some(entry), &matching) {
                    run.finish_directory(node)?;
                }
                Ok(())
            }
            Work::Directory { node, mount, path, entry } => {
                let full_path = [&mount.tree_path[..], &path[..]].concat();
                let mut failed = |error| run.entry_failed(&full_path, &error);
                let listed = match mount.source.open_dir(&path, &entry) {
                    Ok(mut directory) => directory.list(&mut failed).map(|entries| (directory, entries)),
                    Err(error) => Err(error),
                };
                match listed {
                    Ok((directory, entries)) => self.entries(&node, &mount, path, &full_path, &*directory, entries),
                    Err(error) => {
                        failed(error);
                        node.differs();
                        node.fill(0);
                        if node.release() { run.finish_directory(node) } else { Ok(()) }
                    }
                }
            }
        }
    }

    fn entries(
        &mut self,
        node: &Arc<DirNode>,
        mount: &Arc<Mount>,
        path: Vec<Vec<u8>>,
        full_path: &[Vec<u8>],
        directory: &dyn SourceDir,
        entries: Vec<Entry>,
    ) -> Result<()> {
        let run = self.run;
        let mut beside = run.beside(node);
        let mut passed = 0;
        if path.is_empty() {
            count(&run.counts.roots_read);
        }
        node.fill(entries.len());
        let below = |name: &[u8]| [full_path, &[name.to_vec()]].concat();
        let mut matching = Matching::new();
        for (slot, mut entry) in entries.into_iter().enumerate() {
            self.pause()?;
            matching.clear();
            beside.retain_mut(|beside| {
                let mut skipped = 0;
                match beside.find(&entry.name, &mut skipped) {
                    Ok(found) => {
                        matching.extend(found.map(|found| (beside.which, found)));
                        passed += if beside.which == 0 { skipped } else { 0 };
                        true
                    }
                    Err(error) => {
                        run.comparison_failed(&error);
                        passed += 1;
                        false
                    }
                }
            });
            if entry.kind == EntryKind::Directory {
                let full_path = below(&entry.name);
                let change = directory.content_change(&entry);
                if change == ContentChange::Unknown {
                    self.complete_entry(&mut entry, &matching, &full_path, directory);
                }
                if let Some(subtree) = run.taken_over(change, &matching) {
                    entry.subtree = Some(subtree);
                    self.settle(node, slot, Some(entry), &matching);
                    continue;
                }
                let child = run.child_directory(node, slot, entry.clone(), &matching);
                let mut path = path.clone();
                path.push(entry.name.clone());
                run.queue.push(Work::Directory { node: child, mount: mount.clone(), path, entry: Box::new(entry) });
                continue;
            }
            let full_path = below(&entry.name);
            let kept = self.leaf(&mut entry, &matching, &full_path, Some(directory), &|entry| directory.open(entry))?;
            self.settle(node, slot, kept.then_some(entry), &matching);
        }
        // what the tree compared with still has was removed
        if passed > 0 || beside.iter_mut().any(|beside| beside.which == 0 && beside.entries.next().is_some()) {
            node.differs();
        }
        if node.release() { run.finish_directory(node.clone()) } else { Ok(()) }
    }

    /// Enters what became of an entry that is finished at once. Returns whether it was the last of its directory.
    fn settle(&self, node: &DirNode, slot: usize, entry: Option<Entry>, matching: &[(usize, Entry)]) -> bool {
        let run = self.run;
        if let Some(entry) = &entry {
            let counterpart = matching.iter().find(|(which, _)| *which == 0).map(|(_, entry)| entry);
            if counterpart != Some(entry) {
                node.differs();
            }
            run.note_owner(entry);
            match entry.kind {
                EntryKind::File => {
                    count(&run.counts.files);
                    run.counts.bytes.fetch_add(entry.size, Ordering::Relaxed);
                }
                EntryKind::Directory => count(&run.counts.directories),
                _ => count(&run.counts.others),
            }
            run.monitor.advance(lakebed_core::monitor::Progress { entries: 1, bytes: entry.size });
        }
        node.complete(slot, entry)
    }
}
