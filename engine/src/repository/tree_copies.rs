//! Packs of trees that are read whole and kept on this machine: whoever reads one node of a tree reads more.
//!
//! What it keeps true:
//! * of one reader, each pack is asked for once, however many threads need something in it;
//! * a copy is made of a pack that is what its name says, and of nothing else;
//! * for who wants to know what storage holds, a copy counts only if it was made by himself;
//! * where there is no copy of any use, the frames are read from storage, and whoever reads them says what is wrong.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lakebed_core::id::PackId;
use lakebed_core::layout;

use super::{ObjectCache, Part};
use crate::error::{Error, Result};

/// Of larger packs no copies are made: only the frames that are wanted are read.
const COPIED_PACK_MAX_BYTES: u64 = 64 << 20;

/// What is known of the copy of one pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Copy {
    Unknown,
    Kept,
    /// There is none, and there is going to be none.
    None,
}

/// Copies of packs of trees.
#[derive(Debug)]
pub(crate) struct TreeCopies {
    cache: Arc<ObjectCache>,
    /// Only what was read by this very reader counts.
    is_fresh: bool,
    packs: Mutex<HashMap<PackId, Arc<Mutex<Copy>>>>,
    /// Held by who reads a pack: one at a time is in memory.
    reading: Mutex<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl TreeCopies {
    /// Uses the copies that this machine has, and makes others.
    pub(crate) fn known(cache: Arc<ObjectCache>) -> Self {
        Self { cache, is_fresh: false, packs: Mutex::default(), reading: Mutex::default() }
    }

    /// Uses what it has read from storage itself. `None` where so many bytes of packs would drive each other out.
    pub(crate) fn fresh(cache: Arc<ObjectCache>, bytes: u64) -> Option<Self> {
        cache.has_room_for(bytes).then(|| Self { is_fresh: true, ..Self::known(cache) })
    }

    /// Tells whether its copies are what storage has been seen to hold.
    pub(crate) fn is_fresh(&self) -> bool {
        self.is_fresh
    }

    /// Appends a part of a copy that was made or found before; tells whether there is one.
    pub(crate) fn part(&self, part: Part, buffer: &mut Vec<u8>) -> bool {
        let copy = lock(&self.packs).get(&part.pack).cloned();
        copy.is_some_and(|copy| *lock(&copy) == Copy::Kept)
            && self.cache.get_range(&layout::pack(part.pack), part.offset, part.length as usize, buffer)
    }

    /// Makes the copy of a pack of that size, which `read` reads whole, unless there is one; tells whether there is one now.
    ///
    /// # Errors
    /// The pack is not there.
    pub(crate) fn make(&self, pack: PackId, size: u64, read: impl FnOnce() -> Result<Vec<u8>>) -> Result<bool> {
        let copy = lock(&self.packs).entry(pack).or_insert_with(|| Arc::new(Mutex::new(Copy::Unknown))).clone();
        // several threads come here for the same pack: one reads it, and the others wait
        let mut copy = lock(&copy);
        if *copy == Copy::Unknown {
            *copy = match self.find_or_read(pack, size, read) {
                Ok(true) => Copy::Kept,
                Err(Error::Storage(error)) if error.is_not_found() => return Err(error.into()),
                // what cannot be read as a whole may be read in part
                Ok(false) | Err(_) => Copy::None,
            };
        }
        Ok(*copy == Copy::Kept)
    }

    fn find_or_read(&self, pack: PackId, size: u64, read: impl FnOnce() -> Result<Vec<u8>>) -> Result<bool> {
        let key = layout::pack(pack);
        if !self.is_fresh && self.cache.holds(&key, size) {
            return Ok(true);
        }
        if size > COPIED_PACK_MAX_BYTES {
            return Ok(false);
        }
        let _one = lock(&self.reading);
        let bytes = read()?;
        // the frame that is wanted may be whole all the same
        let is_whole = lakebed_core::hash::object_hash(&bytes).as_bytes() == pack.as_bytes();
        Ok(is_whole && self.cache.keep(&key, &bytes))
    }
}
