//! What is left of a repository when the power goes: every state that a medium may be in at any moment of a recorded run.
//!
//! The medium is as weak as the contract of [`Storage`] allows it to be, and in one respect weaker:
//! * an object that is still being put when the power goes is not seen; what lies in some temporary file has no name;
//! * an object that was put, and a deletion, are certain once a [`Storage::sync`] has returned that began after them.
//!   Until then each of them may have reached the medium or not, whatever became of the others;
//! * an object that was put and not synced may also be there with half of its bytes. No implementation may do that. The
//!   engine has not reported anything yet that needs such an object, so it must at least lose nothing by it.
//!
//! Of the many combinations of what reached the medium these are tried: all, none, all but one, only one, and all with
//! one of them torn. A killed process leaves the first of them.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use lakebed_core::storage::{ObjectKey, Storage};

use crate::storage::{Operation, Record};

/// Objects by name. Copies share the bytes.
pub type Objects = BTreeMap<ObjectKey, Arc<[u8]>>;

/// Reads everything that a storage holds.
///
/// # Panics
/// It cannot be read.
pub fn objects_of(storage: &dyn Storage) -> Objects {
    let read = |key: &ObjectKey| storage.get(key).unwrap_or_else(|e| panic!("read {key}: {e}"));
    let listed = storage.list("").expect("a complete listing");
    listed.into_iter().map(|info| (info.key.clone(), read(&info.key).into())).collect()
}

/// Something that was done to the medium.
#[derive(Debug, Clone)]
enum Change {
    Put(ObjectKey, Arc<[u8]>),
    Delete(ObjectKey),
    Sync,
}

impl Change {
    fn of(record: &Record) -> Option<Self> {
        let key = || ObjectKey::new(record.key.as_str()).expect("a key that was recorded");
        match record.operation {
            _ if !record.succeeded() => None,
            Operation::Put | Operation::Finish => {
                Some(Self::Put(key(), record.content.clone().expect("a log with content")))
            }
            Operation::Delete => Some(Self::Delete(key())),
            Operation::Sync => Some(Self::Sync),
            _ => None,
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put(key, bytes) => write!(f, "put {key} ({} bytes)", bytes.len()),
            Self::Delete(key) => write!(f, "delete {key}"),
            Self::Sync => f.write_str("sync"),
        }
    }
}

#[derive(Debug)]
struct Event {
    /// Its place in the log.
    at: usize,
    began: u64,
    ended: u64,
    change: Change,
}

/// A run as the medium saw it.
#[derive(Debug)]
pub struct History {
    base: Objects,
    events: Vec<Event>,
    /// How many calls the log has.
    calls: usize,
}

/// What became of the changes that were not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fate {
    /// All reached the medium: as when the process is killed and the machine lives on.
    AllKept,
    /// None did.
    AllLost,
    /// All but this one did.
    Lost(usize),
    /// Only this one did.
    Kept(usize),
    /// All did, this one with half of its bytes.
    Torn(usize),
}

/// A time at which the crash may have happened, in calls of the log: not before the first `earliest` calls had returned,
/// and before call number `latest`, counted from 0, returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// So many calls had returned at least.
    pub earliest: usize,
    /// So many calls had returned at most.
    pub latest: usize,
}

/// What a crash has left.
#[derive(Debug, Clone)]
pub struct CrashState {
    /// How many changes had been made, at the first moment at which a crash leaves this.
    pub changes: usize,
    /// What became of those that were not synced then.
    pub fate: Fate,
    /// Every time at which a crash leaves this.
    pub windows: Vec<Window>,
    /// The changes that are there, by number.
    applied: Vec<usize>,
}

impl CrashState {
    fn torn(&self) -> Option<usize> {
        if let Fate::Torn(number) = self.fate { Some(number) } else { None }
    }
}

impl History {
    /// Takes what was there before, all of it durable, and the log of a recording that kept content.
    ///
    /// # Panics
    /// The log was recorded without content.
    pub fn new(base: Objects, log: &[Record]) -> Self {
        let event = |(at, record): (usize, &Record)| {
            let change = Change::of(record)?;
            Some(Event { at, began: record.began, ended: record.ended, change })
        };
        Self { base, events: log.iter().enumerate().filter_map(event).collect(), calls: log.len() }
    }

    /// Returns how many changes were made, syncs included.
    pub fn changes(&self) -> usize {
        self.events.len()
    }

