//! An open directory: its names, what of them is left out, and what is opened below it.

use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use lakebed_core::record::tree::{Entry, EntryKind};
use lakebed_core::source::{Listing, SourceDir, SourceError, SourceFile};
use rustix::fs::{AtFlags, FileType, OFlags, SeekFrom, Stat};
use rustix::io::{Errno, retry_on_intr};

use super::attributes::Attributes;
use super::file::LocalFile;
use super::place::{Place, joined};
use super::status::{entry_of, is_same};
use super::{ATTRIBUTES, LIST, OPEN, Shared};
use crate::source::filter::Marker;

/// Bytes that the system fills with names in one call; more than 1,000 names of usual length.
#[cfg(target_os = "linux")]
const NAMES_BUFFER_BYTES: usize = 64 * 1024;

/// One directory, open.
pub(super) struct LocalDir {
    pub(super) shared: Arc<Shared>,
    pub(super) place: Arc<Place>,
    pub(super) fd: OwnedFd,
    /// It is on another file system, and only one is wanted.
    pub(super) foreign: bool,
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

    /// Lists the names of the kinds that are wanted.
    fn list_names(&self, is_wanted: impl Fn(FileType) -> bool) -> Result<Listing<'_>, SourceError> {
        if self.foreign {
            return Ok(Box::new(std::iter::empty()));
        }
        // whoever lists again begins at the front
        let rewound = rustix::fs::seek(&self.fd, SeekFrom::Start(0));
        rewound.map_err(|errno| self.place.error(LIST, b"", errno))?;
        let (mut names, cut_off) = self.names()?;
        self.apply_markers(&mut names);
        names.items.retain(|(_, kind)| is_wanted(*kind));
        let items = names.items.len();
        let entries = (0..items).filter_map(move |at| {
            let (range, kind) = &names.items[at];
            self.listed(names.get(range), *kind)
        });
        Ok(Box::new(cut_off.map(Err).into_iter().chain(entries)))
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
        self.list_names(|_| true)
    }

    fn list_directories(&self) -> Result<Listing<'_>, SourceError> {
        let listing = self.list_names(|kind| kind.is_dir() || kind == FileType::Unknown)?;
        // what the names did not say, and what has become another thing since
        Ok(Box::new(listing.filter(|entry| entry.as_ref().map_or(true, |entry| entry.kind == EntryKind::Directory))))
    }

    fn look_again(&self, name: &[u8]) -> Result<Entry, SourceError> {
        let left_out = || Err(self.place.error(ATTRIBUTES, name, std::io::ErrorKind::NotFound));
        self.listed(name, FileType::Unknown).unwrap_or_else(left_out)
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

#[cfg(test)]
mod tests {
    use lakebed_core::source::SourceErrorKind;
    use rustix::fs::{CWD, Mode};

    use super::super::{LocalOptions, LocalSource};
    use super::*;
    use crate::source::filter::{Filter, FilterOptions};

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
    fn what_vanishes_while_it_is_listed_costs_only_itself() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join("a"), b"").unwrap();
        let filter = Arc::new(Filter::new(&FilterOptions::default()).unwrap());
        let source = LocalSource::new(temp.path(), vec![b"src".to_vec()], filter, LocalOptions::default());
        let fd = rustix::fs::openat(CWD, temp.path(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let place = Arc::new(source.shared.root_place());
        let dir = LocalDir { shared: Arc::clone(&source.shared), place, fd, foreign: false };
        assert!(dir.entry(b"a").unwrap().is_some());
        let error = dir.entry(b"gone").unwrap_err();
        assert_eq!((error.kind, error.path.as_str()), (SourceErrorKind::Vanished, "src/gone"));
    }
}
