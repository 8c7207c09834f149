//! The hash that names objects which are named after their bytes: plain BLAKE3, so that anybody can check them.

/// A hash of an object's bytes.
pub type ObjectHash = blake3::Hash;

/// Hashes a whole object.
pub fn object_hash(bytes: &[u8]) -> ObjectHash {
    blake3::hash(bytes)
}

/// Hashes an object while its bytes come.
#[derive(Debug, Clone, Default)]
pub struct ObjectHasher(blake3::Hasher);

impl ObjectHasher {
    /// Adds the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Returns the hash of the bytes so far.
    pub fn finish(&self) -> ObjectHash {
        self.0.finalize()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_of_parts_is_that_of_the_whole() {
        let mut hasher = ObjectHasher::default();
        assert_eq!(hasher.finish(), object_hash(b""));
        hasher.update(b"one ");
        hasher.update(b"two");
        assert_eq!(hasher.finish(), object_hash(b"one two"));
    }
}
