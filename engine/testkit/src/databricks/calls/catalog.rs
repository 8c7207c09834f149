//! Unity Catalog: what there is, and who may use it.
//!
//! A page of a listing may be empty and still not be the last one, and the listing of tables lacks what only the call
//! for a single table tells.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::get;
use parking_lot::RwLock;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::databricks::answer::{Answer, ApiError, Params, Payload, json};
use crate::databricks::page::{Start, page, whole};
use crate::databricks::server::Fake;

/// What a listing of tables never has.
const ONLY_SINGLE: [&str; 2] = ["table_constraints", "view_dependencies"];

pub(super) fn router() -> Router<Arc<Fake>> {
    Router::new()
        .route("/api/2.1/unity-catalog/{securables}", get(list))
        .route("/api/2.1/unity-catalog/{securables}/{name}", get(read))
        .route("/api/2.1/unity-catalog/permissions/{securable_type}/{name}", get(grants).patch(change_grants))
}

/// The kinds of securables that are kept, as paths have them.
const KINDS: [&str; 5] = ["catalogs", "schemas", "tables", "volumes", "functions"];

/// Securables of one kind, by their full names.
type Securables = BTreeMap<String, Map<String, Value>>;
/// The privileges of each principal.
type Grants = BTreeMap<String, Vec<String>>;

/// Catalogs and all that is in them.
#[derive(Debug, Default)]
pub(in crate::databricks) struct Catalog {
    /// By kind.
    securables: RwLock<HashMap<&'static str, Securables>>,
    /// By the type and the full name of what they are for.
    grants: RwLock<HashMap<(String, String), Grants>>,
}

impl Catalog {
    /// Puts a securable in the place of one with its name. Returns its full name.
    pub(in crate::databricks) fn put(&self, kind: &'static str, mut securable: Map<String, Value>) -> String {
        let mut all = self.securables.write();
        let name = |key: &str| securable.get(key).and_then(Value::as_str).map(str::to_owned);
        let names: Vec<String> = ["catalog_name", "schema_name", "name"].into_iter().filter_map(name).collect();
        let above = match kind {
            "catalogs" => 0,
            "schemas" => 1,
            _ => 2,
        };
        assert_eq!(names.len(), above + 1, "{kind} have {} names", above + 1);
        let parent = names[..above].join(".");
        assert!(
            above == 0 || all.get(KINDS[above - 1]).is_some_and(|parents| parents.contains_key(&parent)),
            "there is no {parent}"
        );
        let full_name = names.join(".");
        securable.insert("full_name".to_owned(), full_name.as_str().into());
        all.entry(kind).or_default().insert(full_name.clone(), securable);
        full_name
    }

    /// Sets who may do what with a securable: the answer that a call for them gets.
    pub(in crate::databricks) fn set_grants(&self, securable_type: &str, name: &str, assignments: &[Value]) {
        let grant =
            |assignment: &Value| Some((assignment["principal"].as_str()?.to_owned(), texts(&assignment["privileges"])));
        let grants = assignments.iter().map(|it| grant(it).expect("a grant has a principal")).collect();
        self.grants.write().insert((securable_type.to_owned(), name.to_owned()), grants);
    }
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn kind_of(securables: &str) -> Result<&'static str, ApiError> {
    let kind = KINDS.into_iter().find(|kind| *kind == securables);
    kind.ok_or_else(|| ApiError::missing(format!("No API found for {securables}")))
}

#[derive(Deserialize)]
struct ListParams {
    catalog_name: Option<String>,
    schema_name: Option<String>,
    max_results: Option<usize>,
    page_token: Option<String>,
    #[serde(default)]
    omit_columns: bool,
    #[serde(default)]
    omit_properties: bool,
}

impl ListParams {
    /// Returns the full name of what is listed; that of catalogs is empty.
    fn parent(&self, kind: &str) -> Result<String, ApiError> {
        let needs = |name: &Option<String>| name.clone().ok_or_else(|| ApiError::invalid("A name is missing."));
        match kind {
            "catalogs" => Ok(String::new()),
            "schemas" => needs(&self.catalog_name),
            _ => Ok(format!("{}.{}", needs(&self.catalog_name)?, needs(&self.schema_name)?)),
        }
    }
}

async fn list(
    State(fake): State<Arc<Fake>>,
    Path(securables): Path<String>,
    Params(params): Params<ListParams>,
) -> Answer {
    let kind = kind_of(&securables)?;
    let parent = params.parent(kind)?;
    let all = fake.catalog.securables.read();
    let parents = match kind {
        "catalogs" => None,
        "schemas" => Some("catalogs"),
        _ => Some("schemas"),
    };
    if parents.is_some_and(|parents| all.get(parents).is_none_or(|parents| !parents.contains_key(&parent))) {
        return Err(ApiError::missing(format!("'{parent}' does not exist.")));
    }
    let start = Start::of(params.page_token.as_deref())?;
    let limit = match params.max_results {
        None if start == Start::default() => usize::MAX,
        None | Some(0) => fake.options.page_size,
        Some(wanted) => wanted.min(fake.options.page_size),
    };
    if fake.options.empty_page == Some(start.offset / limit) && !start.is_after_empty {
        return Ok(json(&json!({ "next_page_token": Start { is_after_empty: true, ..start }.token() })));
    }
    let brief = |(_, securable): (&String, &Map<String, Value>)| {
        let mut brief = securable.clone();
        let omitted = [("columns", params.omit_columns), ("properties", params.omit_properties)];
        let omitted = omitted.into_iter().filter(|(_, omit)| *omit).map(|(name, _)| name);
        for name in omitted.chain(ONLY_SINGLE) {
            brief.remove(name);
        }
        Value::from(brief)
    };
    let is_within = |name: &str| name.rsplit_once('.').map_or("", |(parent, _)| parent) == parent;
    let entries = all.get(kind).into_iter().flatten().filter(|(name, _)| is_within(name));
    Ok(json(&page(kind, entries, start, limit, brief)))
}

async fn read(State(fake): State<Arc<Fake>>, Path((securables, name)): Path<(String, String)>) -> Answer {
    let kind = kind_of(&securables)?;
    let all = fake.catalog.securables.read();
    let securable = all.get(kind).and_then(|all| all.get(&name));
    securable.map(json).ok_or_else(|| ApiError::missing(format!("'{name}' does not exist.")))
}

fn assignments(grants: Option<&Grants>) -> Response {
    let assignment = |(principal, privileges)| json!({ "principal": principal, "privileges": privileges });
    json(&whole("privilege_assignments", grants.into_iter().flatten(), assignment))
}

async fn grants(State(fake): State<Arc<Fake>>, Path(securable): Path<(String, String)>) -> Response {
    assignments(fake.catalog.grants.read().get(&securable))
}

#[derive(Deserialize)]
struct Changes {
    changes: Vec<Change>,
}

#[derive(Deserialize)]
struct Change {
    principal: String,
    #[serde(default)]
    add: Vec<String>,
    #[serde(default)]
    remove: Vec<String>,
}

async fn change_grants(
    State(fake): State<Arc<Fake>>,
    Path(securable): Path<(String, String)>,
    Payload(changes): Payload<Changes>,
) -> Response {
    let mut all = fake.catalog.grants.write();
    let grants = all.entry(securable).or_default();
    for change in changes.changes {
        let privileges = grants.entry(change.principal).or_default();
        privileges.retain(|privilege| !change.remove.contains(privilege) && !change.add.contains(privilege));
        privileges.extend(change.add);
    }
    grants.retain(|_, privileges| !privileges.is_empty());
    assignments(Some(grants))
}
