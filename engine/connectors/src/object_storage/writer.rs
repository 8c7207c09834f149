//! Long objects: kept in a file until their name is known, then sent.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use lakebed_core::storage::{ObjectKey, ObjectWriter, StorageError, StorageErrorKind};
use object_store::MultipartId;
use object_store::multipart::PartId;
use object_store::path::Path;

use super::Inner;

/// Objects up to this size are sent by one request: packs are.
const ONE_REQUEST_BYTES: u64 = 40 << 20;
/// Where what is sent is slowed down, up to this size: what one request sends goes at once.
const ONE_SLOW_REQUEST_BYTES: u64 = 8 << 20;
/// Longer ones in parts of this size.
const PART_BYTES: u64 = 8 << 20;

/// A long object that waits for its name. Its bytes lie in a file that has none, so nothing is left if we are killed.
pub(super) struct SpooledWriter {
    inner: Arc<Inner>,
    file: File,
    length: u64,
    /// It is finished, or something failed.
    is_over: bool,
}

impl SpooledWriter {
    pub(super) fn new(inner: Arc<Inner>) -> Result<Self, StorageError> {
        let file = match &inner.spool {
            Some(folder) => tempfile::tempfile_in(folder),
            None => tempfile::tempfile(),
        };
        let file = file.map_err(|source| spool_error(&inner, source))?;
        Ok(Self { inner, file, length: 0, is_over: false })
    }

    fn read(&self, offset: u64, length: u64) -> Result<Bytes, StorageError> {
        // a part is far smaller than the address space
        let mut bytes = vec![0; length as usize];
        self.file.read_exact_at(&mut bytes, offset).map_err(|source| spool_error(&self.inner, source))?;
        Ok(bytes.into())
    }

    /// Sends the object in parts. It appears with the last request, or not at all.
    fn send_parts(&self, key: &ObjectKey) -> Result<(), StorageError> {
        let inner = &self.inner;
        // a store does not refuse a name that is taken when the parts are joined: it is looked for. A name of a long object
        // is that of its bytes, so whoever is quicker than us has put the same
        match inner.size("write", key) {
            Ok(_) => {
                let source = io::ErrorKind::AlreadyExists.into();
                return Err(StorageError::new("write", key, source));
            }
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        let (path, parts) = (inner.path(key), &inner.store.parts);
        let id = inner.run("write", key, parts.create_multipart(&path))?;
        let sent = self.send_and_join(key, &path, &id);
        if sent.is_err() {
            // what cannot be taken back is left to the rule that buckets have for uploads that were given up
            let _ = inner.run("abandon", key, parts.abort_multipart(&path, &id));
        }
        sent?;
        inner.confirm(key, self.length)
    }

    fn send_and_join(&self, key: &ObjectKey, path: &Path, id: &MultipartId) -> Result<(), StorageError> {
        let (inner, parts) = (&self.inner, &self.inner.store.parts);
        let mut sent: Vec<PartId> = Vec::new();
        for offset in (0..self.length).step_by(PART_BYTES as usize) {
            let bytes = self.read(offset, PART_BYTES.min(self.length - offset))?;
            let number = sent.len();
            sent.push(inner.run("write", key, parts.put_part(path, id, number, bytes.into()))?);
        }
        match inner.run("write", key, parts.complete_multipart(path, id, sent)) {
            // the answer to a request before may have been lost: then the upload is gone, and the object is there
            Err(_) if inner.size("write", key).is_ok_and(|size| size == self.length) => Ok(()),
            result => result.map(|_| ()),
        }
    }

    /// Carries out one step, after which nothing can be done if it fails.
    fn step<T>(&mut self, step: impl FnOnce(&mut Self) -> Result<T, StorageError>) -> Result<T, StorageError> {
        if self.is_over {
            let source = io::Error::other("it is finished, or something failed before");
            return Err(StorageError::new("write", &self.inner.location, source));
        }
        let result = step(self);
        // where the disk of the spool is full the same can be tried again
        self.is_over = matches!(&result, Err(error) if error.kind != StorageErrorKind::NoSpace);
        result
    }
}

fn spool_error(inner: &Inner, source: io::Error) -> StorageError {
    let place = inner.spool.clone().unwrap_or_else(std::env::temp_dir);
    StorageError::new("keep what is to be sent in", place.display(), source)
}

impl ObjectWriter for SpooledWriter {
    fn append(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        self.step(|writer| {
            let written = writer.file.write_all_at(bytes, writer.length);
            written.and_then(|()| writer.file.flush()).map_err(|source| spool_error(&writer.inner, source))?;
            writer.length += bytes.len() as u64;
            Ok(())
        })
    }

    fn finish(&mut self, key: &ObjectKey) -> Result<(), StorageError> {
        self.step(|writer| {
            let most = if writer.inner.is_slowed_down { ONE_SLOW_REQUEST_BYTES } else { ONE_REQUEST_BYTES };
            match writer.length <= most {
                true => writer.inner.put(key, &writer.read(0, writer.length)?),
                false => writer.send_parts(key),
            }
        })?;
        self.is_over = true;
        Ok(())
    }
}
