//! Restore into what is no folder: a workspace, say.
//!
//! Directories are made before what is in them, and those that are only on the way with the first thing in them. Many
//! entries are put at a time, and a directory is finished when everything in it was put. What is read of the repository is checked as in every restore.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use lakebed_core::id::TreeId;
use lakebed_core::monitor::{Monitor, Phase, Progress};
use lakebed_core::record::tree::{Entry, EntryKind};
use lakebed_core::target::{Beside, FileContent, Put, Target, TargetDir, TargetErrorKind};
use lakebed_core::text::escape_path;
use rayon::Scope;

use super::filter::Wanted;
use super::run::is_damage;
use super::{Action, PathFilter, RestoreFailure, RestoreReport, Visitor};
use crate::error::{Error, Result};
use crate::query::{entry_at, join, root_entry, split_path, write_content};
use crate::repository::{BlobReader, SnapshotInfo};

/// What the workers of a restore share.
struct Elsewhere<'a> {
    reader: &'a BlobReader,
    info: &'a SnapshotInfo,
    target: &'a dyn Target,
    filter: &'a PathFilter,
    visitor: Visitor<'a>,
    monitor: &'a dyn Monitor,
    report: Mutex<RestoreReport>,
    /// Nothing more can be put.
    ended: AtomicBool,
    end: Mutex<Option<Error>>,
}

/// A directory that things are put into. One that is only on the way to something is made with the first thing in it.
struct Open {
    path: Vec<u8>,
    entry: Entry,
    above: Option<Arc<Open>>,
    /// It is to be there by itself, not only for what is in it.
    wanted: bool,
    /// What it is in the target; `None` where it could not be made, or the target has no place for it.
    dir: OnceLock<Option<Box<dyn TargetDir>>>,
    /// What is not put yet, and one for whoever lists it.
    pending: AtomicUsize,
}

impl Open {
    fn new(path: Vec<u8>, entry: Entry, above: Option<Arc<Self>>, wanted: bool) -> Arc<Self> {
        Arc::new(Self { path, entry, above, wanted, dir: OnceLock::new(), pending: AtomicUsize::new(1) })
    }
}

/// A file of the snapshot, to be read by a target. What the repository is at fault for is kept.
struct Content<'a> {
    reader: &'a BlobReader,
    entry: &'a Entry,
    path: &'a [u8],
    error: Mutex<Option<Error>>,
}

impl FileContent for Content<'_> {
    fn write_to(&self, out: &mut dyn Write) -> std::io::Result<()> {
        write_content(self.reader, self.entry, &escape_path(self.path), out).map_err(|error| {
            let told = std::io::Error::other(crate::error_chain(&error));
            *self.error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            told
        })
    }
}

/// Says the same as an error of the system, for whoever knows no other.
fn told(error: Error) -> std::io::Error {
    std::io::Error::other(crate::error_chain(&error))
}

impl Beside for Elsewhere<'_> {
    fn entry(&self, path: &[Vec<u8>]) -> std::io::Result<Option<Entry>> {
        let found = self.find(path)?;
        let is_restored =
            |entry: &Entry| self.filter.wants(&path.join(&b'/'), entry.kind == EntryKind::Directory) == Wanted::Yes;
        Ok(found.filter(is_restored))
    }

    fn read(&self, path: &[Vec<u8>]) -> std::io::Result<Option<Vec<u8>>> {
        let Some(entry) = self.find(path)?.filter(|entry| entry.kind == EntryKind::File) else { return Ok(None) };
        let mut bytes = Vec::new();
        write_content(self.reader, &entry, &escape_path(&path.join(&b'/')), &mut bytes).map_err(told)?;
        Ok(Some(bytes))
    }
}

/// Restores a snapshot, or a part of it, into a target.
///
/// # Errors
/// The tree cannot be read, or nothing can be put any more. What fails for one entry is in the report.
pub fn restore_into(
    reader: &BlobReader,
    info: &SnapshotInfo,
    target: &dyn Target,
    filter: &PathFilter,
    visitor: Visitor<'_>,
    monitor: &dyn Monitor,
) -> Result<RestoreReport> {
    for path in filter.paths() {
        entry_at(reader, info, path)?;
    }
    monitor.phase(Phase::Restore, None);
    let restore = Elsewhere {
        reader,
        info,
        target,
        filter,
        visitor,
        monitor,
        report: Mutex::default(),
        ended: AtomicBool::new(false),
        end: Mutex::default(),
    };
    let pool = crate::system::threads(target.writers(), "restore")?;
    let root = Open::new(Vec::new(), root_entry(info.snapshot.root), None, false);
    let put = || pool.scope(|scope| restore.directory(scope, root));
    crate::system::watched(monitor, &|| restore.fail(b"", Error::Interrupted), put);
    let report = restore.report.into_inner().unwrap_or_else(PoisonError::into_inner);
    match restore.end.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => {
            // there is no report, and something may be lost
            report.failures.iter().for_each(|failure| monitor.warn(&crate::error_chain(&failure.error)));
            Err(error)
        }
        None => Ok(report),
    }
}

impl<'a> Elsewhere<'a> {
    fn find(&self, path: &[Vec<u8>]) -> std::io::Result<Option<Entry>> {
        match entry_at(self.reader, self.info, path) {
            Ok(entry) => Ok(Some(entry)),
            Err(Error::NoPath { .. }) => Ok(None),
            Err(error) => Err(told(error)),
        }
    }

