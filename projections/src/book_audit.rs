//! Holding the whole book against what was signed of it: each line as it is stored, the hashes that are
//! kept of the lines, and every checkpoint.
//!
//! It reads and changes nothing, needs no key but those that verify signatures, and decodes no event. A
//! line is held against the hash that is kept of it, which tells what was done to it; and the tree over the
//! lines themselves against the checkpoints, which tells whether it is the lines or the kept hashes that
//! are not what they were. Pages are read and hashed side by side, and a thread holds them against each other in
//! their order.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use chrono::TimeDelta;
use proof::{EventAuthenticator, EventFields, Finding, Followed, Trust, Verdict};
use sqlx::{PgConnection, PgPool, Row};
use tokio::sync::mpsc;

use crate::{head::Frontier, journal::read_as_stored, transparency::TransparencyError};

mod holding;
mod reading;
mod seen;

pub use self::reading::CONNECTIONS;
use self::{
    holding::Holding,
    reading::{Extent, read},
};

/// So many of each kind are remembered; all are counted.
const KEPT: usize = 100;
/// No note of a hand-over has more characters: its texts are bounded.
const LONGEST_HAND_OVER: i32 = 4_096;

/// What is believed from outside of the database.
#[derive(Debug, Clone, Default)]
pub struct Given {
    /// Verifier keys. None given: those that the book itself names, which trusts the database.
    pub keys: Vec<String>,
    /// Checkpoints that somebody else has kept, as signed notes.
    pub notes: Vec<Vec<u8>>,
    /// By which it is known what the service wrote, where the master key is at hand. Without it the keys that the book
    /// names are those that anybody may have written there.
    pub authenticator: Option<EventAuthenticator>,
}

/// How far it is.
#[derive(Debug, Default)]
pub struct Progress {
    pub lines: AtomicU64,
    pub total: AtomicU64,
}

/// What it came to.
#[derive(Debug, Clone, PartialEq)]
pub struct BookReport {
    /// Of the lines; `proved` are those up to the last checkpoint that they agree with.
    pub verdict: Verdict,
    /// How many checkpoints were believed, and held against the book.
    pub checkpoints: u64,
    /// The verifier keys that are believed: those that were given, or that the book names as the first of a log, and
    /// those that were handed over to.
    pub keys: Vec<String>,
    /// The hand-overs that the book names.
    pub followed: Followed,
    /// The keys are those that the database names.
    pub trusts_database: bool,
    /// Checkpoints that are not believed: the first of them …
    pub refused: Vec<Refused>,
    /// … and how many there are.
    pub refused_in_all: u64,
    /// Logs of which no key is known, so that their checkpoints were not looked at, and the size of the
    /// largest.
    pub without_key: BTreeMap<String, u64>,
    /// Lines that can't be hashed, and why: the first of them.
    pub unreadable: Vec<Unreadable>,
    /// What is wrong with the kept hashes alone: the lines have the roots that were signed.
    pub kept: KeptHashes,
    /// Events that are in no line of the journal although their turn has come: the first of them …
    pub unlisted: Vec<Unlisted>,
    /// … and how many there are.
    pub unlisted_in_all: u64,
    /// Lines so far behind the last kept hash that they were not looked at.
    pub not_hashed: u64,
    /// Lines at positions before the first, or behind the last that was given out.
    pub misplaced: u64,
    /// How much older the first line that is not proved is than the last line of the book.
    pub unproved_for: Option<TimeDelta>,
}

/// A checkpoint that is not believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    pub origin: String,
    pub size: Option<u64>,
    pub cause: String,
}

/// A line that can't be hashed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    pub position: i64,
    pub cause: String,
}

/// An event outside of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unlisted {
    /// Its stream, and its place in it.
    pub stream: String,
    pub sequence: i64,
    pub event_type: String,
}

/// Kept hashes that are not those of the lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KeptHashes {
    pub missing: u64,
    pub wrong: u64,
}

/// Why it could not be told.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error("the book could not be read: {0}")]
    Database(#[from] sqlx::Error),
    #[error("the tree could not be read: {0}")]
    Tree(TransparencyError),
    #[error("the hashing broke off: {0}")]
    Broken(#[from] tokio::task::JoinError),
}

impl BookReport {
    /// Every line is the one that was signed, and so is everything that stands for it.
    #[must_use]
    pub fn is_unaltered(&self) -> bool {
        let altered = self.verdict.findings.iter().any(|finding| !is_of_completeness(finding));
        let uncounted = self.verdict.wrong > self.verdict.findings.len() as u64;
        let kept = self.kept == KeptHashes::default();
        let no_other = self.refused_in_all + self.unlisted_in_all + self.misplaced == 0;
        !altered && !uncounted && kept && no_other
    }

    /// No line is missing.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        !self.verdict.findings.iter().any(is_of_completeness)
    }

    /// A checkpoint says so, unless there is nothing that it could say it of.
    #[must_use]
    pub fn is_proved(&self) -> bool {
        self.checkpoints > 0 || (self.verdict.lines == 0 && self.trusts_database)
    }
}

