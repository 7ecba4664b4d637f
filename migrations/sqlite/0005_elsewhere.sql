-- A session's secret that was used from elsewhere is in the trail; the sessions' own columns keep the last time only.
CREATE TRIGGER sessions_audit_elsewhere AFTER UPDATE OF changed_at ON sessions
WHEN NEW.changed_at IS NOT NULL AND NEW.changed_at IS NOT OLD.changed_at
BEGIN
    INSERT INTO audit (event, actor, ip, user_id, sid, details)
    SELECT 'session_elsewhere', 'user', c.ip, NEW.user_id, NEW.sid,
        json_object('browser', NEW.changed_browser, 'network', NEW.changed_network)
    FROM audit_context c;
END;
