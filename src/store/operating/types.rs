//! What goes into the operator's part of the store and what comes out of it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Serialize, Serializer};
use time::OffsetDateTime;

use crate::ids::{AdminKeyId, Sid, UserId};
use crate::secret::SecretHash;
use crate::store::{Revoked, User};

/// A key of the admin API. The key itself is known to nobody but who holds it.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct AdminKey {
    /// Its id, as the trail names it.
    #[schema(value_type = Uuid)]
    pub id: AdminKeyId,
    /// What it is for.
    pub name: String,
    /// What it may do.
    pub scopes: Vec<String>,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When it ends by itself, if ever.
    #[serde(with = "time::serde::rfc3339::option")]
    pub expires_at: Option<OffsetDateTime>,
    /// When it was revoked.
    #[serde(with = "time::serde::rfc3339::option")]
    pub revoked_at: Option<OffsetDateTime>,
    /// Its last use, to the minute.
    #[serde(with = "time::serde::rfc3339::option")]
    pub last_used_at: Option<OffsetDateTime>,
    /// It is neither expired nor revoked, by the database's clock.
    pub good: bool,
}

/// A key about to be added.
#[derive(Clone, Debug)]
pub struct NewAdminKey {
    /// Its id.
    pub id: AdminKeyId,
    /// What it is for.
    pub name: String,
    /// The hash of the key.
    pub secret_hash: SecretHash,
    /// What it may do.
    pub scopes: Vec<String>,
    /// Its life, if it has an end.
    pub expires_in: Option<std::time::Duration>,
}

/// Which accounts.
#[derive(Clone, Debug)]
pub enum UserFilter {
    /// Everybody.
    All,
    /// The one with this id.
    Id(UserId),
    /// The one with this address, without regard to case.
    Email(String),
    /// Those whose address begins like this.
    Prefix(String),
}

/// A page of accounts.
#[derive(Clone, Debug)]
pub struct UserQuery {
    /// Which.
    pub filter: UserFilter,
    /// The address after which the page begins.
    pub after: Option<String>,
    /// At most so many.
    pub limit: u32,
}

/// An account as operators see it.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct Account {
    /// The user.
    #[serde(flatten)]
    pub user: User,
    /// When it was disabled, if it is.
    #[serde(with = "time::serde::rfc3339::option")]
    pub disabled_at: Option<OffsetDateTime>,
    /// Sessions that are good.
    pub live_sessions: u64,
    /// Last use of any session that is still kept.
    #[serde(with = "time::serde::rfc3339::option")]
    pub last_seen_at: Option<OffsetDateTime>,
}

/// Whose sessions.
#[derive(Clone, Copy, Debug)]
pub enum SessionsOf {
    /// A user's.
    User(UserId),
    /// The one with this handle.
    Handle(Sid),
}

/// A session as operators see it, live or ended.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct SessionSummary {
    /// Public handle.
    #[schema(value_type = Uuid)]
    pub sid: Sid,
    /// Whose it is.
    #[schema(value_type = Uuid)]
    pub user_id: UserId,
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
    /// When it was ended before its time.
    #[serde(with = "time::serde::rfc3339::option")]
    pub ended_at: Option<OffsetDateTime>,
    /// `live`, `expired`, or why it ended: `logged_out`, `revoked`, …
    pub state: String,
}

/// What one batch of a revocation for everybody did.
#[derive(Clone, Debug)]
pub struct MassEnd {
    /// The sessions that were live, and the log entry.
    pub revoked: Revoked,
    /// The last handle; `None` when this round is over.
    pub last: Option<Sid>,
}

/// Whether a revocation for everybody is done.
#[derive(Clone, Copy, Debug)]
pub struct Remaining {
    /// There are sessions left.
    pub any: bool,
    /// The database's time.
    pub now: OffsetDateTime,
}

