//! File trees as values, and changes to them: described first, made for real later, the same each time.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use lakebed_core::time::Timestamp;
use rustix::fs::{CWD, FileType, Mode};

use crate::access::{mtime_of, relock, remove_all, set_mode, set_mtime, unlock, with_unlocked};

/// Longest path below the root that is made. It leaves room for the path of the root itself below the system's 4096.
const PATH_MAX_BYTES: usize = 3000;

/// Bytes that people read as text where they can: a name, a target, a value.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Bytes(pub Vec<u8>);

impl Bytes {
    fn as_os(&self) -> &OsStr {
        OsStr::from_bytes(&self.0)
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b\"{}\"", self.0.escape_ascii())
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl From<&str> for Bytes {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl From<&[u8]> for Bytes {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

/// What a file holds. Small to keep and to print, whatever the length.
#[derive(Clone, PartialEq, Eq)]
pub enum Content {
    /// These bytes.
    Exact(Vec<u8>),
    /// Bytes that follow from a seed.
    Generated {
        /// Equal seeds give equal bytes; a shorter content is the beginning of a longer one.
        seed: u64,
        /// Length in bytes.
        length: u64,
        /// About how much of it a compressor can save, in percent.
        compressibility: u8,
    },
    /// A file with holes.
    Sparse {
        /// What the bytes of the data follow from.
        seed: u64,
        /// Length in bytes.
        length: u64,
        /// Where data are; what reaches beyond the length is cut. The rest was never written.
        data: Vec<Range<u64>>,
    },
}

impl Content {
    /// Describes bytes that no compressor makes smaller.
    pub fn random(seed: u64, length: u64) -> Self {
        Self::Generated { seed, length, compressibility: 0 }
    }

    /// Describes a file that is one hole.
    pub fn hole(length: u64) -> Self {
        Self::Sparse { seed: 0, length, data: Vec::new() }
    }

    /// Returns the length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Exact(bytes) => bytes.len() as u64,
            Self::Generated { length, .. } | Self::Sparse { length, .. } => *length,
        }
    }

    /// Tells whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns all the bytes, zeros for holes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(self.len()).expect("a length that fits memory")];
        self.pieces(|offset, piece| {
            let start = offset as usize;
            bytes[start..start + piece.len()].copy_from_slice(piece);
        });
        bytes
    }

    /// Returns where there are data, in order; the rest was never written.
    pub fn data_ranges(&self) -> Vec<Range<u64>> {
        let Self::Sparse { length, data, .. } = self else {
            return if self.is_empty() { Vec::new() } else { std::iter::once(0..self.len()).collect() };
        };
        let mut given: Vec<_> = data.iter().map(|range| range.start..range.end.min(*length)).collect();
        given.retain(|range| !range.is_empty());
        given.sort_by_key(|range| range.start);
        let mut joined: Vec<Range<u64>> = Vec::new();
        for range in given {
            match joined.last_mut().filter(|last| last.end >= range.start) {
                Some(last) => last.end = last.end.max(range.end),
                None => joined.push(range),
            }
        }
        joined
    }

    /// Writes the bytes to a file that is empty.
    fn write_to(&self, file: &File) -> std::io::Result<()> {
        let mut result = Ok(());
        self.pieces(|offset, piece| {
            if result.is_ok() {
                result = file.write_all_at(piece, offset);
            }
        });
        result?;
        // a hole at the end has to be asked for
        if let Self::Sparse { length, .. } = self {
            file.set_len(*length)?;
        }
        Ok(())
    }

    /// Calls `sink` with offset and bytes of each stretch of data.
    fn pieces(&self, mut sink: impl FnMut(u64, &[u8])) {
        match self {
            Self::Exact(bytes) => sink(0, bytes),
            Self::Generated { seed, length, compressibility } => {
                generate(*seed, *compressibility, 0..*length, &mut sink);
            }
            Self::Sparse { seed, length, data } => {
                for (number, range) in data.iter().enumerate() {
                    generate(seed.wrapping_add(number as u64), 0, range.start..range.end.min(*length), &mut sink);
                }
            }
        }
    }
}

impl From<&str> for Content {
    fn from(text: &str) -> Self {
        Self::Exact(text.into())
    }
}

impl From<&[u8]> for Content {
    fn from(bytes: &[u8]) -> Self {
        Self::Exact(bytes.into())
    }
}

impl From<Vec<u8>> for Content {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Exact(bytes)
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(bytes) if bytes.len() <= 64 => write!(f, "Exact(b\"{}\")", bytes.escape_ascii()),
            Self::Exact(bytes) => {
                write!(f, "Exact({} bytes, b\"{}\"...)", bytes.len(), bytes[..32].escape_ascii())
            }
            Self::Generated { seed, length, compressibility } => {
                write!(f, "Generated {{ seed: {seed}, length: {length}, compressibility: {compressibility} }}")
            }
            Self::Sparse { seed, length, data } => {
                write!(f, "Sparse {{ seed: {seed}, length: {length}, data: {data:?} }}")
            }
        }
    }
}

