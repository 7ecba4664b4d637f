//! What operators look up and end.

use time::OffsetDateTime;
use uuid::Uuid;

use super::Postgres;
use super::script::Script;
use crate::ids::{Sid, UserId};
use crate::store::folding::email_key;
use crate::store::operating::rows::{AccountRow, EndedRow, RemainingRow, SessionSummaryRow};
use crate::store::operating::{prefix_end, to_page};
use crate::store::rows::from_micros;
use crate::store::{
    Account, MassEnd, Remaining, Revoked, SessionSummary, StoreError, StoreResult, UserFilter, UserQuery,
};

const USERS: &str = concat!(
    "SELECT coalesce(json_agg(json_build_object('user', ",
    user_json!(),
    ", 'email_key', u.email_key, 'disabled_at', ",
    micros!("u.disabled_at"),
    ", 'live_sessions', (SELECT count(*) FROM sessions s WHERE s.user_id = u.id AND s.ended_at IS NULL ",
    "AND s.expires_at > now() AND s.auth_epoch >= u.auth_epoch AND u.disabled_at IS NULL), 'last_seen_at', ",
    "(SELECT ",
    micros!("max(s.last_seen_at)"),
    " FROM sessions s WHERE s.user_id = u.id)) ORDER BY u.email_key COLLATE \"C\"), '[]')::text FROM (SELECT * FROM users ",
    "WHERE ($1::uuid IS NULL OR id = $1) AND email_key COLLATE \"C\" >= $2 AND email_key COLLATE \"C\" < $3 ",
    "AND email_key COLLATE \"C\" > $4 ORDER BY email_key COLLATE \"C\" LIMIT $5) u"
);

/// The session `s` of the user `u` as a `SessionSummaryRow`. The order of the verdict is that of `session_json`.
macro_rules! summary_json {
    () => {
        concat!(
            "json_build_object('sid', s.sid, 'user_id', s.user_id, 'device_name', s.device_name, ",
            "'user_agent', s.user_agent, 'ip', host(s.ip), 'created_at', ",
            micros!("s.created_at"),
            ", 'last_seen_at', ",
            micros!("s.last_seen_at"),
            ", 'expires_at', ",
            micros!("s.expires_at"),
            ", 'ended_at', ",
            micros!("s.ended_at"),
            ", 'expired', s.expires_at <= now(), 'end_reason', ",
            "CASE WHEN s.ended_at IS NOT NULL THEN coalesce(s.end_reason, 'revoked') ",
            "WHEN u.disabled_at IS NOT NULL THEN 'account_disabled' ",
            "WHEN s.auth_epoch < u.auth_epoch THEN coalesce(u.epoch_reason, 'revoked') END)"
        )
    };
}

const SESSIONS: &str = concat!(
    "SELECT coalesce(json_agg(",
    summary_json!(),
    " ORDER BY s.last_seen_at DESC, s.sid), '[]')::text FROM (SELECT * FROM sessions ",
    "WHERE ($1::uuid IS NULL OR user_id = $1) AND ($2::uuid IS NULL OR sid = $2) ORDER BY last_seen_at DESC LIMIT 500) s ",
    "JOIN users u ON u.id = s.user_id"
);

/// What lives, or might still be taken for living within clocks and leeway.
const LIVE_BEFORE: &str = " AND s.ended_at IS NULL AND s.expires_at > now() - interval '1 minute' \
     AND s.auth_epoch >= u.auth_epoch AND u.disabled_at IS NULL";

/// One entry takes the place of those that the trigger wrote, before anybody can have seen them.
const FOLD: &str = "WITH gone AS (DELETE FROM revocations WHERE kind = 'session' \
     AND position = pg_current_xact_id_if_assigned()::text::bigint RETURNING sid, user_id) \
     INSERT INTO revocations (kind, reason, sessions) \
     SELECT 'sessions', 'revoked', json_agg(json_build_array(sid, user_id)) FROM gone HAVING count(*) > 0";

