//! Whether the keys that there are, and those that are gone, are what the book says.
//!
//! A person's key is there from `UserRegistered` to `UserErased`. A month's is made by whatever it seals first, and destroyed
//! with `MonthForgotten`; so one that is gone without the event is found by what refers to it. A month in which nothing
//! was sealed has no key, and that is no fault.

use std::collections::BTreeSet;

use sqlx::PgPool;

/// So many of each kind are named.
const NAMED: i64 = 20;

/// A key that is not as the book says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyFault {
    /// No event destroys it, and it is gone: what it sealed can't be read by anybody.
    Missing(String),
    /// An event destroys it, and it is there again: what it sealed can be read.
    Returned(String),
}

/// What is wrong with the keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyFaults {
    /// The first of them.
    pub first: Vec<KeyFault>,
    pub in_all: u64,
}

/// Holds `sealing_keys` against the events, both ways.
pub async fn key_faults(pool: &PgPool) -> Result<KeyFaults, sqlx::Error> {
    let mut faults = KeyFaults::default();
    let returned: Vec<(String, i64)> = sqlx::query_as(
        "SELECT k.id, count(*) OVER () FROM sealing_keys AS k
          WHERE (starts_with(k.id, 'p:') AND EXISTS (SELECT FROM events AS e
                  WHERE e.aggregate_type = 'User' AND e.aggregate_id = substr(k.id, 3) AND e.event_type = 'UserErased'))
             OR (starts_with(k.id, 'm:') AND EXISTS (SELECT FROM events AS e
                  WHERE e.aggregate_type = 'Service' AND e.aggregate_id = 'month:' || substr(k.id, 3)
                    AND e.event_type = 'MonthForgotten'))
          ORDER BY k.id LIMIT $1",
    )
    .bind(NAMED)
    .fetch_all(pool)
    .await?;
    faults.take(returned, KeyFault::Returned);
    let missing: Vec<(String, i64)> = sqlx::query_as(
        "SELECT 'p:' || r.aggregate_id, count(*) OVER () FROM events AS r
          WHERE r.aggregate_type = 'User' AND r.sequence = 1 AND r.event_type = 'UserRegistered'
            AND NOT EXISTS (SELECT FROM sealing_keys AS k WHERE k.id = 'p:' || r.aggregate_id)
            AND NOT EXISTS (SELECT FROM events AS e
                             WHERE e.aggregate_type = 'User' AND e.aggregate_id = r.aggregate_id AND e.event_type = 'UserErased')
          ORDER BY 1 LIMIT $1",
    )
    .bind(NAMED)
    .fetch_all(pool)
    .await?;
    faults.take(missing, KeyFault::Missing);
    let months = months_without_key(pool).await?;
    if !months.is_empty() {
        // Reads every event, and is asked only where a month has neither a key nor the event.
        let referred: Vec<String> = sqlx::query_scalar(
            "SELECT DISTINCT found[1] FROM events,
                    regexp_matches(payload::text || metadata::text, 's1\\.(?:p:[0-9a-f-]+\\+)?m:(\\d{4}-\\d{2})\\.', 'g') AS found",
        )
        .fetch_all(pool)
        .await?;
        let gone: BTreeSet<String> = referred.into_iter().collect();
        let there: Vec<String> = sqlx::query_scalar(
            "SELECT substr(id, 3) FROM sealing_keys WHERE starts_with(id, 'm:')
             UNION SELECT substr(aggregate_id, 7) FROM events
              WHERE aggregate_type = 'Service' AND starts_with(aggregate_id, 'month:') AND event_type = 'MonthForgotten'",
        )
        .fetch_all(pool)
        .await?;
        let gone = gone.into_iter().filter(|month| !there.contains(month));
        let gone: Vec<_> = gone.map(|month| KeyFault::Missing(format!("m:{month}"))).collect();
        faults.in_all += gone.len() as u64;
        faults.first.extend(gone);
    }
    Ok(faults)
}

impl KeyFaults {
    fn take(&mut self, found: Vec<(String, i64)>, fault: fn(String) -> KeyFault) {
        self.in_all += found.first().map_or(0, |(_, all)| all.unsigned_abs());
        self.first.extend(found.into_iter().map(|(id, _)| fault(id)));
    }
}

/// The months in which events were recorded that have neither a key nor the event that destroys it. Most of the time there is
/// none, and nothing further need be read.
async fn months_without_key(pool: &PgPool) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(
        "WITH ends AS (
             (SELECT recorded_at FROM events ORDER BY tx, id LIMIT 1)
             UNION ALL (SELECT recorded_at FROM events ORDER BY tx DESC, id DESC LIMIT 1)
         ), months AS (
             SELECT to_char(generate_series(date_trunc('month', min(recorded_at AT TIME ZONE 'UTC')),
                                            max(recorded_at AT TIME ZONE 'UTC'), '1 month'), 'YYYY-MM') AS month FROM ends
         )
         SELECT month FROM months
          WHERE NOT EXISTS (SELECT FROM sealing_keys WHERE id = 'm:' || month)
            AND NOT EXISTS (SELECT FROM events WHERE aggregate_type = 'Service' AND aggregate_id = 'month:' || month
                                                 AND event_type = 'MonthForgotten')",
    )
    .fetch_all(pool)
    .await
}
