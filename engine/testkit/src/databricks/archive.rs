//! Archives: what an export of a folder is, and of a notebook in the format `DBC`.
//!
//! An archive of a folder begins with the folder itself, one of a notebook has nothing but the notebook. The same
//! objects always make the same bytes.

use std::io::{Cursor, Read, Write};

use zip::write::SimpleFileOptions;
use zip::{DateTime, ZipArchive, ZipWriter};

use super::notebook::{self, Parsed};
use super::object::{Body, Notebook};
use super::path;

/// An object for an archive, with its path in there.
#[derive(Debug)]
pub(super) enum Entry {
    Folder(String),
    Notebook(String, Notebook),
    File(String, Body),
}

/// How notebooks lie in an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// As source files. What is no notebook is left out.
    Source,
    /// As source files or Jupyter's, beside the files.
    Auto,
    /// As only the service can read them.
    Dbc,
}

/// Returns the archive of some objects.
pub(super) fn archive(entries: &[Entry], form: Form) -> Vec<u8> {
    let options = SimpleFileOptions::default().last_modified_time(DateTime::default());
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    let mut add = |path: &str, bytes: &[u8]| {
        writer.start_file(path, options).expect("an archive in memory takes all");
        writer.write_all(bytes).expect("an archive in memory takes all");
    };
    for entry in entries {
        match entry {
            Entry::Folder(path) => add(&format!("{path}/"), b""),
            Entry::Notebook(path, notebook) => {
                let name = path::split(path).1;
                let suffix = notebook.language.suffix();
                match form {
                    Form::Auto if notebook.jupyter.is_some() => {
                        add(&format!("{path}.ipynb"), &notebook::to_jupyter(name, notebook, true));
                    }
                    Form::Source | Form::Auto => add(&format!("{path}.{suffix}"), &notebook.body.bytes()),
                    Form::Dbc => {
                        let language = notebook.language.name().to_ascii_lowercase();
                        add(&format!("{path}.{language}"), &notebook::to_archived(name, notebook));
                    }
                }
            }
            Entry::File(path, body) if form == Form::Auto => add(path, &body.bytes()),
            Entry::File(..) => {}
        }
    }
    writer.finish().expect("an archive in memory takes all").into_inner()
}

/// What an archive of the format `DBC` holds.
#[derive(Debug)]
pub(super) enum Unpacked {
    Notebook(Parsed),
    /// The paths of folders, and of notebooks, below the folder that was exported.
    Folder(Vec<String>, Vec<(String, Parsed)>),
}

/// Reads an archive of the format `DBC`. Nothing where it is none.
pub(super) fn unpacked(bytes: &[u8]) -> Option<Unpacked> {
    let mut archive = ZipArchive::new(Cursor::new(bytes)).ok()?;
    let (mut folders, mut notebooks) = (Vec::new(), Vec::new());
    for at in 0..archive.len() {
        let mut entry = archive.by_index(at).ok()?;
        let name = entry.name().ok()?.into_owned();
        if let Some(folder) = name.strip_suffix('/') {
            folders.push(folder.to_owned());
            continue;
        }
        let mut json = Vec::new();
        entry.read_to_end(&mut json).ok()?;
        let (path, _) = name.rsplit_once('.')?;
        notebooks.push((path.to_owned(), notebook::of_archived(&json)?));
    }
    if folders.is_empty() {
        return notebooks.pop().map(|(_, notebook)| Unpacked::Notebook(notebook));
    }
    let below = |path: String| path.split_once('/').map(|(_, below)| below.to_owned());
    let folders = folders.into_iter().filter_map(below).collect();
    Some(Unpacked::Folder(folders, notebooks.into_iter().filter_map(|(path, it)| Some((below(path)?, it))).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::databricks::object::Language;
    use crate::databricks::sources;

    fn notebook() -> Notebook {
        Notebook { language: Language::Python, jupyter: None, body: Body::stored(&sources::source(1, 0)) }
    }

    #[test]
    fn what_was_packed_comes_out_of_an_archive_as_it_was() {
        let Some(Unpacked::Notebook(one)) = unpacked(&archive(&[Entry::Notebook("a.b".into(), notebook())], Form::Dbc))
        else {
            panic!("no notebook came out");
        };
        assert_eq!(one.source, sources::source(1, 0));
        let folder = [
            Entry::Folder("top".into()),
            Entry::Folder("top/empty".into()),
            Entry::File("top/x".into(), Body::stored(b"x")),
            Entry::Notebook("top/a".into(), notebook()),
        ];
        let Some(Unpacked::Folder(folders, notebooks)) = unpacked(&archive(&folder, Form::Dbc)) else {
            panic!("no folder came out");
        };
        assert_eq!((folders, notebooks.len(), notebooks[0].0.as_str()), (vec!["empty".to_owned()], 1, "a"));
        assert!(unpacked(b"no archive").is_none());
    }
}
