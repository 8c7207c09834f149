//! What a call to a service came to that did not go well.

use super::token::AuthError;

/// What a service says where it does not do what it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.told())]
pub struct Refusal {
    /// Status of HTTP.
    pub status: u16,
    /// The service's own word for it, `RESOURCE_DOES_NOT_EXIST` say; empty where it has none.
    pub code: String,
    /// What it says in words.
    pub message: String,
}

impl Refusal {
    fn told(&self) -> String {
        let code = if self.code.is_empty() { String::new() } else { format!(" {}", self.code) };
        let message = if self.message.is_empty() { String::new() } else { format!(": {}", self.message) };
        format!("the service answered {}{code}{message}", self.status)
    }

    /// Tells whether the same call may go well later. `twice`: it does no harm where the first one was carried out.
    pub(crate) fn may_pass(&self, twice: bool) -> bool {
        const PASSING: [&str; 2] = ["RPC token bucket limit has been exceeded", "Please try again later"];
        match self.status {
            429 | 503 => true,
            408 | 499 | 500 | 502 | 504 => twice,
            // an error in the body of an answer that says that all is well
            200 => self.code == "TEMPORARILY_UNAVAILABLE" || self.code == "REQUEST_LIMIT_EXCEEDED",
            _ => PASSING.iter().any(|text| self.message.contains(text)),
        }
    }
}

/// Why a call gave nothing.
#[derive(Debug, thiserror::Error)]
#[error("{call}")]
pub struct CallError {
    /// What was asked for: the call, and what it concerns.
    pub call: String,
    /// What became of it.
    #[source]
    pub kind: CallErrorKind,
}

/// What became of a call.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallErrorKind {
    /// The service refused.
    #[error(transparent)]
    Refused(Refusal),
    /// No answer came, or only a part of one.
    #[error("no whole answer came: {why}")]
    NoAnswer {
        /// What happened.
        why: String,
    },
    /// Whoever answers does not prove to be the service.
    #[error("the service's certificate is not trusted: {why}")]
    Untrusted {
        /// What is wrong with it.
        why: String,
    },
    /// What came is no answer to what was asked.
    #[error("the answer is not what it should be: {why}")]
    Malformed {
        /// What is wrong with it.
        why: String,
    },
    /// The service has not answered for so long that it is not asked again for now.
    #[error("the service has not answered for {seconds} seconds: it is not asked again for now")]
    Down {
        /// Since when.
        seconds: u64,
    },
    /// Nothing more was wanted.
    #[error("it was stopped")]
    Stopped,
    /// There is nothing to prove who asks.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// This machine is at fault.
    #[error("this machine cannot read or keep what is sent")]
    Machine(#[source] std::io::Error),
}

impl CallErrorKind {
    /// Returns the service's refusal, if it is one.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// Tells whether no other call will go well either.
    pub fn ends_everything(&self) -> bool {
        matches!(self, Self::Down { .. } | Self::Untrusted { .. } | Self::Stopped | Self::Auth(_))
            || self.refusal().is_some_and(|refusal| refusal.status == 401)
    }

    /// Tells whether the same call may go well later.
    pub(crate) fn may_pass(&self, twice: bool) -> bool {
        match self {
            Self::Refused(refusal) => refusal.may_pass(twice),
            Self::NoAnswer { .. } | Self::Malformed { .. } => twice,
            Self::Down { .. } | Self::Untrusted { .. } | Self::Stopped | Self::Auth(_) | Self::Machine(_) => false,
        }
    }
}
