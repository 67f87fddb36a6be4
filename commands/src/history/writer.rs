//! Writes the chunks of a made-up history: sealed and put into their stored form on all cores, copied
//! side by side, committed one behind the other.
//!
//! The order of the book is that of `(tx, id)`. So each transaction gets its number before the next
//! chunk is begun, and the streams, which go on from chunk to chunk, stay in their order.

use std::collections::VecDeque;

use chrono::{DateTime, Utc};
use cqrs_es::DomainEvent;
use domain::{Event, IdentifierKind, Index, UserId};
use sqlx::{PgConnection, Postgres, Transaction};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use super::{
    HistoryError,
    desk::{Append, Chunk, Snapshot},
};
use crate::{Entrybook, keyring::NewKey, store::StoredForm};

/// Chunks that are sealed and copied at the same time.
const AT_ONCE: usize = 2;

const COPY: &str = "COPY events (aggregate_type, aggregate_id, sequence, event_type, event_version, \
                    payload, metadata) FROM STDIN (FORMAT binary)";

/// How many events a chunk had, and the simulated time of its last.
type Written = Result<(u64, DateTime<Utc>), HistoryError>;

/// Writes what comes, and tells how many events are committed.
pub(super) async fn write(
    book: &Entrybook,
    mut chunks: mpsc::Receiver<(Chunk, DateTime<Utc>)>,
    mut progress: impl FnMut(u64, DateTime<Utc>),
) -> Result<(), HistoryError> {
    let mut running: VecDeque<JoinHandle<Written>> = VecDeque::new();
    let mut before = None;
    let mut events = 0;
    loop {
        let chunk = chunks.recv().await;
        while running.len() >= if chunk.is_some() { AT_ONCE } else { 1 } {
            let Some(first) = running.pop_front() else { break };
            let (written, at) =
                first.await.map_err(|cause| HistoryError::Refused(cause.to_string()))??;
            events += written;
            progress(events, at);
        }
        let Some((chunk, at)) = chunk else { return Ok(()) };
        let mut transaction = book.pool().begin().await?;
        sqlx::query("SELECT pg_current_xact_id()").execute(&mut *transaction).await?;
        let (done, next) = oneshot::channel();
        let book = book.clone();
        let turn = before.replace(next);
        running.push_back(tokio::spawn(async move {
            let written = chunk.events as u64;
            write_chunk(&book, transaction, chunk, turn).await?;
            // Nobody waits behind the last one.
            let _ = done.send(());
            Ok((written, at))
        }));
    }
}

async fn write_chunk(
    book: &Entrybook,
    mut transaction: Transaction<'static, Postgres>,
    chunk: Chunk,
    turn: Option<oneshot::Receiver<()>>,
) -> Result<(), HistoryError> {
    let rows = rows(book, &chunk.appends).await?;
    let mut copy = transaction.copy_in_raw(COPY).await?;
    copy.send(rows).await?;
    copy.finish().await?;
    // From here on in order: what a chunk releases may have been claimed in the one before.
    if let Some(turn) = turn
        && turn.await.is_err()
    {
        return Err(HistoryError::Refused("the chunk before was not written".to_owned()));
    }
    write_beside(&mut transaction, chunk, book.keyring().permit().as_slice()).await?;
    transaction.commit().await?;
    Ok(())
}

/// The rows of `events` in the binary format of COPY.
async fn rows(book: &Entrybook, appends: &[Append]) -> Result<Vec<u8>, HistoryError> {
    let mut rows = Rows::new();
    for append in appends {
        let stream = (append.stream, append.id.as_str());
        let metadata =
            append.origin.seal(book.keyring(), stream, append.person.as_ref(), append.at).await?;
        for (event, sequence) in append.events.iter().zip(append.first..) {
            let (version, payload) = match event {
                Event::User(event) => (event.event_version(), json(event)?),
                Event::Session(event) => (event.event_version(), json(event)?),
                Event::SignInGuard(event) => (event.event_version(), json(event)?),
                Event::Service(event) => (event.event_version(), json(event)?),
                Event::Reading(event) => (event.event_version(), json(event)?),
            };
            let stored = StoredForm {
                stream,
                place: (sequence, sequence),
                event_type: event.name(),
                event_version: &version,
                payload: String::from_utf8_lossy(&payload).into_owned(),
            };
            let metadata = json(&stored.seal(book.keyring().events(), metadata.clone())?)?;
            rows.row(7);
            rows.text(append.stream);
            rows.text(&append.id);
            rows.bigint(sequence as i64);
            rows.text(event.name());
            rows.text(&version);
            rows.jsonb(&payload);
            rows.jsonb(&metadata);
        }
    }
    Ok(rows.end())
}

