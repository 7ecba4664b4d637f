//! Where a credential rides in an HTTP request, and who sent it. Reads; judging is left to `auth`.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::extract::{ConnectInfo, FromRequestParts, Path};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};

use super::state::Shared;
use crate::auth::{AuthError, Denied, Principal};
use crate::client_address::{came_over_https, client_address};
use crate::credentials::{self, CredentialError};
use crate::problem::Problem;
use crate::secret::AccessToken;

/// The bearer token of a request, if it shows one.
///
/// # Errors
/// 400 when the header is repeated: which of the two a proxy in front of us has looked at cannot be known.
pub(super) fn bearer(headers: &HeaderMap) -> Result<Option<AccessToken>, Problem> {
    credentials::bearer(headers).map_err(|error| match error {
        // What is no text is no token of ours.
        CredentialError::Unreadable => AuthError::Denied(Denied::Forged).into(),
        other => other.into(),
    })
}

/// What the route's parameter says; `None` when it is no UTF-8, for which axum would answer in plain text.
pub(super) struct PathText(pub Option<String>);

impl<S: Send + Sync> FromRequestParts<S> for PathText {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Infallible> {
        Ok(Self(Path::from_request_parts(parts, state).await.ok().map(|Path(text)| text)))
    }
}

/// The other end of a request.
pub(super) struct Client {
    /// Its address, through trusted proxies.
    pub ip: IpAddr,
    /// It speaks TLS (to a trusted proxy).
    pub https: bool,
    /// `User-Agent`.
    pub user_agent: Option<String>,
}

impl Client {
    pub fn of(parts: &Parts, gateway: &Shared) -> Self {
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        let peer = peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |ConnectInfo(address)| address.ip());
        let trusted = &gateway.config.trusted_proxies;
        let user_agent = parts.headers.get(header::USER_AGENT);
        Self {
            ip: client_address(peer, &parts.headers, trusted),
            https: came_over_https(peer, &parts.headers, trusted),
            user_agent: user_agent.and_then(|agent| agent.to_str().ok()).map(str::to_owned),
        }
    }
}

impl FromRequestParts<Shared> for Client {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, gateway: &Shared) -> Result<Self, Infallible> {
        Ok(Self::of(parts, gateway))
    }
}

/// Whoever shows a good access token.
pub(super) struct Caller(pub Principal);

impl FromRequestParts<Shared> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, gateway: &Shared) -> Result<Self, Problem> {
        let token = bearer(&parts.headers)?.ok_or_else(missing)?;
        Ok(Self(gateway.judge_token(&token).await?))
    }
}

/// 401 for a request without any credential.
pub(super) fn missing() -> Problem {
    Problem::unauthorized("unauthenticated", "This needs an access token: Authorization: Bearer <token>.")
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(&'static str, &[u8])]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_bytes(value).unwrap());
        }
        headers
    }

    #[test]
    fn a_bearer_that_is_no_text_is_a_bad_token_and_two_are_malformed() {
        assert_eq!(bearer(&headers(&[("authorization", b"Bearer \xff\xfe")])).unwrap_err().status(), 401);
        let twice = headers(&[("authorization", b"Bearer a"), ("authorization", b"Bearer a")]);
        assert_eq!(bearer(&twice).unwrap_err().status(), 400);
        assert!(bearer(&headers(&[("authorization", b"Basic YTpi")])).unwrap().is_none());
    }
}
