//! `Source`: where the entries of a snapshot come from.
//!
//! A source lists one directory at a time, cheaply, and opens content later, from any thread. Its errors are errors of
//! one entry: they skip the entry and are reported, they never end a run, and they are never mistaken for an error of
//! the repository.

use std::ops::Range;

use crate::record::tree::{Entry, EntryKind};
use crate::text::escape_path;
use crate::time::Timestamp;

/// Why one entry could not be read.
#[derive(Debug, thiserror::Error)]
#[error("Cannot {operation} `{path}`")]
pub struct SourceError {
    /// What happened.
    pub kind: SourceErrorKind,
    /// The verb: `list`, `open`, `read`, `read the attributes of`.
    pub operation: &'static str,
    /// The entry, as a person would write it.
    pub path: String,
    /// What the system said.
    #[source]
    pub source: std::io::Error,
}

/// What kept an entry from being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SourceErrorKind {
    /// It was listed and is gone now.
    Vanished,
    /// It is another thing now than when it was listed (a folder became a link, say).
    Replaced,
    /// Reading it is not allowed.
    PermissionDenied,
    /// Nothing more can be read from the source, this or anything else: a run over it ends.
    SourceEnded,
    /// Anything else.
    Other,
}

impl SourceError {
    /// Builds an error, deriving its kind from what the system said.
    pub fn new(operation: &'static str, path: impl Into<String>, source: std::io::Error) -> Self {
        let kind = match source.kind() {
            std::io::ErrorKind::NotFound => SourceErrorKind::Vanished,
            std::io::ErrorKind::PermissionDenied => SourceErrorKind::PermissionDenied,
            _ => SourceErrorKind::Other,
        };
        Self { kind, operation, path: path.into(), source }
    }
}

/// How a source is dealt with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SourceManner {
    /// So many of its entries are best asked for at a time, where that is more than there are processors: answers come from
    /// far. 0: nothing is gained by that.
    pub readers: usize,
    /// What could not be seen is not taken for deleted: it is kept as the snapshot compared with has it, and marked as
    /// doubtful.
    pub keeps_unseen: bool,
}

/// A place that entries come from: a folder, a workspace, a table.
pub trait Source: Send + Sync {
    /// Returns the place as a URI without secrets, as it is kept in the snapshot.
    fn uri(&self) -> String;

    /// Returns what was asked for of it, where that is not all that lies in it: names from its root down, and what it is as a
    /// URI without secrets.
    fn parts(&self) -> Vec<(Vec<Vec<u8>>, String)> {
        vec![(Vec::new(), self.uri())]
    }

    /// Returns how it is dealt with.
    fn manner(&self) -> SourceManner {
        SourceManner::default()
    }

    /// Is told that nothing more is wanted: whoever waits for an answer is let go, with an error. May come at any time, from
    /// any thread.
    fn stop(&self) {}

    /// Returns what tells an object apart from all others of the source, wherever it is moved to, of an entry that was listed
    /// or is in a snapshot; `None` where the source has no such thing.
    fn object_id(&self, _entry: &Entry) -> Option<u64> {
        None
    }

    /// Tells whether an entry that was listed has the content that an entry of a snapshot has, by what the source says of
    /// both; `None` where size, times and number tell it. `began`: when the entry of the snapshot began to be looked at.
    fn has_content_of(&self, _entry: &Entry, _known: &Entry, _began: Timestamp) -> Option<bool> {
        None
    }

    /// Returns what lies at the root as [`SourceDir::list`] would: usually a directory, but it may be a single file. Its
    /// name is not used.
    ///
    /// # Errors
    /// A root that cannot be looked at.
    fn root(&self) -> Result<Entry, SourceError>;

    /// Fills in what [`Source::root`] left out. Where a part cannot be read the others are there.
    ///
    /// # Errors
    /// As [`SourceDir::complete`].
    fn complete_root(&self, _entry: &mut Entry) -> Result<(), SourceError> {
        Ok(())
    }

    /// Opens the directory at `path`, the names from the root down; `expected` is its entry as it was listed.
    ///
    /// # Errors
    /// `Replaced` where another thing is there by now.
    fn open_dir(&self, path: &[Vec<u8>], expected: &Entry) -> Result<Box<dyn SourceDir>, SourceError>;

