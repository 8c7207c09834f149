//! Questions about snapshots: what is in them, where something is, what differs, what it all takes.

mod archive;
mod content;
mod diff;
mod find;
pub(crate) mod list;
mod stats;

pub use archive::{ArchiveFormat, write_archive};
pub use content::write_content;
pub use diff::{Change, ChangeKind, DiffOptions, diff, unified_patch};
pub use find::{FindOptions, Finding, Occurrence, find};
pub(crate) use list::join;
pub use list::{Listed, walk};
pub use stats::{RepositoryStats, SnapshotStats, repository_stats, snapshot_stats};

use lakebed_core::id::TreeId;
use lakebed_core::record::tree::{Entry, EntryKind};
use lakebed_core::text::escape_path;

use crate::error::{Error, Result};
use crate::repository::{BlobReader, SnapshotInfo};

/// Splits a path in a snapshot into names. Empty parts and `.` are passed over; `..` is refused.
///
/// # Errors
/// A path that leads out of the snapshot.
pub fn split_path(path: &[u8]) -> Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for part in path.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                let why = "`..` has no meaning in a snapshot".into();
                return Err(Error::Argument { what: "The path", value: escape_path(path), why });
            }
            part => names.push(part.to_vec()),
        }
    }
    Ok(names)
}

/// Returns the top of a snapshot as an entry without a name.
pub fn root_entry(root: TreeId) -> Entry {
    let mut entry = Entry::new(Vec::new(), EntryKind::Directory);
    entry.mode = 0o755;
    entry.subtree = Some(root);
    entry
}

/// Returns the entry at a path of a snapshot.
///
/// # Errors
/// There is none, or the tree is damaged.
pub fn entry_at(reader: &BlobReader, info: &SnapshotInfo, path: &[Vec<u8>]) -> Result<Entry> {
    let mut entry = root_entry(info.snapshot.root);
    for name in path {
        let below = match entry.subtree {
            Some(directory) => reader.lookup_name(directory, name)?,
            None => None,
        };
        entry = below.ok_or_else(|| Error::NoPath { path: escape_path(&path.join(&b'/')), snapshot: info.id })?;
    }
    Ok(entry)
}
