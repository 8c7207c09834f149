//! `SurveyedStorage`: answers the next listings from one look at a medium on which each request takes long.
//!
//! A listing that was looked up ahead is used once, by whoever lists that prefix next, and not at all once its
//! [`Survey`] is over: so nobody who asks later gets what was true before.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lakebed_core::forward_storage;
use lakebed_core::storage::{ObjectInfo, ObjectKey, Storage, StorageError};

type Listings = Mutex<HashMap<String, Vec<ObjectInfo>>>;

/// A storage that may have looked ahead.
#[derive(Debug, Clone)]
pub struct SurveyedStorage {
    inner: Arc<dyn Storage>,
    ahead: Arc<Listings>,
}

/// Listings that were looked up ahead. They are forgotten with it.
#[derive(Debug)]
#[must_use]
pub struct Survey {
    ahead: Arc<Listings>,
}

impl Drop for Survey {
    fn drop(&mut self) {
        lock(&self.ahead).clear();
    }
}

fn lock(listings: &Listings) -> MutexGuard<'_, HashMap<String, Vec<ObjectInfo>>> {
    listings.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SurveyedStorage {
    /// Looks ahead on a storage, when it is told to.
    pub fn new(inner: Arc<dyn Storage>) -> Self {
        Self { inner, ahead: Arc::default() }
    }

    /// Reaches the same objects through another storage; what was looked up ahead stays.
    pub fn through(&self, inner: Arc<dyn Storage>) -> Self {
        Self { inner, ahead: self.ahead.clone() }
    }

    /// Looks the listings of prefixes up, where that takes fewer requests than listing each. An earlier survey is over
    /// with that.
    ///
    /// # Errors
    /// As [`Storage::list`].
    pub fn look_ahead(&self, prefixes: &[&str]) -> Result<Survey, StorageError> {
        lock(&self.ahead).clear();
        if let Some(listings) = self.inner.survey(prefixes)? {
            let listings = prefixes.iter().map(|prefix| (*prefix).to_owned()).zip(listings);
            *lock(&self.ahead) = listings.collect();
        }
        Ok(Survey { ahead: self.ahead.clone() })
    }

    /// Returns what was looked up ahead of an object, and forgets it: `None` where it was not looked for.
    pub fn foresaw(&self, key: &ObjectKey) -> Option<Option<ObjectInfo>> {
        Some(self.foresaw_below(key.as_str())?.pop())
    }

    /// Returns what was looked up ahead of a prefix, and forgets it: `None` where it was not looked for.
    pub fn foresaw_below(&self, prefix: &str) -> Option<Vec<ObjectInfo>> {
        lock(&self.ahead).remove(prefix)
    }
}

impl Storage for SurveyedStorage {
    forward_storage!(inner:
        location, identity, capabilities, put, writer, get, get_range, size, survey, delete, sync, release_reserve,
        restore_reserve, sweep
    );

    fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StorageError> {
        let ahead = lock(&self.ahead).remove(prefix);
        ahead.map_or_else(|| self.inner.list(prefix), Ok)
    }
}

#[cfg(test)]
mod tests {
    use lakebed_core::storage::Capabilities;

    use super::*;
    use crate::storage::MemoryStorage;

    /// Counts nothing: it surveys, which memory does not.
    #[derive(Debug)]
    struct Far(MemoryStorage);

    impl Storage for Far {
        forward_storage!(0: location, put, writer, get, get_range, size, list, delete);

        fn capabilities(&self) -> Capabilities {
            Capabilities::remote(1)
        }

        fn survey(&self, prefixes: &[&str]) -> Result<Option<Vec<Vec<ObjectInfo>>>, StorageError> {
            prefixes.iter().map(|prefix| self.0.list(prefix)).collect::<Result<_, _>>().map(Some)
        }

        fn sync(&self) -> Result<(), StorageError> {
            Ok(())
        }
    }

    #[test]
    fn what_was_looked_up_ahead_is_used_once_and_forgotten_with_its_survey() {
        let memory = MemoryStorage::new();
        let key = |name: &str| ObjectKey::new(name).unwrap();
        memory.put(&key("a/1"), b"1").unwrap();
        memory.put(&key("b/1"), b"1").unwrap();
        let storage = SurveyedStorage::new(Arc::new(Far(memory.clone())));
        let listed = |prefix: &str| storage.list(prefix).unwrap().len();
        let survey = storage.look_ahead(&["a/", "b/"]).unwrap();
        memory.put(&key("a/2"), b"2").unwrap();
        memory.put(&key("b/2"), b"2").unwrap();
        assert_eq!((listed("a/"), listed("a/")), (1, 2));
        drop(survey);
        assert_eq!(listed("b/"), 2);
        let first = storage.look_ahead(&["a/"]).unwrap();
        let _second = storage.look_ahead(&["b/"]).unwrap();
        memory.put(&key("a/3"), b"3").unwrap();
        assert_eq!(listed("a/"), 3);
        drop(first);
    }
}
