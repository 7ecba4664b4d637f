//! Credential in, principal out. The only judge of credentials, with three answers: good, not good, cannot tell.
//!
//! Called by HTTP handlers and sockets alike; asks the cache. Never reads requests, never picks a status or close code.

pub mod last_seen;
mod ticket;

use std::sync::Arc;
use std::time::Duration;

use metrics::Counter;
use quick_cache::sync::Cache as BoundedMap;
use time::OffsetDateTime;

use crate::cache::{Cache, CannotTell, Ending, Peek, Standing};
use crate::clock::{BootInstant, DatabaseClock};
use crate::entry::EndReason;
use crate::freshness::{CATCH_UP_WAIT, Freshness};
use crate::ids::{Jti, Sid, UserId};
use crate::metrics::cache_counter;
use crate::seal::Sealer;
use crate::secret::{AccessToken, SecretHash, SessionSecret};
use crate::store::{Read, SessionRead, SessionRecord, Store, UserRecord};
pub use crate::token::TokenClaims;
use crate::token::key_set::KeySet;
use crate::token::keys::VerifyingKey;
use crate::token::signer::Signer;
use crate::token::{self, TokenError, TokenFormat};
use last_seen::LastSeen;
pub use ticket::OpenTicket;

/// How long a token with an unknown key waits for a log read that would bring the key.
const UNKNOWN_KEY_WAIT: Duration = Duration::from_millis(900);

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
    /// A secret that was rotated away some time ago; its session is alive. See
    /// [`Accounts::judge_secret`](crate::accounts::Accounts::judge_secret).
    Replayed {
        /// The session.
        sid: Sid,
        /// Its user.
        user_id: UserId,
    },
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

impl From<CannotTell> for AuthError {
    fn from(_: CannotTell) -> Self {
        Self::CannotTell
    }
}

impl From<Ending> for Denied {
    fn from(ending: Ending) -> Self {
        match ending {
            Ending::Ended(reason) => Self::Ended(reason),
            Ending::Expired => Self::SessionExpired,
            Ending::Unknown => Self::Unknown,
        }
    }
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

/// The judge.
#[derive(Clone)]
pub struct Auth {
    parts: Arc<AuthParts>,
    verified: Arc<BoundedMap<SecretHash, Arc<Verified>>>,
    hit: Counter,
    miss: Counter,
}

/// What an [`Auth`] is made of.
pub struct AuthParts {
    /// Who is this session?
    pub cache: Arc<Cache>,
    /// To spend tickets.
    pub store: Store,
    /// H, for tokens with a key that is not known yet.
    pub freshness: Arc<Freshness>,
    /// Database time, in which tokens are made and judged.
    pub clock: Arc<DatabaseClock>,
    /// All keys.
    pub keys: Arc<KeySet>,
    /// The keys this node signs with.
    pub signer: Arc<Signer>,
    /// Issuer and audience.
    pub format: TokenFormat,
    /// Seals tickets.
    pub sealer: Arc<Sealer>,
    /// Writes last uses.
    pub last_seen: Arc<LastSeen>,
    /// Life of an access token.
    pub access_token_ttl: Duration,
    /// Leeway for `exp` and `nbf`.
    pub leeway: Duration,
    /// Verified tokens held in memory.
    pub capacity: usize,
}

/// A token whose signature was checked; found by its hash, so that a hit costs no signature check.
struct Verified {
    claims: Arc<TokenClaims>,
    key: Arc<VerifyingKey>,
}

impl Auth {
    /// Joins the parts.
    #[must_use]
    pub fn new(parts: AuthParts) -> Self {
        let verified = Arc::new(BoundedMap::new(parts.capacity));
        let (hit, miss) = (cache_counter("token", "local", "hit"), cache_counter("token", "local", "miss"));
        Self { parts: Arc::new(parts), verified, hit, miss }
    }

    /// Judges an access token: signature, claims, session, user, listing.
    ///
    /// # Errors
    /// [`AuthError`].
    pub async fn token(&self, token: &AccessToken) -> Result<Principal, AuthError> {
        if let Some(principal) = self.recall(token.expose()) {
            return Ok(principal);
        }
        let verified = self.verified(token).await?;
        let claims = verified.claims.clone();
        let expired = self.is_expired(&claims);
        let standing = match self.parts.cache.session(claims.sid, claims.user_id).await {
            // That it has expired is a fact without any store.
            Err(CannotTell) if expired => return Err(AuthError::Denied(Denied::Expired)),
            standing => standing?,
        };
        let principal = Self::principal(standing, Some(claims))?;
        // Last, because the waiting above may have brought the entry that removes the key.
        self.know_of_keys().await?;
        match (verified.key.is_removed(), expired) {
            (true, _) => Err(AuthError::Denied(Denied::Forged)),
            (false, true) => Err(AuthError::Denied(Denied::Expired)),
            (false, false) => Ok(principal),
        }
    }

