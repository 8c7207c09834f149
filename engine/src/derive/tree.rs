//! Trees with something left out: only directories on the way to it are written anew, all others keep their nodes.

use lakebed_core::codec::seal::RepositoryKeys;
use lakebed_core::id::TreeId;
use lakebed_core::monitor::{Monitor, Progress};
use lakebed_core::record::snapshot::Snapshot;
use lakebed_core::record::tree::{Entry, EntryKind, NodeSink, write_directory};

use crate::error::{Error, Result};
use crate::query::join;
use crate::repository::{BlobReader, TreeEntries};

/// What is to be left out of a tree.
pub(crate) trait Edit {
    /// Tells whether an entry stays. A directory that goes takes along what is in it.
    ///
    /// # Errors
    /// It cannot be told: then the edit fails.
    fn keeps(&mut self, path: &[u8], entry: &Entry) -> Result<bool>;

    /// A part of a directory's list cannot be read.
    ///
    /// # Errors
    /// Whatever the edit is to fail with; else the directory goes on without it.
    fn lost_part(&mut self, _path: &[u8], error: Error) -> Result<()> {
        Err(error)
    }

    /// Returns what is in a directory that is known to stay as it is, wherever it lies.
    fn known(&self, _directory: TreeId) -> Option<Totals> {
        None
    }

    /// A directory stays as it is.
    fn unchanged(&mut self, _directory: TreeId, _totals: Totals) {}

    /// Says in the new snapshot's record what came of it.
    fn describe(&mut self, snapshot: &mut Snapshot);
}

/// Entries of a directory and all below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Totals {
    pub(crate) files: u64,
    pub(crate) directories: u64,
    /// Links, pipes, sockets and devices.
    pub(crate) others: u64,
    /// Bytes of all files.
    pub(crate) bytes: u64,
}

impl Totals {
    /// Tells whether there is nothing at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.files + self.directories + self.others == 0
    }

    fn count(&mut self, entry: &Entry) {
        match entry.kind {
            EntryKind::File => {
                self.files += 1;
                // sizes come from storage
                self.bytes = self.bytes.saturating_add(entry.size);
            }
            EntryKind::Directory => self.directories += 1,
            _ => self.others += 1,
        }
    }

    fn add(&mut self, other: Self) {
        self.files += other.files;
        self.directories += other.directories;
        self.others += other.others;
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

/// What an edit came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Edited {
    /// The new tree's topmost node.
    pub(crate) root: TreeId,
    /// What is in the new tree.
    pub(crate) totals: Totals,
}

/// A sink that only says what nodes would be called.
pub(crate) struct NodeNames<'a>(&'a RepositoryKeys);

impl<'a> NodeNames<'a> {
    pub(crate) fn new(keys: &'a RepositoryKeys) -> Self {
        Self(keys)
    }
}

impl NodeSink for NodeNames<'_> {
    type Error = Error;

    fn put_node(&mut self, bytes: Vec<u8>) -> Result<TreeId> {
        Ok(self.0.tree_id(&bytes))
    }
}

/// A directory that is being read.
struct Open {
    id: TreeId,
    path: Vec<u8>,
    /// Its entry in the directory above.
    entry: Option<Entry>,
    entries: TreeEntries,
    kept: Vec<Entry>,
    changed: bool,
    totals: Totals,
}

impl Open {
    fn new(reader: &BlobReader, id: TreeId, path: Vec<u8>, entry: Option<Entry>) -> Self {
        let entries = reader.entries(id);
        Self { id, path, entry, entries, kept: Vec::new(), changed: false, totals: Totals::default() }
    }

    fn keep(&mut self, entry: Entry, below: Totals) {
        self.totals.count(&entry);
        self.totals.add(below);
        self.kept.push(entry);
    }
}

/// Leaves out of a tree what `change` does not keep. Nodes that differ go to `sink`.
///
/// # Errors
/// A node that cannot be read and that `change` does not do without; what the sink says.
pub(crate) fn edit<S: NodeSink<Error = Error>>(
    reader: &BlobReader,
    root: TreeId,
    change: &mut dyn Edit,
    sink: &mut S,
    monitor: &dyn Monitor,
) -> Result<Edited> {
    let mut above: Vec<Open> = Vec::new();
    let mut top = Open::new(reader, root, Vec::new(), None);
    loop {
        if monitor.is_cancelled() {
            return Err(Error::Interrupted);
        }
        match top.entries.next() {
            Some(Ok(entry)) => {
                let path = join(&top.path, &entry.name);
                monitor.advance(Progress { entries: 1, bytes: 0 });
                if !change.keeps(&path, &entry)? {
                    top.changed = true;
                    continue;
                }
                match entry.subtree {
                    Some(subtree) => match change.known(subtree) {
                        Some(totals) => top.keep(entry, totals),
                        None => {
                            let below = Open::new(reader, subtree, path, Some(entry));
                            above.push(std::mem::replace(&mut top, below));
                        }
                    },
                    None => top.keep(entry, Totals::default()),
                }
            }
            Some(Err(error)) => {
                change.lost_part(&top.path, error)?;
                top.changed = true;
            }
            None => {
                let Open { id, entry, kept, changed, totals, .. } = top;
                let id = if changed { write_directory(kept, sink)? } else { id };
                if !changed {
                    change.unchanged(id, totals);
                }
                let (Some(directory), Some(mut entry)) = (above.pop(), entry) else {
                    return Ok(Edited { root: id, totals });
                };
                top = directory;
                entry.subtree = Some(id);
                top.changed |= changed;
                top.keep(entry, totals);
            }
        }
    }
}
