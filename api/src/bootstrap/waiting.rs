//! Events that have no place in the journal yet.

use std::time::Duration;

use projections::{ControlRow, Horizon};
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

/// An event that has waited so long is an alarm, where no open transaction is to blame.
const TOO_LONG: f64 = 60.0;
/// A transaction is to blame that was there before the event, give or take so much.
const SLACK: f64 = 5.0;

/// How the order of the events stands.
#[derive(Clone, Debug)]
pub struct Order {
    pub control: ControlRow,
    pub waiting: Waiting,
    pub horizon: Horizon,
}

impl Order {
    pub async fn read(pool: &PgPool) -> Result<Self, sqlx::Error> {
        Ok(Self {
            control: ControlRow::read(&mut *pool.acquire().await?).await?,
            waiting: Waiting::read(pool).await?,
            horizon: Horizon::read(pool).await?,
        })
    }

    /// What keeps new events from their positions for longer than it ever should. It names nobody.
    pub fn alarm(&self) -> Option<String> {
        if let Err(error) = self.control.fits() {
            return Some(error.to_string());
        }
        let Waiting { count, seconds } = self.waiting;
        let blamed = self.horizon.holder.is_some()
            && self.horizon.age + Duration::from_secs_f64(SLACK)
                >= Duration::from_secs_f64(seconds.max(0.0));
        (seconds > TOO_LONG && !blamed).then(|| {
            format!(
                "{count} events wait for their position, the first for {seconds:.0} s, and no open transaction holds them back: \
                 no server settles them. The log of the servers says why"
            )
        })
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

#[cfg(test)]
mod tests {
    use projections::Holder;

    use super::*;

    fn order(control: ControlRow, seconds: f64, held_for: Option<u64>) -> Order {
        let holder = held_for.map(|_| Holder {
            pid: Some(1),
            prepared: None,
            application_name: None,
            user: None,
            database: None,
            state: None,
            started_at: None,
        });
        let age = Duration::from_secs(held_for.unwrap_or_default());
        Order { control, waiting: Waiting { count: 3, seconds }, horizon: Horizon { age, holder } }
    }

    #[test]
    fn an_event_that_waits_without_a_transaction_to_blame_is_an_alarm() {
        let alarms =
            |seconds, held_for| order(ControlRow::Fits, seconds, held_for).alarm().is_some();
        assert!(!alarms(0.0, None));
        assert!(!alarms(59.0, None));
        assert!(alarms(61.0, None));
        // Whoever began before the event holds it back; whoever began after it does not.
        assert!(!alarms(61.0, Some(61)));
        assert!(!alarms(300.0, Some(4_000)));
        assert!(alarms(300.0, Some(10)));
        for wrong in [ControlRow::ForeignCluster, ControlRow::Restored, ControlRow::Displaced] {
            let told = order(wrong, 0.0, None).alarm().unwrap();
            assert!(told.contains("entrybook migrate"), "{told}");
        }
    }
}
