//! Trees: directories and long content lists as bounded, Merkle-named nodes.
//!
//! A directory is a sorted sequence of entries, cut into leaves at places that depend on the entries' names only, and
//! above them, where there is more than one leaf, index nodes that list (first name, node). A long content list is cut
//! the same way. No node is larger than [`NODE_MAX_BYTES`], a single oversized entry aside. The bytes of a node are a
//! function of what it holds, so equal directories have equal names.
//!
//! The encoding is specified in `docs/format.md`, section "Trees".

use crate::id::{ChunkId, ContentId, TreeId};
use crate::time::{NANOS_PER_SEC, Timestamp};
use crate::wire::{DecodeError, Reader, put_bytes, put_signed, put_varint};

/// Version of the node encoding.
pub const NODE_VERSION: u8 = 1;
/// A node is never cut before it has this many bytes.
///
/// A change costs a node of each level: small ones keep that little, and there are more of them. Of a folder of 1,000,000
/// files of which 100 changed, nodes of about 60 entries store a sixth of what nodes of 600 do.
pub const NODE_MIN_BYTES: usize = 2 << 10;
/// A node is always cut before it would have more bytes than this.
pub const NODE_MAX_BYTES: usize = 32 << 10;
/// No name is longer. It keeps index nodes from holding one item each.
pub const NAME_MAX_BYTES: usize = 4096;
/// A content list with more extents than this is stored in nodes of its own.
pub const INLINE_EXTENTS_MAX: usize = 256;

const WHAT: &str = "tree node";

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

impl EntryKind {
    const ALL: [Self; 7] =
        [Self::File, Self::Directory, Self::Symlink, Self::Fifo, Self::Socket, Self::CharDevice, Self::BlockDevice];

    fn code(self) -> u8 {
        self as u8
    }

    fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }

    /// Returns the word that people and JSON use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Directory => "directory",
            Self::Symlink => "symlink",
            Self::Fifo => "fifo",
            Self::Socket => "socket",
            Self::CharDevice => "char-device",
            Self::BlockDevice => "block-device",
        }
    }
}

/// A stretch of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Bytes that a chunk holds.
    Data {
        /// The chunk.
        id: ChunkId,
        /// Its length in bytes, never 0.
        length: u64,
    },
    /// Zeros that were never written.
    Hole {
        /// Length in bytes, never 0.
        length: u64,
    },
}

impl Extent {
    /// Returns the length in bytes.
    pub fn length(&self) -> u64 {
        match *self {
            Self::Data { length, .. } | Self::Hole { length } => length,
        }
    }
}

/// Where the bytes of a file are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Content {
    /// There are none: an empty file, or no file.
    #[default]
    None,
    /// One chunk holds them all.
    Chunk(ChunkId),
    /// Several extents, in order.
    Extents {
        /// Keyed BLAKE3 of the data extents' bytes in order (holes contribute nothing).
        hash: ContentId,
        /// The extents.
        extents: Vec<Extent>,
    },
    /// Extents that are kept in nodes of their own.
    Indirect {
        /// As in [`Content::Extents`].
        hash: ContentId,
        /// The topmost node of the list.
        root: TreeId,
    },
}

impl Content {
    /// Returns what names the bytes: equal for equal content in one repository (as long as holes are equal too).
    pub fn hash(&self) -> Option<ContentId> {
        match self {
            Self::None => None,
            Self::Chunk(id) => Some((*id).into()),
            Self::Extents { hash, .. } | Self::Indirect { hash, .. } => Some(*hash),
        }
    }
}

/// An extended attribute. Access control lists come as attributes too (`system.posix_acl_access`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Xattr {
    /// Full name, with its name space.
    pub name: Vec<u8>,
    /// Value.
    pub value: Vec<u8>,
}

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Name: 1 to [`NAME_MAX_BYTES`] bytes, no `/`, no NUL, neither `.` nor `..`. Any other bytes.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits, set-id bits and sticky bit: at most `0o7777`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// When the content was changed.
    pub mtime: Timestamp,
    /// When content or metadata were changed.
    pub ctime: Timestamp,
    /// Number in its file system; 0 where there is none.
    pub inode: u64,
    /// Size in bytes, of a file; 0 else.
    pub size: u64,
    /// Number of the file system, for a file with more than one link. With `inode` it tells which names are one file.
    pub hard_link_device: Option<u64>,
    /// Device number, of a device.
    pub device: u64,
    /// Target, of a symbolic link.
    pub link_target: Vec<u8>,
    /// Extended attributes, sorted by name.
    pub xattrs: Vec<Xattr>,
    /// The source's own attributes (object id, language, etag, table version), sorted by name.
    pub attributes: Vec<(String, Vec<u8>)>,
    /// It is doubtful: its content is of no one moment, or some attribute could not be read.
    pub inconsistent: bool,
    /// Where its bytes are, of a file.
    pub content: Content,
    /// Where its entries are, of a directory.
    pub subtree: Option<TreeId>,
    /// Fields that a newer lakebed wrote, by ascending tag; kept as they are.
    pub unknown: Vec<(u64, Vec<u8>)>,
}

impl Entry {
    /// Builds an entry with nothing but a name and a kind.
    pub fn new(name: impl Into<Vec<u8>>, kind: EntryKind) -> Self {
        Self {
            name: name.into(),
            kind,
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: Timestamp::default(),
            ctime: Timestamp::default(),
            inode: 0,
            size: 0,
            hard_link_device: None,
            device: 0,
            link_target: Vec::new(),
            xattrs: Vec::new(),
            attributes: Vec::new(),
            inconsistent: false,
            content: Content::None,
            subtree: None,
            unknown: Vec::new(),
        }
    }

