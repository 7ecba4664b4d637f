//! The first tier: this node's memory. Bounded in entries; every hit goes through the freshness check.

use std::sync::Arc;
use std::time::Duration;

use quick_cache::sync::Cache;
use time::OffsetDateTime;
use tokio::sync::mpsc;

use crate::clock::BootInstant;
use crate::entry::{LogEntry, Scope};
use crate::freshness::{Judgement, Stamp, Verdict};
use crate::ids::{Sid, UserId};
use crate::secret::SecretHash;
use crate::store::{SessionRecord, UserRecord};

use super::{Ending, jittered};

/// How long an unknown secret is remembered as unknown. A secret that does not exist now never will: this only bounds
/// what a flood of guesses occupies.
const UNKNOWN_FOR: Duration = Duration::from_secs(30);

/// Facts held in memory.
pub struct Local {
    sessions: Cache<Sid, Held<SessionRecord>>,
    users: Cache<UserId, Held<UserRecord>>,
    owners: Cache<SecretHash, (Sid, UserId)>,
    endings: Cache<Sid, Ending>,
    unknown: Cache<SecretHash, BootInstant>,
    user_ttl: Duration,
    /// Before a user's record lapses, those that are used are named here to be read again.
    lapsing: mpsc::Sender<(UserId, Sid)>,
}

struct Held<T> {
    value: Arc<T>,
    stamp: Stamp,
    until: BootInstant,
}

impl<T> Clone for Held<T> {
    fn clone(&self) -> Self {
        Self { value: self.value.clone(), ..*self }
    }
}

/// What memory says about a session.
#[derive(Clone, Debug)]
pub enum Peek {
    /// Alive, by facts that are fresh.
    Alive(Arc<SessionRecord>, Arc<UserRecord>),
    /// Dead for good: endings are final, so this needs no freshness.
    Ended(Ending),
    /// Nothing usable: load it.
    Miss,
    /// Something is there, but the node does not know what was revoked lately.
    NotCaughtUp,
}

impl Local {
    /// Room for `capacity` sessions, and as many users. Says on `lapsing` whose record is used and about to lapse.
    #[must_use]
    pub fn new(capacity: usize, user_ttl: Duration, lapsing: mpsc::Sender<(UserId, Sid)>) -> Self {
        Self {
            sessions: Cache::new(capacity),
            users: Cache::new(capacity),
            owners: Cache::new(capacity),
            endings: Cache::new(capacity),
            unknown: Cache::new(capacity.min(10_000)),
            user_ttl,
            lapsing,
        }
    }

    /// What is known of this session, `instant` being database time `now`. Two facts read at different moments decide
    /// only together and only for the good: whatever does not fit is a miss, and the database judges it in one statement.
    #[must_use]
    pub fn peek(
        &self,
        (sid, user_id): (Sid, UserId),
        (instant, now): (BootInstant, OffsetDateTime),
        judgement: Judgement<'_>,
    ) -> Peek {
        let (Some(session), Some(user)) = (self.sessions.get(&sid), self.users.get(&user_id)) else {
            return self.endings.get(&sid).map_or(Peek::Miss, Peek::Ended);
        };
        let fits = session.value.user_id == user_id
            && session.value.auth_epoch == user.value.auth_epoch
            && !user.value.disabled
            && session.value.expires_at > now
            && user.until > instant;
        if !fits {
            return Peek::Miss;
        }
        if user.until <= instant.plus(self.ahead()) {
            // A full queue is an answer: it is named again at its next use.
            let _ = self.lapsing.try_send((user_id, sid));
        }
        match judgement.fact(session.stamp, &[sid.0, user_id.0]).fact(user.stamp, &[user_id.0]).verdict() {
            Verdict::Fresh => Peek::Alive(session.value, user.value),
            Verdict::Superseded => Peek::Miss,
            Verdict::NotCaughtUp => Peek::NotCaughtUp,
        }
    }