/// Whether it tells of lines that are gone, and not of others that should not be as they are.
#[must_use]
pub fn is_of_completeness(finding: &Finding) -> bool {
    match finding {
        Finding::Deleted { .. } | Finding::CutTail { .. } => true,
        Finding::Edited { .. }
        | Finding::Inserted { .. }
        | Finding::Moved { .. }
        | Finding::Forked { .. } => false,
    }
}

/// Verifies the book of a database.
pub async fn audit_book(
    pool: &PgPool,
    given: Given,
    progress: Arc<Progress>,
) -> Result<BookReport, AuditError> {
    let mut connection = pool.acquire().await?;
    let trusts_database = given.keys.is_empty();
    let keys = if trusts_database {
        first_keys(&mut connection, given.authenticator.as_ref()).await?
    } else {
        given.keys.clone()
    };
    let mut trust = Trust::from(keys);
    let hand_overs = hand_overs(&mut connection).await?;
    let followed = trust.follow(hand_overs.iter().map(String::as_str));
    let (holding, largest) = Holding::new(trust, &given.notes);
    let extent = Extent::read(&mut connection, largest).await?;
    drop(connection);
    progress.total.store(extent.head.max(extent.hashes), Ordering::Relaxed);

    let (sender, receiver) = mpsc::channel(2);
    let (counted, hashes) = (progress, extent.hashes);
    let hashing = tokio::task::spawn_blocking(move || holding.hold(receiver, hashes, &counted));
    let reading = read(pool, &extent, sender).await;
    let held = hashing.await?;
    reading?;
    let mut report = held.report(&extent, trusts_database);
    report.followed = followed;
    let connection = &mut *pool.acquire().await?;
    report.misplaced = misplaced(connection).await?;
    report.unproved_for = age(connection, report.verdict.proved + 1, extent.head).await?;
    let suspicious = report.verdict.wrong > 0;
    (report.unlisted_in_all, report.unlisted) = unlisted(connection, suspicious).await?;
    Ok(report)
}

/// Why the book can't be taken for right: lines of it are not those that were signed, by the keys that the
/// database names. Then what was made of it before may be all that tells how it was.
pub(crate) async fn altered(pool: &PgPool) -> Result<Option<String>, sqlx::Error> {
    // Connections of its own: broken off in the middle of a COPY they are of no use to anybody.
    let options = pool.options().clone().min_connections(0).max_connections(CONNECTIONS);
    let own = options.connect_with(pool.connect_options().as_ref().clone()).await?;
    let audited = audit_book(&own, Given::default(), Arc::default()).await;
    own.close().await;
    let report = match audited {
        Ok(report) => report,
        Err(AuditError::Database(cause)) => return Err(cause),
        Err(cause) => return Ok(Some(cause.to_string())),
    };
    let first = report.verdict.findings.first().filter(|_| report.checkpoints > 0);
    Ok(first.map(|first| {
        format!(
            "the book is not the one that was signed: {first}. `entrybook audit verify` names all that is wrong: \
             put it back as it was, from a backup. What is live may tell how it was, and stays"
        )
    }))
}

/// The verifier key that each log began with, as the book itself names it. What it says of later keys proves nothing.
async fn first_keys(
    connection: &mut PgConnection,
    authenticator: Option<&EventAuthenticator>,
) -> Result<Vec<String>, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT id, aggregate_id, sequence, event_type, event_version, payload::text AS payload,
                metadata::text AS metadata, payload #>> '{LogBegun,origin}' AS origin, payload #>> '{LogBegun,key}' AS key
           FROM events
          WHERE aggregate_type = $1 AND event_type = 'LogBegun'
            AND payload #>> '{LogBegun,origin}' IS NOT NULL AND payload #>> '{LogBegun,key}' IS NOT NULL
          ORDER BY id",
    )
    .bind(domain::stream::SERVICE)
    .fetch_all(connection)
    .await?;
    let mut keys: BTreeMap<String, String> = BTreeMap::new();
    for row in rows {
        let fields = EventFields {
            stream_type: domain::stream::SERVICE,
            stream_id: row.try_get("aggregate_id")?,
            sequence: row.try_get("sequence")?,
            event_type: row.try_get("event_type")?,
            event_version: row.try_get("event_version")?,
            payload: row.try_get("payload")?,
        };
        let (id, metadata) = (row.try_get("id")?, row.try_get("metadata")?);
        if authenticator.is_none_or(|codes| codes.is_authentic(id, &fields, metadata)) {
            keys.entry(row.try_get("origin")?).or_insert(row.try_get("key")?);
        }
    }
    Ok(keys.into_values().collect())
}

