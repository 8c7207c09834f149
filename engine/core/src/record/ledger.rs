//! Ledgers: when which packs were last verified. Only successes are entered.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use super::{Record, Unknown};
use crate::codec::frame::FrameKind;
use crate::id::PackId;
use crate::time::Timestamp;

/// When packs were last read and found good. Several ledgers join by taking the newest time of each pack.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ledger {
    /// Version of the record.
    pub version: u32,
    /// The newest good verification of each pack.
    pub packs: BTreeMap<PackId, Timestamp>,
    /// Keys of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl Record for Ledger {
    const KIND: FrameKind = FrameKind::Ledger;
}

impl Ledger {
    /// Takes over what another ledger knows better.
    pub fn join(&mut self, other: &Self) {
        for (&pack, &time) in &other.packs {
            let known = self.packs.entry(pack).or_insert(time);
            *known = (*known).max(time);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::RECORD_VERSION;
    use crate::wire::DecodeError;

    fn ledger(packs: &[(u8, i64)]) -> Ledger {
        let time = |secs| Timestamp { secs, nanos: 0 };
        let packs = packs.iter().map(|&(id, secs)| (PackId::new([id; 32]), time(secs))).collect();
        Ledger { version: RECORD_VERSION, packs, unknown: Unknown::new() }
    }

    #[test]
    fn the_newest_time_of_each_pack_counts() {
        let mut joined = ledger(&[(1, 10), (2, 20)]);
        joined.join(&ledger(&[(1, 15), (2, 5), (3, 7)]));
        assert_eq!(joined, ledger(&[(1, 15), (2, 20), (3, 7)]));
    }

    #[test]
    fn a_record_comes_back_with_what_a_newer_lakebed_added() {
        let mut record = ledger(&[(1, 10)]);
        record.unknown.insert("depth".into(), 3.into());
        let bytes = record.encode();
        assert_eq!(Ledger::decode(&bytes), Ok(record));
        let newer = ledger(&[]).encode();
        let newer = String::from_utf8(newer).unwrap().replacen(":1", ":2", 1);
        assert_eq!(
            Ledger::decode(newer.as_bytes()),
            Err(DecodeError::NewerVersion { what: "ledger", found: 2, known: RECORD_VERSION })
        );
        assert!(Ledger::decode(b"{\"version\":1}").is_err());
    }
}
