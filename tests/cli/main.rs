//! The binary, as its users meet it: exit codes, texts, JSON.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod backup;
mod copy;
mod databricks;
mod durability;
mod errors;
mod forget;
mod kill;
mod kit;
mod prune;
mod reachable;
mod reading;
mod repair;
mod resources;
mod restore;
mod rewrite;
mod sessions;
mod shards;
mod signals;
mod soak;
