//! Calls to the system, with the care that each needs.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use rustix::io::Errno;

/// Repeats a call that a signal cut off, which happens on network file systems. The standard library does so for `open`,
/// `read`, `write` and `fsync` only.
pub(super) fn retry_interrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

pub(super) fn is_unsupported(error: &io::Error) -> bool {
    [Errno::INVAL, Errno::NOSYS, Errno::OPNOTSUPP, Errno::NOTSUP, Errno::NOTTY]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Makes a folder for its owner only. Tells whether it was not there before.
pub(super) fn make_folder(path: &Path) -> io::Result<bool> {
    match retry_interrupted(|| DirBuilder::new().mode(0o700).create(path)) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

pub(super) fn folder_exists(path: &Path) -> io::Result<bool> {
    match retry_interrupted(|| fs::metadata(path)) {
        Ok(metadata) => Ok(metadata.is_dir()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Makes the bytes of a file durable.
pub(super) fn flush_content(file: &File) -> io::Result<()> {
    match file.sync_data() {
        // Apple's full flush is not known to network file systems, which have the plain one.
        Err(error) if cfg!(target_vendor = "apple") && is_unsupported(&error) => {
            retry_interrupted(|| Ok(rustix::fs::fsync(file)?))
        }
        result => result,
    }
}

/// Makes the names in a folder durable.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder)?.sync_all() {
        // Some file systems, CIFS among them, have no such call for folders and nothing in its place.
        Err(error) if is_unsupported(&error) => Ok(()),
        result => result,
    }
}

#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
pub(super) fn rename_without_replacing(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(rustix::io::retry_on_intr(|| renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE))?)
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
pub(super) fn rename_without_replacing(_from: &Path, _to: &Path) -> io::Result<()> {
    Err(Errno::NOSYS.into())
}

/// Tells the system that these bytes will not be read soon. Linux then begins to write them out, without waiting, and
/// frees the memory of those that are written. It is a hint: whether it is taken does not matter.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn advise_written(file: &File, offset: u64, length: u64) {
    let length = std::num::NonZeroU64::new(length);
    let _ = rustix::fs::fadvise(file, offset, length, rustix::fs::Advice::DontNeed);
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn advise_written(_file: &File, _offset: u64, _length: u64) {}

/// Returns how many bytes are free for us on the disk that a file is on.
pub(super) fn free_bytes(file: &File) -> io::Result<u64> {
    let disk = rustix::io::retry_on_intr(|| rustix::fs::fstatvfs(file))?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Holds bytes of the disk back for a file, without making it longer.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn hold_back(file: &File, bytes: u64) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    Ok(rustix::io::retry_on_intr(|| fallocate(file, FallocateFlags::KEEP_SIZE, 0, bytes))?)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn hold_back(_file: &File, _bytes: u64) -> io::Result<()> {
    Err(Errno::NOSYS.into())
}