/// Makes the bytes of a seed and hands them out in pieces, the first at the start of `range`.
fn generate(seed: u64, compressibility: u8, range: Range<u64>, sink: &mut impl FnMut(u64, &[u8])) {
    const BLOCK: usize = 256;
    const PIECE: usize = 4096 * BLOCK;
    let mut stream = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
    let mut piece = Vec::new();
    let mut offset = range.start;
    while offset < range.end {
        let length = (range.end - offset).min(PIECE as u64) as usize;
        piece.resize(length.next_multiple_of(BLOCK), 0);
        stream.fill(&mut piece);
        for block in piece.chunks_exact_mut(BLOCK) {
            // the first byte decides whether the next eight are all that the block says
            if u32::from(block[0]) * 100 < u32::from(compressibility) * 256 {
                let phrase: [u8; 8] = block[1..9].try_into().expect("eight bytes");
                block.as_chunks_mut().0.fill(phrase);
            }
        }
        sink(offset, &piece[..length]);
        offset += length as u64;
    }
}

/// Which file a hard link is to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkTo {
    /// The file of that path in the tree.
    Path(Bytes),
    /// One of the tree's files, in the order of their paths, counted round. A tree without files gets no link.
    Nth(u32),
}

impl LinkTo {
    fn resolve<'a>(&'a self, files: &'a [Vec<u8>]) -> Option<&'a [u8]> {
        match self {
            Self::Path(path) => Some(&path.0),
            Self::Nth(number) => nth(files, *number).map(Vec::as_slice),
        }
    }
}

/// What an item is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ItemKind {
    /// A regular file.
    File(Content),
    /// A directory. What it holds are items of their own.
    Directory,
    /// A symbolic link with its target, which need not exist.
    Symlink(Bytes),
    /// One more name of a file. It has the attributes of the file; its own are not used.
    HardLink(LinkTo),
    /// A named pipe.
    Fifo,
    /// A unix socket, bound once and not listened on.
    Socket,
}

/// One entry of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// What it is.
    pub kind: ItemKind,
    /// Permission bits, at most `0o7777`. Symbolic links have none.
    pub mode: u32,
    /// When it was changed.
    pub mtime: Timestamp,
    /// Extended attributes by full name, of files and directories.
    pub xattrs: BTreeMap<Bytes, Bytes>,
}

impl Item {
    /// The time that items have where none is given: 2020-09-13 12:26:40.123456789 UTC.
    pub const MTIME: Timestamp = Timestamp { secs: 1_600_000_000, nanos: 123_456_789 };

    /// Describes an item with the usual mode of its kind.
    pub fn new(kind: ItemKind) -> Self {
        let mode = if kind == ItemKind::Directory { 0o755 } else { 0o644 };
        Self { kind, mode, mtime: Self::MTIME, xattrs: BTreeMap::new() }
    }

    /// Describes a file.
    pub fn file(content: impl Into<Content>) -> Self {
        Self::new(ItemKind::File(content.into()))
    }

    /// Describes a directory.
    pub fn directory() -> Self {
        Self::new(ItemKind::Directory)
    }

    /// Describes a symbolic link.
    pub fn symlink(target: impl Into<Bytes>) -> Self {
        Self::new(ItemKind::Symlink(target.into()))
    }

    /// Describes one more name of the file at `path`.
    pub fn hard_link(path: impl Into<Bytes>) -> Self {
        Self::new(ItemKind::HardLink(LinkTo::Path(path.into())))
    }

    /// Sets the permission bits.
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// Sets the time of the last change.
    pub fn mtime(mut self, secs: i64, nanos: u32) -> Self {
        self.mtime = Timestamp::new(secs, nanos).expect("less than a second of nanoseconds");
        self
    }

    /// Adds an extended attribute, with its full name (`user.note`).
    pub fn xattr(mut self, name: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        self.xattrs.insert(name.into(), value.into());
        self
    }

    /// Makes the item at `path`, all but what goes with [`Item::finish`].
    fn create(&self, root: &Path, path: &Path, files: &[Vec<u8>]) {
        let told = |e: std::io::Error| panic!("make {}: {e}", path.display());
        match &self.kind {
            ItemKind::File(content) => create_file(path).and_then(|f| content.write_to(&f)).unwrap_or_else(told),
            // the mode is set when its content is there
            ItemKind::Directory => fs::DirBuilder::new().mode(0o700).create(path).unwrap_or_else(told),
            ItemKind::Symlink(target) => std::os::unix::fs::symlink(target.as_os(), path).unwrap_or_else(told),
            ItemKind::HardLink(to) => {
                if let Some(target) = to.resolve(files) {
                    fs::hard_link(below(root, target), path).unwrap_or_else(told);
                }
            }
            ItemKind::Fifo => rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0)
                .unwrap_or_else(|e| told(e.into())),
            ItemKind::Socket => bind_socket(path).unwrap_or_else(told),
        }
    }

    /// Sets the attributes. A directory's come last, when nothing is added to it any more.
    fn finish(&self, path: &Path) {
        match self.kind {
            ItemKind::HardLink(_) => return,
            ItemKind::Symlink(_) => {}
            _ => {
                for (name, value) in &self.xattrs {
                    xattr::set(path, name.as_os(), &value.0)
                        .unwrap_or_else(|e| panic!("set {name:?} of {}: {e}", path.display()));
                }
                set_mode(path, self.mode);
            }
        }
        set_mtime(path, self.mtime);
    }
}

