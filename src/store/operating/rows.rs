//! The databases' answers, as JSON documents of one shape.

use serde::{Deserialize, Deserializer};
use time::OffsetDateTime;

use super::{Account, AdminKey, AuditEntry, EventCount, OutboxEvent, SessionSummary, Statistics, UserCounts};
use crate::ids::{AdminKeyId, Sid, UserId};
use crate::store::UserRecord;
use crate::store::rows::{UserRow, flag, from_micros, micros};

fn optional_micros<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<OffsetDateTime>, D::Error> {
    Ok(Option::<i64>::deserialize(deserializer)?.and_then(from_micros))
}

#[derive(Deserialize)]
pub(in crate::store) struct AdminKeyRow {
    id: AdminKeyId,
    name: String,
    scopes: String,
    #[serde(deserialize_with = "micros")]
    created_at: OffsetDateTime,
    #[serde(deserialize_with = "optional_micros")]
    expires_at: Option<OffsetDateTime>,
    #[serde(deserialize_with = "optional_micros")]
    revoked_at: Option<OffsetDateTime>,
    #[serde(deserialize_with = "optional_micros")]
    last_used_at: Option<OffsetDateTime>,
    #[serde(deserialize_with = "flag")]
    good: bool,
}

impl From<AdminKeyRow> for AdminKey {
    fn from(row: AdminKeyRow) -> Self {
        Self {
            id: row.id,
            name: row.name,
            scopes: row.scopes.split_whitespace().map(str::to_owned).collect(),
            created_at: row.created_at,
            expires_at: row.expires_at,
            revoked_at: row.revoked_at,
            last_used_at: row.last_used_at,
            good: row.good,
        }
    }
}

#[derive(Deserialize)]
pub(in crate::store) struct AccountRow {
    user: UserRow,
    #[serde(deserialize_with = "optional_micros")]
    disabled_at: Option<OffsetDateTime>,
    live_sessions: u64,
    #[serde(deserialize_with = "optional_micros")]
    last_seen_at: Option<OffsetDateTime>,
}

impl From<AccountRow> for Account {
    fn from(row: AccountRow) -> Self {
        Self {
            user: UserRecord::from(row.user).user,
            disabled_at: row.disabled_at,
            live_sessions: row.live_sessions,
            last_seen_at: row.last_seen_at,
        }
    }
}

#[derive(Deserialize)]
pub(in crate::store) struct SessionSummaryRow {
    sid: Sid,
    user_id: UserId,
    device_name: Option<String>,
    user_agent: Option<String>,
    ip: Option<String>,
    #[serde(deserialize_with = "micros")]
    created_at: OffsetDateTime,
    #[serde(deserialize_with = "micros")]
    last_seen_at: OffsetDateTime,
    #[serde(deserialize_with = "micros")]
    expires_at: OffsetDateTime,
    #[serde(deserialize_with = "optional_micros")]
    ended_at: Option<OffsetDateTime>,
    #[serde(deserialize_with = "flag")]
    expired: bool,
    end_reason: Option<String>,
}

impl From<SessionSummaryRow> for SessionSummary {
    fn from(row: SessionSummaryRow) -> Self {
        let by_itself = if row.expired { "expired" } else { "live" };
        Self {
            sid: row.sid,
            user_id: row.user_id,
            device_name: row.device_name,
            user_agent: row.user_agent,
            ip: row.ip.and_then(|ip| ip.parse().ok()),
            created_at: row.created_at,
            last_seen_at: row.last_seen_at,
            expires_at: row.expires_at,
            ended_at: row.ended_at,
            state: row.end_reason.unwrap_or_else(|| by_itself.to_owned()),
        }
    }
}

#[derive(Deserialize)]
pub(in crate::store) struct EndedRow {
    pub(in crate::store) live: u64,
    pub(in crate::store) last: Option<Sid>,
}

#[derive(Deserialize)]
pub(in crate::store) struct RemainingRow {
    #[serde(deserialize_with = "flag")]
    pub(in crate::store) remain: bool,
    pub(in crate::store) now: i64,
}

#[derive(Deserialize)]
pub(in crate::store) struct AuditRow {
    id: u64,
    #[serde(deserialize_with = "micros")]
    at: OffsetDateTime,
    event: String,
    actor: String,
    actor_id: Option<AdminKeyId>,
    user_id: Option<UserId>,
    sid: Option<Sid>,
    ip: Option<String>,
    reason: Option<String>,
    count: u64,
    details: Option<String>,
}

impl From<AuditRow> for AuditEntry {
    fn from(row: AuditRow) -> Self {
        Self {
            id: row.id,
            at: row.at,
            event: row.event,
            actor: row.actor,
            actor_id: row.actor_id,
            user_id: row.user_id,
            sid: row.sid,
            ip: row.ip.and_then(|ip| ip.parse().ok()),
            reason: row.reason,
            count: row.count,
            details: row.details.and_then(|details| serde_json::from_str(&details).ok()),
        }
    }
}

#[derive(Deserialize)]
pub(in crate::store) struct StatisticsRow {
    users: u64,
    users_disabled: u64,
    active_day: u64,
    active_week: u64,
    devices: Vec<(String, u64)>,
    events: Vec<(i64, String, String, u64)>,
}

impl From<StatisticsRow> for Statistics {
    fn from(row: StatisticsRow) -> Self {
        let events = row.events.into_iter().map(|(from, event, reason, count)| EventCount {
            from: from_micros(from).unwrap_or(OffsetDateTime::UNIX_EPOCH),
            event,
            reason: Some(reason).filter(|reason| !reason.is_empty()),
            count,
        });
        Self {
            users: UserCounts {
                total: row.users,
                disabled: row.users_disabled,
                active_day: row.active_day,
                active_week: row.active_week,
            },
            live_sessions: row.devices.into_iter().collect(),
            events: events.collect(),
        }
    }
}

#[derive(Deserialize)]
pub(in crate::store) struct OutboxRow {
    id: u64,
    target: String,
    #[serde(deserialize_with = "micros")]
    at: OffsetDateTime,
    reason: String,
    initiator: String,
    user_id: UserId,
    sid: Option<Sid>,
    attempts: u64,
    last_error: Option<String>,
    #[serde(deserialize_with = "optional_micros")]
    given_up_at: Option<OffsetDateTime>,
}

impl From<OutboxRow> for OutboxEvent {
    fn from(row: OutboxRow) -> Self {
        Self {
            id: row.id,
            target: row.target,
            at: row.at,
            reason: row.reason,
            initiator: row.initiator,
            user_id: row.user_id,
            sid: row.sid,
            attempts: row.attempts,
            last_error: row.last_error,
            given_up_at: row.given_up_at,
        }
    }
}
