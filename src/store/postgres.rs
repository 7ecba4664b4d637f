//! The Postgres backend. Works through a transaction-mode pooler: every statement stands in an explicit transaction,
//! none is prepared under a name, nothing is set or locked for longer than a transaction.
//!
//! A read is one message (`BEGIN`, limits, one `SELECT`, `COMMIT`) and so one round trip. A write is a transaction whose
//! statements are followed by the log entries that the triggers wrote.

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
mod pool;
mod profile;
mod revocations;
mod script;
mod secrets;
mod sessions;
mod sweep;

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use sqlx::postgres::{PgArguments, PgConnectOptions, PgRow};
use sqlx::query::Query;
use sqlx::{ConnectOptions, PgConnection, Row};
use tokio::sync::SemaphorePermit;

pub(super) use self::log::LogReader;
use self::pool::{Leased, Pool};
use self::script::Script;
use super::attribution;
use super::before_commit::about_to_commit;
use super::error::{is_broken, timed_out};
use super::rows::{Answer, EntryRow, entries, parse};
use super::timing::QueryTimer;
use super::{FIRST_ANSWER, PoolStatus, StoreConfig, StoreError, StoreResult};
use crate::clock::BootInstant;
use crate::entry::LogEntry;

/// How long a failed transaction's `ROLLBACK` may take before its connection is given up.
const ROLLBACK_LIMIT: Duration = Duration::from_millis(500);

/// The pool and what every transaction begins with.
pub(super) struct Postgres {
    pool: Arc<Pool>,
    options: PgConnectOptions,
    begin_read: Script,
    begin_write: Script,
    /// How long a transaction may take to begin.
    begin_limit: Duration,
}

impl Postgres {
    pub(super) fn open(url: &SecretString, config: &StoreConfig) -> StoreResult<Self> {
        let options = PgConnectOptions::from_str(url.expose_secret())
            .map_err(StoreError::from)?
            // A cache of prepared statements would name them; poolers refuse `extra_float_digits` by default.
            .statement_cache_capacity(0)
            .extra_float_digits(None)
            // Statements hold hashes of secrets.
            .disable_statement_logging();
        let options =
            if options.get_application_name().is_some() { options } else { options.application_name("portcullis") };
        Ok(Self {
            pool: Pool::new(options.clone(), config.pool_size, config.acquire_timeout),
            options,
            begin_read: sql::begin_read(config.statement_timeout),
            begin_write: sql::begin_write(config.statement_timeout),
            begin_limit: config.acquire_timeout + FIRST_ANSWER,
        })
    }

    pub(super) fn pool_status(&self) -> PoolStatus {
        self.pool.status()
    }

    pub(super) async fn close(&self) {
        self.pool.close().await;
    }

    pub(super) fn log_reader(&self) -> LogReader {
        LogReader::new(self.options.clone())
    }

