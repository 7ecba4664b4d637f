//! What operators look up and end.

use serde::Deserialize;
use time::OffsetDateTime;

use super::Sqlite;
use crate::ids::{Sid, UserId};
use crate::store::folding::email_key;
use crate::store::operating::rows::{AccountRow, RemainingRow, SessionSummaryRow};
use crate::store::operating::{prefix_end, to_page};
use crate::store::rows::{flag, from_micros, to_micros};
use crate::store::{
    Account, MassEnd, Remaining, Revoked, SessionSummary, StoreError, StoreResult, UserFilter, UserQuery,
};

const USERS: &str = concat!(
    "SELECT json_object('user', ",
    user_json!(),
    ", 'disabled_at', u.disabled_at, 'live_sessions', (SELECT count(*) FROM sessions s WHERE s.user_id = u.id \
     AND s.ended_at IS NULL AND s.expires_at > ",
    now!(),
    " AND s.auth_epoch >= u.auth_epoch AND u.disabled_at IS NULL), 'last_seen_at', \
     (SELECT max(s.last_seen_at) FROM sessions s WHERE s.user_id = u.id)) FROM users u \
     WHERE (?1 IS NULL OR u.id = ?1) AND u.email_key >= ?2 AND u.email_key < ?3 AND u.email_key > ?4 \
     ORDER BY u.email_key LIMIT ?5"
);

/// The order of the verdict is that of `session_json`.
const SESSIONS: &str = concat!(
    "SELECT json_object('sid', s.sid, 'user_id', s.user_id, 'device_name', s.device_name, 'user_agent', s.user_agent, \
     'ip', s.ip, 'created_at', s.created_at, 'last_seen_at', s.last_seen_at, 'expires_at', s.expires_at, \
     'ended_at', s.ended_at, 'expired', s.expires_at <= ",
    now!(),
    ", 'end_reason', CASE WHEN s.ended_at IS NOT NULL THEN coalesce(s.end_reason, 'revoked') \
     WHEN u.disabled_at IS NOT NULL THEN 'account_disabled' \
     WHEN s.auth_epoch < u.auth_epoch THEN coalesce(u.epoch_reason, 'revoked') END) \
     FROM sessions s JOIN users u ON u.id = s.user_id WHERE (?1 IS NULL OR s.user_id = ?1) \
     AND (?2 IS NULL OR s.sid = ?2) ORDER BY s.last_seen_at DESC, s.sid LIMIT 500"
);

/// What lives, or might still be taken for living within clocks and leeway.
macro_rules! live_before {
    ($before:literal) => {
        concat!(
            "SELECT s.sid FROM sessions s JOIN users u ON u.id = s.user_id WHERE s.created_at < ",
            $before,
            " AND s.ended_at IS NULL AND s.expires_at > ",
            now!(),
            " - 60000000 AND s.auth_epoch >= u.auth_epoch AND u.disabled_at IS NULL"
        )
    };
}

const END_BEFORE: &str = concat!(
    "UPDATE sessions SET ended_at = ",
    now!(),
    ", end_reason = 'revoked' WHERE sid IN (",
    live_before!("?1"),
    " AND s.sid > ?2 ORDER BY s.sid LIMIT ?3) RETURNING json_object('sid', sid, 'live', expires_at > ",
    now!(),
    ")"
);

/// One entry takes the place of those that the trigger wrote, before anybody can have seen them.
const FOLD: &str = "INSERT INTO revocations (kind, reason, sessions) \
     SELECT 'sessions', 'revoked', json_group_array(json_array(sid, user_id)) FROM revocations \
     WHERE id > ?1 AND kind = 'session'";
const FOLDED: &str = "DELETE FROM revocations WHERE id > ?1 AND kind = 'session'";

const REMAIN: &str = concat!("SELECT json_object('remain', EXISTS (", live_before!("?1"), "), 'now', ", now!(), ")");

#[derive(Deserialize)]
struct Ended {
    sid: Sid,
    #[serde(deserialize_with = "flag")]
    live: bool,
}

impl Sqlite {
    pub(in crate::store) async fn find_users(&self, query: &UserQuery) -> StoreResult<Vec<Account>> {
        let mut transaction = self.begin("find_users").await?;
        let (id, from, to) = match &query.filter {
            UserFilter::All => (None, String::new(), prefix_end("")),
            UserFilter::Id(id) => (Some(id.to_string()), String::new(), prefix_end("")),
            UserFilter::Email(email) => (None, email_key(email), email_key(email) + "\u{1}"),
            UserFilter::Prefix(prefix) => (None, email_key(prefix), prefix_end(&email_key(prefix))),
        };
        let after = query.after.as_deref().map(email_key).unwrap_or_default();
        let find = sqlx::query(USERS).bind(id).bind(from).bind(to).bind(after).bind(i64::from(query.limit));
        let rows = transaction.rows::<AccountRow>(find).await?;
        transaction.commit().await?;
        Ok(to_page(rows))
    }

    pub(in crate::store) async fn summaries(
        &self,
        user_id: Option<UserId>,
        sid: Option<Sid>,
    ) -> StoreResult<Vec<SessionSummary>> {
        let mut transaction = self.begin("session_summaries").await?;
        let find = sqlx::query(SESSIONS).bind(user_id.map(|id| id.to_string())).bind(sid.map(|sid| sid.to_string()));
        let rows = transaction.rows::<SessionSummaryRow>(find).await?;
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
        let after = after.map_or_else(String::new, |sid| sid.to_string());
        let end = sqlx::query(END_BEFORE).bind(to_micros(before)).bind(after).bind(i64::from(batch));
        let ended = transaction.rows::<Ended>(end).await?;
        if !ended.is_empty() {
            let logged_before = transaction.logged_before;
            transaction.run(sqlx::query(FOLD).bind(logged_before)).await?;
            transaction.run(sqlx::query(FOLDED).bind(logged_before)).await?;
        }
        let entries = transaction.entries().await?;
        transaction.commit().await?;
        let live = ended.iter().filter(|ended| ended.live).count() as u64;
        let last = ended.into_iter().map(|ended| ended.sid).max();
        Ok(MassEnd { revoked: Revoked { sessions: live, entries }, last })
    }

    pub(in crate::store) async fn remaining_before(&self, before: OffsetDateTime) -> StoreResult<Remaining> {
        let mut transaction = self.begin("remaining_before").await?;
        let rows = transaction.rows::<RemainingRow>(sqlx::query(REMAIN).bind(to_micros(before))).await?;
        transaction.commit().await?;
        let row = rows.into_iter().next().ok_or_else(|| StoreError::Corrupt("an answer without a row".into()))?;
        let now =
            from_micros(row.now).ok_or_else(|| StoreError::Corrupt("the database's clock is out of range".into()))?;
        Ok(Remaining { any: row.remain, now })
    }
}
