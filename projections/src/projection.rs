//! What a projection is.
//!
//! [`View`](crate::View) is the usual kind: rows with a key, each the fold of the lines that concern
//! it. Any other kind implements [`Projection`] itself. Neither knows when it is called, by whom, or
//! on which generation of its tables: the projector, a first build, a rebuild and a verification all
//! use the same fold.

use std::{collections::BTreeMap, fmt, sync::OnceLock};

use domain::{Event, Metadata};
use futures_util::future::BoxFuture;
use proof::EventAuthenticator;
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, PgPool};

use crate::{book_audit::altered, journal::RecordedEvent, rebuild::RebuildError};

/// A read table (or a few) posted from the book.
pub trait Projection: Send + Sync + 'static {
    /// Its name, under which it is registered; stable.
    fn name(&self) -> &'static str;

    /// The version of its tables and its fold. A change of either is a new version.
    fn version(&self) -> i32;

    fn tables(&self) -> &'static [Table];

    /// Whether it is folded from streams of this type. The events of others are passed by, readable or
    /// not.
    fn concerns(&self, aggregate_type: &str) -> bool;

    /// Whether it looks into events. Where nobody does, they are not decoded.
    fn decodes(&self) -> bool {
        true
    }

    /// Begins to fold into a generation of its tables.
    fn folding(&self, generation: Generation, start: Start) -> Box<dyn Folding>;

    /// What speaks against putting new tables that are built up to `position` in the place of live ones
    /// that differ, though somebody asks for it. Most are made of the book and of nothing else, and so
    /// nothing does but a book that is not the one that was signed.
    fn objection<'a>(
        &'a self,
        pool: &'a PgPool,
        _conn: &'a mut PgConnection,
        _position: i64,
    ) -> BoxFuture<'a, Result<Option<String>, RebuildError>> {
        Box::pin(async { Ok(altered(pool).await?) })
    }

    /// What the fold makes of the sample book ([`domain::fixtures`]): for each of its lines, named by
    /// its number, type and version, a hash of the row after it, and one of what other tables are given
    /// of it. It tells a changed fold from a
    /// damaged table. Lines are only ever added, so those that two programs know can be compared.
    fn fingerprint(&self) -> Fingerprint;
}

/// See [`Projection::fingerprint`].
pub type Fingerprint = BTreeMap<String, String>;

impl fmt::Debug for dyn Projection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} v{}", self.name(), self.version())
    }
}

/// How much is known of the tables that are folded into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// They may hold anything: each row is looked for before it is folded, so that a line that is
    /// applied again changes nothing.
    Careful,
    /// They hold exactly the lines up to the last checkpoint: a line that begins a row begins it.
    Exact,
}

/// Lines on their way into a generation of tables. Rows are kept until they are written, so that each
/// is written once, however many lines concern it.
pub trait Folding: Send + Sync {
    /// Folds lines in, in the order of the book. After an error it is of no more use: nothing of it
    /// has been written.
    fn absorb<'a>(
        &'a mut self,
        conn: &'a mut PgConnection,
        entries: &'a [Entry],
    ) -> BoxFuture<'a, Result<(), ApplyError>>;

    /// How many rows it holds.
    fn kept(&self) -> usize;

    /// Writes its rows, at most so many, inside the caller's transaction, and forgets them; `true` if
    /// there are more. Until the last are written, lines can't be absorbed.
    fn write<'a>(
        &'a mut self,
        conn: &'a mut PgConnection,
        limit: usize,
    ) -> BoxFuture<'a, Result<bool, sqlx::Error>>;
}

/// Why events were not applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error(transparent)]
    Event(#[from] CannotApply),
    #[error("the database failed: {0}")]
    Database(#[from] sqlx::Error),
}

/// An event that this binary can't apply, and why. It holds no personal data.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {position} ({stream}, {event_type} version {event_version}): {cause}")]
pub struct CannotApply {
    pub position: i64,
    /// The stream and the place in it.
    pub stream: String,
    pub event_type: String,
    pub event_version: String,
    pub kind: StopKind,
    pub cause: String,
}

/// What kind of cause keeps an event from being applied. Unlike the cause itself it quotes nothing of
/// the event, so anybody may be told.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopKind {
    /// A newer version of Entrybook wrote it, and can read it.
    NewerVersion,
    DamagedPayload,
    /// The database does not take the rows that it gives.
    RefusedRows,
    /// The journal has no such line, or the line no event that can be read.
    UnreadableLine,
    /// None of these, or one that only another binary knows.
    #[default]
    #[serde(other)]
    Other,
}

