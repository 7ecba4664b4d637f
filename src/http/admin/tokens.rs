//! Tokens: introspection (RFC 7662) and revocation (RFC 7009), for services that cannot or will not check tokens
//! themselves. A session's secret is taken where those speak of a refresh token.

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::super::body::{Json, JsonOrForm, form_field, missing_field};
use super::super::state::{Gateway, Shared};
use super::Keyholder;
use crate::audit::Counted;
use crate::auth::{AuthError, Principal};
use crate::ids::{Jti, Sid};
use crate::operator::{By, OperatorError, Permission};
use crate::problem::Problem;
use crate::secret::{AccessToken, SessionSecret};

/// The token. `token_type_hint` is taken and not needed.
#[derive(Deserialize, utoipa::ToSchema)]
pub(in crate::http) struct TokenRequest {
    /// An access token, or a session's secret (`session_id`).
    #[schema(format = Password)]
    token: String,
}

/// What RFC 7662 section 2.2 says of a token. One that is not good has `active` alone.
#[derive(Serialize, utoipa::ToSchema)]
#[allow(dead_code)]
pub(in crate::http) struct Introspection {
    /// It is good.
    active: bool,
    /// `Bearer`, for access tokens.
    token_type: Option<String>,
    /// Issuer.
    iss: Option<String>,
    /// Audience.
    aud: Option<String>,
    /// The user's id.
    sub: Option<String>,
    /// The user's address.
    username: Option<String>,
    /// The session's public handle.
    sid: Option<String>,
    /// The token's id.
    jti: Option<String>,
    /// End, Unix seconds.
    exp: Option<i64>,
    /// Beginning, Unix seconds.
    nbf: Option<i64>,
}

/// One access token by its id.
#[derive(Deserialize, utoipa::ToSchema)]
pub(in crate::http) struct TokenById {
    /// Its `jti`.
    #[schema(value_type = Uuid)]
    jti: Jti,
    /// The `sid` of its session.
    #[schema(value_type = Uuid)]
    sid: Sid,
    /// When it would have expired. By default as late as a token of now can.
    #[serde(default, with = "time::serde::rfc3339::option")]
    expires_at: Option<OffsetDateTime>,
}

/// What is good for the token of one of these requests.
enum Credential {
    Token(AccessToken),
    Secret(SessionSecret),
}

impl Credential {
    fn read(body: JsonOrForm<TokenRequest>) -> Result<Self, Problem> {
        let token = match body {
            JsonOrForm::Json(request) => request.token,
            JsonOrForm::Form(form) => form_field(&form, "token").ok_or_else(|| missing_field("token"))?,
        };
        Ok(match SessionSecret::parse(&token) {
            Some(secret) => Self::Secret(secret),
            None => Self::Token(AccessToken::new(token)),
        })
    }
}

/// Is this token good? (RFC 7662). Scope `tokens:introspect`.
///
/// Judged like any other request. What is not good, for whatever reason, is 200 `{"active": false}`; when the gateway
/// cannot tell it is 503, never `active: false`. Asking is no use of the session.
#[utoipa::path(
    post, path = "/api/v1/admin/introspect", tag = "admin", security(("admin_key" = [])),
    request_body(content((TokenRequest = "application/x-www-form-urlencoded"), (TokenRequest = "application/json"))),
    responses((status = 200, description = "Good or not", body = Introspection))
)]
pub(in crate::http) async fn introspect(
    State(gateway): State<Shared>,
    keyholder: Keyholder,
    body: JsonOrForm<TokenRequest>,
) -> Result<Response, Problem> {
    let by = keyholder.may(Permission::TokensIntrospect)?;
    let judged = match Credential::read(body)? {
        Credential::Token(token) => gateway.timed(gateway.auth.token(&token)).await,
        Credential::Secret(secret) => gateway.timed(gateway.auth.session_secret(&secret)).await,
    };
    if let Some(key) = by.key {
        gateway.tally.note_key(Counted::Introspected, key);
    }
    let answer = match judged {
        Ok(principal) => active(&gateway, &principal),
        Err(AuthError::Denied(_)) => json!({ "active": false }),
        Err(AuthError::CannotTell) => return Err(Problem::unavailable()),
    };
    Ok(axum::Json(answer).into_response())
}

