//! What a store says, as what storage says.

use std::error::Error as _;
use std::fmt;
use std::io;

use lakebed_core::storage::{StorageError, StorageErrorKind};
use object_store::Error;
use object_store::client::{HttpError, HttpErrorKind};

/// Tells whether a request may have been carried out although it failed: its answer did not come.
pub(super) fn is_of_the_network(error: &Error) -> bool {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(http) = cause.downcast_ref::<HttpError>() {
            let kind = http.kind();
            return matches!(kind, HttpErrorKind::Connect | HttpErrorKind::Timeout | HttpErrorKind::Interrupted);
        }
        source = cause.source();
    }
    false
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
        error if is_of_the_network(error) => StorageErrorKind::Transient,
        _ => match status {
            401 | 403 => StorageErrorKind::PermissionDenied,
            408 | 429 | 500 | 502..=504 => StorageErrorKind::Transient,
            507 => StorageErrorKind::NoSpace,
            _ => StorageErrorKind::Other,
        },
    };
    StorageError { kind, operation, subject: subject.to_string(), source: io::Error::other(error) }
}
