//! The embedded backend: one SQLite file in WAL mode, fully synchronous. One writer at a time, and so log ids are the
//! order of the commits and a log id is a position.
//!
//! Writes queue for one connection of their own (SQLite's own waiting is not fair), reads have a pool.

#[macro_use]
mod sql;

mod accounts;
mod admin_keys;
mod audit;
mod credentials;
mod log;
mod migrate;
mod nodes;
mod operating;
mod outbox;
mod revocations;
mod secrets;
mod sessions;
mod sweep;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use sqlx::query::Query;
use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow,
    SqliteSynchronous,
};
use sqlx::{ConnectOptions, Row};
use tokio::sync::{Semaphore, SemaphorePermit};

pub(super) use self::log::LogReader;
use super::attribution;
use super::before_commit::about_to_commit;
use super::rows::{Answer, EntryRow, entries, parse};
use super::timing::QueryTimer;
use super::{PoolStatus, StoreConfig, StoreError, StoreResult};
use crate::clock::BootInstant;
use crate::entry::LogEntry;

const FILE: &str = "portcullis.db";
/// Callers that may wait for each connection; beyond it the answer is *cannot tell* at once.
const WAITING_PER_CONNECTION: u32 = 16;

/// The two pools.
pub(super) struct Sqlite {
    readers: SqlitePool,
    writer: SqlitePool,
    options: SqliteConnectOptions,
    places: Semaphore,
    pool_size: u32,
}

impl Sqlite {
    pub(super) fn open(config: &StoreConfig) -> StoreResult<Self> {
        let file = prepare_file(&config.data_dir)
            .map_err(|error| StoreError::Unavailable(format!("{}: {error}", config.data_dir.display())))?;
        let options = SqliteConnectOptions::new()
            .filename(file)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(config.statement_timeout)
            .disable_statement_logging();
        let pool_size = config.pool_size.max(1);
        let pool = |size: u32, lifetime: Option<Duration>| {
            SqlitePoolOptions::new()
                .min_connections(0)
                .max_connections(size)
                .acquire_timeout(config.acquire_timeout)
                .idle_timeout(lifetime)
                .max_lifetime(None)
                .test_before_acquire(false)
                .connect_lazy_with(options.clone())
        };
        Ok(Self {
            readers: pool(pool_size, Some(Duration::from_secs(60))),
            // Kept for good: closing the last connection would make the log be copied into the file each time.
            writer: pool(1, None),
            places: Semaphore::new((pool_size * (1 + WAITING_PER_CONNECTION)) as usize),
            options,
            pool_size,
        })
    }

    pub(super) fn pool_status(&self) -> PoolStatus {
        let idle = self.readers.num_idle() + self.writer.num_idle();
        PoolStatus {
            open: self.readers.size() + self.writer.size(),
            idle: u32::try_from(idle).unwrap_or(u32::MAX),
            max: self.pool_size + 1,
        }
    }

    pub(super) async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    pub(super) fn log_reader(&self) -> LogReader {
        LogReader::new(self.options.clone())
    }

    /// One `SELECT` that gives an `Answer`, and when it was sent.
    async fn read<T: DeserializeOwned>(
        &self,
        name: &'static str,
        query: Query<'_, sqlx::Sqlite, SqliteArguments>,
    ) -> StoreResult<(Answer<T>, BootInstant)> {
        let _place = self.place()?;
        let mut connection = self.readers.acquire().await?;
        let _timer = QueryTimer::start(name);
        let read_at = BootInstant::now();
        let row = query.fetch_one(&mut *connection).await?;
        Ok((parse(&document(&row)?)?, read_at))
    }

    /// A transaction that writes; it holds the write lock from its beginning.
    async fn begin(&self, name: &'static str) -> StoreResult<Transaction<'_>> {
        let place = self.place()?;
        let connection = self.writer.acquire().await?;
        let mut transaction =
            sqlx::Transaction::begin(connection, Some(sqlx::SqlSafeStr::into_sql_str("BEGIN IMMEDIATE"))).await?;
        let timer = QueryTimer::start(name);
        let logged_before = match sqlx::query(sql::LAST_ENTRY).fetch_one(&mut *transaction).await {
            Ok(row) => row.try_get(0)?,
            // Before the first migration there is no log.
            Err(sqlx::Error::Database(_)) if name == migrate::NAME => 0,
            Err(error) => return Err(error.into()),
        };
        let attribution = attribution::current();
        let attributed = attribution.is_some();
        let mut transaction =
            Transaction { transaction, logged_before, logged: Vec::new(), attributed, _timer: timer, _place: place };
        if let Some(attribution) = &attribution {
            transaction.attribute(attribution).await?;
        }
        Ok(transaction)
    }

    fn place(&self) -> StoreResult<SemaphorePermit<'_>> {
        self.places
            .try_acquire()
            .map_err(|_| StoreError::Unavailable("too many callers are waiting for a connection".into()))
    }
}

/// A transaction under way; rolled back when dropped.
struct Transaction<'a> {
    transaction: sqlx::Transaction<'static, sqlx::Sqlite>,
    logged_before: i64,
    /// What it has logged, as far as somebody asked.
    logged: Vec<LogEntry>,
    attributed: bool,
    _timer: QueryTimer,
    _place: SemaphorePermit<'a>,
}

impl Transaction<'_> {
    /// A statement without an answer; how many rows it changed.
    async fn run(&mut self, query: Query<'_, sqlx::Sqlite, SqliteArguments>) -> StoreResult<u64> {
        Ok(query.execute(&mut *self.transaction).await?.rows_affected())
    }

    /// A statement that gives a JSON document in each of its rows.
    async fn rows<T: DeserializeOwned>(
        &mut self,
        query: Query<'_, sqlx::Sqlite, SqliteArguments>,
    ) -> StoreResult<Vec<T>> {
        let rows = query.fetch_all(&mut *self.transaction).await?;
        rows.iter().map(|row| parse(&document(row)?)).collect()
    }

    /// What the triggers logged in this transaction.
    async fn entries(&mut self) -> StoreResult<Vec<LogEntry>> {
        let logged = entries(self.rows::<EntryRow>(sqlx::query(sql::ENTRIES_AFTER).bind(self.logged_before)).await?)?;
        self.logged.clone_from(&logged);
        Ok(logged)
    }

    async fn commit(mut self) -> StoreResult<()> {
        if self.attributed {
            self.run(sqlx::query(audit::CLEAR)).await?;
        }
        about_to_commit(std::mem::take(&mut self.logged)).await;
        Ok(self.transaction.commit().await?)
    }
}

fn document(row: &SqliteRow) -> StoreResult<String> {
    Ok(row.try_get::<String, _>(0)?)
}

/// Makes the directory and the file, for their owner alone; SQLite gives the files beside it the same mode.
fn prepare_file(directory: &Path) -> std::io::Result<PathBuf> {
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};

    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let path = directory.join(FILE);
    let file = fs::OpenOptions::new().create(true).append(true).mode(0o600).open(&path)?;
    if file.metadata()?.permissions().mode() & 0o077 != 0 {
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
    }
    Ok(path)
}
