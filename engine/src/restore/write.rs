//! Walking the tree and writing what is wanted.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use lakebed_core::codec::frame::OpenFrame;
use lakebed_core::id::{ChunkId, PackId};
use lakebed_core::layout;
use lakebed_core::monitor::{Monitor, Phase, Progress};
use lakebed_core::pack::PackKind;
use lakebed_core::record::tree::{Content, Entry, EntryKind, Extent};
use lakebed_core::text::escape_path;
use rayon::prelude::*;
use rustix::fs::FileType;

use super::marker::{Ground, MARKER, Marker};
use super::plan::Wanted;
use super::target::{Target, UNFINISHED_MODE, mtime};
use super::{Action, Overwrite, RestoreFailure, RestoreOptions, RestoreReport, Visitor};
use crate::error::{Error, Result};
use crate::index::Location;
use crate::query::join;
use crate::repository::{BlobReader, SnapshotInfo, TreeEntries};

/// Files planned before they are written: enough for every frame to be met once, few enough to be held in memory.
const BATCH_FILES: usize = 16 * 1024;

/// A file to be written.
struct Job {
    path: Vec<u8>,
    entry: Entry,
    /// Something is there that it replaces.
    replaces: bool,
}

/// What workers share.
struct Restore<'a> {
    reader: &'a BlobReader,
    options: &'a RestoreOptions,
    visitor: Visitor<'a>,
    monitor: &'a dyn Monitor,
    target: Target,
    ground: Ground,
    report: Mutex<RestoreReport>,
    /// Paths of files that were not restored: nothing may be linked to them.
    not_restored: Mutex<HashSet<Vec<u8>>>,
}

/// A file with more than one name: where it was restored first, and what it was then.
struct FirstLink {
    path: Vec<u8>,
    entry: Entry,
}

impl FirstLink {
    /// Numbers are given anew after a file is deleted: only what is equal is one file.
    fn is_same(&self, entry: &Entry) -> bool {
        let Self { entry: first, .. } = self;
        first.kind == entry.kind
            && first.size == entry.size
            && first.content == entry.content
            && first.link_target == entry.link_target
            && first.device == entry.device
    }
}

/// A directory that is being walked.
struct Level {
    path: Vec<u8>,
    entries: TreeEntries,
}

/// A directory whose metadata are set at the end.
struct Unfinished {
    path: Vec<u8>,
    entry: Entry,
}

/// Files of one chunk each that lie in one frame: the frame, and each file with its place.
type FrameJobs = (Location, Vec<(Location, Job)>);

