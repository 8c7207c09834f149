//! A client of a service that speaks REST: the one place that knows of tokens, rates, repetition, and what may be told.
//!
//! What it keeps true:
//! * no kind of call is sent more often than its rate allows, repetitions included;
//! * a call is sent again where that may help and can do no harm, with growing, jittered pauses or as the service asks, for
//!   a limited time;
//! * a token that a service refuses is replaced once, by one caller for all of them; then the refusal counts;
//! * tokens are in no error, and go nowhere but to the service they are for: no redirect is followed.

mod error;
mod gates;
mod health;
mod secret;
pub(crate) mod token;

use std::borrow::Cow;
use std::io::{Seek, Write};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use reqwest::redirect::Policy;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::Instant;
use url::Url;

pub use self::error::{CallError, CallErrorKind, Refusal};
pub use self::gates::CallTraffic;
pub(crate) use self::gates::Gates;
use self::health::Health;
pub(crate) use self::secret::Secret;
pub use self::token::AuthError;
use self::token::{Held, Tokens};
use crate::Tell;

/// A connection that is not there after so long will not come.
const CONNECT_MAX: Duration = Duration::from_secs(30);
/// An answer of which nothing more comes for so long is given up.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// No answer is longer than this in memory.
const ANSWER_MAX_BYTES: usize = 1 << 30;
/// No pause between two tries is longer, unless the service asks for it.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// No service is waited for longer, whatever it asks for.
const ASKED_PAUSE_MAX: Duration = Duration::from_secs(300);
/// What is told of trouble comes no more often.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// How a service is reached.
pub(crate) struct ClientOptions {
    /// Calls are tried for so long.
    pub(crate) retry_for: Duration,
    /// The first pause between two tries.
    pub(crate) first_pause: Duration,
    /// Is told of calls that are sent again, now and then.
    pub(crate) tell: Option<Tell>,
    /// A call that asks for nothing but a sign of life: its kind, and its path.
    pub(crate) sign_of_life: (&'static str, &'static str),
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The certificates cannot be read.
    #[error("Cannot read the certificates in `{}`", path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The client cannot be made: a proxy in the environment makes no sense, say.
    #[error("Cannot set up an HTTP client")]
    Setup(#[source] reqwest::Error),
}

/// Which way what is sent goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Through the proxies of the environment.
    Usual,
    /// Through none.
    Direct,
}

/// Makes what HTTP goes through: proxies are those that the environment names (`HTTPS_PROXY`, `NO_PROXY`, ...).
pub(crate) fn http_client(authorities: Option<&PathBuf>, way: Way) -> Result<reqwest::Client, ClientError> {
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("lakebed/", env!("CARGO_PKG_VERSION")))
        .redirect(Policy::none())
        .connect_timeout(CONNECT_MAX)
        .read_timeout(SILENCE_MAX);
    if way == Way::Direct {
        builder = builder.no_proxy();
    }
    if let Some(path) = authorities {
        let failed = |source| ClientError::Certificates { path: path.clone(), source };
        let pem = std::fs::read(path).map_err(|error| failed(error.into()))?;
        let certificates = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| failed(error.into()))?;
        if certificates.is_empty() {
            return Err(failed("there is no certificate in it".into()));
        }
        builder = builder.tls_certs_merge(certificates);
    }
    builder.build().map_err(ClientError::Setup)
}

/// What is sent, again if need be.
pub(crate) enum Body {
    /// What is in memory, and what it is.
    Memory(Bytes, &'static str),
    /// A file of this machine, of so many bytes.
    Local(std::fs::File, u64),
}

impl Body {
    fn length(&self) -> u64 {
        match self {
            Self::Memory(bytes, _) => bytes.len() as u64,
            Self::Local(_, length) => *length,
        }
    }

