//! Packs and index segments: bytes only.
//!
//! A pack is a row of frames, a sealed directory of them, and a fixed trailer. It is named after the BLAKE3 of all its
//! bytes, so anybody can tell a damaged pack. An index segment repeats the directories of some packs, so that nobody
//! needs to read the packs to know what they hold. Layouts: `docs/format.md`, sections "Packs" and "Index segments".

use crate::codec::frame::{
    DIRECTORY_NUMBER, FRAME_HEADER_LEN, FrameError, FrameHeader, FrameKind, FrameName, FrameScratch, OpenFrame,
    open_frame, seal_frame,
};
use crate::codec::seal::{ObjectSealer, RepositoryKeys, SALT_LEN, Salt};
use crate::id::{ChunkId, ID_LEN, PackId, SegmentId, SessionId, TreeId};
use crate::wire::{DecodeError, Reader, put_varint};

/// First bytes of a trailer; the fourth is the format version.
pub const TRAILER_MAGIC: [u8; 3] = *b"LBP";
/// Version of packs, directories and segments.
pub const PACK_VERSION: u8 = 1;
/// Bytes of a trailer.
pub const TRAILER_LEN: usize = 88;

/// What a pack holds a piece of: a chunk of a file or a node of a tree. The two are named under different keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlobId([u8; ID_LEN]);

impl BlobId {
    /// Wraps the bytes of an id.
    pub const fn new(bytes: [u8; ID_LEN]) -> Self {
        Self(bytes)
    }

    /// Returns the bytes.
    pub const fn as_bytes(&self) -> &[u8; ID_LEN] {
        &self.0
    }
}

impl From<ChunkId> for BlobId {
    fn from(id: ChunkId) -> Self {
        Self(*id.as_bytes())
    }
}

impl From<TreeId> for BlobId {
    fn from(id: TreeId) -> Self {
        Self(*id.as_bytes())
    }
}

impl std::fmt::Display for BlobId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&crate::id::to_hex(&self.0))
    }
}

/// Data and metadata go to different packs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PackKind {
    /// Chunks of files.
    Data,
    /// Nodes of trees.
    Tree,
}

impl PackKind {
    /// Returns the kind of the frames of such a pack.
    pub fn frame_kind(self) -> FrameKind {
        match self {
            Self::Data => FrameKind::Chunks,
            Self::Tree => FrameKind::Nodes,
        }
    }

    fn code(self) -> u8 {
        match self {
            Self::Data => 1,
            Self::Tree => 2,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Data),
            2 => Some(Self::Tree),
            _ => None,
        }
    }

    /// Returns the name of a chunk or node of such a pack.
    pub fn blob_id(self, keys: &RepositoryKeys, plain: &[u8]) -> BlobId {
        match self {
            Self::Data => keys.chunk_id(plain).into(),
            Self::Tree => keys.tree_id(plain).into(),
        }
    }
}

/// One chunk or node in a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobInfo {
    /// Its name.
    pub id: BlobId,
    /// Plain length in bytes.
    pub length: u32,
}

/// One frame in a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameInfo {
    /// Its number: the nonce.
    pub number: u32,
    /// Length of the whole frame in bytes.
    pub frame_len: u32,
    /// What it holds, in order.
    pub blobs: Vec<BlobInfo>,
}

/// What a pack holds: its frames, one after the other from the pack's first byte on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackDirectory {
    /// Data or metadata.
    pub kind: PackKind,
    /// The session that wrote it.
    pub session: SessionId,
    /// Salt of the pack.
    pub salt: Salt,
    /// Its frames.
    pub frames: Vec<FrameInfo>,
}

impl PackDirectory {
    /// Returns the frames with the offset of each in the pack, in bytes.
    pub fn frames_at(&self) -> impl Iterator<Item = (u64, &FrameInfo)> {
        self.frames.iter().scan(0u64, |offset, frame| {
            let at = *offset;
            *offset += u64::from(frame.frame_len);
            Some((at, frame))
        })
    }

