//! Frames: plain bytes, compressed and sealed together, behind a short clear header.
//!
//! A frame can be opened alone, and found again in a damaged pack by its magic. Every sealed object of a repository is
//! made of frames: a pack of many, a record (snapshot, session, segment, ...) of exactly one. The layout is specified in
//! `docs/format.md`, section "Frames".

use super::compress::{Compressor, Decompressor};
use super::seal::{ObjectSealer, RepositoryKeys, SALT_LEN, SEAL_LEN, Salt, SealMismatch};
use crate::wire::{DecodeError, Reader, put_varint};

/// First bytes of every frame; the fourth is the format version.
pub const FRAME_MAGIC: [u8; 3] = *b"LBF";
/// Version of the frame layout.
pub const FRAME_VERSION: u8 = 1;
/// Bytes of the clear header.
pub const FRAME_HEADER_LEN: usize = 48;
/// The number of the frame that holds a pack's directory.
pub const DIRECTORY_NUMBER: u32 = u32::MAX;
/// No frame holds more plain bytes than this.
pub const FRAME_PLAIN_MAX: usize = 1 << 30;

macro_rules! frame_kinds {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $word:literal;)*) => {
        /// What a frame holds. Its code is part of what is sealed, so that nothing can pass for something else.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum FrameKind {
            $($(#[$doc])* $name,)*
        }

        impl FrameKind {
            /// Every kind, by ascending code.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// Returns the byte that stands for it.
            pub const fn code(self) -> u8 {
                match self { $(Self::$name => $code),* }
            }

            /// Returns what people call it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $word),* }
            }

            fn from_code(code: u8) -> Option<Self> {
                match code { $($code => Some(Self::$name),)* _ => None }
            }
        }
    };
}

frame_kinds! {
    /// Chunks of files, in a data pack.
    Chunks = 1, "chunks";
    /// Nodes of trees, in a tree pack.
    Nodes = 2, "tree nodes";
    /// The directory at the end of a pack.
    PackDirectory = 3, "pack directory";
    /// An index segment: packs that were added.
    Segment = 4, "index segment";
    /// An index segment: packs that were removed.
    RemovalSegment = 5, "removal segment";
    /// A snapshot.
    Snapshot = 6, "snapshot";
    /// The end of a session that committed nothing, under the key that its snapshot would have had.
    Expiry = 7, "expiry";
    /// New tags or a new description of a snapshot.
    Annotation = 8, "annotation";
    /// A snapshot was forgotten.
    Tombstone = 9, "tombstone";
    /// A tombstone was undone or condemned, under one key.
    Resolution = 10, "tombstone resolution";
    /// A session began, lives, or has come this far.
    Session = 11, "session";
    /// A run ended.
    Run = 12, "run";
    /// A prune took a generation.
    Claim = 13, "generation claim";
    /// Packs are condemned.
    Condemnation = 14, "condemnation";
    /// A prune is done.
    Done = 15, "done mark";
    /// When packs were verified.
    Ledger = 16, "ledger";
    /// The description in a key slot.
    KeyLabel = 17, "key label";
    /// The sessions that a prune waits for.
    Awaited = 18, "awaited sessions";
    /// What a medium was found to do.
    StorageProbe = 19, "storage probe";
    /// Snapshots and expiries of many sessions, once more in one object.
    Catalogue = 20, "catalogue";
}

/// Why a frame cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// It does not begin as a frame does, or its parts do not fit together.
    #[error(transparent)]
    Malformed(#[from] DecodeError),
    /// It is of another kind, number or object than was asked for.
    #[error("it is another one than was asked for: {found} instead of {expected}")]
    Other {
        /// What was asked for.
        expected: String,
        /// What it says it is.
        found: String,
    },
    /// Damaged, exchanged, or sealed under another key.
    #[error(transparent)]
    Seal(#[from] SealMismatch),
    /// The seal holds but the content cannot be decompressed.
    #[error("it cannot be decompressed: {why}")]
    Decompress {
        /// What zstd said.
        why: String,
    },
    /// It could not be built.
    #[error("it cannot be compressed: {why}")]
    Compress {
        /// What zstd said.
        why: String,
    },
}

/// The clear header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// What it holds.
    pub kind: FrameKind,
    /// Whether it is compressed.
    pub compressed: bool,
    /// Salt of its object.
    pub salt: Salt,
    /// Its number within the object: the nonce.
    pub number: u32,
    /// Bytes that follow the header.
    pub sealed_len: u32,
}