fn nth<T>(items: &[T], number: u32) -> Option<&T> {
    items.get((number as usize).checked_rem(items.len())?)
}

fn below(root: &Path, path: &[u8]) -> PathBuf {
    if path.is_empty() { root.to_owned() } else { root.join(OsStr::from_bytes(path)) }
}

fn joined(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() { name.to_vec() } else { [parent, name].join(&b'/') }
}

fn parent_of(path: &[u8]) -> &[u8] {
    path.iter().rposition(|&c| c == b'/').map_or(&[], |slash| &path[..slash])
}

fn create_file(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Binds a socket. Its address is at most 107 bytes, so the way there goes through an open directory, and the name,
/// where it is long, is given afterwards.
fn bind_socket(path: &Path) -> std::io::Result<()> {
    let parent = File::open(path.parent().expect("a path below a root"))?;
    let short = PathBuf::from(format!("/proc/self/fd/{}/.bind", parent.as_raw_fd()));
    drop(std::os::unix::net::UnixListener::bind(&short)?);
    fs::rename(&short, path)
}

/// A file tree: what there is, by path. Parents come before what they hold.
#[derive(Clone, PartialEq, Eq)]
pub struct TreeSpec {
    items: BTreeMap<Vec<u8>, Item>,
}

impl Default for TreeSpec {
    fn default() -> Self {
        Self { items: BTreeMap::from([(Vec::new(), Item::directory())]) }
    }
}

impl fmt::Debug for TreeSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TreeSpec ")?;
        f.debug_map().entries(self.items.iter().map(|(path, item)| (Bytes(path.clone()), item))).finish()
    }
}

impl TreeSpec {
    /// Describes an empty directory.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an item, and the directories above it where they are not described yet. An empty path is the root.
    ///
    /// # Panics
    /// A path that leaves the tree, or goes through what is no directory; a root that is none.
    pub fn insert(&mut self, path: impl AsRef<[u8]>, item: Item) {
        let path = path.as_ref();
        assert!(!path.contains(&0), "{:?}: a name has no NUL", Bytes::from(path));
        assert!(path.len() <= PATH_MAX_BYTES, "{:?}: too long", Bytes::from(path));
        if path.is_empty() {
            assert_eq!(item.kind, ItemKind::Directory, "the root is a directory");
        } else {
            let part_is_valid = |part: &[u8]| !matches!(part, b"" | b"." | b"..") && part.len() <= 255;
            assert!(path.split(|&c| c == b'/').all(part_is_valid), "{:?}: not a path of the tree", Bytes::from(path));
            match self.items.get(parent_of(path)) {
                None => self.insert(parent_of(path), Item::directory()),
                Some(parent) => {
                    assert_eq!(parent.kind, ItemKind::Directory, "{:?}: what is above it", Bytes::from(path));
                }
            }
        }
        self.items.insert(path.to_vec(), item);
    }

    /// Adds an item as [`TreeSpec::insert`] does, in a chain of calls.
    pub fn with(mut self, path: impl AsRef<[u8]>, item: Item) -> Self {
        self.insert(path, item);
        self
    }

    /// Adds a file.
    pub fn file(self, path: impl AsRef<[u8]>, content: impl Into<Content>) -> Self {
        self.with(path, Item::file(content))
    }

    /// Adds a directory.
    pub fn directory(self, path: impl AsRef<[u8]>) -> Self {
        self.with(path, Item::directory())
    }

    /// Adds a symbolic link.
    pub fn symlink(self, path: impl AsRef<[u8]>, target: impl Into<Bytes>) -> Self {
        self.with(path, Item::symlink(target))
    }

    /// Adds one more name of the file at `to`.
    pub fn hard_link(self, path: impl AsRef<[u8]>, to: impl Into<Bytes>) -> Self {
        self.with(path, Item::hard_link(to))
    }

    /// Returns the item at a path; the root has the empty one.
    pub fn get(&self, path: impl AsRef<[u8]>) -> Option<&Item> {
        self.items.get(path.as_ref())
    }

    /// Returns paths and items, the root first, parents before what they hold.
    pub fn items(&self) -> impl Iterator<Item = (&[u8], &Item)> {
        self.items.iter().map(|(path, item)| (path.as_slice(), item))
    }

    /// Takes an item away, and whatever lies in it. The root stays.
    pub fn remove(&mut self, path: impl AsRef<[u8]>) {
        let path = path.as_ref();
        let lies_in =
            |other: &[u8]| other.strip_prefix(path).is_some_and(|rest| rest.first().is_none_or(|&c| c == b'/'));
        self.items.retain(|other, _| other.is_empty() || !lies_in(other));
    }

