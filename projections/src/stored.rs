//! How values of the domain stand in columns.

use sqlx::{Row, postgres::PgRow};

/// A count as a bigint. None comes near the bound.
pub(crate) fn bigint(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// A bigint column that holds a count.
pub(crate) fn count(row: &PgRow, column: &str) -> Result<u64, sqlx::Error> {
    let value: i64 = row.try_get(column)?;
    u64::try_from(value).map_err(|cause| unreadable(column, cause))
}

/// A column holds what this binary can't read.
pub(crate) fn unreadable(
    column: &str,
    cause: impl std::error::Error + Send + Sync + 'static,
) -> sqlx::Error {
    sqlx::Error::ColumnDecode { index: column.to_owned(), source: Box::new(cause) }
}
