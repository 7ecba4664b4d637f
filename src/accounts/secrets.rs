//! What a session's secret opens: coming back, with a new secret where they rotate, and what happens when one turns up
//! late or elsewhere.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::facts::{Fact, record};
use super::{AccountError, Accounts, LoggedIn, LoginDevice, fingerprint};
use crate::auth::{AuthError, Denied, Principal};
use crate::config::FingerprintPolicy;
use crate::entry::EndReason;
use crate::ids::Sid;
use crate::secret::SessionSecret;
use crate::store::{Fingerprint, NewSecret, SessionRead, SessionRecord};

/// How long a request waits for what is written beside it: a rotation, a note. Then it is answered without.
const WRITE_WITHIN: Duration = Duration::from_millis(700);

/// While the database is away nobody waits for it: one try in this time.
const NOT_AGAIN_FOR: Duration = Duration::from_secs(2);

/// Between two rotations of one session, in graces. An answer with a new secret may be one grace under way, and its
/// secret then still has a grace to be good in.
const PAUSE_IN_GRACES: u32 = 2;

impl Accounts {
    /// A new access token for whoever holds a session's secret; and a new secret, where they rotate.
    ///
    /// # Errors
    /// As [`judge_secret`](Self::judge_secret).
    pub async fn come_back(&self, secret: SessionSecret, device: &LoginDevice) -> Result<LoggedIn, AccountError> {
        let principal = self.judge_secret(&secret, device).await?;
        self.auth.touch(&principal.session);
        let secret = self.secret_from_now_on(&principal, secret).await?;
        let token = self.auth.issue_token(&principal.session).map_err(AuthError::from)?;
        let session = SessionRecord::clone(&principal.session);
        Ok(LoggedIn { token, user: principal.user.user.clone(), session, secret })
    }

    /// Judges a session's secret, and whether it is where it belongs.
    ///
    /// One that was rotated away and is shown late ends its session: of two holders one has stolen it, and nobody can
    /// tell which.
    ///
    /// # Errors
    /// [`AccountError::Denied`], [`AccountError::FromElsewhere`] or trouble.
    pub async fn judge_secret(&self, secret: &SessionSecret, device: &LoginDevice) -> Result<Principal, AccountError> {
        match self.auth.session_secret(secret).await {
            Ok(principal) => self.check_fingerprint(principal, device).await,
            Err(AuthError::Denied(Denied::Replayed { sid, user_id })) => {
                self.revoker.end_replayed(sid, user_id).await?;
                record(Fact::SecretReplayed { user_id, sid, ip: device.ip });
                Err(AccountError::Denied(Denied::Ended(EndReason::SecretReplayed)))
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn check_fingerprint(&self, principal: Principal, device: &LoginDevice) -> Result<Principal, AccountError> {
        let policy = self.config.fingerprint;
        if policy == FingerprintPolicy::Off {
            return Ok(principal);
        }
        let (session, here) = (&principal.session, device.fingerprint());
        if !fingerprint::differs(&session.seen_from, &here) {
            return Ok(principal);
        }
        let (sid, user_id) = (session.sid, session.user_id);
        record(Fact::UsedFromElsewhere { user_id, sid, ip: device.ip, seen: here.clone(), policy });
        self.note(sid, here, policy == FingerprintPolicy::Log).await;
        match policy {
            FingerprintPolicy::Off | FingerprintPolicy::Log => Ok(principal),
            FingerprintPolicy::Challenge => Err(AccountError::FromElsewhere),
            FingerprintPolicy::Deny => {
                self.revoker.end_session(sid, user_id).await?;
                Err(AccountError::Denied(Denied::Ended(EndReason::Revoked)))
            }
        }
    }

    /// That it could not be written down is no reason to refuse anybody, nor to let anybody in.
    async fn note(&self, sid: Sid, here: Fingerprint, adopt: bool) {
        if !self.writing.may_try() {
            return;
        }
        let noting = tokio::time::timeout(WRITE_WITHIN, self.revoker.note_fingerprint(sid, here, adopt));
        match noting.await {
            Ok(Ok(())) => self.writing.succeeded(),
            Ok(Err(_)) | Err(_) => {
                self.writing.failed();
                tracing::warn!(%sid, "failed to write down that a session was used from elsewhere");
            }
        }
    }

    /// The secret to hand out: the one that was shown, or its successor.
    async fn secret_from_now_on(
        &self,
        principal: &Principal,
        secret: SessionSecret,
    ) -> Result<SessionSecret, AccountError> {
        let session = &principal.session;
        if let Some(next) = successor(session, &secret) {
            return Ok(next);
        }
        let pause = self.config.session_rotation_grace * PAUSE_IN_GRACES;
        let rested = session.rotation.is_none_or(|rotation| rotation.rotated_at + pause <= self.auth.now());
        if !self.config.session_rotation || !rested || !self.writing.may_try() {
            return Ok(secret);
        }
        self.rotate(session, secret, pause).await
    }

    async fn rotate(
        &self,
        session: &SessionRecord,
        secret: SessionSecret,
        pause: Duration,
    ) -> Result<SessionSecret, AccountError> {
        let salt = uuid::Uuid::new_v4();
        let next = secret.successor(salt);
        let new = NewSecret {
            sid: session.sid,
            from: secret.hash(),
            to: next.hash(),
            salt,
            grace: self.config.session_rotation_grace,
            pause,
        };
        let Ok(outcome) = self.revoker.rotate_secret(new, WRITE_WITHIN).await else {
            // The one that was shown goes on. Should the rotation have taken effect after all, it has its grace, in
            // which it leads to the new one.
            self.writing.failed();
            tracing::debug!(sid = %session.sid, "no rotation: the database did not answer");
            return Ok(secret);
        };
        self.writing.succeeded();
        match outcome.session {
            None => Err(AccountError::Denied(Denied::Unknown)),
            Some(SessionRead { ended: Some(reason), .. }) => Err(AccountError::Denied(Denied::Ended(reason))),
            Some(SessionRead { session, .. }) if session.secret_hash == next.hash() => {
                record(Fact::SecretRotated { user_id: session.user_id, sid: session.sid });
                Ok(next)
            }
            Some(SessionRead { session, .. }) if session.secret_hash == secret.hash() => Ok(secret),
            // Somebody else who showed the same secret was faster: both get the same one.
            Some(SessionRead { session, .. }) => successor(&session, &secret).ok_or(AccountError::CannotTell),
        }
    }
}

/// What a secret leads to that was rotated away a moment ago.
fn successor(session: &SessionRecord, secret: &SessionSecret) -> Option<SessionSecret> {
    let rotation = session.rotation.filter(|rotation| rotation.previous_hash == secret.hash())?;
    Some(secret.successor(rotation.salt)).filter(|next| next.hash() == session.secret_hash)
}

/// Whether the database lately took what is written beside a request.
#[derive(Default)]
pub(super) struct Writing(Mutex<Option<Instant>>);

impl Writing {
    fn may_try(&self) -> bool {
        let mut not_before = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match *not_before {
            Some(instant) if Instant::now() < instant => false,
            Some(_) => {
                // One tries, the others wait for what it finds.
                *not_before = Some(Instant::now() + NOT_AGAIN_FOR);
                true
            }
            None => true,
        }
    }

    fn failed(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + NOT_AGAIN_FOR);
    }

    fn succeeded(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
