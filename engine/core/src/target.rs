//! `Target`: where a snapshot is restored to that is no folder of this machine.
//!
//! A target is given directories, each before what is in it, and files, from many threads. Its errors are errors of one
//! entry, as those of a source are: the restore goes on and tells them.

use std::io::Write;

use crate::record::tree::Entry;

/// What to do with what is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overwrite {
    /// Leave it.
    #[default]
    Never,
    /// Replace it where it is not as in the snapshot, as far as size and times tell, or whatever else the target knows.
    IfChanged,
    /// Replace it where the snapshot's is newer.
    IfNewer,
    /// Replace it; what is equal byte for byte is not written again.
    Always,
}

/// What became of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It was not there.
    Created,
    /// It was there and was replaced.
    Replaced,
    /// It was there and was left as it was.
    Kept,
    /// The target has no place for such a thing.
    LeftOut,
}

/// Why one entry could not be put.
#[derive(Debug, thiserror::Error)]
#[error("Cannot {operation} `{path}`")]
pub struct TargetError {
    /// What happened.
    pub kind: TargetErrorKind,
    /// The verb: `make the folder`, `import`, ...
    pub operation: &'static str,
    /// The entry's path in the target, as a person would write it.
    pub path: String,
    /// Why.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// What kept an entry from being put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TargetErrorKind {
    /// Nothing more can be put, this or anything else: the restore ends.
    TargetEnded,
    /// Anything else.
    Other,
}

/// The bytes of a file, checked as they come.
pub trait FileContent {
    /// Writes all of them.
    ///
    /// # Errors
    /// They cannot be read, or are not what they should be; `out` fails.
    fn write_to(&self, out: &mut dyn Write) -> std::io::Result<()>;
}

/// What else is in the snapshot.
pub trait Beside: Send + Sync {
    /// Returns the entry with these names from the snapshot's root down, if it is restored too; `None` where there is none.
    ///
    /// # Errors
    /// The tree cannot be read.
    fn entry(&self, path: &[Vec<u8>]) -> std::io::Result<Option<Entry>>;

    /// Reads a file by its names from the snapshot's root, restored or not; `None` where there is none.
    ///
    /// # Errors
    /// It cannot be read.
    fn read(&self, path: &[Vec<u8>]) -> std::io::Result<Option<Vec<u8>>>;
}

/// A place that a snapshot is restored into.
pub trait Target: Send + Sync {
    /// Returns the place as a URI without secrets.
    fn location(&self) -> String;

    /// Returns how many entries are best put at a time.
    fn writers(&self) -> usize;

    /// Is told that nothing more is wanted, as a source is.
    fn stop(&self) {}

    /// Makes a directory, or finds it. `path`: the names from the snapshot's root, that of the entry included; empty for the
    /// root itself.
    ///
    /// # Errors
    /// It cannot be made: nothing in it can be put.
    fn directory(&self, path: &[Vec<u8>], entry: &Entry) -> Result<(Put, Box<dyn TargetDir>), TargetError>;
}

/// A directory of a target that things are put into.
pub trait TargetDir: Send + Sync {
    /// Puts what is no directory. `beside` has the rest of the snapshot.
    ///
    /// # Errors
    /// It cannot be put.
    fn put(&self, entry: &Entry, content: &dyn FileContent, beside: &dyn Beside) -> Result<Put, TargetError>;

    /// Is told that everything in the directory was put, also in directories below it.
    ///
    /// # Errors
    /// What was to be done at the end could not be done, for these entries.
    fn finish(&self, _beside: &dyn Beside) -> Vec<TargetError> {
        Vec::new()
    }
}
