//! Where lakebed meets networks.
//!
//! The asynchronous world ends here: what this crate gives to others is synchronous, and no other crate knows of tokio.

pub mod object_storage;
