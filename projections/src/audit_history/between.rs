//! When the lines of a part of the book happened.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgPool;

use super::{AuditHistory, SPAN_MINUTES};
use crate::{projection::Generation, view::table};

/// Of so many lines the times are looked at one by one; of more, their spans of time.
const FEW: i64 = 10_000;

/// The first and the last time of the lines after one and up to another; of many lines to within some
/// minutes. Nothing where there are none.
pub async fn times_between(
    pool: &PgPool,
    after: i64,
    last: i64,
) -> Result<Option<(DateTime<Utc>, DateTime<Utc>)>, sqlx::Error> {
    let few = last.saturating_sub(after) <= FEW;
    let query = if few {
        let name = table::<AuditHistory>("audit_history", Generation::Live);
        format!("SELECT min(at), max(at) FROM {name} WHERE position > $1 AND position <= $2")
    } else {
        let name = table::<AuditHistory>("audit_history_times", Generation::Live);
        format!(
            "SELECT min(span), max(span) FROM {name} WHERE last_position > $1 AND first_position <= $2"
        )
    };
    let (first, last): (Option<DateTime<Utc>>, Option<DateTime<Utc>>) =
        sqlx::query_as(&query).bind(after).bind(last).fetch_one(pool).await?;
    let width = TimeDelta::minutes(if few { 0 } else { SPAN_MINUTES });
    Ok(first.zip(last.map(|last| last.checked_add_signed(width).unwrap_or(last))))
}
