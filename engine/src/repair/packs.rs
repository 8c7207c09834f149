//! Packs that are missing or damaged, and packs that no segment describes: which there are, what can be read of them, and
//! what snapshots lack then.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use lakebed_core::id::{PackId, SnapshotId};
use lakebed_core::layout;
use lakebed_core::monitor::{Monitor, Phase, Progress};
use lakebed_core::pack::{PackInfo, PackKind};
use lakebed_core::record::snapshot::Snapshot;
use lakebed_core::storage::ObjectKey;

use super::losses::{self, Losses};
use super::{AFFECTED_MAX, Action, Affected, Remedy, RepairOptions};
use crate::check::{Copied, Records, ahead_of_packs, check_pack, compare_packs, read_packs, scan, segments_are_lost};
use crate::error::{Error, Result};
use crate::index_rebuild::read_directory;
use crate::repository::{BlobReader, Repository};

/// A pack that is not as it should be.
struct BadPack {
    problem: String,
    /// In bytes; `None` where it is missing.
    size_bytes: Option<u64>,
    /// Chunks and nodes that can be read.
    readable: u64,
}

/// What is planned for packs, and what snapshots lack then.
pub(super) struct PackPlan {
    pub(super) actions: Vec<Action>,
    pub(super) losses: Losses,
}

/// Looks at every pack, as far as asked, and at what snapshots need of them.
struct Survey<'a> {
    repository: &'a Repository,
    options: &'a RepairOptions,
    monitor: &'a dyn Monitor,
    reader: BlobReader,
    /// Packs in storage with their sizes, without those that are about to leave it.
    listed: HashMap<PackId, u64>,
    bad: BTreeMap<PackId, BadPack>,
    /// Packs that no segment describes and that describe themselves.
    unknown: Vec<PackInfo>,
    described: &'a HashMap<PackId, [u8; 32]>,
}

/// Plans what is to be done about packs and segments. `segments` are those that cannot be read.
pub(super) fn plan(
    repository: &Repository,
    records: &Records,
    segments: Vec<(ObjectKey, String)>,
    snapshots: &[(SnapshotId, Snapshot)],
    options: &RepairOptions,
    monitor: &dyn Monitor,
) -> Result<PackPlan> {
    // an index that was folded before a segment was damaged knows what storage cannot say any more
    let index =
        if segments.is_empty() { repository.index(monitor)? } else { repository.rebuild_index(false, monitor)? };
    let mut survey = Survey {
        repository,
        options,
        monitor,
        reader: BlobReader::new(repository.store().clone(), Arc::new(index)),
        listed: repository.store().list_packs()?,
        bad: BTreeMap::new(),
        unknown: Vec::new(),
        described: &records.described,
    };
    survey.find_bad(&records.listed)?;
    let lost = segments_are_lost(repository, survey.reader.index(), &survey.listed)?;
    let (losses, needs_unknown) = survey.find_losses(snapshots, lost || !segments.is_empty())?;
    let mut actions = Vec::new();
    if needs_unknown && !(survey.unknown.is_empty() && segments.is_empty()) {
        let packs = survey.unknown.len() as u64;
        let problem = match segments.first() {
            Some((_, problem)) => problem.clone(),
            None => "no index segment describes them".into(),
        };
        let segments = segments.into_iter().map(|(key, _)| key).collect();
        actions.push(Action::new(Remedy::Describe { packs, segments }, problem));
    }
    actions.extend(survey.actions(&losses)?);
    Ok(PackPlan { actions, losses })
}

