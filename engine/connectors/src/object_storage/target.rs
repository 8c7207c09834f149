//! From a URL to a store.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, AwsCredential, AwsCredentialProvider, Checksum};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::client::{ClientConfigKey, HttpConnector};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::path::Path;
use object_store::{ClientOptions, ObjectStoreScheme, RetryConfig, StaticCredentialProvider};
use url::Url;

use super::aws_profile::{Credentials, ProcessCredentials, Profile, ProfileError};
use super::store::Store;
use super::traffic::Meter;
use super::wire::{Limits, WireConnector};
use crate::Tell;

/// Requests that may go well later are tried again so long.
const RETRY_FOR: Duration = Duration::from_secs(180);

/// So many requests are under way at once at most, unless it is asked for otherwise.
const REQUESTS_IN_FLIGHT: usize = 64;

/// A place on an object store, as a user names it: `s3://bucket/prefix`, `abfss://container@account.dfs.core.windows.net/path`,
/// `az://container/path`, `gs://bucket/path`, the `https` URLs of the clouds, and `s3:https://host:port/bucket/prefix` for
/// whatever else speaks S3.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    url: Url,
    cloud: Cloud,
    prefix: Path,
    /// Where the store listens, if the user has said so.
    endpoint: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cloud {
    S3,
    Azure,
    Google,
}

/// How a store is reached. Settings may be secrets, so there is no `Debug`.
#[derive(Clone, Default)]
pub struct ConnectOptions {
    /// Speak plain HTTP, where the endpoint asks for that: whoever listens can see and change what is sent.
    pub allow_http: bool,
    /// How long requests are tried again that may go well later; `None`: for three minutes.
    pub retry_for: Option<Duration>,
    /// Settings by the names that the `object_store` crate gives them (`aws_endpoint`, `azure_storage_account_name`, ...).
    /// They beat what the environment says.
    pub settings: Vec<(String, String)>,
    /// Folder for long objects until they are sent; `None`: the system's for temporary files.
    pub spool: Option<PathBuf>,
    /// So many requests are under way at once at most; `None`: 64.
    pub requests_in_flight: Option<usize>,
    /// Bytes a second to send at most, on average: a part of an object is sent at once.
    pub upload_limit: Option<u64>,
    /// Bytes a second to receive at most.
    pub download_limit: Option<u64>,
    /// Is told of requests that are sent again, now and then.
    pub tell: Option<Tell>,
}

