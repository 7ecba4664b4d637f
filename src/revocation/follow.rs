//! Follows the log: the certain carrier. One complete read about every 250 ms renews everything this node remembers.

use std::sync::Arc;
use std::time::Duration;

use ::metrics::gauge;

use super::apply::Applier;
use crate::bus::Bus;
use crate::clock::DatabaseClock;
use crate::metrics;
use crate::store::{LogRead, LogReader, RegisteredKey, StoreResult};
use crate::token::keys::VerifyingKey;

/// From the start of one read to the start of the next.
const READ_EVERY: Duration = Duration::from_millis(250);

/// Entries applied in one go.
const TURN: usize = 256;

/// Reads the log for ever. `first_read` is called once, after the whole retained log has been applied.
pub async fn follow_log(
    mut reader: LogReader,
    applier: Arc<Applier>,
    bus: Option<Arc<Bus>>,
    clock: Arc<DatabaseClock>,
    first_read: impl FnOnce() + Send,
) {
    let mut first_read = Some(first_read);
    let mut failing = false;
    loop {
        let started = tokio::time::Instant::now();
        match read_once(&mut reader, &applier, bus.as_ref(), &clock).await {
            Ok(()) => {
                if std::mem::take(&mut failing) {
                    tracing::info!("reading the revocation log again");
                }
                if let Some(first_read) = first_read.take() {
                    first_read();
                }
            }
            Err(error) if !std::mem::replace(&mut failing, true) => {
                tracing::warn!(%error, "failed to read the revocation log; nothing remembered is used until it works");
            }
            Err(_) => {}
        }
        gauge!(metrics::DEPENDENCY_UP, "dependency" => "database").set(if failing { 0.0 } else { 1.0 });
        tokio::time::sleep_until(started + READ_EVERY).await;
    }
}

async fn read_once(
    reader: &mut LogReader,
    applier: &Applier,
    bus: Option<&Arc<Bus>>,
    clock: &DatabaseClock,
) -> StoreResult<()> {
    let read = reader.read().await?;
    clock.measure(read.sent_at, read.database_now);
    let parts = applier.parts();
    let mut news = Vec::new();
    if read.continuous {
        // Thousands may come at once. Others get their turn in between.
        for entries in read.entries.chunks(TURN) {
            news.extend(applier.apply(entries));
            tokio::task::yield_now().await;
        }
    } else if let Err(error) = start_over(applier, &read).await {
        // The reader believes these entries delivered. A new one starts over.
        *reader = parts.store.log_reader();
        return Err(error);
    }
    parts.freshness.settle_doubts(read.settled_below, read.sent_at);
    // Only now: every entry of the read has been marked, forgotten and told to the sockets.
    parts.freshness.rise(read.sent_at);
    if let Some(bus) = bus {
        bus.log_read(read.sent_at);
        // What no node has published, such as a hand-written UPDATE, may be news to a node cut from the database.
        let _ = bus.pass_on(&news).await;
    }
    if !news.is_empty() {
        applier.forget_in_redis(&news).await;
    }
    Ok(())
}

/// Entries may have been missed: at the start, after a pause longer than the log is kept, or on another database.
async fn start_over(applier: &Applier, read: &LogRead) -> StoreResult<()> {
    let parts = applier.parts();
    // Read after the log, so that no key can fall between the two. What the bus brings meanwhile is newer.
    parts.keys.begin_over();
    let keys = parts.store.keys().await?;
    parts.freshness.set_floor(read.watermark);
    applier.start_over();
    for entries in read.entries.chunks(TURN) {
        applier.apply(entries);
        tokio::task::yield_now().await;
    }
    let (revoked, good): (Vec<_>, Vec<_>) = keys.iter().partition(|key| key.revoked);
    let read = |registered: &&RegisteredKey| match VerifyingKey::from_public(&registered.key) {
        Ok(key) => Some(key),
        Err(error) => {
            tracing::warn!(kid = registered.key.kid, %error, "ignored a signing key");
            None
        }
    };
    let good = good.iter().filter_map(read).collect();
    parts.keys.start_over(good, revoked.iter().map(|registered| &*registered.key.kid));
    parts.registry.rejudge_all();
    Ok(())
}
