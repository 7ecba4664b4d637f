//! What the caller sees and changes of themselves: the profile, the password; and the ticket for a socket.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::body::Json;
use super::cookies;
use super::extract::{Caller, Client};
use super::logout::Done;
use super::state::{Gateway, Shared};
use crate::accounts::{AccountError, Email, ProfileUpdate, new_password};
use crate::auth::Principal;
use crate::problem::Problem;
use crate::secret::Password;
use crate::store::User;

/// A change of the profile. What is not named stays; null clears.
#[derive(Deserialize, utoipa::ToSchema)]
pub(super) struct ProfileRequest {
    /// Display name.
    #[serde(default, deserialize_with = "named")]
    #[schema(value_type = Option<String>, max_length = 200)]
    full_name: Option<Option<String>>,
    /// An http or https URL.
    #[serde(default, deserialize_with = "named")]
    #[schema(value_type = Option<String>, max_length = 2048)]
    avatar_url: Option<Option<String>>,
    /// Free JSON object of at most 64 KiB.
    #[serde(default, deserialize_with = "named")]
    #[schema(value_type = Option<Object>)]
    metadata: Option<Option<Map<String, Value>>>,
}

/// The body of a change of password.
#[derive(Deserialize, utoipa::ToSchema)]
pub(super) struct PasswordRequest {
    /// The password so far.
    #[schema(value_type = String, format = Password)]
    current_password: Password,
    /// 8 to 128 characters, and not one that everybody guesses first.
    #[schema(value_type = String, format = Password, min_length = 8, max_length = 128)]
    new_password: Password,
}

/// The body of a change of address.
#[derive(Deserialize, utoipa::ToSchema)]
pub(super) struct EmailRequest {
    /// The new address, unique without regard to case.
    #[schema(format = Email)]
    email: String,
    /// The password.
    #[schema(value_type = String, format = Password)]
    current_password: Password,
}

/// The body of the wish to have one's account removed.
#[derive(Deserialize, utoipa::ToSchema)]
pub(super) struct RemovalRequest {
    /// The password.
    #[schema(value_type = String, format = Password)]
    current_password: Password,
}

/// The account is gone.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Removed {
    /// Live sessions that ended.
    sessions_revoked: u64,
}

/// A ticket for one socket.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct TicketAnswer {
    /// For `?ticket=` of `/ws`; good once.
    ticket: String,
    /// Seconds until it is worth nothing.
    expires_in: u64,
}

/// Who the caller is.
#[utoipa::path(
    get, path = "/api/v1/auth/me", tag = "profile", security(("bearer" = [])),
    responses((status = 200, description = "The user", body = User))
)]
pub(super) async fn me(Caller(principal): Caller) -> Response {
    axum::Json(&principal.user.user).into_response()
}

/// Change the profile, replacing what is named.
///
/// Caches on every node follow, open sockets are told. Metadata over 64 KiB is 422 `metadata_too_large`.
#[utoipa::path(
    put, path = "/api/v1/auth/update-profile", tag = "profile", security(("bearer" = [])), request_body = ProfileRequest,
    responses((status = 200, description = "The user as of this change", body = User))
)]
pub(super) async fn replace_profile(
    State(gateway): State<Shared>,
    Caller(principal): Caller,
    Json(body): Json<ProfileRequest>,
) -> Result<Response, Problem> {
    update(&gateway, &principal, body, false).await
}

/// Change the profile, merging `metadata` into what is there (JSON Merge Patch, RFC 7396).
///
/// Caches on every node follow, open sockets are told. Metadata over 64 KiB is 422 `metadata_too_large`.
#[utoipa::path(
    patch, path = "/api/v1/auth/update-profile", tag = "profile", security(("bearer" = [])), request_body = ProfileRequest,
    responses((status = 200, description = "The user as of this change", body = User))
)]
pub(super) async fn merge_profile(
    State(gateway): State<Shared>,
    Caller(principal): Caller,
    Json(body): Json<ProfileRequest>,
) -> Result<Response, Problem> {
    update(&gateway, &principal, body, true).await
}

async fn update(
    gateway: &Gateway,
    principal: &Principal,
    body: ProfileRequest,
    merge: bool,
) -> Result<Response, Problem> {
    let ProfileRequest { full_name, avatar_url, metadata } = body;
    let update = ProfileUpdate { full_name, avatar_url, metadata, merge };
    let user = gateway.accounts.update_profile(principal, update).await?;
    tracing::info!(user = %user.id, sid = %principal.session.sid, "profile changed");
    Ok(axum::Json(user).into_response())
}

