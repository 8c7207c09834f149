//! What differs between two snapshots.

use lakebed_core::id::TreeId;
use lakebed_core::record::tree::{Entry, EntryKind};
use lakebed_core::text::escape_path;

use super::content::is_same_content;
use super::list::join;
use super::write_content;
use crate::error::Result;
use crate::repository::BlobReader;

/// How an entry differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// It is only in the second.
    Added,
    /// It is only in the first.
    Removed,
    /// Its content, its target or its device number differs.
    Modified,
    /// Only mode, owner, times or attributes differ.
    Metadata,
    /// It is another kind of thing.
    Type,
}

/// A difference.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Where.
    pub path: Vec<u8>,
    /// How.
    pub kind: ChangeKind,
    /// As it is in the first.
    pub before: Option<Entry>,
    /// As it is in the second.
    pub after: Option<Entry>,
}

/// What is to be compared.
#[derive(Debug, Clone, Default)]
pub struct DiffOptions {
    /// Leave out entries of which only metadata differ.
    pub ignore_metadata: bool,
}

/// Visits the differences between two directories, in the order of paths. Equal subtrees are not read.
///
/// # Errors
/// A node is missing or damaged; what the visitor returns.
pub fn diff(
    reader: &BlobReader,
    before: Option<TreeId>,
    after: Option<TreeId>,
    path: &[u8],
    options: &DiffOptions,
    visit: &mut dyn FnMut(Change) -> Result<()>,
) -> Result<()> {
    if before == after {
        return Ok(());
    }
    let mut left = before.map(|id| reader.entries(id)).into_iter().flatten().peekable();
    let mut right = after.map(|id| reader.entries(id)).into_iter().flatten().peekable();
    loop {
        let order = match (left.peek(), right.peek()) {
            (None, None) => return Ok(()),
            (Some(Err(_)), _) | (Some(_), None) => std::cmp::Ordering::Less,
            (_, Some(Err(_))) | (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(Ok(a)), Some(Ok(b))) => a.name.cmp(&b.name),
        };
        let before = if order.is_le() { left.next().transpose()? } else { None };
        let after = if order.is_ge() { right.next().transpose()? } else { None };
        let Some(name) = before.as_ref().or(after.as_ref()).map(|entry| entry.name.clone()) else { continue };
        let path = join(path, &name);
        let subtrees = (before.as_ref().and_then(|e| e.subtree), after.as_ref().and_then(|e| e.subtree));
        if let Some(kind) = compare(reader, before.as_ref(), after.as_ref())?
            && !(options.ignore_metadata && kind == ChangeKind::Metadata)
        {
            visit(Change { path: path.clone(), kind, before, after })?;
        }
        diff(reader, subtrees.0, subtrees.1, &path, options, visit)?;
    }
}

fn compare(reader: &BlobReader, before: Option<&Entry>, after: Option<&Entry>) -> Result<Option<ChangeKind>> {
    let (before, after) = match (before, after) {
        (None, _) => return Ok(Some(ChangeKind::Added)),
        (_, None) => return Ok(Some(ChangeKind::Removed)),
        (Some(before), Some(after)) => (before, after),
    };
    if before.kind != after.kind {
        return Ok(Some(ChangeKind::Type));
    }
    let points_at = |entry: &Entry| (entry.link_target.clone(), entry.device);
    if points_at(before) != points_at(after) || !is_same_content(reader, before, after)? {
        return Ok(Some(ChangeKind::Modified));
    }
    // change time and number differ for reasons that nobody cares about
    let metadata = |entry: &Entry| (entry.mode, entry.uid, entry.gid, entry.mtime, entry.xattrs.clone());
    Ok((metadata(before) != metadata(after)).then_some(ChangeKind::Metadata))
}

/// Files larger than this get no patch.
const PATCH_MAX_BYTES: u64 = 8 << 20;

/// Returns the difference of a text file as a unified patch; `None` for what is no text, too large or no file.
///
/// # Errors
/// Content is missing or damaged.
pub fn unified_patch(reader: &BlobReader, change: &Change) -> Result<Option<String>> {
    let path = escape_path(&change.path);
    let text = |entry: Option<&Entry>| -> Result<Option<String>> {
        match entry {
            None => Ok(Some(String::new())),
            Some(entry) if entry.kind == EntryKind::File && entry.size <= PATCH_MAX_BYTES => {
                let mut bytes = Vec::new();
                write_content(reader, entry, &path, &mut bytes)?;
                Ok(String::from_utf8(bytes).ok().filter(|text| !text.contains('\0')))
            }
            Some(_) => Ok(None),
        }
    };
    let (Some(before), Some(after)) = (text(change.before.as_ref())?, text(change.after.as_ref())?) else {
        return Ok(None);
    };
    let name = |entry: Option<&Entry>, prefix: &str| match entry {
        Some(_) => format!("{prefix}/{path}"),
        None => "/dev/null".into(),
    };
    let diff = similar::TextDiff::from_lines(&before, &after);
    let (old, new) = (name(change.before.as_ref(), "a"), name(change.after.as_ref(), "b"));
    Ok(Some(diff.unified_diff().context_radius(3).header(&old, &new).to_string()))
}
