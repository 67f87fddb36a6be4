-- PostgreSQL samples columns for its planner, and the sample outlives the row: the statistics of sealing_keys.wrapped held the
-- whole wrapped key of a person who had been erased, also after VACUUM FULL, for the application's role to read. No sample is taken
-- any more of a column that holds wrapped or secret bytes, or keyed hashes that an erasure takes away.
--
-- A statistics target of 0 keeps ANALYZE from sampling, and leaves the old sample where it is. The owner of a table may not delete from
-- pg_statistic, and pg_clear_attribute_stats exists from PostgreSQL 18 on only. But ALTER COLUMN TYPE deletes the sample of its column in
-- every version, and to the type that the column has already it writes neither the table nor an index anew.

-- The trigger names the column `id`, whose type can't be altered beneath it. The ids of keys name accounts that stand in the
-- events for good, so their old sample tells nothing more and is left for the next ANALYZE: `id` keeps its statistics.
ALTER TABLE sealing_keys
    ALTER COLUMN wrapped SET STATISTICS 0,
    ALTER COLUMN wrapped TYPE bytea;
ALTER TABLE signing_keys
    ALTER COLUMN wrapped SET STATISTICS 0,
    ALTER COLUMN wrapped TYPE bytea;
ALTER TABLE log_keys
    ALTER COLUMN wrapped SET STATISTICS 0,
    ALTER COLUMN wrapped TYPE bytea;
-- The folded state of an account, with its sealed password hash and the keyed hashes of its names.
ALTER TABLE snapshots
    ALTER COLUMN payload SET STATISTICS 0,
    ALTER COLUMN payload TYPE bytea,
    ALTER COLUMN mac SET STATISTICS 0,
    ALTER COLUMN mac TYPE bytea;
-- The keyed hash of an e-mail address or a username: its row goes when a person is erased.
ALTER TABLE identifiers
    ALTER COLUMN index SET STATISTICS 0,
    ALTER COLUMN index TYPE text;
