//! What is written down: the records of a repository.
//!
//! Trees are binary, since there are many of them ([`tree`]), and so is what joins other records ([`catalogue`]). Every
//! other record is one JSON object, whose keys are in a
//! fixed order, with a `version`; keys that a newer lakebed added are kept. Records are sealed as
//! [`crate::codec::frame::seal_record`] says. Fields are specified in `docs/format.md`.

pub mod catalogue;
pub mod config;
pub mod gc;
pub mod key_slot;
pub mod ledger;
pub mod session;
pub mod snapshot;
pub mod storage_probe;
pub mod tree;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec::frame::FrameKind;
use crate::wire::DecodeError;

/// Version of every JSON record in format 1.
pub const RECORD_VERSION: u32 = 1;

/// Tells whether a number is left out of a record, since it was not always in it.
pub(crate) fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Keys of a record that this lakebed does not know.
pub type Unknown = serde_json::Map<String, serde_json::Value>;

/// A sealed JSON record.
pub trait Record: Serialize + DeserializeOwned {
    /// The frame kind that it is sealed as.
    const KIND: FrameKind;

    /// Returns the bytes of the record.
    fn encode(&self) -> Vec<u8> {
        // the records have string keys only and no maps of other kinds, so JSON can always be written
        #[expect(clippy::expect_used)]
        serde_json::to_vec(self).expect("a record that JSON can hold")
    }

    /// Reads a record.
    ///
    /// # Errors
    /// It is of a newer version, or not such a record.
    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        decode_json(bytes, Self::KIND.as_str(), RECORD_VERSION)
    }
}

/// Reads JSON after looking at its `version`.
fn decode_json<T: DeserializeOwned>(bytes: &[u8], what: &'static str, known: u32) -> Result<T, DecodeError> {
    #[derive(serde::Deserialize)]
    struct Versioned {
        version: u32,
    }
    let invalid = |error: serde_json::Error| DecodeError::invalid(what, error.to_string());
    let Versioned { version } = serde_json::from_slice(bytes).map_err(invalid)?;
    if version != known {
        return Err(DecodeError::NewerVersion { what, found: version, known });
    }
    serde_json::from_slice(bytes).map_err(invalid)
}
