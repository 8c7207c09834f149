//! Outcomes of sessions, many at once: the snapshots and expiries that stand under `snapshots/`.
//!
//! On a remote medium each of them would cost a request, so catalogues have many of them once more in one object. What this
//! module keeps true:
//! * what is listed under `snapshots/` is what counts. A catalogue only saves reading it, and what it has besides is passed
//!   over;
//! * anything wrong with a catalogue leads to the records themselves;
//! * a catalogue goes only after another one has what is live in it.
//!
//! Catalogues are joined as logarithmic merging does it (O'Neil et al., "The Log-Structured Merge-Tree", 1996): each is more
//! than [`GROWTH`] times as large as those that were joined after it, so of n records there are O(log n) catalogues.

use std::collections::{BTreeMap, HashMap, HashSet};

use lakebed_core::codec::frame::FrameKind;
use lakebed_core::id::{CatalogueId, SessionId};
use lakebed_core::layout;
use lakebed_core::record::catalogue::{CatalogueEntry, decode_catalogue, encode_catalogue};
use lakebed_core::storage::ObjectInfo;
use rayon::prelude::*;

use super::{Repository, Store, parallel};
use crate::error::{Error, Result};

/// So many records are worth being read by several threads where no request is needed for them.
const PARALLEL_MIN: usize = 256;

/// So many records that no catalogue has are joined.
const LOOSE_MIN: usize = 3;

/// No more are joined at once.
const LOOSE_MAX: usize = 4096;

/// A catalogue is taken in by one of which what is there already is at least a part of this size.
const GROWTH: usize = 3;

/// Larger records stay alone: they name thousands of files that could not be read.
const RECORD_MAX: u64 = 64 << 10;

/// A catalogue of so many plain bytes takes in nothing more.
const CATALOGUE_BYTES: usize = 16 << 20;

/// The kinds of records that a session may end with.
const KINDS: [FrameKind; 2] = [FrameKind::Snapshot, FrameKind::Expiry];

/// What stands under a session's key: kind and plain bytes.
pub(crate) type Outcome = (FrameKind, Vec<u8>);

/// A session, and what stands under its key or why that cannot be read.
pub(crate) type Read = (SessionId, Result<Outcome>);

/// Which records catalogues have, as far as that was looked at: what joining goes by.
#[derive(Debug, Default)]
pub(crate) struct Joined {
    listed: HashSet<SessionId>,
    /// Listed, small, and in none of the catalogues that were read.
    loose: Vec<SessionId>,
    read: Vec<Members>,
    unread: Vec<CatalogueId>,
}

/// The sessions of a catalogue that are listed, and whether it has others.
#[derive(Debug)]
struct Members {
    id: CatalogueId,
    sessions: Vec<SessionId>,
    has_dead: bool,
    is_full: bool,
}

impl Joined {
    /// Notes what a catalogue has.
    fn note(&mut self, id: CatalogueId, entries: &[CatalogueEntry]) {
        let sessions: Vec<SessionId> =
            entries.iter().map(|entry| entry.id).filter(|id| self.listed.contains(id)).collect();
        let has_dead = sessions.len() < entries.len();
        let is_full = entries.iter().map(|entry| entry.record.len()).sum::<usize>() > CATALOGUE_BYTES;
        self.read.push(Members { id, sessions, has_dead, is_full });
    }

    /// Returns every session that was listed.
    pub(crate) fn listed(&self) -> &HashSet<SessionId> {
        &self.listed
    }

    /// Takes out the catalogues of which every session is in a larger one: whoever joined them could not delete them.
    fn take_covered(&mut self) -> Vec<CatalogueId> {
        self.read.sort_by_key(|members| std::cmp::Reverse((members.sessions.len(), members.id)));
        let mut covered = Vec::new();
        let mut seen = HashSet::new();
        self.read.retain(|members| {
            let is_covered = !members.sessions.iter().fold(false, |new, id| seen.insert(*id) | new);
            if is_covered {
                covered.push(members.id);
            }
            !is_covered
        });
        covered
    }

