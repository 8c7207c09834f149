//! The calls of the API, each in the forms that the service has, beside what they are about where that is no object of
//! the workspace.

use std::sync::Arc;

use axum::Router;

use super::server::Fake;

mod catalog;
mod dashboards;
mod export;
mod files;
mod import;
mod jobs;
mod login;
mod permissions;
mod pipelines;
mod repos;
mod secrets;
mod workspace;

pub(super) use catalog::Catalog;
pub(super) use dashboards::Dashboards;
pub(super) use import::guessed as given_by_file;
pub(super) use jobs::Jobs;
pub(super) use permissions::Permissions;
pub(super) use pipelines::Pipelines;
pub(super) use repos::Repos;
pub(super) use secrets::Secrets;

/// Returns what answers the calls of the API.
pub(super) fn router() -> Router<Arc<Fake>> {
    Router::new()
        .merge(login::router())
        .merge(workspace::router())
        .merge(export::router())
        .merge(import::router())
        .merge(permissions::router())
        .merge(repos::router())
        .merge(jobs::router())
        .merge(pipelines::router())
        .merge(dashboards::router())
        .merge(secrets::router())
        .merge(catalog::router())
        .merge(files::router())
}
