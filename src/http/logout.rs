//! How sessions end at their owner's wish: logout, logout-all-devices, one device from the list.

use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};

use super::body::OptionalJson;
use super::cookies;
use super::extract::{Caller, Client, PathText, bearer, missing};
use super::state::{Gateway, Shared};
use crate::accounts::{DeviceEntry, LoggedOutEverywhere};
use crate::auth::AuthError;
use crate::credentials::session_cookie;
use crate::ids::Sid;
use crate::problem::Problem;
use crate::secret::{AccessToken, SessionSecret};

const PREFER: HeaderName = HeaderName::from_static("prefer");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
const LONGEST_WAIT_SECONDS: u64 = 5;

/// The body of a logout without an access token.
#[derive(Deserialize, utoipa::ToSchema)]
pub(super) struct LogoutRequest {
    /// The session's secret.
    #[schema(format = Uuid)]
    session_id: Option<String>,
}

/// Done.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Done {}

/// The caller's devices.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct DeviceList {
    /// Live sessions, newest use first.
    sessions: Vec<DeviceEntry>,
}

/// End this session.
///
/// By the access token (one that has only expired is good enough), by `session_id` in the body, or in cookie mode by the
/// cookie. What has already ended answers 200 too.
#[utoipa::path(
    post, path = "/api/v1/auth/logout", tag = "sessions", security(("bearer" = []), ()),
    request_body(content = Option<LogoutRequest>, description = "Only when there is no access token"),
    responses(
        (status = 200, description = "The session has ended, on every node", body = Done),
        (status = 403, description = "`csrf`: a cookie alone, from a page that is not allowed"),
    )
)]
pub(super) async fn logout(
    State(gateway): State<Shared>,
    client: Client,
    headers: HeaderMap,
    OptionalJson(body): OptionalJson<LogoutRequest>,
) -> Result<Response, Problem> {
    let token = bearer(&headers)?;
    match (token, body.and_then(|body| body.session_id)) {
        (Some(token), secret) => by_token(&gateway, &token, secret.as_deref(), &client).await?,
        (None, Some(secret)) => by_secret(&gateway, SessionSecret::parse(&secret).as_ref(), &client).await?,
        (None, None) => {
            let cookie = if gateway.config.cookies { session_cookie(&headers, client.https) } else { None };
            let secret = cookie.ok_or_else(missing)?;
            if !gateway.origins.allows_cookie_call(&headers) {
                return Err(Problem::csrf());
            }
            by_secret(&gateway, Some(&secret), &client).await?;
        }
    }
    let mut response = axum::Json(Done {}).into_response();
    cookies::clear(&gateway, &client, &mut response);
    Ok(response)
}

async fn by_token(
    gateway: &Gateway,
    token: &AccessToken,
    secret: Option<&str>,
    client: &Client,
) -> Result<(), Problem> {
    let judged = gateway.timed(gateway.auth.token_for_logout(token)).await;
    match (judged, secret) {
        (Ok(claims), secret) => {
            gateway.accounts.log_out_by_token(&claims).await?;
            tracing::info!(user = %claims.user_id, sid = %claims.sid, ip = %client.ip, "logged out");
            match secret {
                // Usually the same session, which has ended by now.
                Some(secret) => by_secret(gateway, SessionSecret::parse(secret).as_ref(), client).await,
                None => Ok(()),
            }
        }
        // A page that sends both must get out although its token is no good any more: its key may have been revoked.
        (Err(AuthError::Denied(_)), Some(secret)) => {
            by_secret(gateway, SessionSecret::parse(secret).as_ref(), client).await
        }
        (Err(error), _) => Err(error.into()),
    }
}

async fn by_secret(gateway: &Gateway, secret: Option<&SessionSecret>, client: &Client) -> Result<(), Problem> {
    // What is no secret opens nothing, like one that opens nothing any more.
    let Some(secret) = secret else { return Ok(()) };
    // A made-up secret costs a look into the database, here as at validate-session.
    gateway.limits.validation(client.ip).await?;
    gateway.accounts.log_out_by_secret(secret).await?;
    tracing::info!(ip = %client.ip, "logged out by the session's secret");
    Ok(())
}

