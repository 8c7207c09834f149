//! Names of things: 32 bytes each, printed as 64 hexadecimal digits.
//!
//! Every kind of thing has a type of its own, so that a tree can never be asked for by a chunk's name. The all-zero
//! name stands for nothing and is refused wherever an id is decoded.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Length of every id in bytes.
pub const ID_LEN: usize = 32;

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an id: expected 64 hexadecimal digits")]
pub struct ParseIdError {
    /// What was given.
    pub text: String,
}

/// Writes bytes as lower-case hexadecimal digits.
pub fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(DIGITS[usize::from(byte >> 4)] as char);
        text.push(DIGITS[usize::from(byte & 15)] as char);
    }
    text
}

/// Reads lower-case hexadecimal digits; `None` where the text is anything else.
///
/// Upper case is refused on purpose: each name has one spelling.
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    if !text.len().is_multiple_of(2) {
        return None;
    }
    text.as_bytes().chunks_exact(2).map(|pair| Some(digit(pair[0])? * 16 + digit(pair[1])?)).collect()
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name([u8; ID_LEN]);

        impl $name {
            /// Wraps the bytes of an id.
            pub const fn new(bytes: [u8; ID_LEN]) -> Self {
                Self(bytes)
            }

            /// Reads an id from exactly 32 bytes that are not all zero.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                let bytes: [u8; ID_LEN] = bytes.try_into().ok()?;
                (bytes != [0; ID_LEN]).then_some(Self(bytes))
            }

            /// Returns the bytes.
            pub const fn as_bytes(&self) -> &[u8; ID_LEN] {
                &self.0
            }

            /// Returns the first eight digits, as shown to people.
            pub fn short(&self) -> String {
                to_hex(&self.0[..4])
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&to_hex(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.short())
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                from_hex(text).and_then(|bytes| Self::from_slice(&bytes)).ok_or_else(|| ParseIdError { text: text.into() })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

ids! {
    /// A repository: random, drawn when it is made.
    RepositoryId;
    /// A chunk of file content: keyed BLAKE3 of its plain bytes.
    ChunkId;
    /// A node of a directory tree or of a long content list: keyed BLAKE3 of its plain bytes, under another key.
    TreeId;
    /// The bytes of a whole file: keyed BLAKE3 under the chunks' key, so for a file of one chunk it is the chunk's id.
    ContentId;
    /// A pack: plain BLAKE3 of the whole object.
    PackId;
    /// An index segment: plain BLAKE3 of the whole object.
    SegmentId;
    /// A run of one writer: random. The snapshot that it commits has the same id.
    SessionId;
    /// A key slot: plain BLAKE3 of the whole object.
    KeySlotId;
    /// A verification ledger: plain BLAKE3 of the whole object.
    LedgerId;
    /// A catalogue of snapshots: plain BLAKE3 of the whole object.
    CatalogueId;
}

/// A snapshot is named after the session that committed it.
pub type SnapshotId = SessionId;

impl From<ChunkId> for ContentId {
    /// A file of one chunk has the chunk's id.
    fn from(id: ChunkId) -> Self {
        Self::new(*id.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_prints_and_parses_as_64_digits() {
        let id = PackId::new([0xab; ID_LEN]);
        assert_eq!(id.to_string(), "ab".repeat(32));
        assert_eq!(id.to_string().parse::<PackId>().ok(), Some(id));
        assert_eq!(format!("{id:?}"), "PackId(abababab)");
    }

    #[test]
    fn the_zero_id_and_other_spellings_are_refused() {
        assert!("00".repeat(32).parse::<PackId>().is_err());
        assert!("AB".repeat(32).parse::<PackId>().is_err());
        assert!("ab".repeat(31).parse::<PackId>().is_err());
        assert!(format!("+{}", "a".repeat(63)).parse::<PackId>().is_err());
    }
}
