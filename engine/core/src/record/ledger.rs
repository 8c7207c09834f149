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
