-- When a key was first signed with, and since when it is to be replaced (`portcullis key rotate`).
ALTER TABLE signing_keys ADD COLUMN used_at timestamptz;
ALTER TABLE signing_keys ADD COLUMN outdated_at timestamptz;
UPDATE signing_keys SET used_at = created_at;

-- A key may be revoked that was never registered: the shared secret of HS256 has no public half. Its row says so.
CREATE OR REPLACE FUNCTION portcullis_log_key() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF TG_OP = 'INSERT' AND NEW.revoked_at IS NULL THEN
        INSERT INTO revocations (kind, kid, algorithm, jwk) VALUES ('key_added', NEW.kid, NEW.algorithm, NEW.jwk);
    ELSIF TG_OP = 'INSERT' THEN
        INSERT INTO revocations (kind, kid) VALUES ('key_removed', NEW.kid);
    ELSE
        INSERT INTO revocations (kind, kid) VALUES ('key_removed', OLD.kid);
    END IF;
    RETURN NULL;
END $$;
