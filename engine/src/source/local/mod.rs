//! A folder, or one file, of this machine.
//!
//! Directories are opened by path and listed relative to what was opened; files are opened relative to their directory,
//! and never through a symbolic link. What was opened is compared with what was listed (kind and inode), so that an
//! entry which is swapped in between is reported instead of stored under a foreign name.
//!
//! Each open directory and each open file holds one descriptor, and nothing else does.

mod attributes;
mod directory;
mod file;
mod place;
mod status;
#[cfg(test)]
mod tests;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
#[cfg(target_os = "linux")]
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use lakebed_core::record::tree::{Entry, EntryKind};
use lakebed_core::source::{Source, SourceDir, SourceError, SourceFile};
use rustix::fs::{CWD, Mode, OFlags, Stat};
use rustix::io::{Errno, retry_on_intr};

use self::attributes::Attributes;
use self::directory::LocalDir;
use self::file::LocalFile;
use self::place::{Place, push_name};
use self::status::{entry_of, is_same};
use super::filter::Filter;

/// Writes a name or a path as a person can read it: what is not UTF-8 becomes `\xNN`.
pub use lakebed_core::text::escape_path as display_path;

const LIST: &str = "list";
const OPEN: &str = "open";
const READ: &str = "read";
const ATTRIBUTES: &str = "read the attributes of";

/// How a local source behaves. The default enters everything.
#[derive(Debug, Clone, Default)]
pub struct LocalOptions {
    /// Directories that are left out whole, entry and all, by number of file system and inode: the repository, the
    /// cache. [`directory_identity`] gives the numbers.
    pub never_enter: Vec<(u64, u64)>,
    /// Directories on another file system than the root's are kept without what is in them, as tar does. The same
    /// option of the filter does the same.
    pub one_file_system: bool,
}

/// Returns what tells one directory from all others of this machine: the numbers of its file system and its inode.
///
/// # Errors
/// It cannot be looked at.
pub fn directory_identity(path: &Path) -> std::io::Result<(u64, u64)> {
    Ok(status::identity(&rustix::fs::stat(path)?))
}

/// A folder, or one file, of this machine.
///
/// Excludes apply to what lies below the root, never to the root itself.
#[derive(Debug)]
pub struct LocalSource {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// The root as it was given. A slash at its end makes the system follow a link there.
    root: Vec<u8>,
    /// Where the root is in the snapshot, joined by slashes.
    tree: Vec<u8>,
    uri: String,
    filter: Arc<Filter>,
    never_enter: Vec<(u64, u64)>,
    one_file_system: bool,
    root_device: OnceLock<u64>,
    /// What the root was when it was last listed.
    root_identity: Mutex<Option<(u64, u64)>>,
    #[cfg(target_os = "linux")]
    euid: u32,
    /// Reading without touching access times was refused once, for somebody else's file.
    #[cfg(target_os = "linux")]
    noatime_refused: AtomicBool,
}

impl LocalSource {
    /// Builds a source over `path`, which is mounted in the snapshot at `tree_path`. Nothing is opened yet.
    ///
    /// Messages and excludes have paths as they are in the snapshot.
    pub fn new(path: &Path, tree_path: Vec<Vec<u8>>, filter: Arc<Filter>, options: LocalOptions) -> Self {
        let one_file_system = options.one_file_system || filter.one_file_system();
        let shared = Shared {
            root: path.as_os_str().as_bytes().to_vec(),
            tree: tree_path.join(&b'/'),
            uri: file_uri(path),
            filter,
            never_enter: options.never_enter,
            one_file_system,
            root_device: OnceLock::new(),
            root_identity: Mutex::new(None),
            #[cfg(target_os = "linux")]
            euid: rustix::process::geteuid().as_raw(),
            #[cfg(target_os = "linux")]
            noatime_refused: AtomicBool::new(false),
        };
        Self { shared: Arc::new(shared) }
    }
}

/// Returns the URI of a file: absolute, everything encoded but slashes and what RFC 3986 calls unreserved.
fn file_uri(path: &Path) -> String {
    let absolute = absolute(path);
    let bytes = absolute.as_os_str().as_bytes();
    let end = bytes.iter().rposition(|&c| c != b'/').map_or(1, |last| last + 1);
    let mut uri = String::from("file://");
    for &byte in bytes.iter().take(end) {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            uri.push_str(&format!("%{byte:02X}"));
        }
    }
    uri
}

/// Makes a path absolute without following a link at its end. One that cannot be is returned as it is.
fn absolute(path: &Path) -> PathBuf {
    // what `..` leads to is only known to the file system: `link/..` is not the folder that the link is in
    let result = match path.components().any(|part| part == Component::ParentDir) {
        true => match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) => parent.canonicalize().map(|parent| parent.join(name)),
            _ => path.canonicalize(),
        },
        false => std::path::absolute(path),
    };
    result.unwrap_or_else(|_| path.to_owned())
}

impl Shared {
    fn root_place(&self) -> Place {
        Place { path: self.root.clone(), tree: self.tree.clone() }
    }

    fn never_enters(&self, stat: &Stat) -> bool {
        self.never_enter.contains(&status::identity(stat))
    }