    /// Puts what is in a directory.
    fn directory<'s>(&'s self, scope: &Scope<'s>, open: Arc<Open>)
    where
        'a: 's,
    {
        if let Some(subtree) = open.entry.subtree.filter(|_| self.goes_on())
            && (!open.wanted || self.made(&open).is_some())
        {
            self.entries(scope, &open, subtree);
        }
        self.one_less(&open);
        // it may have been the first thing in the one above, for which that was made
        open.above.iter().for_each(|above| self.one_less(above));
    }

    /// Returns what a directory is in the target, and makes it if need be.
    fn made<'o>(&self, open: &'o Open) -> Option<&'o dyn TargetDir> {
        let make = || {
            if let Some(above) = &open.above {
                self.made(above)?;
            }
            let made = split_path(&open.path).and_then(|names| Ok(self.target.directory(&names, &open.entry)?));
            match made {
                Ok((put, dir)) => {
                    if open.wanted || put != Put::Kept {
                        self.note(put, &open.path, 0);
                    }
                    (put != Put::LeftOut).then_some(dir)
                }
                Err(error) => {
                    self.fail(&open.path, error);
                    None
                }
            }
        };
        open.dir.get_or_init(make).as_deref()
    }

    fn entries<'s>(&'s self, scope: &Scope<'s>, open: &Arc<Open>, subtree: TreeId)
    where
        'a: 's,
    {
        let names: Option<BTreeSet<Vec<u8>>> = self.filter.names_in(&open.path);
        for entry in self.reader.entries(subtree) {
            if !self.goes_on() {
                return;
            }
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    self.fail(&open.path, error);
                    continue;
                }
            };
            if names.as_ref().is_some_and(|names| !names.contains(&entry.name)) {
                continue;
            }
            let path = join(&open.path, &entry.name);
            let is_directory = entry.kind == EntryKind::Directory;
            match self.filter.wants(&path, is_directory) {
                Wanted::No => {}
                wanted if is_directory => {
                    open.pending.fetch_add(1, Ordering::Relaxed);
                    let below = Open::new(path, entry, Some(open.clone()), wanted == Wanted::Yes);
                    scope.spawn(move |scope| self.directory(scope, below));
                }
                _ => {
                    open.pending.fetch_add(1, Ordering::Relaxed);
                    let open = open.clone();
                    scope.spawn(move |_| {
                        self.put(&open, &path, &entry);
                        self.one_less(&open);
                    });
                }
            }
        }
    }

    fn put(&self, open: &Open, path: &[u8], entry: &Entry) {
        if !self.goes_on() {
            return;
        }
        let Some(dir) = self.made(open) else { return };
        let content = Content { reader: self.reader, entry, path, error: Mutex::default() };
        match dir.put(entry, &content, self) {
            Ok(put) => self.note(put, path, entry.size),
            Err(error) => {
                let content = content.error.into_inner().unwrap_or_else(PoisonError::into_inner);
                self.fail(path, content.unwrap_or_else(|| error.into()));
            }
        }
    }

    /// Finishes a directory after the last thing in it.
    fn one_less(&self, open: &Open) {
        if open.pending.fetch_sub(1, Ordering::AcqRel) == 1
            && self.goes_on()
            && let Some(dir) = open.dir.get().and_then(Option::as_deref)
        {
            dir.finish(self).into_iter().for_each(|error| self.fail(&open.path, error.into()));
        }
    }

    fn note(&self, put: Put, path: &[u8], bytes: u64) {
        let action = {
            let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
            let (count, action) = match put {
                Put::Created => (&mut report.created, Some(Action::Created)),
                Put::Replaced => (&mut report.replaced, Some(Action::Replaced)),
                Put::Kept => (&mut report.kept, Some(Action::Kept)),
                Put::LeftOut => (&mut report.left_out, None),
            };
            *count += 1;
            if matches!(put, Put::Created | Put::Replaced) {
                report.bytes += bytes;
            }
            action
        };
        if let Some(action) = action {
            (self.visitor)(action, &shown(path));
        }
        self.monitor.advance(Progress { entries: 1, bytes });
    }

    /// Notes that something could not be put, or ends everything.
    fn fail(&self, path: &[u8], error: Error) {
        let ends = matches!(&error, Error::Target(error) if error.kind == TargetErrorKind::TargetEnded)
            || matches!(error, Error::Interrupted | Error::Machine { .. });
        if ends {
            // what those say who are let go is not why it ends
            self.end.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            self.ended.store(true, Ordering::Relaxed);
            self.target.stop();
            return;
        }
        let damage = is_damage(&error);
        let failure = RestoreFailure { path: shown(path), error, damage };
        self.report.lock().unwrap_or_else(PoisonError::into_inner).failures.push(failure);
    }

    fn goes_on(&self) -> bool {
        if self.monitor.is_cancelled() {
            self.fail(b"", Error::Interrupted);
        }
        !self.ended.load(Ordering::Relaxed)
    }
}

/// Returns a path of the snapshot as a path of the system.
fn shown(path: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    PathBuf::from(std::ffi::OsStr::from_bytes(path))
}