/// A place that cannot be reached, as far as that is known before anything is asked of it.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// It is no URL.
    #[error("`{given}` is no URL")]
    NoUrl {
        /// What was given.
        given: String,
        /// Why.
        source: url::ParseError,
    },
    /// It is a URL of something else.
    #[error(
        "`{given}` names no object store: s3://, gs://, az://, abfss://, s3:https://host/bucket, or an https URL of one \
         of the clouds does"
    )]
    NoStore {
        /// What was given.
        given: String,
    },
    /// It holds what does not belong into it.
    #[error("`{given}` has {what}, which does not belong there: credentials come from the environment")]
    TooMuch {
        /// What was given, without a secret.
        given: String,
        /// What is too much.
        what: &'static str,
    },
    /// It is to be reached in a way that everybody can listen to, and nobody has asked for that.
    #[error("`{target}` is reached by plain HTTP at {endpoint}: whoever listens can see and change what is sent")]
    PlainHttp {
        /// The place.
        target: String,
        /// Where the store listens.
        endpoint: String,
    },
    /// The cloud's settings make no sense.
    #[error("Cannot connect to `{target}`")]
    Settings {
        /// The place.
        target: String,
        /// Why.
        source: object_store::Error,
    },
    /// The profile that is asked for cannot be used.
    #[error("Cannot connect to `{target}`")]
    Profile {
        /// The place.
        target: String,
        /// Why.
        source: ProfileError,
    },
    /// The system has no thread to spare.
    #[error("Cannot start the thread that speaks to the network")]
    Runtime {
        /// Why.
        source: std::io::Error,
    },
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.endpoint {
            Some(endpoint) => {
                write!(f, "s3:{endpoint}{}", self.url.as_str().trim_start_matches("s3:/").trim_end_matches('/'))
            }
            None => f.write_str(self.url.as_str().trim_end_matches('/')),
        }
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Target {
    /// Reads a URL.
    ///
    /// # Errors
    /// It names no object store, or holds a password, a query or a fragment.
    pub fn parse(given: &str) -> Result<Self, ConnectError> {
        let no_url = |source| ConnectError::NoUrl { given: given.to_owned(), source };
        let with_endpoint = given.strip_prefix("s3:").filter(|rest| rest.starts_with("http"));
        let url = Url::parse(with_endpoint.unwrap_or(given)).map_err(no_url)?;
        refuse_secrets(&url)?;
        let no_store = || ConnectError::NoStore { given: given.to_owned() };
        let (url, endpoint) = match with_endpoint {
            None => (url, None),
            Some(_) => {
                let is_web = matches!(url.scheme(), "http" | "https") && url.username().is_empty();
                let place = url.path().trim_start_matches('/');
                if !is_web || place.is_empty() {
                    return Err(no_store());
                }
                (Url::parse(&format!("s3://{place}")).map_err(no_url)?, Some(url.origin().ascii_serialization()))
            }
        };
        let (scheme, prefix) = ObjectStoreScheme::parse(&url).map_err(|_| no_store())?;
        let cloud = match scheme {
            ObjectStoreScheme::AmazonS3 => Cloud::S3,
            ObjectStoreScheme::MicrosoftAzure => Cloud::Azure,
            ObjectStoreScheme::GoogleCloudStorage => Cloud::Google,
            _ => return Err(no_store()),
        };
        Ok(Self { url, cloud, prefix, endpoint })
    }

    /// Tells whether a text looks like a URL, and not like a path: whoever wrote it meant a place on the network.
    pub fn looks_like_one(given: &str) -> bool {
        given.contains("://")
    }

    /// Returns what all keys begin with.
    pub(super) fn prefix(&self) -> &Path {
        &self.prefix
    }

    /// Makes a client, with what the environment says of credentials and endpoints. Returns it with the identity of the
    /// place, which it may be the environment that decides on.
    pub(super) fn build(&self, options: &ConnectOptions, meter: Arc<Meter>) -> Result<(Store, String), ConnectError> {
        let limits = Limits {
            requests_in_flight: options.requests_in_flight.unwrap_or(REQUESTS_IN_FLIGHT),
            upload: options.upload_limit,
            download: options.download_limit,
        };
        let retry_timeout = options.retry_for.unwrap_or(RETRY_FOR);
        // by time alone: with pauses that grow, a number of tries is over before a node has started again
        let retry = RetryConfig { retry_timeout, max_retries: usize::MAX, ..RetryConfig::default() };
        // a long object may take long; an answer that stands still may not. Stores that ask others behind them give up on
        // one after 30 or 60 seconds, and answer then
        let client = [(ClientConfigKey::Timeout, "1h"), (ClientConfigKey::ReadTimeout, "75s")];
        let url = self.url.as_str();
        let failed = |source| ConnectError::Settings { target: self.to_string(), source };
        let set = client.map(|(key, value)| (key.as_ref().to_owned(), value.to_owned()));
        let set = set.into_iter().chain(options.settings.iter().cloned());
        let set = set.chain(self.endpoint.iter().map(|endpoint| ("endpoint".to_owned(), endpoint.clone())));
        let set = set.chain(options.allow_http.then(|| ("allow_http".to_owned(), "true".to_owned())));
        let mut set: Vec<(String, String)> = set.collect();
        let wire = WireConnector::new(limits, meter, options.tell.clone());
        macro_rules! configured {
            ($builder:ty, $key:ty) => {{
                let builder = <$builder>::from_env().with_url(url).with_retry(retry);
                let mut builder = builder.with_http_connector(wire.clone());
                for (key, value) in set {
                    builder = builder.with_config(key.parse::<$key>().map_err(failed)?, value);
                }
                builder
            }};
        }
        // where the store is found decides on what lies there, so it is a part of the identity
        let (store, host) = match self.cloud {
            Cloud::S3 => {
                let profile = Profile::load(|name| std::env::var_os(name))
                    .map_err(|source| ConnectError::Profile { target: self.to_string(), source })?;
                let credentials =
                    profile.and_then(|profile| configure(profile, &mut set, |name| std::env::var_os(name)));
                // the store compares what it got; and a single deletion needs no other permission than that
                let mut builder = configured!(AmazonS3Builder, AmazonS3ConfigKey)
                    .with_checksum_algorithm(Checksum::SHA256)
                    .with_config(AmazonS3ConfigKey::DisableBulkDelete, "true");
                if let Some(credentials) = credentials {
                    builder = builder.with_credentials(credentials);
                }
                let endpoint = [AmazonS3ConfigKey::S3Endpoint, AmazonS3ConfigKey::Endpoint];
                let endpoint = endpoint.iter().find_map(|key| builder.get_config_value(key));
                let asked = builder.get_config_value(&AmazonS3ConfigKey::Client(ClientConfigKey::AllowHttp));
                self.refuse_plain_http(endpoint.as_deref(), asked.as_deref())?;
                let client = ClientOptions::new().with_allow_http(asked.as_deref() == Some("true"));
                let client = wire.connect(&client).map_err(failed)?;
                (Store::of_s3(Arc::new(builder.build().map_err(failed)?), client), endpoint)
            }
            Cloud::Azure => {
                let builder = configured!(MicrosoftAzureBuilder, AzureConfigKey);
                let endpoint = builder.get_config_value(&AzureConfigKey::Endpoint);
                let asked = builder.get_config_value(&AzureConfigKey::Client(ClientConfigKey::AllowHttp));
                self.refuse_plain_http(endpoint.as_deref(), asked.as_deref())?;
                let host = endpoint.or_else(|| builder.get_config_value(&AzureConfigKey::AccountName));
                (Store::with_pages(Arc::new(builder.build().map_err(failed)?)), host)
            }
            Cloud::Google => {
                let builder = configured!(GoogleCloudStorageBuilder, GoogleConfigKey);
                let endpoint = builder.get_config_value(&GoogleConfigKey::BaseUrl);
                self.refuse_plain_http(endpoint.as_deref(), options.allow_http.then_some("true"))?;
                (Store::with_pages(Arc::new(builder.build().map_err(failed)?)), endpoint)
            }
        };
        let place = self.url.as_str().trim_end_matches('/');
        Ok((store, host.map_or_else(|| place.to_owned(), |host| format!("{place} at {host}"))))
    }

    fn refuse_plain_http(&self, endpoint: Option<&str>, asked: Option<&str>) -> Result<(), ConnectError> {
        match endpoint {
            Some(endpoint) if endpoint.starts_with("http://") && asked != Some("true") => {
                Err(ConnectError::PlainHttp { target: self.to_string(), endpoint: endpoint.to_owned() })
            }
            _ => Ok(()),
        }
    }
}

