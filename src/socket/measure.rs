//! What sockets count and time.

use std::sync::LazyLock;
use std::time::Duration;

use ::metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use time::OffsetDateTime;

use crate::auth::AuthError;
use crate::metrics::{AUTH_DURATION, CONNECTIONS, FORCED_DISCONNECTS, HANDSHAKES, LIMITS_REACHED, REVOCATION_DELAY};
use crate::protocol::Close;

// What every socket needs is looked up once; the recorder is installed before the first socket comes.
static LIVE: LazyLock<Gauge> = LazyLock::new(|| gauge!(CONNECTIONS));
static ACCEPTED: LazyLock<Counter> = LazyLock::new(|| counter!(HANDSHAKES, "result" => "accepted"));
static FOUND_GOOD: LazyLock<Histogram> = LazyLock::new(|| judging("good"));

/// One live socket, in the gauge for as long as it exists.
pub(super) struct Counted(());

impl Counted {
    pub(super) fn new() -> Self {
        LIVE.increment(1.0);
        Self(())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        LIVE.decrement(1.0);
    }
}

/// A handshake was answered with a socket.
pub(super) fn accepted() {
    ACCEPTED.increment(1);
}

/// A handshake was answered with something else.
pub(super) fn handshake(result: &'static str) {
    counter!(HANDSHAKES, "result" => result).increment(1);
}

/// Somebody was refused, or closed, because a limit was reached.
pub(super) fn limit_reached(limit: &'static str) {
    counter!(LIMITS_REACHED, "limit" => limit).increment(1);
}

/// A credential was judged on a socket: in the handshake, in `connect` and `refresh`, or looked up again.
pub(super) fn judged<T>(took: Duration, outcome: Result<&T, &AuthError>) {
    match outcome {
        Ok(_) => FOUND_GOOD.record(took.as_secs_f64()),
        Err(AuthError::Denied(_)) => judging("denied").record(took.as_secs_f64()),
        Err(AuthError::CannotTell) => judging("cannot_tell").record(took.as_secs_f64()),
    }
}

fn judging(outcome: &'static str) -> Histogram {
    histogram!(AUTH_DURATION, "surface" => "websocket", "outcome" => outcome)
}

/// The server decided to end a connection. Every decision of ours counts, that is every code from 3000 on: a rise of
/// 3008 or 3012 says as much as one of 4501. The codes are few and fixed.
pub(super) fn closed(close: Close) {
    if close.code >= 3000 {
        counter!(FORCED_DISCONNECTS, "code" => close.code.to_string()).increment(1);
    }
}

/// The close frame of a revocation left.
pub(super) fn revocation_delay(revoked_at: OffsetDateTime, now: OffsetDateTime) {
    // The clock of the database is an estimate: a frame cannot leave before its cause.
    histogram!(REVOCATION_DELAY).record((now - revoked_at).as_seconds_f64().max(0.0));
}
