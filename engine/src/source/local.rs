//! A folder, or one file, of this machine.
//!
//! Directories are opened by path and listed relative to what was opened; files are opened relative to their directory,
//! and never through a symbolic link. What was opened is compared with what was listed (kind and inode), so that an
//! entry which is swapped in between is reported instead of stored under a foreign name.
//!
//! Each open directory and each open file holds one descriptor, and nothing else does.
//!
//! All extended attributes that the system lists are kept, whatever their name space (`user.`, `security.`, `trusted.`,
//! `system.posix_acl_access`, `system.nfs4_acl`), as restic does: which of them make sense on another machine is for
//! the restore to decide.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
#[cfg(target_os = "linux")]
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use lakebed_core::record::tree::{Entry, EntryKind, Xattr};
use lakebed_core::source::{Fingerprint, Listing, Source, SourceDir, SourceError, SourceErrorKind, SourceFile};
use lakebed_core::time::Timestamp;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, SeekFrom, Stat};
use rustix::io::{Errno, retry_on_intr};
use xattr::FileExt;

use super::filter::{Filter, Marker};

/// Writes a name or a path as a person can read it: what is not UTF-8 becomes `\xNN`.
pub use lakebed_core::text::escape_path as display_path;

/// Bytes that the system fills with names in one call; more than 1,000 names of usual length.
#[cfg(target_os = "linux")]
const NAMES_BUFFER_BYTES: usize = 64 * 1024;
/// Holes are looked for in larger files only: each costs two system calls and saves little here.
const SPARSE_MIN_BYTES: u64 = 256 * 1024;
/// Larger files are announced to the system as read from front to back.
#[cfg(target_os = "linux")]
const SEQUENTIAL_MIN_BYTES: u64 = 1024 * 1024;
/// What `st_blocks` counts in, on every system.
const STAT_BLOCK_BYTES: u64 = 512;

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

/// What a status says, in the same types on every system.
#[allow(clippy::unnecessary_cast)] // the widths of the fields differ from system to system
mod status {
    use super::{Stat, Timestamp};

    pub fn device(stat: &Stat) -> u64 {
        stat.st_dev as u64
    }

    pub fn inode(stat: &Stat) -> u64 {
        stat.st_ino as u64
    }

    pub fn identity(stat: &Stat) -> (u64, u64) {
        (device(stat), inode(stat))
    }

    pub fn special_device(stat: &Stat) -> u64 {
        stat.st_rdev as u64
    }

    pub fn mode(stat: &Stat) -> u32 {
        stat.st_mode as u32 & 0o7777
    }

    pub fn size(stat: &Stat) -> u64 {
        u64::try_from(stat.st_size).unwrap_or(0)
    }

    pub fn mtime(stat: &Stat) -> Timestamp {
        time(stat.st_mtime as i64, stat.st_mtime_nsec as i64)
    }

    pub fn ctime(stat: &Stat) -> Timestamp {
        time(stat.st_ctime as i64, stat.st_ctime_nsec as i64)
    }

    fn time(secs: i64, nanos: i64) -> Timestamp {
        // a file system that gives impossible nanoseconds is taken by its seconds
        let nanos = u32::try_from(nanos).unwrap_or(0);
        Timestamp::new(secs, nanos).unwrap_or(Timestamp { secs, nanos: 0 })
    }
}

fn entry_kind(kind: FileType) -> Option<EntryKind> {
    Some(match kind {
        FileType::RegularFile => EntryKind::File,
        FileType::Directory => EntryKind::Directory,
        FileType::Symlink => EntryKind::Symlink,
        FileType::Fifo => EntryKind::Fifo,
        FileType::Socket => EntryKind::Socket,
        FileType::CharacterDevice => EntryKind::CharDevice,
        FileType::BlockDevice => EntryKind::BlockDevice,
        FileType::Unknown => return None,
    })
}

/// Builds an entry without what only [`SourceDir::complete`] finds out; `None` for a kind that nobody knows.
fn entry_of(name: &[u8], stat: &Stat) -> Option<Entry> {
    let mut entry = Entry::new(name, entry_kind(FileType::from_raw_mode(stat.st_mode))?);
    entry.mode = status::mode(stat);
    entry.uid = stat.st_uid;
    entry.gid = stat.st_gid;
    entry.mtime = status::mtime(stat);
    entry.ctime = status::ctime(stat);
    entry.inode = status::inode(stat);
    if entry.kind == EntryKind::File {
        entry.size = status::size(stat);
    }
    if stat.st_nlink > 1 && entry.kind != EntryKind::Directory {
        entry.hard_link_device = Some(status::device(stat));
    }
    if matches!(entry.kind, EntryKind::CharDevice | EntryKind::BlockDevice) {
        entry.device = status::special_device(stat);
    }
    Some(entry)
}

/// Tells whether what was opened is what was listed.
fn is_same(stat: &Stat, expected: &Entry) -> bool {
    status::inode(stat) == expected.inode && entry_kind(FileType::from_raw_mode(stat.st_mode)) == Some(expected.kind)
}

/// Where a directory (or the root file) is, for the system and for people.
#[derive(Debug)]
struct Place {
    /// Path for the system.
    path: Vec<u8>,
    /// Path in the snapshot.
    tree: Vec<u8>,
}

fn joined(parent: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(parent.len() + 1 + name.len());
    path.extend_from_slice(parent);
    push_name(&mut path, name);
    path
}

fn push_name(path: &mut Vec<u8>, name: &[u8]) {
    if !path.is_empty() && !path.ends_with(b"/") {
        path.push(b'/');
    }
    path.extend_from_slice(name);
}

impl Place {
    /// Builds the error of an entry of this directory, or of the directory where `name` is empty.
    fn error(&self, operation: &'static str, name: &[u8], source: impl Into<std::io::Error>) -> SourceError {
        let tree = if name.is_empty() { self.tree.clone() } else { joined(&self.tree, name) };
        // a root that is the whole snapshot has no path in it
        let shown = if tree.is_empty() { &self.path } else { &tree };
        SourceError::new(operation, display_path(shown), source.into())
    }

    /// As [`Place::error`], for what opening said: a link or another kind of thing where none was listed.
    fn open_error(&self, operation: &'static str, name: &[u8], errno: Errno) -> SourceError {
        let mut error = self.error(operation, name, errno);
        if matches!(errno, Errno::LOOP | Errno::NOTDIR | Errno::NXIO) {
            error.kind = SourceErrorKind::Replaced;
        }
        error
    }

    fn replaced(&self, operation: &'static str, name: &[u8]) -> SourceError {
        let source = std::io::Error::other("another thing is there now than when it was listed");
        SourceError { kind: SourceErrorKind::Replaced, ..self.error(operation, name, source) }
    }
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

