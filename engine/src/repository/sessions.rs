//! Sessions: registering a writer, its heartbeats and checkpoints, its one commit.
//!
//! The order of a writer's steps is what keeps data safe beside a prune: register, then read the condemned packs, then
//! choose a parent, and commit by putting the snapshot under the session's own key. Whoever expires a session puts an
//! expiry under that same key, so exactly one of the two happens.
//!
//! A heartbeat is one more record with a higher number. Numbers that do not move tell others, by their own clock, that
//! the session's process may be gone; being wrong about it costs the session its commit and nobody any data.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use lakebed_core::codec::frame::FrameKind;
use lakebed_core::id::SessionId;
use lakebed_core::layout;
use lakebed_core::process::Fate;
use lakebed_core::record::RECORD_VERSION;
use lakebed_core::record::session::{Checkpoint, Expiry, Process, Run, Session, SessionProgress};
use lakebed_core::record::snapshot::Snapshot;
use lakebed_core::storage::{ObjectKey, StorageErrorKind};
use lakebed_core::time::Timestamp;

use super::store::draw;
use super::{Repository, parallel};
use crate::error::{Error, Result};

/// So much time lies between two heartbeats. Whoever waits for a session gives it many times as long.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(60);

/// A registered writer. Its heart beats, in a thread of its own, until it ends.
#[derive(Debug)]
pub struct SessionHandle {
    shared: Arc<Shared>,
    heart: Option<(Sender<()>, JoinHandle<()>)>,
}

/// What the session and its heart share.
#[derive(Debug)]
struct Shared {
    repository: Repository,
    id: SessionId,
    registered: Timestamp,
    record: Mutex<Session>,
    /// Somebody has expired the session: it cannot commit any more.
    expired: Arc<AtomicBool>,
    /// What the session is doing.
    gauge: Mutex<Option<Gauge>>,
}

/// Tells what a session is doing.
pub(crate) struct Gauge(pub(crate) Box<dyn Fn() -> SessionProgress + Send>);

impl std::fmt::Debug for Gauge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Gauge")
    }
}

impl Shared {
    fn record(&self) -> MutexGuard<'_, Session> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn progress(&self) -> Option<SessionProgress> {
        let gauge = self.gauge.lock().unwrap_or_else(PoisonError::into_inner);
        gauge.as_ref().map(|Gauge(tell)| tell())
    }

    /// Puts the next record. The one before it is of no use then; the registration stays, in case this one is damaged.
    fn put_next(&self, change: impl FnOnce(&mut Session)) -> Result<()> {
        let store = &self.repository.store;
        let mut record = self.record();
        let before = record.number;
        record.number += 1;
        record.time = self.repository.clock().now();
        record.progress = self.progress();
        change(&mut record);
        store.put_record(&layout::session(self.id, record.number), &*record, self.repository.random())?;
        store.storage().sync()?;
        if before > 0 {
            // where deleting is not allowed it stays, which is harmless
            let _ = store.storage().delete(&layout::session(self.id, before));
        }
        Ok(())
    }

    fn beat(&self) {
        let store = &self.repository.store;
        if store.storage().size(&layout::snapshot(self.id)).is_ok() {
            self.expired.store(true, Ordering::Relaxed);
            return;
        }
        // one that is missed costs nothing: the next one comes
        let _ = self.put_next(|_| {});
    }
}

/// A session found in storage, by its newest record.
#[derive(Debug, Clone)]
pub struct SessionInfo {
    /// Its id.
    pub id: SessionId,
    /// When its oldest record was written, by the writer's clock: when it began.
    pub started: Timestamp,
    /// Its newest record.
    pub newest: Session,
    /// Its newest checkpoint.
    pub checkpoint: Option<Checkpoint>,
}

