//! Everything that can go wrong for an account: facts about it, values that are not allowed, and trouble of ours.

use crate::auth::{AuthError, Denied};
use crate::password::HashError;
use crate::store::StoreError;

/// A value that is not allowed. The detail names the field and never repeats the value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct NotAllowed {
    /// The field as the client names it.
    pub field: &'static str,
    /// For programs.
    pub code: &'static str,
    /// For people.
    pub detail: String,
}

/// Why an account operation did not happen.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// A value is not allowed.
    #[error(transparent)]
    NotAllowed(#[from] NotAllowed),
    /// Somebody has this address.
    #[error("the address is taken")]
    EmailTaken,
    /// No account has this address and password.
    #[error("the address or the password is wrong")]
    InvalidCredentials,
    /// The password was right, the account is disabled.
    #[error("the account is disabled")]
    Disabled,
    /// The password that should be the current one is not.
    #[error("the current password is wrong")]
    InvalidCurrentPassword,
    /// Too many have guessed at this account: whoever does not come from where its owner has been must wait.
    #[error("a stranger must wait")]
    Stranger,
    /// The session's secret was good, but shown from elsewhere: the password is asked for again.
    #[error("the secret was shown from elsewhere")]
    FromElsewhere,
    /// The caller's credential turned out to be no good any more.
    #[error("the credential is not good: {0:?}")]
    Denied(Denied),
    /// The credential cannot be checked right now.
    #[error("the credential cannot be checked right now")]
    CannotTell,
    /// No hash could be computed right now.
    #[error(transparent)]
    Hash(#[from] HashError),
    /// The database could not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl AccountError {
    /// Why a credential is not good, when that is what this says. One that is not good here is to a socket like none.
    #[must_use]
    pub fn as_denial(&self) -> Option<Denied> {
        match self {
            Self::Denied(denied) => Some(*denied),
            Self::FromElsewhere => Some(Denied::Unknown),
            _ => None,
        }
    }
}

impl From<AuthError> for AccountError {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::Denied(denied) => Self::Denied(denied),
            AuthError::CannotTell => Self::CannotTell,
        }
    }
}
