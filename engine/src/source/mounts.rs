//! From paths as a user gives them to places in a snapshot.
//!
//! A path is stored under the name that it was given by: `src` as `src/...`, `/data/lake` as `data/lake/...`, `../x` as
//! `x/...`, and `.` as its contents, at the top.

use std::collections::HashMap;
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

/// A path as it was given.
struct Given {
    path: PathBuf,
    absolute: PathBuf,
    names: Vec<Vec<u8>>,
}

/// Makes sources of paths. A path that lies in another one that is given comes with that one. Where it does not (a link
/// leads there, it is excluded, or on another file system while only one is wanted), it is a failure of the run.
///
/// # Errors
/// Two paths that would be stored as one; a working directory that cannot be found.
pub fn local_mounts(paths: &[PathBuf], filter: &Arc<Filter>, options: &LocalOptions) -> Result<Vec<Mount>> {
    let mut given: Vec<Given> = Vec::new();
    let mut by_path: HashMap<PathBuf, Vec<usize>> = HashMap::new();
    for path in paths {
        let absolute = std::path::absolute(path).map_err(|source| Error::local("resolve", path, source))?;
        let names = tree_path(path);
        let same = by_path.entry(absolute.clone()).or_default();
        if !same.iter().any(|&at| given[at].names == names) {
            same.push(given.len());
            given.push(Given { path: path.clone(), absolute, names });
        }
    }
    // the paths that a path lies in, from the next one up
    let above = |inner: &Given| -> Vec<usize> {
        let outer = inner.absolute.ancestors().skip(1).filter_map(|path| by_path.get(path)).flatten();
        outer.copied().filter(|&outer| inner.names.starts_with(&given[outer].names)).collect()
    };
    let above: Vec<Vec<usize>> = given.iter().map(above).collect();
    let mut inside: HashMap<usize, Vec<&Given>> = HashMap::new();
    for (inner, outer) in given.iter().zip(&above) {
        let outermost = outer.iter().filter(|&&outer| above[outer].is_empty());
        outermost.for_each(|&outer| inside.entry(outer).or_default().push(inner));
    }
    let outermost = given.iter().enumerate().filter(|(at, _)| above[*at].is_empty());
    let mounts = outermost.map(|(at, outer)| {
        let mut mount = mount(&outer.path, outer.names.clone(), filter, options);
        let inner = inside.remove(&at).unwrap_or_default();
        mount.failures.extend(apart(&*mount.source, outer, inner, filter, options));
        mount
    });
    Ok(mounts.collect())
}

/// Returns the paths in another one that do not come with it, and why.
fn apart(
    source: &dyn Source,
    outer: &Given,
    mut inner: Vec<&Given>,
    filter: &Arc<Filter>,
    options: &LocalOptions,
) -> Vec<(Vec<Vec<u8>>, SourceError)> {
    inner.sort_by(|one, other| one.names.cmp(&other.names));
    let mut walked: HashMap<&[Vec<u8>], (EntryKind, u64)> = HashMap::new();
    if !inner.is_empty()
        && let Ok(root) = source.root()
    {
        let skip = outer.names.len();
        let mut below: Vec<&[Vec<u8>]> = inner.iter().map(|inner| &inner.names[skip..]).collect();
        // by way of `..` a path below may be the same place
        below.retain(|path| !path.is_empty());
        walked.insert(&[], (root.kind, root.inode));
        walk_beside(source, &mut Vec::new(), &root, &below, &mut |path, entry| {
            walked.insert(path, (entry.kind, entry.inode));
        });
    }
    let is_one_file_system = options.one_file_system || filter.one_file_system();
    let mut failures = Vec::new();
    for given in inner {
        let itself = LocalSource::new(&given.path, given.names.clone(), filter.clone(), options.clone());
        let failure = match itself.root() {
            Err(error) => error,
            Ok(entry) => {
                let comes_with = walked.get(&given.names[outer.names.len()..]) == Some(&(entry.kind, entry.inode));
                let is_foreign = is_one_file_system
                    && entry.kind == EntryKind::Directory
                    && device(&given.path) != device(&outer.path);
                if comes_with && !is_foreign {
                    continue;
                }
                stands_apart(given, outer)
            }
        };
        failures.push((given.names.clone(), failure));
    }
    failures
}

/// Walks a directory of a source beside paths below the source's root, all of which lie below it, in order. Calls `found` with
/// each that walking leads to. What cannot be listed leads nowhere.
fn walk_beside<'n>(
    source: &dyn Source,
    at: &mut Vec<Vec<u8>>,
    directory: &Entry,
    paths: &[&'n [Vec<u8>]],
    found: &mut dyn FnMut(&'n [Vec<u8>], &Entry),
) {
    let Ok(opened) = source.open_dir(at, directory) else { return };
    let Ok(listing) = opened.list() else { return };
    let depth = at.len();
    let mut paths = paths;
    for entry in listing.flatten() {
        paths = &paths[paths.partition_point(|path| path[depth] < entry.name)..];
        let (here, others) = paths.split_at(paths.partition_point(|path| path[depth] == entry.name));
        let (itself, below) = here.split_at(here.partition_point(|path| path.len() == depth + 1));
        itself.iter().for_each(|path| found(path, &entry));
        if !below.is_empty() && entry.kind == EntryKind::Directory {
            at.push(entry.name.clone());
            walk_beside(source, at, &entry, below, found);
            at.pop();
        }
        paths = others;
        if paths.is_empty() {
            break;
        }
    }
}

/// Returns the number of the file system that a path leads to.
fn device(path: &Path) -> Option<u64> {
    directory_identity(path).ok().map(|(device, _)| device)
}

fn stands_apart(inner: &Given, outer: &Given) -> SourceError {
    let outer = escape_path(outer.path.as_os_str().as_bytes());
    let why = format!(
        "it lies in `{outer}` and does not come with it (a link, an exclude or another file system is in between): \
         name it in a run of its own"
    );
    SourceError::new("back up", escape_path(&inner.names.join(&b'/')), std::io::Error::other(why))
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
    fn a_path_that_comes_back_to_the_one_it_lies_in_comes_with_it() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("a/b")).unwrap();
        std::fs::write(folder.path().join("a/file"), "1").unwrap();
        let filter = Arc::new(Filter::new(&Default::default()).unwrap());
        let given = ["a", "a/b/..", "a/b"].map(|path| folder.path().join(path));
        let mounts = local_mounts(&given, &filter, &LocalOptions::default()).unwrap();
        assert_eq!(mounts.len(), 1);
        assert!(mounts[0].failures.is_empty(), "{:?}", mounts[0].failures);
    }

    #[test]
    fn path_lists_skip_empty_lines_and_comments() {
        assert_eq!(parse_path_list(b"a\r\n\n# no\nb c\n", b'\n'), [PathBuf::from("a"), PathBuf::from("b c")]);
        assert_eq!(parse_path_list(b"a\0#b\0", 0), [PathBuf::from("a"), PathBuf::from("#b")]);
    }
}
