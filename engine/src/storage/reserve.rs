//! `WithReserve`: a storage for commands that free space, which must write a little before they can free much.
//!
//! The first write that finds no room releases what the storage holds back and is tried again. Once nobody uses the
//! storage any more, the reserve is taken again, where there is room by then.
//!
//! Two things are not tried again. A flush that fails has lost bytes, and a second one would not tell: the object
//! fails for good, and whoever writes it begins anew, with the room that there is now. And after a failed
//! [`Storage::sync`] nobody knows what is durable.

use std::sync::{Arc, Mutex, PoisonError};

use lakebed_core::forward_storage;
use lakebed_core::storage::{ObjectKey, ObjectWriter, Storage, StorageError, StorageErrorKind};

/// A storage whose reserve may be used up. Clones share it.
#[derive(Debug, Clone)]
pub struct WithReserve {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    inner: Arc<dyn Storage>,
    /// Whether the reserve was asked for. Held while it is, so that whoever comes second finds the room made.
    released: Mutex<bool>,
}

impl WithReserve {
    /// Lets writes to a storage use up its reserve.
    pub fn new(inner: Arc<dyn Storage>) -> Self {
        Self { shared: Arc::new(Shared { inner, released: Mutex::new(false) }) }
    }
}

impl Shared {
    fn released(&self) -> std::sync::MutexGuard<'_, bool> {
        self.released.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes an attempt, and another one if it found no room and the reserve was released since it began.
    fn with_room<T>(&self, mut attempt: impl FnMut() -> Result<T, StorageError>) -> Result<T, StorageError> {
        let was_released = *self.released();
        match attempt() {
            Err(error) if error.kind == StorageErrorKind::NoSpace && !was_released && self.make_room() => attempt(),
            result => result,
        }
    }

    /// Releases the reserve, unless that was done. Returns whether there may be room now.
    fn make_room(&self) -> bool {
        let mut released = self.released();
        if !*released {
            *released = true;
            // what could not be written is the failure to tell of
            return self.inner.release_reserve().unwrap_or(false);
        }
        true
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // the next command that frees space does without it then
        let _ = self.inner.restore_reserve();
    }
}

impl Storage for WithReserve {
    forward_storage!(shared.inner: location, identity, capabilities, get, get_range, size, list, survey, sync);

    fn put(&self, key: &ObjectKey, bytes: &[u8]) -> Result<(), StorageError> {
        self.shared.with_room(|| self.shared.inner.put(key, bytes))
    }

    fn writer(&self) -> Result<Box<dyn ObjectWriter>, StorageError> {
        let inner = self.shared.with_room(|| self.shared.inner.writer())?;
        Ok(Box::new(ReserveWriter { inner, shared: Arc::clone(&self.shared) }))
    }

    /// File systems that never write in place need room for that too.
    fn delete(&self, key: &ObjectKey) -> Result<(), StorageError> {
        self.shared.with_room(|| self.shared.inner.delete(key))
    }

    fn release_reserve(&self) -> Result<bool, StorageError> {
        let mut released = self.shared.released();
        *released = true;
        self.shared.inner.release_reserve()
    }

    fn restore_reserve(&self) -> Result<(), StorageError> {
        let mut released = self.shared.released();
        *released = false;
        self.shared.inner.restore_reserve()
    }

    fn sweep(&self) -> Result<u64, StorageError> {
        self.shared.with_room(|| self.shared.inner.sweep())
    }
}

struct ReserveWriter {
    inner: Box<dyn ObjectWriter>,
    shared: Arc<Shared>,
}

impl ObjectWriter for ReserveWriter {
    fn append(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        self.shared.with_room(|| self.inner.append(bytes))
    }

    fn finish(&mut self, key: &ObjectKey) -> Result<(), StorageError> {
        self.shared.with_room(|| self.inner.finish(key))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};

    use super::super::{MemoryStorage, contract};
    use super::*;

    /// Memory that has room for so many writes, and for some more once its reserve is released.
    #[derive(Debug, Clone)]
    struct Small {
        memory: MemoryStorage,
        room: Arc<Mutex<Room>>,
    }

    #[derive(Debug, Default)]
    struct Room {
        writes: u64,
        reserve: u64,
        released: u64,
        restored: u64,
        /// The kind of failure that stands for a lack of room.
        failure: Option<ErrorKind>,
    }

    impl Small {
        fn new(writes: u64, reserve: u64) -> Self {
            let room = Room { writes, reserve, ..Room::default() };
            Self { memory: MemoryStorage::new(), room: Arc::new(Mutex::new(room)) }
        }

