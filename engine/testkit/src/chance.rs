//! Chance that can be repeated: random choices that follow from one seed, which a test prints.

use std::hash::{BuildHasher, RandomState};

use lakebed_core::time::Random;

use crate::clock::SeededRandom;

/// Tells whether the long versions of tests are to run: `LAKEBED_SOAK` is set and not `0`.
pub fn is_soak() -> bool {
    std::env::var("LAKEBED_SOAK").is_ok_and(|value| !["", "0"].contains(&value.as_str()))
}

/// Random choices.
#[derive(Debug, Clone)]
pub struct Chance {
    seed: u64,
    random: SeededRandom,
}

impl Chance {
    /// Builds the choices that follow from a seed.
    pub fn new(seed: u64) -> Self {
        Self { seed, random: SeededRandom::new(seed) }
    }

    /// Takes the seed from the variable `SEED`; where that is not set, `otherwise`.
    ///
    /// # Panics
    /// The variable is no number.
    pub fn from_environment(otherwise: impl FnOnce() -> u64) -> Self {
        let given = std::env::var("SEED").ok().filter(|text| !text.is_empty());
        Self::new(given.map_or_else(otherwise, |text| text.parse().expect("SEED is a number")))
    }

    /// Returns a seed that nobody chose.
    pub fn any_seed() -> u64 {
        RandomState::new().hash_one(std::process::id()) % 1_000_000_000
    }

    /// Returns the seed.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Returns a number below `limit`.
    ///
    /// # Panics
    /// The limit is 0.
    pub fn below(&self, limit: u64) -> u64 {
        let mut bytes = [0; 8];
        self.random.fill(&mut bytes).expect("it never fails");
        u64::from_le_bytes(bytes) % limit
    }

    /// Tells whether something happens that happens `part` times of `whole`.
    pub fn happens(&self, part: u64, whole: u64) -> bool {
        self.below(whole) < part
    }

    /// Returns `count` of the items, or all where there are fewer, in the order that they have.
    pub fn sample<T>(&self, mut items: Vec<T>, count: usize) -> Vec<T> {
        while items.len() > count {
            items.remove(self.below(items.len() as u64) as usize);
        }
        items
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_follow_from_the_seed() {
        let choose = |seed| {
            let chance = Chance::new(seed);
            (chance.sample((0..100).collect(), 5), chance.below(1000), chance.happens(1, 2))
        };
        assert_eq!(choose(7), choose(7));
        assert_ne!(choose(7).0, choose(8).0);
        let (sample, _, _) = choose(7);
        assert!(sample.is_sorted() && sample.len() == 5);
        assert_eq!(Chance::new(1).sample(vec![1, 2], 5), [1, 2]);
    }
}