    /// Returns the root, complete. A link is returned as a link, unless a slash follows it.
    fn root(&self) -> Result<Entry, SourceError> {
        let shared = &self.shared;
        let place = shared.root_place();
        let stat = rustix::fs::lstat(shared.root.as_slice()).map_err(|errno| place.error(ATTRIBUTES, b"", errno))?;
        let name = shared.root.rsplit(|&c| c == b'/').find(|name| !name.is_empty()).unwrap_or(b"/");
        let unknown = || place.error(ATTRIBUTES, b"", std::io::Error::other("its kind is not known"));
        let mut entry = entry_of(name, &stat).ok_or_else(unknown)?;
        if entry.kind == EntryKind::Directory && shared.never_enters(&stat) {
            return Err(place.error(
                LIST,
                b"",
                std::io::Error::other("it is the repository's own folder, or the cache"),
            ));
        }
        shared.root_device.get_or_init(|| status::device(&stat));
        *shared.root_identity.lock().unwrap_or_else(PoisonError::into_inner) = Some(status::identity(&stat));
        Attributes { shared, place: &place, dir: CWD, at: &shared.root, path: &shared.root, name: b"" }
            .complete(&mut entry)?;
        Ok(entry)
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

/// One directory, open.
struct LocalDir {
    shared: Arc<Shared>,
    place: Arc<Place>,
    fd: OwnedFd,
    /// It is on another file system, and only one is wanted.
    foreign: bool,
}

/// Names of a directory, one after the other in one buffer.
#[derive(Default)]
struct Names {
    bytes: Vec<u8>,
    items: Vec<(Range<usize>, FileType)>,
}

impl Names {
    fn push(&mut self, name: &[u8], kind: FileType) {
        if name == b"." || name == b".." {
            return;
        }
        let start = self.bytes.len();
        self.bytes.extend_from_slice(name);
        self.items.push((start..self.bytes.len(), kind));
    }

    fn get(&self, range: &Range<usize>) -> &[u8] {
        &self.bytes[range.clone()]
    }

    /// Sorts by bytes. A name that was moved while the system listed may have come twice.
    fn sort(&mut self) {
        let bytes = &self.bytes;
        self.items.sort_unstable_by(|(a, _), (b, _)| bytes[a.clone()].cmp(&bytes[b.clone()]));
        self.items.dedup_by(|(a, _), (b, _)| bytes[a.clone()] == bytes[b.clone()]);
    }

    fn position(&self, name: &[u8]) -> Option<usize> {
        self.items.binary_search_by(|(range, _)| self.get(range).cmp(name)).ok()
    }

    /// Forgets all names but those at these places.
    fn retain(&mut self, kept: &[usize]) {
        let mut index = 0;
        self.items.retain(|_| {
            index += 1;
            kept.contains(&(index - 1))
        });
    }
}

impl LocalDir {
    /// Reads all names. An error after the first of them costs the rest, not the directory.
    fn names(&self) -> Result<(Names, Option<SourceError>), SourceError> {
        let mut names = Names::default();
        let cut_off = match self.read_names(&mut names) {
            Ok(()) => None,
            Err(errno) => Some(self.place.error(LIST, b"", errno)),
        };
        match cut_off {
            Some(error) if names.items.is_empty() => Err(error),
            cut_off => {
                names.sort();
                Ok((names, cut_off))
            }
        }
    }

    /// Looks at a name of the listing; `None` where it is left out.
    fn listed(&self, name: &[u8], kind: FileType) -> Option<Result<Entry, SourceError>> {
        let filter = &self.shared.filter;
        // paths are put together only where a pattern will look at them
        let excludes = |is_dir| filter.has_patterns() && filter.excludes(&joined(&self.place.tree, name), is_dir);
        if kind != FileType::Unknown && excludes(kind.is_dir()) {
            return None;
        }
        match self.entry(name) {
            // what the names did not say, and what has become another thing since
            Ok(Some(entry)) => {
                let is_dir = entry.kind == EntryKind::Directory;
                let asked = kind != FileType::Unknown && kind.is_dir() == is_dir;
                (asked || !excludes(is_dir)).then_some(Ok(entry))
            }
            Ok(None) => None,
            Err(error) => Some(Err(error)),
        }
    }

    #[cfg(target_os = "linux")]
    fn read_names(&self, names: &mut Names) -> Result<(), Errno> {
        let mut buffer = Vec::with_capacity(NAMES_BUFFER_BYTES);
        let mut dir = rustix::fs::RawDir::new(&self.fd, buffer.spare_capacity_mut());
        while let Some(item) = dir.next() {
            match item {
                Ok(item) => names.push(item.file_name().to_bytes(), item.file_type()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    #[cfg(not(target_os = "linux"))]
    fn read_names(&self, names: &mut Names) -> Result<(), Errno> {
        for item in rustix::fs::Dir::read_from(&self.fd)? {
            let item = item?;
            names.push(item.file_name().to_bytes(), item.file_type());
        }
        Ok(())
    }

    fn stat(&self, name: &[u8]) -> Result<Stat, Errno> {
        retry_on_intr(|| rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW))
    }

    /// Leaves only the markers where one of them says so.
    fn apply_markers(&self, names: &mut Names) {
        let carried = |marker: &Marker| names.position(&marker.name).filter(|_| self.carries(marker));
        let kept: Vec<usize> = self.shared.filter.markers().iter().filter_map(carried).collect();
        if !kept.is_empty() {
            names.retain(&kept);
        }
    }

    /// Tells whether a name is a marker. One that cannot be read marks nothing: rather too much is kept than too
    /// little, and that it cannot be read is reported when it is read as a file.
    fn carries(&self, marker: &Marker) -> bool {
        let Ok(stat) = self.stat(&marker.name) else { return false };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile if !marker.header.is_empty() => self
                .read_start(&marker.name, stat.st_uid, marker.header.len())
                .is_ok_and(|start| start == marker.header),
            FileType::Directory => false,
            _ => marker.header.is_empty(),
        }
    }

    fn read_start(&self, name: &[u8], owner: u32, length: usize) -> Result<Vec<u8>, Errno> {
        let fd = self.shared.open_at(self.fd.as_fd(), name, owner, OFlags::empty())?;
        let mut start = vec![0; length];
        let mut filled = 0;
        while filled < length {
            match retry_on_intr(|| rustix::io::read(&fd, &mut start[filled..]))? {
                0 => break,
                count => filled += count,
            }
        }
        start.truncate(filled);
        Ok(start)
    }

    /// Looks at one name; `None` where it is left out.
    fn entry(&self, name: &[u8]) -> Result<Option<Entry>, SourceError> {
        let error = |text: &'static str| self.place.error(ATTRIBUTES, name, std::io::Error::other(text));
        if !Entry::name_is_valid(name) {
            return Err(error("its name cannot be stored"));
        }
        let stat = self.stat(name).map_err(|errno| self.place.error(ATTRIBUTES, name, errno))?;
        let entry = entry_of(name, &stat).ok_or_else(|| error("its kind is not known"))?;
        let left_out = match entry.kind {
            EntryKind::Directory => self.shared.never_enters(&stat),
            EntryKind::File => self.shared.filter.excludes_size(entry.size),
            _ => false,
        };
        Ok((!left_out).then_some(entry))
    }
}

impl SourceDir for LocalDir {
    fn list(&self) -> Result<Listing<'_>, SourceError> {
        if self.foreign {
            return Ok(Box::new(std::iter::empty()));
        }
        // whoever lists again begins at the front
        let rewound = rustix::fs::seek(&self.fd, SeekFrom::Start(0));
        rewound.map_err(|errno| self.place.error(LIST, b"", errno))?;
        let (mut names, cut_off) = self.names()?;
        self.apply_markers(&mut names);
        let items = names.items.len();
        let entries = (0..items).filter_map(move |at| {
            let (range, kind) = &names.items[at];
            self.listed(names.get(range), *kind)
        });
        Ok(Box::new(cut_off.map(Err).into_iter().chain(entries)))
    }

    /// Fills in extended attributes and link targets. Where one attribute cannot be read the others are still there.
    fn complete(&self, entry: &mut Entry) -> Result<(), SourceError> {
        let name = entry.name.clone();
        let path = joined(&self.place.path, &name);
        let (shared, place, dir) = (&self.shared, &self.place, self.fd.as_fd());
        Attributes { shared, place, dir, at: &name, path: &path, name: &name }.complete(entry)
    }

    fn open(&self, entry: &Entry) -> Result<Box<dyn SourceFile>, SourceError> {
        let fd = self.shared.open_at(self.fd.as_fd(), &entry.name, entry.uid, OFlags::empty());
        let fd = fd.map_err(|errno| self.place.open_error(OPEN, &entry.name, errno))?;
        let same = |stat: &Stat| is_same(stat, entry);
        Ok(Box::new(LocalFile::new(fd, Arc::clone(&self.place), entry.name.clone(), same)?))
    }
}

/// One entry whose attributes are to be read.
struct Attributes<'a> {
    shared: &'a Shared,
    place: &'a Place,
    /// Directory that `at` is relative to.
    dir: BorrowedFd<'a>,
    at: &'a [u8],
    /// Path for calls that know no directories.
    path: &'a [u8],
    /// Name for messages.
    name: &'a [u8],
}

/// What attributes are read from.
enum Carrier<'a> {
    Path(&'a Path),
    Open(File),
}

impl Carrier<'_> {
    fn names(&self) -> std::io::Result<Vec<OsString>> {
        let names = match self {
            Self::Path(path) => xattr::list(path),
            Self::Open(file) => file.list_xattr(),
        };
        match names {
            Ok(names) => Ok(names.collect()),
            Err(error) if has_no_attributes(&error) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Returns a value; `None` where the attribute is gone, or was listed and is not there.
    fn value(&self, name: &OsStr) -> std::io::Result<Option<Vec<u8>>> {
        match self {
            Self::Path(path) => xattr::get(path, name),
            Self::Open(file) => file.get_xattr(name),
        }
    }

    /// Reads the values of all names, goes on after one that cannot be read, and returns the first error.
    fn read(&self, names: &[OsString], xattrs: &mut Vec<Xattr>) -> std::io::Result<()> {
        let mut result = Ok(());
        for name in names {
            match self.value(name) {
                Ok(Some(value)) => xattrs.push(Xattr { name: name.as_bytes().to_vec(), value }),
                Ok(None) => {}
                Err(error) => result = result.and(Err(error)),
            }
        }
        xattrs.sort_unstable();
        xattrs.dedup_by(|a, b| a.name == b.name);
        result
    }
}

fn errno_of(error: &std::io::Error) -> Option<Errno> {
    Errno::from_io_error(error)
}

/// Tells whether the file system has no attributes. Some network file systems say "no data" instead.
fn has_no_attributes(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::Unsupported
        || errno_of(error).is_some_and(|errno| errno == Errno::NOTSUP || errno == Errno::OPNOTSUPP)
        || is_no_data(error)
}

#[cfg(target_os = "linux")]
fn is_no_data(error: &std::io::Error) -> bool {
    errno_of(error) == Some(Errno::NODATA)
}

#[cfg(not(target_os = "linux"))]
fn is_no_data(_error: &std::io::Error) -> bool {
    false
}

impl Attributes<'_> {
    fn complete(&self, entry: &mut Entry) -> Result<(), SourceError> {
        if entry.kind == EntryKind::Symlink {
            entry.link_target = self.link_target()?;
        }
        entry.xattrs.clear();
        // almost nothing has attributes, and one call by path tells that; what there are is read from what was opened
        let by_path = Carrier::Path(Path::new(OsStr::from_bytes(self.path)));
        let listed = by_path.names();
        if listed.as_ref().is_ok_and(Vec::is_empty) {
            return Ok(());
        }
        let error = |error: std::io::Error| self.place.error(ATTRIBUTES, self.name, error);
        let (carrier, names) = match (self.open(entry)?, listed) {
            (Some(opened), _) => {
                let names = opened.names().map_err(error)?;
                (opened, names)
            }
            (None, Ok(names)) => (by_path, names),
            (None, Err(listing)) => return self.complete_deep(entry, listing),
        };
        carrier.read(&names, &mut entry.xattrs).map_err(error)
    }

    fn link_target(&self) -> Result<Vec<u8>, SourceError> {
        match retry_on_intr(|| rustix::fs::readlinkat(self.dir, self.at, Vec::new())) {
            Ok(target) => Ok(target.into_bytes()),
            Err(Errno::INVAL) => Err(self.place.replaced(ATTRIBUTES, self.name)),
            Err(errno) => Err(self.place.error(ATTRIBUTES, self.name, errno)),
        }
    }

    /// Opens a file or a directory; `None` for what has side effects when it is opened, or may not be opened.
    fn open(&self, entry: &Entry) -> Result<Option<Carrier<'static>>, SourceError> {
        let flags = match entry.kind {
            EntryKind::File => OFlags::empty(),
            EntryKind::Directory => OFlags::DIRECTORY,
            _ => return Ok(None),
        };
        let fd = match self.shared.open_at(self.dir, self.at, entry.uid, flags) {
            Ok(fd) => fd,
            Err(Errno::ACCESS | Errno::PERM) => return Ok(None),
            Err(errno) => return Err(self.place.open_error(ATTRIBUTES, self.name, errno)),
        };
        let stat = rustix::fs::fstat(&fd).map_err(|errno| self.place.error(ATTRIBUTES, self.name, errno))?;
        match is_same(&stat, entry) {
            true => Ok(Some(Carrier::Open(File::from(fd)))),
            false => Err(self.place.replaced(ATTRIBUTES, self.name)),
        }
    }

    /// Reads the attributes of what cannot be opened and whose path the system refuses.
    ///
    /// No call reads attributes relative to a directory, but the system has short names for what is open.
    fn complete_deep(&self, entry: &mut Entry, listing: std::io::Error) -> Result<(), SourceError> {
        use std::os::fd::AsRawFd;
        let too_long = errno_of(&listing) == Some(Errno::NAMETOOLONG);
        if !too_long || cfg!(not(target_os = "linux")) {
            return Err(self.place.error(ATTRIBUTES, self.name, listing));
        }
        let path = joined(format!("/proc/self/fd/{}", self.dir.as_raw_fd()).as_bytes(), self.at);
        let carrier = Carrier::Path(Path::new(OsStr::from_bytes(&path)));
        let names = carrier.names();
        names
            .and_then(|names| carrier.read(&names, &mut entry.xattrs))
            .map_err(|error| self.place.error(ATTRIBUTES, self.name, error))
    }
}

/// One file, open.
struct LocalFile {
    fd: OwnedFd,
    place: Arc<Place>,
    name: Vec<u8>,
    /// Size when it was opened.
    size: u64,
    position: u64,
    /// It may have holes.
    sparse: bool,
    /// The descriptor does not wait.
    nonblocking: bool,
}

impl LocalFile {
    fn new(
        fd: OwnedFd,
        place: Arc<Place>,
        name: Vec<u8>,
        is_same: impl FnOnce(&Stat) -> bool,
    ) -> Result<Self, SourceError> {
        let stat = rustix::fs::fstat(&fd).map_err(|errno| place.error(OPEN, &name, errno))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || !is_same(&stat) {
            return Err(place.replaced(OPEN, &name));
        }
        let size = status::size(&stat);
        let allocated = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(STAT_BLOCK_BYTES);
        let sparse = size > SPARSE_MIN_BYTES && allocated < size;
        #[cfg(target_os = "linux")]
        if size > SEQUENTIAL_MIN_BYTES {
            // a hint: where it is refused, reading works as well
            rustix::fs::fadvise(&fd, 0, None, rustix::fs::Advice::Sequential).ok();
        }
        Ok(Self { fd, place, name, size, position: 0, sparse, nonblocking: true })
    }

