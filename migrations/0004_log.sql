-- The transparency log (docs/transparency-log.md). Its tree is a projection, in schema ledger; here is
-- what can't be made again from the book: keys, and what was signed with them.

-- The keys that sign checkpoints, each wrapped by the master key. `id` is the key id of C2SP signed-note, 8
-- hex digits; `origin` is the name of the log, which is part of the key.
CREATE TABLE log_keys (
    id         text PRIMARY KEY,
    origin     text  NOT NULL,
    wrapped    bytea NOT NULL,
    master_key text  NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    signs_from timestamptz NOT NULL,
    retired_at timestamptz
);

-- What was signed: a promise that can't be taken back, so it is here before anybody is shown it. One
-- checkpoint for each size of a log, for two would be a fork.
CREATE TABLE checkpoints (
    origin    text   NOT NULL,
    size      bigint NOT NULL CHECK (size >= 0),
    root      bytea  NOT NULL CHECK (length(root) = 32),
    note      bytea  NOT NULL,
    signed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (origin, size)
);
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON checkpoints
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_rewriting();
ALTER TABLE checkpoints ENABLE ALWAYS TRIGGER append_only;

-- What witnesses have added to them: a line of C2SP tlog-cosignature each.
CREATE TABLE cosignatures (
    origin      text   NOT NULL,
    size        bigint NOT NULL,
    witness     text   NOT NULL,
    line        text   NOT NULL,
    cosigned_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (origin, size, witness)
);
