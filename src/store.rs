//! The truth: users, sessions, keys and the revocation log, in Postgres or in an embedded SQLite file. The only SQL.
//!
//! Called by the cache (batched loads), by `revocation` (everything that ends a credential) and by the endpoints that
//! write. Knows nothing of Redis, tokens or sockets. Every failure of the database itself is a [`StoreError`], which
//! means *cannot tell*; a refusal that is a fact (address taken, epoch moved on) is part of the answer's type.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::clock::BootInstant;
use crate::entry::{EndReason, LogEntry, Position, PublicKey};
use crate::freshness::Stamp;
use crate::ids::{DeploymentId, Jti, NodeId, Sid, UserId};
use crate::secret::{RecordKey, SecretHash};

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
    /// How long a caller waits for a connection before the answer is *cannot tell*.
    pub acquire_timeout: Duration,
    /// `statement_timeout` of ordinary transactions.
    pub statement_timeout: Duration,
}

/// A value read from the database together with what the freshness rule needs to know of the read.
#[derive(Clone, Debug)]
pub struct Read<T> {
    /// What was read.
    pub value: T,
    /// The snapshot and the moment of the read.
    pub stamp: Stamp,
}

/// A user as everybody may see them: the `user` of the REST answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct User {
    /// The user's id, `sub` in tokens.
    #[schema(value_type = Uuid)]
    pub id: UserId,
    /// E-mail address as given at signup; unique without regard to case.
    pub email: String,
    /// Display name.
    pub full_name: Option<String>,
    /// Address of a picture.
    pub avatar_url: Option<String>,
    /// Free JSON object of at most 64 KiB.
    #[schema(value_type = Object)]
    pub metadata: serde_json::Value,
    /// When the account was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When the profile last changed.
    #[serde(with = "time::serde::rfc3339")]
    pub updated_at: OffsetDateTime,
}

/// A user with what decides whether their sessions are good.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UserRecord {
    /// The public part.
    pub user: User,
    /// Raised by every user-wide revocation; sessions of an older epoch are dead.
    pub auth_epoch: u64,
    /// The account is disabled.
    pub disabled: bool,
}

/// A session with what decides whether it is good. The part that caches hold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// Public handle.
    pub sid: Sid,
    /// Whose it is.
    pub user_id: UserId,
    /// Hash of `session_id`.
    pub secret_hash: SecretHash,
    /// The user's epoch this session belongs to.
    pub auth_epoch: u64,
    /// Login time.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// Last use that was written down; up to five minutes behind.
    #[serde(with = "time::serde::rfc3339")]
    pub last_seen_at: OffsetDateTime,
    /// Sliding end: last use plus the session's time to live, never later than `max_expires_at`.
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
    /// Absolute end.
    #[serde(with = "time::serde::rfc3339")]
    pub max_expires_at: OffsetDateTime,
    /// Listed access tokens of this session that have not expired yet.
    pub listed: Vec<Jti>,
}

/// A session and its user read in one statement, and therefore a verdict about both.
#[derive(Clone, Debug)]
pub struct SessionRead {
    /// The session.
    pub session: SessionRecord,
    /// Its user.
    pub user: UserRecord,
    /// Why it is dead, judged within the one statement: its own end, the user disabled, or an older epoch (with the
    /// reason of the raise). `None` when alive. Expiry is not judged here but by the caller, in database time.
    pub ended: Option<EndReason>,
}

/// A session as the device list shows it.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct Device {
    /// Public handle.
    #[schema(value_type = Uuid)]
    pub sid: Sid,
    /// The name given at login.
    pub device_name: Option<String>,
    /// `User-Agent` of the login.
    pub user_agent: Option<String>,
    /// Address of the login.
    #[schema(value_type = Option<String>)]
    pub ip: Option<IpAddr>,
    /// Login time.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// Last use.
    #[serde(with = "time::serde::rfc3339")]
    pub last_seen_at: OffsetDateTime,
    /// Sliding end.
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
}

/// What the login needs of an account.
#[derive(Clone, Debug)]
pub struct LoginRow {
    /// The account.
    pub user_id: UserId,
    /// PHC string (`$argon2id$…`).
    pub password_hash: String,
    /// The epoch the new session must be inserted under.
    pub auth_epoch: u64,
    /// Disabled accounts are told so, but only after the right password.
    pub disabled: bool,
}

