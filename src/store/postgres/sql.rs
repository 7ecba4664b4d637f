//! Pieces of SQL that several statements share.

use std::time::Duration;

use super::script::Script;
use crate::store::attribution::Attribution;

/// Microseconds since 1970 of a `timestamptz`, exactly.
macro_rules! micros {
    ($column:literal) => {
        concat!("(extract(epoch from ", $column, ") * 1000000)::bigint")
    };
}

/// The position of the snapshot: every transaction below it is visible or will never be.
macro_rules! position {
    () => {
        "pg_snapshot_xmin(pg_current_snapshot())::text::bigint"
    };
}

/// The user `u` as a `UserRow`.
macro_rules! user_json {
    () => {
        concat!(
            "json_build_object('id', u.id, 'email', u.email, 'full_name', u.full_name, 'avatar_url', u.avatar_url, ",
            "'metadata', u.metadata::text, 'created_at', ",
            micros!("u.created_at"),
            ", 'updated_at', ",
            micros!("u.updated_at"),
            ", 'auth_epoch', u.auth_epoch, 'disabled', u.disabled_at IS NOT NULL)"
        )
    };
}

/// The session `s` and its user `u` as a `SessionRow`. The order of the verdict: the session's own end, the account,
/// the epoch. Listings are kept a minute past the token's end, for clocks and leeway.
macro_rules! session_json {
    () => {
        concat!(
            "json_build_object('sid', s.sid, 'secret_hash', encode(s.secret_hash, 'hex'), 'auth_epoch', s.auth_epoch, ",
            "'created_at', ",
            micros!("s.created_at"),
            ", 'last_seen_at', ",
            micros!("s.last_seen_at"),
            ", 'expires_at', ",
            micros!("s.expires_at"),
            ", 'max_expires_at', ",
            micros!("s.max_expires_at"),
            ", 'listed', (SELECT coalesce(json_agg(t.jti), '[]') FROM listed_tokens t ",
            "WHERE t.sid = s.sid AND t.expires_at > now() - interval '1 minute')",
            ", 'ended', CASE WHEN s.ended_at IS NOT NULL THEN coalesce(s.end_reason, 'revoked') ",
            "WHEN u.disabled_at IS NOT NULL THEN 'account_disabled' ",
            "WHEN s.auth_epoch < u.auth_epoch THEN coalesce(u.epoch_reason, 'revoked') END, ",
            "'rotation', CASE WHEN s.rotated_at IS NOT NULL THEN json_build_object('rotated_at', ",
            micros!("s.rotated_at"),
            ", 'previous_hash', encode(s.previous_hash, 'hex'), 'previous_until', ",
            micros!("s.previous_until"),
            ", 'salt', s.rotation_salt) END, ",
            "'seen_from', json_build_object('browser', s.browser, 'network', s.network), 'user', ",
            user_json!(),
            ")"
        )
    };
}

/// The log row `r` as an `EntryRow`.
macro_rules! entry_json {
    () => {
        entry_json!("r.position")
    };
    ($position:literal) => {
        concat!(
            "json_build_object('id', r.id, 'position', ",
            $position,
            ", 'logged_at', ",
            micros!("r.logged_at"),
            ", 'confirm', r.confirm, 'kind', r.kind, 'user_id', r.user_id, 'sid', r.sid, 'below', r.below, ",
            "'except_sid', r.except_sid, 'reason', r.reason, 'jti', r.jti, 'expires_at', ",
            micros!("r.expires_at"),
            ", 'kid', r.kid, 'algorithm', r.algorithm, 'jwk', r.jwk::text, 'sessions', r.sessions::text)"
        )
    };
}

/// Begins the answer of every read; a subselect that gives a JSON array and `))::text` follow.
pub(super) const ANSWER: &str =
    concat!("SELECT json_build_object('position', ", position!(), ", 'standby', pg_is_in_recovery(), 'rows', (");

/// What the triggers logged in this transaction.
pub(super) const OWN_ENTRIES: &str = concat!(
    "SELECT coalesce(json_agg(",
    entry_json!(),
    "), '[]')::text FROM revocations r WHERE r.position = pg_current_xact_id_if_assigned()::text::bigint"
);

/// A transaction that reads, with its limit.
pub(super) fn begin_read(statement_timeout: Duration) -> Script {
    limited("BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY; SET LOCAL statement_timeout = ", statement_timeout)
        .text("; ")
}

/// A transaction that writes, with its limits. Durable, whatever the server's default: an answered revocation is never
/// lost, and neither is a ticket's redemption.
pub(super) fn begin_write(statement_timeout: Duration) -> Script {
    let script = limited(
        "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL synchronous_commit = on; \
         SET LOCAL statement_timeout = ",
        statement_timeout,
    );
    let script = script.script(&limited("; SET LOCAL lock_timeout = ", statement_timeout));
    script.script(&limited("; SET LOCAL idle_in_transaction_session_timeout = ", statement_timeout))
}

/// Tells the triggers who is at work, for this transaction.
pub(super) fn attribute(attribution: &Attribution) -> Script {
    let actor = "; SET LOCAL portcullis.actor = '";
    let mut script = Script::new(actor).text(attribution.actor.as_str()).text("'");
    if let Some(key) = attribution.actor.key() {
        script = script.text("; SET LOCAL portcullis.actor_id = '").hyphenated(key.0).text("'");
    }
    match attribution.ip {
        Some(ip) => script.text("; SET LOCAL portcullis.ip = ").ip(ip),
        None => script,
    }
}

/// A setting in milliseconds; zero would mean no limit.
fn limited(setting: &'static str, limit: Duration) -> Script {
    Script::new(setting).milliseconds(limit)
}