/// Change the password. Every other session of the caller ends.
#[utoipa::path(
    post, path = "/api/v1/auth/change-password", tag = "profile", security(("bearer" = [])), request_body = PasswordRequest,
    responses(
        (status = 200, description = "Changed", body = Done),
        (status = 403, description = "`invalid_current_password`"),
        (status = 429, description = "Too many wrong guesses"),
    )
)]
pub(super) async fn change_password(
    State(gateway): State<Shared>,
    client: Client,
    Caller(principal): Caller,
    Json(body): Json<PasswordRequest>,
) -> Result<Response, Problem> {
    let (user, sid, ip) = (principal.user.user.id, principal.session.sid, client.ip);
    let email = Email::parse(&principal.user.user.email)?;
    let new = new_password("new_password", body.new_password, &email)?;
    let change = gateway.accounts.change_password(&principal, body.current_password, new);
    with_password(&gateway, &client, &principal, change).await?;
    tracing::info!(%user, %sid, %ip, "password changed");
    Ok(axum::Json(Done {}).into_response())
}

/// Change the e-mail address. Sessions go on; caches on every node follow, open sockets are told.
#[utoipa::path(
    post, path = "/api/v1/auth/change-email", tag = "profile", security(("bearer" = [])), request_body = EmailRequest,
    responses(
        (status = 200, description = "The user as of this change", body = User),
        (status = 403, description = "`invalid_current_password`"),
        (status = 409, description = "`email_taken`"),
        (status = 429, description = "Too many wrong guesses, or too many addresses tried"),
    )
)]
pub(super) async fn change_email(
    State(gateway): State<Shared>,
    client: Client,
    Caller(principal): Caller,
    Json(body): Json<EmailRequest>,
) -> Result<Response, Problem> {
    let email = Email::parse(&body.email)?;
    // It tells whether an address is taken, just as a signup does.
    gateway.limits.signup(client.ip).await?;
    let change = gateway.accounts.change_email(&principal, body.current_password, email);
    let user = with_password(&gateway, &client, &principal, change).await?;
    Ok(axum::Json(user).into_response())
}

/// Remove the account. Every session, token and open socket of it ends, on every node; the address is free again.
#[utoipa::path(
    post, path = "/api/v1/auth/delete-account", tag = "profile", security(("bearer" = [])), request_body = RemovalRequest,
    responses(
        (status = 200, description = "Nothing is left of it", body = Removed),
        (status = 403, description = "`invalid_current_password`"),
        (status = 429, description = "Too many wrong guesses"),
    )
)]
pub(super) async fn delete_account(
    State(gateway): State<Shared>,
    client: Client,
    Caller(principal): Caller,
    Json(body): Json<RemovalRequest>,
) -> Result<Response, Problem> {
    let removal = gateway.accounts.remove_account(&principal, body.current_password);
    let sessions_revoked = with_password(&gateway, &client, &principal, removal).await?;
    let mut response = axum::Json(Removed { sessions_revoked }).into_response();
    cookies::clear(&gateway, &client, &mut response);
    Ok(response)
}

/// Does what takes the current password. Whoever has stolen a token must not guess it here instead of at the login.
async fn with_password<T>(
    gateway: &Gateway,
    client: &Client,
    principal: &Principal,
    action: impl Future<Output = Result<T, AccountError>>,
) -> Result<T, Problem> {
    let guess = gateway.limits.guess(client.ip, &principal.user.user.email).await?;
    let outcome = action.await;
    match &outcome {
        Err(AccountError::InvalidCurrentPassword) => {
            let (user, sid, ip) = (principal.user.user.id, principal.session.sid, client.ip);
            tracing::info!(%user, %sid, %ip, "refused: wrong current password");
        }
        Ok(_) | Err(AccountError::EmailTaken) => guess.was_right(),
        Err(_) => guess.give_back(),
    }
    Ok(outcome?)
}

/// A ticket that opens one socket.
///
/// For pages that can set neither a header nor a subprotocol. Single use, 30 seconds, bound to the session and to the
/// Origin of this request.
#[utoipa::path(
    post, path = "/api/v1/auth/ws-ticket", tag = "profile", security(("bearer" = [])),
    responses((status = 200, description = "A ticket", body = TicketAnswer))
)]
pub(super) async fn ws_ticket(
    State(gateway): State<Shared>,
    headers: HeaderMap,
    Caller(principal): Caller,
) -> Result<Response, Problem> {
    let origin = origin(&headers)?;
    let (ticket, life) = gateway.auth.issue_ticket(&principal, origin);
    let answer = TicketAnswer { ticket: ticket.expose().to_owned(), expires_in: life.as_secs() };
    Ok((StatusCode::OK, axum::Json(answer)).into_response())
}

/// The Origin a ticket is bound to. One that cannot be read would bind it to nothing.
fn origin(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let malformed = || Problem::bad_request("malformed_origin", "The Origin header cannot be read.");
    let mut values = headers.get_all(header::ORIGIN).iter();
    let Some(origin) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(malformed());
    }
    origin.to_str().map(Some).map_err(|_| malformed())
}

/// Tells a field that is null from one that is not there.
fn named<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_is_not_the_same_as_nothing() {
        let request: ProfileRequest = serde_json::from_str(r#"{"full_name": null, "avatar_url": "x"}"#).unwrap();
        assert_eq!(request.full_name, Some(None));
        assert_eq!(request.avatar_url, Some(Some("x".into())));
        assert_eq!(request.metadata, None);
    }
}
