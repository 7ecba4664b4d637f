//! The cache over a real database: what it believes, what it asks again, and that it never takes doubt for a no.

use std::sync::Arc;
use std::time::{Duration, Instant};

use portcullis::cache::{Cache, CacheParts, Ending, Peek, Standing, ahead, marked_by};
use portcullis::clock::{BootInstant, DatabaseClock};
use portcullis::entry::{EndReason, LogEntry};
use portcullis::freshness::Freshness;
use portcullis::ids::{Jti, Sid};
use portcullis::secret::SessionSecret;
use portcullis::store::{
    ListedToken, NewSession, NewUser, PasswordOutcome, SessionRead, SignupOutcome, Store, StoreConfig,
};

struct Node {
    store: Store,
    cache: Arc<Cache>,
    freshness: Arc<Freshness>,
    clock: Arc<DatabaseClock>,
    _data: tempfile::TempDir,
}

impl Node {
    async fn start() -> Self {
        Self::remembering_for(Duration::from_secs(3600)).await
    }

    async fn remembering_for(user_ttl: Duration) -> Self {
        let data = tempfile::tempdir().expect("a temporary folder");
        let config = StoreConfig {
            database_url: None,
            data_dir: data.path().to_owned(),
            pool_size: 4,
            acquire_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(5),
        };
        let store = Store::open(&config).await.expect("opens");
        store.migrate().await.expect("migrates");
        let (freshness, clock) = (Arc::new(Freshness::new()), Arc::new(DatabaseClock::default()));
        let (cache, workers) = Cache::new(CacheParts {
            store: store.clone(),
            redis: None,
            freshness: freshness.clone(),
            clock: clock.clone(),
            capacity: 1000,
            rotation: false,
            user_ttl,
        });
        workers.into_iter().for_each(|worker| drop(tokio::spawn(worker)));
        Self { store, cache, freshness, clock, _data: data }
    }

    async fn log_in(&self) -> (SessionRead, SessionSecret) {
        let secret = SessionSecret::random();
        let user =
            NewUser { email: format!("{}@example.org", Sid::random()), password_hash: "old".into(), full_name: None };
        let outcome = self.store.sign_up(user, Some(new_session(&secret))).await.expect("writes");
        match outcome {
            SignupOutcome::Created { session: Some(read), .. } => (read.value, secret),
            other => panic!("no session: {other:?}"),
        }
    }

    fn apply(&self, entries: &[LogEntry]) {
        entries
            .iter()
            .flat_map(|entry| marked_by(&entry.scope).map(|id| (id, entry.position)))
            .for_each(|(id, position)| self.freshness.mark(id, position));
        entries.iter().for_each(|entry| self.cache.forget_local(entry));
    }

    /// As a complete log read would.
    fn renew(&self) {
        self.freshness.rise(BootInstant::now());
    }

    async fn standing(&self, read: &SessionRead) -> Standing {
        self.cache.session(read.session.sid, read.session.user_id).await.expect("the database can tell")
    }

    fn peek(&self, read: &SessionRead) -> Peek {
        self.cache.peek(read.session.sid, read.session.user_id)
    }
}

fn new_session(secret: &SessionSecret) -> NewSession {
    NewSession {
        sid: Sid::random(),
        secret_hash: secret.hash(),
        device_name: None,
        user_agent: None,
        ip: None,
        seen_from: Default::default(),
        ttl: Duration::from_secs(3600),
        max_age: Duration::from_secs(7200),
    }
}

#[tokio::test]
async fn a_session_is_read_once_and_then_answered_from_memory() {
    let node = Node::start().await;
    let (read, _) = node.log_in().await;
    node.renew();
    for _ in 0..10 {
        assert!(matches!(node.standing(&read).await, Standing::Alive(..)));
    }
    let statistics = node.cache.statistics();
    assert_eq!((statistics.misses, statistics.hits), (1, 9));
}

#[tokio::test]
async fn a_revocation_that_was_applied_ends_what_is_remembered() {
    let node = Node::start().await;
    let (read, secret) = node.log_in().await;
    node.standing(&read).await;
    let session = &read.session;
    let revoked = node.store.end_session(session.sid, session.user_id, EndReason::LoggedOut, None).await.expect("ends");
    node.apply(&revoked.entries);
    node.renew();
    let ended = Ending::Ended(EndReason::LoggedOut);
    assert!(matches!(node.standing(&read).await, Standing::Ended(ending) if ending == ended));
    let by_secret = node.cache.session_by_secret(secret.hash()).await;
    assert!(matches!(by_secret, Ok(Standing::Ended(ending)) if ending == ended));
}

#[tokio::test]
async fn what_is_remembered_is_not_used_once_its_freshness_cannot_be_shown() {
    let node = Node::start().await;
    let (read, _) = node.log_in().await;
    node.standing(&read).await;
    // Nobody applied this, as if both carriers were cut.
    let session = &read.session;
    node.store.end_session(session.sid, session.user_id, EndReason::Revoked, None).await.expect("ends");
    let lapsed = async {
        while matches!(node.peek(&read), Peek::Alive(..)) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), lapsed).await.expect("memory alone must lapse");
    assert!(matches!(node.standing(&read).await, Standing::Ended(Ending::Ended(EndReason::Revoked))));
}

