//! The node as operators see it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::App;
use crate::bus::Bus;
use crate::cache::Cache;
use crate::clock::BootInstant;
use crate::freshness::Freshness;
use crate::http::health::{DatabaseHealth, HealthReport, NodeHealth, PoolHealth, RedisHealth};
use crate::http::state::Vitals;
use crate::ids::NodeId;
use crate::registry::Registry;
use crate::store::Store;
use crate::telemetry::Exporter;
use crate::token::key_set::KeySet;

/// A report this young is shown again: anybody may ask, and the stores must not feel it.
const REPORT_FOR: Duration = Duration::from_millis(500);

/// How long each store may take to answer here.
const ASK_WITHIN: Duration = Duration::from_secs(1);

/// What the reports are made of.
#[derive(Clone)]
pub(super) struct NodeVitals {
    node: NodeId,
    started: BootInstant,
    store: Store,
    cache: Arc<Cache>,
    freshness: Arc<Freshness>,
    bus: Option<Arc<Bus>>,
    registry: Registry,
    keys: Arc<KeySet>,
    exporter: Exporter,
    draining: CancellationToken,
    last: Arc<Mutex<Option<(BootInstant, HealthReport)>>>,
}

impl NodeVitals {
    pub(super) fn of(app: &App) -> Self {
        Self {
            node: app.node,
            started: app.started,
            store: app.store.clone(),
            cache: app.cache.clone(),
            freshness: app.freshness.clone(),
            bus: app.bus.clone(),
            registry: app.registry.clone(),
            keys: app.keys.clone(),
            exporter: app.exporter.clone(),
            draining: app.draining.clone(),
            last: Arc::default(),
        }
    }

    async fn report(self) -> HealthReport {
        // Held while the stores are asked: whoever comes meanwhile gets the same report.
        let mut last = self.last.lock().await;
        if let Some((at, report)) = &*last
            && BootInstant::now().since(*at) < REPORT_FOR
        {
            return report.clone();
        }
        let ((database, listed), redis) = tokio::join!(self.database(), self.redis());
        let redis_cache = RedisHealth { tokens_blacklisted: listed, ..redis };
        let report = HealthReport::new(redis_cache, database, self.node());
        *last = Some((BootInstant::now(), report.clone()));
        report
    }

    async fn database(&self) -> (DatabaseHealth, u64) {
        let latency = tokio::time::timeout(ASK_WITHIN, self.store.ping()).await.ok().and_then(Result::ok);
        let listed = match latency {
            Some(_) => tokio::time::timeout(ASK_WITHIN, self.store.listed_tokens()).await.ok().and_then(Result::ok),
            None => None,
        };
        let pool = self.store.pool_status();
        let database = DatabaseHealth {
            kind: self.store.kind(),
            connected: latency.is_some(),
            latency_ms: latency.map(milliseconds),
            pool: PoolHealth { open: pool.open, idle: pool.idle, max: pool.max },
        };
        (database, listed.unwrap_or(0))
    }

    async fn redis(&self) -> RedisHealth {
        let (enabled, _) = self.cache.redis_state();
        let answer = self.cache.redis_statistics().await;
        let statistics = self.cache.statistics();
        let looked_up = statistics.hits + statistics.misses;
        RedisHealth {
            enabled,
            connected: answer.is_some(),
            hits: statistics.hits,
            misses: statistics.misses,
            hit_ratio: Some(if looked_up == 0 { 0.0 } else { statistics.hits as f64 / looked_up as f64 }),
            users_cached: statistics.users as u64,
            sessions_cached: statistics.sessions as u64,
            tokens_blacklisted: 0,
            latency_ms: answer.map(|(latency, _)| milliseconds(latency)),
            used_memory_bytes: answer.and_then(|(_, memory)| memory),
        }
    }

    fn node(&self) -> NodeHealth {
        NodeHealth {
            id: self.node.to_string(),
            version: env!("CARGO_PKG_VERSION"),
            uptime_seconds: BootInstant::now().since(self.started).as_secs(),
            connections: self.registry.len() as u64,
            caught_up: self.freshness.caught_up(),
            draining: self.draining.is_cancelled(),
            bus_subscribed: self.bus_subscribed(),
        }
    }
}

impl Vitals for NodeVitals {
    fn health(&self) -> BoxFuture<'static, HealthReport> {
        self.clone().report().boxed()
    }

    fn jwks(&self) -> serde_json::Value {
        self.keys.jwks()
    }

    fn metrics(&self) -> String {
        self.exporter.render()
    }

    fn bus_subscribed(&self) -> Option<bool> {
        self.bus.as_ref().map(|bus| bus.is_subscribed())
    }

    fn draining(&self) -> bool {
        self.draining.is_cancelled()
    }
}

fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
