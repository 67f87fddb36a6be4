//! Rebuilds a projection beside the live one, and puts it in its place.
//!
//! Readers see the live tables until one short transaction swaps them. A crash at any moment leaves
//! the live ones serving; what was half built is dropped at the next start. The fold is the live
//! one's, so this file knows nothing of any projection.

use std::time::Duration;

use sqlx::{Connection, PgConnection, PgPool, Row};

use crate::{
    head::Frontier,
    journal::{self, JournalError},
    projection::{ApplyError, CannotApply, Generation, Projection},
    tables,
};

/// How many lines one transaction applies.
const BATCH: i64 = 10_000;
/// So close to the head, the rest is applied under the lock.
const CLOSE: i64 = 1_000;
/// How long the swap waits for readers before it steps back …
const LOCK_TIMEOUT: &str = "2s";
/// … and how often it tries.
const SWAP_ATTEMPTS: u32 = 30;

/// Why a rebuild or a verification did not come to its end. The live tables are as they were.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    #[error("the database failed: {0}")]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Journal(JournalError),
    #[error("an event can't be applied: {0}")]
    Event(#[from] CannotApply),
    #[error("another process is rebuilding or verifying {0} right now")]
    UnderWay(&'static str),
    #[error(
        "the projection {0} is not registered; run `entrybook serve` or `entrybook migrate` first"
    )]
    NotRegistered(&'static str),
    #[error(
        "the new tables of {0} are ready, but readers held the old ones in every attempt to swap \
         them; end long-running queries and rebuild again"
    )]
    Busy(&'static str),
}

impl From<JournalError> for RebuildError {
    fn from(cause: JournalError) -> Self {
        match cause {
            JournalError::Database(cause) => Self::Database(cause),
            cause => Self::Journal(cause),
        }
    }
}

impl From<ApplyError> for RebuildError {
    fn from(cause: ApplyError) -> Self {
        match cause {
            ApplyError::Event(cause) => Self::Event(cause),
            ApplyError::Database(cause) => Self::Database(cause),
        }
    }
}

/// How far a rebuild is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub phase: Phase,
    /// The last line applied.
    pub position: i64,
    /// The last line of the book.
    pub head: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Folding,
    Swapping,
    Done,
}

/// What a rebuild came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rebuilt {
    /// How many lines were folded: all of them.
    pub events: i64,
}

/// Rebuilds one projection while it serves.
pub async fn rebuild(
    pool: &PgPool,
    projection: &'static dyn Projection,
    mut progress: impl FnMut(Progress) + Send,
) -> Result<Rebuilt, RebuildError> {
    let mut builder = Builder::start(pool, projection, Generation::New).await?;
    match build_and_swap(&mut builder, &mut progress).await {
        Ok(rebuilt) => {
            builder.close().await;
            Ok(rebuilt)
        }
        Err(cause) => {
            // If this fails as well, the next start drops it.
            if let Err(left) = builder.discard().await {
                tracing::warn!(cause = %left, "half-built tables were left behind: {left}");
            }
            Err(cause)
        }
    }
}

