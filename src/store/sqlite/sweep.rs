//! Takes away what is past its time, in bounded batches.

use sqlx::query::Query;
use sqlx::sqlite::SqliteArguments;

use super::Sqlite;
use crate::store::rows::duration_micros;
use crate::store::{Retention, StoreResult, Swept};

const SESSIONS: &str = concat!(
    "DELETE FROM sessions WHERE sid IN (SELECT sid FROM sessions WHERE ended_at < ",
    now!(),
    " - ?1 OR expires_at < ",
    now!(),
    " - ?1 LIMIT ?2)"
);

const TOKENS: &str = concat!(
    "DELETE FROM listed_tokens WHERE jti IN (SELECT jti FROM listed_tokens WHERE expires_at < ",
    now!(),
    " - 60000000 LIMIT ?1)"
);

const TICKETS: &str = concat!(
    "DELETE FROM used_tickets WHERE ticket IN (SELECT ticket FROM used_tickets WHERE expires_at < ",
    now!(),
    " LIMIT ?1)"
);

/// The watermark rises before the entries go, in the same transaction.
const RAISE_WATERMARK: &str = concat!(
    "UPDATE log_state SET trimmed_below = max(trimmed_below, coalesce((SELECT max(id) + 1 FROM (SELECT id \
     FROM revocations WHERE logged_at < ",
    now!(),
    " - ?1 ORDER BY id LIMIT ?2)), 0))"
);

/// Only what the watermark covers, however the clock went on since.
const TRIM: &str = concat!(
    "DELETE FROM revocations WHERE id IN (SELECT id FROM revocations WHERE logged_at < ",
    now!(),
    " - ?1 AND id < (SELECT trimmed_below FROM log_state) ORDER BY id LIMIT ?2)"
);

const ACKNOWLEDGEMENTS: &str = concat!(
    "DELETE FROM acknowledgements WHERE rowid IN (SELECT rowid FROM acknowledgements WHERE acknowledged_at < ",
    now!(),
    " - ?1 LIMIT ?2)"
);

const RETIRE_KEYS: &str = concat!(
    "UPDATE signing_keys SET retired_at = ",
    now!(),
    " WHERE kid IN (SELECT kid FROM signing_keys WHERE revoked_at IS NULL AND last_seen_at < ",
    now!(),
    " - ?1 LIMIT ?2)"
);

const NODES: &str =
    concat!("DELETE FROM nodes WHERE node IN (SELECT node FROM nodes WHERE last_seen_at < ", now!(), " - ?1 LIMIT ?2)");

impl Sqlite {
    pub(in crate::store) async fn sweep(&self, retention: &Retention) -> StoreResult<Swept> {
        let batch = i64::from(retention.batch.max(1));
        let sessions = sqlx::query(SESSIONS).bind(duration_micros(retention.sessions)).bind(batch);
        let old_entries = duration_micros(retention.entries);
        let swept = Swept {
            sessions: self.take("sweep_sessions", sessions).await?,
            tokens: self.take("sweep_tokens", sqlx::query(TOKENS).bind(batch)).await?,
            tickets: self.take("sweep_tickets", sqlx::query(TICKETS).bind(batch)).await?,
            entries: self.trim(old_entries, batch).await?,
            keys: self.take_keys(retention, batch).await?,
        };
        self.take("sweep_acknowledgements", sqlx::query(ACKNOWLEDGEMENTS).bind(old_entries).bind(batch)).await?;
        Ok(swept)
    }

    /// A transaction for each kind, so that the writers in between do not wait for all of them.
    pub(super) async fn take(
        &self,
        name: &'static str,
        delete: Query<'_, sqlx::Sqlite, SqliteArguments>,
    ) -> StoreResult<u64> {
        let mut transaction = self.begin(name).await?;
        let count = transaction.run(delete).await?;
        transaction.commit().await?;
        Ok(count)
    }

    async fn trim(&self, age: i64, batch: i64) -> StoreResult<u64> {
        let mut transaction = self.begin("sweep_entries").await?;
        transaction.run(sqlx::query(RAISE_WATERMARK).bind(age).bind(batch)).await?;
        let count = transaction.run(sqlx::query(TRIM).bind(age).bind(batch)).await?;
        transaction.commit().await?;
        Ok(count)
    }

    /// Keys are marked before they are deleted, or the trigger would take it for a revocation. Revoked keys stay: a
    /// node that comes back with one must not register it anew.
    async fn take_keys(&self, retention: &Retention, batch: i64) -> StoreResult<u64> {
        let age = duration_micros(retention.keys);
        let mut transaction = self.begin("sweep_keys").await?;
        transaction.run(sqlx::query(RETIRE_KEYS).bind(age).bind(batch)).await?;
        let delete = "DELETE FROM signing_keys WHERE retired_at IS NOT NULL AND revoked_at IS NULL";
        let keys = transaction.run(sqlx::query(delete)).await?;
        let nodes = transaction.run(sqlx::query(NODES).bind(age).bind(batch)).await?;
        transaction.commit().await?;
        Ok(keys + nodes)
    }
}
