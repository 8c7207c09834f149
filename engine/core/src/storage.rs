//! `Storage`: where the objects of a repository lie.
//!
//! The contract, which one test suite checks for every implementation:
//! * an object is immutable: it is put once, under a name that did not exist, and never changed;
//! * an object is seen under its name with all its bytes or not at all, also after a crash;
//! * after [`Storage::sync`] everything put before is found again after a power loss;
//! * "not there" is told apart from every other failure.

use std::fmt;

/// The name of an object: parts of `[a-z0-9._-]`, joined by `/`; no part is empty or starts with a dot.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey(String);

impl ObjectKey {
    /// Checks a name.
    pub fn new(name: impl Into<String>) -> Option<Self> {
        let name = name.into();
        let part_is_valid = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && part.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || b"._-".contains(&c))
        };
        name.split('/').all(part_is_valid).then_some(Self(name))
    }

    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One object in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its name.
    pub key: ObjectKey,
    /// Its size in bytes.
    pub size_bytes: u64,
}

/// What kind of thing went wrong in storage. Callers decide by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StorageErrorKind {
    /// There is no such object.
    NotFound,
    /// An object of that name exists; it was left as it was.
    AlreadyExists,
    /// The caller may not do that.
    PermissionDenied,
    /// The storage as a whole cannot be written.
    ReadOnly,
    /// No space, or no quota, is left.
    NoSpace,
    /// The object is shorter than the range that was asked for.
    TooShort,
    /// It may work when tried again.
    Transient,
    /// Anything else.
    Other,
}

/// A failure of storage, with the object and the operation that it concerns.
#[derive(Debug, thiserror::Error)]
#[error("Cannot {operation} `{subject}`")]
pub struct StorageError {
    /// What kind of failure it is.
    pub kind: StorageErrorKind,
    /// The verb: `read`, `write`, `list`, `delete`, `sync`.
    pub operation: &'static str,
    /// The object, prefix, or place of the storage.
    pub subject: String,
    /// What the medium said.
    #[source]
    pub source: std::io::Error,
}

impl StorageError {
    /// Builds an error, deriving its kind from what the system said.
    pub fn new(operation: &'static str, subject: impl fmt::Display, source: std::io::Error) -> Self {
        use std::io::ErrorKind as Io;
        let kind = match source.kind() {
            Io::NotFound => StorageErrorKind::NotFound,
            Io::AlreadyExists => StorageErrorKind::AlreadyExists,
            Io::PermissionDenied => StorageErrorKind::PermissionDenied,
            Io::ReadOnlyFilesystem => StorageErrorKind::ReadOnly,
            Io::StorageFull | Io::QuotaExceeded | Io::FileTooLarge => StorageErrorKind::NoSpace,
            Io::UnexpectedEof => StorageErrorKind::TooShort,
            Io::Interrupted | Io::TimedOut | Io::ConnectionReset | Io::WouldBlock => StorageErrorKind::Transient,
            _ => StorageErrorKind::Other,
        };
        Self { kind, operation, subject: subject.to_string(), source }
    }

    /// Tells whether the object is just not there.
    pub fn is_not_found(&self) -> bool {
        self.kind == StorageErrorKind::NotFound
    }
}

/// What is known of something that a medium should do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    /// It does it.
    Kept,
    /// It does not.
    Broken,
    /// Mediums of this kind may or may not: only who tries knows.
    Unproven,
}

/// What an implementation can promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// Of several writers of one name exactly one wins.
    pub put_if_absent: Promise,
    /// A listing holds everything that was put before it began.
    pub consistent_listing: Promise,
    /// Target size of a pack in bytes that suits the medium.
    pub pack_target_bytes: u64,
    /// It is reached over a network: each request takes long, and may cost money.
    pub is_remote: bool,
}

impl Capabilities {
    /// Describes a medium with atomic names and consistent listings.
    pub const fn strict(pack_target_bytes: u64) -> Self {
        Self { put_if_absent: Promise::Kept, consistent_listing: Promise::Kept, pack_target_bytes, is_remote: false }
    }

    /// Describes a medium on a network, of which nobody knows what it does before it was tried.
    pub const fn remote(pack_target_bytes: u64) -> Self {
        let unproven = Promise::Unproven;
        Self { put_if_absent: unproven, consistent_listing: unproven, pack_target_bytes, is_remote: true }
    }
}

/// A place for immutable objects.
///
/// Implementations retry interrupted system calls themselves.
pub trait Storage: Send + Sync + fmt::Debug {
    /// Returns the place as a person would write it (a path, a URL); it holds no secret.
    fn location(&self) -> String;

    /// Returns what tells the place apart from every other one, also where [`Storage::location`] is the same: a URL can
    /// lead to one store or another. It holds no secret.
    fn identity(&self) -> String {
        self.location()
    }

    /// Returns what this storage can promise.
    fn capabilities(&self) -> Capabilities;

    /// Stores a whole object under a name that does not exist yet.
    ///
    /// When it returns, the content is durable; that the *name* is durable is certain after [`Storage::sync`].
    ///
    /// # Errors
    /// `AlreadyExists` where the name is taken (nothing is changed), `NoSpace`, `ReadOnly`, `PermissionDenied`, ...
    fn put(&self, key: &ObjectKey, bytes: &[u8]) -> Result<(), StorageError>;

