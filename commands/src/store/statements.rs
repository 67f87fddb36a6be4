//! The statements of the event store. Each load and each commit is one of them, and so one round trip.

pub(super) const LOAD: &str = "
WITH snapshot AS (
    SELECT sequence, payload, mac FROM snapshots
     WHERE aggregate_type = $1 AND aggregate_id = $2 AND shape = $3 AND $4
)
SELECT id, sequence, event_type, event_version, payload, metadata, snapshot, mac FROM (
    SELECT NULL::bigint AS id, sequence, NULL::text AS event_type, NULL::text AS event_version,
           NULL::text AS payload, NULL::text AS metadata, payload AS snapshot, mac FROM snapshot
    UNION ALL
    SELECT id, sequence, event_type, event_version, payload::text, metadata::text, NULL, NULL FROM events
     WHERE aggregate_type = $1 AND aggregate_id = $2
       AND sequence > coalesce((SELECT sequence FROM snapshot), 0)
) AS stream
ORDER BY sequence";

pub(super) const APPEND: &str = "
INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
SELECT $1, $2, e.sequence, e.event_type, e.event_version, e.payload, e.metadata
  FROM unnest($4::bigint[], $5::text[], $6::text[], $7::jsonb[], $3::jsonb[])
    AS e (sequence, event_type, event_version, payload, metadata)
 ORDER BY e.sequence
RETURNING tx::text AS tx, id";

/// The same for one event, which most commits have: there is nothing to unnest and to sort.
pub(super) const APPEND_ONE: &str = "
INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
VALUES ($1, $2, $4, $5, $6, $7, $3)
RETURNING tx::text AS tx, id";

/// The same, with what must never disagree with the events.
pub(super) const APPEND_WITH: &str = "
WITH appended AS (
    INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
    SELECT $1, $2, e.sequence, e.event_type, e.event_version, e.payload, e.metadata
      FROM unnest($4::bigint[], $5::text[], $6::text[], $7::jsonb[], $3::jsonb[])
        AS e (sequence, event_type, event_version, payload, metadata)
     ORDER BY e.sequence
    RETURNING tx, id
), claimed AS (
    INSERT INTO identifiers (kind, index, user_id, permit)
    SELECT c.kind, c.index, $10, $21 FROM unnest($11::text[], $12::text[]) AS c (kind, index)
), keyed AS (
    INSERT INTO sealing_keys (id, wrapped, master_key, permit)
    SELECT $13, $14, $15, $21 WHERE $13 IS NOT NULL
), snapshot AS (
    INSERT INTO snapshots (aggregate_type, aggregate_id, sequence, shape, payload, mac)
    SELECT $1, $2, $16, $17, $18, $19 WHERE $18 IS NOT NULL
    ON CONFLICT (aggregate_type, aggregate_id) DO UPDATE
       SET sequence = excluded.sequence, shape = excluded.shape,
           payload = excluded.payload, mac = excluded.mac
), unlike AS (
    DELETE FROM username_lookalikes
     WHERE $20::text[] IS NOT NULL AND user_id = $10 AND look <> ALL ($20)
), alike AS (
    INSERT INTO username_lookalikes (look, user_id)
    SELECT claimed.look, $10 FROM unnest($20::text[]) AS claimed (look)
     WHERE NOT EXISTS (SELECT FROM username_lookalikes AS held
                        WHERE held.look = claimed.look AND held.user_id = $10)
)
SELECT tx::text AS tx, id,
       CASE WHEN cardinality($8::text[]) > 0 THEN release_identifiers($21, $10, $8, $9) END
  FROM appended";

/// An event that destroys a key, with all that goes with it. The database does it because of the event
/// (`migrations/0008_rights.sql`): neither is there without the other.
pub(super) const APPEND_DESTROYING: &str = "
WITH appended AS (
    INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
    VALUES ($1, $2, $4, $5, $6, $7, $3)
    RETURNING tx, id
), unlike AS (
    DELETE FROM username_lookalikes WHERE user_id = $10
), dropped AS (
    DELETE FROM snapshots WHERE aggregate_type = $1 AND aggregate_id = $2
)
SELECT tx::text AS tx, id, release_identifiers($12, $10, $8, $9), destroy_key($11, $12) FROM appended";
