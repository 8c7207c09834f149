//! `shard_of`: the part of a source that is one machine's, where several take a snapshot together.
//!
//! Each directory belongs to one shard, by the hash of its path in the snapshot: which one depends on nothing else, so
//! that every machine comes to the same, also where the source changes meanwhile. Directories at a certain depth below the
//! source are a shard's with all that is in them, and the others do not look at them. Of what lies above that a shard has
//! every directory, and in those that are its own everything that is no directory. A source that is a single file is in
//! every shard.

use std::sync::Arc;

use lakebed_core::record::snapshot::Shard;
use lakebed_core::record::tree::{Entry, EntryKind};
use lakebed_core::source::{ContentChange, Listing, Source, SourceDir, SourceError, SourceFile};

use super::Mount;

/// How directories are divided among shards.
#[derive(Debug, Clone)]
pub(crate) struct Division {
    /// Where a source lies in the snapshot, by the names from the top down.
    base: Vec<Vec<u8>>,
    shard: Shard,
}

impl Division {
    /// Divides a source.
    pub(crate) fn new(base: Vec<Vec<u8>>, shard: &Shard) -> Self {
        Self { base, shard: shard.clone() }
    }

    /// At least 1: the source itself is everybody's.
    fn depth(&self) -> usize {
        self.shard.depth.map_or(usize::MAX, |depth| usize::try_from(depth).unwrap_or(usize::MAX).max(1))
    }

    /// Returns the names below the source of a path in the snapshot that leads there.
    pub(crate) fn below<'n>(&self, path: &'n [Vec<u8>]) -> Option<&'n [Vec<u8>]> {
        path.strip_prefix(self.base.as_slice())
    }

    /// Tells whether a directory is a shard's, by its path below the source.
    pub(crate) fn owns<'n>(&'n self, path: impl IntoIterator<Item = &'n [u8]>) -> bool {
        let base = self.base.iter().map(Vec::as_slice);
        let names: Vec<&[u8]> = base.chain(path.into_iter().take(self.depth())).collect();
        let hash = lakebed_core::hash::object_hash(&names.join(&b'/'));
        let [a, b, c, d, e, f, g, h, ..] = *hash.as_bytes();
        let number = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
        number % u64::from(self.shard.count.max(1)) == u64::from(self.shard.index)
    }
}

/// Leaves of a mount what is a shard's.
pub(crate) fn shard_of(mount: Mount, shard: &Shard) -> Mount {
    let source = ShardSource { inner: mount.source, division: Division::new(mount.tree_path.clone(), shard) };
    Mount { source: Arc::new(source), ..mount }
}

struct ShardSource {
    inner: Arc<dyn Source>,
    division: Division,
}

impl Source for ShardSource {
    fn uri(&self) -> String {
        self.inner.uri()
    }

    fn root(&self) -> Result<Entry, SourceError> {
        self.inner.root()
    }

    fn complete_root(&self, entry: &mut Entry) -> Result<(), SourceError> {
        self.inner.complete_root(entry)
    }

    fn open_dir(&self, path: &[Vec<u8>], expected: &Entry) -> Result<Box<dyn SourceDir>, SourceError> {
        let inner = self.inner.open_dir(path, expected)?;
        if path.len() >= self.division.depth() {
            // nobody is led here whose it is not
            return Ok(inner);
        }
        Ok(Box::new(SharedDir { inner, path: path.to_vec(), division: self.division.clone() }))
    }

    fn open_root(&self) -> Result<Box<dyn SourceFile>, SourceError> {
        self.inner.open_root()
    }
}

/// A directory above the depth at which all that is in one is a single shard's.
struct SharedDir {
    inner: Box<dyn SourceDir>,
    path: Vec<Vec<u8>>,
    division: Division,
}

impl SharedDir {
    fn path(&self) -> impl Iterator<Item = &[u8]> {
        self.path.iter().map(Vec::as_slice)
    }

    /// Tells whether every shard has the directories in this one.
    fn is_above_shared(&self) -> bool {
        self.path.len() + 1 < self.division.depth()
    }

    fn is_wanted(&self, entry: &Entry) -> bool {
        entry.kind != EntryKind::Directory
            || self.is_above_shared()
            || self.division.owns(self.path().chain([entry.name.as_slice()]))
    }
}

impl SourceDir for SharedDir {
    fn list(&self) -> Result<Listing<'_>, SourceError> {
        let listing = match self.division.owns(self.path()) {
            true => self.inner.list()?,
            false => self.inner.list_directories()?,
        };
        Ok(Box::new(listing.filter(|entry| entry.as_ref().map_or(true, |entry| self.is_wanted(entry)))))
    }

    fn look_again(&self, name: &[u8]) -> Result<Entry, SourceError> {
        self.inner.look_again(name)
    }

    fn complete(&self, entry: &mut Entry) -> Result<(), SourceError> {
        self.inner.complete(entry)
    }

    /// What is unchanged as a whole is not as a part.
    fn content_change(&self, entry: &Entry) -> ContentChange {
        match (self.inner.content_change(entry), entry.kind) {
            (ContentChange::Unchanged, EntryKind::Directory) if self.is_above_shared() => ContentChange::Unknown,
            (change, _) => change,
        }
    }

    fn open(&self, entry: &Entry) -> Result<Box<dyn SourceFile>, SourceError> {
        self.inner.open(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shards(count: u32, depth: Option<u32>) -> Vec<Division> {
        let shard = |index| Shard { run: "night".into(), index, count, depth };
        (0..count).map(|index| Division::new(vec![b"mnt".to_vec()], &shard(index))).collect()
    }

    /// Returns whose a directory is: of exactly one.
    fn owner(shards: &[Division], path: &str) -> usize {
        let names = || path.split('/').filter(|name| !name.is_empty()).map(str::as_bytes);
        let owners: Vec<usize> = (0..shards.len()).filter(|at| shards[*at].owns(names())).collect();
        assert_eq!(owners.len(), 1, "{path}");
        owners[0]
    }

    #[test]
    fn each_directory_is_of_one_shard_and_they_are_spread() {
        for depth in [None, Some(3)] {
            let shards = shards(8, depth);
            let mut shares = [0; 8];
            (0..2000).for_each(|n| shares[owner(&shards, &format!("Clients/2026/{n}/NOTEBOOKS"))] += 1);
            assert!(shares.iter().all(|share| (150..350).contains(share)), "{shares:?}");
        }
    }

    #[test]
    fn at_a_depth_a_directory_goes_with_all_that_is_in_it() {
        let shards = shards(8, Some(2));
        for n in 0..50 {
            let top = owner(&shards, &format!("a/{n}"));
            assert_eq!(owner(&shards, &format!("a/{n}/x")), top);
            assert_eq!(owner(&shards, &format!("a/{n}/x/{n}/y")), top);
        }
        let above: Vec<usize> = (0..50).map(|n| owner(&shards, &n.to_string())).collect();
        assert!(above.iter().any(|owner| *owner != above[0]));
    }
}
