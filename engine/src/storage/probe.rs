//! What a medium really does: tried, not believed.
//!
//! A store may answer that a conditional put went well and have replaced what was there. So a fresh name is put twice and
//! read back, and only what is seen then counts.

use std::io;

use lakebed_core::layout;
use lakebed_core::storage::{Storage, StorageError, StorageErrorKind};
use lakebed_core::time::Random;

/// What was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Findings {
    /// A name that was taken was refused, and its content stayed.
    pub put_if_absent: bool,
    /// What was put was read back at once, byte for byte.
    pub read_after_write: bool,
    /// What was put was listed at once, at its size.
    pub listing_after_write: bool,
    /// A part was read exactly.
    pub ranges: bool,
    /// What was put could be deleted. That may be for want of permission, which backups and restores do not need.
    pub deletions: bool,
}

impl Findings {
    /// Tells whether a repository can be kept there at all.
    pub fn can_keep_a_repository(&self) -> bool {
        self.read_after_write && self.ranges && self.listing_after_write
    }
}

const FIRST: &[u8] = b"what was put first stays";
const SECOND: &[u8] = b"what was put second is refused";
const PART: std::ops::Range<usize> = 5..12;

/// Tries a medium, by a handful of requests. What it puts it takes away again, where it may.
///
/// # Errors
/// Storage fails in a way that says nothing about what it can do: it cannot be reached, or nothing may be put there.
pub fn probe(storage: &dyn Storage, random: &dyn Random) -> Result<Findings, StorageError> {
    let mut name = [0; lakebed_core::id::ID_LEN];
    random.fill(&mut name).map_err(|source| StorageError::new("draw a name for", "a probe", source))?;
    let key = layout::probe(&name);
    storage.put(&key, FIRST)?;
    let seen = look(storage, &key);
    // it goes whatever was seen; where that is not allowed it stays, which is harmless
    let deletions = match storage.delete(&key) {
        Ok(()) => true,
        Err(error) if matches!(error.kind, StorageErrorKind::PermissionDenied | StorageErrorKind::NotFound) => false,
        Err(error) => return Err(error),
    };
    Ok(Findings { deletions, ..seen? })
}

fn look(storage: &dyn Storage, key: &lakebed_core::storage::ObjectKey) -> Result<Findings, StorageError> {
    let absent = |error: StorageError| if error.is_not_found() { Ok(Vec::new()) } else { Err(error) };
    let first = storage.get(key).or_else(absent)?;
    let mut part = Vec::new();
    let ranges = match storage.get_range(key, PART.start as u64, PART.len(), &mut part) {
        Ok(()) => part == FIRST[PART],
        Err(error) if matches!(error.kind, StorageErrorKind::NotFound | StorageErrorKind::TooShort) => false,
        Err(error) => return Err(error),
    };
    let listed = storage.list(layout::PROBES)?;
    let size_bytes = FIRST.len() as u64;
    let listing_after_write = listed.iter().any(|object| object.key == *key && object.size_bytes == size_bytes);
    let refused = match storage.put(key, SECOND) {
        Ok(()) => false,
        Err(error) if error.kind == StorageErrorKind::AlreadyExists => true,
        // a second look at what was sent may find the first
        Err(error) if error.source.kind() == io::ErrorKind::Other && error.kind == StorageErrorKind::Other => false,
        Err(error) => return Err(error),
    };
    let stayed = storage.get(key).or_else(absent)? == FIRST;
    Ok(Findings {
        put_if_absent: refused && stayed,
        read_after_write: first == FIRST,
        listing_after_write,
        ranges,
        deletions: false,
    })
}
