//! One place where the driver's errors become ours. Texts never hold the database's URL.

use super::StoreError;

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(refusal) => {
                let text = format!("{} ({})", refusal.message(), refusal.code().unwrap_or_default());
                if is_passing(refusal.as_ref()) { Self::Unavailable(text) } else { Self::Corrupt(text) }
            }
            // The source may quote the URL.
            sqlx::Error::Configuration(_) => {
                Self::Unavailable("its address or its options cannot be understood".into())
            }
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed
            | sqlx::Error::BeginFailed => Self::Unavailable(error.to_string()),
            _ => Self::Corrupt(error.to_string()),
        }
    }
}

impl From<serde_json::Error> for StoreError {
    fn from(error: serde_json::Error) -> Self {
        Self::Corrupt(error.to_string())
    }
}

/// The answer did not come in time. A write may have taken effect.
pub(super) fn timed_out() -> StoreError {
    StoreError::Unavailable("no answer in time".into())
}

/// The connection is of no use any more, whatever was asked; a read may be repeated on another one.
pub(super) fn is_broken(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => true,
        sqlx::Error::Database(refusal) => {
            let code = refusal.code().unwrap_or_default();
            // Connection exceptions; shutdown by the administrator, crash, starting up; the pooler lost its server.
            code.starts_with("08") || matches!(code.as_ref(), "57P01" | "57P02" | "57P03")
        }
        _ => false,
    }
}

/// The server refused a function to this role, or does not have it.
pub(super) fn is_not_offered(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(refusal) = error else { return false };
    matches!(refusal.code().unwrap_or_default().as_ref(), "42501" | "42883" | "0A000")
}

/// Another try may go well: time-outs, locks, deadlocks, shutdown, read-only, out of something.
fn is_passing(refusal: &dyn sqlx::error::DatabaseError) -> bool {
    let code = refusal.code().unwrap_or_default();
    if let Some(refusal) = refusal.try_downcast_ref::<sqlx::sqlite::SqliteError>() {
        let code = sqlx::error::DatabaseError::code(refusal).and_then(|code| code.parse::<i32>().ok()).unwrap_or(0);
        // The low byte is the primary code: busy, locked, interrupted, read-only, I/O error, full, cannot open.
        return matches!(code & 0xff, 5 | 6 | 8 | 9 | 10 | 13 | 14);
    }
    // By class: connection, authorization, no such database, rollback, resources, operator intervention, system.
    ["08", "28", "3D", "40", "53", "57", "58"].iter().any(|class| code.starts_with(class))
        || matches!(code.as_ref(), "25006" | "25P02" | "25P03" | "55P03" | "55006")
}
