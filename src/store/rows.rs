//! What the two databases answer: each statement gives one JSON document, in the same shape on both. Read here once.

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use time::OffsetDateTime;

use super::{
    Deployment, Device, Fingerprint, FingerprintChange, LiveNode, LoginRow, Read, RegisteredKey, Rotation, SessionRead,
    SessionRecord, StoreError, StoreResult, User, UserRecord,
};
use crate::clock::BootInstant;
use crate::entry::{EndReason, LogEntry, Position, PublicKey, Scope};
use crate::freshness::Stamp;
use crate::ids::{DeploymentId, Jti, NodeId, Sid, UserId};
use crate::secret::{RecordKey, SecretHash};

/// Rows together with the snapshot they were read in.
#[derive(Deserialize)]
pub(super) struct Answer<T> {
    pub(super) position: Position,
    /// A standby may be behind; what it says is no fact.
    #[serde(default)]
    pub(super) standby: bool,
    pub(super) rows: Vec<T>,
}

impl<T> Answer<T> {
    /// The rows as facts of a read that was sent at `read_at`.
    pub(super) fn facts<U: From<T>>(self, read_at: BootInstant) -> Read<Vec<U>> {
        Read {
            value: self.rows.into_iter().map(U::from).collect(),
            stamp: Stamp { position: self.position, read_at: Some(read_at) },
        }
    }

    /// The rows alone.
    pub(super) fn into_rows<U: From<T>>(self) -> Vec<U> {
        self.rows.into_iter().map(U::from).collect()
    }
}

/// Reads one document.
pub(super) fn parse<T: DeserializeOwned>(document: &str) -> StoreResult<T> {
    serde_json::from_str(document).map_err(StoreError::from)
}

#[derive(Deserialize)]
pub(super) struct UserRow {
    id: UserId,
    email: String,
    full_name: Option<String>,
    avatar_url: Option<String>,
    metadata: String,
    #[serde(deserialize_with = "micros")]
    created_at: OffsetDateTime,
    #[serde(deserialize_with = "micros")]
    updated_at: OffsetDateTime,
    auth_epoch: u64,
    #[serde(deserialize_with = "flag")]
    disabled: bool,
}

impl From<UserRow> for UserRecord {
    fn from(row: UserRow) -> Self {
        // Metadata written by hand may hold what only a lenient parser takes. It must not lock the user out, nor the
        // others of the same batch.
        let metadata = serde_json::from_str(&row.metadata).unwrap_or_else(|error| {
            tracing::warn!(user_id = %row.id, %error, "metadata of a user cannot be read, taken as empty");
            serde_json::Value::Object(serde_json::Map::new())
        });
        Self {
            user: User {
                id: row.id,
                email: row.email,
                full_name: row.full_name,
                avatar_url: row.avatar_url,
                metadata,
                created_at: row.created_at,
                updated_at: row.updated_at,
            },
            auth_epoch: row.auth_epoch,
            disabled: row.disabled,
        }
    }
}

#[derive(Deserialize)]
pub(super) struct SessionRow {
    sid: Sid,
    #[serde(deserialize_with = "hash")]
    secret_hash: SecretHash,
    auth_epoch: u64,
    #[serde(deserialize_with = "micros")]
    created_at: OffsetDateTime,
    #[serde(deserialize_with = "micros")]
    last_seen_at: OffsetDateTime,
    #[serde(deserialize_with = "micros")]
    expires_at: OffsetDateTime,
    #[serde(deserialize_with = "micros")]
    max_expires_at: OffsetDateTime,
    listed: Vec<Jti>,
    #[serde(deserialize_with = "reason")]
    ended: Option<EndReason>,
    rotation: Option<RotationRow>,
    seen_from: Fingerprint,
    user: UserRow,
}

#[derive(Deserialize)]
struct RotationRow {
    #[serde(deserialize_with = "micros")]
    rotated_at: OffsetDateTime,
    #[serde(deserialize_with = "hash")]
    previous_hash: SecretHash,
    #[serde(deserialize_with = "micros")]
    previous_until: OffsetDateTime,
    salt: uuid::Uuid,
}

impl From<RotationRow> for Rotation {
    fn from(row: RotationRow) -> Self {
        let RotationRow { rotated_at, previous_hash, previous_until, salt } = row;
        Self { rotated_at, previous_hash, previous_until, salt }
    }
}

impl From<SessionRow> for SessionRead {
    fn from(row: SessionRow) -> Self {
        let user = UserRecord::from(row.user);
        Self {
            session: SessionRecord {
                sid: row.sid,
                user_id: user.user.id,
                secret_hash: row.secret_hash,
                auth_epoch: row.auth_epoch,
                created_at: row.created_at,
                last_seen_at: row.last_seen_at,
                expires_at: row.expires_at,
                max_expires_at: row.max_expires_at,
                listed: row.listed,
                rotation: row.rotation.map(Rotation::from),
                seen_from: row.seen_from,
            },
            user,
            ended: row.ended,
        }
    }
}

