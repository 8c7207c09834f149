//! The two faces of a store: whole objects, and uploads in parts.

use std::sync::Arc;

use object_store::ObjectStore;
use object_store::multipart::MultipartStore;

/// A store, as the `object_store` crate knows it.
#[derive(Clone)]
pub struct Store {
    pub(super) objects: Arc<dyn ObjectStore>,
    pub(super) parts: Arc<dyn MultipartStore>,
}

impl Store {
    /// Takes a store that can do both.
    pub fn of<S: ObjectStore + MultipartStore>(store: Arc<S>) -> Self {
        Self { objects: store.clone(), parts: store }
    }
}
