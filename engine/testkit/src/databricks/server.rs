//! The server: what all calls share, and which call goes where.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use axum::extract::DefaultBodyLimit;
use axum::http::{Method, StatusCode, Uri};
use axum::{Router, middleware};
use parking_lot::RwLock;

use super::answer::ApiError;
use super::auth::Tokens;
use super::calls::{Catalog, Dashboards, Jobs, Permissions, Pipelines, Repos, Secrets};
use super::counters::Counting;
use super::options::FakeOptions;
use super::rates::Rates;
use super::rules::Rules;
use super::tree::Tree;
use super::{calls, control, gate};

/// What all calls share.
#[derive(Debug)]
pub(super) struct Fake {
    pub(super) options: FakeOptions,
    /// Where it can be reached.
    pub(super) url: String,
    /// The objects of the workspace.
    pub(super) tree: RwLock<Tree>,
    /// The files in volumes.
    pub(super) volumes: RwLock<Tree>,
    pub(super) permissions: Permissions,
    pub(super) repos: Repos,
    pub(super) jobs: Jobs,
    pub(super) pipelines: Pipelines,
    pub(super) dashboards: Dashboards,
    pub(super) secrets: Secrets,
    pub(super) catalog: Catalog,
    /// How many nights have passed.
    pub(super) nights: AtomicU64,
    pub(super) tokens: Tokens,
    pub(super) rules: Rules,
    pub(super) rates: Rates,
    pub(super) counting: Counting,
    latency_us: AtomicU64,
    failure_share_bits: AtomicU64,
    /// The number of the next call that may fail.
    number: AtomicU64,
}

impl Fake {
    pub(super) fn new(options: FakeOptions, url: String) -> Self {
        let fake = Self {
            url,
            tree: RwLock::new(Tree::new(1)),
            // headers tell whole seconds
            volumes: RwLock::new(Tree::new(1000)),
            permissions: Permissions::default(),
            repos: Repos::default(),
            jobs: Jobs::default(),
            pipelines: Pipelines::default(),
            dashboards: Dashboards::default(),
            secrets: Secrets::default(),
            catalog: Catalog::default(),
            nights: AtomicU64::new(0),
            tokens: Tokens::new(&options),
            rules: Rules::default(),
            rates: Rates::new(),
            counting: Counting::new(options.keep_log),
            latency_us: AtomicU64::new(0),
            failure_share_bits: AtomicU64::new(0),
            number: AtomicU64::new(0),
            options,
        };
        fake.set_rates(&fake.options.rates, fake.options.rates_scale);
        fake.set_latency(fake.options.latency);
        fake.set_failure_share(fake.options.failure_share);
        fake
    }

    pub(super) fn set_rates(&self, rates: &BTreeMap<String, f64>, scale: f64) {
        self.rates.set(rates, scale, Instant::now());
    }

    pub(super) fn latency(&self) -> Duration {
        Duration::from_micros(self.latency_us.load(Relaxed))
    }

    pub(super) fn set_latency(&self, latency: Duration) {
        self.latency_us.store(u64::try_from(latency.as_micros()).expect("a time that passes"), Relaxed);
    }

    pub(super) fn failure_share(&self) -> f64 {
        f64::from_bits(self.failure_share_bits.load(Relaxed))
    }

    pub(super) fn set_failure_share(&self, share: f64) {
        self.failure_share_bits.store(share.to_bits(), Relaxed);
    }

    pub(super) fn next_number(&self) -> u64 {
        self.number.fetch_add(1, Relaxed)
    }
}

/// Returns what answers all requests.
pub(super) fn router(fake: Arc<Fake>) -> Router {
    Router::new()
        .merge(calls::router())
        .merge(control::router())
        .fallback(no_endpoint)
        .layer(middleware::from_fn_with_state(Arc::clone(&fake), gate::pass))
        .layer(DefaultBodyLimit::disable())
        .with_state(fake)
}

async fn no_endpoint(method: Method, uri: Uri) -> ApiError {
    let message = format!("No API found for '{method} {}'", uri.path());
    ApiError::new(StatusCode::NOT_FOUND, "ENDPOINT_NOT_FOUND", message)
}
