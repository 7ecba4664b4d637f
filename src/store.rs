//! The truth: users, sessions, keys and the revocation log, in Postgres or in an embedded SQLite file. The only SQL.
//!
//! Called by the cache (batched loads), by `revocation` (everything that ends a credential) and by the endpoints that
//! write. Knows nothing of Redis, tokens or sockets. Every failure of the database itself is a [`StoreError`], which
//! means *cannot tell*; a refusal that is a fact (address taken, epoch moved on) is part of the answer's type.
//!
//! Nothing here waits without a bound: not for a connection, not for a lock, not for an answer. A write whose caller
//! goes away in the middle is rolled back or was committed; whoever must act on a commit runs it in a task of its own.

pub mod attribution;
pub mod before_commit;
mod error;
mod folding;
mod postgres;
mod rows;
mod sqlite;
mod timing;
mod types;

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use time::OffsetDateTime;

use crate::entry::{EndReason, LogEntry, PublicKey};
use crate::ids::{NodeId, Sid, UserId};
use crate::secret::SecretHash;

pub(crate) use self::folding::email_key;
pub use self::types::*;

/// Keys that one batched load takes at most.
pub const MAX_KEYS: usize = 500;

/// The migrations may wait for another node that runs them.
const MIGRATION_LIMIT: Duration = Duration::from_secs(60);
/// The sweeper's statements together.
const SWEEP_LIMIT: Duration = Duration::from_secs(30);
/// The messages between a write's statements, on top of the configured limits.
const SLACK: Duration = Duration::from_secs(1);
/// A connection was had, and one message is sent: what its answer, or that to `BEGIN`, may take. Nothing has been done
/// before, so a database that does not answer costs its callers this much and no more.
const FIRST_ANSWER: Duration = Duration::from_millis(500);

/// The database could not answer. Never a statement about a credential.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Out of reach, too slow, pool exhausted, or not the primary. Worth another try later.
    #[error("the database is unavailable: {0}")]
    Unavailable(String),
    /// It answered something that cannot be, such as a row that does not decode. Ours to mend.
    #[error("the database answered nonsense: {0}")]
    Corrupt(String),
}

/// The result of everything here.
pub type StoreResult<T> = Result<T, StoreError>;

/// How to reach the database.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// A `postgres://` URL, or `None` for the SQLite file under `data_dir`.
    pub database_url: Option<secrecy::SecretString>,
    /// Directory of the SQLite file `portcullis.db`.
    pub data_dir: std::path::PathBuf,
    /// Connections in the pool, the log reader's own not counted.
    pub pool_size: u32,
    /// How long a caller waits for a connection before the answer is *cannot tell*. Reads, and writes that have not
    /// begun, are given up half a second later.
    pub acquire_timeout: Duration,
    /// `statement_timeout` of ordinary transactions.
    pub statement_timeout: Duration,
}

/// The database, one of two kinds. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    backend: Backend,
    /// The most that one call may take, waiting included.
    limit: Duration,
    /// The same for a read.
    read_limit: Duration,
}

#[derive(Clone)]
enum Backend {
    Postgres(Arc<postgres::Postgres>),
    Sqlite(Arc<sqlite::Sqlite>),
}

/// Calls one method of whichever backend there is. No trait: there are two, and both are known here.
macro_rules! ask {
    ($store:expr, $limit:expr, $method:ident($($argument:expr),*)) => {
        match &$store.backend {
            Backend::Postgres(postgres) => within($limit, postgres.$method($($argument),*)).await,
            Backend::Sqlite(sqlite) => within($limit, sqlite.$method($($argument),*)).await,
        }
    };
    ($store:expr, $method:ident($($argument:expr),*)) => {
        ask!($store, $store.limit, $method($($argument),*))
    };
}

mod operating;
pub use self::operating::*;

impl Store {
    /// Opens the pool (lazily connected for Postgres). Makes the data directory and the file for SQLite (mode 0600).
    ///
    /// # Errors
    /// A URL that is none, a directory or file that cannot be made.
    pub async fn open(config: &StoreConfig) -> StoreResult<Self> {
        let backend = match &config.database_url {
            Some(url) => Backend::Postgres(Arc::new(postgres::Postgres::open(url, config)?)),
            None => Backend::Sqlite(Arc::new(sqlite::Sqlite::open(config)?)),
        };
        Ok(Self {
            backend,
            limit: config.acquire_timeout + config.statement_timeout + SLACK,
            read_limit: config.acquire_timeout + FIRST_ANSWER,
        })
    }

