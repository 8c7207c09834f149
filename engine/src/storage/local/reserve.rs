//! The reserve: space that is held back on the medium, for whoever must write a little before it can free much.
//!
//! It is the file `reserve`, with blocks but no bytes: its size is 0, so a copy of the repository does not copy them.
//! Where the system cannot hold blocks back, there is no file and no reserve. A file system that never writes in place
//! (btrfs, ZFS) may need more than these blocks to delete anything; it keeps back some space of its own for that.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::calls::{hold_back, is_unsupported, retry_interrupted};

/// A claim, lists of condemned packs and a segment, many times over.
const RESERVE_BYTES: u64 = 4 << 20;

/// One that is smaller helps nobody for sure.
const RESERVE_MIN_BYTES: u64 = 256 << 10;

/// Makes the reserve, or makes it whole. Where there is no room for it, or no call that would do it, there is none.
pub(super) fn take(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
    let file = match file {
        Err(error) if is_no_space(&error) => return Ok(()),
        file => file?,
    };
    let mut bytes = RESERVE_BYTES;
    loop {
        match hold_back(&file, bytes) {
            Ok(()) => return Ok(()),
            // a smaller one still has room for a tombstone, a claim and a list
            Err(error) if is_no_space(&error) && bytes / 2 >= RESERVE_MIN_BYTES => bytes /= 2,
            Err(error) => {
                retry_interrupted(|| fs::remove_file(path))?;
                return if is_no_space(&error) || is_unsupported(&error) { Ok(()) } else { Err(error) };
            }
        }
    }
}

/// Removes the reserve and tells whether that freed space.
pub(super) fn give_up(path: &Path) -> io::Result<bool> {
    retry_interrupted(|| match fs::symlink_metadata(path) {
        Ok(metadata) => {
            fs::remove_file(path)?;
            Ok(metadata.blocks() > 0)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    })
}

fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
