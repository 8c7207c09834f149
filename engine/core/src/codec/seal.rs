//! Keys and seals.
//!
//! One random data key belongs to a repository; every other key is derived from it with `blake3::derive_key`. Each
//! sealed object draws a random 256-bit salt and has a key of its own, so a nonce (the number of a frame within its
//! object) is never used twice under one key. An unencrypted repository has the same keys, kept in the clear, and a
//! keyed checksum in the place of the seal.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::id::{ChunkId, ContentId, RepositoryId, TreeId};

/// Bytes that a seal adds.
pub const SEAL_LEN: usize = 16;
/// Bytes of a salt.
pub const SALT_LEN: usize = 32;

/// A salt: random, drawn anew for each object.
pub type Salt = [u8; SALT_LEN];

/// How the objects of a repository are protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Encryption {
    /// AES-256-GCM: nobody without the key can read or change anything unnoticed.
    #[serde(rename = "aes-256-gcm")]
    Aes256Gcm,
    /// None. Damage is found; whoever can write can also forge.
    #[serde(rename = "none")]
    None,
}

/// The bytes do not carry the seal that they should: damaged, exchanged, or made under another key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the seal does not match")]
pub struct SealMismatch;

/// The data key of a repository.
#[derive(Clone)]
pub struct DataKey(Zeroizing<[u8; 32]>);

impl DataKey {
    /// Wraps 32 random bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Returns the bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    fn derive(&self, purpose: &str) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(blake3::derive_key(&format!("lakebed 2026 {purpose} v1"), &*self.0))
    }
}

impl std::fmt::Debug for DataKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DataKey(..)")
    }
}

/// Everything that is derived from the data key of one repository.
pub struct RepositoryKeys {
    repository: RepositoryId,
    encryption: Encryption,
    data_key: DataKey,
    chunk_ids: Zeroizing<[u8; 32]>,
    tree_ids: Zeroizing<[u8; 32]>,
    chunker: Zeroizing<[u8; 32]>,
    objects: Zeroizing<[u8; 32]>,
}

impl std::fmt::Debug for RepositoryKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RepositoryKeys").field("repository", &self.repository).finish_non_exhaustive()
    }
}

impl RepositoryKeys {
    /// Derives the keys.
    pub fn derive(repository: RepositoryId, encryption: Encryption, data_key: DataKey) -> Self {
        Self {
            repository,
            encryption,
            chunk_ids: data_key.derive("chunk ids"),
            tree_ids: data_key.derive("tree ids"),
            chunker: data_key.derive("chunker"),
            objects: data_key.derive("objects"),
            data_key,
        }
    }

    /// Returns the repository that the keys belong to.
    pub fn repository(&self) -> RepositoryId {
        self.repository
    }

    /// Returns how objects are protected.
    pub fn encryption(&self) -> Encryption {
        self.encryption
    }

    /// Returns the data key, to wrap it in a key slot.
    pub fn data_key(&self) -> &DataKey {
        &self.data_key
    }

    /// Names a chunk.
    pub fn chunk_id(&self, plain: &[u8]) -> ChunkId {
        ChunkId::new(*blake3::keyed_hash(&self.chunk_ids, plain).as_bytes())
    }

    /// Names a tree node.
    pub fn tree_id(&self, plain: &[u8]) -> TreeId {
        TreeId::new(*blake3::keyed_hash(&self.tree_ids, plain).as_bytes())
    }

    /// Begins the hash of a whole file.
    pub fn content_hasher(&self) -> ContentHasher {
        ContentHasher(blake3::Hasher::new_keyed(&self.chunk_ids))
    }

    /// Returns the key that the chunker's gear table grows from.
    pub fn chunker_key(&self) -> &[u8; 32] {
        &self.chunker
    }

    /// Returns the key of one sealed object.
    pub fn object_key(&self, salt: &Salt) -> ObjectSealer {
        let key = Zeroizing::new(*blake3::keyed_hash(&self.objects, salt).as_bytes());
        ObjectSealer::new(self.encryption, self.repository, &key)
    }
}

/// The hash of a whole file, while its bytes come.
#[derive(Debug, Clone)]
pub struct ContentHasher(blake3::Hasher);

impl ContentHasher {
    /// Adds the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Returns the name of the bytes so far.
    pub fn finish(&self) -> ContentId {
        ContentId::new(*self.0.finalize().as_bytes())
    }
}

enum Cipher {
    Aes(Box<LessSafeKey>),
    Checksum(Zeroizing<[u8; 32]>),
}

/// Seals and opens the frames of one object.
pub struct ObjectSealer {
    cipher: Cipher,
    repository: RepositoryId,
}

impl std::fmt::Debug for ObjectSealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ObjectSealer").finish_non_exhaustive()
    }
}