    fn error(&self, errno: Errno) -> SourceError {
        self.place.error(READ, &self.name, errno)
    }

    /// Returns the range of data at or after `offset`; `None` where there is none.
    fn seek_data(&self, offset: u64) -> Result<Option<Range<u64>>, Errno> {
        let seek = |to| match retry_on_intr(|| rustix::fs::seek(&self.fd, to)) {
            Ok(found) => Ok(Some(found)),
            // only a hole is left, or the file was cut off here
            Err(Errno::NXIO) => Ok(None),
            Err(errno) => Err(errno),
        };
        let Some(start) = seek(SeekFrom::Data(offset))? else { return Ok(None) };
        let Some(end) = seek(SeekFrom::Hole(start))? else { return Ok(None) };
        // what was appended since is of another moment
        let end = end.min(self.size);
        Ok((start < end).then_some(start..end))
    }
}

impl SourceFile for LocalFile {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, SourceError> {
        loop {
            match rustix::io::pread(&self.fd, &mut *buffer, self.position) {
                Ok(count) => {
                    self.position += count as u64;
                    return Ok(count);
                }
                Err(Errno::INTR) => {}
                // it was opened so that a pipe could not hold us; a file that takes that at its word is asked to wait
                Err(Errno::AGAIN) if self.nonblocking => {
                    self.nonblocking = false;
                    rustix::fs::fcntl_setfl(&self.fd, OFlags::empty()).map_err(|errno| self.error(errno))?;
                }
                Err(errno) => return Err(self.error(errno)),
            }
        }
    }