    /// Adds it to a request.
    fn add_to(&self, request: reqwest::RequestBuilder) -> std::io::Result<reqwest::RequestBuilder> {
        Ok(match self {
            Self::Memory(bytes, kind) => request.header(http::header::CONTENT_TYPE, *kind).body(bytes.clone()),
            Self::Local(file, length) => {
                // tries come one after the other, so that they may share the place in the file
                let mut file = file.try_clone()?;
                file.rewind()?;
                let request = request.header(http::header::CONTENT_TYPE, "application/octet-stream");
                request.header(http::header::CONTENT_LENGTH, *length).body(tokio::fs::File::from_std(file))
            }
        })
    }
}

/// A call.
pub(crate) struct Call<'a> {
    /// Of which kind it is: its rate, and its count.
    pub(crate) kind: &'static str,
    pub(crate) method: Method,
    /// Path below the service's address, percent-encoded.
    pub(crate) path: Cow<'a, str>,
    pub(crate) query: &'a [(&'a str, &'a str)],
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) body: Option<Body>,
    /// It may be sent again though the one before may have been carried out.
    pub(crate) repeatable: bool,
    /// It is sent until it is done, though nothing more is wanted: half of what it belongs to was done.
    pub(crate) until_done: bool,
    /// What it concerns, as people call it.
    pub(crate) subject: &'a str,
}

impl<'a> Call<'a> {
    /// Asks for something.
    pub(crate) fn get(kind: &'static str, path: impl Into<Cow<'a, str>>, subject: &'a str) -> Self {
        let (method, path) = (Method::GET, path.into());
        Self {
            kind,
            method,
            path,
            query: &[],
            headers: Vec::new(),
            body: None,
            repeatable: true,
            until_done: false,
            subject,
        }
    }

    /// Asks with parameters.
    pub(crate) fn query(self, query: &'a [(&'a str, &'a str)]) -> Self {
        Self { query, ..self }
    }

    /// Sends a document.
    pub(crate) fn post(
        kind: &'static str,
        path: impl Into<Cow<'a, str>>,
        subject: &'a str,
        body: &serde_json::Value,
    ) -> Self {
        let body = Some(Body::Memory(Bytes::from(body.to_string()), "application/json"));
        Self { method: Method::POST, body, repeatable: false, ..Self::get(kind, path, subject) }
    }

    fn told(&self) -> String {
        let subject = if self.subject.is_empty() { String::new() } else { format!(" of `{}`", self.subject) };
        format!("{} {}{subject}", self.method, self.path)
    }
}

/// An answer that came whole.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    /// Returns a header as text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Reads a JSON document.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, CallErrorKind> {
        let malformed = |why: String| CallErrorKind::Malformed { why };
        let is_page =
            self.header("content-type").is_some_and(|kind| kind.contains("html")) || self.body.starts_with(b"<");
        match serde_json::from_slice(&self.body) {
            Ok(document) => Ok(document),
            Err(_) if self.body.is_empty() => Err(malformed("it is empty".into())),
            Err(_) if is_page => Err(malformed("it is an HTML page, of a proxy or a login say".into())),
            Err(error) => Err(malformed(format!("it is no such JSON document ({error})"))),
        }
    }
}

/// A try that gave nothing.
struct Failed {
    kind: CallErrorKind,
    /// When the service wants to be asked again.
    asked_pause: Option<Duration>,
}

impl From<CallErrorKind> for Failed {
    fn from(kind: CallErrorKind) -> Self {
        Self { kind, asked_pause: None }
    }
}

/// A client of one service.
pub(crate) struct Client {
    http: reqwest::Client,
    base: Url,
    tokens: Tokens,
    gates: Gates,
    health: Health,
    options: ClientOptions,
    /// What the service says where it refuses.
    refusal: fn(u16, &HeaderMap, &[u8]) -> Refusal,
    /// When something was told last.
    told: Mutex<Option<Instant>>,
    /// Nothing more is wanted.
    stopped: watch::Sender<bool>,
}

impl Client {
    pub(crate) fn new(
        http: reqwest::Client,
        base: Url,
        tokens: Tokens,
        gates: Gates,
        options: ClientOptions,
        refusal: fn(u16, &HeaderMap, &[u8]) -> Refusal,
    ) -> Self {
        let health = Health::new(options.retry_for / 2);
        let (told, stopped) = (Mutex::default(), watch::Sender::new(false));
        Self { http, base, tokens, gates, health, options, refusal, told, stopped }
    }

