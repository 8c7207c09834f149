//! What a medium was found to do when it was tried.

use serde::{Deserialize, Serialize};

use super::{Record, Unknown};
use crate::codec::frame::FrameKind;
use crate::time::Timestamp;

/// What one place did when it was tried. The newest counts; what was found at another place says nothing of this one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StorageProbe {
    /// Version of the record.
    pub version: u32,
    /// When it was tried.
    pub time: Timestamp,
    /// The identity of the place.
    pub place: String,
    /// A name that was taken was refused, and its content stayed.
    pub put_if_absent: bool,
    /// What was put was listed at once.
    pub listing_after_write: bool,
    /// Name and version of the program.
    pub tool: String,
    /// Keys of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl Record for StorageProbe {
    const KIND: FrameKind = FrameKind::StorageProbe;
}
