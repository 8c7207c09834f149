//! The protocol of writers and prunes, walked through in every order.
//!
//! The model is a machine whose state is what lies in storage and what every actor remembers. A step is whatever one actor
//! does at one moment; between two steps anybody else may do anything, and nobody is obliged to go on: that is how a crash
//! and a slow process look from outside. The checker visits every state that can be reached and asks the invariants of
//! `invariant.rs` there. The program counters of the actors are the steps of `lakebed_core::protocol`, which the engine
//! announces while it carries them out.
//!
//! There is one chunk that every snapshot needs, one snapshot and one pack from the beginning; writers add a snapshot each
//! and may store a pack, prunes may copy into a pack. Chunks do not touch each other in the protocol, so what could happen
//! to one of many would happen to this one.
//!
//! `holds.rs` checks the protocol as it is, `broken.rs` that the checker finds what each rule is for, `reached.rs` that
//! the actors get where things could go wrong. What it all means is told in `docs/concurrency.md`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod action;
mod broken;
mod check;
mod generation;
mod holds;
mod invariant;
mod listing;
mod packs;
mod protocol;
mod prune;
mod prune_steps;
mod reached;
mod reader;
mod rules;
mod scope;
mod set;
mod snapshots;
mod state;
mod story;
mod writer;

/// A file that nobody lists above would never run.
#[test]
fn every_file_here_is_a_module() {
    let source = include_str!("main.rs");
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/model");
    for entry in std::fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let module = name.trim_end_matches(".rs");
        assert!(module == "main" || source.contains(&format!("mod {module};")), "{name} is not listed in main.rs");
    }
}
