//! One backup run, from the registration of its session to its commit.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use lakebed_core::chunker::{Chunker, ChunkerParameters};
use lakebed_core::codec::compress::FrameContent;
use lakebed_core::id::{SessionId, TreeId};
use lakebed_core::layout;
use lakebed_core::monitor::{Monitor, Phase, Progress};
use lakebed_core::protocol::WriterStep;
use lakebed_core::record::RECORD_VERSION;
use lakebed_core::record::session::{Outcome, Run as RunRecord, Session, SessionProgress};
use lakebed_core::record::snapshot::{Failure, Snapshot, SourceRecord, Summary};
use lakebed_core::record::tree::{Content, Entry, EntryKind};
use lakebed_core::source::{Fingerprint, Source, SourceError, SourceErrorKind};
use lakebed_core::text::escape_path;
use lakebed_core::time::Timestamp;

use super::desk::{Desk, Desks};
use super::directory::{FileWork, Work};
use super::mount_point::{MountPoint, arrange, records_of};
use super::moves::Moves;
use super::node::DirNode;
use super::parent::{Base, Comparison, choose};
use super::place::Place;
use super::queue::{Next, Queue};
use super::{BackupOptions, BackupReport, Request};
use crate::check::segments_may_be_lost;
use crate::error::{Error, Result};
use crate::index::Index;
use crate::repository::{
    BlobReader, ByteCounts, ChunkStore, FrameBuilder, Gauge, Joined, RateLimit, Repository, SessionHandle, SnapshotInfo,
};
use crate::source::{Mount, shard_of};

/// Of fewer files a large share is soon gone.
const SHRINK_MIN_FILES: u64 = 100;

/// Counts that the workers share.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) files: AtomicU64,
    pub(super) directories: AtomicU64,
    pub(super) others: AtomicU64,
    pub(super) files_new: AtomicU64,
    pub(super) files_changed: AtomicU64,
    pub(super) files_unmodified: AtomicU64,
    pub(super) files_unseen: AtomicU64,
    /// Files that looked untouched, were read nevertheless, and had other content.
    pub(super) files_mistaken: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) bytes_read: AtomicU64,
    /// Sources whose root could be listed or read.
    pub(super) roots_read: AtomicU64,
    failures: AtomicU64,
    /// It is about to commit.
    is_committing: AtomicBool,
}

impl Counts {
    fn summary(&self, chunks: &ByteCounts, started: Timestamp, finished: Timestamp) -> Summary {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Summary {
            started,
            finished,
            files: get(&self.files),
            directories: get(&self.directories),
            others: get(&self.others),
            files_new: get(&self.files_new),
            files_changed: get(&self.files_changed),
            files_unmodified: get(&self.files_unmodified),
            files_unseen: get(&self.files_unseen),
            bytes: get(&self.bytes),
            bytes_read: get(&self.bytes_read),
            bytes_new: get(&chunks.new),
            bytes_deduplicated: get(&chunks.deduplicated),
            bytes_stored: get(&chunks.stored),
        }
    }
}

/// A file of several names that has been read under one of them.
pub(super) struct LinkedFile {
    pub(super) print: Fingerprint,
    /// What the source calls its content, if anything.
    pub(super) named: Content,
    /// Its content as it is stored.
    pub(super) stored: Content,
}