impl SessionHandle {
    /// Registers a session. `record.number` and `record.base_generation` are filled in here.
    ///
    /// # Errors
    /// Storage.
    pub fn register(repository: &Repository, mut record: Session) -> Result<Self> {
        let id = SessionId::new(draw(repository.random())?);
        record.number = 0;
        record.base_generation = repository.known_generation()?;
        record.time = repository.clock().now();
        repository.store.put_record(&layout::session(id, 0), &record, repository.random())?;
        repository.store.storage().sync()?;
        let registered = record.time;
        let repository = repository.clone();
        let shared = Shared {
            repository,
            id,
            registered,
            record: record.into(),
            expired: Arc::default(),
            gauge: Mutex::default(),
        };
        let shared = Arc::new(shared);
        let (stop, stopped) = channel::<()>();
        let beating = shared.clone();
        let thread = std::thread::Builder::new()
            .name("lakebed-heartbeat".into())
            .spawn(move || {
                while stopped.recv_timeout(HEARTBEAT) == Err(RecvTimeoutError::Timeout) {
                    beating.beat();
                }
            })
            .map_err(|source| Error::Machine { operation: "start a thread", source })?;
        Ok(Self { shared, heart: Some((stop, thread)) })
    }

    /// Returns the session's id, which its snapshot will have.
    pub fn id(&self) -> SessionId {
        self.shared.id
    }

    /// Returns when it was registered, by its own clock.
    pub(crate) fn registered(&self) -> Timestamp {
        self.shared.registered
    }

    /// Returns the newest generation that was known when the session began.
    pub fn base_generation(&self) -> u64 {
        self.shared.record().base_generation
    }

    /// Returns the process.
    pub fn process(&self) -> Process {
        self.shared.record().process.clone()
    }

    /// Notes which snapshot is compared with.
    pub fn set_parent(&self, parent: Option<SessionId>) {
        self.shared.record().parent = parent;
    }

    /// Says how to find out what the session is doing: from now on its records tell.
    pub(crate) fn set_gauge(&self, gauge: Gauge) {
        *self.shared.gauge.lock().unwrap_or_else(PoisonError::into_inner) = Some(gauge);
    }

    /// Returns what the session is doing, or did at last.
    pub(crate) fn progress(&self) -> Option<SessionProgress> {
        self.shared.progress()
    }

    /// Returns what is set once the session was found expired: it cannot commit, so there is no use in going on.
    pub fn expired(&self) -> Arc<AtomicBool> {
        self.shared.expired.clone()
    }

    /// Shows once more that the session lives, and looks whether somebody has expired it. Happens by itself every minute.
    pub fn beat(&self) {
        self.shared.beat();
    }

    /// Publishes how far the session has come. Everything that the checkpoint's tree needs is durable already.
    ///
    /// # Errors
    /// Storage.
    pub fn checkpoint(&self, checkpoint: Checkpoint) -> Result<()> {
        self.shared.put_next(|record| record.checkpoint = Some(checkpoint))
    }

    /// Commits: puts the snapshot under the session's key. When it returns, the snapshot is durable.
    ///
    /// # Errors
    /// `SessionExpired` where somebody has expired the session; storage.
    pub fn commit(&self, snapshot: &Snapshot) -> Result<u64> {
        let Shared { repository, id, .. } = &*self.shared;
        let store = &repository.store;
        let size = match store.put_kept_record(&layout::snapshot(*id), snapshot, repository.random()) {
            Err(Error::Storage(error)) if error.kind == StorageErrorKind::AlreadyExists => {
                return Err(Error::SessionExpired { session: *id });
            }
            result => result?,
        };
        store.storage().sync()?;
        Ok(size)
    }

    /// Ends a session: its audit record is written, its registration and checkpoints go. A session that failed keeps its
    /// newest checkpoint for whoever continues it, if it has one; else it is expired. Returns whether something was deleted:
    /// not everybody may.
    ///
    /// # Errors
    /// Storage. It fails nothing else: the session's process is gone soon, and the next run cleans up.
    pub fn end(mut self, run: &Run, succeeded: bool) -> Result<bool> {
        self.stop_heart();
        let Shared { repository, id, .. } = &*self.shared;
        repository.store.put_record(&layout::run(*id), run, repository.random())?;
        let has_checkpoint = self.shared.record().checkpoint.is_some();
        match (succeeded, has_checkpoint) {
            // those between were deleted one by one; what is left of them the next run finds
            (true, _) => repository.remove_records(*id, [0, self.shared.record().number]),
            (false, true) => Ok(false),
            (false, false) => repository.expire_session(*id, *id, "its run failed").map(|_| false),
        }
    }

