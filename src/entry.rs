//! One entry of the revocation log: what ended, for whom, and where in the log it stands.
//!
//! The vocabulary of everything that carries or applies a revocation. Applying compares scopes and never times, so an
//! entry that arrives late or twice cannot harm a newer login.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::ids::{Jti, Sid, UserId};

/// Where an entry stands: a transaction id on Postgres, a log id on SQLite. Comparable within one database only.
pub type Position = u64;

/// One row of the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogEntry {
    /// The row's id. Unique, but on Postgres not in the order of the commits.
    pub id: u64,
    /// The position of the transaction that wrote it.
    pub position: Position,
    /// When it was written, in database time: just before the commit.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// Somebody waits for the nodes to confirm it (`Prefer: wait`).
    #[serde(default)]
    pub confirm: bool,
    /// What it ends or changes.
    pub scope: Scope,
}

/// What an entry ends or changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Scope {
    /// One session ended.
    Session {
        /// The session.
        sid: Sid,
        /// Its user.
        user_id: UserId,
        /// Why.
        reason: EndReason,
    },
    /// Many sessions of any users ended at once: what one bounded batch of a revocation for everybody took. One entry for
    /// the batch, because the log is read as a whole by every node that starts.
    Sessions {
        /// The sessions with their users.
        sessions: Vec<(Sid, UserId)>,
        /// Why.
        reason: EndReason,
    },
    /// The user's sessions with an epoch below `below` ended, perhaps except one.
    UserEpoch {
        /// The user.
        user_id: UserId,
        /// The user's new epoch.
        below: u64,
        /// A session that goes on (it was lifted to the new epoch in the same transaction).
        except: Option<Sid>,
        /// Why.
        reason: EndReason,
    },
    /// One access token was listed; its session may live on.
    Token {
        /// The token.
        jti: Jti,
        /// Its session.
        sid: Sid,
        /// Its user.
        user_id: UserId,
        /// When the token would have expired anyway.
        #[serde(with = "time::serde::rfc3339")]
        expires_at: OffsetDateTime,
    },
    /// A signing key was registered.
    KeyAdded {
        /// The key.
        key: PublicKey,
    },
    /// A signing key was removed: every token it signed is void.
    KeyRemoved {
        /// The key's id.
        kid: String,
    },
    /// What is remembered of a session is old: its secret was rotated, or it is used from elsewhere. Nothing ends.
    SessionChanged {
        /// The session.
        sid: Sid,
        /// Its user.
        user_id: UserId,
    },
    /// The user's profile changed; nothing ends.
    UserChanged {
        /// The user.
        user_id: UserId,
    },
}

impl Scope {
    /// The label of `portcullis_revocations_total{kind}`; `None` for what ends nothing.
    #[must_use]
    pub fn revocation_kind(&self) -> Option<&'static str> {
        match self {
            Self::Session { reason, .. } | Self::Sessions { reason, .. } | Self::UserEpoch { reason, .. } => {
                Some(reason.as_str())
            }
            Self::Token { .. } => Some("token"),
            Self::KeyRemoved { .. } => Some("key"),
            Self::KeyAdded { .. } | Self::SessionChanged { .. } | Self::UserChanged { .. } => None,
        }
    }
}

/// Why a session ended. Each reason has its close code (see `protocol`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// Logged out on this device.
    LoggedOut,
    /// Logged out from all devices.
    LoggedOutEverywhere,
    /// Ended from another device or by an operator.
    Revoked,
    /// The user was disabled.
    AccountDisabled,
    /// The password was changed elsewhere.
    CredentialsChanged,
    /// A secret of it that had been rotated away was shown again: one of two holders has stolen it.
    SecretReplayed,
}

impl EndReason {
    /// The name used in the database, in metrics and in logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LoggedOut => "logged_out",
            Self::LoggedOutEverywhere => "logged_out_everywhere",
            Self::Revoked => "revoked",
            Self::AccountDisabled => "account_disabled",
            Self::CredentialsChanged => "credentials_changed",
            Self::SecretReplayed => "secret_replayed",
        }
    }

    /// The inverse of [`as_str`](Self::as_str). A reason written by hand that is none of ours counts as `Revoked`.
    #[must_use]
    pub fn from_database(text: &str) -> Self {
        match text {
            "logged_out" => Self::LoggedOut,
            "logged_out_everywhere" => Self::LoggedOutEverywhere,
            "account_disabled" => Self::AccountDisabled,
            "credentials_changed" => Self::CredentialsChanged,
            "secret_replayed" => Self::SecretReplayed,
            _ => Self::Revoked,
        }
    }
}

/// The public half of a signing key as the database knows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PublicKey {
    /// The key's id: its JWK thumbprint (RFC 7638).
    pub kid: String,
    /// The algorithm's name in JWS (`EdDSA`, `ES256`, `RS256`).
    pub algorithm: String,
    /// The key as a JWK (RFC 7517), public members only.
    pub jwk: serde_json::Value,
}