/// What all workers of a run share.
pub(super) struct Run<'a> {
    pub(super) options: &'a BackupOptions,
    pub(super) monitor: &'a dyn Monitor,
    pub(super) reader: BlobReader,
    pub(super) chunks: ChunkStore,
    pub(super) chunker: Chunker,
    /// Cuts what is compressed already.
    pub(super) coarse_chunker: Chunker,
    pub(super) queue: Queue<Work>,
    pub(super) comparisons: Vec<Comparison>,
    /// A pack or a segment is missing, or was damaged once: no chunk counts as present before it was looked up.
    pub(super) distrust: bool,
    pub(super) counts: Arc<Counts>,
    /// Everything is read, also what looks untouched.
    pub(super) read_all: bool,
    pub(super) failures: Mutex<Vec<Failure>>,
    pub(super) failed: Mutex<Option<Error>>,
    /// The run was told to stop: it makes a checkpoint and ends.
    pub(super) stopping: AtomicBool,
    /// Why, where nobody interrupted it.
    stop_reason: Mutex<Option<Error>>,
    pub(super) owners: Mutex<(BTreeSet<u32>, BTreeSet<u32>)>,
    /// User and group that were noted last.
    pub(super) last_owner: AtomicU64,
    pub(super) hard_links: Mutex<HashMap<(u64, u64), LinkedFile>>,
    pub(super) read_limit: Option<RateLimit>,
    pub(super) root: Arc<DirNode>,
    /// Desks that somebody left: with frames that are not full.
    pub(super) desks: Desks,
    /// A source is far away: workers wait for it.
    pub(super) is_far: bool,
    /// Where objects are in the first tree compared with.
    pub(super) moves: Moves,
    /// All that is read.
    sources: Vec<Arc<dyn Source>>,
    pub(super) session: Mutex<Option<SessionHandle>>,
    /// Set when the session was found expired.
    expired: Option<(SessionId, Arc<AtomicBool>)>,
    pub(super) clock: Arc<dyn lakebed_core::time::Clock>,
    pub(super) started: Timestamp,
    pub(super) checkpoint_due_ns: AtomicU64,
    /// Checkpoints scheduled so far.
    pub(super) checkpoints: AtomicU64,
}

impl Run<'_> {
    /// Notes that an entry is missing or doubtful. The run goes on, unless it is one too many.
    pub(super) fn entry_failed(&self, path: &[Vec<u8>], error: &SourceError) {
        self.note_failure(path, error, crate::error_chain(error));
    }

    /// Notes that an entry could not be seen, and is kept as the parent has it.
    pub(super) fn entry_unseen(&self, path: &[Vec<u8>], error: &SourceError) {
        self.note_failure(path, error, format!("{}; kept as in the snapshot before", crate::error_chain(error)));
    }

    fn note_failure(&self, path: &[Vec<u8>], error: &SourceError, reason: String) {
        if error.kind == SourceErrorKind::SourceEnded {
            // whoever was let go has nothing to say
            if !self.is_stopping() {
                self.stop(Error::SourceEnded { reason });
            }
            return;
        }
        self.monitor.entry_failed(error);
        let failure = Failure { path: escape_path(&path.join(&b'/')), reason };
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).push(failure);
        let count = self.counts.failures.fetch_add(1, Ordering::Relaxed) + 1;
        if let Some(max) = self.options.max_failures.filter(|max| count > *max) {
            self.stop(Error::TooManyFailures { max });
        }
    }

    /// Ends the run as soon as what was done until now is kept for the next one.
    fn stop(&self, why: Error) {
        self.stop_reason.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
        self.interrupt();
    }

    /// Lets go whoever waits, and asks everybody to park for a last checkpoint.
    fn interrupt(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        // before anybody is let go: who comes back finds that he is to park
        self.queue.request_parking();
        self.sources.iter().for_each(|source| source.stop());
    }

    /// Tells whether the run is about to end without a commit.
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Keeps what was done for the next run, where this one is not to commit.
    fn refuse(&self, parent: Option<&Summary>) -> Result<()> {
        let why = self.stop_reason.lock().unwrap_or_else(PoisonError::into_inner).take();
        // whoever was let go has left something out, and has not told: nothing commits after that
        let interrupted = || self.is_stopping().then_some(Error::Interrupted);
        match why.or_else(interrupted).or_else(|| self.has_shrunk(parent?)) {
            Some(why) => self.checkpoint().and(Err(why)),
            None => Ok(()),
        }
    }

    /// Tells whether so much of the parent is gone that it is rather not seen than deleted.
    fn has_shrunk(&self, parent: &Summary) -> Option<Error> {
        let share = self.options.max_shrink.filter(|_| self.options.shard.is_none())?;
        let files = self.counts.files.load(Ordering::Relaxed);
        let fewest = parent.files as f64 * (1.0 - share);
        let is_refused = parent.files >= SHRINK_MIN_FILES && (files as f64) < fewest;
        is_refused.then_some(Error::Shrunk { files, parent_files: parent.files })
    }

    /// Notes what was asked for and does not come with its source.
    fn not_had(&self, mount: &Mount) {
        mount.failures.iter().for_each(|(path, error)| self.entry_failed(path, error));
    }

    /// Ends the run without a commit.
    pub(super) fn fail(&self, error: Error) {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.queue.end();
    }

    pub(super) fn summary(&self) -> Summary {
        self.counts.summary(&self.chunks.counts, self.started, self.clock.now())
    }

    /// Says how others find out what the run is doing.
    fn gauge(&self, parent: Option<&Summary>) -> Gauge {
        let (counts, chunks, clock) = (self.counts.clone(), self.chunks.counts.clone(), self.clock.clone());
        let (started, expected_files) = (self.started, parent.map(|parent| parent.files));
        Gauge(Box::new(move || SessionProgress {
            phase: if counts.is_committing.load(Ordering::Relaxed) { "commit" } else { "backup" }.into(),
            summary: counts.summary(&chunks, started, clock.now()),
            failures: counts.failures.load(Ordering::Relaxed),
            expected_files,
        }))
    }
}

