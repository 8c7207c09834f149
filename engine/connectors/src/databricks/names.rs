//! What objects of a workspace are called in a snapshot, and on disk.
//!
//! * A folder and a file keep their names. A notebook, which has no suffix in a workspace, gets one for its format.
//! * Where that name is taken in its folder, the notebook's gets a mark before the suffix: `a~notebook.py` beside a file
//!   `a.py`. Whatever is called as if it were marked gets a mark itself, so names are different where objects are, and each
//!   says what it is a name of.
//! * A name that would be longer than file systems take is cut and gets a hash.

use lakebed_core::hash::object_hash;

use super::api::Language;

/// A name that a file system takes has no more bytes.
const NAME_MAX_BYTES: usize = 255;
/// So many bytes of a name that is too long are kept.
const KEPT_BYTES: usize = 200;

const NOTEBOOK_MARK: &str = "~notebook";
const FILE_MARK: &str = "~file";
const FOLDER_MARK: &str = "~folder";

/// As what a notebook is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NotebookFormat {
    /// The text of its cells: deterministic, the one to compare and to deduplicate.
    Source,
    /// A Jupyter document, outputs included.
    Jupyter,
    /// An archive of Databricks.
    Dbc,
}

impl NotebookFormat {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Source, Self::Jupyter, Self::Dbc];

    /// Returns the word of the workspace's calls.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Source => "SOURCE",
            Self::Jupyter => "JUPYTER",
            Self::Dbc => "DBC",
        }
    }

    pub(super) fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.as_str() == word)
    }

    fn suffix(self, language: Language) -> &'static str {
        match self {
            Self::Source => language.suffix(),
            Self::Jupyter => ".ipynb",
            Self::Dbc => ".dbc",
        }
    }
}

/// Suffixes of notebooks in any format.
const SUFFIXES: [&str; 6] = [".py", ".sql", ".scala", ".r", ".ipynb", ".dbc"];

/// Tells whether a name looks like one that was marked.
fn looks_marked(name: &str) -> bool {
    let is_notebook = |suffix: &&str| name.strip_suffix(*suffix).is_some_and(|stem| stem.ends_with(NOTEBOOK_MARK));
    name.ends_with(FILE_MARK) || name.ends_with(FOLDER_MARK) || SUFFIXES.iter().any(is_notebook)
}

/// Returns what a folder is called in a snapshot. `reserved`: its name has a meaning of its own where it lies.
pub(super) fn folder_name(name: &str, reserved: bool) -> String {
    if reserved || looks_marked(name) { format!("{name}{FOLDER_MARK}") } else { name.to_owned() }
}

/// Returns what a folder is called in the workspace.
pub(super) fn folder_of(name: &str) -> &str {
    name.strip_suffix(FOLDER_MARK).unwrap_or(name)
}

/// Returns what a file is called in a snapshot.
pub(super) fn file_name(name: &str, reserved: bool) -> String {
    if reserved || looks_marked(name) { format!("{name}{FILE_MARK}") } else { name.to_owned() }
}

/// Returns what a file is called in the workspace.
pub(super) fn file_of(name: &str) -> &str {
    name.strip_suffix(FILE_MARK).unwrap_or(name)
}

/// Returns what a notebook is called in a snapshot; `is_taken` knows the names of files and folders beside it.
pub(super) fn notebook_name(
    name: &str,
    language: Language,
    format: NotebookFormat,
    is_taken: impl Fn(&str) -> bool,
) -> String {
    let suffix = format.suffix(language);
    let plain = format!("{name}{suffix}");
    let marked = match is_taken(&plain) || looks_marked(&plain) {
        true => format!("{name}{NOTEBOOK_MARK}{suffix}"),
        false => plain,
    };
    if marked.len() <= NAME_MAX_BYTES {
        return marked;
    }
    let kept = name.floor_char_boundary(KEPT_BYTES);
    let hash = object_hash(name.as_bytes()).to_hex();
    format!("{}~{}{NOTEBOOK_MARK}{suffix}", &name[..kept], &hash[..16])
}

/// Returns what a notebook is called in the workspace, unless its name was cut.
pub(super) fn notebook_of(name: &str) -> &str {
    let stem = SUFFIXES.iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name);
    stem.strip_suffix(NOTEBOOK_MARK).unwrap_or(stem)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Names a folder's objects, notebooks in all formats.
    fn name_all(notebooks: &[(&str, Language)], files: &[&str], folders: &[&str]) -> Vec<String> {
        let mut names: Vec<String> = files.iter().map(|name| file_name(name, false)).collect();
        names.extend(folders.iter().map(|name| folder_name(name, false)));
        let taken: BTreeSet<String> = names.iter().cloned().collect();
        for (name, language) in notebooks {
            let all = NotebookFormat::ALL.into_iter();
            names.extend(all.map(|format| notebook_name(name, *language, format, |name| taken.contains(name))));
        }
        names
    }

    #[test]
    fn a_notebook_beside_what_has_its_name_is_marked() {
        let names = name_all(&[("a", Language::Python), ("b", Language::Sql)], &["a.py"], &["b.sql"]);
        assert_eq!(names[..2], ["a.py", "b.sql"]);
        assert_eq!(names[2..5], ["a~notebook.py", "a.ipynb", "a.dbc"]);
        assert_eq!(names[5..], ["b~notebook.sql", "b.ipynb", "b.dbc"]);
        assert_eq!(notebook_of("a~notebook.py"), "a");
        assert_eq!(notebook_of("a.py.py"), "a.py");
    }

    #[test]
    fn different_objects_have_different_names_and_each_says_whose_it_is() {
        // everything that can be mistaken for something else
        let words =
            ["a", "a.py", "a~notebook", "a~notebook.py", "a~file", "a~notebook.py~file", "x~folder", "a.py~folder"];
        let notebooks: Vec<_> = words.iter().map(|name| (*name, Language::Python)).collect();
        // in a workspace a name is of one object only: each word is a notebook, a file or a folder
        for kinds in 0..3usize.pow(words.len() as u32) {
            let kind = |at: usize| kinds / 3usize.pow(at as u32) % 3;
            let of = |wanted: usize| (0..words.len()).filter(move |at| kind(*at) == wanted);
            let notebooks: Vec<_> = of(0).map(|at| notebooks[at]).collect();
            let files: Vec<_> = of(1).map(|at| words[at]).collect();
            let folders: Vec<_> = of(2).map(|at| words[at]).collect();
            let names = name_all(&notebooks, &files, &folders);
            assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "{names:?}");
            let (of_files, rest) = names.split_at(files.len());
            let (of_folders, of_notebooks) = rest.split_at(folders.len());
            assert!(of_files.iter().map(|name| file_of(name)).eq(files), "{of_files:?}");
            assert!(of_folders.iter().map(|name| folder_of(name)).eq(folders), "{of_folders:?}");
            assert!(
                of_notebooks
                    .iter()
                    .step_by(3)
                    .map(|name| notebook_of(name))
                    .eq(notebooks.iter().map(|(name, _)| *name))
            );
        }
    }

    #[test]
    fn no_name_is_longer_than_a_file_system_takes() {
        let long = "é".repeat(127) + "x";
        let name = notebook_name(&long, Language::Scala, NotebookFormat::Source, |_| false);
        assert!(name.len() <= NAME_MAX_BYTES && name.ends_with("~notebook.scala"), "{name}");
        let other = "é".repeat(127) + "y";
        assert_ne!(name, notebook_name(&other, Language::Scala, NotebookFormat::Source, |_| false));
    }
}
