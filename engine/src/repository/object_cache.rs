//! Copies of objects of a remote medium on this machine, so that what was read once costs no request again.
//!
//! What it keeps true:
//! * a copy is of an object that was whole when it was kept, as it lies in storage: sealed;
//! * a copy says nothing about whether the object is still there, so it is only used for what a listing has just shown, or
//!   what is named by its content; and whoever checks what storage holds uses only what he has kept there himself;
//! * it may be deleted at any time, whole or in part, and takes no more than its limit.

use std::fs::File;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use lakebed_core::storage::ObjectKey;

/// When the cache is full, so much of it goes that this share of it is left.
const LEFT_PERCENT: u64 = 80;

/// A folder with copies, named as the objects are.
#[derive(Debug)]
pub(crate) struct ObjectCache {
    folder: PathBuf,
    limit_bytes: u64,
    /// Bytes that are kept, about; `None` before anybody has counted.
    used: Mutex<Option<u64>>,
    /// Files begun by this process: each has a name of its own.
    begun: AtomicU64,
}

impl ObjectCache {
    /// Keeps copies in a folder, which need not exist.
    pub(crate) fn new(folder: PathBuf, limit_bytes: u64) -> Self {
        Self { folder, limit_bytes, used: Mutex::default(), begun: AtomicU64::new(0) }
    }

    fn path(&self, key: &ObjectKey) -> PathBuf {
        // parts of a key never begin with a dot, so none leads out of the folder
        self.folder.join(key.as_str())
    }

    /// Returns a copy.
    pub(crate) fn get(&self, key: &ObjectKey) -> Option<Vec<u8>> {
        std::fs::read(self.path(key)).ok()
    }

    /// Appends a part of a copy; tells whether there is one.
    pub(crate) fn get_range(&self, key: &ObjectKey, offset: u64, length: usize, buffer: &mut Vec<u8>) -> bool {
        let before = buffer.len();
        let Ok(file) = File::open(self.path(key)) else { return false };
        buffer.resize(before + length, 0);
        let is_read = file.read_exact_at(&mut buffer[before..], offset).is_ok();
        if !is_read {
            buffer.truncate(before);
        }
        is_read
    }

    /// Tells whether there is a copy of that size.
    pub(crate) fn holds(&self, key: &ObjectKey, size: u64) -> bool {
        std::fs::metadata(self.path(key)).is_ok_and(|metadata| metadata.len() == size)
    }

    /// Tells whether copies of so many bytes can be kept beside each other.
    pub(crate) fn has_room_for(&self, bytes: u64) -> bool {
        bytes <= self.limit_bytes / 2
    }

    /// Keeps a copy; tells whether it did. A cache that cannot be written keeps nothing, and that is all.
    pub(crate) fn keep(&self, key: &ObjectKey, bytes: &[u8]) -> bool {
        if !self.has_room_for(bytes.len() as u64) || self.write(&self.path(key), bytes).is_err() {
            return false;
        }
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let now = match *used {
            Some(used) => used + bytes.len() as u64,
            None => self.copies().iter().map(|copy| copy.bytes).sum(),
        };
        *used = Some(if now > self.limit_bytes { self.make_room() } else { now });
        true
    }

    /// Forgets a copy that is of no more use.
    pub(crate) fn forget(&self, key: &ObjectKey) {
        let _ = std::fs::remove_file(self.path(key));
    }

    /// Writes a file that appears whole or not at all. After a loss of power it may be damaged: whoever reads it notices.
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let parent = path.parent().unwrap_or(&self.folder);
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        let unfinished = parent.join(format!(".{}-{number}", std::process::id()));
        std::fs::write(&unfinished, bytes)?;
        let renamed = std::fs::rename(&unfinished, path);
        if renamed.is_err() {
            let _ = std::fs::remove_file(&unfinished);
        }
        renamed
    }

    /// Deletes the copies that were kept first, and returns how many bytes are left.
    fn make_room(&self) -> u64 {
        let mut copies = self.copies();
        copies.sort_by_key(|copy| copy.kept);
        let mut used: u64 = copies.iter().map(|copy| copy.bytes).sum();
        for copy in copies {
            if used <= self.limit_bytes / 100 * LEFT_PERCENT {
                break;
            }
            if std::fs::remove_file(&copy.path).is_ok() {
                used -= copy.bytes;
            }
        }
        used
    }

    fn copies(&self) -> Vec<Kept> {
        let mut copies = Vec::new();
        let mut folders = vec![self.folder.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                let Ok(metadata) = entry.metadata() else { continue };
                match metadata.is_dir() {
                    true => folders.push(entry.path()),
                    false => copies.push(Kept {
                        path: entry.path(),
                        bytes: metadata.len(),
                        kept: metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
                    }),
                }
            }
        }
        copies
    }
}

/// A copy that is there.
struct Kept {
    path: PathBuf,
    bytes: u64,
    kept: SystemTime,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u32) -> ObjectKey {
        ObjectKey::new(format!("packs/aa/{number}")).unwrap()
    }

    #[test]
    fn a_copy_is_read_as_it_was_kept_whole_or_in_part() {
        let folder = tempfile::TempDir::new().unwrap();
        let cache = ObjectCache::new(folder.path().join("objects"), 1000);
        assert_eq!(cache.get(&key(1)), None);
        cache.keep(&key(1), b"content");
        assert_eq!(cache.get(&key(1)).unwrap(), b"content");
        let mut buffer = b"before ".to_vec();
        assert!(cache.get_range(&key(1), 3, 4, &mut buffer));
        assert!(!cache.get_range(&key(1), 3, 5, &mut buffer));
        assert!(!cache.get_range(&key(2), 0, 1, &mut buffer));
        assert_eq!(buffer, b"before tent");
    }

    #[test]
    fn a_cache_takes_no_more_than_its_limit() {
        let folder = tempfile::TempDir::new().unwrap();
        let used = || ObjectCache::new(folder.path().into(), 0).copies().iter().map(|copy| copy.bytes).sum::<u64>();
        // one that finds what another process has left
        for start in [0, 100] {
            let cache = ObjectCache::new(folder.path().into(), 1000);
            for number in start..start + 30 {
                cache.keep(&key(number), &[7; 90]);
                assert!(used() <= 1000, "{}", used());
            }
            assert!(cache.get(&key(start + 29)).is_some() && cache.get(&key(start)).is_none());
            cache.keep(&key(1000), &[7; 900]);
            assert!(cache.get(&key(1000)).is_none(), "one object in the place of everything else");
        }
    }

    #[test]
    fn a_cache_that_cannot_be_written_keeps_nothing() {
        let folder = tempfile::TempDir::new().unwrap();
        std::fs::write(folder.path().join("file"), "").unwrap();
        let cache = ObjectCache::new(folder.path().join("file"), 1000);
        cache.keep(&key(1), b"content");
        assert_eq!(cache.get(&key(1)), None);
    }
}
