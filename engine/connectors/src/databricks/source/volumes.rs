//! Volumes as a backup reads them: catalogs, schemas, volumes, and the files in them.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderValue;
use lakebed_core::record::tree::{Entry, EntryKind};
use lakebed_core::source::{Fingerprint, Listing, SourceDir, SourceError, SourceErrorKind, SourceFile};
use lakebed_core::text::escape_path;
use lakebed_core::time::Timestamp;
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::folder::{folder_entry, from_millis};
use super::{WorkspaceSource, failure};
use crate::databricks::Workspace;
use crate::databricks::catalog;
use crate::databricks::files::{self, Read, VolumeEntry};

/// Files of more bytes are read piece by piece.
const PIECE_BYTES: u64 = 8 << 20;

/// So many of them are read at a time: each has a piece in memory.
pub(super) const LARGE_AT_A_TIME: usize = 4;

/// A catalog, a schema, a volume, or a folder in one, by its names.
pub(super) struct VolumeDir {
    source: WorkspaceSource,
    path: String,
    entries: Vec<Entry>,
}

impl VolumeDir {
    /// Lists what is below `/Volumes` by these names.
    pub(super) fn open(source: &WorkspaceSource, names: &[String]) -> Result<Self, SourceError> {
        let path = names.iter().fold("/Volumes".to_owned(), |path, name| format!("{path}/{name}"));
        let workspace = source.workspace();
        let named = |objects: Vec<Value>| -> Vec<Entry> {
            let names = objects.iter().filter_map(|object| object.get("name")?.as_str());
            names.map(folder_entry).collect()
        };
        let entries = match names {
            [] => workspace.wait(catalog::catalogs(workspace.client())).map(named),
            [catalog] => workspace.wait(catalog::schemas(workspace.client(), catalog)).map(named),
            [catalog, schema] => {
                let volumes = catalog::objects(workspace.client(), "volumes", catalog, schema);
                workspace.wait(volumes).map(named)
            }
            _ => {
                let listed = workspace.wait(files::list(workspace.client(), &path));
                listed.map(|entries| entries.iter().map(volume_entry).collect())
            }
        };
        let mut entries = entries.map_err(|error| failure("list", &path, error))?;
        entries.sort_by(|one, other| one.name.cmp(&other.name));
        // a folder that is filled while it is listed may say something on two pages
        entries.dedup_by(|one, other| one.name == other.name);
        Ok(Self { source: source.clone(), path, entries })
    }
}

fn volume_entry(listed: &VolumeEntry) -> Entry {
    if listed.is_directory {
        return folder_entry(&listed.name);
    }
    let mut entry = Entry::new(listed.name.as_str(), EntryKind::File);
    entry.mode = 0o644;
    entry.size = listed.file_size.unwrap_or(0);
    entry.mtime = listed.last_modified.map(from_millis).unwrap_or_default();
    entry.attributes = vec![("type".into(), b"VOLUME_FILE".to_vec())];
    if listed.file_size == Some(0) {
        entry.attributes.insert(0, ("listed-size".into(), b"0".to_vec()));
    }
    entry
}

impl SourceDir for VolumeDir {
    fn list(&self) -> Result<Listing<'_>, SourceError> {
        Ok(Box::new(self.entries.iter().map(|entry| match Entry::name_is_valid(&entry.name) {
            true => Ok(entry.clone()),
            false => {
                let why = std::io::Error::other("no snapshot can have a name like that");
                Err(SourceError::new("keep", escape_path(&entry.name), why))
            }
        })))
    }

    fn look_again(&self, name: &[u8]) -> Result<Entry, SourceError> {
        let names: Vec<String> = self.path.split('/').skip(2).map(str::to_owned).collect();
        let now = Self::open(&self.source, &names)?;
        let gone = || {
            SourceError::new(
                "find",
                format!("{}/{}", self.path, escape_path(name)),
                std::io::ErrorKind::NotFound.into(),
            )
        };
        now.entries.into_iter().find(|entry| entry.name == name).ok_or_else(gone)
    }

    fn complete(&self, _: &mut Entry) -> Result<(), SourceError> {
        Ok(())
    }

    fn open(&self, entry: &Entry) -> Result<Box<dyn SourceFile>, SourceError> {
        let workspace = self.source.workspace().clone();
        let path = format!("{}/{}", self.path, String::from_utf8_lossy(&entry.name));
        let permit = match entry.size > PIECE_BYTES {
            true => workspace.wait(self.source.inner.large_files.clone().acquire_owned()).ok(),
            false => None,
        };
        let mut file = VolumeFile {
            workspace,
            path,
            size: entry.size,
            mtime: entry.mtime,
            fetched: 0,
            piece: Bytes::new(),
            version: None,
            _permit: permit,
        };
        // the first piece shows whether it can be read at all
        file.fetch()?;
        Ok(Box::new(file))
    }
}

/// A file of a volume that is being read.
struct VolumeFile {
    workspace: Workspace,
    path: String,
    size: u64,
    mtime: Timestamp,
    /// So many bytes were fetched.
    fetched: u64,
    /// What of them was not read yet.
    piece: Bytes,
    version: Option<HeaderValue>,
    /// Not too many large files are read at a time.
    _permit: Option<OwnedSemaphorePermit>,
}

impl VolumeFile {
    fn fetch(&mut self) -> Result<(), SourceError> {
        let range = self.fetched..self.size.min(self.fetched + PIECE_BYTES);
        if range.is_empty() && self.size > 0 {
            return Ok(());
        }
        let client = self.workspace.client();
        let read = self.workspace.wait(files::read(client, &self.path, range, self.size, self.version.as_ref()));
        match read.map_err(|error| failure("read", &self.path, error))? {
            Read::Piece(piece) => {
                self.fetched += piece.bytes.len() as u64;
                self.piece = piece.bytes;
                self.version = piece.version;
                Ok(())
            }
            Read::Changed => {
                let why = std::io::Error::other("it was changed while it was read");
                let error = SourceError::new("read", escape_path(self.path.as_bytes()), why);
                Err(SourceError { kind: SourceErrorKind::Replaced, ..error })
            }
        }
    }
}

impl SourceFile for VolumeFile {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, SourceError> {
        if self.piece.is_empty() && self.fetched < self.size {
            self.fetch()?;
        }
        let count = self.piece.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.piece.split_to(count));
        Ok(count)
    }

    /// It is read from front to back, and has no holes.
    fn next_data(&mut self, offset: u64) -> Result<Option<Range<u64>>, SourceError> {
        Ok((offset < self.size).then_some(offset..self.size))
    }

    /// Pieces are of one version, so that it is what it was when the first one came.
    fn fingerprint(&mut self) -> Result<Fingerprint, SourceError> {
        Ok(Fingerprint { size: self.size, mtime: self.mtime, ctime: Timestamp::default(), inode: 0 })
    }
}

/// Permits to read large files.
pub(super) fn large_files() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(LARGE_AT_A_TIME))
}
