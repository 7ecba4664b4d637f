//! What the caller's own trail says; and who is at work in requests that write.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::admin::{AuditPage, Query};
use super::extract::Caller;
use super::state::Shared;
use crate::client_address::client_address;
use crate::problem::Problem;
use crate::store::attribution::{Actor, Attribution, attributed};

/// The caller's own audit trail: logins, failed logins, what ended and why, changes.
#[utoipa::path(
    get, path = "/api/v1/auth/audit", tag = "sessions", security(("bearer" = [])),
    params(
        ("before" = Option<u64>, Query, description = "The `next` of the page before"),
        ("limit" = Option<u32>, Query, description = "1 to 200, by default 50"),
    ),
    responses((status = 200, description = "A page, newest first", body = AuditPage))
)]
pub(super) async fn own(
    State(gateway): State<Shared>,
    Caller(principal): Caller,
    query: Query,
) -> Result<Response, Problem> {
    let (limit, before) = (query.limit()?, query.get("before")?);
    let mut entries = gateway.accounts.trail(&principal, before, limit).await?;
    for entry in &mut entries {
        // Which of the operators it was, and why, is the operators' business.
        entry.actor_id = None;
        entry.details = entry.details.take().filter(|_| entry.actor == "user");
        entry.ip = entry.ip.filter(|_| entry.actor == "user");
    }
    Ok(axum::Json(AuditPage::of(entries, limit)).into_response())
}

/// Whatever a request of a user writes is the user's doing, from this address.
pub(super) async fn attribute(State(trusted): State<Arc<[ipnet::IpNet]>>, request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let peer = peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |ConnectInfo(address)| address.ip());
    let ip = client_address(peer, request.headers(), &trusted);
    attributed(Attribution { actor: Actor::User, ip: Some(ip), action: None }, next.run(request)).await
}
