//! Walking the snapshot's tree: what is wanted, what is there, and what is to be done about it.

use std::collections::{HashMap, HashSet};
use std::sync::PoisonError;

use lakebed_core::id::TreeId;
use lakebed_core::record::tree::{Entry, EntryKind};
use rustix::fs::{FileType, Stat};

use super::filter::Wanted;
use super::marker::{Ground, MARKER};
use super::run::{Job, Restore, Written};
use super::target::{TEMPORARY_PREFIX, UNFINISHED_MODE, mtime, split};
use super::{Action, Overwrite};
use crate::error::{Error, Result};
use crate::query::join;
use crate::repository::SnapshotInfo;

/// Files planned before they are written: enough for every frame to be met once, as a rule, few enough to be held in
/// memory: some 400 bytes each.
const BATCH_FILES: usize = 128 * 1024;

/// A file with more than one name: where it was restored first, and what it was then.
struct FirstLink {
    path: Vec<u8>,
    entry: Entry,
}

/// A directory that is being walked.
struct Level<'r> {
    path: Vec<u8>,
    entries: Box<dyn Iterator<Item = Result<Entry>> + 'r>,
    /// This restore makes it, so nothing can be there of what is in it. In a dry run something else may still stand in its
    /// place.
    is_new: bool,
    /// It is on the way to something wanted and need not be there: it is looked for, and made, with the first such thing.
    pending: Option<Entry>,
}

/// A directory whose metadata are set at the end.
struct Unfinished {
    path: Vec<u8>,
    entry: Entry,
}

/// What is to be done about an entry.
enum Decision {
    Make {
        replaces: bool,
    },
    /// `same`: it is the snapshot's, as far as size and time tell.
    Keep {
        descend: bool,
        same: bool,
    },
}

/// A walk on its way through the tree.
struct Walk<'r, 'a> {
    restore: &'r Restore<'a>,
    pool: &'r rayon::ThreadPool,
    stack: Vec<Level<'r>>,
    /// Files that are planned and not yet written.
    jobs: Vec<Job>,
    directories: Vec<Unfinished>,
    first_links: HashMap<(u64, u64), FirstLink>,
    /// Further names of files: the first name, and what is to be linked to it.
    links: Vec<(Vec<u8>, Job)>,
}

/// Returns the words for what is no directory.
fn kind_of(file_type: FileType) -> &'static str {
    match file_type {
        FileType::RegularFile => "a file",
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a pipe",
        FileType::Socket => "a socket",
        _ => "a device",
    }
}

fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// Restores everything that is wanted of a snapshot.
pub(super) fn walk(restore: &Restore<'_>, info: &SnapshotInfo, pool: &rayon::ThreadPool) -> Result<()> {
    let mut walk = Walk {
        restore,
        pool,
        stack: Vec::new(),
        jobs: Vec::new(),
        directories: Vec::new(),
        first_links: HashMap::new(),
        links: Vec::new(),
    };
    let root = info.snapshot.root;
    if restore.options.delete && restore.options.filter.paths().iter().all(Vec::is_empty) {
        restore.delete_others(b"", &crate::query::root_entry(root))?;
    }
    if restore.is_continued() {
        restore.sweep(b"")?;
    }
    walk.enter(Vec::new(), root, restore.ground == Ground::Fresh, None);
    while let Some(level) = walk.stack.last_mut() {
        if restore.monitor.is_cancelled() {
            return Err(Error::Interrupted);
        }
        match level.entries.next() {
            None => {
                walk.stack.pop();
            }
            Some(Ok(entry)) => {
                let path = join(&level.path, &entry.name);
                walk.entry(path, entry)?;
            }
            // what lies behind a node that cannot be read may be readable
            Some(Err(error)) => {
                let path = level.path.clone();
                restore.fail(&path, error)?;
            }
        }
        if walk.jobs.len() >= BATCH_FILES {
            restore.batch(std::mem::take(&mut walk.jobs), pool)?;
        }
    }
    walk.finish()
}

impl Walk<'_, '_> {
    fn enter(&mut self, path: Vec<u8>, directory: TreeId, is_new: bool, pending: Option<Entry>) {
        let reader = self.restore.reader;
        let entries: Box<dyn Iterator<Item = Result<Entry>>> = match self.restore.options.filter.names_in(&path) {
            None => Box::new(reader.entries(directory)),
            Some(names) => {
                Box::new(names.into_iter().filter_map(move |name| reader.lookup_name(directory, &name).transpose()))
            }
        };
        self.stack.push(Level { path, entries, is_new, pending });
    }

