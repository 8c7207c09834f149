//! What the tests of lakebed are made with. It is never part of the product.
//!
//! * [`tree`] and [`strategies`] describe file trees and changes to them, by hand or at random, and make them for real.
//! * [`compare`] observes a real tree on its own, without any code of the engine, and compares two of them.
//! * [`clock`] has a clock and a source of randomness that do as they are told.
//! * [`chance`] makes random choices that a seed repeats.
//! * [`processes`] live and die as they are told.
//! * [`storage`] decorates a storage: one that fails, one that counts, one that records.
//! * [`crash`] knows every state in which a loss of power may leave a recorded run.
//! * [`source`] gives a described tree to a backup without any file system.
//! * [`fuzz`] looks at what decoders make of any bytes.
//! * [`damage`] harms the objects of a repository folder and mends them again.
//! * [`databricks`] is a workspace of Databricks on this machine, as well-behaved or bad as it is told to be.
//! * [`disk`] has disks that are full or read-only.
//!
//! Everything panics where something it does not test goes wrong, with the path that was concerned.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on is to stop with a panic")]

mod access;
pub mod chance;
pub mod clock;
pub mod compare;
pub mod crash;
pub mod damage;
pub mod databricks;
pub mod disk;
pub mod fuzz;
pub mod lax;
pub mod processes;
pub mod proxy;
pub mod source;
pub mod storage;
pub mod strategies;
pub mod tree;

pub use access::{is_root, remove_all, user_xattrs_work};
