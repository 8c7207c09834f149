//! What a workspace was asked, and what came of it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use axum::body::HttpBody;
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::response::Response;
use parking_lot::Mutex;
use serde::Serialize;

use super::kind::Kind;

const CLASSES: usize = 6;

/// What a workspace was asked since it was started, or since the counters were reset.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Calls by their kind.
    pub calls: BTreeMap<Kind, u64>,
    /// Calls by their kind and the class of the status they were answered with: `2xx`, `4xx`, ...
    pub statuses: BTreeMap<Kind, BTreeMap<String, u64>>,
    /// The bytes of the bodies of all answers.
    pub bytes_sent: u64,
    /// The greatest number of calls at the same time.
    pub max_in_flight: u64,
    /// Calls answered with 429.
    pub throttled: u64,
    /// Tokens that were given.
    pub tokens_issued: u64,
    /// The headers `X-Databricks-Azure-*` that came, with their last values.
    pub azure_headers: BTreeMap<String, String>,
}

impl Counters {
    /// Returns the number of calls of a kind.
    pub fn of(&self, kind: Kind) -> u64 {
        self.calls.get(&kind).copied().unwrap_or_default()
    }

    /// Returns the number of calls of all kinds.
    pub fn total(&self) -> u64 {
        self.calls.values().sum()
    }
}

/// A request in the log. Of an `Authorization` header it tells only that there was one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LoggedRequest {
    /// The method.
    pub method: String,
    /// The path, as it came.
    pub path: String,
    /// The query, as it came.
    pub query: Option<String>,
    /// It had an `Authorization` header.
    pub has_authorization: bool,
}

/// The counters of a workspace that is running.
#[derive(Debug, Default)]
pub(super) struct Counting {
    statuses: [[AtomicU64; CLASSES]; Kind::ALL.len()],
    calls: [AtomicU64; Kind::ALL.len()],
    bytes_sent: AtomicU64,
    in_flight: AtomicU64,
    max_in_flight: AtomicU64,
    throttled: AtomicU64,
    pub(super) tokens_issued: AtomicU64,
    azure_headers: Mutex<BTreeMap<String, String>>,
    keeps_log: AtomicBool,
    log: Mutex<Vec<LoggedRequest>>,
}

impl Counting {
    pub(super) fn new(keeps_log: bool) -> Self {
        Self { keeps_log: AtomicBool::new(keeps_log), ..Self::default() }
    }

    /// Counts a request that came. It counts as in flight until the visit is dropped.
    pub(super) fn arrive(&self, kind: Kind, request: &Request) -> Visit<'_> {
        self.calls[kind as usize].fetch_add(1, Relaxed);
        let in_flight = self.in_flight.fetch_add(1, Relaxed) + 1;
        self.max_in_flight.fetch_max(in_flight, Relaxed);
        self.note_azure(request.headers());
        if self.keeps_log.load(Relaxed) {
            self.log.lock().push(LoggedRequest {
                method: request.method().to_string(),
                path: request.uri().path().to_owned(),
                query: request.uri().query().map(str::to_owned),
                has_authorization: request.headers().contains_key(AUTHORIZATION),
            });
        }
        Visit { counting: self, kind }
    }

    fn note_azure(&self, headers: &HeaderMap) {
        for (name, value) in headers {
            if name.as_str().starts_with("x-databricks-azure-") {
                let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
                self.azure_headers.lock().insert(name.as_str().to_owned(), value);
            }
        }
    }

    pub(super) fn log(&self) -> Vec<LoggedRequest> {
        self.log.lock().clone()
    }

    pub(super) fn read(&self) -> Counters {
        let count = |counter: &AtomicU64| Some(counter.load(Relaxed)).filter(|count| *count > 0);
        let classes = |kind: Kind| {
            let classes = self.statuses[kind as usize].iter().enumerate();
            classes.filter_map(|(class, counter)| Some((format!("{class}xx"), count(counter)?))).collect()
        };
        let calls: BTreeMap<Kind, u64> =
            Kind::ALL.into_iter().filter_map(|kind| Some((kind, count(&self.calls[kind as usize])?))).collect();
        Counters {
            statuses: calls.keys().map(|kind| (*kind, classes(*kind))).collect(),
            calls,
            bytes_sent: self.bytes_sent.load(Relaxed),
            max_in_flight: self.max_in_flight.load(Relaxed),
            throttled: self.throttled.load(Relaxed),
            tokens_issued: self.tokens_issued.load(Relaxed),
            azure_headers: self.azure_headers.lock().clone(),
        }
    }

    pub(super) fn reset(&self) {
        let single = [&self.bytes_sent, &self.max_in_flight, &self.throttled, &self.tokens_issued];
        for counter in single.into_iter().chain(&self.calls).chain(self.statuses.iter().flatten()) {
            counter.store(0, Relaxed);
        }
        self.azure_headers.lock().clear();
        self.log.lock().clear();
    }
}

/// A call in flight.
#[derive(Debug)]
pub(super) struct Visit<'a> {
    counting: &'a Counting,
    kind: Kind,
}

impl Visit<'_> {
    /// Counts what the call is answered with.
    pub(super) fn leave(self, response: &Response) {
        let status = response.status().as_u16();
        let class = usize::from(status / 100).min(CLASSES - 1);
        self.counting.statuses[self.kind as usize][class].fetch_add(1, Relaxed);
        self.counting.bytes_sent.fetch_add(response.body().size_hint().lower(), Relaxed);
        if status == 429 {
            self.counting.throttled.fetch_add(1, Relaxed);
        }
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        self.counting.in_flight.fetch_sub(1, Relaxed);
    }
}
