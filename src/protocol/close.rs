//! Every way in which the server ends a connection, as named constants, and what each refusal maps to.

use crate::entry::EndReason;

/// A close code with its reason. The reason is always the plain text of the contract's table: never empty, never JSON,
/// because published SDKs misread both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Close {
    /// The status code of RFC 6455 section 7.4.
    pub code: u16,
    /// The reason beside it.
    pub reason: &'static str,
}

const fn close(code: u16, reason: &'static str) -> Close {
    Close { code, reason }
}

impl Close {
    /// RFC 6455: the frames make no sense.
    pub const PROTOCOL_ERROR: Self = close(1002, "protocol error");
    /// RFC 6455: a binary frame.
    pub const BINARY: Self = close(1003, "text only");
    /// RFC 6455: text that is not UTF-8.
    pub const INVALID_UTF8: Self = close(1007, "invalid utf-8");
    /// RFC 6455: a message above the limit.
    pub const TOO_BIG: Self = close(1009, "message too big");

    /// The node is draining.
    pub const SHUTDOWN: Self = close(3001, "shutdown");
    /// Ours to mend.
    pub const INTERNAL_ERROR: Self = close(3004, "internal error");
    /// The access token expired without a refresh.
    pub const EXPIRED: Self = close(3005, "connection expired");
    /// The client does not read fast enough.
    pub const SLOW: Self = close(3008, "slow");
    /// A heartbeat went unanswered.
    pub const NO_PONG: Self = close(3012, "no pong");
    /// Over the rate.
    pub const TOO_MANY_REQUESTS: Self = close(3013, "too many requests");
    /// The token was revoked while its session lives: fetch a new one.
    pub const STATE_INVALIDATED: Self = close(3014, "state invalidated");
    /// A bad credential.
    pub const INVALID_TOKEN: Self = close(3500, "invalid token");
    /// A malformed or unexpected command.
    pub const BAD_REQUEST: Self = close(3501, "bad request");
    /// No good credential within the time allowed.
    pub const STALE: Self = close(3502, "stale");
    /// Too many sockets.
    pub const CONNECTION_LIMIT: Self = close(3504, "connection limit");
    /// Nothing takes it.
    pub const NOT_AVAILABLE: Self = close(3508, "not available");
    /// Credentials cannot be checked: come back, maybe to another node.
    pub const AUTH_UNAVAILABLE: Self = close(4000, "auth unavailable");
    /// This session was logged out.
    pub const LOGGED_OUT: Self = close(4500, "logged out");
    /// Logout from all devices.
    pub const LOGGED_OUT_EVERYWHERE: Self = close(4501, "logged out everywhere");
    /// Ended from another device or by an operator.
    pub const SESSION_REVOKED: Self = close(4502, "session revoked");
    /// The user was disabled.
    pub const ACCOUNT_DISABLED: Self = close(4503, "account disabled");
    /// The password was changed elsewhere.
    pub const CREDENTIALS_CHANGED: Self = close(4504, "credentials changed");
    /// The session of a cookie or ticket socket reached its end.
    pub const SESSION_EXPIRED: Self = close(4505, "session expired");

    /// The close of a session that ended before its time.
    #[must_use]
    pub const fn for_end(reason: EndReason) -> Self {
        match reason {
            EndReason::LoggedOut => Self::LOGGED_OUT,
            EndReason::LoggedOutEverywhere => Self::LOGGED_OUT_EVERYWHERE,
            EndReason::Revoked | EndReason::SecretReplayed => Self::SESSION_REVOKED,
            EndReason::AccountDisabled => Self::ACCOUNT_DISABLED,
            EndReason::CredentialsChanged => Self::CREDENTIALS_CHANGED,
        }
    }

    /// A forced disconnect, which a push announces in the same write.
    #[must_use]
    pub const fn is_announced(self) -> bool {
        matches!(self.code, 4500..=4999)
    }

    /// Whether clients come back after it.
    #[must_use]
    pub const fn reconnects(self) -> bool {
        !matches!(self.code, 3500..=3999 | 4500..=4999)
    }
}