    /// What memory alone says of a token that this node has verified before: no I/O, no waiting, no allocation. `None`
    /// says nothing about the token: ask [`token`](Self::token).
    #[must_use]
    pub fn recall(&self, token: &str) -> Option<Principal> {
        let verified = self.verified.get(&SecretHash::of(token.as_bytes()))?;
        let claims = &verified.claims;
        let instant = BootInstant::now();
        let now = self.parts.clock.at(instant).unix_timestamp();
        if now >= self.end_of(claims) || claims.not_before > now.saturating_add(self.leeway_seconds()) {
            return None;
        }
        let judgement = self.parts.freshness.judge().by_the_log_alone();
        if verified.key.is_removed() {
            return None;
        }
        let Peek::Alive(session, user) = self.parts.cache.peek_within(claims.sid, claims.user_id, instant, judgement)
        else {
            return None;
        };
        if is_listed(&session, Some(claims)) {
            return None;
        }
        self.hit.increment(1);
        self.parts.cache.count_hit();
        Some(Principal { session, user, token: Some(claims.clone()) })
    }

    /// Judges signature and claims but not `exp`, session or listing: good enough to log out with, for nothing else.
    ///
    /// # Errors
    /// [`AuthError`].
    pub async fn token_for_logout(&self, token: &AccessToken) -> Result<Arc<TokenClaims>, AuthError> {
        Ok(self.verified(token).await?.claims.clone())
    }

    /// Judges the secret of a session.
    ///
    /// # Errors
    /// [`AuthError`].
    pub async fn session_secret(&self, secret: &SessionSecret) -> Result<Principal, AuthError> {
        let standing = self.parts.cache.session_by_secret(secret.hash()).await?;
        Self::principal(standing, None)
    }

    /// Remembers a session that this node has just written, so that its first use, here or elsewhere, needs no read.
    pub fn prime(&self, read: &Read<SessionRead>) {
        self.parts.cache.prime(read);
    }

    /// Signs a new access token for a session that was just judged good. It never outlives the session.
    ///
    /// # Errors
    /// [`CannotTell`] while this node has no key to sign with: all were revoked, and a new one is being made.
    pub fn issue_token(&self, session: &SessionRecord) -> Result<IssuedToken, CannotTell> {
        let (signing_key, key) = self.parts.signer.current().ok_or(CannotTell)?;
        let now = self.now_unix();
        let life = i64::try_from(self.parts.access_token_ttl.as_secs()).unwrap_or(i64::MAX).max(1);
        let expires_at = now.saturating_add(life).min(session.max_expires_at.unix_timestamp());
        let claims = Arc::new(TokenClaims {
            user_id: session.user_id,
            sid: session.sid,
            jti: Jti::random(),
            kid: key.kid().clone(),
            expires_at,
            not_before: now,
        });
        let token = token::sign(&self.parts.format, &signing_key, &claims, now).map_err(|error| {
            tracing::error!(kid = %key.kid(), %error, "failed to sign a token");
            CannotTell
        })?;
        self.verified
            .insert(SecretHash::of(token.expose().as_bytes()), Arc::new(Verified { claims: claims.clone(), key }));
        Ok(IssuedToken { token, expires_in: u64::try_from(expires_at - now).unwrap_or(0), claims })
    }

    /// Signs what receivers of webhooks are told (RFC 8417) with the key of the access tokens, which they find in the JWKS.
    /// A shared secret must not be theirs, too: `None` then.
    ///
    /// # Errors
    /// When there is no key just now, or the cryptographic library refuses it.
    pub fn sign_event(&self, claims: &serde_json::Value) -> anyhow::Result<Option<String>> {
        let (key, _) = self.parts.signer.current().ok_or_else(|| anyhow::anyhow!("there is no key to sign with"))?;
        if key.public().is_none() { Ok(None) } else { token::sign_event(&key, claims).map(Some) }
    }

    /// May this principal still act? No I/O, no waiting; checks the freshness rule, and `exp` for tokens.
    #[must_use]
    pub fn recheck(&self, principal: &Principal) -> Recheck {
        let (sid, user_id) = (principal.session.sid, principal.session.user_id);
        let instant = BootInstant::now();
        let mut judgement = self.parts.freshness.judge();
        if let Some(claims) = &principal.token {
            judgement = judgement.by_the_log_alone();
            let now = self.parts.clock.at(instant).unix_timestamp();
            if now >= self.end_of(claims) || self.parts.keys.find(&claims.kid).is_none() {
                return Recheck::Unsure;
            }
        }
        match self.parts.cache.peek_within(sid, user_id, instant, judgement) {
            Peek::Alive(session, _) if !is_listed(&session, principal.token.as_deref()) => Recheck::Good,
            _ => Recheck::Unsure,
        }
    }

