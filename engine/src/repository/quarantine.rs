//! Quarantine: where damaged objects are moved, as they are. Nothing is ever deleted that was not put there first, and
//! nothing there is read again; that there are packs tells a backup not to take the index's word for what is present.

use lakebed_core::layout;
use lakebed_core::storage::{ObjectKey, StorageErrorKind};

use super::{Repository, Store};
use crate::error::{Error, Result};

/// Bytes read at once.
const READ_BYTES: usize = 2 << 20;
/// What cannot be read is narrowed down to so many bytes: the sectors of a disk are no smaller.
const BLOCK_BYTES: usize = 4096;

impl Store {
    /// Appends a range of an object to `buffer`. Zeros stand for what cannot be read.
    ///
    /// # Errors
    /// The object is gone, or may not be looked at.
    pub(crate) fn read_what_can_be(
        &self,
        key: &ObjectKey,
        offset: u64,
        length: usize,
        buffer: &mut Vec<u8>,
    ) -> Result<()> {
        let error = match self.storage().get_range(key, offset, length, buffer) {
            Ok(()) => return Ok(()),
            Err(error) if error.is_not_found() => return Err(error.into()),
            Err(error) => Error::from(error),
        };
        if error.keeps_from_looking() {
            return Err(error);
        }
        if length <= BLOCK_BYTES {
            buffer.resize(buffer.len() + length, 0);
            return Ok(());
        }
        let half = (length / 2).next_multiple_of(BLOCK_BYTES);
        self.read_what_can_be(key, offset, half, buffer)?;
        self.read_what_can_be(key, offset + half as u64, length - half, buffer)
    }

    /// Moves an object to quarantine: it is durable there before it goes. What was cut off is gone on with.
    ///
    /// # Errors
    /// Storage.
    pub(crate) fn put_aside(&self, key: &ObjectKey) -> Result<()> {
        self.copy_aside(key)?;
        self.storage().sync()?;
        Ok(self.storage().delete(key)?)
    }

    /// Puts what can be read of an object into quarantine. It is durable after [`lakebed_core::storage::Storage::sync`].
    ///
    /// # Errors
    /// Storage.
    pub(crate) fn copy_aside(&self, key: &ObjectKey) -> Result<()> {
        let size = self.storage().size(key)?;
        for number in 0.. {
            let aside = layout::quarantine(key, number);
            match self.storage().size(&aside) {
                Ok(found) if found == size && self.is_same(key, &aside, size)? => return Ok(()),
                // another one of that name was damaged before
                Ok(_) => {}
                Err(error) if error.is_not_found() => match self.copy(key, &aside, size) {
                    Err(Error::Storage(error)) if error.kind == StorageErrorKind::AlreadyExists => {}
                    result => return result,
                },
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Notes in quarantine that an object is missing: an empty one stands there for it.
    ///
    /// # Errors
    /// Storage.
    pub(crate) fn note_missing(&self, key: &ObjectKey) -> Result<()> {
        match self.storage().put(&layout::quarantine(key, 0), b"") {
            Err(error) if error.kind != StorageErrorKind::AlreadyExists => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn copy(&self, key: &ObjectKey, aside: &ObjectKey, size: u64) -> Result<()> {
        let mut writer = self.storage().writer()?;
        let mut buffer = Vec::new();
        for (offset, length) in pieces(size) {
            buffer.clear();
            self.read_what_can_be(key, offset, length, &mut buffer)?;
            writer.append(&buffer)?;
        }
        Ok(writer.finish(aside)?)
    }

    fn is_same(&self, key: &ObjectKey, aside: &ObjectKey, size: u64) -> Result<bool> {
        let (mut one, mut other) = (Vec::new(), Vec::new());
        for (offset, length) in pieces(size) {
            one.clear();
            self.read_what_can_be(key, offset, length, &mut one)?;
            other.clear();
            self.read_what_can_be(aside, offset, length, &mut other)?;
            if one != other {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn pieces(size: u64) -> impl Iterator<Item = (u64, usize)> {
    (0..size).step_by(READ_BYTES).map(move |offset| (offset, (size - offset).min(READ_BYTES as u64) as usize))
}

impl Repository {
    /// Tells whether packs were put into quarantine: there may be snapshots that lack what was in them.
    pub(crate) fn has_lost_packs(&self) -> Result<bool> {
        Ok(!self.store.storage().list(layout::LOST_PACKS)?.is_empty())
    }
}
