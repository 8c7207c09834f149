//! How many calls a second a workspace takes: a bucket of tokens for each kind.

use std::collections::BTreeMap;
use std::time::Instant;

use parking_lot::Mutex;

use super::kind::Kind;

/// The rates of a workspace. What was not used in a second is not saved up.
#[derive(Debug)]
pub(super) struct Rates([Mutex<Option<Bucket>>; Kind::ALL.len()]);

impl Rates {
    pub(super) fn new() -> Self {
        Self(std::array::from_fn(|_| Mutex::new(None)))
    }

    /// Sets the rates of all kinds. Those that are not named have no limit.
    ///
    /// # Panics
    /// A name is that of no kind, or a rate is not positive.
    pub(super) fn set(&self, rates: &BTreeMap<String, f64>, scale: f64, now: Instant) {
        if let Some(unknown) = rates.keys().find(|name| Kind::named(name).is_none()) {
            panic!("no kind of calls is named {unknown}");
        }
        for kind in Kind::ALL {
            let bucket = rates.get(kind.name()).map(|rate| Bucket::new(rate * scale, now));
            *self.0[kind as usize].lock() = bucket;
        }
    }

    /// Tells whether a call can be taken now, and takes it.
    pub(super) fn take(&self, kind: Kind, now: impl FnOnce() -> Instant) -> bool {
        self.0[kind as usize].lock().as_mut().is_none_or(|bucket| bucket.take(now()))
    }
}

/// Tokens that come back at a rate, a second's worth of them at most.
#[derive(Debug)]
struct Bucket {
    per_second: f64,
    tokens: f64,
    filled_at: Instant,
}

impl Bucket {
    fn new(per_second: f64, now: Instant) -> Self {
        assert!(per_second > 0.0, "a rate is positive");
        Self { per_second, tokens: per_second.max(1.0), filled_at: now }
    }

    fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.filled_at).as_secs_f64();
        self.tokens = (self.tokens + passed * self.per_second).min(self.per_second.max(1.0));
        self.filled_at = self.filled_at.max(now);
        let taken = self.tokens >= 1.0;
        if taken {
            self.tokens -= 1.0;
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_bucket_holds_the_calls_of_one_second_and_fills_at_its_rate() {
        let rates = Rates::new();
        let start = Instant::now();
        let taken =
            |kind, ms, tries| (0..tries).filter(|_| rates.take(kind, || start + Duration::from_millis(ms))).count();
        rates.set(&BTreeMap::from([("export".to_owned(), 10.0)]), 2.0, start);
        assert_eq!(taken(Kind::Export, 0, 100), 20);
        assert_eq!(taken(Kind::Export, 250, 100), 5);
        assert_eq!(taken(Kind::Export, 60_000, 100), 20);
        assert_eq!(taken(Kind::List, 60_000, 100), 100);
    }

    #[test]
    fn a_rate_below_one_still_lets_a_call_pass_now_and_then() {
        let start = Instant::now();
        let mut bucket = Bucket::new(0.5, start);
        assert!(bucket.take(start) && !bucket.take(start + Duration::from_secs(1)));
        assert!(bucket.take(start + Duration::from_secs(2)));
    }
}
