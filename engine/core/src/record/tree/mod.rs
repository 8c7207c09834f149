//! Trees: directories and long content lists as bounded, Merkle-named nodes.
//!
//! A directory is a sorted sequence of entries, cut into leaves at places that depend on the entries' names only, and
//! above them, where there is more than one leaf, index nodes that list (first name, node). A long content list is cut
//! the same way. No node is larger than [`NODE_MAX_BYTES`], a single oversized entry aside. The bytes of a node are a
//! function of what it holds, so equal directories have equal names.
//!
//! The encoding is specified in `docs/format.md`, section "Trees".

mod encoding;
#[cfg(test)]
mod tests;
mod writer;

pub use self::writer::{DirectoryWriter, ExtentsWriter, NodeSink, write_directory, write_extents};
use crate::id::{ChunkId, ContentId, TreeId};
use crate::time::Timestamp;

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
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

    /// Tells whether two names of one device and number are one file. A file may change between two looks at it, and
    /// numbers are given anew after it is deleted: only what is equal is one.
    pub fn is_same_file(&self, other: &Self) -> bool {
        self.kind == other.kind
            && self.size == other.size
            && self.content == other.content
            && self.link_target == other.link_target
            && self.device == other.device
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

impl Node {
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
}
