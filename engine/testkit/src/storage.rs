//! Decorators over a storage: one that fails when it is told to, one that counts, one that records.
//!
//! They are one decorator, [`Hooked`], with different hooks, and they can be put over each other. What a
//! [`Storage::writer`] returns is decorated as well. Clones share their state, so a test keeps one and hands on another.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use lakebed_core::storage::{
    Capabilities, ObjectInfo, ObjectKey, ObjectWriter, Storage, StorageError, StorageErrorKind,
};

/// A call to a storage or to a writer of its.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// [`Storage::put`].
    Put,
    /// [`Storage::writer`].
    Writer,
    /// [`ObjectWriter::append`].
    Append,
    /// [`ObjectWriter::finish`].
    Finish,
    /// [`Storage::get`].
    Get,
    /// [`Storage::get_range`].
    GetRange,
    /// [`Storage::size`].
    Size,
    /// [`Storage::list`].
    List,
    /// [`Storage::delete`].
    Delete,
    /// [`Storage::sync`].
    Sync,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Put,
        Self::Writer,
        Self::Append,
        Self::Finish,
        Self::Get,
        Self::GetRange,
        Self::Size,
        Self::List,
        Self::Delete,
        Self::Sync,
    ];

    /// Tells whether it changes what is on the medium or makes it durable. Beginning an object does neither.
    pub fn is_write(self) -> bool {
        matches!(self, Self::Put | Self::Append | Self::Finish | Self::Delete | Self::Sync)
    }

    /// Returns the verb that storage errors have.
    fn verb(self) -> &'static str {
        match self {
            Self::Put | Self::Writer | Self::Append | Self::Finish => "write",
            Self::Get | Self::GetRange | Self::Size => "read",
            Self::List => "list",
            Self::Delete => "delete",
            Self::Sync => "sync",
        }
    }
}

/// A call as a hook sees it.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// Which one.
    pub operation: Operation,
    /// The object's key or the prefix of a listing; empty where there is neither.
    pub key: &'a str,
    /// The whole object, where one is put or finished and the hook [keeps content](Hook::keeps_content).
    pub content: Option<&'a [u8]>,
}

/// What a [`Hooked`] storage does around each call.
pub trait Hook: Send + Sync + fmt::Debug {
    /// What is carried from before a call to after it.
    type Ticket;

    /// Is called before the call. An error is returned in its stead.
    ///
    /// # Errors
    /// Whatever the call is to fail with.
    fn before(&self, call: &Call<'_>) -> Result<Self::Ticket, StorageError>;

    /// Is called after the call with the number of bytes that it moved, or none where it failed.
    ///
    /// # Errors
    /// Whatever the call is to fail with although it was carried out.
    fn after(&self, call: &Call<'_>, ticket: Self::Ticket, bytes: Option<u64>) -> Result<(), StorageError>;

    /// Tells whether writers are to keep all bytes until they finish.
    fn keeps_content(&self) -> bool {
        false
    }
}

/// A storage with a hook around each call.
#[derive(Debug)]
pub struct Hooked<H> {
    inner: Arc<dyn Storage>,
    hook: Arc<H>,
}

impl<H> Clone for Hooked<H> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), hook: Arc::clone(&self.hook) }
    }
}

impl<H: Hook> Hooked<H> {
    /// Puts a hook around a storage.
    pub fn with_hook(inner: Arc<dyn Storage>, hook: H) -> Self {
        Self { inner, hook: Arc::new(hook) }
    }

    /// Returns the storage below.
    pub fn inner(&self) -> &Arc<dyn Storage> {
        &self.inner
    }

    fn call<T>(
        &self,
        operation: Operation,
        key: &str,
        bytes: impl FnOnce(&T) -> u64,
        run: impl FnOnce(&dyn Storage) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        around(&*self.hook, Call { operation, key, content: None }, bytes, || run(&*self.inner))
    }
}

fn around<H: Hook, T>(
    hook: &H,
    call: Call<'_>,
    bytes: impl FnOnce(&T) -> u64,
    run: impl FnOnce() -> Result<T, StorageError>,
) -> Result<T, StorageError> {
    let ticket = hook.before(&call)?;
    let result = run();
    hook.after(&call, ticket, result.as_ref().ok().map(bytes))?;
    result
}

