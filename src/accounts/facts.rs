//! What is worth remembering of accounts and sessions, in one place: whoever keeps a trail takes it from here.
//!
//! Ids and coarse facts only; no address, no secret, no password.

use std::net::IpAddr;

use crate::config::FingerprintPolicy;
use crate::ids::{Sid, UserId};
use crate::store::Fingerprint;

/// One fact.
#[derive(Clone, Debug)]
pub(super) enum Fact {
    /// A session has a new secret.
    SecretRotated { user_id: UserId, sid: Sid },
    /// A secret that was rotated away was shown late: stolen, and its session has ended.
    SecretReplayed { user_id: UserId, sid: Sid, ip: Option<IpAddr> },
    /// A session's secret was shown from another browser family or network.
    UsedFromElsewhere { user_id: UserId, sid: Sid, ip: Option<IpAddr>, seen: Fingerprint, policy: FingerprintPolicy },
    /// The stored hash of a password was replaced by a better one.
    PasswordRehashed { user_id: UserId },
    /// The e-mail address was changed.
    EmailChanged { user_id: UserId, sid: Sid },
    /// The account was removed by its owner.
    AccountRemoved { user_id: UserId, sid: Sid, sessions: u64 },
}

/// Remembers a fact.
pub(super) fn record(fact: Fact) {
    match fact {
        Fact::SecretRotated { user_id, sid } => tracing::debug!(user = %user_id, %sid, "session secret rotated"),
        Fact::SecretReplayed { user_id, sid, ip } => {
            tracing::warn!(user = %user_id, %sid, ip = ip.map(tracing::field::display), "a spent session secret was shown: its session has ended as stolen");
        }
        Fact::UsedFromElsewhere { user_id, sid, ip, seen, policy } => {
            tracing::info!(user = %user_id, %sid, ip = ip.map(tracing::field::display), ?seen, ?policy, "session used from elsewhere");
        }
        Fact::PasswordRehashed { user_id } => tracing::info!(user = %user_id, "password hash replaced by a better one"),
        Fact::EmailChanged { user_id, sid } => tracing::info!(user = %user_id, %sid, "e-mail address changed"),
        Fact::AccountRemoved { user_id, sid, sessions } => {
            tracing::info!(user = %user_id, %sid, sessions, "account removed by its owner");
        }
    }
}
