//! Waiting for the sessions that may count on what was condemned.
//!
//! No clock decides about data: a session that is expired by mistake loses its commit, since its snapshot and its expiry
//! have one key.

use std::collections::HashMap;
use std::time::Duration;

use lakebed_core::id::SessionId;
use lakebed_core::monitor::{Monitor, Phase, Progress};
use lakebed_core::process::Fate;

use super::PruneOptions;
use crate::error::{Error, Result};
use crate::repository::Repository;

/// Whoever has not gone on from a checkpoint for a week has begun anew.
const ABANDONED_SECONDS: i64 = 7 * 24 * 60 * 60;

const POLL_MIN: Duration = Duration::from_millis(20);
const POLL_MAX: Duration = Duration::from_secs(2);

/// Waits for sessions, all of them within one time.
pub(super) struct Waiting<'a> {
    repository: &'a Repository,
    options: &'a PruneOptions,
    monitor: &'a dyn Monitor,
    /// Who expires sessions.
    by: SessionId,
    deadline_ns: u64,
    /// Each session's newest heartbeat, and since when it is the newest.
    heartbeats: HashMap<SessionId, (u32, u64)>,
    pub(super) expired: Vec<SessionId>,
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl<'a> Waiting<'a> {
    pub(super) fn new(
        repository: &'a Repository,
        options: &'a PruneOptions,
        monitor: &'a dyn Monitor,
        by: SessionId,
    ) -> Self {
        let deadline_ns = repository.clock().monotonic_ns().saturating_add(nanos(options.wait));
        Self { repository, options, monitor, by, deadline_ns, heartbeats: HashMap::new(), expired: Vec::new() }
    }

    /// Expires the sessions that were left: their process is certainly dead and has left nothing to go on from, or nobody
    /// has gone on from it for a week. Of a process that is not of this boot of this machine nobody here can tell, so its
    /// heartbeat has to stand still while we watch.
    pub(super) fn expire_abandoned(&mut self) -> Result<()> {
        let now = self.repository.clock().now();
        let mut watched = Vec::new();
        for session in self.repository.sessions()? {
            let is_over = self.repository.is_over(session.id, &session.newest.process)?;
            let is_old = now.seconds_since(session.newest.time).abs() > ABANDONED_SECONDS;
            if is_over && (is_old || session.checkpoint.is_none()) {
                self.expire(session.id, "its process is dead or its run has ended")?;
            } else if is_old && !is_over && self.repository.processes().fate(&session.newest.process) != Fate::Alive {
                watched.push(session.id);
            }
        }
        self.wait_for(watched).map(drop)
    }

    /// Waits until every session has ended, and returns those that have not when the time is up.
    pub(super) fn wait_for(&mut self, mut sessions: Vec<SessionId>) -> Result<Vec<SessionId>> {
        let mut poll = POLL_MIN;
        let all = sessions.len() as u64;
        loop {
            let mut left = Vec::new();
            for session in sessions {
                if !self.has_ended(session)? {
                    left.push(session);
                }
            }
            if left.is_empty() || self.repository.clock().monotonic_ns() >= self.deadline_ns {
                return Ok(left);
            }
            if self.monitor.is_cancelled() {
                return Err(Error::Interrupted);
            }
            if poll == POLL_MIN {
                self.monitor.phase(Phase::Await, Some(Progress { entries: all, bytes: 0 }));
            }
            self.repository.clock().sleep(poll);
            poll = (poll * 2).min(POLL_MAX);
            sessions = left;
        }
    }

    fn has_ended(&mut self, id: SessionId) -> Result<bool> {
        let repository = self.repository;
        if repository.has_outcome(id)? {
            return Ok(true);
        }
        let Some(number) = repository.heartbeat_of(id)? else {
            // its records went after its end: without an outcome it had nothing to commit
            return Ok(true);
        };
        if let Some(session) = repository.read_session(id, number)?
            && repository.is_over(id, &session.process)?
        {
            // nobody can commit it any more; its checkpoint is kept for whoever goes on from there
            if session.checkpoint.is_none() {
                self.expire(id, "its process is dead or its run has ended")?;
            }
            return Ok(true);
        }
        let now = repository.clock().monotonic_ns();
        let (known, since) = *self.heartbeats.entry(id).or_insert((number, now));
        if known != number {
            self.heartbeats.insert(id, (number, now));
        } else if now.saturating_sub(since) >= nanos(self.options.stale_after) {
            self.expire(id, "its heart has stopped")?;
            return Ok(true);
        }
        Ok(false)
    }

    fn expire(&mut self, id: SessionId, reason: &str) -> Result<()> {
        if self.repository.expire_session(id, self.by, reason)? {
            self.expired.push(id);
        }
        Ok(())
    }
}
