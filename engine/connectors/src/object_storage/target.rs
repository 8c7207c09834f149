//! From a URL to a store.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, Checksum};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::client::ClientConfigKey;
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::path::Path;
use object_store::{ObjectStoreScheme, RetryConfig};
use url::Url;

use super::store::Store;
use super::wire::CountingConnector;

/// Requests that may go well later are tried again so long.
const RETRY_FOR: Duration = Duration::from_secs(180);

/// A place on an object store, as a user names it: `s3://bucket/prefix`, `abfss://container@account.dfs.core.windows.net/path`,
/// `az://container/path`, `gs://bucket/path`, and the `https` URLs of the clouds.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    url: Url,
    cloud: Cloud,
    prefix: Path,
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
        "`{given}` names no object store: s3://, gs://, az://, abfss://, or an https URL of one of the clouds does"
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
    /// The cloud's settings make no sense.
    #[error("Cannot connect to `{target}`")]
    Settings {
        /// The place.
        target: String,
        /// Why.
        source: object_store::Error,
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
        f.write_str(self.url.as_str().trim_end_matches('/'))
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
        let mut url = Url::parse(given).map_err(|source| ConnectError::NoUrl { given: given.to_owned(), source })?;
        let too_much = match &url {
            url if url.password().is_some() => Some("a password"),
            url if url.query().is_some() => Some("a query"),
            url if url.fragment().is_some() => Some("a fragment"),
            _ => None,
        };
        if let Some(what) = too_much {
            // a URL with a host takes all of these
            let _ = url.set_password(None);
            url.set_query(None);
            url.set_fragment(None);
            return Err(ConnectError::TooMuch { given: url.to_string(), what });
        }
        let no_store = || ConnectError::NoStore { given: given.to_owned() };
        let (scheme, prefix) = ObjectStoreScheme::parse(&url).map_err(|_| no_store())?;
        let cloud = match scheme {
            ObjectStoreScheme::AmazonS3 => Cloud::S3,
            ObjectStoreScheme::MicrosoftAzure => Cloud::Azure,
            ObjectStoreScheme::GoogleCloudStorage => Cloud::Google,
            _ => return Err(no_store()),
        };
        Ok(Self { url, cloud, prefix })
    }

    /// Returns what all keys begin with.
    pub(super) fn prefix(&self) -> &Path {
        &self.prefix
    }

    /// Makes a client, with what the environment says of credentials and endpoints.
    pub(super) fn build(&self, options: &ConnectOptions) -> Result<Store, ConnectError> {
        let retry_timeout = options.retry_for.unwrap_or(RETRY_FOR);
        let retry = RetryConfig { retry_timeout, ..RetryConfig::default() };
        // a long object may take long; an answer that stands still may not
        let client = [(ClientConfigKey::Timeout, "1h"), (ClientConfigKey::ReadTimeout, "30s")];
        let url = self.url.as_str();
        let failed = |source| ConnectError::Settings { target: self.to_string(), source };
        let set = client.map(|(key, value)| (key.as_ref().to_owned(), value.to_owned()));
        let set = set.into_iter().chain(options.settings.iter().cloned());
        let set = set.chain(options.allow_http.then(|| ("allow_http".to_owned(), "true".to_owned())));
        macro_rules! configured {
            ($builder:ty, $key:ty) => {{
                let builder = <$builder>::from_env().with_url(url).with_retry(retry);
                let mut builder = builder.with_http_connector(CountingConnector);
                for (key, value) in set {
                    builder = builder.with_config(key.parse::<$key>().map_err(failed)?, value);
                }
                builder
            }};
        }
        Ok(match self.cloud {
            Cloud::S3 => {
                // the store compares what it got; and a single deletion needs no other permission than that
                let builder = configured!(AmazonS3Builder, AmazonS3ConfigKey)
                    .with_checksum_algorithm(Checksum::SHA256)
                    .with_config(AmazonS3ConfigKey::DisableBulkDelete, "true");
                Store::of(Arc::new(builder.build().map_err(failed)?))
            }
            Cloud::Azure => {
                Store::of(Arc::new(configured!(MicrosoftAzureBuilder, AzureConfigKey).build().map_err(failed)?))
            }
            Cloud::Google => {
                Store::of(Arc::new(configured!(GoogleCloudStorageBuilder, GoogleConfigKey).build().map_err(failed)?))
            }
        })
    }
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
        for given in ["file:///lake", "memory:///lake", "https://example.org/lake", "ftp://host/lake", "s3:/lake"] {
            assert!(matches!(Target::parse(given), Err(ConnectError::NoStore { .. })), "{given}");
        }
        assert!(matches!(Target::parse("lake"), Err(ConnectError::NoUrl { .. })));
        for given in ["s3://key:secret@bucket/lake", "s3://bucket/lake?sig=secret", "az://container/lake#secret"] {
            let error = Target::parse(given).unwrap_err();
            assert!(matches!(error, ConnectError::TooMuch { .. }), "{given}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
