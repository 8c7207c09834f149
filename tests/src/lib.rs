//! What tests and fuzz targets share that needs the whole engine. What needs `lakebed-core` alone is in the test kit.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

pub mod commands;