impl<H: Hook + 'static> Storage for Hooked<H> {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn identity(&self) -> String {
        self.inner.identity()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn put(&self, key: &ObjectKey, bytes: &[u8]) -> Result<(), StorageError> {
        let call = Call { operation: Operation::Put, key: key.as_str(), content: Some(bytes) };
        around(&*self.hook, call, |()| bytes.len() as u64, || self.inner.put(key, bytes))
    }

    fn writer(&self) -> Result<Box<dyn ObjectWriter>, StorageError> {
        let inner = self.call(Operation::Writer, "", |_| 0, |inner| inner.writer())?;
        let content = self.hook.keeps_content().then(Vec::new);
        Ok(Box::new(HookedWriter { inner, hook: Arc::clone(&self.hook), length: 0, content }))
    }

    fn get(&self, key: &ObjectKey) -> Result<Vec<u8>, StorageError> {
        self.call(Operation::Get, key.as_str(), |bytes: &Vec<u8>| bytes.len() as u64, |inner| inner.get(key))
    }

    fn get_range(&self, key: &ObjectKey, offset: u64, length: usize, buffer: &mut Vec<u8>) -> Result<(), StorageError> {
        let run = |inner: &dyn Storage| inner.get_range(key, offset, length, buffer);
        self.call(Operation::GetRange, key.as_str(), |()| length as u64, run)
    }

    fn size(&self, key: &ObjectKey) -> Result<u64, StorageError> {
        self.call(Operation::Size, key.as_str(), |_| 0, |inner| inner.size(key))
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StorageError> {
        self.call(Operation::List, prefix, |_| 0, |inner| inner.list(prefix))
    }

    /// Is a listing of everything, where it is one at all.
    fn survey(&self, prefixes: &[&str]) -> Result<Option<Vec<Vec<ObjectInfo>>>, StorageError> {
        match self.inner.capabilities().is_remote {
            true => self.call(Operation::List, "", |_| 0, |inner| inner.survey(prefixes)),
            false => self.inner.survey(prefixes),
        }
    }

    fn delete(&self, key: &ObjectKey) -> Result<(), StorageError> {
        self.call(Operation::Delete, key.as_str(), |()| 0, |inner| inner.delete(key))
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.call(Operation::Sync, "", |()| 0, |inner| inner.sync())
    }

    // what follows touches no object: hooks are not told of it

    fn release_reserve(&self) -> Result<bool, StorageError> {
        self.inner.release_reserve()
    }

    fn restore_reserve(&self) -> Result<(), StorageError> {
        self.inner.restore_reserve()
    }

    fn sweep(&self) -> Result<u64, StorageError> {
        self.inner.sweep()
    }
}

struct HookedWriter<H> {
    inner: Box<dyn ObjectWriter>,
    hook: Arc<H>,
    length: u64,
    content: Option<Vec<u8>>,
}

impl<H: Hook> ObjectWriter for HookedWriter<H> {
    fn append(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        let call = Call { operation: Operation::Append, key: "", content: None };
        around(&*self.hook, call, |()| bytes.len() as u64, || self.inner.append(bytes))?;
        self.length += bytes.len() as u64;
        if let Some(content) = &mut self.content {
            content.extend_from_slice(bytes);
        }
        Ok(())
    }

