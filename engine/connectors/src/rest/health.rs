//! Whether a service answers at all: where it has not for long, it is left alone for a while.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// So long a service is left alone that does not answer.
const LEFT_ALONE: Duration = Duration::from_secs(30);

/// A circuit breaker: it opens where a call was given up and none has been answered for so long.
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

    /// Notes that a call was given up.
    pub(crate) fn gave_up(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.answered.elapsed() >= self.patience {
            state.open_until = Some(Instant::now() + LEFT_ALONE);
        }
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
    fn a_service_that_answers_nobody_is_left_alone_until_it_answers() {
        let health = Health::new(Duration::ZERO);
        assert!(health.down().is_none());
        health.gave_up();
        assert!(health.down().is_some());
        health.answered();
        assert!(health.down().is_none());
    }

    #[test]
    fn one_call_that_is_given_up_while_others_go_well_changes_nothing() {
        let health = Health::new(Duration::from_secs(3600));
        health.gave_up();
        assert!(health.down().is_none());
    }
}
