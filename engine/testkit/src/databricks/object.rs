//! What a workspace holds: objects, as tests see them and as they are kept.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use serde::{Deserialize, Serialize};

use super::notebook::Outputs;
use super::sources;
use super::tree::At;

/// The language of a notebook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Language {
    /// Python.
    Python,
    /// SQL.
    Sql,
    /// Scala.
    Scala,
    /// R.
    R,
}

impl Language {
    /// All languages.
    pub const ALL: [Self; 4] = [Self::Python, Self::Sql, Self::Scala, Self::R];

    /// Returns how the API writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Python => "PYTHON",
            Self::Sql => "SQL",
            Self::Scala => "SCALA",
            Self::R => "R",
        }
    }

    /// Returns the suffix of its source files, without a dot.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Python => "py",
            Self::Sql => "sql",
            Self::Scala => "scala",
            Self::R => "r",
        }
    }

    /// Returns the language of source files with this suffix.
    pub fn of_suffix(suffix: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|language| language.suffix().eq_ignore_ascii_case(suffix))
    }

    /// Returns what begins a comment.
    pub(super) fn comment(self) -> &'static str {
        match self {
            Self::Python | Self::R => "#",
            Self::Sql => "--",
            Self::Scala => "//",
        }
    }

    /// Returns the first line of a notebook's source.
    pub(super) fn header(self) -> String {
        format!("{} Databricks notebook source", self.comment())
    }

    /// Tells whether a source begins with the first line of a notebook.
    pub(super) fn has_header(self, source: &[u8]) -> bool {
        let first = source.split(|byte| *byte == b'\n').next().unwrap_or_default();
        first.trim_ascii_end() == self.header().as_bytes()
    }
}

/// An object of the workspace, as a test sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Where it lies.
    pub path: String,
    /// What the API calls its type: `NOTEBOOK`, `DIRECTORY`, `FILE`, ...
    pub object_type: String,
    /// The language of a notebook.
    pub language: Option<Language>,
    /// What stays the same when it is renamed.
    pub id: u64,
    /// When it was last changed, in milliseconds since 1970, if the workspace tells.
    pub modified_at: Option<i64>,
    /// The source of a notebook, the bytes of a file. Other objects have none.
    pub content: Option<Vec<u8>>,
}

/// An object, as it is kept.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) parent: At,
    /// How often it was exported.
    pub(super) exports: AtomicU32,
    pub(super) created_at: i64,
    pub(super) modified_at: Option<i64>,
    pub(super) content: Content,
}

/// What an object holds.
#[derive(Debug)]
pub(super) enum Content {
    Folder(Box<Folder>),
    Notebook(Notebook),
    File(Body),
    Other(Box<Other>),
    /// It was deleted.
    Gone,
}

impl Content {
    /// Returns the name of the type.
    pub(super) fn object_type(&self) -> &str {
        match self {
            Self::Folder(folder) if folder.is_repo => "REPO",
            Self::Folder(_) => "DIRECTORY",
            Self::Notebook(_) => "NOTEBOOK",
            Self::File(_) => "FILE",
            Self::Other(other) => &other.object_type,
            Self::Gone => "",
        }
    }

    pub(super) fn language(&self) -> Option<Language> {
        match self {
            Self::Notebook(notebook) => Some(notebook.language),
            _ => None,
        }
    }

    pub(super) fn body(&self) -> Option<&Body> {
        match self {
            Self::Notebook(notebook) => Some(&notebook.body),
            Self::File(body) => Some(body),
            _ => None,
        }
    }

    pub(super) fn folder(&self) -> Option<&Folder> {
        match self {
            Self::Folder(folder) => Some(folder),
            _ => None,
        }
    }
}

/// A folder, or a Git folder.
#[derive(Debug, Default)]
pub(super) struct Folder {
    pub(super) children: BTreeMap<Box<str>, At>,
    /// Its type is `REPO`.
    pub(super) is_repo: bool,
    /// It is a Git folder all the same: one with command-line access.
    pub(super) is_git_folder: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Notebook {
    pub(super) language: Language,
    /// It was imported as a Jupyter notebook, and is one, with these outputs.
    pub(super) jupyter: Option<Arc<Outputs>>,
    /// Its source.
    pub(super) body: Body,
}

/// Something that has a place in the workspace, but no content that could be exported.
#[derive(Debug)]
pub(super) struct Other {
    pub(super) object_type: Box<str>,
    /// What other calls know it by, if that is not its object id.
    pub(super) resource_id: Option<Box<str>>,
}

/// Bytes, or what they are generated from.
#[derive(Debug, Clone)]
pub(super) enum Body {
    Generated(Generated),
    Stored(Arc<[u8]>),
}

/// What bytes are generated from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Generated {
    pub(super) seed: u64,
    pub(super) version: u32,
    pub(super) is_notebook: bool,
}

impl Body {
    /// Keeps bytes, or only what they were generated from, if they were: a restored workspace need not be larger than a
    /// generated one.
    pub(super) fn stored(bytes: &[u8]) -> Self {
        sources::origin(bytes).map_or_else(|| Self::Stored(bytes.into()), Self::Generated)
    }

    pub(super) fn bytes(&self) -> Arc<[u8]> {
        match self {
            Self::Generated(generated) if generated.is_notebook => {
                sources::source(generated.seed, generated.version).into()
            }
            Self::Generated(generated) => sources::text(generated.seed, generated.version).into(),
            Self::Stored(bytes) => Arc::clone(bytes),
        }
    }

    /// Returns what it is after a change.
    pub(super) fn edited(&self, note: &str) -> Self {
        match self {
            Self::Generated(generated) => Self::Generated(Generated { version: generated.version + 1, ..*generated }),
            Self::Stored(bytes) => Self::Stored([bytes, note.as_bytes()].concat().into()),
        }
    }
}
