//! What using the repository does, and what must come of it.

use std::collections::BTreeSet;
use std::sync::Arc;

use lakebed_engine::backup::{BackupOptions, ParentChoice};
use lakebed_engine::core::id::SnapshotId;
use lakebed_engine::core::monitor::{Monitor, Silent};
use lakebed_engine::core::retention::{Count, Policy};
use lakebed_engine::forget::{Choice, ForgetOptions};
use lakebed_engine::prune::PruneOptions;
use lakebed_engine::repository::SnapshotFilter;
use lakebed_engine::source::Mount;
use lakebed_engine::verify::{ReadData, VerifyOptions};
use lakebed_engine::{Error, Repository, Result};
use lakebed_testkit::source::MemorySource;

use super::command::Verb;
use super::copy::{Copy, MOUNT};
use super::world::{Calm, Fate, Kept, World, thorough};

impl World {
    /// Uses a repository, and checks that nothing goes wrong without a reason.
    pub fn perform(&self, repository: &Repository, verb: Verb, calm: Calm, monitor: &dyn Monitor) {
        let result = match verb {
            Verb::Backup { force, skip_if_unchanged, checkpoints } => {
                let options = BackupOptions {
                    parent: if force { ParentChoice::None } else { ParentChoice::Newest },
                    skip_if_unchanged,
                    checkpoint_bytes: if checkpoints { 1 } else { BackupOptions::default().checkpoint_bytes },
                    ..backup_options()
                };
                self.back_up(repository, &options, monitor)
            }
            Verb::Forget { nth } => match self.pick(nth, Fate::Live) {
                Some(kept) => self.forget(repository, Choice::Snapshots(BTreeSet::from([kept.info.id])), monitor),
                None => Ok(()),
            },
            Verb::KeepLast { count } => {
                let policy = Policy { last: Count::AtMost(u32::from(count) + 1), ..Policy::default() };
                self.forget(repository, Choice::Policy { policy, filter: SnapshotFilter::default() }, monitor)
            }
            Verb::Undo { nth } => self.pick(nth, Fate::Forgotten).map_or(Ok(()), |kept| self.undo(repository, &kept)),
            Verb::Prune { thorough, patient, dry_run } => {
                self.prune(repository, thorough, patient, dry_run, calm, monitor)
            }
            Verb::Tag { nth, tag } => {
                self.pick(nth, Fate::Live).map_or(Ok(()), |kept| self.tag(repository, &kept, format!("tag{tag}")))
            }
            Verb::Verify { data } => self.verify(repository, data, monitor),
            Verb::Compare => self.compare(repository),
            Verb::Restore { nth } => self.pick(nth, Fate::Live).map_or(Ok(()), |kept| self.restore(repository, &kept)),
            Verb::RebuildIndex { read_packs } => repository.rebuild_index(read_packs, monitor).map(drop),
            Verb::Expire => expire_all(repository),
        };
        if let Err(error) = result {
            self.judge(verb, calm, &error);
        }
    }

    fn judge(&self, verb: Verb, calm: Calm, error: &Error) {
        assert!(!matches!(error, Error::Poisoned { .. }), "{verb:?}: {error:?}");
        let is_expected = match calm {
            Calm::Killed => true,
            Calm::Interrupted => matches!(error, Error::Interrupted),
            // another process expired the session, or condemned the snapshot
            Calm::Crowded => matches!(error, Error::SessionExpired { .. } | Error::Condemned { .. }),
            Calm::Undisturbed => false,
        };
        assert!(is_expected || self.is_damaged(), "{verb:?}, {calm:?}: {error:?}");
    }

    fn back_up(&self, repository: &Repository, options: &BackupOptions, monitor: &dyn Monitor) -> Result<()> {
        let source = Arc::new(MemorySource::new(self.tree.clone()));
        let mount = Mount::new(vec![MOUNT.into()], source);
        let report = repository.backup(vec![mount], options, monitor)?;
        let copy = Arc::new(Copy::of(&self.tree));
        assert_eq!(report.failures, []);
        match report.snapshot {
            Some(info) => self.keep(info, copy),
            None => {
                let parent = report.parent.and_then(|parent| self.kept().get(&parent).cloned());
                assert!(parent.is_some_and(|parent| parent.copy == copy), "there was something to back up");
            }
        }
        Ok(())
    }