impl ObjectSealer {
    /// Builds a sealer of a 256-bit key.
    pub(crate) fn new(encryption: Encryption, repository: RepositoryId, key: &[u8; 32]) -> Self {
        let cipher = match encryption {
            Encryption::Aes256Gcm => {
                // AES-256 takes any key of 32 bytes, and the type says that it has 32
                #[expect(clippy::expect_used)]
                let key = UnboundKey::new(&AES_256_GCM, key).expect("a key of 32 bytes");
                Cipher::Aes(Box::new(LessSafeKey::new(key)))
            }
            Encryption::None => Cipher::Checksum(Zeroizing::new(*key)),
        };
        Self { cipher, repository }
    }

    /// Seals `buffer[start..]` in place and appends the [`SEAL_LEN`] bytes of the seal.
    ///
    /// `header` and `context` are protected with it. The caller never uses a number twice.
    ///
    /// # Errors
    /// The cipher failed; the buffer holds nothing of use.
    pub fn seal(
        &self,
        number: u32,
        header: &[u8],
        context: &[u8],
        buffer: &mut Vec<u8>,
        start: usize,
    ) -> Result<(), SealMismatch> {
        match &self.cipher {
            Cipher::Aes(key) => {
                let aad = Aad::from(self.associated(header, context));
                let tag = key
                    .seal_in_place_separate_tag(nonce(number), aad, &mut buffer[start..])
                    .map_err(|_| SealMismatch)?;
                buffer.extend_from_slice(tag.as_ref());
            }
            Cipher::Checksum(key) => {
                let tag = self.checksum(key, number, header, context, &buffer[start..]);
                buffer.extend_from_slice(&tag);
            }
        }
        Ok(())
    }

    /// Opens sealed bytes, the seal at their end, into `out`, which is cleared first.
    ///
    /// # Errors
    /// The seal does not match; `out` is empty.
    pub fn open(
        &self,
        number: u32,
        header: &[u8],
        context: &[u8],
        sealed: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), SealMismatch> {
        let Some((body, tag)) = sealed.len().checked_sub(SEAL_LEN).map(|at| sealed.split_at(at)) else {
            out.clear();
            return Err(SealMismatch);
        };
        match &self.cipher {
            Cipher::Aes(key) => {
                // what it held is overwritten: only what is longer is filled with zeros first
                out.resize(body.len(), 0);
                let aad = Aad::from(self.associated(header, context));
                if key.open_separate_gather(nonce(number), aad, body, tag, out).is_err() {
                    out.clear();
                    return Err(SealMismatch);
                }
            }
            Cipher::Checksum(key) => {
                out.clear();
                if self.checksum(key, number, header, context, body) != *tag {
                    return Err(SealMismatch);
                }
                out.extend_from_slice(body);
            }
        }
        Ok(())
    }

    fn associated(&self, header: &[u8], context: &[u8]) -> Vec<u8> {
        [self.repository.as_bytes(), header, context].concat()
    }

    fn checksum(&self, key: &[u8; 32], number: u32, header: &[u8], context: &[u8], body: &[u8]) -> [u8; SEAL_LEN] {
        let mut hasher = blake3::Hasher::new_keyed(key);
        hasher.update(&number.to_le_bytes());
        let associated = self.associated(header, context);
        hasher.update(&(associated.len() as u64).to_le_bytes());
        hasher.update(&associated);
        hasher.update(body);
        let mut tag = [0; SEAL_LEN];
        hasher.finalize_xof().fill(&mut tag);
        tag
    }
}

fn nonce(number: u32) -> Nonce {
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What format 1 derives, from another implementation of BLAKE3.
    #[test]
    fn golden_keys() {
        let keys = RepositoryKeys::derive(RepositoryId::new([1; 32]), Encryption::None, DataKey::new([2; 32]));
        let notebook = b"some notebook";
        let chunk = keys.chunk_id(notebook);
        assert_eq!(chunk.to_string(), "73bfb86da27c5dd3d2445a0902891a6c7659d4774367eb1c2113a53213b713b6");
        let tree = keys.tree_id(notebook);
        assert_eq!(tree.to_string(), "4aa85eefbfe76a4424178d40732258ebf0684f368f35e492ab870fd9efef2274");
        let chunker = crate::id::to_hex(keys.chunker_key());
        assert_eq!(chunker, "9605878201aa75c011b100a0496d28126722f4744868a50bd3da674e711acac3");
        let mut content = keys.content_hasher();
        notebook.chunks(5).for_each(|part| content.update(part));
        // a file of one chunk and the chunk have one name
        assert_eq!(content.finish(), chunk.into());

        let ObjectSealer { cipher: Cipher::Checksum(object), .. } = keys.object_key(&[7; SALT_LEN]) else { panic!() };
        let object = crate::id::to_hex(&*object);
        assert_eq!(object, "767e5a8fff91a22fe2ffa9f9400cb460620d08f0313c879489a7ac0a8f4ec980");
    }
}