    fn next_data(&mut self, offset: u64) -> Result<Option<Range<u64>>, SourceError> {
        if self.sparse {
            match self.seek_data(offset) {
                Ok(found) => {
                    self.position = found.as_ref().map_or(offset, |range| range.start);
                    return Ok(found);
                }
                // a file system that cannot tell
                Err(Errno::INVAL | Errno::NOTSUP | Errno::NOSYS | Errno::NOTTY) => self.sparse = false,
                Err(errno) => return Err(self.error(errno)),
            }
        }
        self.position = offset;
        Ok((offset < self.size).then_some(offset..self.size))
    }

    fn fingerprint(&mut self) -> Result<Fingerprint, SourceError> {
        let stat = rustix::fs::fstat(&self.fd).map_err(|errno| self.error(errno))?;
        Ok(Fingerprint {
            size: status::size(&stat),
            mtime: status::mtime(&stat),
            ctime: status::ctime(&stat),
            inode: status::inode(&stat),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::super::filter::FilterOptions;
    use super::*;

    fn source_with(path: &Path, tree: &[&str], filter: FilterOptions, options: LocalOptions) -> LocalSource {
        let tree = tree.iter().map(|name| name.as_bytes().to_vec()).collect();
        LocalSource::new(path, tree, Arc::new(Filter::new(&filter).unwrap()), options)
    }

    fn source(path: &Path) -> LocalSource {
        source_with(path, &["src"], FilterOptions::default(), LocalOptions::default())
    }

    fn open(source: &LocalSource, path: &[&[u8]], expected: &Entry) -> Result<Box<dyn SourceDir>, SourceError> {
        let path: Vec<Vec<u8>> = path.iter().map(|name| name.to_vec()).collect();
        source.open_dir(&path, expected)
    }

    fn list(dir: &dyn SourceDir) -> Vec<Entry> {
        dir.list().unwrap().map(|entry| entry.unwrap_or_else(|error| panic!("{error}: {}", error.source))).collect()
    }

    fn opened_root(source: &LocalSource) -> (Box<dyn SourceDir>, Vec<Entry>) {
        let dir = open(source, &[], &source.root().unwrap()).unwrap();
        let entries = list(&*dir);
        (dir, entries)
    }

    fn find<'a>(entries: &'a [Entry], name: &[u8]) -> &'a Entry {
        entries.iter().find(|entry| entry.name == name).unwrap()
    }

    /// All paths below the root as the filter leaves them, directories with a slash, in the order of a walk.
    fn walk(source: &LocalSource) -> Vec<String> {
        fn visit(source: &LocalSource, path: &mut Vec<Vec<u8>>, entry: &Entry, found: &mut Vec<String>) {
            let dir = source.open_dir(path, entry).unwrap();
            for entry in list(&*dir) {
                path.push(entry.name.clone());
                let shown = display_path(&path.join(&b'/'));
                match entry.kind {
                    EntryKind::Directory => {
                        found.push(shown + "/");
                        visit(source, path, &entry, found);
                    }
                    _ => found.push(shown),
                }
                path.pop();
            }
        }
        let mut found = Vec::new();
        visit(source, &mut Vec::new(), &source.root().unwrap(), &mut found);
        found
    }

    fn content(mut file: Box<dyn SourceFile>) -> Vec<u8> {
        let (mut bytes, mut buffer) = (Vec::new(), [0; 7]);
        loop {
            match file.read(&mut buffer).unwrap() {
                0 => return bytes,
                count => bytes.extend_from_slice(&buffer[..count]),
            }
        }
    }

    fn is_root() -> bool {
        rustix::process::geteuid().is_root()
    }

    fn mkfifo(path: &Path) {
        #[cfg(target_os = "linux")]
        rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
        #[cfg(not(target_os = "linux"))]
        assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
    }

    #[test]
    fn every_kind_is_listed_with_what_comparing_needs() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path();
        std::fs::write(root.join("file"), b"hello").unwrap();
        std::fs::set_permissions(root.join("file"), std::fs::Permissions::from_mode(0o4751)).unwrap();
        std::fs::create_dir(root.join("dir")).unwrap();
        symlink("to/nowhere", root.join("link")).unwrap();
        std::fs::write(root.join("one"), b"").unwrap();
        std::fs::hard_link(root.join("one"), root.join("two")).unwrap();
        mkfifo(&root.join("fifo"));
        let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
        let old = std::time::UNIX_EPOCH - std::time::Duration::from_nanos(1_500_000_001);
        File::options().write(true).open(root.join("file")).unwrap().set_modified(old).unwrap();

        let (dir, entries) = opened_root(&source(root));
        let names: Vec<&[u8]> = entries.iter().map(|entry| entry.name.as_slice()).collect();
        assert_eq!(names, [b"dir".as_slice(), b"fifo", b"file", b"link", b"one", b"socket", b"two"]);

        let file = find(&entries, b"file");
        let meta = std::fs::metadata(root.join("file")).unwrap();
        assert_eq!((file.kind, file.mode, file.size), (EntryKind::File, 0o4751, 5));
        assert_eq!((file.uid, file.gid, file.inode), (meta.uid(), meta.gid(), meta.ino()));
        assert_eq!(file.mtime, Timestamp { secs: -2, nanos: 499_999_999 });
        assert_eq!((file.ctime.secs, i64::from(file.ctime.nanos)), (meta.ctime(), meta.ctime_nsec()));
        assert_eq!((file.hard_link_device, file.device, file.subtree), (None, 0, None));
        assert_eq!(content(dir.open(file).unwrap()), b"hello");

        for (name, kind) in [("dir", EntryKind::Directory), ("fifo", EntryKind::Fifo), ("socket", EntryKind::Socket)] {
            let entry = find(&entries, name.as_bytes());
            assert_eq!((entry.kind, entry.size, entry.hard_link_device), (kind, 0, None), "{name}");
            let mut completed = entry.clone();
            dir.complete(&mut completed).unwrap();
            assert_eq!(completed.link_target, b"");
        }
        let mut link = find(&entries, b"link").clone();
        assert_eq!((link.kind, link.size, link.link_target.as_slice()), (EntryKind::Symlink, 0, b"".as_slice()));
        dir.complete(&mut link).unwrap();
        assert_eq!(link.link_target, b"to/nowhere");

        let (one, two) = (find(&entries, b"one"), find(&entries, b"two"));
        assert_eq!(one.hard_link_device, Some(meta.dev()));
        assert_eq!((one.hard_link_device, one.inode), (two.hard_link_device, two.inode));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn devices_have_their_number() {
        let source = source(Path::new("/dev"));
        let (_, entries) = opened_root(&source);
        let null = find(&entries, b"null");
        assert_eq!((null.kind, null.size), (EntryKind::CharDevice, 0));
        assert_eq!(null.device, std::fs::metadata("/dev/null").unwrap().rdev());
    }

    #[test]
    fn a_directory_can_be_listed_again() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join("a"), b"").unwrap();
        let (dir, entries) = opened_root(&source(temp.path()));
        std::fs::write(temp.path().join("b"), b"").unwrap();
        assert_eq!((entries.len(), list(&*dir).len()), (1, 2));
    }