    /// Rows of one `SELECT` that gives a JSON array, with the snapshot it saw and when it was sent. Only the primary's
    /// word counts.
    async fn read<T: DeserializeOwned>(
        &self,
        query: &'static str,
        rows: Script,
    ) -> StoreResult<(Answer<T>, BootInstant)> {
        let message = self.begin_read.clone().text(sql::ANSWER).script(&rows).text("))::text; COMMIT");
        let _place = self.pool.place()?;
        let mut attempts = 0;
        loop {
            let mut lease = self.lease().await?;
            let _timer = QueryTimer::start(query);
            let read_at = BootInstant::now();
            match lease.send(message.clone()).await {
                Ok(rows) => {
                    let answer: Answer<T> = parse(&document(rows)?)?;
                    if answer.standby {
                        lease.give_up();
                        return Err(StoreError::Unavailable("the server is not the primary".into()));
                    }
                    return Ok((answer, read_at));
                }
                // After a restart every pooled connection is dead. Each costs one failed attempt and is then gone.
                Err(error) if is_broken(&error) && attempts < self.pool.max() => attempts += 1,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// A transaction that writes. A dead pooled connection shows here, where trying another is safe.
    async fn begin(&self, query: &'static str) -> StoreResult<Transaction<'_>> {
        tokio::time::timeout(self.begin_limit, self.begin_now(query)).await.unwrap_or_else(|_| Err(timed_out()))
    }

    async fn begin_now(&self, query: &'static str) -> StoreResult<Transaction<'_>> {
        let place = self.pool.place()?;
        let attribution = attribution::current();
        let mut opening = self.begin_write.clone();
        if let Some(attribution) = &attribution {
            opening = opening.script(&sql::attribute(attribution));
        }
        let mut attempts = 0;
        loop {
            let mut lease = self.lease().await?;
            match lease.send(opening.clone()).await {
                Ok(_) => {
                    lease.in_transaction = true;
                    let mut transaction =
                        Transaction { lease, logged: Vec::new(), _timer: QueryTimer::start(query), _place: place };
                    if let Some(attribution) = &attribution {
                        transaction.note_action(attribution).await?;
                    }
                    return Ok(transaction);
                }
                Err(error) if is_broken(&error) && attempts < self.pool.max() => attempts += 1,
                // Nothing was asked yet but to begin: a standby refuses here.
                Err(error) => {
                    lease.give_up();
                    return Err(StoreError::Unavailable(error.to_string()));
                }
            }
        }
    }

    async fn lease(&self) -> StoreResult<Lease<'_>> {
        Ok(Lease { leased: self.pool.acquire().await?, in_order: true, in_transaction: false })
    }
}

/// A pooled connection that goes back to the pool only when it is known to be in order, and is closed otherwise, as
/// when the caller goes away in the middle.
struct Lease<'a> {
    leased: Leased<'a>,
    in_order: bool,
    in_transaction: bool,
}

impl Lease<'_> {
    /// Sends a script as one message of the simple protocol and waits for its end.
    async fn send(&mut self, script: Script) -> sqlx::Result<Vec<PgRow>> {
        self.in_order = false;
        let answer = sqlx::raw_sql(script.into_sql()).fetch_all(self.leased.connection()?).await;
        self.settle(answer).await
    }

    /// Sends one statement with bound values, unnamed; only within a transaction, because its messages go out apart.
    async fn query(&mut self, query: Query<'_, sqlx::Postgres, PgArguments>) -> sqlx::Result<Vec<PgRow>> {
        self.in_order = false;
        let answer = query.persistent(false).fetch_all(self.leased.connection()?).await;
        self.settle(answer).await
    }

    async fn settle<T>(&mut self, answer: sqlx::Result<T>) -> sqlx::Result<T> {
        match &answer {
            Ok(_) => self.in_order = true,
            // The server is well and has refused: leave the failed transaction. It is harmless where there is none.
            Err(error @ sqlx::Error::Database(_)) if !is_broken(error) => {
                self.in_order = rollback(self.leased.connection()?).await;
                self.in_transaction = false;
            }
            Err(_) => {}
        }
        answer
    }

    fn give_up(&mut self) {
        self.in_order = false;
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if self.in_order && !self.in_transaction {
            self.leased.put_back();
        }
    }
}

async fn rollback(connection: &mut PgConnection) -> bool {
    let rollback = sqlx::raw_sql("ROLLBACK").execute(connection);
    matches!(tokio::time::timeout(ROLLBACK_LIMIT, rollback).await, Ok(Ok(_)))
}

/// A transaction under way. Dropped without [`commit`](Self::commit) its connection is closed: it is rolled back.
struct Transaction<'a> {
    lease: Lease<'a>,
    /// What it has logged, as far as somebody asked.
    logged: Vec<LogEntry>,
    _timer: QueryTimer,
    _place: SemaphorePermit<'a>,
}

impl Transaction<'_> {
    /// Statements of which none, or the last one, gives a row.
    async fn run(&mut self, script: Script) -> StoreResult<()> {
        self.lease.send(script).await?;
        Ok(())
    }

    /// Statements of which one gives one JSON document.
    async fn json<T: DeserializeOwned>(&mut self, script: Script) -> StoreResult<T> {
        parse(&document(self.lease.send(script).await?)?)
    }

    /// One statement with bound values that gives one JSON document.
    async fn query<T: DeserializeOwned>(&mut self, query: Query<'_, sqlx::Postgres, PgArguments>) -> StoreResult<T> {
        parse(&document(self.lease.query(query).await?)?)
    }

    /// What the triggers logged in this transaction.
    async fn entries(&mut self) -> StoreResult<Vec<LogEntry>> {
        let logged = entries(self.json::<Vec<EntryRow>>(Script::new(sql::OWN_ENTRIES)).await?)?;
        self.logged.clone_from(&logged);
        Ok(logged)
    }

    async fn commit(mut self) -> StoreResult<()> {
        about_to_commit(std::mem::take(&mut self.logged)).await;
        self.lease.send(Script::new("COMMIT")).await?;
        self.lease.in_transaction = false;
        Ok(())
    }

    async fn rollback(mut self) -> StoreResult<()> {
        self.lease.send(Script::new("ROLLBACK")).await?;
        self.lease.in_transaction = false;
        Ok(())
    }
}

/// The one document of an answer.
fn document(rows: Vec<PgRow>) -> StoreResult<String> {
    let row = rows.first().ok_or_else(|| StoreError::Corrupt("an answer without a row".into()))?;
    Ok(row.try_get::<String, _>(0)?)
}
