//! Directories and long content lists, cut into nodes item by item.
//!
//! Where a node ends depends on the items in it, and on nothing else. How long an item is counted as is a part of the
//! format: two writers that counted differently would name equal directories differently.

use super::{Content, Entry, Extent, IndexItem, NODE_MAX_BYTES, NODE_MIN_BYTES, Node};
use crate::id::TreeId;

/// Where the nodes of a tree are put, and what names them.
pub trait NodeSink {
    /// Why a node could not be put.
    type Error;

    /// Stores the bytes of a node and returns its name.
    ///
    /// # Errors
    /// The node is not stored.
    fn put_node(&mut self, bytes: Vec<u8>) -> Result<TreeId, Self::Error>;
}

/// Tells whether a node ends after an item with this hash: one in 32 does.
fn is_cut(hash: &[u8; 32]) -> bool {
    hash[0] < 8
}

/// Splits sized items into runs, each of which becomes a node.
#[derive(Debug, Clone)]
struct Runs<T> {
    run: Vec<T>,
    bytes: usize,
}

impl<T> Default for Runs<T> {
    fn default() -> Self {
        Self { run: Vec::new(), bytes: 0 }
    }
}

impl<T> Runs<T> {
    /// Adds an item and passes each run that ends with it, or before it, to `ended`.
    fn push<E>(
        &mut self,
        item: T,
        length: usize,
        cuts_after: impl Fn(&T) -> bool,
        mut ended: impl FnMut(Vec<T>) -> Result<(), E>,
    ) -> Result<(), E> {
        if !self.run.is_empty() && self.bytes + length > NODE_MAX_BYTES {
            ended(self.take())?;
        }
        let cut = self.bytes + length >= NODE_MIN_BYTES && cuts_after(&item);
        self.run.push(item);
        self.bytes += length;
        if cut { ended(self.take()) } else { Ok(()) }
    }

    fn take(&mut self) -> Vec<T> {
        self.bytes = 0;
        std::mem::take(&mut self.run)
    }
}

/// Splits all items of a level above the leaves.
fn runs<T>(items: Vec<T>, size: impl Fn(&T) -> usize, cuts_after: impl Fn(&T) -> bool) -> Vec<Vec<T>> {
    let (mut all, mut runs) = (Vec::new(), Runs::default());
    for item in items {
        let length = size(&item);
        let Ok(()) = runs.push(item, length, &cuts_after, |run| {
            all.push(run);
            Ok::<(), std::convert::Infallible>(())
        });
    }
    if !runs.run.is_empty() {
        all.push(runs.take());
    }
    all
}

/// Upper bound of an entry's encoded size, close enough to cut by and cheap to know.
fn entry_size(entry: &Entry) -> usize {
    let xattrs: usize = entry.xattrs.iter().map(|x| x.name.len() + x.value.len() + 8).sum();
    let attributes: usize = entry.attributes.iter().map(|(name, value)| name.len() + value.len() + 8).sum();
    let unknown: usize = entry.unknown.iter().map(|(_, value)| value.len() + 16).sum();
    let content = match &entry.content {
        Content::None => 0,
        Content::Chunk(_) => 32,
        Content::Extents { extents, .. } => 40 + extents.len() * 40,
        Content::Indirect { .. } => 64,
    };
    entry.name.len()
        + 48
        + entry.link_target.len()
        + xattrs
        + attributes
        + unknown
        + content
        + if entry.subtree.is_some() { 32 } else { 0 }
}

/// Stores a directory's entries, which must be sorted by name, and returns its topmost node.
///
/// # Errors
/// What the sink says.
pub fn write_directory<S: NodeSink>(entries: Vec<Entry>, sink: &mut S) -> Result<TreeId, S::Error> {
    let mut writer = DirectoryWriter::default();
    entries.into_iter().try_for_each(|entry| writer.push(entry, sink))?;
    writer.finish(sink)
}

/// Stores a directory entry by entry. Of a directory of any size it keeps one node, and the names of the others.
#[derive(Debug, Clone, Default)]
pub struct DirectoryWriter {
    runs: Runs<Entry>,
    items: Vec<IndexItem>,
}

impl DirectoryWriter {
    /// Adds the next entry, in the order of their names.
    ///
    /// # Errors
    /// What the sink says.
    pub fn push<S: NodeSink>(&mut self, entry: Entry, sink: &mut S) -> Result<(), S::Error> {
        let (items, length) = (&mut self.items, entry_size(&entry));
        self.runs.push(
            entry,
            length,
            |entry| is_cut(blake3::hash(&entry.name).as_bytes()),
            |run| {
                items.push(put_entries(run, sink)?);
                Ok(())
            },
        )
    }

    /// Returns the topmost node.
    ///
    /// # Errors
    /// What the sink says.
    pub fn finish<S: NodeSink>(mut self, sink: &mut S) -> Result<TreeId, S::Error> {
        if !self.runs.run.is_empty() || self.items.is_empty() {
            self.items.push(put_entries(self.runs.take(), sink)?);
        }
        let mut items = self.items;
        while items.len() > 1 {
            let mut above = Vec::new();
            for run in runs(items, |item| item.first_name.len() + 34, |item| is_cut(item.node.as_bytes())) {
                let first_name = run[0].first_name.clone();
                above.push(IndexItem { first_name, node: sink.put_node(Node::EntryIndex(run).encode())? });
            }
            items = above;
        }
        Ok(items[0].node)
    }
}