    /// Stores what a read or Redis said. The caller asks [`peek`](Self::peek) afterwards: an entry that slipped in
    /// behind a revocation does not pass there.
    pub fn store_session(&self, session: Arc<SessionRecord>, stamp: Stamp) {
        self.owners.insert(session.secret_hash, (session.sid, session.user_id));
        let until = BootInstant(u64::MAX);
        self.sessions.insert(session.sid, Held { value: session, stamp, until });
    }

    /// The same for a user.
    pub fn store_user(&self, user: Arc<UserRecord>, stamp: Stamp) {
        let until = BootInstant::now().plus(jittered(self.user_ttl));
        self.users.insert(user.user.id, Held { value: user, stamp, until });
    }

    /// Whether there is a record of this user.
    #[must_use]
    pub fn has_user(&self, user_id: UserId) -> bool {
        self.users.get(&user_id).is_some_and(|user| user.until > BootInstant::now())
    }

    /// Whether this user's record is still about to lapse.
    #[must_use]
    pub fn is_lapsing(&self, user_id: UserId) -> bool {
        let soon = BootInstant::now().plus(self.ahead());
        self.users.get(&user_id).is_some_and(|user| user.until <= soon)
    }

    /// How long before its end a record that is used is read again.
    fn ahead(&self) -> Duration {
        self.user_ttl / 8
    }

    /// Remembers that a session is dead.
    pub fn store_ending(&self, sid: Sid, ending: Ending) {
        self.sessions.remove(&sid);
        self.endings.insert(sid, ending);
    }

    /// Remembers whose a spent secret was.
    pub fn store_owner(&self, hash: SecretHash, sid: Sid, user_id: UserId) {
        self.owners.insert(hash, (sid, user_id));
    }

    /// Remembers that nobody has this secret.
    pub fn store_unknown(&self, hash: SecretHash) {
        self.unknown.insert(hash, BootInstant::now().plus(UNKNOWN_FOR));
    }

    /// Whose secret this is, if that was learned. A hint: the session's record must confirm it.
    #[must_use]
    pub fn owner(&self, hash: &SecretHash) -> Option<(Sid, UserId)> {
        self.owners.get(hash)
    }

    /// Whether this secret was found to be nobody's a moment ago.
    #[must_use]
    pub fn is_unknown(&self, hash: &SecretHash) -> bool {
        self.unknown.get(hash).is_some_and(|until| until > BootInstant::now())
    }

    /// Takes over later times of a session that was used. Its stamp stays: nothing was learned about revocations.
    pub fn slide(
        &self,
        sid: Sid,
        last_seen_at: OffsetDateTime,
        expires_at: OffsetDateTime,
    ) -> Option<(Arc<SessionRecord>, Stamp)> {
        let held = self.sessions.get(&sid)?;
        let record = Arc::new(SessionRecord { last_seen_at, expires_at, ..(*held.value).clone() });
        self.sessions.insert(sid, Held { value: record.clone(), ..held.clone() });
        Some((record, held.stamp))
    }

    /// Drops what an entry has ended or changed.
    pub fn forget(&self, entry: &LogEntry) {
        match &entry.scope {
            Scope::Session { sid, reason, .. } => self.store_ending(*sid, Ending::Ended(*reason)),
            Scope::Sessions { sessions, reason } => {
                sessions.iter().for_each(|(sid, _)| self.store_ending(*sid, Ending::Ended(*reason)));
            }
            Scope::Token { sid, .. } | Scope::SessionChanged { sid, .. } => drop(self.sessions.remove(sid)),
            Scope::UserEpoch { user_id, .. } | Scope::UserChanged { user_id } => drop(self.users.remove(user_id)),
            Scope::KeyAdded { .. } | Scope::KeyRemoved { .. } => {}
        }
    }

    /// Drops everything: what was remembered is suspect.
    pub fn clear(&self) {
        self.sessions.clear();
        self.users.clear();
        self.owners.clear();
        self.endings.clear();
        self.unknown.clear();
    }

