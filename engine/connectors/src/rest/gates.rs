//! Kinds of calls: each has its rate, and its count.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::pace::Pace;

/// What was asked of a service, as far as it was counted until now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CallTraffic {
    /// Calls by kind, each time they were sent.
    pub calls: BTreeMap<&'static str, u64>,
    /// Calls that were sent again.
    pub repeated: u64,
    /// Bytes of what was sent, without headers.
    pub sent_bytes: u64,
    /// Bytes of answers, without headers.
    pub received_bytes: u64,
}

impl CallTraffic {
    /// Returns how many calls that were.
    pub fn total(&self) -> u64 {
        self.calls.values().sum()
    }
}

struct Gate {
    pace: Option<Pace>,
    calls: AtomicU64,
}

/// The kinds of calls of a client.
pub(crate) struct Gates {
    kinds: BTreeMap<&'static str, Gate>,
    repeated: AtomicU64,
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
}

impl Gates {
    /// Makes gates for kinds of calls, with their rates a second; `None`: as fast as can be.
    pub(crate) fn new(kinds: impl IntoIterator<Item = (&'static str, Option<f64>)>) -> Self {
        let gate = |rate: Option<f64>| Gate { pace: rate.map(Pace::new), calls: AtomicU64::new(0) };
        Self {
            kinds: kinds.into_iter().map(|(kind, rate)| (kind, gate(rate))).collect(),
            repeated: AtomicU64::new(0),
            sent_bytes: AtomicU64::new(0),
            received_bytes: AtomicU64::new(0),
        }
    }

    /// Waits until a call may go, and counts it.
    pub(crate) async fn pass(&self, kind: &str, sent_bytes: u64) {
        if let Some(gate) = self.kinds.get(kind) {
            if let Some(pace) = &gate.pace {
                pace.pass(1).await;
            }
            gate.calls.fetch_add(1, Ordering::Relaxed);
        }
        self.sent_bytes.fetch_add(sent_bytes, Ordering::Relaxed);
    }

    /// Lets no call of a kind pass for so long: the service has asked for that.
    pub(crate) fn hold(&self, kind: &str, time: std::time::Duration) {
        if let Some(pace) = self.kinds.get(kind).and_then(|gate| gate.pace.as_ref()) {
            pace.hold(time);
        }
    }

    pub(crate) fn repeated(&self) {
        self.repeated.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn received(&self, bytes: usize) {
        self.received_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn traffic(&self) -> CallTraffic {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let calls = self.kinds.iter().map(|(kind, gate)| (*kind, get(&gate.calls))).filter(|(_, calls)| *calls > 0);
        CallTraffic {
            calls: calls.collect(),
            repeated: get(&self.repeated),
            sent_bytes: get(&self.sent_bytes),
            received_bytes: get(&self.received_bytes),
        }
    }
}
