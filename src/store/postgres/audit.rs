//! The trail: what operators do, what was counted, and reading it.

use super::script::Script;
use super::{Postgres, Transaction};
use crate::store::attribution::Attribution;
use crate::store::operating::rows::{AuditRow, StatisticsRow};
use crate::store::rows::duration_micros;
use crate::store::{AuditEntry, AuditNote, AuditQuery, Statistics, StoreResult};

const NOTE_ACTION: &str = "WITH noted AS (INSERT INTO audit (event, actor, actor_id, ip, user_id, sid, details) \
     VALUES ($1, $2, $3, $4::inet, $5, $6, $7::json) RETURNING 1) SELECT count(*)::text FROM noted";

const NOTE: &str = "WITH noted AS (INSERT INTO audit (event, actor, actor_id, user_id, ip, count, at) \
     SELECT event, actor, actor_id::uuid, user_id::uuid, ip::inet, count, timestamptz 'epoch' + interval '1 microsecond' * at \
     FROM json_to_recordset($1::json) \
     AS n (event text, actor text, actor_id text, user_id text, ip text, count bigint, at bigint) RETURNING 1) \
     SELECT count(*)::text FROM noted";

const PAGE: &str = concat!(
    "SELECT coalesce(json_agg(json_build_object('id', a.id, 'at', ",
    micros!("a.at"),
    ", 'event', a.event, 'actor', a.actor, 'actor_id', a.actor_id, 'user_id', a.user_id, 'sid', a.sid, ",
    "'ip', host(a.ip), 'reason', a.reason, 'count', a.count, 'details', a.details::text) ORDER BY a.id DESC), '[]')::text ",
    "FROM (SELECT * FROM audit WHERE ($1::uuid IS NULL OR user_id = $1) AND ($2::text IS NULL OR event = $2) ",
    "AND id < $3 AND (NOT $4 OR event NOT LIKE 'operator.%') ORDER BY id DESC LIMIT $5) a"
);

/// Users count as active who have used a session, or logged in, lately. Sessions that were ended are swept after a day,
/// logins stay in the trail.
const STATISTICS: &str = "SELECT json_build_object(\
     'users', (SELECT count(*) FROM users), \
     'users_disabled', (SELECT count(*) FROM users WHERE disabled_at IS NOT NULL), \
     'active_day', (SELECT count(*) FROM (SELECT user_id FROM sessions WHERE last_seen_at > now() - interval '1 day' \
        UNION SELECT user_id FROM audit WHERE event = 'login' AND at > now() - interval '1 day') a), \
     'active_week', (SELECT count(*) FROM (SELECT user_id FROM sessions WHERE last_seen_at > now() - interval '7 days' \
        UNION SELECT user_id FROM audit WHERE event = 'login' AND at > now() - interval '7 days') a), \
     'devices', (SELECT coalesce(json_agg(json_build_array(family, n)), '[]') FROM (SELECT CASE \
        WHEN s.user_agent IS NULL THEN 'unknown' \
        WHEN s.user_agent LIKE '%iPhone%' OR s.user_agent LIKE '%iPad%' THEN 'ios' \
        WHEN s.user_agent LIKE '%Android%' THEN 'android' \
        WHEN s.user_agent LIKE '%Windows%' THEN 'windows' \
        WHEN s.user_agent LIKE '%Mac OS X%' OR s.user_agent LIKE '%Macintosh%' THEN 'macos' \
        WHEN s.user_agent LIKE '%CrOS%' THEN 'chromeos' \
        WHEN s.user_agent LIKE '%Linux%' THEN 'linux' ELSE 'other' END AS family, count(*) AS n \
        FROM sessions s JOIN users u ON u.id = s.user_id WHERE s.ended_at IS NULL AND s.expires_at > now() \
        AND s.auth_epoch >= u.auth_epoch AND u.disabled_at IS NULL GROUP BY 1) d), \
     'events', (SELECT coalesce(json_agg(json_build_array(at, event, reason, n) ORDER BY at, event), '[]') FROM (SELECT \
        (floor(extract(epoch FROM a.at) * 1000000 / $2) * $2)::bigint AS at, a.event, coalesce(a.reason, '') AS reason, \
        sum(a.count)::bigint AS n FROM audit a WHERE a.at > now() - interval '1 microsecond' * $1 \
        AND a.event IN ('login', 'login_failed', 'signup', 'session', 'user_epoch', 'token', 'key_removed') \
        GROUP BY 1, 2, 3) e))::text";