    /// Returns the path of the file that an item is a further name of; `None` for everything else, and where there is no
    /// file.
    pub(crate) fn link_target(&self, item: &Item) -> Option<Vec<u8>> {
        match &item.kind {
            ItemKind::HardLink(to) => to.resolve(&self.files()).map(<[u8]>::to_vec),
            _ => None,
        }
    }

    /// Returns the paths of all files, further names of them aside.
    fn files(&self) -> Vec<Vec<u8>> {
        let is_file = |item: &Item| matches!(item.kind, ItemKind::File(_));
        self.items.iter().filter(|(_, item)| is_file(item)).map(|(path, _)| path.clone()).collect()
    }

    /// Takes the extended attributes away, for a file system that has none.
    pub fn without_xattrs(mut self) -> Self {
        self.items.values_mut().for_each(|item| item.xattrs.clear());
        self
    }

    /// Returns how many bytes all files have together, holes included, further names of a file not.
    pub fn content_bytes(&self) -> u64 {
        let length = |item: &Item| if let ItemKind::File(content) = &item.kind { content.len() } else { 0 };
        self.items.values().map(length).sum()
    }

    /// Makes the tree. The root may exist; what it describes must not.
    ///
    /// # Panics
    /// Whatever cannot be made.
    pub fn write(&self, root: &Path) {
        fs::create_dir_all(root).unwrap_or_else(|e| panic!("make {}: {e}", root.display()));
        let is_link = |item: &Item| matches!(item.kind, ItemKind::HardLink(_));
        let files = self.files();
        // links come after the files that they are to
        for links in [false, true] {
            for (path, item) in self.items.iter().filter(|(path, item)| !path.is_empty() && is_link(item) == links) {
                item.create(root, &below(root, path), &files);
            }
        }
        for (path, item) in self.items.iter().rev() {
            item.finish(&below(root, path));
        }
    }
}

/// A change to a tree that can be applied to any tree: it takes one of the entries that it fits, or does nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Which of the fitting entries, in the order of their paths, counted round.
    pub pick: u32,
    /// What is done.
    pub action: Action,
    /// The time that what was changed has afterwards, and the directories whose lists were changed.
    ///
    /// `None` puts the times back that were there before: then nothing but `ctime` tells that content was changed in
    /// place, and not even that within one tick of the file system's clock.
    pub mtime: Option<Timestamp>,
}

/// What a [`Change`] does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Adds an item to a directory, the root included, where it has none of that name.
    Add {
        /// Its name.
        name: Bytes,
        /// What it is.
        item: Item,
    },
    /// Removes an entry with all that it holds.
    Remove,
    /// Writes over a part of a file that is not empty; the size stays.
    Overwrite {
        /// Where the part begins, in thousandths of the size.
        at_permille: u16,
        /// How many bytes, cut at the end of the file.
        length: u32,
        /// What is written.
        seed: u64,
    },
    /// Adds bytes at the end of a file.
    Append(
        /// The bytes.
        Content,
    ),
    /// Makes a file shorter, or longer by a hole.
    Truncate {
        /// The new size, in thousandths of the old one.
        to_permille: u16,
    },
    /// Puts a new file in the place of one, as editors save.
    Replace(
        /// What the new one holds.
        Content,
    ),
    /// Sets the time.
    Touch,
    /// Sets the permission bits.
    Chmod {
        /// The bits.
        mode: u32,
    },
    /// Moves an entry; what has the new name goes, unless one of the two is a directory.
    Rename {
        /// Which directory it goes to, the root included, counted round.
        to: u32,
        /// Its new name.
        name: Bytes,
    },
    /// Puts a directory with one file in the place of a file.
    FileToDirectory {
        /// What the one file holds.
        inner: Content,
    },
    /// Puts a file in the place of a directory and all that it holds.
    DirectoryToFile(
        /// What it holds.
        Content,
    ),
    /// Makes a symbolic link point elsewhere.
    Retarget(
        /// Its new target.
        Bytes,
    ),
    /// Sets an extended attribute of a file or a directory, where there is room for it.
    SetXattr {
        /// Its full name.
        name: Bytes,
        /// Its value.
        value: Bytes,
    },
    /// Removes the first extended attribute `user.*` of an entry that has some.
    RemoveXattr,
}

/// Applies changes to a real tree, in order, and returns how many of them found something to change.
///
/// The result follows from the tree and the changes: applied to two copies they leave two copies.
///
/// # Panics
/// Whatever cannot be done.
pub fn apply_changes(root: &Path, changes: &[Change]) -> usize {
    changes.iter().filter(|change| change.apply(root)).count()
}

/// An entry of a real tree.
struct Found {
    path: Vec<u8>,
    metadata: fs::Metadata,
}

impl Found {
    fn is_file(&self) -> bool {
        self.metadata.is_file()
    }