    /// Takes out the catalogues that so many loose records are worth being joined with: the smallest, as long as none is
    /// much larger than what is there by then.
    fn take_smallest(&mut self) -> Vec<CatalogueId> {
        // they stand by descending size
        let (mut taken, mut sum) = (Vec::new(), self.loose.len());
        while let Some(members) = self.read.pop_if(|it| !it.is_full && it.sessions.len() <= GROWTH * sum) {
            sum += members.sessions.len();
            taken.push(members.id);
        }
        taken
    }
}

/// Opens a catalogue that this machine has a copy of.
fn copied_catalogue(store: &Store, id: CatalogueId) -> Option<Vec<CatalogueEntry>> {
    let key = layout::catalogue(id);
    let bytes = store.copies()?.get(&key)?;
    open_catalogue(store, id, &bytes).ok()
}

fn open_catalogue(store: &Store, id: CatalogueId, bytes: &[u8]) -> Result<Vec<CatalogueEntry>> {
    let key = layout::catalogue(id);
    let (_, plain) = store.with_scratch(|scratch| {
        store.open_hashed(&key, id.as_bytes(), bytes, &[FrameKind::Catalogue], layout::CATALOGUE, scratch)
    })?;
    decode_catalogue(&plain).map_err(|source| Error::Record { key, source })
}

/// Reads a catalogue as it lies in storage.
///
/// # Errors
/// It is gone, or damaged.
pub(crate) fn read_catalogue(store: &Store, id: CatalogueId) -> Result<Vec<CatalogueEntry>> {
    open_catalogue(store, id, &store.storage().get(&layout::catalogue(id))?)
}

/// Reads catalogues. What is wrong with one is no failure: the records themselves are there.
fn read_catalogues(store: &Store, ids: &[CatalogueId]) -> Vec<Option<Vec<CatalogueEntry>>> {
    parallel::each(store, ids, |&id| {
        let key = layout::catalogue(id);
        let bytes = store.storage().get(&key).ok()?;
        let entries = open_catalogue(store, id, &bytes).ok()?;
        if let Some(copies) = store.copies() {
            copies.keep(&key, &bytes);
        }
        Some(entries)
    })
}

/// Opens the copy that this machine has of an outcome, if it is as long as what is listed: a repair may have put an expiry in
/// the place of a record that was damaged.
fn copied_outcome(store: &Store, id: SessionId, size: u64) -> Option<Outcome> {
    let key = layout::snapshot(id);
    let bytes = store.copies()?.get(&key).filter(|bytes| bytes.len() as u64 == size)?;
    store.open_bytes(&key, &KINDS, &bytes).ok()
}

/// Reads one outcome, which was just listed, and keeps a copy.
fn read_outcome(store: &Store, id: SessionId) -> Result<Outcome> {
    let key = layout::snapshot(id);
    let bytes = store.storage().get(&key)?;
    let outcome = store.open_bytes(&key, &KINDS, &bytes)?;
    if let Some(copies) = store.copies() {
        copies.keep(&key, &bytes);
    }
    Ok(outcome)
}

/// The sessions with an outcome that were listed, with the sizes of their records.
fn sessions_of(objects: &[ObjectInfo]) -> impl Iterator<Item = (SessionId, u64)> {
    objects.iter().filter_map(|object| Some((layout::last_part(&object.key).parse().ok()?, object.size_bytes)))
}

