//! An open file: its bytes, its holes, and what tells whether it changed.

use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use lakebed_core::source::{Fingerprint, SourceError, SourceFile};
use rustix::fs::{FileType, OFlags, SeekFrom, Stat};
use rustix::io::{Errno, retry_on_intr};

use super::place::Place;
use super::{OPEN, READ, status};

/// Holes are looked for in larger files only: each costs two system calls and saves little here.
const SPARSE_MIN_BYTES: u64 = 256 * 1024;
/// Larger files are announced to the system as read from front to back.
#[cfg(target_os = "linux")]
const SEQUENTIAL_MIN_BYTES: u64 = 1024 * 1024;
/// What `st_blocks` counts in, on every system.
const STAT_BLOCK_BYTES: u64 = 512;

/// One file, open.
pub(super) struct LocalFile {
    fd: OwnedFd,
    place: Arc<Place>,
    name: Vec<u8>,
    /// Size when it was opened.
    size: u64,
    position: u64,
    /// It may have holes.
    sparse: bool,
    /// The descriptor does not wait.
    nonblocking: bool,
}

impl LocalFile {
    pub(super) fn new(
        fd: OwnedFd,
        place: Arc<Place>,
        name: Vec<u8>,
        is_same: impl FnOnce(&Stat) -> bool,
    ) -> Result<Self, SourceError> {
        let stat = rustix::fs::fstat(&fd).map_err(|errno| place.error(OPEN, &name, errno))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || !is_same(&stat) {
            return Err(place.replaced(OPEN, &name));
        }
        let size = status::size(&stat);
        let allocated = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(STAT_BLOCK_BYTES);
        let sparse = size > SPARSE_MIN_BYTES && allocated < size;
        #[cfg(target_os = "linux")]
        if size > SEQUENTIAL_MIN_BYTES {
            // a hint: where it is refused, reading works as well
            rustix::fs::fadvise(&fd, 0, None, rustix::fs::Advice::Sequential).ok();
        }
        Ok(Self { fd, place, name, size, position: 0, sparse, nonblocking: true })
    }

    fn error(&self, errno: Errno) -> SourceError {
        self.place.error(READ, &self.name, errno)
    }

    /// Returns the range of data at or after `offset`; `None` where there is none.
    fn seek_data(&self, offset: u64) -> Result<Option<Range<u64>>, Errno> {
        let seek = |to| match retry_on_intr(|| rustix::fs::seek(&self.fd, to)) {
            Ok(found) => Ok(Some(found)),
            // only a hole is left, or the file was cut off here
            Err(Errno::NXIO) => Ok(None),
            Err(errno) => Err(errno),
        };
        let Some(start) = seek(SeekFrom::Data(offset))? else { return Ok(None) };
        let Some(end) = seek(SeekFrom::Hole(start))? else { return Ok(None) };
        // what was appended since is of another moment
        let end = end.min(self.size);
        Ok((start < end).then_some(start..end))
    }
}

impl SourceFile for LocalFile {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, SourceError> {
        loop {
            match rustix::io::pread(&self.fd, &mut *buffer, self.position) {
                Ok(count) => {
                    self.position += count as u64;
                    return Ok(count);
                }
                Err(Errno::INTR) => {}
                // it was opened so that a pipe could not hold us; a file that takes that at its word is asked to wait
                Err(Errno::AGAIN) if self.nonblocking => {
                    self.nonblocking = false;
                    rustix::fs::fcntl_setfl(&self.fd, OFlags::empty()).map_err(|errno| self.error(errno))?;
                }
                Err(errno) => return Err(self.error(errno)),
            }
        }
    }

    fn next_data(&mut self, offset: u64) -> Result<Option<Range<u64>>, SourceError> {
        if self.sparse {
            match self.seek_data(offset) {
                Ok(found) => {
                    self.position = found.as_ref().map_or(offset, |range| range.start);
                    return Ok(found);
                }
                // a file system that cannot tell
                Err(Errno::INVAL | Errno::NOTSUP | Errno::NOSYS | Errno::NOTTY) => self.sparse = false,
                Err(errno) => return Err(self.error(errno)),
            }
        }
        self.position = offset;
        Ok((offset < self.size).then_some(offset..self.size))
    }

    fn fingerprint(&mut self) -> Result<Fingerprint, SourceError> {
        let stat = rustix::fs::fstat(&self.fd).map_err(|errno| self.error(errno))?;
        Ok(Fingerprint {
            size: status::size(&stat),
            mtime: status::mtime(&stat),
            ctime: status::ctime(&stat),
            inode: status::inode(&stat),
        })
    }
}