/// What one worker has of its own.
pub(super) struct Worker<'r, 'a> {
    pub(super) run: &'r Run<'a>,
    pub(super) desk: Desk,
    /// Directories whose listing it has interrupted.
    pub(super) nested: usize,
}

impl Worker<'_, '_> {
    fn work(&mut self) -> Result<()> {
        loop {
            let run = self.run;
            match self.at_no_desk(run.is_far, || run.queue.next()) {
                Next::Work(work) => self.work_on(work)?,
                Next::Frame(frame) => self.run.chunks.store_frame(&frame)?,
                Next::Park => self.park()?,
                Next::End => break,
            }
        }
        self.run.desks.leave(std::mem::take(&mut self.desk));
        Ok(())
    }

    /// Asks a source something, and is away meanwhile where the source is far.
    pub(super) fn ask<T>(&mut self, is_far: bool, ask: impl FnOnce() -> T) -> T {
        let queue = &self.run.queue;
        self.at_no_desk(is_far, || if is_far { queue.away(ask) } else { ask() })
    }

    /// Waits for something, at no desk where it may take long.
    fn at_no_desk<T>(&mut self, takes_long: bool, wait: impl FnOnce() -> T) -> T {
        if !takes_long {
            return wait();
        }
        self.run.desks.leave(std::mem::take(&mut self.desk));
        let outcome = wait();
        self.desk = self.run.desks.take();
        outcome
    }

    /// Adds a chunk to the frame for its kind of content, and sends the frame off when it is full.
    pub(super) fn add_chunk(
        &mut self,
        content: FrameContent,
        id: lakebed_core::id::ChunkId,
        plain: &[u8],
    ) -> Result<()> {
        let builder = self.desk.frame(content);
        if !builder.has_room(plain.len()) {
            let full = std::mem::replace(builder, FrameBuilder::new(content));
            // an idle worker takes it; else it is stored here, and its memory used again
            if let Err(mut frame) = self.run.queue.offer(full) {
                self.run.chunks.store_frame(&frame)?;
                frame.clear();
                *builder = frame;
            }
        }
        builder.push(id.into(), plain);
        Ok(())
    }

