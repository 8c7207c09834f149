//! Where every call passes before it is carried out, and every answer on its way back.
//!
//! A call is counted, then waits for the latency. Then a rule may have its way with it; after that, it must have a
//! token, there must be room for it under the rate of its kind, and chance may let it fail. Only then it is carried out.

use std::sync::Arc;
use std::time::Instant;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::answer::ApiError;
use super::fault::{Action, too_many_requests};
use super::kind::Kind;
use super::path;
use super::random::{happens, mixed};
use super::rules::Call;
use super::server::Fake;

/// What lies below this is for tests, and passes as it is.
pub(super) const CONTROL: &str = "/_fake/";

pub(super) async fn pass(State(fake): State<Arc<Fake>>, request: Request, next: Next) -> Response {
    if request.uri().path().starts_with(CONTROL) {
        return next.run(request).await;
    }
    let kind = Kind::of(request.uri().path());
    let visit = fake.counting.arrive(kind, &request);
    let latency = fake.latency();
    if !latency.is_zero() {
        tokio::time::sleep(latency).await;
    }
    let response = answer(&fake, kind, request, next).await;
    visit.leave(&response);
    response
}

async fn answer(fake: &Fake, kind: Kind, request: Request, next: Next) -> Response {
    let (object, mut request) =
        if fake.rules.look_at_objects() { object_of(kind, request).await } else { (None, request) };
    let action = match passed(fake, kind, &request, object.as_deref()) {
        Ok(action) => action,
        Err(response) => {
            // a client that is still sending might otherwise see the end of the connection instead of the answer
            let _body = to_bytes(request.into_body(), usize::MAX).await;
            return response;
        }
    };
    let Some(action) = action else {
        return next.run(request).await;
    };
    if action == Action::IgnoreRange {
        request.headers_mut().remove(header::RANGE);
    }
    action.after(next.run(request).await).await
}

/// Returns what goes wrong with a call although it is carried out; where it is not, its answer.
#[expect(clippy::result_large_err, reason = "an answer is no rare thing here")]
fn passed(fake: &Fake, kind: Kind, request: &Request, object: Option<&str>) -> Result<Option<Action>, Response> {
    let path = request.uri().path();
    let mut action = fake.rules.action(&Call { kind, method: request.method(), path, object });
    if action.is_none() {
        if path.starts_with("/api/") && !fake.tokens.admit(request.headers()) {
            return Err(ApiError::unauthenticated().into_response());
        }
        if !fake.rates.take(kind, Instant::now) {
            return Err(too_many_requests(&fake.options.retry_after));
        }
        action = failure(fake, kind, request);
    }
    let instead = action.as_ref().and_then(|action| action.instead(&fake.options.retry_after, object));
    instead.map_or(Ok(action), Err)
}

/// Chooses whether and how a call fails. No failure gives a client bytes that it could take for the content of a file.
fn failure(fake: &Fake, kind: Kind, request: &Request) -> Option<Action> {
    let share = fake.failure_share();
    if share <= 0.0 || kind == Kind::Tokens {
        return None;
    }
    let chance = mixed(&[fake.options.seed, fake.next_number()]);
    if !happens(chance, share) {
        return None;
    }
    let path = request.uri().path();
    let is_raw = path.starts_with("/api/2.0/fs/files")
        || path.starts_with("/api/2.0/workspace-files/")
        || request.uri().query().is_some_and(|query| query.contains("direct_download=true"));
    let status = |status, error_code: &str| Action::Error {
        status,
        error_code: error_code.to_owned(),
        message: "It is not to be had right now.".to_owned(),
    };
    Some(match mixed(&[chance]) % if is_raw { 4 } else { 7 } {
        0 => Action::TooManyRequests,
        1 => status(500, "INTERNAL_ERROR"),
        2 => status(503, "TEMPORARILY_UNAVAILABLE"),
        3 => Action::CutBody,
        4 => Action::EmptyBody,
        5 => Action::HtmlPage,
        _ if kind == Kind::Export => Action::TruncatedBase64,
        _ => Action::CutBody,
    })
}

/// Returns the path of the object that a call is about. It is in the query, in the path, or in the body.
async fn object_of(kind: Kind, request: Request) -> (Option<String>, Request) {
    #[derive(Deserialize)]
    struct Named {
        path: String,
    }
    let uri = request.uri();
    if let Some(at) = uri.path().strip_prefix("/api/2.0/fs/") {
        let path = at.find('/').and_then(|slash| decoded(&at[slash..])).and_then(|path| path::collapsed(&path));
        return (path, request);
    }
    if let Some(at) = uri.path().strip_prefix("/api/2.0/workspace-files/") {
        let path = decoded(at.strip_prefix("import-file/").unwrap_or(at));
        return (path.and_then(|path| path::normal(&format!("/{path}"))), request);
    }
    if request.method() == Method::GET {
        let named = axum::extract::Query::<Named>::try_from_uri(uri).ok();
        return (named.and_then(|named| path::normal(&named.path)), request);
    }
    if !matches!(kind, Kind::Import | Kind::Mkdirs | Kind::Delete) {
        return (None, request);
    }
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap_or_default();
    let path = serde_json::from_slice(&body).map(|named: Named| named.path).ok().or_else(|| form_path(&body));
    (path.and_then(|path| path::normal(&path)), Request::from_parts(parts, Body::from(body)))
}

fn decoded(path: &str) -> Option<String> {
    percent_encoding::percent_decode_str(path).decode_utf8().ok().map(Into::into)
}

/// Returns the field `path` of a multipart form.
fn form_path(body: &Bytes) -> Option<String> {
    const FIELD: &[u8] = b"name=\"path\"\r\n\r\n";
    let start = body.windows(FIELD.len()).position(|bytes| bytes == FIELD)? + FIELD.len();
    let length = body[start..].windows(2).position(|bytes| bytes == b"\r\n")?;
    String::from_utf8(body[start..start + length].to_vec()).ok()
}
