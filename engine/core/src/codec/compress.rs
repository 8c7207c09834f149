//! Compression with zstd, with contexts that are kept from call to call.

use std::fmt;
use std::str::FromStr;

use zstd::zstd_safe::CParameter;

/// How hard to compress.
///
/// Only the writer uses it: every frame says for itself how it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// zstd level -1.
    Fastest,
    /// zstd level 1.
    Fast,
    /// By content: zstd 1 for pieces of large files, on which it mostly has the same or a better ratio at 1.5 to 3 times
    /// the speed; zstd 3 for everything else.
    #[default]
    Balanced,
    /// zstd level 9.
    Max,
    /// zstd level 19.
    Archival,
    /// Nothing is compressed.
    None,
    /// One zstd level for everything, from -7 to 22.
    Level(i32),
}

/// What a frame holds, as far as compression cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameContent {
    /// Small files, whole or in pieces.
    SmallFiles,
    /// Pieces of large files.
    LargeFiles,
    /// Pieces of large files in which a harder search finds more.
    LargeTexts,
    /// Trees, segments, records.
    Metadata,
}

impl Compression {
    /// Returns the zstd level for a frame, `None` for no compression.
    pub fn level(self, content: FrameContent) -> Option<i32> {
        match self {
            Self::Fastest => Some(-1),
            Self::Fast => Some(1),
            Self::Balanced if content == FrameContent::LargeFiles => Some(1),
            Self::Balanced => Some(3),
            Self::Max => Some(9),
            Self::Archival => Some(19),
            Self::None => None,
            Self::Level(level) => Some(level),
        }
    }
}

impl FromStr for Compression {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "fastest" => Self::Fastest,
            "fast" => Self::Fast,
            "balanced" => Self::Balanced,
            "max" => Self::Max,
            "archival" => Self::Archival,
            "none" => Self::None,
            _ => match text.parse() {
                Ok(level @ -7..=22) => Self::Level(level),
                _ => {
                    return Err(format!(
                        "`{text}` is neither fastest, fast, balanced, max, archival, none nor a zstd level from -7 to 22"
                    ));
                }
            },
        })
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fastest => f.write_str("fastest"),
            Self::Fast => f.write_str("fast"),
            Self::Balanced => f.write_str("balanced"),
            Self::Max => f.write_str("max"),
            Self::Archival => f.write_str("archival"),
            Self::None => f.write_str("none"),
            Self::Level(level) => write!(f, "{level}"),
        }
    }
}

/// Compresses; one for each thread.
pub struct Compressor {
    context: zstd::bulk::Compressor<'static>,
    level: i32,
}

impl Compressor {
    /// Builds a compressor.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn new() -> std::io::Result<Self> {
        // the first call sets its level
        Ok(Self { context: zstd::bulk::Compressor::new(0)?, level: 0 })
    }

    /// Compresses `plain` into `out`, which is cleared first. Returns whether it is smaller by at least 3 %: where it is
    /// not, `out` holds nothing of use, and the plain bytes are to be stored.
    ///
    /// # Errors
    /// zstd failed.
    pub fn compress(&mut self, level: i32, plain: &[u8], out: &mut Vec<u8>) -> std::io::Result<bool> {
        if self.level != level {
            self.context.set_compression_level(level)?;
            // at its own sizes level 3 searches tables that do not fit beside a frame into what a core caches: these cost
            // 0.4 % of size and save 8 % of time on notebooks
            let (hash_log, chain_log) = if level == 3 { (16, 15) } else { (0, 0) };
            self.context.set_parameter(CParameter::HashLog(hash_log))?;
            self.context.set_parameter(CParameter::ChainLog(chain_log))?;
            self.level = level;
        }
        out.clear();
        out.reserve(zstd::zstd_safe::compress_bound(plain.len()));
        self.context.compress_to_buffer(plain, out)?;
        Ok(is_worth_it(out.len(), plain.len()))
    }
}

/// Tells whether compressed bytes are smaller than the plain ones by enough to be kept: a 32nd.
fn is_worth_it(compressed_len: usize, plain_len: usize) -> bool {
    compressed_len + plain_len / 32 < plain_len
}

