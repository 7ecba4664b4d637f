-- The operator's side: keys for the admin API, the audit trail, and what receivers of webhooks have still to be told.

-- Keys of the admin API. Only the hash of a key is kept.
CREATE TABLE admin_keys (
    id           TEXT    PRIMARY KEY NOT NULL,
    name         TEXT    NOT NULL,
    secret_hash  TEXT    NOT NULL UNIQUE,
    scopes       TEXT    NOT NULL, -- separated by spaces
    created_at   INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 + 0.5 AS INTEGER) * 1000),
    expires_at   INTEGER,
    revoked_at   INTEGER,
    last_used_at INTEGER           -- to the minute or so
);

-- The trail. No foreign keys: it outlives what it tells of. Rows written by the triggers below have the names of the log's
-- kinds as their events; those of operators begin with "operator.".
CREATE TABLE audit (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    at       INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 + 0.5 AS INTEGER) * 1000),
    event    TEXT    NOT NULL,
    actor    TEXT    NOT NULL, -- user, operator, system, or database: written by hand, past the program
    actor_id TEXT,             -- the operator's key; none on the command line
    user_id  TEXT,             -- whom it concerns
    sid      TEXT,
    ip       TEXT,
    reason   TEXT,
    count    INTEGER NOT NULL DEFAULT 1, -- failures of a kind are counted together
    details  TEXT
);
CREATE INDEX audit_user ON audit (user_id, id) WHERE user_id IS NOT NULL;
CREATE INDEX audit_at ON audit (at);

-- Who is at work in the transaction under way; set and cleared by the program, so that outside of one it is empty.
CREATE TABLE audit_context (
    only_row INTEGER PRIMARY KEY DEFAULT 1 CHECK (only_row = 1),
    actor    TEXT,
    actor_id TEXT,
    ip       TEXT
);
INSERT INTO audit_context DEFAULT VALUES;

-- Receivers of webhooks, by the hash of their URL: the URL itself may hold a secret and stays in the settings.
CREATE TABLE webhook_targets (
    target       TEXT    PRIMARY KEY NOT NULL,
    created_at   INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 + 0.5 AS INTEGER) * 1000),
    last_seen_at INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 + 0.5 AS INTEGER) * 1000)
);

-- What a receiver has still to be told. Delivered rows are deleted, those given up stay for the operator to see.
CREATE TABLE webhook_outbox (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    target          TEXT    NOT NULL,
    at              INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 + 0.5 AS INTEGER) * 1000),
    reason          TEXT    NOT NULL,
    initiator       TEXT    NOT NULL,
    user_id         TEXT    NOT NULL,
    sid             TEXT,
    -- From when on the time is counted after which it is given up.
    since           INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 + 0.5 AS INTEGER) * 1000),
    attempts        INTEGER NOT NULL DEFAULT 0,
    next_attempt_at INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 + 0.5 AS INTEGER) * 1000),
    leased_until    INTEGER,
    last_error      TEXT,
    given_up_at     INTEGER
);
CREATE INDEX webhook_outbox_due ON webhook_outbox (target, next_attempt_at) WHERE given_up_at IS NULL;

-- Everything that is logged is audited, in the same transaction. Whoever is not named is told by the reason; what has no
-- author and no reason of its own was written by hand. Entries of kind "sessions" only take together what was audited
-- one by one, and "session_changed" tells caches, not people.
CREATE TRIGGER revocations_audit AFTER INSERT ON revocations WHEN NEW.kind NOT IN ('sessions', 'session_changed')
BEGIN
    INSERT INTO audit (event, actor, actor_id, ip, user_id, sid, reason, details)
    SELECT NEW.kind,
        coalesce(c.actor,
            CASE WHEN NEW.reason IN ('logged_out', 'logged_out_everywhere', 'credentials_changed') THEN 'user'
                 WHEN NEW.kind IN ('key_added', 'key_removed') OR NEW.reason = 'secret_replayed' THEN 'system'
                 ELSE 'database' END),
        c.actor_id, c.ip, NEW.user_id, NEW.sid, NEW.reason,
        CASE WHEN NEW.kid IS NOT NULL THEN json_object('kid', NEW.kid)
             WHEN NEW.jti IS NOT NULL THEN json_object('jti', NEW.jti) END
    FROM audit_context c;
END;

-- What ends sessions is put into the outbox, in the same transaction. When a session goes on, "all of this user" would say
-- too much.
CREATE TRIGGER revocations_outbox AFTER INSERT ON revocations
WHEN NEW.kind IN ('session', 'user_epoch') AND NEW.user_id IS NOT NULL
BEGIN
    INSERT INTO webhook_outbox (target, reason, initiator, user_id, sid)
    SELECT t.target, coalesce(NEW.reason, 'revoked'),
        coalesce(c.actor,
            CASE WHEN NEW.reason IN ('logged_out', 'logged_out_everywhere', 'credentials_changed') THEN 'user'
                 WHEN NEW.reason = 'secret_replayed' THEN 'system'
                 ELSE 'database' END),
        NEW.user_id, e.sid
    FROM webhook_targets t, audit_context c, (
        SELECT NEW.sid AS sid WHERE NEW.except_sid IS NULL
        UNION ALL
        SELECT s.sid FROM sessions s
        WHERE NEW.except_sid IS NOT NULL AND s.user_id = NEW.user_id AND s.sid <> NEW.except_sid
            AND s.ended_at IS NULL AND s.auth_epoch = NEW.below - 1
            AND s.expires_at > (CAST((julianday('now') - 2440587.5) * 86400000 + 0.5 AS INTEGER) * 1000)
    ) e;
END;

CREATE TRIGGER users_audit_signup AFTER INSERT ON users
BEGIN
    INSERT INTO audit (event, actor, ip, user_id) SELECT 'signup', 'user', c.ip, NEW.id FROM audit_context c;
END;

CREATE TRIGGER sessions_audit_login AFTER INSERT ON sessions
BEGIN
    INSERT INTO audit (event, actor, ip, user_id, sid) VALUES ('login', 'user', NEW.ip, NEW.user_id, NEW.sid);
END;

-- Enabling is logged as a change like any other; the trail names it.
CREATE TRIGGER users_audit_enabled AFTER UPDATE OF disabled_at ON users
WHEN OLD.disabled_at IS NOT NULL AND NEW.disabled_at IS NULL
BEGIN
    INSERT INTO audit (event, actor, actor_id, ip, user_id)
    SELECT 'user_enabled', coalesce(c.actor, 'database'), c.actor_id, c.ip, NEW.id FROM audit_context c;
END;

-- An entry may name many sessions: [[sid, user_id], …]. Written when sessions of many users end at once.
ALTER TABLE revocations ADD COLUMN sessions TEXT;
