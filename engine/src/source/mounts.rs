//! From paths as a user gives them to places in a snapshot.
//!
//! A path is stored under the name that it was given by: `src` as `src/...`, `/data/lake` as `data/lake/...`, `../x` as
//! `x/...`, and `.` as its contents, at the top.

use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use lakebed_core::record::tree::{Entry, EntryKind};
use lakebed_core::source::{Source, SourceError};
use lakebed_core::text::escape_path;

use super::filter::Filter;
use super::local::{LocalOptions, LocalSource, directory_identity};
use crate::error::{Error, Result};

/// A source, and where it lies in the snapshot.
pub struct Mount {
    /// Names from the snapshot's root down. Empty: the source's entries lie at the root.
    pub tree_path: Vec<Vec<u8>>,
    /// Entries of the directories on the way, as far as they are known; the last is the source's parent.
    pub ancestors: Vec<Entry>,
    /// Where the entries come from.
    pub source: Arc<dyn Source>,
    /// What was asked for and is not had from the source, by its path in the snapshot: failures of the run.
    pub failures: Vec<(Vec<Vec<u8>>, SourceError)>,
}

impl Mount {
    /// Puts a source somewhere in the snapshot.
    pub fn new(tree_path: Vec<Vec<u8>>, source: Arc<dyn Source>) -> Self {
        Self { tree_path, ancestors: Vec::new(), source, failures: Vec::new() }
    }
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

/// Makes sources of paths. A path that lies in another one that is given comes with that one. Where it does not (a link
/// leads there, it is excluded, or on another file system while only one is wanted), it is a failure of the run.
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
    let one_file_system = options.one_file_system || filter.one_file_system();
    let mut mounts = Vec::new();
    for (path, absolute, names) in &given {
        let is_inside = |inner: &Path, inner_names: &[Vec<u8>], outer: &Path, outer_names: &[Vec<u8>]| {
            inner != outer && inner.starts_with(outer) && inner_names.starts_with(outer_names)
        };
        if given.iter().any(|(_, other, other_names)| is_inside(absolute, names, other, other_names)) {
            continue;
        }
        let mut mount = mount(path, names.clone(), filter, options);
        let inner = given.iter().filter(|(_, other, other_names)| is_inside(other, other_names, absolute, names));
        for (inner, _, inner_names) in inner {
            let shown = || escape_path(&inner_names.join(&b'/'));
            let itself = LocalSource::new(inner, inner_names.clone(), filter.clone(), options.clone());
            let failure = match itself.root() {
                Err(error) => error,
                Ok(entry) if !comes_with(&*mount.source, &inner_names[names.len()..], &entry) => apart(shown(), path),
                Ok(_) if one_file_system && device(inner) != device(path) => apart(shown(), path),
                Ok(_) => continue,
            };
            mount.failures.push((inner_names.clone(), failure));
        }
        mounts.push(mount);
    }
    Ok(mounts)
}

/// Tells whether walking a source leads to that entry.
fn comes_with(outer: &dyn Source, names: &[Vec<u8>], entry: &Entry) -> bool {
    let walk = || -> std::result::Result<bool, SourceError> {
        let mut at = outer.root()?;
        for depth in 0..names.len() {
            let directory = outer.open_dir(&names[..depth], &at)?;
            let found = directory.list()?.flatten().find(|entry| entry.name == names[depth]);
            let Some(found) = found else { return Ok(false) };
            at = found;
        }
        Ok(at.kind == entry.kind && at.inode == entry.inode)
    };
    // what cannot be walked to is not had
    walk().unwrap_or(false)
}

/// Returns the number of the file system that a path leads to.
fn device(path: &Path) -> Option<u64> {
    directory_identity(path).ok().map(|(device, _)| device)
}

fn apart(shown: String, outer: &Path) -> SourceError {
    let outer = escape_path(outer.as_os_str().as_bytes());
    let why = format!(
        "it lies in `{outer}` and does not come with it (a link, an exclude or another file system is in between): \
         name it in a run of its own"
    );
    SourceError::new("back up", shown, std::io::Error::other(why))
}

fn mount(path: &Path, names: Vec<Vec<u8>>, filter: &Arc<Filter>, options: &LocalOptions) -> Mount {
    let (mut ancestors, mut failures) = (Vec::new(), Vec::new());
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
        let Some(mut entry) = entry else { break };
        if let Err(error) = source.complete_root(&mut entry) {
            entry.inconsistent = true;
            failures.push((names[..depth].to_vec(), error));
        }
        ancestors.push(entry);
    }
    let source = Arc::new(LocalSource::new(path, names.clone(), filter.clone(), options.clone()));
    Mount { tree_path: names, ancestors, source, failures }
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
