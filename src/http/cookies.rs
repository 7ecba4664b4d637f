//! Cookie mode: the session's secret as a cookie, set by whatever begins or takes up a session, cleared by logout.

use axum::http::{HeaderValue, header};
use axum::response::Response;

use super::extract::Client;
use super::state::Gateway;
use crate::accounts::LoggedIn;
use crate::credentials::COOKIE_NAMES;

/// The cookie's name for clients that came this way. On https its prefix makes browsers refuse one that another host or
/// plain http has planted, so that the other name is not even looked at there.
pub(super) fn name(https: bool) -> &'static str {
    let [https_name, http_name] = COOKIE_NAMES;
    if https { https_name } else { http_name }
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
    let (name, secure) = (name(client.https), if client.https { "; Secure" } else { "" });
    let cookie = format!("{name}={value}; Max-Age={max_age_seconds}; Path=/; HttpOnly; SameSite=Lax{secure}");
    if let Ok(mut cookie) = HeaderValue::from_str(&cookie) {
        cookie.set_sensitive(true);
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
}