    fn finish(&mut self, key: &ObjectKey) -> Result<(), StorageError> {
        let call = Call { operation: Operation::Finish, key: key.as_str(), content: self.content.as_deref() };
        around(&*self.hook, call, |()| self.length, || self.inner.finish(key))
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // a test that panicked in another thread is reported there
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A storage that fails when it is told to.
pub type FaultStorage = Hooked<Faults>;

/// What makes a [`FaultStorage`] fail.
#[derive(Debug, Default)]
pub struct Faults(Mutex<FaultState>);

#[derive(Debug, Default)]
struct FaultState {
    faults: Vec<Fault>,
    calls: BTreeMap<Operation, u64>,
    writes: u64,
    stop_at_writes: Option<u64>,
    fired: u64,
}

/// One reason to fail: which calls, and how. A new one fails the next call of any kind, once.
#[derive(Debug, Clone)]
pub struct Fault {
    failure: Failure,
    operation: Option<Operation>,
    only_writes: bool,
    prefix: String,
    /// How many fitting calls pass before it.
    passes: u64,
    sticky: bool,
    after_effect: bool,
    spent: bool,
}

#[derive(Debug, Clone, Copy)]
enum Failure {
    Kind(StorageErrorKind),
    Io(std::io::ErrorKind),
    Os(i32),
}

impl Fault {
    fn new(failure: Failure) -> Self {
        Self {
            failure,
            operation: None,
            only_writes: false,
            prefix: String::new(),
            passes: 0,
            sticky: false,
            after_effect: false,
            spent: false,
        }
    }

    /// Fails with a kind of storage error.
    pub fn kind(kind: StorageErrorKind) -> Self {
        Self::new(Failure::Kind(kind))
    }

    /// Fails with a kind of IO error, from which the kind of the storage error follows.
    pub fn io(kind: std::io::ErrorKind) -> Self {
        Self::new(Failure::Io(kind))
    }

    /// Fails with an error number of the system, such as 28 for a full disk and 5 for a broken one.
    pub fn os(number: i32) -> Self {
        Self::new(Failure::Os(number))
    }

    /// Only calls of one operation fit.
    pub fn on(mut self, operation: Operation) -> Self {
        self.operation = Some(operation);
        self
    }

    /// Only [writes](Operation::is_write) fit.
    pub fn on_writes(mut self) -> Self {
        self.only_writes = true;
        self
    }

    /// Only calls fit whose key, or prefix of a listing, begins so. Writers have no key until they finish.
    pub fn under(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Only the n-th fitting call fails, counted from 1 and from when the fault is injected.
    pub fn nth(mut self, n: u64) -> Self {
        self.passes = n.checked_sub(1).expect("calls are counted from 1");
        self
    }

    /// All fitting calls fail from then on.
    pub fn sticky(mut self) -> Self {
        self.sticky = true;
        self
    }

    /// The call is carried out first: only the answer is lost, as with a connection that breaks too late.
    pub fn after_effect(mut self) -> Self {
        self.after_effect = true;
        self
    }

    fn fits(&self, call: &Call<'_>) -> bool {
        self.operation.is_none_or(|operation| operation == call.operation)
            && (!self.only_writes || call.operation.is_write())
            && call.key.starts_with(&self.prefix)
    }

    /// Tells whether the call is to fail, and counts it.
    fn fires(&mut self, call: &Call<'_>) -> bool {
        if self.spent || !self.fits(call) {
            return false;
        }
        if self.passes > 0 {
            self.passes -= 1;
            return false;
        }
        self.spent = !self.sticky;
        true
    }

    fn error(&self, call: &Call<'_>) -> StorageError {
        let (verb, subject) = (call.operation.verb(), call.key);
        match self.failure {
            Failure::Kind(kind) => {
                let source = std::io::Error::other(format!("injected: {kind:?}"));
                StorageError { kind, operation: verb, subject: subject.into(), source }
            }
            Failure::Io(kind) => StorageError::new(verb, subject, std::io::Error::new(kind, "injected")),
            Failure::Os(number) => StorageError::new(verb, subject, std::io::Error::from_raw_os_error(number)),
        }
    }
}

/// What every call to a stopped [`FaultStorage`] fails with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped;

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the world was stopped here")
    }
}

impl std::error::Error for Stopped {}

/// Tells whether an error comes, however deep, from a storage that was stopped.
pub fn is_stopped(error: &(dyn std::error::Error + 'static)) -> bool {
    let says_so = |error: &(dyn std::error::Error + 'static)| {
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        inner.is_some_and(|inner| inner.is::<Stopped>())
    };
    std::iter::successors(Some(error), |error| error.source()).any(says_so)
}

impl Hook for Faults {
    type Ticket = Option<StorageError>;

    fn before(&self, call: &Call<'_>) -> Result<Self::Ticket, StorageError> {
        let state = &mut *locked(&self.0);
        *state.calls.entry(call.operation).or_default() += 1;
        if state.stop_at_writes.is_some_and(|limit| state.writes >= limit) {
            return Err(StorageError::new(call.operation.verb(), call.key, std::io::Error::other(Stopped)));
        }
        state.writes += u64::from(call.operation.is_write());
        // every fault counts the call, the first that fires has it
        let firing: Vec<_> = state.faults.iter_mut().filter_map(|f| f.fires(call).then(|| f.clone())).collect();
        let Some(fault) = firing.first() else { return Ok(None) };
        state.fired += 1;
        match fault.after_effect {
            true => Ok(Some(fault.error(call))),
            false => Err(fault.error(call)),
        }
    }

    fn after(&self, _: &Call<'_>, ticket: Self::Ticket, _: Option<u64>) -> Result<(), StorageError> {
        ticket.map_or(Ok(()), Err)
    }
}

impl Hooked<Faults> {
    /// Decorates a storage. Nothing fails until it is told to.
    pub fn new(inner: Arc<dyn Storage>) -> Self {
        Self::with_hook(inner, Faults::default())
    }

    /// Adds a fault.
    pub fn inject(&self, fault: Fault) {
        locked(&self.hook.0).faults.push(fault);
    }

    /// Lets `n` more [writes](Operation::is_write) through and fails every call after them, reads too, with
    /// [`Stopped`]: what is on the medium then is what a crash leaves at that point.
    pub fn stop_after_writes(&self, n: u64) {
        let state = &mut *locked(&self.hook.0);
        state.stop_at_writes = Some(state.writes + n);
    }

    /// Takes all faults away and starts the world again.
    pub fn heal(&self) {
        let state = &mut *locked(&self.hook.0);
        state.faults.clear();
        state.stop_at_writes = None;
    }

    /// Returns how many calls came, those that failed included.
    pub fn calls(&self) -> u64 {
        locked(&self.hook.0).calls.values().sum()
    }

    /// Returns how many calls of one operation came, those that failed included.
    pub fn calls_of(&self, operation: Operation) -> u64 {
        locked(&self.hook.0).calls.get(&operation).copied().unwrap_or_default()
    }

    /// Returns how many [writes](Operation::is_write) came before the world was stopped.
    pub fn writes(&self) -> u64 {
        locked(&self.hook.0).writes
    }

    /// Returns how many calls a fault failed. Those that failed because the world was stopped are not among them.
    pub fn fired(&self) -> u64 {
        locked(&self.hook.0).fired
    }
}

/// A storage that counts calls and bytes.
pub type CountingStorage = Hooked<Counter>;

/// What a [`CountingStorage`] counts with.
#[derive(Debug, Default)]
pub struct Counter(Mutex<Counts>);

/// Calls and bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// How many calls, those that failed included.
    pub calls: u64,
    /// How many bytes were moved by those that did not fail.
    pub bytes: u64,
}

/// Calls and bytes by operation and key.
///
/// Appending counts its bytes under no key, finishing counts all bytes of the object under its key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counts(BTreeMap<(Operation, String), Tally>);

impl Counts {
    /// Returns the tally of one operation for keys that begin with `prefix`.
    pub fn under(&self, operation: Operation, prefix: &str) -> Tally {
        self.sum(|of, key| of == operation && key.starts_with(prefix))
    }

