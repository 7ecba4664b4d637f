//! What users do with their account: sign up, log in, come back, change things, leave. Shared by REST and socket RPC.
//!
//! Sits above `auth`, `revocation` and `store`; knows neither HTTP nor frames. Whoever needs a [`Principal`] had it
//! judged before; here it is acted for.

mod credentials;
mod error;
mod facts;
mod fingerprint;
mod input;
mod secrets;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::audit::{Counted, Tally};
use crate::auth::{Auth, AuthError, Denied, IssuedToken, Principal, TokenClaims};
use crate::config::Config;
use crate::ids::Sid;
use crate::password::{Checked, Passwords};
use crate::revocation::Revoker;
use crate::secret::{Password, SessionSecret};
use crate::store::{
    AuditEntry, AuditQuery, Device, ListedToken, LoginRow, NewSession, NewUser, ProfileOutcome, Read, SessionRead,
    SessionRecord, SignupOutcome, Store, StoreError, User,
};
pub use error::{AccountError, NotAllowed};
use facts::{Fact, record};
pub use input::{Email, ProfileUpdate, new_password};
use secrets::Writing;

/// How often a login whose user moved on in the meantime looks again. Each time costs one read.
const LOGIN_ATTEMPTS: usize = 3;

/// One row of the device list.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct DeviceEntry {
    /// The session.
    #[serde(flatten)]
    pub device: Device,
    /// It is the one that asks.
    pub current: bool,
}

/// The answer to logout-all-devices.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct LoggedOutEverywhere {
    /// Live sessions that ended.
    pub sessions_revoked: u64,
    /// With `Prefer: wait`: sockets closed on the nodes that confirmed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sockets_closed: Option<u64>,
    /// With `Prefer: wait`: nodes that confirmed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes_confirmed: Option<u64>,
    /// With `Prefer: wait`: nodes that are alive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes_live: Option<u64>,
}

/// Where somebody logs in from, as the device list will show it.
#[derive(Clone, Debug, Default)]
pub struct LoginDevice {
    /// The name the client gave it.
    pub name: Option<String>,
    /// `User-Agent`.
    pub user_agent: Option<String>,
    /// The client's address.
    pub ip: Option<IpAddr>,
}

/// Somebody is in: what the login answer is made of.
#[derive(Clone, Debug)]
pub struct LoggedIn {
    /// A fresh access token.
    pub token: IssuedToken,
    /// The user.
    pub user: User,
    /// The session.
    pub session: SessionRecord,
    /// The session's secret.
    pub secret: SessionSecret,
}

/// A new account.
#[derive(Clone, Debug)]
pub struct Signup {
    /// The address.
    pub email: Email,
    /// The password, checked by [`new_password`].
    pub password: Password,
    /// Display name.
    pub full_name: Option<String>,
}

/// The account service.
#[derive(Clone)]
pub struct Accounts {
    store: Store,
    auth: Auth,
    revoker: Revoker,
    passwords: Passwords,
    tally: Tally,
    config: Arc<Config>,
    writing: Arc<Writing>,
}

impl Accounts {
    /// Joins the parts.
    #[must_use]
    pub fn new(
        store: Store,
        auth: Auth,
        revoker: Revoker,
        passwords: Passwords,
        tally: Tally,
        config: Arc<Config>,
    ) -> Self {
        Self { store, auth, revoker, passwords, tally, config, writing: Arc::default() }
    }

    /// Makes an account and logs it in. `None` when enumeration defence keeps silent about whether it is new.
    ///
    /// # Errors
    /// [`AccountError::EmailTaken`], or what [`AccountError`] says of values and trouble.
    pub async fn sign_up(&self, signup: Signup, device: LoginDevice) -> Result<Option<LoggedIn>, AccountError> {
        let full_name = input::full_name(signup.full_name)?;
        let device = input::login_device(device)?;
        // Hashed before anybody looks whether the address is taken: both take the same time.
        let password_hash = self.passwords.hash(signup.password).await?;
        let user = NewUser { email: signup.email.into_string(), password_hash, full_name };
        if self.config.enumeration_defence {
            self.store.sign_up(user, None).await?;
            return Ok(None);
        }
        let secret = SessionSecret::random();
        match self.store.sign_up(user, Some(self.new_session(&secret, device))).await? {
            SignupOutcome::Created { session: Some(read), .. } => self.logged_in(read, secret).map(Some),
            SignupOutcome::Created { session: None, .. } => {
                Err(StoreError::Corrupt("a signup came back without its session".into()).into())
            }
            SignupOutcome::EmailTaken => Err(AccountError::EmailTaken),
        }
    }

