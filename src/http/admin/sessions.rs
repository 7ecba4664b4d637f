//! Sessions: one, or everybody's.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::super::body::Json;
use super::super::extract::PathText;
use super::super::state::Shared;
use super::Keyholder;
use super::query::id;
use crate::operator::Permission;
use crate::problem::Problem;
use crate::store::SessionSummary;

const NO_SUCH_SESSION: &str = "There is no such session.";

/// How long one call goes on ending sessions. Whoever has more calls again.
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// Whose sessions end: all that began before a time.
#[derive(Deserialize, utoipa::ToSchema)]
pub(in crate::http) struct EndEverybody {
    /// By the database's clock, and not in the future. Now, when it is missing.
    #[serde(default, with = "time::serde::rfc3339::option")]
    created_before: Option<OffsetDateTime>,
}

/// How far it came.
#[derive(Serialize, utoipa::ToSchema)]
pub(in crate::http) struct EndedEverybody {
    /// Live sessions that ended by this call.
    sessions_revoked: u64,
    /// None is left. Otherwise call again, with this `created_before`.
    complete: bool,
    /// The time that was taken.
    #[serde(with = "time::serde::rfc3339")]
    created_before: OffsetDateTime,
}

/// One session, live or ended. Scope `users:read`.
#[utoipa::path(
    get, path = "/api/v1/admin/sessions/{sid}", tag = "admin", security(("admin_key" = [])),
    params(("sid" = Uuid, Path, description = "The session's public handle")),
    responses(
        (status = 200, description = "The session", body = SessionSummary),
        (status = 404, description = "`no_such_session`"),
    )
)]
pub(in crate::http) async fn show(
    State(gateway): State<Shared>,
    keyholder: Keyholder,
    PathText(sid): PathText,
) -> Result<Response, Problem> {
    let by = keyholder.may(Permission::UsersRead)?;
    Ok(axum::Json(gateway.operator.session(&by, id(sid, NO_SUCH_SESSION)?).await?).into_response())
}

/// End one session (4502). Scope `sessions:revoke`. What has already ended is 204 too.
#[utoipa::path(
    delete, path = "/api/v1/admin/sessions/{sid}", tag = "admin", security(("admin_key" = [])),
    params(("sid" = Uuid, Path, description = "The session's public handle")),
    responses((status = 204, description = "It has ended"), (status = 404, description = "`no_such_session`"))
)]
pub(in crate::http) async fn end(
    State(gateway): State<Shared>,
    keyholder: Keyholder,
    PathText(sid): PathText,
) -> Result<Response, Problem> {
    let by = keyholder.may(Permission::SessionsRevoke)?;
    let sid = id(sid, NO_SUCH_SESSION)?;
    gateway.operator.end_session(&by, sid).await?;
    tracing::info!(%sid, key = ?by.key, "an operator ended a session");
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// End everybody's sessions that began before a time (4502). Scope `sessions:revoke_all`.
///
/// In batches, for about ten seconds: while `complete` is false, call again with the `created_before` of the answer.
/// Whoever logs in meanwhile is spared.
#[utoipa::path(
    post, path = "/api/v1/admin/sessions/revoke", tag = "admin", security(("admin_key" = [])),
    request_body = EndEverybody,
    responses((status = 200, description = "How far it came", body = EndedEverybody))
)]
pub(in crate::http) async fn end_everybody(
    State(gateway): State<Shared>,
    keyholder: Keyholder,
    Json(body): Json<EndEverybody>,
) -> Result<Response, Problem> {
    let by = keyholder.may(Permission::SessionsRevokeAll)?;
    let progress = gateway.operator.end_everybody(&by, body.created_before, CALL_LIMIT).await?;
    tracing::warn!(?progress, key = ?by.key, "an operator ended everybody's sessions");
    let answer = EndedEverybody {
        sessions_revoked: progress.sessions,
        complete: progress.complete,
        created_before: progress.created_before,
    };
    Ok(axum::Json(answer).into_response())
}