    /// Returns every state that a crash may leave, each once, in the order of the first crash that leaves it.
    pub fn states(&self) -> Vec<CrashState> {
        let mut states: Vec<CrashState> = Vec::new();
        let mut known: HashMap<(Vec<usize>, Option<usize>), usize> = HashMap::new();
        // changes that are certain, and those that are not, in the order in which they were made
        let (mut durable, mut pending) = (Vec::new(), Vec::new());
        for changes in 0..=self.events.len() {
            if let Some(last) = changes.checked_sub(1) {
                self.advance(last, &mut durable, &mut pending);
            }
            let window = self.window(changes);
            for fate in self.fates(&pending) {
                let applied = self.last_of_each_name(applied(&durable, &pending, fate));
                let state = CrashState { changes, fate, windows: vec![window], applied };
                if state.torn().is_some_and(|torn| !state.applied.contains(&torn)) {
                    // it was deleted since
                    continue;
                }
                let key = (state.applied.clone(), state.torn());
                match known.get(&key) {
                    Some(&at) if states[at].windows.last() == Some(&window) => {}
                    Some(&at) => states[at].windows.push(window),
                    None => {
                        known.insert(key, states.len());
                        states.push(state);
                    }
                }
            }
        }
        states
    }

    /// Makes one more change: a sync makes certain what had returned before it began.
    fn advance(&self, number: usize, durable: &mut Vec<usize>, pending: &mut Vec<usize>) {
        let event = &self.events[number];
        if !matches!(event.change, Change::Sync) {
            pending.push(number);
            return;
        }
        let (certain, still) = pending.iter().partition(|&&before| self.events[before].ended < event.began);
        durable.extend::<Vec<usize>>(certain);
        *pending = still;
    }

    fn window(&self, changes: usize) -> Window {
        let earliest = changes.checked_sub(1).map_or(0, |last| self.events[last].at + 1);
        Window { earliest, latest: self.events.get(changes).map_or(self.calls, |next| next.at) }
    }

    fn fates(&self, pending: &[usize]) -> Vec<Fate> {
        let mut fates = vec![Fate::AllKept, Fate::AllLost];
        for &number in pending {
            fates.extend([Fate::Lost(number), Fate::Kept(number)]);
            if matches!(self.events[number].change, Change::Put(..)) {
                fates.push(Fate::Torn(number));
            }
        }
        fates
    }

    /// Leaves out the changes that others have overtaken, so that equal states have equal changes.
    fn last_of_each_name(&self, applied: Vec<usize>) -> Vec<usize> {
        let mut last: BTreeMap<&ObjectKey, usize> = BTreeMap::new();
        for number in applied {
            match &self.events[number].change {
                Change::Put(key, _) => drop(last.insert(key, number)),
                Change::Delete(key) if self.base.contains_key(key) => drop(last.insert(key, number)),
                // what it was to delete did not come into being, or only since
                Change::Delete(key) => drop(last.remove(key)),
                Change::Sync => {}
            }
        }
        last.into_values().collect()
    }

    /// Returns the objects that are there after a crash.
    pub fn objects(&self, state: &CrashState) -> Objects {
        let mut objects = self.base.clone();
        for &number in &state.applied {
            match &self.events[number].change {
                Change::Put(key, bytes) => {
                    let torn = state.torn() == Some(number);
                    let bytes = if torn { bytes[..bytes.len() / 2].into() } else { bytes.clone() };
                    objects.insert(key.clone(), bytes);
                }
                Change::Delete(key) => drop(objects.remove(key)),
                Change::Sync => {}
            }
        }
        objects
    }

    /// Returns the name of the object that has only half of its bytes.
    pub fn torn_key(&self, state: &CrashState) -> Option<&ObjectKey> {
        match &self.events[state.torn()?].change {
            Change::Put(key, _) => Some(key),
            _ => None,
        }
    }

    /// Tells in words what happened, for whoever has to find out why it was not survived.
    pub fn describe(&self, state: &CrashState) -> String {
        let name = |number: usize| &self.events[number].change;
        let after = match state.changes.checked_sub(1) {
            None => "before anything was changed".to_owned(),
            Some(last) => format!("after change {} of {}, {}", state.changes, self.events.len(), name(last)),
        };
        match state.fate {
            Fate::AllKept => format!("{after}: all is there"),
            Fate::AllLost => format!("{after}: what was not synced is lost"),
            Fate::Lost(number) => format!("{after}: lost is `{}`", name(number)),
            Fate::Kept(number) => format!("{after}: of what was not synced only `{}` is there", name(number)),
            Fate::Torn(number) => format!("{after}: torn is `{}`", name(number)),
        }
    }
}

