//! The contract of [`Storage`], as a check that runs against any implementation.
//!
//! Tests run it over ours; `lakebed doctor` runs it over the user's, since a medium may not do what its kind promises.
//! It works below one prefix, which it leaves empty, and disturbs nothing else. It does not panic.

use std::collections::BTreeSet;
use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use lakebed_core::storage::{ObjectKey, Promise, Storage, StorageError, StorageErrorKind};

/// Writers that race for one name.
const RACERS: u8 = 8;
/// Races, since one alone may be decided by who was started first.
const RACES: usize = 4;
/// Longer than any step in which an implementation may hand a long object on, and no multiple of one.
const LONG_OBJECT_BYTES: usize = (12 << 20) + 4321;
/// The size of an object that is abandoned. Unusual, so that it is recognised among the objects of others.
const ABANDONED_BYTES: usize = 71_993;

/// One rule that storage must keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Clause {
    /// The place in which to check is free.
    FreePlace,
    /// What was put is read back, byte for byte, with its size.
    ReadBack,
    /// A part of an object is read exactly, or not at all.
    Range,
    /// What is not there is reported as that and as nothing else.
    Absence,
    /// A name that is taken is refused, and its first content stays.
    NoOverwrite,
    /// Of several writers of one name exactly one wins, with its whole content.
    OneWinner,
    /// A long object is put in one piece when it is finished.
    Writer,
    /// A long object that is abandoned leaves nothing.
    Abandoned,
    /// A listing is complete, sorted, and holds what its prefix says.
    Listing,
    /// What was deleted is gone, and its name is free.
    Deletion,
    /// What was put can be made durable.
    Sync,
    /// What is held back is given up once, and taken again.
    Reserve,
    /// Sweeping takes nothing from the living.
    Sweep,
}

impl fmt::Display for Clause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FreePlace => "the place in which to check is free",
            Self::ReadBack => "what was put is read back",
            Self::Range => "a part of an object is read exactly or not at all",
            Self::Absence => "what is not there is reported as that",
            Self::NoOverwrite => "a name that is taken is refused",
            Self::OneWinner => "of several writers of one name exactly one wins",
            Self::Writer => "a long object is put in one piece",
            Self::Abandoned => "an abandoned object leaves nothing",
            Self::Listing => "a listing is complete, sorted, and holds what its prefix says",
            Self::Deletion => "what was deleted is gone",
            Self::Sync => "what was put can be made durable",
            Self::Reserve => "what is held back is given up once and taken again",
            Self::Sweep => "sweeping takes nothing from the living",
        })
    }
}

/// Storage that does not keep the contract, and how that showed.
#[derive(Debug, thiserror::Error)]
#[error("Storage breaks the rule that {clause}: expected {expected}, found {found}")]
#[non_exhaustive]
pub struct ContractViolation {
    /// The rule.
    pub clause: Clause,
    /// What should have happened.
    pub expected: String,
    /// What happened.
    pub found: String,
    /// What storage said, where it failed.
    #[source]
    pub source: Option<StorageError>,
}

/// Checks that a storage keeps the contract, below a prefix of its own in `contract/`.
///
/// It writes some 16 MiB in about 25 objects and deletes them, also when a rule is broken. The reserve is given up for a
/// moment and taken again.
///
/// # Errors
/// The first rule that was found broken.
pub fn check(storage: &dyn Storage) -> Result<(), ContractViolation> {
    let tag = RandomState::new().build_hasher().finish();
    check_below(storage, &format!("contract/{}-{tag:016x}", std::process::id()))
}

/// Checks as [`check`] does, below a place that is given as a key without a `/` at its end.
///
/// # Errors
/// The first rule that was found broken. [`Clause::FreePlace`] where something lies below that place, or it is no valid
/// key; nothing is touched then.
pub fn check_below(storage: &dyn Storage, place: &str) -> Result<(), ContractViolation> {
    let suite = Suite { storage, place, touched: Mutex::default() };
    suite.place_is_free()?;
    let checked = suite.clauses();
    let cleaned = suite.clean_up();
    checked.and(cleaned)
}

