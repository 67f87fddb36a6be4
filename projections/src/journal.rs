//! The journal, read: the lines of the book in their order, as they were recorded.
//!
//! A line is either read whole or is an error that names it. Nothing here skips.

use chrono::{DateTime, Utc};
use domain::{Event, Metadata};
use proof::{EventAuthenticator, EventFields, number_in_stream};
use sqlx::{PgConnection, PgPool, Row, postgres::PgRow};

use crate::{
    head::{Frontier, Head, tx_of},
    projection::{CannotApply, StopKind},
};

mod as_stored;
mod copied;
mod line_of;

pub(crate) use as_stored::is_of_the_data;
pub use as_stored::{StoredLine, read_as_stored};
pub(crate) use copied::{CopiedLine, CopiedPage, copy_page};
pub use line_of::last_line_of;

/// One event at its place in the book.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordedEvent {
    /// Its line: 1, 2, 3 … without gaps.
    pub position: i64,
    pub aggregate_type: String,
    pub aggregate_id: String,
    /// Its place in its stream, from 1. See [`RecordedEvent::number`].
    pub sequence: i64,
    pub event_type: String,
    pub event_version: String,
    /// As stored: JSON.
    pub payload: String,
    pub metadata: String,
    /// When the database wrote it.
    pub recorded_at: DateTime<Utc>,
    /// The transaction that wrote it, in the cluster where it was written.
    pub tx: u64,
    pub id: i64,
}

/// Why lines could not be read.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("the journal could not be read, because the database failed: {0}")]
    Database(#[from] sqlx::Error),
    #[error("line {position} of the journal can't be read: {cause}")]
    Unreadable { position: i64, cause: sqlx::Error },
    #[error("line {position} of the journal names an event that is not there")]
    EventMissing { position: i64 },
    #[error("the journal has line {found} where line {expected} should be")]
    Gap { expected: i64, found: i64 },
}

impl JournalError {
    /// The line at fault, where it is not the database that failed.
    #[must_use]
    pub fn position(&self) -> Option<i64> {
        match self {
            Self::Database(_) => None,
            Self::Unreadable { position, .. } | Self::EventMissing { position } => Some(*position),
            Self::Gap { expected, .. } => Some(*expected),
        }
    }
}

impl RecordedEvent {
    /// Whether the service wrote it. An event that somebody else has added has no effect.
    #[must_use]
    pub fn is_authentic(&self, authenticator: &EventAuthenticator) -> bool {
        authenticator.is_authentic(self.id, &self.fields(), &self.metadata)
    }

    /// What the code of an event covers.
    #[must_use]
    pub fn fields(&self) -> EventFields<'_> {
        EventFields {
            stream_type: &self.aggregate_type,
            stream_id: &self.aggregate_id,
            sequence: self.sequence,
            event_type: &self.event_type,
            event_version: &self.event_version,
            payload: &self.payload,
        }
    }

    /// Its number among those events of its stream that the service wrote, if it is one of them: of a
    /// `User` stream this is the version of the account.
    #[must_use]
    pub fn number(&self) -> i64 {
        number_in_stream(self.sequence, &self.metadata)
    }

    /// What happened; nothing where the service did not write it. Old versions are brought up to the
    /// present one.
    pub fn event(&self, authenticator: &EventAuthenticator) -> Result<Option<Event>, CannotApply> {
        if self.is_authentic(authenticator) { self.decoded().map(Some) } else { Ok(None) }
    }

    /// What it says, whoever wrote it.
    pub(crate) fn decoded(&self) -> Result<Event, CannotApply> {
        Event::from_stored_text(
            &self.aggregate_type,
            &self.event_type,
            &self.event_version,
            &self.payload,
        )
        .map_err(|cause| {
            let newer = cause.is_newer();
            let kind = if newer { StopKind::NewerVersion } else { StopKind::DamagedPayload };
            CannotApply::new(self, cause.to_string()).of_kind(kind)
        })
    }

    /// Who did it, from where, for which request, and when.
    pub fn metadata(&self) -> Result<Metadata, CannotApply> {
        Metadata::from_text(&self.metadata)
            .map_err(|cause| CannotApply::new(self, cause.to_string()))
    }

    /// The sample book, as if it had been recorded: what folds are fingerprinted with.
    pub(crate) fn samples() -> impl Iterator<Item = Self> {
        (1..).zip(domain::fixtures()).map(|(position, fixture)| Self {
            position,
            aggregate_type: fixture.aggregate_type.clone(),
            aggregate_id: fixture.aggregate_id.clone(),
            sequence: fixture.sequence,
            event_type: fixture.event_type.clone(),
            event_version: fixture.event_version.clone(),
            payload: fixture.payload.to_string(),
            metadata: fixture.metadata.to_string(),
            recorded_at: DateTime::UNIX_EPOCH,
            tx: 1,
            id: position,
        })
    }

    /// A row of [`COLUMNS`]: by their numbers, for there are many rows.
    fn from_row(row: &PgRow, position: i64) -> Result<Self, JournalError> {
        let read = || -> Result<Option<Self>, sqlx::Error> {
            let Some(id) = row.try_get::<Option<i64>, _>(1)? else { return Ok(None) };
            Ok(Some(Self {
                position,
                tx: tx_of(row, "tx")?,
                id,
                aggregate_type: row.try_get(2)?,
                aggregate_id: row.try_get(3)?,
                sequence: row.try_get(4)?,
                event_type: row.try_get(5)?,
                event_version: row.try_get(6)?,
                payload: row.try_get(7)?,
                metadata: row.try_get(8)?,
                recorded_at: row.try_get(9)?,
            }))
        };
        match read() {
            Ok(Some(event)) => Ok(event),
            Ok(None) => Err(JournalError::EventMissing { position }),
            Err(cause) => Err(JournalError::Unreadable { position, cause }),
        }
    }
}

