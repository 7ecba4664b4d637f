//! What receivers of webhooks have still to be told. Nodes share the work: each takes rows for a while (a lease), without
//! any lock that outlives its transaction.

use std::time::Duration;

use super::Postgres;
use super::script::Script;
use crate::store::operating::rows::OutboxRow;
use crate::store::rows::duration_micros;
use crate::store::{OutboxEvent, StoreResult};

const REGISTER: &str = "WITH seen AS (INSERT INTO webhook_targets (target) SELECT unnest($1::text[]) \
     ON CONFLICT (target) DO UPDATE SET last_seen_at = now() RETURNING 1) SELECT count(*)::text FROM seen";

/// The row `o` as an `OutboxRow`.
macro_rules! outbox_json {
    () => {
        concat!(
            "json_build_object('id', o.id, 'target', o.target, 'at', ",
            micros!("o.at"),
            ", 'reason', o.reason, 'initiator', o.initiator, 'user_id', o.user_id, 'sid', o.sid, ",
            "'attempts', o.attempts, 'last_error', o.last_error, 'given_up_at', ",
            micros!("o.given_up_at"),
            ")"
        )
    };
}

const IS_DUE: &str = "SELECT (EXISTS (SELECT FROM webhook_outbox WHERE target = $1 AND given_up_at IS NULL \
     AND next_attempt_at <= now() AND (leased_until IS NULL OR leased_until < now())))::text";

const CLAIM: &str = concat!(
    "WITH o AS (UPDATE webhook_outbox SET attempts = attempts + 1, ",
    "leased_until = now() + interval '1 microsecond' * $2 WHERE id IN (SELECT id FROM webhook_outbox WHERE target = $1 ",
    "AND given_up_at IS NULL AND next_attempt_at <= now() AND (leased_until IS NULL OR leased_until < now()) ",
    "ORDER BY next_attempt_at, id LIMIT $3 FOR UPDATE SKIP LOCKED) RETURNING *) SELECT coalesce(json_agg(",
    outbox_json!(),
    " ORDER BY o.id), '[]')::text FROM o"
);

/// The count of attempts tells whether the lease is still ours.
const FAILED: &str = "WITH failed AS (UPDATE webhook_outbox SET leased_until = NULL, last_error = $3, \
     next_attempt_at = now() + interval '1 microsecond' * $4, \
     given_up_at = CASE WHEN since < now() - interval '1 microsecond' * $5 THEN now() END \
     WHERE id = $1 AND attempts = $2 RETURNING given_up_at IS NOT NULL AS given_up) \
     SELECT coalesce(bool_or(given_up), false)::text FROM failed";

const GIVEN_UP: &str = concat!(
    "SELECT coalesce(json_agg(",
    outbox_json!(),
    " ORDER BY o.id DESC), '[]')::text FROM (SELECT * FROM webhook_outbox WHERE (given_up_at IS NOT NULL OR NOT $3) ",
    "AND id < $1 ORDER BY id DESC LIMIT $2) o"
);

/// The time is counted anew, or it would be given up at the next failure.
const RETRY: &str = "WITH again AS (UPDATE webhook_outbox SET given_up_at = NULL, next_attempt_at = now(), since = now(), \
     attempts = 0, leased_until = NULL WHERE given_up_at IS NOT NULL AND ($1::bigint IS NULL OR id = $1) \
     AND id IN (SELECT id FROM webhook_outbox WHERE given_up_at IS NOT NULL LIMIT 1000) RETURNING 1) \
     SELECT count(*)::text FROM again";

impl Postgres {
    pub(in crate::store) async fn register_targets(&self, targets: &[String]) -> StoreResult<()> {
        let mut transaction = self.begin("register_targets").await?;
        transaction.query::<u64>(sqlx::query(REGISTER).bind(targets)).await?;
        transaction.commit().await
    }

    pub(in crate::store) async fn claim_events(
        &self,
        target: &str,
        lease: Duration,
        batch: u32,
    ) -> StoreResult<Vec<OutboxEvent>> {
        let mut transaction = self.begin("claim_events").await?;
        // Nothing is written, and no transaction id spent, when nothing is due.
        let rows: Vec<OutboxRow> = match transaction.query::<bool>(sqlx::query(IS_DUE).bind(target)).await? {
            false => Vec::new(),
            true => {
                let claim = sqlx::query(CLAIM).bind(target).bind(duration_micros(lease)).bind(i64::from(batch));
                transaction.query(claim).await?
            }
        };
        transaction.commit().await?;
        Ok(rows.into_iter().map(OutboxEvent::from).collect())
    }

    pub(in crate::store) async fn event_delivered(&self, id: u64) -> StoreResult<()> {
        let mut transaction = self.begin("event_delivered").await?;
        transaction.run(Script::new("DELETE FROM webhook_outbox WHERE id = ").unsigned(id)).await?;
        transaction.commit().await
    }

    pub(in crate::store) async fn event_failed(
        &self,
        event: &OutboxEvent,
        error: &str,
        again_in: Duration,
        give_up_after: Duration,
    ) -> StoreResult<bool> {
        let mut transaction = self.begin("event_failed").await?;
        let failed = sqlx::query(FAILED)
            .bind(i64::try_from(event.id).unwrap_or(i64::MAX))
            .bind(i32::try_from(event.attempts).unwrap_or(i32::MAX))
            .bind(error)
            .bind(duration_micros(again_in))
            .bind(duration_micros(give_up_after));
        let given_up = transaction.query(failed).await?;
        transaction.commit().await?;
        Ok(given_up)
    }

    pub(in crate::store) async fn outbox_page(
        &self,
        before: Option<u64>,
        limit: u32,
        given_up_only: bool,
    ) -> StoreResult<Vec<OutboxEvent>> {
        let mut transaction = self.begin("outbox_page").await?;
        let before = before.map_or(i64::MAX, |before| i64::try_from(before).unwrap_or(i64::MAX));
        let page = sqlx::query(GIVEN_UP).bind(before).bind(i64::from(limit)).bind(given_up_only);
        let rows: Vec<OutboxRow> = transaction.query(page).await?;
        transaction.commit().await?;
        Ok(rows.into_iter().map(OutboxEvent::from).collect())
    }

    pub(in crate::store) async fn retry_events(&self, id: Option<u64>) -> StoreResult<u64> {
        let mut transaction = self.begin("retry_events").await?;
        let id = id.map(|id| i64::try_from(id).unwrap_or(i64::MAX));
        let again = transaction.query(sqlx::query(RETRY).bind(id)).await?;
        transaction.commit().await?;
        Ok(again)
    }
}
