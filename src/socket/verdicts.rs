//! From what the judge says to what sockets and the registry need: close codes, and subjects.

use std::sync::Arc;

use crate::auth::{Denied, Principal};
use crate::protocol::Close;
use crate::registry::Subject;

impl Close {
    /// The close for a credential that the client shows now, in `connect` or `refresh`, and that is not good.
    /// (`connect` answers [`Denied::Expired`] with error 109 instead.)
    #[must_use]
    pub const fn for_presented(denied: Denied) -> Self {
        match denied {
            Denied::Forged | Denied::TokenRevoked | Denied::Unknown | Denied::TicketSpent => Self::INVALID_TOKEN,
            Denied::Expired => Self::EXPIRED,
            Denied::Ended(reason) => Self::for_end(reason),
            Denied::Replayed { .. } => Self::SESSION_REVOKED,
            Denied::SessionExpired => Self::SESSION_EXPIRED,
        }
    }

    /// The close for the credential that a live socket was admitted with, and that is good no longer.
    #[must_use]
    pub const fn for_held(denied: Denied) -> Self {
        match denied {
            // It was good once, so its key was revoked since: the session lives, and gets a token of another key.
            Denied::Forged | Denied::TokenRevoked => Self::STATE_INVALIDATED,
            // Its session was swept.
            Denied::Unknown | Denied::TicketSpent => Self::INVALID_TOKEN,
            Denied::Expired => Self::EXPIRED,
            Denied::Ended(reason) => Self::for_end(reason),
            Denied::Replayed { .. } => Self::SESSION_REVOKED,
            Denied::SessionExpired => Self::SESSION_EXPIRED,
        }
    }
}

impl From<&Principal> for Subject {
    fn from(principal: &Principal) -> Self {
        Self {
            user_id: principal.session.user_id,
            sid: principal.session.sid,
            auth_epoch: principal.session.auth_epoch,
            jti: principal.token.as_ref().map(|claims| claims.jti),
            kid: principal.token.as_ref().map(|claims| Arc::clone(&claims.kid)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::EndReason;

    #[test]
    fn an_ended_session_closes_alike_whether_held_or_presented() {
        let ended = Denied::Ended(EndReason::LoggedOutEverywhere);
        assert_eq!(Close::for_held(ended), Close::LOGGED_OUT_EVERYWHERE);
        assert_eq!(Close::for_presented(ended), Close::LOGGED_OUT_EVERYWHERE);
    }

    #[test]
    fn a_listed_token_sends_its_holder_for_a_new_one_but_admits_nobody() {
        assert_eq!(Close::for_held(Denied::TokenRevoked), Close::STATE_INVALIDATED);
        assert_eq!(Close::for_presented(Denied::TokenRevoked), Close::INVALID_TOKEN);
    }
}