        fn take(&self, subject: &str) -> Result<(), StorageError> {
            let mut room = self.room.lock().unwrap();
            let failure = room.failure.unwrap_or(ErrorKind::StorageFull);
            room.writes =
                room.writes.checked_sub(1).ok_or_else(|| StorageError::new("write", subject, Error::from(failure)))?;
            Ok(())
        }

        fn counts(&self) -> (u64, u64) {
            let room = self.room.lock().unwrap();
            (room.released, room.restored)
        }
    }

    struct SmallWriter(Box<dyn ObjectWriter>, Small);

    impl ObjectWriter for SmallWriter {
        fn append(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
            self.1.take("writer")?;
            self.0.append(bytes)
        }
        fn finish(&mut self, key: &ObjectKey) -> Result<(), StorageError> {
            self.1.take(key.as_str())?;
            self.0.finish(key)
        }
    }

    impl Storage for Small {
        forward_storage!(memory: capabilities, get, size, list);

        fn location(&self) -> String {
            "small".to_owned()
        }
        fn put(&self, key: &ObjectKey, bytes: &[u8]) -> Result<(), StorageError> {
            self.take(key.as_str())?;
            self.memory.put(key, bytes)
        }
        fn writer(&self) -> Result<Box<dyn ObjectWriter>, StorageError> {
            self.take("writer")?;
            Ok(Box::new(SmallWriter(self.memory.writer()?, self.clone())))
        }
        fn get_range(
            &self,
            key: &ObjectKey,
            offset: u64,
            length: usize,
            out: &mut Vec<u8>,
        ) -> Result<(), StorageError> {
            self.memory.get_range(key, offset, length, out)
        }
        fn delete(&self, key: &ObjectKey) -> Result<(), StorageError> {
            self.take(key.as_str())?;
            self.memory.delete(key)
        }
        fn sync(&self) -> Result<(), StorageError> {
            Ok(())
        }
        fn release_reserve(&self) -> Result<bool, StorageError> {
            let mut room = self.room.lock().unwrap();
            room.released += 1;
            room.writes += std::mem::take(&mut room.reserve);
            Ok(room.writes > 0)
        }
        fn restore_reserve(&self) -> Result<(), StorageError> {
            self.room.lock().unwrap().restored += 1;
            Ok(())
        }
    }

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new(name).unwrap()
    }

    /// Puts an object, writes a long one, deletes the first: six writes.
    fn six_writes(storage: &dyn Storage) -> Result<(), StorageError> {
        storage.put(&key("a"), b"first")?;
        let mut writer = storage.writer()?;
        writer.append(b"second, ")?;
        writer.append(b"in two parts")?;
        writer.finish(&key("b"))?;
        storage.delete(&key("a"))
    }

    #[test]
    fn a_storage_with_a_reserve_keeps_the_contract() {
        contract::check(&WithReserve::new(Arc::new(MemoryStorage::new()))).unwrap();
    }

    #[test]
    fn whichever_write_finds_no_room_uses_the_reserve_once() {
        for room in 0..6 {
            let small = Small::new(room, 6 - room);
            let storage = WithReserve::new(Arc::new(small.clone()));
            six_writes(&storage).unwrap();
            assert_eq!(small.memory.get(&key("b")).unwrap(), b"second, in two parts", "room for {room}");
            assert_eq!(small.counts(), (1, 0));
            let full = storage.put(&key("c"), b"more").unwrap_err();
            assert_eq!((full.kind, small.counts()), (StorageErrorKind::NoSpace, (1, 0)));
        }
    }

    #[test]
    fn a_reserve_that_is_not_needed_is_not_touched() {
        let small = Small::new(6, 6);
        six_writes(&WithReserve::new(Arc::new(small.clone()))).unwrap();
        assert_eq!(small.counts(), (0, 1));
        small.room.lock().unwrap().failure = Some(ErrorKind::PermissionDenied);
        let denied = WithReserve::new(Arc::new(small.clone())).put(&key("c"), b"").unwrap_err();
        assert_eq!((denied.kind, small.counts()), (StorageErrorKind::PermissionDenied, (0, 2)));
    }

    #[test]
    fn without_a_reserve_the_failure_is_told() {
        let small = Small::new(2, 0);
        let storage = WithReserve::new(Arc::new(small.clone()));
        assert_eq!(six_writes(&storage).unwrap_err().kind, StorageErrorKind::NoSpace);
        assert_eq!(small.counts(), (1, 0));
    }

    #[test]
    fn the_last_user_takes_the_reserve_again() {
        let small = Small::new(1, 5);
        let storage = WithReserve::new(Arc::new(small.clone()));
        let clone = storage.clone();
        six_writes(&storage).unwrap();
        let writer = storage.clone();
        drop((storage, clone));
        assert_eq!(small.counts(), (1, 0));
        drop(writer);
        assert_eq!(small.counts(), (1, 1));
    }
}
