//! Lakeview dashboards: drafts, what was published of them, and schedules. Each has its place in the workspace.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::routing::get;
use jiff::Timestamp;
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::workspace::given;
use crate::databricks::answer::{Answer, ApiError, Params, Payload, empty, json};
use crate::databricks::object::{Content, Other};
use crate::databricks::page::{Start, page};
use crate::databricks::path;
use crate::databricks::random::uuid;
use crate::databricks::server::Fake;
use crate::databricks::tree::Tree;

const ACTIVE: &str = "ACTIVE";
const TRASHED: &str = "TRASHED";

pub(super) fn router() -> Router<Arc<Fake>> {
    Router::new()
        .route("/api/2.0/lakeview/dashboards", get(list).post(create))
        .route("/api/2.0/lakeview/dashboards/{id}", get(read).patch(update).delete(trash))
        .route("/api/2.0/lakeview/dashboards/{id}/published", get(published).post(publish))
        .route("/api/2.0/lakeview/dashboards/{id}/schedules", get(schedules))
}

/// A dashboard, as calls and tests give it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(in crate::databricks) struct Draft {
    display_name: Option<String>,
    parent_path: Option<String>,
    serialized_dashboard: Option<String>,
    warehouse_id: Option<String>,
    etag: Option<String>,
    /// What was published of it.
    published: Option<Value>,
    schedules: Vec<Value>,
}

#[derive(Debug, Clone, Serialize)]
struct Dashboard {
    dashboard_id: String,
    display_name: String,
    parent_path: String,
    path: String,
    serialized_dashboard: String,
    warehouse_id: Option<String>,
    etag: String,
    create_time: String,
    update_time: String,
    lifecycle_state: &'static str,
    #[serde(skip)]
    published: Option<Value>,
    #[serde(skip)]
    schedules: Vec<Value>,
}

/// All dashboards, by their ids.
#[derive(Debug, Default)]
pub(in crate::databricks) struct Dashboards(RwLock<BTreeMap<String, Dashboard>>);

impl Dashboards {
    /// Adds a dashboard, at its place in the workspace. Returns its id.
    pub(in crate::databricks) fn add(&self, tree: &mut Tree, draft: Draft) -> Result<String, ApiError> {
        let mut dashboards = self.0.write();
        let display_name = draft.display_name.unwrap_or_else(|| "New dashboard".to_owned());
        let parent_path = given(draft.parent_path.as_deref().unwrap_or("/"))?;
        let folder = tree.find(&parent_path).ok_or_else(|| ApiError::no_path(&parent_path))?;
        let name = format!("{display_name}.lvdash.json");
        let dashboard_id = uuid(&[0xda5b, dashboards.len() as u64]).replace('-', "");
        let path = path::joined(&parent_path, &name);
        if tree.child(folder, &name).is_some() {
            return Err(ApiError::exists(format!("Path ({path}) already exists.")));
        }
        let other = Other { object_type: "DASHBOARD".into(), resource_id: Some(dashboard_id.as_str().into()) };
        tree.put(folder, &name, Content::Other(Box::new(other)))
            .map_err(|_| ApiError::invalid(format!("({parent_path}) is no folder.")))?;
        let now = time(tree.tick());
        let dashboard = Dashboard {
            dashboard_id: dashboard_id.clone(),
            display_name,
            parent_path,
            path,
            serialized_dashboard: draft.serialized_dashboard.unwrap_or_else(|| "{}".to_owned()),
            warehouse_id: draft.warehouse_id,
            etag: "1".to_owned(),
            create_time: now.clone(),
            update_time: now,
            lifecycle_state: ACTIVE,
            published: draft.published,
            schedules: draft.schedules,
        };
        dashboards.insert(dashboard_id.clone(), dashboard);
        Ok(dashboard_id)
    }

    pub(super) fn exists(&self, id: &str) -> bool {
        self.0.read().contains_key(id)
    }

    /// Puts those into the trash that lie at a path or below it.
    pub(in crate::databricks) fn trash_within(&self, top: &str) {
        for dashboard in self.0.write().values_mut().filter(|dashboard| path::is_within(&dashboard.path, top)) {
            dashboard.lifecycle_state = TRASHED;
            dashboard.published = None;
        }
    }

    fn with<T>(&self, id: &str, act: impl FnOnce(&mut Dashboard) -> T) -> Result<T, ApiError> {
        let mut dashboards = self.0.write();
        dashboards.get_mut(id).map(act).ok_or_else(|| ApiError::missing(format!("Unable to find dashboard [{id}]")))
    }
}

fn time(ms: i64) -> String {
    Timestamp::from_millisecond(ms).expect("a time that calendars have").to_string()
}

