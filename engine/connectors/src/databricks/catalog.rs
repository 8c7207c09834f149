//! Unity Catalog: the calls that list what is in it.

use serde_json::Value;

use super::api::document;
use super::calls::CATALOG;
use super::pages::Pages;
use crate::rest::{Call, CallError, Client};

/// A schema of every catalog that describes the others.
const OF_THE_CATALOG_ITSELF: &str = "information_schema";

/// Where everything of the catalog lies.
const BASE: &str = "/api/2.1/unity-catalog";

/// Lists all catalogs.
pub(super) async fn catalogs(client: &Client) -> Result<Vec<Value>, CallError> {
    let path = format!("{BASE}/catalogs");
    let query = [("max_results", "0")];
    Pages { kind: CATALOG, path: &path, query: &query, items: "catalogs", subject: "" }.all(client).await
}

/// Lists the schemas of a catalog.
pub(super) async fn schemas(client: &Client, catalog: &str) -> Result<Vec<Value>, CallError> {
    let path = format!("{BASE}/schemas");
    let query = [("catalog_name", catalog), ("max_results", "0")];
    let pages = Pages { kind: CATALOG, path: &path, query: &query, items: "schemas", subject: catalog };
    let mut schemas = pages.all(client).await?;
    schemas.retain(|schema| schema.get("name").and_then(Value::as_str) != Some(OF_THE_CATALOG_ITSELF));
    Ok(schemas)
}

/// Lists tables, volumes or functions of a schema.
pub(super) async fn objects(client: &Client, what: &str, catalog: &str, schema: &str) -> Result<Vec<Value>, CallError> {
    let path = format!("{BASE}/{what}");
    let query = [("catalog_name", catalog), ("schema_name", schema), ("max_results", "0")];
    let subject = format!("{catalog}.{schema}");
    Pages { kind: CATALOG, path: &path, query: &query, items: what, subject: &subject }.all(client).await
}

/// Asks for an object of the catalog, which says more than a listing does.
pub(super) async fn object(client: &Client, what: &str, full_name: &str) -> Result<Value, CallError> {
    document(client, &Call::get(CATALOG, super::api::encoded(&format!("{BASE}/{what}"), full_name), full_name)).await
}

/// Asks what was granted on an object.
pub(super) async fn grants(client: &Client, securable: &str, full_name: &str) -> Result<Value, CallError> {
    let path = super::api::encoded(&format!("{BASE}/permissions/{securable}"), full_name);
    document(client, &Call::get(CATALOG, path, full_name)).await
}