/// A session about to be inserted. `now` is database time, decided by the statement itself.
#[derive(Clone, Debug)]
pub struct NewSession {
    /// Public handle.
    pub sid: Sid,
    /// Hash of the secret.
    pub secret_hash: SecretHash,
    /// The name given at login, at most 100 characters (checked by the caller).
    pub device_name: Option<String>,
    /// `User-Agent`, at most 512 characters.
    pub user_agent: Option<String>,
    /// Client's address.
    pub ip: Option<IpAddr>,
    /// Sliding life.
    pub ttl: Duration,
    /// Absolute life.
    pub max_age: Duration,
}

/// An account about to be inserted.
#[derive(Clone, Debug)]
pub struct NewUser {
    /// E-mail address as typed (trimmed).
    pub email: String,
    /// PHC string.
    pub password_hash: String,
    /// Display name.
    pub full_name: Option<String>,
}

/// The answer to a signup.
#[derive(Clone, Debug)]
pub enum SignupOutcome {
    /// The account exists now, with its first session when one was asked for.
    Created {
        /// The account.
        user: UserRecord,
        /// Its first session.
        session: Option<Read<SessionRead>>,
    },
    /// Somebody has this address (compared without regard to case).
    EmailTaken,
}

/// A change of the profile. `None` leaves a field alone, `Some(None)` clears it.
#[derive(Clone, Debug, Default)]
pub struct ProfileChange {
    /// Display name.
    pub full_name: Option<Option<String>>,
    /// Picture.
    pub avatar_url: Option<Option<String>>,
    /// Metadata.
    pub metadata: Option<MetadataChange>,
}

/// How metadata changes.
#[derive(Clone, Debug)]
pub enum MetadataChange {
    /// Takes the place of all metadata (`PUT`).
    Replace(serde_json::Map<String, serde_json::Value>),
    /// JSON Merge Patch, RFC 7396 (`PATCH`), done under the row's lock so that crossing patches both count.
    Merge(serde_json::Map<String, serde_json::Value>),
}

/// The answer to a profile change.
#[derive(Clone, Debug)]
pub enum ProfileOutcome {
    /// Done.
    Updated {
        /// The user as of this change.
        user: UserRecord,
        /// What the transaction logged.
        entries: Vec<LogEntry>,
    },
    /// The merged metadata would be larger than the limit; nothing was changed.
    MetadataTooLarge,
    /// No such user.
    NotFound,
}

/// The answer to a change of password.
#[derive(Clone, Debug)]
pub enum PasswordOutcome {
    /// Changed; every other session of the user ended.
    Changed {
        /// What the transaction logged.
        entries: Vec<LogEntry>,
    },
    /// The stored hash is no longer the one the caller verified: somebody changed it in between.
    Superseded,
}

/// The answer to anything that ends credentials.
#[derive(Clone, Debug, Default)]
pub struct Revoked {
    /// Live sessions that ended by it.
    pub sessions: u64,
    /// What the transaction logged; empty when everything had ended already.
    pub entries: Vec<LogEntry>,
}

/// One access token to list.
#[derive(Clone, Copy, Debug)]
pub struct ListedToken {
    /// The token.
    pub jti: Jti,
    /// Its session.
    pub sid: Sid,
    /// Its user.
    pub user_id: UserId,
    /// When it expires; the listing is kept until then.
    pub expires_at: OffsetDateTime,
}

/// What one database calls itself, and the secret shared by its nodes.
#[derive(Clone, Debug)]
pub struct Deployment {
    /// In front of every name in Redis.
    pub id: DeploymentId,
    /// 32 bytes from the first node's generator; encrypts records in Redis and tickets.
    pub record_key: RecordKey,
}

/// A registered signing key.
#[derive(Clone, Debug)]
pub struct RegisteredKey {
    /// The public half.
    pub key: PublicKey,
    /// When it was revoked, if it was.
    pub revoked: bool,
    /// When a node last said that it signs with it.
    pub last_seen_at: OffsetDateTime,
}

