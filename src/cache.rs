//! Who is this session, and is it good? From memory, then Redis, then the database; one load per miss.
//!
//! Called by `auth` alone. Every answer passed the freshness check at the moment it is given. Three answers: alive,
//! ended (a fact from the database), or cannot tell. Must never take "nothing cached" for "invalid".

pub mod ahead;
pub mod batch;
mod loads;
mod local;
mod redis_tier;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use time::OffsetDateTime;

use crate::clock::{BootInstant, DatabaseClock};
use crate::entry::{EndReason, LogEntry, Scope};
use crate::freshness::{CATCH_UP_WAIT, Freshness, Judgement, Stamp, Verdict};
use crate::ids::{DeploymentId, Sid, UserId};
use crate::metrics::CacheMetrics;
use crate::redis_link::{BreakerState, RedisLink};
use crate::seal::Sealer;
use crate::secret::SecretHash;
use crate::store::{Read, SessionRead, SessionRecord, Store, UserRecord};
use batch::Batcher;
use loads::{DATABASE_LIMITS, LOADING_TIME, Loaded, REDIS_LIMITS, load, load_by_secret, look_up, look_up_owners};
use local::Local;
pub use local::Peek;
use redis_tier::{RedisAnswer, RedisTier};

/// Reads of one statement that a caller is given before the answer is *cannot tell*: each was overtaken by a
/// revocation of the same user.
const ATTEMPTS: usize = 4;

/// Shortest life of a record in Redis.
const SHORTEST_TTL: Duration = Duration::from_secs(1);

/// Why a session is no longer good. Final: no session comes back from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Ended before its time.
    Ended(EndReason),
    /// Its sliding or absolute life is over.
    Expired,
    /// The database knows no such session.
    Unknown,
}

/// The verdict about a session.
#[derive(Clone, Debug)]
pub enum Standing {
    /// Good, by facts that were fresh a moment ago.
    Alive(Arc<SessionRecord>, Arc<UserRecord>),
    /// Not good, by a fact from the database.
    Ended(Ending),
    /// The session is alive, but the secret that was shown is one that it had before and that is good no more.
    Replayed(Arc<SessionRecord>),
}

/// The gateway cannot tell: stores out of reach, overloaded, or too slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CannotTell;

/// What the database found behind a key.
enum Found {
    /// A session or none.
    Judged(Standing),
    /// A secret that was rotated away, and whose it was.
    Spent(Sid, UserId),
}

/// What the console and `/health` show of the caches.
#[derive(Clone, Copy, Debug, Default)]
pub struct CacheStatistics {
    /// Look-ups of sessions answered from memory or Redis.
    pub hits: u64,
    /// Look-ups that went to the database.
    pub misses: u64,
    /// Users in this node's memory.
    pub users: usize,
    /// Sessions in this node's memory.
    pub sessions: usize,
}

/// The two tiers and the loads behind them.
pub struct Cache {
    local: Arc<Local>,
    redis: Option<Arc<RedisTier>>,
    from_redis: Option<Batcher<(Sid, UserId), RedisAnswer>>,
    owners_from_redis: Option<Batcher<SecretHash, Option<(Sid, UserId)>>>,
    from_database: Batcher<Sid, Loaded>,
    from_database_by_secret: Batcher<SecretHash, Loaded>,
    freshness: Arc<Freshness>,
    clock: Arc<DatabaseClock>,
    metrics: CacheMetrics,
    hits: AtomicU64,
    misses: AtomicU64,
    user_ttl: Duration,
}

/// What a [`Cache`] is made of.
pub struct CacheParts {
    /// The truth.
    pub store: Store,
    /// The link to Redis, with the deployment whose names begin everything there.
    pub redis: Option<(Arc<RedisLink>, Arc<Sealer>, DeploymentId)>,
    /// G and H.
    pub freshness: Arc<Freshness>,
    /// Database time.
    pub clock: Arc<DatabaseClock>,
    /// Sessions (and as many users) in memory.
    pub capacity: usize,
    /// Life of a user's record.
    pub user_ttl: Duration,
    /// Secrets are rotated: one that is unknown may be a spent one.
    pub rotation: bool,
}

type Task = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