#[derive(Deserialize)]
struct ListParams {
    page_size: Option<usize>,
    page_token: Option<String>,
    #[serde(default)]
    show_trashed: bool,
}

async fn list(State(fake): State<Arc<Fake>>, Params(params): Params<ListParams>) -> Answer {
    let dashboards = fake.dashboards.0.read();
    let shown = dashboards.values().filter(|it| params.show_trashed || it.lifecycle_state == ACTIVE);
    let brief = |dashboard: &Dashboard| {
        let mut brief = json!(dashboard);
        if let Value::Object(brief) = &mut brief {
            // a listing does not have them
            for name in ["serialized_dashboard", "etag", "path", "parent_path"] {
                brief.remove(name);
            }
        }
        brief
    };
    let limit = params.page_size.filter(|size| *size > 0).unwrap_or(20).min(fake.options.page_size);
    let start = Start::of(params.page_token.as_deref())?;
    Ok(json(&page("dashboards", shown, start, limit, brief)))
}

async fn read(State(fake): State<Arc<Fake>>, Path(id): Path<String>) -> Answer {
    Ok(json(&fake.dashboards.with(&id, |dashboard| dashboard.clone())?))
}

async fn create(State(fake): State<Arc<Fake>>, Payload(draft): Payload<Draft>) -> Answer {
    let id = fake.dashboards.add(&mut fake.tree.write(), draft)?;
    read(State(fake), Path(id)).await
}

async fn update(State(fake): State<Arc<Fake>>, Path(id): Path<String>, Payload(draft): Payload<Draft>) -> Answer {
    let mut tree = fake.tree.write();
    let (etag, old_path) = fake.dashboards.with(&id, |it| (it.etag.clone(), it.path.clone()))?;
    if draft.etag.is_some_and(|given| given != etag) {
        return Err(ApiError::invalid("Invalid etag"));
    }
    let now = time(tree.tick());
    let updated = fake.dashboards.with(&id, |dashboard| {
        if let Some(name) = draft.display_name {
            dashboard.path = path::joined(&dashboard.parent_path, &format!("{name}.lvdash.json"));
            dashboard.display_name = name;
        }
        dashboard.warehouse_id = draft.warehouse_id.or(dashboard.warehouse_id.take());
        if let Some(serialized) = draft.serialized_dashboard {
            dashboard.serialized_dashboard = serialized;
        }
        dashboard.etag = (dashboard.etag.parse::<u64>().unwrap_or_default() + 1).to_string();
        dashboard.update_time = now;
        dashboard.clone()
    })?;
    if updated.path != old_path {
        tree.rename(&old_path, &updated.path);
    }
    Ok(json(&updated))
}

async fn trash(State(fake): State<Arc<Fake>>, Path(id): Path<String>) -> Answer {
    let path = fake.dashboards.with(&id, |dashboard| dashboard.path.clone())?;
    fake.tree.write().remove(&path);
    fake.dashboards.trash_within(&path);
    Ok(empty())
}

fn not_published(id: &str) -> ApiError {
    ApiError::missing(format!("Unable to find published dashboard [{id}]"))
}

async fn published(State(fake): State<Arc<Fake>>, Path(id): Path<String>) -> Answer {
    let published = fake.dashboards.with(&id, |dashboard| dashboard.published.clone())?;
    published.map(|published| json(&published)).ok_or_else(|| not_published(&id))
}

async fn publish(
    State(fake): State<Arc<Fake>>,
    Path(id): Path<String>,
    Payload(mut wanted): Payload<Map<String, Value>>,
) -> Answer {
    let published = fake.dashboards.with(&id, |dashboard| {
        wanted.insert("display_name".to_owned(), dashboard.display_name.as_str().into());
        wanted.entry("warehouse_id").or_insert_with(|| json!(dashboard.warehouse_id));
        wanted.insert("revision_create_time".to_owned(), dashboard.update_time.as_str().into());
        dashboard.published = Some(wanted.into());
        dashboard.published.clone()
    })?;
    Ok(json(&published))
}

#[derive(Deserialize)]
struct ScheduleParams {
    page_size: Option<usize>,
    page_token: Option<String>,
}

async fn schedules(
    State(fake): State<Arc<Fake>>,
    Path(id): Path<String>,
    Params(params): Params<ScheduleParams>,
) -> Answer {
    let schedules = fake.dashboards.with(&id, |dashboard| dashboard.schedules.clone())?;
    let limit = params.page_size.filter(|size| *size > 0).unwrap_or(20).min(fake.options.page_size);
    Ok(json(&page("schedules", schedules, Start::of(params.page_token.as_deref())?, limit, |it| it)))
}
