//! What can go wrong for an operator.

use crate::store::StoreError;

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// Nobody has this id or address.
    #[error("there is no such user")]
    NoSuchUser,
    /// No session has this handle (any more: they are kept for a day after their end).
    #[error("there is no such session")]
    NoSuchSession,
    /// No good key has this id.
    #[error("there is no such key, or it is not good any more")]
    NoSuchKey,
    /// A key may not give what it does not have.
    #[error("a key cannot give the scope {0}, which it does not have itself")]
    MoreThanOwn(&'static str),
    /// A value is not allowed.
    #[error("{field}: {detail}")]
    NotAllowed {
        /// The field as the caller names it.
        field: &'static str,
        /// For people; never repeats the value.
        detail: String,
    },
    /// A credential that was asked about cannot be judged right now.
    #[error("the credential cannot be checked right now")]
    CannotTell,
    /// The database could not answer. What was asked for may have taken effect; all of it is safe to repeat.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A value that is not allowed.
pub(super) fn not_allowed(field: &'static str, detail: impl Into<String>) -> OperatorError {
    OperatorError::NotAllowed { field, detail: detail.into() }
}
