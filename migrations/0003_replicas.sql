-- The servers that run, and the versions of projections that each is bound to: what none of them uses
-- may be dropped. By the database's clock, since those of machines differ.
CREATE TABLE replicas (
    id                  uuid PRIMARY KEY,
    host                text      NOT NULL,
    program             text      NOT NULL,
    projection_names    text[]    NOT NULL,
    projection_versions integer[] NOT NULL,
    started_at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_at             timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- The tables of a version, in schema ledger: a binary that has never known it must be able to drop it.
ALTER TABLE projections ADD COLUMN tables text[] NOT NULL DEFAULT '{}';
UPDATE projections SET tables = CASE name WHEN 'audit_history' THEN ARRAY['audit_history_v1', 'audit_history_times_v1']
                                          ELSE ARRAY[name || '_v1'] END
 WHERE version = 1 AND name IN ('users', 'sessions', 'audit_history');