    /// Returns the tally of one operation.
    pub fn of(&self, operation: Operation) -> Tally {
        self.under(operation, "")
    }

    /// Returns the number of calls of all operations.
    pub fn calls(&self) -> u64 {
        self.sum(|_, _| true).calls
    }

    /// Returns the number of objects that were put or finished under `prefix`, or tried to, and of their bytes.
    pub fn stored(&self, prefix: &str) -> Tally {
        self.sum(|of, key| matches!(of, Operation::Put | Operation::Finish) && key.starts_with(prefix))
    }

    /// Returns the number of reads, of whole objects and of ranges, under `prefix`, and of bytes.
    pub fn read(&self, prefix: &str) -> Tally {
        self.sum(|of, key| matches!(of, Operation::Get | Operation::GetRange) && key.starts_with(prefix))
    }

    fn sum(&self, fits: impl Fn(Operation, &str) -> bool) -> Tally {
        self.0.iter().filter(|((operation, key), _)| fits(*operation, key)).fold(Tally::default(), |sum, (_, one)| {
            Tally { calls: sum.calls + one.calls, bytes: sum.bytes + one.bytes }
        })
    }
}

impl Hook for Counter {
    type Ticket = ();

    fn before(&self, _: &Call<'_>) -> Result<(), StorageError> {
        Ok(())
    }

    fn after(&self, call: &Call<'_>, (): (), bytes: Option<u64>) -> Result<(), StorageError> {
        let mut counts = locked(&self.0);
        let tally = counts.0.entry((call.operation, call.key.to_owned())).or_default();
        tally.calls += 1;
        tally.bytes += bytes.unwrap_or_default();
        Ok(())
    }
}

impl Hooked<Counter> {
    /// Decorates a storage.
    pub fn new(inner: Arc<dyn Storage>) -> Self {
        Self::with_hook(inner, Counter::default())
    }

