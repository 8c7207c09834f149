//! Jobs. Version 2.2 of the calls gives long arrays in pages; version 2.1 cuts them off.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::routing::{get, post};
use parking_lot::RwLock;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::databricks::answer::{Answer, ApiError, Params, Payload, empty, json};
use crate::databricks::page::{Start, page};
use crate::databricks::server::Fake;
use crate::databricks::tree::EPOCH_MS;

/// The arrays of a job's settings that can be long.
const ARRAYS: [&str; 4] = ["tasks", "job_clusters", "environments", "parameters"];
/// How many entries of each are given at once.
const AT_ONCE: usize = 100;
const FIRST_ID: u64 = 700_000_000_000_001;

pub(super) fn router() -> Router<Arc<Fake>> {
    Router::new()
        .route("/api/{version}/jobs/list", get(list))
        .route("/api/{version}/jobs/get", get(read))
        .route("/api/{version}/jobs/create", post(create))
        .route("/api/{version}/jobs/reset", post(reset))
        .route("/api/{version}/jobs/delete", post(delete))
}

/// The settings of all jobs, by their ids.
#[derive(Debug, Default)]
pub(in crate::databricks) struct Jobs(RwLock<Kept>);

#[derive(Debug, Default)]
struct Kept {
    created: u64,
    settings: BTreeMap<u64, Map<String, Value>>,
}

impl Jobs {
    /// Adds a job. Returns its id.
    pub(in crate::databricks) fn add(&self, settings: Map<String, Value>) -> u64 {
        let mut kept = self.0.write();
        let id = FIRST_ID + kept.created;
        kept.created += 1;
        kept.settings.insert(id, settings);
        id
    }

    /// Returns the id of the job that was added last.
    pub(in crate::databricks) fn newest(&self) -> u64 {
        FIRST_ID + self.0.read().created - 1
    }

    pub(super) fn exists(&self, id: u64) -> bool {
        self.0.read().settings.contains_key(&id)
    }
}

fn no_job(id: u64) -> ApiError {
    ApiError::invalid(format!("Job {id} does not exist."))
}

fn job(id: u64, settings: Map<String, Value>) -> Map<String, Value> {
    Map::from_iter([
        ("job_id".to_owned(), id.into()),
        ("creator_user_name".to_owned(), "tester@example.com".into()),
        ("created_time".to_owned(), (EPOCH_MS + (id - FIRST_ID) as i64).into()),
        ("settings".to_owned(), settings.into()),
    ])
}

/// Cuts the arrays of some settings to those entries that come from here on. Tells whether more come after them.
fn cut(settings: &mut Map<String, Value>, offset: usize) -> bool {
    let mut has_more = false;
    for name in ARRAYS {
        if let Some(Value::Array(array)) = settings.get_mut(name) {
            has_more |= array.len() > offset + AT_ONCE;
            *array = std::mem::take(array).into_iter().skip(offset).take(AT_ONCE).collect();
            if array.is_empty() {
                settings.remove(name);
            }
        }
    }
    has_more
}

#[derive(Deserialize)]
struct ListParams {
    limit: Option<usize>,
    page_token: Option<String>,
    #[serde(default)]
    expand_tasks: bool,
    name: Option<String>,
}

async fn list(
    State(fake): State<Arc<Fake>>,
    Path(version): Path<String>,
    Params(params): Params<ListParams>,
) -> Answer {
    let limit = params.limit.unwrap_or(20);
    if !(1..=100).contains(&limit) {
        return Err(ApiError::invalid("The limit is from 1 to 100."));
    }
    let is_named = |settings: &Map<String, Value>| {
        params.name.as_deref().is_none_or(|name| {
            settings.get("name").and_then(Value::as_str).is_some_and(|it| it.eq_ignore_ascii_case(name))
        })
    };
    let kept = fake.jobs.0.read();
    let entry = |(id, settings): (&u64, &Map<String, Value>)| {
        let mut settings = settings.clone();
        let mut has_more = false;
        if params.expand_tasks {
            has_more = cut(&mut settings, 0);
        } else {
            ARRAYS.iter().for_each(|name| drop(settings.remove(*name)));
        }
        let mut job = job(*id, settings);
        if version == "2.2" {
            job.insert("has_more".to_owned(), has_more.into());
        }
        Value::from(job)
    };
    // the newest come first
    let jobs = kept.settings.iter().rev().filter(|(_, settings)| is_named(settings));
    let mut page = page("jobs", jobs, Start::of(params.page_token.as_deref())?, limit, entry);
    page.insert("has_more".to_owned(), page.contains_key("next_page_token").into());
    Ok(json(&page))
}

#[derive(Deserialize)]
struct GetParams {
    job_id: u64,
    page_token: Option<String>,
}

async fn read(State(fake): State<Arc<Fake>>, Path(version): Path<String>, Params(params): Params<GetParams>) -> Answer {
    let kept = fake.jobs.0.read();
    let mut settings = kept.settings.get(&params.job_id).cloned().ok_or_else(|| no_job(params.job_id))?;
    let offset = Start::of(params.page_token.as_deref())?.offset;
    let has_more = cut(&mut settings, offset);
    let mut job = job(params.job_id, settings);
    if version == "2.2" && has_more {
        let next = Start { offset: offset + AT_ONCE, ..Start::default() };
        job.extend([("next_page_token".to_owned(), next.token().into()), ("has_more".to_owned(), true.into())]);
    }
    Ok(json(&job))
}

async fn create(State(fake): State<Arc<Fake>>, Payload(settings): Payload<Map<String, Value>>) -> Answer {
    Ok(json(&json!({ "job_id": fake.jobs.add(settings) })))
}

#[derive(Deserialize)]
struct ResetParams {
    job_id: u64,
    new_settings: Map<String, Value>,
}

async fn reset(State(fake): State<Arc<Fake>>, Payload(params): Payload<ResetParams>) -> Answer {
    let mut kept = fake.jobs.0.write();
    let settings = kept.settings.get_mut(&params.job_id).ok_or_else(|| no_job(params.job_id))?;
    *settings = params.new_settings;
    Ok(empty())
}

#[derive(Deserialize)]
struct DeleteParams {
    job_id: u64,
}

async fn delete(State(fake): State<Arc<Fake>>, Payload(params): Payload<DeleteParams>) -> Answer {
    let removed = fake.jobs.0.write().settings.remove(&params.job_id);
    removed.map(|_| empty()).ok_or_else(|| no_job(params.job_id))
}