fn active(gateway: &Gateway, principal: &Principal) -> Value {
    let (user, session) = (&principal.user.user, &principal.session);
    let mut answer = json!({
        "active": true,
        "iss": gateway.config.issuer,
        "sub": user.id,
        "username": user.email,
        "sid": session.sid,
        "exp": session.expires_at.unix_timestamp(),
    });
    if let Some(token) = &principal.token {
        answer["token_type"] = "Bearer".into();
        answer["aud"] = gateway.config.audience.as_str().into();
        answer["jti"] = json!(token.jti);
        answer["nbf"] = token.not_before.into();
        answer["exp"] = token.expires_at.into();
    }
    answer
}

/// Revoke a token (RFC 7009). Scope `tokens:revoke`.
///
/// An access token is listed, its session lives on; a session's secret ends its session with all of its tokens. What is
/// not known, or not good any more, is 200 too.
#[utoipa::path(
    post, path = "/api/v1/admin/revoke", tag = "admin", security(("admin_key" = [])),
    request_body(content((TokenRequest = "application/x-www-form-urlencoded"), (TokenRequest = "application/json"))),
    responses((status = 200, description = "It is good no more, on any node"))
)]
pub(in crate::http) async fn revoke(
    State(gateway): State<Shared>,
    keyholder: Keyholder,
    body: JsonOrForm<TokenRequest>,
) -> Result<Response, Problem> {
    let by = keyholder.may(Permission::TokensRevoke)?;
    match revoke_credential(&gateway, &by, Credential::read(body)?).await {
        // RFC 7009 section 2.2: the client's purpose is achieved.
        Ok(()) | Err(OperatorError::NoSuchSession) => Ok(axum::Json(json!({})).into_response()),
        Err(error) => Err(error.into()),
    }
}

async fn revoke_credential(gateway: &Gateway, by: &By, credential: Credential) -> Result<(), OperatorError> {
    let cannot_tell = || OperatorError::CannotTell;
    match credential {
        Credential::Token(token) => match gateway.auth.token_for_logout(&token).await {
            Ok(claims) => {
                let expires_at = OffsetDateTime::from_unix_timestamp(claims.expires_at).ok();
                gateway.operator.revoke_token(by, claims.jti, claims.sid, expires_at).await
            }
            Err(AuthError::Denied(_)) => Ok(()),
            Err(AuthError::CannotTell) => Err(cannot_tell()),
        },
        Credential::Secret(secret) => match gateway.auth.session_secret(&secret).await {
            Ok(principal) => gateway.operator.end_session(by, principal.session.sid).await.map(drop),
            Err(AuthError::Denied(_)) => Ok(()),
            Err(AuthError::CannotTell) => Err(cannot_tell()),
        },
    }
}

/// Revoke one access token by its id. Scope `tokens:revoke`.
///
/// For whoever has the `jti` and `sid` from elsewhere, and not the token. Its session lives on.
#[utoipa::path(
    post, path = "/api/v1/admin/tokens/revoke", tag = "admin", security(("admin_key" = [])), request_body = TokenById,
    responses((status = 200, description = "It is listed"), (status = 404, description = "`no_such_session`"))
)]
pub(in crate::http) async fn revoke_by_id(
    State(gateway): State<Shared>,
    keyholder: Keyholder,
    Json(body): Json<TokenById>,
) -> Result<Response, Problem> {
    let by = keyholder.may(Permission::TokensRevoke)?;
    gateway.operator.revoke_token(&by, body.jti, body.sid, body.expires_at).await?;
    Ok(axum::Json(json!({})).into_response())
}
