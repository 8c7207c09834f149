//! Imports of notebooks and files, in all ways.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{FromRequest, Multipart, Path, Request, State};
use axum::http::{StatusCode, header};
use axum::routing::post;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use super::workspace::given;
use crate::databricks::answer::{Answer, ApiError, Params, Payload, empty};
use crate::databricks::archive::{self, Unpacked};
use crate::databricks::notebook::{self, Parsed};
use crate::databricks::object::{Body, Content, Language, Notebook};
use crate::databricks::path;
use crate::databricks::server::Fake;
use crate::databricks::tree::Tree;

pub(super) fn router() -> Router<Arc<Fake>> {
    Router::new()
        .route("/api/2.0/workspace/import", post(import))
        .route("/api/2.0/workspace-files/import-file/{*path}", post(import_file))
}

/// A format to import from. They are case-sensitive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum Format {
    #[default]
    Source,
    Html,
    Jupyter,
    Dbc,
    RMarkdown,
    Raw,
    Auto,
}

/// What is to be imported.
struct Import {
    path: String,
    format: Format,
    language: Option<Language>,
    overwrite: bool,
    content: Bytes,
}

async fn import(State(fake): State<Arc<Fake>>, request: Request) -> Answer {
    let is_form = request
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"multipart/form-data"));
    let import = if is_form { from_form(request).await? } else { from_json(request).await? };
    let (size, limit) = (import.content.len(), fake.options.size_limit);
    if size > limit {
        let message = format!("File size imported is ({size} bytes), exceeded max size ({limit} bytes)");
        return Err(ApiError::new(StatusCode::BAD_REQUEST, "MAX_NOTEBOOK_SIZE_EXCEEDED", message));
    }
    carry_out(&mut fake.tree.write(), import)
}

async fn from_json(request: Request) -> Result<Import, ApiError> {
    #[derive(Deserialize)]
    struct Given {
        path: String,
        #[serde(default)]
        format: Format,
        language: Option<Language>,
        #[serde(default)]
        overwrite: bool,
        #[serde(default)]
        content: String,
    }
    let Payload(Given { path, format, language, overwrite, content }) = Payload::from_request(request, &()).await?;
    let content = BASE64_STANDARD.decode(content).map_err(|_| ApiError::invalid("The content is not base64."))?;
    Ok(Import { path, format, language, overwrite, content: content.into() })
}

async fn from_form(request: Request) -> Result<Import, ApiError> {
    let bad = |error: &dyn std::fmt::Display| ApiError::invalid(format!("The form cannot be read: {error}"));
    let mut form = Multipart::from_request(request, &()).await.map_err(|error| bad(&error))?;
    let mut fields = serde_json::Map::new();
    let mut content = Bytes::new();
    while let Some(field) = form.next_field().await.map_err(|error| bad(&error))? {
        match field.name().unwrap_or_default().to_owned() {
            name if name == "content" => content = field.bytes().await.map_err(|error| bad(&error))?,
            name => drop(fields.insert(name, field.text().await.map_err(|error| bad(&error))?.into())),
        }
    }
    let text = |name: &str| fields.get(name).cloned().unwrap_or(Value::Null);
    let read = |name: &str| ApiError::invalid(format!("The field {name} has no value that it can have."));
    Ok(Import {
        path: text("path").as_str().ok_or_else(|| read("path"))?.to_owned(),
        format: match text("format") {
            Value::Null => Format::default(),
            format => serde_json::from_value(format).map_err(|_| read("format"))?,
        },
        language: serde_json::from_value(text("language")).map_err(|_| read("language"))?,
        overwrite: text("overwrite") == json!("true"),
        content,
    })
}

#[derive(Debug, Deserialize)]
struct FileParams {
    #[serde(default)]
    overwrite: bool,
}

async fn import_file(
    State(fake): State<Arc<Fake>>,
    Path(path): Path<String>,
    Params(params): Params<FileParams>,
    content: Bytes,
) -> Answer {
    let (path, overwrite) = (format!("/{path}"), params.overwrite);
    carry_out(&mut fake.tree.write(), Import { path, format: Format::Auto, language: None, overwrite, content })
}

