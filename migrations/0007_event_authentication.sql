-- Each event carries a MAC in its metadata, under a key that is derived from the master key's service
-- key. Events up to this id were stored before there was one, and are accepted without. The application
-- signs the boundary at its next start; from then on nobody changes it, and one that was changed is found.
LOCK TABLE events IN SHARE ROW EXCLUSIVE MODE;
CREATE TABLE event_authentication (
    singleton        boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    last_without_mac bigint NOT NULL,
    -- Over last_without_mac, under the same key. Null until a process that holds the master key has started.
    mac              bytea
);
INSERT INTO event_authentication (last_without_mac) SELECT coalesce(max(id), 0) FROM events;

CREATE FUNCTION keep_event_authentication() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF OLD.mac IS NULL AND NEW.mac IS NOT NULL AND NEW.last_without_mac = OLD.last_without_mac THEN
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION '% of event_authentication is refused: the boundary is signed once', TG_OP
        USING ERRCODE = 'restrict_violation';
END
$$;
REVOKE ALL ON FUNCTION keep_event_authentication() FROM PUBLIC;
CREATE TRIGGER signed_once BEFORE UPDATE OR DELETE ON event_authentication
    FOR EACH ROW EXECUTE FUNCTION keep_event_authentication();
CREATE TRIGGER signed_once_truncate BEFORE TRUNCATE ON event_authentication
    FOR EACH STATEMENT EXECUTE FUNCTION keep_event_authentication();
ALTER TABLE event_authentication ENABLE ALWAYS TRIGGER signed_once;
ALTER TABLE event_authentication ENABLE ALWAYS TRIGGER signed_once_truncate;