    /// Begins a session. An unknown address and a wrong password take the same work and get the same answer. With
    /// `known_only`, whoever comes from a network in which the account has no session is a stranger, and nobody looks.
    ///
    /// # Errors
    /// [`AccountError::InvalidCredentials`]; [`AccountError::Disabled`] only after the right password;
    /// [`AccountError::Stranger`].
    pub async fn log_in(
        &self,
        email: &Email,
        password: Password,
        device: LoginDevice,
        known_only: bool,
    ) -> Result<LoggedIn, AccountError> {
        let device = input::login_device(device)?;
        let network = device.fingerprint().network;
        let row = self.store.login_row(email.as_str(), network.as_deref()).await?;
        if known_only && !row.as_ref().is_some_and(|row| row.known_network) {
            return Err(AccountError::Stranger);
        }
        let hash = row.as_ref().map(|row| row.password_hash.clone());
        let checked = self.passwords.check(password, hash).await?;
        let ip = device.ip;
        let (user, outcome) = match (row, checked) {
            (Some(row), Checked::Right { better }) => (Some(row.user_id), self.enter(row, better, device).await),
            (row, _) => (row.map(|row| row.user_id), Err(AccountError::InvalidCredentials)),
        };
        if let Err(refusal @ (AccountError::InvalidCredentials | AccountError::Disabled)) = &outcome {
            tracing::info!(user = user.map(tracing::field::display), ip = ip.map(tracing::field::display), %refusal, "login refused");
            let disabled = matches!(refusal, AccountError::Disabled);
            self.tally.note(if disabled { Counted::LoginDisabled } else { Counted::LoginFailed }, user, ip);
        }
        outcome
    }

    async fn enter(
        &self,
        row: LoginRow,
        better_hash: Option<String>,
        device: LoginDevice,
    ) -> Result<LoggedIn, AccountError> {
        let (user_id, old_hash) = (row.user_id, row.password_hash.clone());
        let login = self.begin_session(row, device).await?;
        if let Some(better) = better_hash {
            match self.store.rehash(user_id, &old_hash, &better).await {
                Ok(true) => record(Fact::PasswordRehashed { user_id }),
                Ok(false) => {}
                // The next login tries again.
                Err(error) => tracing::warn!(%error, user = %user_id, "failed to replace a password hash"),
            }
        }
        Ok(login)
    }

    /// Inserts the session under the epoch that was read **before** the password was hashed, so that a login that
    /// waited for its hash while the password changed does not slip in.
    async fn begin_session(&self, mut row: LoginRow, device: LoginDevice) -> Result<LoggedIn, AccountError> {
        for _ in 0..LOGIN_ATTEMPTS {
            if row.disabled {
                return Err(AccountError::Disabled);
            }
            let secret = SessionSecret::random();
            let session = self.new_session(&secret, device.clone());
            if let Some(read) = self.store.insert_session(row.user_id, row.auth_epoch, session).await? {
                return self.logged_in(read, secret);
            }
            // The user moved on. A logout everywhere ends older sessions and not this one; a new password does.
            let again = self.store.login_row_by_id(row.user_id).await?;
            row = again
                .filter(|again| again.password_hash == row.password_hash)
                .ok_or(AccountError::InvalidCredentials)?;
        }
        Err(StoreError::Unavailable("the user's epoch kept moving during a login".into()).into())
    }