    /// Tells whether a directory may have an entry of that name.
    pub fn name_is_valid(name: &[u8]) -> bool {
        !name.is_empty()
            && name.len() <= NAME_MAX_BYTES
            && name != b"."
            && name != b".."
            && !name.iter().any(|&c| c == b'/' || c == 0)
    }
}

/// An item of an index node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexItem {
    /// First name in the node, for directories; empty for content lists.
    pub first_name: Vec<u8>,
    /// The node.
    pub node: TreeId,
}

/// What a node holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// Entries of a directory, sorted by name bytes.
    Entries(Vec<Entry>),
    /// Nodes of a directory, in order.
    EntryIndex(Vec<IndexItem>),
    /// A part of a content list.
    Extents(Vec<Extent>),
    /// Nodes of a content list, in order.
    ExtentIndex(Vec<TreeId>),
}

mod node_type {
    pub const ENTRIES: u8 = 0;
    pub const ENTRY_INDEX: u8 = 1;
    pub const EXTENTS: u8 = 2;
    pub const EXTENT_INDEX: u8 = 3;
}

mod field {
    pub const HARD_LINK: u64 = 1;
    pub const DEVICE: u64 = 1 << 1;
    pub const LINK_TARGET: u64 = 1 << 2;
    pub const XATTRS: u64 = 1 << 3;
    pub const ATTRIBUTES: u64 = 1 << 4;
    pub const INCONSISTENT: u64 = 1 << 5;
    pub const CHUNK: u64 = 1 << 6;
    pub const EXTENTS: u64 = 1 << 7;
    pub const INDIRECT: u64 = 1 << 8;
    pub const SUBTREE: u64 = 1 << 9;
    pub const UNKNOWN: u64 = 1 << 10;
    pub const ALL: u64 = (1 << 11) - 1;
}

/// What the next entry's times and inode are written relative to.
#[derive(Default, Clone, Copy)]
struct Previous {
    mtime_secs: i64,
    inode: u64,
}

fn put_entry(out: &mut Vec<u8>, entry: &Entry, previous: &mut Previous) {
    let mut fields = 0;
    let mut set = |present: bool, bit: u64| fields |= if present { bit } else { 0 };
    set(entry.hard_link_device.is_some(), field::HARD_LINK);
    set(entry.device != 0, field::DEVICE);
    set(!entry.link_target.is_empty(), field::LINK_TARGET);
    set(!entry.xattrs.is_empty(), field::XATTRS);
    set(!entry.attributes.is_empty(), field::ATTRIBUTES);
    set(entry.inconsistent, field::INCONSISTENT);
    set(matches!(entry.content, Content::Chunk(_)), field::CHUNK);
    set(matches!(entry.content, Content::Extents { .. }), field::EXTENTS);
    set(matches!(entry.content, Content::Indirect { .. }), field::INDIRECT);
    set(entry.subtree.is_some(), field::SUBTREE);
    set(!entry.unknown.is_empty(), field::UNKNOWN);

    put_bytes(out, &entry.name);
    out.push(entry.kind.code());
    put_varint(out, fields);
    put_varint(out, u64::from(entry.mode));
    put_varint(out, u64::from(entry.uid));
    put_varint(out, u64::from(entry.gid));
    put_signed(out, entry.mtime.secs.wrapping_sub(previous.mtime_secs));
    out.extend_from_slice(&entry.mtime.nanos.to_le_bytes());
    put_signed(out, entry.ctime.secs.wrapping_sub(entry.mtime.secs));
    put_signed(out, i64::from(entry.ctime.nanos) - i64::from(entry.mtime.nanos));
    put_signed(out, entry.inode.wrapping_sub(previous.inode) as i64);
    put_varint(out, entry.size);
    *previous = Previous { mtime_secs: entry.mtime.secs, inode: entry.inode };

    if let Some(device) = entry.hard_link_device {
        put_varint(out, device);
    }
    if entry.device != 0 {
        put_varint(out, entry.device);
    }
    if !entry.link_target.is_empty() {
        put_bytes(out, &entry.link_target);
    }
    if !entry.xattrs.is_empty() {
        put_varint(out, entry.xattrs.len() as u64);
        for xattr in &entry.xattrs {
            put_bytes(out, &xattr.name);
            put_bytes(out, &xattr.value);
        }
    }
    if !entry.attributes.is_empty() {
        put_varint(out, entry.attributes.len() as u64);
        for (name, value) in &entry.attributes {
            put_bytes(out, name.as_bytes());
            put_bytes(out, value);
        }
    }
    match &entry.content {
        Content::None => {}
        Content::Chunk(id) => out.extend_from_slice(id.as_bytes()),
        Content::Extents { hash, extents } => {
            out.extend_from_slice(hash.as_bytes());
            put_extents(out, extents);
        }
        Content::Indirect { hash, root } => {
            out.extend_from_slice(hash.as_bytes());
            out.extend_from_slice(root.as_bytes());
        }
    }
    if let Some(subtree) = &entry.subtree {
        out.extend_from_slice(subtree.as_bytes());
    }
    if !entry.unknown.is_empty() {
        put_varint(out, entry.unknown.len() as u64);
        for (tag, value) in &entry.unknown {
            put_varint(out, *tag);
            put_bytes(out, value);
        }
    }
}