    /// Parks where a checkpoint wants it, and asks for one where it is due. Called between files and chunks.
    pub(super) fn pause(&mut self) -> Result<()> {
        if self.run.queue.has_ended() {
            // another worker has failed: what it said is what counts
            return Err(Error::Interrupted);
        }
        if let Some((session, expired)) = &self.run.expired
            && expired.load(Ordering::Relaxed)
        {
            return Err(Error::SessionExpired { session: *session });
        }
        let stop = self.run.monitor.is_cancelled() && !self.run.is_stopping();
        if stop {
            self.run.interrupt();
        }
        if stop || (!self.run.queue.wants_parking() && self.run.checkpoint_is_due()) {
            self.run.queue.request_parking();
        }
        if self.run.queue.wants_parking() {
            self.park()?;
        }
        Ok(())
    }

    fn park(&mut self) -> Result<()> {
        for frame in self.desk.filled() {
            self.run.chunks.store_frame(frame)?;
            frame.clear();
        }
        let run = self.run;
        run.queue.park(|| {
            match run.checkpoint() {
                Err(error) => run.fail(error),
                // who interrupts a run wants it to end soon, and to go on from here the next time; he may do so while the
                // checkpoint is made
                Ok(()) if run.is_stopping() => {
                    let why = run.stop_reason.lock().unwrap_or_else(PoisonError::into_inner).take();
                    run.fail(why.unwrap_or(Error::Interrupted));
                }
                Ok(()) => {}
            }
        });
        Ok(())
    }
}

/// What a run that committed, or had nothing to commit, leaves to be done.
struct Finished {
    report: BackupReport,
    /// Sessions to be expired.
    dead: Vec<SessionId>,
    /// Sessions whose records are to go.
    ended: Vec<SessionId>,
    /// What was found to be joined in catalogues.
    joined: Joined,
    index: Arc<Index>,
}

pub(super) fn run(
    repository: &Repository,
    mounts: Vec<Mount>,
    request: &Request<'_>,
    monitor: &dyn Monitor,
) -> Result<BackupReport> {
    let options = request.options;
    repository.config().check_writable().map_err(Error::Config)?;
    let started = repository.clock().now();
    let mounts: Vec<Mount> = match &options.shard {
        Some(shard) => mounts.into_iter().map(|mount| shard_of(mount, shard)).collect(),
        None => mounts,
    };
    let sources: Vec<SourceRecord> = mounts.iter().flat_map(records_of).collect();
    if let Some(shard) = &options.shard {
        repository.refuse_joined_run(&shard.run, &options.host, &sources)?;
    }
    let mount_points = arrange(mounts)?;

    // register, then read what is condemned, then choose what to compare with: the order that makes pruning safe
    let mut session = match options.dry_run {
        true => None,
        false => {
            monitor.step(WriterStep::Register.into());
            Some(register(repository, &sources, options)?)
        }
    };
    let result = run_session(repository, mount_points, sources, request, monitor, started, &mut session);
    let ended = session.map_or(Ok(false), |session| end_session(session, &result, request));
    let may_delete = ended.unwrap_or_else(|error| {
        monitor.warn(&format!("the session's end was not recorded: {}", crate::error_chain(&error)));
        false
    });
    let Finished { report, dead, ended, joined, index } = result?;
    if let Some(snapshot) = &report.snapshot {
        let expire =
            |id| repository.expire_session(id, snapshot.id, "its process is dead or its run has ended").map(drop);
        let cleaned = dead.into_iter().try_for_each(expire);
        let cleaned = cleaned.and_then(|()| ended.into_iter().try_for_each(|id| repository.remove_session(id)));
        if let Err(error) = cleaned {
            monitor.warn(&format!("sessions that ended were not cleaned up: {}", crate::error_chain(&error)));
        }
        // what is joined takes the place of others: who may not delete leaves it to others, or there would be more and
        // more. Of several machines the one that joins their parts does it
        let is_part = request.options.shard.is_some();
        if may_delete
            && !is_part
            && let Err(error) = join_small(repository, &joined, &index)
        {
            monitor.warn(&format!("small objects were not joined: {}", crate::error_chain(&error)));
        }
    }
    Ok(report)
}

