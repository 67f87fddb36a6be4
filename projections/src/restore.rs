//! The book after a restore into another cluster.
//!
//! Transaction ids are a cluster's own: after dump and restore those of the events say nothing
//! about the transactions to come. The positions that the journal has stay as they are. The events
//! that had none yet get them here, once and for all, and the order starts again above them.

use sqlx::{Connection, PgConnection};

use crate::{
    head::{Head, tx_of},
    sequencer::{SequencerError, advance},
};

/// What was found at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adoption {
    /// The cluster is the one that the book was last settled in.
    SameCluster,
    /// The book came from another cluster, and so many of its events had no position yet.
    Adopted { events: i64 },
}

/// Settles a book that was restored into this cluster. Changes nothing where it was not.
///
/// Run it at every start, after the migrations, as the owner of the tables: it locks the events
/// against writers for as long as it takes. Until then the sequencer refuses to work, so that other
/// replicas may already be up and appending.
pub async fn adopt_cluster(conn: &mut PgConnection) -> Result<Adoption, SequencerError> {
    let mut transaction = conn.begin().await?;
    let conn = &mut *transaction;
    let row = sqlx::query(
        "SELECT position,
                system_identifier = (SELECT system_identifier FROM pg_control_system()) AS at_home
           FROM sequencer FOR UPDATE",
    )
    .fetch_one(&mut *conn)
    .await?;
    let position: i64 = sqlx::Row::try_get(&row, "position")?;
    if sqlx::Row::try_get(&row, "at_home")? {
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
             SELECT $1 + row_number() OVER (ORDER BY e.id), e.tx, e.id
               FROM events e
              WHERE NOT EXISTS (SELECT FROM journal j WHERE j.event_id = e.id AND j.tx = e.tx)
             RETURNING 1)
         SELECT count(*) FROM settled",
    )
    .bind(position)
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
    advance(conn, &Head { position: position + events, tx, event_id: 0 }).await?;
    sqlx::query(
        "UPDATE sequencer
            SET settled_event_id = (SELECT coalesce(max(id), 0) FROM events),
                system_identifier = (SELECT system_identifier FROM pg_control_system())",
    )
    .execute(&mut *conn)
    .await?;
    transaction.commit().await?;
    tracing::info!(
        events,
        "the book was restored into another cluster: {events} events that had no position got \
         theirs, and the order starts again above them"
    );
    Ok(Adoption::Adopted { events })
}