fn take_entry(reader: &mut Reader<'_>, previous: &mut Previous) -> Result<Entry, DecodeError> {
    let name = reader.bytes()?;
    if !Entry::name_is_valid(name) {
        return Err(reader.invalid("an entry has a name that no directory can hold"));
    }
    let kind = EntryKind::from_code(reader.u8()?).ok_or_else(|| reader.invalid("an entry is of an unknown kind"))?;
    let mut entry = Entry::new(name, kind);
    let fields = reader.varint()?;
    if fields & !field::ALL != 0 {
        return Err(reader.invalid("an entry has fields that this lakebed does not know"));
    }
    entry.mode = reader.varint_u32()?;
    if entry.mode > 0o7777 {
        return Err(reader.invalid("an entry has mode bits above 0o7777"));
    }
    entry.uid = reader.varint_u32()?;
    entry.gid = reader.varint_u32()?;
    let time = |secs: i64, nanos: i64, reader: &Reader<'_>| {
        u32::try_from(nanos)
            .ok()
            .filter(|&nanos| nanos < NANOS_PER_SEC)
            .map(|nanos| Timestamp { secs, nanos })
            .ok_or_else(|| reader.invalid("a time has a second or more of nanoseconds"))
    };
    let secs = previous.mtime_secs.wrapping_add(reader.signed()?);
    let nanos = i64::from(reader.u32()?);
    entry.mtime = time(secs, nanos, reader)?;
    let secs = entry.mtime.secs.wrapping_add(reader.signed()?);
    let nanos = i64::from(entry.mtime.nanos).wrapping_add(reader.signed()?);
    entry.ctime = time(secs, nanos, reader)?;
    entry.inode = previous.inode.wrapping_add(reader.signed()? as u64);
    entry.size = reader.varint()?;
    *previous = Previous { mtime_secs: entry.mtime.secs, inode: entry.inode };

    let non_empty = |bytes: &[u8], reader: &Reader<'_>| {
        (!bytes.is_empty()).then(|| bytes.to_vec()).ok_or_else(|| reader.invalid("a present field is empty"))
    };
    let has = |bit: u64| fields & bit != 0;
    if has(field::HARD_LINK) {
        entry.hard_link_device = Some(reader.varint()?);
    }
    if has(field::DEVICE) {
        entry.device = reader.varint()?;
        if entry.device == 0 {
            return Err(reader.invalid("a present field is empty"));
        }
    }
    if has(field::LINK_TARGET) {
        entry.link_target = non_empty(reader.bytes()?, reader)?;
    }
    if has(field::XATTRS) {
        for _ in 0..present(reader, 2)? {
            entry.xattrs.push(Xattr { name: reader.bytes()?.to_vec(), value: reader.bytes()?.to_vec() });
        }
        ascending(&entry.xattrs, |xattr| &xattr.name, reader)?;
    }
    if has(field::ATTRIBUTES) {
        for _ in 0..present(reader, 2)? {
            let name = String::from_utf8(reader.bytes()?.to_vec())
                .map_err(|_| reader.invalid("an attribute's name is not UTF-8"))?;
            entry.attributes.push((name, reader.bytes()?.to_vec()));
        }
        ascending(&entry.attributes, |attribute| &attribute.0, reader)?;
    }
    entry.inconsistent = has(field::INCONSISTENT);
    entry.content = match fields & (field::CHUNK | field::EXTENTS | field::INDIRECT) {
        0 => Content::None,
        field::CHUNK => Content::Chunk(reader.id(ChunkId::from_slice)?),
        field::EXTENTS => Content::Extents { hash: reader.id(ContentId::from_slice)?, extents: take_extents(reader)? },
        field::INDIRECT => {
            Content::Indirect { hash: reader.id(ContentId::from_slice)?, root: reader.id(TreeId::from_slice)? }
        }
        _ => return Err(reader.invalid("an entry has two kinds of content")),
    };
    if has(field::SUBTREE) {
        entry.subtree = Some(reader.id(TreeId::from_slice)?);
    }
    if has(field::UNKNOWN) {
        for _ in 0..present(reader, 2)? {
            entry.unknown.push((reader.varint()?, reader.bytes()?.to_vec()));
        }
        ascending(&entry.unknown, |unknown| &unknown.0, reader)?;
    }
    check_entry(&entry).map_err(|why| reader.invalid(why))?;
    Ok(entry)
}

fn present(reader: &mut Reader<'_>, item_len: usize) -> Result<usize, DecodeError> {
    match reader.count(item_len)? {
        0 => Err(reader.invalid("a present field is empty")),
        count => Ok(count),
    }
}

fn ascending<T, K: Ord + ?Sized>(items: &[T], key: impl Fn(&T) -> &K, reader: &Reader<'_>) -> Result<(), DecodeError> {
    match items.windows(2).all(|pair| key(&pair[0]) < key(&pair[1])) {
        true => Ok(()),
        false => Err(reader.invalid("items are not in ascending order")),
    }
}

/// Checks that the parts of an entry agree with its kind and its size.
fn check_entry(entry: &Entry) -> Result<(), &'static str> {
    let is_file = entry.kind == EntryKind::File;
    match &entry.content {
        Content::None if is_file && entry.size > 0 => return Err("a file with a size has no content"),
        Content::None => {}
        Content::Extents { extents, .. } => {
            let total = extents.iter().try_fold(0u64, |sum, extent| sum.checked_add(extent.length()));
            if total != Some(entry.size) {
                return Err("the extents of a file do not add up to its size");
            }
        }
        Content::Chunk(_) | Content::Indirect { .. } if entry.size == 0 => return Err("an empty file has content"),
        Content::Chunk(_) | Content::Indirect { .. } => {}
    }
    if entry.subtree.is_some() != (entry.kind == EntryKind::Directory) {
        return Err("a directory has no subtree, or something else has one");
    }
    if !is_file && entry.size != 0 {
        // whatever has content has a size
        return Err("what is not a file has a size, or content");
    }
    Ok(())
}

