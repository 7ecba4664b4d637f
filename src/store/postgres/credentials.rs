//! What an account is known by changes: its address, the hash of its password; or it goes altogether.

use super::Postgres;
use super::accounts::locked_row;
use super::script::Script;
use crate::ids::UserId;
use crate::store::folding::email_key;
use crate::store::rows::UserRow;
use crate::store::{EmailOutcome, RemovalOutcome, Revoked, StoreResult, UserRecord};

/// The time only moves forward, so that of two answers the newer one can be told.
const SET_EMAIL: &str = concat!(
    "WITH u AS (UPDATE users SET email = $2, email_key = $3, ",
    "updated_at = greatest(clock_timestamp(), updated_at + interval '1 microsecond') WHERE id = $1 ",
    "AND NOT EXISTS (SELECT 1 FROM users other WHERE other.email_key = $3 AND other.id <> $1) RETURNING *) ",
    "SELECT coalesce(json_agg(",
    user_json!(),
    "), '[]')::text FROM u"
);

/// The trigger takes another hash that comes with another `rehashed_at` for the same password.
const REHASH: &str = "WITH changed AS (UPDATE users SET password_hash = $3, rehashed_at = clock_timestamp() \
     WHERE id = $1 AND password_hash = $2 RETURNING id) SELECT (count(*) = 1)::text FROM changed";

const COUNT_LIVE: &str = "SELECT count(*)::text FROM sessions s JOIN users u ON u.id = s.user_id WHERE s.ended_at IS NULL \
     AND s.expires_at > now() AND s.auth_epoch = u.auth_epoch AND u.disabled_at IS NULL AND u.id = ";

impl Postgres {
    pub(in crate::store) async fn change_email(
        &self,
        user_id: UserId,
        verified_hash: &str,
        email: &str,
    ) -> StoreResult<EmailOutcome> {
        let mut transaction = self.begin("change_email").await?;
        if locked_row(&mut transaction, user_id, verified_hash).await?.is_none() {
            transaction.rollback().await?;
            return Ok(EmailOutcome::Superseded);
        }
        let set = sqlx::query(SET_EMAIL).bind(user_id.0).bind(email).bind(email_key(email));
        let rows: Vec<UserRow> = transaction.query(set).await?;
        let Some(user) = rows.into_iter().next().map(UserRecord::from) else {
            transaction.rollback().await?;
            return Ok(EmailOutcome::Taken);
        };
        let entries = transaction.entries().await?;
        transaction.commit().await?;
        Ok(EmailOutcome::Changed { user, entries })
    }

    pub(in crate::store) async fn rehash(&self, user_id: UserId, old: &str, new: &str) -> StoreResult<bool> {
        let mut transaction = self.begin("rehash").await?;
        let changed = transaction.query(sqlx::query(REHASH).bind(user_id.0).bind(old).bind(new)).await?;
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
            transaction.rollback().await?;
            return Ok(RemovalOutcome::Superseded);
        }
        let sessions = transaction.json(Script::new(COUNT_LIVE).uuid(user_id.0)).await?;
        transaction.run(Script::new("DELETE FROM users WHERE id = ").uuid(user_id.0)).await?;
        let entries = transaction.entries().await?;
        transaction.commit().await?;
        Ok(RemovalOutcome::Removed(Revoked { sessions, entries }))
    }
}
