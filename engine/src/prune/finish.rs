//! Finishing a generation: wait, look again, copy what is still needed, remove, delete.
//!
//! Everything here may be done again, by this prune or another one, from the beginning. Nothing is taken from memory that
//! was published by somebody else meanwhile: condemned packs, segments and snapshots are listed once more.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use lakebed_core::id::{PackId, SessionId, SnapshotId};
use lakebed_core::layout;
use lakebed_core::monitor::{Monitor, Phase, Progress, Silent};
use lakebed_core::pack::{PackDirectory, PackInfo, Removal};
use lakebed_core::protocol::PruneStep;
use lakebed_core::record::RECORD_VERSION;
use lakebed_core::record::gc::{Awaited, Done};
use lakebed_core::storage::{ObjectKey, StorageErrorKind};

use super::apply::Prune;
use super::copy::{Copier, Source};
use super::inventory::{Listed, Living, Segments, Visitor};
use super::mark::{Home, Marks};
use super::wait::Waiting;
use super::{Unfinished, compact};
use crate::error::{Error, Result};
use crate::index_rebuild::read_directory;
use crate::repository::Repository;
use crate::repository::parallel::{AT_ONCE, each};

/// Packs are copied out of so many bytes at a time before they are deleted: what a prune needs beside what it frees.
const BATCH_BYTES: u64 = 512 << 20;
/// No more packs than this are copied out of, or removed, at a time.
const BATCH_PACKS: usize = 256;

/// Finishes generations, one after the other.
pub(super) struct Finisher<'p, 'a> {
    prune: &'p mut Prune<'a>,
    session: SessionId,
    waiting: Waiting<'a>,
    deadline_ns: u64,
    marks: Marks,
    /// Snapshots that were written off.
    vanished: BTreeSet<SnapshotId>,
}

/// Condemned packs of a generation that are still there and in which something may be needed.
struct Condemned {
    /// Of every pack what is needed is known: time was not over before that.
    all_known: bool,
    /// Something in them has no home elsewhere; those with the least of that first.
    needed: Vec<Needed>,
    /// Nobody can say what they hold.
    unreadable: Vec<(PackId, u64)>,
}

/// What is needed of a condemned pack and has no home elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    Nothing,
    /// So many plain bytes.
    Bytes(u64),
    /// Time was over before that was known.
    Unknown,
}

/// A condemned pack of which something has to be copied.
#[derive(Debug, Clone, Copy)]
struct Needed {
    id: PackId,
    size_bytes: u64,
    /// Plain bytes of what has to be copied, about as many as it takes.
    needed_bytes: u64,
}

/// Finds a home for what is needed: a pack that is there and that nobody has condemned.
struct Homes<'m> {
    listed: &'m Listed,
    condemned: &'m HashSet<PackId>,
    marks: &'m mut Marks,
}

impl Visitor for Homes<'_> {
    fn restart(&mut self) {
        self.marks.reset_homes();
    }

    fn pack(&mut self, pack: PackInfo) -> Result<()> {
        if self.listed.get(&pack.id) == Some(&pack.size_bytes) && !self.condemned.contains(&pack.id) {
            self.marks.found_all(&pack.directory, Home::Found);
        }
        Ok(())
    }
}

/// Finds what segments say of packs that do not say it themselves.
struct Described<'p> {
    packs: &'p [(PackId, u64)],
    found: Vec<PackDirectory>,
}

impl Visitor for Described<'_> {
    fn restart(&mut self) {
        self.found.clear();
    }

    fn pack(&mut self, pack: PackInfo) -> Result<()> {
        if self.packs.iter().any(|(id, _)| *id == pack.id) {
            self.found.push(pack.directory);
        }
        Ok(())
    }
}

impl<'p, 'a> Finisher<'p, 'a> {
    pub(super) fn new(
        prune: &'p mut Prune<'a>,
        session: SessionId,
        marks: Marks,
        vanished: BTreeSet<SnapshotId>,
    ) -> Self {
        let (repository, options) = (prune.repository, prune.options);
        let waiting = Waiting::new(repository, options, prune.monitor, session);
        let time_ns = options.max_time.map_or(u64::MAX, |time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        let deadline_ns = repository.clock().monotonic_ns().saturating_add(time_ns);
        Self { prune, session, waiting, deadline_ns, marks, vanished }
    }

    fn repository(&self) -> &'a Repository {
        self.prune.repository
    }