    fn entry(&mut self, path: Vec<u8>, entry: Entry) -> Result<()> {
        match self.restore.options.filter.wants(&path, entry.kind == EntryKind::Directory) {
            Wanted::No => return Ok(()),
            Wanted::Way => {
                if let Some(subtree) = entry.subtree {
                    self.enter(path, subtree, false, Some(entry));
                }
                return Ok(());
            }
            Wanted::Yes => {}
        }
        let prepared = self.make_way();
        match prepared.and_then(|is_new| self.restore.decide(&path, &entry, is_new)) {
            Ok(Decision::Keep { descend, same }) => self.keep(path, entry, descend, same),
            Ok(Decision::Make { replaces }) => self.make(path, entry, replaces),
            Err(error) => self.restore.fail(&path, error),
        }
    }

    fn keep(&mut self, path: Vec<u8>, entry: Entry, descend: bool, same: bool) -> Result<()> {
        let restore = self.restore;
        if let (true, Some(subtree)) = (descend, entry.subtree) {
            if restore.options.delete {
                restore.delete_others(&path, &entry)?;
            }
            if restore.is_continued()
                && let Err(error) = restore.sweep(&path)
            {
                restore.fail(&path, error)?;
            }
            self.enter(path.clone(), subtree, false, None);
            if restore.options.overwrite != Overwrite::Never || restore.is_continued() {
                self.directories.push(Unfinished { path, entry });
            }
            return Ok(());
        }
        restore.note(Action::Kept, &path, 0);
        if let (Some(device), true) = (entry.hard_link_device, same && restore.is_continued()) {
            // what an interrupted restore had finished is what the snapshot has
            self.first_links.entry((device, entry.inode)).or_insert(FirstLink { path, entry });
        }
        Ok(())
    }

    fn make(&mut self, path: Vec<u8>, entry: Entry, replaces: bool) -> Result<()> {
        let restore = self.restore;
        if let Some(device) = entry.hard_link_device {
            let link = (device, entry.inode);
            if let Some(first) = self.first_links.get(&link).filter(|first| first.entry.is_same_file(&entry)) {
                self.links.push((first.path.clone(), Job { path, entry, replaces }));
                return Ok(());
            }
            self.first_links.insert(link, FirstLink { path: path.clone(), entry: entry.clone() });
        }
        match (entry.kind, entry.subtree) {
            (EntryKind::File, _) => self.jobs.push(Job { path, entry, replaces }),
            (EntryKind::Directory, Some(subtree)) => {
                if let Err(error) = restore.make_directory(&path, replaces) {
                    return restore.fail(&path, error);
                }
                restore.note(if replaces { Action::Replaced } else { Action::Created }, &path, 0);
                self.enter(path.clone(), subtree, true, None);
                self.directories.push(Unfinished { path, entry });
            }
            _ => {
                let made = restore.make_special(&path, &entry, replaces);
                let written = made.map(|problem| Written::new(replaces, problem));
                restore.finish_job(&Job { path, entry, replaces }, written)?;
            }
        }
        Ok(())
    }

    /// Makes the directories on the way to something wanted. Returns whether the last one is new.
    fn make_way(&mut self) -> Result<bool> {
        let restore = self.restore;
        let mut is_new = false;
        for level in &mut self.stack {
            if level.pending.is_some() {
                let there = if is_new { None } else { restore.target.look(&level.path)? };
                level.is_new = there.is_none();
                if let Some(stat) = there
                    && !is_directory(&stat)
                {
                    return Err(restore.in_the_way(&level.path, &stat, "only what was asked for is replaced"));
                }
                if level.is_new {
                    restore.make_directory(&level.path, false)?;
                } else if restore.is_continued()
                    && let Err(error) = restore.sweep(&level.path)
                {
                    restore.fail(&level.path, error)?;
                }
            }
            is_new = level.is_new;
            // only now: if it cannot be made, whatever else lies in it must not be written either
            if let Some(entry) = level.pending.take()
                && (is_new || restore.is_continued())
            {
                self.directories.push(Unfinished { path: level.path.clone(), entry });
            }
        }
        Ok(is_new)
    }

