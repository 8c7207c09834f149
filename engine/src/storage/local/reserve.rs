//! The reserve: space that is held back on the medium, for whoever must write a little before it can free much.
//!
//! It is the file `reserve`, with blocks but no bytes: its size is 0, so a copy of the repository does not copy them.
//! Where the system cannot hold blocks back, there is no file and no reserve. A file system that never writes in place
//! (btrfs, ZFS) may need more than these blocks to delete anything; it keeps back some space of its own for that.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::PACK_TARGET_BYTES;
use super::calls::{free_bytes, hold_back, is_unsupported, retry_interrupted};

/// What is needed of one pack, be it all of a full one, and the records and the segment that go with it.
const RESERVE_MAX_BYTES: u64 = PACK_TARGET_BYTES + (8 << 20);

/// What `stat` counts blocks in.
const BLOCK_BYTES: u64 = 512;

/// No more than this part of what is free is held back beyond [`RESERVE_BYTES`].
const PART_OF_FREE: u64 = 16;

/// A claim, lists of condemned packs and a segment, many times over.
const RESERVE_BYTES: u64 = 4 << 20;

/// One that is smaller helps nobody for sure.
const RESERVE_MIN_BYTES: u64 = 256 << 10;

/// Makes the reserve, or makes it whole: at least as large as one that was given up before. Where there is no room for
/// that it is smaller; where there is next to none, or no call that would do it, there is none.
pub(super) fn take(path: &Path, given_up_bytes: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
    let file = match file {
        Err(error) if is_no_space(&error) => return Ok(()),
        file => file?,
    };
    let held = file.metadata()?.blocks() * BLOCK_BYTES;
    let room = held.saturating_add(free_bytes(&file)?);
    let wanted = (room / PART_OF_FREE).max(given_up_bytes).clamp(RESERVE_BYTES, RESERVE_MAX_BYTES);
    // some systems take what there is before they find that it is not enough
    let mut bytes = wanted.min(room).max(RESERVE_MIN_BYTES);
    loop {
        match hold_back(&file, bytes) {
            Ok(()) => return Ok(()),
            Err(error) if is_no_space(&error) && bytes > RESERVE_MIN_BYTES => {
                bytes = (bytes - bytes / 8).max(RESERVE_MIN_BYTES);
            }
            Err(error) => {
                retry_interrupted(|| fs::remove_file(path))?;
                return if is_no_space(&error) || is_unsupported(&error) { Ok(()) } else { Err(error) };
            }
        }
    }
}

/// Removes the reserve and returns how many bytes that freed.
pub(super) fn give_up(path: &Path) -> io::Result<u64> {
    retry_interrupted(|| match fs::symlink_metadata(path) {
        Ok(metadata) => {
            fs::remove_file(path)?;
            Ok(metadata.blocks() * BLOCK_BYTES)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    })
}

fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