/// The notes of the hand-overs from key to key, as they stand in the book, whoever has written them. Longer ones are
/// none.
pub async fn hand_overs(connection: &mut PgConnection) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT payload #>> '{LogKeyHandedOver,hand_over}' FROM events
          WHERE aggregate_type = $1 AND event_type = 'LogKeyHandedOver'
            AND length(payload #>> '{LogKeyHandedOver,hand_over}') <= $2
          ORDER BY id",
    )
    .bind(domain::stream::SERVICE)
    .bind(LONGEST_HAND_OVER)
    .fetch_all(connection)
    .await
}

/// Lines that nobody gave out.
async fn misplaced(connection: &mut PgConnection) -> Result<u64, sqlx::Error> {
    let count: i64 = sqlx::query_scalar(
        "SELECT (SELECT count(*) FROM journal WHERE position < 1)
              + (SELECT count(*) FROM journal
                  WHERE position > (SELECT max(position) FROM sequencer))",
    )
    .fetch_one(connection)
    .await?;
    Ok(count.unsigned_abs())
}

/// By how much the last line was recorded later than another.
async fn age(
    connection: &mut PgConnection,
    position: u64,
    last: u64,
) -> Result<Option<TimeDelta>, sqlx::Error> {
    if position > last {
        return Ok(None);
    }
    let mut times = Vec::new();
    for position in [position, last].map(u64::cast_signed) {
        let lines = read_as_stored(connection, position - 1, position).await?;
        times.extend(lines.into_iter().next().and_then(|line| line.event.ok()));
    }
    Ok(match &times[..] {
        [first, last] => Some(last.recorded_at - first.recorded_at),
        _ => None,
    })
}

/// Events in no line, where their turn has come. Looking for them takes long, and is only done where
/// there are more events than lines, or something else is wrong.
async fn unlisted(
    connection: &mut PgConnection,
    suspicious: bool,
) -> Result<(u64, Vec<Unlisted>), sqlx::Error> {
    use sqlx::Connection as _;
    let mut snapshot = connection.begin().await?;
    sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        .execute(&mut *snapshot)
        .await?;
    let Frontier { head, settled_event_id, mut ceiling } = Frontier::read(&mut snapshot).await?;
    let is_at_home: Option<bool> = sqlx::query_scalar(
        "SELECT sequencer.system_identifier = control.system_identifier
           FROM sequencer CROSS JOIN pg_control_system() AS control",
    )
    .fetch_optional(&mut *snapshot)
    .await?;
    if is_at_home != Some(true) {
        // The transactions are another cluster's: the book was restored, and no server was started yet.
        ceiling = u64::MAX;
    }
    // What no transaction can have written yet is never given a line, and would count nevertheless where
    // its stream is loaded. By the index of `(tx, id)` alone where it can be.
    let passed = match settled_event_id {
        0 => "((e.tx, e.id) <= ($1::text::xid8, $2) OR e.tx >= $4::text::xid8) AND $3 = 0",
        _ => {
            "((e.tx, e.id) <= ($1::text::xid8, $2) OR e.id <= $3
              OR (e.tx >= $4::text::xid8 AND e.id > $3))"
        }
    };
    let passed_events: i64 =
        sqlx::query_scalar(&format!("SELECT count(*) FROM events e WHERE {passed}"))
            .bind(head.tx.to_string())
            .bind(head.event_id)
            .bind(settled_event_id)
            .bind(ceiling.to_string())
            .fetch_one(&mut *snapshot)
            .await?;
    let lines: i64 =
        sqlx::query_scalar("SELECT count(*) FROM journal WHERE position BETWEEN 1 AND $1")
            .bind(head.position)
            .fetch_one(&mut *snapshot)
            .await?;
    if passed_events <= lines && !suspicious {
        return Ok((0, Vec::new()));
    }
    let rows = sqlx::query(&format!(
        "SELECT e.aggregate_type, e.aggregate_id, e.sequence, e.event_type,
                count(*) OVER () AS many
           FROM events e
          WHERE {passed}
            AND NOT EXISTS (SELECT FROM journal j WHERE j.event_id = e.id AND j.tx = e.tx)
          ORDER BY e.tx, e.id LIMIT 10"
    ))
    .bind(head.tx.to_string())
    .bind(head.event_id)
    .bind(settled_event_id)
    .bind(ceiling.to_string())
    .fetch_all(&mut *snapshot)
    .await?;
    let many: i64 = rows.first().map(|row| row.try_get("many")).transpose()?.unwrap_or_default();
    let mut first = Vec::with_capacity(rows.len());
    for row in rows {
        let (kind, id): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        first.push(Unlisted {
            stream: format!("{kind}/{id}"),
            sequence: row.try_get(2)?,
            event_type: row.try_get(3)?,
        });
    }
    Ok((many.unsigned_abs(), first))
}