    fn monitor(&self) -> &'a dyn Monitor {
        self.prune.monitor
    }

    /// Finishes a generation as far as it can be done now, unless somebody else finishes it first.
    pub(super) fn finish(&mut self, generation: u64) -> Result<()> {
        match self.work_off(generation) {
            Err(Error::CondemnationLost { .. }) if self.is_finished(generation)? => {
                self.prune.report.finished_by_others.push(generation);
                Ok(())
            }
            result => result,
        }
    }

    /// Tells whether somebody has put the done mark of a generation. It goes only when a later one has its own.
    fn is_finished(&self, generation: u64) -> Result<bool> {
        let generations = self.repository().generations()?;
        Ok(match generations.get(&generation) {
            Some(it) => it.done,
            None => generations.range(generation..).any(|(_, later)| later.done),
        })
    }

    fn work_off(&mut self, generation: u64) -> Result<()> {
        let awaited = self.list_sessions(generation)?;
        self.monitor().step(PruneStep::AwaitSessions.into());
        let running = self.waiting.wait_for(awaited.sessions)?;
        self.prune.report.sessions_expired.append(&mut self.waiting.expired);
        if !running.is_empty() {
            self.prune.report.unfinished.get_or_insert(Unfinished::Waiting(running));
            return Ok(());
        }
        let gone: BTreeSet<SnapshotId> = awaited.snapshots.into_iter().collect();
        let living = self.list_snapshots_again(&gone)?;
        if !self.free(generation, &awaited.lists)? {
            self.prune.report.unfinished.get_or_insert(Unfinished::OutOfTime);
            return Ok(());
        }
        // beside a prune that lists snapshots they stay: it could miss one that goes, and those that were built upon it
        let is_alone =
            !self.repository().generations()?.iter().any(|(other, it)| *other != generation && it.is_unfinished());
        let gone = if is_alone { gone } else { BTreeSet::new() };
        self.delete_snapshots(&gone)?;
        self.mark_done(generation, &awaited.lists, &gone, &living)
    }

    /// Lists the sessions, unless somebody has done it for this generation.
    fn list_sessions(&self, generation: u64) -> Result<Awaited> {
        self.monitor().step(PruneStep::ListSessions.into());
        let repository = self.repository();
        if let Some(awaited) = repository.read_awaited(generation)? {
            return Ok(awaited);
        }
        // which lists there are is read before the sessions are listed: whoever registers after that knows them
        let lists = repository.generations()?.remove(&generation).unwrap_or_default().condemned;
        // condemned by whomever: whoever had chosen one of them before is among the sessions that are listed now, or has ended
        let condemned = repository.forgotten()?.into_iter().filter(|(_, condemned)| *condemned).map(|(id, _)| id);
        let snapshots: Vec<SnapshotId> = condemned.collect();
        let awaited = Awaited {
            version: RECORD_VERSION,
            generation,
            time: repository.clock().now(),
            lists,
            sessions: repository.registered_sessions()?,
            snapshots,
            unknown: Default::default(),
        };
        match repository.store().put_record(&layout::awaited(generation), &awaited, repository.random()) {
            Err(Error::Storage(error)) if error.kind == StorageErrorKind::AlreadyExists => {
                // one that is damaged stands in the way; what was listed just now is as good
                Ok(repository.read_awaited(generation)?.unwrap_or(awaited))
            }
            result => {
                result?;
                repository.store().storage().sync()?;
                Ok(awaited)
            }
        }
    }

    /// Marks what all snapshots need but those that are gone, and returns the snapshots.
    fn list_snapshots_again(&mut self, gone: &BTreeSet<SnapshotId>) -> Result<Living> {
        self.monitor().step(PruneStep::ListSnapshotsAgain.into());
        let repository = self.repository();
        let mut gone = gone.clone();
        loop {
            let living = Living::list(repository, &gone)?;
            if !self.marks.are_within(&living.snapshots) {
                self.marks = Marks::default();
            }
            let Prune { reader, pool, monitor, .. } = &*self.prune;
            match self.marks.add_snapshots(&living.snapshots, reader, pool, *monitor) {
                Ok(()) => return Ok(living),
                Err(error) if error.is_missing() => {
                    // a node is nowhere: another prune has freed it with a snapshot that it condemned since. Then every
                    // writer that had built upon that one has ended, and the next listing has what those committed
                    let freed = self.freed_since(&living)?;
                    if freed.is_empty() {
                        return Err(error);
                    }
                    gone.extend(freed);
                    self.marks = Marks::default();
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Returns the snapshots that others have condemned since and of which something is nowhere any more.
    fn freed_since(&self, living: &Living) -> Result<Vec<SnapshotId>> {
        let Prune { repository, reader, pool, monitor, .. } = &*self.prune;
        let mut freed = Vec::new();
        for (id, condemned) in repository.forgotten()? {
            let Some(snapshot) = living.snapshots.get(&id).filter(|_| condemned) else { continue };
            let alone = BTreeMap::from([(id, snapshot.clone())]);
            match Marks::default().add_snapshots(&alone, reader, pool, *monitor) {
                Err(error) if error.is_missing() => freed.push(id),
                result => result?,
            }
        }
        Ok(freed)
    }

    /// Copies, removes and deletes, batch by batch; those in which nothing is needed go first, so that a full disk gets
    /// room. Returns whether everything is gone; where time was over before, what is gone stays gone.
    fn free(&mut self, generation: u64, lists: &[u32]) -> Result<bool> {
        let repository = self.repository();
        let packs = repository.condemned_in(generation, lists)?;
        if packs.is_empty() {
            return Ok(true);
        }
        // what is condemned is read after what this generation has condemned was published: of two prunes that each
        // find a chunk in a pack of the other, at least one then knows it
        let mut condemned = repository.condemned_packs()?;
        // what this one has condemned is known without any listing
        condemned.extend(&packs);
        let listed = repository.store().list_packs()?;
        let mut homes = Homes { listed: &listed, condemned: &condemned, marks: &mut self.marks };
        Segments::stream(repository, &mut homes)?;
        // what lies in two places is read below, by the index: it must know at least as much as the segments did
        self.prune.reader.index().fold_new(repository.store(), &Silent)?;
        let there = packs.iter().filter_map(|id| listed.get(id));
        let total =
            there.fold(Progress::default(), |sum, size| Progress { entries: sum.entries + 1, bytes: sum.bytes + size });
        self.monitor().phase(Phase::Repack, Some(total));
        let found = loop {
            let found = self.remove_dead(generation, lists, &packs, &listed, &condemned)?;
            if !self.copy_needed(generation, lists, &found.needed)? {
                return Ok(false);
            }
            if found.all_known {
                break found;
            }
            // what was read is known, and there is time for more
            if self.is_out_of_time() {
                return Ok(false);
            }
        };
        if let Some((pack, _)) = found.unreadable.first()
            && self.marks.without_home() > 0
        {
            // repairing moves it aside, and tells what is lost with it
            return Err(read_directory(repository.store(), *pack, listed[pack])
                .err()
                .unwrap_or(Error::Busy { what: "the packs" }));
        }
        for batch in found.unreadable.chunks(BATCH_PACKS) {
            self.remove(generation, lists, batch)?;
        }
        Ok(true)
    }

    /// Copies what is needed of packs, removes and deletes them, batch by batch. Returns whether there was time for all.
    fn copy_needed(&mut self, generation: u64, lists: &[u32], mut needed: &[Needed]) -> Result<bool> {
        let mut most = BATCH_PACKS;
        while !needed.is_empty() {
            if self.is_out_of_time() {
                return Ok(false);
            }
            let (batch, rest) = needed.split_at(batch_len(needed).min(most));
            match self.copy_live(batch) {
                // what fitted is kept; fewer at a time may fit whole, and make room for more
                Err(Error::Storage(error)) if error.kind == StorageErrorKind::NoSpace && batch.len() > 1 => {
                    most = batch.len() / 2;
                    continue;
                }
                result => result?,
            }
            let packs: Vec<(PackId, u64)> = batch.iter().map(|it| (it.id, it.size_bytes)).collect();
            self.remove(generation, lists, &packs)?;
            needed = rest;
            most = (2 * most).min(BATCH_PACKS);
        }
        Ok(true)
    }

    fn is_out_of_time(&self) -> bool {
        self.repository().clock().monotonic_ns() >= self.deadline_ns
    }

    /// Removes the packs in which nothing is needed, or what is needed was read elsewhere, and returns the others. Where there
    /// is something to copy, half of the time that is left is for that, so that each prune copies what it has read.
    fn remove_dead(
        &mut self,
        generation: u64,
        lists: &[u32],
        packs: &[PackId],
        listed: &Listed,
        condemned: &HashSet<PackId>,
    ) -> Result<Condemned> {
        let now_ns = self.repository().clock().monotonic_ns();
        let (half_ns, deadline_ns) =
            (now_ns.saturating_add(self.deadline_ns.saturating_sub(now_ns) / 2), self.deadline_ns);
        let read_until = |found: &Condemned| if found.needed.is_empty() { deadline_ns } else { half_ns };
        let mut found = Condemned { all_known: true, needed: Vec::new(), unreadable: Vec::new() };
        let mut dead = Vec::new();
        let there: Vec<(PackId, u64)> = packs.iter().filter_map(|id| Some((*id, *listed.get(id)?))).collect();
        for together in there.chunks(AT_ONCE) {
            if self.monitor().is_cancelled() {
                return Err(Error::Interrupted);
            }
            for (&(id, size), directory) in together.iter().zip(self.read_directories(together)) {
                match directory {
                    Ok(info) => match self.need(&info.directory, condemned, read_until(&found))? {
                        Need::Nothing => dead.push((id, size)),
                        Need::Bytes(needed_bytes) => found.needed.push(Needed { id, size_bytes: size, needed_bytes }),
                        Need::Unknown => found.all_known = false,
                    },
                    // another prune has taken it over and finished with it
                    Err(Error::Storage(error)) if error.is_not_found() => {}
                    Err(_) => found.unreadable.push((id, size)),
                }
            }
            // reading elsewhere may take long: what is known by then is not lost
            if dead.len() >= BATCH_PACKS {
                self.remove(generation, lists, &std::mem::take(&mut dead))?;
            }
        }
        self.remove(generation, lists, &dead)?;
        if !found.unreadable.is_empty() {
            // nothing can be copied out of them, but what only they have keeps them from being removed
            let mut described = Described { packs: &found.unreadable, found: Vec::new() };
            Segments::stream(self.repository(), &mut described)?;
            for directory in described.found {
                found.all_known &= self.need(&directory, condemned, read_until(&found))? != Need::Unknown;
            }
        }
        // on a full disk the first copies must fit into little
        found.needed.sort_by_key(|it| (it.needed_bytes, it.id));
        Ok(found)
    }

    fn read_directories(&self, packs: &[(PackId, u64)]) -> Vec<Result<PackInfo>> {
        let store = self.repository().store();
        each(store, packs, |&(id, size)| read_directory(store, id, size))
    }

    /// Tells what is needed of a condemned pack.
    ///
    /// What should lie elsewhere as well is read there first: bits may have rotted, and then this pack has the only copy.
    fn need(&mut self, directory: &PackDirectory, condemned: &HashSet<PackId>, read_until_ns: u64) -> Result<Need> {
        let mut bytes = None;
        let mut rotten = 0u64;
        let mut is_known = true;
        for blob in directory.frames.iter().flat_map(|frame| &frame.blobs) {
            if self.marks.home(&blob.id) == Some(Home::Found) {
                is_known = self.repository().clock().monotonic_ns() < read_until_ns;
                if !is_known {
                    break;
                }
                if self.prune.reader.is_readable_outside(blob.id, directory.kind, condemned)? {
                    self.marks.found(&blob.id, Home::Read);
                } else {
                    self.marks.lost(&blob.id);
                    rotten += 1;
                }
            }
            if self.marks.home(&blob.id).is_some_and(|home| home <= Home::Condemned) {
                *bytes.get_or_insert(0) += u64::from(blob.length);
            }
        }
        if rotten > 0 {
            self.monitor().warn(&format!(
                "{rotten} chunks or tree nodes cannot be read from packs that stay, and are kept from one that goes; \
                 `lakebed repair --read-data` takes damaged packs out"
            ));
        }
        Ok(if is_known { bytes.map_or(Need::Nothing, Need::Bytes) } else { Need::Unknown })
    }

    fn copy_live(&mut self, batch: &[Needed]) -> Result<()> {
        self.monitor().step(PruneStep::CopyLive.into());
        let mut sources = Vec::new();
        let packs: Vec<(PackId, u64)> = batch.iter().map(|it| (it.id, it.size_bytes)).collect();
        for directory in self.read_directories(&packs) {
            let info = match directory {
                // another prune has taken it over and finished with it
                Err(Error::Storage(error)) if error.is_not_found() => continue,
                result => result?,
            };
            sources.push(Source { id: info.id, directory: info.directory });
        }
        let Prune { repository, reader, pool, options, monitor, .. } = &*self.prune;
        let copier = Copier {
            repository,
            reader,
            pool,
            session: self.session,
            compression: options.compression,
            monitor: *monitor,
        };
        let (written, copied) = copier.copy(&sources, &mut self.marks);
        written.iter().for_each(|pack| self.prune.report.written.add(pack.size_bytes));
        copied
    }

    /// Says that packs are gone, and deletes them.
    fn remove(&mut self, generation: u64, lists: &[u32], batch: &[(PackId, u64)]) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        if self.monitor().is_cancelled() {
            return Err(Error::Interrupted);
        }
        self.monitor().step(PruneStep::PublishRemovals.into());
        let repository = self.repository();
        repository
            .publish_removal(&Removal { packs: batch.iter().map(|(id, _)| *id).collect(), replaced: Vec::new() })?;
        self.monitor().step(PruneStep::DeletePacks.into());
        // whoever finished this generation while we slept has deleted the lists, and nothing is left to us
        for &list in lists {
            let key = layout::condemnation(generation, list);
            match repository.store().storage().size(&key) {
                Err(error) if error.is_not_found() => return Err(Error::CondemnationLost { key }),
                result => drop(result?),
            }
        }
        let packs = batch.iter().map(|(id, _)| layout::pack(*id)).collect();
        for ((_, size), is_deleted) in batch.iter().zip(repository.delete_those_there(packs)) {
            if is_deleted? {
                self.prune.report.deleted.add(*size);
            }
            self.monitor().advance(Progress { entries: 1, bytes: *size });
        }
        Ok(repository.store().storage().sync()?)
    }

    /// Deletes the records of snapshots that are gone. What says that they are forgotten stays until that is durable.
    fn delete_snapshots(&mut self, gone: &BTreeSet<SnapshotId>) -> Result<()> {
        self.monitor().step(PruneStep::DeleteSnapshots.into());
        let repository = self.repository();
        for is_deleted in repository.delete_those_there(gone.iter().map(|id| layout::snapshot(*id)).collect()) {
            self.prune.report.snapshots_deleted += u64::from(is_deleted?);
        }
        repository.store().storage().sync()?;
        self.delete_of(gone, layout::ANNOTATIONS)?;
        // a run without its snapshot says that one has vanished
        let runs = gone.iter().chain(&self.vanished).map(|id| layout::run(*id)).collect();
        repository.delete_those_there(runs).into_iter().try_for_each(|is_deleted| is_deleted.map(drop))
    }

    /// Deletes what there is of snapshots below a prefix; of each one object after the other, as they are listed.
    fn delete_of(&self, snapshots: &BTreeSet<SnapshotId>, prefix: &str) -> Result<()> {
        if snapshots.is_empty() {
            return Ok(());
        }
        let repository = self.repository();
        let mut keys: BTreeMap<SnapshotId, Vec<ObjectKey>> = BTreeMap::new();
        for object in repository.store().storage().list(prefix)? {
            let below = object.key.as_str().strip_prefix(prefix).and_then(|below| below.split('/').next());
            if let Some(id) = below.and_then(|name| name.parse().ok()).filter(|id| snapshots.contains(id)) {
                keys.entry(id).or_default().push(object.key);
            }
        }
        let keys: Vec<Vec<ObjectKey>> = keys.into_values().collect();
        let delete = |keys: &Vec<ObjectKey>| keys.iter().try_for_each(|key| repository.delete_if_there(key).map(drop));
        each(repository.store(), &keys, delete).into_iter().collect()
    }

    /// Puts the done mark, and deletes what the generation needed and what earlier ones have left.
    fn mark_done(
        &mut self,
        generation: u64,
        lists: &[u32],
        gone: &BTreeSet<SnapshotId>,
        living: &Living,
    ) -> Result<()> {
        let repository = self.repository();
        let deleted = self.prune.report.deleted;
        compact::if_worth_it(repository, self.prune.reader.index(), deleted.packs)?;
        self.prune.clean_catalogues();
        self.monitor().step(PruneStep::MarkDone.into());
        let done = Done {
            version: RECORD_VERSION,
            generation,
            time: repository.clock().now(),
            packs_deleted: deleted.packs,
            bytes_freed: deleted.bytes.saturating_sub(self.prune.report.written.bytes),
            snapshots: living.snapshots.keys().copied().collect(),
            unknown: Default::default(),
        };
        match repository.store().put_record(&layout::done(generation), &done, repository.random()) {
            Err(Error::Storage(error)) if error.kind == StorageErrorKind::AlreadyExists => {}
            result => drop(result?),
        }
        repository.store().storage().sync()?;
        self.prune.sweep();
        self.delete_of(gone, layout::FORGOTTEN)?;
        if self.prune.report.generation != Some(generation) {
            self.prune.report.taken_over.push(generation);
        }
        self.delete_generations(generation, lists)
    }

    fn delete_generations(&self, done: u64, lists: &[u32]) -> Result<()> {
        let repository = self.repository();
        for (number, generation) in repository.generations()? {
            let is_idle = number < done && !generation.is_unfinished() && repository.prune_is_over(number)?;
            if number != done && !is_idle {
                continue;
            }
            // a list that was not covered is for the next prune, and counts until then
            let covered = generation.condemned.into_iter().filter(|list| lists.contains(list));
            let lists = covered.map(|list| layout::condemnation(number, list)).collect();
            for is_deleted in repository.delete_those_there(lists) {
                is_deleted?;
            }
            repository.delete_if_there(&layout::awaited(number))?;
            repository.delete_if_there(&layout::claim(number))?;
            if number != done {
                repository.delete_if_there(&layout::done(number))?;
            }
        }
        Ok(repository.store().storage().sync()?)
    }
}

/// Returns how many packs make a batch: at least one.
fn batch_len(packs: &[Needed]) -> usize {
    let mut bytes = 0;
    let fits = |it: &&Needed| {
        bytes += it.needed_bytes;
        bytes <= BATCH_BYTES
    };
    packs.iter().take(BATCH_PACKS).take_while(fits).count().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_bounded_in_packs_and_bytes_and_never_empty() {
        let needed = |needed_bytes| Needed { id: PackId::new([1; 32]), size_bytes: 2 * needed_bytes, needed_bytes };
        let packs = |count: usize, needed_bytes| vec![needed(needed_bytes); count];
        assert_eq!(batch_len(&packs(1000, 1)), BATCH_PACKS);
        assert_eq!(batch_len(&packs(7, 1)), 7);
        assert_eq!(batch_len(&packs(9, BATCH_BYTES / 4)), 4);
        assert_eq!(batch_len(&packs(9, BATCH_BYTES + 1)), 1);
    }
}
