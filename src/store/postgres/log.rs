//! The tail of the log, read about four times a second on a connection that is nobody else's.
//!
//! Ids are not the order of the commits: a transaction may take its id, wait for a lock, and commit long after later
//! ids. So a read takes every row whose transaction was not yet settled at the previous complete read (at or above that
//! read's `xmin`), and drops the rows that it has seen.

use std::collections::HashSet;
use std::time::Duration;

use serde::Deserialize;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, PgConnection};

use super::document;
use super::script::Script;
use super::sql::begin_read;
use crate::clock::BootInstant;
use crate::entry::Position;
use crate::store::error::{is_not_offered, timed_out};
use crate::store::rows::{EntryRow, entries, from_micros, parse};
use crate::store::timing::QueryTimer;
use crate::store::{LogRead, StoreError, StoreResult};

/// A read of the tail, the opening of a connection included.
const TAIL_LIMIT: Duration = Duration::from_secs(2);
/// A read of the whole retained log.
const WHOLE_LIMIT: Duration = Duration::from_secs(10);

/// Rows, watermark, snapshot, identity and role, all of one moment.
const STATE: &str = concat!(
    "SELECT json_build_object('now', ",
    micros!("clock_timestamp()"),
    ", 'standby', pg_is_in_recovery(), 'position', ",
    position!(),
    ", 'trimmed_below', (SELECT trimmed_below FROM log_state), 'deployment', (SELECT id FROM deployment)"
);
/// A position beyond the snapshot was restored from another cluster's dump, and no transaction of this one has it.
const ENTRIES: &str = concat!(
    ", 'entries', (SELECT coalesce(json_agg(",
    entry_json!("least(r.position, pg_snapshot_xmax(pg_current_snapshot())::text::bigint)"),
    "), '[]') FROM revocations r WHERE r.position >= "
);

const SYSTEM: &str = "(SELECT system_identifier::text FROM pg_control_system())";
/// The first eight digits of a WAL file's name are its timeline. There is no such name during recovery.
const TIMELINE: &str =
    "CASE WHEN pg_is_in_recovery() THEN NULL ELSE left(pg_walfile_name(pg_current_wal_lsn()), 8) END";

/// Which history of which database. Positions of another one mean nothing here.
#[derive(Clone, PartialEq, Eq, Debug)]
struct History {
    system: Option<String>,
    timeline: Option<String>,
    deployment: Option<String>,
}

#[derive(Deserialize)]
struct State {
    now: i64,
    standby: bool,
    position: Position,
    trimmed_below: Option<Position>,
    system: Option<String>,
    timeline: Option<String>,
    deployment: Option<String>,
    entries: Vec<EntryRow>,
}

/// Where the previous complete read ended.
struct Cursor {
    position: Position,
    history: History,
    /// Ids that were returned of transactions at or above `position`.
    seen: HashSet<u64>,
}

/// See [`crate::store::LogReader`].
pub(in crate::store) struct LogReader {
    options: PgConnectOptions,
    connection: Option<Connection>,
    cursor: Option<Cursor>,
}

impl LogReader {
    pub(super) fn new(options: PgConnectOptions) -> Self {
        Self { options, connection: None, cursor: None }
    }

    pub(in crate::store) async fn read(&mut self) -> StoreResult<LogRead> {
        let mut elsewhere = false;
        if self.cursor.is_some() {
            let (state, sent) = self.state(TAIL_LIMIT).await?;
            if self.continues(&state) {
                return self.take(state, sent, (true, false));
            }
            tracing::warn!("the log's tail does not continue what was read before; reading all of it");
            elsewhere = self.cursor.take().is_some_and(|cursor| cursor.history != state.history());
        }
        let (state, sent) = self.state(WHOLE_LIMIT).await?;
        self.take(state, sent, (false, elsewhere))
    }

    /// Nothing can have been missed: the same history, and nothing trimmed that this reader had still to see.
    fn continues(&self, state: &State) -> bool {
        let trimmed_below = state.trimmed_below.unwrap_or(Position::MAX);
        self.cursor.as_ref().is_some_and(|cursor| {
            cursor.history == state.history()
                && trimmed_below <= cursor.position
                // Only another history could have an older horizon.
                && state.position >= cursor.position
        })
    }

