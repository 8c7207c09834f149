//! Behaviour tests, one file for each behaviour, in one binary: each binary links RocksDB.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod bad_network;
mod changing;
mod checkpoints;
mod clocks;
mod common;
mod concurrency;
mod copy;
mod crash;
mod damage;
mod databricks;
mod distributed;
mod faults;
mod forget;
mod fuzz;
mod golden;
mod index;
mod joining;
mod large;
mod layering;
mod listings;
mod medium;
mod object_storage;
mod prune;
mod query;
mod reliability;
mod repair;
mod restore;
mod rewrite;
mod round_trip;
mod servers;
mod sessions;
mod shards;
mod space;
mod verifying;

/// A file of tests that nobody lists above would never run.
#[test]
fn every_file_here_is_a_module() {
    let source = include_str!("main.rs");
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/it");
    for entry in std::fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let module = name.trim_end_matches(".rs");
        assert!(module == "main" || source.contains(&format!("mod {module};")), "{name} is not listed in main.rs");
    }
}