    #[test]
    fn a_large_directory_is_listed_whole_and_sorted() {
        let temp = tempfile::tempdir().unwrap();
        for index in 0..3_000 {
            File::create(temp.path().join(format!("a_rather_long_name_of_a_file_{}", index * 7919 % 3_000))).unwrap();
        }
        let (_, entries) = opened_root(&source(temp.path()));
        assert_eq!(entries.len(), 3_000);
        assert!(entries.windows(2).all(|pair| pair[0].name < pair[1].name));
    }

    #[test]
    fn names_that_came_twice_are_kept_once() {
        let mut names = Names::default();
        for name in ["b", ".", "a", "..", "b"] {
            names.push(name.as_bytes(), FileType::RegularFile);
        }
        names.sort();
        let kept: Vec<&[u8]> = names.items.iter().map(|(range, _)| names.get(range)).collect();
        assert_eq!(kept, [b"a", b"b"]);
    }

    #[test]
    fn the_root_may_be_a_file_or_a_link() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("file");
        std::fs::write(&path, b"content").unwrap();
        let file = source(&path);
        let entry = file.root().unwrap();
        assert_eq!((entry.kind, entry.size, entry.name.as_slice()), (EntryKind::File, 7, b"file".as_slice()));
        assert_eq!(content(file.open_root().unwrap()), b"content");

        std::fs::write(temp.path().join("new"), b"other").unwrap();
        std::fs::rename(temp.path().join("new"), &path).unwrap();
        let error = file.open_root().err().unwrap();
        assert_eq!((error.kind, error.to_string()), (SourceErrorKind::Replaced, "Cannot open `src`".to_owned()));

