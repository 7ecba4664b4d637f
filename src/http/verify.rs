//! Forward-auth: may this request pass, and whose is it? The hot path of many installations.
//!
//! Stands outside the layers that the other endpoints have, and does by hand what it needs of them; a hit does not even
//! go through the router. Each of these costs a few allocations, and a hit costs little more than those.

use std::fmt::Write as _;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};

use super::edge;
use super::extract::{Client, bearer, missing};
use super::login::device;
use super::state::{Gateway, Shared};
use crate::accounts::AccountError;
use crate::auth::Principal;
use crate::credentials::session_cookie;
use crate::problem::Problem;

const PATH: &str = "/api/v1/auth/verify";

const USER_ID: HeaderName = HeaderName::from_static("x-auth-user-id");
const SESSION: HeaderName = HeaderName::from_static("x-auth-session");
const EMAIL: HeaderName = HeaderName::from_static("x-auth-email");

/// Whether a request may pass, for proxies.
///
/// For nginx `auth_request`, Traefik ForwardAuth, Caddy `forward_auth`, Envoy ext_authz. By the access token, or in
/// cookie mode by the cookie, if the call does not come from a script on a page that is not allowed.
#[utoipa::path(
    get, path = PATH, tag = "profile", security(("bearer" = []), ("cookie" = [])),
    responses(
        (status = 204, description = "It may pass", headers(
            ("X-Auth-User-Id" = String, description = "The user's id"),
            ("X-Auth-Session" = String, description = "The session's public handle"),
            ("X-Auth-Email" = String, description = "The address; `%` and what is not visible ASCII percent-encoded"),
        )),
        (status = 403, description = "`csrf`"),
    )
)]
pub(super) async fn verify(State(gateway): State<Shared>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    let id = edge::request_id(&parts.headers);
    let mut response = edge::guarded(answer(&gateway, parts)).await;
    edge::mark(&mut response, id, true);
    response
}

/// The answer that memory alone has, for the server to give without asking the router. A page's request needs CORS
/// headers, which are the router's.
pub(super) fn at_once<B>(gateway: &Gateway, request: &axum::http::Request<B>) -> Option<Response> {
    let headers = request.headers();
    let ours = request.uri().path() == PATH && request.method() == Method::GET && !headers.contains_key(header::ORIGIN);
    let principal = ours.then(|| gateway.recall(headers)).flatten()?;
    let mut response = pass(&principal);
    edge::mark(&mut response, edge::request_id(headers), true);
    Some(response)
}

async fn answer(gateway: &Shared, parts: Parts) -> Response {
    match judge(gateway, &parts).await {
        Ok(principal) => pass(&principal),
        Err(problem) => problem.into_response(),
    }
}

async fn judge(gateway: &Shared, parts: &Parts) -> Result<Principal, Problem> {
    if let Some(token) = bearer(&parts.headers)? {
        return Ok(gateway.judge_token(&token).await?);
    }
    if gateway.config.cookies { judge_cookie(gateway, parts).await } else { Err(missing()) }
}

async fn judge_cookie(gateway: &Shared, parts: &Parts) -> Result<Principal, Problem> {
    let client = Client::of(parts, gateway);
    let secret = session_cookie(&parts.headers, client.https).ok_or_else(missing)?;
    if !gateway.origins.allows_cookie_read(&parts.headers) {
        return Err(Problem::csrf());
    }
    gateway.judge_secret(&secret, &device(&client, None)).await.map_err(|error| match error {
        // A bad cookie counts as none.
        AccountError::Denied(_) => missing(),
        other => other.into(),
    })
}

fn pass(principal: &Principal) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    // All that will be there, so that the map never grows.
    headers.reserve(8);
    headers.insert(USER_ID, uuid_value(principal.user.user.id.0));
    headers.insert(SESSION, uuid_value(principal.session.sid.0));
    headers.insert(EMAIL, email_value(&principal.user.user.email));
    response
}

fn uuid_value(id: uuid::Uuid) -> HeaderValue {
    let mut buffer = uuid::Uuid::encode_buffer();
    let text = id.hyphenated().encode_lower(&mut buffer);
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
}

/// The address as a header's value: visible ASCII as it is, every other byte and `%` percent-encoded.
fn email_value(email: &str) -> HeaderValue {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && byte != b'%';
    let encoded = if email.bytes().all(is_plain) {
        HeaderValue::from_str(email)
    } else {
        let mut text = String::with_capacity(email.len() * 3);
        for byte in email.bytes() {
            let _ = if is_plain(byte) { text.write_char(char::from(byte)) } else { write!(text, "%{byte:02X}") };
        }
        HeaderValue::from_str(&text)
    };
    encoded.unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_fits_into_a_header() {
        for (email, value) in [
            ("alice@example.test", "alice@example.test"),
            ("zoë@example.test", "zo%C3%AB@example.test"),
            ("100%@example.test", "100%25@example.test"),
            ("a\r\nx: y@b", "a%0D%0Ax:%20y@b"),
        ] {
            assert_eq!(email_value(email), value);
        }
    }
}
