//! `Pace`: so much a second, bytes or calls, and no more.
//!
//! Whoever wants something waits until what was taken before is paid for. What was not used is not saved up: there are no
//! bursts, which a service that counts would answer with a refusal.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// A time that no rate makes longer: a year is long enough for one request.
const LONGEST: Duration = Duration::from_secs(31_536_000);

/// Holds a rate.
#[derive(Debug)]
pub(crate) struct Pace {
    per_second: f64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// When everything that was taken is paid for.
    free_at: Option<Instant>,
    /// Nothing passes before.
    held_until: Option<Instant>,
}

impl Pace {
    /// Lets so many units a second pass. No rate is so low that nothing does.
    pub(crate) fn new(per_second: f64) -> Self {
        Self { per_second: per_second.max(1e-6), state: Mutex::default() }
    }

    /// Waits until so many units may pass.
    pub(crate) async fn pass(&self, units: u64) {
        sleep_until(self.reserve(units)).await;
        // whoever waited while everything was held takes his turn again: all at once would be too many
        while self.is_held() {
            sleep_until(self.reserve(units)).await;
        }
    }

    /// Takes units; returns when they may pass.
    pub(crate) fn reserve(&self, units: u64) -> Instant {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let start = state.free_at.map_or(now, |at| at.max(now));
        let takes = Duration::try_from_secs_f64(units as f64 / self.per_second).unwrap_or(LONGEST).min(LONGEST);
        state.free_at = Some(start + takes);
        start
    }

    /// Lets nothing pass for so long.
    pub(crate) fn hold(&self, time: Duration) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let until = Instant::now() + time.min(LONGEST);
        state.held_until = state.held_until.max(Some(until));
        state.free_at = state.free_at.max(Some(until));
    }

    fn is_held(&self) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.held_until.is_some_and(|until| until > Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_waits_until_those_before_are_paid_for() {
        let pace = Pace::new(1_000_000.0);
        let first = pace.reserve(500_000);
        let second = pace.reserve(2_000_000);
        assert_eq!(second - first, Duration::from_millis(500));
        assert_eq!(pace.reserve(0) - second, Duration::from_secs(2));
        // no rate is so low, and nothing so large, that a time cannot be told
        let pace = Pace::new(0.0);
        pace.reserve(u64::MAX);
        assert!(pace.reserve(1) > Instant::now());
    }

    #[test]
    fn what_is_held_passes_later_for_everybody() {
        let pace = Pace::new(1000.0);
        let before = pace.reserve(1);
        pace.hold(Duration::from_secs(60));
        assert!(pace.is_held());
        assert!(pace.reserve(1) > before + Duration::from_secs(59));
        pace.hold(Duration::from_secs(1));
        assert!(pace.reserve(1) > before + Duration::from_secs(59), "a shorter one shortens none");
    }
}