    /// One statement. Any failure costs the connection and leaves the cursor.
    async fn state(&mut self, limit: Duration) -> StoreResult<(State, BootInstant)> {
        // Taken out while in use: whoever drops this future in the middle drops the connection too.
        let connection = self.connection.take();
        let from = self.cursor.as_ref().map_or(0, |cursor| cursor.position);
        let options = &self.options;
        let asking = async {
            let mut connection = match connection {
                Some(connection) => connection,
                None => Connection::open(options).await?,
            };
            let (state, sent) = connection.ask(from, limit).await?;
            Ok::<_, StoreError>((connection, state, sent))
        };
        let (connection, state, sent) = tokio::time::timeout(limit, asking).await.map_err(|_| timed_out())??;
        if state.standby {
            // The next try may reach the new primary.
            return Err(StoreError::Unavailable("the server is not the primary".into()));
        }
        self.connection = Some(connection);
        Ok((state, sent))
    }

    fn take(
        &mut self,
        state: State,
        sent_at: BootInstant,
        (continuous, elsewhere): (bool, bool),
    ) -> StoreResult<LogRead> {
        let history = state.history();
        let database_now =
            from_micros(state.now).ok_or_else(|| StoreError::Corrupt("the database's clock is out of range".into()))?;
        let seen = self.cursor.as_ref().map(|cursor| &cursor.seen);
        let rows = state.entries;
        let now_seen = rows.iter().filter(|row| row.position >= state.position).map(|row| row.id).collect();
        let fresh = rows.into_iter().filter(|row| seen.is_none_or(|seen| !seen.contains(&row.id))).collect();
        let read = LogRead {
            entries: entries(fresh)?,
            sent_at,
            database_now,
            continuous,
            watermark: state.trimmed_below.unwrap_or(Position::MAX),
            position: state.position,
            // A transaction of another history commits nowhere any more.
            settled_below: if elsewhere { Position::MAX } else { state.position },
        };
        self.cursor = Some(Cursor { position: state.position, history, seen: now_seen });
        Ok(read)
    }
}

impl State {
    fn history(&self) -> History {
        History { system: self.system.clone(), timeline: self.timeline.clone(), deployment: self.deployment.clone() }
    }
}

/// An open connection, and what its role may ask of the server's identity.
struct Connection {
    connection: PgConnection,
    system: &'static str,
    timeline: &'static str,
}

impl Connection {
    async fn open(options: &PgConnectOptions) -> StoreResult<Self> {
        let mut connection = options.connect().await?;
        let system = offered(&mut connection, SYSTEM).await?;
        let timeline = offered(&mut connection, TIMELINE).await?;
        Ok(Self { connection, system, timeline })
    }

    async fn ask(&mut self, from: Position, limit: Duration) -> StoreResult<(State, BootInstant)> {
        let script = begin_read(limit)
            .text(STATE)
            .text(", 'system', ")
            .text(self.system)
            .text(", 'timeline', ")
            .text(self.timeline)
            .text(ENTRIES)
            .unsigned(from)
            .text("))::text; COMMIT");
        let _timer = QueryTimer::start("log_read");
        let sent_at = BootInstant::now();
        let rows = sqlx::raw_sql(script.into_sql()).fetch_all(&mut self.connection).await?;
        Ok((parse(&document(rows)?)?, sent_at))
    }
}

/// The expression itself when this role may use it on this server, else `NULL`: without it a change of server or
/// timeline is told by the deployment's id and the horizon alone.
async fn offered(connection: &mut PgConnection, expression: &'static str) -> StoreResult<&'static str> {
    let probe = Script::new("BEGIN READ ONLY; SELECT ").text(expression).text("; COMMIT");
    match sqlx::raw_sql(probe.into_sql()).execute(&mut *connection).await {
        Ok(_) => Ok(expression),
        Err(error) if is_not_offered(&error) => {
            sqlx::raw_sql("ROLLBACK").execute(connection).await?;
            tracing::info!(%error, "the server does not tell its identity to this role");
            Ok("NULL")
        }
        Err(error) => Err(error.into()),
    }
}
