//! `FilteredSource`: any source without what a filter leaves out.
//!
//! What is left out is not asked for, nor what lies in it: for a source that is far away that is what counts. Of a filter
//! only the patterns and the limit for sizes apply; markers and file systems are the affair of folders.

use std::sync::Arc;

use lakebed_core::record::tree::{Entry, EntryKind};
use lakebed_core::source::{ContentChange, Listing, Source, SourceDir, SourceError, SourceFile};
use lakebed_core::text::escape_path;

use super::Filter;

/// A source without what a filter leaves out.
pub struct FilteredSource {
    inner: Arc<dyn Source>,
    filter: Arc<Filter>,
    /// Where the source lies in the snapshot.
    base: Vec<Vec<u8>>,
}

impl FilteredSource {
    /// Leaves out of a source, which lies at `base` in the snapshot, what the filter says.
    pub fn new(inner: Arc<dyn Source>, filter: Arc<Filter>, base: Vec<Vec<u8>>) -> Self {
        Self { inner, filter, base }
    }
}

impl Source for FilteredSource {
    forward_source!(inner);

    fn open_dir(&self, path: &[Vec<u8>], expected: &Entry) -> Result<Box<dyn SourceDir>, SourceError> {
        let inner = self.inner.open_dir(path, expected)?;
        let path = [&self.base[..], path].concat().join(&b'/');
        Ok(Box::new(FilteredDir { inner, filter: self.filter.clone(), path }))
    }
}

struct FilteredDir {
    inner: Box<dyn SourceDir>,
    filter: Arc<Filter>,
    /// Its path in the snapshot.
    path: Vec<u8>,
}

impl FilteredDir {
    fn is_wanted(&self, entry: &Entry) -> bool {
        let path = if self.path.is_empty() { entry.name.clone() } else { [&self.path[..], &entry.name].join(&b'/') };
        let is_too_large = entry.kind == EntryKind::File && self.filter.excludes_size(entry.size);
        !is_too_large && !self.filter.excludes(&path, entry.kind == EntryKind::Directory)
    }

    fn wanted<'a>(&'a self, listing: Listing<'a>) -> Listing<'a> {
        Box::new(listing.filter(|entry| entry.as_ref().map_or(true, |entry| self.is_wanted(entry))))
    }
}

impl SourceDir for FilteredDir {
    fn list(&self) -> Result<Listing<'_>, SourceError> {
        Ok(self.wanted(self.inner.list()?))
    }

    fn list_directories(&self) -> Result<Listing<'_>, SourceError> {
        Ok(self.wanted(self.inner.list_directories()?))
    }

    fn look_again(&self, name: &[u8]) -> Result<Entry, SourceError> {
        let entry = self.inner.look_again(name)?;
        let gone = || SourceError::new("find", escape_path(name), std::io::ErrorKind::NotFound.into());
        if self.is_wanted(&entry) { Ok(entry) } else { Err(gone()) }
    }

    fn complete(&self, entry: &mut Entry) -> Result<(), SourceError> {
        self.inner.complete(entry)
    }

    fn content_change(&self, entry: &Entry) -> ContentChange {
        self.inner.content_change(entry)
    }

    fn open(&self, entry: &Entry) -> Result<Box<dyn SourceFile>, SourceError> {
        self.inner.open(entry)
    }
}
