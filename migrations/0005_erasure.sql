-- Destroying keys (docs/erasure.md). What a key has sealed can't be read by anybody once its row is gone, so nobody
-- may take one away but as the end of an act that stands in the book: a person's key after `UserErased`, a month's
-- after `MonthForgotten`. The application's role can't delete from sealing_keys; it may call the function.

-- Whether the book says that a key is to be destroyed. Each is asked of one stream: by the primary key of events.
CREATE FUNCTION key_is_forfeit(key text) RETURNS boolean LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE split_part($1, ':', 1)
        WHEN 'p' THEN EXISTS (SELECT FROM public.events WHERE aggregate_type = 'User' AND aggregate_id = substr($1, 3)
                                 AND event_type = 'UserErased')
        WHEN 'm' THEN EXISTS (SELECT FROM public.events WHERE aggregate_type = 'Service' AND aggregate_id = 'month:' || substr($1, 3)
                                 AND event_type = 'MonthForgotten')
        ELSE false
    END
$$;

-- Destroys a key, if the book says so; whether there was one. VOLATILE, so that it sees the event of the statement
-- that it is called in.
CREATE FUNCTION destroy_key(key text) RETURNS boolean LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT public.key_is_forfeit(key) THEN
        RAISE EXCEPTION 'the key % is not to be destroyed: no event of the book says so', key
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    DELETE FROM public.sealing_keys WHERE id = key;
    RETURN FOUND;
END
$$;
REVOKE ALL ON FUNCTION destroy_key(text) FROM PUBLIC;

-- What was destroyed never comes back: neither made anew, nor as an old copy under whatever name.
CREATE FUNCTION refuse_forfeit_key() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF public.key_is_forfeit(NEW.id) THEN
        RAISE EXCEPTION 'the key % was destroyed, and is never made again', NEW.id
            USING ERRCODE = 'restrict_violation', CONSTRAINT = 'sealing_keys_forfeit';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER forfeit BEFORE INSERT OR UPDATE OF id ON sealing_keys FOR EACH ROW EXECUTE FUNCTION refuse_forfeit_key();
ALTER TABLE sealing_keys ENABLE ALWAYS TRIGGER forfeit;
