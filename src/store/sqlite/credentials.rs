//! What an account is known by changes: its address, the hash of its password; or it goes altogether.

use super::Sqlite;
use super::accounts::{locked_row, user_by_id};
use crate::ids::UserId;
use crate::store::folding::email_key;
use crate::store::{EmailOutcome, RemovalOutcome, Revoked, StoreResult};

/// The time only moves forward, so that of two answers the newer one can be told.
const SET_EMAIL: &str = concat!(
    "UPDATE users SET email = ?2, email_key = ?3, updated_at = max(",
    now!(),
    ", updated_at + 1) WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM users other WHERE other.email_key = ?3 AND other.id <> ?1)"
);

/// The trigger takes another hash that comes with another `rehashed_at` for the same password.
const REHASH: &str = concat!(
    "UPDATE users SET password_hash = ?3, rehashed_at = max(",
    now!(),
    ", coalesce(rehashed_at, 0) + 1) WHERE id = ?1 AND password_hash = ?2"
);

const COUNT_LIVE: &str = concat!(
    "SELECT CAST(count(*) AS TEXT) FROM sessions s JOIN users u ON u.id = s.user_id WHERE s.ended_at IS NULL \
     AND s.expires_at > ",
    now!(),
    " AND s.auth_epoch = u.auth_epoch AND u.disabled_at IS NULL AND u.id = ?1"
);

impl Sqlite {
    pub(in crate::store) async fn change_email(
        &self,
        user_id: UserId,
        verified_hash: &str,
        email: &str,
    ) -> StoreResult<EmailOutcome> {
        let mut transaction = self.begin("change_email").await?;
        if locked_row(&mut transaction, user_id, verified_hash).await?.is_none() {
            return Ok(EmailOutcome::Superseded);
        }
        let set = sqlx::query(SET_EMAIL).bind(user_id.to_string()).bind(email).bind(email_key(email));
        if transaction.run(set).await? == 0 {
            return Ok(EmailOutcome::Taken);
        }
        let Some(user) = user_by_id(&mut transaction, user_id).await? else { return Ok(EmailOutcome::Superseded) };
        let entries = transaction.entries().await?;
        transaction.commit().await?;
        Ok(EmailOutcome::Changed { user, entries })
    }

    pub(in crate::store) async fn rehash(&self, user_id: UserId, old: &str, new: &str) -> StoreResult<bool> {
        let mut transaction = self.begin("rehash").await?;
        let changed = transaction.run(sqlx::query(REHASH).bind(user_id.to_string()).bind(old).bind(new)).await? == 1;
        transaction.commit().await?;
        Ok(changed)
    }

    pub(in crate::store) async fn remove_own_account(
        &self,
        user_id: UserId,
        verified_hash: &str,
    ) -> StoreResult<RemovalOutcome> {
        let mut transaction = self.begin("remove_own_account").await?;
        if locked_row(&mut transaction, user_id, verified_hash).await?.is_none() {
            return Ok(RemovalOutcome::Superseded);
        }
        let live = transaction.rows::<u64>(sqlx::query(COUNT_LIVE).bind(user_id.to_string())).await?;
        transaction.run(sqlx::query("DELETE FROM users WHERE id = ?1").bind(user_id.to_string())).await?;
        let entries = transaction.entries().await?;
        transaction.commit().await?;
        Ok(RemovalOutcome::Removed(Revoked { sessions: live.into_iter().sum(), entries }))
    }
}
