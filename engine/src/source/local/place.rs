//! Where an entry is, for the system and for people, and the errors that say so.

use lakebed_core::source::{SourceError, SourceErrorKind};
use rustix::io::Errno;

use super::display_path;

/// Where a directory (or the root file) is, for the system and for people.
#[derive(Debug)]
pub(super) struct Place {
    /// Path for the system.
    pub(super) path: Vec<u8>,
    /// Path in the snapshot.
    pub(super) tree: Vec<u8>,
}

pub(super) fn joined(parent: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(parent.len() + 1 + name.len());
    path.extend_from_slice(parent);
    push_name(&mut path, name);
    path
}

pub(super) fn push_name(path: &mut Vec<u8>, name: &[u8]) {
    if !path.is_empty() && !path.ends_with(b"/") {
        path.push(b'/');
    }
    path.extend_from_slice(name);
}

impl Place {
    /// Builds the error of an entry of this directory, or of the directory where `name` is empty.
    pub(super) fn error(&self, operation: &'static str, name: &[u8], source: impl Into<std::io::Error>) -> SourceError {
        let tree = if name.is_empty() { self.tree.clone() } else { joined(&self.tree, name) };
        // a root that is the whole snapshot has no path in it
        let shown = if tree.is_empty() { &self.path } else { &tree };
        SourceError::new(operation, display_path(shown), source.into())
    }

    /// As [`Place::error`], for what opening said: a link or another kind of thing where none was listed.
    pub(super) fn open_error(&self, operation: &'static str, name: &[u8], errno: Errno) -> SourceError {
        let mut error = self.error(operation, name, errno);
        if matches!(errno, Errno::LOOP | Errno::NOTDIR | Errno::NXIO) {
            error.kind = SourceErrorKind::Replaced;
        }
        error
    }

    pub(super) fn replaced(&self, operation: &'static str, name: &[u8]) -> SourceError {
        let source = std::io::Error::other("another thing is there now than when it was listed");
        SourceError { kind: SourceErrorKind::Replaced, ..self.error(operation, name, source) }
    }
}
