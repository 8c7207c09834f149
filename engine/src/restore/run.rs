//! One restore: what its workers share, and how it begins and ends.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lakebed_core::monitor::{Monitor, Phase, Progress};
use lakebed_core::record::tree::Entry;

use super::marker::{Ground, Marker};
use super::target::Target;
use super::unread::Unread;
use super::{Action, RestoreFailure, RestoreOptions, RestoreReport, Visitor};
use crate::error::{Error, Result};
use crate::repository::{BlobReader, SnapshotInfo};

/// A file to be written.
pub(super) struct Job {
    pub(super) path: Vec<u8>,
    pub(super) entry: Entry,
    /// Something is there that it replaces.
    pub(super) replaces: bool,
}

/// What workers share.
pub(super) struct Restore<'a> {
    pub(super) reader: &'a BlobReader,
    pub(super) options: &'a RestoreOptions,
    pub(super) visitor: Visitor<'a>,
    pub(super) monitor: &'a dyn Monitor,
    pub(super) target: Target,
    pub(super) ground: Ground,
    /// What is not to be deleted, whatever else is.
    pub(super) unread: Unread,
    pub(super) report: Mutex<RestoreReport>,
    /// Paths of files that were not restored: nothing may be linked to them.
    pub(super) not_restored: Mutex<HashSet<Vec<u8>>>,
}

/// Something that was written: what that means for what was there, and what of its metadata could not be set.
pub(super) struct Written {
    pub(super) action: Action,
    pub(super) problem: Option<Error>,
}

impl Written {
    pub(super) fn new(replaces: bool, problem: Option<Error>) -> Self {
        Self { action: if replaces { Action::Replaced } else { Action::Created }, problem }
    }
}

pub(super) fn run(
    reader: &BlobReader,
    info: &SnapshotInfo,
    options: &RestoreOptions,
    visitor: Visitor<'_>,
    monitor: &dyn Monitor,
) -> Result<RestoreReport> {
    for path in options.filter.paths() {
        crate::query::entry_at(reader, info, path)?;
    }
    let mut marker = Marker::look(&options.target, info.id)?;
    let target = Target::new(options.target.clone(), options.owners);
    if options.delete && target.lies_in(&options.never_delete) {
        let why =
            std::io::Error::other("it lies in the repository, or in what is cached of one: nothing is deleted there");
        return Err(Error::local("restore with --delete into", &options.target, why));
    }
    if !options.dry_run {
        target.make_root()?;
        marker.set(&options.target, info.id)?;
    }
    let restore = Restore {
        reader,
        options,
        visitor,
        monitor,
        target,
        ground: marker.ground,
        unread: Unread::of(&info.snapshot),
        report: Mutex::new(RestoreReport {
            continued: matches!(marker.ground, Ground::Continued { .. }),
            ..RestoreReport::default()
        }),
        not_restored: Mutex::default(),
    };
    let pool = crate::system::threads(options.threads, "restore")?;
    monitor.phase(Phase::Restore, None);
    super::walk::walk(&restore, info, &pool)?;
    if !options.dry_run {
        if options.sync {
            restore.target.sync()?;
        }
        marker.clear()?;
    }
    Ok(restore.report.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// Tells whether the repository is at fault.
pub(super) fn is_damage(error: &Error) -> bool {
    !matches!(
        error,
        Error::Target(_) | Error::Local { .. } | Error::Interrupted | Error::Machine { .. } | Error::Index { .. }
    )
}

/// Tells whether nothing more can be restored either.
fn is_final(error: &Error) -> bool {
    use std::io::ErrorKind as Io;
    match error {
        Error::Interrupted | Error::Machine { .. } => true,
        Error::Local { source, .. } => {
            matches!(source.kind(), Io::StorageFull | Io::QuotaExceeded | Io::ReadOnlyFilesystem)
        }
        _ => false,
    }
}

impl Restore<'_> {
    pub(super) fn report(&self) -> MutexGuard<'_, RestoreReport> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn note(&self, action: Action, path: &[u8], bytes: u64) {
        {
            let mut report = self.report();
            match action {
                Action::Created => report.created += 1,
                Action::Replaced => report.replaced += 1,
                Action::Kept => report.kept += 1,
                Action::Deleted => report.deleted += 1,
            }
            if matches!(action, Action::Created | Action::Replaced) {
                report.bytes += bytes;
            }
        }
        (self.visitor)(action, &self.target.path(path));
        self.monitor.advance(Progress { entries: 1, bytes });
    }

    /// Notes something that would have been deleted, were it known that the snapshot's source did not have it.
    pub(super) fn spare(&self, path: &[u8]) {
        self.report().spared += 1;
        self.note(Action::Kept, path, 0);
    }

    /// Notes a failure of one entry; gives back what ends the restore.
    pub(super) fn fail(&self, path: &[u8], error: Error) -> Result<()> {
        if is_final(&error) {
            return Err(error);
        }
        let damage = is_damage(&error);
        self.report().failures.push(RestoreFailure { path: self.target.path(path), error, damage });
        Ok(())
    }
}
