//! Extended attributes and the targets of links, of one entry.
//!
//! All attributes that the system lists are kept, whatever their name space (`user.`, `security.`, `trusted.`,
//! `system.posix_acl_access`, `system.nfs4_acl`), as restic does: which of them make sense on another machine is for
//! the restore to decide.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use lakebed_core::record::tree::{Entry, EntryKind, Xattr};
use lakebed_core::source::SourceError;
use rustix::fs::OFlags;
use rustix::io::{Errno, retry_on_intr};
use xattr::FileExt;

use super::place::{Place, joined};
use super::status::is_same;
use super::{ATTRIBUTES, Shared};

/// One entry whose attributes are to be read.
pub(super) struct Attributes<'a> {
    pub(super) shared: &'a Shared,
    pub(super) place: &'a Place,
    /// Directory that `at` is relative to.
    pub(super) dir: BorrowedFd<'a>,
    pub(super) at: &'a [u8],
    /// Path for calls that know no directories.
    pub(super) path: &'a [u8],
    /// Name for messages.
    pub(super) name: &'a [u8],
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
pub(super) fn has_no_attributes(error: &std::io::Error) -> bool {
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
    pub(super) fn complete(&self, entry: &mut Entry) -> Result<(), SourceError> {
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