impl Store {
    /// Lists the outcomes of sessions and reads those that are wanted, in as few requests as possible. They come in the
    /// order of the listing.
    ///
    /// # Errors
    /// The listing failed. What is wrong with a single record stands beside it.
    pub(crate) fn outcomes(&self, is_wanted: impl Fn(SessionId) -> bool) -> Result<(Vec<Read>, Joined)> {
        let objects = self.storage().list(layout::SNAPSHOTS)?;
        let wanted: Vec<SessionId> = sessions_of(&objects).map(|(id, _)| id).filter(|id| is_wanted(*id)).collect();
        let listed = sessions_of(&objects).map(|(id, _)| id).collect();
        let mut joined = Joined { listed, ..Joined::default() };
        if !self.storage().capabilities().is_remote {
            let read = |id: SessionId| (id, read_outcome(self, id));
            let read = match wanted.len() {
                PARALLEL_MIN.. => wanted.into_par_iter().map(read).collect(),
                _ => wanted.into_iter().map(read).collect(),
            };
            return Ok((read, joined));
        }
        let mut found: HashMap<SessionId, Outcome> = HashMap::new();
        let outcomes =
            |entries: Vec<CatalogueEntry>| entries.into_iter().map(|entry| (entry.id, (entry.kind, entry.record)));
        for id in self.list_ids::<CatalogueId>(layout::CATALOGUE)? {
            match copied_catalogue(self, id) {
                Some(entries) => {
                    joined.note(id, &entries);
                    found.extend(outcomes(entries));
                }
                None => joined.unread.push(id),
            }
        }
        for (id, size) in sessions_of(&objects).filter(|(id, _)| is_wanted(*id)) {
            if !found.contains_key(&id)
                && let Some(outcome) = copied_outcome(self, id, size)
            {
                found.insert(id, outcome);
            }
        }
        let missing = wanted.iter().filter(|id| !found.contains_key(id)).count();
        if joined.unread.len() < missing {
            let ids = std::mem::take(&mut joined.unread);
            for (id, entries) in ids.iter().zip(read_catalogues(self, &ids)) {
                if let Some(entries) = entries {
                    joined.note(*id, &entries);
                    found.extend(outcomes(entries));
                }
            }
        }
        let in_catalogues: HashSet<SessionId> = joined.read.iter().flat_map(|it| &it.sessions).copied().collect();
        let is_loose =
            |&(id, size): &(SessionId, u64)| size <= RECORD_MAX && is_wanted(id) && !in_catalogues.contains(&id);
        joined.loose = sessions_of(&objects).filter(is_loose).map(|(id, _)| id).collect();
        let missing: Vec<SessionId> = wanted.iter().filter(|id| !found.contains_key(id)).copied().collect();
        let read = parallel::each(self, &missing, |&id| read_outcome(self, id));
        let mut read: HashMap<SessionId, Result<Outcome>> = missing.into_iter().zip(read).collect();
        let outcomes = wanted.into_iter().filter_map(|id| {
            let outcome = found.remove(&id).map(Ok).or_else(|| read.remove(&id))?;
            Some((id, outcome))
        });
        Ok((outcomes.collect(), joined))
    }
}

impl Joined {
    /// Tells whether there is enough to be joined, with one record more that was put since.
    pub(crate) fn is_worth_joining(&self) -> bool {
        self.loose.len() + 1 >= LOOSE_MIN
    }
}

impl Repository {
    /// Joins records that no catalogue has, where there are enough of them, and catalogues that are small beside that. What
    /// there is is looked at now: what was freed since somebody looked before must not come back.
    ///
    /// # Errors
    /// Storage. Nothing depends on it.
    pub(crate) fn join_outcomes(&self) -> Result<()> {
        if !self.store.storage().capabilities().is_remote {
            return Ok(());
        }
        let _ahead = self.store.look_ahead(&[layout::FORGOTTEN, layout::SNAPSHOTS, layout::CATALOGUE])?;
        let forgotten = self.forgotten()?;
        let (read, mut joined) = self.store.outcomes(|id| !forgotten.contains_key(&id))?;
        let unread = std::mem::take(&mut joined.unread);
        for (id, entries) in unread.iter().zip(read_catalogues(&self.store, &unread)) {
            let Some(entries) = entries else { continue };
            joined.note(*id, &entries);
            let had: HashSet<SessionId> = entries.iter().map(|entry| entry.id).collect();
            joined.loose.retain(|id| !had.contains(id));
        }
        if joined.loose.len() < LOOSE_MIN {
            return Ok(());
        }
        // the rest is for the next one
        joined.loose.truncate(LOOSE_MAX);
        let covered = joined.take_covered();
        let taken = joined.take_smallest();
        let mut entries = match self.entries_of(&taken, &joined.listed) {
            // somebody else joins them just now
            Err(Error::Storage(error)) if error.is_not_found() => return Ok(()),
            result => result?,
        };
        let loose: HashSet<SessionId> = joined.loose.iter().copied().collect();
        for (id, outcome) in read {
            // freed since, or damaged: no catalogue needs it
            if let (true, Ok((kind, record))) = (loose.contains(&id), outcome) {
                entries.insert(id, CatalogueEntry { id, kind, record });
            }
        }
        self.put_catalogues(entries, taken.into_iter().chain(covered))?;
        if let Some(copies) = self.store.copies() {
            joined.loose.iter().for_each(|&id| copies.forget(&layout::snapshot(id)));
        }
        Ok(())
    }