fn put_extents(out: &mut Vec<u8>, extents: &[Extent]) {
    put_varint(out, extents.len() as u64);
    for extent in extents {
        put_extent(out, extent);
    }
}

fn put_extent(out: &mut Vec<u8>, extent: &Extent) {
    match extent {
        Extent::Data { id, length } => {
            put_varint(out, 2 * length);
            out.extend_from_slice(id.as_bytes());
        }
        Extent::Hole { length } => put_varint(out, 2 * length + 1),
    }
}

fn take_extents(reader: &mut Reader<'_>) -> Result<Vec<Extent>, DecodeError> {
    let count = present(reader, 1)?;
    let mut extents = Vec::with_capacity(count);
    for _ in 0..count {
        let head = reader.varint()?;
        let length = head >> 1;
        if length == 0 {
            return Err(reader.invalid("an extent is empty"));
        }
        extents.push(match head & 1 {
            0 => Extent::Data { id: reader.id(ChunkId::from_slice)?, length },
            _ => Extent::Hole { length },
        });
    }
    Ok(extents)
}

impl Node {
    /// Returns the bytes of the node.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![NODE_VERSION];
        match self {
            Self::Entries(entries) => {
                out.push(node_type::ENTRIES);
                put_varint(&mut out, entries.len() as u64);
                let mut previous = Previous::default();
                for entry in entries {
                    put_entry(&mut out, entry, &mut previous);
                }
            }
            Self::EntryIndex(items) => {
                out.push(node_type::ENTRY_INDEX);
                put_varint(&mut out, items.len() as u64);
                for item in items {
                    put_bytes(&mut out, &item.first_name);
                    out.extend_from_slice(item.node.as_bytes());
                }
            }
            Self::Extents(extents) => {
                out.push(node_type::EXTENTS);
                put_extents(&mut out, extents);
            }
            Self::ExtentIndex(nodes) => {
                out.push(node_type::EXTENT_INDEX);
                put_varint(&mut out, nodes.len() as u64);
                for node in nodes {
                    out.extend_from_slice(node.as_bytes());
                }
            }
        }
        out
    }

    /// Passes everything that the node refers to: further nodes, and chunks with their lengths in bytes.
    pub fn references(&self, mut node: impl FnMut(TreeId), mut chunk: impl FnMut(ChunkId, u64)) {
        let mut extent = |extent: &Extent| {
            if let Extent::Data { id, length } = *extent {
                chunk(id, length);
            }
        };
        match self {
            Self::Entries(entries) => {
                for entry in entries {
                    entry.subtree.into_iter().for_each(&mut node);
                    match &entry.content {
                        Content::None => {}
                        Content::Chunk(id) => extent(&Extent::Data { id: *id, length: entry.size }),
                        Content::Extents { extents, .. } => extents.iter().for_each(&mut extent),
                        Content::Indirect { root, .. } => node(*root),
                    }
                }
            }
            Self::EntryIndex(items) => items.iter().for_each(|item| node(item.node)),
            Self::Extents(extents) => extents.iter().for_each(extent),
            Self::ExtentIndex(nodes) => nodes.iter().copied().for_each(node),
        }
    }

    /// Reads a node.
    ///
    /// # Errors
    /// Bytes that no writer of a known version can have written.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes, WHAT);
        let version = reader.u8()?;
        if version != NODE_VERSION {
            return Err(DecodeError::NewerVersion { what: WHAT, found: version.into(), known: NODE_VERSION.into() });
        }
        let node = match reader.u8()? {
            node_type::ENTRIES => {
                let count = reader.count(16)?;
                let mut entries = Vec::with_capacity(count);
                let mut previous = Previous::default();
                for _ in 0..count {
                    entries.push(take_entry(&mut reader, &mut previous)?);
                }
                ascending(&entries, |entry: &Entry| &entry.name, &reader)?;
                Self::Entries(entries)
            }
            node_type::ENTRY_INDEX => {
                let mut items = Vec::new();
                for _ in 0..present(&mut reader, 33)? {
                    let first_name = reader.bytes()?.to_vec();
                    items.push(IndexItem { first_name, node: reader.id(TreeId::from_slice)? });
                }
                ascending(&items, |item: &IndexItem| &item.first_name, &reader)?;
                Self::EntryIndex(items)
            }
            node_type::EXTENTS => Self::Extents(take_extents(&mut reader)?),
            node_type::EXTENT_INDEX => {
                let mut nodes = Vec::new();
                for _ in 0..present(&mut reader, 32)? {
                    nodes.push(reader.id(TreeId::from_slice)?);
                }
                Self::ExtentIndex(nodes)
            }
            other => return Err(reader.invalid(format!("type {other} is not known"))),
        };
        reader.end()?;
        Ok(node)
    }
}

/// Where the nodes of a tree are put, and what names them.
pub trait NodeSink {
    /// Why a node could not be put.
    type Error;

    /// Stores the bytes of a node and returns its name.
    ///
    /// # Errors
    /// The node is not stored.
    fn put_node(&mut self, bytes: Vec<u8>) -> Result<TreeId, Self::Error>;
}

/// Tells whether a node ends after an item with this hash: one in 32 does.
fn is_cut(hash: &[u8; 32]) -> bool {
    hash[0] < 8
}

/// Splits sized items into runs, each of which becomes a node.
#[derive(Debug, Clone)]
struct Runs<T> {
    run: Vec<T>,
    bytes: usize,
}

impl<T> Default for Runs<T> {
    fn default() -> Self {
        Self { run: Vec::new(), bytes: 0 }
    }
}

