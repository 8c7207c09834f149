//! Secret scopes: their keys, who may see them, and values that are not for everyone.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::routing::{get, post};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::databricks::answer::{Answer, ApiError, Params, Payload, empty, json};
use crate::databricks::page::whole;
use crate::databricks::server::Fake;
use crate::databricks::tree::EPOCH_MS;

pub(super) fn router() -> Router<Arc<Fake>> {
    Router::new()
        .route("/api/2.0/secrets/scopes/list", get(scopes))
        .route("/api/2.0/secrets/scopes/create", post(create))
        .route("/api/2.0/secrets/list", get(list))
        .route("/api/2.0/secrets/get", get(value))
        .route("/api/2.0/secrets/put", post(put))
        .route("/api/2.0/secrets/acls/list", get(acls))
        .route("/api/2.0/secrets/acls/put", post(put_acl))
}

/// A secret scope, as tests give it.
#[derive(Debug, Clone, Deserialize)]
pub(in crate::databricks) struct Scope {
    name: String,
    #[serde(default = "databricks")]
    backend_type: String,
    keyvault_metadata: Option<Value>,
    /// Values by their keys.
    #[serde(default)]
    secrets: BTreeMap<String, String>,
    #[serde(default)]
    acls: Vec<Acl>,
}

fn databricks() -> String {
    "DATABRICKS".to_owned()
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Acl {
    principal: String,
    permission: String,
}

/// All scopes, by their names.
#[derive(Debug, Default)]
pub(in crate::databricks) struct Secrets(RwLock<BTreeMap<String, Scope>>);

impl Secrets {
    /// Puts a scope in the place of one with its name.
    pub(in crate::databricks) fn put(&self, scope: Scope) {
        self.0.write().insert(scope.name.clone(), scope);
    }

    /// Does something with a scope.
    fn with<T>(&self, name: &str, act: impl FnOnce(&mut Scope) -> T) -> Result<T, ApiError> {
        let mut scopes = self.0.write();
        scopes.get_mut(name).map(act).ok_or_else(|| ApiError::missing(format!("Scope {name} does not exist!")))
    }
}

async fn scopes(State(fake): State<Arc<Fake>>) -> Answer {
    let scope = |scope: &Scope| {
        let mut json = json!({ "name": scope.name, "backend_type": scope.backend_type });
        if let Some(metadata) = &scope.keyvault_metadata {
            json["keyvault_metadata"] = metadata.clone();
        }
        json
    };
    Ok(json(&whole("scopes", fake.secrets.0.read().values(), scope)))
}

#[derive(Deserialize)]
struct NewScope {
    scope: String,
    #[serde(default = "databricks")]
    scope_backend_type: String,
    backend_azure_keyvault: Option<Value>,
}

async fn create(State(fake): State<Arc<Fake>>, Payload(new): Payload<NewScope>) -> Answer {
    if fake.secrets.0.read().contains_key(&new.scope) {
        return Err(ApiError::exists(format!("Scope {} already exists!", new.scope)));
    }
    fake.secrets.put(Scope {
        name: new.scope,
        backend_type: new.scope_backend_type,
        keyvault_metadata: new.backend_azure_keyvault,
        secrets: BTreeMap::new(),
        acls: Vec::new(),
    });
    Ok(empty())
}

#[derive(Deserialize)]
struct ScopeParams {
    scope: String,
}

async fn list(State(fake): State<Arc<Fake>>, Params(params): Params<ScopeParams>) -> Answer {
    let secret = |key: &String| json!({ "key": key, "last_updated_timestamp": EPOCH_MS });
    Ok(json(&fake.secrets.with(&params.scope, |scope| whole("secrets", scope.secrets.keys(), secret))?))
}

#[derive(Deserialize)]
struct SecretParams {
    scope: String,
    key: String,
}

async fn value(State(fake): State<Arc<Fake>>, Params(params): Params<SecretParams>) -> Answer {
    if !fake.options.readable_secrets {
        return Err(ApiError::forbidden("Secrets cannot be read from here."));
    }
    let value = fake.secrets.with(&params.scope, |scope| scope.secrets.get(&params.key).cloned())?;
    let value = value.ok_or_else(|| ApiError::missing(format!("Secret {} does not exist!", params.key)))?;
    Ok(json(&json!({ "key": params.key, "value": BASE64_STANDARD.encode(value) })))
}

#[derive(Deserialize)]
struct NewSecret {
    scope: String,
    key: String,
    string_value: String,
}

async fn put(State(fake): State<Arc<Fake>>, Payload(new): Payload<NewSecret>) -> Answer {
    fake.secrets.with(&new.scope, |scope| scope.secrets.insert(new.key, new.string_value))?;
    Ok(empty())
}

async fn acls(State(fake): State<Arc<Fake>>, Params(params): Params<ScopeParams>) -> Answer {
    Ok(json(&fake.secrets.with(&params.scope, |scope| whole("items", &scope.acls, |acl| json!(acl)))?))
}

#[derive(Deserialize)]
struct NewAcl {
    scope: String,
    #[serde(flatten)]
    acl: Acl,
}

async fn put_acl(State(fake): State<Arc<Fake>>, Payload(NewAcl { scope, acl }): Payload<NewAcl>) -> Answer {
    fake.secrets.with(&scope, |scope| {
        scope.acls.retain(|it| it.principal != acl.principal);
        scope.acls.push(acl);
    })?;
    Ok(empty())
}
