//! Files and folders in volumes.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::routing::get;
use jiff::Timestamp;
use jiff::fmt::rfc2822;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::export::raw;
use crate::databricks::answer::{Answer, ApiError, Params, empty, json};
use crate::databricks::fault::http_date;
use crate::databricks::object::{Body, Content, Node};
use crate::databricks::page::{Start, page};
use crate::databricks::path;
use crate::databricks::server::Fake;
use crate::databricks::tree::{At, Tree};

/// How many entries of a folder the service gives at once, at most.
const PAGE: usize = 1000;
/// How many names the path of a volume has: `/Volumes/<catalog>/<schema>/<volume>`.
const VOLUME_DEPTH: usize = 4;

pub(super) fn router() -> Router<Arc<Fake>> {
    Router::new()
        .route("/api/2.0/fs/directories/{*path}", get(list).head(look).put(mkdirs).delete(remove_folder))
        .route("/api/2.0/fs/files/{*path}", get(download).put(upload).post(initiate).delete(remove_file))
}

fn given(path: &str) -> Result<String, ApiError> {
    let path = path::collapsed(&format!("/{path}")).unwrap_or_default();
    if path.starts_with("/Volumes/") { Ok(path) } else { Err(ApiError::invalid(format!("Invalid path: {path}"))) }
}

fn missing(what: &str, path: &str) -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "NOT_FOUND", format!("The {what} being accessed is not found: {path}"))
}

fn folder(tree: &Tree, path: &str) -> Result<At, ApiError> {
    tree.find(path).filter(|at| tree.folder(*at).is_some()).ok_or_else(|| missing("directory", path))
}

fn file<'a>(tree: &'a Tree, path: &str) -> Result<(&'a Node, &'a Body), ApiError> {
    let node = tree.find(path).map(|at| tree.node(at));
    node.and_then(|node| Some((node, node.content.body()?))).ok_or_else(|| missing("file", path))
}

#[derive(Deserialize)]
struct ListParams {
    page_size: Option<usize>,
    page_token: Option<String>,
}

async fn list(State(fake): State<Arc<Fake>>, Path(path): Path<String>, Params(params): Params<ListParams>) -> Answer {
    let path = given(&path)?;
    let tree = fake.volumes.read();
    let children = tree.folder(folder(&tree, &path)?).map(|folder| &folder.children).into_iter().flatten();
    let children = children.map(|(name, at)| (&**name, *at));
    let entry = |(name, at): (&str, At)| {
        let node = tree.node(at);
        let mut entry = Map::new();
        entry.insert("path".to_owned(), path::joined(&path, name).into());
        entry.insert("name".to_owned(), name.into());
        entry.insert("is_directory".to_owned(), node.content.folder().is_some().into());
        entry.insert("last_modified".to_owned(), node.modified_at.into());
        entry.extend(node.content.body().map(|body| ("file_size".to_owned(), body.bytes().len().into())));
        Value::from(entry)
    };
    let most = PAGE.min(fake.options.page_size);
    let limit = params.page_size.filter(|size| *size > 0).map_or(most, |size| size.min(most));
    Ok(json(&page("contents", children, Start::of(params.page_token.as_deref())?, limit, entry)))
}

async fn look(State(fake): State<Arc<Fake>>, Path(path): Path<String>) -> Answer {
    folder(&fake.volumes.read(), &given(&path)?)?;
    Ok(Response::default())
}

async fn mkdirs(State(fake): State<Arc<Fake>>, Path(path): Path<String>) -> Answer {
    let path = given(&path)?;
    let mut volumes = fake.volumes.write();
    in_a_volume(&volumes, &path)?;
    volumes.mkdirs(&path).map_err(|_| ApiError::exists(format!("A file is in the way of {path}")))?;
    Ok(empty())
}

/// Checks that there is the volume which a path is in.
fn in_a_volume(volumes: &Tree, path: &str) -> Result<(), ApiError> {
    let volume: Vec<&str> = path::names(path).take(VOLUME_DEPTH).collect();
    let found = volumes.find(&volume.join("/")).filter(|_| volume.len() == VOLUME_DEPTH);
    found.map(drop).ok_or_else(|| missing("volume", path))
}

