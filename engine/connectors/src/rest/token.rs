//! What proves who calls: fetched once for all callers, again before it ends, and once more where a service refuses it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::{HeaderMap, HeaderValue};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::Secret;

/// A token is fetched again so long before it ends: a call may take long. One with a short life at three quarters of it.
const RENEW_BEFORE: Duration = Duration::from_secs(300);

/// Whatever a service says: a token is fetched again after a day.
const LIFE_MAX: Duration = Duration::from_secs(86_400);

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthError {
    /// Whoever hands tokens out refuses.
    #[error("Cannot get a token from {from}: {why}")]
    Refused {
        /// Who was asked.
        from: String,
        /// What the answer was.
        why: String,
    },
    /// Whoever hands tokens out does not answer.
    #[error("Cannot get a token from {from}")]
    NoAnswer {
        /// Who was asked.
        from: String,
        /// What happened.
        #[source]
        source: reqwest::Error,
    },
    /// A program that should hand one out does not.
    #[error("Cannot get a token from the command that prints one: {why}")]
    Program {
        /// What happened.
        why: String,
    },
}

/// A proof of who calls.
pub(crate) struct Token {
    /// What goes with each call.
    pub(crate) headers: HeaderMap,
    /// What must not be told.
    pub(crate) secrets: Vec<Secret>,
    /// How long it is good for; `None`: until it is refused.
    pub(crate) life: Option<Duration>,
}

impl Token {
    /// A token that goes as `Authorization: Bearer`. `None` where it cannot be sent.
    pub(crate) fn bearer(secret: Secret, life: Option<Duration>) -> Option<Self> {
        let mut value = HeaderValue::try_from(format!("Bearer {}", secret.expose())).ok()?;
        value.set_sensitive(true);
        let headers = [(http::header::AUTHORIZATION, value)].into_iter().collect();
        Some(Self { headers, secrets: vec![secret], life })
    }
}

/// Where tokens come from.
#[async_trait]
pub(crate) trait TokenSource: Send + Sync {
    /// Fetches a token.
    async fn fetch(&self) -> Result<Token, AuthError>;

    /// Tells whether fetching again may give another one.
    fn renews(&self) -> bool {
        true
    }
}

/// A token that all callers share.
pub(crate) struct Held {
    number: u64,
    renew_at: Option<Instant>,
    ends_at: Option<Instant>,
    pub(crate) token: Token,
}

/// The tokens of a client.
pub(crate) struct Tokens {
    source: Box<dyn TokenSource>,
    held: Mutex<Option<Arc<Held>>>,
}

impl Tokens {
    pub(crate) fn new(source: Box<dyn TokenSource>) -> Self {
        Self { source, held: Mutex::default() }
    }

    /// Returns a token that is good for a while. Whoever comes while one is fetched waits for that one.
    pub(crate) async fn get(&self) -> Result<Arc<Held>, AuthError> {
        let mut held = self.held.lock().await;
        let now = Instant::now();
        match &*held {
            Some(token) if token.renew_at.is_none_or(|at| at > now) => Ok(token.clone()),
            Some(token) if token.ends_at.is_none_or(|at| at > now) => {
                let old = token.clone();
                // the old one serves until it ends
                Ok(self.fetch_into(&mut held).await.unwrap_or(old))
            }
            _ => self.fetch_into(&mut held).await,
        }
    }

    /// Returns a token to be tried after another one was refused; `None` where there is no other.
    pub(crate) async fn instead_of(&self, refused: &Held) -> Result<Option<Arc<Held>>, AuthError> {
        let mut held = self.held.lock().await;
        match &*held {
            Some(token) if token.number != refused.number => Ok(Some(token.clone())),
            _ if !self.source.renews() => Ok(None),
            _ => self.fetch_into(&mut held).await.map(Some),
        }
    }

    async fn fetch_into(&self, held: &mut Option<Arc<Held>>) -> Result<Arc<Held>, AuthError> {
        let mut token = self.source.fetch().await?;
        // no token lives so long that a time cannot be told
        token.life = token.life.map(|life| life.min(LIFE_MAX));
        let now = Instant::now();
        let renew_at = token.life.map(|life| now + life.saturating_sub(RENEW_BEFORE.min(life / 4)));
        let number = held.as_ref().map_or(0, |held| held.number + 1);
        let fresh = Arc::new(Held { number, renew_at, ends_at: token.life.map(|life| now + life), token });
        *held = Some(fresh.clone());
        Ok(fresh)
    }
}

impl Held {
    /// Returns a text without the secrets, which a service may repeat.
    pub(crate) fn redact(&self, text: &str) -> String {
        self.token.secrets.iter().fold(text.to_owned(), |text, secret| secret.redact(&text))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// Hands out numbered tokens that live so long.
    struct Numbered {
        fetched: Arc<AtomicU64>,
        life: Duration,
    }

    #[async_trait]
    impl TokenSource for Numbered {
        async fn fetch(&self) -> Result<Token, AuthError> {
            tokio::task::yield_now().await;
            let number = self.fetched.fetch_add(1, Ordering::SeqCst);
            Ok(Token::bearer(Secret::new(format!("token-{number}")), Some(self.life)).unwrap())
        }
    }

    fn block_on<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
    }

    fn tokens(life: Duration) -> (Tokens, Arc<AtomicU64>) {
        let fetched = Arc::new(AtomicU64::new(0));
        (Tokens::new(Box::new(Numbered { fetched: fetched.clone(), life })), fetched)
    }

    #[test]
    fn many_callers_with_a_refused_token_fetch_one_together() {
        let (tokens, fetched) = tokens(Duration::from_secs(3600));
        block_on(async {
            let first = tokens.get().await.unwrap();
            let all = futures_util::future::join_all((0..20).map(|_| tokens.instead_of(&first))).await;
            assert!(all.into_iter().all(|token| token.unwrap().unwrap().number == 1));
            assert_eq!(tokens.get().await.unwrap().number, 1);
        });
        assert_eq!(fetched.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn a_token_that_is_about_to_end_is_replaced() {
        let (tokens, fetched) = tokens(Duration::ZERO);
        block_on(async {
            tokens.get().await.unwrap();
            tokens.get().await.unwrap();
        });
        assert_eq!(fetched.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn what_a_service_repeats_of_a_token_is_not_told() {
        let (tokens, _) = tokens(Duration::from_secs(3600));
        let held = block_on(tokens.get()).unwrap();
        assert_eq!(held.redact("bad token token-0, sorry"), "bad token ***, sorry");
    }
}
