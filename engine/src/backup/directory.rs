//! Directories: listing, comparing, and joining what their entries became into nodes of the tree.

use std::collections::HashMap;
use std::iter::Peekable;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use lakebed_core::id::TreeId;
use lakebed_core::record::tree::{Entry, EntryKind};
use lakebed_core::source::{ContentChange, Listing, SourceDir, SourceError};
use lakebed_core::text::escape_path;

use super::node::{DirNode, Finished, Nodes};
use super::place::Place;
use super::run::{Run, Worker};
use crate::error::{Error, Result};
use crate::repository::TreeEntries;
use crate::source::Mount;

/// The counterparts of an entry: (which tree compared with, its entry).
pub(super) type Matching = Vec<(usize, Entry)>;

/// A directory or a file to be worked on.
pub(super) enum Work {
    Directory { node: Arc<DirNode>, mount: Arc<Mount>, path: Vec<Vec<u8>>, entry: Box<Entry> },
    File { node: Arc<DirNode>, slot: usize, file: Box<FileWork> },
}

/// A file that is worked on apart from the others of its directory, or a source that is a single file.
pub(super) struct FileWork {
    pub(super) place: Place,
    /// Its path in the snapshot.
    pub(super) path: Vec<Vec<u8>>,
    pub(super) entry: Entry,
    pub(super) matching: Matching,
}

/// A directory that is being listed.
struct Listed<'a> {
    node: &'a Arc<DirNode>,
    mount: &'a Arc<Mount>,
    /// Its path below the source's root.
    path: Vec<Vec<u8>>,
    /// Its path in the snapshot.
    full_path: &'a [Vec<u8>],
}

/// Files of at least this many bytes, and any from far away, are worth being handed to another worker.
const HANDED_OVER_MIN_BYTES: u64 = 4 << 20;

/// More directories than this need not wait to be entered: whoever lists a large one enters them before it goes on.
const WAITING_MAX: usize = 4096;

/// Entries between two looks at what a large directory holds.
const ENTRIES_BETWEEN_LOOKS: u64 = 512;

/// Directories that all workers together are in at a time because many wait. Each has a descriptor open, and a process
/// may often have no more than 1,024 of them.
const NESTED_MAX: usize = 256;

/// So many times that where listing on would take memory.
const NESTED_MORE: usize = 2;

/// How long a worker that has nothing to do waits before it looks again at what another one has in hand.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

impl Work {
    /// The root of a source.
    pub(super) fn mounted(node: Arc<DirNode>, mount: Arc<Mount>, entry: Entry) -> Self {
        Self::Directory { node, mount, path: Vec::new(), entry: Box::new(entry) }
    }
}

/// Walks a directory of a tree beside a sorted listing.
struct Beside {
    which: usize,
    entries: Peekable<TreeEntries>,
    /// The place of the next entry.
    next: usize,
    /// Entries that were passed over: the listing does not have them.
    passed: usize,
    /// Those of them that are to be kept, where the listing may lack what is there.
    unseen: Option<Vec<Entry>>,
}

impl Beside {
    /// Returns the entry of that name and its place. Names must be asked for in ascending order.
    fn find(&mut self, name: &[u8]) -> Result<Option<(usize, Entry)>> {
        loop {
            match self.entries.peek() {
                Some(Ok(entry)) if entry.name.as_slice() < name => self.passed += 1,
                Some(Ok(entry)) if entry.name == name => {}
                Some(Ok(_)) | None => return Ok(None),
                Some(Err(_)) => {}
            }
            self.next += 1;
            match self.entries.next() {
                Some(Ok(entry)) if entry.name == name => return Ok(Some((self.next - 1, entry))),
                Some(Ok(entry)) => self.unseen.iter_mut().for_each(|unseen| unseen.push(entry.clone())),
                Some(Err(error)) => return Err(error),
                None => return Ok(None),
            }
        }
    }

    /// Tells whether it has entries that the listing does not have. For the end of the listing.
    fn has_more(&mut self) -> bool {
        self.passed > 0 || self.entries.next().is_some()
    }
}

