//! Workspaces of Databricks: where backups are taken from, and restored into.
//!
//! [`Workspace`] is the connection, [`WorkspaceSource`] what a backup reads, [`WorkspaceTarget`] what a restore fills. What
//! objects are called in a snapshot is in `names.rs`; `docs/databricks.md` specifies it.

mod api;
mod auth;
mod calls;
mod catalog;
mod change;
mod describe;
mod files;
mod names;
mod pages;
mod refusal;
mod settings;
mod source;
mod target;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lakebed_core::time::Clock;
use tokio::runtime::Runtime;

pub use self::calls::RATES;
pub use self::names::NotebookFormat;
pub use self::settings::{SettingsError, WorkspaceUri};
pub use self::source::{Include, WorkspaceOptions, WorkspaceSource};
pub use self::target::{WorkspaceTarget, WorkspaceTargetOptions};
use crate::Tell;
use crate::rest::token::Tokens;
use crate::rest::{CallTraffic, Client, ClientError, ClientOptions, Gates, Way, http_client};

/// Calls are tried for so long, as the tools of Databricks do.
const RETRY_FOR: Duration = Duration::from_secs(300);
/// The first pause between two tries.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// How a workspace is reached.
pub struct ConnectOptions {
    /// Speak plain HTTP, where the address asks for that: whoever listens can see and change what is sent.
    pub allow_http: bool,
    /// Calls are tried for so long; `None`: five minutes.
    pub retry_for: Option<Duration>,
    /// The first pause between two tries; `None`: a second.
    pub first_pause: Option<Duration>,
    /// Calls a second by kind, instead of those in [`RATES`]; `None`: as fast as can be.
    pub rates: Vec<(String, Option<f64>)>,
    /// Certificates of authorities (PEM) that are trusted besides the system's.
    pub authorities: Option<PathBuf>,
    /// Is told of calls that are sent again, now and then.
    pub tell: Option<Tell>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// It is not known where the workspace is, or who asks.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// It is to be reached in a way that everybody can listen to, and nobody has asked for that.
    #[error("{host} is reached by plain HTTP: whoever listens can see the token, and what is sent")]
    PlainHttp {
        /// The workspace.
        host: String,
    },
    /// A rate of something that is none.
    #[error("`{kind}` is no kind of call: {}", RATES.map(|(kind, _)| kind).join(", "))]
    Rate {
        /// The kind as it was named.
        kind: String,
    },
    /// There is no client.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The system has no thread to spare.
    #[error("Cannot start what speaks to the network")]
    Runtime(#[source] std::io::Error),
}

/// A connection to a workspace.
#[derive(Clone)]
pub struct Workspace {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    host: String,
    runtime: Runtime,
}

impl std::fmt::Debug for Workspace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workspace").field("host", &self.inner.host).finish_non_exhaustive()
    }
}

impl Workspace {
    /// Connects to the workspace of a URI. Nothing is asked of it yet. `env` looks up a variable of the environment.
    ///
    /// # Errors
    /// What is known of the workspace, or of who asks, makes no sense.
    pub fn connect(
        uri: &WorkspaceUri,
        env: impl Fn(&str) -> Option<String>,
        options: &ConnectOptions,
    ) -> Result<Self, ConnectError> {
        let settings = settings::Settings::find(uri, env)?;
        let host = settings::host_and_port(&settings.address);
        // secrets go to either
        let plain = [&settings.address, &settings.entra].into_iter().find(|url| url.scheme() == "http");
        if let Some(url) = plain.filter(|_| !options.allow_http) {
            return Err(ConnectError::PlainHttp { host: settings::host_and_port(url) });
        }
        if let Some((kind, _)) = options.rates.iter().find(|(kind, _)| RATES.iter().all(|(known, _)| known != kind)) {
            return Err(ConnectError::Rate { kind: kind.clone() });
        }
        let rate = |(kind, rate): (&'static str, f64)| {
            let asked = options.rates.iter().rfind(|(asked, _)| asked == kind);
            (kind, asked.map_or(Some(rate), |(_, rate)| *rate))
        };
        let http = http_client(options.authorities.as_ref(), Way::Usual)?;
        let direct = http_client(options.authorities.as_ref(), Way::Direct)?;
        let tokens = Tokens::new(auth::token_source(&settings, &http, &direct, options.clock.clone()));
        let client_options = ClientOptions {
            retry_for: options.retry_for.unwrap_or(RETRY_FOR),
            first_pause: options.first_pause.unwrap_or(FIRST_PAUSE),
            tell: options.tell.clone(),
            sign_of_life: (calls::OTHER, "/api/2.0/preview/scim/v2/Me"),
        };
        let gates = Gates::new(RATES.map(rate));
        let client = Client::new(http, settings.address, tokens, gates, client_options, refusal::refusal);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("lakebed-net")
            .enable_all()
            .build()
            .map_err(ConnectError::Runtime)?;
        Ok(Self { inner: Arc::new(Inner { client, host, runtime }) })
    }

    /// Returns the workspace's host, with its port where that is not the usual one.
    pub fn host(&self) -> &str {
        &self.inner.host
    }

    /// Returns what was asked of the workspace until now.
    pub fn traffic(&self) -> CallTraffic {
        self.inner.client.traffic()
    }

    /// Lets go whoever waits for the workspace: nothing more is wanted of it.
    pub fn stop(&self) {
        self.inner.client.stop();
    }

    fn client(&self) -> &Client {
        &self.inner.client
    }

    /// Waits for what is asked of the workspace.
    fn wait<T>(&self, asked: impl Future<Output = T>) -> T {
        self.inner.runtime.block_on(asked)
    }
}
