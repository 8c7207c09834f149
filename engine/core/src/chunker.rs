//! Cutting large files into chunks where their content says so.
//!
//! FastCDC as in Xia et al., "The Design of Fast Content-Defined Chunking for Data Deduplication Based Storage Systems"
//! (IEEE TPDS 2020), normalised, two bytes a step. The gear table grows from the repository's key, so cut points tell
//! nobody without the key which known file a repository holds.

use fastcdc::v2020::{MASKS, cut_gear};
use serde::{Deserialize, Serialize};

/// Name of the one algorithm that this lakebed knows.
pub const FASTCDC_2020: &str = "fastcdc-2020";

/// How files are cut; kept in `lakebed.json` and never changed in a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChunkerParameters {
    /// The algorithm: `fastcdc-2020`.
    pub algorithm: String,
    /// Files up to this many bytes are one chunk.
    pub small_file_bytes: u32,
    /// No chunk but the last of a file is smaller, in bytes.
    pub min_bytes: u32,
    /// Chunks are about this large, in bytes: a power of two.
    pub average_bytes: u32,
    /// No chunk is larger, in bytes.
    pub max_bytes: u32,
    /// How far the masks are bent towards the average, in bits: 0 to 3.
    pub normalization: u32,
}

/// What is compressed already is cut this much coarser.
const COARSER: u32 = 4;

impl Default for ChunkerParameters {
    /// As [`ChunkerParameters::with_average`] of 16 KiB. Since frames and not chunks are compressed, small chunks cost
    /// index and time, but no compression; what they find is in `docs/decisions/0012-small-chunks.md`.
    fn default() -> Self {
        Self::with_average(16 << 10)
    }
}

impl ChunkerParameters {
    /// Chunks of about that many bytes, a power of two: half of it at least, four times of it at most, at level 2. Files
    /// of up to the largest size are one chunk.
    pub fn with_average(average_bytes: u32) -> Self {
        Self {
            algorithm: FASTCDC_2020.into(),
            small_file_bytes: average_bytes.saturating_mul(4),
            min_bytes: average_bytes / 2,
            average_bytes,
            max_bytes: average_bytes.saturating_mul(4),
            normalization: 2,
        }
    }

    /// Returns how files are cut that are compressed already, whose parts are hardly ever found again: four times
    /// coarser, unless that is more than a chunk may be.
    #[must_use]
    pub fn coarser(&self) -> Self {
        let coarser = Self {
            min_bytes: self.min_bytes.saturating_mul(COARSER),
            average_bytes: self.average_bytes.saturating_mul(COARSER),
            max_bytes: self.max_bytes.saturating_mul(COARSER),
            ..self.clone()
        };
        if coarser.check().is_ok() { coarser } else { self.clone() }
    }

    /// Checks the parameters.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn check(&self) -> Result<(), String> {
        if self.algorithm != FASTCDC_2020 {
            return Err(format!("the chunker `{}` is not known", self.algorithm));
        }
        let Self { min_bytes, average_bytes, max_bytes, .. } = *self;
        let sizes_fit = (64..=1 << 30).contains(&min_bytes)
            && min_bytes < average_bytes
            && average_bytes < max_bytes
            && max_bytes <= 64 << 20
            && average_bytes.is_power_of_two()
            && min_bytes.is_multiple_of(2)
            && max_bytes.is_multiple_of(2);
        let masks_fit =
            self.normalization <= 3 && (8..=25 - self.normalization).contains(&average_bytes.trailing_zeros());
        if !sizes_fit || !masks_fit || self.small_file_bytes > max_bytes {
            return Err("the chunker's sizes do not fit together".into());
        }
        Ok(())
    }
}

/// Cuts bytes.
pub struct Chunker {
    gear: Box<[u64; 256]>,
    gear_shifted: Box<[u64; 256]>,
    mask_early: u64,
    mask_late: u64,
    parameters: ChunkerParameters,
}

impl std::fmt::Debug for Chunker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chunker").field("parameters", &self.parameters).finish_non_exhaustive()
    }
}

impl Chunker {
    /// Builds a chunker whose gear table is the first 2,048 bytes of the key's BLAKE3 output, as little-endian numbers.
    ///
    /// # Errors
    /// What is wrong with the parameters.
    pub fn new(parameters: &ChunkerParameters, key: &[u8; 32]) -> Result<Self, String> {
        parameters.check()?;
        let mut output = blake3::Hasher::new_keyed(key).finalize_xof();
        let mut gear = Box::new([0u64; 256]);
        for value in gear.iter_mut() {
            let mut bytes = [0; 8];
            output.fill(&mut bytes);
            *value = u64::from_le_bytes(bytes);
        }
        let gear_shifted = Box::new(gear.map(|value| value << 1));
        let bits = parameters.average_bytes.trailing_zeros();
        let mask = |bits: u32| MASKS[bits as usize];
        Ok(Self {
            gear,
            gear_shifted,
            mask_early: mask(bits + parameters.normalization),
            mask_late: mask(bits - parameters.normalization),
            parameters: parameters.clone(),
        })
    }

    /// Returns how it cuts.
    pub fn parameters(&self) -> &ChunkerParameters {
        &self.parameters
    }

    /// Returns the length of the first chunk of `bytes`, which must hold `max_bytes` or reach to the end of the file.
    pub fn cut(&self, bytes: &[u8]) -> usize {
        let p = &self.parameters;
        let (_, length) = cut_gear(
            bytes,
            p.min_bytes as usize,
            p.average_bytes as usize,
            p.max_bytes as usize,
            self.mask_early,
            self.mask_late,
            self.mask_early << 1,
            self.mask_late << 1,
            &self.gear[..],
            &self.gear_shifted[..],
        );
        length
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().update(b"noise").finalize_xof().fill(&mut bytes);
        bytes
    }

