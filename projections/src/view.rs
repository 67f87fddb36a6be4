//! The usual kind of projection: rows with a key, each folded from the lines that concern it.

use std::{
    collections::{HashMap, hash_map::Entry as Slot_},
    hash::Hash,
};

use domain::{SessionId, UserId};
use futures_util::future::BoxFuture;
use proof::EventAuthenticator;
use sha2::{Digest, Sha256};
use sqlx::{
    Encode, PgConnection, Postgres, Type,
    postgres::{PgHasArrayType, PgRow},
};
use uuid::Uuid;

use crate::{
    copy::{Fields, copy_in},
    journal::RecordedEvent,
    projection::{
        ApplyError, CannotApply, Entry, Fingerprint, Folding, Generation, Line, Projection, Start,
        Table,
    },
};

/// The key of a row, as a column has it.
pub trait Key: Clone + Eq + Hash + Send + Sync + 'static {
    type Sql: for<'q> Encode<'q, Postgres> + Type<Postgres> + PgHasArrayType + Send + Sync + 'static;

    fn sql(&self) -> Self::Sql;
}

impl Key for UserId {
    type Sql = Uuid;

    fn sql(&self) -> Uuid {
        self.0
    }
}

impl Key for SessionId {
    type Sql = Uuid;

    fn sql(&self) -> Uuid {
        self.0
    }
}

impl Key for i64 {
    type Sql = Self;

    fn sql(&self) -> Self {
        *self
    }
}

