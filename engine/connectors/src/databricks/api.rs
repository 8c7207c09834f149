//! What a workspace says of its objects, and the calls that ask for it and change it.

use std::fs::File;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::HeaderMap;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::calls::{EXPORT, LIST, WORKSPACE};
use super::refusal::in_good_answer;
use crate::rest::{Answer, Call, CallError, CallErrorKind, Client, Refusal};

/// The language of a notebook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Language {
    Python,
    Sql,
    Scala,
    R,
}

impl Language {
    /// Reads the workspace's word. What it does not know is taken for Python, as Jupyter documents are.
    pub(super) fn parse(word: Option<&str>) -> Self {
        match word {
            Some("SQL") => Self::Sql,
            Some("SCALA") => Self::Scala,
            Some("R") => Self::R,
            _ => Self::Python,
        }
    }

    /// Returns the workspace's word.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Python => "PYTHON",
            Self::Sql => "SQL",
            Self::Scala => "SCALA",
            Self::R => "R",
        }
    }

    pub(super) fn suffix(self) -> &'static str {
        match self {
            Self::Python => ".py",
            Self::Sql => ".sql",
            Self::Scala => ".scala",
            Self::R => ".r",
        }
    }
}

/// An object of a workspace, as it is listed.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Object {
    pub(super) object_type: String,
    pub(super) path: String,
    #[serde(default)]
    pub(super) language: Option<String>,
    #[serde(default)]
    pub(super) object_id: Option<i64>,
    /// Milliseconds since 1970; absent or 0 where it is not known.
    #[serde(default)]
    pub(super) modified_at: Option<i64>,
    #[serde(default)]
    pub(super) created_at: Option<i64>,
    #[serde(default)]
    pub(super) size: Option<u64>,
    #[serde(default)]
    pub(super) directory_info: Option<DirectoryInfo>,
}

/// What is said of a folder besides.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct DirectoryInfo {
    #[serde(default)]
    pub(super) is_git_folder: bool,
}

/// What an object is, as far as a backup goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ObjectKind {
    Folder,
    Notebook,
    File,
    /// There is no call that takes it out of the workspace, or another one than the export has it.
    Elsewhere,
}

impl Object {
    /// Returns its name in its folder.
    pub(super) fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }

    pub(super) fn kind(&self) -> ObjectKind {
        match self.object_type.as_str() {
            "DIRECTORY" | "REPO" => ObjectKind::Folder,
            "NOTEBOOK" => ObjectKind::Notebook,
            "LIBRARY" | "DASHBOARD" | "MLFLOW_EXPERIMENT" => ObjectKind::Elsewhere,
            // the set of kinds is open: what is not known is asked for like a file
            _ => ObjectKind::File,
        }
    }

    pub(super) fn is_git_folder(&self) -> bool {
        self.object_type == "REPO" || self.directory_info.as_ref().is_some_and(|info| info.is_git_folder)
    }
}