    /// Writes the last files, then further names of files, then the metadata of directories.
    fn finish(self) -> Result<()> {
        let restore = self.restore;
        restore.batch(self.jobs, self.pool)?;
        for (first, job) in self.links {
            let lost = restore.not_restored.lock().unwrap_or_else(PoisonError::into_inner).contains(&first);
            let written = match (lost, job.entry.kind) {
                (false, _) => restore.link(&first, &job).map(|()| Written::new(job.replaces, None)),
                (true, EntryKind::File) => restore.write(&job),
                (true, _) => {
                    let made = restore.make_special(&job.path, &job.entry, job.replaces);
                    made.map(|problem| Written::new(job.replaces, problem))
                }
            };
            restore.finish_job(&job, written)?;
        }
        if restore.options.dry_run {
            return Ok(());
        }
        // what lies deepest comes last in the walk and is finished first
        for directory in self.directories.into_iter().rev() {
            if let Err(error) = restore.target.finish_entry(&directory.path, &directory.entry) {
                restore.fail(&directory.path, error)?;
            }
        }
        Ok(())
    }
}

impl Restore<'_> {
    fn is_continued(&self) -> bool {
        matches!(self.ground, Ground::Continued { .. })
    }

    fn make_directory(&self, path: &[u8], replaces: bool) -> Result<()> {
        if self.options.dry_run {
            return Ok(());
        }
        if replaces {
            // it was no directory when that was looked at; one that is there by now goes only if it is empty
            self.target.remove_one(path)?;
        }
        self.target.make_directory(path)
    }

    fn make_special(&self, path: &[u8], entry: &Entry, replaces: bool) -> Result<Option<Error>> {
        if self.options.dry_run {
            return self.try_replacing(path, replaces).map(|()| None);
        }
        self.target.make_special(path, entry, replaces, &|| self.clear(path))
    }

    fn link(&self, first: &[u8], job: &Job) -> Result<()> {
        if self.options.dry_run {
            return self.try_replacing(&job.path, job.replaces);
        }
        self.target.link(first, &job.path, job.replaces, &|| self.clear(&job.path))
    }

    /// Deletes what a directory of the target has and the snapshot has not, as far as that says anything.
    fn delete_others(&self, path: &[u8], entry: &Entry) -> Result<()> {
        let Some(subtree) = entry.subtree.filter(|_| self.unread.was_listed(path)) else { return Ok(()) };
        let names = match self.target.names(path) {
            Ok(names) => names,
            Err(Error::Local { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return self.fail(path, error),
        };
        let may_delete = match self.may_delete_in(path) {
            Ok(may_delete) => may_delete,
            Err(error) => return self.fail(path, error),
        };
        let mut kept = HashSet::new();
        for entry in self.reader.entries(subtree) {
            match entry {
                Ok(entry) => kept.insert(entry.name),
                // what cannot be known to be superfluous stays
                Err(error) => return self.fail(path, error),
            };
        }
        for name in names {
            if kept.contains(&name) || (path.is_empty() && name == MARKER.as_bytes()) {
                continue;
            }
            let full = join(path, &name);
            // what was not asked for is not ours to delete
            if self.options.filter.wants(&full, false) != Wanted::Yes {
                continue;
            }
            match may_delete && !self.unread.concerns(&full) {
                true => self.delete(&full).map(|_| ())?,
                false => self.spare(&full),
            }
        }
        Ok(())
    }

    /// Tells whether anything may be deleted in a directory that the snapshot has: not in what is never deleted, wherever
    /// that begins, and not where another file system lies within a source, for a backup may have left out what is on it.
    /// A source itself may lie on any.
    fn may_delete_in(&self, path: &[u8]) -> Result<bool> {
        let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        for end in [0].into_iter().chain(slashes).chain([path.len()]) {
            let directory = &path[..end];
            if self.target.is_one_of(directory, &self.options.never_delete)?
                || (self.unread.lies_in_source(directory) && self.target.is_mounted(directory)?)
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Deletes what is in a directory that stands in the way of something else, if all of it may go.
    pub(super) fn clear(&self, path: &[u8]) -> Result<()> {
        if !self.options.delete {
            return Ok(());
        }
        // nothing is deleted in vain
        if self.unread.concerns(path) || !self.may_delete_in(split(path).0)? || !self.may_all_go(path)? {
            let why = "--delete removes nothing that is excluded, that the backup did not or could not look at, that is \
                       mounted there, or of the repository";
            return Err(self.target.not_empty(path, why));
        }
        self.delete_below(path).map(|_| ())
    }

    /// Tells whether a directory may be deleted with everything in it.
    fn may_all_go(&self, path: &[u8]) -> Result<bool> {
        if self.is_apart(path)? {
            return Ok(false);
        }
        for name in self.target.names(path)? {
            let full = join(path, &name);
            let is_directory = self.target.look(&full)?.as_ref().is_some_and(is_directory);
            if self.options.filter.wants(&full, false) != Wanted::Yes || (is_directory && !self.may_all_go(&full)?) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Tells whether a directory is never deleted, whatever is to become of the one that it lies in.
    fn is_apart(&self, path: &[u8]) -> Result<bool> {
        Ok(self.target.is_one_of(path, &self.options.never_delete)? || self.target.is_mounted(path)?)
    }

    /// Finds out in a dry run what becomes of what stands in the way.
    pub(super) fn try_replacing(&self, path: &[u8], replaces: bool) -> Result<()> {
        if !replaces || !self.target.look(path)?.as_ref().is_some_and(is_directory) {
            return Ok(());
        }
        self.clear(path)?;
        match self.options.delete || self.target.names(path)?.is_empty() {
            true => Ok(()),
            false => Err(self.target.not_empty(path, "only --delete removes what is in it")),
        }
    }

    fn delete_below(&self, path: &[u8]) -> Result<bool> {
        if self.is_apart(path)? {
            self.spare(path);
            return Ok(false);
        }
        let mut gone = true;
        for name in self.target.names(path)? {
            let full = join(path, &name);
            gone &= self.options.filter.wants(&full, false) == Wanted::Yes && self.delete(&full)?;
        }
        Ok(gone)
    }

    /// Deletes something, a directory with everything in it that was asked for, and itself if nothing is left. Returns
    /// whether it is gone.
    fn delete(&self, path: &[u8]) -> Result<bool> {
        let gone = match self.target.look(path) {
            Ok(stat) if stat.as_ref().is_some_and(is_directory) => self.delete_below(path),
            looked => looked.map(|_| true),
        };
        match gone {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(error) => return self.fail(path, error).map(|()| false),
        }
        match if self.options.dry_run { Ok(()) } else { self.target.remove_one(path) } {
            Ok(()) => {
                self.note(Action::Deleted, path, 0);
                Ok(true)
            }
            Err(error) => self.fail(path, error).map(|()| false),
        }
    }

    /// Deletes what an interrupted restore was writing under a name of its own.
    fn sweep(&self, path: &[u8]) -> Result<()> {
        for name in self.target.names(path)? {
            let full = join(path, &name);
            // no directory has such a name while it is made
            let is_ours =
                name.starts_with(TEMPORARY_PREFIX) && !self.target.look(&full)?.as_ref().is_some_and(is_directory);
            if is_ours && !self.options.dry_run {
                self.target.remove_one(&full)?;
            }
        }
        Ok(())
    }

    /// Something that is no directory stands where one should be.
    fn in_the_way(&self, path: &[u8], stat: &Stat, advice: &str) -> Error {
        let why = format!("{} stands there ({advice})", kind_of(FileType::from_raw_mode(stat.st_mode)));
        let source = std::io::Error::new(std::io::ErrorKind::NotADirectory, why);
        Error::local("make the directory", self.target.path(path), source)
    }

    /// Decides about one entry, looking at what is there where the directory that it lies in is not new.
    fn decide(&self, path: &[u8], entry: &Entry, is_new: bool) -> Result<Decision> {
        if is_new {
            return Ok(Decision::Make { replaces: false });
        }
        let Some(stat) = self.target.look(path)? else { return Ok(Decision::Make { replaces: false }) };
        let there = FileType::from_raw_mode(stat.st_mode);
        if entry.kind == EntryKind::Directory && there == FileType::Directory {
            return Ok(Decision::Keep { descend: true, same: false });
        }
        let is_file = there == FileType::RegularFile && entry.kind == EntryKind::File;
        let same = is_file && stat.st_size as u64 == entry.size && mtime(&stat) == entry.mtime;
        let replaces = match (self.ground, self.options.overwrite) {
            (Ground::Continued { .. }, _) if is_file && stat.st_mode & 0o7777 == UNFINISHED_MODE => true,
            // bytes that were never written out may be missing, whatever the time says that we gave it; only what differs
            // is written
            (Ground::Continued { rebooted: true }, _) if is_file && mtime(&stat) == entry.mtime => true,
            (_, Overwrite::Never) => false,
            (_, Overwrite::IfChanged) => !same,
            (_, Overwrite::IfNewer) => entry.mtime > mtime(&stat),
            (_, Overwrite::Always) => true,
        };
        if !replaces && entry.kind == EntryKind::Directory {
            // everything in the directory is lacking then, which is more than one thing that was left as it was
            return Err(self.in_the_way(path, &stat, "only --overwrite replaces it"));
        }
        Ok(if replaces { Decision::Make { replaces: true } } else { Decision::Keep { descend: false, same } })
    }
}
