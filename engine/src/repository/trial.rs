//! Which of two ways to compress large pieces is worth it, told by trying both on a sample.

use lakebed_core::codec::compress::{Compression, FrameContent};

use super::Store;
use crate::error::{Error, Result};

/// So much is compressed both ways.
const SAMPLE_BYTES: usize = 64 << 10;

/// The harder search has to save at least one part in this many.
const WORTH_PART: usize = 25;

/// Tells what large pieces that begin with `plain` are, as far as compression cares.
///
/// # Errors
/// zstd failed.
pub(crate) fn large_content(store: &Store, plain: &[u8], compression: Compression) -> Result<FrameContent> {
    let levels = [FrameContent::LargeFiles, FrameContent::LargeTexts].map(|content| compression.level(content));
    if levels[0] == levels[1] {
        return Ok(FrameContent::LargeFiles);
    }
    let sample = &plain[..plain.len().min(SAMPLE_BYTES)];
    let length = |level| {
        store.with_scratch(|scratch| {
            let packed = scratch.compress(sample, level).map_err(|source| Error::FrameCheck { source })?;
            Ok(packed.len())
        })
    };
    let (quick, hard) = (length(levels[0])?, length(levels[1])?);
    let is_worth_it = hard + quick / WORTH_PART <= quick;
    Ok(if is_worth_it { FrameContent::LargeTexts } else { FrameContent::LargeFiles })
}
