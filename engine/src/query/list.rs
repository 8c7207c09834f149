//! Walking a tree.

use lakebed_core::id::TreeId;
use lakebed_core::record::tree::Entry;

use crate::error::Result;
use crate::repository::BlobReader;

/// What a visitor wants next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listed {
    /// Go on; into the entry where it is a directory.
    Descend,
    /// Go on, but not into this directory.
    Skip,
}

/// Visits everything below a directory in the order of names, each directory before what it holds. `path` is where the
/// directory lies; the visitor gets each entry with its whole path.
///
/// # Errors
/// A node is missing or damaged; what the visitor returns.
pub fn walk(
    reader: &BlobReader,
    directory: TreeId,
    path: &[u8],
    visit: &mut dyn FnMut(&[u8], &Entry) -> Result<Listed>,
) -> Result<()> {
    let mut stack = vec![(reader.entries(directory), path.to_vec())];
    while let Some((entries, path)) = stack.last_mut() {
        let Some(entry) = entries.next() else {
            stack.pop();
            continue;
        };
        let entry = entry?;
        let full = join(path, &entry.name);
        if visit(&full, &entry)? == Listed::Descend
            && let Some(subtree) = entry.subtree
        {
            stack.push((reader.entries(subtree), full));
        }
    }
    Ok(())
}

/// Joins a path and a name.
pub(crate) fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    let mut full = Vec::with_capacity(path.len() + 1 + name.len());
    if !path.is_empty() {
        full.extend_from_slice(path);
        full.push(b'/');
    }
    full.extend_from_slice(name);
    full
}
