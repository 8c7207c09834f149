//! Holding a rate: bytes a second, averaged since the beginning.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lakebed_core::time::Clock;

/// Slows its callers down to a rate that they share.
pub(crate) struct RateLimit {
    bytes_per_second: u64,
    bytes: AtomicU64,
    start_ns: u64,
    clock: Arc<dyn Clock>,
}

impl RateLimit {
    pub(crate) fn new(bytes_per_second: u64, clock: Arc<dyn Clock>) -> Self {
        Self {
            bytes_per_second: bytes_per_second.max(1),
            bytes: AtomicU64::new(0),
            start_ns: clock.monotonic_ns(),
            clock,
        }
    }

    /// Counts bytes and waits until they fit into the rate.
    pub(crate) fn take(&self, bytes: u64) {
        let total = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let due_ns = u128::from(total) * 1_000_000_000 / u128::from(self.bytes_per_second);
        let passed_ns = u128::from(self.clock.monotonic_ns().saturating_sub(self.start_ns));
        if let Ok(wait) = u64::try_from(due_ns.saturating_sub(passed_ns))
            && wait > 0
        {
            self.clock.sleep(Duration::from_nanos(wait));
        }
    }
}