impl FrameHeader {
    /// Returns the bytes of the header.
    pub fn encode(&self) -> [u8; FRAME_HEADER_LEN] {
        let mut out = [0; FRAME_HEADER_LEN];
        out[..3].copy_from_slice(&FRAME_MAGIC);
        out[3] = FRAME_VERSION;
        out[4] = self.kind.code();
        out[5] = u8::from(self.compressed);
        out[8..40].copy_from_slice(&self.salt);
        out[40..44].copy_from_slice(&self.number.to_le_bytes());
        out[44..].copy_from_slice(&self.sealed_len.to_le_bytes());
        out
    }

    /// Reads a header from the front of `bytes`.
    ///
    /// # Errors
    /// The bytes are not the front of a frame of a known version.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        const WHAT: &str = "frame header";
        let mut reader = Reader::new(bytes, WHAT);
        if reader.array::<3>()? != FRAME_MAGIC {
            return Err(reader.invalid("it does not begin with the frame magic"));
        }
        let version = reader.u8()?;
        if version != FRAME_VERSION {
            return Err(DecodeError::NewerVersion { what: WHAT, found: version.into(), known: FRAME_VERSION.into() });
        }
        let kind = FrameKind::from_code(reader.u8()?).ok_or_else(|| reader.invalid("its kind is not known"))?;
        let compressed = match reader.u8()? {
            0 => false,
            1 => true,
            _ => return Err(reader.invalid("its codec is not known")),
        };
        if reader.array::<2>()? != [0, 0] {
            return Err(reader.invalid("its reserved bytes are not zero"));
        }
        let salt = reader.array::<SALT_LEN>()?;
        let (number, sealed_len) = (reader.u32()?, reader.u32()?);
        if (sealed_len as usize) < SEAL_LEN {
            return Err(reader.invalid("it is shorter than its seal"));
        }
        Ok(Self { kind, compressed, salt, number, sealed_len })
    }

    /// Returns the length of the whole frame in bytes.
    pub fn frame_len(&self) -> usize {
        FRAME_HEADER_LEN + self.sealed_len as usize
    }
}

/// Buffers and contexts that sealing and opening keep from call to call; one for each thread.
#[derive(Debug)]
pub struct FrameScratch {
    compressor: Compressor,
    decompressor: Decompressor,
    buffer: Vec<u8>,
}

impl FrameScratch {
    /// Builds the contexts.
    ///
    /// # Errors
    /// There is no memory for them.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self { compressor: Compressor::new()?, decompressor: Decompressor::new()?, buffer: Vec::new() })
    }

    /// Compresses plain bytes for [`seal_frame`]. They come back as they are where that saves less than 3 %.
    ///
    /// # Errors
    /// zstd failed.
    pub fn compress<'a>(&'a mut self, plain: &'a [u8], level: Option<i32>) -> Result<Packed<'a>, FrameError> {
        let compressed = match level {
            Some(level) => self
                .compressor
                .compress(level, plain, &mut self.buffer)
                .map_err(|error| FrameError::Compress { why: error.to_string() })?,
            None => false,
        };
        Ok(Packed { bytes: if compressed { &self.buffer } else { plain }, compressed })
    }
}

/// Bytes that are ready to be sealed.
#[derive(Debug, Clone, Copy)]
pub struct Packed<'a> {
    bytes: &'a [u8],
    compressed: bool,
}

impl Packed<'_> {
    /// Returns the length in bytes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Tells whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// Which frame of which object: what is sealed with it.
#[derive(Debug, Clone, Copy)]
pub struct FrameName<'a> {
    /// What it holds.
    pub kind: FrameKind,
    /// Salt of its object.
    pub salt: &'a Salt,
    /// Number within the object.
    pub number: u32,
    /// What else it is bound to: an object's key, a pack's trailer.
    pub context: &'a [u8],
}