type Checked<T = ()> = Result<T, ContractViolation>;

struct Suite<'a> {
    storage: &'a dyn Storage,
    place: &'a str,
    /// The keys that were used, so that cleaning up needs no listing, which may be what is broken.
    touched: Mutex<BTreeSet<ObjectKey>>,
}

impl Suite<'_> {
    fn clauses(&self) -> Checked {
        self.absence()?;
        self.read_back()?;
        self.ranges()?;
        self.no_overwrite()?;
        self.one_winner()?;
        self.long_objects()?;
        self.abandoned()?;
        self.listing()?;
        self.deletion()?;
        self.sync()?;
        self.reserve()?;
        self.sweep()
    }

    fn place_is_free(&self) -> Checked {
        let clause = Clause::FreePlace;
        if ObjectKey::new(self.place).is_none() {
            return Err(broken(clause, "a valid key", format!("`{}`", self.place)));
        }
        expect_equal(clause, format!("below `{}`", self.place), &self.names(clause, "")?, &BTreeSet::new())
    }

    /// Deletes what can be deleted, and then reports what could not.
    fn clean_up(&self) -> Checked {
        let clause = Clause::Deletion;
        let touched = std::mem::take(&mut *self.touched.lock().unwrap_or_else(PoisonError::into_inner));
        let delete = |key: ObjectKey| match self.storage.delete(&key) {
            Err(error) if error.is_not_found() => Ok(()),
            result => succeeds(clause, format!("`{key}` to be deleted"), result),
        };
        let outcomes: Vec<Checked> = touched.into_iter().map(delete).collect();
        outcomes.into_iter().collect::<Checked>()?;
        if self.storage.capabilities().consistent_listing == Promise::Broken {
            return Ok(());
        }
        let place = format!("below `{}` after all was deleted", self.place);
        expect_equal(clause, place, &self.names(clause, "")?, &BTreeSet::new())
    }

    fn absence(&self) -> Checked {
        let clause = Clause::Absence;
        self.is_absent(clause, "absent")?;
        // A listing of nothing is empty; that is not an error.
        expect_equal(clause, "in an empty place".to_owned(), &self.names(clause, "absent/")?, &BTreeSet::new())?;
        // What only stands before the names of others is no object.
        self.put(clause, "folder/object", b"content")?;
        self.is_absent(clause, "folder")
    }

    fn read_back(&self) -> Checked {
        let clause = Clause::ReadBack;
        let objects = [("small", pattern(1, 1000)), ("empty", Vec::new()), ("several-mib", pattern(2, (3 << 20) + 17))];
        for (name, content) in &objects {
            self.put(clause, name, content)?;
        }
        objects.iter().try_for_each(|(name, content)| self.holds(clause, name, content))
    }

    fn ranges(&self) -> Checked {
        let clause = Clause::Range;
        let content = pattern(3, 1000);
        self.put(clause, "ranges", &content)?;
        let key = self.key(clause, "ranges")?;
        // what is in the buffer stays there, whether it has room for more or not
        for (before, room) in [(&b""[..], 0), (b"", 5000), (b"what was read before", 0), (b"and room", 5000)] {
            let filled = || {
                let mut buffer = Vec::with_capacity(before.len() + room);
                buffer.extend_from_slice(before);
                buffer
            };
            for (offset, length) in [(0, 1000), (0, 1), (10, 20), (999, 1), (500, 0), (0, 0), (1000, 0)] {
                let mut buffer = filled();
                let read = self.storage.get_range(&key, offset as u64, length, &mut buffer);
                succeeds(clause, format!("{length} bytes at {offset} of 1000 to be read"), read)?;
                let expected = [before, content.get(offset..offset + length).unwrap_or_default()].concat();
                expect_bytes(clause, &format!("{length} bytes at {offset}"), &buffer, &expected)?;
            }
            for (offset, length) in [(0, 1001), (990, 11), (1000, 1), (1001, 0), (5000, 10), (u64::MAX, 2)] {
                let mut buffer = filled();
                let read = self.storage.get_range(&key, offset, length, &mut buffer);
                let what = format!("{length} bytes at {offset} of 1000");
                fails(clause, StorageErrorKind::TooShort, &what, read)?;
                expect_bytes(clause, &format!("a buffer after {what} could not be read"), &buffer, before)?;
            }
        }
        Ok(())
    }

    fn no_overwrite(&self) -> Checked {
        let clause = Clause::NoOverwrite;
        let content = pattern(4, 2000);
        self.put(clause, "taken", &content)?;
        let key = self.key(clause, "taken")?;
        for other in [&b""[..], b"other", &content] {
            let taken = StorageErrorKind::AlreadyExists;
            fails(clause, taken, "a second put of one name", self.storage.put(&key, other))?;
            self.holds(clause, "taken", &content)?;
            fails(clause, taken, "a writer finished under a name that exists", self.write(&key, other))?;
            self.holds(clause, "taken", &content)?;
        }
        Ok(())
    }

    fn one_winner(&self) -> Checked {
        if self.storage.capabilities().put_if_absent == Promise::Broken {
            return Ok(());
        }
        (0..RACES).try_for_each(|race| self.race(&format!("race/{race}")))
    }

    fn race(&self, name: &str) -> Checked {
        let clause = Clause::OneWinner;
        let key = &self.key(clause, name)?;
        let go = &AtomicBool::new(false);
        let run = |racer: u8| {
            let content = pattern(100 + racer, 20_000 + usize::from(racer));
            while !go.load(Ordering::Acquire) {
                thread::yield_now();
            }
            if racer.is_multiple_of(2) { self.storage.put(key, &content) } else { self.write(key, &content) }
        };
        let outcomes = thread::scope(|scope| {
            let start = |racer| (racer, thread::Builder::new().spawn_scoped(scope, move || run(racer)));
            let racers: Vec<_> = (0..RACERS).map(start).collect();
            go.store(true, Ordering::Release);
            // Where the system starts fewer threads, those that run still race.
            let started = racers.into_iter().filter_map(|(racer, thread)| Some((racer, thread.ok()?)));
            started.map(|(racer, thread)| (racer, thread.join())).collect::<Vec<_>>()
        });
        let mut winners = Vec::new();
        for (racer, outcome) in outcomes {
            match outcome {
                Ok(Ok(())) => winners.push(racer),
                Ok(lost) => fails(clause, StorageErrorKind::AlreadyExists, "a put that lost the race", lost)?,
                Err(_) => return Err(broken(clause, "a put that ends", "a panic")),
            }
        }
        match winners[..] {
            [winner] => self.holds(clause, name, &pattern(100 + winner, 20_000 + usize::from(winner))),
            _ => Err(broken(clause, "one winner", format!("{} winners", winners.len()))),
        }
    }

    fn long_objects(&self) -> Checked {
        let clause = Clause::Writer;
        let content = pattern(5, LONG_OBJECT_BYTES);
        let mut writer = succeeds(clause, "a writer".to_owned(), self.storage.writer())?;
        let (odd, rest) = content.split_at(4321);
        for part in [odd, b""].into_iter().chain(rest.chunks(1 << 20)) {
            succeeds(clause, "an append".to_owned(), writer.append(part))?;
        }
        let key = self.key(clause, "long")?;
        self.is_absent(clause, "long")?;
        succeeds(clause, "a finish".to_owned(), writer.finish(&key))?;
        self.holds(clause, "long", &content)?;
        let again = self.key(clause, "long-again")?;
        if writer.append(b"more").is_ok() || writer.finish(&again).is_ok() {
            return Err(broken(clause, "a finished writer to refuse everything", "success"));
        }
        self.is_absent(clause, "long-again")?;
        self.holds(clause, "long", &content)?;

        let key = self.key(clause, "long-empty")?;
        let mut writer = succeeds(clause, "a writer".to_owned(), self.storage.writer())?;
        succeeds(clause, "a finish with nothing appended".to_owned(), writer.finish(&key))?;
        self.holds(clause, "long-empty", b"")
    }

    fn abandoned(&self) -> Checked {
        let clause = Clause::Abandoned;
        let of_that_size = || -> Checked<BTreeSet<String>> {
            let listed = succeeds(clause, "a listing of everything".to_owned(), self.storage.list(""))?;
            let abandoned = listed.into_iter().filter(|info| info.size_bytes == ABANDONED_BYTES as u64);
            Ok(abandoned.map(|info| info.key.to_string()).collect())
        };
        let before = of_that_size()?;
        let mut writer = succeeds(clause, "a writer".to_owned(), self.storage.writer())?;
        succeeds(clause, "an append".to_owned(), writer.append(&pattern(6, ABANDONED_BYTES)))?;
        let while_written = of_that_size()?;
        expect_equal(clause, "before a long object is finished".to_owned(), &while_written, &before)?;
        drop(writer);
        expect_equal(clause, "after a long object was dropped".to_owned(), &of_that_size()?, &before)
    }

    fn listing(&self) -> Checked {
        let clause = Clause::Listing;
        // In this order, in which `-` and `.` come before `/`, a walk folder by folder does not find them.
        let names = ["a-b/x", "a.c", "a/1", "a/10", "a/2", "a/b/c/d", "ab/1", "b"];
        for name in names.iter().rev() {
            self.put(clause, &format!("list/{name}"), name.as_bytes())?;
        }
        if self.storage.capabilities().consistent_listing == Promise::Broken {
            return Ok(());
        }
        for prefix in ["", "a/", "a-b/", "a/b/", "a/b/c/", "nothing/", "a/nothing/"] {
            let matching = names.iter().filter(|name| name.starts_with(prefix));
            let expected = matching.map(|name| (format!("{}/list/{name}", self.place), name.len() as u64)).collect();
            let whole = format!("{}/list/{prefix}", self.place);
            let found = self.list_in_order(&whole)?;
            expect_equal(clause, format!("under `{whole}`"), &found, &expected)?;
        }
        // Others may write at the same time, so of the listing of everything only our part is known.
        let mut everything = self.list_in_order("")?;
        let ours = format!("{}/list/", self.place);
        everything.retain(|(name, _)| name.starts_with(&ours));
        expect_equal(clause, "of ours under the empty prefix".to_owned(), &everything, &self.list_in_order(&ours)?)
    }

    fn list_in_order(&self, prefix: &str) -> Checked<Vec<(String, u64)>> {
        let clause = Clause::Listing;
        let listed = succeeds(clause, format!("a listing of `{prefix}`"), self.storage.list(prefix))?;
        if let Some(pair) = listed.array_windows().find(|[one, next]| one.key >= next.key) {
            let found = format!("`{}` before `{}`", pair[0].key, pair[1].key);
            return Err(broken(clause, "each key once and in order", found));
        }
        Ok(listed.into_iter().map(|info| (info.key.to_string(), info.size_bytes)).collect())
    }

    fn deletion(&self) -> Checked {
        let clause = Clause::Deletion;
        let (first, second) = (pattern(7, 3000), pattern(8, 300));
        let key = self.key(clause, "deleted")?;
        self.put(clause, "deleted", &first)?;
        self.put(clause, "deleted-not", &first)?;
        // A read before makes sure that nothing kept open or in memory outlives the object.
        self.holds(clause, "deleted", &first)?;
        succeeds(clause, "an object to be deleted".to_owned(), self.storage.delete(&key))?;
        self.is_absent(clause, "deleted")?;
        if self.storage.capabilities().consistent_listing != Promise::Broken
            && self.names(clause, "")?.contains("deleted")
        {
            return Err(broken(clause, "no deleted object in the listing", "one"));
        }
        self.holds(clause, "deleted-not", &first)?;
        self.put(clause, "deleted", &second)?;
        self.holds(clause, "deleted", &second)
    }

    fn sync(&self) -> Checked {
        let clause = Clause::Sync;
        for what in ["a sync", "a sync with nothing to do"] {
            succeeds(clause, what.to_owned(), self.storage.sync())?;
        }
        self.put(clause, "synced/after", b"content")?;
        succeeds(clause, "a sync of one object".to_owned(), self.storage.sync())?;
        self.holds(clause, "synced/after", b"content")
    }

    /// Ends with the reserve taken, as it should be found, also where a rule is broken.
    fn reserve(&self) -> Checked {
        let clause = Clause::Reserve;
        let restore = || succeeds(clause, "the reserve to be taken".to_owned(), self.storage.restore_reserve());
        let release = || succeeds(clause, "the reserve to be given up".to_owned(), self.storage.release_reserve());
        restore()?;
        self.put(clause, "held-back", b"content")?;
        let released_twice = release().and_then(|_| release());
        restore()?;
        restore()?;
        if released_twice? {
            return Err(broken(clause, "nothing to give up a second time", "something"));
        }
        self.holds(clause, "held-back", b"content")
    }

    fn sweep(&self) -> Checked {
        let clause = Clause::Sweep;
        let mut writer = succeeds(clause, "a writer".to_owned(), self.storage.writer())?;
        succeeds(clause, "an append".to_owned(), writer.append(b"begun before "))?;
        self.put(clause, "unswept", b"content")?;
        for _ in 0..2 {
            succeeds(clause, "a sweep".to_owned(), self.storage.sweep())?;
        }
        succeeds(clause, "an append after a sweep".to_owned(), writer.append(b"and after it"))?;
        let key = self.key(clause, "begun-before")?;
        succeeds(clause, "a finish after a sweep".to_owned(), writer.finish(&key))?;
        self.holds(clause, "begun-before", b"begun before and after it")?;
        self.holds(clause, "unswept", b"content")
    }

    fn key(&self, clause: Clause, name: &str) -> Checked<ObjectKey> {
        let whole = format!("{}/{name}", self.place);
        let Some(key) = ObjectKey::new(whole.clone()) else {
            return Err(broken(clause, "a valid key", format!("`{whole}`")));
        };
        self.touched.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone());
        Ok(key)
    }

    fn put(&self, clause: Clause, name: &str, content: &[u8]) -> Checked {
        let put = self.storage.put(&self.key(clause, name)?, content);
        succeeds(clause, format!("`{name}` ({} bytes) to be put", content.len()), put)
    }

    fn write(&self, key: &ObjectKey, content: &[u8]) -> Result<(), StorageError> {
        let mut writer = self.storage.writer()?;
        writer.append(content)?;
        writer.finish(key)
    }

    /// Checks that an object has this content, whichever way it is asked for.
    fn holds(&self, clause: Clause, name: &str, content: &[u8]) -> Checked {
        let key = self.key(clause, name)?;
        let size_bytes = succeeds(clause, format!("the size of `{name}`"), self.storage.size(&key))?;
        if size_bytes != content.len() as u64 {
            let expected = format!("`{name}` to have {} bytes", content.len());
            return Err(broken(clause, expected, format!("{size_bytes}")));
        }
        let found = succeeds(clause, format!("`{name}` to be read"), self.storage.get(&key))?;
        expect_bytes(clause, &format!("`{name}`"), &found, content)?;
        let mut buffer = Vec::new();
        let read = self.storage.get_range(&key, 0, content.len(), &mut buffer);
        succeeds(clause, format!("`{name}` to be read as a range"), read)?;
        expect_bytes(clause, &format!("`{name}` read as a range"), &buffer, content)
    }

    fn is_absent(&self, clause: Clause, name: &str) -> Checked {
        let key = self.key(clause, name)?;
        let absent = StorageErrorKind::NotFound;
        fails(clause, absent, &format!("a get of `{name}`"), self.storage.get(&key))?;
        let mut buffer = Vec::new();
        for length in [0, 1] {
            let read = self.storage.get_range(&key, 0, length, &mut buffer);
            fails(clause, absent, &format!("a get of {length} bytes of `{name}`"), read)?;
        }
        fails(clause, absent, &format!("the size of `{name}`"), self.storage.size(&key))?;
        match self.storage.delete(&key) {
            // some mediums call it a success
            Ok(()) => Ok(()),
            deleted => fails(clause, absent, &format!("a deletion of `{name}`"), deleted),
        }
    }

    /// Lists the names below the place and a prefix in it.
    fn names(&self, clause: Clause, prefix: &str) -> Checked<BTreeSet<String>> {
        let own = format!("{}/", self.place);
        let listed = self.storage.list(&format!("{own}{prefix}"));
        let listed = succeeds(clause, format!("a listing of `{own}{prefix}`"), listed)?;
        let name = |key: &ObjectKey| key.as_str().strip_prefix(&own).map(str::to_owned);
        let names = listed.iter().map(|info| {
            name(&info.key)
                .ok_or_else(|| broken(clause, format!("only names below `{own}`"), format!("`{}`", info.key)))
        });
        names.collect()
    }
}