/// End every session of the caller.
///
/// Every session, token and open socket, on every node. With `Prefer: wait=N` (RFC 7240, at most 5 seconds) the answer
/// waits for the live nodes to confirm and says what they closed.
#[utoipa::path(
    post, path = "/api/v1/auth/logout-all-devices", tag = "sessions", security(("bearer" = [])),
    params(("Prefer" = Option<String>, Header, description = "`wait=N`: seconds to wait for the other nodes, at most 5")),
    responses((status = 200, description = "All have ended", body = LoggedOutEverywhere))
)]
pub(super) async fn logout_all_devices(
    State(gateway): State<Shared>,
    client: Client,
    headers: HeaderMap,
    Caller(principal): Caller,
) -> Result<Response, Problem> {
    let wait = wait_preference(&headers);
    let ended = gateway.accounts.log_out_everywhere(&principal, wait.map(Duration::from_secs)).await?;
    let user = principal.user.user.id;
    tracing::info!(%user, ip = %client.ip, sessions = ended.sessions_revoked, "logged out everywhere");
    let mut response = axum::Json(ended).into_response();
    if let Some(applied) = wait.and_then(|seconds| HeaderValue::from_str(&format!("wait={seconds}")).ok()) {
        response.headers_mut().insert(PREFERENCE_APPLIED, applied);
    }
    cookies::clear(&gateway, &client, &mut response);
    Ok(response)
}

/// The caller's devices.
#[utoipa::path(
    get, path = "/api/v1/auth/sessions", tag = "sessions", security(("bearer" = [])),
    responses((status = 200, description = "Live sessions", body = DeviceList))
)]
pub(super) async fn sessions(State(gateway): State<Shared>, Caller(principal): Caller) -> Result<Response, Problem> {
    let sessions = gateway.accounts.devices(&principal).await?;
    Ok(axum::Json(DeviceList { sessions }).into_response())
}

/// End one of the caller's sessions. Their own is a logout.
#[utoipa::path(
    delete, path = "/api/v1/auth/sessions/{sid}", tag = "sessions", security(("bearer" = [])),
    params(("sid" = String, Path, format = Uuid, description = "From the list of sessions")),
    responses(
        (status = 204, description = "It has ended"),
        (status = 404, description = "The caller has no such live session"),
    )
)]
pub(super) async fn end_session(
    State(gateway): State<Shared>,
    client: Client,
    Caller(principal): Caller,
    PathText(sid): PathText,
) -> Result<Response, Problem> {
    let not_theirs = || Problem::not_found("You have no such session.");
    // What is no UUID names no session of anybody.
    let sid: Sid = sid.and_then(|text| text.parse().ok()).ok_or_else(not_theirs)?;
    if !gateway.accounts.end_session(&principal, sid).await? {
        return Err(not_theirs());
    }
    tracing::info!(user = %principal.user.user.id, %sid, ip = %client.ip, "session ended by its user");
    let mut response = StatusCode::NO_CONTENT.into_response();
    if sid == principal.session.sid {
        cookies::clear(&gateway, &client, &mut response);
    }
    Ok(response)
}

/// `wait=N` of the `Prefer` headers (RFC 7240), cut to what we are ready to wait. What cannot be read is ignored, as the
/// RFC has it; of several the first counts.
fn wait_preference(headers: &HeaderMap) -> Option<u64> {
    let lines = headers.get_all(PREFER).iter().filter_map(|line| line.to_str().ok());
    let preferences = lines.flat_map(|line| line.split(',')).filter_map(|preference| preference.split(';').next());
    let (_, value) = preferences
        .filter_map(|pair| pair.split_once('='))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("wait"))?;
    let seconds: u64 = value.trim().trim_matches('"').parse().ok()?;
    Some(seconds.min(LONGEST_WAIT_SECONDS))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preferred(lines: &[&str]) -> Option<u64> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(PREFER, HeaderValue::from_str(line).unwrap());
        }
        wait_preference(&headers)
    }

    #[test]
    fn a_preference_to_wait_is_found_and_capped() {
        assert_eq!(preferred(&["wait=2"]), Some(2));
        assert_eq!(preferred(&["respond-async, Wait = \"3\"; foo=bar"]), Some(3));
        assert_eq!(preferred(&["return=minimal", "wait=600"]), Some(5));
        assert_eq!(preferred(&["wait=1", "wait=4"]), Some(1));
        for odd in ["", "wait", "wait=", "wait=-1", "wait=soon", "waiting=3"] {
            assert_eq!(preferred(&[odd]), None, "{odd}");
        }
    }
}
