-- Everything Portcullis knows. Writing by hand is welcome: the triggers below log whatever ends a credential.
-- Ids are UUIDs in lower-case text, hashes lower-case hexadecimal, times microseconds since 1970 in UTC. The expression
-- behind each DEFAULT is "now"; it works in every SQLite that a shell may bring, to the millisecond.

-- One row: what this database calls itself, and the key its nodes share. Inserted by the first migration.
CREATE TABLE deployment (
    only_row   INTEGER PRIMARY KEY DEFAULT 1 CHECK (only_row = 1),
    id         TEXT    NOT NULL,
    record_key BLOB    NOT NULL CHECK (length(record_key) = 32),
    created_at INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 + 0.5 AS INTEGER) * 1000)
);

CREATE TABLE users (
    id               TEXT    PRIMARY KEY NOT NULL,
    email            TEXT    NOT NULL,
    email_key        TEXT    NOT NULL UNIQUE, -- e-mail address with its case folded
    password_hash    TEXT    NOT NULL,
    full_name        TEXT,
    avatar_url       TEXT,
    metadata         TEXT    NOT NULL DEFAULT '{}' CHECK (json_valid(metadata) AND json_type(metadata) = 'object'),
    auth_epoch       INTEGER NOT NULL DEFAULT 1, -- sessions of an older epoch are dead
    epoch_reason     TEXT,                       -- why it was last raised
    epoch_except     TEXT,                       -- the session that went on
    epoch_reason_for INTEGER,                    -- the epoch to which the two above belong
    disabled_at      INTEGER,
    created_at       INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 + 0.5 AS INTEGER) * 1000),
    updated_at       INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 + 0.5 AS INTEGER) * 1000)
);

CREATE TABLE sessions (
    sid            TEXT    PRIMARY KEY NOT NULL,
    secret_hash    TEXT    NOT NULL UNIQUE,
    user_id        TEXT    NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    auth_epoch     INTEGER NOT NULL,
    device_name    TEXT,
    user_agent     TEXT,
    ip             TEXT,
    created_at     INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 + 0.5 AS INTEGER) * 1000),
    last_seen_at   INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 + 0.5 AS INTEGER) * 1000),
    expires_at     INTEGER NOT NULL,
    max_expires_at INTEGER NOT NULL,
    ended_at       INTEGER,
    end_reason     TEXT
);
CREATE INDEX sessions_user ON sessions (user_id);
CREATE INDEX sessions_expires ON sessions (expires_at);
CREATE INDEX sessions_ended ON sessions (ended_at) WHERE ended_at IS NOT NULL;

-- Access tokens that ended before their time.
CREATE TABLE listed_tokens (
    jti        TEXT    PRIMARY KEY NOT NULL,
    sid        TEXT    NOT NULL,
    user_id    TEXT    NOT NULL,
    expires_at INTEGER NOT NULL
);
CREATE INDEX listed_tokens_sid ON listed_tokens (sid);
CREATE INDEX listed_tokens_expires ON listed_tokens (expires_at);

CREATE TABLE used_tickets (
    ticket     TEXT    PRIMARY KEY NOT NULL,
    expires_at INTEGER NOT NULL
);
CREATE INDEX used_tickets_expires ON used_tickets (expires_at);

CREATE TABLE signing_keys (
    kid          TEXT    PRIMARY KEY NOT NULL,
    algorithm    TEXT    NOT NULL,
    jwk          TEXT    NOT NULL CHECK (json_valid(jwk)),
    created_at   INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 + 0.5 AS INTEGER) * 1000),
    last_seen_at INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 + 0.5 AS INTEGER) * 1000),
    revoked_at   INTEGER,
    retired_at   INTEGER -- set by the sweeper just before it takes the key of a silent node
);

CREATE TABLE nodes (
    node         TEXT    PRIMARY KEY NOT NULL,
    kid          TEXT,
    started_at   INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 + 0.5 AS INTEGER) * 1000),
    last_seen_at INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 + 0.5 AS INTEGER) * 1000)
);

-- The log. There is one writer at a time and ids are never used twice, so they are in the order of the commits.
CREATE TABLE revocations (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    logged_at  INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 + 0.5 AS INTEGER) * 1000),
    confirm    INTEGER NOT NULL DEFAULT 0,
    kind       TEXT    NOT NULL,
    user_id    TEXT,
    sid        TEXT,
    below      INTEGER,
    except_sid TEXT,
    reason     TEXT,
    jti        TEXT,
    expires_at INTEGER,
    kid        TEXT,
    algorithm  TEXT,
    jwk        TEXT
);
CREATE INDEX revocations_logged ON revocations (logged_at);

-- One row: entries with ids below this one may have been trimmed.
CREATE TABLE log_state (
    only_row      INTEGER PRIMARY KEY DEFAULT 1 CHECK (only_row = 1),
    trimmed_below INTEGER NOT NULL DEFAULT 0
);
INSERT INTO log_state DEFAULT VALUES;

-- Which node applied which entry, for those who wait.
CREATE TABLE acknowledgements (
    entry_id        INTEGER NOT NULL,
    node            TEXT    NOT NULL,
    sockets_closed  INTEGER NOT NULL,
    acknowledged_at INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 + 0.5 AS INTEGER) * 1000),
    PRIMARY KEY (entry_id, node)
);
CREATE INDEX acknowledgements_at ON acknowledgements (acknowledged_at);

