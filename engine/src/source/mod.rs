//! Sources that this machine has: folders and files, and what a pipe says.
//!
//! [`local`] reads a file system, [`filter`] says what of it is left out, [`reader`] makes one file of a stream. None
//! of them compares, chunks or stores anything: they list, and they open.

pub mod filter;
pub mod local;
pub mod mounts;
pub mod reader;
mod shard;

pub use filter::{Filter, FilterError, FilterOptions, Marker};
pub use local::{LocalOptions, LocalSource, directory_identity};
pub use mounts::{Mount, local_mounts, parse_path_list, tree_path};
pub use reader::{Finish, ReaderSource};
pub(crate) use shard::{Division, shard_of};
