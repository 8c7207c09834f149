//! What became of a session that has neither committed nor been expired, as far as this machine can tell.

use lakebed_core::layout;
use lakebed_core::process::Fate;
use lakebed_core::record::session::Run;

use super::{Repository, SessionInfo};
use crate::error::{Error, Result};

/// Who is still at a session.
#[derive(Debug, Clone, PartialEq)]
pub enum SessionState {
    /// Its process lives, or may live, on this machine.
    Alive,
    /// Its process is certainly gone.
    Dead,
    /// Its process is of another machine, another boot or another name space of processes: nobody here can tell.
    Elsewhere,
    /// Its run has ended and left a checkpoint to go on from. `None`: how it ended cannot be read.
    Ended(Option<Box<Run>>),
}

impl SessionState {
    /// Tells whether certainly nobody is at the session any more.
    pub fn is_over(&self) -> bool {
        matches!(self, Self::Dead | Self::Ended(_))
    }
}

impl Repository {
    /// Returns what became of a session.
    ///
    /// # Errors
    /// Storage.
    pub fn session_state(&self, session: &SessionInfo) -> Result<SessionState> {
        match self.store.read_record::<Run>(&layout::run(session.id)) {
            Ok(run) => Ok(SessionState::Ended(Some(Box::new(run)))),
            Err(Error::Storage(error)) if error.is_not_found() => {
                Ok(match self.processes().fate(&session.newest.process) {
                    Fate::Alive => SessionState::Alive,
                    Fate::Dead => SessionState::Dead,
                    Fate::Elsewhere => SessionState::Elsewhere,
                })
            }
            Err(Error::Storage(error)) => Err(error.into()),
            // whatever it says, it is there
            Err(_) => Ok(SessionState::Ended(None)),
        }
    }

    /// Expires a session that was found, as [`Repository::expire_session`] does.
    ///
    /// # Errors
    /// `NeedsExclusive` where it may still be about to commit, and the medium does not let exactly one of the two win;
    /// storage.
    pub fn expire_found(&self, session: &SessionInfo, exclusive: bool, reason: &str) -> Result<bool> {
        if !self.session_state(session)?.is_over() {
            self.check_exclusive("Ending a session that may still commit", exclusive)?;
        }
        // no session of ours stands behind it: it is entered as its own
        self.expire_session(session.id, session.id, reason)
    }

    /// Returns the one session whose id begins so, of those that have neither committed nor been expired.
    ///
    /// # Errors
    /// `SessionChoice` where there is none, or more than one; storage.
    pub fn find_session(&self, prefix: &str) -> Result<SessionInfo> {
        let wanted = prefix.to_ascii_lowercase();
        let mut found = self.sessions()?;
        found.retain(|session| session.id.to_string().starts_with(&wanted));
        match (found.pop(), found.len()) {
            (Some(session), 0) => Ok(session),
            (other, others) => {
                Err(Error::SessionChoice { prefix: prefix.into(), count: others + usize::from(other.is_some()) })
            }
        }
    }
}