#[derive(Deserialize)]
pub(super) struct LoginRowRow {
    user_id: UserId,
    password_hash: String,
    auth_epoch: u64,
    #[serde(deserialize_with = "flag")]
    disabled: bool,
    #[serde(deserialize_with = "flag")]
    known_network: bool,
}

impl From<LoginRowRow> for LoginRow {
    fn from(row: LoginRowRow) -> Self {
        Self {
            user_id: row.user_id,
            password_hash: row.password_hash,
            auth_epoch: row.auth_epoch,
            disabled: row.disabled,
            known_network: row.known_network,
        }
    }
}

#[derive(Deserialize)]
pub(super) struct DeviceRow {
    sid: Sid,
    device_name: Option<String>,
    user_agent: Option<String>,
    ip: Option<String>,
    #[serde(deserialize_with = "micros")]
    created_at: OffsetDateTime,
    #[serde(deserialize_with = "micros")]
    last_seen_at: OffsetDateTime,
    #[serde(deserialize_with = "micros")]
    expires_at: OffsetDateTime,
    changed_at: Option<i64>,
    changed_browser: Option<String>,
    changed_network: Option<String>,
}

impl From<DeviceRow> for Device {
    fn from(row: DeviceRow) -> Self {
        let (browser, network) = (row.changed_browser, row.changed_network);
        let change = row.changed_at.and_then(from_micros).map(|at| FingerprintChange { at, browser, network });
        Self {
            fingerprint_change: change,
            sid: row.sid,
            device_name: row.device_name,
            user_agent: row.user_agent,
            ip: row.ip.and_then(|ip| ip.parse().ok()),
            created_at: row.created_at,
            last_seen_at: row.last_seen_at,
            expires_at: row.expires_at,
        }
    }
}

/// A secret that was rotated away.
#[derive(Deserialize)]
pub(super) struct SpentRow {
    #[serde(deserialize_with = "hash")]
    secret_hash: SecretHash,
    sid: Sid,
    user_id: UserId,
}

impl From<SpentRow> for (SecretHash, Sid, UserId) {
    fn from(row: SpentRow) -> Self {
        (row.secret_hash, row.sid, row.user_id)
    }
}

/// One session that was touched.
#[derive(Deserialize)]
pub(super) struct TouchRow {
    sid: Sid,
    #[serde(deserialize_with = "micros")]
    last_seen_at: OffsetDateTime,
    #[serde(deserialize_with = "micros")]
    expires_at: OffsetDateTime,
}

impl From<TouchRow> for (Sid, OffsetDateTime, OffsetDateTime) {
    fn from(row: TouchRow) -> Self {
        (row.sid, row.last_seen_at, row.expires_at)
    }
}

#[derive(Deserialize)]
pub(super) struct KeyRow {
    kid: String,
    algorithm: String,
    jwk: String,
    #[serde(deserialize_with = "flag")]
    revoked: bool,
    #[serde(deserialize_with = "flag")]
    outdated: bool,
    #[serde(deserialize_with = "micros")]
    created_at: OffsetDateTime,
    used_at: Option<i64>,
    #[serde(deserialize_with = "micros")]
    last_seen_at: OffsetDateTime,
}

impl TryFrom<KeyRow> for RegisteredKey {
    type Error = StoreError;

    fn try_from(row: KeyRow) -> StoreResult<Self> {
        let key = PublicKey { kid: row.kid, algorithm: row.algorithm, jwk: parse(&row.jwk)? };
        let used_at = row.used_at.and_then(from_micros);
        let KeyRow { revoked, outdated, created_at, last_seen_at, .. } = row;
        Ok(Self { key, revoked, outdated, created_at, used_at, last_seen_at })
    }
}

#[derive(Deserialize)]
pub(super) struct NodeRow {
    node: NodeId,
    kid: Option<String>,
    #[serde(deserialize_with = "micros")]
    last_seen_at: OffsetDateTime,
}

impl From<NodeRow> for LiveNode {
    fn from(row: NodeRow) -> Self {
        Self { node: row.node, kid: row.kid, last_seen_at: row.last_seen_at }
    }
}

#[derive(Deserialize)]
pub(super) struct AcknowledgementRow {
    node: NodeId,
    sockets_closed: u64,
}

impl From<AcknowledgementRow> for (NodeId, u64) {
    fn from(row: AcknowledgementRow) -> Self {
        (row.node, row.sockets_closed)
    }
}

#[derive(Deserialize)]
pub(super) struct DeploymentRow {
    id: DeploymentId,
    #[serde(deserialize_with = "hash")]
    record_key: SecretHash,
}

impl From<DeploymentRow> for Deployment {
    fn from(row: DeploymentRow) -> Self {
        Self { id: row.id, record_key: RecordKey(row.record_key.0) }
    }
}

