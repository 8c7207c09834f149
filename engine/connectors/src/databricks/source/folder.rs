//! One folder of a workspace: its objects as entries.

use std::collections::BTreeSet;

use lakebed_core::record::tree::{Entry, EntryKind};
use lakebed_core::source::{Listing, SourceDir, SourceError, SourceErrorKind, SourceFile};
use lakebed_core::text::escape_path;
use lakebed_core::time::Timestamp;

use super::content::{Kind, Wanted};
use super::{ROOT_RESERVED, WorkspaceSource, below};
use crate::databricks::api::{Language, Object, ObjectKind};
use crate::databricks::names::{NotebookFormat, file_name, file_of, folder_name, notebook_name, notebook_of};

pub(super) struct FolderDir {
    source: WorkspaceSource,
    path: String,
    entries: Vec<Entry>,
    /// Paths of what cannot be an entry, and why.
    missing: Vec<(String, &'static str)>,
}

/// Makes the entry of a folder.
pub(super) fn folder_entry(name: &str) -> Entry {
    let mut entry = Entry::new(name, EntryKind::Directory);
    entry.mode = 0o755;
    entry
}

/// Reads milliseconds since 1970.
pub(in crate::databricks) fn from_millis(millis: i64) -> Timestamp {
    let nanos = u32::try_from(millis.rem_euclid(1000)).unwrap_or(0) * 1_000_000;
    Timestamp { secs: millis.div_euclid(1000), nanos }
}

impl FolderDir {
    pub(super) fn new(source: WorkspaceSource, path: String, objects: Vec<Object>) -> Self {
        let mut dir = Self { source, path, entries: Vec::new(), missing: Vec::new() };
        let is_top = dir.path == "/";
        let mut named: Vec<(String, &Object)> = Vec::with_capacity(objects.len());
        for object in objects.iter().filter(|object| dir.source.is_wanted(&dir.path, object)) {
            let name = object.name();
            let reserved = is_top && ROOT_RESERVED.contains(&name);
            match object.kind() {
                ObjectKind::Folder => named.push((folder_name(name, reserved), object)),
                ObjectKind::File => named.push((file_name(name, reserved), object)),
                ObjectKind::Notebook => {}
                ObjectKind::Elsewhere => dir.source.note_left_out(&object.object_type),
            }
        }
        let taken: BTreeSet<&str> = named.iter().map(|(name, _)| name.as_str()).collect();
        let mut notebooks = Vec::new();
        for object in objects
            .iter()
            .filter(|object| object.kind() == ObjectKind::Notebook && dir.source.is_wanted(&dir.path, object))
        {
            let language = Language::parse(object.language.as_deref());
            for format in dir.source.options().formats.clone() {
                let name = notebook_name(object.name(), language, format, |name| taken.contains(name));
                notebooks.push(notebook_entry(&name, object, format));
            }
        }
        let others = named.iter().map(|(name, object)| match object.kind() {
            ObjectKind::Folder => folder_entry(name),
            _ => file_entry(name, object),
        });
        let all: Vec<Entry> = others.chain(notebooks).collect();
        dir.add(all);
        dir
    }

    /// Returns its path in the workspace.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Notes that something is asked for and could not be looked at.
    pub(super) fn add_unseen(&mut self, path: String) {
        self.missing
            .push((path, "it could not be looked at when the backup began: it is not there, or may not be seen"));
    }

