//! Tokens for a workspace: personal ones, and those that an identity service or a program hands out.

use std::time::Duration;

use async_trait::async_trait;
use backon::{ExponentialBuilder, Retryable};
use http::{HeaderName, HeaderValue};
use lakebed_core::time::{Clock, Timestamp};
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;
use url::Url;
use url::form_urlencoded::Serializer;

use super::refusal::refusal;
use super::settings::{AZURE_DATABRICKS, Credentials, Settings};
use crate::process::output_of;
use crate::rest::Secret;
use crate::rest::token::{AuthError, Token, TokenSource};

/// For service principals of Entra that are no users of the workspace: which workspace is meant.
const RESOURCE_ID: HeaderName = HeaderName::from_static("x-databricks-azure-workspace-resource-id");
/// For the same: that they may see it.
const MANAGEMENT_TOKEN: HeaderName = HeaderName::from_static("x-databricks-azure-sp-management-token");
/// On hosts that serve several workspaces: which one is meant.
const WORKSPACE_ID: HeaderName = HeaderName::from_static("x-databricks-workspace-id");
/// For what the management token is.
const AZURE_MANAGEMENT: &str = "https://management.core.windows.net/";

/// So often an identity service is asked again that does not answer, after such a pause and longer ones.
const REPETITIONS: usize = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// Makes a source of tokens of settings. `direct` goes through no proxy: what this machine asks of its own cloud is nobody
/// else's affair.
pub(super) fn token_source(
    settings: &Settings,
    http: &reqwest::Client,
    direct: &reqwest::Client,
    clock: Arc<dyn Clock>,
) -> Box<dyn TokenSource> {
    let way: Box<dyn TokenSource> = match settings.credentials.clone() {
        Credentials::Token(secret) => Box::new(Given { secret }),
        Credentials::Command(line) => Box::new(Printed { line, clock }),
        Credentials::ServicePrincipal { client_id, secret, account_id } => {
            let (http, address) = (http.clone(), settings.address.clone());
            Box::new(OauthM2m { http, address, client_id, secret, account_id })
        }
        Credentials::EntraServicePrincipal { tenant_id, client_id, secret } => {
            let endpoint = below(&settings.entra, &format!("/{tenant_id}/oauth2/token"));
            Box::new(Entra {
                http: http.clone(),
                endpoint,
                client_id,
                secret,
                resource_id: settings.azure_resource_id.clone(),
            })
        }
        Credentials::ManagedIdentity { client_id } => {
            let (http, endpoint) = (direct.clone(), settings.identity_service.clone());
            Box::new(ManagedIdentity { http, endpoint, client_id, resource_id: settings.azure_resource_id.clone() })
        }
    };
    match settings.workspace_id.as_deref().and_then(|id| HeaderValue::try_from(id).ok()) {
        Some(id) => Box::new(OfWorkspace { way, id }),
        None => way,
    }
}

fn below(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    url.set_path(path);
    url
}

/// Adds the workspace that is meant.
struct OfWorkspace {
    way: Box<dyn TokenSource>,
    id: HeaderValue,
}

#[async_trait]
impl TokenSource for OfWorkspace {
    async fn fetch(&self) -> Result<Token, AuthError> {
        let mut token = self.way.fetch().await?;
        token.headers.insert(WORKSPACE_ID, self.id.clone());
        Ok(token)
    }

    fn renews(&self) -> bool {
        self.way.renews()
    }
}

/// A token that was configured.
struct Given {
    secret: Secret,
}

#[async_trait]
impl TokenSource for Given {
    async fn fetch(&self) -> Result<Token, AuthError> {
        bearer("the configuration", self.secret.clone(), None)
    }

    fn renews(&self) -> bool {
        false
    }
}

fn bearer(from: &str, secret: Secret, life: Option<Duration>) -> Result<Token, AuthError> {
    let unusable = || AuthError::Refused { from: from.into(), why: "it has characters that no token has".into() };
    Token::bearer(secret, life).ok_or_else(unusable)
}

/// A service principal of Databricks.
struct OauthM2m {
    http: reqwest::Client,
    address: Url,
    client_id: String,
    secret: Secret,
    account_id: Option<String>,
}