/// Adds what a profile says and nobody else does to the settings, and returns where its credentials come from, where that is
/// more than a setting.
fn configure(
    profile: Profile,
    set: &mut Vec<(String, String)>,
    env: impl Fn(&str) -> Option<OsString>,
) -> Option<AwsCredentialProvider> {
    let is_set = |variables: &[&str], keys: &[&str], set: &[(String, String)]| {
        variables.iter().any(|name| env(name).is_some_and(|value| !value.is_empty()))
            || set.iter().any(|(key, _)| keys.contains(&key.trim_start_matches("aws_")))
    };
    if let Some(region) = profile.region
        && !is_set(&["AWS_REGION", "AWS_DEFAULT_REGION"], &["region", "default_region"], set)
    {
        set.push(("aws_region".into(), region));
    }
    let endpoints = ["AWS_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"];
    if let Some(endpoint) = profile.endpoint
        && !is_set(&endpoints, &["endpoint", "endpoint_url", "endpoint_url_s3"], set)
    {
        set.push(("aws_endpoint".into(), endpoint));
    }
    if is_set(&[], &["access_key_id"], set) {
        return None;
    }
    match profile.credentials? {
        // not as settings: a session token of the environment would be taken for theirs
        Credentials::Key { id, secret, token } => {
            let credential = AwsCredential { key_id: id, secret_key: secret, token };
            Some(Arc::new(StaticCredentialProvider::new(credential)))
        }
        Credentials::Process(line) => Some(Arc::new(ProcessCredentials::new(line))),
    }
}

