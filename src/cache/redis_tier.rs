//! The second tier: sealed records in Redis, shared by the nodes.
//!
//! Redis is never believed about freshness: a record carries P, the position of its read, inside the seal, and the
//! check decides. Deleting records only saves work. Names are keyed hashes and everything begins with the deployment's
//! id; the keys of one user share a hash tag.

use std::sync::Arc;
use std::time::Duration;

use redis::Pipeline;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::entry::{LogEntry, Position, Scope};
use crate::ids::{DeploymentId, Sid, UserId};
use crate::redis_link::{BreakerState, RedisAway, RedisLink};
use crate::seal::{Purpose, Sealer};
use crate::secret::SecretHash;
use crate::store::{SessionRecord, UserRecord};

/// Fills that may wait for their turn. More are dropped: a lost fill costs a read later.
const WRITE_QUEUE: usize = 4096;
/// Fills in one round trip.
const WRITE_BATCH: usize = 128;

/// A value from Redis with the position of the read behind it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Positioned<T> {
    /// P.
    pub position: Position,
    /// What was read.
    pub value: T,
}

/// What Redis holds about one session: either part may be missing.
#[derive(Clone, Debug)]
pub struct RedisAnswer {
    /// The session.
    pub session: Option<Positioned<SessionRecord>>,
    /// Its user.
    pub user: Option<Positioned<UserRecord>>,
}

/// Records in Redis.
pub struct RedisTier {
    link: Arc<RedisLink>,
    sealer: Arc<Sealer>,
    prefix: String,
    fills: mpsc::Sender<Fill>,
}

struct Fill {
    name: String,
    sealed: Vec<u8>,
    life: Life,
}

/// How long a record stays.
enum Life {
    For(Duration),
    /// As long as the record whose place it takes, if that is still there: the same one, sealed with an older key.
    AsBefore,
}

impl RedisTier {
    /// The tier and the task that writes its fills.
    pub fn new(
        link: Arc<RedisLink>,
        sealer: Arc<Sealer>,
        deployment: DeploymentId,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (fills, queue) = mpsc::channel(WRITE_QUEUE);
        let tier = Self { link: link.clone(), sealer, prefix: format!("portcullis:{}", deployment.0.simple()), fills };
        (tier, write_fills(link, queue))
    }

    /// Looks sessions and their users up, in one round trip.
    ///
    /// # Errors
    /// [`RedisAway`].
    pub async fn sessions(&self, keys: &[(Sid, UserId)]) -> Result<Vec<RedisAnswer>, RedisAway> {
        let names: Vec<_> =
            keys.iter().flat_map(|&(sid, user)| [self.session_name(sid, user), self.user_name(user)]).collect();
        let sealed = self.get(&names).await?;
        let opened = names.iter().zip(sealed).collect::<Vec<_>>();
        let answers = opened.chunks_exact(2).map(|pair| RedisAnswer {
            session: self.open(pair[0].0, pair[0].1.as_deref()),
            user: self.open(pair[1].0, pair[1].1.as_deref()),
        });
        Ok(answers.collect())
    }

    /// Finds whose secrets these are, in one round trip. The answer is a hint: the session's record must confirm it.
    ///
    /// # Errors
    /// [`RedisAway`].
    pub async fn owners(&self, hashes: &[SecretHash]) -> Result<Vec<Option<(Sid, UserId)>>, RedisAway> {
        let names: Vec<_> = hashes.iter().map(|hash| self.secret_name(hash)).collect();
        let sealed = self.get(&names).await?;
        Ok(names.iter().zip(sealed).map(|(name, sealed)| self.open(name, sealed.as_deref())).collect())
    }

    /// Queues a session's record and the way to it from its secret.
    pub fn fill_session(&self, session: &SessionRecord, position: Position, ttl: Duration) {
        self.fill(self.session_name(session.sid, session.user_id), &Positioned { position, value: session }, ttl);
        self.fill(self.secret_name(&session.secret_hash), &(session.sid, session.user_id), ttl);
    }

    /// Queues a user's record.
    pub fn fill_user(&self, user: &UserRecord, position: Position, ttl: Duration) {
        self.fill(self.user_name(user.user.id), &Positioned { position, value: user }, ttl);
    }

    /// Removes what these entries have ended and lists revoked tokens. Best effort.
    pub async fn forget(&self, entries: &[LogEntry]) {
        let mut pipeline = redis::pipe();
        let mut any = false;
        for entry in entries {
            any |= self.forget_in(&mut pipeline, entry);
        }
        if any {
            // An answer that never comes changes nothing: the check decides, not Redis.
            let _ = self.link.run::<()>(&pipeline).await;
        }
    }