    /// Returns what was counted so far.
    pub fn counts(&self) -> Counts {
        locked(&self.hook.0).clone()
    }

    /// Returns what was counted so far and begins again at zero.
    pub fn take(&self) -> Counts {
        std::mem::take(&mut *locked(&self.hook.0))
    }
}

/// A storage that records what was done to it.
pub type RecordingStorage = Hooked<Recorder>;

/// What a [`RecordingStorage`] records with.
#[derive(Debug, Default)]
pub struct Recorder {
    log: Mutex<Log>,
    keep_content: bool,
}

#[derive(Debug, Default)]
struct Log {
    ticks: u64,
    records: Vec<Record>,
}

impl Log {
    fn tick(&mut self) -> u64 {
        self.ticks += 1;
        self.ticks
    }
}

/// One call, after it returned.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    /// Which one.
    pub operation: Operation,
    /// The object's key or the prefix of a listing; empty where there is neither.
    pub key: String,
    /// How many bytes it moved; `None` where it failed.
    pub bytes: Option<u64>,
    /// The whole object, where one was put or finished and content is kept.
    pub content: Option<Arc<[u8]>>,
    /// When it began, on a clock that ticks with each beginning and end of a call.
    pub began: u64,
    /// When it ended.
    pub ended: u64,
}

impl Record {
    /// Tells whether it was over before the other began. In one thread that is the order of the log.
    pub fn happened_before(&self, other: &Self) -> bool {
        self.ended < other.began
    }

    /// Tells whether it did not fail.
    pub fn succeeded(&self) -> bool {
        self.bytes.is_some()
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} `{}` ", self.operation, self.key)?;
        match self.bytes {
            Some(bytes) => write!(f, "{bytes} bytes"),
            None => f.write_str("failed"),
        }
    }
}

impl Hook for Recorder {
    type Ticket = u64;

    fn before(&self, _: &Call<'_>) -> Result<u64, StorageError> {
        Ok(locked(&self.log).tick())
    }

    fn after(&self, call: &Call<'_>, began: u64, bytes: Option<u64>) -> Result<(), StorageError> {
        let content = call.content.filter(|_| self.keep_content).map(Arc::from);
        let mut log = locked(&self.log);
        let ended = log.tick();
        let key = call.key.to_owned();
        log.records.push(Record { operation: call.operation, key, bytes, content, began, ended });
        Ok(())
    }

    fn keeps_content(&self) -> bool {
        self.keep_content
    }
}

impl Hooked<Recorder> {
    /// Decorates a storage.
    pub fn new(inner: Arc<dyn Storage>) -> Self {
        Self::with_hook(inner, Recorder::default())
    }

    /// Decorates a storage and keeps, in memory, every object that is put or finished, so that
    /// [`crate::crash`] can tell what a loss of power leaves of it.
    pub fn keeping_content(inner: Arc<dyn Storage>) -> Self {
        Self::with_hook(inner, Recorder { keep_content: true, ..Recorder::default() })
    }

    /// Returns the calls so far, in the order in which they ended.
    pub fn log(&self) -> Vec<Record> {
        locked(&self.hook.log).records.clone()
    }

