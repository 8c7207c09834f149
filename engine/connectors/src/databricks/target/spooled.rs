//! Content on its way into a workspace: read whole and checked before anything of it is sent.

use std::io::{Read, Seek, Write};

use bytes::Bytes;
use lakebed_core::target::FileContent;

use crate::rest::Body;

/// Content of at least so many bytes goes by way of a local file.
const SPOOLED_BYTES: u64 = 16 << 20;

/// Content that is ready to be sent.
pub(super) enum Spooled {
    Memory(Bytes),
    Local(std::fs::File, u64),
}

impl Spooled {
    /// Reads content of about so many bytes.
    pub(super) fn of(size: u64, content: &dyn FileContent) -> std::io::Result<Self> {
        if size < SPOOLED_BYTES {
            let mut bytes = Vec::new();
            content.write_to(&mut bytes)?;
            return Ok(Self::Memory(bytes.into()));
        }
        let mut file = tempfile::tempfile()?;
        let mut out = std::io::BufWriter::new(&mut file);
        content.write_to(&mut out)?;
        out.flush()?;
        drop(out);
        let length = file.metadata()?.len();
        file.rewind()?;
        Ok(Self::Local(file, length))
    }

    /// Returns how many bytes it has.
    pub(super) fn length(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::Local(_, length) => *length,
        }
    }

    /// Returns the same once more, where it is in memory.
    pub(super) fn in_memory(&self) -> Option<Bytes> {
        match self {
            Self::Memory(bytes) => Some(bytes.clone()),
            Self::Local(..) => None,
        }
    }

    /// Returns how it begins.
    pub(super) fn beginning(&self) -> std::io::Result<Vec<u8>> {
        const ENOUGH: usize = 64;
        match self {
            Self::Memory(bytes) => Ok(bytes[..bytes.len().min(ENOUGH)].to_vec()),
            Self::Local(file, _) => {
                let mut beginning = Vec::new();
                let mut file = file;
                file.take(ENOUGH as u64).read_to_end(&mut beginning)?;
                file.rewind()?;
                Ok(beginning)
            }
        }
    }

    /// Returns what is sent.
    pub(super) fn into_body(self) -> Body {
        match self {
            Self::Memory(bytes) => Body::Memory(bytes, "application/octet-stream"),
            Self::Local(file, length) => Body::Local(file, length),
        }
    }
}