/// Returns the changes that are there, in the order in which they were made.
fn applied(durable: &[usize], pending: &[usize], fate: Fate) -> Vec<usize> {
    let stays = |number: usize| match fate {
        Fate::AllKept | Fate::Torn(_) => true,
        Fate::AllLost => false,
        Fate::Lost(lost) => number != lost,
        Fate::Kept(kept) => number == kept,
    };
    durable.iter().copied().chain(pending.iter().copied().filter(|&number| stays(number))).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::Operation::{Delete, Finish, Get, Put, Sync};
    use super::*;

    /// A log of calls that follow each other.
    fn log(calls: &[(Operation, &str)]) -> Vec<Record> {
        let record = |(at, &(operation, key)): (usize, &(Operation, &str))| Record {
            operation,
            key: key.into(),
            bytes: Some(0),
            content: Some(key.as_bytes().into()),
            began: at as u64 * 2 + 1,
            ended: at as u64 * 2 + 2,
        };
        calls.iter().enumerate().map(record).collect()
    }

    fn base(names: &[&str]) -> Objects {
        names.iter().map(|&name| (ObjectKey::new(name).unwrap(), name.as_bytes().into())).collect()
    }

    /// The names that are there, a torn one with a question mark.
    fn names(history: &History, state: &CrashState) -> String {
        let objects = history.objects(state);
        let shown = objects.iter().map(|(key, bytes)| {
            let whole = &**bytes == key.as_str().as_bytes();
            format!("{key}{}", if whole { "" } else { "?" })
        });
        shown.collect::<Vec<_>>().join(" ")
    }

    fn all(history: &History) -> BTreeSet<String> {
        let states = history.states();
        let names: BTreeSet<_> = states.iter().map(|state| names(history, state)).collect();
        assert_eq!(names.len(), states.len(), "each state comes once");
        names
    }

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn what_was_not_synced_may_be_there_or_not_one_by_one() {
        let log = log(&[(Put, "a"), (Finish, "b"), (Delete, "old"), (Sync, ""), (Get, "a"), (Put, "c")]);
        let history = History::new(base(&["old"]), &log);
        assert_eq!(history.changes(), 5);
        let one_put = ["old", "a old", "a? old"];
        let two_put = ["a b old", "b old", "a? b old", "a b? old"];
        let one_deleted = ["a b", "b", "a", "", "a? b", "a b?"];
        let after_sync = ["a b c", "a b c?"];
        assert_eq!(all(&history), set(&[&one_put[..], &two_put, &one_deleted, &after_sync].concat()));
    }

    #[test]
    fn a_sync_makes_certain_what_had_returned_before_it_began() {
        let mut log = log(&[(Put, "a"), (Put, "b"), (Sync, "")]);
        // the second put returns while the sync is under way
        log[2].began = log[1].began;
        let history = History::new(base(&[]), &log);
        let states = history.states();
        let last = states.iter().filter(|state| state.windows.contains(&Window { earliest: 3, latest: 3 }));
        let last: BTreeSet<_> = last.map(|state| names(&history, state)).collect();
        assert_eq!(last, set(&["a", "a b", "a b?"]));
    }

    #[test]
    fn what_failed_changed_nothing() {
        let mut log = log(&[(Put, "a"), (Sync, "")]);
        log[0].bytes = None;
        assert_eq!(all(&History::new(base(&["old"]), &log)), set(&["old"]));
    }

    #[test]
    fn a_state_knows_when_a_crash_leaves_it() {
        let history = History::new(base(&[]), &log(&[(Get, "a"), (Put, "a"), (Get, "a"), (Delete, "a"), (Sync, "")]));
        let states = history.states();
        let window = |earliest, latest| Window { earliest, latest };
        // nothing was put yet; the put is lost; it was deleted; that is certain
        assert_eq!(states[0].windows, [window(0, 1), window(2, 3), window(4, 4), window(5, 5)]);
        assert_eq!(history.describe(&states[0]), "before anything was changed: all is there");
        // it is torn, and the deletion is lost
        assert_eq!(names(&history, &states[2]), "a?");
        assert_eq!(states[2].windows, [window(2, 3)]);
        assert_eq!(history.describe(&states[2]), "after change 1 of 3, put a (1 bytes): torn is `put a (1 bytes)`");
        assert_eq!(states.len(), 3);
    }
}
