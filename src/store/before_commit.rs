//! What must happen just before a transaction of ours commits, and not earlier: announcing it to the other nodes.
//!
//! Earlier would be safe too, but a transaction that waits for a database out of reach would hold everybody's lease back.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::entry::LogEntry;

/// Done right before `COMMIT` is sent, with what the transaction has logged.
pub type BeforeCommit = Arc<dyn Fn(Vec<LogEntry>) -> BoxFuture<'static, ()> + Send + Sync>;

tokio::task_local! {
    static BEFORE_COMMIT: BeforeCommit;
}

/// Runs `work`, whose transactions do `before` right before they commit.
pub async fn before_commit<T>(before: BeforeCommit, work: impl Future<Output = T>) -> T {
    BEFORE_COMMIT.scope(before, work).await
}

/// For the backends: does what the caller wants done before it commits.
pub(super) async fn about_to_commit(logged: Vec<LogEntry>) {
    if let Ok(before) = BEFORE_COMMIT.try_with(Clone::clone) {
        before(logged).await;
    }
}
