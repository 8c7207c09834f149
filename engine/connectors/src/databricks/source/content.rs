//! Content of notebooks and files: whole before anything of it is used.

use std::fs::File;
use std::io::{Read, Seek};
use std::ops::Range;

use bytes::Bytes;
use lakebed_core::source::{Fingerprint, SourceError, SourceErrorKind, SourceFile};
use lakebed_core::text::escape_path;
use lakebed_core::time::Timestamp;

use super::failure;
use crate::databricks::Workspace;
use crate::databricks::api;
use crate::databricks::names::NotebookFormat;
use crate::rest::{CallError, Refusal};

/// Exports of more bytes are refused.
const EXPORT_MAX_BYTES: u64 = 10_485_760;

/// What an entry is in the workspace.
pub(super) enum Kind {
    Notebook(NotebookFormat),
    File,
}

/// An object whose content is wanted.
pub(super) struct Wanted {
    pub(super) path: String,
    pub(super) kind: Kind,
    /// As listed; 0 where it is not known.
    pub(super) size: u64,
    pub(super) mtime: Timestamp,
    pub(super) ctime: Timestamp,
}

impl Wanted {
    /// Takes the content out of the workspace.
    pub(super) fn open(&self, workspace: &Workspace) -> Result<Box<dyn SourceFile>, SourceError> {
        let file = match self.kind {
            Kind::Notebook(format) => self.notebook(workspace, format)?,
            Kind::File if self.size > EXPORT_MAX_BYTES => self.download(workspace)?,
            Kind::File => match self.export(workspace, "AUTO", true) {
                Err(error) if is_too_large(&error) => self.download(workspace)?,
                exported => self.in_memory(exported.map_err(|error| failure("export", &self.path, error))?),
            },
        };
        Ok(file)
    }

    fn export(&self, workspace: &Workspace, format: &str, outputs: bool) -> Result<Bytes, CallError> {
        workspace.wait(api::export(workspace.client(), &self.path, format, outputs))
    }

    /// Takes a notebook; one that is too large with what its cells have printed without that.
    fn notebook(&self, workspace: &Workspace, format: NotebookFormat) -> Result<Box<dyn SourceFile>, SourceError> {
        let exported = match self.export(workspace, format.as_str(), true) {
            Err(error) if format == NotebookFormat::Jupyter && is_too_large(&error) => {
                self.export(workspace, format.as_str(), false)
            }
            exported => exported,
        };
        Ok(self.in_memory(exported.map_err(|error| failure("export", &self.path, error))?))
    }

    /// Takes a file of any size, by way of a local one: what is cut off is fetched again.
    fn download(&self, workspace: &Workspace) -> Result<Box<dyn SourceFile>, SourceError> {
        let local = |source| SourceError::new("keep", escape_path(self.path.as_bytes()), source);
        let mut file = tempfile::tempfile().map_err(local)?;
        let downloaded = workspace.wait(api::download(workspace.client(), &self.path, self.size > 0, &file));
        downloaded.map_err(|error| failure("download", &self.path, error))?;
        let length = file.metadata().map_err(local)?.len();
        // another file by now, or no file at all but the page of a proxy: it is listed again
        if self.size > 0 && length != self.size {
            let why = format!("{length} bytes came, where {} are listed", self.size);
            return Err(SourceError { kind: SourceErrorKind::Replaced, ..local(std::io::Error::other(why)) });
        }
        file.rewind().map_err(local)?;
        Ok(Box::new(Content {
            body: Body::Local(file),
            length,
            at: 0,
            path: self.path.clone(),
            print: self.print(length),
        }))
    }

    fn in_memory(&self, bytes: Bytes) -> Box<dyn SourceFile> {
        let length = bytes.len() as u64;
        Box::new(Content {
            body: Body::Memory(bytes),
            length,
            at: 0,
            path: self.path.clone(),
            print: self.print(length),
        })
    }

    /// Returns the fingerprint as it was listed, or with another size, which shows that it was changed meanwhile.
    fn print(&self, length: u64) -> Fingerprint {
        let size = if self.size == 0 { 0 } else { length };
        Fingerprint { size, mtime: self.mtime, ctime: self.ctime, inode: 0 }
    }
}

/// Makes a file of a document that is here, of which nothing was known before.
pub(super) fn in_memory(bytes: Bytes, path: String) -> Box<dyn SourceFile> {
    let (length, never) = (bytes.len() as u64, Timestamp::default());
    let print = Fingerprint { size: 0, mtime: never, ctime: never, inode: 0 };
    Box::new(Content { body: Body::Memory(bytes), length, at: 0, path, print })
}

fn is_too_large(error: &CallError) -> bool {
    error.kind.refusal().is_some_and(Refusal::is_too_large)
}

enum Body {
    Memory(Bytes),
    Local(File),
}

/// Content that is here whole.
struct Content {
    body: Body,
    length: u64,
    at: u64,
    path: String,
    print: Fingerprint,
}

impl SourceFile for Content {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, SourceError> {
        let count = match &mut self.body {
            Body::Memory(bytes) => {
                let rest = usize::try_from(self.at).ok().and_then(|at| bytes.get(at..)).unwrap_or_default();
                let count = rest.len().min(buffer.len());
                buffer[..count].copy_from_slice(&rest[..count]);
                count
            }
            Body::Local(file) => {
                let failed = |source| SourceError::new("read", escape_path(self.path.as_bytes()), source);
                file.read(buffer).map_err(failed)?
            }
        };
        self.at += count as u64;
        Ok(count)
    }

    /// Content is read from front to back, and has no holes.
    fn next_data(&mut self, offset: u64) -> Result<Option<Range<u64>>, SourceError> {
        Ok((offset < self.length).then_some(offset..self.length))
    }

    fn fingerprint(&mut self) -> Result<Fingerprint, SourceError> {
        Ok(self.print)
    }
}
