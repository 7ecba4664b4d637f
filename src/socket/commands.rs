//! What clients ask for: `connect`, `refresh`, `rpc` and the rest. Every command is judged before it is served.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::time::timeout;

use super::connection::{Connection, Early, Exit};
use super::judging::PATIENCE;
use super::measure;
use crate::accounts::DeviceEntry;
use crate::auth::{AuthError, Denied, Principal, Recheck};
use crate::protocol::{self, Admission, Close, ReplyError, Request};
use crate::registry::{LimitReached, Subject};
use crate::secret::AccessToken;
use crate::store::StoreError;

/// The methods below `auth.`.
#[derive(Clone, Copy)]
enum Method {
    Me,
    Sessions,
    LogOut,
    LogOutEverywhere,
}

impl Method {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "auth.me" => Self::Me,
            "auth.sessions" => Self::Sessions,
            "auth.logout" => Self::LogOut,
            "auth.logout_all_devices" => Self::LogOutEverywhere,
            _ => return None,
        })
    }
}

impl Connection {
    pub(super) async fn serve(&mut self, id: u32, request: Request<'_>) -> Result<(), Exit> {
        if let Request::Connect(token) = request {
            return Box::pin(self.connect(id, token)).await;
        }
        if self.principal.is_none() {
            // SDKs send subscriptions in one frame with `connect`; when its token has expired they come back anyway.
            return if self.refused {
                self.fail(id, ReplyError::UNAUTHORIZED)
            } else {
                Err(self.close(Close::BAD_REQUEST))
            };
        }
        if !self.judge().await? {
            return self.fail(id, ReplyError::INTERNAL);
        }
        match request {
            Request::Refresh(token) => Box::pin(self.refresh(id, token)).await,
            Request::Rpc { method, data } => self.rpc(id, method, data).await,
            Request::Ping => self.send(protocol::ping_reply(id)),
            Request::Channel | Request::Connect(_) => self.fail(id, ReplyError::NOT_AVAILABLE),
        }
    }

    fn fail(&mut self, id: u32, error: ReplyError) -> Result<(), Exit> {
        self.send(protocol::error_reply(id, error))
    }

    async fn connect(&mut self, id: u32, token: Option<AccessToken>) -> Result<(), Exit> {
        if self.connected {
            return Err(self.close(Close::BAD_REQUEST));
        }
        let good = match (token, self.principal.is_some()) {
            (Some(token), _) => self.adopt(id, token).await?,
            (None, true) => {
                // Admitted in the handshake. Closed rather than answered when it cannot be judged: SDKs come back.
                if !self.judge().await? {
                    return Err(self.close(Close::AUTH_UNAVAILABLE));
                }
                true
            }
            (None, false) => return Err(self.refuse_credential(None)),
        };
        if !good {
            return Ok(());
        }
        self.touch();
        self.start_heartbeat();
        let seconds = u32::try_from(self.state.config.ping_interval.as_secs()).unwrap_or(u32::MAX).max(1);
        let admission =
            Admission { ping: (!self.frame_pings).then_some(seconds), pong: !self.frame_pings, ..self.admission() };
        self.send(protocol::connect_reply(id, admission))
    }

    /// Lets the token of `connect` govern the socket. False when it was answered with an error.
    async fn adopt(&mut self, id: u32, token: AccessToken) -> Result<bool, Exit> {
        let auth = self.state.auth.clone();
        let principal = match self.ask(Early::Refused, async move { auth.token(&token).await }).await? {
            Ok(principal) => principal,
            Err(AuthError::Denied(Denied::Expired)) => {
                self.refused = true;
                self.fail(id, ReplyError::TOKEN_EXPIRED)?;
                return Ok(false);
            }
            Err(AuthError::Denied(denied)) => return Err(self.refuse_credential(Some(denied))),
            Err(AuthError::CannotTell) => return Err(self.close(Close::AUTH_UNAVAILABLE)),
        };
        let was_live = self.principal.is_some();
        if !self.take_over(principal).await? {
            return Err(self.close(Close::AUTH_UNAVAILABLE));
        }
        if was_live {
            self.arm_expiry()
        } else {
            self.went_live()
        }
        Ok(true)
    }

    /// Puts a principal that was just proven in the place of the one before. False when the second look cannot tell;
    /// then everything is as before.
    async fn take_over(&mut self, principal: Principal) -> Result<bool, Exit> {
        if self.principal.as_ref().is_some_and(|held| held.session.sid != principal.session.sid) {
            return Err(self.refuse_credential(None));
        }
        // Entered first and judged again afterwards: a revocation in between is either seen here or finds the socket.
        let standing = self.registration.bind(Subject::from(&principal)).map_err(|limit| self.over(limit))?;
        if let Some(headcount) = self.state.headcount.clone().filter(|headcount| headcount.must_ask(standing)) {
            let counting = async move { headcount.admits(standing).await };
            self.during(Early::Waits, counting).await?.map_err(|limit| self.over(limit))?;
        }
        let unsure = self.state.auth.recheck(&principal) == Recheck::Unsure;
        let before = self.principal.replace(principal);
        if unsure && !self.refetch().await? {
            self.restore(before);
            return Ok(false);
        }
        Ok(true)
    }

