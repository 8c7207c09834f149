//! Writing content: frame by frame what is small, file by file what is large.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use lakebed_core::codec::frame::OpenFrame;
use lakebed_core::id::{ChunkId, PackId};
use lakebed_core::pack::PackKind;
use lakebed_core::record::tree::{Content, Entry, Extent};
use lakebed_core::text::escape_path;
use rayon::prelude::*;

use super::Action;
use super::marker::Ground;
use super::run::{Job, Restore, Written};
use crate::error::{Error, Result};
use crate::index::Location;
use crate::repository::{BlobReader, Need};

/// Files from this size on are begun before the others.
const LARGE_FILE_BYTES: u64 = 8 << 20;

/// Files of one chunk each that lie in one frame: the frame, and each file with its place.
type FrameJobs = (Location, Vec<(Location, Job)>);

/// Where something begins: the pack, and the offset of its frame.
type Place = (PackId, u32);

/// What a worker does at once.
enum Task {
    Frame(FrameJobs),
    Single(Box<Job>),
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
    fn is_whole(&self, entry: &Entry, reader: &BlobReader) -> Result<bool> {
        if self.file.metadata().map(|metadata| metadata.len()).ok() != Some(entry.size) {
            return Ok(false);
        }
        let mut offset = 0;
        for run in reader.extent_runs(entry) {
            for extent in run? {
                let is_there = match extent {
                    Extent::Data { id, length } => self.with_chunk(offset, length, id, reader, &mut |_| ()).is_some(),
                    Extent::Hole { length } => self.is_zero(offset, length),
                };
                if !is_there {
                    return Ok(false);
                }
                offset += extent.length();
            }
        }
        Ok(true)
    }

