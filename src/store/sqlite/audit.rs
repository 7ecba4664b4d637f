//! The trail: what operators do, what was counted, and reading it.

use std::time::Duration;

use super::{Sqlite, Transaction};
use crate::store::attribution::Attribution;
use crate::store::operating::rows::{AuditRow, StatisticsRow};
use crate::store::rows::duration_micros;
use crate::store::{AuditEntry, AuditNote, AuditQuery, Statistics, StoreError, StoreResult};

const SET: &str = "UPDATE audit_context SET actor = ?1, actor_id = ?2, ip = ?3";
pub(super) const CLEAR: &str = "UPDATE audit_context SET actor = NULL, actor_id = NULL, ip = NULL";

const NOTE_ACTION: &str = "INSERT INTO audit (event, actor, actor_id, ip, user_id, sid, details) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";

const NOTE: &str = "INSERT INTO audit (event, actor, actor_id, user_id, ip, count, at) \
     SELECT value ->> 'event', value ->> 'actor', value ->> 'actor_id', value ->> 'user_id', value ->> 'ip', value ->> 'count', value ->> 'at' \
     FROM json_each(?1)";

const PAGE: &str = "SELECT json_object('id', a.id, 'at', a.at, 'event', a.event, 'actor', a.actor, \
     'actor_id', a.actor_id, 'user_id', a.user_id, 'sid', a.sid, 'ip', a.ip, 'reason', a.reason, 'count', a.count, \
     'details', a.details) FROM audit a WHERE (?1 IS NULL OR user_id = ?1) AND (?2 IS NULL OR event = ?2) \
     AND id < ?3 AND (NOT ?4 OR event NOT LIKE 'operator.%') ORDER BY id DESC LIMIT ?5";

/// Users count as active who have used a session, or logged in, lately. Sessions that were ended are swept after a day,
/// logins stay in the trail.
const STATISTICS: &str = concat!(
    "SELECT json_object(\
     'users', (SELECT count(*) FROM users), \
     'users_disabled', (SELECT count(*) FROM users WHERE disabled_at IS NOT NULL), \
     'active_day', (SELECT count(*) FROM (SELECT user_id FROM sessions WHERE last_seen_at > ",
    now!(),
    " - 86400000000 UNION SELECT user_id FROM audit WHERE event = 'login' AND at > ",
    now!(),
    " - 86400000000)), 'active_week', (SELECT count(*) FROM (SELECT user_id FROM sessions WHERE last_seen_at > ",
    now!(),
    " - 604800000000 UNION SELECT user_id FROM audit WHERE event = 'login' AND at > ",
    now!(),
    " - 604800000000)), 'devices', json((SELECT json_group_array(json_array(family, n)) FROM (SELECT CASE \
        WHEN s.user_agent IS NULL THEN 'unknown' \
        WHEN s.user_agent LIKE '%iPhone%' OR s.user_agent LIKE '%iPad%' THEN 'ios' \
        WHEN s.user_agent LIKE '%Android%' THEN 'android' \
        WHEN s.user_agent LIKE '%Windows%' THEN 'windows' \
        WHEN s.user_agent LIKE '%Mac OS X%' OR s.user_agent LIKE '%Macintosh%' THEN 'macos' \
        WHEN s.user_agent LIKE '%CrOS%' THEN 'chromeos' \
        WHEN s.user_agent LIKE '%Linux%' THEN 'linux' ELSE 'other' END AS family, count(*) AS n \
        FROM sessions s JOIN users u ON u.id = s.user_id WHERE s.ended_at IS NULL AND s.expires_at > ",
    now!(),
    " AND s.auth_epoch >= u.auth_epoch AND u.disabled_at IS NULL GROUP BY 1))), \
     'events', json((SELECT json_group_array(json_array(at, event, reason, n)) FROM (SELECT \
        (a.at / ?2) * ?2 AS at, a.event AS event, coalesce(a.reason, '') AS reason, sum(a.count) AS n \
        FROM audit a WHERE a.at > ",
    now!(),
    " - ?1 AND a.event IN ('login', 'login_failed', 'signup', 'session', 'user_epoch', 'token', 'key_removed') \
        GROUP BY 1, 2, 3 ORDER BY 1, 2))))"
);

const SWEEP_AUDIT: &str =
    concat!("DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE at < ", now!(), " - ?1 LIMIT ?2)");

