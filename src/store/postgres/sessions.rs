//! Batched loads, device lists and the writing of last uses.

use std::collections::HashMap;
use std::time::Duration;

use time::OffsetDateTime;

use super::script::Script;
use super::{Postgres, StoreResult};
use crate::ids::{Sid, UserId};
use crate::secret::SecretHash;
use crate::store::rows::{DeviceRow, SessionRow, TouchRow, UserRow};
use crate::store::{Device, Read, SessionRead, UserRecord};

const SESSIONS: &str = concat!(
    "SELECT coalesce(json_agg(",
    session_json!(),
    "), '[]') FROM sessions s JOIN users u ON u.id = s.user_id WHERE "
);

const USERS: &str = concat!("SELECT coalesce(json_agg(", user_json!(), "), '[]') FROM users u WHERE u.id IN ");

/// Without an index, which every use of a session would have to move: one scan at a start that asks for it.
const RECENT: &str = "SELECT coalesce(json_agg(r.sid ORDER BY r.last_seen_at DESC), '[]') FROM (SELECT s.sid, s.last_seen_at \
    FROM sessions s WHERE s.ended_at IS NULL AND s.expires_at > now() ORDER BY s.last_seen_at DESC LIMIT ";

const DEVICES: &str = concat!(
    "SELECT coalesce(json_agg(json_build_object('sid', d.sid, 'device_name', d.device_name, ",
    "'user_agent', d.user_agent, 'ip', host(d.ip), 'created_at', ",
    micros!("d.created_at"),
    ", 'last_seen_at', ",
    micros!("d.last_seen_at"),
    ", 'expires_at', ",
    micros!("d.expires_at"),
    ", 'changed_at', ",
    micros!("d.changed_at"),
    ", 'changed_browser', d.changed_browser, 'changed_network', d.changed_network",
    ") ORDER BY d.last_seen_at DESC, d.created_at DESC), '[]') FROM (SELECT s.* FROM sessions s ",
    "JOIN users u ON u.id = s.user_id WHERE s.ended_at IS NULL AND s.expires_at > now() ",
    "AND s.auth_epoch >= u.auth_epoch AND u.disabled_at IS NULL AND s.user_id = "
);

/// Rows that somebody else holds are skipped: a batch that waits could close a circle with a revocation of many
/// sessions, and a use that is not written down costs nothing.
const TOUCHED: &str = "), locked AS (
        SELECT s.sid, greatest(s.last_seen_at, least(used.at, now())) AS seen
        FROM sessions s JOIN used ON used.sid = s.sid JOIN users u ON u.id = s.user_id
        WHERE s.ended_at IS NULL AND s.expires_at > now() AND s.auth_epoch = u.auth_epoch AND u.disabled_at IS NULL
        FOR NO KEY UPDATE OF s SKIP LOCKED
    ), touched AS (
        UPDATE sessions s SET last_seen_at = locked.seen, expires_at = least(s.max_expires_at, locked.seen + ";

const TOUCHED_ROWS: &str = concat!(
    ") FROM locked WHERE s.sid = locked.sid AND s.ended_at IS NULL RETURNING s.sid, s.last_seen_at, s.expires_at) ",
    "SELECT coalesce(json_agg(json_build_object('sid', t.sid, 'last_seen_at', ",
    micros!("t.last_seen_at"),
    ", 'expires_at', ",
    micros!("t.expires_at"),
    ")), '[]')::text FROM touched t"
);

impl Postgres {
    pub(in crate::store) async fn load_sessions(&self, sids: &[Sid]) -> StoreResult<Read<Vec<SessionRead>>> {
        let rows = Script::new(SESSIONS).text("s.sid IN ").list(sids, |script, sid| script.uuid(sid.0));
        let (answer, read_at) = self.read::<SessionRow>("load_sessions", rows).await?;
        Ok(answer.facts(read_at))
    }

    pub(in crate::store) async fn load_sessions_by_secret(
        &self,
        hashes: &[SecretHash],
    ) -> StoreResult<Read<Vec<SessionRead>>> {
        let rows = Script::new(SESSIONS).text("s.secret_hash IN ").list(hashes, Script::hash);
        let (answer, read_at) = self.read::<SessionRow>("load_sessions_by_secret", rows).await?;
        Ok(answer.facts(read_at))
    }

    pub(in crate::store) async fn recent_sessions(&self, count: usize) -> StoreResult<Vec<Sid>> {
        let rows = Script::new(RECENT).unsigned(count as u64).text(") r");
        let (answer, _) = self.read::<Sid>("recent_sessions", rows).await?;
        Ok(answer.rows)
    }

    pub(in crate::store) async fn load_users(&self, ids: &[UserId]) -> StoreResult<Read<Vec<UserRecord>>> {
        let rows = Script::new(USERS).list(ids, |script, id| script.uuid(id.0));
        let (answer, read_at) = self.read::<UserRow>("load_users", rows).await?;
        Ok(answer.facts(read_at))
    }

    pub(in crate::store) async fn devices(&self, user_id: UserId) -> StoreResult<Vec<Device>> {
        let rows = Script::new(DEVICES).uuid(user_id.0).text(" ORDER BY s.last_seen_at DESC LIMIT 200) d");
        let (answer, _) = self.read::<DeviceRow>("devices", rows).await?;
        Ok(answer.into_rows())
    }

    pub(in crate::store) async fn touch_sessions(
        &self,
        uses: &[(Sid, OffsetDateTime)],
        ttl: Duration,
    ) -> StoreResult<Vec<(Sid, OffsetDateTime, OffsetDateTime)>> {
        let mut latest: HashMap<Sid, OffsetDateTime> = HashMap::with_capacity(uses.len());
        for (sid, at) in uses {
            latest.entry(*sid).and_modify(|known| *known = (*known).max(*at)).or_insert(*at);
        }
        let mut script = Script::new("WITH used (sid, at) AS (VALUES (NULL::uuid, NULL::timestamptz)");
        for (sid, at) in latest {
            script = script.text(", (").uuid(sid.0).text(", ").time(at).text(")");
        }
        let script = script.text(TOUCHED).interval(ttl).text(TOUCHED_ROWS);
        let mut transaction = self.begin("touch_sessions").await?;
        let rows: Vec<TouchRow> = transaction.json(script).await?;
        transaction.commit().await?;
        Ok(rows.into_iter().map(TouchRow::into).collect())
    }
}
