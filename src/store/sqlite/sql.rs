//! Pieces of SQL that several statements share.

/// Microseconds since 1970, to the millisecond. The same throughout a statement.
macro_rules! now {
    () => {
        "(CAST((julianday('now') - 2440587.5) * 86400000 + 0.5 AS INTEGER) * 1000)"
    };
}

/// The greatest log id there ever was: trimming does not lower it.
macro_rules! last_entry {
    () => {
        "coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'revocations'), 0)"
    };
}

/// A statement that gives an `Answer`: JSON rows from a source, and the position of the snapshot.
macro_rules! answer {
    ($row:expr, $source:expr) => {
        concat!(
            "SELECT json_object('position', 1 + ",
            last_entry!(),
            ", 'rows', json((SELECT json_group_array(",
            $row,
            ") FROM ",
            $source,
            ")))"
        )
    };
}

/// The user `u` as a `UserRow`.
macro_rules! user_json {
    () => {
        "json_object('id', u.id, 'email', u.email, 'full_name', u.full_name, 'avatar_url', u.avatar_url, \
         'metadata', u.metadata, 'created_at', u.created_at, 'updated_at', u.updated_at, \
         'auth_epoch', u.auth_epoch, 'disabled', u.disabled_at IS NOT NULL)"
    };
}

/// The session `s` and its user `u` as a `SessionRow`. The order of the verdict: the session's own end, the account,
/// the epoch. Listings are kept a minute past the token's end, for clocks and leeway.
macro_rules! session_json {
    () => {
        concat!(
            "json_object('sid', s.sid, 'secret_hash', s.secret_hash, 'auth_epoch', s.auth_epoch, \
             'created_at', s.created_at, 'last_seen_at', s.last_seen_at, 'expires_at', s.expires_at, \
             'max_expires_at', s.max_expires_at, 'listed', json((SELECT json_group_array(t.jti) \
             FROM listed_tokens t WHERE t.sid = s.sid AND t.expires_at > ",
            now!(),
            " - 60000000)), 'ended', CASE WHEN s.ended_at IS NOT NULL THEN coalesce(s.end_reason, 'revoked') \
             WHEN u.disabled_at IS NOT NULL THEN 'account_disabled' \
             WHEN s.auth_epoch < u.auth_epoch THEN coalesce(u.epoch_reason, 'revoked') END, \
             'rotation', json(CASE WHEN s.rotated_at IS NOT NULL THEN json_object('rotated_at', s.rotated_at, \
             'previous_hash', s.previous_hash, 'previous_until', s.previous_until, 'salt', s.rotation_salt) \
             ELSE 'null' END), 'seen_from', json_object('browser', s.browser, 'network', s.network), 'user', ",
            user_json!(),
            ")"
        )
    };
}

/// The log row `r` as an `EntryRow`.
macro_rules! entry_json {
    () => {
        "json_object('id', r.id, 'position', r.id, 'logged_at', r.logged_at, 'confirm', r.confirm, 'kind', r.kind, \
         'user_id', r.user_id, 'sid', r.sid, 'below', r.below, 'except_sid', r.except_sid, 'reason', r.reason, \
         'jti', r.jti, 'expires_at', r.expires_at, 'kid', r.kid, 'algorithm', r.algorithm, 'jwk', r.jwk, \
         'sessions', r.sessions)"
    };
}

pub(super) const LAST_ENTRY: &str = concat!("SELECT ", last_entry!());

pub(super) const ENTRIES_AFTER: &str =
    concat!("SELECT ", entry_json!(), " FROM revocations r WHERE r.id > ?1 ORDER BY r.id");