/// Joins what is so small that reading it one by one would cost a new machine many requests.
fn join_small(repository: &Repository, joined: &Joined, index: &Index) -> Result<()> {
    if joined.is_worth_joining() {
        repository.join_outcomes()?;
    }
    repository.join_segments(index)?;
    // where it cannot be kept, the next run folds it again
    let _ = index.flush();
    Ok(())
}

/// Records how a session ended. One that failed but has a checkpoint is kept, for the next run to continue from. Returns
/// whether records could be deleted.
fn end_session(session: SessionHandle, result: &Result<Finished>, request: &Request<'_>) -> Result<bool> {
    // what a run that failed has done until then
    let begun = Summary { started: session.registered(), finished: session.registered(), ..Summary::default() };
    let done = session.progress().map_or(begun, |progress| progress.summary);
    let failures = session.progress().map_or(0, |progress| progress.failures);
    let (outcome, error, summary) = match result {
        Ok(Finished { report: BackupReport { snapshot: None, summary, .. }, .. }) => {
            (Outcome::Unchanged, None, *summary)
        }
        Ok(Finished { report, .. }) if report.failures.is_empty() => (Outcome::Done, None, report.summary),
        Ok(Finished { report, .. }) => (Outcome::Partial, None, report.summary),
        Err(Error::Interrupted) => (Outcome::Interrupted, None, done),
        Err(error) => (Outcome::Failed, Some(crate::error_chain(error)), done),
    };
    let record = RunRecord {
        version: RECORD_VERSION,
        command: request.command.into(),
        process: session.process(),
        outcome,
        error,
        summary,
        failures,
        tool: request.options.tool.clone(),
        unknown: Default::default(),
    };
    session.end(&record, result.is_ok())
}

fn register(repository: &Repository, sources: &[SourceRecord], options: &BackupOptions) -> Result<SessionHandle> {
    let record = Session {
        version: RECORD_VERSION,
        number: 0,
        time: Timestamp::default(),
        base_generation: 0,
        process: repository.processes().this(&options.host),
        sources: sources.to_vec(),
        parent: None,
        checkpoint: None,
        progress: None,
        shard: options.shard.clone(),
        unknown: Default::default(),
    };
    SessionHandle::register(repository, record)
}

/// What a run lists before it begins to read, but for the condemned packs.
const LISTED: [&str; 8] = [
    layout::INDEX,
    layout::PACKS,
    layout::FORGOTTEN,
    layout::SNAPSHOTS,
    layout::CATALOGUE,
    layout::ANNOTATIONS,
    layout::SESSIONS,
    layout::LOST_PACKS,
];

