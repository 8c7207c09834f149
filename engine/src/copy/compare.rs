//! Is the copy what the original is? Entry by entry: names, metadata, lengths. Content was checked on the way.

use std::collections::HashSet;

use lakebed_core::id::{SnapshotId, TreeId};
use lakebed_core::record::snapshot::Failure;
use lakebed_core::record::tree::{Content, Entry};
use lakebed_core::text::escape_path;

use crate::error::{Error, Result};
use crate::query::join;
use crate::repository::BlobReader;

/// The same directory in the original and in the copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) original: TreeId,
    pub(super) copy: TreeId,
}

/// Two trees that should be the same.
pub(super) struct Comparison<'a> {
    pub(super) snapshot: SnapshotId,
    pub(super) original: &'a BlobReader,
    pub(super) copy: &'a BlobReader,
    /// Paths of what the copy may lack; of a directory: some of what is in it.
    lacking: HashSet<&'a str>,
}

impl<'a> Comparison<'a> {
    pub(super) fn new(
        snapshot: SnapshotId,
        original: &'a BlobReader,
        copy: &'a BlobReader,
        failures: &'a [Failure],
    ) -> Self {
        let lacking = failures.iter().map(|failure| failure.path.as_str()).collect();
        Self { snapshot, original, copy, lacking }
    }

    /// Compares two trees. Directories that are as in a pair of trees that were found to be the same are passed over.
    ///
    /// # Errors
    /// They differ; a node cannot be read.
    pub(super) fn check(&self, roots: Pair, known: Option<Pair>) -> Result<()> {
        let mut open = vec![(roots, known, Vec::new())];
        while let Some((pair, known, path)) = open.pop() {
            if known == Some(pair) {
                continue;
            }
            self.directory(pair, &path, &mut |name, below| {
                let known = known.and_then(|known| {
                    let original = self.original.lookup_name(known.original, name).ok()??.subtree?;
                    let copy = self.copy.lookup_name(known.copy, name).ok()??.subtree?;
                    Some(Pair { original, copy })
                });
                open.push((below, known, join(&path, name)));
            })?;
        }
        Ok(())
    }

    fn differs(&self, path: &[u8], what: &'static str) -> Error {
        Error::CopyDiffers { snapshot: self.snapshot, path: escape_path(path), what }
    }

    fn surplus(&self, directory: &[u8], copied: &Entry) -> Error {
        self.differs(&join(directory, &copied.name), "the original does not have it")
    }

    fn directory(&self, pair: Pair, path: &[u8], descend: &mut dyn FnMut(&[u8], Pair)) -> Result<()> {
        let lacks_some = self.lacking.contains(escape_path(path).as_str());
        let mut copies = self.copy.entries(pair.copy).peekable();
        for entry in self.original.entries(pair.original) {
            let entry = match entry {
                Err(_) if lacks_some => continue,
                entry => entry?,
            };
            if let Some(Ok(copied)) = copies.peek()
                && copied.name < entry.name
            {
                return Err(self.surplus(path, copied));
            }
            let full = join(path, &entry.name);
            match copies.next_if(|copied| copied.as_ref().map_or(true, |copied| copied.name == entry.name)) {
                Some(copied) => {
                    let copied = copied?;
                    if let (Some(original), Some(copy)) = (entry.subtree, copied.subtree) {
                        descend(&entry.name, Pair { original, copy });
                    }
                    self.entry(entry, copied, &full)?;
                }
                None if lacks_some || self.lacking.contains(escape_path(&full).as_str()) => {}
                None => return Err(self.differs(&full, "it is missing")),
            }
        }
        match copies.next().transpose()? {
            Some(copied) => Err(self.surplus(path, &copied)),
            None => Ok(()),
        }
    }

    fn entry(&self, mut original: Entry, mut copied: Entry, path: &[u8]) -> Result<()> {
        if let Content::Indirect { .. } = copied.content {
            // the lengths of all others were compared with the size when the node was decoded
            self.copy.extent_runs(&copied).try_for_each(|run| run.map(drop))?;
        }
        // ids are each repository's own
        (original.content, original.subtree) = (Content::None, None);
        (copied.content, copied.subtree) = (Content::None, None);
        match (original == copied, original.size == copied.size) {
            (true, _) => Ok(()),
            (false, true) => Err(self.differs(path, "its metadata are others")),
            (false, false) => Err(self.differs(path, "it has another length")),
        }
    }
}

#[cfg(test)]
mod tests {
    use lakebed_core::id::SessionId;
    use lakebed_core::record::tree::{EntryKind, write_directory};

    use super::*;
    use crate::repository::testing::reader_of;

    const ID: SessionId = SessionId::new([1; 32]);

    fn entry(name: &str, kind: EntryKind) -> Entry {
        Entry::new(name, kind)
    }

    /// Stores trees and returns them with a reader for all of them.
    fn stored(make: impl FnOnce(&mut dyn FnMut(Vec<Entry>) -> TreeId) -> Vec<TreeId>) -> (BlobReader, Vec<TreeId>) {
        reader_of(|store| make(&mut |entries| write_directory(entries, &mut store.node_sink()).unwrap()))
    }

    fn failure(path: &str) -> Failure {
        Failure { path: path.into(), reason: "damaged".into() }
    }

    #[test]
    fn every_difference_is_told_with_its_path() {
        type Change = (&'static str, fn(&mut Vec<Entry>));
        let changes: [Change; 5] = [
            ("at `sub/b`: it is missing", |entries| drop(entries.remove(1))),
            ("at `sub/c`: the original does not have it", |entries| entries.push(entry("c", EntryKind::Fifo))),
            ("at `sub/b`: its metadata are others", |entries| entries[1].mode = 0o600),
            ("at `sub/b`: its metadata are others", |entries| entries[1].kind = EntryKind::Socket),
            ("at `sub/a0`: the original does not have it", |entries| entries.insert(1, entry("a0", EntryKind::Fifo))),
        ];
        let below = || vec![entry("a", EntryKind::Fifo), entry("b", EntryKind::Fifo)];
        let (reader, trees) = stored(|store| {
            let mut above = |entries| {
                let subtree = Some(store(entries));
                store(vec![Entry { subtree, ..entry("sub", EntryKind::Directory) }])
            };
            let mut trees = vec![above(below())];
            for (_, change) in changes {
                let mut entries = below();
                change(&mut entries);
                trees.push(above(entries));
            }
            trees
        });
        let original = trees[0];
        let comparison = Comparison::new(ID, &reader, &reader, &[]);
        comparison.check(Pair { original, copy: original }, None).unwrap();
        for ((expected, _), &copy) in changes.iter().zip(&trees[1..]) {
            let error = comparison.check(Pair { original, copy }, None).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
            // nobody looks again into what was found to be the same
            comparison.check(Pair { original, copy }, Some(Pair { original, copy })).unwrap();
        }
        let missing = Pair { original, copy: trees[1] };
        for lacking in ["sub/b", "sub"] {
            Comparison::new(ID, &reader, &reader, &[failure(lacking)]).check(missing, None).unwrap();
        }
        assert!(Comparison::new(ID, &reader, &reader, &[failure("sub/a")]).check(missing, None).is_err());
    }
}
