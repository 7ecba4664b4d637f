//! Takes away what is past its time, in bounded batches that wait for nobody's lock.

use super::Postgres;
use super::script::Script;
use crate::store::{Retention, StoreResult, Swept};

/// Below the snapshot's horizon nobody can still be writing. A position beyond the snapshot comes from another
/// cluster's dump and will never be reached.
const TRIM: &str = "), doomed AS (
        SELECT r.id, r.position, r.position < horizon.low AS ours FROM revocations r, horizon
        WHERE r.logged_at < now() - horizon.age AND (r.position < horizon.low OR r.position >= horizon.high)
        ORDER BY r.id LIMIT ";

/// The watermark rises with the delete, in one statement: no snapshot shows the one without the other.
const TRIMMED: &str = " FOR UPDATE OF r SKIP LOCKED
    ), raised AS (
        UPDATE log_state SET trimmed_below =
            greatest(trimmed_below, (SELECT max(position) + 1 FROM doomed WHERE ours))
        WHERE EXISTS (SELECT FROM doomed)
    ), gone AS (
        DELETE FROM revocations r USING doomed WHERE r.id = doomed.id RETURNING 1
    ) SELECT count(*)::text FROM gone";

impl Postgres {
    pub(in crate::store) async fn sweep(&self, retention: &Retention) -> StoreResult<Swept> {
        let batch = i64::from(retention.batch.max(1));
        let sessions = Script::new("WITH horizon AS (SELECT now() - ")
            .interval(retention.sessions)
            .text(" AS at), doomed AS (SELECT s.sid FROM sessions s, horizon WHERE s.ended_at < horizon.at ")
            .text("OR s.expires_at < horizon.at LIMIT ")
            .integer(batch)
            .text(" FOR UPDATE OF s SKIP LOCKED), gone AS (DELETE FROM sessions s USING doomed ")
            .text("WHERE s.sid = doomed.sid RETURNING 1) SELECT count(*)::text FROM gone");
        let tokens = Script::new("WITH doomed AS (SELECT jti FROM listed_tokens ")
            .text("WHERE expires_at < now() - interval '1 minute' LIMIT ")
            .integer(batch)
            .text(" FOR UPDATE SKIP LOCKED), gone AS (DELETE FROM listed_tokens t USING doomed ")
            .text("WHERE t.jti = doomed.jti RETURNING 1) SELECT count(*)::text FROM gone");
        let tickets = Script::new("WITH doomed AS (SELECT ticket FROM used_tickets WHERE expires_at < now() LIMIT ")
            .integer(batch)
            .text(" FOR UPDATE SKIP LOCKED), gone AS (DELETE FROM used_tickets t USING doomed ")
            .text("WHERE t.ticket = doomed.ticket RETURNING 1) SELECT count(*)::text FROM gone");
        let entries = Script::new("WITH horizon AS (SELECT pg_snapshot_xmin(s)::text::bigint AS low, ")
            .text("pg_snapshot_xmax(s)::text::bigint AS high, ")
            .interval(retention.entries)
            .text(" AS age FROM (SELECT pg_current_snapshot() AS s) now")
            .text(TRIM)
            .integer(batch)
            .text(TRIMMED);
        let acknowledgements = Script::new("WITH doomed AS (SELECT entry_id, node FROM acknowledgements ")
            .text("WHERE acknowledged_at < now() - ")
            .interval(retention.entries)
            .text(" LIMIT ")
            .integer(batch)
            .text(" FOR UPDATE SKIP LOCKED), gone AS (DELETE FROM acknowledgements a USING doomed ")
            .text("WHERE a.entry_id = doomed.entry_id AND a.node = doomed.node RETURNING 1) ")
            .text("SELECT count(*)::text FROM gone");
        let swept = Swept {
            sessions: self.take("sweep_sessions", sessions).await?,
            tokens: self.take("sweep_tokens", tokens).await?,
            tickets: self.take("sweep_tickets", tickets).await?,
            entries: self.take("sweep_entries", entries).await?,
            keys: self.take_keys(retention, batch).await?,
        };
        self.take("sweep_acknowledgements", acknowledgements).await?;
        Ok(swept)
    }

    pub(super) async fn take(&self, query: &'static str, script: Script) -> StoreResult<u64> {
        let mut transaction = self.begin(query).await?;
        let count = transaction.json(script).await?;
        transaction.commit().await?;
        Ok(count)
    }

    /// Keys are marked before they are deleted, or the trigger would take it for a revocation. Revoked keys stay: a
    /// node that comes back with one must not register it anew.
    async fn take_keys(&self, retention: &Retention, batch: i64) -> StoreResult<u64> {
        let mut transaction = self.begin("sweep_keys").await?;
        let retire =
            Script::new("UPDATE signing_keys SET retired_at = now() WHERE kid IN (SELECT kid FROM signing_keys ")
                .text("WHERE revoked_at IS NULL AND last_seen_at < now() - ")
                .interval(retention.keys)
                .text(" LIMIT ")
                .integer(batch)
                .text(" FOR UPDATE SKIP LOCKED)");
        transaction.run(retire).await?;
        let delete = "WITH gone AS (DELETE FROM signing_keys WHERE retired_at IS NOT NULL AND revoked_at IS NULL \
                      RETURNING 1) SELECT count(*)::text FROM gone";
        let keys: u64 = transaction.json(Script::new(delete)).await?;
        let nodes = Script::new("WITH doomed AS (SELECT node FROM nodes WHERE last_seen_at < now() - ")
            .interval(retention.keys)
            .text(" LIMIT ")
            .integer(batch)
            .text(" FOR UPDATE SKIP LOCKED), gone AS (DELETE FROM nodes n USING doomed WHERE n.node = doomed.node ")
            .text("RETURNING 1) SELECT count(*)::text FROM gone");
        let nodes: u64 = transaction.json(nodes).await?;
        transaction.commit().await?;
        Ok(keys + nodes)
    }
}