impl Run<'_> {
    fn beside(&self, node: &DirNode) -> Vec<Beside> {
        let begin = |&(which, id): &(usize, TreeId)| {
            let entries = self.reader.entries(id).peekable();
            Beside { which, entries, next: 0, passed: 0, unseen: None }
        };
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

    /// Counts what is in a directory that is kept as the parent has it.
    fn count_unseen(&self, directory: Option<TreeId>) {
        let mut stack: Vec<TreeId> = directory.into_iter().collect();
        while let Some(directory) = stack.pop() {
            for entry in self.reader.entries(directory) {
                match entry {
                    Ok(entry) => {
                        stack.extend(entry.subtree);
                        self.count_entry(&entry);
                        if entry.kind == EntryKind::File {
                            count(&self.counts.files_unseen);
                        }
                    }
                    // as the parent has it, damage and all: a verification tells
                    Err(error) => {
                        self.comparison_failed(&error);
                        break;
                    }
                }
            }
        }
    }

    /// Counts an entry of the snapshot.
    fn count_entry(&self, entry: &Entry) {
        self.note_owner(entry);
        match entry.kind {
            EntryKind::File => {
                count(&self.counts.files);
                self.counts.bytes.fetch_add(entry.size, Ordering::Relaxed);
            }
            EntryKind::Directory => count(&self.counts.directories),
            _ => count(&self.counts.others),
        }
        self.monitor.advance(lakebed_core::monitor::Progress { entries: 1, bytes: entry.size });
    }

    /// Returns what is needed to make nodes.
    pub(super) fn nodes(&self) -> Nodes<'_> {
        Nodes { reader: &self.reader, chunks: &self.chunks }
    }

    /// Makes the node of a directory whose last entry is finished, and goes on with the directory above if this was its
    /// last one.
    pub(super) fn finish_directory(&self, mut node: Arc<DirNode>) -> Result<()> {
        loop {
            let (id, mut entry) = node.finish(self.nodes())?;
            let Some((parent, slot)) = &node.parent else { return Ok(()) };
            self.counts.directories.fetch_add(1, Ordering::Relaxed);
            if node.comparisons.first() != Some(&(0, id)) {
                parent.differs();
            }
            entry.subtree = Some(id);
            self.note_owner(&entry);
            if !parent.complete(*slot, Some(Finished { entry, equal_to: None }), self.nodes())? {
                return Ok(());
            }
            let parent = parent.clone();
            node = parent;
        }
    }

    pub(super) fn note_owner(&self, entry: &Entry) {
        // nearly always it is the one of the entry before
        let owner = u64::from(entry.uid) << 32 | u64::from(entry.gid);
        if self.last_owner.swap(owner, Ordering::Relaxed) == owner {
            return;
        }
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
    /// Works on a directory or a file.
    pub(super) fn work_on(&mut self, work: Work) -> Result<()> {
        let run = self.run;
        match work {
            Work::File { node, slot, file } => {
                let FileWork { place, path, mut entry, matching } = *file;
                let kept = self.leaf(&mut entry, &matching, &path, &place)?;
                if kept && place.is_root() {
                    count(&run.counts.roots_read);
                }
                match self.settle(&node, slot, kept.then_some(entry), &matching, None)? {
                    true => run.finish_directory(node),
                    false => Ok(()),
                }
            }
            Work::Directory { node, mount, path, entry } => {
                let full_path = [&mount.tree_path[..], &path[..]].concat();
                let is_far = mount.source.manner().readers > 0;
                let opened = self.ask(is_far, || mount.source.open_dir(&path, &entry));
                let listed = opened.and_then(|directory| {
                    let directory: Arc<dyn SourceDir> = directory.into();
                    let listed = Listed { node: &node, mount: &mount, path, full_path: &full_path };
                    let place = Place::within(mount.clone(), directory.clone());
                    Ok(self.entries(&listed, &place, directory.list()?))
                });
                match listed {
                    Ok(result) => result?,
                    // nothing commits any more: what is not seen now is looked at by the next run
                    Err(_) if run.is_stopping() => node.differs(),
                    Err(error) if mount.source.manner().keeps_unseen && node.is_kept_unseen() => {
                        run.entry_unseen(&full_path, &error);
                        if let Some((above, _)) = &node.parent {
                            above.differs();
                        }
                        run.count_unseen(node.stays());
                    }
                    Err(error) => {
                        run.entry_failed(&full_path, &error);
                        node.differs();
                    }
                }
                if node.release() { run.finish_directory(node) } else { Ok(()) }
            }
        }
    }

    fn entries(&mut self, listed: &Listed<'_>, place: &Place, listing: Listing<'_>) -> Result<()> {
        let run = self.run;
        let Listed { node, full_path, .. } = *listed;
        let mut beside = run.beside(node);
        let (mut seen, mut failed) = (0u64, 0);
        let below = |name: &[u8]| [full_path, &[name.to_vec()]].concat();
        let mut matching = Matching::new();
        let mut last_name: Option<Vec<u8>> = None;
        for entry in listing {
            self.pause()?;
            let mut entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    run.entry_failed(full_path, &error);
                    failed += 1;
                    // what such a listing lacks is not proved to be gone
                    let is_parent = |beside: &&mut Beside| {
                        beside.which == 0 && run.comparisons[0].protected && listed.mount.source.manner().keeps_unseen
                    };
                    for beside in beside.iter_mut().filter(is_parent) {
                        beside.unseen.get_or_insert_default();
                    }
                    continue;
                }
            };
            // no node holds a name twice, or one that is none: whoever lists so must not spoil the others
            if !Entry::name_is_valid(&entry.name) || last_name.as_ref().is_some_and(|last| *last >= entry.name) {
                let why = std::io::Error::other("its name is none, or was listed before, or in no order");
                let shown = escape_path(&entry.name);
                run.entry_failed(&below(&entry.name), &SourceError::new("keep", shown, why));
                failed += 1;
                continue;
            }
            last_name = Some(entry.name.clone());
            seen += 1;
            if seen % ENTRIES_BETWEEN_LOOKS == 0 {
                self.catch_up(node)?;
            }
            matching.clear();
            let mut equal_to = None;
            beside.retain_mut(|beside| match beside.find(&entry.name) {
                Ok(found) => {
                    if let Some((at, found)) = found {
                        matching.push((beside.which, found));
                        equal_to = equal_to.or((beside.which == 0).then_some(at));
                    }
                    true
                }
                Err(error) => {
                    run.comparison_failed(&error);
                    node.differs();
                    false
                }
            });
            for unseen in beside.iter_mut().filter_map(|beside| beside.unseen.as_mut()).flat_map(|all| all.drain(..)) {
                self.keep_unseen(node, unseen)?;
            }
            let slot = node.add();
            if entry.kind == EntryKind::Directory {
                let full_path = below(&entry.name);
                let change = place.content_change(&entry);
                if change == ContentChange::Unknown
                    && let Err(error) = run.complete_entry(&mut entry, &matching, &full_path, place)
                {
                    run.keep_doubtful(&mut entry, &full_path, &error);
                }
                if let Some(subtree) = run.taken_over(change, &matching) {
                    entry.subtree = Some(subtree);
                    self.settle(node, slot, Some(entry), &matching, equal_to)?;
                    continue;
                }
                let child = run.child_directory(node, slot, entry.clone(), &matching);
                let mut path = listed.path.clone();
                path.push(entry.name.clone());
                let mount = listed.mount.clone();
                run.queue.push(Work::Directory { node: child, mount, path, entry: Box::new(entry) });
                self.catch_up(node)?;
                continue;
            }
            let full_path = below(&entry.name);
            let takes_long = entry.size >= HANDED_OVER_MIN_BYTES || place.is_far();
            if entry.kind == EntryKind::File && takes_long && run.queue.runs_dry() {
                let matching = std::mem::take(&mut matching);
                let file = Box::new(FileWork { place: place.clone(), path: full_path, entry, matching });
                run.queue.push(Work::File { node: node.clone(), slot, file });
                continue;
            }
            let kept = self.leaf(&mut entry, &matching, &full_path, place)?;
            self.settle(node, slot, kept.then_some(entry), &matching, equal_to)?;
        }
        // a root of which nothing could be looked at was not read
        if listed.path.is_empty() && (seen > 0 || failed == 0) {
            count(&run.counts.roots_read);
        }
        for beside in beside.iter_mut().filter(|beside| beside.unseen.is_some()) {
            for unseen in beside.entries.by_ref() {
                self.keep_unseen(node, unseen?)?;
            }
        }
        // what the tree compared with still has was removed
        if beside.iter_mut().any(|beside| beside.which == 0 && beside.has_more()) {
            node.differs();
        }
        Ok(())
    }

    /// Keeps an entry as the parent has it, marked.
    fn keep_unseen(&self, node: &DirNode, known: Entry) -> Result<()> {
        self.run.count_unseen(known.subtree);
        if known.kind == EntryKind::File {
            count(&self.run.counts.files_unseen);
        }
        let slot = node.add();
        // it is not the last one: whoever lists the directory is at it
        self.settle(node, slot, Some(Entry { inconsistent: true, ..known }), &[], None).map(drop)
    }

    /// Interrupts a listing to work on what waits, where it is so much that memory would grow with the directory.
    ///
    /// Where much waits for what another worker has in hand, this one waits too. Nobody waits for ever: whatever a listing
    /// waits for was begun after it, so those that wait for each other cannot be a circle.
    fn catch_up(&mut self, listed: &DirNode) -> Result<()> {
        let queue = &self.run.queue;
        let nested_max = (NESTED_MAX / queue.workers()).clamp(1, 8);
        loop {
            let holds_much = listed.holds_much();
            if self.nested >= if holds_much { NESTED_MORE * nested_max } else { nested_max } {
                return Ok(());
            }
            if let Some(work) = queue.take_beyond(if holds_much { 0 } else { WAITING_MAX }) {
                self.nested += 1;
                self.work_on(work)?;
                self.nested -= 1;
            } else if !holds_much {
                return Ok(());
            } else if let Some(frame) = queue.take_frame() {
                self.run.chunks.store_frame(&frame)?;
            } else {
                self.pause()?;
                self.run.clock.sleep(LOOK_AGAIN);
            }
        }
    }

    /// Enters what became of an entry that is finished at once. Returns whether it was the last of its directory.
    /// `place`: of its counterpart in the first tree compared with.
    fn settle(
        &self,
        node: &DirNode,
        slot: usize,
        entry: Option<Entry>,
        matching: &[(usize, Entry)],
        place: Option<usize>,
    ) -> Result<bool> {
        let run = self.run;
        let finished = entry.map(|entry| {
            let counterpart = matching.iter().find(|(which, _)| *which == 0).map(|(_, entry)| entry);
            let is_equal = counterpart == Some(&entry);
            if !is_equal {
                node.differs();
            }
            run.count_entry(&entry);
            Finished { entry, equal_to: place.filter(|_| is_equal) }
        });
        node.complete(slot, finished, run.nodes())
    }
}