fn broken(clause: Clause, expected: impl Into<String>, found: impl Into<String>) -> ContractViolation {
    ContractViolation { clause, expected: expected.into(), found: found.into(), source: None }
}

fn succeeds<T>(clause: Clause, expected: String, result: Result<T, StorageError>) -> Checked<T> {
    result.map_err(|error| ContractViolation { clause, expected, found: "a failure".to_owned(), source: Some(error) })
}

fn fails<T>(clause: Clause, kind: StorageErrorKind, what: &str, result: Result<T, StorageError>) -> Checked {
    let expected = format!("{what} to fail with {kind:?}");
    match result {
        Err(error) if error.kind == kind => Ok(()),
        Err(error) => {
            let found = format!("{:?}", error.kind);
            Err(ContractViolation { clause, expected, found, source: Some(error) })
        }
        Ok(_) => Err(broken(clause, expected, "success")),
    }
}

fn expect_equal<T: PartialEq + fmt::Debug>(clause: Clause, place: String, found: &T, expected: &T) -> Checked {
    if found == expected {
        return Ok(());
    }
    Err(broken(clause, format!("{expected:?} {place}"), format!("{found:?}")))
}

fn expect_bytes(clause: Clause, what: &str, found: &[u8], expected: &[u8]) -> Checked {
    if found == expected {
        return Ok(());
    }
    let differs_at = found.iter().zip(expected).position(|(one, other)| one != other);
    let found = match differs_at {
        Some(offset) => format!("{} bytes that differ at {offset}", found.len()),
        None => format!("{} bytes", found.len()),
    };
    Err(broken(clause, format!("{what} to be the {} bytes that were put", expected.len()), found))
}