    fn is_directory(&self) -> bool {
        self.metadata.is_dir()
    }
}

/// Lists a tree, the root first, sorted by path.
fn find_all(root: &Path) -> Vec<Found> {
    fn visit(root: &Path, path: Vec<u8>, found: &mut Vec<Found>) {
        let here = below(root, &path);
        let metadata = fs::symlink_metadata(&here).unwrap_or_else(|e| panic!("look at {}: {e}", here.display()));
        let is_directory = metadata.is_dir();
        found.push(Found { path: path.clone(), metadata });
        if is_directory {
            with_unlocked(&here, || {
                for entry in fs::read_dir(&here).unwrap_or_else(|e| panic!("list {}: {e}", here.display())) {
                    visit(root, joined(&path, entry.unwrap().file_name().as_bytes()), found);
                }
            });
        }
    }
    let mut found = Vec::new();
    visit(root, Vec::new(), &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn first_user_xattr(path: &Path) -> Option<std::ffi::OsString> {
    let names = xattr::list(path).unwrap_or_else(|e| panic!("list the attributes of {}: {e}", path.display()));
    names.filter(|name| name.as_bytes().starts_with(b"user.")).min()
}

impl Change {
    /// Applies the change to the entry that it picks; tells whether there was one.
    fn apply(&self, root: &Path) -> bool {
        let all = find_all(root);
        let not_the_root = |found: &&Found| !found.path.is_empty();
        let pick = |fits: &dyn Fn(&Found) -> bool| {
            let fitting: Vec<_> = all.iter().filter(not_the_root).filter(|found| fits(found)).collect();
            nth(&fitting, self.pick).copied()
        };
        let is_file_or_directory = |found: &Found| found.is_file() || found.is_directory();
        let picked = match &self.action {
            Action::Add { .. } => {
                nth(&all.iter().filter(|found| found.is_directory()).collect::<Vec<_>>(), self.pick).copied()
            }
            Action::Remove | Action::Touch | Action::Rename { .. } => pick(&|_| true),
            Action::Overwrite { .. } => pick(&|found| found.is_file() && found.metadata.len() > 0),
            Action::Append(_) | Action::Truncate { .. } | Action::Replace(_) | Action::FileToDirectory { .. } => {
                pick(&Found::is_file)
            }
            Action::Chmod { .. } => pick(&|found| !found.metadata.is_symlink()),
            Action::DirectoryToFile(_) => pick(&Found::is_directory),
            Action::Retarget(_) => pick(&|found| found.metadata.is_symlink()),
            Action::SetXattr { .. } => pick(&is_file_or_directory),
            Action::RemoveXattr => pick(&|found| {
                is_file_or_directory(found) && {
                    let path = below(root, &found.path);
                    with_ancestors_unlocked(root, &found.path, || {
                        with_unlocked(&path, || first_user_xattr(&path).is_some())
                    })
                }
            }),
        };
        let Some(picked) = picked else { return false };
        with_ancestors_unlocked(root, &picked.path, || match &self.action {
            Action::Add { name, item } => self.add(root, picked, name, item, &all),
            Action::Rename { to, name } => self.rename(root, picked, *to, name, &all),
            _ => self.change_one(root, picked),
        })
    }

    fn time_after(&self, before: &Found) -> Timestamp {
        self.mtime.unwrap_or_else(|| mtime_of(&before.metadata))
    }

    fn add(&self, root: &Path, parent: &Found, name: &Bytes, item: &Item, all: &[Found]) -> bool {
        let path = joined(&parent.path, &name.0);
        if path.len() > PATH_MAX_BYTES || all.iter().any(|found| found.path == path) {
            return false;
        }
        let files: Vec<_> = all.iter().filter(|found| found.is_file()).map(|found| found.path.clone()).collect();
        let link_target = match &item.kind {
            ItemKind::HardLink(to) => match to.resolve(&files).filter(|target| files.iter().any(|file| file == target))
            {
                Some(target) => target,
                None => return false,
            },
            _ => &[],
        };
        let parent_path = below(root, &parent.path);
        // the way to the file that a link is to may be closed too
        with_ancestors_unlocked(root, link_target, || {
            with_unlocked(&parent_path, || {
                let path = below(root, &path);
                item.create(root, &path, &files);
                item.finish(&path);
            });
        });
        set_mtime(&parent_path, self.time_after(parent));
        true
    }

    fn rename(&self, root: &Path, from: &Found, to: u32, name: &Bytes, all: &[Found]) -> bool {
        let directories: Vec<_> = all.iter().filter(|found| found.is_directory()).collect();
        let to = nth(&directories, to).expect("the root is one");
        let target = joined(&to.path, &name.0);
        let is_within = |path: &[u8], above: &[u8]| {
            path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
        };
        let deepest = all.iter().filter(|f| is_within(&f.path, &from.path)).map(|f| f.path.len()).max().unwrap_or(0);
        let replaced = all.iter().find(|found| found.path == target);
        if is_within(&target, &from.path)
            || deepest - from.path.len() + target.len() > PATH_MAX_BYTES
            || replaced.is_some_and(|found| found.is_directory() || from.is_directory())
        {
            return false;
        }
        let from_parent = all.iter().find(|found| found.path == parent_of(&from.path)).expect("a parent");
        let (old, new) = (below(root, &from.path), below(root, &target));
        with_ancestors_unlocked(root, &to.path, || {
            with_unlocked(&below(root, &to.path), || {
                with_unlocked(&below(root, parent_of(&from.path)), || {
                    // a directory that gets another parent is written to as well
                    let mode = if from.is_directory() { unlock(&old) } else { None };
                    fs::rename(&old, &new)
                        .unwrap_or_else(|e| panic!("rename {} to {}: {e}", old.display(), new.display()));
                    relock(&new, mode);
                    set_mtime(&new, self.time_after(from));
                });
            });
            set_mtime(&below(root, &to.path), self.time_after(to));
        });
        set_mtime(&below(root, &from_parent.path), self.time_after(from_parent));
        true
    }

    fn change_one(&self, root: &Path, picked: &Found) -> bool {
        let path = &below(root, &picked.path);
        let told = |e: std::io::Error| -> ! { panic!("{:?} of {}: {e}", self.action, path.display()) };
        let size = picked.metadata.len();
        let in_place = |change: &dyn Fn(&File) -> std::io::Result<()>| {
            with_unlocked(path, || OpenOptions::new().write(true).open(path).and_then(|file| change(&file)))
                .unwrap_or_else(|e| told(e));
            set_mtime(path, self.time_after(picked));
            true
        };
        match &self.action {
            Action::Overwrite { at_permille, length, seed } => in_place(&|file| {
                let start = (size * u64::from(*at_permille) / 1000).min(size - 1);
                let bytes = Content::random(*seed, u64::from(*length).min(size - start)).bytes();
                file.write_all_at(&bytes, start)
            }),
            Action::Append(content) => in_place(&|mut file| {
                std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0))?;
                file.write_all(&content.bytes())
            }),
            Action::Truncate { to_permille } => in_place(&|file| file.set_len(size * u64::from(*to_permille) / 1000)),
            Action::Touch => {
                set_mtime(path, self.time_after(picked));
                true
            }
            Action::Chmod { mode } => {
                set_mode(path, *mode);
                true
            }
            Action::SetXattr { name, value } => {
                with_unlocked(path, || match xattr::set(path, name.as_os(), &value.0) {
                    Ok(()) => true,
                    Err(e) if e.kind() == std::io::ErrorKind::StorageFull => false,
                    Err(e) => told(e),
                })
            }
            Action::RemoveXattr => with_unlocked(path, || match first_user_xattr(path) {
                Some(name) => xattr::remove(path, name).map_or_else(|e| told(e), |()| true),
                None => false,
            }),
            Action::Remove => self.replace(root, picked, None, None),
            Action::Replace(content) => {
                let item = Item::file(content.clone()).mode(picked.metadata.mode() & 0o7777);
                self.replace(root, picked, Some(item), None)
            }
            Action::FileToDirectory { inner } => {
                self.replace(root, picked, Some(Item::directory()), Some(Item::file(inner.clone())))
            }
            Action::DirectoryToFile(content) => self.replace(root, picked, Some(Item::file(content.clone())), None),
            Action::Retarget(target) => self.replace(root, picked, Some(Item::symlink(target.clone())), None),
            Action::Add { .. } | Action::Rename { .. } => unreachable!("done elsewhere"),
        }
    }

    /// Removes an entry and puts another in its place, with one in it where that is a directory.
    fn replace(&self, root: &Path, picked: &Found, by: Option<Item>, inner: Option<Item>) -> bool {
        let path = below(root, &picked.path);
        let parent = below(root, parent_of(&picked.path));
        let parent_time =
            mtime_of(&fs::metadata(&parent).unwrap_or_else(|e| panic!("look at {}: {e}", parent.display())));
        with_unlocked(&parent, || {
            remove_all(&path);
            if let Some(mut item) = by {
                item.mtime = self.time_after(picked);
                item.create(root, &path, &[]);
                if let Some(inner) = inner {
                    let inner_path = path.join("inner");
                    inner.create(root, &inner_path, &[]);
                    inner.finish(&inner_path);
                }
                item.finish(&path);
            }
        });
        set_mtime(&parent, self.mtime.unwrap_or(parent_time));
        true
    }
}

