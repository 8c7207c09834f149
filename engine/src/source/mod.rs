//! Sources that this machine has: folders and files, and what a pipe says. And what any source can do without.
//!
//! [`local`] reads a file system, [`filter`] says what of it is left out, [`reader`] makes one file of a stream,
//! [`FilteredSource`] leaves things out of any other source. None of them compares, chunks or stores anything: they list,
//! and they open.

/// Makes what a source that decorates another one says like that one: for an `impl Source`, with the field.
macro_rules! forward_source {
    ($inner:ident) => {
        fn uri(&self) -> String {
            self.$inner.uri()
        }

        fn parts(&self) -> Vec<(Vec<Vec<u8>>, String)> {
            self.$inner.parts()
        }

        fn manner(&self) -> lakebed_core::source::SourceManner {
            self.$inner.manner()
        }

        fn stop(&self) {
            self.$inner.stop();
        }

        fn object_id(&self, entry: &Entry) -> Option<u64> {
            self.$inner.object_id(entry)
        }

        fn has_content_of(&self, entry: &Entry, known: &Entry, began: lakebed_core::time::Timestamp) -> Option<bool> {
            self.$inner.has_content_of(entry, known, began)
        }

        fn root(&self) -> Result<Entry, SourceError> {
            self.$inner.root()
        }

        fn complete_root(&self, entry: &mut Entry) -> Result<(), SourceError> {
            self.$inner.complete_root(entry)
        }

        fn open_root(&self) -> Result<Box<dyn SourceFile>, SourceError> {
            self.$inner.open_root()
        }
    };
}

pub mod filter;
mod filtered;
pub mod local;
pub mod mounts;
pub mod reader;
mod shard;

pub use filter::{Filter, FilterError, FilterOptions, Marker};
pub use filtered::FilteredSource;
pub use local::{LocalOptions, LocalSource, directory_identity};
pub use mounts::{Mount, local_mounts, parse_path_list, tree_path};
pub use reader::{Finish, ReaderSource};
pub(crate) use shard::{Divisions, shard_of};
