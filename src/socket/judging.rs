//! Is this socket's principal still good? Asked before every command and push, and when its time is up.

use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::timeout;

use super::admission::timed;
use super::connection::{Connection, Early, Exit};
use crate::auth::{AuthError, Recheck};
use crate::protocol::Close;

/// For one question to the judge. An answer that comes later is as good as none.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks at a session whose end has come by what is known here. Uses are written behind, so the session may
/// have slid on by now.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

impl Connection {
    /// True when the principal may act now, false when the judge cannot tell. Who is not good any more is closed.
    pub(super) async fn judge(&mut self) -> Result<bool, Exit> {
        let Some(principal) = &self.principal else { return Ok(true) };
        if self.state.auth.recheck(principal) == Recheck::Good {
            self.found_good();
            return Ok(true);
        }
        Box::pin(self.refetch()).await
    }

    /// The same with every means; the principal is brought up to date.
    pub(super) async fn refetch(&mut self) -> Result<bool, Exit> {
        let Some(principal) = self.principal.clone() else { return Ok(true) };
        let auth = self.state.auth.clone();
        match self.ask(Early::Waits, async move { auth.refetch(&principal).await }).await? {
            Ok(principal) => {
                self.principal = Some(principal);
                self.found_good();
                Ok(true)
            }
            Err(AuthError::Denied(denied)) => {
                tracing::info!(client = %self.link().id(), ip = %self.ip, ?denied, "the socket's credential is good no longer");
                Err(self.close(Close::for_held(denied)))
            }
            Err(AuthError::CannotTell) => self.found_unsure(),
        }
    }

    /// Puts a question to the judge. No answer in time means that he cannot tell.
    pub(super) async fn ask<T: Send>(
        &mut self,
        early: Early,
        question: impl Future<Output = Result<T, AuthError>> + Send,
    ) -> Result<Result<T, AuthError>, Exit> {
        let patient = async { timeout(PATIENCE, question).await.unwrap_or(Err(AuthError::CannotTell)) };
        self.during(early, timed(patient)).await
    }

    pub(super) fn found_good(&mut self) {
        self.unsure_since = None;
        self.judged_at = self.state.wheel.now();
    }

    /// Muted: nothing is executed and nothing pushed, for the grace time.
    fn found_unsure(&mut self) -> Result<bool, Exit> {
        let now = self.state.wheel.now();
        let since = *self.unsure_since.get_or_insert(now);
        if now.since(since) >= self.state.config.grace_time {
            Err(self.close(Close::AUTH_UNAVAILABLE))
        } else {
            Ok(false)
        }
    }

    /// Sets the alarm for the end of what the socket was admitted by: the token's with its leeway, or the session's.
    pub(super) fn arm_expiry(&mut self) {
        let left = self.life_left();
        self.timers.expiry = left.map(|left| self.state.wheel.after(left));
    }

    fn life_left(&self) -> Option<Duration> {
        let principal = self.principal.as_ref()?;
        let end = match &principal.token {
            Some(claims) => {
                OffsetDateTime::from_unix_timestamp(claims.expires_at).ok()? + self.state.config.token_leeway
            }
            None => principal.session.expires_at,
        };
        // Negative is over.
        Some(Duration::try_from(end - self.state.clock.now()).unwrap_or_default())
    }

    pub(super) async fn on_expiry(&mut self) -> Result<(), Exit> {
        let holds_token = self.principal.as_ref().is_some_and(|principal| principal.token.is_some());
        // The alarm runs by this node's clock, the credential by the database's.
        let over = self.life_left().is_some_and(|left| left.is_zero());
        match (over, holds_token) {
            (false, _) => self.arm_expiry(),
            (true, true) => return Err(self.close(Close::EXPIRED)),
            // Whether the session slid on is the judge's to say.
            (true, false) => {
                self.refetch().await?;
                let left = self.life_left().unwrap_or_default();
                self.timers.expiry = Some(self.state.wheel.after(left.max(LOOK_AGAIN)));
            }
        }
        Ok(())
    }
}
