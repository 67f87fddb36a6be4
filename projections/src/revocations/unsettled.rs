//! The events that are committed and have no line yet, each seen once.
//!
//! They wait for the oldest open transaction of the whole cluster, for hours if it stays open. A look tells what
//! became visible since the look before it: what PostgreSQL calls a snapshot says which transactions were over then.

use futures_util::TryStreamExt;
use proof::EventFields;
use sqlx::Row;

use super::Changes;
use crate::{
    book_source::BookSource,
    head::{Frontier, Head},
};

/// What the last look saw.
#[derive(Debug)]
pub(super) struct Look {
    snapshot: Snapshot,
    /// Of which server, since when it runs, and since which adoption of the book its transaction ids count: those of
    /// another one, such as a standby that lacks the last of them, may have been given to other transactions.
    server: String,
}

/// Which transactions were over: all before `xmax` that are not in `open` (PostgreSQL: `pg_snapshot`).
#[derive(Debug, PartialEq, Eq)]
struct Snapshot {
    xmax: u64,
    open: Vec<u64>,
}

impl Snapshot {
    /// From `xmin:xmax:open,open`.
    fn from_text(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let (_xmin, xmax, open) = (parts.next()?, parts.next()?.parse().ok()?, parts.next()?);
        let open = open.split(',').filter(|tx| !tx.is_empty()).map(str::parse);
        Some(Self { xmax, open: open.collect::<Result<_, _>>().ok()? })
    }
}

/// What is committed beyond the frontier and was not by the last look, if there was one, and this look. It is
/// remembered by who has taken the changes in.
pub(super) async fn look(
    source: &BookSource,
    frontier: &Frontier,
    last: Option<&Look>,
) -> Result<(Changes, Option<Look>), sqlx::Error> {
    if let Some(last) = last
        && let Some(found) = look_after(source, frontier, Some(last)).await?
    {
        return Ok(found);
    }
    let found = look_after(source, frontier, None).await?;
    Ok(found.unwrap_or_default())
}

/// Nothing where the last look was at another server.
async fn look_after(
    source: &BookSource,
    frontier: &Frontier,
    last: Option<&Look>,
) -> Result<Option<(Changes, Option<Look>)>, sqlx::Error> {
    let Head { tx, event_id, .. } = frontier.head;
    // Ids from the last `xmax` on are new to us; of those before it, the transactions that were open then.
    let (after, open) = match last.map(|last| &last.snapshot) {
        Some(last) => (
            (tx, event_id).max((last.xmax.saturating_sub(1), i64::MAX)),
            last.open.iter().map(ToString::to_string).collect(),
        ),
        None => ((tx, event_id), Vec::new()),
    };
    let mut rows = sqlx::query(
        "SELECT here.snapshot, here.server, e.*
           FROM (SELECT pg_current_snapshot()::text AS snapshot, pg_postmaster_start_time()::text AS server) AS here
           LEFT JOIN LATERAL (
                SELECT id, aggregate_type, aggregate_id, sequence, event_type, event_version,
                       payload::text AS payload, metadata::text AS metadata
                  FROM (SELECT * FROM events
                         WHERE (tx, id) > ($1::text::xid8, $2) AND tx < pg_snapshot_xmax(pg_current_snapshot())
                        UNION ALL
                        SELECT * FROM events
                         WHERE tx = ANY ($3::text[]::xid8[]) AND (tx, id) > ($4::text::xid8, $5)) AS unseen
                 WHERE id > $6
                   AND (event_type IN ('SessionEnded', 'SigningKeyRetired') OR aggregate_type = 'User')
                ) AS e ON true",
    )
    .bind(after.0.to_string())
    .bind(after.1)
    .bind(open)
    .bind(tx.to_string())
    .bind(event_id)
    .bind(frontier.settled_event_id)
    .fetch(source.pool());
    let mut changes = Changes::default();
    let mut seen = None;
    // One by one: what waits for hours may be much.
    while let Some(row) = rows.try_next().await? {
        if seen.is_none() {
            let server =
                format!("{} {}", row.try_get::<&str, _>("server")?, frontier.settled_event_id);
            if last.is_some_and(|last| last.server != server) {
                return Ok(None);
            }
            let snapshot = Snapshot::from_text(row.try_get("snapshot")?);
            seen = snapshot.map(|snapshot| Look { snapshot, server });
        }
        let Some(id) = row.try_get::<Option<i64>, _>("id")? else { continue };
        let fields = EventFields {
            stream_type: row.try_get("aggregate_type")?,
            stream_id: row.try_get("aggregate_id")?,
            sequence: row.try_get("sequence")?,
            event_type: row.try_get("event_type")?,
            event_version: row.try_get("event_version")?,
            payload: row.try_get("payload")?,
        };
        let metadata = row.try_get("metadata")?;
        let authentic = || source.authenticator().is_authentic(id, &fields, metadata);
        changes.add_if(&fields, authentic);
    }
    Ok(Some((changes, seen)))
}
