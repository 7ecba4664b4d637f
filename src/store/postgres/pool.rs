//! A small pool. Connections are scarce (many servers have fifteen for everybody), so the one used last is used next
//! and the others can be given back soon; `sqlx`'s pool takes them in turn, and a little traffic keeps all of them.
//! It also pings each one that comes back, without a bound on the wait.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::store::{PoolStatus, StoreError, StoreResult};

/// Callers that may wait for each connection; beyond it the answer is *cannot tell* at once.
const WAITING_PER_CONNECTION: u32 = 16;
/// A connection that is not needed goes back to the server soon.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// After this long a connection is opened anew, so that a server behind a changed address gets its share.
const MAX_LIFETIME: Duration = Duration::from_secs(30 * 60);
/// How long the farewell to the server may take.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

pub(super) struct Pool {
    options: PgConnectOptions,
    max: u32,
    acquire_timeout: Duration,
    /// Idle and in use.
    open: AtomicU32,
    /// The one used last stands last.
    idle: Mutex<Vec<Pooled>>,
    /// One for each connection that may be in use.
    permits: Semaphore,
    /// One for each caller, those in possession of a connection included.
    places: Semaphore,
}

struct Pooled {
    connection: PgConnection,
    opened: Instant,
    used: Instant,
}

impl Pool {
    /// Opens nothing yet.
    pub(super) fn new(options: PgConnectOptions, size: u32, acquire_timeout: Duration) -> Arc<Self> {
        let max = size.max(1);
        let pool = Arc::new(Self {
            options,
            max,
            acquire_timeout,
            open: AtomicU32::new(0),
            idle: Mutex::default(),
            permits: Semaphore::new(max as usize),
            places: Semaphore::new((max * (1 + WAITING_PER_CONNECTION)) as usize),
        });
        tokio::spawn(give_back(Arc::downgrade(&pool)));
        pool
    }

    pub(super) fn max(&self) -> u32 {
        self.max
    }

    pub(super) fn status(&self) -> PoolStatus {
        let idle = u32::try_from(self.idle().len()).unwrap_or(u32::MAX);
        PoolStatus { open: self.open.load(Ordering::Relaxed), idle, max: self.max }
    }

    /// A place in the queue, or none at all.
    pub(super) fn place(&self) -> StoreResult<SemaphorePermit<'_>> {
        self.places
            .try_acquire()
            .map_err(|_| StoreError::Unavailable("too many callers are waiting for a connection".into()))
    }

    /// A connection: the one used last, or a new one.
    pub(super) async fn acquire(&self) -> StoreResult<Leased<'_>> {
        let acquiring = async {
            let permit = self.permits.acquire().await;
            let permit = permit.map_err(|_| StoreError::Unavailable("the store is closed".into()))?;
            if let Some(pooled) = self.idle().pop() {
                return Ok(Leased { pool: self, pooled: Some(pooled), _permit: permit });
            }
            let connection = self.options.connect().await?;
            self.open.fetch_add(1, Ordering::Relaxed);
            let now = Instant::now();
            let pooled = Pooled { connection, opened: now, used: now };
            Ok(Leased { pool: self, pooled: Some(pooled), _permit: permit })
        };
        tokio::time::timeout(self.acquire_timeout, acquiring)
            .await
            .unwrap_or_else(|_| Err(StoreError::Unavailable("no connection in time".into())))
    }

    /// Lets nobody in any more, waits for those inside, and takes leave of the server.
    pub(super) async fn close(&self) {
        let everybody = tokio::time::timeout(self.acquire_timeout, self.permits.acquire_many(self.max)).await;
        self.permits.close();
        drop(everybody);
        let idle = std::mem::take(&mut *self.idle());
        self.take_leave(idle).await;
    }

    async fn take_leave(&self, connections: Vec<Pooled>) {
        for pooled in connections {
            self.open.fetch_sub(1, Ordering::Relaxed);
            let _ = tokio::time::timeout(CLOSE_LIMIT, pooled.connection.close()).await;
        }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Pooled>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives connections back that were not used for a while, for as long as there is a pool.
async fn give_back(pool: Weak<Pool>) {
    loop {
        tokio::time::sleep(IDLE_TIMEOUT / 4).await;
        let Some(pool) = pool.upgrade() else { return };
        let now = Instant::now();
        let is_due = |pooled: &mut Pooled| now.duration_since(pooled.used) > IDLE_TIMEOUT;
        let due = pool.idle().extract_if(.., is_due).collect();
        pool.take_leave(due).await;
    }
}

/// A connection in use. Dropped as it is, it is closed; [`put_back`](Self::put_back) keeps it.
pub(super) struct Leased<'a> {
    pool: &'a Pool,
    pooled: Option<Pooled>,
    _permit: SemaphorePermit<'a>,
}

impl Leased<'_> {
    /// The connection, until it was put back.
    pub(super) fn connection(&mut self) -> sqlx::Result<&mut PgConnection> {
        self.pooled.as_mut().map(|pooled| &mut pooled.connection).ok_or(sqlx::Error::PoolClosed)
    }

    /// Only for one that has answered everything and stands outside of any transaction.
    pub(super) fn put_back(&mut self) {
        let Some(mut pooled) = self.pooled.take() else { return };
        pooled.used = Instant::now();
        if pooled.used.duration_since(pooled.opened) > MAX_LIFETIME || self.pool.permits.is_closed() {
            self.pool.open.fetch_sub(1, Ordering::Relaxed);
        } else {
            self.pool.idle().push(pooled);
        }
    }
}

impl Drop for Leased<'_> {
    fn drop(&mut self) {
        if self.pooled.take().is_some() {
            self.pool.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