/// Returns bytes without a short period, so that a shifted or repeated part shows. They differ for each seed.
fn pattern(seed: u8, length: usize) -> Vec<u8> {
    // The multiplier is the one of PCG and Knuth's MMIX.
    let mut state = u64::from(seed) + 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..length).map(|_| next()).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use lakebed_core::storage::{Capabilities, ObjectInfo, ObjectWriter};

    use super::super::{MemoryStorage, ReadOnlyStorage};
    use super::*;

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Fault {
        Overwrites,
        AbsentIsOther,
        ShortRange,
        ZeroFilledRange,
        ListingLosesOne,
        ListingUnsorted,
        ListingAsTextPrefix,
        ListingOfNothingFails,
        AbandonedAppears,
        DeletesNothing,
        WriterLosesAnAppend,
        AnyoneWins,
        SyncFails,
        TruncatesLarge,
        FinishesTwice,
        ReleasesForEver,
        SweepsTheLiving,
    }

    #[derive(Debug, Clone)]
    struct Faulty {
        inner: MemoryStorage,
        fault: Fault,
        overwriting: Arc<Mutex<()>>,
        swept: Arc<AtomicBool>,
    }

    fn failure(kind: std::io::ErrorKind) -> StorageError {
        StorageError::new("read", "faulty", kind.into())
    }

    impl Storage for Faulty {
        fn location(&self) -> String {
            "faulty".to_owned()
        }
        fn capabilities(&self) -> Capabilities {
            self.inner.capabilities()
        }
        fn put(&self, key: &ObjectKey, bytes: &[u8]) -> Result<(), StorageError> {
            let _one_at_a_time = self.overwriting.lock().unwrap();
            let races = key.as_str().contains("/race/");
            match self.fault {
                Fault::Overwrites => drop(self.inner.delete(key)),
                Fault::AnyoneWins if races => drop(self.inner.delete(key)),
                Fault::TruncatesLarge if bytes.len() > 1 << 20 => return self.inner.put(key, &bytes[..1 << 20]),
                _ => {}
            }
            self.inner.put(key, bytes)
        }
        fn writer(&self) -> Result<Box<dyn ObjectWriter>, StorageError> {
            Ok(Box::new(FaultyWriter { storage: self.clone(), bytes: Vec::new(), appends: 0, finished: false }))
        }
        fn get(&self, key: &ObjectKey) -> Result<Vec<u8>, StorageError> {
            match self.inner.get(key) {
                Err(_) if self.fault == Fault::AbsentIsOther => Err(failure(std::io::ErrorKind::Other)),
                result => result,
            }
        }
        fn get_range(
            &self,
            key: &ObjectKey,
            offset: u64,
            length: usize,
            out: &mut Vec<u8>,
        ) -> Result<(), StorageError> {
            let size_bytes = self.inner.size(key)?;
            let length_there = length.min(usize::try_from(size_bytes.saturating_sub(offset)).unwrap());
            match self.fault {
                Fault::ShortRange => self.inner.get_range(key, offset.min(size_bytes), length_there, out),
                Fault::ZeroFilledRange => {
                    let expected = out.len() + length;
                    self.inner.get_range(key, offset.min(size_bytes), length_there, out)?;
                    out.resize(expected, 0);
                    Ok(())
                }
                _ => self.inner.get_range(key, offset, length, out),
            }
        }
        fn size(&self, key: &ObjectKey) -> Result<u64, StorageError> {
            self.inner.size(key)
        }
        fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StorageError> {
            let mut listed = self.inner.list(prefix)?;
            match self.fault {
                Fault::ListingLosesOne if prefix.contains("/list/") => drop(listed.pop()),
                Fault::ListingUnsorted => listed.reverse(),
                Fault::ListingAsTextPrefix => {
                    listed = self.inner.list("")?;
                    listed.retain(|info| info.key.as_str().starts_with(prefix.trim_end_matches('/')));
                }
                Fault::ListingOfNothingFails if listed.is_empty() && prefix.contains("absent") => {
                    return Err(failure(std::io::ErrorKind::NotFound));
                }
                _ => {}
            }
            Ok(listed)
        }
        fn delete(&self, key: &ObjectKey) -> Result<(), StorageError> {
            if self.fault == Fault::DeletesNothing { self.inner.size(key).map(drop) } else { self.inner.delete(key) }
        }
        fn sync(&self) -> Result<(), StorageError> {
            if self.fault == Fault::SyncFails { Err(failure(std::io::ErrorKind::Other)) } else { Ok(()) }
        }
        fn release_reserve(&self) -> Result<bool, StorageError> {
            Ok(self.fault == Fault::ReleasesForEver)
        }
        fn sweep(&self) -> Result<u64, StorageError> {
            self.swept.store(true, Ordering::Relaxed);
            Ok(0)
        }
    }

    struct FaultyWriter {
        storage: Faulty,
        bytes: Vec<u8>,
        appends: usize,
        finished: bool,
    }

    impl ObjectWriter for FaultyWriter {
        fn append(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
            self.appends += 1;
            if self.storage.fault == Fault::SweepsTheLiving && self.storage.swept.swap(false, Ordering::Relaxed) {
                self.bytes.clear();
            }
            if self.finished && self.storage.fault != Fault::FinishesTwice {
                return Err(failure(std::io::ErrorKind::Other));
            }
            if self.storage.fault != Fault::WriterLosesAnAppend || self.appends != 4 {
                self.bytes.extend_from_slice(bytes);
            }
            Ok(())
        }
        fn finish(&mut self, key: &ObjectKey) -> Result<(), StorageError> {
            if self.finished && self.storage.fault != Fault::FinishesTwice {
                return Err(failure(std::io::ErrorKind::Other));
            }
            self.finished = true;
            self.storage.put(key, &self.bytes)
        }
    }

    impl Drop for FaultyWriter {
        fn drop(&mut self) {
            if self.storage.fault == Fault::AbandonedAppears && !self.finished {
                drop(self.storage.inner.put(&ObjectKey::new("partial").unwrap(), &self.bytes));
            }
        }
    }

    #[test]
    fn each_broken_rule_is_found() {
        let cases = [
            (Fault::Overwrites, Clause::NoOverwrite),
            (Fault::AbsentIsOther, Clause::Absence),
            (Fault::ShortRange, Clause::Range),
            (Fault::ZeroFilledRange, Clause::Range),
            (Fault::ListingLosesOne, Clause::Listing),
            (Fault::ListingUnsorted, Clause::Listing),
            (Fault::ListingAsTextPrefix, Clause::Listing),
            (Fault::ListingOfNothingFails, Clause::Absence),
            (Fault::AbandonedAppears, Clause::Abandoned),
            (Fault::DeletesNothing, Clause::Deletion),
            (Fault::WriterLosesAnAppend, Clause::Writer),
            (Fault::AnyoneWins, Clause::OneWinner),
            (Fault::SyncFails, Clause::Sync),
            (Fault::TruncatesLarge, Clause::ReadBack),
            (Fault::FinishesTwice, Clause::Writer),
            (Fault::ReleasesForEver, Clause::Reserve),
            (Fault::SweepsTheLiving, Clause::Sweep),
        ];
        for (fault, clause) in cases {
            let storage =
                Faulty { inner: MemoryStorage::new(), fault, overwriting: Arc::default(), swept: Arc::default() };
            let violation = check(&storage).expect_err(&format!("{fault:?} was not found"));
            assert_eq!(violation.clause, clause, "{fault:?}: {violation}");
            let left = storage.inner.list("contract/").unwrap().len();
            assert!(left == 0 || fault == Fault::DeletesNothing, "{fault:?} left {left} objects");
        }
    }

    #[test]
    fn a_place_in_use_is_left_alone() {
        let storage = MemoryStorage::new();
        let key = ObjectKey::new("packs/aa/1").unwrap();
        storage.put(&key, b"content").unwrap();
        assert_eq!(check_below(&storage, "packs").unwrap_err().clause, Clause::FreePlace);
        assert_eq!(check_below(&storage, "No/Key").unwrap_err().clause, Clause::FreePlace);
        assert_eq!(storage.get(&key).unwrap(), b"content");
        check_below(&storage, "contract/here").unwrap();
    }

    #[test]
    fn a_violation_reads_well() {
        let storage = ReadOnlyStorage::new(Arc::new(MemoryStorage::new()));
        let violation = check_below(&storage, "contract/here").unwrap_err();
        assert_eq!(
            violation.to_string(),
            "Storage breaks the rule that what is not there is reported as that: \
             expected a deletion of `absent` to fail with NotFound, found ReadOnly"
        );
        assert_eq!(violation.source.unwrap().to_string(), "Cannot delete `contract/here/absent`");
    }
}
