//! Carrying a plan out: claim a generation, condemn, and finish that generation and those that others have left.

use std::collections::BTreeSet;
use std::sync::Arc;

use lakebed_core::id::{SessionId, SnapshotId};
use lakebed_core::layout;
use lakebed_core::monitor::Monitor;
use lakebed_core::protocol::PruneStep;
use lakebed_core::record::RECORD_VERSION;
use lakebed_core::record::gc::{Claim, Condemnation, Verdict};
use lakebed_core::record::session::{Outcome, Run};
use lakebed_core::record::snapshot::Summary;
use lakebed_core::storage::StorageErrorKind;

use super::finish::Finisher;
use super::plan::{Plan, Scope, plan};
use super::wait::Waiting;
use super::{PruneOptions, PruneReport, brakes, compact};
use crate::error::{Error, Result};
use crate::repository::{BlobReader, Repository, TombstoneState, draw};

/// No more packs stand in one list of condemned packs.
const PACKS_PER_LIST: usize = 10_000;

/// One prune in one process.
pub(super) struct Prune<'a> {
    pub(super) repository: &'a Repository,
    pub(super) options: &'a PruneOptions,
    pub(super) monitor: &'a dyn Monitor,
    pub(super) reader: BlobReader,
    pub(super) pool: rayon::ThreadPool,
    pub(super) report: PruneReport,
    /// Its generation and its session.
    pub(super) claim: Option<Claim>,
}

pub(super) fn run(repository: &Repository, options: &PruneOptions, monitor: &dyn Monitor) -> Result<PruneReport> {
    repository.config().check_prunable().map_err(Error::Config)?;
    repository.check_exclusive("A prune", options.exclusive || options.dry_run)?;
    let pool = crate::system::threads(options.threads, "prune")?;
    let index = repository.lean_index(monitor)?;
    let reader = BlobReader::new(repository.store().clone(), Arc::new(index));
    let mut prune = Prune { repository, options, monitor, reader, pool, report: PruneReport::default(), claim: None };
    let result = prune.run();
    if let Err(error) = prune.record_end(&result) {
        monitor.warn(&format!("the end of the prune was not recorded: {}", crate::error_chain(&error)));
    }
    result.map(|()| prune.report)
}

