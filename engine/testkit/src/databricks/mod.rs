//! A Databricks workspace that is none: a real HTTP server with the calls that a backup and a restore need.
//!
//! * Calls are answered in the forms that the service has, its oddities among them. Where the client libraries of the
//!   service do not work with it, it is wrong.
//! * What it holds can be built, changed and looked at without any call, from Rust ([`FakeWorkspace`]) and over HTTP
//!   (below `/_fake/`, without any token).
//! * Everything that is generated follows from seeds. Time is that of the workspace and goes on with its changes only.
//!   The real time matters to latency, rates, the expiry of tokens and dates in headers.
//! * Generated sources are made whenever they are asked for: a workspace of a million notebooks fits into memory.
//! * It can be slow, limited to rates, and fail: by chance ([`FakeOptions::failure_share`]) or by [`Rule`].
//! * After the drop of a [`FakeWorkspace`], none of its threads and connections is left.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use axum::serve::ListenerExt;
use tokio::sync::oneshot;

use self::server::Fake;

mod answer;
mod archive;
mod auth;
mod build;
mod calls;
mod control;
mod counters;
mod extras;
mod fault;
mod gate;
mod generate;
mod kind;
mod night;
mod notebook;
mod object;
mod options;
mod page;
mod path;
mod random;
mod rates;
mod rules;
mod server;
mod sources;
mod stores;
#[cfg(test)]
mod tests;
mod tree;

pub use self::counters::{Counters, LoggedRequest};
pub use self::fault::Action;
pub use self::generate::GenerateOptions;
pub use self::kind::Kind;
pub use self::night::{Night, NightOptions};
pub use self::object::{Language, Object};
pub use self::options::{FakeOptions, RetryAfter, TooLarge};
pub use self::rules::{Rule, RuleId, Target, When};

/// A workspace that is running.
pub struct FakeWorkspace {
    fake: Arc<Fake>,
    stop: Option<oneshot::Sender<()>>,
    server: Option<JoinHandle<()>>,
}

impl FakeWorkspace {
    /// Starts an empty workspace.
    ///
    /// # Panics
    /// The port is taken, no token is given, or a rate is none.
    pub fn start(options: FakeOptions) -> Self {
        assert!(!options.tokens.is_empty(), "a workspace has a token");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, options.port)).expect("the port is free");
        listener.set_nonblocking(true).expect("a socket has the option");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(options.threads)
            .thread_name("databricks")
            .enable_io()
            .enable_time()
            .build()
            .expect("threads are to be had");
        let url = format!("http://{}", listener.local_addr().expect("it has an address"));
        let fake = Arc::new(Fake::new(options, url));
        let router = server::router(Arc::clone(&fake));
        let (stop, stopped) = oneshot::channel();
        // a thread of its own, so that a workspace can be started and dropped where one must not wait for others
        let serve = move || {
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).expect("the socket is a listener");
                let listener = listener.tap_io(|stream| {
                    // it fails where the other side is gone already
                    let _set = stream.set_nodelay(true);
                });
                tokio::select! {
                    _ = stopped => {}
                    served = axum::serve(listener, router) => served.expect("it serves until it is stopped"),
                }
            });
        };
        let server = thread::Builder::new().name("databricks".into()).spawn(serve).expect("a thread is to be had");
        Self { fake, stop: Some(stop), server: Some(server) }
    }

    /// Returns where it can be reached: `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        self.fake.url.clone()
    }

    /// Returns a personal access token that it takes, unless it was revoked.
    pub fn token(&self) -> &str {
        &self.fake.options.tokens[0]
    }
}

impl Drop for FakeWorkspace {
    /// Ends all connections.
    fn drop(&mut self) {
        // it is gone where the server ended on its own
        let _told = self.stop.take().map(|stop| stop.send(()));
        let ended = self.server.take().map(JoinHandle::join);
        assert!(thread::panicking() || matches!(ended, Some(Ok(()))), "the server of a fake workspace panicked");
    }
}
