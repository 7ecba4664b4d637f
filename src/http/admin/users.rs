//! People: find, show, disable, enable, and their sessions.

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};

use super::super::body::Json;
use super::super::extract::PathText;
use super::super::state::Shared;
use super::Keyholder;
use super::query::{id, page_size};
use crate::ids::UserId;
use crate::operator::Permission;
use crate::problem::Problem;
use crate::store::{Account, SessionSummary, UserFilter, UserQuery};

const NO_SUCH_USER: &str = "There is no such user.";

/// Whom to look for. In the body and not in the URL, which logs keep: addresses are personal data. At most one of `id`,
/// `email` and `prefix`; without any, everybody.
#[derive(Deserialize, utoipa::ToSchema)]
pub(in crate::http) struct UserSearch {
    /// The one with this id.
    #[schema(value_type = Option<Uuid>)]
    id: Option<UserId>,
    /// The one with this address, without regard to case.
    email: Option<String>,
    /// Those whose address begins like this.
    prefix: Option<String>,
    /// The `next` of the page before.
    after: Option<String>,
    /// 1 to 200, by default 50.
    limit: Option<u32>,
}

/// A page of accounts.
#[derive(Serialize, utoipa::ToSchema)]
pub(in crate::http) struct UserPage {
    /// In the order of their addresses.
    users: Vec<Account>,
    /// `after` of the next page; null at the end.
    next: Option<String>,
}

/// What a call ended.
#[derive(Serialize, utoipa::ToSchema)]
pub(in crate::http) struct Ended {
    /// Live sessions that ended by it.
    pub sessions_revoked: u64,
}

/// A user's sessions.
#[derive(Serialize, utoipa::ToSchema)]
pub(in crate::http) struct SessionList {
    /// Live and ended, newest use first; ended ones are kept for a day.
    sessions: Vec<SessionSummary>,
}

/// Find accounts. Scope `users:read`.
#[utoipa::path(
    post, path = "/api/v1/admin/users/search", tag = "admin", security(("admin_key" = [])), request_body = UserSearch,
    responses((status = 200, description = "A page", body = UserPage))
)]
pub(in crate::http) async fn search(
    State(gateway): State<Shared>,
    keyholder: Keyholder,
    Json(body): Json<UserSearch>,
) -> Result<Response, Problem> {
    let by = keyholder.may(Permission::UsersRead)?;
    let filter = match (body.id, body.email, body.prefix) {
        (None, None, None) => UserFilter::All,
        (Some(id), None, None) => UserFilter::Id(id),
        (None, Some(email), None) => UserFilter::Email(email),
        (None, None, Some(prefix)) => UserFilter::Prefix(prefix),
        _ => return Err(Problem::unprocessable("invalid_body", "Give one of `id`, `email` and `prefix`.")),
    };
    let limit = page_size(body.limit)?;
    let users = gateway.operator.find_users(&by, UserQuery { filter, after: body.after, limit }).await?;
    let full = users.len() == limit as usize;
    let next = users.last().filter(|_| full).map(|account| account.user.email.clone());
    Ok(axum::Json(UserPage { users, next }).into_response())
}

/// One account. Scope `users:read`.
#[utoipa::path(
    get, path = "/api/v1/admin/users/{id}", tag = "admin", security(("admin_key" = [])),
    params(("id" = Uuid, Path, description = "The user")),
    responses((status = 200, description = "The account", body = Account), (status = 404, description = "`no_such_user`"))
)]
pub(in crate::http) async fn show(
    State(gateway): State<Shared>,
    keyholder: Keyholder,
    PathText(user): PathText,
) -> Result<Response, Problem> {
    let by = keyholder.may(Permission::UsersRead)?;
    Ok(axum::Json(gateway.operator.user(&by, id(user, NO_SUCH_USER)?).await?).into_response())
}

/// Disable an account. Scope `users:write`.
///
/// Every session, token and socket of it ends on every node (4503), and it can log in no more.
#[utoipa::path(
    post, path = "/api/v1/admin/users/{id}/disable", tag = "admin", security(("admin_key" = [])),
    params(("id" = Uuid, Path, description = "The user")),
    responses((status = 200, description = "It is disabled", body = Ended), (status = 404, description = "`no_such_user`"))
)]
pub(in crate::http) async fn disable(
    State(gateway): State<Shared>,
    keyholder: Keyholder,
    PathText(user): PathText,
) -> Result<Response, Problem> {
    set_disabled(&gateway, &keyholder, user, true).await
}

/// Enable an account. Scope `users:write`.
///
/// It can log in again. Nothing that has ended comes back.
#[utoipa::path(
    post, path = "/api/v1/admin/users/{id}/enable", tag = "admin", security(("admin_key" = [])),
    params(("id" = Uuid, Path, description = "The user")),
    responses((status = 200, description = "It is enabled", body = Ended), (status = 404, description = "`no_such_user`"))
)]
pub(in crate::http) async fn enable(
    State(gateway): State<Shared>,
    keyholder: Keyholder,
    PathText(user): PathText,
) -> Result<Response, Problem> {
    set_disabled(&gateway, &keyholder, user, false).await
}

async fn set_disabled(
    gateway: &Shared,
    keyholder: &Keyholder,
    user: Option<String>,
    disabled: bool,
) -> Result<Response, Problem> {
    let by = keyholder.may(Permission::UsersWrite)?;
    let user_id = id(user, NO_SUCH_USER)?;
    let sessions_revoked = gateway.operator.set_disabled(&by, user_id, disabled).await?;
    tracing::info!(user = %user_id, disabled, key = ?by.key, "an operator disabled or enabled an account");
    Ok(axum::Json(Ended { sessions_revoked }).into_response())
}

/// A user's sessions. Scope `users:read`.
#[utoipa::path(
    get, path = "/api/v1/admin/users/{id}/sessions", tag = "admin", security(("admin_key" = [])),
    params(("id" = Uuid, Path, description = "The user")),
    responses((status = 200, description = "At most 500", body = SessionList), (status = 404, description = "`no_such_user`"))
)]
pub(in crate::http) async fn sessions(
    State(gateway): State<Shared>,
    keyholder: Keyholder,
    PathText(user): PathText,
) -> Result<Response, Problem> {
    let by = keyholder.may(Permission::UsersRead)?;
    let sessions = gateway.operator.sessions(&by, id(user, NO_SUCH_USER)?).await?;
    Ok(axum::Json(SessionList { sessions }).into_response())
}

/// End every session of a user (4502). Scope `sessions:revoke`.
#[utoipa::path(
    delete, path = "/api/v1/admin/users/{id}/sessions", tag = "admin", security(("admin_key" = [])),
    params(("id" = Uuid, Path, description = "The user")),
    responses((status = 200, description = "They have ended", body = Ended), (status = 404, description = "`no_such_user`"))
)]
pub(in crate::http) async fn end_sessions(
    State(gateway): State<Shared>,
    keyholder: Keyholder,
    PathText(user): PathText,
) -> Result<Response, Problem> {
    let by = keyholder.may(Permission::SessionsRevoke)?;
    let user_id = id(user, NO_SUCH_USER)?;
    let sessions_revoked = gateway.operator.end_user_sessions(&by, user_id).await?;
    tracing::info!(user = %user_id, key = ?by.key, "an operator ended all sessions of a user");
    Ok(axum::Json(Ended { sessions_revoked }).into_response())
}