    /// Runs the embedded migrations (safe when several nodes start at once), makes sure that the deployment row exists.
    /// Returns how many were applied.
    ///
    /// # Errors
    /// The database is out of reach, or not writable by this role.
    pub async fn migrate(&self) -> StoreResult<usize> {
        ask!(self, MIGRATION_LIMIT, migrate())
    }

    /// `postgres` or `sqlite`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self.backend {
            Backend::Postgres(_) => "postgres",
            Backend::Sqlite(_) => "sqlite",
        }
    }

    /// The pool's size and use now.
    #[must_use]
    pub fn pool_status(&self) -> PoolStatus {
        match &self.backend {
            Backend::Postgres(postgres) => postgres.pool_status(),
            Backend::Sqlite(sqlite) => sqlite.pool_status(),
        }
    }

    /// One cheap statement; the time it took, waiting for a connection included.
    pub async fn ping(&self) -> StoreResult<Duration> {
        let started = Instant::now();
        ask!(self, self.read_limit, ping())?;
        Ok(started.elapsed())
    }

    /// What this database calls itself. `Corrupt` before the first migration.
    pub async fn deployment(&self) -> StoreResult<Deployment> {
        ask!(self, self.read_limit, deployment())
    }

    // Accounts

    /// Makes an account and, when asked, its first session, or neither.
    pub async fn sign_up(&self, user: NewUser, session: Option<NewSession>) -> StoreResult<SignupOutcome> {
        ask!(self, sign_up(&user, session.as_ref()))
    }

    /// What a login with this address needs to know. `network` is where it comes from, to see whether its owner has been
    /// there before.
    pub async fn login_row(&self, email: &str, network: Option<&str>) -> StoreResult<Option<LoginRow>> {
        ask!(self, self.read_limit, login_row(email, network))
    }

    /// The login row by id, for a change of password.
    pub async fn login_row_by_id(&self, user_id: UserId) -> StoreResult<Option<LoginRow>> {
        ask!(self, self.read_limit, login_row_by_id(user_id))
    }

    /// `INSERT … SELECT … WHERE auth_epoch = $expected AND disabled_at IS NULL`: `None` when the user moved on.
    pub async fn insert_session(
        &self,
        user_id: UserId,
        expected_epoch: u64,
        session: NewSession,
    ) -> StoreResult<Option<Read<SessionRead>>> {
        ask!(self, insert_session(user_id, expected_epoch, &session))
    }

    /// Changes what is named. `max_metadata_bytes` bounds the metadata as serialized after the change.
    pub async fn update_profile(
        &self,
        user_id: UserId,
        change: ProfileChange,
        max_metadata_bytes: usize,
    ) -> StoreResult<ProfileOutcome> {
        ask!(self, update_profile(user_id, &change, max_metadata_bytes))
    }

    /// Sets the hash, raises the epoch except for `keep` (which is lifted to the new epoch), ends the others.
    pub async fn change_password(
        &self,
        user_id: UserId,
        keep: Sid,
        verified_hash: &str,
        new_hash: &str,
    ) -> StoreResult<PasswordOutcome> {
        ask!(self, change_password(user_id, keep, verified_hash, new_hash))
    }

    /// Changes the address, if nobody else has it. Nothing ends; the change is logged for the caches.
    pub async fn change_email(&self, user_id: UserId, verified_hash: &str, email: &str) -> StoreResult<EmailOutcome> {
        ask!(self, change_email(user_id, verified_hash, email))
    }

    /// Puts a better hash of the same password in the place of `old`; no credential changes and nothing ends. False when
    /// the password was changed in between.
    pub async fn rehash(&self, user_id: UserId, old: &str, new: &str) -> StoreResult<bool> {
        ask!(self, rehash(user_id, old, new))
    }

    // Batched loads: one statement each, at most `MAX_KEYS` keys; keys without a row are absent from the answer.

    /// Sessions with their users, by handle.
    pub async fn load_sessions(&self, sids: &[Sid]) -> StoreResult<Read<Vec<SessionRead>>> {
        few_enough(sids)?;
        ask!(self, self.read_limit, load_sessions(sids))
    }

    /// Sessions with their users, by the hash of the secret.
    pub async fn load_sessions_by_secret(&self, hashes: &[SecretHash]) -> StoreResult<Read<Vec<SessionRead>>> {
        few_enough(hashes)?;
        ask!(self, self.read_limit, load_sessions_by_secret(hashes))
    }

    /// Living sessions, those used last first, at most `count`.
    pub async fn recent_sessions(&self, count: usize) -> StoreResult<Vec<Sid>> {
        ask!(self, recent_sessions(count))
    }

    /// Users by id.
    pub async fn load_users(&self, ids: &[UserId]) -> StoreResult<Read<Vec<UserRecord>>> {
        few_enough(ids)?;
        ask!(self, self.read_limit, load_users(ids))
    }

    /// Live sessions of a user, newest use first, at most 200.
    pub async fn devices(&self, user_id: UserId) -> StoreResult<Vec<Device>> {
        ask!(self, self.read_limit, devices(user_id))
    }

    /// Writes last uses; slides `expires_at`; never touches an ended, expired or outdated session. Returns the new
    /// `(sid, last_seen_at, expires_at)` of those that were touched. A session that another transaction holds is left
    /// out and not waited for: absence says nothing about it.
    pub async fn touch_sessions(
        &self,
        uses: &[(Sid, OffsetDateTime)],
        ttl: Duration,
    ) -> StoreResult<Vec<(Sid, OffsetDateTime, OffsetDateTime)>> {
        few_enough(uses)?;
        ask!(self, touch_sessions(uses, ttl))
    }

    /// Puts a new secret in the place of the one that was shown, unless another one stands there by now or the last
    /// rotation was too recent. The session as it is then, so that all who rotate at once agree on its secret.
    pub async fn rotate_secret(&self, secret: NewSecret) -> StoreResult<RotationOutcome> {
        ask!(self, rotate_secret(&secret))
    }

    /// Of these hashes, those of secrets that were rotated away, and whose they were.
    pub async fn spent_secrets(&self, hashes: &[SecretHash]) -> StoreResult<Vec<(SecretHash, Sid, UserId)>> {
        few_enough(hashes)?;
        ask!(self, self.read_limit, spent_secrets(hashes))
    }

    /// Writes down that a session was used from elsewhere; with `adopt` it is at home there from now on.
    pub async fn note_fingerprint(&self, sid: Sid, seen: &Fingerprint, adopt: bool) -> StoreResult<Vec<LogEntry>> {
        ask!(self, note_fingerprint(sid, seen, adopt))
    }

    // Revocations: durable, bounded, logged by triggers in the same transaction. After `Unavailable` it is unknown
    // whether they took effect; all of them are safe to repeat.

    /// Ends one session (of `user_id` only) and lists a token with it. What has already ended is no error.
    pub async fn end_session(
        &self,
        sid: Sid,
        user_id: UserId,
        reason: EndReason,
        token: Option<ListedToken>,
    ) -> StoreResult<Revoked> {
        ask!(self, end_session(sid, user_id, reason, token))
    }

    /// Raises the user's epoch and ends all sessions. `confirm` marks the entry for [`LogEntry::confirm`].
    pub async fn end_all_sessions(&self, user_id: UserId, reason: EndReason, confirm: bool) -> StoreResult<Revoked> {
        ask!(self, end_all_sessions(user_id, reason, confirm))
    }

    /// Disables a user and ends all sessions, or enables (which brings no session back).
    pub async fn set_disabled(&self, user_id: UserId, disabled: bool) -> StoreResult<Revoked> {
        ask!(self, set_disabled(user_id, disabled))
    }

    /// Removes an account with all its sessions, which is logged like the end of them all.
    pub async fn remove_user(&self, user_id: UserId) -> StoreResult<Revoked> {
        ask!(self, remove_user(user_id))
    }

    /// The same at its owner's wish, whose password was verified.
    pub async fn remove_own_account(&self, user_id: UserId, verified_hash: &str) -> StoreResult<RemovalOutcome> {
        ask!(self, remove_own_account(user_id, verified_hash))
    }

    /// Lists one token. Listing it again, or one that has expired, is no error and logs nothing.
    pub async fn list_token(&self, token: ListedToken) -> StoreResult<Revoked> {
        ask!(self, list_token(token))
    }

    /// Number of listings that have not expired.
    pub async fn listed_tokens(&self) -> StoreResult<u64> {
        ask!(self, self.read_limit, listed_tokens())
    }

    /// Inserts the ticket's id; false when it was there already, or has expired in database time. The last step before
    /// a ticket's handshake is answered.
    pub async fn redeem_ticket(&self, ticket: SecretHash, expires_at: OffsetDateTime) -> StoreResult<bool> {
        ask!(self, redeem_ticket(ticket, expires_at))
    }

    // Signing keys and nodes

    /// Registers a public key and logs it. Again: says that it is in use; a revoked one stays revoked.
    pub async fn register_key(&self, key: &PublicKey) -> StoreResult<Vec<LogEntry>> {
        ask!(self, register_key(key))
    }

    /// Every registered key that is not gone, the revoked ones included.
    pub async fn keys(&self) -> StoreResult<Vec<RegisteredKey>> {
        ask!(self, keys())
    }

    /// Voids every token that the key signed; the nodes confirm it. Nothing is logged when it is revoked already, or
    /// unknown; with `unregistered` an unknown one is revoked too (a shared secret is known to its holders alone).
    pub async fn revoke_key(&self, kid: &str, unregistered: bool) -> StoreResult<Revoked> {
        ask!(self, revoke_key(kid, unregistered))
    }

    /// Asks all nodes that sign with keys of their own to take their next ones. How many keys are concerned.
    pub async fn outdate_keys(&self) -> StoreResult<u64> {
        ask!(self, outdate_keys())
    }

    /// Says that this node lives and which key it signs with.
    pub async fn beat(&self, node: NodeId, kid: Option<&str>) -> StoreResult<()> {
        ask!(self, beat(node, kid))
    }

    /// Nodes that beat within `within`.
    pub async fn live_nodes(&self, within: Duration) -> StoreResult<Vec<LiveNode>> {
        ask!(self, self.read_limit, live_nodes(within))
    }

    /// The node stops in an orderly way.
    pub async fn forget_node(&self, node: NodeId) -> StoreResult<()> {
        ask!(self, forget_node(node))
    }

    /// This node applied entry `entry_id` and closed so many sockets by it.
    pub async fn acknowledge(&self, entry_id: u64, node: NodeId, sockets_closed: u64) -> StoreResult<()> {
        ask!(self, acknowledge(entry_id, node, sockets_closed))
    }

    /// Who acknowledged, with the sockets closed.
    pub async fn acknowledgements(&self, entry_id: u64) -> StoreResult<Vec<(NodeId, u64)>> {
        ask!(self, self.read_limit, acknowledgements(entry_id))
    }

    /// One bounded pass over what is past its time: at most `batch` rows of each kind. Call again while it finds some.
    pub async fn sweep(&self, retention: &Retention) -> StoreResult<Swept> {
        ask!(self, SWEEP_LIMIT, sweep(retention))
    }

    /// A reader of the log's tail on a connection of its own (opened at the first read, and again after an error).
    #[must_use]
    pub fn log_reader(&self) -> LogReader {
        LogReader(match &self.backend {
            Backend::Postgres(postgres) => Reader::Postgres(Box::new(postgres.log_reader())),
            Backend::Sqlite(sqlite) => Reader::Sqlite(Box::new(sqlite.log_reader())),
        })
    }

    /// Closes the pool; waits for calls under way.
    pub async fn close(&self) {
        match &self.backend {
            Backend::Postgres(postgres) => postgres.close().await,
            Backend::Sqlite(sqlite) => sqlite.close().await,
        }
    }
}

/// Reads the log's tail; remembers what it has returned.
pub struct LogReader(Reader);

enum Reader {
    Postgres(Box<postgres::LogReader>),
    Sqlite(Box<sqlite::LogReader>),
}

impl LogReader {
    /// Everything committed since the last complete read, in one statement. An error leaves the cursor where it was.
    ///
    /// # Errors
    /// `Unavailable` after 2 s (10 s when the whole log is read), or when the server is not the primary.
    pub async fn read(&mut self) -> StoreResult<LogRead> {
        match &mut self.0 {
            Reader::Postgres(reader) => reader.read().await,
            Reader::Sqlite(reader) => reader.read().await,
        }
    }
}

async fn within<T>(limit: Duration, call: impl Future<Output = StoreResult<T>>) -> StoreResult<T> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => answer,
        Err(_) => Err(error::timed_out()),
    }
}

fn few_enough<T>(keys: &[T]) -> StoreResult<()> {
    if keys.len() > MAX_KEYS {
        return Err(StoreError::Corrupt(format!("a batch of {} keys was asked for, at most {MAX_KEYS}", keys.len())));
    }
    Ok(())
}
