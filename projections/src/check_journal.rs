//! Checks the journal against the events: nothing missing, nothing twice, every stream in its order.

use serde::Serialize;
use sqlx::{PgConnection, PgPool};

use crate::head::Frontier;

/// What a check of the journal found. All counts but the first and the last are 0 in a sound one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct JournalReport {
    /// How many lines it has.
    pub lines: i64,
    /// Positions up to the head that are not there, or lines beyond it.
    pub gaps: i64,
    /// Events that the sequencer has passed and that have no line.
    pub missing: i64,
    /// Lines whose event has another line before, or is not there.
    pub doubled: i64,
    pub without_event: i64,
    /// Lines that stand before another of their stream that came first, or after a hole in it.
    pub out_of_order: i64,
    /// Events that wait for the sequencer.
    pub waiting: i64,
}

impl JournalReport {
    #[must_use]
    pub fn is_sound(&self) -> bool {
        [self.gaps, self.missing, self.doubled, self.without_event, self.out_of_order] == [0; 5]
    }
}

/// Checks the whole journal as of now, in one snapshot.
pub async fn check_journal(pool: &PgPool) -> Result<JournalReport, sqlx::Error> {
    let mut snapshot = pool.begin().await?;
    sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        .execute(&mut *snapshot)
        .await?;
    let conn = &mut *snapshot;
    let frontier = Frontier::read(&mut *conn).await?;
    let head = frontier.head;

    let (lines, gaps): (i64, i64) = sqlx::query_as(
        "SELECT count(*),
                count(*) FILTER (WHERE position > $1)
                  + $1 - count(*) FILTER (WHERE position BETWEEN 1 AND $1)
           FROM journal",
    )
    .bind(head.position)
    .fetch_one(&mut *conn)
    .await?;
    // By id alone and not by transaction id, since ids are unique whatever the cluster.
    let doubled = count(
        conn,
        "SELECT coalesce(sum(n - 1), 0)::bigint
           FROM (SELECT count(*) AS n FROM journal GROUP BY event_id) AS lines",
    )
    .await?;
    let without_event = count(
        conn,
        "SELECT count(*) FROM journal j
          WHERE NOT EXISTS (SELECT FROM events e WHERE e.id = j.event_id AND e.tx = j.tx)",
    )
    .await?;
    let (missing, waiting): (i64, i64) = sqlx::query_as(
        "SELECT count(*) FILTER (WHERE passed), count(*) FILTER (WHERE NOT passed)
           FROM (SELECT (e.tx, e.id) <= ($1::text::xid8, $2) OR e.id <= $3 AS passed
                   FROM events e
                  WHERE NOT EXISTS
                        (SELECT FROM journal j WHERE j.event_id = e.id AND j.tx = e.tx)) AS unlisted",
    )
    .bind(head.tx.to_string())
    .bind(head.event_id)
    .bind(frontier.settled_event_id)
    .fetch_one(&mut *conn)
    .await?;
    let out_of_order = count(
        conn,
        "SELECT count(*)
           FROM (SELECT e.sequence,
                        lag(e.sequence, 1, 0::bigint) OVER (
                            PARTITION BY e.aggregate_type, e.aggregate_id ORDER BY j.position
                        ) AS before
                   FROM journal j JOIN events e ON e.tx = j.tx AND e.id = j.event_id) AS lines
          WHERE sequence - 1 <> before",
    )
    .await?;
    snapshot.rollback().await?;
    Ok(JournalReport { lines, gaps, missing, doubled, without_event, out_of_order, waiting })
}

async fn count(conn: &mut PgConnection, sql: &str) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(sql).fetch_one(conn).await
}
