//! Rotation of sessions' secrets, and where their holders come from.

use super::Sqlite;
use super::accounts::SESSION;
use crate::entry::LogEntry;
use crate::ids::{Sid, UserId};
use crate::secret::SecretHash;
use crate::store::rows::{Answer, SessionRow, SpentRow, duration_micros, to_hex};
use crate::store::{Fingerprint, NewSecret, RotationOutcome, StoreResult};

/// The condition makes two that rotate at once agree: the second finds another secret and changes nothing.
const ROTATE: &str = concat!(
    "UPDATE sessions SET previous_hash = secret_hash, secret_hash = ?3, previous_until = ",
    now!(),
    " + ?5, rotation_salt = ?4, rotated_at = ",
    now!(),
    " WHERE sid = ?1 AND secret_hash = ?2 AND ended_at IS NULL AND expires_at > ",
    now!(),
    " AND (rotated_at IS NULL OR rotated_at <= ",
    now!(),
    " - ?6) AND EXISTS (SELECT 1 FROM users u WHERE u.id = user_id AND u.auth_epoch = sessions.auth_epoch \
     AND u.disabled_at IS NULL)"
);

const SPEND: &str = "INSERT INTO spent_secrets (secret_hash, sid, user_id) SELECT previous_hash, sid, user_id \
     FROM sessions WHERE sid = ?1 ON CONFLICT DO NOTHING";

/// Whoever shows a secret that is older is told that it is unknown.
const FORGET_OLD: &str = concat!("DELETE FROM spent_secrets WHERE sid = ?1 AND spent_at < ", now!(), " - 604800000000");

const SPENT: &str = answer!(
    "json_object('secret_hash', s.secret_hash, 'sid', s.sid, 'user_id', s.user_id)",
    "spent_secrets s WHERE s.secret_hash IN (SELECT value FROM json_each(?1))"
);

/// Where the session is used from is taken over or not (`?4`); that it was used from elsewhere is written down, but not
/// for each knock at the door.
const NOTE: &str = concat!(
    "UPDATE sessions SET changed_at = ",
    now!(),
    ", changed_browser = ?2, changed_network = ?3, browser = CASE WHEN ?4 THEN ?2 ELSE browser END, \
     network = CASE WHEN ?4 THEN ?3 ELSE network END WHERE sid = ?1 AND ended_at IS NULL \
     AND (?4 OR changed_at IS NULL OR changed_at < ",
    now!(),
    " - 60000000 OR changed_browser IS NOT ?2 OR changed_network IS NOT ?3)"
);

impl Sqlite {
    pub(in crate::store) async fn rotate_secret(&self, secret: &NewSecret) -> StoreResult<RotationOutcome> {
        let mut transaction = self.begin("rotate_secret").await?;
        let sid = secret.sid.to_string();
        let rotate = sqlx::query(ROTATE)
            .bind(&sid)
            .bind(to_hex(&secret.from.0))
            .bind(to_hex(&secret.to.0))
            .bind(secret.salt.to_string())
            .bind(duration_micros(secret.grace))
            .bind(duration_micros(secret.pause));
        if transaction.run(rotate).await? == 1 {
            transaction.run(sqlx::query(SPEND).bind(&sid)).await?;
            transaction.run(sqlx::query(FORGET_OLD).bind(&sid)).await?;
        }
        let rows = transaction.rows::<Answer<SessionRow>>(sqlx::query(SESSION).bind(&sid)).await?;
        let session = rows.into_iter().flat_map(Answer::into_rows).next();
        let entries: Vec<LogEntry> = transaction.entries().await?;
        transaction.commit().await?;
        Ok(RotationOutcome { session, entries })
    }

    pub(in crate::store) async fn spent_secrets(
        &self,
        hashes: &[SecretHash],
    ) -> StoreResult<Vec<(SecretHash, Sid, UserId)>> {
        let keys: Vec<String> = hashes.iter().map(|hash| to_hex(&hash.0)).collect();
        let query = sqlx::query(SPENT).bind(serde_json::to_string(&keys)?);
        let (answer, _) = self.read::<SpentRow>("spent_secrets", query).await?;
        Ok(answer.into_rows())
    }

    pub(in crate::store) async fn note_fingerprint(
        &self,
        sid: Sid,
        seen: &Fingerprint,
        adopt: bool,
    ) -> StoreResult<Vec<LogEntry>> {
        let mut transaction = self.begin("note_fingerprint").await?;
        let note = sqlx::query(NOTE).bind(sid.to_string()).bind(&seen.browser).bind(&seen.network).bind(adopt);
        transaction.run(note).await?;
        let entries = transaction.entries().await?;
        transaction.commit().await?;
        Ok(entries)
    }
}
