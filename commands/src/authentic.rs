//! Events that are read by SQL and not as a stream: what they say counts only where the service wrote them. Whoever
//! has the application's login may add others.

use domain::{Event, ServiceEvent, stream};
use proof::{EventAuthenticator, EventFields};
use sqlx::{PgConnection, Row, postgres::PgRow};

use crate::Entrybook;

/// So many events are read at once.
const PAGE: i64 = 100;

/// The columns that a code is over.
const COLUMNS: &str = "id, tx::text AS tx, aggregate_id, sequence, event_type, event_version,
     payload::text AS payload, metadata::text AS metadata";

/// Whether the service wrote the event of a row that has the columns which a code is over, and its id and metadata.
pub(crate) fn is_authentic(
    authenticator: &EventAuthenticator,
    stream_type: &str,
    row: &PgRow,
) -> sqlx::Result<bool> {
    let fields = EventFields {
        stream_type,
        stream_id: row.try_get("aggregate_id")?,
        sequence: row.try_get("sequence")?,
        event_type: row.try_get("event_type")?,
        event_version: row.try_get("event_version")?,
        payload: row.try_get("payload")?,
    };
    Ok(authenticator.is_authentic(row.try_get("id")?, &fields, row.try_get("metadata")?))
}

impl Entrybook {
    /// Whether the book has an account at all. Events of accounts that the service didn't write make none.
    pub async fn has_account(&self, connection: &mut PgConnection) -> sqlx::Result<bool> {
        // In the order of the book, whose index is there: the first page nearly always has the answer.
        let (mut tx, mut id) = ("0".to_owned(), 0_i64);
        loop {
            let rows = sqlx::query(&format!(
                "SELECT {COLUMNS} FROM events
                  WHERE aggregate_type = $1 AND (events.tx, events.id) > ($2::xid8, $3)
                  ORDER BY events.tx, events.id LIMIT $4"
            ))
            .bind(stream::USER)
            .bind(&tx)
            .bind(id)
            .bind(PAGE)
            .fetch_all(&mut *connection)
            .await?;
            for row in &rows {
                if is_authentic(self.keyring().events(), stream::USER, row)? {
                    return Ok(true);
                }
            }
            let Some(last) = rows.last() else { return Ok(false) };
            (tx, id) = (last.try_get("tx")?, last.try_get("id")?);
        }
    }

    /// What the service wrote into a stream of its own, in order. What only a newer version knows is passed over.
    pub async fn service_events(
        &self,
        stream_id: &str,
        connection: &mut PgConnection,
    ) -> sqlx::Result<Vec<ServiceEvent>> {
        let rows = sqlx::query(&format!(
            "SELECT {COLUMNS} FROM events WHERE aggregate_type = $1 AND aggregate_id = $2 ORDER BY sequence"
        ))
        .bind(stream::SERVICE)
        .bind(stream_id)
        .fetch_all(connection)
        .await?;
        let mut events = Vec::with_capacity(rows.len());
        for row in &rows {
            if !is_authentic(self.keyring().events(), stream::SERVICE, row)? {
                continue;
            }
            let read = Event::from_stored_text(
                stream::SERVICE,
                row.try_get("event_type")?,
                row.try_get("event_version")?,
                row.try_get("payload")?,
            );
            if let Ok(Event::Service(event)) = read {
                events.push(event);
            }
        }
        Ok(events)
    }
}
