-- Secrets that rotate, where a session is used from, and better hashes of the same passwords.

-- Set together with another hash of the SAME password: then no credential has changed, and nothing ends.
ALTER TABLE users ADD COLUMN rehashed_at INTEGER;

ALTER TABLE sessions ADD COLUMN previous_hash TEXT;      -- the secret before this one, good until previous_until
ALTER TABLE sessions ADD COLUMN previous_until INTEGER;
ALTER TABLE sessions ADD COLUMN rotation_salt TEXT;      -- with it the secret before this one leads to this one, and nothing else does
ALTER TABLE sessions ADD COLUMN rotated_at INTEGER;
ALTER TABLE sessions ADD COLUMN browser TEXT;            -- where it is used from, coarse: the browser's family ...
ALTER TABLE sessions ADD COLUMN network TEXT;            -- ... and the /24 or /64
ALTER TABLE sessions ADD COLUMN changed_at INTEGER;      -- when it was last used from elsewhere
ALTER TABLE sessions ADD COLUMN changed_browser TEXT;
ALTER TABLE sessions ADD COLUMN changed_network TEXT;

-- Secrets that were rotated away, by their hash: whoever shows one late has stolen it, or somebody has stolen its successor.
CREATE TABLE spent_secrets (
    secret_hash TEXT    PRIMARY KEY NOT NULL,
    sid         TEXT    NOT NULL REFERENCES sessions (sid) ON DELETE CASCADE,
    user_id     TEXT    NOT NULL,
    spent_at    INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 + 0.5 AS INTEGER) * 1000)
);
CREATE INDEX spent_secrets_sid ON spent_secrets (sid, spent_at);

-- What is remembered of the session is old; nothing ends.
CREATE TRIGGER sessions_log_change AFTER UPDATE OF secret_hash, browser, network ON sessions
WHEN NEW.secret_hash IS NOT OLD.secret_hash OR NEW.browser IS NOT OLD.browser OR NEW.network IS NOT OLD.network
BEGIN
    INSERT INTO revocations (kind, user_id, sid) VALUES ('session_changed', NEW.user_id, NEW.sid);
END;

-- As before, but for a better hash of the same password.
DROP TRIGGER users_raise_epoch;
CREATE TRIGGER users_raise_epoch AFTER UPDATE OF disabled_at, password_hash ON users
WHEN NEW.auth_epoch = OLD.auth_epoch
    AND ((OLD.disabled_at IS NULL AND NEW.disabled_at IS NOT NULL)
        OR (NEW.password_hash IS NOT OLD.password_hash AND NEW.rehashed_at IS OLD.rehashed_at))
BEGIN
    UPDATE users
    SET auth_epoch = auth_epoch + 1,
        epoch_reason = CASE WHEN OLD.disabled_at IS NULL AND NEW.disabled_at IS NOT NULL THEN 'account_disabled'
                            ELSE 'credentials_changed' END,
        epoch_except = NULL,
        epoch_reason_for = auth_epoch + 1
    WHERE id = NEW.id;
END;
