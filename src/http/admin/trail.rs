//! The audit trail and counts.

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;

use super::super::state::Shared;
use super::Keyholder;
use super::query::Query;
use crate::operator::Permission;
use crate::problem::Problem;
use crate::store::{AuditEntry, AuditQuery, Statistics};

/// A page of the trail.
#[derive(Serialize, utoipa::ToSchema)]
pub(in crate::http) struct AuditPage {
    /// Newest first.
    pub entries: Vec<AuditEntry>,
    /// `before` of the next page; null at the end.
    pub next: Option<u64>,
}

impl AuditPage {
    pub fn of(entries: Vec<AuditEntry>, limit: u32) -> Self {
        let full = entries.len() == limit as usize;
        let next = entries.last().filter(|_| full).map(|entry| entry.id);
        Self { entries, next }
    }
}

/// The audit trail. Scope `audit:read`.
#[utoipa::path(
    get, path = "/api/v1/admin/audit", tag = "admin", security(("admin_key" = [])),
    params(
        ("user_id" = Option<Uuid>, Query, description = "Of this user alone"),
        ("event" = Option<String>, Query, description = "Of this kind alone"),
        ("before" = Option<u64>, Query, description = "The `next` of the page before"),
        ("limit" = Option<u32>, Query, description = "1 to 200, by default 50"),
    ),
    responses((status = 200, description = "A page", body = AuditPage))
)]
pub(in crate::http) async fn audit(
    State(gateway): State<Shared>,
    keyholder: Keyholder,
    query: Query,
) -> Result<Response, Problem> {
    let by = keyholder.may(Permission::AuditRead)?;
    let limit = query.limit()?;
    let (user_id, event, before) = (query.get("user_id")?, query.get("event")?, query.get("before")?);
    let entries = gateway.operator.audit(&by, AuditQuery { user_id, event, before, limit, own: false }).await?;
    Ok(axum::Json(AuditPage::of(entries, limit)).into_response())
}

/// Counts without personal data. Scope `stats:read`.
///
/// Accounts, live sessions by device family, and logins and revocations by kind over the last days (by the hour for up to
/// two).
#[utoipa::path(
    get, path = "/api/v1/admin/stats", tag = "admin", security(("admin_key" = [])),
    params(("days" = Option<u32>, Query, description = "1 to 90, by default 7")),
    responses((status = 200, description = "Counts", body = Statistics))
)]
pub(in crate::http) async fn statistics(
    State(gateway): State<Shared>,
    keyholder: Keyholder,
    query: Query,
) -> Result<Response, Problem> {
    let by = keyholder.may(Permission::StatsRead)?;
    let days = match query.get("days")?.unwrap_or(7) {
        days @ 1..=90 => days,
        _ => return Err(Problem::unprocessable("invalid_field", "Give 1 to 90 days.").about("days")),
    };
    Ok(axum::Json(gateway.operator.statistics(&by, days).await?).into_response())
}