/// Appends a frame to `out`: the chunks whose lengths are given, which `packed` holds one after the other.
///
/// # Errors
/// The cipher failed, or the frame is larger than 4 GiB.
pub fn seal_frame(
    sealer: &ObjectSealer,
    name: FrameName<'_>,
    lengths: &[u32],
    packed: Packed<'_>,
    out: &mut Vec<u8>,
) -> Result<(), FrameError> {
    let start = out.len();
    out.resize(start + FRAME_HEADER_LEN, 0);
    put_varint(out, lengths.len() as u64);
    lengths.iter().for_each(|&length| put_varint(out, u64::from(length)));
    out.extend_from_slice(packed.bytes);
    let sealed_len = u32::try_from(out.len() - start - FRAME_HEADER_LEN + SEAL_LEN)
        .map_err(|_| DecodeError::invalid("frame", "it is larger than 4 GiB"))?;
    let header = FrameHeader {
        kind: name.kind,
        compressed: packed.compressed,
        salt: *name.salt,
        number: name.number,
        sealed_len,
    };
    let header = header.encode();
    out[start..start + FRAME_HEADER_LEN].copy_from_slice(&header);
    sealer.seal(name.number, &header, name.context, out, start + FRAME_HEADER_LEN)?;
    Ok(())
}

/// The plain content of a frame.
#[derive(Debug, Default, Clone)]
pub struct OpenFrame {
    /// Lengths of its chunks.
    pub lengths: Vec<u32>,
    /// Their bytes, one after the other.
    pub plain: Vec<u8>,
}

impl OpenFrame {
    /// Returns the chunks.
    pub fn chunks(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.plain[..];
        self.lengths.iter().map(move |&length| {
            let (chunk, after) = rest.split_at(length as usize);
            rest = after;
            chunk
        })
    }

    /// Returns the lengths of the chunks behind the one that ends there.
    pub fn lengths_from(&self, end: usize) -> impl Iterator<Item = usize> {
        let mut at = 0;
        let behind = move |length: &usize| {
            let starts_before = at < end;
            at += length;
            starts_before
        };
        self.lengths.iter().map(|&length| length as usize).skip_while(behind)
    }
}

/// Opens the frame that `bytes` are, all of them, into `out`.
///
/// # Errors
/// It is not the frame that was asked for, or damaged.
pub fn open_frame(
    sealer: &ObjectSealer,
    name: FrameName<'_>,
    bytes: &[u8],
    scratch: &mut FrameScratch,
    out: &mut OpenFrame,
) -> Result<(), FrameError> {
    out.lengths.clear();
    out.plain.clear();
    let header = FrameHeader::decode(bytes)?;
    if header.kind != name.kind || header.number != name.number || header.salt != *name.salt {
        let describe = |kind: FrameKind, number: u32, salt: &Salt| {
            format!("{} number {number} of salt {}", kind.as_str(), crate::id::to_hex(&salt[..4]))
        };
        return Err(FrameError::Other {
            expected: describe(name.kind, name.number, name.salt),
            found: describe(header.kind, header.number, &header.salt),
        });
    }
    let (head, sealed) = bytes.split_at(FRAME_HEADER_LEN);
    if sealed.len() != header.sealed_len as usize {
        let why = format!("expected {} sealed bytes, found {}", header.sealed_len, sealed.len());
        return Err(DecodeError::invalid("frame", why).into());
    }
    sealer.open(name.number, head, name.context, sealed, &mut scratch.buffer)?;
    let mut reader = Reader::new(&scratch.buffer, "frame");
    let mut plain_len = 0usize;
    for _ in 0..reader.count(1)? {
        let length = reader.varint_u32()?;
        plain_len = plain_len
            .checked_add(length as usize)
            .filter(|&sum| sum <= FRAME_PLAIN_MAX)
            .ok_or_else(|| reader.invalid("its chunks are too long"))?;
        out.lengths.push(length);
    }
    let body = reader.take(reader.remaining())?;
    if header.compressed {
        scratch
            .decompressor
            .decompress(body, plain_len, &mut out.plain)
            .map_err(|error| FrameError::Decompress { why: error.to_string() })?;
    } else if body.len() == plain_len {
        out.plain.extend_from_slice(body);
    } else {
        return Err(DecodeError::invalid("frame", "its chunks do not fill it").into());
    }
    Ok(())
}

