//! Permissions: what an ordinary user must lift for a moment to change what root may always change.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use lakebed_core::time::Timestamp;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT, utimensat};

/// Tells whether this process is root's, which no permission bit holds back.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Tells whether files in a directory can have attributes `user.*`. Not every file system has them.
pub fn user_xattrs_work(directory: &Path) -> bool {
    let probe = directory.join(format!(".xattr-probe-{}", std::process::id()));
    fs::write(&probe, b"").unwrap_or_else(|e| panic!("write {}: {e}", probe.display()));
    let works = xattr::set(&probe, "user.probe", b"1").is_ok();
    fs::remove_file(&probe).unwrap();
    works
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap_or_else(|e| panic!("chmod {}: {e}", path.display()));
}

/// Sets the time of the last change, of a link itself where it is one.
pub(crate) fn set_mtime(path: &Path, mtime: Timestamp) {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime.secs, tv_nsec: mtime.nanos.into() },
    };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)
        .unwrap_or_else(|e| panic!("set the time of {}: {e}", path.display()));
}

pub(crate) fn mtime_of(metadata: &fs::Metadata) -> Timestamp {
    Timestamp { secs: metadata.mtime(), nanos: u32::try_from(metadata.mtime_nsec()).expect("below a second") }
}

/// Gives the owner every right on a file or a directory; the mode that it had comes back with [`relock`].
///
/// What is a link, or not there, is left alone.
pub(crate) fn unlock(path: &Path) -> Option<u32> {
    let metadata = fs::symlink_metadata(path).ok()?;
    let wanted = if metadata.is_dir() { 0o700 } else { 0o600 };
    let mode = metadata.mode() & 0o7777;
    if is_root() || metadata.is_symlink() || mode & wanted == wanted {
        return None;
    }
    set_mode(path, mode | wanted);
    Some(mode)
}

/// Takes back what [`unlock`] gave.
pub(crate) fn relock(path: &Path, mode: Option<u32>) {
    if let Some(mode) = mode {
        set_mode(path, mode);
    }
}

/// Runs something that changes the list of a directory.
pub(crate) fn with_unlocked<T>(path: &Path, run: impl FnOnce() -> T) -> T {
    let mode = unlock(path);
    let result = run();
    relock(path, mode);
    result
}

/// Removes whatever is at a path, also where the modes of its directories are in the way.
///
/// An ordinary user needs it before a temporary folder with such a tree in it goes: that one stays behind in silence.
///
/// # Panics
/// There is nothing, or it cannot be removed.
pub fn remove_all(path: &Path) {
    fn unlock_below(path: &Path) {
        if fs::symlink_metadata(path).is_ok_and(|m| m.is_dir()) {
            unlock(path);
            for entry in fs::read_dir(path).unwrap_or_else(|e| panic!("list {}: {e}", path.display())) {
                unlock_below(&entry.unwrap().path());
            }
        }
    }
    let metadata = fs::symlink_metadata(path).unwrap_or_else(|e| panic!("look at {}: {e}", path.display()));
    let removed = if metadata.is_dir() {
        unlock_below(path);
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    removed.unwrap_or_else(|e| panic!("remove {}: {e}", path.display()));
}
