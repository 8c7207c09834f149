//! Passing on what a storage does not do itself.

/// Makes methods of [`crate::storage::Storage`] that only pass the call on to another storage, for an `impl Storage`: first
/// the field, or the way to it, then the names of the methods, as in `forward_storage!(inner: get, get_range, size)`.
#[macro_export]
macro_rules! forward_storage {
    ($field:tt $(. $below:tt)* : $($method:ident),+ $(,)?) => {
        $crate::forward_storage! { @each [$field $(. $below)*] $($method)+ }
    };
    (@each $path:tt $method:ident $($more:ident)*) => {
        $crate::forward_storage! { @one $path $method }
        $crate::forward_storage! { @each $path $($more)* }
    };
    (@each $path:tt) => {};
    (@one [$($path:tt)+] location) => {
        fn location(&self) -> String {
            self.$($path)+.location()
        }
    };
    (@one [$($path:tt)+] identity) => {
        fn identity(&self) -> String {
            self.$($path)+.identity()
        }
    };
    (@one [$($path:tt)+] capabilities) => {
        fn capabilities(&self) -> $crate::storage::Capabilities {
            self.$($path)+.capabilities()
        }
    };
    (@one [$($path:tt)+] put) => {
        fn put(&self, key: &$crate::storage::ObjectKey, bytes: &[u8]) -> Result<(), $crate::storage::StorageError> {
            self.$($path)+.put(key, bytes)
        }
    };
    (@one [$($path:tt)+] writer) => {
        fn writer(&self) -> Result<Box<dyn $crate::storage::ObjectWriter>, $crate::storage::StorageError> {
            self.$($path)+.writer()
        }
    };
    (@one [$($path:tt)+] get) => {
        fn get(&self, key: &$crate::storage::ObjectKey) -> Result<Vec<u8>, $crate::storage::StorageError> {
            self.$($path)+.get(key)
        }
    };
    (@one [$($path:tt)+] get_range) => {
        fn get_range(
            &self,
            key: &$crate::storage::ObjectKey,
            offset: u64,
            length: usize,
            buffer: &mut Vec<u8>,
        ) -> Result<(), $crate::storage::StorageError> {
            self.$($path)+.get_range(key, offset, length, buffer)
        }
    };
    (@one [$($path:tt)+] size) => {
        fn size(&self, key: &$crate::storage::ObjectKey) -> Result<u64, $crate::storage::StorageError> {
            self.$($path)+.size(key)
        }
    };
    (@one [$($path:tt)+] list) => {
        fn list(&self, prefix: &str) -> Result<Vec<$crate::storage::ObjectInfo>, $crate::storage::StorageError> {
            self.$($path)+.list(prefix)
        }
    };
    (@one [$($path:tt)+] survey) => {
        fn survey(
            &self,
            prefixes: &[&str],
        ) -> Result<Option<Vec<Vec<$crate::storage::ObjectInfo>>>, $crate::storage::StorageError> {
            self.$($path)+.survey(prefixes)
        }
    };
    (@one [$($path:tt)+] delete) => {
        fn delete(&self, key: &$crate::storage::ObjectKey) -> Result<(), $crate::storage::StorageError> {
            self.$($path)+.delete(key)
        }
    };
    (@one [$($path:tt)+] sync) => {
        fn sync(&self) -> Result<(), $crate::storage::StorageError> {
            self.$($path)+.sync()
        }
    };
    (@one [$($path:tt)+] release_reserve) => {
        fn release_reserve(&self) -> Result<bool, $crate::storage::StorageError> {
            self.$($path)+.release_reserve()
        }
    };
    (@one [$($path:tt)+] restore_reserve) => {
        fn restore_reserve(&self) -> Result<(), $crate::storage::StorageError> {
            self.$($path)+.restore_reserve()
        }
    };
    (@one [$($path:tt)+] sweep) => {
        fn sweep(&self) -> Result<u64, $crate::storage::StorageError> {
            self.$($path)+.sweep()
        }
    };
}