    fn stop_heart(&mut self) {
        if let Some((stop, thread)) = self.heart.take() {
            drop(stop);
            // it returns nothing, and whatever it met is met again by the session itself
            let _ = thread.join();
        }
    }
}

impl Drop for SessionHandle {
    fn drop(&mut self) {
        self.stop_heart();
    }
}

impl Repository {
    /// Returns how runs have ended, by their sessions: all that are on record. One that is damaged is passed over.
    ///
    /// # Errors
    /// Storage.
    pub fn runs(&self) -> Result<Vec<(SessionId, Run)>> {
        let objects = self.store.storage().list(layout::RUNS)?;
        let records = parallel::each(&self.store, &objects, |object| self.store.read_record::<Run>(&object.key));
        let mut runs = Vec::new();
        for (object, record) in objects.iter().zip(records) {
            match (layout::last_part(&object.key).parse(), record) {
                (Ok(id), Ok(run)) => runs.push((id, run)),
                (_, Err(Error::Storage(error))) if !error.is_not_found() => return Err(error.into()),
                _ => {}
            }
        }
        runs.sort_by_key(|(id, run): &(SessionId, Run)| (run.summary.started, *id));
        Ok(runs)
    }

    /// Returns the sessions that are registered and have neither committed nor been expired.
    ///
    /// # Errors
    /// Storage. A record that is damaged is passed over: it belongs to a session that cannot be continued.
    pub fn sessions(&self) -> Result<Vec<SessionInfo>> {
        Ok(self.sessions_and_leftovers(None, None)?.0)
    }

    /// Returns the running sessions, and those that have ended and left their records behind: a process killed right
    /// after its commit does. One of them, the caller's own, is passed over. Where it was listed just before which sessions
    /// have an outcome, that will do.
    pub(crate) fn sessions_and_leftovers(
        &self,
        except: Option<SessionId>,
        with_outcome: Option<&HashSet<SessionId>>,
    ) -> Result<(Vec<SessionInfo>, Vec<SessionId>)> {
        let mut sessions: Vec<SessionInfo> = Vec::new();
        let id_of = |key: &ObjectKey| key.as_str().split('/').nth(1).and_then(|id| id.parse::<SessionId>().ok());
        let mut objects = self.store.storage().list(layout::SESSIONS)?;
        objects.retain(|object| id_of(&object.key).is_some_and(|id| except != Some(id)));
        let records = parallel::each(&self.store, &objects, |object| self.store.read_record::<Session>(&object.key));
        for (object, record) in objects.iter().zip(records) {
            let Some(id) = id_of(&object.key) else { continue };
            let record = match record {
                Ok(record) => record,
                Err(Error::Storage(error)) if !error.is_not_found() => return Err(error.into()),
                Err(_) => continue,
            };
            let checkpoint = record.checkpoint.clone();
            // the listing is sorted: a session's records come together, by ascending number
            match sessions.last_mut().filter(|session| session.id == id) {
                Some(session) => {
                    session.newest = record;
                    session.checkpoint = checkpoint.or(session.checkpoint.take());
                }
                None => sessions.push(SessionInfo { id, started: record.time, newest: record, checkpoint }),
            }
        }
        let (mut running, mut ended) = (Vec::new(), Vec::new());
        let outcomes = parallel::each(&self.store, &sessions, |session| match with_outcome {
            Some(known) => Ok(known.contains(&session.id)),
            None => self.has_outcome(session.id),
        });
        for (session, has_outcome) in sessions.into_iter().zip(outcomes) {
            match has_outcome? {
                true => ended.push(session.id),
                false => running.push(session),
            }
        }
        Ok((running, ended))
    }

