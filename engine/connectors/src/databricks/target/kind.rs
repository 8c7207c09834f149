//! What an entry of a snapshot is to become in a workspace.

use lakebed_core::record::tree::Entry;

use crate::databricks::api::Language;
use crate::databricks::names::{NotebookFormat, file_of, notebook_of};

/// First lines by which a workspace knows that a text is a notebook.
const HEADERS: [(&str, &[u8], Language); 4] = [
    (".py", b"# Databricks notebook source", Language::Python),
    (".sql", b"-- Databricks notebook source", Language::Sql),
    (".scala", b"// Databricks notebook source", Language::Scala),
    (".r", b"# Databricks notebook source", Language::R),
];

/// An object that is to be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Its name in its folder.
    pub(super) name: String,
    pub(super) kind: WantedKind,
}

/// What kind of object it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WantedKind {
    Notebook(NotebookFormat, Language),
    File,
}

impl WantedKind {
    /// Returns the workspace's word.
    pub(super) fn object_type(self) -> &'static str {
        match self {
            Self::Notebook(..) => "NOTEBOOK",
            Self::File => "FILE",
        }
    }
}

/// Returns an attribute of an entry.
pub(super) fn attribute<'e>(entry: &'e Entry, wanted: &str) -> Option<&'e str> {
    let (_, value) = entry.attributes.iter().find(|(name, _)| name == wanted)?;
    std::str::from_utf8(value).ok()
}

impl Wanted {
    /// Finds out what an entry is: from what its workspace said, or, of a snapshot of a folder, from its name and the
    /// beginning of its content, as a workspace itself would.
    pub(super) fn of(entry: &Entry, beginning: impl FnOnce() -> std::io::Result<Vec<u8>>) -> std::io::Result<Self> {
        let shown = String::from_utf8_lossy(&entry.name);
        let named = attribute(entry, "name").filter(|name| Entry::name_is_valid(name.as_bytes())).map(str::to_owned);
        if let Some(format) = attribute(entry, "format").and_then(NotebookFormat::parse) {
            let name = named.unwrap_or_else(|| notebook_of(&shown).to_owned());
            return Ok(Self {
                name,
                kind: WantedKind::Notebook(format, Language::parse(attribute(entry, "language"))),
            });
        }
        let file = |name: String| Self { name, kind: WantedKind::File };
        if is_of_workspace(entry) {
            return Ok(file(named.unwrap_or_else(|| file_of(&shown).to_owned())));
        }
        // names of a folder of this machine are marked by nobody
        let notebook = |format, language, suffix: &str| Self {
            name: shown.strip_suffix(suffix).unwrap_or(&shown).to_owned(),
            kind: WantedKind::Notebook(format, language),
        };
        if shown.ends_with(".ipynb") {
            return Ok(notebook(NotebookFormat::Jupyter, Language::Python, ".ipynb"));
        }
        let known = HEADERS.iter().find(|(suffix, ..)| shown.ends_with(suffix));
        Ok(match known {
            Some((suffix, header, language)) if begins_with_line(&beginning()?, header) => {
                notebook(NotebookFormat::Source, *language, suffix)
            }
            _ => file(shown.into_owned()),
        })
    }
}

/// Tells whether an entry was taken from a workspace, which said what it is.
pub(super) fn is_of_workspace(entry: &Entry) -> bool {
    attribute(entry, "type").is_some()
}

fn begins_with_line(bytes: &[u8], line: &[u8]) -> bool {
    bytes.strip_prefix(line).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"\n") || rest.starts_with(b"\r\n"))
}

/// Tells whether a workspace would take the content of a file of that name for a notebook.
pub(super) fn looks_like_notebook(name: &str, bytes: &[u8]) -> bool {
    name.ends_with(".ipynb")
        || HEADERS.iter().any(|(suffix, header, _)| name.ends_with(suffix) && begins_with_line(bytes, header))
}

#[cfg(test)]
mod tests {
    use lakebed_core::record::tree::EntryKind;

    use super::*;

    fn wanted(name: &str, attributes: &[(&str, &str)], content: &str) -> Wanted {
        let mut entry = Entry::new(name, EntryKind::File);
        entry.attributes = attributes.iter().map(|(name, value)| ((*name).into(), value.as_bytes().to_vec())).collect();
        Wanted::of(&entry, || Ok(content.as_bytes().to_vec())).unwrap()
    }

    #[test]
    fn what_the_workspace_said_counts() {
        let notebook = [("format", "SOURCE"), ("language", "SQL"), ("type", "NOTEBOOK")];
        let kind = WantedKind::Notebook(NotebookFormat::Source, Language::Sql);
        assert_eq!(wanted("a~notebook.sql", &notebook, ""), Wanted { name: "a".into(), kind });
        let cut = [("format", "SOURCE"), ("language", "SQL"), ("name", "long"), ("type", "NOTEBOOK")];
        assert_eq!(wanted("lo~0123~notebook.sql", &cut, ""), Wanted { name: "long".into(), kind });
        let file = wanted("a.py", &[("type", "FILE")], "# Databricks notebook source\n");
        assert_eq!(file, Wanted { name: "a.py".into(), kind: WantedKind::File });
    }

    #[test]
    fn of_a_folder_name_and_first_line_count() {
        let kind = WantedKind::Notebook(NotebookFormat::Source, Language::Python);
        assert_eq!(wanted("a.py", &[], "# Databricks notebook source\nx"), Wanted { name: "a".into(), kind });
        assert_eq!(
            wanted("a.py", &[], "# Databricks notebook sources"),
            Wanted { name: "a.py".into(), kind: WantedKind::File }
        );
        assert_eq!(wanted("a.txt", &[], "# Databricks notebook source").kind, WantedKind::File);
        assert!(matches!(wanted("a.ipynb", &[], "{}").kind, WantedKind::Notebook(NotebookFormat::Jupyter, _)));
    }
}
