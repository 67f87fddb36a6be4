-- The book of original entry: every change of a user, a session or a guard, in the order it was
-- written to its stream. The layout is postgres-es's; the last three columns are the database's own
-- and no writer can set them.
CREATE TABLE events (
    aggregate_type text   NOT NULL,
    aggregate_id   text   NOT NULL,
    sequence       bigint NOT NULL CHECK (sequence > 0),
    event_type     text   NOT NULL,
    event_version  text   NOT NULL,
    payload        jsonb  NOT NULL,
    metadata       jsonb  NOT NULL,
    id             bigint GENERATED ALWAYS AS IDENTITY,
    tx             xid8   NOT NULL DEFAULT pg_current_xact_id(),
    recorded_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT events_pkey PRIMARY KEY (aggregate_type, aggregate_id, sequence)
);

-- The order the sequencer reads in, and the way from a line of the journal to its event.
CREATE UNIQUE INDEX events_tx_id ON events (tx, id);

-- The global order: dense positions, settled once (ARCHITECTURE.md, "The order of the book").
CREATE TABLE journal (
    position bigint PRIMARY KEY CHECK (position > 0),
    tx       xid8   NOT NULL,
    event_id bigint NOT NULL
);

-- One row: the lock of the sequencer, and how far it has come.
CREATE TABLE sequencer (
    singleton         boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    position          bigint NOT NULL DEFAULT 0,
    tx                xid8   NOT NULL DEFAULT '0',
    event_id          bigint NOT NULL DEFAULT 0,
    -- Transaction ids mean nothing in another cluster. After a restore into one, events up to this
    -- id are settled, and order starts again above it.
    settled_event_id  bigint NOT NULL DEFAULT 0,
    system_identifier bigint NOT NULL
);
INSERT INTO sequencer (system_identifier) SELECT system_identifier FROM pg_control_system();

-- Who holds which identifier; written in the same statement as the events that claim and release.
CREATE TABLE identifiers (
    kind    text NOT NULL CHECK (kind IN ('email', 'username')),
    index   text NOT NULL,
    user_id uuid NOT NULL,
    CONSTRAINT identifiers_pkey PRIMARY KEY (kind, index)
);

-- The folded state of long streams, so that loading one stays flat. Derived: may be deleted. The MAC
-- keeps a row written by anybody else from being believed.
CREATE TABLE snapshots (
    aggregate_type text   NOT NULL,
    aggregate_id   text   NOT NULL,
    sequence       bigint NOT NULL,
    shape          integer NOT NULL,
    payload        bytea  NOT NULL,
    mac            bytea  NOT NULL,
    PRIMARY KEY (aggregate_type, aggregate_id)
);

-- The keys that seal personal data, each wrapped by the master key.
--   p:<user>    a person's     m:<YYYY-MM>  a month's     s:<name>  the service's own
CREATE TABLE sealing_keys (
    id         text PRIMARY KEY,
    wrapped    bytea NOT NULL,
    master_key text  NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- The keys that sign access tokens; the private half wrapped by the master key.
CREATE TABLE signing_keys (
    kid         text PRIMARY KEY,
    algorithm   text  NOT NULL,
    public_jwk  jsonb,
    wrapped     bytea NOT NULL,
    master_key  text  NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    signs_from  timestamptz NOT NULL,
    retired_at  timestamptz
);

-- How far each projection has read the journal. Its row is the fence: whoever advances the
-- projection holds it FOR UPDATE.
CREATE TABLE projections (
    name       text    NOT NULL,
    version    integer NOT NULL,
    position   bigint  NOT NULL DEFAULT 0,
    state      text    NOT NULL DEFAULT 'live' CHECK (state IN ('building', 'live', 'stopped')),
    detail     text,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (name, version)
);

-- The read tables. They are made, versioned and dropped by the projections themselves.
CREATE SCHEMA ledger;

-- Append-only, for everybody: the application's role lacks the privilege, and the owner is stopped here.
CREATE FUNCTION refuse_rewriting() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% of % is refused: the book is append-only', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END
$$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON events
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_rewriting();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON journal
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_rewriting();
ALTER TABLE events ENABLE ALWAYS TRIGGER append_only;
ALTER TABLE journal ENABLE ALWAYS TRIGGER append_only;
