//! Keys of the admin API: made, rotated, revoked. A key is shown once, when it is made; what is kept is its hash.

use std::time::Duration;

use serde_json::json;

use super::error::not_allowed;
use super::{By, Operator, OperatorError, Permission};
use crate::ids::AdminKeyId;
use crate::secret::AdminSecret;
use crate::store::attribution::attributed;
use crate::store::{AdminKey, NewAdminKey, StoreError};

/// Longest name, in characters.
const NAME_LENGTH: usize = 100;

/// Longest life: whoever wants more wants a key without an end.
const LONGEST_LIFE: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

/// A key about to be made.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// What it is for.
    pub name: String,
    /// What it may do.
    pub permissions: Vec<Permission>,
    /// Its life, if it has an end.
    pub expires_in: Option<Duration>,
}

impl Operator {
    /// Makes a key. `own` are the permissions of the key that makes it, if one does: it cannot give more.
    ///
    /// # Errors
    /// [`OperatorError::NotAllowed`], [`OperatorError::MoreThanOwn`].
    pub async fn create_key(
        &self,
        by: &By,
        new: NewKey,
        own: Option<&[String]>,
    ) -> Result<(AdminKey, AdminSecret), OperatorError> {
        let name = new.name.trim().to_owned();
        if name.is_empty() || name.chars().count() > NAME_LENGTH || name.chars().any(char::is_control) {
            return Err(not_allowed("name", "The name must have 1 to 100 characters, and no control characters."));
        }
        if new.permissions.is_empty() {
            return Err(not_allowed("scopes", "A key needs at least one scope."));
        }
        if new.expires_in.is_some_and(|life| life < Duration::from_secs(1) || life > LONGEST_LIFE) {
            return Err(not_allowed("expires_in", "A key lives for a second to ten years."));
        }
        may_give(own, new.permissions.iter().map(|permission| permission.as_str()))?;
        let mut scopes: Vec<String> = Vec::new();
        for permission in new.permissions {
            if !scopes.iter().any(|scope| scope == permission.as_str()) {
                scopes.push(permission.as_str().to_owned());
            }
        }
        let (secret, key) = fresh(name, scopes, new.expires_in)?;
        let details = json!({ "key": key.id, "name": key.name, "scopes": key.scopes });
        let doing = by.doing("operator.key_create", None, None, details);
        Ok((attributed(doing, self.store.create_admin_key(key)).await?, secret))
    }

    /// The keys there are.
    ///
    /// # Errors
    /// [`OperatorError::Store`].
    pub async fn keys(&self, by: &By) -> Result<Vec<AdminKey>, OperatorError> {
        let doing = by.doing("operator.key_list", None, None, json!({}));
        Ok(attributed(doing, self.store.admin_keys()).await?)
    }

    /// Makes a key with the name and scopes of another, which ends after `overlap`.
    ///
    /// # Errors
    /// [`OperatorError::NoSuchKey`], [`OperatorError::MoreThanOwn`].
    pub async fn rotate_key(
        &self,
        by: &By,
        id: AdminKeyId,
        overlap: Duration,
        expires_in: Option<Duration>,
        own: Option<&[String]>,
    ) -> Result<(AdminKey, AdminSecret), OperatorError> {
        if own.is_some() {
            let keys = self.store.admin_keys().await?;
            let rotated = keys.iter().find(|key| key.id == id).ok_or(OperatorError::NoSuchKey)?;
            may_give(own, rotated.scopes.iter().filter_map(|scope| Permission::parse(scope)).map(Permission::as_str))?;
        }
        let (secret, next) = fresh(String::new(), Vec::new(), expires_in)?;
        let details = json!({ "key": id, "next": next.id, "overlap_seconds": overlap.as_secs() });
        let doing = by.doing("operator.key_rotate", None, None, details);
        let next = attributed(doing, self.store.rotate_admin_key(id, overlap.min(LONGEST_LIFE), next)).await?;
        Ok((next.ok_or(OperatorError::NoSuchKey)?, secret))
    }

    /// Ends a key; within half a second no node takes it any more.
    ///
    /// # Errors
    /// [`OperatorError::NoSuchKey`].
    pub async fn revoke_key(&self, by: &By, id: AdminKeyId) -> Result<(), OperatorError> {
        let doing = by.doing("operator.key_revoke", None, None, json!({ "key": id }));
        let revoked = attributed(doing, self.store.revoke_admin_key(id)).await?;
        if revoked { Ok(()) } else { Err(OperatorError::NoSuchKey) }
    }
}

fn fresh(
    name: String,
    scopes: Vec<String>,
    expires_in: Option<Duration>,
) -> Result<(AdminSecret, NewAdminKey), OperatorError> {
    let secret = AdminSecret::random().ok_or_else(|| StoreError::Unavailable("no random bytes".into()))?;
    let key = NewAdminKey { id: AdminKeyId::random(), name, secret_hash: secret.hash(), scopes, expires_in };
    Ok((secret, key))
}

fn may_give(own: Option<&[String]>, mut wanted: impl Iterator<Item = &'static str>) -> Result<(), OperatorError> {
    let Some(own) = own else { return Ok(()) };
    match wanted.find(|scope| !own.iter().any(|had| had == scope)) {
        Some(more) => Err(OperatorError::MoreThanOwn(more)),
        None => Ok(()),
    }
}
