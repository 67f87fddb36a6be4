//! The way from an event to its line, which needs no read table.

use sqlx::PgPool;

use super::JournalError;

/// The line of a stream's last event; nothing where it has none, or is not in its place yet.
///
/// Lines are in the order of `(tx, id)`, so one is found by halving. Those that came with a restore into
/// another cluster are not, and are looked through.
pub async fn last_line_of(
    pool: &PgPool,
    aggregate_type: &str,
    aggregate_id: &str,
) -> Result<Option<i64>, JournalError> {
    let event: Option<(String, i64)> = sqlx::query_as(
        "SELECT tx::text, id FROM events WHERE aggregate_type = $1 AND aggregate_id = $2
          ORDER BY sequence DESC LIMIT 1",
    )
    .bind(aggregate_type)
    .bind(aggregate_id)
    .fetch_optional(pool)
    .await?;
    let Some((tx, id)) = event else { return Ok(None) };
    let (last, restored): (i64, i64) =
        sqlx::query_as("SELECT position, settled_event_id FROM sequencer").fetch_one(pool).await?;
    if id <= restored {
        let line = "SELECT position FROM journal WHERE event_id = $1 AND tx = $2::xid8";
        return Ok(sqlx::query_scalar(line).bind(id).bind(&tx).fetch_optional(pool).await?);
    }
    // It stands in (before, upto], if at all.
    let (mut before, mut upto) = (0, last);
    while upto - before > 1 {
        let middle = before + (upto - before) / 2;
        let is_reached: bool = sqlx::query_scalar(
            "SELECT event_id > $2 AND (tx, event_id) >= ($3::xid8, $4)
               FROM journal WHERE position = $1",
        )
        .bind(middle)
        .bind(restored)
        .bind(&tx)
        .bind(id)
        .fetch_one(pool)
        .await?;
        if is_reached { upto = middle } else { before = middle }
    }
    let line =
        "SELECT position FROM journal WHERE position = $1 AND event_id = $2 AND tx = $3::xid8";
    Ok(sqlx::query_scalar(line).bind(upto).bind(id).bind(&tx).fetch_optional(pool).await?)
}