impl OauthM2m {
    /// Asks the workspace where tokens are handed out. It must be on the workspace's own host: the secret goes there.
    async fn endpoint(&self) -> Result<Url, AuthError> {
        #[derive(Deserialize)]
        struct Discovered {
            token_endpoint: Url,
        }
        let account = self
            .account_id
            .as_ref()
            .filter(|_| self.address.host_str().is_some_and(|host| host.starts_with("accounts.")));
        let place = account.map_or_else(|| "/oidc".into(), |id| format!("/oidc/accounts/{id}"));
        let url = below(&self.address, &format!("{place}/.well-known/oauth-authorization-server"));
        let from = url.to_string();
        let body = ask(&from, None, || self.http.get(url.clone())).await?;
        let refused = |why: String| AuthError::Refused { from: from.clone(), why };
        let Discovered { token_endpoint } =
            serde_json::from_slice(&body).map_err(|_| refused("it names no `token_endpoint`".into()))?;
        if token_endpoint.origin() != self.address.origin() {
            return Err(refused(format!(
                "it leads to another host, {}",
                token_endpoint.host_str().unwrap_or_default()
            )));
        }
        Ok(token_endpoint)
    }
}

#[async_trait]
impl TokenSource for OauthM2m {
    async fn fetch(&self) -> Result<Token, AuthError> {
        let endpoint = self.endpoint().await?;
        let from = endpoint.to_string();
        let form = form(&[("grant_type", "client_credentials"), ("scope", "all-apis")]);
        let body = ask(&from, Some(&self.secret), || {
            let request = self.http.post(endpoint.clone()).basic_auth(&self.client_id, Some(self.secret.expose()));
            request.header(http::header::CONTENT_TYPE, FORM).body(form.clone())
        });
        let (secret, life) = read_token(&from, &body.await?)?;
        bearer(&from, secret, life)
    }
}

/// A service principal of Entra.
struct Entra {
    http: reqwest::Client,
    endpoint: Url,
    client_id: String,
    secret: Secret,
    resource_id: Option<String>,
}

impl Entra {
    async fn token_for(&self, resource: &str) -> Result<(Secret, Option<Duration>), AuthError> {
        let from = self.endpoint.to_string();
        let form = form(&[
            ("grant_type", "client_credentials"),
            ("client_id", &self.client_id),
            ("client_secret", self.secret.expose()),
            ("resource", resource),
        ]);
        let send = || self.http.post(self.endpoint.clone()).header(http::header::CONTENT_TYPE, FORM).body(form.clone());
        read_token(&from, &ask(&from, Some(&self.secret), send).await?)
    }
}

#[async_trait]
impl TokenSource for Entra {
    async fn fetch(&self) -> Result<Token, AuthError> {
        let (secret, life) = self.token_for(AZURE_DATABRICKS).await?;
        let token = bearer("Entra", secret, life)?;
        match &self.resource_id {
            Some(id) => on_azure(token, id, self.token_for(AZURE_MANAGEMENT).await?),
            None => Ok(token),
        }
    }
}

/// The identity of the machine of Azure that this is.
struct ManagedIdentity {
    http: reqwest::Client,
    endpoint: Url,
    client_id: Option<String>,
    resource_id: Option<String>,
}

impl ManagedIdentity {
    async fn token_for(&self, resource: &str) -> Result<(Secret, Option<Duration>), AuthError> {
        let mut url = self.endpoint.clone();
        url.query_pairs_mut().append_pair("api-version", "2018-02-01").append_pair("resource", resource);
        if let Some(id) = &self.client_id {
            url.query_pairs_mut().append_pair("client_id", id);
        }
        let from = self.endpoint.to_string();
        read_token(&from, &ask(&from, None, || self.http.get(url.clone()).header("Metadata", "true")).await?)
    }
}

#[async_trait]
impl TokenSource for ManagedIdentity {
    async fn fetch(&self) -> Result<Token, AuthError> {
        let (secret, life) = self.token_for(AZURE_DATABRICKS).await?;
        let token = bearer("the identity of this machine", secret, life)?;
        match &self.resource_id {
            Some(id) => on_azure(token, id, self.token_for(AZURE_MANAGEMENT).await?),
            None => Ok(token),
        }
    }
}

/// Adds what proves that an identity that is no user of the workspace may see it.
fn on_azure(
    mut token: Token,
    resource_id: &str,
    (secret, life): (Secret, Option<Duration>),
) -> Result<Token, AuthError> {
    let unusable = |_| AuthError::Refused { from: "Entra".into(), why: "what goes with it cannot be sent".into() };
    let mut management = HeaderValue::try_from(secret.expose()).map_err(unusable)?;
    management.set_sensitive(true);
    token.headers.insert(RESOURCE_ID, HeaderValue::try_from(resource_id).map_err(unusable)?);
    token.headers.insert(MANAGEMENT_TOKEN, management);
    token.secrets.push(secret);
    token.life = [token.life, life].into_iter().flatten().min();
    Ok(token)
}

