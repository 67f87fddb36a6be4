//! What disk a run needs, and what of it each table of the book takes.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use sqlx::{Connection as _, Row as _};

use crate::{Part, Scale, cluster::Database};

/// What a table takes, or all of the database.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Stored {
    pub(crate) what: String,
    pub(crate) rows: Option<u64>,
    /// Its indexes included.
    pub(crate) bytes: u64,
    pub(crate) indexes: u64,
}

/// Bytes an event of a book with its journal and its read tables, as `Stored` tells them.
const BOOK: u64 = 2_150;
/// Bytes an event of what is there beside the books at the worst moment, which is the limit: the rows
/// of the history in a file, the table that they are copied into, and what its indexes are sorted in.
/// A rebuild of everything takes less.
const BESIDE: u64 = 1_560;
/// Bytes an event in an export that proves itself.
const EXPORTED: u64 = 1_150;
/// Bytes of an append, in rows and indexes.
const APPEND: u64 = 1_000;
/// `max_wal_size`, which isn't a strict bound.
const WAL: u64 = 5_000_000_000;

/// What is needed at the highest, in bytes.
fn needed(scale: Scale) -> u64 {
    let books: u64 = scale.sizes().iter().map(|events| events * BOOK).sum();
    if scale.only == Part::Proof {
        // Nothing is rebuilt but the tree, and the longest book is exported.
        return books + books / 10 + scale.events * EXPORTED + WAL.min(2 * books);
    }
    let seconds = scale.append_seconds * scale.append_rounds as u64 * 3;
    // Ours and pgbench's, in a database that is dropped then.
    let appends = 2 * seconds * 12_000 * APPEND;
    let written = books + appends.max(scale.events * BESIDE);
    written + WAL.min(2 * written)
}

/// Refuses to begin what would fill the disk hours later.
pub(crate) fn check(dir: &Path, scale: Scale) -> Result<()> {
    let (needed, free) = (needed(scale), free(dir)?);
    let gigabytes = |bytes: u64| bytes.div_ceil(1_000_000_000);
    crate::say(format!(
        "{} events need some {} GB of disk at the highest; {} GB are free in {}",
        scale.events,
        gigabytes(needed),
        free / 1_000_000_000,
        dir.display()
    ));
    if needed > free {
        bail!(
            "there is too little disk for {} events: free some, name a directory on another disk with --out, or measure fewer --events",
            scale.events
        );
    }
    Ok(())
}

/// The bytes that are free where a directory is.
fn free(dir: &Path) -> Result<u64> {
    let output = std::process::Command::new("df")
        .arg("-Pk")
        .arg(dir)
        .output()
        .context("df can't be run, which tells how much disk is free")?;
    let told = String::from_utf8_lossy(&output.stdout);
    let kilobytes = told.lines().nth(1).and_then(|line| line.split_whitespace().nth(3));
    let kilobytes: u64 = kilobytes
        .and_then(|field| field.parse().ok())
        .with_context(|| format!("df tells nothing of {}", dir.display()))?;
    Ok(kilobytes * 1024)
}

/// The tables of a book by their size, and the whole of it first.
pub(crate) async fn stored(database: &Database) -> Result<Vec<Stored>> {
    let mut owner = database.owner().await?;
    let rows = sqlx::query(
        "SELECT 'the whole database' AS what, NULL::bigint AS rows,
                pg_database_size(current_database()) AS bytes,
                (SELECT sum(pg_indexes_size(oid))::bigint FROM pg_class WHERE relkind = 'r') AS indexes
          UNION ALL
         SELECT c.relname::text, greatest(c.reltuples, 0)::bigint,
                pg_total_relation_size(c.oid), pg_indexes_size(c.oid)
           FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
          WHERE c.relkind = 'r' AND n.nspname IN ('public', 'ledger') AND c.reltuples > 0
          ORDER BY bytes DESC",
    )
    .fetch_all(&mut owner)
    .await?;
    owner.close().await?;
    rows.iter()
        .map(|row| {
            Ok(Stored {
                what: row.try_get("what")?,
                rows: row.try_get::<Option<i64>, _>("rows")?.map(u64::try_from).transpose()?,
                bytes: row.try_get::<i64, _>("bytes")?.try_into()?,
                indexes: row.try_get::<i64, _>("indexes")?.try_into()?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_somewhere_and_not_for_everything() {
        let here = std::env::temp_dir();
        let arguments = |events| Scale {
            events,
            only: Part::Everything,
            quick: false,
            seed: 1,
            baseline: 0,
            append_seconds: 1,
            append_rounds: 1,
            lag_seconds: 1,
            growth_rounds: 1,
            long_session: 1,
        };
        check(&here, arguments(1)).unwrap();
        let refused = check(&here, arguments(1_000_000_000_000)).unwrap_err().to_string();
        assert!(refused.contains("too little disk for 1000000000000 events"), "{refused}");
    }
}
