//! Credential in, principal out. The only judge of credentials, with three answers: good, not good, cannot tell.
//!
//! Called by HTTP handlers and sockets alike; asks the cache. Never reads requests, never picks a status or close code.

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;

use crate::entry::EndReason;
use crate::ids::{Jti, Sid, UserId};
use crate::secret::{AccessToken, SecretHash, SessionSecret, Ticket};
use crate::store::{SessionRecord, UserRecord};

/// A proven identity. Proven at one moment: for later use see [`Auth::recheck`].
#[derive(Clone, Debug)]
pub struct Principal {
    /// The session.
    pub session: Arc<SessionRecord>,
    /// Its user.
    pub user: Arc<UserRecord>,
    /// The access token, when one was the credential.
    pub token: Option<Arc<TokenClaims>>,
}

/// The claims of a token whose signature is good (RFC 9068 section 2.2).
#[derive(Clone, Debug)]
pub struct TokenClaims {
    /// `sub`.
    pub user_id: UserId,
    /// `sid`.
    pub sid: Sid,
    /// `jti`.
    pub jti: Jti,
    /// `kid` of the header.
    pub kid: Arc<str>,
    /// `exp`, Unix seconds.
    pub expires_at: i64,
    /// `nbf`, Unix seconds.
    pub not_before: i64,
}

/// Why a credential is not good. Each is a fact; none stands for trouble of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// Not a token of ours: damaged, forged, wrong type, issuer, audience, or an unknown key.
    Forged,
    /// Good but for `exp`; the session behind it lives.
    Expired,
    /// This token was listed, its session lives.
    TokenRevoked,
    /// The session ended before its time.
    Ended(EndReason),
    /// The session reached its sliding or absolute end.
    SessionExpired,
    /// No such session (swept long ago, or never was).
    Unknown,
    /// A ticket that was used, is too old, or came from another Origin.
    TicketSpent,
}

/// The two ways not to be let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// This credential is not good.
    #[error("the credential is not good: {0:?}")]
    Denied(Denied),
    /// The gateway cannot tell now. Never a 401, 403, 35xx or 45xx.
    #[error("the credential cannot be checked right now")]
    CannotTell,
}

/// What [`Auth::recheck`] can say without waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recheck {
    /// Still good, by facts that are fresh.
    Good,
    /// Must be looked up: call [`Auth::refetch`].
    Unsure,
}

/// A freshly signed access token.
#[derive(Clone, Debug)]
pub struct IssuedToken {
    /// The token.
    pub token: AccessToken,
    /// Seconds until it expires.
    pub expires_in: u64,
    /// Its claims.
    pub claims: Arc<TokenClaims>,
}

/// A ticket whose seal, age and Origin are good; not yet spent.
#[derive(Clone, Debug)]
pub struct OpenTicket {
    /// Whose it is.
    pub principal: Principal,
    /// Its name in the table of used tickets.
    pub id: SecretHash,
    /// Its end.
    pub expires_at: OffsetDateTime,
}

/// The judge.
#[derive(Clone)]
pub struct Auth(());

#[allow(unused_variables, clippy::todo)]
impl Auth {
    /// Judges an access token: signature, claims, session, user, listing.
    pub async fn token(&self, token: &AccessToken) -> Result<Principal, AuthError> { todo!() }
    /// Judges signature and claims but not `exp`, session or listing: good enough to log out with, for nothing else.
    pub async fn token_for_logout(&self, token: &AccessToken) -> Result<Arc<TokenClaims>, AuthError> { todo!() }
    /// Judges the secret of a session.
    pub async fn session_secret(&self, secret: &SessionSecret) -> Result<Principal, AuthError> { todo!() }
    /// Opens a ticket that came with this `Origin` header (`None`: there was none).
    pub async fn open_ticket(&self, ticket: &Ticket, origin: Option<&str>) -> Result<OpenTicket, AuthError> { todo!() }
    /// Spends it. The last step before the handshake is answered with 101: `Denied(TicketSpent)` when somebody was first.
    pub async fn spend_ticket(&self, ticket: &OpenTicket) -> Result<(), AuthError> { todo!() }
    /// Seals a ticket for this principal and the Origin of the request that asks for it; lives 30 s.
    pub fn issue_ticket(&self, principal: &Principal, origin: Option<&str>) -> (Ticket, Duration) { todo!() }
    /// Signs a new access token for a session that was just judged good.
    pub fn issue_token(&self, session: &SessionRecord) -> IssuedToken { todo!() }
    /// May this principal still act? No I/O, no waiting; checks the freshness rule, `exp` included for tokens.
    pub fn recheck(&self, principal: &Principal) -> Recheck { todo!() }
    /// The same with every means, loads included. The principal comes back with the newest facts.
    pub async fn refetch(&self, principal: &Principal) -> Result<Principal, AuthError> { todo!() }
    /// False while freshness cannot be shown at all: sockets are muted then.
    pub fn caught_up(&self) -> bool { todo!() }
    /// Notes that the session was used (written behind, in batches).
    pub fn touch(&self, session: &SessionRecord) { todo!() }
    /// Database time now, Unix seconds: the time in which tokens are judged.
    pub fn now_unix(&self) -> i64 { todo!() }
}
