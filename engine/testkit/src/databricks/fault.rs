//! What goes wrong with calls, and what their answers then are.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody, to_bytes};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use http_body::{Frame, SizeHint};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::answer::{ApiError, json_with, typed};
use super::options::RetryAfter;

/// What goes wrong with a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It is answered with a status and a text, and not carried out.
    Status {
        /// The status.
        status: u16,
        /// The body.
        #[serde(default)]
        body: String,
    },
    /// It is answered with an error in JSON, which may well have the status 200, and not carried out.
    Error {
        /// The status.
        status: u16,
        /// The code.
        error_code: String,
        /// The message.
        message: String,
    },
    /// It is answered with 429, and not carried out.
    TooManyRequests,
    /// It is answered with 401, as if the token had expired, and not carried out.
    ExpiredToken,
    /// It is answered with 403, and not carried out.
    Forbidden,
    /// It is answered with 404, and not carried out.
    NotFound,
    /// It is answered with a page for a browser and the status 200, and not carried out.
    HtmlPage,
    /// It is answered with nothing and the status 200, and not carried out.
    EmptyBody,
    /// It is carried out, and the connection ends in the middle of the answer's body.
    CutBody,
    /// It is carried out, and in the answer the end of the base64 content is missing. Answers without it stay whole.
    TruncatedBase64,
    /// It is carried out, but for the range that it asks for: the answer is the whole.
    IgnoreRange,
}

impl Action {
    /// Returns the answer of a call that is not carried out.
    pub(super) fn instead(&self, retry_after: &RetryAfter, object: Option<&str>) -> Option<Response> {
        let object = object.unwrap_or("/");
        Some(match self {
            Self::Status { status, body } => typed(code(*status), "text/plain; charset=utf-8", body.clone()),
            Self::Error { status, error_code, message } => {
                json_with(code(*status), &json!({ "error_code": error_code, "message": message }))
            }
            Self::TooManyRequests => too_many_requests(retry_after),
            Self::ExpiredToken => ApiError::unauthenticated().into_response(),
            Self::Forbidden => ApiError::forbidden(format!("No permission for {object}.")).into_response(),
            Self::NotFound => ApiError::no_path(object).into_response(),
            Self::HtmlPage => typed(StatusCode::OK, "text/html; charset=utf-8", PAGE),
            Self::EmptyBody => Response::new(Body::empty()),
            Self::CutBody | Self::TruncatedBase64 | Self::IgnoreRange => return None,
        })
    }

    /// Returns what becomes of the answer of a call that was carried out.
    pub(super) async fn after(&self, response: Response) -> Response {
        match self {
            Self::CutBody => with_body(response, |whole| Body::new(CutBody::of(whole))).await,
            Self::TruncatedBase64 => with_body(response, |whole| truncated(whole).into()).await,
            _ => response,
        }
    }
}

const PAGE: &str = "<html><head><title>Sign in</title></head><body><pre>Please sign in.</pre></body></html>";

fn code(status: u16) -> StatusCode {
    StatusCode::from_u16(status).expect("a status that HTTP has")
}

/// Answers a call that came too early.
pub(super) fn too_many_requests(retry_after: &RetryAfter) -> Response {
    let message = "RPC token bucket limit has been exceeded.";
    let mut response = ApiError::new(StatusCode::TOO_MANY_REQUESTS, "REQUEST_LIMIT_EXCEEDED", message).into_response();
    let value = match retry_after {
        RetryAfter::Absent => return response,
        RetryAfter::Seconds(seconds) => seconds.to_string(),
        RetryAfter::Text(text) => text.clone(),
        RetryAfter::Date(seconds) => http_date(now() + SignedDuration::from_secs(i64::from(*seconds))),
    };
    let value = HeaderValue::from_str(&value).expect("what may be in a header");
    response.headers_mut().insert(header::RETRY_AFTER, value);
    response
}

/// Returns a time as headers have it.
pub(super) fn http_date(time: Timestamp) -> String {
    time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

/// Returns the time that others see too.
#[expect(clippy::disallowed_methods, reason = "a client compares what it is told with the real time")]
pub(super) fn now() -> Timestamp {
    Timestamp::now()
}

async fn with_body(response: Response, change: impl FnOnce(Bytes) -> Body) -> Response {
    let (mut parts, body) = response.into_parts();
    let whole = to_bytes(body, usize::MAX).await.expect("bodies are in memory");
    let body = change(whole);
    parts.headers.insert(header::CONTENT_LENGTH, body.size_hint().upper().expect("its length is known").into());
    Response::from_parts(parts, body)
}

/// Cuts the base64 content so that its length is none that base64 has.
fn truncated(json: Bytes) -> Bytes {
    const START: &[u8] = b"\"content\":\"";
    let Some(start) = json.windows(START.len()).position(|bytes| bytes == START).map(|at| at + START.len()) else {
        return json;
    };
    let length = json[start..].iter().position(|byte| *byte == b'"').unwrap_or_default();
    let kept = (length / 2) & !3;
    [&json[..start + kept], &json[start..start + length.min(1)], &json[start + length..]].concat().into()
}

/// A body of which the first half arrives, and then nothing more.
struct CutBody {
    half: Option<Bytes>,
    announced: u64,
    is_sent: bool,
}

impl CutBody {
    fn of(whole: Bytes) -> Self {
        // even of an empty body something is missing
        Self { announced: whole.len().max(1) as u64, half: Some(whole.slice(..whole.len() / 2)), is_sent: false }
    }
}

impl HttpBody for CutBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Some(half) = self.half.take() {
            return Poll::Ready(Some(Ok(Frame::data(half))));
        }
        if !self.is_sent {
            // what was given is only sent while the body is waited for
            self.is_sent = true;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Some(Err(io::ErrorKind::ConnectionReset.into())))
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = SizeHint::new();
        hint.set_lower(self.half.as_ref().map_or(0, |half| half.len() as u64));
        hint.set_upper(self.announced);
        hint
    }
}
