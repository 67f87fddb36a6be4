-- What the application's role may do (docs/rights.md). Until here it could write to the tables themselves. From here on
-- the order of the log is settled by a function that decides everything by itself, and what only a holder of the master
-- key may write needs a permit.

-- 1. The order.

-- The table's own number in this database. A dump brings another one along, so that every restore is noticed, also one
-- into a cluster with the same system identifier (a copied machine image), and whatever its transaction ids are.
ALTER TABLE sequencer ADD COLUMN table_oid oid NOT NULL DEFAULT 0;
UPDATE sequencer SET table_oid = 'sequencer'::regclass;
-- Where such a restore was not noticed before, events stand below the last settled place and have no position. Marked
-- like this, the next start as the owner settles them.
UPDATE sequencer AS s SET table_oid = 0
 WHERE EXISTS (SELECT FROM events e
                WHERE ((e.tx, e.id) <= (s.tx, s.event_id) OR e.id <= s.settled_event_id)
                  AND NOT EXISTS (SELECT FROM journal j WHERE j.event_id = e.id AND j.tx = e.tx));

-- Whether the control row belongs to this database and to the journal: 'fits', or what is wrong with it.
--   another cluster, another table   the database was restored from a dump
--   later transactions               it names a transaction that this cluster has not come to yet
--   another journal                  it is not at the last position of the journal
CREATE FUNCTION sequencer_state() RETURNS text LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE
        WHEN s.system_identifier <> (SELECT system_identifier FROM pg_control_system()) THEN 'another cluster'
        WHEN s.table_oid <> 'public.sequencer'::regclass::oid THEN 'another table'
        WHEN s.tx >= pg_snapshot_xmax(pg_current_snapshot()) THEN 'later transactions'
        WHEN s.position <> coalesce(j.position, 0) THEN 'another journal'
        -- After a restore the order goes on from a transaction, and not from an event of it.
        WHEN s.event_id > 0 AND (s.tx, s.event_id) IS DISTINCT FROM (j.tx, j.event_id) THEN 'another journal'
        ELSE 'fits'
    END
      FROM public.sequencer AS s
      LEFT JOIN (SELECT position, tx, event_id FROM public.journal ORDER BY position DESC LIMIT 1) AS j ON true
$$;

-- Gives the next events, so many at most, their positions in the journal. Each statement in here has a snapshot of its
-- own, which is what the order depends on: the row is locked first, then the horizon is read, and the events are read
-- after it, so that all that was committed below the horizon is seen.
CREATE FUNCTION settle_events(most bigint, OUT state text, OUT settled bigint, OUT last_position bigint, OUT last_tx xid8,
                              OUT last_event_id bigint)
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    head public.sequencer;
    horizon xid8;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'events are settled in READ COMMITTED alone: one snapshot for all statements could miss some'
            USING ERRCODE = 'invalid_transaction_state';
    END IF;
    SELECT * INTO STRICT head FROM public.sequencer FOR UPDATE;
    settled := 0;
    last_position := head.position;
    last_tx := head.tx;
    last_event_id := head.event_id;
    -- A statement after the lock: the one that waited for it has an older view of the journal.
    state := public.sequencer_state();
    IF state <> 'fits' THEN
        RETURN;
    END IF;
    horizon := pg_snapshot_xmin(pg_current_snapshot());
    WITH next AS (
        INSERT INTO public.journal (position, tx, event_id)
        SELECT head.position + row_number() OVER (ORDER BY waiting.tx, waiting.id), waiting.tx, waiting.id
          FROM (SELECT e.tx, e.id FROM public.events AS e
                 WHERE (e.tx, e.id) > (head.tx, head.event_id)
                   AND e.tx < horizon
                   AND e.id > head.settled_event_id
                 ORDER BY e.tx, e.id LIMIT greatest(most, 0)) AS waiting
        RETURNING journal.position, journal.tx, journal.event_id)
    SELECT next.position, next.tx, next.event_id INTO last_position, last_tx, last_event_id
      FROM next ORDER BY next.position DESC LIMIT 1;
    IF NOT FOUND THEN
        last_position := head.position;
        last_tx := head.tx;
        last_event_id := head.event_id;
        RETURN;
    END IF;
    settled := last_position - head.position;
    UPDATE public.sequencer SET position = last_position, tx = last_tx, event_id = last_event_id;
    PERFORM pg_notify('entrybook_journal', last_position || ' ' || last_tx || ' ' || last_event_id);