/// A node that said recently that it is alive.
#[derive(Clone, Debug)]
pub struct LiveNode {
    /// The process.
    pub node: NodeId,
    /// Its last beat, in database time.
    pub last_seen_at: OffsetDateTime,
}

/// What one pass of the sweeper removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Expired and ended sessions.
    pub sessions: u64,
    /// Listings of tokens that have expired.
    pub tokens: u64,
    /// Used tickets past their time.
    pub tickets: u64,
    /// Log entries past their retention (the watermark was raised first).
    pub entries: u64,
    /// Keys of nodes silent for too long, and nodes long dead.
    pub keys: u64,
}

/// How long things are kept before the sweeper takes them.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Sessions stay this long after they ended or expired, so that their sockets and tokens get the right reason.
    pub sessions: Duration,
    /// Log entries.
    pub entries: Duration,
    /// A key is gone when its node has been silent this long (a token's life and an hour).
    pub keys: Duration,
    /// Rows per statement.
    pub batch: u32,
}

/// One complete read of the log's tail.
#[derive(Clone, Debug)]
pub struct LogRead {
    /// Entries not returned by an earlier read of this reader, by id.
    pub entries: Vec<LogEntry>,
    /// t0: taken on this node's clock before the statement was sent.
    pub sent_at: BootInstant,
    /// The same moment by this node's wall clock, to measure the offset of the database's.
    pub sent_wall: OffsetDateTime,
    /// The database's clock within the statement.
    pub database_now: OffsetDateTime,
    /// False when entries may have been missed: the first read, a cursor older than the watermark, another system or
    /// timeline. Then everything remembered is suspect.
    pub continuous: bool,
    /// The trimming watermark: entries at lower positions may have been removed from the log.
    pub watermark: Position,
    /// The newest position known to be complete (diagnostics).
    pub position: Position,
}

/// The size and use of the pool, for `/health` and metrics.
#[derive(Clone, Copy, Debug, Default)]
pub struct PoolStatus {
    /// Open connections.
    pub open: u32,
    /// Of these, idle.
    pub idle: u32,
    /// Most there may be.
    pub max: u32,
}

/// The database, one of two kinds.
#[derive(Clone)]
pub struct Store(());

#[allow(unused_variables, clippy::todo, missing_docs)]
impl Store {
    /// Opens the pool (lazily connected for Postgres). Makes the data directory and the file for SQLite (mode 0600).
    pub async fn open(config: &StoreConfig) -> StoreResult<Self> { todo!() }
    /// Runs the embedded migrations (safe when several nodes start at once), makes sure that the deployment row exists.
    /// Returns how many were applied.
    pub async fn migrate(&self) -> StoreResult<usize> { todo!() }
    /// `postgres` or `sqlite`.
    pub fn kind(&self) -> &'static str { todo!() }
    pub fn pool_status(&self) -> PoolStatus { todo!() }
    /// One cheap statement; the time it took.
    pub async fn ping(&self) -> StoreResult<Duration> { todo!() }
    pub async fn deployment(&self) -> StoreResult<Deployment> { todo!() }

    // Accounts
    pub async fn sign_up(&self, user: NewUser, session: Option<NewSession>) -> StoreResult<SignupOutcome> { todo!() }
    pub async fn login_row(&self, email: &str) -> StoreResult<Option<LoginRow>> { todo!() }
    /// The login row by id, for a change of password.
    pub async fn login_row_by_id(&self, user_id: UserId) -> StoreResult<Option<LoginRow>> { todo!() }
    /// `INSERT … SELECT … WHERE auth_epoch = $expected AND disabled_at IS NULL`: `None` when the user moved on.
    pub async fn insert_session(&self, user_id: UserId, expected_epoch: u64, session: NewSession) -> StoreResult<Option<Read<SessionRead>>> { todo!() }
    pub async fn update_profile(&self, user_id: UserId, change: ProfileChange, max_metadata_bytes: usize) -> StoreResult<ProfileOutcome> { todo!() }
    /// Sets the hash, raises the epoch except for `keep` (which is lifted to the new epoch), ends the others.
    pub async fn change_password(&self, user_id: UserId, keep: Sid, verified_hash: &str, new_hash: &str) -> StoreResult<PasswordOutcome> { todo!() }