    /// Opens for reading, never through a link at the end of the path, never waiting for the other end of a pipe.
    fn open_at(&self, dir: BorrowedFd<'_>, path: &[u8], owner: u32, flags: OFlags) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match self.open_quietly(dir, path, owner, flags | OFlags::NONBLOCK) {
            // only a file that a lease protects says so (Samba takes them): wait until it is given back
            Err(Errno::AGAIN) => self.open_quietly(dir, path, owner, flags),
            result => result,
        }
    }

    /// Opens so that reading leaves no trace in the access time, where the system allows that.
    #[cfg(target_os = "linux")]
    fn open_quietly(&self, dir: BorrowedFd<'_>, path: &[u8], owner: u32, flags: OFlags) -> Result<OwnedFd, Errno> {
        // it is the owner's right: once refused, it will be for every file of somebody else
        if owner == self.euid || !self.noatime_refused.load(Ordering::Relaxed) {
            match retry_on_intr(|| rustix::fs::openat(dir, path, flags | OFlags::NOATIME, Mode::empty())) {
                Err(Errno::PERM) => self.noatime_refused.store(true, Ordering::Relaxed),
                result => return result,
            }
        }
        retry_on_intr(|| rustix::fs::openat(dir, path, flags, Mode::empty()))
    }

    #[cfg(not(target_os = "linux"))]
    fn open_quietly(&self, dir: BorrowedFd<'_>, path: &[u8], _owner: u32, flags: OFlags) -> Result<OwnedFd, Errno> {
        retry_on_intr(|| rustix::fs::openat(dir, path, flags, Mode::empty()))
    }

    /// Opens a directory one name after the other, for paths that are longer than the system takes.
    fn open_by_steps(&self, path: &[Vec<u8>], owner: u32) -> Result<OwnedFd, Errno> {
        // directories in between need to be passable, not readable
        #[cfg(target_os = "linux")]
        let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        #[cfg(not(target_os = "linux"))]
        let step = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Some((last, above)) = path.split_last() else {
            return self.open_at(CWD, &self.root, owner, OFlags::DIRECTORY);
        };
        let mut dir = retry_on_intr(|| rustix::fs::openat(CWD, self.root.as_slice(), step, Mode::empty()))?;
        for name in above {
            dir = retry_on_intr(|| rustix::fs::openat(&dir, name.as_slice(), step, Mode::empty()))?;
        }
        self.open_at(dir.as_fd(), last, owner, OFlags::DIRECTORY)
    }

    fn root_device(&self) -> Result<u64, Errno> {
        if let Some(device) = self.root_device.get() {
            return Ok(*device);
        }
        let device = status::device(&rustix::fs::lstat(self.root.as_slice())?);
        Ok(*self.root_device.get_or_init(|| device))
    }
}

impl Source for LocalSource {
    fn uri(&self) -> String {
        self.shared.uri.clone()
    }

    /// A link is returned as a link, unless a slash follows it.
    fn root(&self) -> Result<Entry, SourceError> {
        let shared = &self.shared;
        let place = shared.root_place();
        let stat = rustix::fs::lstat(shared.root.as_slice()).map_err(|errno| place.error(ATTRIBUTES, b"", errno))?;
        let name = shared.root.rsplit(|&c| c == b'/').find(|name| !name.is_empty()).unwrap_or(b"/");
        let unknown = || place.error(ATTRIBUTES, b"", std::io::Error::other("its kind is not known"));
        let entry = entry_of(name, &stat).ok_or_else(unknown)?;
        if entry.kind == EntryKind::Directory && shared.never_enters(&stat) {
            return Err(place.error(
                LIST,
                b"",
                std::io::Error::other("it is the repository's own folder, or the cache"),
            ));
        }
        shared.root_device.get_or_init(|| status::device(&stat));
        *shared.root_identity.lock().unwrap_or_else(PoisonError::into_inner) = Some(status::identity(&stat));
        Ok(entry)
    }

    fn complete_root(&self, entry: &mut Entry) -> Result<(), SourceError> {
        let (shared, place) = (&*self.shared, &self.shared.root_place());
        Attributes { shared, place, dir: CWD, at: &shared.root, path: &shared.root, name: b"" }.complete(entry)
    }

    fn open_dir(&self, path: &[Vec<u8>], expected: &Entry) -> Result<Box<dyn SourceDir>, SourceError> {
        let shared = &self.shared;
        let mut place = shared.root_place();
        for name in path {
            push_name(&mut place.path, name);
            push_name(&mut place.tree, name);
        }
        let opened = match shared.open_at(CWD, &place.path, expected.uid, OFlags::DIRECTORY) {
            Err(Errno::NAMETOOLONG) => shared.open_by_steps(path, expected.uid),
            result => result,
        };
        let fd = opened.map_err(|errno| place.open_error(LIST, b"", errno))?;
        let stat = rustix::fs::fstat(&fd).map_err(|errno| place.error(LIST, b"", errno))?;
        // the repository may have been created or moved here since
        if !is_same(&stat, expected) || shared.never_enters(&stat) {
            return Err(place.replaced(LIST, b""));
        }
        let foreign = shared.one_file_system
            && shared.root_device().map_err(|errno| place.error(LIST, b"", errno))? != status::device(&stat);
        Ok(Box::new(LocalDir { shared: Arc::clone(shared), place: Arc::new(place), fd, foreign }))
    }

    fn open_root(&self) -> Result<Box<dyn SourceFile>, SourceError> {
        let place = self.shared.root_place();
        let expected = *self.shared.root_identity.lock().unwrap_or_else(PoisonError::into_inner);
        let owner = rustix::fs::lstat(place.path.as_slice()).map_err(|errno| place.error(OPEN, b"", errno))?.st_uid;
        let fd = self.shared.open_at(CWD, &place.path, owner, OFlags::empty());
        let fd = fd.map_err(|errno| place.open_error(OPEN, b"", errno))?;
        let same = |stat: &Stat| expected.is_none_or(|expected| expected == status::identity(stat));
        Ok(Box::new(LocalFile::new(fd, Arc::new(place), Vec::new(), same)?))
    }
}
