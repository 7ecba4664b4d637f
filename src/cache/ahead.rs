//! Reads ahead of need: what is used and about to lapse, and at the start what was used last. Nobody waits for these
//! reads, they ride in the same batches as everybody's, and they stop for a while when the database does not answer.

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::mpsc;

use super::Cache;
use crate::ids::{Sid, UserId};
use crate::store::Store;

/// Names that may wait. More are dropped: what is used is named again.
pub const WAITING: usize = 4096;

/// Sessions read together.
const AT_ONCE: usize = 250;

/// Between two batches of warming: other reads go first.
const WARMING_PAUSE: Duration = Duration::from_millis(100);

/// After a failed read.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Reads those named on `lapsing` again, for as long as there is a cache.
pub async fn refresh(cache: Weak<Cache>, mut lapsing: mpsc::Receiver<(UserId, Sid)>) {
    let mut due = Vec::new();
    while lapsing.recv_many(&mut due, AT_ONCE).await > 0 {
        let Some(cache) = cache.upgrade() else { return };
        // A busy user was named many times before its turn came.
        due.sort_unstable();
        due.dedup_by_key(|(user_id, _)| *user_id);
        due.retain(|(user_id, _)| cache.local.is_lapsing(*user_id));
        let all_read = join_all(due.drain(..).map(|(_, sid)| cache.read_again(sid))).await;
        drop(cache);
        if all_read.contains(&false) {
            tokio::time::sleep(AFTER_FAILURE).await;
        }
    }
}

/// Reads the `count` sessions that were used last into the caches. Returns how many were read; gives up at the first
/// failure, because the database has better things to do then.
pub async fn warm(cache: &Arc<Cache>, store: &Store, count: usize) -> usize {
    let recent = match store.recent_sessions(count).await {
        Ok(recent) => recent,
        Err(error) => {
            tracing::warn!(%error, "failed to look for recent sessions; the caches start cold");
            return 0;
        }
    };
    let mut read = 0;
    for batch in recent.chunks(AT_ONCE) {
        if join_all(batch.iter().map(|&sid| cache.read_again(sid))).await.contains(&false) {
            break;
        }
        read += batch.len();
        tokio::time::sleep(WARMING_PAUSE).await;
    }
    read
}
