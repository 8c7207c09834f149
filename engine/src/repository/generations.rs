//! Generations: what prunes have claimed, condemned and not finished yet.

use std::collections::{BTreeMap, HashSet};
use std::sync::PoisonError;

use lakebed_core::id::PackId;
use lakebed_core::layout::{self, GcObject};
use lakebed_core::process::Fate;
use lakebed_core::record::gc::{Awaited, Claim, Condemnation, Done};
use lakebed_core::storage::{ObjectInfo, ObjectKey};

use super::Repository;
use super::parallel::each;
use crate::error::{Error, Result};
use crate::storage::Survey;

/// So many listings are compared until two in a row are equal.
const LISTINGS: usize = 8;

/// What storage has of one generation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Generation {
    pub(crate) claimed: bool,
    /// Numbers of its lists of condemned packs.
    pub(crate) condemned: Vec<u32>,
    pub(crate) awaited: bool,
    pub(crate) done: bool,
}

impl Generation {
    /// Something was condemned in it and is not deleted yet.
    pub(crate) fn is_unfinished(&self) -> bool {
        !self.condemned.is_empty()
    }
}

/// Returns the newest generation in a listing; 0 where there is none.
pub(super) fn newest(listed: &[ObjectInfo]) -> u64 {
    listed.iter().filter_map(|object| layout::parse_gc(&object.key)).map(|(number, _)| number).max().unwrap_or_default()
}

impl Repository {
    /// Returns every generation that has left anything, by number.
    pub(crate) fn generations(&self) -> Result<BTreeMap<u64, Generation>> {
        Ok(Self::parse_generations(self.list_settled(layout::GC)?))
    }

    fn parse_generations(listed: Vec<ObjectInfo>) -> BTreeMap<u64, Generation> {
        let mut all: BTreeMap<u64, Generation> = BTreeMap::new();
        for object in listed {
            let Some((number, what)) = layout::parse_gc(&object.key) else { continue };
            let generation = all.entry(number).or_default();
            match what {
                GcObject::Claim => generation.claimed = true,
                GcObject::Condemnation(list) => generation.condemned.push(list),
                GcObject::Awaited => generation.awaited = true,
                GcObject::Done => generation.done = true,
            }
        }
        all
    }

    /// Lists until two listings in a row say the same: one alone may have been cut off, and what rests on it is whether
    /// something may be deleted. One after the other: at the same moment both may be.
    pub(crate) fn list_settled(&self, prefix: &'static str) -> Result<Vec<ObjectInfo>> {
        let mut before = self.store.storage().list(prefix)?;
        for _ in 1..LISTINGS {
            let now = self.store.storage().list(prefix)?;
            if now == before {
                return Ok(now);
            }
            before = now;
        }
        Err(Error::Busy { what: "what prunes and writers say of themselves" })
    }

    /// Returns the newest generation that a prune has claimed; 0 where none has.
    pub(crate) fn generation(&self) -> Result<u64> {
        Ok(newest(&self.store.storage().list(layout::GC)?))
    }

    /// Returns the newest generation that this process knows: for the first who asks the one that was seen when the
    /// repository was opened, where that was looked up with something else.
    pub(crate) fn known_generation(&self) -> Result<u64> {
        let seen = self.generation.lock().unwrap_or_else(PoisonError::into_inner).take();
        seen.map_or_else(|| self.generation(), Ok)
    }

    /// Tells whether a generation that was just claimed is the newest and was not used before. What shows that one was
    /// used is its done mark, which stays until a later generation has its own.
    pub(crate) fn is_newest(&self, generation: u64) -> Result<bool> {
        let is_done = match self.store.storage().size(&layout::done(generation)) {
            Err(error) if error.is_not_found() => false,
            result => result.map(|_| true)?,
        };
        Ok(!is_done && self.generations()?.range(generation..).all(|(number, _)| *number == generation))
    }

