//! Where tokens come from, and who their bearer is.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use axum::Router;
use axum::extract::{Form, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::routing::{get, post};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;

use crate::databricks::answer::{json, json_with};
use crate::databricks::fault;
use crate::databricks::server::Fake;

/// The application id of Azure Databricks: what tokens of Entra are asked for.
const DATABRICKS: &str = "2ff814a6-3304-4ab8-85cb-cd0e6f879c1d";
const WORKSPACE_ID: &str = "900800700600";

type Fields = HashMap<String, String>;

pub(super) fn router() -> Router<Arc<Fake>> {
    Router::new()
        .route("/.well-known/databricks-config", get(host))
        .route("/oidc/.well-known/oauth-authorization-server", get(discovery))
        .route("/oidc/v1/token", post(token))
        .route("/{tenant}/oauth2/token", post(entra))
        .route("/metadata/identity/oauth2/token", get(managed_identity))
        .route("/api/2.0/preview/scim/v2/Me", get(me))
}

/// Answers what newer clients ask first: where to look for the endpoints of tokens.
async fn host(State(fake): State<Arc<Fake>>) -> Response {
    json(&json!({ "oidc_endpoint": format!("{}/oidc", fake.url), "workspace_id": WORKSPACE_ID }))
}

async fn discovery(State(fake): State<Arc<Fake>>) -> Response {
    json(&json!({
        "authorization_endpoint": format!("{}/oidc/v1/authorize", fake.url),
        "token_endpoint": format!("{}/oidc/v1/token", fake.url),
    }))
}

async fn token(State(fake): State<Arc<Fake>>, headers: HeaderMap, Form(fields): Form<Fields>) -> Response {
    if basic(&headers).is_none_or(|client| !fake.options.clients.contains(&client)) {
        return refused(StatusCode::UNAUTHORIZED, "invalid_client");
    }
    if field(&fields, "grant_type") != "client_credentials" {
        return refused(StatusCode::BAD_REQUEST, "unsupported_grant_type");
    }
    let expires_in = fake.options.expires_in;
    json(&json!({
        "access_token": give(&fake, DATABRICKS),
        "token_type": "Bearer",
        "expires_in": if fake.options.expires_in_text { json!(expires_in.to_string()) } else { json!(expires_in) },
        "scope": field(&fields, "scope"),
    }))
}

async fn entra(State(fake): State<Arc<Fake>>, Form(fields): Form<Fields>) -> Response {
    let client = (field(&fields, "client_id").to_owned(), field(&fields, "client_secret").to_owned());
    if !fake.options.clients.contains(&client) {
        return refused(StatusCode::UNAUTHORIZED, "invalid_client");
    }
    if field(&fields, "grant_type") != "client_credentials" {
        return refused(StatusCode::BAD_REQUEST, "unsupported_grant_type");
    }
    azure_token(&fake, field(&fields, "resource"))
}

async fn managed_identity(State(fake): State<Arc<Fake>>, headers: HeaderMap, Query(fields): Query<Fields>) -> Response {
    // without it the call may come from a page that somebody was lured to
    if headers.get("metadata").is_none_or(|value| value != "true") {
        return refused(StatusCode::BAD_REQUEST, "invalid_request");
    }
    azure_token(&fake, field(&fields, "resource"))
}

/// Answers as Azure does, where numbers are texts.
fn azure_token(fake: &Fake, resource: &str) -> Response {
    if resource.is_empty() {
        return refused(StatusCode::BAD_REQUEST, "invalid_resource");
    }
    let (now, expires_in) = (fault::now().as_second(), fake.options.expires_in);
    json(&json!({
        "access_token": give(fake, resource),
        "token_type": "Bearer",
        "expires_in": expires_in.to_string(),
        "ext_expires_in": expires_in.to_string(),
        "expires_on": now.saturating_add_unsigned(expires_in).to_string(),
        "not_before": now.to_string(),
        "resource": resource,
    }))
}

/// Gives a token. The workspace takes only one that was made for it.
fn give(fake: &Fake, resource: &str) -> String {
    fake.counting.tokens_issued.fetch_add(1, Relaxed);
    if resource == DATABRICKS { fake.tokens.give() } else { fake.tokens.any() }
}

async fn me() -> Response {
    let mut response = json(&json!({
        "schemas": ["urn:ietf:params:scim:schemas:core:2.0:User"],
        "id": "1000",
        "userName": "tester@example.com",
        "displayName": "Tester",
        "active": true,
        "emails": [{ "type": "work", "value": "tester@example.com", "primary": true }],
        "groups": [{ "display": "admins", "value": "1" }],
    }));
    response.headers_mut().insert("x-databricks-org-id", HeaderValue::from_static(WORKSPACE_ID));
    response
}

fn field<'a>(fields: &'a Fields, name: &str) -> &'a str {
    fields.get(name).map_or("", String::as_str)
}

fn basic(headers: &HeaderMap) -> Option<(String, String)> {
    let encoded = headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Basic ")?;
    let decoded = String::from_utf8(BASE64_STANDARD.decode(encoded).ok()?).ok()?;
    decoded.split_once(':').map(|(id, secret)| (id.to_owned(), secret.to_owned()))
}

fn refused(status: StatusCode, error: &str) -> Response {
    json_with(status, &json!({ "error": error, "error_description": "No token is given for this." }))
}
