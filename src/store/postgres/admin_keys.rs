//! Keys of the admin API.

use std::time::Duration;

use super::Postgres;
use crate::ids::AdminKeyId;
use crate::secret::SecretHash;
use crate::store::operating::rows::AdminKeyRow;
use crate::store::rows::duration_micros;
use crate::store::{AdminKey, NewAdminKey, StoreResult};

/// The key `k`, with the database's own word on whether it is good.
macro_rules! key_json {
    () => {
        concat!(
            "json_build_object('id', k.id, 'name', k.name, 'scopes', k.scopes, 'created_at', ",
            micros!("k.created_at"),
            ", 'expires_at', ",
            micros!("k.expires_at"),
            ", 'revoked_at', ",
            micros!("k.revoked_at"),
            ", 'last_used_at', ",
            micros!("k.last_used_at"),
            ", 'good', k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now()))"
        )
    };
}

const INSERT: &str = concat!(
    "WITH k AS (INSERT INTO admin_keys (id, name, secret_hash, scopes, expires_at) ",
    "VALUES ($1, $2, $3, $4, now() + interval '1 microsecond' * $5) RETURNING *) SELECT coalesce(json_agg(",
    key_json!(),
    "), '[]')::text FROM k"
);

const BY_HASH: &str =
    concat!("SELECT coalesce(json_agg(", key_json!(), "), '[]')::text FROM admin_keys k WHERE k.secret_hash = $1");

/// A word of use a minute is enough, and spares the row.
const USED: &str = "WITH used AS (UPDATE admin_keys SET last_used_at = now() WHERE id = $1 \
     AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute') RETURNING 1) \
     SELECT count(*)::text FROM used";

const ALL: &str = concat!(
    "SELECT coalesce(json_agg(",
    key_json!(),
    " ORDER BY k.created_at DESC, k.id), '[]')::text FROM (SELECT * FROM admin_keys ORDER BY created_at DESC LIMIT 500) k"
);

const REVOKE: &str = "WITH revoked AS (UPDATE admin_keys SET revoked_at = now() \
     WHERE id = $1 AND revoked_at IS NULL RETURNING 1) SELECT count(*)::text FROM revoked";

/// The old key lives on for a while, and never longer than it would have. One that is dead is not renewed.
const RETIRE: &str = concat!(
    "WITH k AS (UPDATE admin_keys SET expires_at = least(expires_at, now() + interval '1 microsecond' * $2) ",
    "WHERE id = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now()) RETURNING *) ",
    "SELECT coalesce(json_agg(",
    key_json!(),
    "), '[]')::text FROM k"
);

impl Postgres {
    pub(in crate::store) async fn create_admin_key(&self, key: &NewAdminKey) -> StoreResult<Option<AdminKey>> {
        let mut transaction = self.begin("create_admin_key").await?;
        let rows: Vec<AdminKeyRow> = transaction.query(insert(key)).await?;
        transaction.commit().await?;
        Ok(rows.into_iter().next().map(AdminKey::from))
    }

    pub(in crate::store) async fn admin_key(&self, hash: SecretHash) -> StoreResult<Option<AdminKey>> {
        let mut transaction = self.begin("admin_key").await?;
        let rows: Vec<AdminKeyRow> = transaction.query(sqlx::query(BY_HASH).bind(&hash.0[..])).await?;
        let key = rows.into_iter().next().map(AdminKey::from);
        if let Some(key) = key.as_ref().filter(|key| key.good) {
            transaction.query::<u64>(sqlx::query(USED).bind(key.id.0)).await?;
        }
        transaction.commit().await?;
        Ok(key)
    }

    pub(in crate::store) async fn admin_keys(&self) -> StoreResult<Vec<AdminKey>> {
        let mut transaction = self.begin("admin_keys").await?;
        let rows: Vec<AdminKeyRow> = transaction.query(sqlx::query(ALL)).await?;
        transaction.commit().await?;
        Ok(rows.into_iter().map(AdminKey::from).collect())
    }

    pub(in crate::store) async fn revoke_admin_key(&self, id: AdminKeyId) -> StoreResult<bool> {
        let mut transaction = self.begin("revoke_admin_key").await?;
        let revoked: u64 = transaction.query(sqlx::query(REVOKE).bind(id.0)).await?;
        transaction.commit().await?;
        Ok(revoked > 0)
    }

    pub(in crate::store) async fn rotate_admin_key(
        &self,
        id: AdminKeyId,
        overlap: Duration,
        next: &NewAdminKey,
    ) -> StoreResult<Option<AdminKey>> {
        let mut transaction = self.begin("rotate_admin_key").await?;
        let retire = sqlx::query(RETIRE).bind(id.0).bind(duration_micros(overlap));
        let old: Vec<AdminKeyRow> = transaction.query(retire).await?;
        let Some(old) = old.into_iter().next().map(AdminKey::from) else {
            transaction.rollback().await?;
            return Ok(None);
        };
        let next = NewAdminKey { name: old.name, scopes: old.scopes, ..next.clone() };
        let rows: Vec<AdminKeyRow> = transaction.query(insert(&next)).await?;
        transaction.commit().await?;
        Ok(rows.into_iter().next().map(AdminKey::from))
    }
}

fn insert(key: &NewAdminKey) -> sqlx::query::Query<'_, sqlx::Postgres, sqlx::postgres::PgArguments> {
    sqlx::query(INSERT)
        .bind(key.id.0)
        .bind(&key.name)
        .bind(&key.secret_hash.0[..])
        .bind(key.scopes.join(" "))
        .bind(key.expires_in.map(duration_micros))
}
