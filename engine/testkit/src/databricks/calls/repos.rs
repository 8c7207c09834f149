//! Git folders: what the workspace knows of the repository behind one.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::routing::get;
use parking_lot::RwLock;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::databricks::answer::{Answer, ApiError, Params, Payload, json};
use crate::databricks::object::Content;
use crate::databricks::page::{Start, page};
use crate::databricks::server::Fake;
use crate::databricks::tree::Tree;

const PAGE: usize = 20;

pub(super) fn router() -> Router<Arc<Fake>> {
    Router::new().route("/api/2.0/repos", get(list).post(create)).route("/api/2.0/repos/{id}", get(read))
}

/// What is known of repositories, by the ids of their folders.
#[derive(Debug, Default)]
pub(in crate::databricks) struct Repos(RwLock<BTreeMap<u64, Map<String, Value>>>);

impl Repos {
    /// Makes a folder a Git folder of type `REPO`, with a repository behind it.
    pub(in crate::databricks) fn put(
        &self,
        tree: &mut Tree,
        path: &str,
        repo: Map<String, Value>,
    ) -> Result<u64, ApiError> {
        let at = tree.mkdirs(path).map_err(|_| ApiError::exists(format!("Path ({path}) already exists.")))?;
        if let Content::Folder(folder) = &mut tree.node_mut(at).content {
            folder.is_repo = true;
        }
        self.0.write().insert(tree.id(at), repo);
        Ok(tree.id(at))
    }

    /// Returns what is known of a repository, as long as its folder is there.
    pub(super) fn info(&self, tree: &Tree, id: u64) -> Option<Value> {
        let mut info = self.0.read().get(&id)?.clone();
        let path = tree.path(tree.with_id(id)?);
        info.extend([("id".to_owned(), id.into()), ("path".to_owned(), path.into())]);
        Some(info.into())
    }
}

#[derive(Deserialize)]
struct ListParams {
    path_prefix: Option<String>,
    next_page_token: Option<String>,
}

async fn list(State(fake): State<Arc<Fake>>, Params(params): Params<ListParams>) -> Answer {
    let tree = fake.tree.read();
    let ids: Vec<u64> = fake.repos.0.read().keys().copied().collect();
    let prefix = params.path_prefix.unwrap_or_default();
    let prefix = prefix.strip_prefix("/Workspace").unwrap_or(&prefix);
    let repos = ids.into_iter().filter_map(|id| fake.repos.info(&tree, id));
    let repos = repos.filter(|repo| repo["path"].as_str().is_some_and(|path| path.starts_with(prefix)));
    Ok(json(&page("repos", repos, Start::of(params.next_page_token.as_deref())?, PAGE, |repo| repo)))
}

async fn read(State(fake): State<Arc<Fake>>, Path(id): Path<u64>) -> Answer {
    let info = fake.repos.info(&fake.tree.read(), id);
    info.map(|info| json(&info)).ok_or_else(|| ApiError::missing(format!("Repo {id} does not exist.")))
}

#[derive(Deserialize)]
struct NewRepo {
    url: String,
    provider: String,
    path: String,
}

async fn create(State(fake): State<Arc<Fake>>, Payload(new): Payload<NewRepo>) -> Answer {
    let path = super::workspace::given(&new.path)?;
    let mut tree = fake.tree.write();
    if tree.find(&path).is_some() {
        return Err(ApiError::exists(format!("Path ({path}) already exists.")));
    }
    let repo = json!({ "url": new.url, "provider": new.provider, "branch": "main" });
    let id = fake.repos.put(&mut tree, &path, repo.as_object().cloned().unwrap_or_default())?;
    Ok(json(&fake.repos.info(&tree, id)))
}