    /// Returns the calls so far and forgets them.
    pub fn take_log(&self) -> Vec<Record> {
        std::mem::take(&mut locked(&self.hook.log).records)
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    /// The least that is a storage.
    #[derive(Debug, Default, Clone)]
    struct Plain(Arc<Mutex<BTreeMap<ObjectKey, Vec<u8>>>>);

    struct PlainWriter(Plain, Vec<u8>);

    fn failed<T>(verb: &'static str, key: &ObjectKey, kind: ErrorKind) -> Result<T, StorageError> {
        Err(StorageError::new(verb, key, kind.into()))
    }

    impl Storage for Plain {
        fn location(&self) -> String {
            "plain".into()
        }

        fn capabilities(&self) -> Capabilities {
            Capabilities::strict(1)
        }

        fn put(&self, key: &ObjectKey, bytes: &[u8]) -> Result<(), StorageError> {
            match self.0.lock().unwrap().insert(key.clone(), bytes.into()) {
                None => Ok(()),
                Some(_) => failed("write", key, ErrorKind::AlreadyExists),
            }
        }

        fn writer(&self) -> Result<Box<dyn ObjectWriter>, StorageError> {
            Ok(Box::new(PlainWriter(self.clone(), Vec::new())))
        }

        fn get(&self, key: &ObjectKey) -> Result<Vec<u8>, StorageError> {
            let found = self.0.lock().unwrap().get(key).cloned();
            found.map_or_else(|| failed("read", key, ErrorKind::NotFound), Ok)
        }

        fn get_range(
            &self,
            key: &ObjectKey,
            offset: u64,
            length: usize,
            buffer: &mut Vec<u8>,
        ) -> Result<(), StorageError> {
            let start = offset as usize;
            buffer.extend_from_slice(&self.get(key)?[start..start + length]);
            Ok(())
        }

        fn size(&self, key: &ObjectKey) -> Result<u64, StorageError> {
            Ok(self.get(key)?.len() as u64)
        }

        fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StorageError> {
            let all = self.0.lock().unwrap();
            let fitting = all.iter().filter(|(key, _)| key.as_str().starts_with(prefix));
            Ok(fitting.map(|(key, b)| ObjectInfo { key: key.clone(), size_bytes: b.len() as u64 }).collect())
        }

        fn delete(&self, key: &ObjectKey) -> Result<(), StorageError> {
            let gone = self.0.lock().unwrap().remove(key);
            gone.map_or_else(|| failed("delete", key, ErrorKind::NotFound), |_| Ok(()))
        }

        fn sync(&self) -> Result<(), StorageError> {
            Ok(())
        }
    }

    impl ObjectWriter for PlainWriter {
        fn append(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
            self.1.extend_from_slice(bytes);
            Ok(())
        }

        fn finish(&mut self, key: &ObjectKey) -> Result<(), StorageError> {
            self.0.put(key, &self.1)
        }
    }

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new(name).unwrap()
    }

    /// Calls every operation once, in the order of `Operation::ALL`, and returns the results.
    fn one_of_each(storage: &dyn Storage) -> Vec<Result<(), StorageError>> {
        let mut results = vec![storage.put(&key("p/a"), b"abc")];
        match storage.writer() {
            Ok(mut writer) => {
                results.push(Ok(()));
                results.push(writer.append(b"12345"));
                results.push(writer.finish(&key("q/b")));
            }
            Err(e) => results.push(Err(e)),
        }
        results.push(storage.get(&key("p/a")).map(drop));
        results.push(storage.get_range(&key("p/a"), 1, 2, &mut Vec::new()));
        results.push(storage.size(&key("p/a")).map(drop));
        results.push(storage.list("p/").map(drop));
        results.push(storage.delete(&key("p/a")));
        results.push(storage.sync());
        results
    }

    #[test]
    fn each_operation_can_be_made_to_fail() {
        for (at, operation) in Operation::ALL.into_iter().enumerate() {
            let storage = FaultStorage::new(Arc::new(Plain::default()));
            storage.inject(Fault::kind(StorageErrorKind::ReadOnly).on(operation));
            let results = one_of_each(&storage);
            let error = results[at].as_ref().unwrap_err();
            assert_eq!(error.kind, StorageErrorKind::ReadOnly, "{operation:?}");
            assert_eq!((storage.fired(), storage.calls_of(operation)), (1, 1));
            assert!(results[..at].iter().all(Result::is_ok));
        }
    }

    #[test]
    fn faults_fire_at_the_call_they_are_for() {
        let storage = FaultStorage::new(Arc::new(Plain::default()));
        let put = |name: &str| storage.put(&key(name), b"").map_err(|e| e.kind);
        storage.inject(Fault::os(28).under("p/").nth(2));
        assert_eq!(
            ["p/1", "q/1", "p/2", "p/2", "p/3"].map(put),
            [Ok(()), Ok(()), Err(StorageErrorKind::NoSpace), Ok(()), Ok(())]
        );
        storage.inject(Fault::io(ErrorKind::TimedOut).on_writes().under("q/").nth(2).sticky());
        assert_eq!(
            ["q/2", "q/3", "p/4", "q/3"].map(put),
            [Ok(()), Err(StorageErrorKind::Transient), Ok(()), Err(StorageErrorKind::Transient)]
        );
        assert!(storage.get(&key("q/2")).is_ok(), "a read is no write");
        assert_eq!((storage.fired(), storage.calls(), storage.writes()), (3, 10, 9));
        storage.heal();
        assert_eq!(put("q/3"), Ok(()));
    }

