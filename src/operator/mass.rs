//! The end of everybody's sessions: in bounded batches, each a transaction of its own with one log entry that names the
//! sessions it ended.
//!
//! Why not one entry "everything before this time": applying an entry compares scopes and never times, and a floor under all
//! sessions would need a generation in every session, every record and every socket, for an act that happens once in a
//! product's life. Why not an entry for each session: the log is read as a whole by every node that starts, and passed on
//! entry by entry. A batch is an ordinary end of sessions in everything but its size: each node marks, forgets and closes by
//! the sessions' ids, late or twice without harm, so that every promise holds for each of them as it does for one.
//!
//! The time is compared in the database alone, when sessions are chosen.

use std::time::Duration;

use serde_json::json;
use time::OffsetDateTime;

use super::error::not_allowed;
use super::{By, Operator, OperatorError};
use crate::store::attribution::attributed;
use crate::store::{MassEnd, Store};

/// Sessions ended by one transaction. A batch is some 40 KiB in the log and on the bus.
const BATCH: u32 = 500;

/// A login that began before the time may commit after it: the store cuts what takes longer than this.
const SETTLED_AFTER: Duration = Duration::from_secs(5);

/// Between two looks for what was held by others, or came late.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// How far a revocation for everybody came.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Live sessions that ended in this call.
    pub sessions: u64,
    /// None is left. Otherwise call again with the same time.
    pub complete: bool,
    /// The time.
    pub created_before: OffsetDateTime,
}

impl Operator {
    /// Ends all sessions of everybody that began before a time of the database's clock (4502), for at most `limit`.
    ///
    /// # Errors
    /// [`OperatorError::NotAllowed`] for a time to come; [`OperatorError::Store`] when a part may have been done.
    pub async fn end_everybody(
        &self,
        by: &By,
        created_before: Option<OffsetDateTime>,
        limit: Duration,
    ) -> Result<Progress, OperatorError> {
        let deadline = tokio::time::Instant::now() + limit;
        let now = self.database_now().await?;
        let before = created_before.unwrap_or(now);
        if before > now {
            let detail =
                "This time is still to come, by the database's clock: sessions yet to be made cannot be ended.";
            return Err(not_allowed("created_before", detail));
        }
        let details = json!({ "created_before": before.format(&time::format_description::well_known::Rfc3339).ok() });
        let doing = by.doing("operator.sessions_revoke_all", None, None, details);
        attributed(doing, self.store.note_action()).await?;
        let mut sessions = 0;
        loop {
            let (ended, in_time) = self.one_round(by, before, deadline).await?;
            sessions += ended;
            let left = self.store.remaining_before(before).await?;
            let complete = !left.any && left.now >= before + SETTLED_AFTER;
            if complete || !in_time || tokio::time::Instant::now() >= deadline {
                return Ok(Progress { sessions, complete, created_before: before });
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// The database's clock.
    ///
    /// # Errors
    /// [`OperatorError::Store`].
    pub async fn database_now(&self) -> Result<OffsetDateTime, OperatorError> {
        Ok(self.store.remaining_before(OffsetDateTime::UNIX_EPOCH).await?.now)
    }

    /// Once through all sessions, in the order of their handles; false when time ran out.
    async fn one_round(
        &self,
        by: &By,
        before: OffsetDateTime,
        deadline: tokio::time::Instant,
    ) -> Result<(u64, bool), OperatorError> {
        let (mut ended, mut after) = (0, None);
        loop {
            let batch = async move |store: Store| store.end_sessions_before(before, after, BATCH).await;
            let MassEnd { revoked, last } = self.end(by.attribution(), batch).await?;
            ended += revoked.sessions;
            match last {
                None => return Ok((ended, true)),
                Some(last) => after = Some(last),
            }
            if tokio::time::Instant::now() >= deadline {
                return Ok((ended, false));
            }
        }
    }
}
