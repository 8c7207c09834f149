//! Bytes on disk: little-endian integers, LEB128 varints and length-prefixed byte strings.
//!
//! There is one spelling of each value: a varint with a redundant last byte is refused, and so are bytes left over.

/// Why bytes could not be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes end before the value does.
    #[error("the {what} ends too early")]
    Truncated {
        /// What was being read.
        what: &'static str,
    },
    /// Bytes follow the end.
    #[error("{count} bytes follow the end of the {what}")]
    Trailing {
        /// What was being read.
        what: &'static str,
        /// How many bytes are left over.
        count: usize,
    },
    /// A value is not one that the writer can have written.
    #[error("the {what} is not valid: {why}")]
    Invalid {
        /// What was being read.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// It was written by a newer lakebed.
    #[error("the {what} has format version {found}; this lakebed reads up to {known}")]
    NewerVersion {
        /// What was being read.
        what: &'static str,
        /// The version found.
        found: u32,
        /// The newest version that can be read.
        known: u32,
    },
}

impl DecodeError {
    /// Builds an [`DecodeError::Invalid`].
    pub fn invalid(what: &'static str, why: impl Into<String>) -> Self {
        Self::Invalid { what, why: why.into() }
    }
}

/// Appends an unsigned LEB128 varint.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a signed number as a zigzag varint.
pub fn put_signed(out: &mut Vec<u8>, value: i64) {
    put_varint(out, ((value << 1) ^ (value >> 63)) as u64);
}

/// Appends a length and the bytes.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Reads values from the front of a byte slice.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    /// Starts at the front of `bytes`; `what` names them in errors.
    pub fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { rest: bytes, what }
    }

    /// Returns how many bytes are left.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Builds an error about what is being read.
    pub fn invalid(&self, why: impl Into<String>) -> DecodeError {
        DecodeError::invalid(self.what, why)
    }

    /// Takes `count` bytes.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(DecodeError::Truncated { what: self.what })?;
        self.rest = rest;
        Ok(taken)
    }

    /// Takes a fixed number of bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(DecodeError::Truncated { what: self.what })?;
        self.rest = rest;
        Ok(*taken)
    }

    /// Takes one byte.
    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.array::<1>()?[0])
    }

    /// Takes a little-endian 32-bit number.
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// Takes a varint.
    #[inline]
    pub fn varint(&mut self) -> Result<u64, DecodeError> {
        if let Some((&byte, rest)) = self.rest.split_first()
            && byte < 0x80
        {
            self.rest = rest;
            return Ok(u64::from(byte));
        }
        self.long_varint()
    }

    fn long_varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(self.invalid("a number is larger than 64 bits"));
            }
            value |= bits << shift;
            if byte < 0x80 {
                // never the first byte: that would be the short spelling of zero
                if byte == 0 {
                    return Err(self.invalid("a number is written longer than it needs to be"));
                }
                return Ok(value);
            }
        }
        Err(self.invalid("a number is larger than 64 bits"))
    }

    /// Takes a varint that must fit into 32 bits.
    pub fn varint_u32(&mut self) -> Result<u32, DecodeError> {
        let value = self.varint()?;
        u32::try_from(value).map_err(|_| self.invalid("a number is larger than 32 bits"))
    }

    /// Takes a zigzag varint.
    pub fn signed(&mut self) -> Result<i64, DecodeError> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// Takes a count of items that each need at least `item_len` bytes, so that a lie cannot ask for much memory.
    pub fn count(&mut self, item_len: usize) -> Result<usize, DecodeError> {
        let value = self.varint()?;
        let most = self.rest.len() / item_len.max(1);
        match usize::try_from(value) {
            Ok(count) if count <= most => Ok(count),
            _ => Err(DecodeError::Truncated { what: self.what }),
        }
    }

    /// Takes length-prefixed bytes.
    pub fn bytes(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = self.count(1)?;
        self.take(length)
    }

    /// Takes a 32-byte id.
    pub fn id<T>(&mut self, from_slice: impl Fn(&[u8]) -> Option<T>) -> Result<T, DecodeError> {
        let bytes = self.take(crate::id::ID_LEN)?;
        from_slice(bytes).ok_or_else(|| self.invalid("an id is all zero"))
    }

    /// Checks that nothing is left.
    pub fn end(self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            count => Err(DecodeError::Trailing { what: self.what, count }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_come_back(value: u64, signed: i64, bytes: Vec<u8>) {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            put_signed(&mut out, signed);
            put_bytes(&mut out, &bytes);
            let mut reader = Reader::new(&out, "test");
            prop_assert_eq!(reader.varint().unwrap(), value);
            prop_assert_eq!(reader.signed().unwrap(), signed);
            prop_assert_eq!(reader.bytes().unwrap(), &bytes[..]);
            reader.end().unwrap();
        }

        #[test]
        fn random_bytes_never_panic_and_have_one_spelling(bytes: Vec<u8>) {
            let mut reader = Reader::new(&bytes, "test");
            if let Ok(value) = reader.varint() {
                let mut again = Vec::new();
                put_varint(&mut again, value);
                prop_assert_eq!(&again[..], &bytes[..bytes.len() - reader.remaining()]);
            }
        }
    }

    #[test]
    fn numbers_have_at_most_64_bits_and_no_byte_too_many() {
        let varint = |bytes: &[u8]| {
            let mut reader = Reader::new(bytes, "test");
            reader.varint().and_then(|value| reader.end().map(|()| value))
        };
        let nine = [0xff; 9];
        assert_eq!(varint(&[&nine[..], &[1]].concat()), Ok(u64::MAX));
        assert_eq!(varint(&[0x80, 1]), Ok(128));
        for refused in [&[&nine[..], &[2]].concat()[..], &[&nine[..], &[0x81, 0]].concat(), &[0xff; 12], &[0x80, 0]] {
            assert!(matches!(varint(refused), Err(DecodeError::Invalid { .. })), "{refused:x?}");
        }
        assert_eq!(varint(&nine), Err(DecodeError::Truncated { what: "test" }));
        assert_eq!(varint(&[1, 2, 3]), Err(DecodeError::Trailing { what: "test", count: 2 }));
    }

    #[test]
    fn a_count_needs_room_for_all_of_its_items() {
        let count = |rest: usize| Reader::new(&[&[2][..], &vec![0; rest]].concat(), "test").count(32);
        assert_eq!(count(64), Ok(2));
        assert_eq!(count(63), Err(DecodeError::Truncated { what: "test" }));
    }

    #[test]
    fn a_count_larger_than_the_bytes_is_refused_before_memory_is_asked_for() {
        let mut out = Vec::new();
        put_varint(&mut out, u64::MAX);
        assert!(Reader::new(&out, "test").count(32).is_err());
        assert!(Reader::new(&out, "test").bytes().is_err());
    }
}
