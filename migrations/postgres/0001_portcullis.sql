-- Everything Portcullis knows. Writing by hand is welcome: the triggers below log whatever ends a credential.

-- One row: what this database calls itself, and the key its nodes share. Inserted by the first migration.
CREATE TABLE deployment (
    only_row   boolean     PRIMARY KEY DEFAULT true CHECK (only_row),
    id         uuid        NOT NULL,
    record_key bytea       NOT NULL CHECK (octet_length(record_key) = 32),
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE users (
    id               uuid        PRIMARY KEY,
    email            text        NOT NULL,
    email_key        text        NOT NULL CONSTRAINT users_email_key UNIQUE, -- e-mail address with its case folded
    password_hash    text        NOT NULL,
    full_name        text,
    avatar_url       text,
    metadata         json        NOT NULL DEFAULT '{}' CHECK (json_typeof(metadata) = 'object'),
    auth_epoch       bigint      NOT NULL DEFAULT 1, -- sessions of an older epoch are dead
    epoch_reason     text,                           -- why it was last raised
    epoch_except     uuid,                           -- the session that went on
    epoch_reason_for bigint,                         -- the epoch to which the two above belong
    disabled_at      timestamptz,
    created_at       timestamptz NOT NULL DEFAULT now(),
    updated_at       timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE sessions (
    sid            uuid        PRIMARY KEY,
    secret_hash    bytea       NOT NULL CONSTRAINT sessions_secret_hash UNIQUE,
    user_id        uuid        NOT NULL REFERENCES users ON DELETE CASCADE,
    auth_epoch     bigint      NOT NULL,
    device_name    text,
    user_agent     text,
    ip             inet,
    created_at     timestamptz NOT NULL DEFAULT now(),
    last_seen_at   timestamptz NOT NULL DEFAULT now(),
    expires_at     timestamptz NOT NULL,
    max_expires_at timestamptz NOT NULL,
    ended_at       timestamptz,
    end_reason     text
);
CREATE INDEX sessions_user ON sessions (user_id);
CREATE INDEX sessions_expires ON sessions (expires_at);
CREATE INDEX sessions_ended ON sessions (ended_at) WHERE ended_at IS NOT NULL;

-- Access tokens that ended before their time.
CREATE TABLE listed_tokens (
    jti        uuid        PRIMARY KEY,
    sid        uuid        NOT NULL,
    user_id    uuid        NOT NULL,
    expires_at timestamptz NOT NULL
);
CREATE INDEX listed_tokens_sid ON listed_tokens (sid);
CREATE INDEX listed_tokens_expires ON listed_tokens (expires_at);

CREATE TABLE used_tickets (
    ticket     bytea       PRIMARY KEY,
    expires_at timestamptz NOT NULL
);
CREATE INDEX used_tickets_expires ON used_tickets (expires_at);

CREATE TABLE signing_keys (
    kid          text        PRIMARY KEY,
    algorithm    text        NOT NULL,
    jwk          json        NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    last_seen_at timestamptz NOT NULL DEFAULT now(),
    revoked_at   timestamptz,
    retired_at   timestamptz -- set by the sweeper just before it takes the key of a silent node
);

CREATE TABLE nodes (
    node         uuid        PRIMARY KEY,
    kid          text,
    started_at   timestamptz NOT NULL DEFAULT now(),
    last_seen_at timestamptz NOT NULL DEFAULT now()
);

-- The log. Ids are not in the order of the commits: `position`, the writing transaction, is what readers go by.
CREATE TABLE revocations (
    id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    position   bigint      NOT NULL DEFAULT (pg_current_xact_id()::text::bigint),
    logged_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    confirm    boolean     NOT NULL DEFAULT false,
    kind       text        NOT NULL,
    user_id    uuid,
    sid        uuid,
    below      bigint,
    except_sid uuid,
    reason     text,
    jti        uuid,
    expires_at timestamptz,
    kid        text,
    algorithm  text,
    jwk        json
);
CREATE INDEX revocations_position ON revocations (position);
CREATE INDEX revocations_logged ON revocations (logged_at);

-- One row: entries at positions below this one may have been trimmed.
CREATE TABLE log_state (
    only_row      boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    trimmed_below bigint  NOT NULL DEFAULT 0
);
INSERT INTO log_state DEFAULT VALUES;

-- Which node applied which entry, for those who wait.
CREATE TABLE acknowledgements (
    entry_id        bigint      NOT NULL,
    node            uuid        NOT NULL,
    sockets_closed  bigint      NOT NULL,
    acknowledged_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (entry_id, node)
);
CREATE INDEX acknowledgements_at ON acknowledgements (acknowledged_at);

-- Before a user changes: disabling, or a new password that came without a new epoch, raises the epoch; a raise by
-- somebody who did not say why for this very epoch is the operator's.
CREATE FUNCTION portcullis_raise_epoch() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    disabling boolean := OLD.disabled_at IS NULL AND NEW.disabled_at IS NOT NULL;
    rekeyed   boolean := NEW.password_hash IS DISTINCT FROM OLD.password_hash;
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
CREATE TRIGGER users_raise_epoch BEFORE UPDATE ON users
    FOR EACH ROW EXECUTE FUNCTION portcullis_raise_epoch();

CREATE FUNCTION portcullis_log_user() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        INSERT INTO revocations (kind, user_id, below, reason)
        VALUES ('user_epoch', OLD.id, OLD.auth_epoch + 1, 'account_disabled');
        RETURN NULL;
    END IF;
    IF NEW.auth_epoch > OLD.auth_epoch THEN
        INSERT INTO revocations (kind, user_id, below, except_sid, reason)
        VALUES ('user_epoch', NEW.id, NEW.auth_epoch, NEW.epoch_except, NEW.epoch_reason);
    END IF;
    -- Enabling counts as a change: what is remembered of the user still says "disabled".
    IF (NEW.email, NEW.full_name, NEW.avatar_url, NEW.metadata::text)
        IS DISTINCT FROM (OLD.email, OLD.full_name, OLD.avatar_url, OLD.metadata::text)
        OR (OLD.disabled_at IS NOT NULL AND NEW.disabled_at IS NULL)
    THEN
        INSERT INTO revocations (kind, user_id) VALUES ('user_changed', NEW.id);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER users_log AFTER UPDATE OR DELETE ON users
    FOR EACH ROW EXECUTE FUNCTION portcullis_log_user();

-- A session that was dead already, by its user's epoch or with its user, needs no entry of its own.
CREATE FUNCTION portcullis_log_session() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    why text := 'revoked';
BEGIN
    IF TG_OP = 'UPDATE' THEN
        why := coalesce(NEW.end_reason, why);
    END IF;
    INSERT INTO revocations (kind, user_id, sid, reason)
    SELECT 'session', OLD.user_id, OLD.sid, why FROM users WHERE id = OLD.user_id AND auth_epoch <= OLD.auth_epoch;
    RETURN NULL;
END $$;
CREATE TRIGGER sessions_log_end AFTER UPDATE OF ended_at ON sessions
    FOR EACH ROW WHEN (OLD.ended_at IS NULL AND NEW.ended_at IS NOT NULL)
    EXECUTE FUNCTION portcullis_log_session();
CREATE TRIGGER sessions_log_delete AFTER DELETE ON sessions
    FOR EACH ROW WHEN (OLD.ended_at IS NULL AND OLD.expires_at > clock_timestamp())
    EXECUTE FUNCTION portcullis_log_session();

CREATE FUNCTION portcullis_log_token() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO revocations (kind, user_id, sid, jti, expires_at)
    VALUES ('token', NEW.user_id, NEW.sid, NEW.jti, NEW.expires_at);
    RETURN NULL;
END $$;
CREATE TRIGGER listed_tokens_log AFTER INSERT ON listed_tokens
    FOR EACH ROW EXECUTE FUNCTION portcullis_log_token();

CREATE FUNCTION portcullis_log_key() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO revocations (kind, kid, algorithm, jwk) VALUES ('key_added', NEW.kid, NEW.algorithm, NEW.jwk);
    ELSE
        INSERT INTO revocations (kind, kid) VALUES ('key_removed', OLD.kid);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER signing_keys_log_insert AFTER INSERT ON signing_keys
    FOR EACH ROW EXECUTE FUNCTION portcullis_log_key();
CREATE TRIGGER signing_keys_log_revoke AFTER UPDATE OF revoked_at ON signing_keys
    FOR EACH ROW WHEN (OLD.revoked_at IS NULL AND NEW.revoked_at IS NOT NULL)
    EXECUTE FUNCTION portcullis_log_key();
CREATE TRIGGER signing_keys_log_delete AFTER DELETE ON signing_keys
    FOR EACH ROW WHEN (OLD.revoked_at IS NULL AND OLD.retired_at IS NULL)
    EXECUTE FUNCTION portcullis_log_key();

-- Row triggers do not see TRUNCATE, and what it ends would be remembered elsewhere as good.
CREATE FUNCTION portcullis_refuse_truncate() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'use DELETE: TRUNCATE would end credentials without telling the nodes';
END $$;
CREATE TRIGGER users_no_truncate BEFORE TRUNCATE ON users EXECUTE FUNCTION portcullis_refuse_truncate();
CREATE TRIGGER sessions_no_truncate BEFORE TRUNCATE ON sessions EXECUTE FUNCTION portcullis_refuse_truncate();
CREATE TRIGGER signing_keys_no_truncate BEFORE TRUNCATE ON signing_keys EXECUTE FUNCTION portcullis_refuse_truncate();
