-- The operator's side: keys for the admin API, the audit trail, and what receivers of webhooks have still to be told.

-- Keys of the admin API. Only the hash of a key is kept.
CREATE TABLE admin_keys (
    id           uuid        PRIMARY KEY,
    name         text        NOT NULL,
    secret_hash  bytea       NOT NULL CONSTRAINT admin_keys_secret_hash UNIQUE,
    scopes       text        NOT NULL, -- separated by spaces
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz,
    revoked_at   timestamptz,
    last_used_at timestamptz           -- to the minute or so
);

-- The trail. No foreign keys: it outlives what it tells of. Rows written by the triggers below have the names of the log's
-- kinds as their events; those of operators begin with "operator.".
CREATE TABLE audit (
    id       bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    event    text        NOT NULL,
    actor    text        NOT NULL, -- user, operator, system, or database: written by hand, past the program
    actor_id uuid,                 -- the operator's key; none on the command line
    user_id  uuid,                 -- whom it concerns
    sid      uuid,
    ip       inet,
    reason   text,
    count    bigint      NOT NULL DEFAULT 1, -- failures of a kind are counted together
    details  json
);
CREATE INDEX audit_user ON audit (user_id, id) WHERE user_id IS NOT NULL;
CREATE INDEX audit_at ON audit (at);

-- Receivers of webhooks, by the hash of their URL: the URL itself may hold a secret and stays in the settings.
CREATE TABLE webhook_targets (
    target       text        PRIMARY KEY,
    created_at   timestamptz NOT NULL DEFAULT now(),
    last_seen_at timestamptz NOT NULL DEFAULT now()
);

-- What a receiver has still to be told. Delivered rows are deleted, those given up stay for the operator to see.
CREATE TABLE webhook_outbox (
    id              bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    target          text        NOT NULL,
    at              timestamptz NOT NULL DEFAULT clock_timestamp(),
    reason          text        NOT NULL,
    initiator       text        NOT NULL,
    user_id         uuid        NOT NULL,
    sid             uuid,
    since           timestamptz NOT NULL DEFAULT now(), -- from when on the time is counted after which it is given up
    attempts        integer     NOT NULL DEFAULT 0,
    next_attempt_at timestamptz NOT NULL DEFAULT now(),
    leased_until    timestamptz,
    last_error      text,
    given_up_at     timestamptz
);
CREATE INDEX webhook_outbox_due ON webhook_outbox (target, next_attempt_at) WHERE given_up_at IS NULL;

-- Pages of users in the order of their addresses, by bytes as in SQLite.
CREATE INDEX users_email_order ON users (email_key COLLATE "C");

-- Who is at work in this transaction; set by the program with SET LOCAL. Empty counts as unset: that is what a pooled
-- connection shows after the transaction that set it.
CREATE FUNCTION portcullis_setting(name text) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT nullif(current_setting('portcullis.' || name, true), '')
$$;

-- Whoever is not named is told by the reason. What has no author and no reason of its own was written by hand.
CREATE FUNCTION portcullis_actor(reason text) RETURNS text LANGUAGE sql STABLE SET search_path FROM CURRENT AS $$
    SELECT coalesce(portcullis_setting('actor'),
        CASE WHEN reason IN ('logged_out', 'logged_out_everywhere', 'credentials_changed') THEN 'user'
             WHEN reason IN ('system', 'secret_replayed') THEN 'system'
             ELSE 'database' END)
$$;

-- Everything that is logged is audited, and what ends sessions is put into the outbox, in the same transaction.
CREATE FUNCTION portcullis_audit_entry() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    author text := portcullis_actor(CASE WHEN NEW.kind IN ('key_added', 'key_removed') THEN 'system' ELSE NEW.reason END);
BEGIN
    INSERT INTO audit (event, actor, actor_id, ip, user_id, sid, reason, details)
    VALUES (NEW.kind, author, portcullis_setting('actor_id')::uuid, portcullis_setting('ip')::inet, NEW.user_id, NEW.sid,
            NEW.reason, CASE WHEN NEW.kid IS NOT NULL THEN json_build_object('kid', NEW.kid)
                             WHEN NEW.jti IS NOT NULL THEN json_build_object('jti', NEW.jti) END);
    IF NEW.kind IN ('session', 'user_epoch') AND NEW.user_id IS NOT NULL AND NEW.except_sid IS NULL THEN
        INSERT INTO webhook_outbox (target, reason, initiator, user_id, sid)
        SELECT t.target, coalesce(NEW.reason, 'revoked'), author, NEW.user_id, NEW.sid FROM webhook_targets t;
    ELSIF NEW.kind = 'user_epoch' THEN
        -- A session goes on, so "all of this user" would say too much.
        INSERT INTO webhook_outbox (target, reason, initiator, user_id, sid)
        SELECT t.target, coalesce(NEW.reason, 'revoked'), author, NEW.user_id, s.sid
        FROM webhook_targets t, sessions s
        WHERE s.user_id = NEW.user_id AND s.sid <> NEW.except_sid AND s.ended_at IS NULL
            AND s.auth_epoch = NEW.below - 1 AND s.expires_at > now();
    END IF;
    RETURN NULL;
END $$;
-- Entries of kind "sessions" only take together what was audited one by one, and "session_changed" tells caches, not people.
CREATE TRIGGER revocations_audit AFTER INSERT ON revocations
    FOR EACH ROW WHEN (NEW.kind NOT IN ('sessions', 'session_changed')) EXECUTE FUNCTION portcullis_audit_entry();

CREATE FUNCTION portcullis_audit_login() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF TG_TABLE_NAME = 'users' THEN
        INSERT INTO audit (event, actor, ip, user_id)
        VALUES ('signup', 'user', portcullis_setting('ip')::inet, NEW.id);
    ELSE
        INSERT INTO audit (event, actor, ip, user_id, sid) VALUES ('login', 'user', NEW.ip, NEW.user_id, NEW.sid);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER users_audit_signup AFTER INSERT ON users FOR EACH ROW EXECUTE FUNCTION portcullis_audit_login();
CREATE TRIGGER sessions_audit_login AFTER INSERT ON sessions FOR EACH ROW EXECUTE FUNCTION portcullis_audit_login();

-- Enabling is logged as a change like any other; the trail names it.
CREATE FUNCTION portcullis_audit_enabled() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO audit (event, actor, actor_id, ip, user_id)
    VALUES ('user_enabled', portcullis_actor(NULL), portcullis_setting('actor_id')::uuid,
            portcullis_setting('ip')::inet, NEW.id);
    RETURN NULL;
END $$;
CREATE TRIGGER users_audit_enabled AFTER UPDATE OF disabled_at ON users
    FOR EACH ROW WHEN (OLD.disabled_at IS NOT NULL AND NEW.disabled_at IS NULL)
    EXECUTE FUNCTION portcullis_audit_enabled();

-- An entry may name many sessions: [[sid, user_id], …]. Written when sessions of many users end at once.
ALTER TABLE revocations ADD COLUMN sessions json;