/// A program that prints a token, or a JSON document with one: as `databricks auth token` and
/// `az account get-access-token` do.
struct Printed {
    line: String,
    clock: Arc<dyn Clock>,
}

#[derive(Deserialize)]
struct Document {
    #[serde(alias = "accessToken")]
    access_token: String,
    expires_in: Option<Value>,
    /// Of the command line of Databricks.
    expiry: Option<Timestamp>,
    /// Of the command line of Azure, in seconds since 1970.
    expires_on: Option<i64>,
}

#[async_trait]
impl TokenSource for Printed {
    async fn fetch(&self) -> Result<Token, AuthError> {
        // what it is called is not told: there may be secrets in a command line
        let program = "the command that prints one";
        let failed = |why: String| AuthError::Program { why };
        let printed = output_of(&self.line).await.map_err(|error| failed(error.to_string()))?;
        let text = String::from_utf8(printed).map_err(|_| failed("it prints no text".into()))?;
        let text = text.trim();
        if !text.starts_with('{') {
            let is_token = !text.is_empty() && !text.contains(char::is_whitespace);
            let secret = is_token.then(|| Secret::new(text)).ok_or_else(|| failed("it prints no token".into()))?;
            return bearer(program, secret, None);
        }
        let document: Document = serde_json::from_str(text)
            .map_err(|_| failed("it prints no JSON document with an `access_token`".into()))?;
        let now = self.clock.now().secs;
        let ends = document.expires_on.or(document.expiry.map(|end| end.secs));
        let until = |end: i64| Duration::from_secs(u64::try_from(end - now).unwrap_or(0));
        let life = ends.map(until).or_else(|| document.expires_in.as_ref().and_then(seconds));
        bearer(program, Secret::new(document.access_token), life)
    }
}

const FORM: &str = "application/x-www-form-urlencoded";

fn form(pairs: &[(&str, &str)]) -> String {
    Serializer::new(String::new()).extend_pairs(pairs).finish()
}

/// Reads a number of seconds, which some services send as text.
fn seconds(value: &Value) -> Option<Duration> {
    let number = value.as_u64().or_else(|| value.as_str()?.trim().parse().ok())?;
    Some(Duration::from_secs(number))
}

fn read_token(from: &str, body: &[u8]) -> Result<(Secret, Option<Duration>), AuthError> {
    #[derive(Deserialize)]
    struct Issued {
        access_token: String,
        expires_in: Option<Value>,
    }
    let why = || AuthError::Refused { from: from.into(), why: "the answer has no `access_token`".into() };
    let issued: Issued = serde_json::from_slice(body).map_err(|_| why())?;
    Ok((Secret::new(issued.access_token), issued.expires_in.as_ref().and_then(seconds)))
}

/// Asks an identity service, a few times where it does not answer. What it says is told without the secret.
async fn ask(
    from: &str,
    secret: Option<&Secret>,
    request: impl Fn() -> reqwest::RequestBuilder,
) -> Result<bytes::Bytes, AuthError> {
    let no_answer = |error: reqwest::Error| AuthError::NoAnswer { from: from.into(), source: error.without_url() };
    let attempt = || async {
        let response = request().send().await.map_err(|error| (0, no_answer(error)))?;
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let body = response.bytes().await.map_err(|error| (0, no_answer(error)))?;
        refusal_or_body(status, &headers, body).map_err(|why| {
            let why = secret.map_or_else(|| why.clone(), |secret| secret.redact(&why));
            (status, AuthError::Refused { from: from.into(), why })
        })
    };
    let pauses = ExponentialBuilder::new().with_min_delay(FIRST_PAUSE).with_max_times(REPETITIONS);
    let result = attempt.retry(pauses).when(|(status, _)| matches!(status, 0 | 429 | 500..)).await;
    result.map_err(|(_, error)| error)
}

fn refusal_or_body(status: u16, headers: &http::HeaderMap, body: bytes::Bytes) -> Result<bytes::Bytes, String> {
    match status {
        200..300 => Ok(body),
        _ => Err(refusal(status, headers, &body).to_string()),
    }
}
