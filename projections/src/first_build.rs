//! The first build of a version's tables, by the engine that rebuilds them; then the projector takes
//! over. It goes on where it was broken off, for its tables are the live ones.

use sqlx::Connection;
use tokio_util::sync::CancellationToken;

use crate::{
    book_source::BookSource,
    builder::{Part, fold_until},
    builds::{Phase, Progress, Watch},
    journal,
    projection::{Generation, Projection},
    rebuild::{CLOSE, RebuildError, begin, connect, give_back, leave, live, settle},
    tables,
};

/// Builds a projection for the first time, or goes on with that: its rows, then its indexes. What
/// comes meanwhile is left to the projector.
pub(crate) async fn first_build(
    pool: &BookSource,
    projection: &'static dyn Projection,
    rows_in_memory: usize,
) -> Result<(), RebuildError> {
    // Those who wait for another's build ask often: on a connection that is there.
    if !tables::try_build_lock_here(&mut *pool.acquire().await?, projection).await? {
        return Err(RebuildError::UnderWay(projection.name()));
    }
    let mut conn = connect(pool).await?;
    let backend = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut conn).await?;
    if !tables::try_build_lock(&mut conn, projection).await? {
        return Err(RebuildError::UnderWay(projection.name()));
    }
    let (position, built) = live(&mut conn, projection).await?;
    if built {
        give_back(conn).await;
        return Ok(());
    }
    begin(&mut conn, projection, position, false).await?;
    let cancel = CancellationToken::new();
    let mut tell = |_: &Progress| {};
    let names = vec![(projection.name(), projection.version())];
    let mut watch = Watch::new(pool.pool().clone(), names, rows_in_memory, &cancel, &mut tell);
    let work = async {
        let mut parts = [Part::open(&mut conn, projection, Generation::Live, position).await?];
        watch.starts_at(position, journal::head(pool).await?.position);
        loop {
            let target = journal::head(pool).await?.position;
            let close = parts.iter().all(|part| part.position + CLOSE >= target);
            let folded =
                fold_until(&mut conn, pool, &mut parts, target, Phase::Folding, &mut watch).await;
            if let Err(cause) = folded {
                // What is before a line that can't be applied is shown.
                if let Some(line) = cause.line() {
                    let [part] = &parts;
                    let mut parts =
                        [Part::open(&mut conn, projection, Generation::Live, part.checkpoint)
                            .await?];
                    let (conn, watch) = (&mut conn, &mut watch);
                    fold_until(conn, pool, &mut parts, line - 1, Phase::Folding, watch).await?;
                }
                return Err(cause);
            }
            if close {
                break;
            }
        }
        watch.enter(Phase::Indexing);
        watch.during(tables::create_indexes(&mut conn, projection, Generation::Live)).await?;
        let mut transaction = conn.begin().await?;
        sqlx::query(
            "UPDATE projections SET built = true, detail = NULL, stopped = NULL
              WHERE name = $1 AND version = $2",
        )
        .bind(projection.name())
        .bind(projection.version())
        .execute(&mut *transaction)
        .await?;
        settle(&mut transaction, projection, "built", None).await?;
        transaction.commit().await?;
        Ok(())
    };
    let result: Result<(), RebuildError> = work.await;
    match &result {
        Ok(()) => {
            give_back(conn).await;
        }
        Err(cause) => {
            let open = [projection];
            let left = leave(pool, conn, backend, &open, "failed", cause);
            if let Err(left) = left.await {
                tracing::warn!(cause = %left, "how a build ended could not be written down: {left}");
            }
        }
    }
    result
}
