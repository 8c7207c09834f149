//! File names as text.
//!
//! Names are bytes. Where text is needed (messages, JSON, records) they are written so that every name has its own
//! spelling and can be read back: valid UTF-8 stays, a backslash doubles, and control characters and bytes that are not
//! UTF-8 become `\xNN`.

/// Writes a name or path as text, so that [`unescape_path`] gives the same bytes.
pub fn escape_path(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for part in bytes.utf8_chunks() {
        for c in part.valid().chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                c if c.is_control() => {
                    let mut buffer = [0; 4];
                    c.encode_utf8(&mut buffer).bytes().for_each(|byte| push_hex(&mut text, byte));
                }
                c => text.push(c),
            }
        }
        part.invalid().iter().for_each(|&byte| push_hex(&mut text, byte));
    }
    text
}

fn push_hex(text: &mut String, byte: u8) {
    text.push_str("\\x");
    text.push_str(&crate::id::to_hex(&[byte]));
}

/// Reads what [`escape_path`] wrote; `None` where a backslash starts no known escape.
pub fn unescape_path(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = match (byte, after.first()) {
            (b'\\', Some(b'\\')) => {
                bytes.push(b'\\');
                &after[1..]
            }
            (b'\\', Some(b'x')) => {
                bytes.extend(crate::id::from_hex(std::str::from_utf8(after.get(1..3)?).ok()?)?);
                &after[3..]
            }
            (b'\\', _) => return None,
            _ => {
                bytes.push(byte);
                after
            }
        };
    }
    Some(bytes)
}

/// Returns the path that a `file://` URI names; `None` where it is another URI. A percent sign that begins no escape stands
/// for itself.
pub fn file_uri_path(uri: &str) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let mut path = Vec::with_capacity(uri.len());
    let mut rest = uri.strip_prefix("file://")?.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after.first().and_then(digit).zip(after.get(1).and_then(digit));
        let (decoded, left) = match digits.filter(|_| byte == b'%') {
            // two digits are less than 256
            Some((high, low)) => ((high * 16 + low) as u8, &after[2..]),
            None => (byte, after),
        };
        path.push(decoded);
        rest = left;
    }
    Some(path)
}

/// Bytes that are written as escaped text in records.
pub mod serde_path {
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes escaped text.
    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::escape_path(bytes))
    }

    /// Reads escaped text.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        super::unescape_path(&text).ok_or_else(|| serde::de::Error::custom("a path has an unknown escape"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn file_uris_name_paths() {
        let path = |uri| file_uri_path(uri).map(|path| escape_path(&path));
        assert_eq!(path("file:///data/my%20lake").as_deref(), Some("/data/my lake"));
        assert_eq!(path("file:///a%fF%0a%").as_deref(), Some("/a\\xff\\x0a%"));
        assert_eq!(path("file:///%+f%4").as_deref(), Some("/%+f%4"));
        assert_eq!(path("stdin:dump.sql"), None);
    }

    proptest! {
        #[test]
        fn every_name_comes_back(bytes: Vec<u8>) {
            prop_assert_eq!(unescape_path(&escape_path(&bytes)).unwrap(), bytes);
        }
    }

    #[test]
    fn paths_in_records_are_escaped_text() {
        #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        struct Record(#[serde(with = "serde_path")] Vec<u8>);
        let record = Record(b"a\xff\nb".to_vec());
        let json = serde_json::to_string(&record).unwrap();
        assert_eq!(json, r#""a\\xff\\x0ab""#);
        assert_eq!(serde_json::from_str::<Record>(&json).unwrap(), record);
        assert!(serde_json::from_str::<Record>(r#""\\q""#).is_err());
    }

    #[test]
    fn what_people_see_is_readable() {
        assert_eq!(escape_path("Über/naïve.py".as_bytes()), "Über/naïve.py");
        assert_eq!(escape_path(b"a\nb\xff\\"), "a\\x0ab\\xff\\\\");
        assert_eq!(unescape_path("\\q"), None);
        assert_eq!(unescape_path("\\x0"), None);
    }
}
