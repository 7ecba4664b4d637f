//! Who is at work: told to the database with every transaction that writes, so that the triggers which keep the audit trail
//! know it too, and so that an operator's action is written down in the very transaction that does it.

use std::net::IpAddr;

use serde_json::Value;

use crate::ids::{AdminKeyId, Sid, UserId};

/// Who.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Actor {
    /// The user concerned.
    User,
    /// An operator, by a key of the admin API; without one, on the command line.
    Operator(Option<AdminKeyId>),
}

impl Actor {
    /// The name used in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Operator(_) => "operator",
        }
    }

    /// The operator's key.
    #[must_use]
    pub fn key(self) -> Option<AdminKeyId> {
        match self {
            Self::Operator(key) => key,
            Self::User => None,
        }
    }
}

/// Who is at work, from where, and what an operator wants done.
#[derive(Clone, Debug)]
pub struct Attribution {
    /// Who.
    pub actor: Actor,
    /// From where.
    pub ip: Option<IpAddr>,
    /// Written down in the same transaction, before anything else.
    pub action: Option<Action>,
}

/// An operator's action, for the trail.
#[derive(Clone, Debug)]
pub struct Action {
    /// Such as `operator.user_disable`.
    pub event: &'static str,
    /// Whom it concerns.
    pub user_id: Option<UserId>,
    /// Which session.
    pub sid: Option<Sid>,
    /// What else is worth knowing; never a secret.
    pub details: Option<Value>,
}

tokio::task_local! {
    static ATTRIBUTION: Attribution;
}

/// Runs `work`, whose transactions that write are attributed.
pub async fn attributed<T>(attribution: Attribution, work: impl Future<Output = T>) -> T {
    ATTRIBUTION.scope(attribution, work).await
}

/// Runs `work` in another task's name: a task of its own does not inherit it.
pub async fn inherited<T>(attribution: Option<Attribution>, work: impl Future<Output = T>) -> T {
    match attribution {
        Some(attribution) => attributed(attribution, work).await,
        None => work.await,
    }
}

/// Who is at work here, if that was said.
#[must_use]
pub fn current() -> Option<Attribution> {
    ATTRIBUTION.try_with(Clone::clone).ok()
}
