//! Sessions: registering a writer, its checkpoints, its one commit.
//!
//! The order of a writer's steps is what keeps data safe beside a prune: register, then read the condemned packs, then
//! choose a parent, and commit by putting the snapshot under the session's own key. Whoever expires a session puts an
//! expiry under that same key, so exactly one of the two happens.

use std::collections::HashSet;

use lakebed_core::codec::frame::FrameKind;
use lakebed_core::id::{PackId, SessionId};
use lakebed_core::layout;
use lakebed_core::record::RECORD_VERSION;
use lakebed_core::record::gc::Condemnation;
use lakebed_core::record::session::{Checkpoint, Expiry, Process, Run, Session};
use lakebed_core::record::snapshot::Snapshot;
use lakebed_core::storage::StorageErrorKind;
use lakebed_core::time::Timestamp;

use super::Repository;
use super::store::draw;
use crate::error::{Error, Result};

/// A registered writer.
#[derive(Debug)]
pub struct SessionHandle {
    repository: Repository,
    record: Session,
    id: SessionId,
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
        record.base_generation = repository.generation()?;
        record.time = repository.clock().now();
        repository.store.put_record(&layout::session(id, 0), &record, repository.random())?;
        repository.store.storage().sync()?;
        Ok(Self { repository: repository.clone(), record, id })
    }

    /// Returns the session's id, which its snapshot will have.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// Returns the newest generation that was known when the session began.
    pub fn base_generation(&self) -> u64 {
        self.record.base_generation
    }

    /// Returns the process.
    pub fn process(&self) -> &Process {
        &self.record.process
    }

    /// Notes which snapshot is compared with.
    pub fn set_parent(&mut self, parent: Option<SessionId>) {
        self.record.parent = parent;
    }

    /// Publishes how far the session has come. Everything that the checkpoint's tree needs is durable already.
    ///
    /// # Errors
    /// Storage.
    pub fn checkpoint(&mut self, checkpoint: Checkpoint) -> Result<()> {
        self.record.number += 1;
        self.record.time = self.repository.clock().now();
        self.record.checkpoint = Some(checkpoint);
        let key = layout::session(self.id, self.record.number);
        self.repository.store.put_record(&key, &self.record, self.repository.random())?;
        Ok(self.repository.store.storage().sync()?)
    }

    /// Commits: puts the snapshot under the session's key. When it returns, the snapshot is durable.
    ///
    /// # Errors
    /// `SessionExpired` where somebody has expired the session; storage.
    pub fn commit(&self, snapshot: &Snapshot) -> Result<u64> {
        let store = &self.repository.store;
        let size = match store.put_record(&layout::snapshot(self.id), snapshot, self.repository.random()) {
            Err(Error::Storage(error)) if error.kind == StorageErrorKind::AlreadyExists => {
                return Err(Error::SessionExpired { session: self.id });
            }
            result => result?,
        };
        store.storage().sync()?;
        Ok(size)
    }

    /// Ends a session: its audit record is written, its registration and checkpoints go. A session that failed keeps its
    /// newest checkpoint for whoever continues it, if it has one; else it is expired.
    ///
    /// # Errors
    /// Storage. It fails nothing else: the session's process is gone soon, and the next run cleans up.
    pub fn end(self, run: &Run, succeeded: bool) -> Result<()> {
        let store = &self.repository.store;
        store.put_record(&layout::run(self.id), run, self.repository.random())?;
        match (succeeded, &self.record.checkpoint) {
            (true, _) => self.repository.remove_session(self.id),
            (false, Some(_)) => Ok(()),
            (false, None) => self.repository.expire_session(self.id, self.id, "its run failed").map(drop),
        }
    }
}

impl Repository {
    /// Returns the newest generation that a prune has claimed; 0 where none has.
    pub(crate) fn generation(&self) -> Result<u64> {
        let listed = self.store.storage().list(layout::GC)?;
        let numbers = listed.iter().filter_map(|object| object.key.as_str().split('/').nth(1));
        Ok(numbers.filter_map(|number| u64::from_str_radix(number, 16).ok()).max().unwrap_or_default())
    }

    /// Returns every pack that was ever condemned. It never becomes good again.
    pub(crate) fn condemned_packs(&self) -> Result<HashSet<PackId>> {
        let mut packs = HashSet::new();
        for object in self.store.storage().list(layout::GC)? {
            if object.key.as_str().split('/').nth(2) == Some("condemned") {
                packs.extend(self.store.read_record::<Condemnation>(&object.key)?.packs);
            }
        }
        Ok(packs)
    }

    /// Returns the sessions that are registered and have neither committed nor been expired.
    ///
    /// # Errors
    /// Storage. A record that is damaged is passed over: it belongs to a session that cannot be continued.
    pub fn sessions(&self) -> Result<Vec<SessionInfo>> {
        Ok(self.sessions_and_leftovers()?.0)
    }

    /// Returns the running sessions, and those that have ended and left their records behind: a process killed right
    /// after its commit does.
    pub(crate) fn sessions_and_leftovers(&self) -> Result<(Vec<SessionInfo>, Vec<SessionId>)> {
        let mut sessions: Vec<SessionInfo> = Vec::new();
        for object in self.store.storage().list(layout::SESSIONS)? {
            let Some(id) = object.key.as_str().split('/').nth(1).and_then(|id| id.parse().ok()) else { continue };
            let record = match self.store.read_record::<Session>(&object.key) {
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
        for session in sessions {
            match self.store.storage().size(&layout::snapshot(session.id)) {
                Ok(_) => ended.push(session.id),
                Err(error) if error.is_not_found() => running.push(session),
                Err(error) => return Err(error.into()),
            }
        }
        Ok((running, ended))
    }

    /// Tells whether the run of a session is over: its audit record is there, whatever its process does now.
    pub(crate) fn run_has_ended(&self, id: SessionId) -> Result<bool> {
        match self.store.storage().size(&layout::run(id)) {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error.into()),
        }
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

    /// Deletes the records of a session that has ended. Where deleting is not allowed they stay, which is harmless.
    pub(crate) fn remove_session(&self, id: SessionId) -> Result<()> {
        for object in self.store.storage().list(&format!("{}{id}/", layout::SESSIONS))? {
            match self.store.storage().delete(&object.key) {
                Ok(()) => {}
                Err(error) if error.is_not_found() || error.kind == StorageErrorKind::PermissionDenied => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