    /// Lets go whoever waits for an answer, now and from now on.
    pub(crate) fn stop(&self) {
        self.stopped.send_replace(true);
    }

    /// Asks for a sign of life where no call is answered; notes where none comes.
    async fn look_for_life(&self) {
        let (kind, path) = self.options.sign_of_life;
        let answer = match self.tokens.get().await {
            Ok(token) => self.once(&Call::get(kind, path, ""), &token).await.map(drop).map_err(|failed| failed.kind),
            Err(error) => Err(error.into()),
        };
        // who refuses because it is asked too often lives
        let is_silent = |error: CallErrorKind| match error {
            CallErrorKind::Refused(refusal) => refusal.status >= 500,
            error => error.may_pass(true),
        };
        if answer.is_err_and(is_silent) {
            self.health.is_silent();
        }
    }

    /// Returns what was asked of the service until now.
    pub(crate) fn traffic(&self) -> CallTraffic {
        self.gates.traffic()
    }

    /// Sends a call until its answer can be read, or will not be.
    pub(crate) async fn send<T>(
        &self,
        call: &Call<'_>,
        read: impl Fn(&Answer) -> Result<T, CallErrorKind>,
    ) -> Result<T, CallError> {
        self.repeat(call, || async { Ok(read(&self.answer(call).await?)?) }).await
    }

    /// Sends a call and writes what comes to a file. `check` sees head and length of what came.
    pub(crate) async fn save(
        &self,
        call: &Call<'_>,
        file: &std::fs::File,
        check: impl Fn(&HeaderMap, u64) -> Result<(), CallErrorKind>,
    ) -> Result<(), CallError> {
        let save = || async {
            let mut response = self.accepted(call).await?;
            let mut file = file;
            file.rewind().and_then(|()| file.set_len(0)).map_err(CallErrorKind::Machine)?;
            let mut length = 0;
            while let Some(piece) = response.chunk().await.map_err(no_answer)? {
                self.gates.received(piece.len());
                length += piece.len() as u64;
                file.write_all(&piece).map_err(CallErrorKind::Machine)?;
            }
            check(response.headers(), length)?;
            Ok(())
        };
        self.repeat(call, save).await
    }

    async fn repeat<T, F: Future<Output = Result<T, Failed>>>(
        &self,
        call: &Call<'_>,
        attempt: impl FnMut() -> F,
    ) -> Result<T, CallError> {
        let failed = |kind| CallError { call: call.told(), kind };
        if let Some(since) = self.health.down() {
            return Err(failed(CallErrorKind::Down { seconds: since.as_secs() }));
        }
        let pauses = ExponentialBuilder::new()
            .with_min_delay(self.options.first_pause)
            .with_max_delay(PAUSE_MAX)
            .with_total_delay(Some(self.options.retry_for))
            .without_max_times()
            .with_jitter();
        // what the service asks for, and what a try takes, is not among the pauses
        let mut deadline = None;
        let tries = attempt
            .retry(pauses)
            .when(|failed| {
                let deadline = *deadline.get_or_insert_with(|| Instant::now() + self.options.retry_for);
                failed.kind.may_pass(call.repeatable) && Instant::now() < deadline
            })
            .adjust(|failed, pause| pause.map(|pause| failed.asked_pause.map_or(pause, |asked| asked.max(pause))))
            .notify(|failed, _| {
                self.gates.repeated();
                self.tell_of(call, &failed.kind);
            });
        let work = async {
            let result = tries.await;
            if result.as_ref().is_err_and(|error| error.kind.may_pass(true)) && self.health.is_doubtful() {
                self.look_for_life().await;
            }
            result.map_err(|error| failed(error.kind))
        };
        let mut stopped = self.stopped.subscribe();
        tokio::select! {
            result = work => result,
            _ = stopped.wait_for(|stopped| *stopped), if !call.until_done => Err(failed(CallErrorKind::Stopped)),
        }
    }

    /// Sends a call once and takes the whole answer in.
    async fn answer(&self, call: &Call<'_>) -> Result<Answer, Failed> {
        let response = self.accepted(call).await?;
        Ok(self.whole(response).await?)
    }