    // Batched loads: one statement each, at most 500 keys; keys without a row are absent from the answer.
    pub async fn load_sessions(&self, sids: &[Sid]) -> StoreResult<Read<Vec<SessionRead>>> { todo!() }
    pub async fn load_sessions_by_secret(&self, hashes: &[SecretHash]) -> StoreResult<Read<Vec<SessionRead>>> { todo!() }
    pub async fn load_users(&self, ids: &[UserId]) -> StoreResult<Read<Vec<UserRecord>>> { todo!() }
    /// Live sessions of a user, newest use first, at most 200.
    pub async fn devices(&self, user_id: UserId) -> StoreResult<Vec<Device>> { todo!() }
    /// Writes last uses; slides `expires_at`; never touches an ended, expired or outdated session. Returns the new
    /// `(sid, last_seen_at, expires_at)` of those that were touched.
    pub async fn touch_sessions(&self, uses: &[(Sid, OffsetDateTime)], ttl: Duration) -> StoreResult<Vec<(Sid, OffsetDateTime, OffsetDateTime)>> { todo!() }

    // Revocations: durable, bounded, logged by triggers in the same transaction.
    /// Ends one session (of `user_id` only) and lists a token with it. What has already ended is no error.
    pub async fn end_session(&self, sid: Sid, user_id: UserId, reason: EndReason, token: Option<ListedToken>) -> StoreResult<Revoked> { todo!() }
    /// Raises the user's epoch and ends all sessions. `confirm` marks the entry for [`LogEntry::confirm`].
    pub async fn end_all_sessions(&self, user_id: UserId, reason: EndReason, confirm: bool) -> StoreResult<Revoked> { todo!() }
    pub async fn set_disabled(&self, user_id: UserId, disabled: bool) -> StoreResult<Revoked> { todo!() }
    pub async fn list_token(&self, token: ListedToken) -> StoreResult<Revoked> { todo!() }
    /// Number of listings that have not expired.
    pub async fn listed_tokens(&self) -> StoreResult<u64> { todo!() }

    /// Inserts the ticket's id; false when it was there already. The last step before a ticket's handshake is answered.
    pub async fn redeem_ticket(&self, ticket: SecretHash, expires_at: OffsetDateTime) -> StoreResult<bool> { todo!() }

    // Signing keys and nodes
    /// Registers a public key (idempotent) and logs it.
    pub async fn register_key(&self, key: &PublicKey) -> StoreResult<Vec<LogEntry>> { todo!() }
    pub async fn keys(&self) -> StoreResult<Vec<RegisteredKey>> { todo!() }
    pub async fn revoke_key(&self, kid: &str) -> StoreResult<Revoked> { todo!() }
    /// Says that this node lives and which key it signs with.
    pub async fn beat(&self, node: NodeId, kid: Option<&str>) -> StoreResult<()> { todo!() }
    /// Nodes that beat within `within`.
    pub async fn live_nodes(&self, within: Duration) -> StoreResult<Vec<LiveNode>> { todo!() }
    /// The node stops in an orderly way.
    pub async fn forget_node(&self, node: NodeId) -> StoreResult<()> { todo!() }
    /// This node applied entry `entry_id` and closed so many sockets by it.
    pub async fn acknowledge(&self, entry_id: u64, node: NodeId, sockets_closed: u64) -> StoreResult<()> { todo!() }
    /// Who acknowledged, with the sockets closed.
    pub async fn acknowledgements(&self, entry_id: u64) -> StoreResult<Vec<(NodeId, u64)>> { todo!() }

    /// One bounded pass over what is past its time.
    pub async fn sweep(&self, retention: &Retention) -> StoreResult<Swept> { todo!() }
    /// A reader of the log's tail on a connection of its own (opened at the first read, and again after an error).
    pub fn log_reader(&self) -> LogReader { todo!() }
    /// Closes the pool.
    pub async fn close(&self) { todo!() }
}

/// Reads the log's tail; remembers what it has returned.
pub struct LogReader(());

#[allow(unused_variables, clippy::todo)]
impl LogReader {
    /// Everything committed since the last complete read, in one statement. An error leaves the cursor where it was.
    pub async fn read(&mut self) -> StoreResult<LogRead> { todo!() }
}
