//! What describes a workspace: jobs, pipelines, dashboards, secret scopes, what is in the catalog. Each is one JSON document,
//! the same as long as nothing about it changes.

use serde_json::{Map, Value, json};

use super::api::document;
use super::calls::{JOBS, OTHER};
use super::catalog;
use super::pages::Pages;
use crate::rest::{Call, CallError, CallErrorKind, Client, Refusal};

/// Parts of a job that come a hundred at a time.
const JOB_LISTS: [&str; 4] = ["tasks", "job_clusters", "environments", "parameters"];

/// What a pipeline is doing, which says nothing of what it is.
const PIPELINE_STATE: [&str; 5] = ["state", "health", "latest_updates", "cluster_id", "cause"];

/// Something that is described.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Subject {
    Job(String),
    Pipeline(String),
    Dashboard(String),
    SecretScope(String),
    /// An object of the catalog: its kind as in paths of calls, the kind as grants call it, and its full name.
    Catalog {
        what: &'static str,
        securable: &'static str,
        full_name: String,
    },
}

/// Writes a document so that it is always the same: keys sorted, indented, with a line end.
pub(super) fn canonical(document: &Value) -> Vec<u8> {
    // keys of a map are sorted; writing into memory does not fail
    let mut bytes = serde_json::to_vec_pretty(document).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

/// Lists jobs, pipelines, dashboards or secret scopes, by what names each.
pub(super) async fn names(client: &Client, of: Kind) -> Result<Vec<String>, CallError> {
    let (kind, path, query, items, key): (_, _, &[(&str, &str)], _, _) = match of {
        Kind::Jobs => (JOBS, "/api/2.2/jobs/list", &[("limit", "100")], "jobs", "job_id"),
        Kind::Pipelines => (OTHER, "/api/2.0/pipelines", &[("max_results", "100")], "statuses", "pipeline_id"),
        Kind::Dashboards => {
            (OTHER, "/api/2.0/lakeview/dashboards", &[("page_size", "100")], "dashboards", "dashboard_id")
        }
        Kind::SecretScopes => (OTHER, "/api/2.0/secrets/scopes/list", &[], "scopes", "name"),
    };
    let all = Pages { kind, path, query, items, subject: "" }.all(client).await?;
    let name = |item: &Value| match item.get(key)? {
        Value::String(name) => Some(name.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    Ok(all.iter().filter_map(name).collect())
}

/// What has a name in the workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Jobs,
    Pipelines,
    Dashboards,
    SecretScopes,
}

impl Subject {
    /// Returns the document that describes it.
    pub(super) async fn describe(&self, client: &Client) -> Result<Value, CallError> {
        match self {
            Self::Job(id) => job(client, id).await,
            Self::Pipeline(id) => {
                let path = format!("/api/2.0/pipelines/{id}");
                let mut pipeline: Value = document(client, &Call::get(OTHER, path, id)).await?;
                if let Some(pipeline) = pipeline.as_object_mut() {
                    PIPELINE_STATE.iter().for_each(|key| drop(pipeline.remove(*key)));
                }
                Ok(pipeline)
            }
            Self::Dashboard(id) => {
                let path = format!("/api/2.0/lakeview/dashboards/{id}");
                let dashboard: Value = document(client, &Call::get(OTHER, path.as_str(), id)).await?;
                let published =
                    unless_absent(document::<Value>(client, &Call::get(OTHER, format!("{path}/published"), id)).await)?;
                let schedules = format!("{path}/schedules");
                let pages = Pages { kind: OTHER, path: &schedules, query: &[], items: "schedules", subject: id };
                let schedules = unless_absent(pages.all(client).await)?.unwrap_or_default();
                Ok(json!({ "dashboard": dashboard, "published": published, "schedules": schedules }))
            }
            Self::SecretScope(name) => secret_scope(client, name).await,
            Self::Catalog { what, securable, full_name } => {
                let object = catalog::object(client, what, full_name).await?;
                // whoever may read what something is may not always read who else may
                let grants = match catalog::grants(client, securable, full_name).await {
                    Err(error) if error.kind.refusal().is_some_and(Refusal::is_forbidden) => None,
                    grants => Some(grants?.get("privilege_assignments").cloned().unwrap_or_else(|| json!([]))),
                };
                Ok(json!({ "definition": object, "grants": grants }))
            }
        }
    }
}

fn unless_absent<T>(result: Result<T, CallError>) -> Result<Option<T>, CallError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind.refusal().is_some_and(Refusal::is_absent) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Asks for a job, all pages of it.
async fn job(client: &Client, id: &str) -> Result<Value, CallError> {
    let mut whole: Option<Map<String, Value>> = None;
    let mut token: Option<String> = None;
    loop {
        let mut query = vec![("job_id", id)];
        query.extend(token.as_deref().map(|token| ("page_token", token)));
        let page: Value = document(client, &Call::get(JOBS, "/api/2.2/jobs/get", id).query(&query)).await?;
        let Value::Object(mut page) = page else { return Ok(page) };
        let next = page.remove("next_page_token").and_then(|next| next.as_str().map(str::to_owned));
        page.remove("has_more");
        match &mut whole {
            None => whole = Some(page),
            Some(whole) => append_lists(whole, page),
        }
        match next.filter(|next| !next.is_empty()) {
            Some(next) if token.as_ref() == Some(&next) => {
                let kind = CallErrorKind::Malformed { why: "its next page is the same one again".into() };
                return Err(CallError { call: format!("GET /api/2.2/jobs/get of `{id}`"), kind });
            }
            Some(next) => token = Some(next),
            None => return Ok(Value::Object(whole.unwrap_or_default())),
        }
    }
}

/// Appends what another page of a job has of its lists.
fn append_lists(whole: &mut Map<String, Value>, mut page: Map<String, Value>) {
    let Some(more) = page.get_mut("settings").and_then(Value::as_object_mut) else { return };
    let Some(settings) = whole.get_mut("settings").and_then(Value::as_object_mut) else { return };
    for key in JOB_LISTS {
        if let Some(Value::Array(mut items)) = more.remove(key) {
            match settings.get_mut(key) {
                Some(Value::Array(all)) => all.append(&mut items),
                _ => drop(settings.insert(key.into(), Value::Array(items))),
            }
        }
    }
}

/// Describes a secret scope: names of its secrets and who may use them, never a secret.
async fn secret_scope(client: &Client, name: &str) -> Result<Value, CallError> {
    let scopes: Value = document(client, &Call::get(OTHER, "/api/2.0/secrets/scopes/list", name)).await?;
    let all = scopes.get("scopes").and_then(Value::as_array);
    let is_it = |scope: &&Value| scope.get("name").and_then(Value::as_str) == Some(name);
    let scope = all.and_then(|all| all.iter().find(is_it)).cloned().unwrap_or_default();
    let query = [("scope", name)];
    let secrets: Value = document(client, &Call::get(OTHER, "/api/2.0/secrets/list", name).query(&query)).await?;
    let lists: Value = document(client, &Call::get(OTHER, "/api/2.0/secrets/acls/list", name).query(&query)).await?;
    let key = |secret: &Value| json!({ "key": secret.get("key"), "last_updated_timestamp": secret.get("last_updated_timestamp") });
    let secrets: Vec<Value> = secrets.get("secrets").and_then(Value::as_array).into_iter().flatten().map(key).collect();
    Ok(json!({ "scope": scope, "secrets": secrets, "acls": lists.get("items") }))
}
