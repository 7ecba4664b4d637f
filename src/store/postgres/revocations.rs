//! Everything that ends a credential. The log entries are the triggers' work; here they are only read back, within the
//! same transaction.

use time::OffsetDateTime;

use super::script::Script;
use super::{Postgres, Transaction};
use crate::entry::{EndReason, LogEntry};
use crate::ids::{Sid, UserId};
use crate::secret::SecretHash;
use crate::store::rows::CountRow;
use crate::store::{ListedToken, Revoked, StoreResult};

const CONFIRM: &str = "UPDATE revocations SET confirm = true \
     WHERE position = pg_current_xact_id_if_assigned()::text::bigint AND kind = 'user_epoch'";

const COUNT_LIVE: &str = " RETURNING expires_at > now() AS live) SELECT count(*) FILTER (WHERE live)::text FROM ended";

impl Postgres {
    pub(in crate::store) async fn end_session(
        &self,
        sid: Sid,
        user_id: UserId,
        reason: EndReason,
        token: Option<ListedToken>,
    ) -> StoreResult<Revoked> {
        let mut transaction = self.begin("end_session").await?;
        // One that is dead by the epoch keeps the reason it died of. One that has expired is ended all the same: within
        // the leeway it might still be taken for good.
        let end = Script::new("WITH ended AS (UPDATE sessions SET ended_at = now(), end_reason = ")
            .reason(reason)
            .text(" WHERE ended_at IS NULL AND sid = ")
            .uuid(sid.0)
            .text(" AND user_id = ")
            .uuid(user_id.0)
            .text(" AND auth_epoch >= (SELECT auth_epoch FROM users WHERE id = ")
            .uuid(user_id.0)
            .text(")")
            .text(COUNT_LIVE);
        let sessions = transaction.json(end).await?;
        if let Some(token) = token {
            transaction.run(listing(&token)).await?;
        }
        finish(transaction, sessions).await
    }

    pub(in crate::store) async fn end_all_sessions(
        &self,
        user_id: UserId,
        reason: EndReason,
        confirm: bool,
    ) -> StoreResult<Revoked> {
        let mut transaction = self.begin("end_all_sessions").await?;
        // The epoch first: it locks out whatever else ends or makes sessions of this user, and spares the log an entry
        // for each session.
        let raise = Script::new("UPDATE users SET auth_epoch = auth_epoch + 1, epoch_except = NULL, epoch_reason = ")
            .reason(reason)
            .text(", epoch_reason_for = auth_epoch + 1 WHERE id = ")
            .uuid(user_id.0);
        transaction.run(raise).await?;
        let sessions = end_older(&mut transaction, user_id, reason).await?;
        if confirm {
            transaction.run(Script::new(CONFIRM)).await?;
        }
        finish(transaction, sessions).await
    }

    pub(in crate::store) async fn set_disabled(&self, user_id: UserId, disabled: bool) -> StoreResult<Revoked> {
        let mut transaction = self.begin("set_disabled").await?;
        let set = if disabled {
            "WITH changed AS (UPDATE users SET disabled_at = now() WHERE disabled_at IS NULL AND id = "
        } else {
            "WITH changed AS (UPDATE users SET disabled_at = NULL WHERE disabled_at IS NOT NULL AND id = "
        };
        let set = Script::new(set).uuid(user_id.0).text(" RETURNING 1) SELECT count(*)::text FROM changed");
        let changed: u64 = transaction.json(set).await?;
        let sessions = if disabled && changed > 0 {
            end_older(&mut transaction, user_id, EndReason::AccountDisabled).await?
        } else {
            0
        };
        finish(transaction, sessions).await
    }

    pub(in crate::store) async fn remove_user(&self, user_id: UserId) -> StoreResult<Revoked> {
        let mut transaction = self.begin("remove_user").await?;
        transaction.run(Script::new("DELETE FROM users WHERE id = ").uuid(user_id.0)).await?;
        finish(transaction, 0).await
    }

    pub(in crate::store) async fn list_token(&self, token: ListedToken) -> StoreResult<Revoked> {
        let mut transaction = self.begin("list_token").await?;
        transaction.run(listing(&token)).await?;
        finish(transaction, 0).await
    }

    pub(in crate::store) async fn listed_tokens(&self) -> StoreResult<u64> {
        let count =
            "SELECT json_build_array(json_build_object('count', count(*))) FROM listed_tokens WHERE expires_at > now()";
        let (answer, _) = self.read::<CountRow>("listed_tokens", Script::new(count)).await?;
        Ok(answer.rows.first().map_or(0, |row| row.count))
    }

    pub(in crate::store) async fn redeem_ticket(
        &self,
        ticket: SecretHash,
        expires_at: OffsetDateTime,
    ) -> StoreResult<bool> {
        let mut transaction = self.begin("redeem_ticket").await?;
        // An expired one is refused here too: the sweeper may have forgotten that it was used.
        let insert = Script::new("WITH redeemed AS (INSERT INTO used_tickets (ticket, expires_at) SELECT ")
            .hash(&ticket)
            .text(", ")
            .time(expires_at)
            .text(" WHERE ")
            .time(expires_at)
            .text(" > now() ON CONFLICT DO NOTHING RETURNING 1) SELECT (count(*) = 1)::text FROM redeemed");
        let redeemed = transaction.json(insert).await?;
        transaction.commit().await?;
        Ok(redeemed)
    }
}

/// Lists a token unless it expired more than a minute ago, which is more than clocks and leeway can make of it.
fn listing(token: &ListedToken) -> Script {
    Script::new("INSERT INTO listed_tokens (jti, sid, user_id, expires_at) SELECT ")
        .uuid(token.jti.0)
        .text(", ")
        .uuid(token.sid.0)
        .text(", ")
        .uuid(token.user_id.0)
        .text(", ")
        .time(token.expires_at)
        .text(" WHERE ")
        .time(token.expires_at)
        .text(" > now() - interval '1 minute' ON CONFLICT DO NOTHING")
}

/// Marks the sessions of the epoch just left as ended; how many of them were live. Those of older epochs died before,
/// of another reason.
async fn end_older(transaction: &mut Transaction<'_>, user_id: UserId, reason: EndReason) -> StoreResult<u64> {
    let end = Script::new("WITH ended AS (UPDATE sessions SET ended_at = now(), end_reason = ")
        .reason(reason)
        .text(" WHERE ended_at IS NULL AND user_id = ")
        .uuid(user_id.0)
        .text(" AND auth_epoch = (SELECT auth_epoch - 1 FROM users WHERE id = ")
        .uuid(user_id.0)
        .text(")")
        .text(COUNT_LIVE);
    transaction.json(end).await
}

async fn finish(mut transaction: Transaction<'_>, sessions: u64) -> StoreResult<Revoked> {
    let entries: Vec<LogEntry> = transaction.entries().await?;
    transaction.commit().await?;
    Ok(Revoked { sessions, entries })
}