    /// The same with every means, loads included. The principal comes back with the newest facts.
    ///
    /// # Errors
    /// [`AuthError`].
    pub async fn refetch(&self, principal: &Principal) -> Result<Principal, AuthError> {
        let session = &principal.session;
        let standing = self.parts.cache.session(session.sid, session.user_id).await?;
        let principal = Self::principal(standing, principal.token.clone())?;
        let Some(claims) = &principal.token else { return Ok(principal) };
        self.know_of_keys().await?;
        match (self.parts.keys.find(&claims.kid), self.is_expired(claims)) {
            (None, _) => Err(AuthError::Denied(Denied::Forged)),
            (Some(_), true) => Err(AuthError::Denied(Denied::Expired)),
            (Some(_), false) => Ok(principal),
        }
    }

    /// False while freshness cannot be shown at all: sockets are muted then.
    #[must_use]
    pub fn caught_up(&self) -> bool {
        self.parts.freshness.caught_up()
    }

    /// Notes that the session was used (written behind, in batches).
    pub fn touch(&self, session: &SessionRecord) {
        self.parts.last_seen.note(session);
    }

    /// Database time now, Unix seconds: the time in which tokens are judged.
    #[must_use]
    pub fn now_unix(&self) -> i64 {
        self.parts.clock.now_unix()
    }

    /// Database time now.
    #[must_use]
    pub fn now(&self) -> OffsetDateTime {
        self.parts.clock.now()
    }

    fn principal(standing: Standing, token: Option<Arc<TokenClaims>>) -> Result<Principal, AuthError> {
        match standing {
            Standing::Ended(ending) => Err(AuthError::Denied(ending.into())),
            Standing::Replayed(session) => {
                Err(AuthError::Denied(Denied::Replayed { sid: session.sid, user_id: session.user_id }))
            }
            Standing::Alive(session, _) if is_listed(&session, token.as_deref()) => {
                Err(AuthError::Denied(Denied::TokenRevoked))
            }
            Standing::Alive(session, user) => Ok(Principal { session, user, token }),
        }
    }

    /// A read of the session says nothing about keys: only the log does, and the bus. So tokens need a horizon.
    async fn know_of_keys(&self) -> Result<(), AuthError> {
        let known = self.caught_up() || self.parts.freshness.wait_caught_up(CATCH_UP_WAIT).await;
        if known { Ok(()) } else { Err(AuthError::CannotTell) }
    }

    /// The claims and the key, from memory or by a signature check. Judges `nbf`, but leaves `exp` to the caller.
    async fn verified(&self, token: &AccessToken) -> Result<Arc<Verified>, AuthError> {
        let hash = SecretHash::of(token.expose().as_bytes());
        let verified = match self.verified.get(&hash).filter(|verified| !verified.key.is_removed()) {
            Some(verified) => {
                self.hit.increment(1);
                verified
            }
            None => {
                self.miss.increment(1);
                let verified = Arc::new(self.verify(token).await?);
                self.verified.insert(hash, verified.clone());
                verified
            }
        };
        if verified.claims.not_before > self.now_unix().saturating_add(self.leeway_seconds()) {
            return Err(AuthError::Denied(Denied::Forged));
        }
        Ok(verified)
    }

    async fn verify(&self, token: &AccessToken) -> Result<Verified, AuthError> {
        let asked = BootInstant::now();
        let verify = || token::verify(&self.parts.format, &self.parts.keys, token);
        let outcome = match verify() {
            // Perhaps another node registered it a moment ago. No query for it alone: the next log read brings it.
            Err(TokenError::UnknownKey) => {
                if !self.parts.freshness.wait_beyond(asked, UNKNOWN_KEY_WAIT).await {
                    return Err(AuthError::CannotTell);
                }
                verify()
            }
            outcome => outcome,
        };
        let (claims, key) = outcome.map_err(|_| AuthError::Denied(Denied::Forged))?;
        Ok(Verified { claims: Arc::new(claims), key })
    }

    fn is_expired(&self, claims: &TokenClaims) -> bool {
        self.now_unix() >= self.end_of(claims)
    }

    /// From here on the token counts as expired, Unix seconds.
    fn end_of(&self, claims: &TokenClaims) -> i64 {
        claims.expires_at.saturating_add(self.leeway_seconds())
    }

    fn leeway_seconds(&self) -> i64 {
        i64::try_from(self.parts.leeway.as_secs()).unwrap_or(0)
    }
}

fn is_listed(session: &SessionRecord, token: Option<&TokenClaims>) -> bool {
    token.is_some_and(|claims| session.listed.contains(&claims.jti))
}
