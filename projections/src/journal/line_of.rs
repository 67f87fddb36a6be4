//! The way from an event to its line, which needs no read table.

use proof::EventFields;

use super::JournalError;
use crate::book_source::BookSource;

/// So many events at the end of a stream are looked at for one that the service wrote.
const LOOKED_AT: i64 = 1_000;

/// The line of the last event of a stream that the service wrote; nothing where it has none, or is not in its place yet.
///
/// Lines are in the order of `(tx, id)`, so one is found by halving. Those that came with a restore into
/// another cluster are not, and are looked through.
pub async fn last_line_of(
    book: &BookSource,
    aggregate_type: &str,
    aggregate_id: &str,
) -> Result<Option<i64>, JournalError> {
    type Stored = (String, i64, i64, String, String, String, String);
    let pool = book.pool();
    let events: Vec<Stored> = sqlx::query_as(
        "SELECT tx::text, id, sequence, event_type, event_version, payload::text, metadata::text
           FROM events WHERE aggregate_type = $1 AND aggregate_id = $2
          ORDER BY sequence DESC LIMIT $3",
    )
    .bind(aggregate_type)
    .bind(aggregate_id)
    .bind(LOOKED_AT)
    .fetch_all(pool)
    .await?;
    let is_authentic = |stored: &Stored| {
        let (_, id, sequence, event_type, event_version, payload, metadata) = stored;
        let fields = EventFields {
            stream_type: aggregate_type,
            stream_id: aggregate_id,
            sequence: *sequence,
            event_type,
            event_version,
            payload,
        };
        book.authenticator().is_authentic(*id, &fields, metadata)
    };
    let Some((tx, id, ..)) = events.into_iter().find(is_authentic) else { return Ok(None) };
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
