//! Files in `tmp/`: what is being written and has no name in the repository yet.

use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

use super::calls::retry_interrupted;

/// A file that nobody has written to for so long is nobody's any more, unless its process is seen to live. Writers put
/// away what they have at every checkpoint, minutes apart; this is for one that waits a day for its source on a machine
/// that we do not see into. If it still comes back, its run fails and commits nothing.
const ABANDONED_AFTER_SECS: i64 = 24 * 3600;

/// Tells apart the temporary files of processes which have one number, on different machines or one after the other.
static PROCESS_TAG: LazyLock<u64> = LazyLock::new(|| RandomState::new().build_hasher().finish());
static COUNT: AtomicU64 = AtomicU64::new(0);

/// A file in `tmp/`. It is removed when dropped, unless it was given its name.
pub(super) struct TempFile {
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) remove: bool,
}

impl TempFile {
    /// Makes a file that no other process makes, and that only its owner can read.
    pub(super) fn create(folder: &Path) -> io::Result<Self> {
        loop {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let path = folder.join(format!("{}-{:016x}-{count}", std::process::id(), *PROCESS_TAG));
            match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
                Ok(file) => return Ok(Self { path, file, remove: true }),
            }
        }
    }

    /// Removes the files in the same folder whose writers are dead, and returns how many bytes that freed.
    ///
    /// This file, which is new, tells what time it is there: the clock of the medium made all these times, and ours may
    /// be another.
    pub(super) fn remove_abandoned_neighbours(&self) -> io::Result<u64> {
        let now_secs = self.file.metadata()?.mtime();
        let mut freed_bytes = 0;
        for entry in fs::read_dir(self.path.parent().unwrap_or(Path::new("/")))? {
            let entry = entry?;
            if !entry.file_name().to_str().is_some_and(writer_is_not_seen) {
                continue;
            }
            let removed = retry_interrupted(|| {
                let metadata = entry.metadata()?;
                let is_abandoned = metadata.is_file() && now_secs - metadata.mtime() >= ABANDONED_AFTER_SECS;
                if is_abandoned {
                    fs::remove_file(entry.path())?;
                }
                // A second name of an object that was published by a link frees nothing.
                Ok(if is_abandoned && metadata.nlink() == 1 { metadata.blocks() * 512 } else { 0 })
            });
            match removed {
                Ok(bytes) => freed_bytes += bytes,
                // Its writer has just put it away, or another sweep was quicker.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(freed_bytes)
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        // One that stays behind takes space and does no other harm.
        if self.remove {
            drop(fs::remove_file(&self.path));
        }
    }
}

/// Tells whether a name is one of a temporary file whose process does not run on this machine, as far as we see.
fn writer_is_not_seen(name: &str) -> bool {
    let mut parts = name.split('-');
    let (Some(pid), Some(tag), Some(_count), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    let (Ok(pid), Ok(tag)) = (pid.parse::<i32>(), u64::from_str_radix(tag, 16)) else { return false };
    if pid.cast_unsigned() == std::process::id() {
        return tag != *PROCESS_TAG;
    }
    Pid::from_raw(pid).is_some_and(|pid| test_kill_process(pid) == Err(Errno::SRCH))
}
