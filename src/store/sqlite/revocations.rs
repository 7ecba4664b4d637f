//! Everything that ends a credential. The log entries are the triggers' work; here they are only read back, within the
//! same transaction.

use time::OffsetDateTime;

use super::{Sqlite, Transaction};
use crate::entry::EndReason;
use crate::ids::{Sid, UserId};
use crate::secret::SecretHash;
use crate::store::rows::{CountRow, to_hex, to_micros};
use crate::store::{ListedToken, Revoked, StoreResult};

/// One that is dead by the epoch keeps the reason it died of. One that has expired is ended all the same: within the
/// leeway it might still be taken for good. Gives `true` for each that was live.
const END: &str = concat!(
    "UPDATE sessions SET ended_at = ",
    now!(),
    ", end_reason = ?3 WHERE sid = ?1 AND user_id = ?2 AND ended_at IS NULL \
     AND auth_epoch >= (SELECT auth_epoch FROM users WHERE id = ?2) RETURNING CAST(expires_at > ",
    now!(),
    " AS TEXT)"
);

/// Those of older epochs died before, of another reason.
const END_OLDER: &str = concat!(
    "UPDATE sessions SET ended_at = ",
    now!(),
    ", end_reason = ?2 WHERE user_id = ?1 AND ended_at IS NULL \
     AND auth_epoch = (SELECT auth_epoch - 1 FROM users WHERE id = ?1) RETURNING CAST(expires_at > ",
    now!(),
    " AS TEXT)"
);

const RAISE: &str = "UPDATE users SET auth_epoch = auth_epoch + 1, epoch_reason = ?2, epoch_except = NULL, \
     epoch_reason_for = auth_epoch + 1 WHERE id = ?1";

const DISABLE: &str = concat!("UPDATE users SET disabled_at = ", now!(), " WHERE id = ?1 AND disabled_at IS NULL");
const ENABLE: &str = "UPDATE users SET disabled_at = NULL WHERE id = ?1 AND disabled_at IS NOT NULL";

/// Lists a token unless it expired more than a minute ago, which is more than clocks and leeway can make of it.
const LIST: &str = concat!(
    "INSERT INTO listed_tokens (jti, sid, user_id, expires_at) SELECT ?1, ?2, ?3, ?4 WHERE ?4 > ",
    now!(),
    " - 60000000 ON CONFLICT DO NOTHING"
);

const LISTED: &str = answer!(
    "json_object('count', c.n)",
    concat!("(SELECT count(*) AS n FROM listed_tokens WHERE expires_at > ", now!(), ") c")
);

/// An expired one is refused here too: the sweeper may have forgotten that it was used.
const REDEEM: &str = concat!(
    "INSERT INTO used_tickets (ticket, expires_at) SELECT ?1, ?2 WHERE ?2 > ",
    now!(),
    " ON CONFLICT DO NOTHING"
);

const CONFIRM: &str = "UPDATE revocations SET confirm = 1 WHERE id > ?1 AND kind = 'user_epoch'";

impl Sqlite {
    pub(in crate::store) async fn end_session(
        &self,
        sid: Sid,
        user_id: UserId,
        reason: EndReason,
        token: Option<ListedToken>,
    ) -> StoreResult<Revoked> {
        let mut transaction = self.begin("end_session").await?;
        let end = sqlx::query(END).bind(sid.to_string()).bind(user_id.to_string()).bind(reason.as_str());
        let sessions = live(transaction.rows(end).await?);
        if let Some(token) = token {
            list(&mut transaction, &token).await?;
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
        // The epoch first: it spares the log an entry for each session.
        transaction.run(sqlx::query(RAISE).bind(user_id.to_string()).bind(reason.as_str())).await?;
        let sessions = end_older(&mut transaction, user_id, reason).await?;
        if confirm {
            transaction.run(sqlx::query(CONFIRM).bind(transaction.logged_before)).await?;
        }
        finish(transaction, sessions).await
    }

    pub(in crate::store) async fn set_disabled(&self, user_id: UserId, disabled: bool) -> StoreResult<Revoked> {
        let mut transaction = self.begin("set_disabled").await?;
        let set = sqlx::query(if disabled { DISABLE } else { ENABLE }).bind(user_id.to_string());
        let changed = transaction.run(set).await?;
        let sessions = if disabled && changed > 0 {
            end_older(&mut transaction, user_id, EndReason::AccountDisabled).await?
        } else {
            0
        };
        finish(transaction, sessions).await
    }

    pub(in crate::store) async fn remove_user(&self, user_id: UserId) -> StoreResult<Revoked> {
        let mut transaction = self.begin("remove_user").await?;
        transaction.run(sqlx::query("DELETE FROM users WHERE id = ?1").bind(user_id.to_string())).await?;
        finish(transaction, 0).await
    }

    pub(in crate::store) async fn list_token(&self, token: ListedToken) -> StoreResult<Revoked> {
        let mut transaction = self.begin("list_token").await?;
        list(&mut transaction, &token).await?;
        finish(transaction, 0).await
    }

    pub(in crate::store) async fn listed_tokens(&self) -> StoreResult<u64> {
        let (answer, _) = self.read::<CountRow>("listed_tokens", sqlx::query(LISTED)).await?;
        Ok(answer.rows.first().map_or(0, |row| row.count))
    }

    pub(in crate::store) async fn redeem_ticket(
        &self,
        ticket: SecretHash,
        expires_at: OffsetDateTime,
    ) -> StoreResult<bool> {
        let mut transaction = self.begin("redeem_ticket").await?;
        let redeem = sqlx::query(REDEEM).bind(to_hex(&ticket.0)).bind(to_micros(expires_at));
        let redeemed = transaction.run(redeem).await? == 1;
        transaction.commit().await?;
        Ok(redeemed)
    }
}

/// How many of the sessions that were ended were live.
fn live(ended: Vec<u8>) -> u64 {
    ended.into_iter().map(u64::from).sum()
}

async fn end_older(transaction: &mut Transaction<'_>, user_id: UserId, reason: EndReason) -> StoreResult<u64> {
    let end = sqlx::query(END_OLDER).bind(user_id.to_string()).bind(reason.as_str());
    Ok(live(transaction.rows(end).await?))
}

async fn list(transaction: &mut Transaction<'_>, token: &ListedToken) -> StoreResult<()> {
    let insert = sqlx::query(LIST)
        .bind(token.jti.to_string())
        .bind(token.sid.to_string())
        .bind(token.user_id.to_string())
        .bind(to_micros(token.expires_at));
    transaction.run(insert).await?;
    Ok(())
}

async fn finish(mut transaction: Transaction<'_>, sessions: u64) -> StoreResult<Revoked> {
    let entries = transaction.entries().await?;
    transaction.commit().await?;
    Ok(Revoked { sessions, entries })
}
