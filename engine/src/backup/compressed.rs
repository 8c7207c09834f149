//! How finely a file is cut, told by its first bytes: an edit further down does not touch them, so the same file is cut
//! alike each night.

/// First bytes of formats that are compressed in themselves: Parquet, ORC, Avro, gzip, zip, zstd, bzip2, xz, 7z, PNG, JPEG.
const COMPRESSED: [&[u8]; 11] = [
    b"PAR1",
    b"ORC",
    b"Obj\x01",
    b"\x1f\x8b",
    b"PK\x03\x04",
    b"\x28\xb5\x2f\xfd",
    b"BZh",
    b"\xfd7zXZ\0",
    b"7z\xbc\xaf\x27\x1c",
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",
];

/// Tells whether a file that begins like this is compressed already. It is cut coarsely: its parts are hardly ever found
/// again.
pub(super) fn is_compressed(start: &[u8]) -> bool {
    COMPRESSED.iter().any(|magic| start.starts_with(magic))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compressed_formats_are_known_by_their_first_bytes() {
        assert!(is_compressed(b"PAR1\x15\x04"));
        assert!(is_compressed(b"\x1f\x8b\x08\0"));
        assert!(!is_compressed(b"PAR"));
        assert!(!is_compressed(b""));
        assert!(!is_compressed(b"order_id,order_date\n"));
    }
}