    fn lengths(chunker: &Chunker, mut bytes: &[u8]) -> Vec<usize> {
        let mut all = Vec::new();
        while !bytes.is_empty() {
            let length = chunker.cut(bytes);
            all.push(length);
            bytes = &bytes[length..];
        }
        all
    }

    /// Cuts of format 1 before and after the average length, where the hash is compared with different masks.
    #[test]
    fn golden_cuts_early_and_late() {
        let sizes = ChunkerParameters { small_file_bytes: 512, ..ChunkerParameters::default() };
        let parameters = ChunkerParameters { min_bytes: 256, average_bytes: 1024, max_bytes: 2048, ..sizes };
        let chunker = Chunker::new(&parameters, &[42; 32]).unwrap();
        assert_eq!(chunker.parameters(), &parameters);
        let cuts = lengths(&chunker, &noise(32 << 10));
        let early = cuts.iter().filter(|length| **length < 1024).count();
        assert!(early > 5 && early < cuts.len() - 5, "{early} of {}", cuts.len());
        assert_eq!(cuts, GOLDEN_SMALL);
    }
    const GOLDEN_SMALL: &[usize] = &[
        1286, 683, 1154, 1280, 1141, 1560, 1368, 816, 1105, 1509, 472, 1437, 1229, 689, 2014, 920, 1317, 1529, 1333,
        1937, 1033, 1070, 1205, 1142, 1143, 1189, 262, 945,
    ];

    /// The cuts of format 1. They must never change.
    #[test]
    fn golden_cuts() {
        for (parameters, length, golden) in [
            (ChunkerParameters::default(), 256 << 10, GOLDEN),
            (ChunkerParameters::default().coarser(), 1 << 20, GOLDEN_COARSER),
            (ChunkerParameters::with_average(256 << 10), 4 << 20, GOLDEN_LARGE),
        ] {
            let chunker = Chunker::new(&parameters, &[42; 32]).unwrap();
            let cuts = lengths(&chunker, &noise(length));
            assert_eq!(cuts.iter().sum::<usize>(), length);
            assert_eq!(cuts, golden, "{parameters:?}");
        }
    }
    const GOLDEN: &[usize] =
        &[17170, 17715, 20358, 20918, 20151, 15567, 14961, 16808, 23827, 22211, 17819, 16457, 19573, 16587, 2022];
    const GOLDEN_COARSER: &[usize] =
        &[67885, 83060, 67637, 95866, 99065, 73208, 57926, 93457, 65832, 85225, 136408, 104589, 18418];
    const GOLDEN_LARGE: &[usize] =
        &[275131, 269516, 558634, 304145, 495654, 273496, 298581, 296049, 340816, 275780, 263171, 416129, 127202];

    #[test]
    fn coarser_chunks_are_no_larger_than_chunks_may_be() {
        let fine = ChunkerParameters::default();
        assert_eq!(
            fine.coarser(),
            ChunkerParameters { small_file_bytes: 64 << 10, ..ChunkerParameters::with_average(64 << 10) }
        );
        let coarsest = ChunkerParameters::with_average(8 << 20);
        assert_eq!(coarsest.check(), Ok(()));
        assert_eq!(coarsest.coarser(), coarsest);
    }

    #[test]
    fn an_edit_moves_few_cuts_and_another_key_moves_all() {
        let bytes = noise(16 << 20);
        let parameters = ChunkerParameters::with_average(256 << 10);
        let chunker = Chunker::new(&parameters, &[1; 32]).unwrap();
        let mut edited = bytes.clone();
        edited.splice(5_000_000..5_000_000, *b"inserted");
        let ends = |cuts: Vec<usize>| {
            cuts.iter()
                .scan(0, |sum, length| {
                    *sum += length;
                    Some(*sum)
                })
                .collect::<Vec<_>>()
        };
        let before = ends(lengths(&chunker, &bytes));
        let after: Vec<usize> =
            ends(lengths(&chunker, &edited)).into_iter().map(|at| at - if at > 5_000_000 { 8 } else { 0 }).collect();
        let kept = before.iter().filter(|at| after.contains(at)).count();
        assert!(kept + 3 >= before.len(), "{kept} of {}", before.len());
        let other = Chunker::new(&parameters, &[2; 32]).unwrap();
        let moved = ends(lengths(&other, &bytes));
        assert!(before.iter().filter(|at| moved.contains(at)).count() <= 2);
    }

    #[test]
    fn parameters_that_do_not_fit_are_refused() {
        let good = ChunkerParameters::default();
        for bad in [
            ChunkerParameters { algorithm: "rabin".into(), ..good.clone() },
            ChunkerParameters { min_bytes: 0, ..good.clone() },
            ChunkerParameters { average_bytes: 300_000, ..good.clone() },
            ChunkerParameters { max_bytes: 1000, ..good.clone() },
            ChunkerParameters { normalization: 9, ..good.clone() },
            ChunkerParameters { average_bytes: 1 << 24, max_bytes: 1 << 26, ..good.clone() },
            ChunkerParameters { min_bytes: good.average_bytes, ..good.clone() },
            ChunkerParameters { max_bytes: good.average_bytes, ..good.clone() },
            ChunkerParameters { small_file_bytes: good.max_bytes + 1, ..good.clone() },
        ] {
            assert!(Chunker::new(&bad, &[0; 32]).is_err(), "{bad:?}");
        }
        let edge = ChunkerParameters { small_file_bytes: good.max_bytes, ..good };
        assert_eq!(edge.check(), Ok(()));
    }
}