    /// Returns the length of all frames in bytes.
    pub fn frames_len(&self) -> u64 {
        self.frames.iter().map(|frame| u64::from(frame.frame_len)).sum()
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.push(self.kind.code());
        out.extend_from_slice(self.session.as_bytes());
        out.extend_from_slice(&self.salt);
        put_varint(out, self.frames.len() as u64);
        for frame in &self.frames {
            put_varint(out, u64::from(frame.number));
            put_varint(out, u64::from(frame.frame_len));
            put_varint(out, frame.blobs.len() as u64);
            for blob in &frame.blobs {
                put_varint(out, u64::from(blob.length));
                out.extend_from_slice(blob.id.as_bytes());
            }
        }
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let kind = PackKind::from_code(reader.u8()?).ok_or_else(|| reader.invalid("its kind is not known"))?;
        let session = reader.id(SessionId::from_slice)?;
        let salt = reader.array::<SALT_LEN>()?;
        let count = reader.count(3)?;
        let mut frames = Vec::with_capacity(count);
        let mut offset = 0u64;
        for _ in 0..count {
            let (number, frame_len) = (reader.varint_u32()?, reader.varint_u32()?);
            offset += u64::from(frame_len);
            if (frame_len as usize) < FRAME_HEADER_LEN || offset > u64::from(u32::MAX) {
                return Err(reader.invalid("the lengths of its frames cannot be"));
            }
            let count = reader.count(1 + ID_LEN)?;
            let mut blobs = Vec::with_capacity(count);
            let mut plain_len = 0u32;
            for _ in 0..count {
                let length = reader.varint_u32()?;
                plain_len =
                    plain_len.checked_add(length).ok_or_else(|| reader.invalid("a frame holds more than 4 GiB"))?;
                blobs.push(BlobInfo { length, id: BlobId::new(reader.array()?) });
            }
            frames.push(FrameInfo { number, frame_len, blobs });
        }
        Ok(Self { kind, session, salt, frames })
    }

    /// Returns the bytes of the directory.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![PACK_VERSION];
        self.put(&mut out);
        out
    }

    /// Reads a directory.
    ///
    /// # Errors
    /// Bytes that no writer of a known version can have written.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = versioned(bytes, "pack directory")?;
        let directory = Self::take(&mut reader)?;
        reader.end()?;
        Ok(directory)
    }

    /// Returns the sealed directory and the trailer: the end of a pack.
    ///
    /// # Errors
    /// As [`seal_frame`].
    pub fn seal_tail(&self, sealer: &ObjectSealer, scratch: &mut FrameScratch) -> Result<Vec<u8>, FrameError> {
        let trailer = Trailer { kind: self.kind, salt: self.salt, session: self.session, directory_len: 0 };
        let plain = self.encode();
        let length = u32::try_from(plain.len())
            .map_err(|_| DecodeError::invalid("pack directory", "it is larger than 4 GiB"))?;
        let mut out = Vec::new();
        let name = FrameName {
            kind: FrameKind::PackDirectory,
            salt: &self.salt,
            number: DIRECTORY_NUMBER,
            context: &trailer.bound(),
        };
        seal_frame(sealer, name, &[length], scratch.compress(&plain, Some(3))?, &mut out)?;
        // a frame is never larger than 4 GiB
        let trailer = Trailer { directory_len: out.len() as u32, ..trailer };
        out.extend_from_slice(&trailer.encode());
        Ok(out)
    }
}

fn versioned<'a>(bytes: &'a [u8], what: &'static str) -> Result<Reader<'a>, DecodeError> {
    let mut reader = Reader::new(bytes, what);
    match reader.u8()? {
        PACK_VERSION => Ok(reader),
        found => Err(DecodeError::NewerVersion { what, found: found.into(), known: PACK_VERSION.into() }),
    }
}

/// The clear end of a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trailer {
    /// Data or metadata.
    pub kind: PackKind,
    /// Salt of the pack.
    pub salt: Salt,
    /// The session that wrote it.
    pub session: SessionId,
    /// Length of the sealed directory before the trailer, in bytes.
    pub directory_len: u32,
}

