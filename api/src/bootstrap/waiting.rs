//! Events that have no place in the journal yet.

use projections::Horizon;
use sqlx::PgPool;

/// More are not counted.
const MOST: i64 = 10_000;

/// Those that wait, of `events e`: between where the journal ends and where no transaction has begun yet.
/// With the ends in subqueries, and not in a join, they are found along the index.
const WAITING: &str =
    "(e.tx, e.id) > ((SELECT tx FROM sequencer), (SELECT event_id FROM sequencer))
     AND e.tx < (SELECT pg_snapshot_xmax(pg_current_snapshot()))
     AND e.id > (SELECT settled_event_id FROM sequencer)";

/// Events that wait for their place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Waiting {
    pub count: i64,
    /// For how long the first of them has waited.
    pub seconds: f64,
}

impl Waiting {
    pub async fn read(pool: &PgPool) -> Result<Self, sqlx::Error> {
        let (count, seconds) = sqlx::query_as::<_, (i64, Option<f64>)>(&format!(
            "SELECT count(*), extract(epoch FROM clock_timestamp() - min(recorded_at))::float8
               FROM (SELECT e.recorded_at FROM events e
                      WHERE {WAITING} ORDER BY e.tx, e.id LIMIT $1) AS waiting"
        ))
        .bind(MOST)
        .fetch_one(pool)
        .await?;
        Ok(Self { count, seconds: seconds.unwrap_or_default() })
    }
}

/// The last of the events that wait for their place, by its transaction and its id.
pub(super) async fn newest(pool: &PgPool) -> Result<Option<(u64, i64)>, sqlx::Error> {
    let newest: Option<(String, i64)> = sqlx::query_as(&format!(
        "SELECT e.tx::text, e.id FROM events e
          WHERE {WAITING} ORDER BY e.tx DESC, e.id DESC LIMIT 1"
    ))
    .fetch_optional(pool)
    .await?;
    let Some((tx, id)) = newest else { return Ok(None) };
    let tx = tx.parse().map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
    Ok(Some((tx, id)))
}

/// Says it where a list will not show the newest, and why: a transaction somewhere in the cluster is still open.
pub(super) async fn warn_of_missing(pool: &PgPool) -> Result<(), sqlx::Error> {
    let Waiting { count, .. } = Waiting::read(pool).await?;
    if count > 0 {
        let holder = Horizon::read(pool).await?.holder;
        let why = holder
            .map_or_else(|| "a transaction was still open".to_owned(), |holder| holder.to_string());
        tracing::warn!(count, "the newest events ({count}) are not shown yet: {why}");
    }
    Ok(())
}