    /// Opens the root where it is a file.
    ///
    /// # Errors
    /// As [`SourceDir::open`].
    fn open_root(&self) -> Result<Box<dyn SourceFile>, SourceError>;
}

/// The entries of a directory, each with what listing says of it.
pub type Listing<'a> = Box<dyn Iterator<Item = Result<Entry, SourceError>> + 'a>;

/// One directory, opened.
pub trait SourceDir: Send + Sync {
    /// Lists what is to be kept, sorted by name bytes, excludes applied. What cannot be looked at is an error among the
    /// others. Entries are looked at while they are listed, so that a large directory need not be held whole.
    ///
    /// The entries have what comparing needs (kind, size, times, inode, mode, owner) and lack what costs more (extended
    /// attributes, link targets): see [`SourceDir::complete`]. A source that [keeps what it cannot see](SourceManner) lists
    /// errors before entries: what is missing behind an error is kept. Content and subtree are what the source itself calls
    /// them, if anything: whoever stores the entry puts others in their place.
    ///
    /// # Errors
    /// A directory that cannot be listed at all.
    fn list(&self) -> Result<Listing<'_>, SourceError>;

    /// Lists only directories, which may cost less.
    ///
    /// # Errors
    /// As [`SourceDir::list`].
    fn list_directories(&self) -> Result<Listing<'_>, SourceError> {
        let is_wanted = |entry: &Result<Entry, SourceError>| {
            entry.as_ref().map_or(true, |entry| entry.kind == EntryKind::Directory)
        };
        Ok(Box::new(self.list()?.filter(is_wanted)))
    }

    /// Looks once more at an entry that changed, or became another thing, since it was listed. It comes as it is listed.
    ///
    /// # Errors
    /// `Vanished` where it is gone, or would be left out by now.
    fn look_again(&self, name: &[u8]) -> Result<Entry, SourceError> {
        let is_it = |entry: &Result<Entry, SourceError>| entry.as_ref().is_ok_and(|entry| entry.name == name);
        let gone = || SourceError::new("find", escape_path(name), std::io::ErrorKind::NotFound.into());
        self.list()?.find(is_it).unwrap_or_else(|| Err(gone()))
    }

    /// Fills in what [`SourceDir::list`] left out, for an entry that is new or has changed.
    ///
    /// # Errors
    /// The entry is to be skipped.
    fn complete(&self, entry: &mut Entry) -> Result<(), SourceError>;

    /// Tells what the source knows of an entry that it has listed: is its content that of the same path in the snapshot
    /// compared with? Few sources do; for the others fingerprints decide.
    fn content_change(&self, _entry: &Entry) -> ContentChange {
        ContentChange::Unknown
    }

    /// Opens a file of this directory.
    ///
    /// # Errors
    /// `Vanished`, `Replaced`, `PermissionDenied`, ...
    fn open(&self, entry: &Entry) -> Result<Box<dyn SourceFile>, SourceError>;
}

/// What a source knows of an entry's content beside the snapshot compared with.
///
/// A source that knows lists its entries whole: only content is taken from that snapshot, and [`SourceDir::complete`] is
/// not asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ContentChange {
    /// It does not know.
    #[default]
    Unknown,
    /// It is the same; of a directory: everything below it is, metadata too.
    Unchanged,
    /// It is another, or there was none.
    Changed,
}

/// The content of one file, read from front to back.
pub trait SourceFile: Send {
    /// Reads into `buffer`; zero means the end.
    ///
    /// # Errors
    /// The entry is to be skipped.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, SourceError>;

    /// Returns the next range at or after `offset` that holds data and moves there; `None` where only a hole is left.
    ///
    /// Sources without holes return everything from `offset` on.
    ///
    /// # Errors
    /// As [`SourceFile::read`].
    fn next_data(&mut self, offset: u64) -> Result<Option<Range<u64>>, SourceError>;

    /// Returns the file's size and times as they are now, to see whether it changed while it was read.
    ///
    /// # Errors
    /// As [`SourceFile::read`].
    fn fingerprint(&mut self) -> Result<Fingerprint, SourceError>;
}

/// What tells that a file was not touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint {
    /// Size in bytes.
    pub size: u64,
    /// When the content was changed.
    pub mtime: Timestamp,
    /// When content or metadata were changed.
    pub ctime: Timestamp,
    /// Number of the file in its file system; 0 where there is none.
    pub inode: u64,
}
