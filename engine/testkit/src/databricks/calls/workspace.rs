//! Listings, the status of objects, folders, and deletion.

use std::borrow::Cow;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};

use crate::databricks::answer::{Answer, ApiError, Params, Payload, empty, json};
use crate::databricks::object::{Content, Language};
use crate::databricks::path;
use crate::databricks::server::Fake;
use crate::databricks::tree::{At, Tree};

pub(super) fn router() -> Router<Arc<Fake>> {
    Router::new()
        .route("/api/2.0/workspace/list", get(list))
        .route("/api/2.0/workspace/get-status", get(status))
        .route("/api/2.0/workspace/mkdirs", post(mkdirs))
        .route("/api/2.0/workspace/delete", post(delete))
}

/// Returns the one form of the path in a call.
pub(super) fn given(path: &str) -> Result<String, ApiError> {
    path::normal(path).ok_or_else(|| ApiError::invalid(format!("Path ({path}) doesn't start with '/'")))
}

/// An object as listings show it.
#[derive(Debug, Serialize)]
struct Info<'a> {
    object_type: &'a str,
    path: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    language: Option<Language>,
    object_id: u64,
    resource_id: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    modified_at: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    directory_info: Option<DirectoryInfo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repos_export_format: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    git_info: Option<serde_json::Value>,
}

#[derive(Debug, Serialize)]
struct DirectoryInfo {
    is_git_folder: bool,
}

impl<'a> Info<'a> {
    fn of(fake: &Fake, tree: &'a Tree, at: At, path: Cow<'a, str>) -> Self {
        let (node, id) = (tree.node(at), tree.id(at));
        let folder = node.content.folder();
        let resource_id = match &node.content {
            Content::Other(other) => other.resource_id.as_deref().map(Cow::from),
            _ => None,
        };
        let size = match &node.content {
            Content::File(body) => Some(body),
            Content::Notebook(notebook) if fake.options.list_sizes => Some(&notebook.body),
            _ => None,
        };
        Self {
            object_type: node.content.object_type(),
            path,
            language: node.content.language(),
            object_id: id,
            resource_id: resource_id.unwrap_or_else(|| id.to_string().into()),
            created_at: folder.is_none().then_some(node.created_at),
            modified_at: node.modified_at.filter(|_| folder.is_none()),
            size: size.map(|body| body.bytes().len()),
            directory_info: folder
                .filter(|folder| folder.is_git_folder)
                .map(|folder| DirectoryInfo { is_git_folder: folder.is_git_folder }),
            repos_export_format: None,
            git_info: None,
        }
    }
}

#[derive(Debug, Deserialize)]
struct ListParams {
    path: String,
    notebooks_modified_after: Option<i64>,
}

async fn list(State(fake): State<Arc<Fake>>, Params(params): Params<ListParams>) -> Answer {
    #[derive(Serialize)]
    struct Listing<'a> {
        #[serde(skip_serializing_if = "Vec::is_empty")]
        objects: Vec<Info<'a>>,
    }
    let path = given(&params.path)?;
    let tree = fake.tree.read();
    let at = tree.find(&path).ok_or_else(|| ApiError::no_path(&path))?;
    let objects = match tree.folder(at) {
        None => vec![Info::of(&fake, &tree, at, path.as_str().into())],
        Some(folder) => {
            let children = folder.children.iter().filter(|(_, child)| {
                let node = tree.node(**child);
                let after = params.notebooks_modified_after.filter(|_| node.content.language().is_some());
                after.is_none_or(|after| node.modified_at.unwrap_or_default() > after)
            });
            children.map(|(name, child)| Info::of(&fake, &tree, *child, path::joined(&path, name).into())).collect()
        }
    };
    Ok(json(&Listing { objects }))
}

#[derive(Debug, Deserialize)]
struct StatusParams {
    path: String,
    #[serde(default)]
    return_export_info: bool,
    #[serde(default)]
    return_git_info: bool,
}

async fn status(State(fake): State<Arc<Fake>>, Params(params): Params<StatusParams>) -> Answer {
    let path = given(&params.path)?;
    let tree = fake.tree.read();
    let at = tree.find(&path).ok_or_else(|| ApiError::no_path(&path))?;
    let mut info = Info::of(&fake, &tree, at, path.as_str().into());
    if params.return_export_info
        && let Content::Notebook(notebook) = &tree.node(at).content
    {
        info.repos_export_format = Some(if notebook.jupyter.is_some() { "JUPYTER" } else { "SOURCE" });
    }
    if params.return_git_info {
        info.git_info = fake.repos.info(&tree, info.object_id);
    }
    Ok(json(&info))
}

#[derive(Debug, Deserialize)]
struct MkdirsParams {
    path: String,
}

async fn mkdirs(State(fake): State<Arc<Fake>>, Payload(params): Payload<MkdirsParams>) -> Answer {
    let path = given(&params.path)?;
    let made = fake.tree.write().mkdirs(&path);
    made.map_err(|_| {
        let message = format!("The file or notebook on the way to ({path}) already exists.");
        ApiError::new(StatusCode::BAD_REQUEST, "RESOURCE_ALREADY_EXISTS", message)
    })?;
    Ok(empty())
}

#[derive(Debug, Deserialize)]
struct DeleteParams {
    path: String,
    #[serde(default)]
    recursive: bool,
}

async fn delete(State(fake): State<Arc<Fake>>, Payload(params): Payload<DeleteParams>) -> Answer {
    let path = given(&params.path)?;
    let mut tree = fake.tree.write();
    let at = tree.find(&path).ok_or_else(|| ApiError::no_path(&path))?;
    if at == At::ROOT {
        return Err(ApiError::invalid("The root folder cannot be deleted."));
    }
    if !params.recursive && tree.folder(at).is_some_and(|folder| !folder.children.is_empty()) {
        let message = format!("Folder ({path}) is not empty");
        return Err(ApiError::new(StatusCode::BAD_REQUEST, "DIRECTORY_NOT_EMPTY", message));
    }
    tree.remove(&path);
    fake.dashboards.trash_within(&path);
    Ok(empty())
}
