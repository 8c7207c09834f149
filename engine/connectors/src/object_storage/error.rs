//! What a store says, as what storage says.

use std::error::Error as _;
use std::fmt;
use std::io;

use lakebed_core::storage::{StorageError, StorageErrorKind};
use object_store::Error;
use object_store::client::{HttpError, HttpErrorKind};

/// Returns what kind of trouble there was with the network, if that is what it was.
fn network_trouble(error: &Error) -> Option<HttpErrorKind> {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(http) = cause.downcast_ref::<HttpError>() {
            return Some(http.kind());
        }
        source = cause.source();
    }
    None
}

/// Tells whether a request may have been carried out although it failed: its answer did not come. The client does not send
/// such a one again by itself.
pub(super) fn may_have_been_carried_out(error: &Error) -> bool {
    matches!(network_trouble(error), Some(HttpErrorKind::Timeout | HttpErrorKind::Interrupted))
}

/// Returns the last cause in a chain, in words.
pub(super) fn innermost(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    last.to_string()
}

/// Says in one line what the crate says in five: what was asked, how often, and what came of it.
fn explain(error: &Error) -> String {
    let mut request = None;
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        // the innermost of those that name the request names nothing else
        if text.starts_with("Error performing ") && text.contains("://") {
            request = Some(text);
        }
        cause = error.source();
    }
    let innermost = innermost(error);
    let Some(request) = request else {
        // nothing was asked of the store, or not by the crate: what is above the innermost only repeats it
        let whole = error.to_string();
        return if whole.ends_with(&innermost) { whole } else { format!("{whole}: {innermost}") };
    };
    let (asked, answered) = request.split_once(" - ").unwrap_or((&request, ""));
    let answered = match (inner_text(answered, "Code"), inner_text(answered, "Message")) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        _ if answered.is_empty() || !innermost.contains("://") => innermost,
        _ => answered.to_owned(),
    };
    let asked = asked.trim_start_matches("Error performing ");
    // how many tries would have been allowed says nothing to anybody
    let asked = asked.split_once(", max_retries").map_or(asked, |(asked, _)| asked);
    if asked == answered { answered } else { format!("{asked}: {answered}") }
}

/// Returns the text of an element of XML.
fn inner_text<'a>(text: &'a str, element: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<{element}>"))?;
    Some(rest.split_once(&format!("</{element}>"))?.0)
}

/// Builds the error of an operation on an object. `status` is that of the last answer, 0 where none came.
pub(super) fn storage_error(
    operation: &'static str,
    subject: impl fmt::Display,
    error: Error,
    status: u16,
) -> StorageError {
    let kind = match &error {
        Error::NotFound { .. } => StorageErrorKind::NotFound,
        Error::AlreadyExists { .. } | Error::Precondition { .. } => StorageErrorKind::AlreadyExists,
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => StorageErrorKind::PermissionDenied,
        error if network_trouble(error).is_some() => StorageErrorKind::Transient,
        _ => match status {
            404 => StorageErrorKind::NotFound,
            401 | 403 => StorageErrorKind::PermissionDenied,
            408 | 429 | 500 | 502..=504 => StorageErrorKind::Transient,
            507 => StorageErrorKind::NoSpace,
            _ => StorageErrorKind::Other,
        },
    };
    StorageError { kind, operation, subject: subject.to_string(), source: io::Error::other(explain(&error)) }
}