impl Postgres {
    pub(in crate::store) async fn find_users(&self, query: &UserQuery) -> StoreResult<Vec<Account>> {
        let mut transaction = self.begin("find_users").await?;
        let (id, from, to) = match &query.filter {
            UserFilter::All => (None, String::new(), prefix_end("")),
            UserFilter::Id(id) => (Some(id.0), String::new(), prefix_end("")),
            UserFilter::Email(email) => (None, email_key(email), email_key(email) + "\u{1}"),
            UserFilter::Prefix(prefix) => (None, email_key(prefix), prefix_end(&email_key(prefix))),
        };
        let find = sqlx::query(USERS)
            .bind(id)
            .bind(from)
            .bind(to)
            .bind(query.after.as_deref().map(email_key).unwrap_or_default())
            .bind(i64::from(query.limit));
        let rows: Vec<AccountRow> = transaction.query(find).await?;
        transaction.commit().await?;
        Ok(to_page(rows))
    }

    pub(in crate::store) async fn summaries(
        &self,
        user_id: Option<UserId>,
        sid: Option<Sid>,
    ) -> StoreResult<Vec<SessionSummary>> {
        let mut transaction = self.begin("session_summaries").await?;
        let find = sqlx::query(SESSIONS).bind(user_id.map(|id| id.0)).bind(sid.map(|sid| sid.0));
        let rows: Vec<SessionSummaryRow> = transaction.query(find).await?;
        transaction.commit().await?;
        Ok(rows.into_iter().map(SessionSummary::from).collect())
    }

    pub(in crate::store) async fn end_sessions_before(
        &self,
        before: OffsetDateTime,
        after: Option<Sid>,
        batch: u32,
    ) -> StoreResult<MassEnd> {
        let mut transaction = self.begin("end_sessions_before").await?;
        // Sessions that somebody else holds are left for the next round: waiting could close a circle.
        let end =
            Script::new("WITH doomed AS (SELECT s.sid FROM sessions s JOIN users u ON u.id = s.user_id WHERE s.sid > ")
                .uuid(after.map_or(Uuid::nil(), |sid| sid.0))
                .text(" AND s.created_at < ")
                .time(before)
                .text(LIVE_BEFORE)
                .text(" ORDER BY s.sid LIMIT ")
                .integer(i64::from(batch))
                .text(" FOR NO KEY UPDATE OF s SKIP LOCKED), ended AS (UPDATE sessions s SET ended_at = now(), ")
                .text("end_reason = 'revoked' FROM doomed WHERE s.sid = doomed.sid AND s.ended_at IS NULL ")
                .text("RETURNING s.sid, s.expires_at > now() AS live) SELECT json_build_object('taken', count(*), ")
                .text("'live', count(*) FILTER (WHERE live), 'last', max(sid::text COLLATE \"C\"))::text FROM ended");
        let ended: EndedRow = transaction.json(end).await?;
        transaction.run(Script::new(FOLD)).await?;
        let entries = transaction.entries().await?;
        transaction.commit().await?;
        Ok(MassEnd { revoked: Revoked { sessions: ended.live, entries }, last: ended.last })
    }

    pub(in crate::store) async fn remaining_before(&self, before: OffsetDateTime) -> StoreResult<Remaining> {
        let rows = Script::new("SELECT json_build_array(json_build_object('remain', EXISTS (SELECT FROM sessions s ")
            .text("JOIN users u ON u.id = s.user_id WHERE s.created_at < ")
            .time(before)
            .text(LIVE_BEFORE)
            .text("), 'now', ")
            .text(micros!("clock_timestamp()"))
            .text("))");
        let (answer, _) = self.read::<RemainingRow>("remaining_before", rows).await?;
        let row = answer.rows.into_iter().next();
        let row = row.ok_or_else(|| StoreError::Corrupt("an answer without a row".into()))?;
        let now =
            from_micros(row.now).ok_or_else(|| StoreError::Corrupt("the database's clock is out of range".into()))?;
        Ok(Remaining { any: row.remain, now })
    }
}
