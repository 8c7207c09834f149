//! The bytes of a node. Specified in `docs/format.md`, section "Trees".

use super::{Content, Entry, EntryKind, Extent, IndexItem, NODE_VERSION, Node, Xattr};
use crate::id::{ChunkId, ContentId, TreeId};
use crate::time::{NANOS_PER_SEC, Timestamp};
use crate::wire::{DecodeError, Reader, put_bytes, put_signed, put_varint};

const WHAT: &str = "tree node";

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