    /// Begins a long object whose name is known only at its end.
    ///
    /// # Errors
    /// As [`Storage::put`].
    fn writer(&self) -> Result<Box<dyn ObjectWriter>, StorageError>;

    /// Reads a whole object.
    ///
    /// # Errors
    /// `NotFound` where there is none.
    fn get(&self, key: &ObjectKey) -> Result<Vec<u8>, StorageError>;

    /// Appends the `length` bytes from `offset` to `buffer`.
    ///
    /// # Errors
    /// `NotFound`; `TooShort` where the object ends before the range does. `buffer` is then as it was.
    fn get_range(&self, key: &ObjectKey, offset: u64, length: usize, buffer: &mut Vec<u8>) -> Result<(), StorageError>;

    /// Returns the size of an object in bytes.
    ///
    /// # Errors
    /// `NotFound` where there is none.
    fn size(&self, key: &ObjectKey) -> Result<u64, StorageError>;

    /// Lists the objects whose key starts with `prefix`, which is empty or ends in `/`, sorted by key.
    ///
    /// Nothing under the prefix is an empty list and no error; a place that cannot be read is an error.
    ///
    /// # Errors
    /// Whatever kept the listing from being complete.
    fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StorageError>;

    /// Lists several prefixes by fewer requests than one for each, where the medium can do that; else nothing, and each is
    /// to be listed by itself. The empty prefix is that of every object; any other that does not end in `/` is the name of one.
    /// Each of the listings, which come in the
    /// order of the prefixes, is what [`Storage::list`] could have returned at some moment during the call; which of them
    /// is older nobody knows.
    ///
    /// # Errors
    /// As [`Storage::list`].
    fn survey(&self, _prefixes: &[&str]) -> Result<Option<Vec<Vec<ObjectInfo>>>, StorageError> {
        Ok(None)
    }

    /// Deletes an object. Until [`Storage::sync`] a loss of power may bring it back.
    ///
    /// # Errors
    /// `NotFound` where there is none, if the medium tells: some call that a success.
    fn delete(&self, key: &ObjectKey) -> Result<(), StorageError>;

    /// Makes durable, with its name, every object put or finished before the call, and every deletion.
    ///
    /// # Errors
    /// After a failure nothing is known of what was put since the last success.
    fn sync(&self) -> Result<(), StorageError>;

    /// Gives up the space that is held back for whoever must write a little before it can free much, and tells whether
    /// there was any.
    ///
    /// # Errors
    /// Whatever kept it from being given up.
    fn release_reserve(&self) -> Result<bool, StorageError> {
        Ok(false)
    }

    /// Holds that space back again, where the medium can do that and has the room.
    ///
    /// # Errors
    /// As [`Storage::put`], but for `NoSpace`: then there is no reserve, and that is no failure.
    fn restore_reserve(&self) -> Result<(), StorageError> {
        Ok(())
    }

    /// Removes what writers left unfinished that are certainly dead, and returns how many bytes that freed. What may
    /// belong to a living one stays.
    ///
    /// # Errors
    /// Whatever kept them from being listed or removed.
    fn sweep(&self) -> Result<u64, StorageError> {
        Ok(0)
    }
}

/// An object being written. Dropping it before it is finished abandons it without a trace.
///
/// A call that failed with `NoSpace` may be repeated once there is room: it then succeeds as if it were the first, or
/// fails for good. After any other failure the object can only be dropped: repeating the call fails too.
pub trait ObjectWriter: Send {
    /// Appends bytes.
    ///
    /// # Errors
    /// As [`Storage::put`]; and the object is finished, or an earlier call failed.
    fn append(&mut self, bytes: &[u8]) -> Result<(), StorageError>;

    /// Makes the content durable and gives it its name, as [`Storage::put`] does. Nothing can be done with the writer
    /// after that.
    ///
    /// # Errors
    /// As [`Storage::put`]; and the object is finished, or an earlier call failed.
    fn finish(&mut self, key: &ObjectKey) -> Result<(), StorageError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_that_is_not_there_is_told_apart_from_every_other_failure() {
        use std::io::ErrorKind as Io;
        let error = |kind: Io| StorageError::new("read", "packs/00", kind.into());
        assert!(error(Io::NotFound).is_not_found());
        for other in [Io::AlreadyExists, Io::PermissionDenied, Io::UnexpectedEof, Io::StorageFull, Io::Other] {
            assert!(!error(other).is_not_found(), "{other}");
        }
        assert_eq!(error(Io::NotFound).to_string(), "Cannot read `packs/00`");
    }

    #[test]
    fn keys_that_could_leave_the_place_are_refused() {
        for bad in ["", "/a", "a/", "a//b", "../a", "a/../b", ".hidden", "a/.b", "A", "a b", "a\0", "a\\b"] {
            assert!(ObjectKey::new(bad).is_none(), "{bad:?}");
        }
        for good in ["lakebed.json", "packs/0a/0a1b", "sessions/ff/00000001"] {
            assert!(ObjectKey::new(good).is_some(), "{good:?}");
        }
    }
}
