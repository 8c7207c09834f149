//! Whether a service answers at all: where it has not for long, it is left alone for a while.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// So long a service is left alone that does not answer.
const LEFT_ALONE: Duration = Duration::from_secs(30);

/// A circuit breaker: it opens where a call was given up, none has been answered for long, and a question for a sign of life
/// is not answered either. One object that cannot be had opens nothing.
#[derive(Debug)]
pub(crate) struct Health {
    patience: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    answered: Instant,
    open_until: Option<Instant>,
}

impl Health {
    /// Begins with a service that is taken to answer.
    pub(crate) fn new(patience: Duration) -> Self {
        Self { patience, state: Mutex::new(State { answered: Instant::now(), open_until: None }) }
    }

    /// Notes that the service answered.
    pub(crate) fn answered(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = State { answered: Instant::now(), open_until: None };
    }

    /// Tells whether the service has answered nobody for so long that it is to be asked for a sign of life.
    pub(crate) fn is_doubtful(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).answered.elapsed() >= self.patience
    }

    /// Notes that there was none.
    pub(crate) fn is_silent(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).open_until = Some(Instant::now() + LEFT_ALONE);
    }

    /// Returns for how long the service has not answered, where it is not to be asked now.
    pub(crate) fn down(&self) -> Option<Duration> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.open_until.filter(|until| *until > Instant::now()).map(|_| state.answered.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_service_is_left_alone_until_it_answers() {
        let health = Health::new(Duration::ZERO);
        assert!(health.is_doubtful() && health.down().is_none());
        health.is_silent();
        assert!(health.down().is_some());
        health.answered();
        assert!(health.down().is_none());
    }

    #[test]
    fn a_service_that_has_just_answered_is_in_no_doubt() {
        assert!(!Health::new(Duration::from_secs(3600)).is_doubtful());
    }
}
