//! A snapshot of another repository as a `Source`.
//!
//! Entries come with all their metadata exactly as they are in the snapshot, under the ids of that repository. Damage is
//! an error of the entry that it touches; a repository that cannot be read any more ends the run.

use std::collections::{HashMap, HashSet};
use std::iter::Peekable;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lakebed_core::id::TreeId;
use lakebed_core::record::snapshot::Original;
use lakebed_core::record::tree::{Entry, EntryKind};
use lakebed_core::source::{ContentChange, Listing, Source, SourceDir, SourceError, SourceErrorKind, SourceFile};
use lakebed_core::text::escape_path;

use super::file::SnapshotFile;
use crate::error::Error;
use crate::query::{join, root_entry};
use crate::repository::{BlobReader, Repository};

/// The snapshot that was copied before: whoever has its copy need not read what is equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Previous {
    pub(super) root: TreeId,
    /// Its copy holds all that it holds, so that whole directories may be taken over.
    pub(super) is_whole: bool,
}

/// A snapshot, to be read from front to back.
#[derive(Clone)]
pub(super) struct SnapshotSource(Arc<Shared>);

pub(super) struct Shared {
    repository: Repository,
    pub(super) reader: BlobReader,
    uri: String,
    root: TreeId,
    takes_over_directories: bool,
    /// Counterparts of directories that are listed and not opened yet, by path.
    counterparts: Mutex<HashMap<Vec<u8>, TreeId>>,
    fatal: Mutex<Option<Error>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SnapshotSource {
    pub(super) fn new(
        repository: &Repository,
        reader: &BlobReader,
        original: Original,
        root: TreeId,
        previous: Option<Previous>,
    ) -> Self {
        let counterparts = previous.map(|previous| (Vec::new(), previous.root)).into_iter().collect();
        Self(Arc::new(Shared {
            repository: repository.clone(),
            reader: reader.clone(),
            uri: format!("lakebed:{}/{}", original.repository, original.snapshot),
            root,
            takes_over_directories: previous.is_some_and(|previous| previous.is_whole),
            counterparts: Mutex::new(counterparts),
            fatal: Mutex::default(),
        }))
    }

    /// Tells whether the repository cannot be read any more.
    pub(super) fn has_failed(&self) -> bool {
        lock(&self.0.fatal).is_some()
    }

    /// Returns why the repository cannot be read any more.
    pub(super) fn take_failure(&self) -> Option<Error> {
        lock(&self.0.fatal).take()
    }
}

impl Shared {
    /// Makes a failure of the repository one of an entry: the entry is damaged. If it is the repository as a whole that
    /// cannot be read, that is noted, and whatever becomes of this run must not pass for a copy.
    pub(super) fn failed(&self, operation: &'static str, path: &[u8], error: Error) -> SourceError {
        let is_gone = matches!(error, Error::Storage(_)) && self.repository.check_config().is_err();
        let shown = escape_path(path);
        if is_gone || error.keeps_from_looking() {
            let told = std::io::Error::other(crate::error_chain(&error));
            lock(&self.fatal).get_or_insert(error);
            return SourceError::new(operation, shown, told);
        }
        SourceError::new(operation, shown, std::io::Error::other(error))
    }
}

impl Source for SnapshotSource {
    fn uri(&self) -> String {
        self.0.uri.clone()
    }

    fn root(&self) -> Result<Entry, SourceError> {
        Ok(root_entry(self.0.root))
    }

    fn open_dir(&self, path: &[Vec<u8>], expected: &Entry) -> Result<Box<dyn SourceDir>, SourceError> {
        let path = path.join(&b'/');
        let Some(node) = expected.subtree else {
            let kind = SourceErrorKind::Replaced;
            let source = std::io::ErrorKind::NotADirectory.into();
            return Err(SourceError { kind, operation: "list", path: escape_path(&path), source });
        };
        let counterpart = lock(&self.0.counterparts).remove(&path);
        Ok(Box::new(SnapshotDir { shared: self.0.clone(), path, node, counterpart, unchanged: Mutex::default() }))
    }

    fn open_root(&self) -> Result<Box<dyn SourceFile>, SourceError> {
        Err(SourceError::new("open", "", std::io::ErrorKind::IsADirectory.into()))
    }
}

struct SnapshotDir {
    shared: Arc<Shared>,
    path: Vec<u8>,
    node: TreeId,
    /// The same directory in the snapshot that was copied before.
    counterpart: Option<TreeId>,
    /// Names of entries that were listed and whose content is that of their counterpart.
    unchanged: Mutex<HashSet<Vec<u8>>>,
}

impl SnapshotDir {
    /// Compares an entry that is listed with its counterpart, and notes what is equal. What cannot be read of the
    /// counterpart counts as another.
    fn compare(&self, entry: &Entry, before: &mut Peekable<impl Iterator<Item = Entry>>) {
        while before.next_if(|before| before.name < entry.name).is_some() {}
        let Some(before) = before.next_if(|before| before.name == entry.name) else { return };
        if let Some(subtree) = before.subtree {
            lock(&self.shared.counterparts).insert(join(&self.path, &entry.name), subtree);
        }
        let may_be_taken = entry.kind != EntryKind::Directory || self.shared.takes_over_directories;
        let is_same = before.kind == entry.kind
            && before.size == entry.size
            // not by the hash: holes have no part in it
            && before.content == entry.content
            && before.subtree == entry.subtree;
        if may_be_taken && is_same {
            lock(&self.unchanged).insert(entry.name.clone());
        }
    }
}

impl SourceDir for SnapshotDir {
    fn list(&self) -> Result<Listing<'_>, SourceError> {
        let before =
            self.counterpart.into_iter().flat_map(|counterpart| self.shared.reader.entries(counterpart).flatten());
        let mut before = before.peekable();
        // a damaged node costs its entries, not those of the others
        let entries = self.shared.reader.entries(self.node).map(move |entry| match entry {
            Ok(entry) => {
                self.compare(&entry, &mut before);
                Ok(entry)
            }
            Err(error) => Err(self.shared.failed("list", &self.path, error)),
        });
        Ok(Box::new(entries))
    }

    fn complete(&self, _entry: &mut Entry) -> Result<(), SourceError> {
        Ok(())
    }

    fn content_change(&self, entry: &Entry) -> ContentChange {
        match lock(&self.unchanged).contains(&entry.name) {
            true => ContentChange::Unchanged,
            false => ContentChange::Changed,
        }
    }

    fn open(&self, entry: &Entry) -> Result<Box<dyn SourceFile>, SourceError> {
        let path = join(&self.path, &entry.name);
        Ok(Box::new(SnapshotFile::open(self.shared.clone(), path, entry)?))
    }
}