    /// Returns the ids of all sessions with a record, whatever became of them and whether it can be read.
    pub(crate) fn registered_sessions(&self) -> Result<Vec<SessionId>> {
        let listed = self.list_settled(layout::SESSIONS)?;
        let ids = listed.iter().filter_map(|object| object.key.as_str().split('/').nth(1)?.parse().ok());
        let mut ids: Vec<SessionId> = ids.collect();
        ids.dedup();
        Ok(ids)
    }

    /// Reads a record of a session; `None` where it is gone or damaged.
    pub(crate) fn read_session(&self, id: SessionId, number: u32) -> Result<Option<Session>> {
        match self.store.read_record(&layout::session(id, number)) {
            Ok(session) => Ok(Some(session)),
            Err(Error::Storage(error)) if !error.is_not_found() => Err(error.into()),
            Err(_) => Ok(None),
        }
    }

    /// Returns the highest number of a session's records; `None` where there is none any more.
    pub(crate) fn heartbeat_of(&self, id: SessionId) -> Result<Option<u32>> {
        let listed = self.store.storage().list(&format!("{}{id}/", layout::SESSIONS))?;
        Ok(listed.iter().filter_map(|object| u32::from_str_radix(layout::last_part(&object.key), 16).ok()).max())
    }

    /// Tells whether a session has committed or was expired.
    pub(crate) fn has_outcome(&self, id: SessionId) -> Result<bool> {
        self.exists(&layout::snapshot(id))
    }

    /// Tells whether the run of a session is over: its audit record is there, whatever its process does now.
    pub(crate) fn run_has_ended(&self, id: SessionId) -> Result<bool> {
        self.exists(&layout::run(id))
    }

    fn exists(&self, key: &ObjectKey) -> Result<bool> {
        match self.store.storage().size(key) {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Tells whether nobody can be at a session any more: its process is certainly dead, or its run has ended.
    pub(crate) fn is_over(&self, id: SessionId, process: &Process) -> Result<bool> {
        Ok(self.processes().fate(process) == Fate::Dead || self.run_has_ended(id)?)
    }

    /// Expires a session, so that it can never commit. Returns whether it had not committed before.
    ///
    /// # Errors
    /// Storage.
    pub fn expire_session(&self, id: SessionId, by: SessionId, reason: &str) -> Result<bool> {
        let key = layout::snapshot(id);
        let expiry = Expiry {
            version: RECORD_VERSION,
            time: self.clock().now(),
            reason: reason.into(),
            by,
            unknown: Default::default(),
        };
        let expired = match self.store.put_record(&key, &expiry, self.random()) {
            Ok(_) => true,
            Err(Error::Storage(error)) if error.kind == StorageErrorKind::AlreadyExists => {
                self.store.read_kinds(&key, &[FrameKind::Snapshot, FrameKind::Expiry])?.0 == FrameKind::Expiry
            }
            Err(error) => return Err(error),
        };
        self.store.storage().sync()?;
        self.remove_session(id)?;
        Ok(expired)
    }

    /// Deletes records of a session that has ended, by their numbers. Returns whether that is allowed.
    fn remove_records(&self, id: SessionId, numbers: [u32; 2]) -> Result<bool> {
        let numbers = if numbers[0] == numbers[1] { &numbers[..1] } else { &numbers[..] };
        numbers.iter().try_fold(true, |all, &number| Ok(self.remove_record(&layout::session(id, number))? && all))
    }

    fn remove_record(&self, key: &ObjectKey) -> Result<bool> {
        match self.store.storage().delete(key) {
            Err(error) if error.kind == StorageErrorKind::PermissionDenied => Ok(false),
            Err(error) if !error.is_not_found() => Err(error.into()),
            _ => Ok(true),
        }
    }

    /// Deletes the records of a session that has ended. Where deleting is not allowed they stay, which is harmless.
    pub(crate) fn remove_session(&self, id: SessionId) -> Result<()> {
        for object in self.store.storage().list(&format!("{}{id}/", layout::SESSIONS))? {
            self.remove_record(&object.key)?;
        }
        Ok(())
    }
}
