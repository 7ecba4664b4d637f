//! Where a credential rides in an HTTP request, and who sent it. Reads; judging is left to `auth`.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};

use super::cookies;
use super::state::Shared;
use crate::auth::Principal;
use crate::client_address::{came_over_https, client_address};
use crate::problem::Problem;
use crate::secret::{AccessToken, SessionSecret};

/// Reads `Authorization: Bearer` (RFC 6750 section 2.1). `None` when there is no bearer token at all; another scheme is
/// not for us.
///
/// # Errors
/// 400 when the header is repeated: which of them a proxy in front of us has looked at cannot be known.
pub(super) fn bearer(headers: &HeaderMap) -> Result<Option<AccessToken>, Problem> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Problem::bad_request("malformed_authorization", "There is more than one Authorization header."));
    }
    let bytes = value.as_bytes();
    let (scheme, rest) = bytes.split_at(bytes.iter().position(|&byte| byte == b' ').unwrap_or(bytes.len()));
    let token = rest.trim_ascii();
    if !scheme.eq_ignore_ascii_case(b"bearer") || token.is_empty() {
        return Ok(None);
    }
    // What is no text is no token of ours either: the judge says so.
    Ok(Some(AccessToken::new(std::str::from_utf8(token).unwrap_or("?"))))
}

/// Reads the session cookie. A bad one, or two that differ, count as none.
pub(super) fn session_cookie(headers: &HeaderMap, https: bool) -> Option<SessionSecret> {
    let name = cookies::name(https);
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let mut found = lines
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.split_once('='))
        .filter(|(key, _)| key.trim() == name)
        .map(|(_, value)| value.trim());
    let first = found.next()?;
    found.all(|other| other == first).then(|| SessionSecret::parse(first)).flatten()
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

    fn token(value: &[u8]) -> Option<String> {
        bearer(&headers(&[("authorization", value)])).unwrap().map(|token| token.expose().to_owned())
    }

    #[test]
    fn a_bearer_token_is_found_whatever_the_case_of_its_scheme() {
        for value in ["Bearer a.b.c", "bearer a.b.c", "BEARER  a.b.c"] {
            assert_eq!(token(value.as_bytes()).as_deref(), Some("a.b.c"));
        }
    }

    #[test]
    fn what_is_no_bearer_is_none_and_what_is_no_text_is_judged() {
        for value in ["", "Bearer", "Bearer ", "Basic YTpi", "Bearera.b.c", "a.b.c"] {
            assert_eq!(token(value.as_bytes()), None, "{value}");
        }
        assert_eq!(token(b"Bearer \xff\xfe").as_deref(), Some("?"));
        assert_eq!(token(b"Bearer a b").as_deref(), Some("a b"));
    }

    #[test]
    fn two_authorizations_are_malformed() {
        let twice = headers(&[("authorization", b"Bearer a"), ("authorization", b"Bearer a")]);
        assert_eq!(bearer(&twice).unwrap_err().status(), 400);
    }

    #[test]
    fn the_cookie_is_the_one_of_the_transport() {
        let (secret, other) = (SessionSecret::random(), SessionSecret::random());
        let line = format!("a=b; portcullis_session={}; __Host-portcullis_session={}", secret.expose(), other.expose());
        let headers = headers(&[("cookie", line.as_bytes())]);
        assert_eq!(session_cookie(&headers, false), Some(secret));
        assert_eq!(session_cookie(&headers, true), Some(other));
    }

    #[test]
    fn a_bad_cookie_counts_as_none() {
        let secret = SessionSecret::random().expose();
        let other = SessionSecret::random().expose();
        for line in [
            "portcullis_session=".to_owned(),
            "portcullis_session=x".to_owned(),
            format!("portcullis_sessio={secret}"),
            format!("portcullis_session={secret}; portcullis_session={other}"),
        ] {
            assert_eq!(session_cookie(&headers(&[("cookie", line.as_bytes())]), false), None, "{line}");
        }
        let twice = format!("portcullis_session={secret}; portcullis_session={secret}");
        assert!(session_cookie(&headers(&[("cookie", twice.as_bytes())]), false).is_some());
    }
}
