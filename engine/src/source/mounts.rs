//! From paths as a user gives them to places in a snapshot.
//!
//! A path is stored under the name that it was given by: `src` as `src/...`, `/data/lake` as `data/lake/...`, `../x` as
//! `x/...`, and `.` as its contents, at the top.

use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use lakebed_core::record::tree::{Entry, EntryKind};
use lakebed_core::source::Source;

use super::filter::Filter;
use super::local::{LocalOptions, LocalSource};
use crate::error::{Error, Result};

/// A source, and where it lies in the snapshot.
pub struct Mount {
    /// Names from the snapshot's root down. Empty: the source's entries lie at the root.
    pub tree_path: Vec<Vec<u8>>,
    /// Entries of the directories on the way, as far as they are known; the last is the source's parent.
    pub ancestors: Vec<Entry>,
    /// Where the entries come from.
    pub source: Arc<dyn Source>,
}

impl std::fmt::Debug for Mount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mount").field("source", &self.source.uri()).finish_non_exhaustive()
    }
}

/// Returns the names under which a path is stored.
pub fn tree_path(given: &Path) -> Vec<Vec<u8>> {
    let mut names: Vec<Vec<u8>> = Vec::new();
    for component in given.components() {
        match component {
            Component::Normal(name) => names.push(name.as_bytes().to_vec()),
            Component::ParentDir => {
                names.pop();
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    names
}

/// Makes sources of paths. A path that lies in another one that is given is left out, since it comes with that one.
///
/// # Errors
/// Two paths that would be stored as one; a working directory that cannot be found.
pub fn local_mounts(paths: &[PathBuf], filter: &Arc<Filter>, options: &LocalOptions) -> Result<Vec<Mount>> {
    let mut given: Vec<(PathBuf, PathBuf, Vec<Vec<u8>>)> = Vec::new();
    for path in paths {
        let absolute = std::path::absolute(path).map_err(|source| Error::local("resolve", path, source))?;
        let names = tree_path(path);
        if given.iter().any(|(_, other, other_names)| *other == absolute && *other_names == names) {
            continue;
        }
        given.push((path.clone(), absolute, names));
    }
    let mut mounts = Vec::new();
    for (path, absolute, names) in &given {
        let inside = |(_, other, other_names): &&(PathBuf, PathBuf, Vec<Vec<u8>>)| {
            other != absolute && absolute.starts_with(other) && names.starts_with(other_names)
        };
        if given.iter().any(|other| inside(&other)) {
            continue;
        }
        mounts.push(mount(path, names.clone(), filter, options));
    }
    Ok(mounts)
}

fn mount(path: &Path, names: Vec<Vec<u8>>, filter: &Arc<Filter>, options: &LocalOptions) -> Mount {
    let mut ancestors = Vec::new();
    // the directories on the way are kept with their metadata as far as the path names them itself
    for depth in 1..names.len() {
        let mut above = path.to_path_buf();
        for _ in depth..names.len() {
            above.pop();
        }
        let source = LocalSource::new(&above, names[..depth].to_vec(), filter.clone(), options.clone());
        let entry = source.root().ok().filter(|entry| {
            entry.kind == EntryKind::Directory
                && above.file_name().map(OsStr::as_bytes) == Some(names[depth - 1].as_slice())
        });
        match entry {
            Some(entry) => ancestors.push(entry),
            None => break,
        }
    }
    let source = Arc::new(LocalSource::new(path, names.clone(), filter.clone(), options.clone()));
    Mount { tree_path: names, ancestors, source }
}

/// Reads a list of paths as `--files-from` takes it: one on each line, or ended by NUL bytes.
pub fn parse_path_list(bytes: &[u8], separator: u8) -> Vec<PathBuf> {
    let lines = bytes.split(|&byte| byte == separator);
    let lines = lines.map(|line| if separator == b'\n' { line.strip_suffix(b"\r").unwrap_or(line) } else { line });
    lines
        .filter(|line| !line.is_empty() && (separator == 0 || !line.starts_with(b"#")))
        .map(|line| PathBuf::from(std::ffi::OsString::from_vec(line.to_vec())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_stored_under_the_name_it_was_given_by() {
        let shown = |path: &str| String::from_utf8(tree_path(Path::new(path)).join(&b'/')).unwrap();
        assert_eq!(shown("src"), "src");
        assert_eq!(shown("./a/b/"), "a/b");
        assert_eq!(shown("/data/lake"), "data/lake");
        assert_eq!(shown("../x"), "x");
        assert_eq!(shown("."), "");
        assert_eq!(shown("a/../b"), "b");
    }

    #[test]
    fn path_lists_skip_empty_lines_and_comments() {
        assert_eq!(parse_path_list(b"a\r\n\n# no\nb c\n", b'\n'), [PathBuf::from("a"), PathBuf::from("b c")]);
        assert_eq!(parse_path_list(b"a\0#b\0", 0), [PathBuf::from("a"), PathBuf::from("#b")]);
    }
}