/// What is read of an event `e`, where `$3` are the types of streams that the reader passes by.
const COLUMNS: &str = "e.tx::text AS tx, e.id, e.aggregate_type, e.aggregate_id, e.sequence,
     e.event_type, e.event_version,
     CASE WHEN e.aggregate_type = ANY($3) THEN '' ELSE e.payload::text END AS payload,
     CASE WHEN e.aggregate_type = ANY($3) THEN '' ELSE e.metadata::text END AS metadata,
     e.recorded_at";

/// The lines after a position, in order, up to `limit`.
///
/// Lines before one that can't be read are returned, and the next call fails on it.
pub async fn read_after(
    conn: &mut PgConnection,
    after: i64,
    limit: i64,
) -> Result<Vec<RecordedEvent>, JournalError> {
    read_for(conn, after, limit, &[]).await
}

/// The same for a reader who passes some types of streams by: what their events say is left out.
pub(crate) async fn read_for(
    conn: &mut PgConnection,
    after: i64,
    limit: i64,
    passed_by: &[&str],
) -> Result<Vec<RecordedEvent>, JournalError> {
    // A left join, so that a line whose event is missing is found and not passed over; it also keeps
    // the plan to a walk along the journal.
    let rows = sqlx::query(&format!(
        "SELECT {COLUMNS}, j.position
           FROM journal j LEFT JOIN events e ON e.tx = j.tx AND e.id = j.event_id
          WHERE j.position > $1 AND j.position <= $2 ORDER BY j.position"
    ))
    .bind(after)
    .bind(after.saturating_add(limit))
    .bind(passed_by)
    .fetch_all(conn)
    .await?;
    let mut events = Vec::with_capacity(rows.len());
    for (row, expected) in rows.iter().zip(after.saturating_add(1)..) {
        let found: i64 = row.try_get("position")?;
        let read = if found == expected {
            RecordedEvent::from_row(row, found)
        } else {
            Err(JournalError::Gap { expected, found })
        };
        match read {
            Ok(event) => events.push(event),
            Err(cause) if events.is_empty() => return Err(cause),
            Err(_) => break,
        }
    }
    Ok(events)
}

