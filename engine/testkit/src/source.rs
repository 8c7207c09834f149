//! A source in memory: a described tree as a backup sees it, without any file system.

use std::collections::BTreeSet;
use std::io::{Error, ErrorKind};
use std::ops::Range;
use std::sync::Arc;

use lakebed_core::record::tree::{Entry, EntryKind, Xattr};
use lakebed_core::source::{Fingerprint, Listing, Source, SourceDir, SourceError, SourceFile};
use lakebed_core::text::escape_path;

use crate::tree::{Content, Item, ItemKind, TreeSpec};

/// The device number of everything.
const DEVICE: u64 = 1;

/// A described tree as a source. Clones share it.
///
/// Entries belong to this process's user and have the number that their path hashes to; their change time is that of
/// their content. So what is changed in place must get another time, or nobody can see it.
#[derive(Debug, Clone)]
pub struct MemorySource {
    tree: Arc<TreeSpec>,
    /// Paths of files that have further names.
    linked: Arc<BTreeSet<Vec<u8>>>,
}

impl MemorySource {
    /// Builds a source of a tree.
    pub fn new(tree: TreeSpec) -> Self {
        let targets = tree.items().filter_map(|(_, item)| tree.link_target(item));
        let linked = Arc::new(targets.collect());
        Self { tree: Arc::new(tree), linked }
    }

    /// Returns the tree.
    pub fn tree(&self) -> &TreeSpec {
        &self.tree
    }

    /// Returns every entry below the root with its path and, of a file, its bytes, as a snapshot of the source has them.
    pub fn entries(&self) -> impl Iterator<Item = (&[u8], Entry, Option<Vec<u8>>)> {
        let below = self.tree.items().filter(|(path, _)| !path.is_empty());
        below.filter_map(|(path, _)| Some((path, self.entry(path)?, self.content(path).map(Content::bytes))))
    }

    /// Finds what lies at a path, and where it lies if the path is a further name of it.
    fn resolve(&self, path: &[u8]) -> Option<(Vec<u8>, &Item)> {
        let item = self.tree.get(path)?;
        match self.tree.link_target(item) {
            Some(target) => self.tree.get(&target).map(|item| (target, item)),
            // a link to nothing is not made
            None if matches!(item.kind, ItemKind::HardLink(_)) => None,
            None => Some((path.to_vec(), item)),
        }
    }

    fn content(&self, path: &[u8]) -> Option<&Content> {
        match &self.resolve(path)?.1.kind {
            ItemKind::File(content) => Some(content),
            _ => None,
        }
    }

    /// Describes what lies at a path.
    fn entry(&self, path: &[u8]) -> Option<Entry> {
        let (place, item) = self.resolve(path)?;
        let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
        let kind = match item.kind {
            ItemKind::File(_) | ItemKind::HardLink(_) => EntryKind::File,
            ItemKind::Directory => EntryKind::Directory,
            ItemKind::Symlink(_) => EntryKind::Symlink,
            ItemKind::Fifo => EntryKind::Fifo,
            ItemKind::Socket => EntryKind::Socket,
        };
        let mut entry = Entry::new(name, kind);
        entry.mode = if kind == EntryKind::Symlink { 0o777 } else { item.mode };
        entry.uid = rustix::process::geteuid().as_raw();
        entry.gid = rustix::process::getegid().as_raw();
        (entry.mtime, entry.ctime) = (item.mtime, item.mtime);
        let hash = *blake3::hash(&place).as_bytes();
        entry.inode = u64::from_le_bytes(*hash.first_chunk().expect("a hash has more bytes"));
        entry.hard_link_device = self.linked.contains(&place).then_some(DEVICE);
        if let ItemKind::File(content) = &item.kind {
            entry.size = content.len();
        }
        if let ItemKind::Symlink(target) = &item.kind {
            entry.link_target.clone_from(&target.0);
        }
        let xattrs = item.xattrs.iter();
        entry.xattrs = xattrs.map(|(name, value)| Xattr { name: name.0.clone(), value: value.0.clone() }).collect();
        Some(entry)
    }

    fn open(&self, path: &[u8]) -> Result<Box<dyn SourceFile>, SourceError> {
        match (self.entry(path), self.content(path)) {
            (Some(entry), Some(content)) => Ok(Box::new(MemoryFile::new(entry, content))),
            _ => Err(failure("open", path, ErrorKind::NotFound)),
        }
    }
}

fn failure(operation: &'static str, path: &[u8], kind: ErrorKind) -> SourceError {
    SourceError::new(operation, escape_path(path), Error::from(kind))
}

impl Source for MemorySource {
    fn uri(&self) -> String {
        "memory:tree".into()
    }

    fn root(&self) -> Result<Entry, SourceError> {
        self.entry(b"").ok_or_else(|| failure("list", b"", ErrorKind::NotFound))
    }

    fn open_dir(&self, path: &[Vec<u8>], _: &Entry) -> Result<Box<dyn SourceDir>, SourceError> {
        let path = path.join(&b'/');
        match self.tree.get(&path).map(|item| &item.kind) {
            Some(ItemKind::Directory) => Ok(Box::new(MemoryDir { source: self.clone(), path })),
            Some(_) => Err(failure("list", &path, ErrorKind::NotADirectory)),
            None => Err(failure("list", &path, ErrorKind::NotFound)),
        }
    }

