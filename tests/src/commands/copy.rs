//! Plain copies: what a snapshot must hold, known without the repository.

use std::path::Path;

use lakebed_engine::Result;
use lakebed_engine::Silent;
use lakebed_engine::core::record::tree::{Content, Entry, EntryKind};
use lakebed_engine::core::source::Source;
use lakebed_engine::core::text::escape_path;
use lakebed_engine::query::{Listed, walk, write_content};
use lakebed_engine::repository::{BlobReader, SnapshotInfo};
use lakebed_engine::restore::{RestoreOptions, restore};
use lakebed_testkit::compare::{CompareOptions, assert_same_tree};
use lakebed_testkit::source::MemorySource;
use lakebed_testkit::tree::TreeSpec;
use tempfile::TempDir;

/// Where the source lies in every snapshot.
pub const MOUNT: &str = "source";

/// An entry with its path and, of a file, its bytes.
type Held = (Vec<u8>, Entry, Option<Vec<u8>>);

/// What a snapshot of a tree must hold.
#[derive(Debug, Clone)]
pub struct Copy {
    tree: TreeSpec,
    held: Vec<Held>,
}

impl PartialEq for Copy {
    fn eq(&self, other: &Self) -> bool {
        self.held == other.held
    }
}

/// Takes away what only the repository knows: where the bytes are.
fn plain(mut entry: Entry) -> Entry {
    entry.content = Content::None;
    entry.subtree = None;
    entry
}

impl Copy {
    /// Copies a tree as it is now.
    pub fn of(tree: &TreeSpec) -> Self {
        let source = MemorySource::new(tree.clone());
        let mut root = source.root().unwrap();
        root.name = MOUNT.into();
        let mut held = vec![(MOUNT.into(), root, None)];
        let below = |path: &[u8]| [MOUNT.as_bytes(), path].join(&b'/');
        held.extend(source.entries().map(|(path, entry, bytes)| (below(path), entry, bytes)));
        Self { tree: tree.clone(), held }
    }

    /// Reads a snapshot and tells whether it holds what it must.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn is_held_by(&self, reader: &BlobReader, info: &SnapshotInfo) -> Result<bool> {
        let mut found = Vec::new();
        walk(reader, info.snapshot.root, b"", &mut |path, entry| {
            let mut bytes = None;
            if entry.kind == EntryKind::File {
                let bytes = bytes.insert(Vec::new());
                write_content(reader, entry, &escape_path(path), bytes)?;
            }
            found.push((path.to_vec(), plain(entry.clone()), bytes));
            Ok(Listed::Descend)
        })?;
        // a tree is walked in the order of names, not of whole paths
        found.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(found == self.held)
    }

    /// Restores a snapshot and compares what lies there then with the tree, made anew beside it.
    ///
    /// # Panics
    /// They differ.
    pub fn assert_restored(&self, reader: &BlobReader, info: &SnapshotInfo) -> Result<bool> {
        let folder = TempDir::new().unwrap();
        let path = |name: &str| folder.path().join(name);
        let options = RestoreOptions { target: path("restored"), threads: 1, ..RestoreOptions::default() };
        let report = restore(reader, info, &options, &|_, _| {}, &Silent)?;
        if report.failures.is_empty() {
            self.tree.write(&path("expected"));
            assert_same_tree(&path("expected"), &path("restored").join(Path::new(MOUNT)), &CompareOptions::default());
        }
        Ok(report.failures.is_empty())
    }
}
