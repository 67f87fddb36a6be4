//! Who holds the horizon back.
//!
//! The horizon is the whole cluster's: a writing transaction left open in any database keeps new
//! events out of the journal. This is for `/readyz`, the metrics and the log; it settles nothing.

use std::{fmt, time::Duration};

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{PgPool, Row};

/// The oldest transaction that still may write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Horizon {
    /// For how long it has been held; zero when nobody holds it.
    pub age: Duration,
    pub holder: Option<Holder>,
}

/// Whose transaction it is. What the database shows only to a member of `pg_read_all_stats` is
/// `None` without that role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Holder {
    /// `None` for a prepared transaction.
    pub pid: Option<i32>,
    /// The name of a prepared transaction.
    pub prepared: Option<String>,
    pub application_name: Option<String>,
    pub user: Option<String>,
    pub database: Option<String>,
    pub state: Option<String>,
    pub started_at: Option<DateTime<Utc>>,
}

impl Horizon {
    /// Reads the horizon and its holder. A transaction that ends while this looks leaves none.
    pub async fn read(pool: &PgPool) -> Result<Self, sqlx::Error> {
        // The holder is who runs the transaction of the snapshot's xmin. Activity shows ids of 32
        // bits, which are unique among running transactions.
        let row = sqlx::query(
            "WITH horizon AS MATERIALIZED (
                 SELECT pg_snapshot_xmin(snapshot)::xid AS oldest,
                        pg_snapshot_xmin(snapshot) < pg_snapshot_xmax(snapshot) AS held
                   FROM pg_current_snapshot() AS snapshot),
             holders AS (
                 SELECT a.pid, NULL::text AS gid, a.application_name, a.usename::text AS usename,
                        a.datname::text AS datname, a.state, a.xact_start
                   FROM pg_stat_activity a, horizon h
                  WHERE h.held AND a.backend_xid = h.oldest
                 UNION ALL
                 SELECT NULL, p.gid, NULL, p.owner::text, p.database::text, 'prepared', p.prepared
                   FROM pg_prepared_xacts p, horizon h
                  WHERE h.held AND p.transaction = h.oldest)
             SELECT *, greatest(extract(epoch FROM clock_timestamp() - xact_start), 0)::float8 AS age
               FROM holders LIMIT 1",
        )
        .fetch_optional(pool)
        .await?;
        let Some(row) = row else {
            return Ok(Self { age: Duration::ZERO, holder: None });
        };
        let age: Option<f64> = row.try_get("age")?;
        Ok(Self {
            age: Duration::try_from_secs_f64(age.unwrap_or_default()).unwrap_or_default(),
            holder: Some(Holder {
                pid: row.try_get("pid")?,
                prepared: row.try_get("gid")?,
                application_name: row.try_get("application_name")?,
                user: row.try_get("usename")?,
                database: row.try_get("datname")?,
                state: row.try_get("state")?,
                started_at: row.try_get("xact_start")?,
            }),
        })
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_unknown = |text: &Option<String>| text.clone().unwrap_or_else(|| "unknown".into());
        match (&self.prepared, self.pid) {
            (Some(gid), _) => write!(f, "the prepared transaction {gid:?}")?,
            (None, Some(pid)) => write!(
                f,
                "the transaction of process {pid} (application {:?}, {})",
                or_unknown(&self.application_name),
                or_unknown(&self.state)
            )?,
            (None, None) => f.write_str("an unknown transaction")?,
        }
        write!(
            f,
            " of user {} in database {} is still open",
            or_unknown(&self.user),
            or_unknown(&self.database)
        )?;
        if let Some(at) = self.started_at {
            write!(f, " since {at}")?;
        }
        Ok(())
    }
}
