//! Pipelines.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::routing::get;
use parking_lot::RwLock;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::databricks::answer::{Answer, ApiError, Params, Payload, empty, json};
use crate::databricks::page::{Start, page};
use crate::databricks::random::uuid;
use crate::databricks::server::Fake;

pub(super) fn router() -> Router<Arc<Fake>> {
    Router::new()
        .route("/api/2.0/pipelines", get(list).post(create))
        .route("/api/2.0/pipelines/{id}", get(read).put(edit).delete(delete))
}

/// The specifications of all pipelines, by their ids.
#[derive(Debug, Default)]
pub(in crate::databricks) struct Pipelines(RwLock<Kept>);

#[derive(Debug, Default)]
struct Kept {
    created: u64,
    specs: BTreeMap<String, Map<String, Value>>,
}

impl Pipelines {
    /// Adds a pipeline. Returns its id.
    pub(in crate::databricks) fn add(&self, spec: Map<String, Value>) -> String {
        let mut kept = self.0.write();
        let id = uuid(&[0x919e, kept.created]);
        kept.created += 1;
        kept.specs.insert(id.clone(), identified(&id, spec));
        id
    }

    pub(super) fn exists(&self, id: &str) -> bool {
        self.0.read().specs.contains_key(id)
    }
}

fn identified(id: &str, mut spec: Map<String, Value>) -> Map<String, Value> {
    spec.insert("id".to_owned(), id.into());
    spec
}

fn no_pipeline(id: &str) -> ApiError {
    ApiError::missing(format!("The specified pipeline {id} was not found."))
}

fn status(id: &str, spec: &Map<String, Value>) -> Value {
    json!({
        "pipeline_id": id,
        "name": spec.get("name"),
        "state": "IDLE",
        "creator_user_name": "tester@example.com",
    })
}

#[derive(Deserialize)]
struct ListParams {
    max_results: Option<usize>,
    page_token: Option<String>,
}

async fn list(State(fake): State<Arc<Fake>>, Params(params): Params<ListParams>) -> Answer {
    let limit = params.max_results.unwrap_or(25).min(fake.options.page_size);
    let start = Start::of(params.page_token.as_deref())?;
    let kept = fake.pipelines.0.read();
    Ok(json(&page("statuses", &kept.specs, start, limit, |(id, spec)| status(id, spec))))
}

async fn read(State(fake): State<Arc<Fake>>, Path(id): Path<String>) -> Answer {
    let kept = fake.pipelines.0.read();
    let spec = kept.specs.get(&id).ok_or_else(|| no_pipeline(&id))?;
    let mut pipeline = status(&id, spec);
    pipeline["spec"] = spec.clone().into();
    Ok(json(&pipeline))
}

async fn create(State(fake): State<Arc<Fake>>, Payload(spec): Payload<Map<String, Value>>) -> Answer {
    Ok(json(&json!({ "pipeline_id": fake.pipelines.add(spec) })))
}

async fn edit(
    State(fake): State<Arc<Fake>>,
    Path(id): Path<String>,
    Payload(spec): Payload<Map<String, Value>>,
) -> Answer {
    let mut kept = fake.pipelines.0.write();
    let old = kept.specs.get_mut(&id).ok_or_else(|| no_pipeline(&id))?;
    *old = identified(&id, spec);
    Ok(empty())
}

async fn delete(State(fake): State<Arc<Fake>>, Path(id): Path<String>) -> Answer {
    let removed = fake.pipelines.0.write().specs.remove(&id);
    removed.map(|_| empty()).ok_or_else(|| no_pipeline(&id))
}
