//! Catalogues: the records of many sessions, once more in one object.
//!
//! They say nothing of their own. What stands under `snapshots/` is what counts; a catalogue saves reading it one by one.
//! Layout: `docs/format.md`, section "Catalogues".

use crate::codec::frame::FrameKind;
use crate::id::{ID_LEN, SessionId};
use crate::wire::{DecodeError, Reader, put_bytes, put_varint};

/// What stands under the key of one session, [`crate::layout::snapshot`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogueEntry {
    /// The session.
    pub id: SessionId,
    /// A snapshot or an expiry.
    pub kind: FrameKind,
    /// The plain bytes of the record.
    pub record: Vec<u8>,
}

/// Version of the layout.
const VERSION: u8 = 1;

const WHAT: &str = "catalogue";

/// Returns the bytes of a catalogue. Its entries have ascending ids, each once.
pub fn encode_catalogue(entries: &[CatalogueEntry]) -> Vec<u8> {
    debug_assert!(entries.is_sorted_by(|a, b| a.id < b.id));
    let mut out = vec![VERSION];
    put_varint(&mut out, entries.len() as u64);
    for entry in entries {
        out.extend_from_slice(entry.id.as_bytes());
        out.push(entry.kind.code());
        put_bytes(&mut out, &entry.record);
    }
    out
}

/// Reads a catalogue. The records in it are not looked at.
///
/// # Errors
/// Bytes that no writer of a known version can have written.
pub fn decode_catalogue(bytes: &[u8]) -> Result<Vec<CatalogueEntry>, DecodeError> {
    let mut reader = Reader::new(bytes, WHAT);
    let version = reader.u8()?;
    if version != VERSION {
        return Err(DecodeError::NewerVersion { what: WHAT, found: version.into(), known: VERSION.into() });
    }
    let count = reader.count(ID_LEN + 2)?;
    let mut entries: Vec<CatalogueEntry> = Vec::with_capacity(count);
    for _ in 0..count {
        let id = reader.id(SessionId::from_slice)?;
        if entries.last().is_some_and(|before| before.id >= id) {
            return Err(reader.invalid("its sessions are out of order"));
        }
        let code = reader.u8()?;
        let kind = [FrameKind::Snapshot, FrameKind::Expiry].into_iter().find(|kind| kind.code() == code);
        let kind = kind.ok_or_else(|| reader.invalid("it holds something else than snapshots and expiries"))?;
        entries.push(CatalogueEntry { id, kind, record: reader.bytes()?.to_vec() });
    }
    reader.end()?;
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(id: u8, kind: FrameKind, record: &[u8]) -> CatalogueEntry {
        CatalogueEntry { id: SessionId::new([id; ID_LEN]), kind, record: record.to_vec() }
    }

    #[test]
    fn what_no_writer_writes_is_refused() {
        let one = encode_catalogue(&[entry(1, FrameKind::Snapshot, b"{}")]);
        assert_eq!(decode_catalogue(&one).unwrap(), [entry(1, FrameKind::Snapshot, b"{}")]);
        let changed = |at: usize, to: u8| {
            let mut bytes = one.clone();
            bytes[at] = to;
            decode_catalogue(&bytes)
        };
        assert!(matches!(changed(0, 2), Err(DecodeError::NewerVersion { .. })));
        assert!(changed(2 + ID_LEN, FrameKind::Run.code()).is_err());
        assert!(decode_catalogue(&[&one[..], b"x"].concat()).is_err());
        // one that comes twice: the second entry repeats the first
        let twice = [&[VERSION, 2], &one[2..], &one[2..]].concat();
        assert!(decode_catalogue(&twice).is_err());
    }

    proptest! {
        #[test]
        fn a_catalogue_comes_back(records: std::collections::BTreeMap<[u8; 2], (bool, Vec<u8>)>) {
            let entries: Vec<_> = records
                .into_iter()
                .map(|(id, (expired, record))| CatalogueEntry {
                    id: SessionId::new(std::array::from_fn(|i| if i < 2 { id[i] } else { 1 })),
                    kind: if expired { FrameKind::Expiry } else { FrameKind::Snapshot },
                    record,
                })
                .collect();
            prop_assert_eq!(decode_catalogue(&encode_catalogue(&entries)).unwrap(), entries);
        }

        #[test]
        fn random_bytes_never_panic(bytes: Vec<u8>) {
            let _ = decode_catalogue(&[&[VERSION], &bytes[..]].concat());
        }
    }
}
