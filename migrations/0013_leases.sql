-- Which processes of Entrybook are alive, so that one that stands still holds up nobody (commands/src/leases.rs).
-- Each process renews its row twice a second, from a thread of its own. The names of its sessions end with its id, so that
-- another process can tell which of them to end. Unlogged: no session outlives the server, and nothing here has to.
CREATE UNLOGGED TABLE leases (
    process    uuid PRIMARY KEY,
    program    text    NOT NULL,
    host       text    NOT NULL,
    pid        integer NOT NULL,
    began_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    renewed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Renews a lease, or begins it. Answers the leases of others that were not renewed for a second: who calls this
-- again and again knows which of them stay as they are. Only here is a lease written, so that nobody sets one back.
CREATE FUNCTION renew_lease(process uuid, program text, host text, pid integer)
    RETURNS TABLE (other uuid, other_renewed_at timestamptz) LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO public.leases AS l (process, program, host, pid) VALUES ($1, left($2, 100), left($3, 253), $4)
        ON CONFLICT ON CONSTRAINT leases_pkey DO UPDATE SET renewed_at = clock_timestamp();
    RETURN QUERY SELECT l.process, l.renewed_at FROM public.leases AS l
                  WHERE l.process <> $1 AND l.renewed_at < clock_timestamp() - interval '1 second';
END
$$;
REVOKE ALL ON FUNCTION renew_lease(uuid, text, text, integer) FROM PUBLIC;

CREATE FUNCTION give_back_lease(process uuid) RETURNS void LANGUAGE sql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM public.leases AS l WHERE l.process = $1
$$;
REVOKE ALL ON FUNCTION give_back_lease(uuid) FROM PUBLIC;

-- The sessions in this database of a process, and whether they hold anything that another may wait for.
CREATE FUNCTION sessions_of_lease(process uuid) RETURNS TABLE (pid integer, holds boolean) LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp AS $$
    SELECT a.pid, EXISTS (SELECT FROM pg_locks AS l WHERE l.pid = a.pid AND l.granted AND l.locktype <> 'virtualxid')
      FROM pg_stat_activity AS a
     WHERE a.datname = current_database() AND a.application_name LIKE 'entrybook% ' || $1::text
$$;

-- Ends the sessions of a process whose lease was not renewed for three seconds, as far as they hold anything, and
-- with the rights of whoever owns this function. Answers those that it found; where these rights don't suffice, the
-- login that they belong to may end them itself. Whatever these sessions were about to write is rolled back: a process
-- that goes on later finds its connections closed. Where no session is left, the lease goes too.
CREATE FUNCTION end_stalled(process uuid) RETURNS TABLE (pid integer, ended boolean) LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    session record;
    any_left boolean := false;
BEGIN
    IF NOT EXISTS (SELECT FROM public.leases AS l
                    WHERE l.process = $1 AND l.renewed_at < clock_timestamp() - interval '3 seconds') THEN
        RETURN;
    END IF;
    FOR session IN SELECT s.pid, s.holds FROM public.sessions_of_lease($1) AS s LOOP
        any_left := true;
        CONTINUE WHEN NOT session.holds;
        pid := session.pid;
        BEGIN
            -- Gone when this returns: then what it held is to be had.
            ended := pg_terminate_backend(session.pid, 200);
        EXCEPTION WHEN insufficient_privilege THEN
            ended := false;
        END;
        RETURN NEXT;
    END LOOP;
    IF NOT any_left THEN
        DELETE FROM public.leases AS l
         WHERE l.process = $1 AND l.renewed_at < clock_timestamp() - interval '3 seconds';
    END IF;
END
$$;
REVOKE ALL ON FUNCTION end_stalled(uuid) FROM PUBLIC;
