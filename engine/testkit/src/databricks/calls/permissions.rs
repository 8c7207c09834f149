//! Permissions: who may do what with an object, by entries of its own and by those of the folders above it.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::get;
use parking_lot::RwLock;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::databricks::answer::{Answer, ApiError, Payload, json};
use crate::databricks::server::Fake;
use crate::databricks::tree::{At, Tree};

const PRINCIPALS: [&str; 3] = ["user_name", "group_name", "service_principal_name"];

pub(super) fn router() -> Router<Arc<Fake>> {
    Router::new().route("/api/2.0/permissions/{collection}/{id}", get(read).put(replace).patch(add))
}

/// A level that someone has.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    /// Which kind of principal it is: `user_name`, ...
    kind: &'static str,
    name: String,
    level: String,
}

impl Entry {
    fn of(json: &Value) -> Option<Self> {
        let (kind, name) = PRINCIPALS.into_iter().find_map(|kind| Some((kind, json[kind].as_str()?)))?;
        Some(Self { kind, name: name.to_owned(), level: json["permission_level"].as_str()?.to_owned() })
    }
}

/// The entries that objects have themselves, by collection and id.
#[derive(Debug, Default)]
pub(in crate::databricks) struct Permissions(RwLock<HashMap<(String, String), Vec<Entry>>>);

impl Permissions {
    /// Sets the entries of an object, as calls give them. Nothing where one is none.
    pub(in crate::databricks) fn set(&self, collection: &str, id: &str, entries: &[Value]) -> Option<()> {
        let entries = entries.iter().map(Entry::of).collect::<Option<_>>()?;
        self.0.write().insert((collection.to_owned(), id.to_owned()), entries);
        Some(())
    }

    fn add(&self, collection: &str, id: &str, entries: &[Value]) -> Option<()> {
        let added = entries.iter().map(Entry::of).collect::<Option<Vec<_>>>()?;
        let mut all = self.0.write();
        let own = all.entry((collection.to_owned(), id.to_owned())).or_default();
        own.retain(|entry| !added.iter().any(|it| (it.kind, &it.name) == (entry.kind, &entry.name)));
        own.extend(added);
        Some(())
    }

    fn own(&self, collection: &str, id: &str) -> Vec<Entry> {
        self.0.read().get(&(collection.to_owned(), id.to_owned())).cloned().unwrap_or_default()
    }
}

async fn read(State(fake): State<Arc<Fake>>, Path((collection, id)): Path<(String, String)>) -> Answer {
    Ok(of_object(&fake, &collection, &id, &above(&fake, &collection, &id)?))
}

#[derive(Deserialize)]
struct Change {
    #[serde(default)]
    access_control_list: Vec<Value>,
}

async fn replace(
    State(fake): State<Arc<Fake>>,
    Path((collection, id)): Path<(String, String)>,
    Payload(change): Payload<Change>,
) -> Answer {
    let above = above(&fake, &collection, &id)?;
    fake.permissions.set(&collection, &id, &change.access_control_list).ok_or_else(no_entry)?;
    Ok(of_object(&fake, &collection, &id, &above))
}

async fn add(
    State(fake): State<Arc<Fake>>,
    Path((collection, id)): Path<(String, String)>,
    Payload(change): Payload<Change>,
) -> Answer {
    let above = above(&fake, &collection, &id)?;
    fake.permissions.add(&collection, &id, &change.access_control_list).ok_or_else(no_entry)?;
    Ok(of_object(&fake, &collection, &id, &above))
}

fn no_entry() -> ApiError {
    ApiError::invalid("An entry needs a principal and a permission_level.")
}

/// Returns the collections and ids of what an object inherits from, the nearest first.
fn above(fake: &Fake, collection: &str, id: &str) -> Result<Vec<(&'static str, String)>, ApiError> {
    let missing = || ApiError::missing(format!("{collection} with ID {id} does not exist."));
    let exists = match collection {
        "jobs" => id.parse().is_ok_and(|id| fake.jobs.exists(id)),
        "pipelines" => fake.pipelines.exists(id),
        "dashboards" => fake.dashboards.exists(id),
        _ => {
            let tree = fake.tree.read();
            let at = id.parse().ok().and_then(|id| tree.with_id(id)).ok_or_else(missing)?;
            if collection_of(&tree, at) != Some(collection) {
                return Err(missing());
            }
            return Ok(ancestors(&tree, at));
        }
    };
    if exists { Ok(Vec::new()) } else { Err(missing()) }
}

fn ancestors(tree: &Tree, mut at: At) -> Vec<(&'static str, String)> {
    let mut ancestors = Vec::new();
    while at != At::ROOT {
        at = tree.node(at).parent;
        ancestors.extend(collection_of(tree, at).map(|collection| (collection, tree.id(at).to_string())));
    }
    ancestors
}

fn collection_of(tree: &Tree, at: At) -> Option<&'static str> {
    match tree.node(at).content.object_type() {
        "NOTEBOOK" => Some("notebooks"),
        "DIRECTORY" => Some("directories"),
        "FILE" => Some("files"),
        "REPO" => Some("repos"),
        _ => None,
    }
}

fn of_object(fake: &Fake, collection: &str, id: &str, above: &[(&str, String)]) -> Response {
    let mut levels: Vec<((&str, String), Vec<Value>)> = Vec::new();
    let mut add = |entry: Entry, level: Value| {
        let principal = (entry.kind, entry.name);
        match levels.iter_mut().find(|(known, _)| *known == principal) {
            Some((_, levels)) => levels.push(level),
            None => levels.push((principal, vec![level])),
        }
    };
    for entry in fake.permissions.own(collection, id) {
        let level = json!({ "permission_level": entry.level, "inherited": false });
        add(entry, level);
    }
    let inherited = |level: &str, from: String| json!({ "permission_level": level, "inherited": true, "inherited_from_object": [from] });
    for (collection, id) in above {
        for entry in fake.permissions.own(collection, id) {
            let level = inherited(&entry.level, format!("/{collection}/{id}"));
            add(entry, level);
        }
    }
    // administrators may do everything, which no entry need say
    let top = if above.is_empty() { collection } else { "directories" };
    let admins = Entry { kind: "group_name", name: "admins".to_owned(), level: "CAN_MANAGE".to_owned() };
    let level = inherited(&admins.level, format!("/{top}/"));
    add(admins, level);

    let entry = |((kind, name), levels): ((&str, String), Vec<Value>)| {
        Map::from_iter([(kind.to_owned(), name.into()), ("all_permissions".to_owned(), levels.into())])
    };
    json(&json!({
        "object_id": format!("/{collection}/{id}"),
        "object_type": object_type(collection),
        "access_control_list": levels.into_iter().map(entry).collect::<Vec<_>>(),
    }))
}

fn object_type(collection: &str) -> &str {
    match collection {
        "directories" => "directory",
        "pipelines" => collection,
        _ => collection.strip_suffix('s').unwrap_or(collection),
    }
}