/// Seals a record: an object of one frame, bound to the name under which it is stored.
///
/// `context` is the object's key, or for an object named after its bytes the key's first part with its slash (`index/`, `ledger/`).
///
/// # Errors
/// As [`seal_frame`].
pub fn seal_record(
    keys: &RepositoryKeys,
    kind: FrameKind,
    salt: &Salt,
    context: &str,
    plain: &[u8],
    scratch: &mut FrameScratch,
) -> Result<Vec<u8>, FrameError> {
    let length = u32::try_from(plain.len())
        .ok()
        .filter(|&length| length as usize <= FRAME_PLAIN_MAX)
        .ok_or_else(|| DecodeError::invalid(kind.as_str(), "it is larger than 1 GiB"))?;
    let mut out = Vec::new();
    let name = FrameName { kind, salt, number: 0, context: context.as_bytes() };
    seal_frame(&keys.object_key(salt), name, &[length], scratch.compress(plain, Some(3))?, &mut out)?;
    Ok(out)
}

/// Opens a record of one of the given kinds and returns which one it is, and its plain bytes.
///
/// # Errors
/// It is of another kind, sealed for another name, or damaged.
pub fn open_record(
    keys: &RepositoryKeys,
    kinds: &[FrameKind],
    context: &str,
    bytes: &[u8],
    scratch: &mut FrameScratch,
) -> Result<(FrameKind, Vec<u8>), FrameError> {
    let header = FrameHeader::decode(bytes)?;
    if !kinds.contains(&header.kind) {
        return Err(FrameError::Other {
            expected: kinds.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(" or "),
            found: header.kind.as_str().into(),
        });
    }
    let name = FrameName { kind: header.kind, salt: &header.salt, number: 0, context: context.as_bytes() };
    let mut frame = OpenFrame::default();
    open_frame(&keys.object_key(&header.salt), name, bytes, scratch, &mut frame)?;
    if frame.lengths.len() != 1 {
        return Err(DecodeError::invalid(header.kind.as_str(), "it does not hold exactly one record").into());
    }
    Ok((header.kind, frame.plain))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::seal::{DataKey, Encryption};
    use crate::id::RepositoryId;
    use proptest::prelude::*;

    fn keys(encryption: Encryption) -> RepositoryKeys {
        RepositoryKeys::derive(RepositoryId::new([1; 32]), encryption, DataKey::new([2; 32]))
    }

    const NAME: FrameName<'static> = FrameName { kind: FrameKind::Chunks, salt: &[7; 32], number: 3, context: b"ctx" };

    fn frame(keys: &RepositoryKeys, chunks: &[Vec<u8>], level: Option<i32>) -> Vec<u8> {
        let mut scratch = FrameScratch::new().unwrap();
        let lengths: Vec<u32> = chunks.iter().map(|chunk| chunk.len() as u32).collect();
        let plain = chunks.concat();
        let mut out = Vec::new();
        seal_frame(&keys.object_key(NAME.salt), NAME, &lengths, scratch.compress(&plain, level).unwrap(), &mut out)
            .unwrap();
        out
    }

    fn open(keys: &RepositoryKeys, name: FrameName<'_>, bytes: &[u8]) -> Result<OpenFrame, FrameError> {
        let mut out = OpenFrame::default();
        open_frame(&keys.object_key(name.salt), name, bytes, &mut FrameScratch::new().unwrap(), &mut out).map(|()| out)
    }

    proptest! {
        #[test]
        fn chunks_come_back(
            chunks in prop::collection::vec(prop::collection::vec(0u8..4, 0..2000), 0..20),
            encrypted: bool,
            compress: bool,
        ) {
            let keys = keys(if encrypted { Encryption::Aes256Gcm } else { Encryption::None });
            let bytes = frame(&keys, &chunks, compress.then_some(3));
            let back = open(&keys, NAME, &bytes).unwrap();
            prop_assert_eq!(back.chunks().map(<[u8]>::to_vec).collect::<Vec<_>>(), chunks);
        }

        #[test]
        fn random_bytes_never_panic(bytes: Vec<u8>) {
            let _ = FrameHeader::decode(&bytes);
            let _ = open(&keys(Encryption::None), NAME, &bytes);
        }
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_is_found() {
        for encryption in [Encryption::Aes256Gcm, Encryption::None] {
            let keys = keys(encryption);
            let bytes = frame(&keys, &[b"some notebook".to_vec(), b"another one".to_vec()], Some(3));
            for at in 0..bytes.len() * 8 {
                let mut bad = bytes.clone();
                bad[at / 8] ^= 1 << (at % 8);
                assert!(open(&keys, NAME, &bad).is_err(), "bit {at}");
            }
            for length in 0..bytes.len() {
                assert!(open(&keys, NAME, &bytes[..length]).is_err(), "length {length}");
            }
        }
    }

    #[test]
    fn a_header_says_how_long_the_frame_is() {
        let header =
            |sealed_len| FrameHeader { kind: FrameKind::Nodes, compressed: true, salt: [7; 32], number: 9, sealed_len };
        let shortest = header(SEAL_LEN as u32);
        assert_eq!(FrameHeader::decode(&shortest.encode()), Ok(shortest));
        assert_eq!(shortest.frame_len(), 64);
        assert_eq!(header(1000).frame_len(), 1048);
        assert!(FrameHeader::decode(&header(SEAL_LEN as u32 - 1).encode()).is_err());
    }

    #[test]
    fn frames_are_appended_to_what_is_there() {
        let keys = keys(Encryption::Aes256Gcm);
        let mut scratch = FrameScratch::new().unwrap();
        let mut out = b"in front".to_vec();
        for number in 0..2 {
            let name = FrameName { number, ..NAME };
            let packed = scratch.compress(b"some notebook", None).unwrap();
            assert_eq!((packed.len(), packed.is_empty()), (13, false));
            seal_frame(&keys.object_key(NAME.salt), name, &[13], packed, &mut out).unwrap();
        }
        assert!(scratch.compress(b"", None).unwrap().is_empty());
        let mut rest = out.strip_prefix(b"in front").unwrap();
        for number in 0..2 {
            let (frame, after) = rest.split_at(FrameHeader::decode(rest).unwrap().frame_len());
            assert_eq!(open(&keys, FrameName { number, ..NAME }, frame).unwrap().plain, b"some notebook");
            rest = after;
        }
        assert!(rest.is_empty());
    }

    #[test]
    fn a_frame_in_the_place_of_another_is_told_from_a_damaged_one() {
        let keys = keys(Encryption::Aes256Gcm);
        let bytes = frame(&keys, &[b"x".to_vec()], None);
        for name in [
            FrameName { number: 4, ..NAME },
            FrameName { kind: FrameKind::Nodes, ..NAME },
            FrameName { salt: &[8; 32], ..NAME },
        ] {
            let error = open(&keys, name, &bytes).unwrap_err();
            assert!(matches!(error, FrameError::Other { .. }), "{name:?}: {error}");
        }
    }

    #[test]
    fn a_frame_is_bound_to_kind_number_salt_context_and_repository() {
        let keys = keys(Encryption::Aes256Gcm);
        let bytes = frame(&keys, &[b"x".to_vec()], None);
        assert!(open(&keys, NAME, &bytes).is_ok());
        assert!(open(&keys, FrameName { number: 4, ..NAME }, &bytes).is_err());
        assert!(open(&keys, FrameName { kind: FrameKind::Nodes, ..NAME }, &bytes).is_err());
        assert!(open(&keys, FrameName { context: b"other", ..NAME }, &bytes).is_err());
        assert!(open(&keys, FrameName { salt: &[8; 32], ..NAME }, &bytes).is_err());
        let other = RepositoryKeys::derive(RepositoryId::new([9; 32]), Encryption::Aes256Gcm, DataKey::new([2; 32]));
        assert_eq!(open(&other, NAME, &bytes).unwrap_err(), FrameError::Seal(SealMismatch));
    }
}
