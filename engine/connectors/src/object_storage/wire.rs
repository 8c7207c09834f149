//! What goes over the wire: every request that is really sent, also those that the store's client sends again by itself,
//! is counted here, waits here until there is room for it, and says here what answer it got.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame, SizeHint};
use lakebed_core::id::to_hex;
use md5::{Digest, Md5};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpResponseBody, HttpService, ReqwestConnector,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep_until};

use super::azure_delete;
use super::error::innermost;
use super::traffic::{Kind, Meter};
use crate::Tell;
use crate::pace::Pace;

/// What S3 and its like say of what they have, where they were sent it.
const SHA256_OF_S3: &str = "x-amz-checksum-sha256";
/// So much time lies between two lines of what goes on.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// So much is hashed once more before it is sent.
const HASHED_MAX_BYTES: usize = 1 << 20;
/// What Google Cloud says of what it has.
const LENGTH_OF_GOOGLE: &str = "x-goog-stored-content-length";

tokio::task_local! {
    /// What is known of the request that a task waits for.
    pub(super) static SENT: Arc<Sent>;
}

/// How often a request was sent, and what was answered last.
#[derive(Debug, Default)]
pub(super) struct Sent {
    tries: AtomicU32,
    status: AtomicU16,
    /// The MD5 of what is sent, where it is worth computing: most stores say which one they have got.
    md5: Option<[u8; 16]>,
    confirmed: AtomicBool,
}

impl Sent {
    /// Something that is going to be sent. What is short is hashed: that takes less than asking whether it is there.
    pub(super) fn of(bytes: &[u8]) -> Self {
        let md5 = (bytes.len() <= HASHED_MAX_BYTES).then(|| Md5::digest(bytes).into());
        Self { md5, ..Self::default() }
    }

    /// Tells whether an answer says that the store has what was sent.
    fn confirms(&self, answer: &HeaderMap, checksum: Option<&HeaderValue>, length: u64) -> bool {
        let said = |name: &str| answer.get(name).and_then(|value| value.to_str().ok());
        let is_md5 = |said: &str, encoded: fn(&[u8]) -> String| self.md5.is_some_and(|md5| said == encoded(&md5));
        (checksum.is_some() && answer.get(SHA256_OF_S3) == checksum)
            || said(LENGTH_OF_GOOGLE).is_some_and(|stored| stored == length.to_string())
            || said("etag").is_some_and(|tag| is_md5(tag.trim_matches('"'), to_hex))
            || said("content-md5").is_some_and(|md5| is_md5(md5, |bytes| BASE64_STANDARD.encode(bytes)))
    }

    /// Returns how often it was sent.
    pub(super) fn tries(&self) -> u32 {
        self.tries.load(Ordering::Relaxed)
    }

    /// Returns the status of the last answer; 0 where none came.
    pub(super) fn status(&self) -> u16 {
        self.status.load(Ordering::Relaxed)
    }

    /// Tells whether the last answer said what the store has now, and it is what was sent.
    pub(super) fn is_confirmed(&self) -> bool {
        self.confirmed.load(Ordering::Relaxed)
    }
}

/// How much may be on the wire.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) requests_in_flight: usize,
    /// Bytes a second.
    pub(super) upload: Option<u64>,
    /// Bytes a second.
    pub(super) download: Option<u64>,
}

/// Makes clients that share one wire.
#[derive(Debug, Clone)]
pub(super) struct WireConnector(Arc<Wire>);

impl WireConnector {
    pub(super) fn new(limits: Limits, meter: Arc<Meter>, tell: Option<Tell>) -> Self {
        let in_flight = Arc::new(Semaphore::new(limits.requests_in_flight.clamp(1, Semaphore::MAX_PERMITS)));
        let pace = |rate: Option<u64>| rate.map(|rate| Arc::new(Pace::new(rate as f64)));
        let (upload, download, told) = (pace(limits.upload), pace(limits.download), Mutex::default());
        Self(Arc::new(Wire { in_flight, upload, download, meter, tell, told }))
    }
}

impl HttpConnector for WireConnector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(Wired { client, wire: self.0.clone() }))
    }
}

struct Wire {
    in_flight: Arc<Semaphore>,
    upload: Option<Arc<Pace>>,
    download: Option<Arc<Pace>>,
    meter: Arc<Meter>,
    tell: Option<Tell>,
    /// When something was told last.
    told: Mutex<Option<Instant>>,
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire").field("in_flight", &self.in_flight).finish_non_exhaustive()
    }
}

impl Wire {
    /// Says that a request did not go well and may be sent again, unless something was said just before.
    fn tell_of(&self, request: &str, why: &str) {
        let Some(tell) = &self.tell else { return };
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
            *told = Some(Instant::now());
            tell(&format!("{request}: {why}; it is tried again where that may help"));
        }
    }
}

#[derive(Debug)]
struct Wired {
    client: HttpClient,
    wire: Arc<Wire>,
}

#[async_trait]
impl HttpService for Wired {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        match azure_delete::taken_out(&request) {
            Some(deletion) => self.send(deletion).await.map(azure_delete::put_back),
            None => self.send(request).await,
        }
    }
}

impl Wired {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let wire = &self.wire;
        // the semaphore is never closed; without a permit the request is merely not counted among those in flight
        let permit = wire.in_flight.clone().acquire_owned().await.ok();
        let length = request.body().content_length() as u64;
        if let Some(pace) = &wire.upload {
            pace.pass(length).await;
        }
        let sent = SENT.try_with(Arc::clone).ok();
        if let Some(sent) = &sent {
            sent.tries.fetch_add(1, Ordering::Relaxed);
            sent.status.store(0, Ordering::Relaxed);
        }
        wire.meter.sent(Kind::of(request.method(), request.uri()), length);
        let checksum = request.headers().get(SHA256_OF_S3).cloned();
        let host = request.uri().host().unwrap_or_default();
        // without the query, which may be a signature
        let name = format!("{} {host}{}", request.method(), request.uri().path());
        let (parts, body) = match self.client.execute(request).await {
            Ok(answer) => answer.into_parts(),
            Err(error) => {
                wire.tell_of(&name, &innermost(&error));
                return Err(error);
            }
        };
        if matches!(parts.status.as_u16(), 429 | 500..) {
            wire.tell_of(&name, &format!("the store answered {}", parts.status));
        }
        if let Some(sent) = sent {
            sent.status.store(parts.status.as_u16(), Ordering::Relaxed);
            let confirmed = parts.status.is_success() && sent.confirms(&parts.headers, checksum.as_ref(), length);
            sent.confirmed.store(confirmed, Ordering::Relaxed);
        }
        let body = Received { body, pause: None, wire: wire.clone(), permit };
        Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(body)))
    }
}

/// A body that comes in: counted, slowed down, and in flight until it is read or dropped.
struct Received {
    body: HttpResponseBody,
    pause: Option<Pin<Box<Sleep>>>,
    wire: Arc<Wire>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Body for Received {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let this = &mut *self;
        if let Some(pause) = &mut this.pause {
            ready!(pause.as_mut().poll(context));
            this.pause = None;
        }
        let frame = ready!(Pin::new(&mut this.body).poll_frame(context));
        match &frame {
            Some(Ok(frame)) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
                this.wire.meter.received(bytes);
                // what came is paid for before the next is asked for: the sender waits in the meantime
                this.pause = this.wire.download.as_ref().map(|pace| Box::pin(sleep_until(pace.reserve(bytes))));
            }
            _ => this.permit = None,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
