//! A long object on its way into the repository.

use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use lakebed_core::storage::{ObjectKey, ObjectWriter, StorageError, StorageErrorKind};

use super::calls::{advise_written, flush_content};
use super::temp::TempFile;
use super::{Inner, write_error};

/// How much of a long object is appended before the system is told to begin writing it out.
const WRITEBACK_STEP_BYTES: u64 = 8 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It takes bytes.
    Open,
    /// All its bytes are durable: what is left is its name.
    Flushed,
    /// It has its name, or what is in the file is not known any more.
    Over,
}

/// An object being written to a file that has no name yet in the repository.
pub(super) struct LocalWriter {
    inner: Arc<Inner>,
    temp: TempFile,
    written_bytes: u64,
    handed_over_bytes: u64,
    state: State,
}

impl LocalWriter {
    pub(super) fn new(inner: Arc<Inner>, temp: TempFile) -> Self {
        Self { inner, temp, written_bytes: 0, handed_over_bytes: 0, state: State::Open }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.state != State::Open {
            return Err(over());
        }
        if let Err(error) = self.temp.file.write_all_at(bytes, self.written_bytes) {
            // A disk that was full for a moment must leave nothing between two appends.
            self.temp.file.set_len(self.written_bytes)?;
            return Err(error);
        }
        self.written_bytes += bytes.len() as u64;
        self.begin_writeback();
        Ok(())
    }

    /// Lets the disk work while the next bytes are made, so that the flush at the end finds little left to do.
    fn begin_writeback(&mut self) {
        let pending_bytes = self.written_bytes - self.handed_over_bytes;
        if pending_bytes >= WRITEBACK_STEP_BYTES {
            advise_written(&self.temp.file, self.handed_over_bytes, pending_bytes);
            self.handed_over_bytes = self.written_bytes;
        }
    }

    fn publish(&mut self, key: &ObjectKey) -> io::Result<()> {
        if self.state == State::Open {
            // Once only: the system tells of bytes that it lost one time, and a second flush would succeed without them.
            self.state = State::Over;
            flush_content(&self.temp.file)?;
            self.state = State::Flushed;
        }
        if self.state != State::Flushed {
            return Err(over());
        }
        self.inner.give_name(&mut self.temp, key)?;
        self.state = State::Over;
        Ok(())
    }

    /// Only after a lack of space the same call may come again.
    fn settle(&mut self, result: Result<(), StorageError>) -> Result<(), StorageError> {
        if result.as_ref().is_err_and(|error| error.kind != StorageErrorKind::NoSpace) {
            self.state = State::Over;
        }
        result
    }
}

impl ObjectWriter for LocalWriter {
    fn append(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        let written = self.write(bytes).map_err(|source| write_error(self.temp.path.display(), source));
        self.settle(written)
    }

    fn finish(&mut self, key: &ObjectKey) -> Result<(), StorageError> {
        let published = self.publish(key).map_err(|source| write_error(key, source));
        self.settle(published)
    }
}

fn over() -> io::Error {
    io::Error::other("the object was finished, or an earlier write to it failed")
}