impl Survey<'_> {
    fn note(&mut self, pack: PackId, problem: impl Into<String>, size_bytes: Option<u64>) {
        let problem = problem.into();
        self.bad.entry(pack).or_insert(BadPack { problem, size_bytes, readable: 0 });
    }

    /// Finds the packs that are missing, of another size, damaged, or left over from a repair that was cut off.
    fn find_bad(&mut self, names: &[ObjectKey]) -> Result<()> {
        let index = self.reader.index();
        let (removed, listed): (Vec<_>, Vec<_>) = self.listed.drain().partition(|(id, _)| index.is_removed(id));
        self.listed = listed.into_iter().collect();
        let quarantined: HashSet<&ObjectKey> = names.iter().collect();
        for (id, size) in removed {
            // a prune sees to its own
            if quarantined.contains(&layout::quarantine(&layout::pack(id), 0)) {
                self.note(id, "a repair has moved it to quarantine, and it is still there, or there again", Some(size));
            }
        }
        let mut listed = std::mem::take(&mut self.listed);
        let problems = compare_packs(self.repository, self.reader.index(), &mut listed, self.monitor)?;
        self.listed = listed;
        for (id, problem) in problems {
            self.note(id, problem.to_string(), self.listed.get(&id).copied());
        }
        if self.options.read_data {
            self.read_all()?;
        }
        for id in self.reader.index().unknown_packs(&self.listed) {
            let size = self.listed[&id];
            if self.bad.contains_key(&id) {
                continue;
            }
            match read_directory(self.repository.store(), id, size) {
                Ok(info) => self.unknown.push(info),
                Err(Error::Storage(error)) if error.is_not_found() => {}
                Err(error) if error.keeps_from_looking() => return Err(error),
                Err(_) => self.judge(id)?,
            }
        }
        self.unknown.sort_by_key(|info| info.id);
        // what is there at its size is used for reading; of what is not, only what was looked for and found
        self.reader.index().check_packs(&self.listed, &HashSet::new());
        let bad: Vec<PackId> = self.bad.keys().copied().collect();
        bad.into_iter().try_for_each(|id| self.look_into(id))
    }

    fn read_all(&mut self) -> Result<()> {
        let mut chosen: Vec<(PackId, u64)> = self.listed.iter().map(|(id, size)| (*id, *size)).collect();
        chosen.retain(|(id, _)| !self.bad.contains_key(id));
        chosen.sort_unstable();
        let bytes = chosen.iter().map(|(_, size)| size).sum();
        self.monitor.phase(Phase::VerifyData, Some(Progress { entries: chosen.len() as u64, bytes }));
        let pool = crate::system::threads(self.options.threads, "repair")?;
        let ahead = ahead_of_packs(self.repository.store(), pool.current_num_threads(), &chosen, Copied::default());
        let reader = self.reader.clone().with_ahead(ahead);
        let read = read_packs(&reader, &pool, &chosen, self.described, &|| true, self.monitor)?;
        for (id, size, error) in read.bad {
            match error {
                error if error.keeps_from_looking() || error.is_newer() => return Err(error),
                error => self.note(id, crate::error_chain(&error), Some(size)),
            }
        }
        Ok(())
    }

    /// Something of a pack could not be read: is it damaged?
    ///
    /// # Errors
    /// It is as its writer wrote it, a newer lakebed.
    fn judge(&mut self, id: PackId) -> Result<()> {
        let Some(&size) = self.listed.get(&id) else { return Ok(()) };
        match check_pack(&self.reader, id, size, self.described.get(&id)) {
            Ok(()) => {}
            Err(Error::Storage(error)) if error.is_not_found() => {}
            Err(error) if error.keeps_from_looking() || error.is_newer() => return Err(error),
            Err(error) => self.note(id, crate::error_chain(&error), Some(size)),
        }
        Ok(())
    }

    /// Finds what can be read of a bad pack, and lets the index say so.
    fn look_into(&mut self, id: PackId) -> Result<()> {
        let Some(pack) = self.bad.get_mut(&id) else { return Ok(()) };
        let Some(size) = pack.size_bytes else { return Ok(()) };
        let mut found = Vec::new();
        scan(&self.reader, id, size, &mut |frame, _| {
            pack.readable += frame.info.blobs.len() as u64;
            found.push(frame);
            Ok(())
        })?;
        let kind = found.first().map_or(PackKind::Data, |frame| frame.kind);
        self.reader.index().assume(id, size, kind, found.iter().map(|frame| (frame.offset, &frame.info)));
        Ok(())
    }

    /// Finds what snapshots lack. Packs that no segment describes are looked into where that is called for, or where it
    /// makes a difference; returns whether they were.
    fn find_losses(&mut self, snapshots: &[(SnapshotId, Snapshot)], assume_unknown: bool) -> Result<(Losses, bool)> {
        let mut assumed = false;
        if assume_unknown {
            self.assume_unknown();
            assumed = true;
        }
        self.monitor.phase(Phase::VerifyStructure, None);
        loop {
            let found = losses::find(self.repository, &self.reader, snapshots, self.monitor)?;
            let known: BTreeSet<PackId> = self.bad.keys().copied().collect();
            for id in found.suspects.difference(&known) {
                self.judge(*id)?;
            }
            let new: Vec<PackId> = self.bad.keys().copied().filter(|id| !known.contains(id)).collect();
            for id in &new {
                self.look_into(*id)?;
            }
            if !new.is_empty() {
                continue;
            }
            if assumed || found.losses.is_empty() || self.unknown.is_empty() {
                return Ok((found, assumed));
            }
            let before = found.blobs.len();
            self.assume_unknown();
            let again = losses::find(self.repository, &self.reader, snapshots, self.monitor)?;
            if again.blobs.len() == before && again.losses == found.losses {
                // nobody needs what is in them: a run that was killed left them
                return Ok((found, false));
            }
            assumed = true;
        }
    }

    fn assume_unknown(&self) {
        for info in &self.unknown {
            let frames = info.directory.frames_at();
            self.reader.index().assume(info.id, info.size_bytes, info.directory.kind, frames);
        }
    }

    /// Returns what is to be done about the bad packs, with what is lost by each.
    fn actions(&self, losses: &Losses) -> Result<Vec<Action>> {
        let mut actions: BTreeMap<PackId, Action> = BTreeMap::new();
        for (id, pack) in &self.bad {
            let remedy = match pack.size_bytes {
                Some(_) => Remedy::Salvage { pack: *id, readable: pack.readable },
                None => Remedy::Drop(*id),
            };
            actions.insert(*id, Action::new(remedy, pack.problem.clone()));
        }
        for (blob, loss, path) in &losses.blobs {
            let loss = &losses.losses[*loss];
            let affected = Affected { snapshot: loss.snapshot, path: loss.paths[*path].path.clone() };
            for pack in self.reader.index().packs_with(blob)? {
                let Some(action) = actions.get_mut(&pack) else { continue };
                match action.affected.len() < AFFECTED_MAX {
                    true => action.affected.push(affected.clone()),
                    false => action.affected_more += 1,
                }
            }
        }
        Ok(actions.into_values().collect())
    }
}
