//! What takes the current password once more: another password, another address, the end of the account.

use super::facts::{Fact, record};
use super::{AccountError, Accounts, Email};
use crate::auth::{Denied, Principal};
use crate::secret::Password;
use crate::store::{EmailOutcome, PasswordOutcome, RemovalOutcome, User};

/// A login may replace the hash that was just verified by a better one of the same password: then it is verified again.
const ATTEMPTS: usize = 2;

impl Accounts {
    /// Changes the caller's password. Every other session of theirs ends (4504).
    ///
    /// # Errors
    /// [`AccountError::InvalidCurrentPassword`], or trouble.
    pub async fn change_password(
        &self,
        principal: &Principal,
        current: Password,
        new: Password,
    ) -> Result<(), AccountError> {
        let new_hash = self.passwords.hash(new).await?;
        for _ in 0..ATTEMPTS {
            let (principal, verified) = self.verified(principal, current.clone()).await?;
            let (user_id, keep) = (principal.user.user.id, principal.session.sid);
            match self.revoker.change_password(user_id, keep, &verified, &new_hash).await? {
                PasswordOutcome::Changed { .. } => return Ok(()),
                PasswordOutcome::Superseded => {}
            }
        }
        // Somebody changed it in between: what was verified is the current one no more.
        Err(AccountError::InvalidCurrentPassword)
    }

    /// Changes the caller's address. Nothing ends; caches and open sockets follow.
    ///
    /// # Errors
    /// [`AccountError::InvalidCurrentPassword`], [`AccountError::EmailTaken`], or trouble.
    pub async fn change_email(
        &self,
        principal: &Principal,
        current: Password,
        email: Email,
    ) -> Result<User, AccountError> {
        for _ in 0..ATTEMPTS {
            let (principal, verified) = self.verified(principal, current.clone()).await?;
            let user_id = principal.user.user.id;
            match self.revoker.change_email(user_id, &verified, email.as_str().to_owned()).await? {
                EmailOutcome::Changed { user, .. } => {
                    record(Fact::EmailChanged { user_id, sid: principal.session.sid });
                    return Ok(user.user);
                }
                EmailOutcome::Taken => return Err(AccountError::EmailTaken),
                EmailOutcome::Superseded => {}
            }
        }
        Err(AccountError::InvalidCurrentPassword)
    }

    /// Removes the caller's account with everything in it; every session ends, on every node (4503).
    ///
    /// # Errors
    /// [`AccountError::InvalidCurrentPassword`], or trouble.
    pub async fn remove_account(&self, principal: &Principal, current: Password) -> Result<u64, AccountError> {
        for _ in 0..ATTEMPTS {
            let (principal, verified) = self.verified(principal, current.clone()).await?;
            let user_id = principal.user.user.id;
            match self.revoker.remove_own_account(user_id, &verified).await? {
                RemovalOutcome::Removed(revoked) => {
                    let (sid, sessions) = (principal.session.sid, revoked.sessions);
                    record(Fact::AccountRemoved { user_id, sid, sessions });
                    return Ok(sessions);
                }
                RemovalOutcome::Superseded => {}
            }
        }
        Err(AccountError::InvalidCurrentPassword)
    }

    /// Verifies the caller's current password. The hash may have waited long: a session that was ended meanwhile must
    /// not change anything, so it is judged again.
    async fn verified(&self, principal: &Principal, current: Password) -> Result<(Principal, String), AccountError> {
        let row = self.store.login_row_by_id(principal.user.user.id).await?;
        let row = row.ok_or(AccountError::Denied(Denied::Unknown))?;
        if !self.passwords.verify(current, row.password_hash.clone()).await? {
            return Err(AccountError::InvalidCurrentPassword);
        }
        Ok((self.auth.refetch(principal).await?, row.password_hash))
    }
}