    fn forget(&self, repository: &Repository, choice: Choice, monitor: &dyn Monitor) -> Result<()> {
        let options = ForgetOptions { allow_empty: true, ..ForgetOptions::new(choice) };
        let plan = repository.plan_forget(&options)?;
        let ids: Vec<SnapshotId> = plan.forgotten().map(|info| info.id).collect();
        let set = |fate| {
            ids.iter().for_each(|id| {
                self.update(*id, |kept| {
                    kept.fate = fate;
                    kept.may_be_condemned = false;
                });
            });
        };
        set(Fate::Unsure);
        let report = repository.apply_forget(&plan, monitor)?;
        assert_eq!(report.forgotten.len() + report.forgotten_before.len(), ids.len());
        set(Fate::Forgotten);
        Ok(())
    }

    fn undo(&self, repository: &Repository, kept: &Kept) -> Result<()> {
        let id = kept.info.id;
        self.update(id, |kept| kept.fate = Fate::Unsure);
        match repository.undo_forget(&[id]) {
            Err(Error::Condemned { .. } | Error::NoSnapshot { .. }) if kept.may_be_condemned => {
                self.update(id, |kept| kept.fate = Fate::Forgotten);
                Ok(())
            }
            Ok(()) => {
                self.update(id, |kept| kept.fate = Fate::Live);
                Ok(())
            }
            result => result,
        }
    }

    fn prune(
        &self,
        repository: &Repository,
        is_thorough: bool,
        patient: bool,
        dry_run: bool,
        calm: Calm,
        monitor: &dyn Monitor,
    ) -> Result<()> {
        let mut options = thorough();
        if !is_thorough {
            let usual = PruneOptions::default();
            (options.max_unused, options.repack_small) = (usual.max_unused, usual.repack_small);
        }
        if !patient {
            options.wait = std::time::Duration::ZERO;
        }
        options.dry_run = dry_run;
        options.accept_vanished = self.is_damaged();
        if !dry_run {
            self.kept().values_mut().for_each(|kept| kept.may_be_condemned |= kept.fate != Fate::Live);
        }
        let before = self.objects();
        let report = repository.prune(&options, monitor)?;
        assert!(!dry_run || calm != Calm::Undisturbed || before == self.objects(), "a dry run has written");
        assert!(calm != Calm::Undisturbed || report.unfinished.is_none() || !patient, "{report:?}");
        Ok(())
    }

    fn tag(&self, repository: &Repository, kept: &Kept, tag: String) -> Result<()> {
        self.update(kept.info.id, |kept| kept.tags = None);
        repository.annotate(&kept.info, vec![tag.clone()], String::new())?;
        self.update(kept.info.id, |kept| kept.tags = Some(vec![tag]));
        Ok(())
    }

    fn verify(&self, repository: &Repository, data: bool, monitor: &dyn Monitor) -> Result<()> {
        let read = if data { ReadData::All } else { ReadData::None };
        let report = repository.verify(&VerifyOptions { read, whole_files: data, threads: 1 }, monitor)?;
        assert!(report.is_good() || self.is_damaged(), "{:#?}", report.damage);
        if report.is_good() {
            // what is listed can be read then, whatever was lost
            let reader = repository.reader(&Silent)?;
            for info in repository.catalogue()?.snapshots {
                if let Some(kept) = self.kept().get(&info.id).cloned() {
                    let held = kept.copy.is_held_by(&reader, &info);
                    assert!(matches!(held, Ok(true)), "{}: nothing was found, but {held:?}", info.id);
                }
            }
        }
        Ok(())
    }

    fn restore(&self, repository: &Repository, kept: &Kept) -> Result<()> {
        let whole = kept.copy.assert_restored(&repository.reader(&Silent)?, &kept.info)?;
        assert!(whole, "snapshot {} was not restored whole", kept.info.id);
        Ok(())
    }
}

fn backup_options() -> BackupOptions {
    BackupOptions { host: "host".into(), user: "user".into(), threads: 1, ..BackupOptions::default() }
}

fn expire_all(repository: &Repository) -> Result<()> {
    for session in repository.sessions()? {
        repository.expire_session(session.id, session.id, "it was expired by hand")?;
    }
    Ok(())
}
