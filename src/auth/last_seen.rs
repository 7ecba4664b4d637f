//! Last uses of sessions, written behind in batches.
//!
//! At most once in five minutes per session, and at once when less than an hour of its sliding life is left. The
//! statement behind it touches living sessions only, so that a late write brings nothing back.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quick_cache::sync::Cache as BoundedMap;
use time::OffsetDateTime;
use tokio::sync::Notify;

use crate::cache::Cache;
use crate::clock::{BootInstant, DatabaseClock};
use crate::ids::Sid;
use crate::store::{SessionRecord, Store};

const USUALLY_EVERY: Duration = Duration::from_secs(5 * 60);
const URGENT_BELOW: Duration = Duration::from_secs(60 * 60);

/// How long uses gather before they are written together.
const GATHER: Duration = Duration::from_millis(100);

/// Uses in one statement.
const BATCH: usize = 500;

/// Sessions whose use waits to be written. More are dropped: their next use is noted again.
const WAITING: usize = 100_000;

/// Notes uses and writes them.
pub struct LastSeen {
    waiting: Mutex<HashMap<Sid, OffsetDateTime>>,
    written: BoundedMap<Sid, BootInstant>,
    wake: Notify,
    clock: Arc<DatabaseClock>,
    session_ttl: Duration,
}

impl LastSeen {
    /// For sessions that slide by `session_ttl`; remembers what it wrote for `capacity` sessions.
    #[must_use]
    pub fn new(clock: Arc<DatabaseClock>, session_ttl: Duration, capacity: usize) -> Self {
        Self { waiting: Mutex::default(), written: BoundedMap::new(capacity), wake: Notify::new(), clock, session_ttl }
    }

    /// Notes that a session was used now. Costs two comparisons when it was noted lately.
    pub fn note(&self, session: &SessionRecord) {
        let now = self.clock.now();
        let every = self.interval(session, now);
        if now - session.last_seen_at < every {
            return;
        }
        let written_lately = self.written.get(&session.sid).is_some_and(|at| BootInstant::now().since(at) < every);
        if written_lately {
            return;
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() < WAITING {
            waiting.insert(session.sid, now);
            drop(waiting);
            self.written.insert(session.sid, BootInstant::now());
            self.wake.notify_one();
        }
    }

    /// Writes for ever.
    pub async fn write(&self, store: &Store, cache: &Cache) {
        loop {
            self.wake.notified().await;
            tokio::time::sleep(GATHER).await;
            self.flush(store, cache).await;
        }
    }

    /// Writes what waits. Called once more when the node stops.
    pub async fn flush(&self, store: &Store, cache: &Cache) {
        let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        let uses: Vec<_> = waiting.into_iter().collect();
        for batch in uses.chunks(BATCH) {
            match store.touch_sessions(batch, self.session_ttl).await {
                Ok(touched) => {
                    touched.into_iter().for_each(|(sid, last_seen, expires)| cache.slide(sid, last_seen, expires));
                }
                Err(error) => {
                    tracing::debug!(%error, "failed to write last uses; they will be noted again");
                    for (sid, _) in batch {
                        self.written.remove(sid);
                    }
                }
            }
        }
    }

    fn interval(&self, session: &SessionRecord, now: OffsetDateTime) -> Duration {
        let can_slide = session.expires_at < session.max_expires_at;
        let urgent = can_slide && session.expires_at - now < URGENT_BELOW;
        // For lives below an hour "at once" would mean a write per request: a twentieth of the life is soon enough.
        if urgent { (self.session_ttl / 20).min(USUALLY_EVERY) } else { USUALLY_EVERY }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::UserId;
    use crate::secret::SecretHash;

    fn session(last_seen_ago: Duration, left: Duration) -> SessionRecord {
        let now = OffsetDateTime::now_utc();
        SessionRecord {
            sid: Sid::random(),
            user_id: UserId::random(),
            secret_hash: SecretHash([0; 32]),
            auth_epoch: 0,
            created_at: now - last_seen_ago,
            last_seen_at: now - last_seen_ago,
            expires_at: now + left,
            max_expires_at: now + left * 10,
            listed: Vec::new(),
            rotation: None,
            seen_from: crate::store::Fingerprint::default(),
        }
    }

    fn waiting(last_seen: &LastSeen) -> usize {
        last_seen.waiting.lock().expect("not poisoned").len()
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_session_is_written_at_most_once_in_five_minutes() {
        let last_seen = LastSeen::new(Arc::default(), MINUTE * 60 * 24 * 7, 10);
        last_seen.note(&session(MINUTE * 4, MINUTE * 60 * 24));
        assert_eq!(waiting(&last_seen), 0, "seen four minutes ago");
        let due = session(MINUTE * 6, MINUTE * 60 * 24);
        last_seen.note(&due);
        assert_eq!(waiting(&last_seen), 1);
        last_seen.waiting.lock().expect("not poisoned").clear();
        last_seen.note(&due);
        assert_eq!(waiting(&last_seen), 0, "written a moment ago");
    }

    #[test]
    fn the_last_hour_of_a_session_is_urgent() {
        let last_seen = LastSeen::new(Arc::default(), MINUTE * 20, 10);
        last_seen.note(&session(MINUTE * 2, MINUTE * 18));
        assert_eq!(waiting(&last_seen), 1);
    }
}