fn json(value: &impl serde::Serialize) -> Result<Vec<u8>, HistoryError> {
    serde_json::to_vec(value).map_err(|cause| HistoryError::Refused(cause.to_string()))
}

/// What must agree with the events.
async fn write_beside(
    connection: &mut PgConnection,
    chunk: Chunk,
    permit: &[u8],
) -> Result<(), sqlx::Error> {
    let (ids, (wrapped, masters)): (Vec<_>, (Vec<_>, Vec<_>)) = chunk
        .keys
        .into_iter()
        .map(|NewKey { id, wrapped, master_key }| (id, (wrapped, master_key)))
        .unzip();
    sqlx::query(
        "INSERT INTO sealing_keys (id, wrapped, master_key, permit)
         SELECT *, $4 FROM unnest($1::text[], $2::bytea[], $3::text[])",
    )
    .bind(ids)
    .bind(wrapped)
    .bind(masters)
    .bind(permit)
    .execute(&mut *connection)
    .await?;
    // Claims first: what is released may have been claimed in this chunk. Nobody takes a name that
    // somebody gave back.
    let statements = [
        (
            chunk.claimed,
            "INSERT INTO identifiers (kind, index, user_id, permit)
             SELECT *, $4 FROM unnest($1::text[], $2::text[], $3::uuid[])",
        ),
        (
            chunk.released,
            "SELECT release_identifiers($4, r.user_id, array_agg(r.kind), array_agg(r.index))
               FROM unnest($1::text[], $2::text[], $3::uuid[]) AS r (kind, index, user_id)
              GROUP BY r.user_id",
        ),
    ];
    for (names, statement) in statements {
        if names.is_empty() {
            continue;
        }
        let (kinds, (indexes, owners)): (Vec<_>, (Vec<_>, Vec<_>)) = names
            .into_iter()
            .map(|(kind, Index(index), UserId(owner)): (IdentifierKind, _, _)| {
                (kind.as_str(), (index, owner))
            })
            .unzip();
        sqlx::query(statement)
            .bind(kinds)
            .bind(indexes)
            .bind(owners)
            .bind(permit)
            .execute(&mut *connection)
            .await?;
    }
    write_snapshots(connection, chunk.snapshots.into_iter().collect()).await
}

async fn write_snapshots(
    connection: &mut PgConnection,
    snapshots: Vec<((&'static str, String), Snapshot)>,
) -> Result<(), sqlx::Error> {
    if snapshots.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO snapshots (aggregate_type, aggregate_id, sequence, shape, payload, mac)
         SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::integer[], $5::bytea[], $6::bytea[])
         ON CONFLICT (aggregate_type, aggregate_id) DO UPDATE
            SET sequence = excluded.sequence, shape = excluded.shape,
                payload = excluded.payload, mac = excluded.mac",
    )
    .bind(snapshots.iter().map(|((stream, _), _)| *stream).collect::<Vec<_>>())
    .bind(snapshots.iter().map(|((_, id), _)| id.as_str()).collect::<Vec<_>>())
    .bind(snapshots.iter().map(|(_, s)| s.sequence as i64).collect::<Vec<_>>())
    .bind(snapshots.iter().map(|(_, s)| s.shape).collect::<Vec<_>>())
    .bind(snapshots.iter().map(|(_, s)| s.payload.as_slice()).collect::<Vec<_>>())
    .bind(snapshots.iter().map(|(_, s)| s.mac.as_slice()).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// Rows in the binary format of COPY (PostgreSQL's documentation, COPY, "Binary Format").
struct Rows(Vec<u8>);

impl Rows {
    fn new() -> Self {
        let mut bytes = b"PGCOPY\n\xff\r\n\0".to_vec();
        // Neither flags nor an extension of the header.
        bytes.extend_from_slice(&[0; 8]);
        Self(bytes)
    }

    fn row(&mut self, fields: i16) {
        self.0.extend_from_slice(&fields.to_be_bytes());
    }

    fn field(&mut self, parts: [&[u8]; 2]) {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        self.0.extend_from_slice(&(length as u32).to_be_bytes());
        for part in parts {
            self.0.extend_from_slice(part);
        }
    }

    fn text(&mut self, text: &str) {
        self.field([text.as_bytes(), &[]]);
    }

    fn bigint(&mut self, number: i64) {
        self.field([&number.to_be_bytes(), &[]]);
    }

    /// Version 1 of its binary form: the text behind one byte.
    fn jsonb(&mut self, text: &[u8]) {
        self.field([&[1], text]);
    }

    fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&(-1_i16).to_be_bytes());
        self.0
    }
}