/// Refuses a URL that holds what belongs into the environment, and says so without it.
fn refuse_secrets(url: &Url) -> Result<(), ConnectError> {
    let what = match url {
        url if url.password().is_some() => "a password",
        url if url.query().is_some() => "a query",
        url if url.fragment().is_some() => "a fragment",
        _ => return Ok(()),
    };
    let mut url = url.clone();
    // a URL with a host takes all of these
    let _ = url.set_password(None);
    url.set_query(None);
    url.set_fragment(None);
    Err(ConnectError::TooMuch { given: url.to_string(), what })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clouds_urls_name_a_store_and_a_prefix() {
        for (given, cloud, prefix) in [
            ("s3://bucket", Cloud::S3, ""),
            ("s3://bucket/lake/one/", Cloud::S3, "lake/one"),
            ("s3a://bucket/lake", Cloud::S3, "lake"),
            ("s3:https://ceph.example.org:7480/bucket/lake/", Cloud::S3, "lake"),
            ("s3:http://127.0.0.1:9000/bucket", Cloud::S3, ""),
            ("gs://bucket/lake", Cloud::Google, "lake"),
            ("az://container/lake", Cloud::Azure, "lake"),
            ("abfss://container@account.dfs.core.windows.net/lake", Cloud::Azure, "lake"),
            (
                "abfss://space@onelake.dfs.fabric.microsoft.com/house.Lakehouse/Files",
                Cloud::Azure,
                "house.Lakehouse/Files",
            ),
            ("https://account.blob.core.windows.net/container/lake", Cloud::Azure, "lake"),
        ] {
            let target = Target::parse(given).unwrap();
            assert_eq!((target.cloud, target.prefix.as_ref()), (cloud, prefix), "{given}");
            assert_eq!(target.to_string(), given.trim_end_matches('/'));
        }
    }

    #[test]
    fn what_names_no_store_or_holds_a_secret_is_refused() {
        for given in [
            "file:///lake",
            "memory:///lake",
            "https://example.org/lake",
            "ftp://host/lake",
            "s3:/lake",
            "s3:https://host",
        ] {
            assert!(matches!(Target::parse(given), Err(ConnectError::NoStore { .. })), "{given}");
        }
        assert!(matches!(Target::parse("lake"), Err(ConnectError::NoUrl { .. })));
        for given in [
            "s3://key:secret@bucket/lake",
            "s3://bucket/lake?sig=secret",
            "s3:https://key:secret@host/bucket",
            "az://container/lake#secret",
        ] {
            let error = Target::parse(given).unwrap_err();
            assert!(matches!(error, ConnectError::TooMuch { .. }), "{given}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }

    #[test]
    fn plain_http_is_spoken_only_where_it_is_asked_for() {
        let connect = |allow_http| {
            let target = Target::parse("s3:http://127.0.0.1:9000/bucket/lake").unwrap();
            target.build(&ConnectOptions { allow_http, ..ConnectOptions::default() }, Arc::default())
        };
        assert!(matches!(connect(false), Err(ConnectError::PlainHttp { .. })));
        let (_, identity) = connect(true).unwrap();
        assert_eq!(identity, "s3://bucket/lake at http://127.0.0.1:9000");
    }

    #[test]
    fn a_profile_says_what_nobody_else_does() {
        let profile = || Profile {
            region: Some("eu-west-1".into()),
            endpoint: Some("https://ceph.example.org".into()),
            credentials: Some(Credentials::Key { id: "id".into(), secret: "secret".into(), token: None }),
        };
        let given = |set: &[&str], variables: &[&str]| {
            let mut set: Vec<(String, String)> = set.iter().map(|key| ((*key).to_owned(), "x".to_owned())).collect();
            let env = |name: &str| variables.contains(&name).then(|| "x".into());
            let credentials = configure(profile(), &mut set, env);
            let keys: Vec<String> = set.into_iter().map(|(key, _)| key).collect();
            (keys.join(" "), credentials.is_some())
        };
        assert_eq!(given(&[], &[]), ("aws_region aws_endpoint".into(), true));
        assert_eq!(given(&[], &["AWS_REGION", "AWS_ENDPOINT_URL_S3"]), (String::new(), true));
        let keys = ["endpoint", "aws_access_key_id"];
        assert_eq!(given(&keys, &["AWS_DEFAULT_REGION"]), (keys.join(" "), false));
    }
}