    fn over(&self, limit: LimitReached) -> Exit {
        if let Some(name) = limit.name() {
            measure::limit_reached(name);
        }
        self.close(match limit {
            LimitReached::User | LimitReached::Address | LimitReached::Node | LimitReached::Waiting => {
                Close::CONNECTION_LIMIT
            }
            LimitReached::Draining => Close::SHUTDOWN,
        })
    }

    fn restore(&mut self, before: Option<Principal>) {
        self.principal = before;
        if let Some(held) = &self.principal {
            // Entered under its own user again, which cannot be over any limit.
            let _ = self.registration.bind(Subject::from(held));
            // An entry for the old token may have passed while the new one stood in the registry.
            self.link().ask_to_rejudge();
        }
    }

    async fn refresh(&mut self, id: u32, token: Option<AccessToken>) -> Result<(), Exit> {
        let expires = self.principal.as_ref().is_some_and(|principal| principal.token.is_some());
        let Some(token) = token.filter(|_| expires) else { return Err(self.close(Close::BAD_REQUEST)) };
        let auth = self.state.auth.clone();
        match self.ask(Early::Waits, async move { auth.token(&token).await }).await? {
            Ok(principal) => {
                if !self.take_over(principal).await? {
                    return self.fail(id, ReplyError::INTERNAL);
                }
                self.arm_expiry();
                self.touch();
                let admission = self.admission();
                self.send(protocol::refresh_reply(id, admission))
            }
            Err(AuthError::Denied(denied)) => Err(self.refuse_credential(Some(denied))),
            Err(AuthError::CannotTell) => self.fail(id, ReplyError::INTERNAL),
        }
    }

    async fn rpc(&mut self, id: u32, method: Cow<'_, str>, data: Option<&RawValue>) -> Result<(), Exit> {
        self.touch();
        if method == "echo" {
            return self.send(protocol::rpc_reply(id, &data));
        }
        match Method::named(&method) {
            Some(method) => Box::pin(self.auth_rpc(id, method)).await,
            None if method.starts_with("auth.") => self.fail(id, ReplyError::METHOD_NOT_FOUND),
            None => self.fail(id, ReplyError::NOT_AVAILABLE),
        }
    }

    async fn auth_rpc(&mut self, id: u32, method: Method) -> Result<(), Exit> {
        let Some(principal) = self.principal.clone() else { return self.fail(id, ReplyError::UNAUTHORIZED) };
        let accounts = self.state.accounts.clone();
        match method {
            Method::Me => {
                // The principal at hand is good, but the profile may have changed since it was read.
                let fresh = self.refetch().await?;
                match &self.principal {
                    Some(principal) if fresh => {
                        let reply = protocol::rpc_reply(id, &principal.user.user);
                        self.send(reply)
                    }
                    _ => self.fail(id, ReplyError::INTERNAL),
                }
            }
            Method::Sessions => {
                let devices = self
                    .during(Early::Waits, timeout(PATIENCE, async move { accounts.devices(&principal).await }))
                    .await?;
                let list = devices.unwrap_or_else(|_| Err(StoreError::Unavailable("no answer in time".into())));
                self.answer(id, list.map(|sessions: Vec<DeviceEntry>| json!({ "sessions": sessions })))
            }
            // Not `during`: our own logout closes this very socket, and must not be cut off half-way by that.
            Method::LogOut => {
                let done = accounts.log_out(&principal).await;
                self.answer(id, done.map(|()| json!({})))
            }
            Method::LogOutEverywhere => {
                let done = accounts.log_out_everywhere(&principal, None).await;
                self.answer(id, done)
            }
        }
    }

    fn answer<T: Serialize>(&mut self, id: u32, outcome: Result<T, StoreError>) -> Result<(), Exit> {
        match outcome {
            Ok(data) => self.send(protocol::rpc_reply(id, &data)),
            Err(error) => {
                tracing::warn!(client = %self.link().id(), %error, "failed to serve an rpc");
                self.fail(id, ReplyError::INTERNAL)
            }
        }
    }

    fn admission(&self) -> Admission {
        let claims = self.principal.as_ref().and_then(|principal| principal.token.as_ref());
        let ttl = claims.map(|claims| protocol::refresh_ttl(claims.expires_at - self.state.clock.now_unix()));
        Admission {
            client: self.link().id(),
            version: env!("CARGO_PKG_VERSION"),
            expires: ttl.is_some(),
            ttl,
            ping: None,
            pong: false,
        }
    }

    fn touch(&self) {
        if let Some(principal) = &self.principal {
            self.state.auth.touch(&principal.session);
        }
    }

    /// Closes upon a credential that is not good; none at all is not good either.
    fn refuse_credential(&self, denied: Option<Denied>) -> Exit {
        let held = self.principal.as_ref().map(|principal| &principal.session);
        let (user, sid) = (held.map(|session| session.user_id), held.map(|session| session.sid));
        tracing::info!(client = %self.link().id(), ?user, ?sid, ip = %self.ip, origin = ?self.origin, ?denied, "credential refused on a socket");
        self.close(denied.map_or(Close::INVALID_TOKEN, Close::for_presented))
    }
}
