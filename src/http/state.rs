//! What every handler has at hand.

use std::sync::Arc;
use std::time::Instant;

use axum::http::HeaderMap;
use futures_util::future::BoxFuture;
use metrics::{Histogram, counter, histogram};

use super::admin::AdminLimits;
use super::health::HealthReport;
use super::limits::{Limits, SharedCounts};
use crate::accounts::{AccountError, Accounts, LoggedIn, LoginDevice};
use crate::audit::Tally;
use crate::auth::{Auth, AuthError, Principal};
use crate::config::Config;
use crate::credentials;
use crate::metrics::{AUTH_DURATION, LOGINS};
use crate::operator::{AdminKeys, Operator};
use crate::origin::AllowedOrigins;
use crate::secret::{AccessToken, SessionSecret};

/// The parts that the HTTP side is built on.
#[derive(Clone)]
pub struct HttpState {
    /// The judge.
    pub auth: Auth,
    /// Does what users ask for.
    pub accounts: Accounts,
    /// All settings.
    pub config: Arc<Config>,
    /// The node as operators see it.
    pub vitals: Arc<dyn Vitals>,
    /// Where the nodes count attempts together.
    pub shared_counts: Option<SharedCounts>,
    /// Does what operators ask for.
    pub operator: Operator,
    /// Whose key of the admin API is this?
    pub admin_keys: Arc<AdminKeys>,
    /// Counts for the trail.
    pub tally: Tally,
}

/// The node as operators see it. Whoever joins the parts knows; handlers only show it.
pub trait Vitals: Send + Sync + 'static {
    /// Everything `/health` shows. Its look-ups have deadlines of their own, well under two seconds.
    fn health(&self) -> BoxFuture<'static, HealthReport>;
    /// The public signing keys as a JWK set.
    fn jwks(&self) -> serde_json::Value;
    /// All metrics as Prometheus text.
    fn metrics(&self) -> String;
    /// Whether something comes on the bus between the nodes; `None` without one.
    fn bus_subscribed(&self) -> Option<bool>;
    /// The node is stopping: orchestrators should send nobody new.
    fn draining(&self) -> bool;
}

/// State of the router.
pub(super) type Shared = Arc<Gateway>;

/// [`HttpState`] and what is derived from it once.
pub(super) struct Gateway {
    pub auth: Auth,
    pub accounts: Accounts,
    pub config: Arc<Config>,
    pub vitals: Arc<dyn Vitals>,
    pub origins: AllowedOrigins,
    pub limits: Limits,
    pub operator: Operator,
    pub admin_keys: Arc<AdminKeys>,
    pub tally: Tally,
    pub admin_limits: AdminLimits,
    /// The OpenAPI document as JSON.
    pub document: bytes::Bytes,
    judging: Judging,
}

/// Handles of the histogram: a look-up by name would cost more than the rest of a hit.
struct Judging {
    good: Histogram,
    denied: Histogram,
    cannot_tell: Histogram,
}

impl Gateway {
    pub fn new(state: HttpState, document: bytes::Bytes) -> Self {
        let outcome = |outcome: &'static str| histogram!(AUTH_DURATION, "surface" => "http", "outcome" => outcome);
        let judging = Judging { good: outcome("good"), denied: outcome("denied"), cannot_tell: outcome("cannot_tell") };
        let HttpState { auth, accounts, config, vitals, shared_counts, operator, admin_keys, tally } = state;
        let (origins, limits) =
            (AllowedOrigins::new(&config.allowed_origins), Limits::new(config.throttling, shared_counts));
        let admin_limits = AdminLimits::new(config.throttling);
        Self {
            auth,
            accounts,
            config,
            vitals,
            origins,
            limits,
            operator,
            admin_keys,
            tally,
            admin_limits,
            document,
            judging,
        }
    }

    /// Judges an access token, and notes the use of its session when it is good.
    pub async fn judge_token(&self, token: &AccessToken) -> Result<Principal, AuthError> {
        self.used(self.timed(self.auth.token(token)).await)
    }

    /// What memory alone says of the bearer token of a request. `None` says nothing: judge it in full.
    pub fn recall(&self, headers: &HeaderMap) -> Option<Principal> {
        let asked = Instant::now();
        let token = credentials::bearer_text(headers).ok()??;
        let principal = self.auth.recall(token)?;
        self.auth.touch(&principal.session);
        self.judging.good.record(asked.elapsed());
        Some(principal)
    }

    /// The same for a session's secret, which this device shows.
    pub async fn judge_secret(&self, secret: &SessionSecret, device: &LoginDevice) -> Result<Principal, AccountError> {
        let judged = self.measured(self.accounts.judge_secret(secret, device), is_refusal).await?;
        self.auth.touch(&judged.session);
        Ok(judged)
    }

    /// Takes a session up again.
    pub async fn come_back(&self, secret: SessionSecret, device: &LoginDevice) -> Result<LoggedIn, AccountError> {
        self.measured(self.accounts.come_back(secret, device), is_refusal).await
    }

    /// Measures how long a judgement takes.
    pub async fn timed<T>(&self, judgement: impl Future<Output = Result<T, AuthError>>) -> Result<T, AuthError> {
        self.measured(judgement, |error| matches!(error, AuthError::Denied(_))).await
    }

    async fn measured<T, E>(
        &self,
        judgement: impl Future<Output = Result<T, E>>,
        is_denied: impl Fn(&E) -> bool,
    ) -> Result<T, E> {
        let asked = Instant::now();
        let outcome = judgement.await;
        let histogram = match &outcome {
            Ok(_) => &self.judging.good,
            Err(error) if is_denied(error) => &self.judging.denied,
            Err(_) => &self.judging.cannot_tell,
        };
        histogram.record(asked.elapsed());
        outcome
    }

    fn used(&self, judged: Result<Principal, AuthError>) -> Result<Principal, AuthError> {
        if let Ok(principal) = &judged {
            self.auth.touch(&principal.session);
        }
        judged
    }
}

fn is_refusal(error: &AccountError) -> bool {
    matches!(error, AccountError::Denied(_) | AccountError::FromElsewhere)
}

/// Counts a login.
pub(super) fn count_login(result: &'static str) {
    counter!(LOGINS, "result" => result).increment(1);
}
