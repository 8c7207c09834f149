//! How a fake workspace is to be, from its start on.

use std::collections::BTreeMap;
use std::time::Duration;

/// How a fake workspace is to be.
#[derive(Debug, Clone)]
pub struct FakeOptions {
    /// The port it listens on; 0 for any that is free.
    pub port: u16,
    /// The personal access tokens that it takes. The first one is what [`super::FakeWorkspace::token`] returns.
    pub tokens: Vec<String>,
    /// The ids and secrets of the service principals that it gives tokens to.
    pub clients: Vec<(String, String)>,
    /// After how many seconds tokens expire that it gave.
    pub expires_in: u64,
    /// It tells `expires_in` as a text rather than a number.
    pub expires_in_text: bool,
    /// After how many calls tokens expire that it gave, if ever.
    pub token_calls: Option<u64>,
    /// What each call waits before anything is done.
    pub latency: Duration,
    /// How many calls a second it takes, by the names of their [kinds](super::Kind). Others are not limited.
    pub rates: BTreeMap<String, f64>,
    /// What all rates are multiplied with.
    pub rates_scale: f64,
    /// What a call beyond the rate is told about when to come again.
    pub retry_after: RetryAfter,
    /// The share of calls that fail, in one of many ways.
    pub failure_share: f64,
    /// What the choice of the calls that fail follows from.
    pub seed: u64,
    /// Listings tell the sizes of notebooks too, not only those of files.
    pub list_sizes: bool,
    /// How many entries a page has at most, in catalogs, in pipelines and in folders of volumes.
    pub page_size: usize,
    /// The listings of Unity Catalog have a page without entries before the page of this number, counted from 0.
    pub empty_page: Option<usize>,
    /// How an export is refused that is too large.
    pub too_large_form: TooLarge,
    /// How many bytes can be exported or imported.
    pub size_limit: usize,
    /// Values of secrets can be read.
    pub readable_secrets: bool,
    /// It keeps a log of all requests.
    pub keep_log: bool,
    /// How many threads answer calls.
    pub threads: usize,
}

impl Default for FakeOptions {
    fn default() -> Self {
        Self {
            port: 0,
            tokens: vec!["fake-token".to_owned()],
            clients: vec![("fake-client".to_owned(), "fake-secret".to_owned())],
            expires_in: 3600,
            expires_in_text: false,
            token_calls: None,
            latency: Duration::ZERO,
            rates: BTreeMap::new(),
            rates_scale: 1.0,
            retry_after: RetryAfter::Seconds(1),
            failure_share: 0.0,
            seed: 0,
            list_sizes: false,
            page_size: 1000,
            empty_page: None,
            too_large_form: TooLarge::MaxNotebookSize,
            size_limit: 10_485_760,
            readable_secrets: false,
            keep_log: false,
            threads: 2,
        }
    }
}

/// What an answer says in `Retry-After`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RetryAfter {
    /// The header is absent.
    Absent,
    /// So many seconds, as an integer.
    Seconds(u32),
    /// A text that is taken as it is, such as `1.58`.
    Text(String),
    /// The date that comes so many seconds later.
    Date(u32),
}

/// How an export is refused that is too large.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TooLarge {
    /// Status 400 with the code `MAX_NOTEBOOK_SIZE_EXCEEDED`.
    MaxNotebookSize,
    /// Status 400 with the code `BAD_REQUEST`; only the text tells why.
    BadRequest,
    /// Status 400 without a code; the reason is in the details.
    ReasonOnly,
    /// Status 200 with the body of an error.
    OkWithError,
}