impl Trailer {
    /// Returns the bytes of the trailer.
    pub fn encode(&self) -> [u8; TRAILER_LEN] {
        let mut out = [0; TRAILER_LEN];
        out[..72].copy_from_slice(&self.bound());
        out[72..76].copy_from_slice(&self.directory_len.to_le_bytes());
        out
    }

    /// The part that is sealed with the directory.
    fn bound(&self) -> [u8; 72] {
        let mut out = [0; 72];
        out[..3].copy_from_slice(&TRAILER_MAGIC);
        out[3] = PACK_VERSION;
        out[4] = self.kind.code();
        out[8..40].copy_from_slice(&self.salt);
        out[40..72].copy_from_slice(self.session.as_bytes());
        out
    }

    /// Reads a trailer.
    ///
    /// # Errors
    /// The bytes are no trailer of a known version.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        const WHAT: &str = "pack trailer";
        let mut reader = Reader::new(bytes, WHAT);
        if reader.array::<3>()? != TRAILER_MAGIC {
            return Err(reader.invalid("it does not begin with the trailer magic"));
        }
        let version = reader.u8()?;
        if version != PACK_VERSION {
            return Err(DecodeError::NewerVersion { what: WHAT, found: version.into(), known: PACK_VERSION.into() });
        }
        let kind = PackKind::from_code(reader.u8()?).ok_or_else(|| reader.invalid("its kind is not known"))?;
        let reserved = reader.array::<3>()?;
        let salt = reader.array()?;
        let session = reader.id(SessionId::from_slice)?;
        let directory_len = reader.u32()?;
        if reserved != [0; 3] || reader.array::<12>()? != [0; 12] {
            return Err(reader.invalid("its reserved bytes are not zero"));
        }
        reader.end()?;
        Ok(Self { kind, salt, session, directory_len })
    }

    /// Opens the directory that stands before this trailer.
    ///
    /// # Errors
    /// It is damaged, or not the one of this trailer.
    pub fn open_directory(
        &self,
        keys: &RepositoryKeys,
        sealed: &[u8],
        scratch: &mut FrameScratch,
    ) -> Result<PackDirectory, FrameError> {
        let header = FrameHeader::decode(sealed)?;
        let bound = self.bound();
        let name =
            FrameName { kind: FrameKind::PackDirectory, salt: &self.salt, number: DIRECTORY_NUMBER, context: &bound };
        let mut frame = OpenFrame::default();
        open_frame(&keys.object_key(&header.salt), name, sealed, scratch, &mut frame)?;
        let directory = PackDirectory::decode(&frame.plain)?;
        if directory.kind != self.kind || directory.salt != self.salt || directory.session != self.session {
            return Err(DecodeError::invalid("pack directory", "it contradicts the trailer").into());
        }
        Ok(directory)
    }
}

/// A pack as a segment describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackInfo {
    /// Its name.
    pub id: PackId,
    /// Size of the whole object in bytes.
    pub size_bytes: u64,
    /// What it holds.
    pub directory: PackDirectory,
}

impl PackInfo {
    /// Returns how many chunks or nodes it holds.
    pub fn blobs(&self) -> usize {
        self.directory.frames.iter().map(|frame| frame.blobs.len()).sum()
    }
}

/// Returns the bytes of an index segment: packs that were added.
pub fn encode_segment(packs: &[PackInfo]) -> Vec<u8> {
    let mut out = vec![PACK_VERSION];
    put_varint(&mut out, packs.len() as u64);
    for pack in packs {
        out.extend_from_slice(pack.id.as_bytes());
        put_varint(&mut out, pack.size_bytes);
        pack.directory.put(&mut out);
    }
    out
}

/// Reads an index segment.
///
/// # Errors
/// Bytes that no writer of a known version can have written.
pub fn decode_segment(bytes: &[u8]) -> Result<Vec<PackInfo>, DecodeError> {
    let mut reader = versioned(bytes, "index segment")?;
    let count = reader.count(ID_LEN + 2 + ID_LEN + SALT_LEN)?;
    let mut packs = Vec::with_capacity(count);
    for _ in 0..count {
        let id = reader.id(PackId::from_slice)?;
        let size_bytes = reader.varint()?;
        packs.push(PackInfo { id, size_bytes, directory: PackDirectory::take(&mut reader)? });
    }
    reader.end()?;
    Ok(packs)
}

