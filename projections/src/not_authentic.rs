//! Lines whose events the service did not write: somebody with the database's login has added them.
//!
//! They are lines of the book and leaves of the tree like any others, and no fold applies them. Here they
//! are found and named.

use sqlx::Row;

use crate::{
    audit_history::{AuditHistory, NOT_AUTHENTIC},
    book_source::BookSource,
    journal::{self, JournalError},
    projection::Generation,
    view::table,
};

/// So many lines are read at once, and so many found ones are named.
const PAGE: i64 = 5_000;
const NAMED: usize = 20;
/// Who only watches counts no more than these: whoever adds events may add many, and is asked after every few seconds.
const COUNTED: u16 = 1_000;

/// Where an event stands that the service did not write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotAuthentic {
    pub position: i64,
    /// The type and the id of the stream.
    pub stream: String,
    pub sequence: i64,
    /// What it claims to be.
    pub event_type: String,
}

/// What was found: how many, and the first of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NotAuthenticFound {
    pub count: u64,
    /// There may be more: no more were counted.
    pub at_least: bool,
    pub first: Vec<NotAuthentic>,
}

/// Looks at every line of the book up to a position: each event is held against its code.
pub async fn search(book: &BookSource, up_to: i64) -> Result<NotAuthenticFound, JournalError> {
    let mut found = NotAuthenticFound::default();
    let mut after = 0;
    while after < up_to {
        let mut connection = book.acquire().await?;
        let until = up_to.min(after.saturating_add(PAGE));
        for line in journal::read_as_stored(&mut connection, after, until).await? {
            // A line without an event that can be read is named by who looks for damage.
            let Ok(event) = line.event else { continue };
            if !event.is_authentic(book.authenticator()) {
                found.count += 1;
                if found.first.len() < NAMED {
                    found.first.push(NotAuthentic {
                        position: event.position,
                        stream: format!("{} {}", event.aggregate_type, event.aggregate_id),
                        sequence: event.sequence,
                        event_type: event.event_type,
                    });
                }
            }
        }
        after = until;
    }
    Ok(found)
}

impl NotAuthenticFound {
    /// How many there are, in words.
    #[must_use]
    pub fn many(&self) -> String {
        if self.at_least { format!("at least {}", self.count) } else { self.count.to_string() }
    }
}

/// What the history says of them, which is quick: for whoever only watches.
pub async fn known(pool: &sqlx::PgPool) -> Result<NotAuthenticFound, sqlx::Error> {
    let history = table::<AuditHistory>("audit_history", Generation::Live);
    let rows = sqlx::query(&format!(
        "SELECT count(*) OVER () AS many, *
           FROM (SELECT position, aggregate_type, aggregate_id, sequence, outcome
                   FROM {history} WHERE event_type = $1 ORDER BY position LIMIT $3) AS found
          ORDER BY position LIMIT $2"
    ))
    .bind(NOT_AUTHENTIC)
    .bind(i64::try_from(NAMED).unwrap_or(i64::MAX))
    .bind(i64::from(COUNTED))
    .fetch_all(pool)
    .await?;
    let mut found = NotAuthenticFound::default();
    for row in rows {
        found.count = row.try_get::<i64, _>("many")?.unsigned_abs();
        let (stream_type, id): (String, String) =
            (row.try_get("aggregate_type")?, row.try_get("aggregate_id")?);
        found.first.push(NotAuthentic {
            position: row.try_get("position")?,
            stream: format!("{stream_type} {id}"),
            sequence: row.try_get("sequence")?,
            event_type: row.try_get::<Option<String>, _>("outcome")?.unwrap_or_default(),
        });
    }
    found.at_least = found.count >= u64::from(COUNTED);
    Ok(found)
}