/// What a worker does at once.
enum Task {
    Frame(FrameJobs),
    Single(Box<Job>),
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
    let restore = Restore {
        reader,
        options,
        visitor,
        monitor,
        target: Target::new(options.target.clone(), options.owners),
        ground: marker.ground,
        report: Mutex::new(RestoreReport {
            continued: matches!(marker.ground, Ground::Continued { .. }),
            ..RestoreReport::default()
        }),
        not_restored: Mutex::default(),
    };
    if !options.dry_run {
        restore.target.make_root()?;
        marker.set(&options.target, info.id)?;
    }
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(options.threads)
        .thread_name(|number| format!("lakebed-restore-{number}"))
        .build()
        .map_err(|error| Error::Machine { operation: "start threads", source: std::io::Error::other(error) })?;
    monitor.phase(Phase::Restore, None);
    restore.walk(info, &pool)?;
    if !options.dry_run {
        if options.sync {
            restore.target.sync()?;
        }
        marker.clear()?;
    }
    Ok(restore.report.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// Tells whether the repository is at fault.
fn is_damage(error: &Error) -> bool {
    !matches!(error, Error::Local { .. } | Error::Interrupted | Error::Machine { .. } | Error::Index { .. })
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
    fn report(&self) -> MutexGuard<'_, RestoreReport> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, action: Action, path: &[u8], bytes: u64) {
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

    /// Notes a failure of one entry; gives back what ends the restore.
    fn fail(&self, path: &[u8], error: Error) -> Result<()> {
        if is_final(&error) {
            return Err(error);
        }
        let damage = is_damage(&error);
        self.report().failures.push(RestoreFailure { path: self.target.path(path), error, damage });
        Ok(())
    }

    fn walk(&self, info: &SnapshotInfo, pool: &rayon::ThreadPool) -> Result<()> {
        let mut jobs = Vec::new();
        let mut directories: Vec<Unfinished> = Vec::new();
        let mut way: BTreeMap<Vec<u8>, Entry> = BTreeMap::new();
        let mut first_links: HashMap<(u64, u64), FirstLink> = HashMap::new();
        let mut links: Vec<(Vec<u8>, Job)> = Vec::new();
        let root = info.snapshot.root;
        if self.options.delete && self.options.filter.paths().is_empty() {
            self.delete_others(b"", &crate::query::root_entry(root))?;
        }
        let mut stack = vec![Level { path: Vec::new(), entries: self.reader.entries(root) }];
        while let Some(level) = stack.last_mut() {
            if self.monitor.is_cancelled() {
                return Err(Error::Interrupted);
            }
            let entry = match level.entries.next() {
                None => {
                    stack.pop();
                    continue;
                }
                Some(Ok(entry)) => entry,
                // what lies behind a node that cannot be read may be readable
                Some(Err(error)) => {
                    let path = level.path.clone();
                    self.fail(&path, error)?;
                    continue;
                }
            };
            let path = join(&level.path, &entry.name);
            let is_directory = entry.kind == EntryKind::Directory;
            match self.options.filter.wants(&path, is_directory) {
                Wanted::No => continue,
                Wanted::Way => {
                    if let Some(subtree) = entry.subtree {
                        stack.push(Level { path: path.clone(), entries: self.reader.entries(subtree) });
                    }
                    way.insert(path, entry);
                    continue;
                }
                Wanted::Yes => {}
            }
            let prepared = self.make_way(&path, &mut way, &mut directories);
            let link = entry.hard_link_device.map(|device| (device, entry.inode));
            match prepared.and_then(|()| self.decide(&path, &entry)) {
                Ok(Decision::Keep { descend }) => {
                    if !is_directory || !descend {
                        self.note(Action::Kept, &path, 0);
                    }
                    if let (true, Some(subtree)) = (descend, entry.subtree) {
                        if self.options.delete {
                            self.delete_others(&path, &entry)?;
                        }
                        stack.push(Level { path: path.clone(), entries: self.reader.entries(subtree) });
                        if self.options.overwrite != Overwrite::Never || self.is_continued() {
                            directories.push(Unfinished { path, entry });
                        }
                    } else if let (Some(link), true) = (link, self.is_continued()) {
                        // what an interrupted restore had finished is what the snapshot has
                        first_links.entry(link).or_insert(FirstLink { path, entry });
                    }
                }
                Ok(Decision::Make { replaces }) => {
                    let first = link.and_then(|link| first_links.get(&link)).filter(|first| first.is_same(&entry));
                    if let Some(first) = first {
                        links.push((first.path.clone(), Job { path, entry, replaces }));
                        continue;
                    }
                    if let Some(link) = link {
                        first_links.insert(link, FirstLink { path: path.clone(), entry: entry.clone() });
                    }
                    match entry.kind {
                        EntryKind::File => jobs.push(Job { path, entry, replaces }),
                        EntryKind::Directory => {
                            if let Err(error) = self.make_directory(&path, replaces) {
                                self.fail(&path, error)?;
                                continue;
                            }
                            self.note(if replaces { Action::Replaced } else { Action::Created }, &path, 0);
                            if let Some(subtree) = entry.subtree {
                                stack.push(Level { path: path.clone(), entries: self.reader.entries(subtree) });
                            }
                            directories.push(Unfinished { path, entry });
                        }
                        _ => {
                            let made = self.make_special(&path, &entry);
                            self.finish_job(
                                &Job { path, entry, replaces },
                                made.map(|problem| Written::new(replaces, problem)),
                            )?;
                        }
                    }
                }
                Err(error) => self.fail(&path, error)?,
            }
            if jobs.len() >= BATCH_FILES {
                self.batch(std::mem::take(&mut jobs), pool)?;
            }
        }
        self.batch(jobs, pool)?;
        for (first, job) in links {
            let lost = self.not_restored.lock().unwrap_or_else(PoisonError::into_inner).contains(&first);
            let written = match (lost, job.entry.kind) {
                (false, _) => self.link(&first, &job.path).map(|()| Written::new(job.replaces, None)),
                (true, EntryKind::File) => self.write(&job),
                (true, _) => self.make_special(&job.path, &job.entry).map(|p| Written::new(job.replaces, p)),
            };
            self.finish_job(&job, written)?;
        }
        if !self.options.dry_run {
            // what lies deepest comes last in the walk and is finished first
            for directory in directories.into_iter().rev() {
                if let Err(error) = self.target.finish_entry(&directory.path, &directory.entry) {
                    self.fail(&directory.path, error)?;
                }
            }
        }
        Ok(())
    }

    /// Makes the directories on the way to something wanted.
    fn make_way(
        &self,
        path: &[u8],
        way: &mut BTreeMap<Vec<u8>, Entry>,
        directories: &mut Vec<Unfinished>,
    ) -> Result<()> {
        if way.is_empty() {
            return Ok(());
        }
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        for end in ends {
            let above = &path[..end];
            if !way.contains_key(above) {
                continue;
            }
            let is_there = self.ground != Ground::Fresh && self.target.look(above)?.is_some();
            if !is_there {
                self.make_directory(above, false)?;
            }
            // only now: if it cannot be made, whatever else lies in it must not be written either
            if let Some(entry) = way.remove(above)
                && (!is_there || self.is_continued())
            {
                directories.push(Unfinished { path: above.to_vec(), entry });
            }
        }
        Ok(())
    }

    fn is_continued(&self) -> bool {
        matches!(self.ground, Ground::Continued { .. })
    }

    fn make_directory(&self, path: &[u8], replaces: bool) -> Result<()> {
        if self.options.dry_run {
            return Ok(());
        }
        if replaces {
            // it is no directory, so nothing else goes with it
            self.target.remove(path)?;
        }
        self.target.make_directory(path)
    }

    fn make_special(&self, path: &[u8], entry: &Entry) -> Result<Option<Error>> {
        if self.options.dry_run {
            return Ok(None);
        }
        self.target.make_special(path, entry, self.options.delete)
    }

    fn link(&self, first: &[u8], path: &[u8]) -> Result<()> {
        if self.options.dry_run {
            return Ok(());
        }
        self.target.link(first, path, self.options.delete)
    }

    /// Deletes what a directory of the target has and the snapshot has not.
    fn delete_others(&self, path: &[u8], entry: &Entry) -> Result<()> {
        let Some(subtree) = entry.subtree else { return Ok(()) };
        let names = match self.target.names(path) {
            Ok(names) => names,
            Err(Error::Local { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => return Ok(()),
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
            let deleted = if self.options.dry_run { Ok(()) } else { self.target.remove(&full) };
            match deleted {
                Ok(()) => self.note(Action::Deleted, &full, 0),
                Err(error) => self.fail(&full, error)?,
            }
        }
        Ok(())
    }

    /// Decides about one entry, looking at what is there.
    fn decide(&self, path: &[u8], entry: &Entry) -> Result<Decision> {
        if self.ground == Ground::Fresh {
            return Ok(Decision::Make { replaces: false });
        }
        let Some(stat) = self.target.look(path)? else { return Ok(Decision::Make { replaces: false }) };
        let there = FileType::from_raw_mode(stat.st_mode);
        if entry.kind == EntryKind::Directory && there == FileType::Directory {
            return Ok(Decision::Keep { descend: true });
        }
        let is_file = there == FileType::RegularFile && entry.kind == EntryKind::File;
        let same = is_file && stat.st_size as u64 == entry.size && mtime(&stat) == entry.mtime;
        let replaces = match (self.ground, self.options.overwrite) {
            (Ground::Continued { .. }, _) if is_file && stat.st_mode & 0o7777 == UNFINISHED_MODE => true,
            // bytes that were never written out may be missing, whatever size and time say; only what differs is written
            (Ground::Continued { rebooted: true }, _) if same => true,
            (_, Overwrite::Never) => false,
            (_, Overwrite::IfChanged) => !same,
            (_, Overwrite::IfNewer) => entry.mtime > mtime(&stat),
            (_, Overwrite::Always) => true,
        };
        Ok(if replaces { Decision::Make { replaces: true } } else { Decision::Keep { descend: false } })
    }

    /// Writes planned files: frame by frame what is small, file by file what is large.
    fn batch(&self, jobs: Vec<Job>, pool: &rayon::ThreadPool) -> Result<()> {
        if self.options.dry_run {
            for job in &jobs {
                self.note(if job.replaces { Action::Replaced } else { Action::Created }, &job.path, job.entry.size);
            }
            return Ok(());
        }
        pool.install(|| {
            let located: Vec<(Job, Result<Option<Location>>)> = jobs
                .into_par_iter()
                .map(|job| {
                    let place = match job.entry.content {
                        Content::Chunk(id) if !job.replaces => self.reader.index().lookup(&id.into()),
                        _ => Ok(None),
                    };
                    (job, place)
                })
                .collect();
            let mut frames: BTreeMap<(PackId, u32), FrameJobs> = BTreeMap::new();
            let mut tasks = Vec::new();
            for (job, place) in located {
                match place {
                    Ok(Some(place)) => {
                        let frame = frames.entry((place.pack, place.frame_offset));
                        frame.or_insert_with(|| (place, Vec::new())).1.push((place, job));
                    }
                    Ok(None) => tasks.push(Task::Single(Box::new(job))),
                    Err(error) => self.fail(&job.path, error)?,
                }
            }
            tasks.extend(frames.into_values().map(Task::Frame));
            tasks.into_par_iter().with_max_len(1).try_for_each(|task| match task {
                Task::Single(job) => self.finish_job(&job, self.write(&job)),
                Task::Frame((place, jobs)) => self.write_frame(&place, &jobs),
            })
        })
    }

    fn finish_job(&self, job: &Job, result: Result<Written>) -> Result<()> {
        match result {
            Ok(Written { action, problem }) => {
                self.note(action, &job.path, job.entry.size);
                // it is there, with all its bytes; only not everything about it could be set
                problem.map_or(Ok(()), |error| self.fail(&job.path, error))
            }
            Err(error) => {
                if job.entry.hard_link_device.is_some() {
                    self.not_restored.lock().unwrap_or_else(PoisonError::into_inner).insert(job.path.clone());
                }
                self.fail(&job.path, error)
            }
        }
    }

    /// Writes files that are one chunk each and lie in one frame.
    fn write_frame(&self, place: &Location, jobs: &[(Location, Job)]) -> Result<()> {
        if self.monitor.is_cancelled() {
            return Err(Error::Interrupted);
        }
        let mut frame = OpenFrame::default();
        let opened = self.open_frame(place, &mut frame);
        for (at, job) in jobs {
            let result = match &opened {
                Ok(()) => self.write_small(job, at, &frame),
                // whether one frame more or less can be read: each file is tried by itself and says what is wrong
                Err(_) => self.write(job),
            };
            self.finish_job(job, result)?;
        }
        Ok(())
    }

    fn open_frame(&self, place: &Location, frame: &mut OpenFrame) -> Result<()> {
        let mut bytes = Vec::new();
        let (offset, length) = (u64::from(place.frame_offset), place.frame_len as usize);
        self.reader.store().storage().get_range(&layout::pack(place.pack), offset, length, &mut bytes)?;
        self.reader.open_bytes(place.pack, offset, PackKind::Data, &bytes, frame)
    }

    fn write_small(&self, job: &Job, at: &Location, frame: &OpenFrame) -> Result<Written> {
        let Content::Chunk(id) = job.entry.content else { return self.write(job) };
        let wrong = || Error::WrongBlob { pack: at.pack, offset: at.frame_offset.into(), blob: id.into() };
        let plain = frame.plain.get(at.offset as usize..(at.offset + at.length) as usize).ok_or_else(wrong)?;
        if self.reader.store().keys().chunk_id(plain) != id || plain.len() as u64 != job.entry.size {
            return Err(wrong());
        }
        let mut file = self.target.begin_file(&job.path, self.ground == Ground::Fresh)?;
        file.write(plain)?;
        let problem = self.target.finish_file(file, &job.entry, self.options.delete)?;
        Ok(Written::new(false, problem))
    }

    /// Writes a file of any content, taking from the one that it replaces what is equal there.
    fn write(&self, job: &Job) -> Result<Written> {
        if self.options.dry_run {
            return Ok(Written::new(job.replaces, None));
        }
        let entry = &job.entry;
        let shown = escape_path(&job.path);
        let extents = self.reader.extents(entry)?;
        let existing = if job.replaces { self.target.existing(&job.path) } else { None };
        let existing = existing.map(|file| Existing { file, buffer: Mutex::default() });
        if let Some(existing) = &existing
            && existing.is_whole(entry.size, &extents, self.reader)
        {
            return Ok(Written { action: Action::Kept, problem: self.target.finish_entry(&job.path, entry).err() });
        }
        let mut file = self.target.begin_file(&job.path, self.ground == Ground::Fresh)?;
        let mut hasher = self.reader.store().keys().content_hasher();
        let whole = matches!(entry.content, Content::Extents { .. } | Content::Indirect { .. });
        let mut offset = 0;
        for extent in &extents {
            if self.monitor.is_cancelled() {
                return Err(Error::Interrupted);
            }
            match *extent {
                Extent::Hole { length } => file.skip(length)?,
                Extent::Data { id, length } => {
                    let mut write = |plain: &[u8]| {
                        if plain.len() as u64 != length {
                            return Err(Error::WrongContent { path: shown.clone() });
                        }
                        if whole {
                            hasher.update(plain);
                        }
                        file.write(plain)
                    };
                    let reused = existing
                        .as_ref()
                        .and_then(|existing| existing.with_chunk(offset, length, id, self.reader, &mut write));
                    match reused {
                        Some(result) => result?,
                        None => self.reader.with_chunk(id, write)??,
                    }
                }
            }
            offset += extent.length();
        }
        if whole && entry.content.hash() != Some(hasher.finish()) {
            return Err(Error::WrongContent { path: shown });
        }
        if matches!(extents.last(), Some(Extent::Hole { .. })) {
            file.set_size(entry.size)?;
        }
        let problem = self.target.finish_file(file, entry, self.options.delete)?;
        Ok(Written::new(job.replaces, problem))
    }
}

/// Something that was written: what that means for what was there, and what of its metadata could not be set.
struct Written {
    action: Action,
    problem: Option<Error>,
}

impl Written {
    fn new(replaces: bool, problem: Option<Error>) -> Self {
        Self { action: if replaces { Action::Replaced } else { Action::Created }, problem }
    }
}

/// What is to be done about an entry.
enum Decision {
    Make { replaces: bool },
    Keep { descend: bool },
}

/// A file that is about to be replaced, as a source of bytes that need not come from the repository.
struct Existing {
    file: std::fs::File,
    buffer: Mutex<Vec<u8>>,
}

impl Existing {
    /// Passes the bytes at an offset to `write` if they are the given chunk.
    fn with_chunk<T>(
        &self,
        offset: u64,
        length: u64,
        id: ChunkId,
        reader: &BlobReader,
        write: &mut dyn FnMut(&[u8]) -> T,
    ) -> Option<T> {
        use std::os::unix::fs::FileExt;
        let mut buffer = self.buffer.lock().unwrap_or_else(PoisonError::into_inner);
        buffer.resize(usize::try_from(length).ok()?, 0);
        self.file.read_exact_at(&mut buffer, offset).ok()?;
        (reader.store().keys().chunk_id(&buffer) == id).then(|| write(&buffer))
    }

    /// Tells whether the file has exactly this content already. Holes are taken for what they read as.
    fn is_whole(&self, size: u64, extents: &[Extent], reader: &BlobReader) -> bool {
        use std::os::unix::fs::FileExt;
        if self.file.metadata().map(|metadata| metadata.len()).ok() != Some(size) {
            return false;
        }
        let mut offset = 0;
        extents.iter().all(|extent| {
            let at = offset;
            offset += extent.length();
            match *extent {
                Extent::Data { id, length } => self.with_chunk(at, length, id, reader, &mut |_| ()).is_some(),
                Extent::Hole { length } => {
                    let mut buffer = vec![0; 64 << 10];
                    let end = at + length;
                    let mut at = at;
                    while at < end {
                        let part = (end - at).min(buffer.len() as u64) as usize;
                        let read = self.file.read_exact_at(&mut buffer[..part], at);
                        if read.is_err() || buffer[..part].iter().any(|&byte| byte != 0) {
                            return false;
                        }
                        at += part as u64;
                    }
                    true
                }
            }
        })
    }
}
