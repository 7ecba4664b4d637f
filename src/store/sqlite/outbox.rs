//! What receivers of webhooks have still to be told. Processes share the work: each takes rows for a while (a lease).

use std::time::Duration;

use super::Sqlite;
use super::accounts::to_column;
use crate::store::operating::rows::OutboxRow;
use crate::store::rows::duration_micros;
use crate::store::{OutboxEvent, StoreResult};

const REGISTER: &str = concat!(
    "INSERT INTO webhook_targets (target) SELECT value FROM json_each(?1) WHERE true \
     ON CONFLICT (target) DO UPDATE SET last_seen_at = ",
    now!()
);

/// The row as an `OutboxRow`.
macro_rules! outbox_json {
    () => {
        "json_object('id', id, 'target', target, 'at', at, 'reason', reason, 'initiator', initiator, \
         'user_id', user_id, 'sid', sid, 'attempts', attempts, 'last_error', last_error, 'given_up_at', given_up_at)"
    };
}

const CLAIM: &str = concat!(
    "UPDATE webhook_outbox SET attempts = attempts + 1, leased_until = ",
    now!(),
    " + ?2 WHERE id IN (SELECT id FROM webhook_outbox WHERE target = ?1 AND given_up_at IS NULL AND next_attempt_at <= ",
    now!(),
    " AND (leased_until IS NULL OR leased_until < ",
    now!(),
    ") ORDER BY next_attempt_at, id LIMIT ?3) RETURNING ",
    outbox_json!()
);

/// Looked at on a reading connection, so that an idle node writes nothing.
const IS_DUE: &str = answer!(
    "1",
    concat!(
        "(SELECT 1 FROM webhook_outbox WHERE target = ?1 AND given_up_at IS NULL AND next_attempt_at <= ",
        now!(),
        " AND (leased_until IS NULL OR leased_until < ",
        now!(),
        ") LIMIT 1)"
    )
);

/// The count of attempts tells whether the lease is still ours.
const FAILED: &str = concat!(
    "UPDATE webhook_outbox SET leased_until = NULL, last_error = ?3, next_attempt_at = ",
    now!(),
    " + ?4, given_up_at = CASE WHEN since < ",
    now!(),
    " - ?5 THEN ",
    now!(),
    " END WHERE id = ?1 AND attempts = ?2 RETURNING CASE WHEN given_up_at IS NULL THEN 'false' ELSE 'true' END"
);

const GIVEN_UP: &str = concat!(
    "SELECT ",
    outbox_json!(),
    " FROM webhook_outbox WHERE (given_up_at IS NOT NULL OR NOT ?3) AND id < ?1 ORDER BY id DESC LIMIT ?2"
);

/// The time is counted anew, or it would be given up at the next failure.
const RETRY: &str = concat!(
    "UPDATE webhook_outbox SET given_up_at = NULL, attempts = 0, leased_until = NULL, next_attempt_at = ",
    now!(),
    ", since = ",
    now!(),
    " WHERE id IN (SELECT id FROM webhook_outbox WHERE given_up_at IS NOT NULL AND (?1 IS NULL OR id = ?1) LIMIT 1000)"
);

impl Sqlite {
    pub(in crate::store) async fn register_targets(&self, targets: &[String]) -> StoreResult<()> {
        let mut transaction = self.begin("register_targets").await?;
        transaction.run(sqlx::query(REGISTER).bind(serde_json::to_string(targets)?)).await?;
        transaction.commit().await
    }

    pub(in crate::store) async fn claim_events(
        &self,
        target: &str,
        lease: Duration,
        batch: u32,
    ) -> StoreResult<Vec<OutboxEvent>> {
        let (due, _) = self.read::<u8>("claim_events", sqlx::query(IS_DUE).bind(target)).await?;
        if due.rows.is_empty() {
            return Ok(Vec::new());
        }
        let mut transaction = self.begin("claim_events").await?;
        let claim = sqlx::query(CLAIM).bind(target).bind(duration_micros(lease)).bind(i64::from(batch));
        let rows = transaction.rows::<OutboxRow>(claim).await?;
        transaction.commit().await?;
        Ok(rows.into_iter().map(OutboxEvent::from).collect())
    }

    pub(in crate::store) async fn event_delivered(&self, id: u64) -> StoreResult<()> {
        let mut transaction = self.begin("event_delivered").await?;
        transaction.run(sqlx::query("DELETE FROM webhook_outbox WHERE id = ?1").bind(to_column(id))).await?;
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
            .bind(to_column(event.id))
            .bind(to_column(event.attempts))
            .bind(error)
            .bind(duration_micros(again_in))
            .bind(duration_micros(give_up_after));
        let given_up = transaction.rows::<bool>(failed).await?.into_iter().any(|given_up| given_up);
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
        let page =
            sqlx::query(GIVEN_UP).bind(before.map_or(i64::MAX, to_column)).bind(i64::from(limit)).bind(given_up_only);
        let rows = transaction.rows::<OutboxRow>(page).await?;
        transaction.commit().await?;
        Ok(rows.into_iter().map(OutboxEvent::from).collect())
    }

    pub(in crate::store) async fn retry_events(&self, id: Option<u64>) -> StoreResult<u64> {
        let mut transaction = self.begin("retry_events").await?;
        let again = transaction.run(sqlx::query(RETRY).bind(id.map(to_column))).await?;
        transaction.commit().await?;
        Ok(again)
    }
}