impl<T> Runs<T> {
    /// Adds an item and passes each run that ends with it, or before it, to `ended`.
    fn push<E>(
        &mut self,
        item: T,
        length: usize,
        cuts_after: impl Fn(&T) -> bool,
        mut ended: impl FnMut(Vec<T>) -> Result<(), E>,
    ) -> Result<(), E> {
        if !self.run.is_empty() && self.bytes + length > NODE_MAX_BYTES {
            ended(self.take())?;
        }
        let cut = self.bytes + length >= NODE_MIN_BYTES && cuts_after(&item);
        self.run.push(item);
        self.bytes += length;
        if cut { ended(self.take()) } else { Ok(()) }
    }

    fn take(&mut self) -> Vec<T> {
        self.bytes = 0;
        std::mem::take(&mut self.run)
    }
}

/// Splits all items of a level above the leaves.
fn runs<T>(items: Vec<T>, size: impl Fn(&T) -> usize, cuts_after: impl Fn(&T) -> bool) -> Vec<Vec<T>> {
    let (mut all, mut runs) = (Vec::new(), Runs::default());
    for item in items {
        let length = size(&item);
        let Ok(()) = runs.push(item, length, &cuts_after, |run| {
            all.push(run);
            Ok::<(), std::convert::Infallible>(())
        });
    }
    if !runs.run.is_empty() {
        all.push(runs.take());
    }
    all
}

/// Upper bound of an entry's encoded size, close enough to cut by and cheap to know.
fn entry_size(entry: &Entry) -> usize {
    let xattrs: usize = entry.xattrs.iter().map(|x| x.name.len() + x.value.len() + 8).sum();
    let attributes: usize = entry.attributes.iter().map(|(name, value)| name.len() + value.len() + 8).sum();
    let unknown: usize = entry.unknown.iter().map(|(_, value)| value.len() + 16).sum();
    let content = match &entry.content {
        Content::None => 0,
        Content::Chunk(_) => 32,
        Content::Extents { extents, .. } => 40 + extents.len() * 40,
        Content::Indirect { .. } => 64,
    };
    entry.name.len()
        + 48
        + entry.link_target.len()
        + xattrs
        + attributes
        + unknown
        + content
        + if entry.subtree.is_some() { 32 } else { 0 }
}

/// Stores a directory's entries, which must be sorted by name, and returns its topmost node.
///
/// # Errors
/// What the sink says.
pub fn write_directory<S: NodeSink>(entries: Vec<Entry>, sink: &mut S) -> Result<TreeId, S::Error> {
    let mut writer = DirectoryWriter::default();
    entries.into_iter().try_for_each(|entry| writer.push(entry, sink))?;
    writer.finish(sink)
}

/// Stores a directory entry by entry. Of a directory of any size it keeps one node, and the names of the others.
#[derive(Debug, Clone, Default)]
pub struct DirectoryWriter {
    runs: Runs<Entry>,
    items: Vec<IndexItem>,
}

impl DirectoryWriter {
    /// Adds the next entry, in the order of their names.
    ///
    /// # Errors
    /// What the sink says.
    pub fn push<S: NodeSink>(&mut self, entry: Entry, sink: &mut S) -> Result<(), S::Error> {
        let (items, length) = (&mut self.items, entry_size(&entry));
        self.runs.push(
            entry,
            length,
            |entry| is_cut(blake3::hash(&entry.name).as_bytes()),
            |run| {
                items.push(put_entries(run, sink)?);
                Ok(())
            },
        )
    }

    /// Returns the topmost node.
    ///
    /// # Errors
    /// What the sink says.
    pub fn finish<S: NodeSink>(mut self, sink: &mut S) -> Result<TreeId, S::Error> {
        if !self.runs.run.is_empty() || self.items.is_empty() {
            self.items.push(put_entries(self.runs.take(), sink)?);
        }
        let mut items = self.items;
        while items.len() > 1 {
            let mut above = Vec::new();
            for run in runs(items, |item| item.first_name.len() + 34, |item| is_cut(item.node.as_bytes())) {
                let first_name = run[0].first_name.clone();
                above.push(IndexItem { first_name, node: sink.put_node(Node::EntryIndex(run).encode())? });
            }
            items = above;
        }
        Ok(items[0].node)
    }
}

fn put_entries<S: NodeSink>(run: Vec<Entry>, sink: &mut S) -> Result<IndexItem, S::Error> {
    let first_name = run.first().map(|entry| entry.name.clone()).unwrap_or_default();
    Ok(IndexItem { first_name, node: sink.put_node(Node::Entries(run).encode())? })
}

/// Stores a long content list and returns its topmost node. The list must not be empty.
///
/// # Errors
/// What the sink says.
pub fn write_extents<S: NodeSink>(extents: Vec<Extent>, sink: &mut S) -> Result<TreeId, S::Error> {
    let mut writer = ExtentsWriter::default();
    extents.into_iter().try_for_each(|extent| writer.push(extent, sink))?;
    writer.finish(sink)
}

/// Stores a content list extent by extent. Of a list of any length it keeps one node, and the names of the others.
#[derive(Debug, Default)]
pub struct ExtentsWriter {
    runs: Runs<Extent>,
    nodes: Vec<TreeId>,
}

impl ExtentsWriter {
    /// Adds the next extent.
    ///
    /// # Errors
    /// What the sink says.
    pub fn push<S: NodeSink>(&mut self, extent: Extent, sink: &mut S) -> Result<(), S::Error> {
        let cuts_after = |extent: &Extent| matches!(extent, Extent::Data { id, .. } if is_cut(id.as_bytes()));
        let nodes = &mut self.nodes;
        self.runs.push(extent, 36, cuts_after, |run| {
            nodes.push(sink.put_node(Node::Extents(run).encode())?);
            Ok(())
        })
    }

