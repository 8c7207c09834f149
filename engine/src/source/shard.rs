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

/// How the directories below a source are divided among shards.
#[derive(Debug, Clone)]
struct Division {
    /// Where the source lies in the snapshot, by the names from the top down.
    base: Vec<Vec<u8>>,
    shard: Shard,
}

impl Division {
    /// At least 1: the source itself is everybody's.
    fn depth(&self) -> usize {
        self.shard.depth.map_or(usize::MAX, |depth| usize::try_from(depth).unwrap_or(usize::MAX).max(1))
    }

    /// Tells whether a directory is a shard's, by its path below the source.
    fn owns(&self, path: &[Vec<u8>]) -> bool {
        let names: Vec<&[u8]> = self.base.iter().chain(path.iter().take(self.depth())).map(Vec::as_slice).collect();
        let hash = lakebed_core::hash::object_hash(&names.join(&b'/'));
        let [a, b, c, d, e, f, g, h, ..] = *hash.as_bytes();
        let number = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
        number % u64::from(self.shard.count.max(1)) == u64::from(self.shard.index)
    }
}

/// How the directories of a snapshot are divided, which may be of several sources. Paths are those in the snapshot.
#[derive(Debug, Clone)]
pub(crate) struct Divisions {
    /// Those that lie deepest first; the last one is of what lies above and beside all sources.
    all: Vec<Division>,
}

impl Divisions {
    /// Divides sources that lie at these places.
    pub(crate) fn new(bases: impl IntoIterator<Item = Vec<Vec<u8>>>, shard: &Shard) -> Self {
        let mut bases: Vec<_> = bases.into_iter().chain([Vec::new()]).collect();
        bases.sort_by_key(|base| std::cmp::Reverse(base.len()));
        Self { all: bases.into_iter().map(|base| Division { base, shard: shard.clone() }).collect() }
    }

    /// Returns the division that counts for a path, and the path below its source.
    fn of<'n>(&self, path: &'n [Vec<u8>]) -> Option<(&Division, &'n [Vec<u8>])> {
        self.all.iter().find_map(|division| Some((division, path.strip_prefix(division.base.as_slice())?)))
    }

    /// Tells whether a directory is the shard's.
    pub(crate) fn owns(&self, path: &[Vec<u8>]) -> bool {
        self.of(path).is_some_and(|(division, below)| division.owns(below))
    }

    /// Tells whether every shard has the directories in this one.
    fn is_above_shared(&self, path: &[Vec<u8>]) -> bool {
        self.of(path).is_some_and(|(division, below)| below.len() + 1 < division.depth())
    }

    /// Tells whether a directory is a single shard's with all that is in it.
    pub(crate) fn is_whole(&self, path: &[Vec<u8>]) -> bool {
        !self.leads_to_source(path) && self.of(path).is_some_and(|(division, below)| below.len() >= division.depth())
    }

    /// Tells whether a source lies at or below a path.
    fn leads_to_source(&self, path: &[Vec<u8>]) -> bool {
        self.all.iter().any(|division| division.base.starts_with(path))
    }
}

/// Leaves of a mount what is a shard's.
pub(crate) fn shard_of(mount: Mount, shard: &Shard) -> Mount {
    let base = mount.tree_path.clone();
    let bases = mount.source.parts().into_iter().map(|(names, _)| [&base[..], &names[..]].concat());
    let source = ShardSource { divisions: Divisions::new(bases, shard), inner: mount.source, base };
    Mount { source: Arc::new(source), ..mount }
}

struct ShardSource {
    inner: Arc<dyn Source>,
    /// Where the source lies in the snapshot.
    base: Vec<Vec<u8>>,
    divisions: Divisions,
}

impl Source for ShardSource {
    forward_source!(inner);

    fn open_dir(&self, path: &[Vec<u8>], expected: &Entry) -> Result<Box<dyn SourceDir>, SourceError> {
        let inner = self.inner.open_dir(path, expected)?;
        let path = [&self.base[..], path].concat();
        // nobody is led here whose it is not
        if self.divisions.is_whole(&path) {
            return Ok(inner);
        }
        Ok(Box::new(SharedDir { inner, path, divisions: self.divisions.clone() }))
    }
}

/// A directory above the depth at which all that is in one is a single shard's.
struct SharedDir {
    inner: Box<dyn SourceDir>,
    /// Its path in the snapshot.
    path: Vec<Vec<u8>>,
    divisions: Divisions,
}

impl SharedDir {
    fn is_wanted(&self, entry: &Entry) -> bool {
        if entry.kind != EntryKind::Directory || self.divisions.is_above_shared(&self.path) {
            return true;
        }
        let path = [&self.path[..], std::slice::from_ref(&entry.name)].concat();
        self.divisions.owns(&path) || self.divisions.leads_to_source(&path)
    }
}

impl SourceDir for SharedDir {
    fn list(&self) -> Result<Listing<'_>, SourceError> {
        let listing = match self.divisions.owns(&self.path) {
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
            (ContentChange::Unchanged, EntryKind::Directory) if self.divisions.is_above_shared(&self.path) => {
                ContentChange::Unknown
            }
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

    fn names(path: &str) -> Vec<Vec<u8>> {
        path.split('/').filter(|name| !name.is_empty()).map(|name| name.as_bytes().to_vec()).collect()
    }

    fn shards(count: u32, depth: Option<u32>) -> Vec<Divisions> {
        let shard = |index| Shard { run: "night".into(), index, count, depth };
        (0..count).map(|index| Divisions::new([names("mnt")], &shard(index))).collect()
    }

    /// Returns whose a directory is: of exactly one.
    fn owner(shards: &[Divisions], path: &str) -> usize {
        let path_below = names(&format!("mnt/{path}"));
        let owners: Vec<usize> = (0..shards.len()).filter(|at| shards[*at].owns(&path_below)).collect();
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

    #[test]
    fn whoever_owns_something_in_a_source_is_led_to_it() {
        let shard = |index| Shard { run: "night".into(), index, count: 8, depth: Some(1) };
        for index in 0..8 {
            let divisions = Divisions::new([names("a/b/c"), names("d")], &shard(index));
            assert!(["a", "a/b", "a/b/c", "d"].iter().all(|path| divisions.leads_to_source(&names(path))));
            assert!(!divisions.is_whole(&names("a/b")) && !divisions.is_whole(&names("a/b/c")));
            assert!(divisions.is_whole(&names("a/b/c/x")) && divisions.is_whole(&names("x")));
        }
    }
}
