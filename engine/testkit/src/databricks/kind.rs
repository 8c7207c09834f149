//! Kinds of calls: what is limited, counted and made to fail together.

use serde::{Deserialize, Serialize};

/// A kind of calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Listings of workspace folders.
    List,
    /// The status of one workspace object.
    Status,
    /// Exports of workspace objects, and downloads of workspace files.
    Export,
    /// Imports into the workspace, in all ways.
    Import,
    /// The making of workspace folders.
    Mkdirs,
    /// The deletion of workspace objects.
    Delete,
    /// Permissions of objects, read or written.
    Permissions,
    /// Git folders.
    Repos,
    /// Jobs.
    Jobs,
    /// Pipelines.
    Pipelines,
    /// Lakeview dashboards.
    Dashboards,
    /// Secret scopes.
    Secrets,
    /// Unity Catalog.
    Catalog,
    /// Files in volumes.
    Files,
    /// Who the caller is.
    Identity,
    /// Where tokens come from.
    Tokens,
    /// Everything else.
    Other,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 17] = [
        Self::List,
        Self::Status,
        Self::Export,
        Self::Import,
        Self::Mkdirs,
        Self::Delete,
        Self::Permissions,
        Self::Repos,
        Self::Jobs,
        Self::Pipelines,
        Self::Dashboards,
        Self::Secrets,
        Self::Catalog,
        Self::Files,
        Self::Identity,
        Self::Tokens,
        Self::Other,
    ];

    /// Returns its name, as options and scripts give it.
    pub fn name(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Status => "status",
            Self::Export => "export",
            Self::Import => "import",
            Self::Mkdirs => "mkdirs",
            Self::Delete => "delete",
            Self::Permissions => "permissions",
            Self::Repos => "repos",
            Self::Jobs => "jobs",
            Self::Pipelines => "pipelines",
            Self::Dashboards => "dashboards",
            Self::Secrets => "secrets",
            Self::Catalog => "catalog",
            Self::Files => "files",
            Self::Identity => "identity",
            Self::Tokens => "tokens",
            Self::Other => "other",
        }
    }

    /// Returns the kind with a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Returns the kind of a call with this path.
    pub(super) fn of(path: &str) -> Self {
        if path.ends_with("/oauth2/token") || path.starts_with("/oidc/") || path.starts_with("/.well-known/") {
            return Self::Tokens;
        }
        let mut names = path.trim_start_matches('/').split('/');
        if names.next() != Some("api") {
            return Self::Other;
        }
        match (names.nth(1), names.next()) {
            (Some("workspace"), Some("list")) => Self::List,
            (Some("workspace"), Some("get-status")) => Self::Status,
            (Some("workspace"), Some("export")) => Self::Export,
            (Some("workspace"), Some("import")) => Self::Import,
            (Some("workspace"), Some("mkdirs")) => Self::Mkdirs,
            (Some("workspace"), Some("delete")) => Self::Delete,
            (Some("workspace-files"), Some("import-file")) => Self::Import,
            (Some("workspace-files"), _) => Self::Export,
            (Some("permissions"), _) => Self::Permissions,
            (Some("repos"), _) => Self::Repos,
            (Some("jobs"), _) => Self::Jobs,
            (Some("pipelines"), _) => Self::Pipelines,
            (Some("lakeview"), _) => Self::Dashboards,
            (Some("secrets"), _) => Self::Secrets,
            (Some("unity-catalog"), _) => Self::Catalog,
            (Some("fs"), _) => Self::Files,
            (Some("preview"), Some("scim")) => Self::Identity,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_have_the_kind_that_their_path_tells() {
        for (path, kind) in [
            ("/api/2.0/workspace/list", Kind::List),
            ("/api/2.0/workspace-files/import-file/%2Fa", Kind::Import),
            ("/api/2.0/workspace-files/a/import-file", Kind::Export),
            ("/api/2.2/jobs/get", Kind::Jobs),
            ("/api/2.1/unity-catalog/permissions/table/a.b.c", Kind::Catalog),
            ("/tenant/oauth2/token", Kind::Tokens),
            ("/api/2.0/preview/scim/v2/Me", Kind::Identity),
            ("/api", Kind::Other),
        ] {
            assert_eq!(Kind::of(path), kind, "{path}");
        }
        assert!(Kind::ALL.into_iter().all(|kind| Kind::named(kind.name()) == Some(kind)));
    }
}
