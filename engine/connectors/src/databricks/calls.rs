//! The kinds of calls to a workspace, and how often each is sent.

/// Lists a folder of the workspace.
pub(super) const LIST: &str = "list";
/// Takes an object out of it.
pub(super) const EXPORT: &str = "export";
/// Puts one into it.
pub(super) const IMPORT: &str = "import";
/// Makes folders, deletes, asks for one object.
pub(super) const WORKSPACE: &str = "workspace";
/// Who may do what.
pub(super) const PERMISSIONS: &str = "permissions";
/// Sets who may do what.
pub(super) const SET_PERMISSIONS: &str = "set-permissions";
/// Files in volumes.
pub(super) const FILES: &str = "files";
/// Unity Catalog.
pub(super) const CATALOG: &str = "catalog";
/// Jobs.
pub(super) const JOBS: &str = "jobs";
/// Everything else that describes a workspace: pipelines, dashboards, secret scopes.
pub(super) const OTHER: &str = "other";

/// Every kind, and how many calls a second a workspace takes of it: what Databricks documents ("Resource limits"), and
/// cautious numbers for kinds that have no published limit.
pub const RATES: [(&str, f64); 10] = [
    (LIST, 50.0),
    (EXPORT, 60.0),
    (IMPORT, 30.0),
    (WORKSPACE, 50.0),
    (PERMISSIONS, 100.0),
    (SET_PERMISSIONS, 30.0),
    (FILES, 50.0),
    (CATALOG, 50.0),
    (JOBS, 100.0),
    (OTHER, 50.0),
];