impl Prune<'_> {
    fn run(&mut self) -> Result<()> {
        let mut forgotten: BTreeSet<SnapshotId> = self.repository.forgotten()?.into_keys().collect();
        if self.options.dry_run {
            forgotten.extend(&self.options.assume_forgotten);
        }
        let mut plan = self.plan(&forgotten)?;
        self.announce(&plan);
        if self.options.dry_run {
            return Ok(());
        }
        self.brake()?;
        let by = SessionId::new(draw(self.repository.random())?);
        let mut waiting = Waiting::new(self.repository, self.options, self.monitor, by);
        waiting.expire_abandoned()?;
        if !waiting.expired.is_empty() {
            self.report.sessions_expired.extend(waiting.expired);
            plan = self.plan(&forgotten)?;
            self.announce(&plan);
            self.brake()?;
        }
        let left_behind = self.left_behind()?;
        // what has vanished is written off by the next done mark
        let is_idle = plan.condemn.is_empty() && forgotten.is_empty() && plan.vanished.is_empty();
        if is_idle && left_behind.is_empty() {
            self.sweep();
            self.clean_catalogues();
            return compact::if_worth_it(self.repository, self.reader.index(), 0);
        }
        let claim = self.claim_generation()?;
        let gone = self.condemn_tombstones(&forgotten, claim.generation)?;
        if gone != forgotten {
            // somebody has brought a snapshot back, or forgotten one more, since the plan was made
            plan = self.plan(&gone)?;
            self.announce(&plan);
            self.brake()?;
        }
        self.publish_condemned(&plan, claim.generation)?;
        let mut finisher = Finisher::new(self, claim.session, plan.marks, plan.vanished);
        for generation in left_behind {
            finisher.finish(generation)?;
        }
        finisher.finish(claim.generation)
    }

    /// Enters a plan in the report.
    fn announce(&mut self, plan: &Plan) {
        self.report.plan = plan.summary.clone();
        self.report.too_much = brakes::mass_deletion(&plan.summary, self.options);
    }

    fn brake(&self) -> Result<()> {
        self.report.too_much.map_or(Ok(()), |too_much| Err(too_much.into()))
    }

    fn plan(&self, gone: &BTreeSet<SnapshotId>) -> Result<Plan> {
        let condemned = self.repository.condemned_packs()?;
        let scope = Scope { gone, condemned: &condemned };
        plan(self.repository, &self.reader, &self.pool, &scope, self.options, self.monitor)
    }

    /// Returns the generations in which packs are condemned and that nobody is at any more, the oldest first.
    fn left_behind(&self) -> Result<Vec<u64>> {
        let mut left = Vec::new();
        for (number, generation) in self.repository.generations()? {
            if generation.is_unfinished() && self.repository.prune_is_over(number)? {
                left.push(number);
            }
        }
        Ok(left)
    }

    fn claim_generation(&mut self) -> Result<Claim> {
        self.monitor.step(PruneStep::ClaimGeneration.into());
        let session = SessionId::new(draw(self.repository.random())?);
        let mut newest = self.repository.generation()?;
        loop {
            // the highest number of all counts for nobody
            let generation = newest.saturating_add(1);
            if generation == u64::MAX {
                return Err(Error::NoNumberLeft { key: layout::claim(newest) });
            }
            if let Some(claim) = self.try_claim(generation, session)? {
                self.report.generation = Some(generation);
                self.claim = Some(claim.clone());
                return Ok(claim);
            }
            newest = generation.max(self.repository.generation()?);
        }
    }

    /// Claims a generation; `None` where its number is taken or was used before.
    fn try_claim(&self, generation: u64, session: SessionId) -> Result<Option<Claim>> {
        let repository = self.repository;
        let claim = Claim {
            version: RECORD_VERSION,
            generation,
            time: repository.clock().now(),
            session,
            process: repository.processes().this(&self.options.host),
            unknown: Default::default(),
        };
        let key = layout::claim(generation);
        let put = || match repository.store().put_record(&key, &claim, repository.random()) {
            Err(Error::Storage(error)) if error.kind == StorageErrorKind::AlreadyExists => Ok(false),
            result => result.map(|_| true),
        };
        if !put()? {
            return Ok(None);
        }
        // whoever may not delete finds that out here, before anything is condemned
        repository.delete_if_there(&key)?;
        if !put()? {
            return Ok(None);
        }
        repository.store().storage().sync()?;
        if repository.is_newest(generation)? {
            return Ok(Some(claim));
        }
        // we slept while another prune claimed the number, used it and was done with it: whoever still finishes that
        // generation would take our lists for those that its sessions were listed for
        repository.delete_if_there(&key)?;
        Ok(None)
    }

    /// Condemns the snapshots that were forgotten when the plan was made, unless they were brought back since, and returns
    /// all that are condemned.
    fn condemn_tombstones(&self, forgotten: &BTreeSet<SnapshotId>, generation: u64) -> Result<BTreeSet<SnapshotId>> {
        self.monitor.step(PruneStep::CondemnTombstones.into());
        let repository = self.repository;
        for (id, tombstone) in repository.tombstones()? {
            if tombstone.state != TombstoneState::Open || !forgotten.contains(&id) {
                continue;
            }
            match repository.read_tombstone(id, tombstone.number) {
                Ok(_) => {
                    // whichever way it goes is looked up below
                    repository.resolve_tombstone(id, tombstone.number, Verdict::Condemned, Some(generation))?;
                }
                // it was brought back and forgotten by others, or another prune is done with it
                Err(Error::Storage(error)) if error.is_not_found() => {}
                Err(Error::Storage(error)) => return Err(error.into()),
                // a name alone, which anybody may write, condemns nothing
                Err(error) => {
                    let why = crate::error_chain(&error);
                    self.monitor.warn(&format!("snapshot {} is hidden and not freed: {why}", id.short()));
                }
            }
        }
        repository.store().storage().sync()?;
        let condemned = repository.forgotten()?.into_iter().filter(|(_, condemned)| *condemned);
        Ok(condemned.map(|(id, _)| id).collect())
    }

    fn publish_condemned(&self, plan: &Plan, generation: u64) -> Result<()> {
        self.monitor.step(PruneStep::PublishCondemned.into());
        let store = self.repository.store();
        for (number, packs) in (0u32..).zip(plan.condemn.chunks(PACKS_PER_LIST)) {
            let list = Condemnation {
                version: RECORD_VERSION,
                generation,
                packs: packs.to_vec(),
                unknown: Default::default(),
            };
            store.put_record(&layout::condemnation(generation, number), &list, self.repository.random())?;
        }
        Ok(store.storage().sync()?)
    }

    /// Removes what dead writers have left unfinished. Where that fails it stays, and is no reason to fail.
    pub(super) fn sweep(&self) {
        if let Err(error) = self.repository.store().storage().sweep() {
            self.monitor.warn(&format!("what dead writers have left was not removed: {}", crate::error_chain(&error)));
        }
    }

    /// Takes what was freed out of catalogues. They say nothing of their own, so that is no reason to fail.
    pub(super) fn clean_catalogues(&self) {
        if let Err(error) = self.repository.clean_catalogues() {
            self.monitor.warn(&format!("catalogues were not cleaned: {}", crate::error_chain(&error)));
        }
    }

    /// Writes down how the prune ended. From then on others may go on with what it has left.
    fn record_end(&self, result: &Result<()>) -> Result<()> {
        let Some(claim) = &self.claim else { return Ok(()) };
        let (outcome, error) = match result {
            Ok(()) if self.report.unfinished.is_some() => (Outcome::Partial, None),
            Ok(()) => (Outcome::Done, None),
            Err(Error::Interrupted) => (Outcome::Interrupted, None),
            Err(error) => (Outcome::Failed, Some(crate::error_chain(error))),
        };
        let run = Run {
            version: RECORD_VERSION,
            command: "prune".into(),
            process: claim.process.clone(),
            outcome,
            error,
            summary: Summary { started: claim.time, finished: self.repository.clock().now(), ..Summary::default() },
            failures: 0,
            tool: self.options.tool.clone(),
            unknown: Default::default(),
        };
        self.repository.store().put_record(&layout::run(claim.session), &run, self.repository.random())?;
        Ok(self.repository.store().storage().sync()?)
    }
}
