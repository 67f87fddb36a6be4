//! What a projection is.
//!
//! [`View`] is the usual kind: rows with a key, each the fold of the events that concern it. Any
//! other kind implements [`Projection`] itself. Neither knows when it is called, by whom, or on which
//! generation of its tables: the projector, a rebuild and a verification all use the same fold.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    hash::Hash,
};

use domain::{Event, Metadata};
use futures_util::future::BoxFuture;
use sqlx::PgConnection;

use crate::journal::RecordedEvent;

/// A read table (or a few) posted from the book.
pub trait Projection: Send + Sync + 'static {
    /// Its name, under which it is registered; stable.
    fn name(&self) -> &'static str;

    /// The version of its tables and its fold. A change of either is a new version.
    fn version(&self) -> i32;

    fn tables(&self) -> &'static [Table];

    /// Applies events in the order of the book, inside the caller's transaction.
    ///
    /// Applying an event again changes nothing. When an event can't be applied, the error names it
    /// and nothing has been written: the caller tries again with the events before it.
    fn apply<'a>(
        &'a self,
        conn: &'a mut PgConnection,
        generation: Generation,
        events: &'a [RecordedEvent],
    ) -> BoxFuture<'a, Result<(), ApplyError>>;
}

impl fmt::Debug for dyn Projection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} v{}", self.name(), self.version())
    }
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
    pub cause: String,
}

impl CannotApply {
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
            cause: cause.into(),
        }
    }
}

/// One of the sets of tables that a projection can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generation {
    /// What readers see.
    Live,
    /// Being built, to take the place of the live ones.
    New,
    /// Built to compare the live ones with.
    Check,
}

impl Generation {
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::Live => "",
            Self::New => "_new",
            Self::Check => "_check",
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
    /// The columns of the primary key.
    pub key: &'static str,
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

/// The full name of a table of a view.
#[must_use]
pub fn table<V: View>(name: &str, generation: Generation) -> String {
    format!("ledger.{name}_v{}{}", V::VERSION, generation.suffix())
}

/// A line of the book, decoded.
#[derive(Debug, Clone)]
pub struct Line<'a> {
    pub recorded: &'a RecordedEvent,
    pub event: Event,
    pub metadata: Metadata,
}

impl Line<'_> {
    /// The refusal to apply this line.
    #[must_use]
    pub fn cannot_apply(&self, cause: impl Into<String>) -> CannotApply {
        CannotApply::new(self.recorded, cause)
    }
}

/// Rows of a view, each with its key.
pub type KeyedRows<V> = Vec<(<V as View>::Key, <V as View>::Row)>;

/// A projection of rows with a key, each folded from the events that concern it.
///
/// The fold is pure. Around it, a batch reads the rows it needs and writes them once each.
pub trait View: Sized + Send + Sync + 'static {
    const NAME: &'static str;
    const VERSION: i32;
    const TABLES: &'static [Table];

    type Key: Clone + Eq + Hash + Send + Sync;
    type Row: Send + Sync;

    /// Whether it is folded from streams of this type. The events of others are passed by, readable or
    /// not.
    fn concerns(aggregate_type: &str) -> bool;

    /// Which row a line concerns.
    fn key(line: &Line<'_>) -> Result<Self::Key, CannotApply>;

    /// The row after a line.
    fn fold(row: Option<Self::Row>, line: &Line<'_>) -> Result<Self::Row, CannotApply>;

    /// The last line that was folded into a row: it is not folded in again.
    fn position(row: &Self::Row) -> i64;

    /// The stored rows of these keys. A view whose rows have one line each has none to read.
    fn load(
        conn: &mut PgConnection,
        generation: Generation,
        keys: &[Self::Key],
    ) -> impl Future<Output = Result<KeyedRows<Self>, sqlx::Error>> + Send;

    /// Inserts or replaces rows, in bulk.
    fn write(
        conn: &mut PgConnection,
        generation: Generation,
        rows: &[Self::Row],
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;
}

impl<V: View> Projection for V {
    fn name(&self) -> &'static str {
        V::NAME
    }

    fn version(&self) -> i32 {
        V::VERSION
    }

    fn tables(&self) -> &'static [Table] {
        V::TABLES
    }

    fn apply<'a>(
        &'a self,
        conn: &'a mut PgConnection,
        generation: Generation,
        events: &'a [RecordedEvent],
    ) -> BoxFuture<'a, Result<(), ApplyError>> {
        Box::pin(apply_view::<V>(conn, generation, events))
    }
}

async fn apply_view<V: View>(
    conn: &mut PgConnection,
    generation: Generation,
    events: &[RecordedEvent],
) -> Result<(), ApplyError> {
    let mut lines = Vec::with_capacity(events.len());
    let mut keys = HashSet::new();
    for recorded in events {
        if V::concerns(&recorded.aggregate_type) {
            let line = Line { recorded, event: recorded.event()?, metadata: recorded.metadata()? };
            let key = V::key(&line)?;
            keys.insert(key.clone());
            lines.push((key, line));
        }
    }
    if lines.is_empty() {
        return Ok(());
    }
    let keys: Vec<V::Key> = keys.into_iter().collect();
    let mut rows: HashMap<V::Key, V::Row> =
        V::load(conn, generation, &keys).await?.into_iter().collect();
    let mut touched = HashSet::with_capacity(keys.len());
    for (key, line) in &lines {
        let row = rows.remove(key);
        let row = match row {
            Some(row) if V::position(&row) >= line.recorded.position => row,
            row => {
                touched.insert(key);
                V::fold(row, line)?
            }
        };
        rows.insert(key.clone(), row);
    }
    rows.retain(|key, _| touched.contains(key));
    let rows: Vec<V::Row> = rows.into_values().collect();
    if !rows.is_empty() {
        V::write(conn, generation, &rows).await?;
    }
    Ok(())
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
