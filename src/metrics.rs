//! The names of all metrics, in one place, with handles for hot paths (10 ns against 75 for a look-up by name).

use metrics::{Counter, Unit, counter, describe_counter, describe_gauge, describe_histogram};

/// Look-ups by cache, tier and result.
pub const CACHE_REQUESTS: &str = "portcullis_cache_requests_total";
/// Time to judge a credential.
pub const AUTH_DURATION: &str = "portcullis_auth_duration_seconds";
/// Statements sent, BEGIN and COMMIT not counted.
pub const DATABASE_QUERIES: &str = "portcullis_database_queries_total";
/// Time of statements.
pub const DATABASE_QUERY_DURATION: &str = "portcullis_database_query_duration_seconds";
/// Logins by result.
pub const LOGINS: &str = "portcullis_logins_total";
/// Live sockets.
pub const CONNECTIONS: &str = "portcullis_websocket_connections";
/// Handshakes by result.
pub const HANDSHAKES: &str = "portcullis_websocket_handshakes_total";
/// Refusals and closes because of a limit, by its name.
pub const LIMITS_REACHED: &str = "portcullis_limits_reached_total";
/// Revocations applied on this node, by kind.
pub const REVOCATIONS: &str = "portcullis_revocations_total";
/// Sockets closed by a decision, by close code.
pub const FORCED_DISCONNECTS: &str = "portcullis_forced_disconnects_total";
/// From just before the commit to the close frame leaving.
pub const REVOCATION_DELAY: &str = "portcullis_revocation_delay_seconds";
/// How long ago the last complete log read was sent.
pub const LOG_LAG: &str = "portcullis_revocation_log_lag_seconds";
/// 1 while a dependency answers.
pub const DEPENDENCY_UP: &str = "portcullis_dependency_up";
/// 1 for what a circuit breaker does now (`state="closed|open|half_open"`), 0 for the others.
pub const BREAKER_STATE: &str = "portcullis_circuit_breaker_state";
/// How often a circuit breaker has opened.
pub const BREAKER_OPENINGS: &str = "portcullis_circuit_breaker_openings_total";
/// 1 while the subscription to the bus is heard from.
pub const BUS_SUBSCRIBED: &str = "portcullis_bus_subscribed";
/// Counts that went into the audit trail without saying whom they concern: there were too many.
pub const AUDIT_FOLDED: &str = "portcullis_audit_folded_total";
/// Counts that never reached the audit trail: the node ended while the database was away.
pub const AUDIT_DROPPED: &str = "portcullis_audit_dropped_total";
/// Attempts to deliver a webhook, by result: `delivered`, `failed` (tried again later), `given_up`.
pub const WEBHOOKS: &str = "portcullis_webhook_deliveries_total";
/// Calls of the admin API, by result: `good`, `refused`, `forbidden`, `throttled`, `cannot_tell`.
pub const ADMIN_REQUESTS: &str = "portcullis_admin_requests_total";
/// Always 1, with the version as label.
pub const BUILD_INFO: &str = "portcullis_build_info";

/// Tells the exporter what each metric means.
pub fn describe() {
    describe_counter!(CACHE_REQUESTS, "Look-ups by cache, tier and result");
    describe_histogram!(AUTH_DURATION, Unit::Seconds, "Time to judge a credential");
    describe_counter!(DATABASE_QUERIES, "Statements sent to the database, BEGIN and COMMIT not counted");
    describe_histogram!(DATABASE_QUERY_DURATION, Unit::Seconds, "Time of statements, by query");
    describe_counter!(LOGINS, "Logins by result");
    describe_gauge!(CONNECTIONS, "Live sockets on this node");
    describe_counter!(HANDSHAKES, "WebSocket handshakes by result");
    describe_counter!(LIMITS_REACHED, "Refusals and closes because a limit was reached, by limit");
    describe_counter!(REVOCATIONS, "Revocations applied on this node, by kind");
    describe_counter!(FORCED_DISCONNECTS, "Sockets closed by a decision of the gateway, by close code");
    describe_histogram!(REVOCATION_DELAY, Unit::Seconds, "From just before the commit to the close frame leaving");
    describe_gauge!(LOG_LAG, Unit::Seconds, "Time since the last complete read of the revocation log was sent");
    describe_gauge!(DEPENDENCY_UP, "1 while the dependency answers");
    describe_gauge!(BREAKER_STATE, "1 for what the circuit breaker does now, 0 for the other states");
    describe_counter!(BREAKER_OPENINGS, "How often the circuit breaker has opened");
    describe_gauge!(BUS_SUBSCRIBED, "1 while the subscription to the bus is heard from");
    describe_counter!(AUDIT_FOLDED, "Counts in the audit trail without saying whom they concern: there were too many");
    describe_counter!(AUDIT_DROPPED, "Counts that never reached the audit trail");
    describe_counter!(WEBHOOKS, "Attempts to deliver a webhook, by result");
    describe_counter!(ADMIN_REQUESTS, "Calls of the admin API, by result");
    describe_gauge!(BUILD_INFO, "Always 1; the version is a label");
}

/// Handles for the cache's counters. In memory a session counts as a hit when its user was there too.
pub struct CacheMetrics {
    /// Redis could not be asked.
    pub session_redis_error: Counter,
    /// The database could not be asked.
    pub session_database_error: Counter,
    session_local: [Counter; 2],
    session_redis: [Counter; 2],
    session_database: [Counter; 2],
    user_local: [Counter; 2],
    user_redis: [Counter; 2],
    user_database_hit: Counter,
}

impl CacheMetrics {
    /// Looks the handles up. The recorder must be installed by now.
    #[must_use]
    pub fn new() -> Self {
        let of = |cache, tier| [cache_counter(cache, tier, "miss"), cache_counter(cache, tier, "hit")];
        Self {
            session_redis_error: cache_counter("session", "redis", "error"),
            session_database_error: cache_counter("session", "database", "error"),
            session_local: of("session", "local"),
            session_redis: of("session", "redis"),
            session_database: of("session", "database"),
            user_local: of("user", "local"),
            user_redis: of("user", "redis"),
            user_database_hit: cache_counter("user", "database", "hit"),
        }
    }

    /// Counts a session and its user found in memory.
    pub fn local_hit(&self) {
        self.session_local[1].increment(1);
        self.user_local[1].increment(1);
    }

    /// Counts a look-up that memory could not answer, although it may have held the user.
    pub fn local_miss(&self, user: bool) {
        self.session_local[0].increment(1);
        self.user_local[usize::from(user)].increment(1);
    }

    /// Counts an answer of Redis about a session and its user.
    pub fn redis_answer(&self, session: bool, user: bool) {
        self.session_redis[usize::from(session)].increment(1);
        self.user_redis[usize::from(user)].increment(1);
    }

    /// Counts an answer of the database: whether there is such a session, and whether its user came with it.
    pub fn database_answer(&self, session: bool, user: bool) {
        self.session_database[usize::from(session)].increment(1);
        if user {
            self.user_database_hit.increment(1);
        }
    }
}

impl Default for CacheMetrics {
    fn default() -> Self {
        Self::new()
    }
}

/// A handle of [`CACHE_REQUESTS`].
pub fn cache_counter(cache: &'static str, tier: &'static str, result: &'static str) -> Counter {
    counter!(CACHE_REQUESTS, "cache" => cache, "tier" => tier, "result" => result)
}