    /// The caller's live sessions.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn devices(&self, principal: &Principal) -> Result<Vec<DeviceEntry>, StoreError> {
        let devices = self.store.devices(principal.user.user.id).await?;
        let own = principal.session.sid;
        Ok(devices.into_iter().map(|device| DeviceEntry { current: device.sid == own, device }).collect())
    }

    /// A page of the caller's own audit trail, newest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn trail(
        &self,
        principal: &Principal,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Vec<AuditEntry>, StoreError> {
        let user_id = Some(principal.user.user.id);
        self.store.audit_page(AuditQuery { user_id, event: None, before, limit, own: true }).await
    }

    /// Logs the caller's session out (4500) and lists its token.
    ///
    /// # Errors
    /// [`StoreError`]; it may have taken effect, and repeating it is safe. So for everything that ends something.
    pub async fn log_out(&self, principal: &Principal) -> Result<(), StoreError> {
        let token = principal.token.as_deref().map(listed);
        self.revoker.log_out(principal.session.sid, principal.session.user_id, token).await.map(drop)
    }

    /// Logs out the session of a token whose signature is good, also when it has expired. What has already ended is
    /// no error.
    ///
    /// # Errors
    /// As [`log_out`](Self::log_out).
    pub async fn log_out_by_token(&self, claims: &TokenClaims) -> Result<(), StoreError> {
        // Past its life there is nothing left to list.
        let alive = claims.expires_at.saturating_add(self.leeway_seconds()) >= self.auth.now_unix();
        self.revoker.log_out(claims.sid, claims.user_id, alive.then(|| listed(claims))).await.map(drop)
    }

    /// Logs out the session of this secret. A secret that opens nothing (any more) is no error.
    ///
    /// # Errors
    /// [`AccountError::CannotTell`] or [`AccountError::Store`].
    pub async fn log_out_by_secret(&self, secret: &SessionSecret) -> Result<(), AccountError> {
        match self.auth.session_secret(secret).await {
            Ok(principal) => Ok(self.log_out(&principal).await?),
            // Whoever has a secret that was rotated away wants out, and out they are.
            Err(AuthError::Denied(Denied::Replayed { sid, user_id })) => {
                Ok(self.revoker.log_out(sid, user_id, None).await.map(drop)?)
            }
            Err(AuthError::Denied(_)) => Ok(()),
            Err(AuthError::CannotTell) => Err(AccountError::CannotTell),
        }
    }

    /// Ends every session of the caller (4501).
    ///
    /// # Errors
    /// As [`log_out`](Self::log_out).
    pub async fn log_out_everywhere(
        &self,
        principal: &Principal,
        wait: Option<Duration>,
    ) -> Result<LoggedOutEverywhere, StoreError> {
        let (revoked, confirmation) = self.revoker.log_out_everywhere(principal.user.user.id, wait).await?;
        Ok(LoggedOutEverywhere {
            sessions_revoked: revoked.sessions,
            sockets_closed: confirmation.map(|seen| seen.sockets_closed),
            nodes_confirmed: confirmation.map(|seen| seen.nodes_confirmed),
            nodes_live: confirmation.map(|seen| seen.nodes_live),
        })
    }

    /// Ends one of the caller's sessions (4502); their own is a logout (4500). False when it is not theirs, or over.
    ///
    /// # Errors
    /// As [`log_out`](Self::log_out).
    pub async fn end_session(&self, principal: &Principal, sid: Sid) -> Result<bool, StoreError> {
        if sid == principal.session.sid {
            return self.log_out(principal).await.map(|()| true);
        }
        let revoked = self.revoker.end_session(sid, principal.user.user.id).await?;
        Ok(revoked.sessions > 0)
    }

    /// Changes the caller's profile; the user as of this change.
    ///
    /// # Errors
    /// [`AccountError::NotAllowed`] for values, or trouble.
    pub async fn update_profile(&self, principal: &Principal, update: ProfileUpdate) -> Result<User, AccountError> {
        let change = update.into_change()?;
        match self.revoker.update_profile(principal.user.user.id, change).await? {
            ProfileOutcome::Updated { user, .. } => Ok(user.user),
            ProfileOutcome::MetadataTooLarge => Err(input::metadata_too_large().into()),
            ProfileOutcome::NotFound => Err(AccountError::Denied(Denied::Unknown)),
        }
    }

    fn logged_in(&self, read: Read<SessionRead>, secret: SessionSecret) -> Result<LoggedIn, AccountError> {
        self.auth.prime(&read);
        let read = read.value;
        let token = self.auth.issue_token(&read.session).map_err(AuthError::from)?;
        Ok(LoggedIn { token, user: read.user.user, session: read.session, secret })
    }

    fn new_session(&self, secret: &SessionSecret, device: LoginDevice) -> NewSession {
        NewSession {
            sid: Sid::random(),
            secret_hash: secret.hash(),
            seen_from: device.fingerprint(),
            device_name: device.name,
            user_agent: device.user_agent,
            ip: device.ip,
            ttl: self.config.session_ttl,
            max_age: self.config.session_max_age,
        }
    }

    fn leeway_seconds(&self) -> i64 {
        i64::try_from(self.config.token_leeway.as_secs()).unwrap_or(i64::MAX)
    }
}

fn listed(claims: &TokenClaims) -> ListedToken {
    let expires_at =
        time::OffsetDateTime::from_unix_timestamp(claims.expires_at).unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    ListedToken { jti: claims.jti, sid: claims.sid, user_id: claims.user_id, expires_at }
}
