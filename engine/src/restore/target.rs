//! The folder that is restored into: making, replacing and finishing entries, one at a time.
//!
//! Directories are opened without following links, so a link that lies where a directory should be is never written
//! through.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use lakebed_core::record::tree::{Entry, EntryKind};
use lakebed_core::time::Timestamp;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// Open directories that are kept at hand.
const OPEN_DIRECTORIES: usize = 32;

/// The folder that is restored into.
#[derive(Debug)]
pub(super) struct Target {
    root: PathBuf,
    owners: bool,
    directories: Mutex<HashMap<Vec<u8>, Arc<Directory>>>,
    next_temporary: AtomicU64,
}

/// A directory of the target, opened.
#[derive(Debug)]
struct Directory {
    open: OwnedFd,
    /// User and group of the files that we make in it.
    owner_of_new: OnceLock<(u32, u32)>,
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.open.as_fd()
    }
}

impl Directory {
    /// Returns user and group of the files that we make in it, `None` where that cannot be told. They need not be the
    /// process's: a set-group-id directory gives its own group, a server may give what it likes. They are the same for all
    /// of them, so the first one is looked at and not each.
    fn owner_of_new(&self, new: &File) -> Option<(u32, u32)> {
        if let Some(known) = self.owner_of_new.get() {
            return Some(*known);
        }
        let stat = rustix::fs::fstat(new).ok()?;
        Some(*self.owner_of_new.get_or_init(|| (stat.st_uid, stat.st_gid)))
    }
}

/// A file being written: it gets its name, or keeps it, when it is whole.
#[derive(Debug)]
pub(super) struct NewFile {
    directory: Arc<Directory>,
    pub(super) file: File,
    /// Its name until it is whole, where it has another one then.
    temporary: Option<Vec<u8>>,
    name: Vec<u8>,
    tree_path: Vec<u8>,
    path: PathBuf,
    finished: bool,
}

/// Mode of a file until it is whole. Nobody gives a file this mode, so one that has it was left unfinished.
pub(super) const UNFINISHED_MODE: u32 = 0o200;

/// How the names begin that things have until they are whole.
pub(super) const TEMPORARY_PREFIX: &[u8] = b".lakebed-restore-";

fn keep_first(first: &mut Option<Error>, result: Result<()>) {
    if let Err(error) = result {
        first.get_or_insert(error);
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.finished {
            let name = self.temporary.as_ref().unwrap_or(&self.name);
            // what is not whole must not stay under the name of what is
            let _ = rustix::fs::unlinkat(&self.directory, name.as_slice(), AtFlags::empty());
        }
    }
}

/// Clears away what is in a directory that stands in the way.
type Clear<'a> = &'a dyn Fn() -> Result<()>;

const REPLACE_DIRECTORY: &str = "replace the directory";

/// Renames something to a name that nothing has, in the same directory.
fn rename_new(directory: &Directory, from: &[u8], to: &[u8]) -> rustix::io::Result<()> {
    #[cfg(target_os = "linux")]
    match rustix::fs::renameat_with(directory, from, directory, to, rustix::fs::RenameFlags::NOREPLACE) {
        // a file system, or a system, that has no such call
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
        result => return result,
    }
    match rustix::fs::statat(directory, to, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => rustix::fs::renameat(directory, from, directory, to),
        result => result.and(Err(Errno::EXIST)),
    }
}

/// Returns the path of the directory that something lies in, and its name there.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

fn timespec(time: Timestamp) -> Timespec {
    Timespec { tv_sec: time.secs, tv_nsec: time.nanos.into() }
}

pub(super) fn mtime(stat: &Stat) -> Timestamp {
    Timestamp { secs: stat.st_mtime, nanos: stat.st_mtime_nsec as u32 }
}

impl Target {
    pub(super) fn new(root: PathBuf, owners: bool) -> Self {
        Self { root, owners, directories: Mutex::default(), next_temporary: AtomicU64::new(0) }
    }

    /// Returns where a path of the snapshot lies.
    pub(super) fn path(&self, path: &[u8]) -> PathBuf {
        if path.is_empty() { self.root.clone() } else { self.root.join(OsStr::from_bytes(path)) }
    }

