//! Cookie mode: the session's secret as a cookie, set by whatever begins or takes up a session, cleared by logout.

use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;

use super::extract::Client;
use super::state::Gateway;
use crate::accounts::LoggedIn;
use crate::credentials::{cookie_name, session_cookie};
use crate::problem::Problem;

/// Refuses a call of a foreign page whose answer would set the cookie: it would log the browser in as somebody else.
pub(super) fn may_be_set(gateway: &Gateway, headers: &HeaderMap) -> Result<(), Problem> {
    let allowed = !gateway.config.cookies || gateway.origins.allows_cookie_setting(headers);
    if allowed { Ok(()) } else { Err(Problem::csrf()) }
}

/// Ends the session whose cookie a login came with: the login takes its place in this browser. Whoever has planted the
/// cookie, or knows the old secret, is left with nothing (session fixation).
pub(super) async fn end_previous(gateway: &Gateway, client: &Client, headers: &HeaderMap) {
    let cookie = if gateway.config.cookies { session_cookie(headers, client.https) } else { None };
    let Some(secret) = cookie else { return };
    if let Err(error) = gateway.accounts.log_out_by_secret(&secret).await {
        // The cookie is replaced in any case, and the person is in.
        tracing::warn!(%error, ip = %client.ip, "failed to end the session of the cookie that a login came with");
    }
}

/// Adds the cookie of this session to an answer, in cookie mode.
pub(super) fn set(gateway: &Gateway, client: &Client, login: &LoggedIn, response: &mut Response) {
    // It slides with every use of the session, which is now, and ends with it.
    let left = login.session.max_expires_at.unix_timestamp().saturating_sub(gateway.auth.now_unix());
    let sliding = i64::try_from(gateway.config.session_ttl.as_secs()).unwrap_or(i64::MAX);
    write(gateway, client, &login.secret.expose(), sliding.min(left).max(0), response);
}

/// Makes the browser forget the cookie, in cookie mode.
pub(super) fn clear(gateway: &Gateway, client: &Client, response: &mut Response) {
    write(gateway, client, "", 0, response);
}

fn write(gateway: &Gateway, client: &Client, value: &str, max_age_seconds: i64, response: &mut Response) {
    if !gateway.config.cookies {
        return;
    }
    let (name, secure) = (cookie_name(client.https), if client.https { "; Secure" } else { "" });
    let cookie = format!("{name}={value}; Max-Age={max_age_seconds}; Path=/; HttpOnly; SameSite=Lax{secure}");
    if let Ok(mut cookie) = HeaderValue::from_str(&cookie) {
        cookie.set_sensitive(true);
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
}
