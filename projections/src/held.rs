//! Who holds the tables of a projection, so that they can't be swapped.

use std::fmt;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Row};

use crate::projection::{Generation, Projection};

/// How many of them are named.
const NAMED: i64 = 3;

/// Tables that could not be swapped, and who holds them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub projection: &'static str,
    /// Those who have held them longest.
    pub by: Vec<HeldBy>,
}

/// A session or a transaction that holds tables. What the database shows only to a member of
/// `pg_read_all_stats` is `None` without that role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldBy {
    /// `None` for a prepared transaction.
    pub pid: Option<i32>,
    /// `client backend`, `autovacuum worker`, …
    pub backend_type: Option<String>,
    pub application_name: Option<String>,
    /// When its transaction began.
    pub since: Option<DateTime<Utc>>,
}

impl Held {
    /// Asks who holds tables of either generation now.
    pub(crate) async fn read(
        conn: &mut PgConnection,
        projection: &'static dyn Projection,
    ) -> Result<Self, sqlx::Error> {
        let of_table = |generation| {
            projection
                .tables()
                .iter()
                .map(move |table| table.relation(projection.version(), generation))
        };
        let names: Vec<_> = of_table(Generation::Live).chain(of_table(Generation::New)).collect();
        // Those of parallel workers are their leader's.
        let rows = sqlx::query(
            "SELECT DISTINCT l.pid, a.backend_type, nullif(a.application_name, '') AS application,
                    a.xact_start
               FROM pg_locks AS l
               JOIN pg_class AS c ON l.relation IN (c.oid, c.reltoastrelid)
               LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid
              WHERE l.locktype = 'relation' AND l.granted
                AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                AND c.relnamespace = 'ledger'::regnamespace AND c.relname = ANY ($1)
                AND l.pid IS DISTINCT FROM pg_backend_pid() AND a.leader_pid IS NULL
              ORDER BY xact_start, pid LIMIT $2",
        )
        .bind(names)
        .bind(NAMED)
        .fetch_all(conn)
        .await?;
        let by = rows.iter().map(|row| {
            Ok(HeldBy {
                pid: row.try_get("pid")?,
                backend_type: row.try_get("backend_type")?,
                application_name: row.try_get("application")?,
                since: row.try_get("xact_start")?,
            })
        });
        let by = by.collect::<Result<_, sqlx::Error>>()?;
        Ok(Self { projection: projection.name(), by })
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { projection, by } = self;
        write!(
            f,
            "the new tables of {projection} are ready, but in every attempt to swap them somebody \
             held them or the old ones"
        )?;
        if by.is_empty() {
            f.write_str(", who does so no more; rebuild again: it goes on where it was")
        } else {
            let by: Vec<_> = by.iter().map(HeldBy::to_string).collect();
            write!(
                f,
                "; now {} does; end that and rebuild again: it goes on where it was",
                by.join(" and ")
            )
        }
    }
}

impl fmt::Display for HeldBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(pid) = self.pid else { return f.write_str("a prepared transaction") };
        f.write_str(self.backend_type.as_deref().unwrap_or("a session"))?;
        if let Some(application) = &self.application_name {
            write!(f, " {application:?}")?;
        }
        write!(f, " (process {pid}")?;
        if let Some(since) = self.since {
            write!(f, ", since {}", since.format("%Y-%m-%d %H:%M:%S UTC"))?;
        }
        f.write_str(")")
    }
}
