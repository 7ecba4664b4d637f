-- When a key was first signed with, and since when it is to be replaced (`portcullis key rotate`).
ALTER TABLE signing_keys ADD COLUMN used_at INTEGER;
ALTER TABLE signing_keys ADD COLUMN outdated_at INTEGER;
UPDATE signing_keys SET used_at = created_at;

-- A key may be revoked that was never registered: the shared secret of HS256 has no public half. Its row says so.
DROP TRIGGER signing_keys_log_insert;

CREATE TRIGGER signing_keys_log_insert AFTER INSERT ON signing_keys
WHEN NEW.revoked_at IS NULL
BEGIN
    INSERT INTO revocations (kind, kid, algorithm, jwk) VALUES ('key_added', NEW.kid, NEW.algorithm, NEW.jwk);
END;

CREATE TRIGGER signing_keys_log_insert_revoked AFTER INSERT ON signing_keys
WHEN NEW.revoked_at IS NOT NULL
BEGIN
    INSERT INTO revocations (kind, kid) VALUES ('key_removed', NEW.kid);
END;
