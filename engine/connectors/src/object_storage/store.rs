//! The faces of a store: whole objects, uploads in parts, listings page by page.

use std::sync::Arc;

use object_store::ObjectStore;
use object_store::list::PaginatedListStore;
use object_store::multipart::MultipartStore;

/// A store, as the `object_store` crate knows it.
#[derive(Clone)]
pub struct Store {
    pub(super) objects: Arc<dyn ObjectStore>,
    pub(super) parts: Arc<dyn MultipartStore>,
    /// `None` where a listing has no pages.
    pub(super) pages: Option<Arc<dyn PaginatedListStore>>,
}

impl Store {
    /// Takes a store that has objects and parts.
    pub fn of<S: ObjectStore + MultipartStore>(store: Arc<S>) -> Self {
        Self { objects: store.clone(), parts: store, pages: None }
    }

    /// Takes one that lists page by page too.
    pub fn with_pages<S: ObjectStore + MultipartStore + PaginatedListStore>(store: Arc<S>) -> Self {
        Self { pages: Some(store.clone()), ..Self::of(store) }
    }
}
