//! What a key of the admin API may do. Each permission is a scope by its name; a key has a few, and no scope implies
//! another.

/// One permission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// Find accounts, see them and their sessions.
    UsersRead,
    /// Disable and enable accounts.
    UsersWrite,
    /// End sessions of anybody, one by one or all of a user.
    SessionsRevoke,
    /// End everybody's sessions.
    SessionsRevokeAll,
    /// Ask whether a token is good (RFC 7662).
    TokensIntrospect,
    /// Revoke tokens (RFC 7009).
    TokensRevoke,
    /// Read the trail.
    AuditRead,
    /// Read counts without names.
    StatsRead,
    /// See and retry what receivers of webhooks did not take.
    WebhooksManage,
    /// Make, rotate and revoke keys; never with more than one's own scopes.
    KeysManage,
}

use Permission::*;

impl Permission {
    /// All of them.
    pub const ALL: [Self; 10] = [
        UsersRead,
        UsersWrite,
        SessionsRevoke,
        SessionsRevokeAll,
        TokensIntrospect,
        TokensRevoke,
        AuditRead,
        StatsRead,
        WebhooksManage,
        KeysManage,
    ];

    /// The scope.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            UsersRead => "users:read",
            UsersWrite => "users:write",
            SessionsRevoke => "sessions:revoke",
            SessionsRevokeAll => "sessions:revoke_all",
            TokensIntrospect => "tokens:introspect",
            TokensRevoke => "tokens:revoke",
            AuditRead => "audit:read",
            StatsRead => "stats:read",
            WebhooksManage => "webhooks:manage",
            KeysManage => "keys:manage",
        }
    }

    /// The `WWW-Authenticate` of a 403 (RFC 6750 section 3.1).
    #[must_use]
    pub fn challenge(self) -> &'static str {
        macro_rules! challenge {
            ($scope:literal) => {
                concat!("Bearer error=\"insufficient_scope\", scope=\"", $scope, "\"")
            };
        }
        match self {
            UsersRead => challenge!("users:read"),
            UsersWrite => challenge!("users:write"),
            SessionsRevoke => challenge!("sessions:revoke"),
            SessionsRevokeAll => challenge!("sessions:revoke_all"),
            TokensIntrospect => challenge!("tokens:introspect"),
            TokensRevoke => challenge!("tokens:revoke"),
            AuditRead => challenge!("audit:read"),
            StatsRead => challenge!("stats:read"),
            WebhooksManage => challenge!("webhooks:manage"),
            KeysManage => challenge!("keys:manage"),
        }
    }

    /// The inverse of [`as_str`](Self::as_str).
    #[must_use]
    pub fn parse(scope: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|permission| permission.as_str() == scope)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scope_reads_back_and_stands_in_its_challenge() {
        for permission in Permission::ALL {
            assert_eq!(Permission::parse(permission.as_str()), Some(permission));
            assert!(permission.challenge().contains(&format!("scope=\"{}\"", permission.as_str())));
        }
        assert_eq!(Permission::parse("users"), None);
    }
}
