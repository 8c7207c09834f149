//! Who may call: personal access tokens that are configured, and tokens that were given and expire.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use parking_lot::RwLock;

use super::options::FakeOptions;

/// The tokens of a workspace.
#[derive(Debug)]
pub(super) struct Tokens {
    personal: RwLock<HashSet<String>>,
    given: RwLock<HashMap<String, Given>>,
    lifetime: Duration,
    calls: Option<u64>,
    number: AtomicU64,
}

/// A token that was given to a caller.
#[derive(Debug)]
struct Given {
    expires_at: Instant,
    calls_left: Option<AtomicU64>,
}

impl Tokens {
    pub(super) fn new(options: &FakeOptions) -> Self {
        Self {
            personal: RwLock::new(options.tokens.iter().cloned().collect()),
            given: RwLock::default(),
            lifetime: Duration::from_secs(options.expires_in),
            calls: options.token_calls,
            number: AtomicU64::new(0),
        }
    }

    /// Tells whether the bearer of a request's token may call, which counts as one of its calls.
    pub(super) fn admit(&self, headers: &HeaderMap) -> bool {
        let Some(token) = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "))
        else {
            return false;
        };
        self.personal.read().contains(token)
            || self.given.read().get(token).is_some_and(|given| given.admits(Instant::now()))
    }

    /// Gives a token.
    pub(super) fn give(&self) -> String {
        let token = self.any();
        let given = Given { expires_at: Instant::now() + self.lifetime, calls_left: self.calls.map(AtomicU64::new) };
        self.given.write().insert(token.clone(), given);
        token
    }

    /// Returns a token that no call of the workspace takes.
    pub(super) fn any(&self) -> String {
        format!("given-{}", self.number.fetch_add(1, Relaxed))
    }

    /// Takes a personal access token from now on.
    pub(super) fn add(&self, token: &str) {
        self.personal.write().insert(token.to_owned());
    }

    /// Lets all tokens expire that were given.
    pub(super) fn expire(&self) {
        self.given.write().clear();
    }

    /// Takes no token any more that it took so far.
    pub(super) fn revoke(&self) {
        self.expire();
        self.personal.write().clear();
    }
}

impl Given {
    fn admits(&self, now: Instant) -> bool {
        now < self.expires_at
            && self
                .calls_left
                .as_ref()
                .is_none_or(|left| left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok())
    }
}
