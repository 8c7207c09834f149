//! Choices that follow from a seed, cheap enough to be made anew whenever they are asked for.

/// Mixes numbers into one that tells nothing of them (the finisher of splitmix64).
pub(super) fn mixed(numbers: &[u64]) -> u64 {
    numbers.iter().fold(0x9e37_79b9_7f4a_7c15, |state, number| finish(state ^ number))
}

/// Returns an identifier that follows from numbers, in the form of a UUID.
pub(super) fn uuid(numbers: &[u64]) -> String {
    let high = mixed(numbers);
    let low = mixed(&[high]);
    format!(
        "{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}",
        high >> 32,
        high >> 16 & 0xffff,
        high & 0xfff,
        low >> 52,
        low & 0xffff_ffff_ffff
    )
}

fn finish(state: u64) -> u64 {
    let state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

/// Tells whether something happens that happens to this share of all, by a number that was mixed for it.
pub(super) fn happens(mixed: u64, share: f64) -> bool {
    (mixed >> 11) as f64 / ((1_u64 << 53) as f64) < share
}

/// A sequence of numbers (splitmix64).
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seeds: &[u64]) -> Self {
        Self(mixed(seeds))
    }

    pub(super) fn next(&mut self) -> u64 {
        let number = finish(self.0);
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        number
    }

    /// Returns a number below a limit that is not 0.
    pub(super) fn below(&mut self, limit: usize) -> usize {
        ((u128::from(self.next()) * limit as u128) >> 64) as usize
    }

    pub(super) fn choose<'a, T: ?Sized>(&mut self, items: &[&'a T]) -> &'a T {
        items[self.below(items.len())]
    }

    /// Returns a number of about the standard normal distribution, never beyond 4.9 on either side.
    pub(super) fn normal(&mut self) -> f64 {
        let numbers = [self.next(), self.next()];
        let sum: u32 =
            numbers.iter().flat_map(|number| (0..4).map(move |n| (number >> (16 * n)) as u16)).map(u32::from).sum();
        // eight uniform numbers have a mean of 4 and a variance of 8/12
        (f64::from(sum) / 65536.0 - 4.0) / (8.0_f64 / 12.0).sqrt()
    }

    /// Moves so many items, which are drawn without returning them, to the front.
    pub(super) fn draw<T>(&mut self, items: &mut [T], count: usize) {
        for at in 0..count.min(items.len()) {
            let other = at + self.below(items.len() - at);
            items.swap(at, other);
        }
    }
}