impl Cache {
    /// The cache and its workers, which run until [`close`](Self::close).
    #[must_use]
    pub fn new(parts: CacheParts) -> (Arc<Self>, Vec<Task>) {
        let mut tasks: Vec<Task> = Vec::new();
        let redis = parts.redis.map(|(link, sealer, deployment)| {
            let (tier, writer) = RedisTier::new(link, sealer, deployment);
            tasks.push(Box::pin(writer));
            Arc::new(tier)
        });
        let from_redis = redis.clone().map(|tier| {
            let (batcher, workers) =
                Batcher::new(REDIS_LIMITS, move |keys, answers| look_up(tier.clone(), keys, answers));
            tasks.extend(workers.into_iter().map(|worker| Box::pin(worker) as Task));
            batcher
        });
        let owners_from_redis = redis.clone().map(|tier| {
            let (batcher, workers) =
                Batcher::new(REDIS_LIMITS, move |keys, answers| look_up_owners(tier.clone(), keys, answers));
            tasks.extend(workers.into_iter().map(|worker| Box::pin(worker) as Task));
            batcher
        });
        let store = parts.store.clone();
        let (from_database, workers) =
            Batcher::new(DATABASE_LIMITS, move |keys, answers| load(store.clone(), keys, answers));
        tasks.extend(workers.into_iter().map(|worker| Box::pin(worker) as Task));
        let (store, rotation) = (parts.store, parts.rotation);
        let (lapsing, to_refresh) = tokio::sync::mpsc::channel(ahead::WAITING);
        let (from_database_by_secret, workers) =
            Batcher::new(DATABASE_LIMITS, move |keys, answers| load_by_secret(store.clone(), rotation, keys, answers));
        tasks.extend(workers.into_iter().map(|worker| Box::pin(worker) as Task));
        let cache = Arc::new(Self {
            local: Arc::new(Local::new(parts.capacity, parts.user_ttl, lapsing)),
            redis,
            from_redis,
            owners_from_redis,
            from_database,
            from_database_by_secret,
            freshness: parts.freshness,
            clock: parts.clock,
            metrics: CacheMetrics::new(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            user_ttl: parts.user_ttl,
        });
        tasks.push(Box::pin(ahead::refresh(Arc::downgrade(&cache), to_refresh)));
        (cache, tasks)
    }

    /// What memory alone says. No I/O, no waiting.
    #[must_use]
    pub fn peek(&self, sid: Sid, user_id: UserId) -> Peek {
        self.peek_within(sid, user_id, BootInstant::now(), self.freshness.judge())
    }

    /// The same as part of a judgement that has begun, for whoever has read the clock (`instant`) already.
    #[must_use]
    pub fn peek_within(&self, sid: Sid, user_id: UserId, instant: BootInstant, judgement: Judgement<'_>) -> Peek {
        self.local.peek((sid, user_id), (instant, self.clock.at(instant)), judgement)
    }

    /// Counts a look-up that memory answered.
    pub fn count_hit(&self) {
        self.metrics.local_hit();
        self.hits.fetch_add(1, Ordering::Relaxed);
    }

    /// The verdict about a session of this user.
    ///
    /// # Errors
    /// [`CannotTell`], after a bounded wait.
    pub async fn session(&self, sid: Sid, user_id: UserId) -> Result<Standing, CannotTell> {
        if let Some(standing) = self.in_memory(sid, user_id).await {
            return Ok(standing);
        }
        if let Some(standing) = self.in_redis(sid, user_id).await {
            return Ok(standing);
        }
        match self.in_database(&self.from_database, sid).await? {
            Found::Judged(Standing::Alive(session, _)) if session.user_id != user_id => {
                Ok(Standing::Ended(Ending::Unknown))
            }
            Found::Judged(standing) => Ok(standing),
            // Only whoever asks by secret is told so.
            Found::Spent(..) => Err(CannotTell),
        }
    }

    /// The verdict about whoever holds this secret.
    ///
    /// # Errors
    /// [`CannotTell`], after a bounded wait.
    pub async fn session_by_secret(&self, hash: SecretHash) -> Result<Standing, CannotTell> {
        if self.local.is_unknown(&hash) {
            return Ok(Standing::Ended(Ending::Unknown));
        }
        if let Some((sid, user_id)) = self.owner(hash).await
            && let Some(standing) = self.as_shown(self.session(sid, user_id).await?, &hash)
        {
            return Ok(standing);
        }
        match self.in_database(&self.from_database_by_secret, hash).await? {
            Found::Judged(standing) => {
                if matches!(standing, Standing::Ended(Ending::Unknown)) {
                    self.local.store_unknown(hash);
                }
                Ok(standing)
            }
            Found::Spent(sid, user_id) => {
                self.local.store_owner(hash, sid, user_id);
                let standing = self.session(sid, user_id).await?;
                let Standing::Alive(session, _) = &standing else { return Ok(standing) };
                let replayed = Standing::Replayed(session.clone());
                Ok(self.as_shown(standing, &hash).unwrap_or(replayed))
            }
        }
    }

    /// The verdict for whoever shows this secret of the session; `None` when it is not known to be one of its secrets.
    fn as_shown(&self, standing: Standing, hash: &SecretHash) -> Option<Standing> {
        let Standing::Alive(session, _) = &standing else { return Some(standing) };
        match &session.rotation {
            _ if session.secret_hash == *hash => Some(standing),
            // Once it is over it is over for good: a secret never comes back.
            Some(rotation) if rotation.previous_hash == *hash => match rotation.previous_until > self.clock.now() {
                true => Some(standing),
                false => Some(Standing::Replayed(session.clone())),
            },
            _ => None,
        }
    }

    /// Stores a session that this node has just written, so that its first use needs no read.
    pub fn prime(&self, read: &Read<SessionRead>) {
        if read.value.ended.is_none() {
            let (session, user) = (Arc::new(read.value.session.clone()), Arc::new(read.value.user.clone()));
            let _ = self.admit(Loaded::Alive(session, user, read.stamp));
        }
    }

    /// First step of applying entries: drops local facts.
    pub fn forget_local(&self, entry: &LogEntry) {
        self.local.forget(entry);
    }

    /// Last step of applying entries: drops records in Redis, best effort.
    pub async fn forget_in_redis(&self, entries: &[LogEntry]) {
        if let Some(redis) = &self.redis {
            redis.forget(entries).await;
        }
    }

    /// Drops everything in memory: what was remembered is suspect.
    pub fn clear(&self) {
        self.local.clear();
    }

    /// Takes over the later times of sessions that were used.
    pub fn slide(&self, sid: Sid, last_seen_at: OffsetDateTime, expires_at: OffsetDateTime) {
        if let Some((session, stamp)) = self.local.slide(sid, last_seen_at, expires_at) {
            self.fill_redis_session(&session, stamp);
        }
    }

    /// Numbers for people.
    #[must_use]
    pub fn statistics(&self) -> CacheStatistics {
        let (sessions, users) = self.local.sizes();
        let (hits, misses) = (self.hits.load(Ordering::Relaxed), self.misses.load(Ordering::Relaxed));
        CacheStatistics { hits, misses, users, sessions }
    }

    /// Round trip to Redis and bytes in use there; `None` without Redis or while it is away.
    pub async fn redis_statistics(&self) -> Option<(Duration, Option<u64>)> {
        self.redis.as_ref()?.statistics().await.ok()
    }

    /// Whether there is a second tier, and whether it answers.
    #[must_use]
    pub fn redis_state(&self) -> (bool, bool) {
        (self.redis.is_some(), self.redis.as_ref().is_some_and(|redis| redis.is_up()))
    }

    /// What the circuit breaker before Redis does now; `None` without Redis.
    #[must_use]
    pub fn redis_breaker(&self) -> Option<BreakerState> {
        self.redis.as_ref().map(|redis| redis.breaker())
    }

    /// Ends the workers.
    pub fn close(&self) {
        self.from_database.close();
        self.from_database_by_secret.close();
        self.from_redis.iter().for_each(Batcher::close);
        self.owners_from_redis.iter().for_each(Batcher::close);
    }

    /// The verdict of memory. Waits for the log read in flight when the node is not caught up: one read renews all.
    async fn in_memory(&self, sid: Sid, user_id: UserId) -> Option<Standing> {
        let mut peek = self.peek(sid, user_id);
        if matches!(peek, Peek::NotCaughtUp) && self.freshness.wait_caught_up(CATCH_UP_WAIT).await {
            peek = self.peek(sid, user_id);
        }
        let standing = match peek {
            Peek::Alive(session, user) => Standing::Alive(session, user),
            Peek::Ended(ending) => Standing::Ended(ending),
            Peek::Miss | Peek::NotCaughtUp => {
                self.metrics.local_miss(self.local.has_user(user_id));
                return None;
            }
        };
        self.count_hit();
        Some(standing)
    }

    async fn in_redis(&self, sid: Sid, user_id: UserId) -> Option<Standing> {
        let batcher = self.from_redis.as_ref()?;
        // Records from Redis prove nothing about time: without a horizon of our own they are useless.
        if !self.freshness.caught_up() {
            return None;
        }
        let Ok(answer) = batcher.load((sid, user_id)).await else {
            self.metrics.session_redis_error.increment(1);
            return None;
        };
        self.metrics.redis_answer(answer.session.is_some(), answer.user.is_some());
        if let Some(session) = answer.session.filter(|session| session.value.sid == sid) {
            let stamp = Stamp { position: session.position, read_at: None };
            self.local.store_session(Arc::new(session.value), stamp);
        }
        if let Some(user) = answer.user.filter(|user| user.value.user.id == user_id) {
            let stamp = Stamp { position: user.position, read_at: None };
            self.local.store_user(Arc::new(user.value), stamp);
        }
        match self.peek(sid, user_id) {
            Peek::Alive(session, user) => {
                self.hits.fetch_add(1, Ordering::Relaxed);
                Some(Standing::Alive(session, user))
            }
            Peek::Ended(_) | Peek::Miss | Peek::NotCaughtUp => None,
        }
    }

    async fn in_database<K>(&self, batcher: &Batcher<K, Loaded>, key: K) -> Result<Found, CannotTell>
    where
        K: Copy + Eq + std::hash::Hash + Send + 'static,
    {
        self.misses.fetch_add(1, Ordering::Relaxed);
        let loading = async {
            for _ in 0..ATTEMPTS {
                let loaded = batcher.load(key).await.map_err(|_| self.database_failed())?;
                self.metrics.database_answer(loaded.is_known(), matches!(loaded, Loaded::Alive(..)));
                if let Loaded::Spent(sid, user_id) = loaded {
                    return Ok(Found::Spent(sid, user_id));
                }
                if let Some(standing) = self.admit(loaded) {
                    return Ok(Found::Judged(standing));
                }
            }
            Err(CannotTell)
        };
        tokio::time::timeout(LOADING_TIME, loading).await.unwrap_or(Err(CannotTell))
    }

    /// Reads a session whatever is remembered of it. False when the database could not tell.
    async fn read_again(&self, sid: Sid) -> bool {
        let loaded = self.from_database.load(sid).await;
        loaded.is_ok_and(|loaded| {
            // Overtaken by a revocation: whoever needs it reads it.
            let _ = self.admit(loaded);
            true
        })
    }

    async fn owner(&self, hash: SecretHash) -> Option<(Sid, UserId)> {
        if let Some(owner) = self.local.owner(&hash) {
            return Some(owner);
        }
        self.owners_from_redis.as_ref()?.load(hash).await.ok().flatten()
    }

    /// Judges an answer of the database at the moment it is used, and stores it. `None`: overtaken, read again.
    fn admit(&self, loaded: Loaded) -> Option<Standing> {
        let (session, user, stamp) = match loaded {
            Loaded::Ended(sid, ending) => {
                sid.into_iter().for_each(|sid| self.local.store_ending(sid, ending));
                return Some(Standing::Ended(ending));
            }
            Loaded::Alive(session, user, stamp) => (session, user, stamp),
            // Judged by its session.
            Loaded::Spent(..) => return None,
        };
        let about = [session.sid.0, session.user_id.0];
        if self.freshness.check(stamp, &about) != Verdict::Fresh {
            return None;
        }
        if session.expires_at <= self.clock.now() {
            self.local.store_ending(session.sid, Ending::Expired);
            return Some(Standing::Ended(Ending::Expired));
        }
        self.local.store_user(user.clone(), stamp);
        self.local.store_session(session.clone(), stamp);
        self.fill_redis_session(&session, stamp);
        if let Some(redis) = &self.redis {
            redis.fill_user(&user, stamp.position, jittered(self.user_ttl));
        }
        // Once more after the insert: a revocation applied in between has dropped nothing.
        (self.freshness.check(stamp, &about) == Verdict::Fresh).then_some(Standing::Alive(session, user))
    }

    fn fill_redis_session(&self, session: &SessionRecord, stamp: Stamp) {
        let left = Duration::try_from(session.expires_at - self.clock.now()).unwrap_or_default();
        if let Some(redis) = &self.redis {
            redis.fill_session(session, stamp.position, jittered(left));
        }
    }

    fn database_failed(&self) -> CannotTell {
        self.metrics.session_database_error.increment(1);
        CannotTell
    }
}

/// Takes up to a tenth off, so that what was filled together does not lapse together.
fn jittered(ttl: Duration) -> Duration {
    let tenths = (uuid::Uuid::new_v4().as_u128() % 1000) as u32;
    ttl.saturating_sub(ttl / 10_000 * tenths).max(SHORTEST_TTL)
}

/// The scopes that concern the caches' facts mark these ids in G.
pub fn marked_by(scope: &Scope) -> impl Iterator<Item = uuid::Uuid> {
    let (one, many) = match scope {
        Scope::Session { sid, .. } | Scope::SessionChanged { sid, .. } | Scope::Token { sid, .. } => {
            (Some(sid.0), &[][..])
        }
        Scope::Sessions { sessions, .. } => (None, &sessions[..]),
        Scope::UserEpoch { user_id, .. } | Scope::UserChanged { user_id } => (Some(user_id.0), &[][..]),
        Scope::KeyAdded { .. } | Scope::KeyRemoved { .. } => (None, &[][..]),
    };
    one.into_iter().chain(many.iter().map(|(sid, _)| sid.0))
}
