//! What operators, scrapers and orchestrators see.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::state::Shared;
use crate::problem::Problem;

/// A report that takes longer is as good as none.
const REPORT_WITHIN: Duration = Duration::from_secs(3);

/// Prometheus text exposition format.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The answer of `/health`.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct HealthReport {
    /// `ok`, or `degraded` when something is away that should be there.
    pub status: HealthStatus,
    /// The Redis tier of the cache, and how the caches do.
    pub redis_cache: RedisHealth,
    /// The database.
    pub database: DatabaseHealth,
    /// This node.
    pub node: NodeHealth,
}

/// In one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// Everything that is configured answers.
    Ok,
    /// Something is away. Most things still work.
    Degraded,
}

/// The Redis tier of the cache.
#[derive(Clone, Debug, Default, Serialize, utoipa::ToSchema)]
pub struct RedisHealth {
    /// A Redis is configured.
    pub enabled: bool,
    /// It answers.
    pub connected: bool,
    /// Look-ups answered from any cache since this node started.
    pub hits: u64,
    /// Look-ups that went to the database.
    pub misses: u64,
    /// Hits by hits and misses; null before the first look-up.
    pub hit_ratio: Option<f64>,
    /// Users in this node's memory or in Redis.
    pub users_cached: u64,
    /// Sessions in this node's memory or in Redis.
    pub sessions_cached: u64,
    /// Access tokens that are listed as revoked and have not expired.
    pub tokens_blacklisted: u64,
    /// Round trip to Redis; null without one.
    pub latency_ms: Option<f64>,
    /// What Redis says it uses; null without one.
    pub used_memory_bytes: Option<u64>,
}

/// The database.
#[derive(Clone, Debug, Default, Serialize, utoipa::ToSchema)]
pub struct DatabaseHealth {
    /// `postgres` or `sqlite`.
    pub kind: &'static str,
    /// It answers.
    pub connected: bool,
    /// Round trip; null when it does not answer.
    pub latency_ms: Option<f64>,
    /// This node's pool.
    pub pool: PoolHealth,
}

/// A pool of database connections.
#[derive(Clone, Copy, Debug, Default, Serialize, utoipa::ToSchema)]
pub struct PoolHealth {
    /// Open connections.
    pub open: u32,
    /// Of these, idle.
    pub idle: u32,
    /// Most there may be.
    pub max: u32,
}

/// This node.
#[derive(Clone, Debug, Default, Serialize, utoipa::ToSchema)]
pub struct NodeHealth {
    /// The process; new at every start.
    pub id: String,
    /// The program's version.
    pub version: &'static str,
    /// Since the start.
    pub uptime_seconds: u64,
    /// Live sockets.
    pub connections: u64,
    /// It knows of every revocation that was answered; while false, nothing remembered is believed.
    pub caught_up: bool,
    /// It is stopping.
    pub draining: bool,
    /// Something comes on the bus; null without Redis.
    pub bus_subscribed: Option<bool>,
}

impl HealthReport {
    /// Joins the parts and says the status in one word.
    #[must_use]
    pub fn new(redis_cache: RedisHealth, database: DatabaseHealth, node: NodeHealth) -> Self {
        let redis_away = redis_cache.enabled && !redis_cache.connected;
        let well = database.connected && !redis_away && node.caught_up && !node.draining;
        let status = if well { HealthStatus::Ok } else { HealthStatus::Degraded };
        Self { status, redis_cache, database, node }
    }

    /// Whether anybody at all can be served: from memory while the node is caught up, or from the database.
    #[must_use]
    pub fn serves_somebody(&self) -> bool {
        self.node.caught_up || self.database.connected
    }
}

/// How the node and what it depends on do.
///
/// 503 when it can serve nobody; the body is the same.
#[utoipa::path(
    get, path = "/health", tag = "operators",
    responses(
        (status = 200, description = "It serves", body = HealthReport),
        (status = 503, description = "It can serve nobody", body = HealthReport),
    )
)]
pub(super) async fn health(State(gateway): State<Shared>) -> Response {
    match tokio::time::timeout(REPORT_WITHIN, gateway.vitals.health()).await {
        Ok(report) if report.serves_somebody() => uncached(Json(report)),
        Ok(report) => {
            let retry_after = [(header::RETRY_AFTER, "1")];
            uncached((StatusCode::SERVICE_UNAVAILABLE, retry_after, Json(report)))
        }
        Err(_) => Problem::unavailable().into_response(),
    }
}

