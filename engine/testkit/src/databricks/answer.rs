//! How calls are understood and answered: JSON both ways, and errors in the forms that the API has.

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

/// What a call comes to.
pub(super) type Answer = Result<Response, ApiError>;

/// An error as most calls tell it.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }

    /// The path of a workspace object is that of none.
    pub(super) fn no_path(path: &str) -> Self {
        Self::missing(format!("Path ({path}) doesn't exist."))
    }

    pub(super) fn missing(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "RESOURCE_DOES_NOT_EXIST", message)
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "INVALID_PARAMETER_VALUE", message)
    }

    pub(super) fn exists(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "RESOURCE_ALREADY_EXISTS", message)
    }

    pub(super) fn unauthenticated() -> Self {
        let message = "Credential was not sent, is not known, or has expired.";
        Self::new(StatusCode::UNAUTHORIZED, "UNAUTHENTICATED", message)
    }

    pub(super) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "PERMISSION_DENIED", message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        json_with(self.status, &json!({ "error_code": self.code, "message": self.message }))
    }
}

/// Answers with JSON.
pub(super) fn json(value: &impl Serialize) -> Response {
    json_with(StatusCode::OK, value)
}

/// Answers with JSON and a status.
pub(super) fn json_with(status: StatusCode, value: &impl Serialize) -> Response {
    json_bytes(status, serde_json::to_vec(value).expect("what is answered can be written as JSON"))
}

/// Answers with JSON that is written already.
pub(super) fn json_bytes(status: StatusCode, json: Vec<u8>) -> Response {
    typed(status, "application/json", json)
}

/// Answers with an empty object, as calls do that have nothing to tell.
pub(super) fn empty() -> Response {
    json_bytes(StatusCode::OK, b"{}".to_vec())
}

/// Answers with bytes of a type.
pub(super) fn typed(status: StatusCode, content_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// The parameters of a call, from its query.
pub(super) struct Params<T>(pub(super) T);

impl<S: Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let params = Query::<T>::try_from_uri(&parts.uri).map_err(|error| ApiError::invalid(error.body_text()))?;
        Ok(Self(params.0))
    }
}

/// The parameters of a call, from its body.
pub(super) struct Payload<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Payload<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let malformed = |error: &dyn std::fmt::Display| {
            ApiError::new(StatusCode::BAD_REQUEST, "MALFORMED_REQUEST", format!("Invalid JSON: {error}"))
        };
        let body = Bytes::from_request(request, state).await.map_err(|error| malformed(&error))?;
        // a call whose parameters may all be absent may have no body at all
        let body = if body.is_empty() { b"{}" } else { body.as_ref() };
        serde_json::from_slice(body).map(Self).map_err(|error| malformed(&error))
    }
}
