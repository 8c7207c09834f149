//! `Storage` on an object store: S3 and what speaks like it, Azure Blob, ADLS and OneLake, Google Cloud Storage.
//!
//! What it keeps true:
//! * an object appears whole, by one request, and only under a name that nothing has, as far as the store tells the truth
//!   about that (whether it does is for a probe to find out);
//! * a request whose answer was lost may have been carried out: when it is tried again and the name is taken, what is
//!   there is compared before anybody is told that it is somebody else's;
//! * after an upload the store is asked what it has, unless its answer says so;
//! * what may go well later is tried again, with growing pauses, for a limited time.

mod aws_profile;
mod azure_delete;
mod error;
mod store;
mod target;
mod traffic;
mod uploads;
mod wire;
mod writer;

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::TryStreamExt;
use futures_util::future::try_join_all;
use lakebed_core::storage::{
    Capabilities, ObjectInfo, ObjectKey, ObjectWriter, Storage, StorageError, StorageErrorKind,
};
use object_store::list::PaginatedListOptions;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStoreExt, PutMode, PutOptions};
use tokio::runtime::Runtime;

use error::{may_have_been_carried_out, storage_error};
pub use store::Store;
pub use target::{ConnectError, ConnectOptions, Target};
use traffic::Meter;
pub use traffic::{Prices, Traffic};
use wire::{SENT, Sent};
use writer::SpooledWriter;

/// Size of a pack that suits a store on which each request costs money and time, and that is still sent by one.
const PACK_TARGET_BYTES: u64 = 32 << 20;

/// So often an object is put again whose answer did not come. Before each the store's client has done what it can.
const PUTS_AGAIN: u32 = 3;

/// A repository's objects under a prefix of a bucket or container.
pub struct ObjectStorage {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    /// All keys lie under it.
    prefix: Path,
    location: String,
    identity: String,
    meter: Arc<Meter>,
    runtime: Runtime,
    /// Folder for long objects that are not finished; `None`: the system's.
    spool: Option<PathBuf>,
    /// What is sent is limited.
    is_slowed_down: bool,
}

impl fmt::Debug for ObjectStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectStorage").field("location", &self.inner.location).finish_non_exhaustive()
    }
}

impl ObjectStorage {
    /// Connects to the place that a URL names. Nothing is asked of the store yet.
    ///
    /// # Errors
    /// What is known of the place or of the credentials makes no sense.
    pub fn connect(target: &Target, options: &ConnectOptions) -> Result<Self, ConnectError> {
        let meter = Arc::new(Meter::default());
        let (store, identity) = target.build(options, meter.clone())?;
        Self::new(store, target.prefix().clone(), target.to_string(), identity, meter, options)
    }

    /// Works on a store that is there already, under a prefix. `location` is what people call it. What goes over the wire
    /// is neither limited nor counted.
    ///
    /// # Errors
    /// The system has no thread to spare.
    pub fn over(store: Store, prefix: Path, location: String, options: &ConnectOptions) -> Result<Self, ConnectError> {
        Self::new(store, prefix, location.clone(), location, Arc::default(), options)
    }

    fn new(
        store: Store,
        prefix: Path,
        location: String,
        identity: String,
        meter: Arc<Meter>,
        options: &ConnectOptions,
    ) -> Result<Self, ConnectError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("lakebed-net")
            .enable_all()
            .build()
            .map_err(|source| ConnectError::Runtime { source })?;
        let (spool, is_slowed_down) = (options.spool.clone(), options.upload_limit.is_some());
        let inner = Inner { store, prefix, location, identity, meter, runtime, spool, is_slowed_down };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Returns what was asked of the store until now.
    pub fn traffic(&self) -> Traffic {
        self.inner.meter.traffic()
    }
}

impl Inner {
    fn path(&self, key: &ObjectKey) -> Path {
        self.prefix.parts().chain(Path::from(key.as_str()).parts()).collect()
    }

    /// Waits for the answer to a request. The client sends it again where that may help and can do no harm. What is known
    /// of what was sent is left in `sent`.
    fn send<T>(
        &self,
        sent: &Arc<Sent>,
        request: impl Future<Output = object_store::Result<T>>,
    ) -> object_store::Result<T> {
        self.runtime.block_on(SENT.scope(sent.clone(), request))
    }