/// Runs something while every directory above an entry can be entered.
fn with_ancestors_unlocked<T>(root: &Path, path: &[u8], run: impl FnOnce() -> T) -> T {
    let slashes = path.iter().enumerate().filter(|&(_, &c)| c == b'/').map(|(at, _)| at);
    let above: Vec<_> = std::iter::once(0).chain(slashes).map(|at| below(root, &path[..at])).collect();
    let modes: Vec<_> = above.iter().map(|directory| unlock(directory)).collect();
    let result = run();
    for (directory, mode) in above.iter().zip(modes).rev() {
        relock(directory, mode);
    }
    result
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileTypeExt;

    use proptest::prelude::*;

    use super::*;
    use crate::compare::{CompareOptions, assert_same_tree, snapshot_of};
    use crate::strategies::{ChangeParams, TreeParams, arb_changes, arb_changes_with, arb_tree, arb_tree_with};
    use crate::user_xattrs_work;

    fn temp() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    fn fitting(spec: TreeSpec, directory: &Path) -> TreeSpec {
        if user_xattrs_work(directory) { spec } else { spec.without_xattrs() }
    }

    /// Looks at what `write` made without the code that compares trees.
    fn check_written(spec: &TreeSpec, root: &Path) {
        for (path, item) in spec.items() {
            let real = below(root, path);
            if let ItemKind::HardLink(_) = item.kind {
                continue;
            }
            let metadata = fs::symlink_metadata(&real).unwrap();
            assert_eq!(mtime_of(&metadata), item.mtime, "{}", real.display());
            match &item.kind {
                ItemKind::File(content) => {
                    assert_eq!(metadata.len(), content.len(), "{}", real.display());
                    assert!(fs::read(&real).unwrap() == content.bytes(), "{}", real.display());
                }
                ItemKind::Directory => assert!(metadata.is_dir()),
                ItemKind::Symlink(target) => assert_eq!(fs::read_link(&real).unwrap().as_os_str(), target.as_os()),
                ItemKind::Fifo => assert!(metadata.file_type().is_fifo()),
                ItemKind::Socket => assert!(metadata.file_type().is_socket()),
                ItemKind::HardLink(_) => unreachable!("skipped above"),
            }
            if !metadata.is_symlink() {
                assert_eq!(metadata.mode() & 0o7777, item.mode, "{}", real.display());
                for (name, value) in &item.xattrs {
                    assert_eq!(xattr::get(&real, name.as_os()).unwrap().as_ref(), Some(&value.0));
                }
            }
        }
    }

    #[test]
    fn a_tree_is_made_as_described() {
        let temp = temp();
        let long = [b'n'; 255];
        let spec = TreeSpec::new()
            .file("empty", "")
            .file("a/b/deep", "text")
            .file(b"\xff\xfe\n\\\"-", Content::Generated { seed: 3, length: 300_001, compressibility: 60 })
            .with("-rf", Item::file("old").mtime(-1, 999_999_999).mode(0o4711))
            .with("closed", Item::directory().mode(0o500).mtime(-2_000_000_000, 1))
            .with("closed/inside", Item::file("x").mode(0o400).xattr("user.note", &b"\0\xff"[..]))
            .file("sparse", Content::Sparse { seed: 1, length: 1 << 20, data: vec![65_536..131_072, 524_288..528_384] })
            .file("hole", Content::hole(1 << 20))
            .symlink("dangling", "no/where")
            .hard_link("closed/again", "a/b/deep")
            .with(long, Item::new(ItemKind::Socket).mode(0o600))
            .with("pipe", Item::new(ItemKind::Fifo).mode(0o622));
        let spec = fitting(spec, temp.path());
        let root = temp.path().join("tree");
        spec.write(&root);
        check_written(&spec, &root);

        let seen = snapshot_of(&root);
        assert_eq!(seen.len(), spec.items().count());
        let group: Vec<_> = seen[&b"a/b/deep"[..]].hard_links.iter().map(|path| path.0.as_slice()).collect();
        assert_eq!(group, [&b"a/b/deep"[..], b"closed/again"]);
        assert_eq!(seen[&b"sparse"[..]].content, Some(blake3::hash(&spec.get("sparse").unwrap().content().bytes())));
        assert!(seen[&b"hole"[..]].allocated_bytes < 65_536, "{:?}", seen[&b"hole"[..]]);
        remove_all(&root);
    }

    impl Item {
        fn content(&self) -> &Content {
            let ItemKind::File(content) = &self.kind else { panic!("a file") };
            content
        }
    }

    #[test]
    fn generated_content_is_the_beginning_of_a_longer_one_and_compressible_as_told() {
        let of = |length, compressibility| Content::Generated { seed: 9, length, compressibility }.bytes();
        assert!(of(3 << 20, 30).starts_with(&of((1 << 20) + 7, 30)));
        assert_eq!(of(1 << 20, 0), Content::random(9, 1 << 20).bytes());
        let hash = blake3::hash(&of(1000, 30)).to_hex();
        assert_eq!(&hash[..16], "5082ae05b2af80f5", "golden files depend on these bytes");
        for compressibility in [0, 50, 100] {
            let bytes = of(1 << 20, compressibility);
            let repeating = bytes.chunks_exact(256).filter(|block| block[..8] == block[8..16]).count();
            assert!(repeating.abs_diff(4096 * usize::from(compressibility) / 100) < 200, "{repeating}");
        }
    }

    #[test]
    #[should_panic(expected = "what is above it")]
    fn nothing_lies_below_a_file() {
        let _ = TreeSpec::new().file("a", "").file("a/b", "");
    }

    #[test]
    #[should_panic(expected = "not a path of the tree")]
    fn no_path_leaves_the_tree() {
        let _ = TreeSpec::new().file("a/../../b", "");
    }

    fn change(action: Action) -> Change {
        Change { pick: 0, action, mtime: Some(Timestamp { secs: 77, nanos: 7 }) }
    }

    #[test]
    fn each_change_does_what_it_says() {
        let temp = temp();
        let root = temp.path().join("tree");
        let root_dir = || Item::directory().mode(0o500);
        let spec = TreeSpec::new().with("", root_dir()).with("f", Item::file("0123456789").mode(0o400));
        let read = || String::from_utf8_lossy(&fs::read(root.join("f")).unwrap()).into_owned();
        spec.write(&root);
        let apply = |action| assert_eq!(apply_changes(&root, &[change(action)]), 1);

        apply(Action::Append("ab".into()));
        assert_eq!(read(), "0123456789ab");
        assert_eq!(mtime_of(&fs::metadata(root.join("f")).unwrap()).secs, 77);
        apply(Action::Overwrite { at_permille: 500, length: 100, seed: 1 });
        assert!(read().starts_with("012345") && fs::metadata(root.join("f")).unwrap().len() == 12);
        apply(Action::Truncate { to_permille: 250 });
        assert_eq!(read(), "012");
        apply(Action::Replace("new".into()));
        assert_eq!((read().as_str(), fs::metadata(root.join("f")).unwrap().mode() & 0o7777), ("new", 0o400));
        apply(Action::FileToDirectory { inner: "in".into() });
        assert_eq!(fs::read(root.join("f/inner")).unwrap(), b"in");
        apply(Action::Rename { to: 0, name: "g".into() });
        assert!(root.join("g/inner").exists() && !root.join("f").exists());
        apply(Action::DirectoryToFile("file".into()));
        apply(Action::Chmod { mode: 0o640 });
        assert_eq!(fs::metadata(root.join("g")).unwrap().mode() & 0o7777, 0o640);
        if user_xattrs_work(temp.path()) {
            apply(Action::SetXattr { name: "user.a".into(), value: "1".into() });
            assert_eq!(xattr::get(root.join("g"), "user.a").unwrap(), Some(b"1".into()));
            apply(Action::RemoveXattr);
            assert_eq!(apply_changes(&root, &[change(Action::RemoveXattr)]), 0);
        }
        apply(Action::Remove);
        apply(Action::Add { name: "l".into(), item: Item::symlink("x") });
        apply(Action::Retarget("y".into()));
        assert_eq!(fs::read_link(root.join("l")).unwrap(), Path::new("y"));
        assert_eq!(apply_changes(&root, &[change(Action::Append("z".into()))]), 0, "there is no file");
        assert_eq!(fs::metadata(&root).unwrap().mode() & 0o7777, 0o500, "the mode of the root came back");
        remove_all(&root);
    }

    #[test]
    fn a_change_that_keeps_times_keeps_them_all() {
        let temp = temp();
        let root = temp.path().join("tree");
        TreeSpec::new().file("d/f", "abc").write(&root);
        let before = snapshot_of(&root);
        let replace = Change { pick: 0, action: Action::Replace("xyz".into()), mtime: None };
        assert_eq!(apply_changes(&root, &[replace]), 1);
        let after = snapshot_of(&root);
        for path in [&b"d"[..], b"d/f"] {
            assert_eq!(before[path].mtime, after[path].mtime);
        }
        assert_ne!(before[&b"d/f"[..]].content, after[&b"d/f"[..]].content);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn trees_and_changes_are_the_same_each_time(spec in arb_tree(), changes in arb_changes()) {
            let temp = temp();
            let (a, b) = (temp.path().join("a"), temp.path().join("b"));
            let spec = fitting(spec, temp.path());
            spec.write(&a);
            spec.write(&b);
            check_written(&spec, &a);
            let options = CompareOptions { check_holes: true, ..CompareOptions::default() };
            assert_same_tree(&a, &b, &options);
            if user_xattrs_work(temp.path()) {
                prop_assert_eq!(apply_changes(&a, &changes), apply_changes(&b, &changes));
                assert_same_tree(&a, &b, &CompareOptions::default());
            }
            remove_all(&a);
            remove_all(&b);
        }

        #[test]
        fn trees_that_only_root_or_their_owner_can_enter_work_too(
            spec in arb_tree_with(TreeParams { closed_modes: true, max_file_bytes: 100, ..TreeParams::default() }),
            changes in arb_changes_with(ChangeParams { keep_mtimes: true, max_file_bytes: 100, ..ChangeParams::default() }),
        ) {
            let temp = temp();
            let root = temp.path().join("a");
            fitting(spec, temp.path()).write(&root);
            if user_xattrs_work(temp.path()) {
                apply_changes(&root, &changes);
            }
            remove_all(&root);
        }
    }
}