-- Disabling, or a new password that came without a new epoch, raises the epoch. SQLite cannot change the row on its way
-- in, so a second UPDATE follows; it fires users_log_epoch.
CREATE TRIGGER users_raise_epoch AFTER UPDATE OF disabled_at, password_hash ON users
WHEN NEW.auth_epoch = OLD.auth_epoch
    AND ((OLD.disabled_at IS NULL AND NEW.disabled_at IS NOT NULL) OR NEW.password_hash IS NOT OLD.password_hash)
BEGIN
    UPDATE users
    SET auth_epoch = auth_epoch + 1,
        epoch_reason = CASE WHEN OLD.disabled_at IS NULL AND NEW.disabled_at IS NOT NULL THEN 'account_disabled'
                            ELSE 'credentials_changed' END,
        epoch_except = NULL,
        epoch_reason_for = auth_epoch + 1
    WHERE id = NEW.id;
END;

CREATE TRIGGER users_keep_epoch BEFORE UPDATE OF auth_epoch ON users
WHEN NEW.auth_epoch < OLD.auth_epoch
BEGIN
    SELECT RAISE(ABORT, 'auth_epoch can only rise: a lower one would bring ended sessions back');
END;

-- A raise by somebody who did not say why for this very epoch is the operator's.
CREATE TRIGGER users_log_epoch AFTER UPDATE OF auth_epoch ON users
WHEN NEW.auth_epoch > OLD.auth_epoch
BEGIN
    UPDATE users
    SET epoch_reason = CASE WHEN OLD.disabled_at IS NULL AND NEW.disabled_at IS NOT NULL THEN 'account_disabled'
                            WHEN NEW.password_hash IS NOT OLD.password_hash THEN 'credentials_changed'
                            ELSE 'revoked' END,
        epoch_except = NULL,
        epoch_reason_for = NEW.auth_epoch
    WHERE id = NEW.id AND epoch_reason_for IS NOT NEW.auth_epoch;
    INSERT INTO revocations (kind, user_id, below, except_sid, reason)
    SELECT 'user_epoch', id, NEW.auth_epoch, epoch_except, epoch_reason FROM users WHERE id = NEW.id;
END;

CREATE TRIGGER users_log_delete AFTER DELETE ON users
BEGIN
    INSERT INTO revocations (kind, user_id, below, reason)
    VALUES ('user_epoch', OLD.id, OLD.auth_epoch + 1, 'account_disabled');
END;

-- Enabling counts as a change: what is remembered of the user still says "disabled".
CREATE TRIGGER users_log_change AFTER UPDATE OF email, full_name, avatar_url, metadata, disabled_at ON users
WHEN NEW.email IS NOT OLD.email OR NEW.full_name IS NOT OLD.full_name OR NEW.avatar_url IS NOT OLD.avatar_url
    OR NEW.metadata IS NOT OLD.metadata OR (OLD.disabled_at IS NOT NULL AND NEW.disabled_at IS NULL)
BEGIN
    INSERT INTO revocations (kind, user_id) VALUES ('user_changed', NEW.id);
END;

-- A session that was dead already, by its user's epoch or with its user, needs no entry of its own.
CREATE TRIGGER sessions_log_end AFTER UPDATE OF ended_at ON sessions
WHEN OLD.ended_at IS NULL AND NEW.ended_at IS NOT NULL
BEGIN
    INSERT INTO revocations (kind, user_id, sid, reason)
    SELECT 'session', OLD.user_id, OLD.sid, coalesce(NEW.end_reason, 'revoked')
    FROM users WHERE id = OLD.user_id AND auth_epoch <= OLD.auth_epoch;
END;

CREATE TRIGGER sessions_log_delete AFTER DELETE ON sessions
WHEN OLD.ended_at IS NULL AND OLD.expires_at > (CAST((julianday('now') - 2440587.5) * 86400000 + 0.5 AS INTEGER) * 1000)
BEGIN
    INSERT INTO revocations (kind, user_id, sid, reason)
    SELECT 'session', OLD.user_id, OLD.sid, 'revoked'
    FROM users WHERE id = OLD.user_id AND auth_epoch <= OLD.auth_epoch;
END;

CREATE TRIGGER listed_tokens_log AFTER INSERT ON listed_tokens
BEGIN
    INSERT INTO revocations (kind, user_id, sid, jti, expires_at)
    VALUES ('token', NEW.user_id, NEW.sid, NEW.jti, NEW.expires_at);
END;

CREATE TRIGGER signing_keys_log_insert AFTER INSERT ON signing_keys
BEGIN
    INSERT INTO revocations (kind, kid, algorithm, jwk) VALUES ('key_added', NEW.kid, NEW.algorithm, NEW.jwk);
END;

CREATE TRIGGER signing_keys_log_revoke AFTER UPDATE OF revoked_at ON signing_keys
WHEN OLD.revoked_at IS NULL AND NEW.revoked_at IS NOT NULL
BEGIN
    INSERT INTO revocations (kind, kid) VALUES ('key_removed', OLD.kid);
END;

CREATE TRIGGER signing_keys_log_delete AFTER DELETE ON signing_keys
WHEN OLD.revoked_at IS NULL AND OLD.retired_at IS NULL
BEGIN
    INSERT INTO revocations (kind, kid) VALUES ('key_removed', OLD.kid);
END;