/// The same, faster where many lines are read, with two statements: the order of the journal is that
/// of `(tx, id)`, except in what came with a restore, so a page of it is a range of the events. Each
/// line's event is held against the journal; where one differs, the page is read line by line.
pub(crate) async fn read_page(
    conn: &mut PgConnection,
    after: i64,
    limit: i64,
    passed_by: &[&str],
) -> Result<Vec<RecordedEvent>, JournalError> {
    let Some(listed) = listed(conn, after, limit).await? else {
        return read_for(conn, after, limit, passed_by).await;
    };
    let (Some(first), Some(last)) = (listed.first(), listed.last()) else { return Ok(Vec::new()) };
    let rows = sqlx::query(&format!(
        "SELECT {COLUMNS} FROM events e
          WHERE (e.tx, e.id) >= ($1::text::xid8, $2) AND (e.tx, e.id) <= ($4::text::xid8, $5)
          ORDER BY e.tx, e.id LIMIT $6"
    ))
    .bind(first.tx.to_string())
    .bind(first.id)
    .bind(passed_by)
    .bind(last.tx.to_string())
    .bind(last.id)
    .bind(i64::try_from(listed.len()).unwrap_or(i64::MAX).saturating_add(1))
    .fetch_all(&mut *conn)
    .await?;
    if rows.len() != listed.len() {
        return read_for(conn, after, limit, passed_by).await;
    }
    let mut events = Vec::with_capacity(rows.len());
    for ((row, listed), position) in rows.iter().zip(listed).zip(after.saturating_add(1)..) {
        match RecordedEvent::from_row(row, position) {
            Ok(event) if (Listed { tx: event.tx, id: event.id }) == listed => events.push(event),
            Ok(_) | Err(_) => return read_for(conn, after, limit, passed_by).await,
        }
    }
    Ok(events)
}

/// An event as the journal names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Listed {
    tx: u64,
    id: i64,
}

/// The events of the lines after a position, up to `limit`, in order; nothing unless there is one line at each.
async fn listed(
    conn: &mut PgConnection,
    after: i64,
    limit: i64,
) -> Result<Option<Vec<Listed>>, sqlx::Error> {
    // In the order of the subquery, so that nothing is sorted (PostgreSQL, "Aggregate Functions").
    let page = sqlx::query(
        "SELECT bool_and(position = $1 + nth) AS dense,
                string_agg(xid8send(tx) || int8send(event_id), '') AS listed
           FROM (SELECT position, tx, event_id, row_number() OVER (ORDER BY position) AS nth
                   FROM journal WHERE position > $1 AND position <= $2 ORDER BY position) AS lines",
    )
    .bind(after)
    .bind(after.saturating_add(limit))
    .fetch_one(&mut *conn)
    .await?;
    if page.try_get::<Option<bool>, _>("dense")? != Some(true) {
        return Ok(None);
    }
    let bytes: Vec<u8> = page.try_get("listed")?;
    let (numbers, _) = bytes.as_chunks::<8>();
    let (pairs, _) = numbers.as_chunks::<2>();
    let listed = |[tx, id]: &[[u8; 8]; 2]| Listed {
        tx: u64::from_be_bytes(*tx),
        id: i64::from_be_bytes(*id),
    };
    Ok(Some(pairs.iter().map(listed).collect()))
}

/// The lines at these positions, which are in order: all of them, or an error that names the first that
/// is not there.
pub async fn read_at(
    conn: &mut PgConnection,
    positions: &[i64],
) -> Result<Vec<RecordedEvent>, JournalError> {
    let rows = sqlx::query(&format!(
        "SELECT {COLUMNS}, j.position
           FROM journal j LEFT JOIN events e ON e.tx = j.tx AND e.id = j.event_id
          WHERE j.position = ANY($1) AND j.position <= $2 ORDER BY j.position"
    ))
    .bind(positions)
    .bind(positions.last().copied().unwrap_or_default())
    .bind(&[] as &[&str])
    .fetch_all(conn)
    .await?;
    let mut events = Vec::with_capacity(positions.len());
    let mut rows = rows.iter();
    for position in positions.iter().copied() {
        let missing = JournalError::EventMissing { position };
        let row = rows.next().ok_or(missing)?;
        let found: i64 = row.try_get("position")?;
        if found != position {
            return Err(JournalError::Gap { expected: position, found });
        }
        events.push(RecordedEvent::from_row(row, position)?);
    }
    Ok(events)
}

/// One line, whole.
pub async fn read_one(pool: &PgPool, position: i64) -> Result<Option<RecordedEvent>, JournalError> {
    let before = position.saturating_sub(1);
    let mut lines = read_after(&mut *pool.acquire().await?, before, 1).await?;
    Ok(lines.pop().filter(|line| line.position == position))
}

/// The position of the last line, as the connection's transaction sees it.
pub(crate) async fn head_of(conn: &mut PgConnection) -> Result<i64, sqlx::Error> {
    Ok(Frontier::read(conn).await?.head.position)
}

/// The last line of the book.
pub async fn head(pool: &PgPool) -> Result<Head, sqlx::Error> {
    Ok(Frontier::read(&mut *pool.acquire().await?).await?.head)
}
