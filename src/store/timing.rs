//! Counts and times what is sent to the database. `BEGIN`, `SET` and `COMMIT` are not counted: one call, one count.

use std::time::Instant;

use crate::metrics::{DATABASE_QUERIES, DATABASE_QUERY_DURATION};

/// Counts a query when made, records its duration when dropped.
pub(super) struct QueryTimer {
    query: &'static str,
    started: Instant,
}

impl QueryTimer {
    /// To be called when the first statement is about to be sent, with the connection in hand.
    pub(super) fn start(query: &'static str) -> Self {
        metrics::counter!(DATABASE_QUERIES, "query" => query).increment(1);
        Self { query, started: Instant::now() }
    }
}

impl Drop for QueryTimer {
    fn drop(&mut self) {
        metrics::histogram!(DATABASE_QUERY_DURATION, "query" => self.query)
            .record(self.started.elapsed().as_secs_f64());
    }
}