async fn remove_folder(State(fake): State<Arc<Fake>>, Path(path): Path<String>) -> Answer {
    let path = given(&path)?;
    let mut volumes = fake.volumes.write();
    let at = folder(&volumes, &path)?;
    if volumes.folder(at).is_some_and(|folder| !folder.children.is_empty()) {
        let message = format!("The directory is not empty: {path}");
        return Err(ApiError::new(StatusCode::BAD_REQUEST, "DIRECTORY_NOT_EMPTY", message));
    }
    volumes.remove(&path);
    Ok(empty())
}

async fn download(State(fake): State<Arc<Fake>>, Path(path): Path<String>, headers: HeaderMap) -> Answer {
    let path = given(&path)?;
    let (bytes, modified_at) = {
        let volumes = fake.volumes.read();
        let (node, body) = file(&volumes, &path)?;
        (Bytes::from_owner(body.bytes()), time(node.modified_at))
    };
    let unmodified_since = headers.get(header::IF_UNMODIFIED_SINCE).and_then(|value| http_time(value.to_str().ok()?));
    if unmodified_since.is_some_and(|since| modified_at.as_second() > since.as_second()) {
        let message = format!("The file has changed: {path}");
        return Err(ApiError::new(StatusCode::PRECONDITION_FAILED, "PRECONDITION_FAILED", message));
    }
    let mut response = match headers.get(header::RANGE).and_then(|value| value.to_str().ok()) {
        Some(range) => part(bytes, range)?,
        None => raw(bytes),
    };
    let date = HeaderValue::from_str(&http_date(modified_at)).expect("a date can be in a header");
    response.headers_mut().insert(header::LAST_MODIFIED, date);
    Ok(response)
}

fn time(ms: Option<i64>) -> Timestamp {
    Timestamp::from_millisecond(ms.unwrap_or_default()).expect("a time that calendars have")
}

fn http_time(text: &str) -> Option<Timestamp> {
    rfc2822::parse(text).ok().map(|time| time.timestamp())
}

fn part(bytes: Bytes, range: &str) -> Answer {
    let length = bytes.len();
    let not_satisfiable =
        || ApiError::new(StatusCode::RANGE_NOT_SATISFIABLE, "INVALID_RANGE", format!("No {range} in it."));
    let (first, last) =
        range.strip_prefix("bytes=").and_then(|range| range.split_once('-')).ok_or_else(not_satisfiable)?;
    let number = |text: &str| text.parse::<usize>().map_err(|_| not_satisfiable());
    let (start, end) = match (first, last) {
        ("", last) => (length.saturating_sub(number(last)?), length),
        (first, "") => (number(first)?, length),
        (first, last) => (number(first)?, number(last)?.saturating_add(1).min(length)),
    };
    if start >= end {
        return Err(not_satisfiable());
    }
    let mut response = raw(bytes.slice(start..end));
    *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    let content_range = format!("bytes {start}-{}/{length}", end - 1);
    let content_range = HeaderValue::from_str(&content_range).expect("a range can be in a header");
    response.headers_mut().insert(header::CONTENT_RANGE, content_range);
    Ok(response)
}

#[derive(Deserialize)]
struct UploadParams {
    /// Without a word, a file is replaced.
    overwrite: Option<bool>,
}

async fn upload(
    State(fake): State<Arc<Fake>>,
    Path(path): Path<String>,
    Params(params): Params<UploadParams>,
    bytes: Bytes,
) -> Answer {
    let path = given(&path)?;
    let (parent, name) = path::split(&path);
    let mut volumes = fake.volumes.write();
    in_a_volume(&volumes, parent)?;
    if params.overwrite == Some(false) && volumes.find(&path).is_some() {
        return Err(ApiError::new(StatusCode::CONFLICT, "ALREADY_EXISTS", format!("The file exists: {path}")));
    }
    let in_the_way =
        |_| ApiError::new(StatusCode::CONFLICT, "ALREADY_EXISTS", format!("Something is in the way of {path}"));
    let folder = volumes.mkdirs(parent).map_err(in_the_way)?;
    volumes.put(folder, name, Content::File(Body::stored(&bytes))).map_err(in_the_way)?;
    let mut response = Response::default();
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}

/// Refuses uploads in parts, as a workspace does that gives no signed URLs. Clients then send the file at once.
async fn initiate() -> ApiError {
    ApiError::forbidden("Presigned URLs API is not enabled")
}

async fn remove_file(State(fake): State<Arc<Fake>>, Path(path): Path<String>) -> Answer {
    let path = given(&path)?;
    let mut volumes = fake.volumes.write();
    file(&volumes, &path)?;
    volumes.remove(&path);
    Ok(empty())
}
