-- Secrets that rotate, where a session is used from, and better hashes of the same passwords.

-- Set together with another hash of the SAME password: then no credential has changed, and nothing ends.
ALTER TABLE users ADD COLUMN rehashed_at timestamptz;

ALTER TABLE sessions
    ADD COLUMN previous_hash   bytea,       -- the secret before this one, good until previous_until
    ADD COLUMN previous_until  timestamptz,
    ADD COLUMN rotation_salt   uuid,        -- with it the secret before this one leads to this one, and nothing else does
    ADD COLUMN rotated_at      timestamptz,
    ADD COLUMN browser         text,        -- where it is used from, coarse: the browser's family ...
    ADD COLUMN network         text,        -- ... and the /24 or /64
    ADD COLUMN changed_at      timestamptz, -- when it was last used from elsewhere
    ADD COLUMN changed_browser text,
    ADD COLUMN changed_network text;

-- The network of sessions that are here already.
UPDATE sessions SET network = set_masklen(ip, CASE family(ip) WHEN 4 THEN 24 ELSE 64 END)::cidr::text WHERE ip IS NOT NULL;

-- Secrets that were rotated away, by their hash: whoever shows one late has stolen it, or somebody has stolen its successor.
CREATE TABLE spent_secrets (
    secret_hash bytea       PRIMARY KEY,
    sid         uuid        NOT NULL REFERENCES sessions ON DELETE CASCADE,
    user_id     uuid        NOT NULL,
    spent_at    timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX spent_secrets_sid ON spent_secrets (sid, spent_at);

-- What is remembered of the session is old; nothing ends.
CREATE FUNCTION portcullis_log_session_change() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO revocations (kind, user_id, sid) VALUES ('session_changed', NEW.user_id, NEW.sid);
    RETURN NULL;
END $$;
CREATE TRIGGER sessions_log_change AFTER UPDATE OF secret_hash, browser, network ON sessions
    FOR EACH ROW
    WHEN ((OLD.secret_hash, OLD.browser, OLD.network) IS DISTINCT FROM (NEW.secret_hash, NEW.browser, NEW.network))
    EXECUTE FUNCTION portcullis_log_session_change();

-- As before, but for a better hash of the same password.
CREATE OR REPLACE FUNCTION portcullis_raise_epoch() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    disabling boolean := OLD.disabled_at IS NULL AND NEW.disabled_at IS NOT NULL;
    rehashed  boolean := NEW.rehashed_at IS DISTINCT FROM OLD.rehashed_at;
    rekeyed   boolean := NEW.password_hash IS DISTINCT FROM OLD.password_hash AND NOT rehashed;
BEGIN
    IF NEW.auth_epoch < OLD.auth_epoch THEN
        RAISE EXCEPTION 'auth_epoch can only rise: a lower one would bring ended sessions back';
    END IF;
    IF (disabling OR rekeyed) AND NEW.auth_epoch = OLD.auth_epoch THEN
        NEW.auth_epoch := OLD.auth_epoch + 1;
    END IF;
    IF NEW.auth_epoch > OLD.auth_epoch AND NEW.epoch_reason_for IS DISTINCT FROM NEW.auth_epoch THEN
        NEW.epoch_reason := CASE WHEN disabling THEN 'account_disabled'
                                 WHEN rekeyed THEN 'credentials_changed'
                                 ELSE 'revoked' END;
        NEW.epoch_except := NULL;
        NEW.epoch_reason_for := NEW.auth_epoch;
    END IF;
    RETURN NEW;
END $$;