    #[test]
    fn a_lost_answer_leaves_the_object_there() {
        let storage = FaultStorage::new(Arc::new(Plain::default()));
        storage.inject(Fault::kind(StorageErrorKind::Transient).on(Operation::Finish).after_effect());
        let mut writer = storage.writer().unwrap();
        writer.append(b"x").unwrap();
        assert_eq!(writer.finish(&key("a")).unwrap_err().kind, StorageErrorKind::Transient);
        assert_eq!(storage.get(&key("a")).unwrap(), b"x");
    }

    #[test]
    fn a_stopped_world_keeps_what_was_written_and_answers_no_more() {
        let whole = FaultStorage::new(Arc::new(Plain::default()));
        assert!(one_of_each(&whole).iter().all(Result::is_ok));
        assert_eq!(whole.writes(), 5);
        for n in 0..=whole.writes() {
            let plain = Plain::default();
            let storage = FaultStorage::new(Arc::new(plain.clone()));
            storage.stop_after_writes(n);
            let results = one_of_each(&storage);
            let first_failed = results.iter().position(Result::is_err);
            // put, writer, append, finish, get, get_range, size, list, delete, sync
            assert_eq!(first_failed, [Some(0), Some(1), Some(3), Some(4), Some(9), None][n as usize]);
            let failed = results.iter().skip(first_failed.unwrap_or(results.len()));
            assert!(failed.flat_map(|result| result.as_ref().err()).all(|e| is_stopped(e)));
            assert_eq!(plain.list("").unwrap().len(), [0, 1, 1, 2, 1, 1][n as usize]);
            assert_eq!(storage.writes(), n);
            assert!(is_stopped(&storage.sync().unwrap_err()));
            storage.heal();
            storage.sync().unwrap();
        }
        assert!(!is_stopped(&Plain::default().get(&key("a")).unwrap_err()));
    }

    #[test]
    fn calls_and_bytes_are_counted() {
        let storage = CountingStorage::new(Arc::new(Plain::default()));
        one_of_each(&storage);
        assert!(storage.get(&key("p/none")).is_err());
        let counts = storage.take();
        assert_eq!(counts.calls(), 11);
        assert_eq!(counts.of(Operation::Append), Tally { calls: 1, bytes: 5 });
        assert_eq!(counts.under(Operation::Finish, "q/"), Tally { calls: 1, bytes: 5 });
        assert_eq!(counts.under(Operation::Finish, "p/"), Tally::default());
        assert_eq!(counts.stored(""), Tally { calls: 2, bytes: 8 });
        assert_eq!(counts.read("p/"), Tally { calls: 3, bytes: 5 });
        assert_eq!(counts.under(Operation::List, "p/").calls, 1);
        assert_eq!(storage.counts(), Counts::default());
    }

    #[test]
    fn calls_are_recorded_with_content_in_the_order_in_which_they_end() {
        let storage = RecordingStorage::keeping_content(Arc::new(Plain::default()));
        one_of_each(&storage);
        assert!(storage.delete(&key("p/a")).is_err());
        let log = storage.log();
        let operations: Vec<_> = log.iter().map(|record| record.operation).collect();
        assert_eq!(operations[..10], Operation::ALL);
        assert_eq!(format!("{:?}, {:?}", log[3], log[10]), "Finish `q/b` 5 bytes, Delete `p/a` failed");
        assert!(log[0].happened_before(&log[1]) && !log[1].happened_before(&log[0]));
        assert_eq!(log[3].content.as_deref(), Some(&b"12345"[..]));
        assert_eq!(storage.take_log().len(), 11);
        assert!(storage.log().is_empty());
    }

    #[test]
    fn decorators_go_over_each_other_and_share_state_with_their_clones() {
        let faults = FaultStorage::new(Arc::new(Plain::default()));
        let counting = CountingStorage::new(Arc::new(faults.clone()));
        faults.inject(Fault::kind(StorageErrorKind::Other).on(Operation::Append));
        let mut writer = Arc::new(counting.clone()).writer().unwrap();
        assert!(writer.append(b"abc").is_err());
        assert_eq!(counting.counts().of(Operation::Append), Tally { calls: 1, bytes: 0 });
    }
}