    fn is_zero(&self, offset: u64, length: u64) -> bool {
        use std::os::unix::fs::FileExt;
        let mut buffer = vec![0; 64 << 10];
        let (mut at, end) = (offset, offset + length);
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

/// Returns the first chunk of a file whose list of chunks is at hand.
fn first_chunk(entry: &Entry) -> Option<ChunkId> {
    match &entry.content {
        Content::Chunk(id) => Some(*id),
        Content::Extents { extents, .. } => extents.iter().find_map(|extent| match extent {
            Extent::Data { id, .. } => Some(*id),
            Extent::Hole { .. } => None,
        }),
        Content::None | Content::Indirect { .. } => None,
    }
}

impl Restore<'_> {
    /// Writes planned files: frame by frame what is small, file by file what is large.
    pub(super) fn batch(&self, jobs: Vec<Job>, pool: &rayon::ThreadPool) -> Result<()> {
        if self.options.dry_run {
            return jobs.iter().try_for_each(|job| self.finish_job(job, self.write(job)));
        }
        pool.install(|| {
            let located: Vec<(Job, Result<Option<Location>>)> = jobs
                .into_par_iter()
                .map(|job| {
                    let place = first_chunk(&job.entry).map(|id| self.reader.index().lookup(&id.into()));
                    (job, place.transpose().map(Option::flatten))
                })
                .collect();
            let mut frames: BTreeMap<Place, FrameJobs> = BTreeMap::new();
            let mut singles = Vec::new();
            let mut tasks = Vec::new();
            for (job, place) in located {
                match place {
                    Ok(Some(place)) if matches!(job.entry.content, Content::Chunk(_)) => {
                        let frame = frames.entry((place.pack, place.frame_offset));
                        frame.or_insert_with(|| (place, Vec::new())).1.push((place, job));
                    }
                    Ok(Some(place)) if job.entry.size < LARGE_FILE_BYTES => {
                        tasks.push(((place.pack, place.frame_offset), Task::Single(Box::new(job))));
                    }
                    Ok(_) => singles.push(Box::new(job)),
                    Err(error) => self.fail(&job.path, error)?,
                }
            }
            // the large ones first, the largest before all: whoever came to one at the end would be at it alone
            singles.sort_by_key(|job| Reverse(job.entry.size));
            tasks.extend(frames.into_iter().map(|(place, frame)| (place, Task::Frame(frame))));
            // the others as they lie in packs
            tasks.sort_by_key(|(place, _)| *place);
            let tasks: Vec<Task> = tasks.into_iter().map(|(_, task)| task).collect();
            let reader = self.ahead_of(&tasks);
            let tasks = singles.into_iter().map(Task::Single).chain(tasks);
            tasks.par_bridge().try_for_each(|task| match task {
                Task::Single(job) => self.finish_job(&job, self.write_with(&reader, &job)),
                Task::Frame((place, jobs)) => self.write_frame(&reader, &place, &jobs),
            })
        })
    }

    /// Reads ahead what a batch needs, where that saves time. Large files see to that themselves: each of them would be all
    /// that is read ahead.
    fn ahead_of(&self, tasks: &[Task]) -> BlobReader {
        if !self.reader.store().storage().capabilities().is_remote {
            return self.reader.clone();
        }
        let needs = |task: &Task| match task {
            Task::Single(job) => Need::File(Box::new(job.entry.clone())),
            Task::Frame((place, _)) => Need::Part(place.frame()),
        };
        self.reader.ahead_of(tasks.iter().map(needs).collect())
    }

    pub(super) fn finish_job(&self, job: &Job, result: Result<Written>) -> Result<()> {
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
    fn write_frame(&self, reader: &BlobReader, place: &Location, jobs: &[(Location, Job)]) -> Result<()> {
        if self.monitor.is_cancelled() {
            return Err(Error::Interrupted);
        }
        let mut frame = None;
        for (at, job) in jobs {
            let existing = self.existing(job);
            let result = match self.keep(job, existing.as_ref()) {
                Ok(Some(kept)) => Ok(kept),
                Ok(None) => match frame.get_or_insert_with(|| Self::open_frame(reader, place)) {
                    Ok(frame) => self.write_small(job, at, frame),
                    // whether one frame more or less can be read: each file is tried by itself and says what is wrong
                    Err(_) => self.write(job),
                },
                Err(error) => Err(error),
            };
            self.finish_job(job, result)?;
        }
        Ok(())
    }

    fn open_frame(reader: &BlobReader, place: &Location) -> Result<OpenFrame> {
        let bytes = reader.frame_bytes(place)?;
        let mut frame = OpenFrame::default();
        reader.open_bytes(place.pack, place.frame_offset.into(), PackKind::Data, &bytes, &mut frame)?;
        Ok(frame)
    }

    fn existing(&self, job: &Job) -> Option<Existing> {
        let file = if job.replaces { self.target.existing(&job.path) } else { None };
        file.map(|file| Existing { file, buffer: Mutex::default() })
    }

    /// Leaves the file that is there if it has the content already, and sets only what is known about it.
    fn keep(&self, job: &Job, existing: Option<&Existing>) -> Result<Option<Written>> {
        match existing {
            Some(existing) if existing.is_whole(&job.entry, self.reader)? => {
                let problem = self.target.finish_entry(&job.path, &job.entry).err();
                Ok(Some(Written { action: Action::Kept, problem }))
            }
            _ => Ok(None),
        }
    }

    fn write_small(&self, job: &Job, at: &Location, frame: &OpenFrame) -> Result<Written> {
        let Content::Chunk(id) = job.entry.content else { return self.write(job) };
        let start = at.offset as usize;
        let plain = frame.plain.get(start..start + at.length as usize);
        let is_right =
            |plain: &&[u8]| plain.len() as u64 == job.entry.size && self.reader.store().keys().chunk_id(plain) == id;
        // what is wrong here may be right in another place: that is looked for, and what is found wrong is said
        let Some(plain) = plain.filter(is_right) else { return self.write(job) };
        let mut file = self.target.begin_file(&job.path, self.ground == Ground::Fresh)?;
        file.write(plain)?;
        let problem = self.target.finish_file(file, &job.entry, job.replaces, &|| self.clear(&job.path))?;
        Ok(Written::new(job.replaces, problem))
    }

    /// Writes a file of any content, taking from the one that it replaces what is equal there.
    pub(super) fn write(&self, job: &Job) -> Result<Written> {
        self.write_with(self.reader, job)
    }

    fn write_with(&self, reader: &BlobReader, job: &Job) -> Result<Written> {
        if self.options.dry_run {
            return self.try_replacing(&job.path, job.replaces).map(|()| Written::new(job.replaces, None));
        }
        let entry = &job.entry;
        let shown = escape_path(&job.path);
        let existing = self.existing(job);
        if let Some(kept) = self.keep(job, existing.as_ref())? {
            return Ok(kept);
        }
        let own;
        let reader = match entry.size >= LARGE_FILE_BYTES {
            true => {
                own = self.reader.ahead_of(vec![Need::File(Box::new(entry.clone()))]);
                &own
            }
            false => reader,
        };
        let mut runs = reader.extent_runs(entry).peekable();
        // where the list cannot be read nothing is begun
        if let Some(Err(error)) = runs.next_if(Result::is_err) {
            return Err(error);
        }
        let mut file = self.target.begin_file(&job.path, self.ground == Ground::Fresh)?;
        let mut hasher = reader.store().keys().content_hasher();
        let whole = matches!(entry.content, Content::Extents { .. } | Content::Indirect { .. });
        let mut offset = 0;
        let mut ends_with_hole = false;
        for run in runs {
            let run = run?;
            let mut left = run.as_slice();
            while let Some(extent) = left.first() {
                if self.monitor.is_cancelled() {
                    return Err(Error::Interrupted);
                }
                let mut write = |plain: &[u8]| {
                    if whole {
                        hasher.update(plain);
                    }
                    file.write(plain).map(|()| plain.len() as u64)
                };
                let (count, written) = match (extent, &existing) {
                    (&Extent::Hole { length }, _) => (1, file.skip(length).map(|()| length)),
                    (&Extent::Data { id, length }, Some(existing)) => {
                        match existing.with_chunk(offset, length, id, reader, &mut write) {
                            Some(written) => (1, written),
                            None => reader.with_chunks(&left[..1], write)?,
                        }
                    }
                    (Extent::Data { .. }, None) => reader.with_chunks(left, write)?,
                };
                let (written, (done, rest)) = (written?, left.split_at(count));
                if written != done.iter().map(Extent::length).sum::<u64>() {
                    return Err(Error::WrongContent { path: shown });
                }
                offset += written;
                left = rest;
            }
            ends_with_hole = matches!(run.last(), Some(Extent::Hole { .. }));
        }
        if whole && entry.content.hash() != Some(hasher.finish()) {
            return Err(Error::WrongContent { path: shown });
        }
        if ends_with_hole {
            file.set_size(entry.size)?;
        }
        let problem = self.target.finish_file(file, entry, job.replaces, &|| self.clear(&job.path))?;
        Ok(Written::new(job.replaces, problem))
    }
}