/// A projection of rows with a key, each folded from the lines that concern it.
///
/// The fold is pure. Around it, the rows that are needed are read, and written once each.
pub trait View: Sized + Send + Sync + 'static {
    const NAME: &'static str;
    const VERSION: i32;
    /// The first holds the rows. What others hold, [`View::also_write`] writes.
    const TABLES: &'static [Table];

    type Key: Key;
    type Row: Send + Sync + 'static;

    /// Whether it is folded from streams of this type. The events of others are passed by, readable or
    /// not.
    fn concerns(aggregate_type: &str) -> bool;

    /// Which row a line concerns.
    fn key(line: &Line<'_>) -> Result<Self::Key, CannotApply>;

    /// Whether no line before this one can concern the same row: it need not be looked for.
    fn begins(_line: &Line<'_>) -> bool {
        false
    }

    /// The row after a line.
    fn fold(row: Option<Self::Row>, line: &Line<'_>) -> Result<Self::Row, CannotApply>;

    /// The row that an event has which the service did not write. Most have none: it has no effect.
    fn row_of_not_authentic(_recorded: &RecordedEvent) -> Option<Self::Row> {
        None
    }

    fn key_of(row: &Self::Row) -> Self::Key;

    /// The last line that was folded into a row: it is not folded in again.
    fn position(row: &Self::Row) -> i64;

    /// A row as stored.
    fn read(row: &PgRow) -> Result<Self::Row, sqlx::Error>;

    /// The values of a row, one for each column, in the order of the columns.
    fn write(row: &Self::Row, fields: &mut Fields);

    /// The values that [`View::also_write`] gives the other tables of a row: the fingerprint covers
    /// them.
    fn also(_row: &Self::Row, _fields: &mut Fields) {}

    /// Writes what the other tables hold of these rows, after them.
    fn also_write(
        _conn: &mut PgConnection,
        _generation: Generation,
        _rows: &[&Self::Row],
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send {
        std::future::ready(Ok(()))
    }
}

/// The full name of a table of a view.
#[must_use]
pub fn table<V: View>(name: &str, generation: Generation) -> String {
    format!("ledger.{name}_v{}{}", V::VERSION, generation.suffix())
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

    fn concerns(&self, aggregate_type: &str) -> bool {
        V::concerns(aggregate_type)
    }

    fn folding(&self, generation: Generation, start: Start) -> Box<dyn Folding> {
        Box::new(Rows::<V> { generation, start, rows: HashMap::new(), unwritten: Vec::new() })
    }

    fn fingerprint(&self) -> Fingerprint {
        fingerprint::<V>()
    }
}

/// The rows that were touched and not yet written.
struct Rows<V: View> {
    generation: Generation,
    start: Start,
    rows: HashMap<V::Key, Kept<V::Row>>,
    /// What is being written, the last first: keys, rows, and whether there is one in the table.
    unwritten: Vec<(V::Key, V::Row, bool)>,
}

struct Kept<R> {
    /// `None` only while it is folded.
    row: Option<R>,
    /// There is a row of this key in the table.
    stored: bool,
    /// It differs from the one in the table.
    changed: bool,
}

impl<V: View> Rows<V> {
    /// The table that holds the rows, and its key.
    fn table(&self) -> (String, &'static str) {
        V::TABLES.first().map_or_else(Default::default, |own| {
            (format!("ledger.{}", own.relation(V::VERSION, self.generation)), own.key)
        })
    }

    async fn absorb(
        &mut self,
        conn: &mut PgConnection,
        entries: &[Entry],
    ) -> Result<(), ApplyError> {
        let mut lines = Vec::with_capacity(entries.len());
        let mut unknown = Vec::new();
        let mut not_authentic = Vec::new();
        for entry in entries {
            if !V::concerns(&entry.recorded.aggregate_type) {
                continue;
            }
            let Some(line) = entry.line()? else {
                let Some(row) = V::row_of_not_authentic(&entry.recorded) else { continue };
                let key = V::key_of(&row);
                if self.start == Start::Careful {
                    unknown.push(key.sql());
                }
                let vacant = Kept { row: None, stored: false, changed: false };
                self.rows.entry(key.clone()).or_insert(vacant);
                not_authentic.push((key, row));
                continue;
            };
            let key = V::key(&line)?;
            if let Slot_::Vacant(vacant) = self.rows.entry(key.clone()) {
                if self.start == Start::Careful || !V::begins(&line) {
                    unknown.push(key.sql());
                }
                vacant.insert(Kept { row: None, stored: false, changed: false });
            }
            lines.push((key, line));
        }
        if !unknown.is_empty() {
            self.load(conn, unknown).await?;
        }
        for (key, row) in not_authentic {
            let Some(kept) = self.rows.get_mut(&key) else { continue };
            if kept.row.is_none() {
                *kept = Kept { row: Some(row), changed: true, stored: kept.stored };
            }
        }
        for (key, line) in lines {
            let Some(kept) = self.rows.get_mut(&key) else { continue };
            let row = kept.row.take();
            kept.row = Some(match row {
                Some(row) if V::position(&row) >= line.recorded.position => row,
                row => {
                    kept.changed = true;
                    V::fold(row, &line)?
                }
            });
        }
        Ok(())
    }

    async fn load(
        &mut self,
        conn: &mut PgConnection,
        keys: Vec<<V::Key as Key>::Sql>,
    ) -> Result<(), sqlx::Error> {
        let (table, key) = self.table();
        let rows = sqlx::query(&format!("SELECT * FROM {table} WHERE {key} = ANY($1)"))
            .bind(keys)
            .fetch_all(conn)
            .await?;
        for row in &rows {
            let row = V::read(row)?;
            let kept = Kept { stored: true, changed: false, row: None };
            self.rows.insert(V::key_of(&row), Kept { row: Some(row), ..kept });
        }
        Ok(())
    }

    async fn write(&mut self, conn: &mut PgConnection, limit: usize) -> Result<bool, sqlx::Error> {
        if self.unwritten.is_empty() {
            let kept = self.rows.drain().filter(|(_, kept)| kept.changed);
            self.unwritten =
                kept.filter_map(|(key, kept)| Some((key, kept.row?, kept.stored))).collect();
            // Rows that came to be together lie together.
            self.unwritten.sort_unstable_by_key(|(_, row, _)| std::cmp::Reverse(V::position(row)));
        }
        let mut rows = self.unwritten.split_off(self.unwritten.len().saturating_sub(limit));
        rows.reverse();
        if !rows.is_empty() {
            let (table, key) = self.table();
            let stored: Vec<_> =
                rows.iter().filter(|(.., stored)| *stored).map(|(key, ..)| key.sql()).collect();
            if !stored.is_empty() {
                sqlx::query(&format!("DELETE FROM {table} WHERE {key} = ANY($1)"))
                    .bind(stored)
                    .execute(&mut *conn)
                    .await?;
            }
            let rows: Vec<&V::Row> = rows.iter().map(|(_, row, _)| row).collect();
            copy_in(&mut *conn, &table, rows.iter().copied(), |row, fields| V::write(row, fields))
                .await?;
            V::also_write(conn, self.generation, &rows).await?;
        }
        Ok(!self.unwritten.is_empty())
    }
}

impl<V: View> Folding for Rows<V> {
    fn absorb<'a>(
        &'a mut self,
        conn: &'a mut PgConnection,
        entries: &'a [Entry],
    ) -> BoxFuture<'a, Result<(), ApplyError>> {
        Box::pin(self.absorb(conn, entries))
    }

    fn kept(&self) -> usize {
        self.rows.len()
    }

    fn write<'a>(
        &'a mut self,
        conn: &'a mut PgConnection,
        limit: usize,
    ) -> BoxFuture<'a, Result<bool, sqlx::Error>> {
        Box::pin(self.write(conn, limit))
    }
}

