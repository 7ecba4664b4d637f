//! Keys of the admin API. The first is made on the command line: `portcullis admin-key create`.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};

use super::super::body::{Json, OptionalJson};
use super::super::extract::PathText;
use super::super::state::Shared;
use super::Keyholder;
use super::query::id;
use crate::operator::{NewKey, Permission};
use crate::problem::Problem;
use crate::secret::AdminSecret;
use crate::store::AdminKey;

const NO_SUCH_KEY: &str = "There is no such key, or it is not good any more.";

/// How long a rotated key lives on when nobody says.
const OVERLAP: Duration = Duration::from_secs(24 * 3600);

/// A key about to be made.
#[derive(Deserialize, utoipa::ToSchema)]
pub(in crate::http) struct KeyRequest {
    /// What it is for.
    #[schema(max_length = 100)]
    name: String,
    /// What it may do: not more than the key that makes it.
    scopes: Vec<String>,
    /// Its life in seconds; without an end when missing.
    expires_in: Option<u64>,
}

/// How a key is followed by its next.
#[derive(Default, Deserialize, utoipa::ToSchema)]
pub(in crate::http) struct RotateRequest {
    /// How long both are good, in seconds; a day by default.
    overlap: Option<u64>,
    /// The next one's life in seconds; without an end when missing.
    expires_in: Option<u64>,
}

/// A key that was just made.
#[derive(Serialize, utoipa::ToSchema)]
pub(in crate::http) struct KeyAnswer {
    /// The key itself. It is shown this once.
    key: String,
    /// What is kept of it.
    #[serde(flatten)]
    about: AdminKey,
}

/// Keys, without the keys themselves.
#[derive(Serialize, utoipa::ToSchema)]
pub(in crate::http) struct KeyList {
    /// Newest first.
    keys: Vec<AdminKey>,
}

/// The keys there are. Scope `keys:manage`.
#[utoipa::path(
    get, path = "/api/v1/admin/keys", tag = "admin", security(("admin_key" = [])),
    responses((status = 200, description = "At most 500", body = KeyList))
)]
pub(in crate::http) async fn list(State(gateway): State<Shared>, keyholder: Keyholder) -> Result<Response, Problem> {
    let by = keyholder.may(Permission::KeysManage)?;
    Ok(axum::Json(KeyList { keys: gateway.operator.keys(&by).await? }).into_response())
}

/// Make a key. Scope `keys:manage`, and every scope that is given on.
#[utoipa::path(
    post, path = "/api/v1/admin/keys", tag = "admin", security(("admin_key" = [])), request_body = KeyRequest,
    responses((status = 201, description = "The key, shown this once", body = KeyAnswer))
)]
pub(in crate::http) async fn create(
    State(gateway): State<Shared>,
    keyholder: Keyholder,
    Json(body): Json<KeyRequest>,
) -> Result<Response, Problem> {
    let by = keyholder.may(Permission::KeysManage)?;
    let permissions = body.scopes.iter().map(|scope| Permission::parse(scope)).collect::<Option<Vec<_>>>();
    let permissions = permissions
        .ok_or_else(|| Problem::unprocessable("invalid_field", "One of the scopes is not known.").about("scopes"))?;
    let expires_in = body.expires_in.map(Duration::from_secs);
    let new = NewKey { name: body.name, permissions, expires_in };
    let made = gateway.operator.create_key(&by, new, Some(keyholder.scopes())).await?;
    Ok(shown_once(made))
}

/// Let a key be followed by a new one with its name and scopes. Scope `keys:manage`.
#[utoipa::path(
    post, path = "/api/v1/admin/keys/{id}/rotate", tag = "admin", security(("admin_key" = [])),
    params(("id" = Uuid, Path, description = "The key")), request_body = Option<RotateRequest>,
    responses(
        (status = 201, description = "The next key, shown this once", body = KeyAnswer),
        (status = 404, description = "`no_such_key`"),
    )
)]
pub(in crate::http) async fn rotate(
    State(gateway): State<Shared>,
    keyholder: Keyholder,
    PathText(key): PathText,
    OptionalJson(body): OptionalJson<RotateRequest>,
) -> Result<Response, Problem> {
    let by = keyholder.may(Permission::KeysManage)?;
    let body = body.unwrap_or_default();
    let overlap = body.overlap.map_or(OVERLAP, Duration::from_secs);
    let expires_in = body.expires_in.map(Duration::from_secs);
    let own = Some(keyholder.scopes());
    let made = gateway.operator.rotate_key(&by, id(key, NO_SUCH_KEY)?, overlap, expires_in, own).await?;
    Ok(shown_once(made))
}

/// End a key. Scope `keys:manage`.
#[utoipa::path(
    delete, path = "/api/v1/admin/keys/{id}", tag = "admin", security(("admin_key" = [])),
    params(("id" = Uuid, Path, description = "The key")),
    responses(
        (status = 204, description = "Within a second no node takes it"),
        (status = 404, description = "`no_such_key`"),
    )
)]
pub(in crate::http) async fn revoke(
    State(gateway): State<Shared>,
    keyholder: Keyholder,
    PathText(key): PathText,
) -> Result<Response, Problem> {
    let by = keyholder.may(Permission::KeysManage)?;
    gateway.operator.revoke_key(&by, id(key, NO_SUCH_KEY)?).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn shown_once((about, secret): (AdminKey, AdminSecret)) -> Response {
    let answer = KeyAnswer { key: secret.expose().to_owned(), about };
    (StatusCode::CREATED, axum::Json(answer)).into_response()
}