    /// As [`Inner::send`], for requests of which nothing needs to be known but whether they went well.
    fn run<T>(
        &self,
        operation: &'static str,
        subject: impl fmt::Display,
        request: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, StorageError> {
        let sent = Arc::default();
        self.send(&sent, request).map_err(|error| storage_error(operation, subject, error, sent.status()))
    }

    /// Lists what lies below a prefix.
    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StorageError> {
        let below: Path = self.prefix.parts().chain(Path::from(prefix).parts()).collect();
        let subject = if prefix.is_empty() { self.location.as_str() } else { prefix };
        let sent = Arc::<Sent>::default();
        let objects = SENT.scope(sent.clone(), self.store.objects.list(Some(&below)).try_collect::<Vec<_>>()).await;
        Ok(self.infos(objects.map_err(|error| storage_error("list", subject, error, sent.status()))?))
    }

    /// Lists one object, if it is there.
    async fn look_at(&self, key: &str) -> Result<Vec<ObjectInfo>, StorageError> {
        let Some(key) = ObjectKey::new(key) else { return Ok(Vec::new()) };
        let (path, sent) = (self.path(&key), Arc::<Sent>::default());
        match SENT.scope(sent.clone(), self.store.objects.head(&path)).await {
            Ok(found) => Ok(vec![ObjectInfo { key, size_bytes: found.size }]),
            Err(error) => match storage_error("read", &key, error, sent.status()) {
                error if error.is_not_found() => Ok(Vec::new()),
                error => Err(error),
            },
        }
    }

    /// Returns the size that the store has under a path.
    fn size(&self, operation: &'static str, key: &ObjectKey) -> Result<u64, StorageError> {
        let path = self.path(key);
        Ok(self.run(operation, key, self.store.objects.head(&path))?.size)
    }

    fn get(&self, key: &ObjectKey) -> Result<Bytes, StorageError> {
        let path = self.path(key);
        let bytes = self.run("read", key, async { self.store.objects.get(&path).await?.bytes().await })?;
        Ok(bytes)
    }

    /// Appends a range of an object, as it comes in.
    async fn append_range(&self, key: &ObjectKey, range: Range<u64>, buffer: &mut Vec<u8>) -> object_store::Result<()> {
        let asked = range.end - range.start;
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        let mut pieces = self.store.objects.get_opts(&self.path(key), options).await?.into_stream();
        let most = buffer.len().saturating_add(usize::try_from(asked).unwrap_or(usize::MAX));
        while let Some(piece) = pieces.try_next().await? {
            if buffer.len() + piece.len() > most {
                let source = "the store sends more than it was asked for".into();
                return Err(object_store::Error::Generic { store: "range", source });
            }
            buffer.extend_from_slice(&piece);
        }
        Ok(())
    }

    /// Puts a whole object under a name that nothing has.
    fn put(&self, key: &ObjectKey, bytes: &Bytes) -> Result<(), StorageError> {
        let path = self.path(key);
        let mut left = PUTS_AGAIN;
        let sent = Arc::new(Sent::of(bytes));
        loop {
            let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
            match self.send(&sent, self.store.objects.put_opts(&path, bytes.clone().into(), options)) {
                Ok(_) if sent.is_confirmed() => return Ok(()),
                Ok(_) => return self.confirm(key, bytes.len() as u64),
                // what is there may be ours: an answer before this one may have been lost
                Err(error @ object_store::Error::AlreadyExists { .. }) if sent.tries() > 1 => {
                    let is_ours = self.get(key)? == bytes;
                    return if is_ours { Ok(()) } else { Err(storage_error("write", key, error, sent.status())) };
                }
                Err(error) if may_have_been_carried_out(&error) && left > 0 => left -= 1,
                Err(error) => return Err(storage_error("write", key, error, sent.status())),
            }
        }
    }

    /// Turns what a store lists into what we know it as, sorted. What somebody else has put beside ours is none of it.
    fn infos(&self, objects: Vec<object_store::ObjectMeta>) -> Vec<ObjectInfo> {
        let skip = self.prefix.parts().count();
        let info = |object: object_store::ObjectMeta| {
            let key = object.location.parts().skip(skip).collect::<Path>();
            Some(ObjectInfo { key: ObjectKey::new(key.as_ref())?, size_bytes: object.size })
        };
        let mut infos: Vec<ObjectInfo> = objects.into_iter().filter_map(info).collect();
        infos.sort_by(|one, other| one.key.cmp(&other.key));
        infos
    }

    /// Asks the store whether it has an object of that size.
    fn confirm(&self, key: &ObjectKey, expected: u64) -> Result<(), StorageError> {
        let found = self.size("look again at", key)?;
        if found == expected {
            return Ok(());
        }
        let why = format!("the store has {found} bytes of {expected} that were sent");
        Err(StorageError::new("write", key, std::io::Error::other(why)))
    }
}

fn too_short(key: &ObjectKey) -> StorageError {
    StorageError::new("read", key, std::io::ErrorKind::UnexpectedEof.into())
}

impl Storage for ObjectStorage {
    fn location(&self) -> String {
        self.inner.location.clone()
    }

    fn identity(&self) -> String {
        self.inner.identity.clone()
    }

    /// Stores of one kind differ: some answer that a conditional put went well and have replaced what was there.
    fn capabilities(&self) -> Capabilities {
        Capabilities::remote(PACK_TARGET_BYTES)
    }

    fn put(&self, key: &ObjectKey, bytes: &[u8]) -> Result<(), StorageError> {
        self.inner.put(key, &Bytes::copy_from_slice(bytes))
    }

