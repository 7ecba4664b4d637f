//! What goes into the store and what comes out of it.

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
    /// The last rotation of its secret.
    #[serde(default)]
    pub rotation: Option<Rotation>,
    /// Where it is used from.
    #[serde(default)]
    pub seen_from: Fingerprint,
}

/// How a session came to its present secret.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rotation {
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub rotated_at: OffsetDateTime,
    /// Hash of the secret before.
    pub previous_hash: SecretHash,
    /// Until then the secret before is good, too.
    #[serde(with = "time::serde::rfc3339")]
    pub previous_until: OffsetDateTime,
    /// With it, the secret before leads to the present one.
    pub salt: Uuid,
}

/// Where a session is used from, so coarse that it changes seldom and tells little. What is not known is equal to
/// anything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// The browser's family, such as `firefox`.
    pub browser: Option<String>,
    /// The /24 of IPv4, the /64 of IPv6, in CIDR notation.
    pub network: Option<String>,
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
    /// Its last use from elsewhere, when fingerprints are looked at and there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fingerprint_change: Option<FingerprintChange>,
}

/// A session's secret was shown from another browser family or network than before.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct FingerprintChange {
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// The browser's family there.
    pub browser: Option<String>,
    /// The network there.
    pub network: Option<String>,
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
    /// A session of this account was begun or used in the network that was asked about.
    pub known_network: bool,
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
    /// The same and the browser, coarse.
    pub seen_from: Fingerprint,
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
#[expect(clippy::large_enum_variant, reason = "made once a signup, and taken apart at once")]
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

/// The answer to a change of address.
#[derive(Clone, Debug)]
pub enum EmailOutcome {
    /// Done.
    Changed {
        /// The user as of this change.
        user: UserRecord,
        /// What the transaction logged.
        entries: Vec<LogEntry>,
    },
    /// Somebody else has this address.
    Taken,
    /// The stored hash is no longer the one the caller verified.
    Superseded,
}

/// The answer to the wish to remove an account.
#[derive(Clone, Debug)]
pub enum RemovalOutcome {
    /// Removed, with all its sessions.
    Removed(Revoked),
    /// The stored hash is no longer the one the caller verified.
    Superseded,
}

/// A new secret for a session.
#[derive(Clone, Copy, Debug)]
pub struct NewSecret {
    /// The session.
    pub sid: Sid,
    /// Hash of the secret that is to be replaced.
    pub from: SecretHash,
    /// Hash of the new one.
    pub to: SecretHash,
    /// What leads from the one to the other.
    pub salt: Uuid,
    /// How long the old one stays good.
    pub grace: Duration,
    /// Not when the last rotation was less than this ago.
    pub pause: Duration,
}

/// The answer to a rotation.
#[derive(Clone, Debug)]
pub struct RotationOutcome {
    /// The session as it is now, whoever rotated it; `None` when it is gone.
    pub session: Option<SessionRead>,
    /// What the transaction logged.
    pub entries: Vec<LogEntry>,
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
    /// Every token it signed is void.
    pub revoked: bool,
    /// Whoever signs with it is asked to take its next one.
    pub outdated: bool,
    /// When it was registered.
    pub created_at: OffsetDateTime,
    /// When it was first signed with; never for a key that is still to come.
    pub used_at: Option<OffsetDateTime>,
    /// When a node last said that it has it.
    pub last_seen_at: OffsetDateTime,
}

/// A node that said recently that it is alive.
#[derive(Clone, Debug)]
pub struct LiveNode {
    /// The process.
    pub node: NodeId,
    /// The key it signs with, unless that is a shared secret.
    pub kid: Option<String>,
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
    /// The database's clock within the statement.
    pub database_now: OffsetDateTime,
    /// False when entries may have been missed: the first read, a cursor older than the watermark, another system or
    /// timeline. Then everything remembered is suspect.
    pub continuous: bool,
    /// The trimming watermark: entries at lower positions may have been removed from the log.
    pub watermark: Position,
    /// The newest position known to be complete (diagnostics).
    pub position: Position,
    /// Every transaction below this position was over when the statement ran.
    pub settled_below: Position,
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
