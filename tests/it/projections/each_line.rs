//! A view with a row for each line of the book, for what a test does to it.

use std::marker::PhantomData;

use ::projections::{CannotApply, Fields, Generation, Index, Line, Table, View};
use sqlx::{PgConnection, Row, postgres::PgRow};

/// What a test does to such a view.
pub trait Quirk: Send + Sync + 'static {
    const NAME: &'static str;
    const INDEXES: &'static [Index] = &[];

    /// Comes to a line: it may refuse it.
    fn meet(_line: &Line<'_>) -> Result<(), CannotApply> {
        Ok(())
    }

    /// Writes these lines, in the transaction that does so.
    fn write(
        _conn: &mut PgConnection,
        _generation: Generation,
        _lines: &[&i64],
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send {
        std::future::ready(Ok(()))
    }
}

/// Its table is `ledger.<name>_v1`.
pub struct EachLine<Q>(PhantomData<Q>);

impl<Q> EachLine<Q> {
    pub const VIEW: Self = Self(PhantomData);
}

impl<Q: Quirk> View for EachLine<Q> {
    const NAME: &'static str = Q::NAME;
    const VERSION: i32 = 1;
    const TABLES: &'static [Table] = &[Table {
        name: Q::NAME,
        columns: "position bigint NOT NULL",
        key: "position",
        masked: &[],
        indexes: Q::INDEXES,
    }];
    type Key = i64;
    type Row = i64;

    fn concerns(_aggregate_type: &str) -> bool {
        true
    }

    fn key(line: &Line<'_>) -> Result<i64, CannotApply> {
        Ok(line.recorded.position)
    }

    fn begins(_line: &Line<'_>) -> bool {
        true
    }

    fn fold(_row: Option<i64>, line: &Line<'_>) -> Result<i64, CannotApply> {
        Q::meet(line)?;
        Ok(line.recorded.position)
    }

    fn key_of(row: &i64) -> i64 {
        *row
    }

    fn position(row: &i64) -> i64 {
        *row
    }

    fn read(row: &PgRow) -> Result<i64, sqlx::Error> {
        row.try_get("position")
    }

    fn write(row: &i64, fields: &mut Fields) {
        fields.put(*row);
    }

    async fn also_write(
        conn: &mut PgConnection,
        generation: Generation,
        rows: &[&i64],
    ) -> Result<(), sqlx::Error> {
        Q::write(conn, generation, rows).await
    }
}

/// Whether nobody else is writing such a view: whoever does holds this until its transaction ends.
pub async fn is_alone<Q: Quirk>(conn: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT pg_try_advisory_xact_lock(7301, hashtext($1))")
        .bind(Q::NAME)
        .fetch_one(conn)
        .await
}
