//! How fast a rebuild could be at best, by the same driver and the same database: a bare scan of the
//! events with their JSON parsed, and one binary COPY of the final rows into the same indexed tables.

use std::path::Path;

use anyhow::Result;
use futures_util::TryStreamExt as _;
use projections::{Generation, Projection};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::{Connection as _, PgConnection, Row as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{cluster::Database, measure};

/// What of one projection is copied.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Copy {
    pub(crate) projection: String,
    pub(crate) rows: u64,
    /// Into tables that have their indexes.
    pub(crate) seconds: f64,
    /// Into bare tables, that get their indexes then.
    pub(crate) seconds_indexed_after: f64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Scan {
    /// The streams whose events are scanned; empty means all.
    pub(crate) streams: Vec<String>,
    pub(crate) events: u64,
    pub(crate) seconds: f64,
}

/// Reads every event of these streams (all, where none is given) and parses its JSON.
pub(crate) async fn scan(database: &Database, streams: &[&str]) -> Result<Scan> {
    let pool = database.connect(1).await?;
    let streams: Vec<String> = streams.iter().map(|stream| (*stream).to_owned()).collect();
    let filter = if streams.is_empty() { "" } else { "WHERE aggregate_type = ANY($1)" };
    let sql = format!(
        "SELECT aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata
           FROM events {filter}"
    );
    let scanning = async {
        let mut query = sqlx::query(&sql);
        if !streams.is_empty() {
            query = query.bind(&streams);
        }
        let mut rows = query.fetch(&pool);
        let mut events = 0_u64;
        while let Some(row) = rows.try_next().await? {
            let payload: Value = row.try_get("payload")?;
            let metadata: Value = row.try_get("metadata")?;
            events += u64::from(payload.is_object() && metadata.is_object());
        }
        Ok::<_, sqlx::Error>(events)
    };
    let (events, seconds) = measure::timed(scanning).await?;
    pool.close().await;
    Ok(Scan { streams, events, seconds })
}

/// Copies the rows of a projection as they stand into tables like its own.
pub(crate) async fn copy(
    database: &Database,
    projection: &'static dyn Projection,
    dir: &Path,
) -> Result<Copy> {
    let mut owner = database.owner().await?;
    let mut copied = Copy {
        projection: projection.name().to_owned(),
        rows: 0,
        seconds: 0.0,
        seconds_indexed_after: 0.0,
    };
    for table in projection.tables() {
        let relation = table.relation(projection.version(), Generation::Live);
        let file = dir.join(format!("{relation}.copy"));
        unload(&mut owner, &relation, &file).await?;
        sqlx::raw_sql("CHECKPOINT").execute(&mut owner).await?;
        for indexed in [true, false] {
            let (rows, seconds) =
                measure::timed(load(&mut owner, &relation, &file, indexed)).await?;
            if indexed {
                copied.rows += rows;
                copied.seconds += seconds;
            } else {
                copied.seconds_indexed_after += seconds;
            }
            sqlx::raw_sql("DROP TABLE ledger.copied; CHECKPOINT").execute(&mut owner).await?;
        }
        tokio::fs::remove_file(&file).await?;
    }
    owner.close().await?;
    Ok(copied)
}

async fn unload(owner: &mut PgConnection, relation: &str, file: &Path) -> Result<()> {
    let mut written = tokio::io::BufWriter::new(tokio::fs::File::create(file).await?);
    let sql = format!("COPY ledger.{relation} TO STDOUT (FORMAT binary)");
    let mut bytes = owner.copy_out_raw(&sql).await?;
    while let Some(part) = bytes.try_next().await? {
        written.write_all(&part).await?;
    }
    Ok(written.flush().await?)
}

async fn load(owner: &mut PgConnection, relation: &str, file: &Path, indexed: bool) -> Result<u64> {
    let like = if indexed { "INCLUDING ALL" } else { "INCLUDING DEFAULTS INCLUDING STORAGE" };
    sqlx::raw_sql(&format!("CREATE TABLE ledger.copied (LIKE ledger.{relation} {like})"))
        .execute(&mut *owner)
        .await?;
    let mut transaction = owner.begin().await?;
    let mut copy = transaction.copy_in_raw("COPY ledger.copied FROM STDIN (FORMAT binary)").await?;
    let mut read = tokio::fs::File::open(file).await?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        let many = read.read(&mut buffer).await?;
        let Some(part) = buffer.get(..many).filter(|part| !part.is_empty()) else { break };
        copy.send(part).await?;
    }
    let rows = copy.finish().await?;
    if !indexed {
        let indexes: Vec<String> = sqlx::query_scalar(
            "SELECT regexp_replace(indexdef, 'INDEX \\S+ ON \\S+', 'INDEX ON ledger.copied')
               FROM pg_indexes WHERE schemaname = 'ledger' AND tablename = $1",
        )
        .bind(relation)
        .fetch_all(&mut *transaction)
        .await?;
        for index in indexes {
            sqlx::raw_sql(&index).execute(&mut *transaction).await?;
        }
    }
    transaction.commit().await?;
    Ok(rows)
}