fn put_entries<S: NodeSink>(run: Vec<Entry>, sink: &mut S) -> Result<IndexItem, S::Error> {
    let first_name = run.first().map(|entry| entry.name.clone()).unwrap_or_default();
    Ok(IndexItem { first_name, node: sink.put_node(Node::Entries(run).encode())? })
}

/// Stores a long content list and returns its topmost node. The list must not be empty.
///
/// # Errors
/// What the sink says.
pub fn write_extents<S: NodeSink>(extents: Vec<Extent>, sink: &mut S) -> Result<TreeId, S::Error> {
    let mut writer = ExtentsWriter::default();
    extents.into_iter().try_for_each(|extent| writer.push(extent, sink))?;
    writer.finish(sink)
}

/// Stores a content list extent by extent. Of a list of any length it keeps one node, and the names of the others.
#[derive(Debug, Default)]
pub struct ExtentsWriter {
    runs: Runs<Extent>,
    nodes: Vec<TreeId>,
}

impl ExtentsWriter {
    /// Adds the next extent.
    ///
    /// # Errors
    /// What the sink says.
    pub fn push<S: NodeSink>(&mut self, extent: Extent, sink: &mut S) -> Result<(), S::Error> {
        let cuts_after = |extent: &Extent| matches!(extent, Extent::Data { id, .. } if is_cut(id.as_bytes()));
        let nodes = &mut self.nodes;
        self.runs.push(extent, 36, cuts_after, |run| {
            nodes.push(sink.put_node(Node::Extents(run).encode())?);
            Ok(())
        })
    }

    /// Returns the topmost node.
    ///
    /// # Errors
    /// What the sink says.
    pub fn finish<S: NodeSink>(mut self, sink: &mut S) -> Result<TreeId, S::Error> {
        if !self.runs.run.is_empty() || self.nodes.is_empty() {
            self.nodes.push(sink.put_node(Node::Extents(self.runs.take()).encode())?);
        }
        let mut nodes = self.nodes;
        while nodes.len() > 1 {
            let mut above = Vec::new();
            for run in runs(nodes, |_| 32, |node: &TreeId| is_cut(node.as_bytes())) {
                above.push(sink.put_node(Node::ExtentIndex(run).encode())?);
            }
            nodes = above;
        }
        Ok(nodes[0])
    }
}

#[cfg(test)]
mod tests {
    use super::super::{EntryKind, Xattr};
    use super::*;
    use crate::id::{ChunkId, ContentId};

    #[test]
    fn a_run_ends_where_an_item_says_so_or_where_the_next_has_no_room() {
        let lengths = |items: &[(usize, bool)]| -> Vec<usize> {
            runs(items.to_vec(), |item| item.0, |item| item.1).iter().map(Vec::len).collect()
        };
        const MIN: usize = NODE_MIN_BYTES;
        const MAX: usize = NODE_MAX_BYTES;
        assert_eq!(lengths(&[]), [0; 0]);
        // not before it is long enough
        assert_eq!(lengths(&[(MIN - 10, true), (9, true), (1, true)]), [3]);
        assert_eq!(lengths(&[(MIN - 10, true), (9, true), (1, false), (1, true), (1, false)]), [4, 1]);
        assert_eq!(lengths(&[(MIN - 1, true), (1, true), (MIN, true), (MIN - 1, true), (9, false)]), [2, 1, 2]);
        // not after it is too long
        assert_eq!(lengths(&[(MAX - 1, false), (1, false), (1, false)]), [2, 1]);
        assert_eq!(lengths(&[(MAX - 1, false), (2, false), (MAX - 2, false), (1, false)]), [1, 2, 1]);
        // one that is too long by itself is alone
        assert_eq!(lengths(&[(1, false), (MAX + 1, false), (1, false)]), [1, 1, 1]);
    }

    #[test]
    fn what_entries_are_counted_as_is_part_of_the_format() {
        let size = |change: fn(&mut Entry)| {
            let mut entry = Entry::new("name", EntryKind::File);
            change(&mut entry);
            entry_size(&entry)
        };
        let (chunk, hash, node) = (ChunkId::new([1; 32]), ContentId::new([2; 32]), TreeId::new([3; 32]));
        assert_eq!(size(|_| {}), 52);
        assert_eq!(size(|entry| entry.link_target = vec![b'x'; 100]), 152);
        assert_eq!(size(|entry| entry.xattrs = vec![Xattr { name: vec![1; 20], value: vec![2; 300] }; 2]), 708);
        assert_eq!(size(|entry| entry.attributes = vec![("language".into(), vec![1; 6]); 2]), 96);
        assert_eq!(size(|entry| entry.unknown = vec![(9, vec![1; 7]); 2]), 98);
        let content = |content: Content| entry_size(&Entry { content, ..Entry::new("name", EntryKind::File) });
        assert_eq!(content(Content::Chunk(chunk)), 84);
        let extents = vec![Extent::Hole { length: 1 }; 3];
        assert_eq!(content(Content::Extents { hash, extents }), 212);
        assert_eq!(content(Content::Indirect { hash, root: node }), 116);
        assert_eq!(entry_size(&Entry { subtree: Some(node), ..Entry::new("name", EntryKind::Directory) }), 84);
        let all = Entry {
            link_target: vec![1; 1],
            xattrs: vec![Xattr { name: vec![1; 1], value: vec![1; 1] }],
            attributes: vec![("a".into(), vec![1; 1])],
            unknown: vec![(1, vec![1; 1])],
            content: Content::Chunk(chunk),
            subtree: Some(node),
            ..Entry::new("name", EntryKind::Directory)
        };
        assert_eq!(entry_size(&all), 154);
    }
}