impl Transaction<'_> {
    /// Writes an operator's action down, before anything else of the transaction.
    pub(super) async fn note_action(&mut self, attribution: &Attribution) -> StoreResult<()> {
        let Some(action) = &attribution.action else { return Ok(()) };
        let note = sqlx::query(NOTE_ACTION)
            .bind(action.event)
            .bind(attribution.actor.as_str())
            .bind(attribution.actor.key().map(|key| key.0))
            .bind(attribution.ip.map(|ip| ip.to_string()))
            .bind(action.user_id.map(|id| id.0))
            .bind(action.sid.map(|sid| sid.0))
            .bind(action.details.as_ref().map(ToString::to_string));
        self.query::<u64>(note).await.map(drop)
    }
}

impl Postgres {
    /// Nothing but what the attribution says.
    pub(in crate::store) async fn note_only(&self) -> StoreResult<()> {
        self.begin("note_action").await?.commit().await
    }

    pub(in crate::store) async fn note(&self, notes: &[AuditNote]) -> StoreResult<()> {
        let mut transaction = self.begin("note_audit").await?;
        let rows = serde_json::to_string(notes)?;
        transaction.query::<u64>(sqlx::query(NOTE).bind(rows)).await?;
        transaction.commit().await
    }

    pub(in crate::store) async fn audit_page(&self, query: &AuditQuery) -> StoreResult<Vec<AuditEntry>> {
        let mut transaction = self.begin("audit_page").await?;
        let page = sqlx::query(PAGE)
            .bind(query.user_id.map(|id| id.0))
            .bind(&query.event)
            .bind(query.before.map_or(i64::MAX, |before| i64::try_from(before).unwrap_or(i64::MAX)))
            .bind(query.own)
            .bind(i64::from(query.limit));
        let rows: Vec<AuditRow> = transaction.query(page).await?;
        transaction.commit().await?;
        Ok(rows.into_iter().map(AuditEntry::from).collect())
    }

    pub(in crate::store) async fn statistics(
        &self,
        window: std::time::Duration,
        step: std::time::Duration,
    ) -> StoreResult<Statistics> {
        let mut transaction = self.begin("statistics").await?;
        let query = sqlx::query(STATISTICS).bind(duration_micros(window)).bind(duration_micros(step));
        let row: StatisticsRow = transaction.query(query).await?;
        transaction.commit().await?;
        Ok(row.into())
    }

    pub(in crate::store) async fn sweep_operating(&self, age: std::time::Duration, batch: u32) -> StoreResult<u64> {
        let batch = i64::from(batch.max(1));
        let audit = doomed("audit", "id", "at", age, batch, "");
        let given_up = doomed("webhook_outbox", "id", "given_up_at", age, batch, "");
        let keys = doomed("admin_keys", "id", "least(expires_at, revoked_at)", age, batch, "");
        // A receiver that no node has in its settings any more, and what it was to be told.
        let targets = doomed("webhook_targets", "target", "last_seen_at", age.min(FORGOTTEN), batch, "");
        let orphans = doomed(
            "webhook_outbox",
            "id",
            "at",
            std::time::Duration::ZERO,
            batch,
            " AND NOT EXISTS (SELECT FROM webhook_targets t WHERE t.target = webhook_outbox.target)",
        );
        let mut most = 0;
        for (name, script) in [
            ("sweep_audit", audit),
            ("sweep_given_up", given_up),
            ("sweep_admin_keys", keys),
            ("sweep_targets", targets),
            ("sweep_orphans", orphans),
        ] {
            most = most.max(self.take(name, script).await?);
        }
        Ok(most)
    }
}

/// After a week without any node that has it in its settings, a receiver is forgotten.
const FORGOTTEN: std::time::Duration = std::time::Duration::from_secs(7 * 24 * 3600);

fn doomed(
    table: &'static str,
    key: &'static str,
    at: &'static str,
    age: std::time::Duration,
    batch: i64,
    and: &'static str,
) -> Script {
    let script = Script::new("WITH gone AS (DELETE FROM ").text(table).text(" WHERE ").text(key).text(" IN (SELECT ");
    let script = script.text(key).text(" FROM ").text(table).text(" WHERE ").text(at).text(" < now() - ").interval(age);
    script
        .text(and)
        .text(" LIMIT ")
        .integer(batch)
        .text(" FOR UPDATE SKIP LOCKED) RETURNING 1) SELECT count(*)::text FROM gone")
}
