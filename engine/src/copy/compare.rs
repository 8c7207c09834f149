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

    fn directory(&self, pair: Pair, path: &[u8], descend: &mut dyn FnMut(&[u8], Pair)) -> Result<()> {
        let lacks_some = self.lacking.contains(escape_path(path).as_str());
        let mut copies = self.copy.entries(pair.copy).peekable();
        for entry in self.original.entries(pair.original) {
            let entry = match entry {
                Err(_) if lacks_some => continue,
                entry => entry?,
            };
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
            Some(copied) => Err(self.differs(&join(path, &copied.name), "the original does not have it")),
            None => Ok(()),
        }
    }

    fn entry(&self, mut original: Entry, mut copied: Entry, path: &[u8]) -> Result<()> {
        if let Content::Indirect { .. } = copied.content {
            // the lengths of all others were compared with the size when the node was decoded
            self.copy.extents(&copied)?;
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
