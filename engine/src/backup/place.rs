//! Where an entry lies in its source: at the root, or in a directory.

use std::sync::Arc;

use lakebed_core::record::tree::Entry;
use lakebed_core::source::{ContentChange, SourceDir, SourceError, SourceFile};

use crate::source::Mount;

/// Where an entry lies: what is asked for what it is, and what is in it.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) mount: Arc<Mount>,
    /// `None`: it is the root of the source.
    directory: Option<Arc<dyn SourceDir>>,
}

impl Place {
    /// The root of a source.
    pub(super) fn root(mount: Arc<Mount>) -> Self {
        Self { mount, directory: None }
    }

    /// A directory of a source.
    pub(super) fn within(mount: Arc<Mount>, directory: Arc<dyn SourceDir>) -> Self {
        Self { mount, directory: Some(directory) }
    }

    pub(super) fn is_root(&self) -> bool {
        self.directory.is_none()
    }

    pub(super) fn content_change(&self, entry: &Entry) -> ContentChange {
        self.directory.as_ref().map_or(ContentChange::Unknown, |directory| directory.content_change(entry))
    }

    pub(super) fn complete(&self, entry: &mut Entry) -> Result<(), SourceError> {
        match &self.directory {
            None => self.mount.source.complete_root(entry),
            Some(directory) => directory.complete(entry),
        }
    }

    pub(super) fn look_again(&self, entry: &Entry) -> Result<Entry, SourceError> {
        match &self.directory {
            None => self.mount.source.root().map(|root| Entry { name: entry.name.clone(), ..root }),
            Some(directory) => directory.look_again(&entry.name),
        }
    }

    pub(super) fn open(&self, entry: &Entry) -> Result<Box<dyn SourceFile>, SourceError> {
        match &self.directory {
            None => self.mount.source.open_root(),
            Some(directory) => directory.open(entry),
        }
    }

    /// Tells whether many wait for the source at a time.
    pub(super) fn is_far(&self) -> bool {
        self.mount.source.manner().readers > 0
    }
}