    /// Sessions and users in memory.
    #[must_use]
    pub fn sizes(&self) -> (usize, usize) {
        (self.sessions.len(), self.users.len())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::entry::EndReason;
    use crate::freshness::Freshness;
    use crate::store::User;

    fn facts() -> (Arc<SessionRecord>, Arc<UserRecord>) {
        let now = OffsetDateTime::now_utc();
        let user = User {
            id: UserId::random(),
            email: "a@example.org".into(),
            full_name: None,
            avatar_url: None,
            metadata: json!({}),
            created_at: now,
            updated_at: now,
        };
        let session = SessionRecord {
            sid: Sid::random(),
            user_id: user.id,
            secret_hash: SecretHash([0; 32]),
            auth_epoch: 1,
            created_at: now,
            last_seen_at: now,
            expires_at: now + Duration::from_secs(60),
            max_expires_at: now + Duration::from_secs(60),
            listed: Vec::new(),
            rotation: None,
            seen_from: crate::store::Fingerprint::default(),
        };
        (Arc::new(session), Arc::new(UserRecord { user, auth_epoch: 1, disabled: false }))
    }

    struct Memory {
        local: Local,
        freshness: Freshness,
    }

    impl Memory {
        fn new() -> Self {
            Self { local: Local::new(100, Duration::from_secs(60), mpsc::channel(1).0), freshness: Freshness::new() }
        }

        fn peek(&self, session: &SessionRecord, now: OffsetDateTime) -> Peek {
            let key = (session.sid, session.user_id);
            self.local.peek(key, (BootInstant::now(), now), self.freshness.judge())
        }

        fn is_alive(&self, session: &SessionRecord) -> bool {
            matches!(self.peek(session, OffsetDateTime::now_utc()), Peek::Alive(..))
        }
    }

    fn ended(session: &SessionRecord) -> LogEntry {
        let scope = Scope::Session { sid: session.sid, user_id: session.user_id, reason: EndReason::LoggedOut };
        LogEntry { id: 1, position: 5, at: OffsetDateTime::now_utc(), confirm: false, scope }
    }

    #[test]
    fn a_fill_that_comes_after_the_revocation_does_not_bring_the_session_back() {
        let memory = Memory::new();
        let (session, user) = facts();
        // The interleaving of the race: the read is sent, the revocation commits and is applied, the fill arrives.
        let stamp = Stamp { position: 5, read_at: Some(BootInstant::now()) };
        memory.freshness.mark(session.sid.0, 5);
        memory.local.forget(&ended(&session));
        memory.freshness.rise(BootInstant::now());
        memory.local.store_user(user, stamp);
        memory.local.store_session(session.clone(), stamp);
        assert!(!memory.is_alive(&session));
    }

    #[test]
    fn the_same_fill_through_redis_does_not_either() {
        let memory = Memory::new();
        let (session, user) = facts();
        memory.freshness.mark(session.sid.0, 5);
        memory.local.forget(&ended(&session));
        memory.freshness.rise(BootInstant::now());
        let stale = Stamp { position: 5, read_at: None };
        memory.local.store_user(user, stale);
        memory.local.store_session(session.clone(), stale);
        assert!(!memory.is_alive(&session));
    }

    #[test]
    fn facts_of_two_epochs_are_a_miss_and_not_a_verdict() {
        let memory = Memory::new();
        let (session, user) = facts();
        let stamp = Stamp { position: 5, read_at: Some(BootInstant::now()) };
        memory.local.store_session(session.clone(), stamp);
        memory.local.store_user(Arc::new(UserRecord { auth_epoch: 2, ..(*user).clone() }), stamp);
        let peek = memory.peek(&session, OffsetDateTime::now_utc());
        assert!(matches!(peek, Peek::Miss), "only one statement may judge epochs: {peek:?}");
    }

    #[test]
    fn a_fresh_fact_is_alive_until_its_session_expires() {
        let memory = Memory::new();
        let (session, user) = facts();
        let stamp = Stamp { position: 5, read_at: Some(BootInstant::now()) };
        memory.local.store_session(session.clone(), stamp);
        memory.local.store_user(user, stamp);
        assert!(memory.is_alive(&session));
        let later = session.expires_at + Duration::from_secs(1);
        assert!(matches!(memory.peek(&session, later), Peek::Miss));
    }
}