/// A number that stands alone in its row.
#[derive(Deserialize)]
pub(super) struct CountRow {
    pub(super) count: u64,
}

/// One row of the log. Which columns are filled depends on the kind.
#[derive(Deserialize)]
pub(super) struct EntryRow {
    pub(super) id: u64,
    pub(super) position: Position,
    #[serde(deserialize_with = "micros")]
    logged_at: OffsetDateTime,
    #[serde(deserialize_with = "flag")]
    confirm: bool,
    kind: String,
    user_id: Option<UserId>,
    sid: Option<Sid>,
    below: Option<u64>,
    except_sid: Option<Sid>,
    reason: Option<String>,
    jti: Option<Jti>,
    expires_at: Option<i64>,
    kid: Option<String>,
    algorithm: Option<String>,
    jwk: Option<String>,
    sessions: Option<String>,
}

impl TryFrom<EntryRow> for LogEntry {
    type Error = StoreError;

    fn try_from(row: EntryRow) -> StoreResult<Self> {
        let (id, position, at, confirm) = (row.id, row.position, row.logged_at, row.confirm);
        // An entry that is not understood must not be skipped: it may end something.
        let scope = scope(row)?.ok_or_else(|| StoreError::Corrupt(format!("log entry {id} cannot be understood")))?;
        Ok(Self { id, position, at, confirm, scope })
    }
}

fn scope(row: EntryRow) -> StoreResult<Option<Scope>> {
    let reason = row.reason.as_deref().map_or(EndReason::Revoked, EndReason::from_database);
    Ok(match (row.kind.as_str(), row.user_id) {
        ("session", Some(user_id)) => row.sid.map(|sid| Scope::Session { sid, user_id, reason }),
        ("sessions", _) => match row.sessions {
            Some(sessions) => Some(Scope::Sessions { sessions: parse(&sessions)?, reason }),
            None => None,
        },
        ("user_epoch", Some(user_id)) => {
            row.below.map(|below| Scope::UserEpoch { user_id, below, except: row.except_sid, reason })
        }
        ("session_changed", Some(user_id)) => row.sid.map(|sid| Scope::SessionChanged { sid, user_id }),
        ("user_changed", Some(user_id)) => Some(Scope::UserChanged { user_id }),
        ("token", Some(user_id)) => match (row.jti, row.sid, row.expires_at.and_then(from_micros)) {
            (Some(jti), Some(sid), Some(expires_at)) => Some(Scope::Token { jti, sid, user_id, expires_at }),
            _ => None,
        },
        ("key_added", _) => match (row.kid, row.algorithm, row.jwk) {
            (Some(kid), Some(algorithm), Some(jwk)) => {
                Some(Scope::KeyAdded { key: PublicKey { kid, algorithm, jwk: parse(&jwk)? } })
            }
            _ => None,
        },
        ("key_removed", _) => row.kid.map(|kid| Scope::KeyRemoved { kid }),
        _ => None,
    })
}

/// What a transaction logged, in the order of the ids.
pub(super) fn entries(rows: Vec<EntryRow>) -> StoreResult<Vec<LogEntry>> {
    let mut entries = rows.into_iter().map(LogEntry::try_from).collect::<StoreResult<Vec<_>>>()?;
    entries.sort_by_key(|entry| entry.id);
    Ok(entries)
}

/// Microseconds since 1970, the unit in which times cross into the databases.
pub(super) fn to_micros(at: OffsetDateTime) -> i64 {
    i64::try_from(at.unix_timestamp_nanos() / 1_000).unwrap_or(if at.unix_timestamp() < 0 {
        i64::MIN
    } else {
        i64::MAX
    })
}

/// A duration in microseconds.
pub(super) fn duration_micros(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

pub(super) fn from_micros(micros: i64) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1_000).ok()
}

pub(super) fn micros<'de, D: Deserializer<'de>>(deserializer: D) -> Result<OffsetDateTime, D::Error> {
    from_micros(i64::deserialize(deserializer)?).ok_or_else(|| D::Error::custom("a time out of range"))
}

/// Postgres says `true`, SQLite says `1`.
pub(super) fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Flag {
        Boolean(bool),
        Number(i64),
    }
    Ok(match Flag::deserialize(deserializer)? {
        Flag::Boolean(flag) => flag,
        Flag::Number(number) => number != 0,
    })
}

fn reason<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<EndReason>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.map(|text| EndReason::from_database(&text)))
}

fn hash<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SecretHash, D::Error> {
    let text = String::deserialize(deserializer)?;
    from_hex(&text).map(SecretHash).ok_or_else(|| D::Error::custom("not 32 bytes in hexadecimal"))
}

/// 64 hexadecimal digits.
pub(super) fn to_hex(bytes: &[u8; 32]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect()
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (byte, at) in bytes.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16).ok()?;
    }
    Some(bytes)
}