    /// Round trip of a `PING`, and bytes in use as `INFO` has them.
    pub async fn statistics(&self) -> Result<(Duration, Option<u64>), RedisAway> {
        let sent = std::time::Instant::now();
        let mut ping = redis::pipe();
        ping.cmd("PING").ignore();
        self.link.run::<()>(&ping).await?;
        let latency = sent.elapsed();
        let mut info = redis::pipe();
        info.cmd("INFO").arg("memory");
        let memory = self.link.run::<(String,)>(&info).await.ok();
        Ok((latency, memory.and_then(|(text,)| used_memory(&text))))
    }

    /// What the link's circuit breaker does now.
    #[must_use]
    pub fn breaker(&self) -> BreakerState {
        self.link.breaker()
    }

    /// Whether Redis answered the last command.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.link.is_up()
    }

    fn forget_in(&self, pipeline: &mut Pipeline, entry: &LogEntry) -> bool {
        match &entry.scope {
            Scope::Session { sid, user_id, .. } | Scope::SessionChanged { sid, user_id } => {
                pipeline.del(self.session_name(*sid, *user_id)).ignore();
            }
            Scope::Sessions { sessions, .. } => {
                for (sid, user_id) in sessions {
                    pipeline.del(self.session_name(*sid, *user_id)).ignore();
                }
            }
            Scope::UserEpoch { user_id, .. } | Scope::UserChanged { user_id } => {
                pipeline.del(self.user_name(*user_id)).ignore();
            }
            Scope::Token { jti, sid, user_id, expires_at } => {
                let life = (*expires_at - entry.at).whole_seconds().max(1);
                pipeline.del(self.session_name(*sid, *user_id)).ignore();
                pipeline.set_ex(self.name("j", jti.0.as_bytes()), 1, life as u64).ignore();
            }
            Scope::KeyAdded { .. } | Scope::KeyRemoved { .. } => return false,
        }
        true
    }

    async fn get(&self, names: &[String]) -> Result<Vec<Option<Vec<u8>>>, RedisAway> {
        let mut pipeline = redis::pipe();
        for name in names {
            pipeline.get(name);
        }
        self.link.run(&pipeline).await
    }

    fn fill<T: Serialize>(&self, name: String, value: &T, ttl: Duration) {
        let Ok(plain) = serde_json::to_vec(value) else { return };
        let Ok(sealed) = self.sealer.seal(Purpose::Record, name.as_bytes(), plain) else { return };
        self.queue(Fill { name, sealed, life: Life::For(ttl) });
    }

    fn queue(&self, fill: Fill) {
        // A full queue is an answer, not a wait.
        let _ = self.fills.try_send(fill);
    }

    /// What does not open was written with an unknown key, moved or damaged: as good as absent.
    fn open<T: DeserializeOwned>(&self, name: &str, sealed: Option<&[u8]>) -> Option<T> {
        let opened = self.sealer.open(Purpose::Record, name.as_bytes(), sealed?)?;
        let value = serde_json::from_slice(&opened.plain).ok()?;
        if opened.outdated
            && let Ok(sealed) = self.sealer.seal(Purpose::Record, name.as_bytes(), opened.plain)
        {
            self.queue(Fill { name: name.to_owned(), sealed, life: Life::AsBefore });
        }
        Some(value)
    }

    fn session_name(&self, sid: Sid, user_id: UserId) -> String {
        let tag = self.sealer.name("u", user_id.0.as_bytes());
        format!("{}:{{{tag}}}:s:{}", self.prefix, self.sealer.name("s", sid.0.as_bytes()))
    }

    fn user_name(&self, user_id: UserId) -> String {
        format!("{}:{{{}}}:u", self.prefix, self.sealer.name("u", user_id.0.as_bytes()))
    }

    fn secret_name(&self, hash: &SecretHash) -> String {
        self.name("x", &hash.0)
    }

    fn name(&self, kind: &str, id: &[u8]) -> String {
        format!("{}:{kind}:{}", self.prefix, self.sealer.name(kind, id))
    }
}

/// Writes fills in batches, so that they cost the request that found them nothing.
async fn write_fills(link: Arc<RedisLink>, mut queue: mpsc::Receiver<Fill>) {
    let mut fills = Vec::with_capacity(WRITE_BATCH);
    while queue.recv_many(&mut fills, WRITE_BATCH).await > 0 {
        let mut pipeline = redis::pipe();
        for Fill { name, sealed, life } in fills.drain(..) {
            match life {
                Life::For(ttl) => pipeline.pset_ex(name, sealed, ttl.as_millis().max(1) as u64),
                Life::AsBefore => pipeline.cmd("SET").arg(name).arg(sealed).arg("XX").arg("KEEPTTL"),
            };
            pipeline.ignore();
        }
        let _ = link.run::<()>(&pipeline).await;
    }
}

fn used_memory(info: &str) -> Option<u64> {
    info.lines().find_map(|line| line.strip_prefix("used_memory:")).and_then(|value| value.trim().parse().ok())
}