async fn build_and_swap(
    builder: &mut Builder,
    progress: &mut (impl FnMut(Progress) + Send),
) -> Result<Rebuilt, RebuildError> {
    for _attempt in 0..SWAP_ATTEMPTS {
        loop {
            let head = Frontier::read(&mut builder.conn).await?.head.position;
            let position = builder.position;
            progress(Progress { phase: Phase::Folding, position, head });
            if head - position <= CLOSE {
                break;
            }
            builder.fold_until(head.min(position + BATCH)).await?;
        }
        let position = builder.position;
        progress(Progress { phase: Phase::Swapping, position, head: position });
        if builder.swap().await? {
            let events = builder.position;
            progress(Progress { phase: Phase::Done, position: events, head: events });
            return Ok(Rebuilt { events });
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Err(RebuildError::Busy(builder.projection.name()))
}

/// Another generation of a projection's tables, on a connection of its own that holds the right to
/// build it.
pub(crate) struct Builder {
    pub(crate) conn: PgConnection,
    projection: &'static dyn Projection,
    generation: Generation,
    /// The last line applied.
    pub(crate) position: i64,
}

impl Builder {
    /// Begins with empty tables.
    pub(crate) async fn start(
        pool: &PgPool,
        projection: &'static dyn Projection,
        generation: Generation,
    ) -> Result<Self, RebuildError> {
        // Detached: the lock goes with the connection, however this ends.
        let mut conn = pool.acquire().await?.detach();
        if !tables::try_build_lock(&mut conn, projection).await? {
            return Err(RebuildError::UnderWay(projection.name()));
        }
        let mut transaction = conn.begin().await?;
        tables::drop_tables(&mut transaction, projection, generation).await?;
        tables::create_tables(&mut transaction, projection, generation).await?;
        transaction.commit().await?;
        Ok(Self { conn, projection, generation, position: 0 })
    }

    /// Applies the lines up to a position, in transactions of bounded size.
    pub(crate) async fn fold_until(&mut self, target: i64) -> Result<(), RebuildError> {
        while self.position < target {
            let mut transaction = self.conn.begin().await?;
            let position =
                apply(&mut transaction, self.projection, self.generation, self.position, target)
                    .await?;
            transaction.commit().await?;
            self.position = position;
        }
        Ok(())
    }

    /// Applies what is left and swaps, in one transaction; `false` if readers were in the way.
    async fn swap(&mut self) -> Result<bool, RebuildError> {
        let (name, version) = (self.projection.name(), self.projection.version());
        let mut transaction = self.conn.begin().await?;
        let conn = &mut *transaction;
        sqlx::query(&format!("SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))
            .execute(&mut *conn)
            .await?;
        let live = match checkpoint(conn, self.projection).await {
            Ok(live) => live,
            Err(RebuildError::Database(cause)) if lock_timed_out(&cause) => return Ok(false),
            Err(cause) => return Err(cause),
        };
        // Readers must not see less than before.
        let target = Frontier::read(&mut *conn).await?.head.position.max(live);
        let mut position = self.position;
        while position < target {
            position = apply(conn, self.projection, self.generation, position, target).await?;
        }
        match tables::swap_tables(conn, self.projection).await {
            Ok(()) => {}
            Err(cause) if lock_timed_out(&cause) => return Ok(false),
            Err(cause) => return Err(cause.into()),
        }
        sqlx::query(
            "UPDATE projections
                SET position = $3, state = 'live', detail = NULL, updated_at = clock_timestamp()
              WHERE name = $1 AND version = $2",
        )
        .bind(name)
        .bind(version)
        .bind(position)
        .execute(&mut *conn)
        .await?;
        transaction.commit().await?;
        self.position = position;
        Ok(true)
    }

    /// Drops what was built.
    pub(crate) async fn discard(mut self) -> Result<(), RebuildError> {
        tables::drop_tables(&mut self.conn, self.projection, self.generation).await?;
        self.close().await;
        Ok(())
    }

    /// Gives the right to build back before it returns; dropping the connection would do so later.
    async fn close(mut self) {
        let closed = match tables::build_unlock(&mut self.conn, self.projection).await {
            Ok(()) => self.conn.close().await,
            Err(cause) => Err(cause),
        };
        if let Err(cause) = closed {
            tracing::debug!(%cause, "a connection broke while it was closed: {cause}");
        }
    }
}

/// Locks the fence of a projection; its live position.
pub(crate) async fn checkpoint(
    conn: &mut PgConnection,
    projection: &dyn Projection,
) -> Result<i64, RebuildError> {
    let row =
        sqlx::query("SELECT position FROM projections WHERE name = $1 AND version = $2 FOR UPDATE")
            .bind(projection.name())
            .bind(projection.version())
            .fetch_optional(conn)
            .await?
            .ok_or(RebuildError::NotRegistered(projection.name()))?;
    Ok(row.try_get("position")?)
}

/// Applies one batch of the lines up to `target`; the position it came to.
async fn apply(
    conn: &mut PgConnection,
    projection: &dyn Projection,
    generation: Generation,
    position: i64,
    target: i64,
) -> Result<i64, RebuildError> {
    let events = journal::read_after(conn, position, BATCH.min(target - position)).await?;
    let Some(last) = events.last().map(|event| event.position) else {
        // The caller knows that the line is there: an end before it is no end.
        return Err(RebuildError::Journal(JournalError::Gap {
            expected: position + 1,
            found: target,
        }));
    };
    projection.apply(conn, generation, &events).await?;
    Ok(last)
}

fn lock_timed_out(cause: &sqlx::Error) -> bool {
    // lock_not_available, deadlock_detected
    cause
        .as_database_error()
        .and_then(|error| error.code())
        .is_some_and(|code| code == "55P03" || code == "40P01")
}