    fn open_root(&self) -> Result<Box<dyn SourceFile>, SourceError> {
        Err(failure("open", b"", ErrorKind::IsADirectory))
    }
}

struct MemoryDir {
    source: MemorySource,
    path: Vec<u8>,
}

impl MemoryDir {
    fn below(&self, name: &[u8]) -> Vec<u8> {
        if self.path.is_empty() { name.to_vec() } else { [&self.path, name].join(&b'/') }
    }
}

impl SourceDir for MemoryDir {
    fn list(&self) -> Result<Listing<'_>, SourceError> {
        let prefix = self.below(b"");
        let is_here =
            |path: &[u8]| path.strip_prefix(&prefix[..]).is_some_and(|name| !name.is_empty() && !name.contains(&b'/'));
        let paths = self.source.tree.items().map(|(path, _)| path).filter(|path| is_here(path));
        let mut entries: Vec<_> = paths.filter_map(|path| self.source.entry(path)).collect();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        for entry in &mut entries {
            // what costs a real source more comes when it is asked for
            entry.link_target.clear();
            entry.xattrs.clear();
        }
        Ok(Box::new(entries.into_iter().map(Ok)))
    }

    fn complete(&self, entry: &mut Entry) -> Result<(), SourceError> {
        let path = self.below(&entry.name);
        *entry =
            self.source.entry(&path).ok_or_else(|| failure("read the attributes of", &path, ErrorKind::NotFound))?;
        Ok(())
    }

    fn open(&self, entry: &Entry) -> Result<Box<dyn SourceFile>, SourceError> {
        self.source.open(&self.below(&entry.name))
    }
}

struct MemoryFile {
    entry: Entry,
    bytes: Vec<u8>,
    /// Where data are, in order.
    data: Vec<Range<u64>>,
    at: usize,
}

impl MemoryFile {
    fn new(entry: Entry, content: &Content) -> Self {
        Self { entry, bytes: content.bytes(), data: content.data_ranges(), at: 0 }
    }
}

impl SourceFile for MemoryFile {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, SourceError> {
        let rest = &self.bytes[self.at..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.at += count;
        Ok(count)
    }

    fn next_data(&mut self, offset: u64) -> Result<Option<Range<u64>>, SourceError> {
        let next = self.data.iter().find(|range| range.end > offset).map(|range| range.start.max(offset)..range.end);
        if let Some(range) = &next {
            self.at = usize::try_from(range.start).expect("it lies within the bytes");
        }
        Ok(next)
    }

    fn fingerprint(&mut self) -> Result<Fingerprint, SourceError> {
        let Entry { size, mtime, ctime, inode, .. } = self.entry;
        Ok(Fingerprint { size, mtime, ctime, inode })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategies::arb_tree;
    use proptest::prelude::*;

    /// Reads everything through the source, as a backup does.
    /// A path, its entry, and the content of a file.
    type Found = (Vec<u8>, Entry, Option<Vec<u8>>);

    fn read_all(source: &MemorySource, path: Vec<Vec<u8>>, found: &mut Vec<Found>) {
        let dir = source.open_dir(&path, &source.root().unwrap()).unwrap();
        for entry in dir.list().unwrap() {
            let mut entry = entry.unwrap();
            dir.complete(&mut entry).unwrap();
            let mut below = path.clone();
            below.push(entry.name.clone());
            let is_directory = entry.kind == EntryKind::Directory;
            let content = (entry.kind == EntryKind::File).then(|| {
                let mut file = dir.open(&entry).unwrap();
                let mut bytes = vec![0; usize::try_from(entry.size).unwrap()];
                let mut offset = 0;
                while let Some(range) = file.next_data(offset).unwrap() {
                    let mut filled = range.start as usize;
                    while filled < range.end as usize {
                        filled += file.read(&mut bytes[filled..range.end as usize]).unwrap();
                    }
                    offset = range.end;
                }
                bytes
            });
            found.push((below.join(&b'/'), entry, content));
            if is_directory {
                read_all(source, below, found);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn what_is_described_is_what_is_read(tree in arb_tree()) {
            let source = MemorySource::new(tree);
            let mut found = Vec::new();
            read_all(&source, Vec::new(), &mut found);
            found.sort_by(|a, b| a.0.cmp(&b.0));
            let expected: Vec<_> = source.entries().map(|(path, entry, bytes)| (path.to_vec(), entry, bytes)).collect();
            prop_assert!(found == expected);
        }
    }

    #[test]
    fn further_names_are_the_same_file() {
        let source = MemorySource::new(TreeSpec::new().file("a", "x").hard_link("b", "a").file("c", "x"));
        let entries: Vec<_> = source.entries().map(|(_, entry, _)| entry).collect();
        assert_eq!((entries[0].inode, entries[0].hard_link_device), (entries[1].inode, Some(DEVICE)));
        assert_ne!(entries[0].inode, entries[2].inode);
        assert_eq!((entries[1].size, entries[2].hard_link_device), (1, None));
    }
}
