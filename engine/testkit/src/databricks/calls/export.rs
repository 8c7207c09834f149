//! Exports of notebooks, files and folders, and downloads of files.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use axum::Router;
use axum::body::{Body as ResponseBody, Bytes};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::json;

use super::workspace::given;
use crate::databricks::answer::{Answer, ApiError, Params, json_bytes, json_with, typed};
use crate::databricks::archive::{self, Entry, Form};
use crate::databricks::notebook;
use crate::databricks::object::{Body, Content, Notebook};
use crate::databricks::options::TooLarge;
use crate::databricks::path;
use crate::databricks::server::Fake;
use crate::databricks::tree::{At, Tree};

pub(super) fn router() -> Router<Arc<Fake>> {
    Router::new()
        .route("/api/2.0/workspace/export", get(export))
        .route("/api/2.0/workspace-files/{*path}", get(download))
}

/// A format to export in. They are case-sensitive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum Format {
    Source,
    Html,
    Jupyter,
    Dbc,
    RMarkdown,
    Raw,
    Auto,
}

#[derive(Debug, Deserialize)]
struct ExportParams {
    path: String,
    format: Option<Format>,
    #[serde(default)]
    direct_download: bool,
    outputs: Option<String>,
}

/// What was found under a path: no more than a note of what it was at that moment.
enum Found {
    Notebook(Notebook),
    File(Body),
    Folder(Vec<Entry>),
}

async fn export(State(fake): State<Arc<Fake>>, Params(params): Params<ExportParams>) -> Answer {
    let path = given(&params.path)?;
    let found = found(&fake.tree.read(), &path)?;
    let (bytes, file_type) = exported(&path, found, &params)?;
    if bytes.len() > fake.options.size_limit {
        return Ok(too_large(fake.options.too_large_form, bytes.len(), fake.options.size_limit));
    }
    if params.direct_download {
        return Ok(raw(bytes));
    }
    let mut json = String::with_capacity(bytes.len().div_ceil(3) * 4 + 48);
    json.push_str("{\"content\":\"");
    BASE64_STANDARD.encode_string(&bytes, &mut json);
    json.push_str("\",\"file_type\":\"");
    json.push_str(file_type);
    json.push_str("\"}");
    Ok(json_bytes(StatusCode::OK, json.into_bytes()))
}

async fn download(State(fake): State<Arc<Fake>>, Path(path): Path<String>) -> Answer {
    let path = given(&format!("/{path}"))?;
    let found = found(&fake.tree.read(), &path)?;
    match found {
        Found::Notebook(Notebook { body, .. }) | Found::File(body) => Ok(raw(Bytes::from_owner(body.bytes()))),
        Found::Folder(_) => Err(ApiError::invalid(format!("({path}) is a folder."))),
    }
}

/// Answers with bytes as they are.
pub(super) fn raw(bytes: impl Into<ResponseBody>) -> Response {
    typed(StatusCode::OK, "application/octet-stream", bytes)
}

fn found(tree: &Tree, path: &str) -> Result<Found, ApiError> {
    let at = tree.find(path).ok_or_else(|| ApiError::no_path(path))?;
    let node = tree.node(at);
    let found = match &node.content {
        Content::Notebook(notebook) => Found::Notebook(notebook.clone()),
        Content::File(body) => Found::File(body.clone()),
        Content::Folder(folder) if !folder.is_repo => Found::Folder(entries(tree, at, path)),
        other => {
            let message = format!("{} ({path}) cannot be exported.", other.object_type());
            return Err(ApiError::new(StatusCode::BAD_REQUEST, "BAD_REQUEST", message));
        }
    };
    node.exports.fetch_add(1, Relaxed);
    Ok(found)
}

fn entries(tree: &Tree, at: At, path: &str) -> Vec<Entry> {
    let name = Some(path::split(path).1).filter(|name| !name.is_empty()).unwrap_or("workspace").to_owned();
    let mut entries = vec![Entry::Folder(name.clone())];
    tree.walk(at, &name, &mut |path, _, node| match &node.content {
        Content::Folder(_) => entries.push(Entry::Folder(path.to_owned())),
        Content::Notebook(notebook) => entries.push(Entry::Notebook(path.to_owned(), notebook.clone())),
        Content::File(body) => entries.push(Entry::File(path.to_owned(), body.clone())),
        Content::Other(_) | Content::Gone => {}
    });
    entries
}

fn exported(path: &str, found: Found, params: &ExportParams) -> Result<(Bytes, &'static str), ApiError> {
    let name = path::split(path).1;
    let with_outputs = params.outputs.as_deref() != Some("NONE");
    let unsupported = || ApiError::invalid(format!("({path}) cannot be exported in this format."));
    Ok(match (found, params.format) {
        (Found::Notebook(it), Some(Format::Html)) => (notebook::to_html(name, &it).into(), "html"),
        (Found::Notebook(it), Some(Format::Dbc)) => {
            (archive::archive(&[Entry::Notebook(name.to_owned(), it)], Form::Dbc).into(), "dbc")
        }
        (Found::Notebook(it), Some(Format::Jupyter)) => (notebook::to_jupyter(name, &it, with_outputs).into(), "ipynb"),
        (Found::Notebook(it), Some(Format::Auto)) if it.jupyter.is_some() => {
            (notebook::to_jupyter(name, &it, with_outputs).into(), "ipynb")
        }
        (Found::Notebook(_), Some(Format::RMarkdown)) => return Err(unsupported()),
        (Found::Notebook(it), _) => (Bytes::from_owner(it.body.bytes()), it.language.suffix()),
        (Found::File(body), None | Some(Format::Auto | Format::Raw)) => (Bytes::from_owner(body.bytes()), "file"),
        (Found::File(_), _) => return Err(unsupported()),
        (Found::Folder(entries), None | Some(Format::Source)) => {
            (archive::archive(&entries, Form::Source).into(), "zip")
        }
        (Found::Folder(entries), Some(Format::Auto)) => (archive::archive(&entries, Form::Auto).into(), "zip"),
        (Found::Folder(entries), _) => (archive::archive(&entries, Form::Dbc).into(), "dbc"),
    })
}

fn too_large(form: TooLarge, size: usize, limit: usize) -> Response {
    let error =
        |status, code: &str, message: String| json_with(status, &json!({ "error_code": code, "message": message }));
    let exceeded = format!("Notebook size exceeded limit: {size} > {limit}");
    match form {
        TooLarge::MaxNotebookSize => error(StatusCode::BAD_REQUEST, "MAX_NOTEBOOK_SIZE_EXCEEDED", exceeded),
        TooLarge::BadRequest => error(StatusCode::BAD_REQUEST, "BAD_REQUEST", format!("Size exceeds {limit} bytes")),
        TooLarge::ReasonOnly => json_with(
            StatusCode::BAD_REQUEST,
            &json!({
                "message": exceeded,
                "details": [{
                    "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                    "reason": "MAX_NOTEBOOK_SIZE_EXCEEDED",
                    "domain": "workspace",
                    "metadata": {},
                }],
            }),
        ),
        TooLarge::OkWithError => error(StatusCode::OK, "MAX_NOTEBOOK_SIZE_EXCEEDED", exceeded),
    }
}
