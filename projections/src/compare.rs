//! Live and new tables, compared: by counts and an order-independent hash, and where these differ, row
//! by row. Of the indexes only this: that the live tables have them all.

use std::fmt;

use serde::Serialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use sqlx::{PgConnection, Row, types::Json};

use crate::{
    projection::{Fingerprint, Generation, Projection, Table},
    rebuild::RebuildError,
    tables::oid_of,
    transparency,
};

/// How many differing rows are shown.
const SHOWN: i64 = 10;
/// How many columns are named that a table has beside its own.
const NAMED: usize = 10;

/// What a comparison found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verified {
    pub projection: &'static str,
    pub version: i32,
    /// The line at which both were compared.
    pub position: i64,
    pub tables: Vec<TableDifference>,
    /// Whether the live tables were made by the fold of this binary.
    pub fold: FoldState,
}

impl Verified {
    #[must_use]
    pub fn is_equal(&self) -> bool {
        self.tables.iter().all(TableDifference::is_equal)
    }

    /// Whether the live tables are those of this version, whatever is in them.
    #[must_use]
    pub fn is_comparable(&self) -> bool {
        self.tables.iter().all(|table| table.unreadable.is_none())
    }

    /// What was found, in sentences, and the first rows that differ.
    pub(crate) fn with_rows(&self) -> String {
        let mut text = self.to_string();
        text += &self.rows();
        text
    }

    /// What was found, and the first rows that differ, where it has been mended since.
    pub(crate) fn mended(&self) -> String {
        let found = self.found();
        format!("Swapped in, although {}{}", found.trim_end_matches(". "), self.rows())
    }

    fn rows(&self) -> String {
        let side = |columns: &Option<Vec<(String, String)>>| match columns {
            None => "no row".to_owned(),
            Some(columns) => columns
                .iter()
                .map(|(column, value)| format!("{column} = {value}"))
                .collect::<Vec<_>>()
                .join(", "),
        };
        let mut text = String::new();
        for table in &self.tables {
            for row in table.first.iter().take(3) {
                let (key, live, new) = (&row.key, side(&row.live), side(&row.new));
                text += &format!(". {} {key}: live has {live}; the book gives {new}", table.table);
            }
        }
        text
    }

    /// What was found, and not what to do.
    fn found(&self) -> String {
        let Self { projection, position, .. } = self;
        let mut text =
            format!("{projection} differs from the fold of the book up to line {position}: ");
        for table in self.tables.iter().filter(|table| !table.is_equal()) {
            text += &match &table.unreadable {
                Some(why) => format!("{} can't be compared, because {why}. ", table.table),
                None => table.found(),
            };
        }
        text
    }
}

impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { projection, position, .. } = self;
        if self.is_equal() {
            return write!(f, "{projection} equals the fold of the book up to line {position}");
        }
        f.write_str(&self.found())?;
        match &self.fold {
            FoldState::Unknown if !self.is_comparable() => f.write_str(
                "So somebody has changed it; a rebuild with repair mends it, unless the book is not the \
                 one that was signed",
            ),
            FoldState::Same if self.projection == transparency::NAME => f.write_str(
                "Either the tree was damaged, or lines of the book were changed after they were \
                 hashed: `entrybook audit verify` tells which. A rebuild with repair hashes the book \
                 as it is now, and is refused where that is not what was signed",
            ),
            FoldState::Same => f.write_str(
                "The fold is the one that made the table, so the table was damaged, or lines of the book \
                 were changed since: `entrybook audit verify` tells which. A rebuild with repair mends \
                 the table, and is refused where the book is not what was signed",
            ),
            FoldState::Changed { events } => write!(
                f,
                "The fold has changed without a new version since the table was made (at {}); a \
                 rebuild with repair makes the table anew",
                events.join(", ")
            ),
            FoldState::Unknown => f.write_str(
                "Whether the table was damaged or the fold has changed can't be told; a rebuild \
                 with repair makes the table anew",
            ),
        }
    }
}

/// How one table differs from the fold of the book.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TableDifference {
    pub table: &'static str,
    /// Why the live table can't be compared, where it is not the table of this version any more. Then
    /// nothing is known of its rows.
    pub unreadable: Option<String>,
    /// Indexes of the live table that are missing or not valid. The key's is one of them.
    pub indexes: Vec<String>,
    /// Whether both have as many rows, and one hash. What follows says how they differ.
    pub same_rows: bool,
    pub rows_live: i64,
    pub rows_new: i64,
    /// Rows of the fold that the live table lacks.
    pub missing: i64,
    /// Rows of the live table that the fold lacks.
    pub surplus: i64,
    /// Rows that both have, with other values.
    pub changed: i64,
    /// Rows of the live table with a key that another row of it has already.
    pub repeated: i64,
    /// The first of all these, by their keys.
    pub first: Vec<RowDifference>,
}

impl TableDifference {
    #[must_use]
    pub fn is_equal(&self) -> bool {
        self.unreadable.is_none() && self.indexes.is_empty() && self.same_rows
    }