fn carry_out(tree: &mut Tree, import: Import) -> Answer {
    let path = given(&import.path)?;
    let content = match import.format {
        Format::Dbc => return unpack(tree, &path, &import),
        Format::Source => {
            let language = import.language.ok_or_else(|| ApiError::invalid("SOURCE needs a language."))?;
            source(language, &import.content)
        }
        Format::Jupyter => jupyter(&import.content)?,
        Format::Raw => Content::File(Body::stored(&import.content)),
        Format::Auto => {
            let (path, content) = guessed(&path, &import.content);
            return put(tree, path, content, import.overwrite);
        }
        Format::Html | Format::RMarkdown => return Err(ApiError::invalid("This format cannot be imported.")),
    };
    put(tree, &path, content, import.overwrite)
}

fn source(language: Language, source: &[u8]) -> Content {
    let body = Body::stored(&notebook::with_header(language, source));
    Content::Notebook(Notebook { language, jupyter: None, body })
}

fn jupyter(json: &[u8]) -> Result<Content, ApiError> {
    let parsed = notebook::of_jupyter(json).ok_or_else(|| ApiError::invalid("The content is no Jupyter notebook."))?;
    Ok(Content::Notebook(Notebook {
        language: parsed.language,
        jupyter: Some(parsed.outputs.into()),
        body: Body::stored(&parsed.source),
    }))
}

/// Tells by suffix and first line what is imported, and where. Notebooks lose their suffix.
pub(in crate::databricks) fn guessed<'a>(path: &'a str, content: &[u8]) -> (&'a str, Content) {
    if let Some((stem, suffix)) = path.rsplit_once('.') {
        if suffix == "ipynb"
            && let Ok(notebook) = jupyter(content)
        {
            // these are opened by another editor, which wants to see the suffix
            return (if stem.ends_with(".designer") { path } else { stem }, notebook);
        }
        if let Some(language) = Language::of_suffix(suffix).filter(|language| language.has_header(content)) {
            return (stem, source(language, content));
        }
    }
    (path, Content::File(Body::stored(content)))
}

fn put(tree: &mut Tree, path: &str, content: Content, overwrite: bool) -> Answer {
    let (parent, name) = path::split(path);
    let no_parent = || ApiError::missing(format!("The parent folder ({parent}) does not exist."));
    if name.is_empty() {
        return Err(ApiError::invalid("The root folder cannot be overwritten."));
    }
    let parent = tree.find(parent).filter(|at| tree.folder(*at).is_some()).ok_or_else(no_parent)?;
    if let Some(at) = tree.child(parent, name) {
        let existing = &tree.node(at).content;
        if !overwrite {
            return Err(exists(path, existing));
        }
        if existing.object_type() != content.object_type() {
            let message =
                format!("A {} cannot overwrite the {} at ({path}).", content.object_type(), existing.object_type());
            return Err(ApiError::invalid(message));
        }
    }
    tree.put(parent, name, content).expect("a folder lies there, and none has the name");
    Ok(empty())
}

fn exists(path: &str, existing: &Content) -> ApiError {
    match existing {
        Content::Notebook(_) => ApiError::new(StatusCode::BAD_REQUEST, "", format!("{path} already exists.")),
        _ => ApiError::exists(format!("Path ({path}) already exists.")),
    }
}

fn unpack(tree: &mut Tree, path: &str, import: &Import) -> Answer {
    if import.overwrite {
        return Err(ApiError::invalid("Archives cannot overwrite anything."));
    }
    if let Some(at) = tree.find(path) {
        return Err(exists(path, &tree.node(at).content));
    }
    let content = |parsed: Parsed| source(parsed.language, &parsed.source);
    let unpacked = archive::unpacked(&import.content).ok_or_else(|| ApiError::invalid("The content is no archive."))?;
    match unpacked {
        Unpacked::Notebook(parsed) => put(tree, path, content(parsed), false),
        Unpacked::Folder(folders, notebooks) => {
            let no_parent = || ApiError::missing(format!("The parent folder of ({path}) does not exist."));
            tree.find(path::split(path).0).ok_or_else(no_parent)?;
            for folder in std::iter::once(path.to_owned()).chain(folders.iter().map(|it| path::joined(path, it))) {
                tree.mkdirs(&folder).map_err(|_| no_parent())?;
            }
            for (below, parsed) in notebooks {
                put(tree, &path::joined(path, &below), content(parsed), false)?;
            }
            Ok(empty())
        }
    }
}