    fn failed(&self, operation: &'static str, path: &[u8]) -> impl FnOnce(Errno) -> Error + use<> {
        let path = self.path(path);
        move |error| Error::local(operation, path, error.into())
    }

    /// Makes the target folder itself.
    pub(super) fn make_root(&self) -> Result<()> {
        std::fs::create_dir_all(&self.root).map_err(|source| Error::local("make the target folder", &self.root, source))
    }

    /// Opens a directory of the target, name by name: what lies on the way may be a link by now, and is not followed.
    fn directory(&self, path: &[u8]) -> Result<Arc<Directory>> {
        let kept = || self.directories.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = kept().get(path) {
            return Ok(open.clone());
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = if path.is_empty() {
            // the target itself may be a link: the user named it
            rustix::fs::open(&self.root, flags, Mode::empty())
        } else {
            let (above, name) = split(path);
            rustix::fs::openat(self.directory(above)?, name, flags | OFlags::NOFOLLOW, Mode::empty())
        };
        let open = open.map_err(self.failed("open the directory", path))?;
        let open = Arc::new(Directory { open, owner_of_new: OnceLock::new() });
        let mut directories = kept();
        if directories.len() >= OPEN_DIRECTORIES {
            directories.clear();
        }
        directories.insert(path.to_vec(), open.clone());
        Ok(open)
    }

    /// Returns what is there under a path; `None` where there is nothing.
    pub(super) fn look(&self, path: &[u8]) -> Result<Option<Stat>> {
        let (above, name) = split(path);
        let above = match self.directory(above) {
            Err(Error::Local { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            result => result?,
        };
        match rustix::fs::statat(&above, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(error) => Err(self.failed("look at", path)(error)),
        }
    }

    /// Tells whether a directory is one of these, by (device, inode). What is not there is not.
    pub(super) fn is_one_of(&self, path: &[u8], these: &[(u64, u64)]) -> Result<bool> {
        Ok(self.identity(path)?.is_some_and(|identity| these.contains(&identity)))
    }

    /// Tells whether the target is one of these directories, or lies in one.
    pub(super) fn lies_in(&self, these: &[(u64, u64)]) -> bool {
        // where it is not there yet nothing can be deleted in it, and where it cannot be looked at it cannot be opened either
        let Ok(root) = self.root.canonicalize() else { return false };
        let mut identities = root.ancestors().filter_map(|above| crate::source::directory_identity(above).ok());
        identities.any(|identity| these.contains(&identity))
    }

    /// Tells whether something is mounted over a directory, or it is of another file system than the one that it lies in.
    /// What is not there is not.
    pub(super) fn is_mounted(&self, path: &[u8]) -> Result<bool> {
        let (Some((device, _)), Some((above, _))) = (self.identity(path)?, self.identity(split(path).0)?) else {
            return Ok(false);
        };
        Ok(device != above || (!path.is_empty() && self.is_root_of_mount(path)?))
    }

    /// A part of the same file system may be mounted there, which has the same device.
    #[cfg(target_os = "linux")]
    fn is_root_of_mount(&self, path: &[u8]) -> Result<bool> {
        use rustix::fs::{StatxAttributes, StatxFlags, statx};
        match statx(&self.directory(path)?, "", AtFlags::EMPTY_PATH, StatxFlags::empty()) {
            Ok(found) => Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)),
            // a system that is too old to tell
            Err(Errno::NOSYS) => Ok(false),
            Err(error) => Err(self.failed("look at", path)(error)),
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn is_root_of_mount(&self, _path: &[u8]) -> Result<bool> {
        Ok(false)
    }

    #[allow(clippy::unnecessary_cast, reason = "the widths of the fields differ from system to system")]
    fn identity(&self, path: &[u8]) -> Result<Option<(u64, u64)>> {
        match self.directory(path) {
            Err(Error::Local { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
            directory => {
                let stat = rustix::fs::fstat(directory?).map_err(self.failed("look at", path))?;
                Ok(Some((stat.st_dev as u64, stat.st_ino as u64)))
            }
        }
    }

    /// Makes a directory that only we may enter until it is finished.
    pub(super) fn make_directory(&self, path: &[u8]) -> Result<()> {
        let (above, name) = split(path);
        let above = self.directory(above)?;
        rustix::fs::mkdirat(&above, name, Mode::RWXU).map_err(self.failed("make the directory", path))
    }

    /// Lists the names in a directory.
    pub(super) fn names(&self, path: &[u8]) -> Result<Vec<Vec<u8>>> {
        let directory = self.directory(path)?;
        let mut names = Vec::new();
        let list = || rustix::fs::Dir::read_from(&directory);
        for entry in list().map_err(self.failed("list", path))? {
            let entry = entry.map_err(self.failed("list", path))?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name.to_vec());
            }
        }
        Ok(names)
    }

    /// Deletes one thing: a directory only if it is empty.
    pub(super) fn remove_one(&self, path: &[u8]) -> Result<()> {
        let (above, name) = split(path);
        let above = self.directory(above)?;
        self.directories.lock().unwrap_or_else(PoisonError::into_inner).remove(path);
        match rustix::fs::unlinkat(&above, name, AtFlags::empty()) {
            Err(Errno::ISDIR | Errno::PERM) => rustix::fs::unlinkat(&above, name, AtFlags::REMOVEDIR),
            result => result,
        }
        .map_err(self.failed("delete", path))
    }

    /// Begins a file. `direct` writes it under its own name, which nothing may have; else it gets it at the end, and
    /// replaces what has it.
    pub(super) fn begin_file(&self, path: &[u8], direct: bool) -> Result<NewFile> {
        let (above, name) = split(path);
        let directory = self.directory(above)?;
        let temporary = (!direct).then(|| self.temporary_name());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(UNFINISHED_MODE);
        let file = rustix::fs::openat(&directory, temporary.as_deref().unwrap_or(name), flags, mode)
            .map_err(self.failed("make the file", path))?;
        let (file, name, tree_path, path) = (File::from(file), name.to_vec(), path.to_vec(), self.path(path));
        Ok(NewFile { directory, file, temporary, name, tree_path, path, finished: false })
    }

    /// Opens an existing file to compare with; `None` where it is no regular file or cannot be read.
    pub(super) fn existing(&self, path: &[u8]) -> Option<File> {
        let (above, name) = split(path);
        let directory = self.directory(above).ok()?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(&directory, name, flags, Mode::empty()).ok()?);
        file.metadata().is_ok_and(|metadata| metadata.is_file()).then_some(file)
    }

    /// Makes a link, pipe or device, whole, and only then lets it replace what has its name. Returns what of its metadata
    /// could not be set.
    pub(super) fn make_special(
        &self,
        path: &[u8],
        entry: &Entry,
        replaces: bool,
        clear: Clear<'_>,
    ) -> Result<Option<Error>> {
        let above = split(path).0;
        let directory = self.directory(above)?;
        let temporary = self.temporary_name();
        let mode = Mode::from_raw_mode(entry.mode);
        let node = |file_type| rustix::fs::mknodat(&directory, temporary.as_slice(), file_type, mode, entry.device);
        let made = match entry.kind {
            EntryKind::Symlink => rustix::fs::symlinkat(entry.link_target.as_slice(), &directory, temporary.as_slice()),
            EntryKind::Fifo => node(FileType::Fifo),
            EntryKind::Socket => node(FileType::Socket),
            EntryKind::CharDevice => node(FileType::CharacterDevice),
            EntryKind::BlockDevice => node(FileType::BlockDevice),
            EntryKind::File | EntryKind::Directory => return Ok(None),
        };
        made.map_err(self.failed("make", path))?;
        let problem = self.finish_entry(&crate::query::join(above, &temporary), entry).err();
        if let Err(error) = self.put_in_place(&directory, &temporary, path, replaces, clear) {
            let _ = rustix::fs::unlinkat(&directory, temporary.as_slice(), AtFlags::empty());
            return Err(error);
        }
        Ok(problem)
    }

    fn temporary_name(&self) -> Vec<u8> {
        let number = self.next_temporary.fetch_add(1, Ordering::Relaxed);
        [TEMPORARY_PREFIX, format!("{}-{number}", std::process::id()).as_bytes()].concat()
    }

    /// Gives something whole its name. Where it replaces something, a file goes at once, and a directory if it is empty
    /// after `clear`. Where it does not, nothing was there when that was looked at: what is there by now stays.
    fn put_in_place(
        &self,
        directory: &Directory,
        temporary: &[u8],
        path: &[u8],
        replaces: bool,
        clear: Clear<'_>,
    ) -> Result<()> {
        let name = split(path).1;
        if !replaces {
            let operation = "give what was not there before the name";
            return rename_new(directory, temporary, name).map_err(self.failed(operation, path));
        }
        let rename = || rustix::fs::renameat(directory, temporary, directory, name);
        match rename() {
            Err(Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST) => {
                clear()?;
                self.remove_directory(path)?;
                rename()
            }
            result => result,
        }
        .map_err(self.failed("rename to", path))
    }

    /// Removes an empty directory that stands in the way.
    fn remove_directory(&self, path: &[u8]) -> Result<()> {
        let (above, name) = split(path);
        let above = self.directory(above)?;
        self.directories.lock().unwrap_or_else(PoisonError::into_inner).remove(path);
        match rustix::fs::unlinkat(&above, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY | Errno::EXIST) => Err(self.not_empty(path, "only --delete removes what is in it")),
            result => result.map_err(self.failed(REPLACE_DIRECTORY, path)),
        }
    }

    /// Returns the error of a directory that stands in the way and is not empty.
    pub(super) fn not_empty(&self, path: &[u8], why: &str) -> Error {
        let source = std::io::Error::new(std::io::ErrorKind::DirectoryNotEmpty, format!("it is not empty ({why})"));
        Error::local(REPLACE_DIRECTORY, self.path(path), source)
    }

    /// Gives a file that was restored before another name.
    pub(super) fn link(&self, first: &[u8], path: &[u8], replaces: bool, clear: Clear<'_>) -> Result<()> {
        let (above, (first_above, first_name)) = (split(path).0, split(first));
        let (above, first_above) = (self.directory(above)?, self.directory(first_above)?);
        let temporary = self.temporary_name();
        rustix::fs::linkat(&first_above, first_name, &above, temporary.as_slice(), AtFlags::empty())
            .map_err(self.failed("make the link", path))?;
        let placed = self.put_in_place(&above, &temporary, path, replaces, clear);
        // renaming a link over another link of the same file does nothing at all
        let _ = rustix::fs::unlinkat(&above, temporary.as_slice(), AtFlags::empty());
        placed
    }

    /// Sets owner, attributes, mode and times of what has a name already. All of them are tried.
    ///
    /// # Errors
    /// The first that could not be set.
    pub(super) fn finish_entry(&self, path: &[u8], entry: &Entry) -> Result<()> {
        let (above, name) = split(path);
        // the root of a target has no name above it
        let (above, name) =
            if path.is_empty() { (self.directory(b"")?, &b"."[..]) } else { (self.directory(above)?, name) };
        let mut first = None;
        if self.owners {
            let (user, group) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
            let set = rustix::fs::chownat(&above, name, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW);
            keep_first(&mut first, set.map_err(self.failed("set the owner of", path)));
        }
        keep_first(&mut first, self.settle_attributes(path, entry));
        if entry.kind != EntryKind::Symlink {
            let set = rustix::fs::chmodat(&above, name, Mode::from_raw_mode(entry.mode), AtFlags::empty());
            keep_first(&mut first, set.map_err(self.failed("set the mode of", path)));
        }
        let time = timespec(entry.mtime);
        let times = Timestamps { last_access: time, last_modification: time };
        let set = rustix::fs::utimensat(&above, name, &times, AtFlags::SYMLINK_NOFOLLOW);
        keep_first(&mut first, set.map_err(self.failed("set the times of", path)));
        first.map_or(Ok(()), Err)
    }

    /// Sets the attributes of what has a name already, as far as they differ, and removes the user's and the access control
    /// lists that it should not have.
    fn settle_attributes(&self, path: &[u8], entry: &Entry) -> Result<()> {
        let whole = self.path(path);
        let mut first = None;
        // where they cannot be listed there are none, or setting them says why
        let there: Vec<_> = xattr::list(&whole).map(Iterator::collect).unwrap_or_default();
        // what could not be read whole says nothing about what else was there
        let superfluous = if entry.inconsistent { &[] } else { there.as_slice() };
        for name in superfluous {
            let is_ours = |name: &[u8]| name.starts_with(b"user.") || name.starts_with(b"system.posix_acl_");
            if is_ours(name.as_bytes()) && !entry.xattrs.iter().any(|xattr| xattr.name == name.as_bytes()) {
                let failed = |source| Error::local("remove an extended attribute of", &whole, source);
                keep_first(&mut first, xattr::remove(&whole, name).map_err(failed));
            }
        }
        for xattr in &entry.xattrs {
            let name = OsStr::from_bytes(&xattr.name);
            let is_there = there.iter().any(|there| there == name);
            if is_there && xattr::get(&whole, name).is_ok_and(|value| value.as_ref() == Some(&xattr.value)) {
                continue;
            }
            let failed = |source| Error::local("set an extended attribute of", &whole, source);
            keep_first(&mut first, xattr::set(&whole, name, &xattr.value).map_err(failed));
        }
        first.map_or(Ok(()), Err)
    }

    /// Sets owner, attributes, mode and times of a file that is written, and gives it its name. What of its metadata
    /// could not be set is returned: the file is there all the same.
    ///
    /// # Errors
    /// It could not get its name.
    pub(super) fn finish_file(
        &self,
        mut new: NewFile,
        entry: &Entry,
        replaces: bool,
        clear: Clear<'_>,
    ) -> Result<Option<Error>> {
        let mut first = None;
        let failed = |operation| {
            let path = new.path.clone();
            move |error: Errno| Error::local(operation, path, error.into())
        };
        if self.owners && new.directory.owner_of_new(&new.file) != Some((entry.uid, entry.gid)) {
            let (user, group) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
            let set = rustix::fs::fchown(&new.file, Some(user), Some(group));
            keep_first(&mut first, set.map_err(failed("set the owner of")));
        }
        for xattr in &entry.xattrs {
            use xattr::FileExt;
            let set = new.file.set_xattr(OsStr::from_bytes(&xattr.name), &xattr.value);
            let failed = |source| Error::local("set an extended attribute of", &new.path, source);
            keep_first(&mut first, set.map_err(failed));
        }
        let time = timespec(entry.mtime);
        let times = Timestamps { last_access: time, last_modification: time };
        let set = rustix::fs::futimens(new.file.as_fd(), &times);
        keep_first(&mut first, set.map_err(failed("set the times of")));
        // last: a file that has not the mode of an unfinished one is finished
        let set = rustix::fs::fchmod(&new.file, Mode::from_raw_mode(entry.mode));
        keep_first(&mut first, set.map_err(failed("set the mode of")));
        if let Some(temporary) = &new.temporary {
            self.put_in_place(&new.directory, temporary, &new.tree_path, replaces, clear)?;
        }
        new.finished = true;
        Ok(first)
    }

    /// Makes the whole file system of the target durable: one call instead of one for each file.
    pub(super) fn sync(&self) -> Result<()> {
        let directory = self.directory(b"")?;
        #[cfg(target_os = "linux")]
        let synced = rustix::fs::syncfs(&directory);
        #[cfg(not(target_os = "linux"))]
        let synced = rustix::fs::fsync(&directory);
        synced.map_err(self.failed("make durable", b""))
    }
}

impl NewFile {
    /// Appends bytes.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|source| Error::local("write", &self.path, source))
    }

    /// Leaves a hole.
    pub(super) fn skip(&mut self, length: u64) -> Result<()> {
        use std::io::Seek;
        let skip = i64::try_from(length).map_err(std::io::Error::other);
        skip.and_then(|skip| self.file.seek(std::io::SeekFrom::Current(skip)))
            .map(|_| ())
            .map_err(|source| Error::local("write", &self.path, source))
    }

    /// Sets the size, after holes at the end.
    pub(super) fn set_size(&mut self, size: u64) -> Result<()> {
        self.file.set_len(size).map_err(|source| Error::local("write", &self.path, source))
    }
}