fn run_session(
    repository: &Repository,
    mount_points: MountPoint,
    sources: Vec<SourceRecord>,
    request: &Request<'_>,
    monitor: &dyn Monitor,
    started: Timestamp,
    session: &mut Option<SessionHandle>,
) -> Result<Finished> {
    let options = request.options;
    monitor.step(WriterStep::ReadCondemned.into());
    // the lists of condemned packs by themselves and first; what comes of the rest is put right below
    let (condemned, ahead) = repository.condemned_packs_then(&LISTED)?;
    monitor.step(WriterStep::FoldSegments.into());
    let index = Arc::new(repository.index(monitor)?);
    let listed = repository.store().list_packs()?;
    let missing = index.check_packs(&listed, &condemned);
    if missing > 0 {
        monitor.warn(&format!(
            "{missing} packs are missing or of another size; what they held is stored again as far as it is found"
        ));
    }
    monitor.step(WriterStep::ChooseParent.into());
    let own_id = session.as_ref().map(SessionHandle::id);
    let nobody = || SessionId::new([0; 32]);
    let Base { parent, parent_summary, last_full, comparisons, dead, ended, resumed, joined } =
        choose(repository, own_id.unwrap_or_else(nobody), &sources, options)?;
    if let Some(session) = session {
        session.set_parent(parent);
    }
    let is_full_due = options.full_every.is_some_and(|every| {
        let age = last_full.filter(|time| *time <= started).map(|time| started.seconds_since(time));
        age.is_none_or(|age| age >= i64::try_from(every.as_secs()).unwrap_or(i64::MAX))
    });
    let has_lost_packs = repository.has_lost_packs()?;
    drop(ahead);
    // what is compared with may have been committed since the index was folded. Whoever knows its root knows the segments
    // that were published before; should one of them have been missed, it is folded when something of it is looked for
    let is_known = |tree: &TreeId| index.lookup(&(*tree).into()).map(|place| place.is_some());
    let roots = comparisons.iter().map(|comparison| comparison.root);
    if !roots.map(|root| is_known(&root)).collect::<Result<Vec<_>>>()?.into_iter().all(|known| known) {
        index.fold_new(repository.store(), monitor).map_err(Error::from)?;
    }
    monitor.step(WriterStep::StorePacks.into());
    let mounted = mount_points.sources();
    let readers = mounted.iter().map(|source| source.manner().readers).max().unwrap_or(0);
    // of a source that is far away it is known about how much there is, and it takes long
    let total = parent_summary
        .as_ref()
        .filter(|_| readers > 0)
        .map(|parent| Progress { entries: parent.files + parent.directories + parent.others, bytes: 0 });
    monitor.phase(Phase::Backup, total);

    let config = repository.config();
    let chunker = |parameters: &ChunkerParameters| {
        Chunker::new(parameters, repository.store().keys().chunker_key())
            .map_err(|why| Error::Config(lakebed_core::record::config::ConfigError::Chunker { why }))
    };
    let limit = |rate: Option<u64>| rate.map(|rate| RateLimit::new(rate, repository.shared_clock()));
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = match options.threads {
        0 => processors.max(readers),
        threads => threads,
    };
    let comparison_roots = comparisons.iter().enumerate().map(|(i, comparison)| (i, comparison.root)).collect();
    let takes_over = comparisons.first().is_some_and(|comparison| comparison.protected);
    let root = DirNode::root(comparison_roots, takes_over);
    let mut run = Run {
        options,
        monitor,
        reader: match request.reads_storage {
            true => BlobReader::new(repository.store().clone(), index.clone()),
            false => repository.reader_over(index.clone()),
        },
        chunks: ChunkStore::new(repository, index.clone(), own_id, options.compression, limit(options.write_limit))?,
        chunker: chunker(&config.chunker)?,
        coarse_chunker: chunker(&config.chunker.coarser())?,
        queue: Queue::new(workers, processors.min(workers)),
        comparisons,
        distrust: request.distrust
            || missing > 0
            || index.lacks_segments()
            || segments_may_be_lost(repository, &index, &listed)?
            || has_lost_packs,
        counts: Arc::default(),
        read_all: options.read_all || is_full_due,
        failures: Mutex::default(),
        failed: Mutex::default(),
        stopping: AtomicBool::new(false),
        stop_reason: Mutex::default(),
        owners: Mutex::default(),
        last_owner: AtomicU64::new(u64::MAX),
        hard_links: Mutex::default(),
        read_limit: limit(options.read_limit),
        root: root.clone(),
        desks: Desks::default(),
        is_far: readers > 0,
        moves: Moves::default(),
        sources: mounted,
        expired: session.as_ref().map(|session| (session.id(), session.expired())),
        session: Mutex::new(session.take()),
        clock: repository.shared_clock(),
        started,
        checkpoint_due_ns: AtomicU64::new(0),
        checkpoints: AtomicU64::new(0),
    };
    run.schedule_checkpoint();
    if let Some(session) = &*run.session.lock().unwrap_or_else(PoisonError::into_inner) {
        session.set_gauge(run.gauge(parent_summary.as_ref()));
    }
    let walk = || walk(&run, mount_points, workers);
    let walked = match run.is_far {
        true => crate::system::watched(monitor, &|| run.interrupt(), walk),
        false => walk(),
    };
    let walked = walked.and_then(|()| run.refuse(parent_summary.as_ref()));
    *session = run.session.get_mut().unwrap_or_else(PoisonError::into_inner).take();
    walked?;

    if run.counts.roots_read.load(Ordering::Relaxed) == 0 {
        return Err(Error::NothingRead);
    }
    monitor.phase(Phase::Commit, None);
    run.counts.is_committing.store(true, Ordering::Relaxed);
    let root = root.finished().ok_or(Error::NothingRead)?;
    monitor.step(WriterStep::PublishSegments.into());
    run.chunks.publish()?;
    let mut failures = std::mem::take(&mut *run.failures.lock().unwrap_or_else(PoisonError::into_inner));
    failures.sort_by(|a, b| a.path.cmp(&b.path));
    let unchanged = options.skip_if_unchanged
        && parent.is_some()
        && run.comparisons.first().is_some_and(|comparison| comparison.protected && comparison.root == root);
    let mistaken = run.counts.files_mistaken.load(Ordering::Relaxed);
    let read_all = run.read_all;
    let mut report =
        BackupReport { snapshot: None, parent, resumed, read_all, mistaken, summary: run.summary(), failures };
    if let (Some(session), false) = (session.as_ref(), unchanged) {
        let mut snapshot = snapshot(&run, &report, session, root, sources);
        if (request.review)(&mut snapshot, &run.reader)? {
            monitor.step(WriterStep::Commit.into());
            report.summary.bytes_stored += session.commit(&snapshot)?;
            report.snapshot = Some(SnapshotInfo { id: session.id(), snapshot });
        }
    }
    if let Err(error) = index.flush() {
        // the snapshot stands; the next run folds its segments again
        monitor.warn(&format!("the local index was not kept: {}", crate::error_chain(&error)));
    }
    Ok(Finished { report, dead, ended, joined, index })
}