    /// Takes what a repair has closed out of catalogues, and out of the copies of this machine.
    ///
    /// # Errors
    /// Storage.
    pub(crate) fn drop_from_catalogues(&self, id: SessionId) -> Result<()> {
        if let Some(copies) = self.store.copies() {
            copies.forget(&layout::snapshot(id));
        }
        self.rewrite_catalogues(|listed| {
            listed.remove(&id);
        })
    }

    /// Writes catalogues anew that have what is gone, and takes away those whose content others have too.
    ///
    /// # Errors
    /// Storage. Nothing depends on it.
    pub(crate) fn clean_catalogues(&self) -> Result<()> {
        self.rewrite_catalogues(|_| {})
    }

    /// Writes catalogues anew that have more than what is listed, of which `leave_out` may take something.
    fn rewrite_catalogues(&self, leave_out: impl FnOnce(&mut HashSet<SessionId>)) -> Result<()> {
        let store = &self.store;
        let ids = store.list_ids::<CatalogueId>(layout::CATALOGUE)?;
        if ids.is_empty() {
            return Ok(());
        }
        let mut listed: HashSet<SessionId> = store.list_ids::<SessionId>(layout::SNAPSHOTS)?.into_iter().collect();
        leave_out(&mut listed);
        let mut joined = Joined { listed, ..Joined::default() };
        for &id in &ids {
            match copied_catalogue(store, id).map_or_else(|| read_catalogue(store, id), Ok) {
                Ok(entries) => joined.note(id, &entries),
                Err(error) if error.keeps_from_looking() => return Err(error),
                // gone meanwhile; a damaged one is left to `repair`
                Err(_) => {}
            }
        }
        let covered = joined.take_covered();
        let stale: Vec<CatalogueId> = joined.read.iter().filter(|members| members.has_dead).map(|it| it.id).collect();
        let entries = match self.entries_of(&stale, &joined.listed) {
            // somebody else joins them just now
            Err(Error::Storage(error)) if error.is_not_found() => return Ok(()),
            result => result?,
        };
        self.put_catalogues(entries, stale.into_iter().chain(covered))
    }

    /// Reads what catalogues have of the sessions that are listed.
    fn entries_of(
        &self,
        ids: &[CatalogueId],
        listed: &HashSet<SessionId>,
    ) -> Result<BTreeMap<SessionId, CatalogueEntry>> {
        let mut all = BTreeMap::new();
        for &id in ids {
            let entries = copied_catalogue(&self.store, id).map_or_else(|| read_catalogue(&self.store, id), Ok)?;
            let live = entries.into_iter().filter(|entry| listed.contains(&entry.id));
            all.extend(live.map(|entry| (entry.id, entry)));
        }
        Ok(all)
    }

    /// Puts entries in catalogues, which are durable before those in whose place they come are deleted.
    fn put_catalogues(
        &self,
        entries: BTreeMap<SessionId, CatalogueEntry>,
        replaced: impl Iterator<Item = CatalogueId>,
    ) -> Result<()> {
        let store = &self.store;
        let mut batch: Vec<CatalogueEntry> = Vec::new();
        let mut bytes = 0;
        for entry in entries.into_values() {
            if bytes > CATALOGUE_BYTES {
                self.put_catalogue(&std::mem::take(&mut batch))?;
                bytes = 0;
            }
            bytes += entry.record.len();
            batch.push(entry);
        }
        if !batch.is_empty() {
            self.put_catalogue(&batch)?;
        }
        store.storage().sync()?;
        for id in replaced {
            let key = layout::catalogue(id);
            self.delete_if_there(&key)?;
            if let Some(copies) = store.copies() {
                copies.forget(&key);
            }
        }
        Ok(())
    }

    fn put_catalogue(&self, entries: &[CatalogueEntry]) -> Result<()> {
        let plain = encode_catalogue(entries);
        let (name, bytes) = self.store.put_hashed(FrameKind::Catalogue, layout::CATALOGUE, &plain, self.random())?;
        if let Some(copies) = self.store.copies() {
            copies.keep(&layout::catalogue(CatalogueId::new(name)), &bytes);
        }
        Ok(())
    }
}