/// Something that was counted: failures of one kind, for one user, from one address.
#[derive(Clone, Debug, Serialize)]
pub struct AuditNote {
    /// Such as `login_failed`.
    pub event: &'static str,
    /// `user`, `operator` or `system`.
    pub actor: &'static str,
    /// The operator's key.
    pub actor_id: Option<AdminKeyId>,
    /// Whom it concerns, when that is known.
    pub user_id: Option<UserId>,
    /// From where.
    pub ip: Option<IpAddr>,
    /// How often.
    pub count: u64,
    /// The last time, in database time.
    #[serde(serialize_with = "micros")]
    pub at: OffsetDateTime,
}

fn micros<S: Serializer>(at: &OffsetDateTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_i64(crate::store::rows::to_micros(*at))
}

/// A page of the trail.
#[derive(Clone, Debug, Default)]
pub struct AuditQuery {
    /// Of this user alone.
    pub user_id: Option<UserId>,
    /// Of this kind alone.
    pub event: Option<String>,
    /// Only entries with lower ids.
    pub before: Option<u64>,
    /// At most so many.
    pub limit: u32,
    /// The user asks: without what operators looked at.
    pub own: bool,
}

/// One row of the trail.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct AuditEntry {
    /// Its id, for paging.
    pub id: u64,
    /// When, in database time.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// What: `login`, `login_failed`, `session`, `user_epoch`, `operator.user_disable`, …
    pub event: String,
    /// `user`, `operator`, `system`, or `database`: written by hand, past the program.
    pub actor: String,
    /// The operator's key.
    #[schema(value_type = Option<Uuid>)]
    pub actor_id: Option<AdminKeyId>,
    /// Whom it concerns.
    #[schema(value_type = Option<Uuid>)]
    pub user_id: Option<UserId>,
    /// Which session.
    #[schema(value_type = Option<Uuid>)]
    pub sid: Option<Sid>,
    /// From where.
    #[schema(value_type = Option<String>)]
    pub ip: Option<IpAddr>,
    /// Why, for what ended.
    pub reason: Option<String>,
    /// How often, for what is counted.
    pub count: u64,
    /// What else there is to know.
    #[schema(value_type = Option<Object>)]
    pub details: Option<serde_json::Value>,
}

/// Counts without names.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct Statistics {
    /// Accounts.
    pub users: UserCounts,
    /// Sessions that are good, by device family: `ios`, `android`, `windows`, `macos`, `chromeos`, `linux`, `other`, `unknown`.
    pub live_sessions: BTreeMap<String, u64>,
    /// Logins, failures and revocations over time.
    pub events: Vec<EventCount>,
}

/// Accounts in numbers.
#[derive(Clone, Copy, Debug, Serialize, utoipa::ToSchema)]
pub struct UserCounts {
    /// All of them.
    pub total: u64,
    /// Of these, disabled.
    pub disabled: u64,
    /// Seen within a day.
    pub active_day: u64,
    /// Seen within seven days.
    pub active_week: u64,
}

/// How often something happened within one step.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct EventCount {
    /// The beginning of the step.
    #[serde(with = "time::serde::rfc3339")]
    pub from: OffsetDateTime,
    /// `login`, `login_failed`, `signup`, or the kind of a revocation.
    pub event: String,
    /// Why, for revocations.
    pub reason: Option<String>,
    /// How often.
    pub count: u64,
}

/// Something a receiver of webhooks has still to be told.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct OutboxEvent {
    /// Its id.
    pub id: u64,
    /// The receiver: the SHA-256 of its URL.
    pub target: String,
    /// When it happened.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// Why the session, or all of the user's, ended.
    pub reason: String,
    /// `user`, `operator`, `system` or `database`.
    pub initiator: String,
    /// Whose.
    #[schema(value_type = Uuid)]
    pub user_id: UserId,
    /// Which session; all of the user's when there is none.
    #[schema(value_type = Option<Uuid>)]
    pub sid: Option<Sid>,
    /// Attempts so far, this one included.
    pub attempts: u64,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// When it was given up.
    #[serde(with = "time::serde::rfc3339::option")]
    pub given_up_at: Option<OffsetDateTime>,
}
