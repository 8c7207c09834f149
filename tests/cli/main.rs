//! The binary, as its users meet it: exit codes, texts, JSON.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod backup;
mod errors;
mod kit;
mod reading;
mod resources;
mod restore;
mod signals;