    /// Sends a call, and once more with another token if need be. Returns an answer that is no refusal.
    async fn accepted(&self, call: &Call<'_>) -> Result<reqwest::Response, Failed> {
        let token = self.tokens.get().await.map_err(CallErrorKind::Auth)?;
        match self.once(call, &token).await {
            Err(Failed { kind: CallErrorKind::Refused(refusal), .. }) if refusal.status == 401 => {
                let other = self.tokens.instead_of(&token).await.map_err(CallErrorKind::Auth)?;
                match other {
                    Some(other) => self.once(call, &other).await,
                    None => Err(CallErrorKind::Refused(refusal).into()),
                }
            }
            result => result,
        }
    }

    async fn once(&self, call: &Call<'_>, held: &Held) -> Result<reqwest::Response, Failed> {
        self.gates.pass(call.kind, call.body.as_ref().map_or(0, Body::length)).await;
        let mut url = self.base.clone();
        url.set_path(&call.path);
        if !call.query.is_empty() {
            url.query_pairs_mut().extend_pairs(call.query);
        }
        let mut request = self.http.request(call.method.clone(), url).headers(held.token.headers.clone());
        for (name, value) in &call.headers {
            request = request.header(name, value);
        }
        if let Some(body) = &call.body {
            request = body.add_to(request).map_err(CallErrorKind::Machine)?;
        }
        let response = request.send().await.map_err(no_answer)?;
        let status = response.status().as_u16();
        if !matches!(status, 429 | 500..) {
            self.health.answered();
        }
        match status {
            200..300 => Ok(response),
            300..400 => {
                let why = format!("it leads elsewhere ({status}), to a login say");
                Err(CallErrorKind::Malformed { why }.into())
            }
            _ => {
                let asked_pause = asked_pause(status, response.headers());
                if let Some(pause) = asked_pause {
                    self.gates.hold(call.kind, pause);
                }
                let answer = self.whole(response).await?;
                let mut refusal = (self.refusal)(answer.status, &answer.headers, &answer.body);
                refusal.message = held.redact(&refusal.message);
                Err(Failed { kind: CallErrorKind::Refused(refusal), asked_pause })
            }
        }
    }

    async fn whole(&self, mut response: reqwest::Response) -> Result<Answer, CallErrorKind> {
        let mut body = BytesMut::new();
        while let Some(piece) = response.chunk().await.map_err(no_answer)? {
            self.gates.received(piece.len());
            if body.len() + piece.len() > ANSWER_MAX_BYTES {
                return Err(CallErrorKind::Malformed { why: format!("it is longer than {ANSWER_MAX_BYTES} bytes") });
            }
            body.extend_from_slice(&piece);
        }
        let status = response.status().as_u16();
        Ok(Answer { status, headers: std::mem::take(response.headers_mut()), body: body.freeze() })
    }

    /// Says that a call is sent again, unless something was said just before.
    fn tell_of(&self, call: &Call<'_>, why: &CallErrorKind) {
        let Some(tell) = &self.options.tell else { return };
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
            *told = Some(Instant::now());
            tell(&format!("{}: {why}; it is tried again", call.told()));
        }
    }
}

/// Returns how long a service wants to be left alone; a second where it cannot be understood.
fn asked_pause(status: u16, headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(http::header::RETRY_AFTER).filter(|_| matches!(status, 429 | 503))?;
    let seconds = value.to_str().ok().and_then(|text| text.trim().parse::<f64>().ok());
    let pause = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    Some(pause.unwrap_or(Duration::from_secs(1)).min(ASKED_PAUSE_MAX))
}

/// Says why no answer came, without the address, in which a secret may be.
fn no_answer(error: reqwest::Error) -> CallErrorKind {
    let error = error.without_url();
    let mut innermost: &dyn std::error::Error = &error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    let why = match error.is_timeout() {
        true => "it took too long".into(),
        false if innermost.source().is_none() && !std::ptr::addr_eq(innermost, &error) => {
            format!("{error}: {innermost}")
        }
        false => error.to_string(),
    };
    match why.contains("certificate") {
        true => CallErrorKind::Untrusted { why },
        false => CallErrorKind::NoAnswer { why },
    }
}