/// What a removal segment says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Removal {
    /// Packs that left, or are about to leave, the repository for ever.
    pub packs: Vec<PackId>,
    /// Segments that others took the place of: what they said is said anew, but for packs that left.
    pub replaced: Vec<SegmentId>,
}

/// Returns the bytes of a removal segment.
pub fn encode_removal(removal: &Removal) -> Vec<u8> {
    let mut out = vec![PACK_VERSION];
    put_varint(&mut out, removal.packs.len() as u64);
    removal.packs.iter().for_each(|id| out.extend_from_slice(id.as_bytes()));
    put_varint(&mut out, removal.replaced.len() as u64);
    removal.replaced.iter().for_each(|id| out.extend_from_slice(id.as_bytes()));
    out
}

/// Reads a removal segment.
///
/// # Errors
/// Bytes that no writer of a known version can have written.
pub fn decode_removal(bytes: &[u8]) -> Result<Removal, DecodeError> {
    let mut reader = versioned(bytes, "removal segment")?;
    let count = reader.count(ID_LEN)?;
    let packs = (0..count).map(|_| reader.id(PackId::from_slice)).collect::<Result<_, _>>()?;
    let count = reader.count(ID_LEN)?;
    let replaced = (0..count).map(|_| reader.id(SegmentId::from_slice)).collect::<Result<_, _>>()?;
    reader.end()?;
    Ok(Removal { packs, replaced })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::seal::{DataKey, Encryption};
    use crate::id::RepositoryId;
    use proptest::prelude::*;

    fn arb_directory() -> impl Strategy<Value = PackDirectory> {
        let blob = (prop::array::uniform32(any::<u8>()), 0u32..1 << 20)
            .prop_map(|(id, length)| BlobInfo { id: BlobId::new(id), length });
        let frame = (any::<u32>(), 48u32..1 << 20, prop::collection::vec(blob, 0..6))
            .prop_map(|(number, frame_len, blobs)| FrameInfo { number, frame_len, blobs });
        (any::<bool>(), prop::array::uniform32(1u8..), any::<[u8; 32]>(), prop::collection::vec(frame, 0..6)).prop_map(
            |(data, session, salt, frames)| PackDirectory {
                kind: if data { PackKind::Data } else { PackKind::Tree },
                session: SessionId::new(session),
                salt,
                frames,
            },
        )
    }

    fn keys() -> RepositoryKeys {
        RepositoryKeys::derive(RepositoryId::new([1; 32]), Encryption::Aes256Gcm, DataKey::new([2; 32]))
    }

    #[test]
    fn frames_lie_one_after_the_other() {
        let frame = |number, frame_len| FrameInfo { number, frame_len, blobs: Vec::new() };
        let directory = PackDirectory {
            kind: PackKind::Tree,
            session: SessionId::new([1; 32]),
            salt: [2; SALT_LEN],
            frames: vec![frame(0, 100), frame(1, 48), frame(5, 70)],
        };
        let at: Vec<_> = directory.frames_at().map(|(at, frame)| (at, frame.number)).collect();
        assert_eq!(at, [(0, 0), (100, 1), (148, 5)]);
        assert_eq!(directory.frames_len(), 218);
    }

    #[test]
    fn frames_that_no_pack_can_hold_are_refused() {
        let decode = |lengths: &[u32]| {
            let frame = |&frame_len: &u32| FrameInfo { number: 0, frame_len, blobs: Vec::new() };
            let frames = lengths.iter().map(frame).collect();
            let directory =
                PackDirectory { kind: PackKind::Data, session: SessionId::new([1; 32]), salt: [2; SALT_LEN], frames };
            PackDirectory::decode(&directory.encode())
        };
        let shortest = FRAME_HEADER_LEN as u32;
        assert!(decode(&[shortest]).is_ok());
        assert!(decode(&[shortest - 1]).is_err());
        // a pack has at most 4 GiB
        assert!(decode(&[u32::MAX]).is_ok());
        assert!(decode(&[u32::MAX - shortest, shortest]).is_ok());
        assert!(decode(&[u32::MAX - shortest, shortest, shortest]).is_err());
    }

    #[test]
    fn a_directory_that_is_not_the_one_of_its_trailer_is_refused() {
        let (keys, mut scratch) = (keys(), FrameScratch::new().unwrap());
        let right = PackDirectory {
            kind: PackKind::Data,
            session: SessionId::new([1; 32]),
            salt: [2; SALT_LEN],
            frames: Vec::new(),
        };
        let trailer = Trailer { kind: right.kind, salt: right.salt, session: right.session, directory_len: 0 };
        // sealed for that trailer, as only whoever has the key can do
        let mut open = |directory: &PackDirectory| {
            let (plain, mut sealed) = (directory.encode(), Vec::new());
            let packed = scratch.compress(&plain, None).unwrap();
            let name = FrameName {
                kind: FrameKind::PackDirectory,
                salt: &trailer.salt,
                number: DIRECTORY_NUMBER,
                context: &trailer.bound(),
            };
            seal_frame(&keys.object_key(&trailer.salt), name, &[plain.len() as u32], packed, &mut sealed).unwrap();
            trailer.open_directory(&keys, &sealed, &mut scratch)
        };
        assert_eq!(open(&right), Ok(right.clone()));
        assert!(open(&PackDirectory { kind: PackKind::Tree, ..right.clone() }).is_err());
        assert!(open(&PackDirectory { session: SessionId::new([9; 32]), ..right.clone() }).is_err());
        assert!(open(&PackDirectory { salt: [9; SALT_LEN], ..right.clone() }).is_err());
    }

    #[test]
    fn a_blob_is_shown_as_its_digits() {
        assert_eq!(BlobId::new([0x1f; 32]).to_string(), "1f".repeat(32));
    }

    proptest! {
        #[test]
        fn directories_and_segments_come_back(directory in arb_directory(), id in prop::array::uniform32(1u8..)) {
            prop_assert_eq!(&PackDirectory::decode(&directory.encode()).unwrap(), &directory);
            let pack = PackInfo { id: PackId::new(id), size_bytes: 77, directory };
            let bytes = encode_segment(std::slice::from_ref(&pack));
            prop_assert_eq!(decode_segment(&bytes).unwrap(), vec![pack]);
            let removal = Removal { packs: vec![PackId::new(id)], replaced: vec![SegmentId::new(id); 2] };
            prop_assert_eq!(decode_removal(&encode_removal(&removal)).unwrap(), removal);
        }

        #[test]
        fn the_end_of_a_pack_opens_and_no_byte_of_it_can_change(
            directory in arb_directory(),
            at: prop::sample::Index,
            bit in 0u8..8,
        ) {
            let (keys, mut scratch) = (keys(), FrameScratch::new().unwrap());
            let tail = directory.seal_tail(&keys.object_key(&directory.salt), &mut scratch).unwrap();
            let mut open = |tail: &[u8]| {
                let (sealed, trailer) = tail.split_at(tail.len() - TRAILER_LEN);
                let trailer = Trailer::decode(trailer).ok()?;
                // the length is not sealed; whoever reads it finds that it does not fit
                let fits = trailer.directory_len as usize == sealed.len();
                trailer.open_directory(&keys, sealed, &mut scratch).ok().filter(|_| fits)
            };
            prop_assert_eq!(open(&tail), Some(directory));
            let mut bad = tail.clone();
            let at = at.index(bad.len());
            bad[at] ^= 1 << bit;
            prop_assert_eq!(open(&bad), None);
        }

        #[test]
        fn random_bytes_never_panic(bytes: Vec<u8>) {
            let versioned = [&[PACK_VERSION], &bytes[..]].concat();
            let _ = (PackDirectory::decode(&versioned), decode_segment(&versioned), decode_removal(&versioned));
            let _ = Trailer::decode(&bytes);
            let _ = Trailer::decode(&[&TRAILER_MAGIC[..], &versioned].concat());
        }
    }
}
