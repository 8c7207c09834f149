//! Where an entry lies in its source: at the root, or in a directory.

use std::sync::Arc;

use lakebed_core::record::tree::Entry;
use lakebed_core::source::{ContentChange, SourceDir, SourceError, SourceFile};

use crate::source::Mount;

/// Where an entry lies: what is asked for what it is, and what is in it.
#[derive(Clone)]
pub(super) enum Place {
    /// At the root of a source.
    Root(Arc<Mount>),
    Directory(Arc<dyn SourceDir>),
}

impl Place {
    pub(super) fn content_change(&self, entry: &Entry) -> ContentChange {
        match self {
            Self::Root(_) => ContentChange::Unknown,
            Self::Directory(directory) => directory.content_change(entry),
        }
    }

    pub(super) fn complete(&self, entry: &mut Entry) -> Result<(), SourceError> {
        match self {
            Self::Root(mount) => mount.source.complete_root(entry),
            Self::Directory(directory) => directory.complete(entry),
        }
    }

    pub(super) fn look_again(&self, entry: &Entry) -> Result<Entry, SourceError> {
        match self {
            Self::Root(mount) => mount.source.root().map(|root| Entry { name: entry.name.clone(), ..root }),
            Self::Directory(directory) => directory.look_again(&entry.name),
        }
    }

    pub(super) fn open(&self, entry: &Entry) -> Result<Box<dyn SourceFile>, SourceError> {
        match self {
            Self::Root(mount) => mount.source.open_root(),
            Self::Directory(directory) => directory.open(entry),
        }
    }
}