#[derive(Deserialize)]
struct Listing {
    objects: Option<Vec<Object>>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// What a good answer to an export is.
#[derive(Deserialize)]
struct Exported {
    content: String,
    #[serde(default)]
    file_type: Option<String>,
}

/// Asks for a document, which is no refusal in disguise.
pub(super) async fn document<T: DeserializeOwned>(client: &Client, call: &Call<'_>) -> Result<T, CallError> {
    let read = |answer: &Answer| match in_good_answer(answer.status, &answer.body) {
        Some(refusal) => Err(CallErrorKind::Refused(refusal)),
        None => answer.json(),
    };
    client.send(call, read).await
}

/// Asks for what is at a path.
pub(super) async fn look_at(client: &Client, path: &str) -> Result<Object, CallError> {
    let query = [("path", path)];
    document(client, &Call::get(WORKSPACE, "/api/2.0/workspace/get-status", path).query(&query)).await
}

/// Lists a folder; of what is no folder, that one object.
pub(super) async fn list(client: &Client, path: &str) -> Result<Vec<Object>, CallError> {
    let query = [("path", path)];
    client.send(&Call::get(LIST, "/api/2.0/workspace/list", path).query(&query), read_listing).await
}

/// Reads a listing. An answer without objects is that of an empty folder, if nothing else is in it either: what is taken
/// for empty is gone from the next snapshot.
fn read_listing(answer: &Answer) -> Result<Vec<Object>, CallErrorKind> {
    let Listing { objects, others } = answer.json()?;
    match objects {
        Some(_) if others.contains_key("next_page_token") => {
            Err(CallErrorKind::Malformed { why: "it comes in pages, which listings of folders do not".into() })
        }
        Some(objects) => Ok(objects),
        None if others.is_empty() => Ok(Vec::new()),
        None => Err(match in_good_answer(answer.status, &answer.body) {
            Some(refusal) => CallErrorKind::Refused(refusal),
            None => CallErrorKind::Malformed { why: "it lists no objects, and is not empty".into() },
        }),
    }
}

/// Takes an object out of the workspace. `outputs`: of Jupyter documents, with what the cells have printed.
pub(super) async fn export(client: &Client, path: &str, format: &str, outputs: bool) -> Result<Bytes, CallError> {
    let mut query = vec![("path", path), ("format", format)];
    if format == "JUPYTER" {
        query.push(("outputs", if outputs { "ALL" } else { "NONE" }));
    }
    let call = Call::get(EXPORT, "/api/2.0/workspace/export", path).query(&query);
    let may_be_archive = format == "DBC" || [".dbc", ".zip"].iter().any(|suffix| path.ends_with(suffix));
    client.send(&call, |answer| read_export(answer, may_be_archive)).await
}

/// Reads what was exported. What comes of a folder, asked for or not, is an archive.
fn read_export(answer: &Answer, may_be_archive: bool) -> Result<Bytes, CallErrorKind> {
    let content = match answer.json::<Exported>() {
        Ok(exported) if !may_be_archive && matches!(exported.file_type.as_deref(), Some("dbc" | "zip")) => {
            let message = "it is an archive: a folder is there by now".into();
            return Err(CallErrorKind::Refused(Refusal { status: answer.status, code: String::new(), message }));
        }
        Ok(exported) => exported.content,
        Err(error) => {
            let refusal = in_good_answer(answer.status, &answer.body);
            return Err(refusal.map_or(error, CallErrorKind::Refused));
        }
    };
    let malformed = |error| CallErrorKind::Malformed { why: format!("its content is no base64 ({error})") };
    BASE64_STANDARD.decode(content).map(Bytes::from).map_err(malformed)
}

/// Writes a file of the workspace, of any size, to a local one. Where its size is known, the caller looks at it.
pub(super) async fn download(client: &Client, path: &str, size_is_known: bool, into: &File) -> Result<(), CallError> {
    let call = Call::get(EXPORT, encoded("/api/2.0/workspace-files", path), path);
    let check = |headers: &HeaderMap, length: u64| {
        let told: Option<u64> =
            headers.get(http::header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        let is_page =
            headers.get(http::header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"));
        match told {
            Some(told) if told != length => {
                Err(CallErrorKind::NoAnswer { why: format!("{length} of {told} bytes came") })
            }
            _ if !size_is_known && is_page => Err(CallErrorKind::Malformed { why: "it is an HTML page".into() }),
            _ => Ok(()),
        }
    };
    client.save(&call, into, check).await
}

/// What is encoded in a name: all but what never needs to be (RFC 3986, "unreserved").
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Puts a path behind the beginning of another, each name percent-encoded.
pub(super) fn encoded(base: &str, path: &str) -> String {
    let mut url = base.to_owned();
    for name in path.split('/').filter(|name| !name.is_empty()) {
        url.push('/');
        url.extend(utf8_percent_encode(name, ENCODED));
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(body: &str) -> Answer {
        Answer { status: 200, headers: HeaderMap::new(), body: Bytes::copy_from_slice(body.as_bytes()) }
    }

    #[test]
    fn only_an_empty_answer_is_that_of_an_empty_folder() {
        assert!(read_listing(&answer("{}")).unwrap().is_empty());
        assert_eq!(read_listing(&answer(r#"{"objects":[{"object_type":"FILE","path":"/a"}]}"#)).unwrap().len(), 1);
        for wrong in
            ["", "[]", "<html>", r#"{"message":"x"}"#, r#"{"error_code":"TEMPORARILY_UNAVAILABLE"}"#, "{\"objec"]
        {
            assert!(read_listing(&answer(wrong)).is_err(), "{wrong}");
        }
        let refused = read_listing(&answer(r#"{"message":"m","error_code":"TEMPORARILY_UNAVAILABLE"}"#));
        assert!(refused.is_err_and(|error| error.may_pass(true)));
    }

    #[test]
    fn an_export_that_is_cut_off_is_none() {
        assert_eq!(read_export(&answer(r#"{"content":"aGk=","file_type":"py"}"#), false).unwrap(), "hi");
        assert_eq!(read_export(&answer(r#"{"content":""}"#), false).unwrap(), "");
        for wrong in [r#"{"content":"aGk"}"#, r#"{"content":"aG"#, "{}", "", "<html>"] {
            assert!(read_export(&answer(wrong), false).is_err_and(|error| error.may_pass(true)), "{wrong}");
        }
        let archive = read_export(&answer(r#"{"content":"UEs=","file_type":"dbc"}"#), false);
        assert!(archive.is_err_and(|error| !error.may_pass(true)));
        let large = read_export(&answer(r#"{"error_code":"MAX_NOTEBOOK_SIZE_EXCEEDED","message":"x"}"#), false);
        assert!(large.is_err_and(|error| error.refusal().is_some_and(crate::rest::Refusal::is_too_large)));
    }

    #[test]
    fn each_name_of_a_path_is_encoded_by_itself() {
        assert_eq!(encoded("/api", "/a b/ü%#?.py"), "/api/a%20b/%C3%BC%25%23%3F.py");
    }
}