    /// Returns every pack that is condemned and may still be there. It never becomes good again.
    pub(crate) fn condemned_packs(&self) -> Result<HashSet<PackId>> {
        self.condemned_of(self.generations()?)
    }

    fn condemned_of(&self, generations: BTreeMap<u64, Generation>) -> Result<HashSet<PackId>> {
        let mut packs = HashSet::new();
        for (number, generation) in generations {
            packs.extend(self.condemned_in(number, &generation.condemned)?);
        }
        Ok(packs)
    }

    /// Returns every condemned pack, and a look at the listings of prefixes that was taken after their lists were read: a list
    /// that goes after that had all its packs named by removal segments only later. The listing of the lists is confirmed by
    /// the same look, or else they are listed until two are equal, and the look is taken again.
    pub(crate) fn condemned_packs_then(&self, prefixes: &[&str]) -> Result<(HashSet<PackId>, Survey)> {
        let all: Vec<&str> = prefixes.iter().copied().chain([layout::GC]).collect();
        let first = self.store.storage().list(layout::GC)?;
        let condemned = self.condemned_of(Self::parse_generations(first.clone()))?;
        let survey = self.store.look_ahead(&all)?;
        if self.store.storage().list(layout::GC)? == first {
            return Ok((condemned, survey));
        }
        drop(survey);
        let condemned = self.condemned_packs()?;
        Ok((condemned, self.store.look_ahead(prefixes)?))
    }

    /// Returns the packs in the given lists of a generation.
    pub(crate) fn condemned_in(&self, generation: u64, lists: &[u32]) -> Result<Vec<PackId>> {
        let mut packs = Vec::new();
        for &list in lists {
            let read = self.store.read_record::<Condemnation>(&layout::condemnation(generation, list));
            // a list goes when its packs are gone
            packs.extend(if_there(read)?.into_iter().flat_map(|list| list.packs));
        }
        Ok(packs)
    }

    /// Reads who claimed a generation; `None` where nobody can tell. Then whoever needs it takes the generation over,
    /// which is always safe.
    pub(crate) fn read_claim(&self, generation: u64) -> Result<Option<Claim>> {
        if_readable(self.store.read_record(&layout::claim(generation)))
    }

    /// Tells whether the prune that claimed a generation is not certainly still at it. If it is all the same, two do the
    /// same work, and no harm.
    pub(crate) fn prune_is_over(&self, generation: u64) -> Result<bool> {
        match self.read_claim(generation)? {
            Some(claim) => {
                Ok(self.processes().fate(&claim.process) != Fate::Alive || self.run_has_ended(claim.session)?)
            }
            None => Ok(true),
        }
    }

    /// Reads whom a generation waits for; `None` where nobody can tell. Then the sessions are listed anew: any listing
    /// that is made after packs were condemned will do.
    pub(crate) fn read_awaited(&self, generation: u64) -> Result<Option<Awaited>> {
        if_readable(self.store.read_record(&layout::awaited(generation)))
    }

    /// Reads the done mark of a generation; `None` where nobody can tell what it says.
    pub(crate) fn read_done(&self, generation: u64) -> Result<Option<Done>> {
        if_readable(self.store.read_record(&layout::done(generation)))
    }

    /// Deletes an object that may be gone already. Where deleting is not allowed that is an error.
    pub(crate) fn delete_if_there(&self, key: &ObjectKey) -> Result<bool> {
        match self.store.storage().delete(key) {
            Ok(()) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Deletes objects, in whatever order, and tells of each in theirs whether it was there.
    pub(crate) fn delete_those_there(&self, keys: Vec<ObjectKey>) -> Vec<Result<bool>> {
        each(&self.store, &keys, |key| self.delete_if_there(key))
    }
}

fn if_there<T>(read: Result<T>) -> Result<Option<T>> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(Error::Storage(error)) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Takes a record that is damaged for one that is not there.
fn if_readable<T>(read: Result<T>) -> Result<Option<T>> {
    match read {
        Err(Error::Damaged { .. } | Error::Record { .. }) => Ok(None),
        read => if_there(read),
    }
}