    /// Returns the topmost node.
    ///
    /// # Errors
    /// What the sink says.
    pub fn finish<S: NodeSink>(mut self, sink: &mut S) -> Result<TreeId, S::Error> {
        if !self.runs.run.is_empty() || self.nodes.is_empty() {
            self.nodes.push(sink.put_node(Node::Extents(self.runs.take()).encode())?);
        }
        let mut nodes = self.nodes;
        while nodes.len() > 1 {
            let mut above = Vec::new();
            for run in runs(nodes, |_| 32, |node: &TreeId| is_cut(node.as_bytes())) {
                above.push(sink.put_node(Node::ExtentIndex(run).encode())?);
            }
            nodes = above;
        }
        Ok(nodes[0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::convert::Infallible;

    fn arb_time() -> impl Strategy<Value = Timestamp> {
        (any::<i64>(), 0..NANOS_PER_SEC).prop_map(|(secs, nanos)| Timestamp { secs, nanos })
    }

    fn arb_id() -> impl Strategy<Value = [u8; 32]> {
        prop::array::uniform32(1u8..)
    }

    fn arb_content() -> impl Strategy<Value = (u64, Content)> {
        let extent = prop_oneof![
            (arb_id(), 1u64..1 << 30).prop_map(|(id, length)| Extent::Data { id: ChunkId::new(id), length }),
            (1u64..1 << 40).prop_map(|length| Extent::Hole { length }),
        ];
        prop_oneof![
            Just((0, Content::None)),
            (1u64.., arb_id()).prop_map(|(size, id)| (size, Content::Chunk(ChunkId::new(id)))),
            (prop::collection::vec(extent, 1..5), arb_id()).prop_map(|(extents, hash)| {
                let size = extents.iter().map(Extent::length).sum();
                (size, Content::Extents { hash: ContentId::new(hash), extents })
            }),
            (1u64.., arb_id(), arb_id()).prop_map(|(size, hash, root)| {
                (size, Content::Indirect { hash: ContentId::new(hash), root: TreeId::new(root) })
            }),
        ]
    }

    prop_compose! {
        fn arb_entry()(
            name in prop::collection::vec(any::<u8>(), 1..40),
            kind in prop::sample::select(&EntryKind::ALL[..]),
            mode in 0u32..=0o7777,
            owner: (u32, u32),
            times in (arb_time(), arb_time()),
            inode: u64,
            hard_link_device: Option<u64>,
            device: u64,
            link_target: Vec<u8>,
            xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
            attributes: BTreeMap<String, Vec<u8>>,
            inconsistent: bool,
            content in arb_content(),
            subtree in arb_id(),
            unknown: BTreeMap<u64, Vec<u8>>,
        ) -> Entry {
            let mut entry = Entry::new(name, kind);
            (entry.mode, entry.uid, entry.gid) = (mode, owner.0, owner.1);
            (entry.mtime, entry.ctime, entry.inode) = (times.0, times.1, inode);
            (entry.hard_link_device, entry.device, entry.link_target) = (hard_link_device, device, link_target);
            entry.xattrs = xattrs.into_iter().map(|(name, value)| Xattr { name, value }).collect();
            entry.attributes = attributes.into_iter().collect();
            entry.unknown = unknown.into_iter().collect();
            entry.inconsistent = inconsistent;
            if kind == EntryKind::File {
                (entry.size, entry.content) = content;
            }
            entry.subtree = (kind == EntryKind::Directory).then(|| TreeId::new(subtree));
            entry
        }
    }

    fn arb_entries(most: usize) -> impl Strategy<Value = Vec<Entry>> {
        prop::collection::vec(arb_entry(), 0..most).prop_map(|entries| {
            let valid = entries.into_iter().filter(|entry| Entry::name_is_valid(&entry.name));
            let sorted: BTreeMap<Vec<u8>, Entry> = valid.map(|entry| (entry.name.clone(), entry)).collect();
            sorted.into_values().collect()
        })
    }

    /// Nodes in memory.
    #[derive(Default)]
    struct Nodes(BTreeMap<TreeId, Vec<u8>>);

    impl NodeSink for Nodes {
        type Error = Infallible;

        fn put_node(&mut self, bytes: Vec<u8>) -> Result<TreeId, Infallible> {
            let id = TreeId::new(*blake3::hash(&bytes).as_bytes());
            self.0.insert(id, bytes);
            Ok(id)
        }
    }

    impl Nodes {
        fn entries(&self, id: TreeId) -> Vec<Entry> {
            match Node::decode(&self.0[&id]).unwrap() {
                Node::Entries(entries) => entries,
                Node::EntryIndex(items) => items.iter().flat_map(|item| self.entries(item.node)).collect(),
                other => panic!("{other:?}"),
            }
        }

        fn extents(&self, id: TreeId) -> Vec<Extent> {
            match Node::decode(&self.0[&id]).unwrap() {
                Node::Extents(extents) => extents,
                Node::ExtentIndex(nodes) => nodes.iter().flat_map(|&node| self.extents(node)).collect(),
                other => panic!("{other:?}"),
            }
        }
    }

    proptest! {
        #[test]
        fn entries_come_back_and_have_one_spelling(entries in arb_entries(12)) {
            let bytes = Node::Entries(entries.clone()).encode();
            let back = Node::decode(&bytes).unwrap();
            prop_assert_eq!(&back, &Node::Entries(entries));
            prop_assert_eq!(back.encode(), bytes);
        }

        #[test]
        fn damaged_nodes_never_panic(entries in arb_entries(6), at: prop::sample::Index, value: u8) {
            let mut bytes = Node::Entries(entries).encode();
            let at = at.index(bytes.len());
            bytes[at] = value;
            if let Ok(node) = Node::decode(&bytes) {
                prop_assert_eq!(node.encode(), bytes);
            }
        }

        #[test]
        fn random_bytes_never_panic(bytes: Vec<u8>, kind in 0u8..5) {
            let _ = Node::decode(&[&[NODE_VERSION, kind], &bytes[..]].concat());
        }
    }

    fn many(count: u64) -> Vec<Entry> {
        let entry = |number: u64| {
            let mut entry = Entry::new(format!("notebook-{number:08}.py"), EntryKind::File);
            entry.size = 1;
            entry.content = Content::Chunk(ChunkId::new(*blake3::hash(&number.to_le_bytes()).as_bytes()));
            entry
        };
        (0..count).map(entry).collect()
    }

    #[test]
    fn adding_one_file_to_a_large_folder_rewrites_a_few_bounded_nodes() {
        let mut nodes = Nodes::default();
        let mut entries = many(200_000);
        let before = write_directory(entries.clone(), &mut nodes).unwrap();
        assert_eq!(nodes.entries(before), entries);
        assert!(nodes.0.values().all(|bytes| bytes.len() <= NODE_MAX_BYTES));
        let known: Vec<TreeId> = nodes.0.keys().copied().collect();
        let mut added = entries[77_777].clone();
        added.name.push(b'x');
        entries.insert(77_778, added);
        let after = write_directory(entries.clone(), &mut nodes).unwrap();
        assert_eq!(nodes.entries(after), entries);
        let new: Vec<usize> = nodes.0.iter().filter(|(id, _)| !known.contains(id)).map(|(_, b)| b.len()).collect();
        assert!(new.len() <= 6 && new.iter().sum::<usize>() < 300_000, "{new:?}");
    }

    fn many_extents(count: u64) -> Vec<Extent> {
        let extent = |number: u64| Extent::Data {
            id: ChunkId::new(*blake3::hash(&number.to_le_bytes()).as_bytes()),
            length: number + 1,
        };
        (0..count).map(extent).collect()
    }

    #[test]
    fn long_content_lists_come_back_in_order() {
        let mut nodes = Nodes::default();
        let extents = many_extents(50_000);
        let root = write_extents(extents.clone(), &mut nodes).unwrap();
        assert_eq!(nodes.extents(root), extents);
        assert!(nodes.0.values().all(|bytes| bytes.len() <= NODE_MAX_BYTES));
    }

    const GOLDEN_DIRECTORY: (&str, usize) = ("a35c811a", 3951);
    const GOLDEN_LONG_NAMES: (&str, usize) = ("8dc781ab", 1063);
    const GOLDEN_EXTENTS: (&str, usize) = ("dc6c44a6", 22953);

    /// Where format 1 cuts directories and content lists. It must never change, or equal folders are stored anew.
    #[test]
    fn golden_nodes() {
        let mut nodes = Nodes::default();
        let root = write_directory(many(200_000), &mut nodes).unwrap();
        assert_eq!((&*root.short(), nodes.0.len()), GOLDEN_DIRECTORY);
        // names so long that the nodes above the leaves are cut as well
        let mut nodes = Nodes::default();
        let entry = |number: u64| Entry { name: format!("{number:01000}").into(), ..many(1).remove(0) };
        let root = write_directory((0..20_000).map(entry).collect(), &mut nodes).unwrap();
        assert_eq!((&*root.short(), nodes.0.len()), GOLDEN_LONG_NAMES);
        let mut nodes = Nodes::default();
        let root = write_extents(many_extents(2_000_000), &mut nodes).unwrap();
        assert_eq!((&*root.short(), nodes.0.len()), GOLDEN_EXTENTS);
    }

    #[test]
    fn a_run_ends_where_an_item_says_so_or_where_the_next_has_no_room() {
        let lengths = |items: &[(usize, bool)]| -> Vec<usize> {
            runs(items.to_vec(), |item| item.0, |item| item.1).iter().map(Vec::len).collect()
        };
        const MIN: usize = NODE_MIN_BYTES;
        const MAX: usize = NODE_MAX_BYTES;
        assert_eq!(lengths(&[]), [0; 0]);
        // not before it is long enough
        assert_eq!(lengths(&[(MIN - 10, true), (9, true), (1, true)]), [3]);
        assert_eq!(lengths(&[(MIN - 10, true), (9, true), (1, false), (1, true), (1, false)]), [4, 1]);
        assert_eq!(lengths(&[(MIN - 1, true), (1, true), (MIN, true), (MIN - 1, true), (9, false)]), [2, 1, 2]);
        // not after it is too long
        assert_eq!(lengths(&[(MAX - 1, false), (1, false), (1, false)]), [2, 1]);
        assert_eq!(lengths(&[(MAX - 1, false), (2, false), (MAX - 2, false), (1, false)]), [1, 2, 1]);
        // one that is too long by itself is alone
        assert_eq!(lengths(&[(1, false), (MAX + 1, false), (1, false)]), [1, 1, 1]);
    }

    #[test]
    fn what_entries_are_counted_as_is_part_of_the_format() {
        let size = |change: fn(&mut Entry)| {
            let mut entry = Entry::new("name", EntryKind::File);
            change(&mut entry);
            entry_size(&entry)
        };
        let (chunk, hash, node) = (ChunkId::new([1; 32]), ContentId::new([2; 32]), TreeId::new([3; 32]));
        assert_eq!(size(|_| {}), 52);
        assert_eq!(size(|entry| entry.link_target = vec![b'x'; 100]), 152);
        assert_eq!(size(|entry| entry.xattrs = vec![Xattr { name: vec![1; 20], value: vec![2; 300] }; 2]), 708);
        assert_eq!(size(|entry| entry.attributes = vec![("language".into(), vec![1; 6]); 2]), 96);
        assert_eq!(size(|entry| entry.unknown = vec![(9, vec![1; 7]); 2]), 98);
        let content = |content: Content| entry_size(&Entry { content, ..Entry::new("name", EntryKind::File) });
        assert_eq!(content(Content::Chunk(chunk)), 84);
        let extents = vec![Extent::Hole { length: 1 }; 3];
        assert_eq!(content(Content::Extents { hash, extents }), 212);
        assert_eq!(content(Content::Indirect { hash, root: node }), 116);
        assert_eq!(entry_size(&Entry { subtree: Some(node), ..Entry::new("name", EntryKind::Directory) }), 84);
        let all = Entry {
            link_target: vec![1; 1],
            xattrs: vec![Xattr { name: vec![1; 1], value: vec![1; 1] }],
            attributes: vec![("a".into(), vec![1; 1])],
            unknown: vec![(1, vec![1; 1])],
            content: Content::Chunk(chunk),
            subtree: Some(node),
            ..Entry::new("name", EntryKind::Directory)
        };
        assert_eq!(entry_size(&all), 154);
    }

    #[test]
    fn a_node_passes_all_that_it_refers_to() {
        let node = |number| TreeId::new([number; 32]);
        let chunk = |number| ChunkId::new([number; 32]);
        let hash = ContentId::new([9; 32]);
        let file = |name: &str, content: Content, size| Entry { content, size, ..Entry::new(name, EntryKind::File) };
        let extents = vec![
            Extent::Data { id: chunk(2), length: 20 },
            Extent::Hole { length: 7 },
            Extent::Data { id: chunk(3), length: 30 },
        ];
        let referred = |holder: &Node| {
            let (mut nodes, mut chunks) = (Vec::new(), Vec::new());
            holder.references(|id| nodes.push(id), |id, length| chunks.push((id, length)));
            (nodes, chunks)
        };
        let entries = Node::Entries(vec![
            file("a", Content::Chunk(chunk(1)), 10),
            file("b", Content::Extents { hash, extents: extents.clone() }, 57),
            file("c", Content::Indirect { hash, root: node(4) }, 100),
            Entry { subtree: Some(node(5)), ..Entry::new("d", EntryKind::Directory) },
            file("e", Content::None, 0),
        ]);
        assert_eq!(referred(&entries), (vec![node(4), node(5)], vec![(chunk(1), 10), (chunk(2), 20), (chunk(3), 30)]));
        let item = |number| IndexItem { first_name: vec![number], node: node(number) };
        assert_eq!(referred(&Node::EntryIndex(vec![item(1), item(2)])), (vec![node(1), node(2)], vec![]));
        assert_eq!(referred(&Node::Extents(extents)), (vec![], vec![(chunk(2), 20), (chunk(3), 30)]));
        assert_eq!(referred(&Node::ExtentIndex(vec![node(6), node(7)])), (vec![node(6), node(7)], vec![]));
    }

    #[test]
    fn content_is_named_and_kinds_have_words() {
        let (chunk, hash) = (ChunkId::new([1; 32]), ContentId::new([2; 32]));
        assert_eq!(Content::None.hash(), None);
        assert_eq!(Content::Chunk(chunk).hash(), Some(ContentId::new([1; 32])));
        assert_eq!(Content::Extents { hash, extents: Vec::new() }.hash(), Some(hash));
        assert_eq!(Content::Indirect { hash, root: TreeId::new([3; 32]) }.hash(), Some(hash));
        assert_eq!([Extent::Hole { length: 8 }, Extent::Data { id: chunk, length: 9 }].map(|e| e.length()), [8, 9]);
        let words = ["file", "directory", "symlink", "fifo", "socket", "char-device", "block-device"];
        assert_eq!(EntryKind::ALL.map(EntryKind::as_str), words);
    }

    #[test]
    fn an_empty_directory_is_one_node() {
        let mut nodes = Nodes::default();
        let id = write_directory(Vec::new(), &mut nodes).unwrap();
        assert_eq!((nodes.entries(id), nodes.0.len()), (Vec::new(), 1));
    }

    #[test]
    fn entries_that_contradict_themselves_are_refused() {
        let refused = |change: fn(&mut Entry)| {
            let mut entry = many(1).remove(0);
            change(&mut entry);
            assert!(Node::decode(&Node::Entries(vec![entry]).encode()).is_err());
        };
        refused(|entry| entry.size = 0);
        refused(|entry| entry.content = Content::None);
        refused(|entry| entry.kind = EntryKind::Directory);
        refused(|entry| entry.name = b"..".to_vec());
        refused(|entry| entry.name = b"a/b".to_vec());
        refused(|entry| entry.name = vec![b'a'; NAME_MAX_BYTES + 1]);
        refused(|entry| {
            entry.kind = EntryKind::Symlink;
            entry.content = Content::None;
        });
        refused(|entry| {
            entry.kind = EntryKind::Fifo;
            entry.content =
                Content::Extents { hash: ContentId::new([1; 32]), extents: vec![Extent::Hole { length: 1 }] };
        });
        refused(|entry| entry.mode = 0o10000);
        let entry = Entry { mode: 0o7777, ..many(1).remove(0) };
        assert!(Node::decode(&Node::Entries(vec![entry]).encode()).is_ok());
        refused(|entry| entry.mtime.nanos = NANOS_PER_SEC);
        let mut twice = many(2);
        twice[1].name = twice[0].name.clone();
        assert!(Node::decode(&Node::Entries(twice).encode()).is_err());
    }
}
