//! What a batch of misses asks the next tier, and how its rows become answers. One statement or one round trip a batch.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::Ending;
use super::batch::{Answers, BatchLimits};
use super::redis_tier::{RedisAnswer, RedisTier};
use crate::freshness::Stamp;
use crate::ids::{Sid, UserId};
use crate::secret::SecretHash;
use crate::store::{Read, SessionRead, SessionRecord, Store, StoreError, UserRecord};

/// For all the reads of one question. Later than that the answer is *cannot tell*.
pub(super) const LOADING_TIME: Duration = Duration::from_millis(1500);

/// What a batch answers for one key.
#[derive(Clone, Debug)]
pub(super) enum Loaded {
    /// Both, with what the read proves of their freshness.
    Alive(Arc<SessionRecord>, Arc<UserRecord>, Stamp),
    /// Not good any more; the session's id unless only its secret was named.
    Ended(Option<Sid>, Ending),
    /// A secret that was rotated away, and whose it was.
    Spent(Sid, UserId),
}

impl Loaded {
    /// Whether the database has such a session.
    pub(super) fn is_known(&self) -> bool {
        !matches!(self, Self::Ended(_, Ending::Unknown))
    }
}

/// Bounds of what is asked of Redis at a time.
pub(super) const REDIS_LIMITS: BatchLimits =
    BatchLimits { keys: 128, at_once: 2, waiting: 50_000, wait: Duration::from_millis(500), gather: Duration::ZERO };

/// One batch by id and one by secret: at most two connections of the pool serve misses.
pub(super) const DATABASE_LIMITS: BatchLimits =
    BatchLimits { keys: 500, at_once: 1, waiting: 20_000, wait: LOADING_TIME, gather: Duration::from_millis(100) };

/// Asks Redis for sessions and their users.
pub(super) async fn look_up(
    tier: Arc<RedisTier>,
    keys: Vec<(Sid, UserId)>,
    mut answers: Answers<(Sid, UserId), RedisAnswer>,
) {
    if let Ok(found) = tier.sessions(&keys).await {
        keys.into_iter().zip(found).for_each(|(key, answer)| answers.give(key, answer));
    }
}

/// Asks Redis whose secrets these are.
pub(super) async fn look_up_owners(
    tier: Arc<RedisTier>,
    keys: Vec<SecretHash>,
    mut answers: Answers<SecretHash, Option<(Sid, UserId)>>,
) {
    if let Ok(found) = tier.owners(&keys).await {
        keys.into_iter().zip(found).for_each(|(key, owner)| answers.give(key, owner));
    }
}

/// Reads sessions, each with its user.
pub(super) async fn load(store: Store, keys: Vec<Sid>, answers: Answers<Sid, Loaded>) {
    let read = store.load_sessions(&keys).await;
    answer_from(read, keys, answers, |session| session.sid, Some);
}

/// Reads the sessions that have these secrets; with `rotation` also looks whose secrets of former days they are.
pub(super) async fn load_by_secret(
    store: Store,
    rotation: bool,
    mut keys: Vec<SecretHash>,
    mut answers: Answers<SecretHash, Loaded>,
) {
    let read = store.load_sessions_by_secret(&keys).await;
    if let (true, Ok(read)) = (rotation, &read) {
        let known: HashSet<SecretHash> = read.value.iter().map(|row| row.session.secret_hash).collect();
        let unknown: Vec<SecretHash> = keys.iter().copied().filter(|key| !known.contains(key)).collect();
        let spent = if unknown.is_empty() { Ok(Vec::new()) } else { store.spent_secrets(&unknown).await };
        match spent {
            Ok(spent) => {
                for (hash, sid, user_id) in spent {
                    answers.give(hash, Loaded::Spent(sid, user_id));
                    keys.retain(|key| *key != hash);
                }
            }
            // Without it "unknown" would be no fact.
            Err(error) => {
                tracing::debug!(%error, "failed to look for spent secrets");
                keys.retain(|key| known.contains(key));
            }
        }
    }
    answer_from(read, keys, answers, |session| session.secret_hash, |_| None);
}

fn answer_from<K: Copy + Eq + std::hash::Hash>(
    read: Result<Read<Vec<SessionRead>>, StoreError>,
    keys: Vec<K>,
    mut answers: Answers<K, Loaded>,
    key_of: impl Fn(&SessionRecord) -> K,
    sid_of: impl Fn(K) -> Option<Sid>,
) where
    Loaded: Clone,
{
    let read = match read {
        Ok(read) => read,
        Err(error) => return tracing::debug!(%error, "failed to load sessions"),
    };
    let stamp = read.stamp;
    let mut found: HashMap<K, SessionRead> = read.value.into_iter().map(|row| (key_of(&row.session), row)).collect();
    for key in keys {
        let loaded = match found.remove(&key) {
            None => Loaded::Ended(sid_of(key), Ending::Unknown),
            Some(row) => match row.ended {
                Some(reason) => Loaded::Ended(Some(row.session.sid), Ending::Ended(reason)),
                None => Loaded::Alive(Arc::new(row.session), Arc::new(row.user), stamp),
            },
        };
        answers.give(key, loaded);
    }
}
