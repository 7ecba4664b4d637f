-- A session's secret that was used from elsewhere is in the trail; the sessions' own columns keep the last time only.
CREATE FUNCTION portcullis_audit_elsewhere() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO audit (event, actor, ip, user_id, sid, details)
    VALUES ('session_elsewhere', 'user', portcullis_setting('ip')::inet, NEW.user_id, NEW.sid,
            json_build_object('browser', NEW.changed_browser, 'network', NEW.changed_network));
    RETURN NULL;
END $$;
CREATE TRIGGER sessions_audit_elsewhere AFTER UPDATE OF changed_at ON sessions
    FOR EACH ROW WHEN (NEW.changed_at IS NOT NULL AND NEW.changed_at IS DISTINCT FROM OLD.changed_at)
    EXECUTE FUNCTION portcullis_audit_elsewhere();
