//! Keys of the admin API.

use std::time::Duration;

use super::{Sqlite, Transaction};
use crate::ids::AdminKeyId;
use crate::secret::SecretHash;
use crate::store::operating::rows::AdminKeyRow;
use crate::store::rows::{duration_micros, to_hex};
use crate::store::{AdminKey, NewAdminKey, StoreResult};

/// The key `k`, with the database's own word on whether it is good.
macro_rules! key_json {
    () => {
        concat!(
            "json_object('id', k.id, 'name', k.name, 'scopes', k.scopes, 'created_at', k.created_at, \
             'expires_at', k.expires_at, 'revoked_at', k.revoked_at, 'last_used_at', k.last_used_at, \
             'good', k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > ",
            now!(),
            "))"
        )
    };
}

const INSERT: &str = concat!(
    "INSERT INTO admin_keys (id, name, secret_hash, scopes, expires_at) VALUES (?1, ?2, ?3, ?4, ",
    now!(),
    " + ?5)"
);

const BY_ID: &str = concat!("SELECT ", key_json!(), " FROM admin_keys k WHERE k.id = ?1");
const BY_HASH: &str = concat!("SELECT ", key_json!(), " FROM admin_keys k WHERE k.secret_hash = ?1");
const ALL: &str = concat!("SELECT ", key_json!(), " FROM admin_keys k ORDER BY k.created_at DESC, k.id LIMIT 500");

/// A word of use a minute is enough, and spares the row.
const USED: &str = concat!(
    "UPDATE admin_keys SET last_used_at = ",
    now!(),
    " WHERE id = ?1 AND (last_used_at IS NULL OR last_used_at < ",
    now!(),
    " - 60000000)"
);

const REVOKE: &str = concat!("UPDATE admin_keys SET revoked_at = ", now!(), " WHERE id = ?1 AND revoked_at IS NULL");

/// The old key lives on for a while, and never longer than it would have. One that is dead is not renewed.
const RETIRE: &str = concat!(
    "UPDATE admin_keys SET expires_at = min(coalesce(expires_at, 9223372036854775807), ",
    now!(),
    " + ?2) WHERE id = ?1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > ",
    now!(),
    ")"
);

impl Sqlite {
    pub(in crate::store) async fn create_admin_key(&self, key: &NewAdminKey) -> StoreResult<Option<AdminKey>> {
        let mut transaction = self.begin("create_admin_key").await?;
        let key = insert(&mut transaction, key).await?;
        transaction.commit().await?;
        Ok(key)
    }

    pub(in crate::store) async fn admin_key(&self, hash: SecretHash) -> StoreResult<Option<AdminKey>> {
        let mut transaction = self.begin("admin_key").await?;
        let rows = transaction.rows::<AdminKeyRow>(sqlx::query(BY_HASH).bind(to_hex(&hash.0))).await?;
        let key = rows.into_iter().next().map(AdminKey::from);
        if let Some(key) = key.as_ref().filter(|key| key.good) {
            transaction.run(sqlx::query(USED).bind(key.id.to_string())).await?;
        }
        transaction.commit().await?;
        Ok(key)
    }

    pub(in crate::store) async fn admin_keys(&self) -> StoreResult<Vec<AdminKey>> {
        let mut transaction = self.begin("admin_keys").await?;
        let rows = transaction.rows::<AdminKeyRow>(sqlx::query(ALL)).await?;
        transaction.commit().await?;
        Ok(rows.into_iter().map(AdminKey::from).collect())
    }

    pub(in crate::store) async fn revoke_admin_key(&self, id: AdminKeyId) -> StoreResult<bool> {
        let mut transaction = self.begin("revoke_admin_key").await?;
        let revoked = transaction.run(sqlx::query(REVOKE).bind(id.to_string())).await?;
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
        let retire = sqlx::query(RETIRE).bind(id.to_string()).bind(duration_micros(overlap));
        if transaction.run(retire).await? == 0 {
            return Ok(None);
        }
        let Some(old) = by_id(&mut transaction, id).await? else { return Ok(None) };
        let next = NewAdminKey { name: old.name, scopes: old.scopes, ..next.clone() };
        let key = insert(&mut transaction, &next).await?;
        transaction.commit().await?;
        Ok(key)
    }
}

async fn insert(transaction: &mut Transaction<'_>, key: &NewAdminKey) -> StoreResult<Option<AdminKey>> {
    let insert = sqlx::query(INSERT)
        .bind(key.id.to_string())
        .bind(&key.name)
        .bind(to_hex(&key.secret_hash.0))
        .bind(key.scopes.join(" "))
        .bind(key.expires_in.map(duration_micros));
    transaction.run(insert).await?;
    by_id(transaction, key.id).await
}

async fn by_id(transaction: &mut Transaction<'_>, id: AdminKeyId) -> StoreResult<Option<AdminKey>> {
    let rows = transaction.rows::<AdminKeyRow>(sqlx::query(BY_ID).bind(id.to_string())).await?;
    Ok(rows.into_iter().next().map(AdminKey::from))
}