/// What follows the name of a line, where it is told what other tables are given.
pub(crate) const OTHER_TABLES: &str = " (other tables)";

/// Folds the sample book, and hashes what each line makes of its row.
fn fingerprint<V: View>() -> Fingerprint {
    let bytes_of = |line: &Line<'_>, write: &dyn Fn(&mut Fields)| {
        Fields::of(write).map_err(|cause| line.cannot_apply(cause.to_string()))
    };
    let mut rows: HashMap<V::Key, V::Row> = HashMap::new();
    let mut fingerprint = Fingerprint::new();
    // The samples are older than the codes.
    let all_are_older = EventAuthenticator::new(&[0; 32], i64::MAX);
    for recorded in RecordedEvent::samples() {
        let entry = Entry::new(recorded, &all_are_older);
        let recorded = &entry.recorded;
        if !V::concerns(&recorded.aggregate_type) {
            continue;
        }
        let after = entry
            .line()
            .and_then(|line| {
                let line = line.ok_or_else(|| CannotApply::new(recorded, "it is not authentic"))?;
                let key = V::key(&line)?;
                let row = V::fold(rows.remove(&key), &line)?;
                let own = bytes_of(&line, &|fields| V::write(&row, fields))?;
                let also = bytes_of(&line, &|fields| V::also(&row, fields))?;
                rows.insert(key, row);
                Ok((own, also))
            })
            .unwrap_or_else(|cause| (cause.to_string().into_bytes(), Vec::new()));
        let line = line_name(recorded);
        let (own, also) = after;
        // A line of its own: what was stored before this was covered stays comparable.
        if !also.is_empty() {
            let hash = short(Sha256::new_with_prefix(also));
            fingerprint.insert(format!("{line}{OTHER_TABLES}"), hash);
        }
        fingerprint.insert(line, short(Sha256::new_with_prefix(own)));
    }
    fingerprint.insert("tables".to_owned(), tables_hash(V::TABLES));
    fingerprint
}

/// How a line of the sample book is named in a fingerprint.
pub(crate) fn line_name(recorded: &RecordedEvent) -> String {
    let RecordedEvent { position, event_type, event_version, .. } = recorded;
    format!("{position:03} {event_type} {event_version}")
}

/// What a fingerprint says of the tables.
pub(crate) fn tables_hash(tables: &[Table]) -> String {
    let mut hash = Sha256::new();
    for table in tables {
        let indexes = table.indexes.iter().flat_map(|index| [index.name, index.on]);
        for part in [table.name, table.columns, table.key].into_iter().chain(indexes) {
            hash.update(part.split_whitespace().collect::<Vec<_>>().join(" "));
            hash.update([0]);
        }
    }
    short(hash)
}

/// The beginning of a hash, in hexadecimal digits.
pub(crate) fn short(hash: Sha256) -> String {
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