    /// What differs, in sentences.
    fn found(&self) -> String {
        let Self { table, missing, surplus, changed, repeated, .. } = self;
        let mut text = String::new();
        if !self.indexes.is_empty() {
            text += &format!("{table} has no valid index {}. ", self.indexes.join(", "));
        }
        if missing + surplus + changed > 0 {
            text += &format!(
                "{table} lacks {missing} rows, has {surplus} too many and {changed} with other \
                 values. "
            );
        }
        if *repeated > 0 {
            text += &format!("{table} has {repeated} rows once more under the same key. ");
        }
        if !self.same_rows && missing + surplus + changed + repeated == 0 {
            text += &format!(
                "{table} has {} rows and the book gives {}, or their hashes differ, though no row \
                 does. ",
                self.rows_live, self.rows_new
            );
        }
        text
    }
}

/// One key, and the rows that live and new have for it; the columns that differ, where both have one.
/// Sealed values and keyed hashes are masked: told apart, and not told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RowDifference {
    pub key: String,
    pub live: Option<Vec<(String, String)>>,
    pub new: Option<Vec<(String, String)>>,
}

/// Whether the live tables were made by the same fold, as far as the sample book tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum FoldState {
    /// Then a difference is damage.
    Same,
    /// Then a difference comes from a program that changed without a new version.
    Changed { events: Vec<String> },
    /// The tables were made before this was noted.
    Unknown,
}

impl FoldState {
    fn of(stored: Option<Fingerprint>, ours: &Fingerprint) -> Self {
        let Some(stored) = stored else { return Self::Unknown };
        // A line that only one of the two programs knows is no change of a fold.
        let mut events: Vec<String> = ours
            .iter()
            .filter(|(line, hash)| stored.get(*line).is_some_and(|known| known != *hash))
            .map(|(line, _)| line.split_once(' ').map_or(line.as_str(), |(_, event)| event))
            .map(str::to_owned)
            .collect();
        events.sort_unstable();
        events.dedup();
        if events.is_empty() { Self::Same } else { Self::Changed { events } }
    }
}

/// What the fold was by which the live tables were made, if that was noted.
pub(crate) async fn stored_fold(
    conn: &mut PgConnection,
    projection: &dyn Projection,
) -> Result<Option<Fingerprint>, sqlx::Error> {
    let stored: Option<Json<Fingerprint>> =
        sqlx::query_scalar("SELECT fold FROM projections WHERE name = $1 AND version = $2")
            .bind(projection.name())
            .bind(projection.version())
            .fetch_one(conn)
            .await?;
    Ok(stored.map(|Json(fold)| fold))
}

/// Compares the live tables of a projection with the new ones, in the snapshot of the connection.
pub(crate) async fn compare(
    conn: &mut PgConnection,
    projection: &'static dyn Projection,
    position: i64,
    stored: Option<Fingerprint>,
) -> Result<Verified, RebuildError> {
    let mut tables = Vec::with_capacity(projection.tables().len());
    for table in projection.tables() {
        tables.push(compare_table(conn, table, projection.version()).await?);
    }
    Ok(Verified {
        projection: projection.name(),
        version: projection.version(),
        position,
        tables,
        fold: FoldState::of(stored, &projection.fingerprint()),
    })
}

async fn compare_table(
    conn: &mut PgConnection,
    table: &Table,
    version: i32,
) -> Result<TableDifference, RebuildError> {
    let live = table.relation(version, Generation::Live);
    let new = table.relation(version, Generation::New);
    let unreadable = unlike(columns(conn, &live).await?, columns(conn, &new).await?);
    let (rows_new, hash_new) = digest(conn, &new).await?;
    let mut difference = TableDifference {
        table: table.name,
        unreadable,
        indexes: Vec::new(),
        same_rows: false,
        rows_live: 0,
        rows_new,
        missing: 0,
        surplus: 0,
        changed: 0,
        repeated: 0,
        first: Vec::new(),
    };
    if difference.unreadable.is_some() {
        return Ok(difference);
    }
    difference.indexes = lacking(conn, table, &live).await?;
    let (rows_live, hash_live) = digest(conn, &live).await?;
    difference.rows_live = rows_live;
    difference.same_rows = (rows_live, hash_live) == (rows_new, hash_new);
    if difference.same_rows {
        return Ok(difference);
    }
    let key = table.key;
    // A row has a tableoid, also where its key is NULL: the live table may have lost its constraints.
    let differing = format!(
        "ledger.{live} AS live FULL JOIN ledger.{new} AS new ON live.{key} = new.{key}
          WHERE live.tableoid IS NULL OR new.tableoid IS NULL
             OR ROW(live.*) IS DISTINCT FROM ROW(new.*)"
    );
    let counts = sqlx::query(&format!(
        "SELECT count(*) FILTER (WHERE live.tableoid IS NULL) AS missing,
                count(*) FILTER (WHERE new.tableoid IS NULL) AS surplus, count(*) AS differing,
                (SELECT count({key}) - count(DISTINCT {key}) FROM ledger.{live}) AS repeated
           FROM {differing}"
    ))
    .persistent(false)
    .fetch_one(&mut *conn)
    .await?;
    difference.missing = counts.try_get("missing")?;
    difference.surplus = counts.try_get("surplus")?;
    difference.changed =
        counts.try_get::<i64, _>("differing")? - difference.missing - difference.surplus;
    difference.repeated = counts.try_get("repeated")?;
    let rows = sqlx::query(&format!(
        "SELECT coalesce(live.{key}::text, new.{key}::text, 'null') AS key,
                CASE WHEN live.tableoid IS NOT NULL THEN to_jsonb(live) END AS live,
                CASE WHEN new.tableoid IS NOT NULL THEN to_jsonb(new) END AS new
           FROM {differing} ORDER BY coalesce(live.{key}, new.{key}) LIMIT {SHOWN}"
    ))
    .persistent(false)
    .fetch_all(&mut *conn)
    .await?;
    for row in rows {
        let side = |name: &str| {
            row.try_get::<Option<Json<Map<String, Value>>>, _>(name)
                .map(|side| side.map(|Json(columns)| columns))
        };
        let (live, new) = (side("live")?, side("new")?);
        let shown = |one: &Map<String, Value>, other: &Option<Map<String, Value>>| {
            one.iter()
                .filter(|(column, value)| {
                    other.as_ref().is_none_or(|other| other.get(*column) != Some(value))
                })
                .map(|(column, value)| (column.clone(), show(table, column, value)))
                .collect()
        };
        difference.first.push(RowDifference {
            key: row.try_get("key")?,
            live: live.as_ref().map(|columns| shown(columns, &new)),
            new: new.as_ref().map(|columns| shown(columns, &live)),
        });
    }
    Ok(difference)
}