#[tokio::test]
async fn the_session_that_changes_the_password_is_never_refused() {
    let node = Node::start().await;
    let (read, _) = node.log_in().await;
    node.standing(&read).await;
    let session = &read.session;
    let outcome = node.store.change_password(session.user_id, session.sid, "old", "new").await.expect("changes");
    let PasswordOutcome::Changed { entries } = outcome else { panic!("superseded") };
    // Before the entry is applied, after it, and with only one of the two facts read anew.
    assert!(matches!(node.standing(&read).await, Standing::Alive(..)));
    node.apply(&entries);
    node.renew();
    assert!(matches!(node.standing(&read).await, Standing::Alive(..)));
}

#[tokio::test]
async fn a_listed_token_rides_with_its_session() {
    let node = Node::start().await;
    let (read, _) = node.log_in().await;
    node.standing(&read).await;
    let (jti, session) = (Jti::random(), &read.session);
    let expires_at = node.clock.now() + Duration::from_secs(60);
    let token = ListedToken { jti, sid: session.sid, user_id: session.user_id, expires_at };
    let revoked = node.store.list_token(token).await.expect("lists");
    node.apply(&revoked.entries);
    node.renew();
    let Standing::Alive(session, _) = node.standing(&read).await else { panic!("the session lives on") };
    assert_eq!(session.listed, [jti]);
}

#[tokio::test]
async fn unknown_secrets_reach_the_database_once() {
    let node = Node::start().await;
    let secret = SessionSecret::random();
    for _ in 0..5 {
        let standing = node.cache.session_by_secret(secret.hash()).await;
        assert!(matches!(standing, Ok(Standing::Ended(Ending::Unknown))));
    }
    assert_eq!(node.cache.statistics().misses, 1);
}

#[tokio::test]
async fn a_session_of_another_user_is_no_session() {
    let node = Node::start().await;
    let (read, _) = node.log_in().await;
    let (other, _) = node.log_in().await;
    let standing = node.cache.session(read.session.sid, other.session.user_id).await;
    assert!(matches!(standing, Ok(Standing::Ended(Ending::Unknown))));
    assert!(matches!(node.standing(&read).await, Standing::Alive(..)), "and its owner's is untouched");
}

#[tokio::test]
async fn without_a_database_the_answer_is_cannot_tell() {
    let node = Node::start().await;
    let (read, _) = node.log_in().await;
    node.store.close().await;
    assert!(node.cache.session(read.session.sid, read.session.user_id).await.is_err());
}

/// Three lives of the record long it is asked for all the time, and never missing.
#[tokio::test]
async fn what_is_used_is_read_again_before_it_lapses() {
    const LIFE: Duration = Duration::from_secs(2);
    let node = Node::remembering_for(LIFE).await;
    let (read, _) = node.log_in().await;
    node.renew();
    node.standing(&read).await;
    let (begun, mut asked, mut longest_pause) = (Instant::now(), Instant::now(), Duration::ZERO);
    while begun.elapsed() < 3 * LIFE {
        node.renew();
        assert!(matches!(node.standing(&read).await, Standing::Alive(..)));
        longest_pause = longest_pause.max(asked.elapsed());
        asked = Instant::now();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // A machine that paused for as long as the time ahead did not use it then.
    if longest_pause < LIFE / 16 {
        assert_eq!(node.cache.statistics().misses, 1, "it lapsed while it was used; longest pause {longest_pause:?}");
    }
}

#[tokio::test]
async fn warming_reads_the_sessions_used_last() {
    let node = Node::start().await;
    let mut sessions = Vec::new();
    for _ in 0..5 {
        sessions.push(node.log_in().await.0);
    }
    let ended = sessions.remove(4).session;
    node.store.end_session(ended.sid, ended.user_id, EndReason::LoggedOut, None).await.expect("ends");
    // The first ones are used again, the last ones are not.
    let later = node.clock.now() + Duration::from_millis(5);
    tokio::time::sleep(Duration::from_millis(20)).await;
    let uses: Vec<_> = sessions[..2].iter().map(|read| (read.session.sid, later)).collect();
    node.store.touch_sessions(&uses, Duration::from_secs(3600)).await.expect("writes");
    node.renew();
    assert_eq!(ahead::warm(&node.cache, &node.store, 2).await, 2);
    node.renew();
    let known: Vec<_> = sessions.iter().map(|read| matches!(node.peek(read), Peek::Alive(..))).collect();
    assert_eq!(known, [true, true, false, false]);
    assert_eq!(ahead::warm(&node.cache, &node.store, 100).await, 4, "those that live");
    assert_eq!(node.cache.statistics().misses, 0, "nobody waited for a read");
}
