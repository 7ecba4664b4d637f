//! Batched loads, device lists and the writing of last uses. A batch of keys is bound as one JSON array.

use std::time::Duration;

use time::OffsetDateTime;

use super::Sqlite;
use crate::ids::{Sid, UserId};
use crate::secret::SecretHash;
use crate::store::rows::{DeviceRow, SessionRow, TouchRow, UserRow, duration_micros, to_hex, to_micros};
use crate::store::{Device, Read, SessionRead, StoreResult, UserRecord};

const SESSIONS: &str = answer!(
    session_json!(),
    "sessions s JOIN users u ON u.id = s.user_id WHERE s.sid IN (SELECT value FROM json_each(?1))"
);

const SESSIONS_BY_SECRET: &str = answer!(
    session_json!(),
    "sessions s JOIN users u ON u.id = s.user_id WHERE s.secret_hash IN (SELECT value FROM json_each(?1))"
);

const USERS: &str = answer!(user_json!(), "users u WHERE u.id IN (SELECT value FROM json_each(?1))");

const RECENT: &str = answer!(
    "r.sid",
    concat!(
        "(SELECT s.sid FROM sessions s WHERE s.ended_at IS NULL AND s.expires_at > ",
        now!(),
        " ORDER BY s.last_seen_at DESC LIMIT ?1) r"
    )
);

const DEVICES: &str = answer!(
    "json_object('sid', d.sid, 'device_name', d.device_name, 'user_agent', d.user_agent, 'ip', d.ip, \
     'created_at', d.created_at, 'last_seen_at', d.last_seen_at, 'expires_at', d.expires_at, \
     'changed_at', d.changed_at, 'changed_browser', d.changed_browser, 'changed_network', d.changed_network)",
    concat!(
        "(SELECT s.* FROM sessions s JOIN users u ON u.id = s.user_id WHERE s.ended_at IS NULL AND s.expires_at > ",
        now!(),
        " AND s.auth_epoch >= u.auth_epoch AND u.disabled_at IS NULL AND s.user_id = ?1 \
         ORDER BY s.last_seen_at DESC, s.created_at DESC LIMIT 200) d"
    )
);

const TOUCH: &str = concat!(
    "UPDATE sessions SET last_seen_at = max(last_seen_at, min(?2, ",
    now!(),
    ")), expires_at = min(max_expires_at, max(last_seen_at, min(?2, ",
    now!(),
    ")) + ?3) WHERE sid = ?1 AND ended_at IS NULL AND expires_at > ",
    now!(),
    " AND EXISTS (SELECT 1 FROM users u WHERE u.id = user_id AND u.auth_epoch = sessions.auth_epoch \
     AND u.disabled_at IS NULL) \
     RETURNING json_object('sid', sid, 'last_seen_at', last_seen_at, 'expires_at', expires_at)"
);

impl Sqlite {
    pub(in crate::store) async fn load_sessions(&self, sids: &[Sid]) -> StoreResult<Read<Vec<SessionRead>>> {
        let keys = serde_json::to_string(sids)?;
        let (answer, read_at) = self.read::<SessionRow>("load_sessions", sqlx::query(SESSIONS).bind(keys)).await?;
        Ok(answer.facts(read_at))
    }

    pub(in crate::store) async fn load_sessions_by_secret(
        &self,
        hashes: &[SecretHash],
    ) -> StoreResult<Read<Vec<SessionRead>>> {
        let keys: Vec<String> = hashes.iter().map(|hash| to_hex(&hash.0)).collect();
        let query = sqlx::query(SESSIONS_BY_SECRET).bind(serde_json::to_string(&keys)?);
        let (answer, read_at) = self.read::<SessionRow>("load_sessions_by_secret", query).await?;
        Ok(answer.facts(read_at))
    }

    pub(in crate::store) async fn recent_sessions(&self, count: usize) -> StoreResult<Vec<Sid>> {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let (answer, _) = self.read::<Sid>("recent_sessions", sqlx::query(RECENT).bind(count)).await?;
        Ok(answer.rows)
    }

    pub(in crate::store) async fn load_users(&self, ids: &[UserId]) -> StoreResult<Read<Vec<UserRecord>>> {
        let keys = serde_json::to_string(ids)?;
        let (answer, read_at) = self.read::<UserRow>("load_users", sqlx::query(USERS).bind(keys)).await?;
        Ok(answer.facts(read_at))
    }

    pub(in crate::store) async fn devices(&self, user_id: UserId) -> StoreResult<Vec<Device>> {
        let query = sqlx::query(DEVICES).bind(user_id.to_string());
        let (answer, _) = self.read::<DeviceRow>("devices", query).await?;
        let mut devices: Vec<Device> = answer.into_rows();
        // SQLite promises no order within an aggregate.
        devices.sort_by_key(|device| std::cmp::Reverse((device.last_seen_at, device.created_at)));
        Ok(devices)
    }

    pub(in crate::store) async fn touch_sessions(
        &self,
        uses: &[(Sid, OffsetDateTime)],
        ttl: Duration,
    ) -> StoreResult<Vec<(Sid, OffsetDateTime, OffsetDateTime)>> {
        let mut transaction = self.begin("touch_sessions").await?;
        let mut touched = std::collections::BTreeMap::new();
        for (sid, at) in uses {
            let touch = sqlx::query(TOUCH).bind(sid.to_string()).bind(to_micros(*at)).bind(duration_micros(ttl));
            for row in transaction.rows::<TouchRow>(touch).await? {
                touched.insert(*sid, row.into());
            }
        }
        transaction.commit().await?;
        Ok(touched.into_values().collect())
    }
}
