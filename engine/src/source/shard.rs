//! `ShardSource`: the part of a source that is one machine's, where several take a snapshot together.
//!
//! Each directory belongs to one shard, by the hash of its path in the snapshot: which one depends on nothing else, so
//! that every machine comes to the same, also where the source changes meanwhile. A shard has every directory, and in
//! those that are its own everything that is no directory. A source that is a single file is in every shard.

use std::sync::Arc;

use lakebed_core::record::snapshot::Shard;
use lakebed_core::record::tree::{Entry, EntryKind};
use lakebed_core::source::{ContentChange, Listing, Source, SourceDir, SourceError, SourceFile};

use super::Mount;

/// Tells whether a directory is a shard's, by its path in the snapshot.
pub(crate) fn owns(shard: &Shard, path: &[u8]) -> bool {
    let hash = lakebed_core::hash::object_hash(path);
    let [a, b, c, d, e, f, g, h, ..] = *hash.as_bytes();
    u64::from_be_bytes([a, b, c, d, e, f, g, h]) % u64::from(shard.count.max(1)) == u64::from(shard.index)
}

/// Leaves of a mount what is a shard's.
pub(crate) fn shard_of(mount: Mount, shard: &Shard) -> Mount {
    let source = ShardSource { inner: mount.source, tree_path: mount.tree_path.join(&b'/'), shard: shard.clone() };
    Mount { source: Arc::new(source), ..mount }
}

struct ShardSource {
    inner: Arc<dyn Source>,
    /// Where it lies in the snapshot.
    tree_path: Vec<u8>,
    shard: Shard,
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
        let mut full = self.tree_path.clone();
        for name in path {
            if !full.is_empty() {
                full.push(b'/');
            }
            full.extend_from_slice(name);
        }
        Ok(if owns(&self.shard, &full) { inner } else { Box::new(OthersDir { inner }) })
    }

    fn open_root(&self) -> Result<Box<dyn SourceFile>, SourceError> {
        self.inner.open_root()
    }
}

/// A directory of another shard: only the directories in it count.
struct OthersDir {
    inner: Box<dyn SourceDir>,
}

impl SourceDir for OthersDir {
    fn list(&self) -> Result<Listing<'_>, SourceError> {
        self.inner.list_directories()
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
            (ContentChange::Unchanged, EntryKind::Directory) => ContentChange::Unknown,
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

    #[test]
    fn each_directory_is_of_one_shard_and_they_are_spread() {
        let count = 8;
        let shards = (0..count).map(|index| Shard { run: "night".into(), index, count });
        let paths: Vec<String> = (0..2000).map(|n| format!("Clients/2026/{n}/NOTEBOOKS")).collect();
        let owned: Vec<Vec<bool>> =
            shards.map(|shard| paths.iter().map(|path| owns(&shard, path.as_bytes())).collect()).collect();
        for at in 0..paths.len() {
            assert_eq!(owned.iter().filter(|shard| shard[at]).count(), 1);
        }
        for shard in owned {
            let share = shard.iter().filter(|owns| **owns).count();
            assert!((150..350).contains(&share), "{share} of 2000");
        }
    }
}
