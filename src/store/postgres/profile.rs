//! Changes of the profile, merged in Rust under the row's lock.

use super::Postgres;
use crate::ids::UserId;
use crate::store::folding::{TooLarge, apply};
use crate::store::rows::UserRow;
use crate::store::{ProfileChange, ProfileOutcome, StoreResult, UserRecord};

const LOCK: &str = concat!(
    "SELECT coalesce(json_agg(",
    user_json!(),
    "), '[]')::text FROM (SELECT * FROM users WHERE id = $1 FOR NO KEY UPDATE) u"
);

/// The time only moves forward, so that of two answers the newer one can be told.
const UPDATE: &str = concat!(
    "WITH u AS (UPDATE users SET full_name = $2, avatar_url = $3, metadata = $4::json, ",
    "updated_at = greatest(now(), updated_at + interval '1 microsecond') WHERE id = $1 RETURNING *) ",
    "SELECT coalesce(json_agg(",
    user_json!(),
    "), '[]')::text FROM u"
);

impl Postgres {
    pub(in crate::store) async fn update_profile(
        &self,
        user_id: UserId,
        change: &ProfileChange,
        max_metadata_bytes: usize,
    ) -> StoreResult<ProfileOutcome> {
        let mut transaction = self.begin("update_profile").await?;
        let rows: Vec<UserRow> = transaction.query(sqlx::query(LOCK).bind(user_id.0)).await?;
        let Some(mut record) = rows.into_iter().next().map(UserRecord::from) else {
            transaction.rollback().await?;
            return Ok(ProfileOutcome::NotFound);
        };
        let outcome = match apply(&mut record.user, change, max_metadata_bytes) {
            Err(TooLarge) => ProfileOutcome::MetadataTooLarge,
            Ok(false) => ProfileOutcome::Updated { user: record, entries: Vec::new() },
            Ok(true) => {
                let update = sqlx::query(UPDATE)
                    .bind(user_id.0)
                    .bind(&record.user.full_name)
                    .bind(&record.user.avatar_url)
                    .bind(record.user.metadata.to_string());
                let rows: Vec<UserRow> = transaction.query(update).await?;
                let user = rows.into_iter().next().map_or(record, UserRecord::from);
                let entries = transaction.entries().await?;
                ProfileOutcome::Updated { user, entries }
            }
        };
        transaction.commit().await?;
        Ok(outcome)
    }
}
