-- What the usernames of accounts look like, each as a keyed hash of its skeleton (UTS 39, section 4), so that no
-- two accounts have names which can be taken for each other. Written in the same statement as the event that
-- takes the name. Signing in doesn't read it. Derived: `process:claim_lookalikes` of the registry fills it from
-- the accounts, those of older binaries included; where two accounts had such names before, the first keeps the
-- claim and both keep their names.
CREATE TABLE username_lookalikes (
    look    text NOT NULL,
    user_id uuid NOT NULL,
    CONSTRAINT username_lookalikes_pkey PRIMARY KEY (look)
);
CREATE INDEX username_lookalikes_user ON username_lookalikes (user_id);

-- The statistics of a column hold values of it, and would keep them after an erasure.
ALTER TABLE username_lookalikes ALTER COLUMN look SET STATISTICS 0;
ALTER TABLE username_lookalikes ALTER COLUMN user_id SET STATISTICS 0;
