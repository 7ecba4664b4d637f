//! The operator's side of HTTP: `/api/v1/admin`, for holders of a key of the admin API. Off the users' path: other keys,
//! other limits, no cookies, no CORS.

mod keys;
mod limits;
mod query;
mod sessions;
mod tokens;
mod trail;
mod users;
mod webhooks;

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use metrics::counter;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::{Client, bearer};
use super::state::Shared;
use crate::audit::Counted;
use crate::metrics::ADMIN_REQUESTS;
use crate::operator::{By, Permission};
use crate::problem::Problem;
use crate::secret::AdminSecret;
use crate::store::AdminKey;
pub(super) use limits::AdminLimits;
pub(super) use query::Query;
pub(super) use trail::AuditPage;

/// Everything below it is for operators.
pub(super) const PREFIX: &str = "/api/v1/admin";

/// Every endpoint of the admin API.
pub(super) fn endpoints() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(users::search))
        .routes(routes!(users::show))
        .routes(routes!(users::disable))
        .routes(routes!(users::enable))
        .routes(routes!(users::sessions, users::end_sessions))
        .routes(routes!(sessions::show, sessions::end))
        .routes(routes!(sessions::end_everybody))
        .routes(routes!(tokens::introspect))
        .routes(routes!(tokens::revoke))
        .routes(routes!(tokens::revoke_by_id))
        .routes(routes!(trail::audit))
        .routes(routes!(trail::statistics))
        .routes(routes!(keys::list, keys::create))
        .routes(routes!(keys::revoke))
        .routes(routes!(keys::rotate))
        .routes(routes!(webhooks::list))
        .routes(routes!(webhooks::retry))
}

/// Whoever shows a good key of the admin API: as a bearer token, or as the password of Basic, which is what many libraries
/// for introspection send (RFC 7662 section 2.1).
pub(super) struct Keyholder {
    key: Arc<AdminKey>,
    ip: IpAddr,
    gateway: Shared,
}

impl FromRequestParts<Shared> for Keyholder {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, gateway: &Shared) -> Result<Self, Problem> {
        let ip = Client::of(parts, gateway).ip;
        let outcome = judge(&parts.headers, ip, gateway).await;
        let result = match &outcome {
            Ok(_) => "good",
            Err(problem) => match problem.status().as_u16() {
                429 => "throttled",
                503 => "cannot_tell",
                _ => "refused",
            },
        };
        counter!(ADMIN_REQUESTS, "result" => result).increment(1);
        Ok(Self { key: outcome?, ip, gateway: gateway.clone() })
    }
}

impl Keyholder {
    /// The permission to do this; 403 without it.
    pub fn may(&self, permission: Permission) -> Result<By, Problem> {
        let limits = &self.gateway.admin_limits;
        limits.call(self.key.id, permission == Permission::TokensIntrospect)?;
        if self.key.scopes.iter().any(|scope| scope == permission.as_str()) {
            return Ok(By { key: Some(self.key.id), name: self.key.name.clone(), ip: Some(self.ip) });
        }
        counter!(ADMIN_REQUESTS, "result" => "forbidden").increment(1);
        self.gateway.tally.note_key(Counted::AdminRefused, self.key.id);
        Err(Problem::insufficient_scope(permission))
    }

    /// What the key may do.
    pub fn scopes(&self) -> &[String] {
        &self.key.scopes
    }
}

async fn judge(headers: &HeaderMap, ip: IpAddr, gateway: &Shared) -> Result<Arc<AdminKey>, Problem> {
    let shown = shown(headers)?.ok_or_else(|| {
        Problem::unauthorized("unauthenticated", "This needs a key of the admin API: Authorization: Bearer <key>.")
    })?;
    // Charged before it is looked at, so that parallel guesses count too.
    let guess = gateway.admin_limits.guess(ip)?;
    let found = match AdminSecret::parse(&shown) {
        Some(secret) => gateway.admin_keys.find(&secret).await,
        None => Ok(None),
    };
    match found {
        Ok(Some(key)) => {
            guess.give_back();
            Ok(key)
        }
        Ok(None) => {
            tracing::info!(%ip, "a key of the admin API was refused");
            gateway.tally.note(Counted::AdminRefused, None, Some(ip));
            Err(Problem::invalid_token("The key is not known, has expired or was revoked."))
        }
        Err(error) => {
            guess.give_back();
            Err(error.into())
        }
    }
}

/// What is shown as a key, whatever it is.
fn shown(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    if let Some(token) = bearer(headers)? {
        return Ok(Some(token.expose().to_owned()));
    }
    let mut lines = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return Ok(None) };
    let encoded = line.to_str().ok().and_then(|text| text.split_once(' '));
    let Some(("Basic" | "basic", encoded)) = encoded else { return Ok(None) };
    let decoded = STANDARD.decode(encoded.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    // What cannot be read is a bad key, not a missing one.
    Ok(Some(decoded.and_then(|pair| Some(pair.split_once(':')?.1.to_owned())).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn a_key_rides_as_a_bearer_or_as_the_password_of_basic() {
        let shown = |text: &'static str| {
            let headers = [(header::AUTHORIZATION, HeaderValue::from_static(text))].into_iter().collect();
            super::shown(&headers).unwrap()
        };
        assert_eq!(shown("Bearer abc").as_deref(), Some("abc"));
        assert_eq!(shown("Basic b3BzOmFiYw==").as_deref(), Some("abc"));
        assert_eq!(shown("Basic %%%").as_deref(), Some(""));
        assert_eq!(shown("Digest abc"), None);
    }
}