fn snapshot(
    run: &Run<'_>,
    report: &BackupReport,
    session: &SessionHandle,
    root: TreeId,
    sources: Vec<SourceRecord>,
) -> Snapshot {
    let options = run.options;
    let tags: BTreeSet<String> = options.tags.iter().cloned().collect();
    let owners = run.owners.lock().unwrap_or_else(PoisonError::into_inner);
    Snapshot {
        version: RECORD_VERSION,
        time: options.time.unwrap_or(run.started),
        root,
        parent: report.parent,
        sources,
        host: options.host.clone(),
        user: options.user.clone(),
        tags: tags.into_iter().collect(),
        description: options.description.clone(),
        summary: report.summary,
        failures: report.failures.clone(),
        owners: crate::system::owner_names(&owners.0, &owners.1),
        original: None,
        shard: options.shard.clone(),
        joined: None,
        read_all: run.read_all,
        session: session.id(),
        base_generation: session.base_generation(),
        tool: options.tool.clone(),
        unknown: Default::default(),
    }
}

/// Lets the workers walk everything that is mounted.
fn walk(run: &Run<'_>, mount_points: MountPoint, workers: usize) -> Result<()> {
    place_mounts(run, mount_points)?;
    std::thread::scope(|scope| {
        for number in 0..workers {
            let thread = std::thread::Builder::new().name(format!("lakebed-backup-{number}"));
            let work = || {
                let mut worker = Worker { run, desk: Desk::default(), nested: 0 };
                // a worker that panics must not leave the others waiting for it
                let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| worker.work()));
                match result {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => run.fail(error),
                    Err(_) => run.fail(Error::Poisoned { message: "a worker of the backup panicked".into() }),
                }
            };
            if let Err(source) = thread.spawn_scoped(scope, work) {
                run.fail(Error::Machine { operation: "start a thread", source });
            }
        }
    });
    if let Some(error) = run.failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
        return Err(error);
    }
    store_left_over(run)
}

