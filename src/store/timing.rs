//! Counts and times what is sent to the database. `BEGIN`, `SET` and `COMMIT` are not counted: one call, one count.

use std::time::Instant;

/// Counts a query when made, records its duration when dropped.
pub(super) struct QueryTimer {
    query: &'static str,
    started: Instant,
}

impl QueryTimer {
    /// To be called when the first statement is about to be sent, with the connection in hand.
    pub(super) fn start(query: &'static str) -> Self {
        metrics::counter!("portcullis_database_queries_total", "query" => query).increment(1);
        Self { query, started: Instant::now() }
    }
}

impl Drop for QueryTimer {
    fn drop(&mut self) {
        metrics::histogram!("portcullis_database_query_duration_seconds", "query" => self.query)
            .record(self.started.elapsed().as_secs_f64());
    }
}
