//! The link to Redis: one multiplexed connection with a short time limit and a circuit breaker, so that a Redis that
//! hangs costs a few milliseconds once and not per request. A connection on which nothing is answered any more is given up
//! for a new one: it may be dead without anybody having said so. Used by the cache's second tier and by the bus.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use metrics::counter;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::io::tcp::TcpSettings;
use redis::{FromRedisValue, IntoConnectionInfo as _, Pipeline};
use secrecy::{ExposeSecret as _, SecretString};

use crate::clock::BootInstant;
use crate::metrics::BREAKER_OPENINGS;

/// How long the breaker keeps callers away before one of them may try again.
const OPEN_FOR: Duration = Duration::from_millis(500);

/// How long a new connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How old a connection must be to be given up: one that is still being made takes longer than a command may.
const GIVE_UP_AFTER: Duration = Duration::from_secs(2);

/// Redis did not answer in time, refused, or is known to be away. Costs a fill or a hit, never a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Redis is away")]
pub struct RedisAway;

/// One connection shared by everybody.
pub struct RedisLink {
    client: redis::Client,
    config: ConnectionManagerConfig,
    /// The connection, and since when it is the one.
    manager: Mutex<(ConnectionManager, BootInstant)>,
    timeout: Duration,
    breaker: Breaker,
}

impl RedisLink {
    /// Prepares the link; connects at the first use.
    ///
    /// # Errors
    /// When `url` is no Redis URL. The message does not repeat it.
    pub fn new(url: &SecretString, timeout: Duration) -> anyhow::Result<Self> {
        let refused =
            |error: redis::RedisError| anyhow::anyhow!("REDIS_URL is no usable Redis URL: {:?}", error.kind());
        let tcp = TcpSettings::default().set_nodelay(true);
        let info = url.expose_secret().into_connection_info().map_err(refused)?.set_tcp_settings(tcp);
        let client = redis::Client::open(info).map_err(refused)?;
        // No retries of its own: with them every command hangs for seconds while Redis is away.
        let config = ConnectionManagerConfig::new()
            .set_number_of_retries(0)
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(timeout));
        let manager = ConnectionManager::new_lazy_with_config(client.clone(), config.clone()).map_err(refused)?;
        Ok(Self {
            client,
            config,
            manager: Mutex::new((manager, BootInstant::now())),
            timeout,
            breaker: Breaker::default(),
        })
    }

    /// Runs a pipeline within the time limit.
    ///
    /// # Errors
    /// [`RedisAway`]; at once while the breaker is open.
    pub async fn run<T: FromRedisValue>(&self, pipeline: &Pipeline) -> Result<T, RedisAway> {
        if !self.breaker.admits(BootInstant::now()) {
            return Err(RedisAway);
        }
        let mut connection = self.manager().0.clone();
        match tokio::time::timeout(self.timeout, pipeline.query_async(&mut connection)).await {
            Ok(Ok(value)) => {
                self.breaker.succeeded();
                Ok(value)
            }
            Ok(Err(error)) => {
                if error.is_timeout() {
                    self.give_up();
                }
                self.breaker.failed(&format_args!("{:?}", error.kind()));
                Err(RedisAway)
            }
            Err(_) => {
                self.give_up();
                self.breaker.failed(&"no answer within the time limit");
                Err(RedisAway)
            }
        }
    }

    /// Nothing was answered: whoever tries next does so on a new connection.
    fn give_up(&self) {
        let (mut manager, now) = (self.manager(), BootInstant::now());
        if now.since(manager.1) >= GIVE_UP_AFTER
            && let Ok(new) = ConnectionManager::new_lazy_with_config(self.client.clone(), self.config.clone())
        {
            *manager = (new, now);
        }
    }

    fn manager(&self) -> MutexGuard<'_, (ConnectionManager, BootInstant)> {
        self.manager.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the circuit breaker does now.
    #[must_use]
    pub fn breaker(&self) -> BreakerState {
        self.breaker.state()
    }

    /// Whether the last command succeeded.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.breaker.up.load(Ordering::Relaxed)
    }

    /// The client, for a connection of one's own (subscriptions).
    #[must_use]
    pub fn client(&self) -> &redis::Client {
        &self.client
    }
}

/// What a circuit breaker does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// Everybody may ask.
    Closed,
    /// Nobody may.
    Open,
    /// One caller is trying.
    HalfOpen,
}

impl BreakerState {
    /// All of them with their names in metrics.
    pub const NAMES: [(Self, &'static str); 3] =
        [(Self::Closed, "closed"), (Self::Open, "open"), (Self::HalfOpen, "half_open")];
}

/// Closed while commands succeed. After a failure it is open for [`OPEN_FOR`]; then one caller tries, and the others
/// stay away until it has succeeded.
#[derive(Default)]
struct Breaker {
    closed_again_at: AtomicU64,
    trying: AtomicBool,
    up: AtomicBool,
    told: AtomicBool,
}

impl Breaker {
    fn admits(&self, now: BootInstant) -> bool {
        let until = self.closed_again_at.load(Ordering::Relaxed);
        if until == 0 {
            return true;
        }
        // Half-open: whoever moves the mark is the one that tries.
        let tries = now.0 >= until
            && self
                .closed_again_at
                .compare_exchange(until, now.plus(OPEN_FOR).0, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if tries {
            self.trying.store(true, Ordering::Relaxed);
        }
        tries
    }

    fn state(&self) -> BreakerState {
        match (self.closed_again_at.load(Ordering::Relaxed), self.trying.load(Ordering::Relaxed)) {
            (0, _) => BreakerState::Closed,
            (_, false) => BreakerState::Open,
            (_, true) => BreakerState::HalfOpen,
        }
    }

    fn succeeded(&self) {
        self.closed_again_at.store(0, Ordering::Relaxed);
        self.trying.store(false, Ordering::Relaxed);
        if !self.up.swap(true, Ordering::Relaxed) {
            tracing::info!("Redis answers");
            self.told.store(false, Ordering::Relaxed);
        }
    }

    fn failed(&self, reason: &dyn std::fmt::Display) {
        let opened = self.closed_again_at.swap(BootInstant::now().plus(OPEN_FOR).0, Ordering::Relaxed) == 0;
        if opened {
            counter!(BREAKER_OPENINGS, "dependency" => "redis").increment(1);
        }
        self.trying.store(false, Ordering::Relaxed);
        self.up.store(false, Ordering::Relaxed);
        if !self.told.swap(true, Ordering::Relaxed) {
            tracing::warn!(%reason, "Redis is away: answering from memory and the database");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_failure_one_caller_tries_and_the_others_stay_away() {
        let breaker = Breaker::default();
        assert!(breaker.admits(BootInstant::now()));
        assert_eq!(breaker.state(), BreakerState::Closed);
        breaker.failed(&"test");
        let now = BootInstant::now();
        assert!(!breaker.admits(now));
        assert_eq!(breaker.state(), BreakerState::Open);
        let later = now.plus(OPEN_FOR);
        assert!(breaker.admits(later), "the one that tries");
        assert!(!breaker.admits(later), "everybody else");
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
        breaker.failed(&"test");
        assert_eq!(breaker.state(), BreakerState::Open);
        breaker.succeeded();
        assert!(breaker.admits(later));
    }
}