impl fmt::Debug for Compressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compressor").field("level", &self.level).finish_non_exhaustive()
    }
}

/// Decompresses; one for each thread.
pub struct Decompressor {
    context: zstd::bulk::Decompressor<'static>,
}

impl Decompressor {
    /// Builds a decompressor.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self { context: zstd::bulk::Decompressor::new()? })
    }

    /// Decompresses into `out`, which is cleared first. The result must have exactly `plain_len` bytes.
    ///
    /// # Errors
    /// The bytes are damaged, or of another length.
    pub fn decompress(&mut self, bytes: &[u8], plain_len: usize, out: &mut Vec<u8>) -> std::io::Result<()> {
        out.clear();
        out.reserve(plain_len);
        let written = self.context.decompress_to_buffer(bytes, out)?;
        if written != plain_len {
            let message = format!("expected {plain_len} bytes, found {written}");
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, message));
        }
        Ok(())
    }
}

impl fmt::Debug for Decompressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decompressor").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_shrink_is_said_so() {
        let (mut compressor, mut decompressor) = (Compressor::new().unwrap(), Decompressor::new().unwrap());
        let (mut out, mut plain) = (Vec::new(), Vec::new());
        let text = b"select * from sales; ".repeat(100);
        assert!(compressor.compress(3, &text, &mut out).unwrap());
        decompressor.decompress(&out, text.len(), &mut plain).unwrap();
        assert_eq!(plain, text);
        assert!(decompressor.decompress(&out, text.len() + 1, &mut plain).is_err());
        assert!(decompressor.decompress(&out, text.len() - 1, &mut plain).is_err());

        let mut noise = vec![0; 100_000];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        assert!(!compressor.compress(3, &noise, &mut out).unwrap());
        assert!(!compressor.compress(1, b"", &mut out).unwrap());
    }

    #[test]
    fn what_saves_less_than_a_32nd_is_stored_plain() {
        assert!(is_worth_it(3099, 3200));
        assert!(!is_worth_it(3100, 3200));
        assert!(!is_worth_it(3101, 3200));
        assert!(is_worth_it(0, 1));
    }

    #[test]
    fn a_compressor_changes_its_level() {
        // words in a changing order: a harder search finds more
        let words = ["select", "from", "sales", "orders", "where", "join", "customer", "group by", "region", "limit"];
        let hash = |at: u32| blake3::hash(&at.to_le_bytes()).as_bytes()[0] as usize;
        let text: String = (0..20_000).map(|at| words[hash(at) % words.len()]).collect();
        let mut compressor = Compressor::new().unwrap();
        let mut length = |level| {
            let mut out = Vec::new();
            compressor.compress(level, text.as_bytes(), &mut out).unwrap();
            out.len()
        };
        let (fast, hard) = (length(1), length(19));
        assert!(hard < fast, "{hard} and {fast}");
        assert_eq!(length(1), fast);
    }

    #[test]
    fn strategies_are_levels() {
        use FrameContent::{LargeFiles, LargeTexts, Metadata, SmallFiles};
        let contents = [SmallFiles, LargeFiles, LargeTexts, Metadata];
        let levels = |strategy: Compression| contents.map(|content| strategy.level(content));
        assert_eq!(levels(Compression::Fastest), [Some(-1); 4]);
        assert_eq!(levels(Compression::Fast), [Some(1); 4]);
        assert_eq!(levels(Compression::Balanced), [Some(3), Some(1), Some(3), Some(3)]);
        assert_eq!(levels(Compression::Max), [Some(9); 4]);
        assert_eq!(levels(Compression::Archival), [Some(19); 4]);
        assert_eq!(levels(Compression::None), [None; 4]);
        assert_eq!(levels(Compression::Level(-5)), [Some(-5); 4]);
    }

    #[test]
    fn strategies_print_and_parse() {
        for text in ["fastest", "fast", "balanced", "max", "archival", "none", "-7", "22"] {
            assert_eq!(text.parse::<Compression>().unwrap().to_string(), text);
        }
        assert!("23".parse::<Compression>().is_err());
        assert!("best".parse::<Compression>().is_err());
    }
}