END
$$;
REVOKE ALL ON FUNCTION settle_events(bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION sequencer_state() FROM PUBLIC;

-- 2. Keys that were destroyed. An event alone, which the role may insert, neither destroys a key nor keeps one from
-- being made: that needs the permit as well, and what was destroyed stands here.
CREATE TABLE destroyed_keys (
    id           text PRIMARY KEY,
    destroyed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON destroyed_keys
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_rewriting();
ALTER TABLE destroyed_keys ENABLE ALWAYS TRIGGER append_only;
-- Of events of before. It reads them all, and comes before anything that sign-ins would wait for is locked.
SELECT set_config('entrybook.looked_from', pg_snapshot_xmin(pg_current_snapshot())::text, true);
INSERT INTO destroyed_keys (id)
SELECT DISTINCT said.id FROM (
    SELECT 'p:' || aggregate_id AS id FROM events WHERE aggregate_type = 'User' AND event_type = 'UserErased'
    UNION ALL
    SELECT 'm:' || substr(aggregate_id, 7) FROM events
     WHERE aggregate_type = 'Service' AND aggregate_id LIKE 'month:%' AND event_type = 'MonthForgotten'
       AND substr(aggregate_id, 7) COLLATE "C" < to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM')) AS said
 WHERE NOT EXISTS (SELECT FROM sealing_keys WHERE sealing_keys.id = said.id);

-- 3. The permit: a secret that is derived from the service's keys, so that whoever has the database's login and not the
-- master key lacks it. Here is its SHA-256. The first process with the master key puts it here (`admit_write_permit`);
-- `entrybook migrate` corrects it.
CREATE TABLE write_permit (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    hash      bytea NOT NULL CHECK (length(hash) = 32)
);

CREATE FUNCTION permit_holds(given bytea) RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM public.write_permit WHERE hash = sha256(given))
$$;

-- Whether the permit of this hash is the one of this database; it becomes so where there is none.
CREATE FUNCTION admit_write_permit(given_hash bytea) RETURNS boolean LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO public.write_permit (hash) VALUES (given_hash) ON CONFLICT DO NOTHING;
    RETURN EXISTS (SELECT FROM public.write_permit WHERE hash = given_hash);
END
$$;
REVOKE ALL ON FUNCTION permit_holds(bytea) FROM PUBLIC;
REVOKE ALL ON FUNCTION admit_write_permit(bytea) FROM PUBLIC;

-- Rows of these tables come with the permit, which is never stored. Whoever owns the table needs none.
CREATE FUNCTION require_permit() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT (SELECT pg_has_role(current_user, relowner, 'USAGE') FROM pg_class WHERE oid = TG_RELID) THEN
        IF NEW.permit IS NULL OR NOT public.permit_holds(NEW.permit) THEN
            RAISE EXCEPTION 'a row of % is written with the permit of a process that has the master key', TG_TABLE_NAME
                USING ERRCODE = 'insufficient_privilege';
        END IF;
    END IF;
    NEW.permit := NULL;
    RETURN NEW;
END
$$;

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['identifiers', 'sealing_keys', 'signing_keys', 'log_keys', 'checkpoints', 'cosignatures'] LOOP
        EXECUTE format('ALTER TABLE %I ADD COLUMN permit bytea', name);
        EXECUTE format('CREATE TRIGGER permit BEFORE INSERT ON %I FOR EACH ROW EXECUTE FUNCTION require_permit()', name);
        EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER permit', name);
    END LOOP;
END
$$;

-- Gives back identifiers of an account: these, or all where none are named. How many it were.
CREATE FUNCTION release_identifiers(with_permit bytea, holder uuid, kinds text[], indexes text[]) RETURNS bigint
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    released bigint;
BEGIN
    IF with_permit IS NULL OR NOT public.permit_holds(with_permit) THEN
        RAISE EXCEPTION 'identifiers are given back with the permit of a process that has the master key'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF kinds IS NULL THEN
        DELETE FROM public.identifiers AS i WHERE i.user_id = holder;
    ELSE
        DELETE FROM public.identifiers AS i USING unnest(kinds, indexes) AS r (kind, index)
         WHERE i.kind = r.kind AND i.index = r.index AND i.user_id = holder;
    END IF;
    GET DIAGNOSTICS released = ROW_COUNT;
    RETURN released;
END
$$;
REVOKE ALL ON FUNCTION release_identifiers(bytea, uuid, text[], text[]) FROM PUBLIC;

-- 4. What destroys a key, and what keeps it from coming back.

-- Erasures that were written while the above waited for its locks.
INSERT INTO destroyed_keys (id)
SELECT DISTINCT 'p:' || e.aggregate_id FROM events e
 WHERE e.tx >= current_setting('entrybook.looked_from')::xid8 AND e.aggregate_type = 'User' AND e.event_type = 'UserErased'
   AND NOT EXISTS (SELECT FROM sealing_keys k WHERE k.id = 'p:' || e.aggregate_id)
ON CONFLICT DO NOTHING;

DROP FUNCTION destroy_key(text);
-- Destroys a key, if an event says so and the permit is given; whether there was one. VOLATILE, so that it sees the
-- event of the statement that it is called in.
CREATE FUNCTION destroy_key(key text, with_permit bytea) RETURNS boolean LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    was_there boolean;
BEGIN
    IF with_permit IS NULL OR NOT public.permit_holds(with_permit) THEN
        RAISE EXCEPTION 'the key % is not to be destroyed: the permit of a process that has the master key is missing', key
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF NOT public.key_is_forfeit(key) THEN
        RAISE EXCEPTION 'the key % is not to be destroyed: no event of the book says so', key
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    INSERT INTO public.destroyed_keys (id) VALUES (key) ON CONFLICT DO NOTHING;
    DELETE FROM public.sealing_keys WHERE id = key;
    was_there := FOUND;
    RETURN was_there;
END
$$;
REVOKE ALL ON FUNCTION destroy_key(text, bytea) FROM PUBLIC;
REVOKE ALL ON FUNCTION key_is_forfeit(text) FROM PUBLIC;

-- After the row is there, and not before: whoever waited for a key that was just being destroyed must see that it was.
DROP TRIGGER forfeit ON sealing_keys;
CREATE OR REPLACE FUNCTION refuse_forfeit_key() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM public.destroyed_keys WHERE id = NEW.id) THEN
        RAISE EXCEPTION 'the key % was destroyed, and is never made again', NEW.id
            USING ERRCODE = 'restrict_violation', CONSTRAINT = 'sealing_keys_forfeit';
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER forfeit AFTER INSERT OR UPDATE OF id ON sealing_keys FOR EACH ROW EXECUTE FUNCTION refuse_forfeit_key();
ALTER TABLE sealing_keys ENABLE ALWAYS TRIGGER forfeit;
REVOKE ALL ON FUNCTION refuse_forfeit_key() FROM PUBLIC;
REVOKE ALL ON FUNCTION require_permit() FROM PUBLIC;
REVOKE ALL ON FUNCTION refuse_rewriting() FROM PUBLIC;
