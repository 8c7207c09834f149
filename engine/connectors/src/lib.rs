//! Where lakebed meets networks.
//!
//! The asynchronous world ends here: what this crate gives to others is synchronous, and no other crate knows of tokio.

pub mod databricks;
mod ini;
pub mod object_storage;
mod pace;
mod process;
pub mod rest;

use std::sync::Arc;

/// Hears a line of what goes on.
pub type Tell = Arc<dyn Fn(&str) + Send + Sync>;