        std::fs::create_dir(temp.path().join("dir")).unwrap();
        std::fs::write(temp.path().join("dir/inside"), b"").unwrap();
        symlink("dir", temp.path().join("link")).unwrap();
        let link = source(&temp.path().join("link")).root().unwrap();
        assert_eq!((link.kind, link.link_target.as_slice()), (EntryKind::Symlink, b"dir".as_slice()));
        // with a slash it is the folder behind the link
        let followed = source(&temp.path().join("link/"));
        assert_eq!(walk(&followed), ["inside"]);

        let missing = source(&temp.path().join("missing")).root().unwrap_err();
        assert_eq!(missing.kind, SourceErrorKind::Vanished);
        assert_eq!(missing.to_string(), "Cannot read the attributes of `src`");
    }

    #[test]
    fn the_uri_is_absolute_and_encoded() {
        let uri = |path: &[u8]| source(Path::new(OsStr::from_bytes(path))).uri();
        assert_eq!(uri(b"/"), "file:///");
        assert_eq!(uri(b"/srv/My Data/\xff%a~b-c_d.e/"), "file:///srv/My%20Data/%FF%25a~b-c_d.e");
        let here = file_uri(&std::env::current_dir().unwrap());
        assert_eq!(uri(b"."), here);
        assert_eq!(uri(b"./x"), format!("{here}/x"));
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        symlink("a/b", root.join("link")).unwrap();
        assert_eq!(file_uri(&root.join("link/../x")), file_uri(&root.join("a/x")));
        assert_eq!(file_uri(&root.join("link")), format!("{}/link", file_uri(&root)));
    }

    #[test]
    fn names_of_any_bytes_and_of_full_length_are_read() {
        let temp = tempfile::tempdir().unwrap();
        let strange = OsStr::from_bytes(b"\xff\xfe dir\n");
        let long = "n".repeat(255);
        let inside = temp.path().join(strange);
        std::fs::create_dir(&inside).unwrap();
        std::fs::write(inside.join(&long), b"x").unwrap();
        let source = source(temp.path());
        let (dir, entries) = opened_root(&source);
        assert_eq!(entries[0].name, strange.as_bytes());
        dir.complete(&mut entries[0].clone()).unwrap();
        let below = open(&source, &[strange.as_bytes()], &entries[0]).unwrap();
        let files = list(&*below);
        assert_eq!(files[0].name, long.as_bytes());
        assert_eq!(content(below.open(&files[0]).unwrap()), b"x");

        std::fs::remove_file(inside.join(&long)).unwrap();
        let error = below.open(&files[0]).err().unwrap();
        assert_eq!(error.kind, SourceErrorKind::Vanished);
        assert_eq!(error.to_string(), format!("Cannot open `src/\\xff\\xfe dir\\x0a/{long}`"));
    }

    #[test]
    fn paths_longer_than_the_system_takes_are_read() {
        let temp = tempfile::tempdir().unwrap();
        let name = vec![b'd'; 200];
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut dir = rustix::fs::openat(CWD, temp.path(), flags, Mode::empty()).unwrap();
        let mut path = Vec::new();
        for _ in 0..30 {
            rustix::fs::mkdirat(&dir, &name, Mode::from_raw_mode(0o755)).unwrap();
            dir = rustix::fs::openat(&dir, &name, flags, Mode::empty()).unwrap();
            path.push(name.clone());
        }
        let created = rustix::fs::openat(
            &dir,
            "file",
            OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC,
            Mode::from_raw_mode(0o644),
        );
        rustix::io::write(created.unwrap(), b"deep").unwrap();
        rustix::fs::symlinkat("target", &dir, "link").unwrap();

        let source = source(temp.path());
        let mut expected = source.root().unwrap();
        for depth in 0..path.len() {
            expected = list(&*source.open_dir(&path[..depth], &expected).unwrap()).remove(0);
        }
        let deep = source.open_dir(&path, &expected).unwrap();
        let mut entries = list(&*deep);
        assert_eq!(entries.len(), 2);
        for entry in &mut entries {
            deep.complete(entry).unwrap();
        }
        assert_eq!(content(deep.open(&entries[0]).unwrap()), b"deep");
        assert_eq!(entries[1].link_target, b"target");
    }

    #[test]
    fn excludes_apply_to_paths_in_the_snapshot() {
        let temp = tempfile::tempdir().unwrap();
        for path in ["a/keep.o", "a/x.o", "a/build/y", "build/z", "c.txt"] {
            std::fs::create_dir_all(temp.path().join(path).parent().unwrap()).unwrap();
            std::fs::write(temp.path().join(path), b"0123456789").unwrap();
        }
        let walk_with = |exclude: &[&str], larger: Option<u64>| {
            let exclude = exclude.iter().map(|&pattern| pattern.to_owned()).collect();
            let filter = FilterOptions { exclude, exclude_larger_than: larger, ..Default::default() };
            walk(&source_with(temp.path(), &["home", "src"], filter, LocalOptions::default()))
        };
        let everything = ["a/", "a/build/", "a/build/y", "a/keep.o", "a/x.o", "build/", "build/z", "c.txt"];
        assert_eq!(walk_with(&[], None), everything);
        assert_eq!(walk_with(&["nothing"], Some(10)), everything);
        assert_eq!(
            walk_with(&["*.o", "!keep.o"], None),
            ["a/", "a/build/", "a/build/y", "a/keep.o", "build/", "build/z", "c.txt"]
        );
        assert_eq!(walk_with(&["build/"], None), ["a/", "a/keep.o", "a/x.o", "c.txt"]);
        assert_eq!(
            walk_with(&["/home/src/build"], None),
            ["a/", "a/build/", "a/build/y", "a/keep.o", "a/x.o", "c.txt"]
        );
        assert_eq!(walk_with(&["/build", "/src", "/a"], None), everything);
        assert_eq!(walk_with(&["/home/src/*", "!/home/src/a"], None), &everything[..5]);
        assert_eq!(walk_with(&[], Some(9)), ["a/", "a/build/", "build/"]);
    }

    #[test]
    fn markers_leave_out_what_lies_beside_them() {
        let temp = tempfile::tempdir().unwrap();
        let write = |path: &str, bytes: &[u8]| {
            std::fs::create_dir_all(temp.path().join(path).parent().unwrap()).unwrap();
            std::fs::write(temp.path().join(path), bytes).unwrap();
        };
        write("cache/CACHEDIR.TAG", b"Signature: 8a477f597d28d172789f06886806bc55\n# made by nobody\n");
        write("cache/data/x", b"");
        write("notcache/CACHEDIR.TAG", b"Signature: 8a477f597d28d172789f06886806bc5");
        write("notcache/x", b"");
        write("skip/.nobackup", b"");
        write("skip/x", b"");
        write("tagged/tag", b"no: really");
        write("tagged/x", b"");
        write("untagged/tag", b"yes");
        write("untagged/x", b"");
        std::fs::create_dir_all(temp.path().join("dirtag/.nobackup")).unwrap();

        let filter = FilterOptions {
            exclude_if_present: vec![".nobackup".into(), "tag:no: ".into()],
            exclude_caches: true,
            ..Default::default()
        };
        #[rustfmt::skip]
        assert_eq!(walk(&source_with(temp.path(), &[], filter.clone(), LocalOptions::default())), [
            "cache/", "cache/CACHEDIR.TAG",
            "dirtag/", "dirtag/.nobackup/",
            "notcache/", "notcache/CACHEDIR.TAG", "notcache/x",
            "skip/", "skip/.nobackup",
            "tagged/", "tagged/tag",
            "untagged/", "untagged/tag", "untagged/x",
        ]);
        // the root as well
        let cache = source_with(&temp.path().join("cache"), &[], filter, LocalOptions::default());
        assert_eq!(walk(&cache), ["CACHEDIR.TAG"]);
        assert_eq!(walk(&source(&temp.path().join("cache"))), ["CACHEDIR.TAG", "data/", "data/x"]);
    }

    #[test]
    fn the_repository_is_never_entered() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(temp.path().join("a/repo/packs")).unwrap();
        std::fs::write(temp.path().join("a/file"), b"").unwrap();
        symlink("repo", temp.path().join("a/link")).unwrap();
        // found through a link as well
        let repository = directory_identity(&temp.path().join("a/link")).unwrap();
        let options = LocalOptions { never_enter: vec![repository], ..Default::default() };
        let with = |path: &Path| source_with(path, &[], FilterOptions::default(), options.clone());
        assert_eq!(walk(&with(temp.path())), ["a/", "a/file", "a/link"]);

        let itself = with(&temp.path().join("a/repo"));
        let error = itself.root().unwrap_err();
        assert_eq!(error.kind, SourceErrorKind::Other);
        let expected = source(&temp.path().join("a/repo")).root().unwrap();
        assert!(open(&itself, &[], &expected).is_err());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn other_file_systems_are_kept_as_empty_directories() {
        let root = Path::new("/");
        let device = |path: &str| std::fs::metadata(path).unwrap().dev();
        if device("/") == device("/proc") {
            return;
        }
        for one_file_system in [true, false] {
            let source = source_with(
                root,
                &[],
                FilterOptions { one_file_system, ..Default::default() },
                LocalOptions::default(),
            );
            let (_, entries) = opened_root(&source);
            let dir = open(&source, &[b"proc"], find(&entries, b"proc")).unwrap();
            assert_eq!(dir.list().unwrap().next().is_none(), one_file_system);
        }
    }

    #[test]
    fn a_directory_that_became_another_thing_is_replaced() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path();
        for name in ["link", "dir", "file", "gone"] {
            std::fs::create_dir(root.join(name)).unwrap();
        }
        std::fs::create_dir(root.join("elsewhere")).unwrap();
        let source = source(root);
        let (_, entries) = opened_root(&source);
        // the old ones keep their inodes, so that new ones cannot get them
        for name in ["link", "dir", "file", "gone"] {
            std::fs::rename(root.join(name), root.join(format!("old-{name}"))).unwrap();
        }
        symlink("elsewhere", root.join("link")).unwrap();
        std::fs::create_dir(root.join("dir")).unwrap();
        std::fs::write(root.join("file"), b"").unwrap();
        for name in ["link", "dir", "file"] {
            let error = open(&source, &[name.as_bytes()], find(&entries, name.as_bytes())).err().unwrap();
            assert_eq!(error.kind, SourceErrorKind::Replaced, "{name}: {}", error.source);
            assert_eq!(error.to_string(), format!("Cannot list `src/{name}`"));
        }
        let error = open(&source, &[b"gone"], find(&entries, b"gone")).err().unwrap();
        assert_eq!(error.kind, SourceErrorKind::Vanished);
    }

    #[test]
    fn a_link_above_a_directory_leads_nowhere() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path();
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::create_dir_all(root.join("other/b")).unwrap();
        let source = source(root);
        let (_, entries) = opened_root(&source);
        let below = list(&*open(&source, &[b"a"], find(&entries, b"a")).unwrap());
        std::fs::rename(root.join("a"), root.join("old")).unwrap();
        symlink("other", root.join("a")).unwrap();
        let error = open(&source, &[b"a", b"b"], &below[0]).err().unwrap();
        assert_eq!(error.kind, SourceErrorKind::Replaced);
    }

    #[test]
    fn a_file_that_became_another_thing_is_replaced_or_vanished() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path();
        let names = ["file", "link", "fifo", "dir", "socket"];
        for name in names.into_iter().chain(["gone"]) {
            std::fs::write(root.join(name), b"secret").unwrap();
        }
        let (dir, entries) = opened_root(&source(root));
        for name in names.into_iter().chain(["gone"]) {
            std::fs::rename(root.join(name), root.join(format!("old-{name}"))).unwrap();
        }
        std::fs::write(root.join("file"), b"other").unwrap();
        symlink("old-file", root.join("link")).unwrap();
        mkfifo(&root.join("fifo"));
        std::fs::create_dir(root.join("dir")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
        for name in names {
            let error = dir.open(find(&entries, name.as_bytes())).err().unwrap();
            assert_eq!(error.kind, SourceErrorKind::Replaced, "{name}: {}", error.source);
        }
        let mut gone = find(&entries, b"gone").clone();
        assert_eq!(dir.open(&gone).err().unwrap().kind, SourceErrorKind::Vanished);
        let error = dir.complete(&mut gone).unwrap_err();
        assert_eq!(error.kind, SourceErrorKind::Vanished);
        assert_eq!(error.to_string(), "Cannot read the attributes of `src/gone`");
    }

    #[test]
    fn what_may_not_be_read_is_told_apart() {
        if is_root() {
            return;
        }
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join("file"), b"").unwrap();
        std::fs::create_dir(temp.path().join("dir")).unwrap();
        for name in ["file", "dir"] {
            std::fs::set_permissions(temp.path().join(name), std::fs::Permissions::from_mode(0o000)).unwrap();
        }
        let source = source(temp.path());
        let (dir, entries) = opened_root(&source);
        assert_eq!(dir.open(&entries[1]).err().unwrap().kind, SourceErrorKind::PermissionDenied);
        assert_eq!(open(&source, &[b"dir"], &entries[0]).err().unwrap().kind, SourceErrorKind::PermissionDenied);
        dir.complete(&mut entries[1].clone()).unwrap();
    }

    #[test]
    fn extended_attributes_are_read_sorted() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join("file"), b"").unwrap();
        std::fs::create_dir(temp.path().join("dir")).unwrap();
        std::fs::write(temp.path().join("plain"), b"").unwrap();
        let large = vec![7; 2_000];
        for name in ["file", "dir"] {
            let path = temp.path().join(name);
            match xattr::set(&path, "user.zz", b"last") {
                // not every file system has them
                Err(error) if has_no_attributes(&error) => return,
                result => result.unwrap(),
            }
            xattr::set(&path, "user.large", &large).unwrap();
            xattr::set(&path, "user.empty", b"").unwrap();
        }
        let (dir, entries) = opened_root(&source(temp.path()));
        for name in ["file", "dir"] {
            let mut entry = find(&entries, name.as_bytes()).clone();
            assert_eq!(entry.xattrs, []);
            dir.complete(&mut entry).unwrap();
            let user: Vec<_> = entry.xattrs.iter().filter(|xattr| xattr.name.starts_with(b"user.")).collect();
            let user: Vec<_> = user.iter().map(|xattr| (xattr.name.as_slice(), xattr.value.as_slice())).collect();
            let expected: [(&[u8], &[u8]); 3] = [(b"user.empty", b""), (b"user.large", &large), (b"user.zz", b"last")];
            assert_eq!(user, expected, "{name}");
            assert!(entry.xattrs.is_sorted());
        }
        let mut plain = find(&entries, b"plain").clone();
        dir.complete(&mut plain).unwrap();
        assert!(!plain.xattrs.iter().any(|xattr| xattr.name.starts_with(b"user.")));

        // a file of the same name that is another one does not lend its attributes
        std::fs::rename(temp.path().join("file"), temp.path().join("old")).unwrap();
        std::fs::write(temp.path().join("file"), b"").unwrap();
        xattr::set(temp.path().join("file"), "user.foreign", b"x").unwrap();
        let error = dir.complete(&mut find(&entries, b"file").clone()).unwrap_err();
        assert_eq!(error.kind, SourceErrorKind::Replaced);

        let root = source(&temp.path().join("dir")).root().unwrap();
        assert!(root.xattrs.iter().any(|xattr| xattr.name == b"user.zz"));
    }

    #[test]
    fn attributes_are_read_where_the_folder_was_renamed() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir(temp.path().join("a")).unwrap();
        std::fs::write(temp.path().join("a/file"), b"").unwrap();
        symlink("x", temp.path().join("a/link")).unwrap();
        if xattr::set(temp.path().join("a/file"), "user.k", b"v").is_err() {
            return;
        }
        let source = source(temp.path());
        let (_, entries) = opened_root(&source);
        let dir = open(&source, &[b"a"], &entries[0]).unwrap();
        let mut below = list(&*dir);
        std::fs::rename(temp.path().join("a"), temp.path().join("b")).unwrap();
        dir.complete(&mut below[0]).unwrap();
        assert!(below[0].xattrs.iter().any(|xattr| xattr.name == b"user.k"));
    }

    #[test]
    fn holes_are_found() {
        use std::os::unix::fs::FileExt as _;
        const MIB: u64 = 1 << 20;
        let temp = tempfile::tempdir().unwrap();
        let file = File::create(temp.path().join("sparse")).unwrap();
        file.write_all_at(&[1; 65536], MIB).unwrap();
        file.write_all_at(&[2; 65536], 3 * MIB).unwrap();
        file.set_len(5 * MIB).unwrap();
        std::fs::write(temp.path().join("dense"), vec![3; 300_000]).unwrap();
        std::fs::write(temp.path().join("empty"), b"").unwrap();
        let (dir, entries) = opened_root(&source(temp.path()));

        let mut sparse = dir.open(find(&entries, b"sparse")).unwrap();
        let (mut offset, mut bytes) = (0, vec![0u8; 5 * MIB as usize]);
        let mut data = 0;
        while let Some(range) = sparse.next_data(offset).unwrap() {
            assert!(range.start >= offset && range.end > range.start && range.end <= 5 * MIB);
            let mut at = range.start as usize;
            while at < range.end as usize {
                at += sparse.read(&mut bytes[at..range.end as usize]).unwrap();
            }
            data += range.end - range.start;
            offset = range.end;
        }
        assert_eq!(bytes, std::fs::read(temp.path().join("sparse")).unwrap());
        let metadata = file.metadata().unwrap();
        // file systems without holes give it back as data
        assert!(data == 2 * 65536 || metadata.blocks() * STAT_BLOCK_BYTES >= 5 * MIB, "{data} bytes of data");

        let mut dense = dir.open(find(&entries, b"dense")).unwrap();
        assert_eq!(dense.next_data(0).unwrap(), Some(0..300_000));
        assert_eq!(dense.next_data(100).unwrap(), Some(100..300_000));
        assert_eq!(dense.next_data(300_000).unwrap(), None);
        let mut empty = dir.open(find(&entries, b"empty")).unwrap();
        assert_eq!(empty.next_data(0).unwrap(), None);
        assert_eq!(empty.read(&mut [0; 8]).unwrap(), 0);
    }

    #[test]
    fn a_file_that_changes_has_another_fingerprint() {
        use std::io::Write;
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("file");
        std::fs::write(&path, b"12345").unwrap();
        let (dir, entries) = opened_root(&source(temp.path()));
        let mut file = dir.open(&entries[0]).unwrap();
        let before = file.fingerprint().unwrap();
        let listed = &entries[0];
        assert_eq!(
            (before.size, before.mtime, before.ctime, before.inode),
            (listed.size, listed.mtime, listed.ctime, listed.inode)
        );
        File::options().append(true).open(&path).unwrap().write_all(b"6").unwrap();
        let after = file.fingerprint().unwrap();
        assert_ne!(before, after);
        assert_eq!(after.size, 6);
    }

    #[test]
    fn what_vanishes_while_it_is_listed_costs_only_itself() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join("a"), b"").unwrap();
        let source = source(temp.path());
        let fd = rustix::fs::openat(CWD, temp.path(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let place = Arc::new(source.shared.root_place());
        let dir = LocalDir { shared: Arc::clone(&source.shared), place, fd, foreign: false };
        assert!(dir.entry(b"a").unwrap().is_some());
        let error = dir.entry(b"gone").unwrap_err();
        assert_eq!((error.kind, error.path.as_str()), (SourceErrorKind::Vanished, "src/gone"));
    }
}
