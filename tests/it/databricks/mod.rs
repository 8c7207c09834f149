//! Workspaces of Databricks: backed up night by night, and restored into.

mod network;
mod nights;
mod restoring;
mod unseen;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lakebed_connectors::databricks::{
    ConnectOptions, RATES, Workspace, WorkspaceOptions, WorkspaceSource, WorkspaceUri,
};
use lakebed_engine::backup::{BackupOptions, BackupReport};
use lakebed_engine::core::codec::seal::Encryption;
use lakebed_engine::core::record::tree::{Entry, EntryKind};
use lakebed_engine::core::text::escape_path;
use lakebed_engine::query::{Listed, walk, write_content};
use lakebed_engine::repository::SnapshotInfo;
use lakebed_engine::source::Mount;
use lakebed_engine::system::SystemClock;
use lakebed_engine::{Repository, Silent};
use lakebed_testkit::databricks::{FakeOptions, FakeWorkspace, GenerateOptions, Kind, Language};
use serde_json::json;

use crate::common::*;

/// Connects to a workspace with its token, without pauses that a test would wait for.
fn connect(fake: &FakeWorkspace) -> Workspace {
    let (url, token) = (fake.url(), fake.token().to_owned());
    connect_as(fake, move |name| match name {
        "DATABRICKS_HOST" => Some(url.clone()),
        "DATABRICKS_TOKEN" => Some(token.clone()),
        _ => None,
    })
}

fn connect_as(fake: &FakeWorkspace, env: impl Fn(&str) -> Option<String>) -> Workspace {
    let uri = WorkspaceUri::parse(&fake.url().replace("http://", "databricks://")).unwrap();
    Workspace::connect(&uri, env, &quick()).unwrap()
}

/// Without limits, and without pauses that a test would wait for.
fn quick() -> ConnectOptions {
    ConnectOptions {
        allow_http: true,
        retry_for: Some(Duration::from_secs(5)),
        first_pause: Some(Duration::from_millis(1)),
        rates: RATES.map(|(kind, _)| (kind.to_owned(), None)).to_vec(),
        authorities: None,
        tell: None,
        clock: Arc::new(SystemClock::default()),
    }
}

/// What is taken of a workspace: these paths.
fn roots(roots: &[&str]) -> WorkspaceOptions {
    WorkspaceOptions { roots: roots.iter().map(|root| (*root).to_owned()).collect(), ..WorkspaceOptions::default() }
}

fn try_night(
    repository: &Repository,
    workspace: Workspace,
    taken: WorkspaceOptions,
    options: &BackupOptions,
) -> lakebed_engine::Result<BackupReport> {
    let source = WorkspaceSource::new(workspace, taken).unwrap();
    repository.backup(vec![Mount::new(Vec::new(), Arc::new(source))], options, &Silent)
}

/// Takes a snapshot that lacks nothing.
fn night(repository: &Repository, fake: &FakeWorkspace, taken: WorkspaceOptions) -> BackupReport {
    let report = try_night(repository, connect(fake), taken, &options()).unwrap();
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    report
}

/// A repository in memory.
fn repository() -> (Place, Repository) {
    Place::memory(Encryption::Aes256Gcm)
}

/// A workspace of 120 notebooks and a few files in 20 folders.
fn small_workspace() -> FakeWorkspace {
    let fake = FakeWorkspace::start(FakeOptions::default());
    fake.generate(&GenerateOptions { notebooks: 120, folders: 20, files_share: 0.1, ..GenerateOptions::default() });
    fake
}

/// Makes the volume `main.raw.landing`.
fn landing_volume(fake: &FakeWorkspace) {
    fake.put_catalog(json!({ "name": "main" }));
    fake.put_schema(json!({ "name": "raw", "catalog_name": "main" }));
    fake.put_volume(json!({ "name": "landing", "catalog_name": "main", "schema_name": "raw" }));
}

fn exports(fake: &FakeWorkspace) -> u64 {
    fake.counters().of(Kind::Export)
}

/// Everything in a snapshot by its path, files with their content.
fn tree_of(repository: &Repository, info: &SnapshotInfo) -> BTreeMap<String, (Entry, Vec<u8>)> {
    let reader = repository.reader(&Silent).unwrap();
    let mut all = BTreeMap::new();
    walk(&reader, info.snapshot.root, b"", &mut |path, entry| {
        let mut content = Vec::new();
        if entry.kind == EntryKind::File {
            write_content(&reader, entry, "", &mut content)?;
        }
        all.insert(escape_path(path), (entry.clone(), content));
        Ok(Listed::Descend)
    })
    .unwrap();
    all
}

fn latest_tree(repository: &Repository) -> BTreeMap<String, (Entry, Vec<u8>)> {
    tree_of(repository, &latest(repository))
}

/// Checks that a snapshot has every notebook and file of a workspace below a path as it is now, and nothing else.
#[track_caller]
fn assert_is(repository: &Repository, fake: &FakeWorkspace, below: &str) {
    let tree = latest_tree(repository);
    let in_snapshot: BTreeMap<&str, &[u8]> = tree
        .iter()
        .filter(|(_, (entry, _))| entry.kind == EntryKind::File)
        .map(|(path, (_, content))| (path.as_str(), content.as_slice()))
        .collect();
    let mut in_workspace = BTreeMap::new();
    let objects = fake.objects();
    for object in objects.iter().filter(|object| object.path.starts_with(below)) {
        if let Some(content) = &object.content {
            let suffix = object.language.map(|language| format!(".{}", language.suffix())).unwrap_or_default();
            in_workspace.insert(format!("{}{suffix}", object.path.trim_start_matches('/')), content.as_slice());
        }
    }
    let names: Vec<&str> = in_snapshot.keys().copied().collect();
    assert_eq!(names, in_workspace.keys().map(String::as_str).collect::<Vec<_>>());
    for (path, content) in in_workspace {
        assert!(in_snapshot[path.as_str()] == content, "{path} has other bytes");
    }
}
