//! What receivers of webhooks did not take.

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};

use super::super::body::Json;
use super::super::state::Shared;
use super::Keyholder;
use super::query::Query;
use crate::operator::Permission;
use crate::problem::Problem;
use crate::store::OutboxEvent;

/// A page of events.
#[derive(Serialize, utoipa::ToSchema)]
pub(in crate::http) struct EventPage {
    /// Newest first.
    events: Vec<OutboxEvent>,
    /// `before` of the next page; null at the end.
    next: Option<u64>,
}

/// What to try again.
#[derive(Deserialize, utoipa::ToSchema)]
pub(in crate::http) struct RetryRequest {
    /// One event; everything that was given up when missing, a thousand at a time.
    id: Option<u64>,
}

/// What is tried again.
#[derive(Serialize, utoipa::ToSchema)]
pub(in crate::http) struct Retried {
    /// So many events.
    retried: u64,
}

/// Events that are not delivered. Scope `webhooks:manage`.
#[utoipa::path(
    get, path = "/api/v1/admin/webhooks", tag = "admin", security(("admin_key" = [])),
    params(
        ("waiting" = Option<bool>, Query, description = "Also those that are still tried, not only those given up"),
        ("before" = Option<u64>, Query, description = "The `next` of the page before"),
        ("limit" = Option<u32>, Query, description = "1 to 200, by default 50"),
    ),
    responses((status = 200, description = "A page", body = EventPage))
)]
pub(in crate::http) async fn list(
    State(gateway): State<Shared>,
    keyholder: Keyholder,
    query: Query,
) -> Result<Response, Problem> {
    let by = keyholder.may(Permission::WebhooksManage)?;
    let (limit, before) = (query.limit()?, query.get("before")?);
    let given_up_only = !query.get("waiting")?.unwrap_or(false);
    let events = gateway.operator.undelivered(&by, before, limit, given_up_only).await?;
    let full = events.len() == limit as usize;
    let next = events.last().filter(|_| full).map(|event| event.id);
    Ok(axum::Json(EventPage { events, next }).into_response())
}

/// Try again what was given up. Scope `webhooks:manage`.
#[utoipa::path(
    post, path = "/api/v1/admin/webhooks/retry", tag = "admin", security(("admin_key" = [])),
    request_body = RetryRequest,
    responses((status = 200, description = "They are due now", body = Retried))
)]
pub(in crate::http) async fn retry(
    State(gateway): State<Shared>,
    keyholder: Keyholder,
    Json(body): Json<RetryRequest>,
) -> Result<Response, Problem> {
    let by = keyholder.may(Permission::WebhooksManage)?;
    Ok(axum::Json(Retried { retried: gateway.operator.retry_webhooks(&by, body.id).await? }).into_response())
}