const SWEEP_GIVEN_UP: &str = concat!(
    "DELETE FROM webhook_outbox WHERE id IN (SELECT id FROM webhook_outbox WHERE given_up_at < ",
    now!(),
    " - ?1 LIMIT ?2)"
);

const SWEEP_KEYS: &str = concat!(
    "DELETE FROM admin_keys WHERE id IN (SELECT id FROM admin_keys WHERE expires_at < ",
    now!(),
    " - ?1 OR revoked_at < ",
    now!(),
    " - ?1 LIMIT ?2)"
);

/// Receivers that no node has in its settings any more, and what they were to be told.
const SWEEP_TARGETS: &str = concat!(
    "DELETE FROM webhook_targets WHERE target IN (SELECT target FROM webhook_targets WHERE last_seen_at < ",
    now!(),
    " - ?1 LIMIT ?2)"
);
const SWEEP_ORPHANS: &str = "DELETE FROM webhook_outbox WHERE id IN (SELECT id FROM webhook_outbox \
     WHERE target NOT IN (SELECT target FROM webhook_targets) LIMIT ?1)";

/// After a week without any node that has it in its settings, a receiver is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(7 * 24 * 3600);

impl Transaction<'_> {
    /// Tells the triggers who is at work until the commit, and writes an operator's action down.
    pub(super) async fn attribute(&mut self, attribution: &Attribution) -> StoreResult<()> {
        let (actor, key) = (attribution.actor.as_str(), attribution.actor.key().map(|key| key.to_string()));
        let ip = attribution.ip.map(|ip| ip.to_string());
        self.run(sqlx::query(SET).bind(actor).bind(key.clone()).bind(ip.clone())).await?;
        let Some(action) = &attribution.action else { return Ok(()) };
        let note = sqlx::query(NOTE_ACTION)
            .bind(action.event)
            .bind(actor)
            .bind(key)
            .bind(ip)
            .bind(action.user_id.map(|id| id.to_string()))
            .bind(action.sid.map(|sid| sid.to_string()))
            .bind(action.details.as_ref().map(ToString::to_string));
        self.run(note).await.map(drop)
    }
}

impl Sqlite {
    /// Nothing but what the attribution says.
    pub(in crate::store) async fn note_only(&self) -> StoreResult<()> {
        self.begin("note_action").await?.commit().await
    }

    pub(in crate::store) async fn note(&self, notes: &[AuditNote]) -> StoreResult<()> {
        let mut transaction = self.begin("note_audit").await?;
        transaction.run(sqlx::query(NOTE).bind(serde_json::to_string(notes)?)).await?;
        transaction.commit().await
    }

    pub(in crate::store) async fn audit_page(&self, query: &AuditQuery) -> StoreResult<Vec<AuditEntry>> {
        let mut transaction = self.begin("audit_page").await?;
        let page = sqlx::query(PAGE)
            .bind(query.user_id.map(|id| id.to_string()))
            .bind(&query.event)
            .bind(query.before.map_or(i64::MAX, super::accounts::to_column))
            .bind(query.own)
            .bind(i64::from(query.limit));
        let rows = transaction.rows::<AuditRow>(page).await?;
        transaction.commit().await?;
        Ok(rows.into_iter().map(AuditEntry::from).collect())
    }

    pub(in crate::store) async fn statistics(&self, window: Duration, step: Duration) -> StoreResult<Statistics> {
        let mut transaction = self.begin("statistics").await?;
        let query = sqlx::query(STATISTICS).bind(duration_micros(window)).bind(duration_micros(step));
        let row = transaction.rows::<StatisticsRow>(query).await?.into_iter().next();
        transaction.commit().await?;
        row.map(Statistics::from).ok_or_else(|| StoreError::Corrupt("an answer without a row".into()))
    }

    pub(in crate::store) async fn sweep_operating(&self, age: Duration, batch: u32) -> StoreResult<u64> {
        let batch = i64::from(batch.max(1));
        let mut most = 0;
        for (name, delete, age) in [
            ("sweep_audit", SWEEP_AUDIT, age),
            ("sweep_given_up", SWEEP_GIVEN_UP, age),
            ("sweep_admin_keys", SWEEP_KEYS, age),
            ("sweep_targets", SWEEP_TARGETS, age.min(FORGOTTEN)),
        ] {
            most = most.max(self.take(name, sqlx::query(delete).bind(duration_micros(age)).bind(batch)).await?);
        }
        Ok(most.max(self.take("sweep_orphans", sqlx::query(SWEEP_ORPHANS).bind(batch)).await?))
    }
}
