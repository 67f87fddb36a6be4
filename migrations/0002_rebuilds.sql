-- Whether a projection's first build is complete (its indexes are made last), and what its fold made
-- of the sample book when its tables were begun: so a damaged table is told from a changed fold.
ALTER TABLE projections ADD COLUMN built boolean NOT NULL DEFAULT false;
ALTER TABLE projections ADD COLUMN fold jsonb;
-- Where and why it stopped, in parts; `detail` says it in a sentence.
ALTER TABLE projections ADD COLUMN stopped jsonb;
UPDATE projections SET built = true WHERE state <> 'building';

-- The last rebuild or comparison of each version of a projection, under way or done. Its position is
-- that of the new tables: both commit together, so a build that was broken off goes on from there.
CREATE TABLE builds (
    name             text    NOT NULL,
    version          integer NOT NULL,
    state            text    NOT NULL CHECK (state IN ('running', 'built', 'swapped', 'compared', 'differs', 'failed',
                                        'cancelled')),
    phase            text    NOT NULL,
    dry_run          boolean NOT NULL,
    fold             jsonb,
    position         bigint  NOT NULL DEFAULT 0,
    events_total     bigint  NOT NULL DEFAULT 0,
    events_done      bigint  NOT NULL DEFAULT 0,
    events_per_second double precision NOT NULL DEFAULT 0,
    seconds_left     double precision,
    cancel           boolean NOT NULL DEFAULT false,
    detail           text,
    started_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (name, version)
);