/// Joins the frames that were not full and stores them: files that came in small numbers compress better together.
fn store_left_over(run: &Run<'_>) -> Result<()> {
    let mut left_over: Vec<FrameBuilder> = run.desks.take_all().into_iter().flat_map(Desk::into_filled).collect();
    left_over.sort_by_key(|frame| frame.plain.len());
    let mut joined: Vec<FrameBuilder> = Vec::new();
    for frame in left_over {
        if !joined.iter_mut().any(|into| into.absorb(&frame)) {
            joined.push(frame);
        }
    }
    std::thread::scope(|scope| {
        let begin = |frame| {
            let thread = std::thread::Builder::new().spawn_scoped(scope, move || run.chunks.store_frame(frame));
            thread.map_err(|source| Error::Machine { operation: "start a thread", source })
        };
        let threads: Vec<_> = joined.iter().map(begin).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, Result<()>>| {
            thread.join().unwrap_or_else(|_| Err(Error::Poisoned { message: "storing the last frames".into() }))
        };
        threads.into_iter().try_for_each(|thread| join(thread?))
    })
}

/// Builds the directories above the sources and queues the sources themselves.
fn place_mounts(run: &Run<'_>, top: MountPoint) -> Result<()> {
    let mut roots = 0;
    let mut unreadable: Vec<(Vec<Vec<u8>>, SourceError)> = Vec::new();
    let mut stack = vec![(top, run.root.clone(), Vec::new())];
    while let Some((point, node, path)) = stack.pop() {
        if let Some(mount) = point.source {
            run.not_had(&mount);
            // the source's entries lie right in this directory: only at the top
            match mount.source.root() {
                Ok(entry) if entry.kind == EntryKind::Directory => {
                    roots += 1;
                    run.queue.push(Work::mounted(node, mount, entry));
                }
                Ok(_) => return Err(Error::SamePath { path: String::new() }),
                Err(error) => {
                    unreadable.push((mount.tree_path.clone(), error));
                    if node.release() {
                        run.finish_directory(node)?;
                    }
                }
            }
            continue;
        }
        let mut comparisons = run.children_in_comparisons(&node)?;
        for (name, below) in point.below {
            let slot = node.add();
            let matching = comparisons.remove(&name).unwrap_or_default();
            let mut path: Vec<Vec<u8>> = path.clone();
            path.push(name.clone());
            let Some(mount) = below.source.clone() else {
                let mut entry = below.entry.clone().unwrap_or_else(|| {
                    let mut entry = Entry::new(name.clone(), EntryKind::Directory);
                    entry.mode = 0o755;
                    entry
                });
                entry.name = name;
                let child = run.child_directory(&node, slot, entry, &matching);
                stack.push((below, child, path));
                continue;
            };
            run.not_had(&mount);
            match mount.source.root() {
                Ok(mut entry) => {
                    roots += 1;
                    entry.name = name;
                    let place = Place::root(mount.clone());
                    if entry.kind == EntryKind::Directory {
                        if let Err(error) = run.complete_entry(&mut entry, &matching, &path, &place) {
                            run.keep_doubtful(&mut entry, &path, &error);
                        }
                        let child = run.child_directory(&node, slot, entry.clone(), &matching);
                        run.queue.push(Work::mounted(child, mount, entry));
                    } else {
                        let file = FileWork { place, path, entry, matching };
                        run.queue.push(Work::File { node: node.clone(), slot, file: Box::new(file) });
                    }
                }
                Err(error) => {
                    unreadable.push((mount.tree_path.clone(), error));
                    node.complete(slot, None, run.nodes())?;
                }
            }
        }
        // what the tree compared with has besides is not asked for now
        if comparisons.values().flatten().any(|(which, _)| *which == 0) {
            node.differs();
        }
        if node.release() {
            run.finish_directory(node)?;
        }
    }
    if roots == 0 {
        return Err(match unreadable.into_iter().next() {
            Some((_, source)) => Error::Root { path: source.path.clone(), source },
            None => Error::NothingRead,
        });
    }
    unreadable.iter().for_each(|(path, error)| run.entry_failed(path, error));
    Ok(())
}
