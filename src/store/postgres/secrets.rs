//! Rotation of sessions' secrets, and where their holders come from.

use super::script::Script;
use super::{Postgres, Transaction};
use crate::entry::LogEntry;
use crate::ids::{Sid, UserId};
use crate::secret::SecretHash;
use crate::store::rows::{Answer, SessionRow, SpentRow};
use crate::store::{Fingerprint, NewSecret, RotationOutcome, SessionRead, StoreResult};

/// The condition makes two that rotate at once agree: the second finds another secret and changes nothing.
const IF_CURRENT: &str = " AND s.ended_at IS NULL AND s.expires_at > now() AND s.auth_epoch = u.auth_epoch \
     AND u.disabled_at IS NULL AND (s.rotated_at IS NULL OR s.rotated_at <= now() - ";

/// Whoever shows a secret that is older is told that it is unknown.
const FORGET_OLD: &str = "DELETE FROM spent_secrets WHERE spent_at < now() - interval '7 days' AND sid = ";

const SESSION: &str = concat!(
    "SELECT json_build_object('position', ",
    position!(),
    ", 'rows', coalesce(json_agg(",
    session_json!(),
    "), '[]'))::text FROM sessions s JOIN users u ON u.id = s.user_id WHERE s.sid = "
);

const SPENT: &str = "SELECT coalesce(json_agg(json_build_object('secret_hash', encode(secret_hash, 'hex'), 'sid', sid, \
     'user_id', user_id)), '[]') FROM spent_secrets WHERE secret_hash IN ";

/// Where the session is used from is taken over or not (`$4`); that it was used from elsewhere is written down, but not
/// for each knock at the door.
const NOTE: &str = "WITH noted AS (UPDATE sessions SET changed_at = now(), changed_browser = $2, changed_network = $3, \
     browser = CASE WHEN $4 THEN $2 ELSE browser END, network = CASE WHEN $4 THEN $3 ELSE network END \
     WHERE sid = $1 AND ended_at IS NULL AND ($4 OR changed_at IS NULL OR changed_at < now() - interval '1 minute' \
     OR (changed_browser, changed_network) IS DISTINCT FROM ($2, $3)) RETURNING sid) \
     SELECT count(*)::text FROM noted";

impl Postgres {
    pub(in crate::store) async fn rotate_secret(&self, secret: &NewSecret) -> StoreResult<RotationOutcome> {
        let mut transaction = self.begin("rotate_secret").await?;
        let rotate = Script::new(
            "WITH rotated AS (UPDATE sessions s SET previous_hash = s.secret_hash, secret_hash = ",
        )
        .hash(&secret.to)
        .text(", previous_until = now() + ")
        .interval(secret.grace)
        .text(", rotation_salt = ")
        .uuid(secret.salt)
        .text(", rotated_at = now() FROM users u WHERE u.id = s.user_id AND s.sid = ")
        .uuid(secret.sid.0)
        .text(" AND s.secret_hash = ")
        .hash(&secret.from)
        .text(IF_CURRENT)
        .interval(secret.pause)
        .text(") RETURNING s.sid, s.user_id, s.previous_hash) INSERT INTO spent_secrets (secret_hash, sid, user_id) ")
        .text("SELECT previous_hash, sid, user_id FROM rotated ON CONFLICT DO NOTHING; ")
        .text(FORGET_OLD)
        .uuid(secret.sid.0);
        transaction.run(rotate).await?;
        let session = session(&mut transaction, secret.sid).await?;
        let entries: Vec<LogEntry> = transaction.entries().await?;
        transaction.commit().await?;
        Ok(RotationOutcome { session, entries })
    }

    pub(in crate::store) async fn spent_secrets(
        &self,
        hashes: &[SecretHash],
    ) -> StoreResult<Vec<(SecretHash, Sid, UserId)>> {
        let rows = Script::new(SPENT).list(hashes, Script::hash);
        let (answer, _) = self.read::<SpentRow>("spent_secrets", rows).await?;
        Ok(answer.into_rows())
    }

    pub(in crate::store) async fn note_fingerprint(
        &self,
        sid: Sid,
        seen: &Fingerprint,
        adopt: bool,
    ) -> StoreResult<Vec<LogEntry>> {
        let mut transaction = self.begin("note_fingerprint").await?;
        let note = sqlx::query(NOTE).bind(sid.0).bind(&seen.browser).bind(&seen.network).bind(adopt);
        transaction.query::<u64>(note).await?;
        let entries = transaction.entries().await?;
        transaction.commit().await?;
        Ok(entries)
    }
}

async fn session(transaction: &mut Transaction<'_>, sid: Sid) -> StoreResult<Option<SessionRead>> {
    let answer: Answer<SessionRow> = transaction.json(Script::new(SESSION).uuid(sid.0)).await?;
    Ok(answer.into_rows().pop())
}
