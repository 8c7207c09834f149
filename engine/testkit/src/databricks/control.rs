//! What tests in other languages do with a workspace, over HTTP: the same as the methods of `FakeWorkspace`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::{delete, get, post};
use serde::Deserialize;
use serde_json::json;

use super::answer::{Answer, ApiError, Payload, empty, json};
use super::generate::{self, GenerateOptions};
use super::kind::Kind;
use super::night::NightOptions;
use super::rules::{Rule, RuleId};
use super::server::Fake;

type Shared = State<Arc<Fake>>;

pub(super) fn router() -> Router<Arc<Fake>> {
    Router::new()
        .route("/_fake/generate", post(generate))
        .route("/_fake/extras", post(extras))
        .route("/_fake/night", post(night))
        .route("/_fake/wipe", post(wipe))
        .route("/_fake/digest", get(digest))
        .route("/_fake/rules", post(add_rule).delete(clear_rules))
        .route("/_fake/rules/{id}", delete(remove_rule))
        .route("/_fake/rates", post(set_rates))
        .route("/_fake/latency", post(set_latency))
        .route("/_fake/failure-share", post(set_failure_share))
        .route("/_fake/counters", get(counters))
        .route("/_fake/reset-counters", post(reset_counters))
        .route("/_fake/export-counts", get(export_counts))
        .route("/_fake/log", get(log))
        .route("/_fake/expire-tokens", post(expire_tokens))
        .route("/_fake/revoke-tokens", post(revoke_tokens))
}

async fn generate(State(fake): Shared, Payload(options): Payload<GenerateOptions>) -> Response {
    generate::generate(&mut fake.tree.write(), &options);
    empty()
}

async fn extras(State(fake): Shared) -> Response {
    fake.generate_extras();
    empty()
}

async fn night(State(fake): Shared, Payload(options): Payload<NightOptions>) -> Response {
    json(&fake.night(&options))
}

async fn wipe(State(fake): Shared) -> Response {
    fake.wipe();
    empty()
}

async fn digest(State(fake): Shared) -> Response {
    json(&json!({ "digest": fake.digest() }))
}

async fn add_rule(State(fake): Shared, Payload(rule): Payload<Rule>) -> Response {
    json(&json!({ "id": fake.rules.add(rule) }))
}

async fn remove_rule(State(fake): Shared, Path(id): Path<u64>) -> Answer {
    if fake.rules.remove(RuleId(id)) { Ok(empty()) } else { Err(ApiError::missing(format!("There is no rule {id}."))) }
}

async fn clear_rules(State(fake): Shared) -> Response {
    fake.rules.clear();
    empty()
}

#[derive(Deserialize)]
struct Rates {
    rates: BTreeMap<Kind, f64>,
    scale: Option<f64>,
}

async fn set_rates(State(fake): Shared, Payload(Rates { rates, scale }): Payload<Rates>) -> Answer {
    if rates.values().chain(&scale).any(|rate| *rate <= 0.0) {
        return Err(ApiError::invalid("A rate is positive."));
    }
    let rates = rates.into_iter().map(|(kind, rate)| (kind.name().to_owned(), rate)).collect();
    fake.set_rates(&rates, scale.unwrap_or(fake.options.rates_scale));
    Ok(empty())
}

#[derive(Deserialize)]
struct Latency {
    ms: f64,
}

async fn set_latency(State(fake): Shared, Payload(latency): Payload<Latency>) -> Answer {
    let latency =
        Duration::try_from_secs_f64(latency.ms / 1000.0).map_err(|_| ApiError::invalid("That is no time."))?;
    fake.set_latency(latency);
    Ok(empty())
}

#[derive(Deserialize)]
struct FailureShare {
    share: f64,
}

async fn set_failure_share(State(fake): Shared, Payload(failures): Payload<FailureShare>) -> Response {
    fake.set_failure_share(failures.share);
    empty()
}

async fn counters(State(fake): Shared) -> Response {
    json(&fake.counting.read())
}

async fn reset_counters(State(fake): Shared) -> Response {
    fake.reset_counters();
    empty()
}

async fn export_counts(State(fake): Shared) -> Response {
    json(&fake.export_counts())
}

async fn log(State(fake): Shared) -> Response {
    json(&fake.counting.log())
}

async fn expire_tokens(State(fake): Shared) -> Response {
    fake.tokens.expire();
    empty()
}

async fn revoke_tokens(State(fake): Shared) -> Response {
    fake.tokens.revoke();
    empty()
}