/// The process runs.
#[utoipa::path(
    get, path = "/health/live", tag = "operators",
    responses((status = 200, description = "It runs", body = Liveness))
)]
pub(super) async fn live() -> Response {
    uncached(Json(Liveness { status: "live" }))
}

/// The node takes new clients: it is caught up and not stopping.
#[utoipa::path(
    get, path = "/health/ready", tag = "operators",
    responses(
        (status = 200, description = "It takes new clients", body = Readiness),
        (status = 503, description = "Send nobody new: it is stopping, or not caught up"),
    )
)]
pub(super) async fn ready(State(gateway): State<Shared>) -> Response {
    if gateway.vitals.draining() {
        return Problem::overloaded("draining", "The node is stopping.", 1).into_response();
    }
    if !gateway.auth.caught_up() {
        return Problem::overloaded("not_caught_up", "The node is catching up with the revocation log.", 1)
            .into_response();
    }
    let bus = match gateway.vitals.bus_subscribed() {
        None => "off",
        Some(true) => "subscribed",
        Some(false) => "silent",
    };
    uncached(Json(Readiness { status: "ready", bus }))
}

/// The answer of the readiness probe.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Readiness {
    /// `ready`.
    status: &'static str,
    /// How revocations arrive first: `subscribed`, or `silent` when nothing comes on the bus and the log alone brings
    /// them (a node is ready all the same), or `off` without Redis.
    bus: &'static str,
}

/// The answer of the liveness probe.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Liveness {
    /// `live`.
    status: &'static str,
}

/// All metrics, for Prometheus.
#[utoipa::path(
    get, path = "/metrics", tag = "operators",
    responses((status = 200, description = "Prometheus text", body = String, content_type = "text/plain"))
)]
pub(super) async fn metrics(State(gateway): State<Shared>) -> Response {
    uncached(([(header::CONTENT_TYPE, METRICS_TYPE)], gateway.vitals.metrics()))
}

/// The public signing keys, as a JWK set (RFC 7517).
#[utoipa::path(
    get, path = "/.well-known/jwks.json", tag = "operators",
    responses((status = 200, description = "Every key whose tokens are good", body = Object))
)]
pub(super) async fn jwks(State(gateway): State<Shared>) -> Response {
    // A new key is published well before it signs; a revoked one should not be believed for long.
    ([(header::CACHE_CONTROL, "public, max-age=15")], Json(gateway.vitals.jwks())).into_response()
}

fn uncached(answer: impl IntoResponse) -> Response {
    ([(header::CACHE_CONTROL, "no-store")], answer).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(redis: (bool, bool), database: bool, caught_up: bool) -> HealthReport {
        HealthReport::new(
            RedisHealth { enabled: redis.0, connected: redis.1, ..RedisHealth::default() },
            DatabaseHealth { connected: database, ..DatabaseHealth::default() },
            NodeHealth { caught_up, ..NodeHealth::default() },
        )
    }

    #[test]
    fn away_is_degraded_and_only_all_away_serves_nobody() {
        assert_eq!(report((false, false), true, true).status, HealthStatus::Ok);
        assert_eq!(report((true, true), true, true).status, HealthStatus::Ok);
        for degraded in
            [report((true, false), true, true), report((true, true), false, true), report((true, true), true, false)]
        {
            assert_eq!(degraded.status, HealthStatus::Degraded);
            assert!(degraded.serves_somebody());
        }
        assert!(!report((true, true), false, false).serves_somebody());
    }

    #[test]
    fn the_shape_is_the_contracts() {
        let shown = serde_json::to_value(report((true, true), true, true)).unwrap();
        assert_eq!(shown["status"], "ok");
        let members: Vec<_> = shown["redis_cache"].as_object().unwrap().keys().cloned().collect();
        for member in [
            "enabled",
            "connected",
            "hits",
            "misses",
            "hit_ratio",
            "users_cached",
            "sessions_cached",
            "tokens_blacklisted",
            "latency_ms",
            "used_memory_bytes",
        ] {
            assert!(members.contains(&member.to_owned()), "{member}");
        }
    }
}
