//! The faces of a store: whole objects, uploads in parts, listings page by page.

use std::sync::Arc;

use object_store::ObjectStore;
use object_store::aws::AmazonS3;
use object_store::client::HttpClient;
use object_store::list::PaginatedListStore;
use object_store::multipart::MultipartStore;

use super::uploads::Uploads;

/// A store, as the `object_store` crate knows it.
#[derive(Clone)]
pub struct Store {
    pub(super) objects: Arc<dyn ObjectStore>,
    pub(super) parts: Arc<dyn MultipartStore>,
    /// `None` where a listing has no pages.
    pub(super) pages: Option<Arc<dyn PaginatedListStore>>,
    /// `None` where nobody needs to look after uploads that were cut off.
    pub(super) uploads: Option<Uploads>,
}

impl Store {
    /// Takes a store that has objects and parts.
    pub fn of<S: ObjectStore + MultipartStore>(store: Arc<S>) -> Self {
        Self { objects: store.clone(), parts: store, pages: None, uploads: None }
    }

    /// Takes one that lists page by page too.
    pub fn with_pages<S: ObjectStore + MultipartStore + PaginatedListStore>(store: Arc<S>) -> Self {
        Self { pages: Some(store.clone()), ..Self::of(store) }
    }

    /// Takes one of S3, and a client for what the crate does not ask for.
    pub(super) fn of_s3(store: Arc<AmazonS3>, client: HttpClient) -> Self {
        Self { uploads: Some(Uploads::new(store.clone(), client)), ..Self::with_pages(store) }
    }
}