    fn writer(&self) -> Result<Box<dyn ObjectWriter>, StorageError> {
        Ok(Box::new(SpooledWriter::new(self.inner.clone())?))
    }

    fn get(&self, key: &ObjectKey) -> Result<Vec<u8>, StorageError> {
        Ok(self.inner.get(key)?.into())
    }

    fn get_range(&self, key: &ObjectKey, offset: u64, length: usize, buffer: &mut Vec<u8>) -> Result<(), StorageError> {
        let end = offset.checked_add(length as u64).ok_or_else(|| too_short(key))?;
        // stores refuse ranges of nothing
        if length == 0 {
            return if offset <= self.inner.size("read", key)? { Ok(()) } else { Err(too_short(key)) };
        }
        let before = buffer.len();
        buffer.reserve_exact(length);
        let read = self.inner.run("read", key, self.inner.append_range(key, offset..end, buffer));
        if read.is_ok() && buffer.len() - before == length {
            return Ok(());
        }
        buffer.truncate(before);
        match read {
            Ok(()) => Err(too_short(key)),
            // whether the range reaches too far is said in as many ways as there are stores
            Err(error) if error.kind == StorageErrorKind::Other && self.inner.size("read", key)? < end => {
                Err(too_short(key))
            }
            Err(error) => Err(error),
        }
    }

    fn size(&self, key: &ObjectKey) -> Result<u64, StorageError> {
        self.inner.size("read", key)
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StorageError> {
        if !prefix.is_empty() && !prefix.ends_with('/') {
            let source = std::io::Error::new(std::io::ErrorKind::InvalidInput, "a prefix is empty or ends in `/`");
            return Err(StorageError::new("list", prefix, source));
        }
        self.inner.runtime.block_on(self.inner.list(prefix))
    }

    /// Looks at the first page of everything. Where that is all of it, one request was enough.
    fn survey(&self, prefixes: &[&str]) -> Result<Option<Vec<Vec<ObjectInfo>>>, StorageError> {
        let inner = &self.inner;
        let Some(pages) = &inner.store.pages else { return Ok(None) };
        let below = format!("{}/", inner.prefix);
        let below = Some(below.as_str()).filter(|_| !inner.prefix.as_ref().is_empty());
        let page = pages.list_paginated(below, PaginatedListOptions::default());
        let page = inner.run("list", inner.location.as_str(), page)?;
        let is_all = page.page_token.is_none();
        // not every store lists by name: then nobody knows what is on further pages
        let is_sorted = page.result.objects.array_windows().all(|[one, next]| one.location < next.location);
        if !is_all && !is_sorted {
            return Ok(None);
        }
        let seen = inner.infos(page.result.objects);
        let last = seen.last().map(|info| info.key.as_str().to_owned());
        let is_object = |prefix: &str| !prefix.is_empty() && !prefix.ends_with('/');
        let matches = |prefix: &str, key: &ObjectKey| match is_object(prefix) {
            true => key.as_str() == prefix,
            false => key.as_str().starts_with(prefix),
        };
        // a page is sorted by name: what comes after its last name is on another one
        let is_whole =
            |prefix: &str| is_all || last.as_deref().is_some_and(|last| last > prefix && !last.starts_with(prefix));
        let listing = async |prefix: &&str| match is_whole(prefix) {
            true => Ok(seen.iter().filter(|info| matches(prefix, &info.key)).cloned().collect()),
            false if is_object(prefix) => inner.look_at(prefix).await,
            false => inner.list(prefix).await,
        };
        inner.runtime.block_on(try_join_all(prefixes.iter().map(listing))).map(Some)
    }

    fn delete(&self, key: &ObjectKey) -> Result<(), StorageError> {
        let path = self.inner.path(key);
        self.inner.run("delete", key, self.inner.store.objects.delete(&path))
    }

    /// Ends uploads that were begun more than a day ago. How many bytes their parts took no store says.
    fn sweep(&self) -> Result<u64, StorageError> {
        let inner = &self.inner;
        let Some(uploads) = &inner.store.uploads else { return Ok(0) };
        let prefix = inner.prefix.as_ref();
        let below = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        let sent = Arc::default();
        let abandoned = match inner.send(&sent, uploads.abandoned(&below)) {
            Ok(abandoned) => abandoned,
            // not all that speaks S3 can tell
            Err(_) if matches!(sent.status(), 400 | 404 | 405 | 501) => return Ok(0),
            Err(error) => return Err(storage_error("list", "uploads in parts", error, sent.status())),
        };
        for upload in &abandoned {
            match inner.send(&sent, uploads.abort(upload)) {
                // it has ended meanwhile
                Err(_) if sent.status() == 404 => {}
                result => {
                    result.map_err(|error| storage_error("delete", "an upload in parts", error, sent.status()))?
                }
            }
        }
        Ok(0)
    }

    /// What a store has acknowledged is durable.
    fn sync(&self) -> Result<(), StorageError> {
        Ok(())
    }
}
