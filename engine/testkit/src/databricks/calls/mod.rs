//! The calls of the API, each in the forms that the service has.

use std::sync::Arc;

use axum::Router;

use super::server::Fake;

mod export;
mod import;
mod workspace;

pub(super) use import::guessed as given_by_file;

/// Returns what answers the calls of the API.
pub(super) fn router() -> Router<Arc<Fake>> {
    Router::new().merge(workspace::router()).merge(export::router()).merge(import::router())
}
