//! The backup engine of lakebed.
//!
//! A [`Repository`] is opened over a storage with a secret; its methods are the verbs: [`Repository::backup`],
//! [`restore::restore`], [`Repository::verify`], [`copy::copy`], and the questions in [`query`]. Options are plain structs; progress
//! and cancelling come in through a [`Monitor`]; storage, clock and randomness through traits, so that all of it can be
//! embedded and tested. `examples/embed.rs` shows the main path.

pub mod backup;
mod check;
pub mod copy;
mod derive;
mod error;
pub mod forget;
mod index;
mod index_rebuild;
pub mod join;
pub mod prune;
pub mod query;
pub mod repair;
pub mod repository;
pub mod restore;
pub mod rewrite;
pub mod source;
pub mod storage;
pub mod system;
pub mod verify;

pub use error::{Error, Result};
pub use index::{Index, IndexStats, Location, Mode};
pub use lakebed_core as core;
pub use lakebed_core::monitor::{Monitor, Phase, Progress, Silent};
pub use repository::{InitOptions, LookAhead, OpenOptions, Repository};

/// Returns an error and its causes in one line.
pub(crate) fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.ends_with(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        cause = error.source();
    }
    text
}
