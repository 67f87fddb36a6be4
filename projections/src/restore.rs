//! The book after a restore, or after somebody has changed the control row of its order.
//!
//! Transaction ids are a cluster's own: after dump and restore those of the events say nothing
//! about the transactions to come. The positions that the journal has stay as they are. The events
//! that had none yet get them here, once and for all, and the order starts again above them.
//!
//! A control row that does not agree with the journal is mended in the same way: it goes on after the
//! last line, and no event gets a second one.

use sqlx::{Connection, PgConnection, Row};

use crate::{
    head::{self, Head, tx_of},
    sequencer::{ControlRow, SequencerError},
};

/// What was found at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adoption {
    /// The database is the one that the book was last settled in.
    SameCluster,
    /// The book was restored, and so many of its events had no position yet.
    Adopted { events: i64 },
    /// The control row did not agree with the journal; so many events had no position.
    Mended { events: i64 },
}

/// Settles a book that was restored into this database, or whose control row was changed. Changes nothing where neither
/// is so.
///
/// Run it at every start, after the migrations, as the owner of the tables: it locks the events
/// against writers for as long as it takes. Until then the sequencer refuses to work, so that other
/// replicas may already be up and appending.
pub async fn adopt_cluster(conn: &mut PgConnection) -> Result<Adoption, SequencerError> {
    let mut transaction = conn.begin().await?;
    let conn = &mut *transaction;
    sqlx::query("SELECT FROM sequencer FOR UPDATE").execute(&mut *conn).await?;
    let found = ControlRow::read(conn).await?;
    if found == ControlRow::Fits {
        return Ok(Adoption::SameCluster);
    }

    // Waits for every append under way, and keeps new ones out.
    sqlx::query("LOCK TABLE events IN SHARE ROW EXCLUSIVE MODE").execute(&mut *conn).await?;

    // Who has a transaction id by now and has not appended yet is at or above this horizon.
    let horizon = sqlx::query("SELECT pg_snapshot_xmin(pg_current_snapshot())::text AS tx")
        .fetch_one(&mut *conn)
        .await?;
    let tx = tx_of(&horizon, "tx")?;

    // Nobody is in the middle of an append, so ids alone tell a right order: an event gets its id
    // after the one before it in its stream was committed. Transaction ids of two clusters, which
    // these events may have, would not.
    let events: i64 = sqlx::query_scalar(
        "WITH settled AS (
             INSERT INTO journal (position, tx, event_id)
             SELECT (SELECT coalesce(max(position), 0) FROM journal) + row_number() OVER (ORDER BY e.id), e.tx, e.id
               FROM events e
              WHERE NOT EXISTS (SELECT FROM journal j WHERE j.event_id = e.id AND j.tx = e.tx)
             RETURNING 1)
         SELECT count(*) FROM settled",
    )
    .fetch_one(&mut *conn)
    .await?;

    // No id may come again below those that are settled, or its event would wait for ever.
    sqlx::query(
        "SELECT setval(pg_get_serial_sequence('events', 'id'), newest.id)
           FROM (SELECT coalesce(max(id), 0) AS id FROM events) AS newest
          WHERE newest.id > coalesce(pg_sequence_last_value(pg_get_serial_sequence('events', 'id')), 0)",
    )
    .execute(&mut *conn)
    .await?;
    // A row for which there is none in the table was taken away.
    let row = sqlx::query(
        "INSERT INTO sequencer (position, tx, event_id, settled_event_id, system_identifier, table_oid)
         SELECT (SELECT coalesce(max(position), 0) FROM journal), $1::text::xid8, 0,
                (SELECT coalesce(max(id), 0) FROM events),
                (SELECT system_identifier FROM pg_control_system()), 'sequencer'::regclass
         ON CONFLICT (singleton) DO UPDATE
            SET position = excluded.position, tx = excluded.tx, event_id = excluded.event_id,
                settled_event_id = excluded.settled_event_id,
                system_identifier = excluded.system_identifier, table_oid = excluded.table_oid
         RETURNING position",
    )
    .bind(tx.to_string())
    .fetch_one(&mut *conn)
    .await?;
    let head = Head { position: row.try_get("position")?, tx, event_id: 0 };
    sqlx::query("SELECT pg_notify($1, $2)")
        .bind(head::CHANNEL)
        .bind(head.announcement())
        .execute(&mut *conn)
        .await?;
    transaction.commit().await?;
    Ok(match found {
        ControlRow::Displaced => {
            tracing::warn!(
                events,
                "the row that says how far the order is settled did not agree with the journal: {events} events that had no \
                 position got theirs, and the order goes on after the last line"
            );
            Adoption::Mended { events }
        }
        ControlRow::Fits | ControlRow::ForeignCluster | ControlRow::Restored => {
            tracing::info!(
                events,
                "the book was restored: {events} events that had no position got theirs, and the order starts again above them"
            );
            Adoption::Adopted { events }
        }
    })
}
