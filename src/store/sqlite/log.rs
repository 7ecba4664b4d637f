//! The tail of the log, on a connection that is nobody else's. One writer at a time and ids that are never used twice:
//! what comes after the last id seen is all there is.

use std::time::Duration;

use serde::Deserialize;
use sqlx::ConnectOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};

use super::document;
use crate::clock::BootInstant;
use crate::entry::Position;
use crate::store::error::timed_out;
use crate::store::rows::{EntryRow, entries, from_micros, parse};
use crate::store::timing::QueryTimer;
use crate::store::{LogRead, StoreError, StoreResult};

/// A read of the tail.
const TAIL_LIMIT: Duration = Duration::from_secs(2);
/// A read of the whole retained log.
const WHOLE_LIMIT: Duration = Duration::from_secs(10);

const STATE: &str = concat!(
    "SELECT json_object('now', ",
    now!(),
    ", 'position', 1 + ",
    last_entry!(),
    ", 'trimmed_below', (SELECT trimmed_below FROM log_state), 'deployment', (SELECT id FROM deployment), \
     'entries', json((SELECT json_group_array(",
    entry_json!(),
    ") FROM revocations r WHERE r.id >= ?1)))"
);

#[derive(Deserialize)]
struct State {
    now: i64,
    position: Position,
    trimmed_below: Option<Position>,
    deployment: Option<String>,
    entries: Vec<EntryRow>,
}

/// Where the previous complete read ended: every id below was seen.
struct Cursor {
    position: Position,
    deployment: Option<String>,
}

/// See [`crate::store::LogReader`].
pub(in crate::store) struct LogReader {
    options: SqliteConnectOptions,
    connection: Option<SqliteConnection>,
    cursor: Option<Cursor>,
}

impl LogReader {
    pub(super) fn new(options: SqliteConnectOptions) -> Self {
        Self { options, connection: None, cursor: None }
    }

    pub(in crate::store) async fn read(&mut self) -> StoreResult<LogRead> {
        if self.cursor.is_some() {
            let (state, sent) = self.state(TAIL_LIMIT).await?;
            if self.continues(&state) {
                return self.take(state, sent, true);
            }
            tracing::warn!("the log's tail does not continue what was read before; reading all of it");
            self.cursor = None;
        }
        let (state, sent) = self.state(WHOLE_LIMIT).await?;
        self.take(state, sent, false)
    }

    /// Nothing can have been missed: the same file, gone forward, and nothing trimmed that was still to be seen.
    fn continues(&self, state: &State) -> bool {
        let trimmed_below = state.trimmed_below.unwrap_or(Position::MAX);
        self.cursor.as_ref().is_some_and(|cursor| {
            cursor.deployment == state.deployment
                && trimmed_below <= cursor.position
                && state.position >= cursor.position
        })
    }

    /// One statement. Any failure costs the connection and leaves the cursor.
    async fn state(&mut self, limit: Duration) -> StoreResult<(State, BootInstant)> {
        let connection = self.connection.take();
        let from = self.cursor.as_ref().map_or(0, |cursor| cursor.position);
        let options = &self.options;
        let asking = async {
            let mut connection = match connection {
                Some(connection) => connection,
                None => options.connect().await?,
            };
            let query = sqlx::query(STATE).bind(i64::try_from(from).unwrap_or(i64::MAX));
            let _timer = QueryTimer::start("log_read");
            let sent_at = BootInstant::now();
            let row = query.fetch_one(&mut connection).await?;
            Ok::<_, StoreError>((connection, parse(&document(&row)?)?, sent_at))
        };
        let (connection, state, sent) = tokio::time::timeout(limit, asking).await.map_err(|_| timed_out())??;
        self.connection = Some(connection);
        Ok((state, sent))
    }

    fn take(&mut self, state: State, sent_at: BootInstant, continuous: bool) -> StoreResult<LogRead> {
        let database_now =
            from_micros(state.now).ok_or_else(|| StoreError::Corrupt("the database's clock is out of range".into()))?;
        let read = LogRead {
            entries: entries(state.entries)?,
            sent_at,
            database_now,
            continuous,
            watermark: state.trimmed_below.unwrap_or(Position::MAX),
            position: state.position,
            // One writer, in this process: whoever commits learns at once how it ended.
            settled_below: Position::MAX,
        };
        self.cursor = Some(Cursor { position: state.position, deployment: state.deployment });
        Ok(read)
    }
}
