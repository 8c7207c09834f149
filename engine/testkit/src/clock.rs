//! A clock and a source of randomness that do as they are told.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use lakebed_core::time::{Clock, NANOS_PER_SEC, Random, Timestamp};

/// A clock that stands still until it is moved. Clones show the same time.
///
/// The wall clock can be set anywhere, as real ones are; the monotonic clock only ever goes on.
#[derive(Debug, Clone)]
pub struct FakeClock(Arc<Mutex<ClockState>>);

#[derive(Debug)]
struct ClockState {
    now: Timestamp,
    monotonic_ns: u64,
    step: Duration,
}

impl ClockState {
    fn advance(&mut self, by: Duration) {
        let nanos = self.now.nanos + by.subsec_nanos();
        let secs = i64::try_from(by.as_secs()).expect("a time that fits");
        self.now =
            Timestamp { secs: self.now.secs + secs + i64::from(nanos / NANOS_PER_SEC), nanos: nanos % NANOS_PER_SEC };
        self.monotonic_ns += u64::try_from(by.as_nanos()).expect("a time that fits");
    }
}

impl FakeClock {
    /// Builds a clock that shows `start`, and a monotonic time of one second.
    pub fn new(start: Timestamp) -> Self {
        let state = ClockState { now: start, monotonic_ns: NANOS_PER_SEC.into(), step: Duration::ZERO };
        Self(Arc::new(Mutex::new(state)))
    }

    /// Builds a clock that shows a number of seconds after 1970.
    pub fn at_secs(secs: i64) -> Self {
        Self::new(Timestamp { secs, nanos: 0 })
    }

    /// Makes both clocks go on by `step` after each reading of either, so that no two readings are equal.
    pub fn with_step(self, step: Duration) -> Self {
        self.0.lock().unwrap().step = step;
        self
    }

    /// Sets the wall clock, forwards or backwards. The monotonic clock takes no notice.
    pub fn set(&self, now: Timestamp) {
        self.0.lock().unwrap().now = now;
    }

    /// Moves both clocks on and returns the new wall-clock time.
    pub fn advance(&self, by: Duration) -> Timestamp {
        let mut state = self.0.lock().unwrap();
        state.advance(by);
        state.now
    }

    fn read<T>(&self, read: impl FnOnce(&ClockState) -> T) -> T {
        let mut state = self.0.lock().unwrap();
        let shown = read(&state);
        let step = state.step;
        state.advance(step);
        shown
    }
}

impl Default for FakeClock {
    /// A clock that shows 2024-01-01 00:00:00 UTC.
    fn default() -> Self {
        Self::at_secs(1_704_067_200)
    }
}

impl Clock for FakeClock {
    fn now(&self) -> Timestamp {
        self.read(|state| state.now)
    }

    fn monotonic_ns(&self) -> u64 {
        self.read(|state| state.monotonic_ns)
    }

    /// Moves both clocks on and lets other threads run.
    fn sleep(&self, time: Duration) {
        self.advance(time);
        std::thread::yield_now();
    }
}

/// Randomness that is the same in every run: the n-th call after the same seed gives the same bytes.
///
/// Clones share the count of calls. A reader of a longer buffer gets the bytes of a shorter one first. Where several
/// threads draw, the order of their calls decides who gets what.
#[derive(Debug, Clone)]
pub struct SeededRandom {
    seed: u64,
    calls: Arc<Mutex<u64>>,
}

impl SeededRandom {
    /// Builds a source of bytes from a seed.
    pub fn new(seed: u64) -> Self {
        Self { seed, calls: Arc::default() }
    }

    /// Returns how often bytes were drawn.
    pub fn calls(&self) -> u64 {
        *self.calls.lock().unwrap()
    }
}

impl Random for SeededRandom {
    fn fill(&self, buffer: &mut [u8]) -> std::io::Result<()> {
        let mut calls = self.calls.lock().unwrap();
        let mut hasher = blake3::Hasher::new_derive_key("lakebed-testkit 2024-01-01 seeded random");
        hasher.update(&self.seed.to_le_bytes());
        hasher.update(&calls.to_le_bytes());
        hasher.finalize_xof().fill(buffer);
        *calls += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_moves_only_when_told() {
        let clock = FakeClock::new(Timestamp { secs: -2, nanos: 900_000_000 });
        assert_eq!(clock.now(), clock.now());
        assert_eq!(clock.advance(Duration::from_millis(1_200)), Timestamp { secs: 0, nanos: 100_000_000 });
        assert_eq!(clock.monotonic_ns(), 2_200_000_000);
        clock.set(Timestamp { secs: -100, nanos: 0 });
        assert_eq!(clock.clone().now().secs, -100);
        assert_eq!(clock.monotonic_ns(), 2_200_000_000, "setting the wall clock moves no monotonic clock");
    }

    #[test]
    fn a_stepping_clock_never_shows_a_time_twice() {
        let clock = FakeClock::at_secs(10).with_step(Duration::from_nanos(1));
        assert_eq!(clock.now(), Timestamp { secs: 10, nanos: 0 });
        assert_eq!(clock.now(), Timestamp { secs: 10, nanos: 1 });
        assert_eq!(clock.monotonic_ns(), 1_000_000_002);
        assert_eq!(clock.monotonic_ns(), 1_000_000_003);
    }

    #[test]
    fn seeded_randomness_repeats_by_seed_and_order_of_calls() {
        let draw = |seed| {
            let random = SeededRandom::new(seed);
            let (mut first, mut second) = ([0; 16], [0; 40]);
            random.fill(&mut first).unwrap();
            random.clone().fill(&mut second).unwrap();
            assert_eq!(random.calls(), 2);
            (first, second)
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        let (first, second) = draw(7);
        assert_ne!(first, second[..16]);
    }

    #[test]
    fn seeded_randomness_is_the_same_in_every_release() {
        let mut bytes = [0; 8];
        SeededRandom::new(1).fill(&mut bytes).unwrap();
        assert_eq!(bytes, [49, 72, 205, 188, 118, 51, 57, 4], "golden files depend on these bytes");
    }
}