    /// Adds entries.
    pub(super) fn add(&mut self, entries: impl IntoIterator<Item = Entry>) {
        for entry in entries {
            if Entry::name_is_valid(&entry.name) {
                self.entries.push(entry);
            } else {
                let path = below(&self.path, &String::from_utf8_lossy(&entry.name));
                self.missing.push((path, "no snapshot can have a name like that"));
            }
        }
        self.entries.sort_by(|one, other| one.name.cmp(&other.name));
        // two of a name would be one too many: the listing was not of one moment
        self.entries.dedup_by(|one, other| one.name == other.name);
    }
}

/// Makes the entry of what has content, without size.
fn content_entry(name: &str, object: &Object) -> Entry {
    let mut entry = Entry::new(name, EntryKind::File);
    entry.mode = 0o644;
    entry.mtime = object.modified_at.map(from_millis).unwrap_or_default();
    let mut attributes = vec![("type", object.object_type.clone())];
    attributes.extend(object.object_id.map(|id| ("object-id", id.to_string())));
    attributes.extend(object.created_at.map(|time| ("created-at", time.to_string())));
    set_attributes(&mut entry, attributes);
    entry
}

/// Adds attributes, in their order.
fn set_attributes(entry: &mut Entry, attributes: impl IntoIterator<Item = (&'static str, String)>) {
    entry.attributes.extend(attributes.into_iter().map(|(name, value)| (name.to_owned(), value.into_bytes())));
    entry.attributes.sort();
}

fn notebook_entry(name: &str, object: &Object, format: NotebookFormat) -> Entry {
    let mut entry = content_entry(name, object);
    set_attributes(&mut entry, [("format", format.as_str().to_owned())]);
    set_attributes(&mut entry, object.language.clone().map(|language| ("language", language)));
    // not the size of what comes
    set_attributes(&mut entry, object.size.map(|size| ("listed-size", size.to_string())));
    if notebook_of(name) != object.name() {
        set_attributes(&mut entry, [("name", object.name().to_owned())]);
    }
    entry
}

fn file_entry(name: &str, object: &Object) -> Entry {
    let mut entry = content_entry(name, object);
    entry.size = object.size.unwrap_or(0);
    // a size that is not known looks the same
    set_attributes(&mut entry, (object.size == Some(0)).then(|| ("listed-size", "0".to_owned())));
    if file_of(name) != object.name() {
        set_attributes(&mut entry, [("name", object.name().to_owned())]);
    }
    entry
}

/// Returns what a listed entry is in the workspace.
fn wanted(folder: &str, entry: &Entry) -> Wanted {
    let attribute = |wanted: &str| {
        let found = entry.attributes.iter().find(|(name, _)| name == wanted);
        found.map(|(_, value)| String::from_utf8_lossy(value).into_owned())
    };
    let shown = String::from_utf8_lossy(&entry.name);
    let format = attribute("format").and_then(|format| NotebookFormat::parse(&format));
    let name = match (attribute("name"), format) {
        (Some(name), _) => name,
        (None, Some(_)) => notebook_of(&shown).to_owned(),
        (None, None) => file_of(&shown).to_owned(),
    };
    let kind = format.map_or(Kind::File, Kind::Notebook);
    Wanted { path: below(folder, &name), kind, size: entry.size, mtime: entry.mtime, ctime: entry.ctime }
}

impl SourceDir for FolderDir {
    fn list(&self) -> Result<Listing<'_>, SourceError> {
        let missing = self.missing.iter().map(|(path, why)| {
            Err(SourceError::new("take", escape_path(path.as_bytes()), std::io::Error::other(*why)))
        });
        Ok(Box::new(missing.chain(self.entries.iter().cloned().map(Ok))))
    }

    fn look_again(&self, name: &[u8]) -> Result<Entry, SourceError> {
        let now = Self::new(self.source.clone(), self.path.clone(), self.source.list(&self.path)?);
        now.entries.into_iter().find(|entry| entry.name == name).ok_or_else(|| {
            let path = below(&self.path, &String::from_utf8_lossy(name));
            SourceError {
                kind: SourceErrorKind::Vanished,
                ..SourceError::new("find", escape_path(path.as_bytes()), std::io::ErrorKind::NotFound.into())
            }
        })
    }

    /// A listing says all there is.
    fn complete(&self, _: &mut Entry) -> Result<(), SourceError> {
        Ok(())
    }

    fn open(&self, entry: &Entry) -> Result<Box<dyn SourceFile>, SourceError> {
        wanted(&self.path, entry).open(&self.source.inner.workspace)
    }
}