/// The columns of a table and their types, in their order; nothing where there is no such table.
type Columns = Option<Vec<(String, String)>>;

/// As the catalogue has them. So a table that can't be read is told from a database that fails, a
/// lock that is waited for in vain, and a right that is missing: these are errors, and stay so.
async fn columns(conn: &mut PgConnection, relation: &str) -> Result<Columns, sqlx::Error> {
    let Some(oid) = oid_of(conn, relation).await? else { return Ok(None) };
    sqlx::query_as(
        "SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute
          WHERE attrelid = $1::bigint::oid AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
    )
    .bind(oid)
    .fetch_all(conn)
    .await
    .map(Some)
}

/// The indexes that the live table should have, and has not, or not whole.
async fn lacking(
    conn: &mut PgConnection,
    table: &Table,
    live: &str,
) -> Result<Vec<String>, sqlx::Error> {
    let key = format!("{live}_pkey");
    let mut needed: Vec<_> =
        table.indexes.iter().map(|index| format!("{live}_{}", index.name)).collect();
    needed.push(key.clone());
    sqlx::query_scalar(
        "SELECT needed.name FROM unnest($1::text[]) WITH ORDINALITY AS needed (name, place)
          WHERE NOT EXISTS (SELECT FROM pg_index
                             WHERE indexrelid = to_regclass('ledger.' || needed.name)
                               AND indrelid = to_regclass('ledger.' || $2::text)
                               AND indisvalid AND indisprimary = (needed.name = $3))
          ORDER BY place",
    )
    .bind(needed)
    .bind(live)
    .bind(key)
    .fetch_all(conn)
    .await
}

/// Why rows of the live table can't be held against those of the new one, if they can't.
fn unlike(live: Columns, new: Columns) -> Option<String> {
    let Some(live) = live else { return Some("the table is not there".to_owned()) };
    let new = new.unwrap_or_default();
    if live == new {
        return None;
    }
    let has = |columns: &[(String, String)], name: &str| {
        columns.iter().find(|(known, _)| known == name).map(|(_, its_type)| its_type.clone())
    };
    let mut why = Vec::new();
    for (name, its_type) in &new {
        match has(&live, name) {
            None => why.push(format!("column {name} is missing")),
            Some(other) if other != *its_type => {
                why.push(format!("column {name} is {other} instead of {its_type}"));
            }
            Some(_) => {}
        }
    }
    let foreign: Vec<_> = live.iter().filter(|(name, _)| has(&new, name).is_none()).collect();
    for (name, _) in foreign.iter().take(NAMED) {
        why.push(format!("column {name} is none of its own"));
    }
    if foreign.len() > NAMED {
        why.push(format!("nor are {} more", foreign.len() - NAMED));
    }
    if why.is_empty() {
        why.push("its columns are in another order".to_owned());
    }
    Some(why.join(", "))
}

/// The number of rows, and a hash of them in whatever order.
async fn digest(conn: &mut PgConnection, relation: &str) -> Result<(i64, String), sqlx::Error> {
    sqlx::query_as(&format!(
        "SELECT count(*), coalesce(sum(hash_record_extended(t, 0)::numeric), 0)::text
           FROM ledger.{relation} AS t"
    ))
    .persistent(false)
    .fetch_one(conn)
    .await
}

fn show(table: &Table, column: &str, value: &Value) -> String {
    let text = match value {
        Value::Null => return "null".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    if !table.masked.contains(&column) {
        return text;
    }
    let hash = Sha256::digest(text.as_bytes());
    let short: String = hash.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    format!("(masked {short})")
}