impl StopKind {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NewerVersion => "newer_version",
            Self::DamagedPayload => "damaged_payload",
            Self::RefusedRows => "refused_rows",
            Self::UnreadableLine => "unreadable_line",
            Self::Other => "other",
        }
    }
}

impl CannotApply {
    /// For a cause of no particular kind.
    #[must_use]
    pub fn new(event: &RecordedEvent, cause: impl Into<String>) -> Self {
        Self {
            position: event.position,
            stream: format!(
                "{} {} number {}",
                event.aggregate_type, event.aggregate_id, event.sequence
            ),
            event_type: event.event_type.clone(),
            event_version: event.event_version.clone(),
            kind: StopKind::Other,
            cause: cause.into(),
        }
    }

    #[must_use]
    pub(crate) fn of_kind(self, kind: StopKind) -> Self {
        Self { kind, ..self }
    }
}

/// One of the sets of tables that a projection can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generation {
    /// What readers see.
    Live,
    /// Being built, to be compared with the live ones and to take their place.
    New,
}

impl Generation {
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::Live => "",
            Self::New => "_new",
        }
    }
}

/// A table of a projection. Its full name has the version and the generation:
/// `ledger.users_v1`, `ledger.users_v1_new`.
#[derive(Debug)]
pub struct Table {
    pub name: &'static str,
    /// What stands between the parentheses of CREATE TABLE, without constraints but these two:
    /// NOT NULL, and DEFAULT with a constant.
    pub columns: &'static str,
    /// The column of the primary key.
    pub key: &'static str,
    /// The columns that are not shown where rows are compared: sealed values, keyed hashes.
    pub masked: &'static [&'static str],
    pub indexes: &'static [Index],
}

/// An index of a table.
#[derive(Debug)]
pub struct Index {
    /// Unique in its table.
    pub name: &'static str,
    /// What follows the name of the table in CREATE INDEX: `(user_id, position)`.
    pub on: &'static str,
}

impl Table {
    /// Its name in schema `ledger`, without the schema.
    #[must_use]
    pub fn relation(&self, version: i32, generation: Generation) -> String {
        format!("{}_v{version}{}", self.name, generation.suffix())
    }
}

/// A line of the book, decoded.
#[derive(Debug, Clone, Copy)]
pub struct Line<'a> {
    pub recorded: &'a RecordedEvent,
    pub event: &'a Event,
    pub metadata: &'a Metadata,
}

/// A line of the book, decoded when it is first asked for and once for all who ask.
#[derive(Debug)]
pub struct Entry {
    pub recorded: RecordedEvent,
    authenticator: EventAuthenticator,
    content: OnceLock<Result<Option<(Event, Metadata)>, CannotApply>>,
}

impl Entry {
    #[must_use]
    pub fn new(recorded: RecordedEvent, authenticator: &EventAuthenticator) -> Self {
        Self { recorded, authenticator: authenticator.clone(), content: OnceLock::new() }
    }

    /// The line; nothing where the service did not write its event, which then has no effect.
    pub fn line(&self) -> Result<Option<Line<'_>>, CannotApply> {
        let content = self.content.get_or_init(|| {
            let Some(event) = self.recorded.event(&self.authenticator)? else { return Ok(None) };
            Ok(Some((event, self.recorded.metadata()?)))
        });
        match content {
            Ok(Some((event, metadata))) => {
                Ok(Some(Line { recorded: &self.recorded, event, metadata }))
            }
            Ok(None) => Ok(None),
            Err(cause) => Err(cause.clone()),
        }
    }
}

impl Line<'_> {
    /// The refusal to apply this line.
    #[must_use]
    pub fn cannot_apply(&self, cause: impl Into<String>) -> CannotApply {
        CannotApply::new(self.recorded, cause)
    }
}

/// The parts of a query's answer, one page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    pub rows: Vec<T>,
    /// Whether there are more rows after these.
    pub more: bool,
}

impl<T> Page<T> {
    /// A page of `limit` rows, of which one more was asked for.
    pub(crate) fn of(mut rows: Vec<T>, limit: i64) -> Self {
        let limit = usize::try_from(limit).unwrap_or(0);
        let more = rows.len() > limit;
        rows.truncate(limit);
        Self { rows, more }
    }
}
