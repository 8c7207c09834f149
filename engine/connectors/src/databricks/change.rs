//! The calls that change a workspace.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::Method;
use serde_json::{Map, Value, json};

use super::api::{document, encoded};
use super::calls::{FILES, IMPORT, PERMISSIONS, SET_PERMISSIONS, WORKSPACE};
use crate::rest::{Answer, Body, Call, CallError, CallErrorKind, Client};

/// Reads an answer that says nothing but that all is well: an empty document. A page of a proxy does not.
fn done(answer: &Answer) -> Result<(), CallErrorKind> {
    match super::refusal::in_good_answer(answer.status, &answer.body) {
        Some(refusal) => Err(CallErrorKind::Refused(refusal)),
        None => answer.json::<Map<String, Value>>().map(drop),
    }
}

/// The same, of calls that may answer with nothing.
fn done_or_silent(answer: &Answer) -> Result<(), CallErrorKind> {
    if answer.body.is_empty() { Ok(()) } else { done(answer) }
}

/// Makes a folder, and those that it lies in. One that is there stays.
pub(super) async fn make_folder(client: &Client, path: &str) -> Result<(), CallError> {
    let call = Call::post(WORKSPACE, "/api/2.0/workspace/mkdirs", path, &json!({ "path": path }));
    client.send(&Call { repeatable: true, ..call }, done).await
}

/// Deletes an object, whatever else ends meanwhile; of folders, only empty ones. Where it is asked for again, the object may be absent by then.
pub(super) async fn delete(client: &Client, path: &str) -> Result<(), CallError> {
    let body = json!({ "path": path, "recursive": false });
    let call = Call::post(WORKSPACE, "/api/2.0/workspace/delete", path, &body);
    client.send(&Call { repeatable: true, until_done: true, ..call }, done).await
}

/// What is imported.
pub(super) struct Import<'a> {
    pub(super) path: &'a str,
    pub(super) format: &'a str,
    pub(super) language: Option<&'a str>,
    pub(super) overwrite: bool,
    /// Something was deleted for it, or it puts that back.
    pub(super) until_done: bool,
}

/// Puts a notebook, or a file of at most 10 MB, into the workspace. It may be sent twice: whoever says that nothing may be
/// there looks at what is there then.
pub(super) async fn import(client: &Client, import: &Import<'_>, content: &[u8]) -> Result<(), CallError> {
    let mut body = json!({
        "path": import.path,
        "format": import.format,
        "overwrite": import.overwrite,
        "content": BASE64_STANDARD.encode(content),
    });
    if let (Some(language), Some(body)) = (import.language, body.as_object_mut()) {
        body.insert("language".into(), language.into());
    }
    let call = Call::post(IMPORT, "/api/2.0/workspace/import", import.path, &body);
    client.send(&Call { repeatable: true, until_done: import.until_done, ..call }, done).await
}

/// Puts a file of any size into the workspace; its format is of no account.
pub(super) async fn import_file(client: &Client, import: &Import<'_>, content: Body) -> Result<(), CallError> {
    let Import { path, overwrite, until_done, .. } = *import;
    let query = [("overwrite", if overwrite { "true" } else { "false" })];
    // the path is one segment, its slashes encoded
    let segment = encoded("", path).replacen('/', "", 1).replace('/', "%2F");
    let call = Call::get(IMPORT, format!("/api/2.0/workspace-files/import-file/{segment}"), path).query(&query);
    client.send(&Call { method: Method::POST, body: Some(content), until_done, ..call }, done_or_silent).await
}

/// Asks who may do what with an object.
pub(super) async fn permissions(client: &Client, kind: &str, id: i64, subject: &str) -> Result<Value, CallError> {
    document(client, &Call::get(PERMISSIONS, format!("/api/2.0/permissions/{kind}/{id}"), subject)).await
}

/// Says who may do what with an object, and nobody else but those that a folder above lets.
pub(super) async fn set_permissions(
    client: &Client,
    kind: &str,
    id: i64,
    subject: &str,
    list: &Value,
) -> Result<(), CallError> {
    let body = json!({ "access_control_list": list });
    let call = Call::post(SET_PERMISSIONS, format!("/api/2.0/permissions/{kind}/{id}"), subject, &body);
    client.send(&Call { method: Method::PUT, repeatable: true, ..call }, done).await
}

/// Makes a folder in a volume.
pub(super) async fn make_volume_folder(client: &Client, path: &str) -> Result<(), CallError> {
    let call = Call::get(FILES, encoded("/api/2.0/fs/directories", path), path);
    client.send(&Call { method: Method::PUT, ..call }, done_or_silent).await
}

/// Puts a file into a volume.
pub(super) async fn put_volume_file(
    client: &Client,
    path: &str,
    content: Body,
    overwrite: bool,
) -> Result<(), CallError> {
    let query = [("overwrite", if overwrite { "true" } else { "false" })];
    let call = Call::get(FILES, encoded("/api/2.0/fs/files", path), path).query(&query);
    client.send(&Call { method: Method::PUT, body: Some(content), ..call }, done_or_silent).await
}
