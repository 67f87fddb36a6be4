//! Rebuilds projections beside the live ones, compares, and puts them in their place.
//!
//! Readers see the live tables until one short transaction swaps them. However a rebuild ends, the
//! live tables serve; what was built stays for a day, and the next rebuild goes on with it. The fold
//! is the live one's, so this file knows nothing of any projection.

use std::time::Duration;

use proof::EventAuthenticator;
use serde::Serialize;
use sqlx::{Connection, PgConnection, PgPool, Row, types::Json};
use tokio_util::sync::CancellationToken;

use crate::{
    book_source::BookSource,
    builder::{Part, fold_until},
    builds::{Phase, Progress, Watch},
    compare::{Verified, compare, stored_fold},
    ending::end_with_us,
    held::Held,
    journal::{self, JournalError},
    projection::{ApplyError, CannotApply, Entry, Generation, Projection, Start},
    projector::about_rows,
    sqlstate::{is_corrupt, lock_timed_out},
    tables,
};

/// So close to the live tables, the rest is folded while these stand still.
pub(crate) const CLOSE: i64 = 1_000;
/// How long the swap waits for readers before it steps back: new readers wait behind it …
const LOCK_TIMEOUT: &str = "150ms";
/// … how long it lets them go on …
const STEP_BACK: Duration = Duration::from_millis(500);
/// … and how often it tries.
const SWAP_ATTEMPTS: u32 = 60;
/// How long a broken-off statement of a build may take to end.
const END_WITHIN_MS: i64 = 5_000;

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
    #[error("the projection {0} is being built for the first time; wait until it serves")]
    FirstBuild(&'static str),
    #[error("another process has taken over the building of {0}")]
    Displaced(&'static str),
    #[error("{projection} was not swapped in: {why}")]
    Contradicted { projection: &'static str, why: String },
    #[error("{0}")]
    Busy(Held),
    #[error("it was cancelled; the next rebuild goes on where it was")]
    Cancelled,
}

impl RebuildError {
    /// Whether what was built is good to go on with. If not, the next rebuild begins anew.
    #[must_use]
    pub fn leaves_good_tables(&self) -> bool {
        match self {
            // Rows that the database refuses, and pages that it can't read, would be so again.
            Self::Database(cause) => !about_rows(cause) && !is_corrupt(cause),
            Self::Busy(_) | Self::Cancelled => true,
            Self::Journal(_)
            | Self::Event(_)
            | Self::UnderWay(_)
            | Self::NotRegistered(_)
            | Self::FirstBuild(_)
            | Self::Contradicted { .. }
            | Self::Displaced(_) => false,
        }
    }

    /// The line at fault, where it is one.
    pub(crate) fn line(&self) -> Option<i64> {
        match self {
            Self::Event(cause) => Some(cause.position),
            Self::Journal(cause) => cause.position(),
            _ => None,
        }
    }
}

/// A rebuild that did not come to its end, and what it had decided before.
#[derive(Debug, thiserror::Error)]
#[error("{cause}")]
pub struct Unfinished {
    #[source]
    pub cause: RebuildError,
    /// What became of those that were done before: they stay so.
    pub decided: Vec<Rebuilt>,
}

impl From<RebuildError> for Unfinished {
    fn from(cause: RebuildError) -> Self {
        Self { cause, decided: Vec::new() }
    }
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

/// How a rebuild is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Builds and compares, and swaps nothing. No indexes are made, for they change no row.
    pub dry_run: bool,
    /// Swaps although live and new differ, or the live ones can't be read, if the book is as it was signed.
    pub repair: bool,
    /// So many rows of each projection are kept in memory before they are written.
    pub rows_in_memory: usize,
    /// So often the swap is tried while somebody is in the way.
    pub swap_attempts: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self { dry_run: false, repair: false, rows_in_memory: 50_000, swap_attempts: SWAP_ATTEMPTS }
    }
}

/// What a rebuild came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rebuilt {
    pub projection: &'static str,
    pub version: i32,
    pub outcome: Outcome,
    /// The last line folded: all of them are.
    pub events: i64,
    /// The line after which it went on with what an earlier build had left; 0 where it began anew.
    pub resumed_at: i64,
    pub verified: Verified,
    pub seconds: f64,
    /// The time spent in each phase, in seconds. The first two are shared by all that are built in
    /// one pass.
    pub phases: Vec<(Phase, f64)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The new tables took the place of the live ones.
    Swapped,
    /// Live and new are equal, and nothing was to be swapped.
    Compared,
    /// Live and new differ, or the live ones can't be read, and nothing was swapped.
    Differs,
}

/// Rebuilds projections while they serve. One pass over the book feeds them all; then each is made
/// ready, compared and swapped by itself.
pub async fn rebuild(
    pool: &BookSource,
    chosen: &[&'static dyn Projection],
    options: Options,
    cancel: &CancellationToken,
    tell: &mut (dyn FnMut(&Progress) + Send),
) -> Result<Vec<Rebuilt>, Unfinished> {
    // One that is named twice is built once.
    let mut once: Vec<&'static dyn Projection> = Vec::with_capacity(chosen.len());
    for projection in chosen.iter().copied() {
        if once.iter().all(|known| known.name() != projection.name()) {
            once.push(projection);
        }
    }
    let names = once.iter().map(|one| (one.name(), one.version())).collect();
    let mut watch = Watch::new(pool.pool().clone(), names, options.rows_in_memory, cancel, tell);
    let mut rebuild = Rebuild::begin(pool, &once, options).await?;
    let result = rebuild.run(&mut watch).await;
    rebuild.end(result).await
}

/// Folds the whole book beside a projection, and compares.
pub async fn verify(
    pool: &BookSource,
    projection: &'static dyn Projection,
) -> Result<Verified, RebuildError> {
    let options = Options { dry_run: true, ..Options::default() };
    let cancel = CancellationToken::new();
    let rebuilt = rebuild(pool, &[projection], options, &cancel, &mut |_| {}).await;
    let mut rebuilt = rebuilt.map_err(|unfinished| unfinished.cause)?;
    rebuilt.pop().map(|rebuilt| rebuilt.verified).ok_or(RebuildError::UnderWay(projection.name()))
}

/// A rebuild under way, on a connection of its own that holds the right to do it.
struct Rebuild {
    pool: BookSource,
    conn: PgConnection,
    backend: i32,
    options: Options,
    parts: Vec<Part>,
    resumed: Vec<i64>,
    /// What is not yet decided.
    open: Vec<&'static dyn Projection>,
    decided: Vec<Rebuilt>,
}

impl Rebuild {
    async fn begin(
        pool: &BookSource,
        chosen: &[&'static dyn Projection],
        options: Options,
    ) -> Result<Self, RebuildError> {
        let mut conn = connect(pool).await?;
        let backend = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut conn).await?;
        let mut parts = Vec::with_capacity(chosen.len());
        for projection in chosen.iter().copied() {
            if !tables::try_build_lock(&mut conn, projection).await? {
                return Err(RebuildError::UnderWay(projection.name()));
            }
            let (_, built) = live(&mut conn, projection).await?;
            if !built {
                return Err(RebuildError::FirstBuild(projection.name()));
            }
        }
        for projection in chosen.iter().copied() {
            let checkpoint = open_tables(&mut conn, projection, options.dry_run).await?;
            parts.push(Part::open(&mut conn, projection, Generation::New, checkpoint).await?);
        }
        let resumed = parts.iter().map(|part| part.position).collect();
        let open = chosen.to_vec();
        let decided = Vec::with_capacity(parts.len());
        Ok(Self { pool: pool.clone(), conn, backend, options, parts, resumed, open, decided })
    }

    async fn run(&mut self, watch: &mut Watch<'_>) -> Result<(), RebuildError> {
        let from = self.resumed.iter().copied().min().unwrap_or(0);
        watch.starts_at(from, journal::head(&self.pool).await?.position);
        // No further than the live ones are, for there they are compared.
        loop {
            let mut target = i64::MAX;
            for projection in &self.open {
                target = target.min(live(&mut self.conn, *projection).await?.0);
            }
            if self.parts.iter().all(|part| part.position + CLOSE >= target) {
                break;
            }
            let (conn, pool, parts) = (&mut self.conn, &self.pool, &mut self.parts);
            fold_until(conn, pool, parts, target, Phase::Folding, watch).await?;
        }
        let parts = std::mem::take(&mut self.parts);
        let (shared, _) = watch.times();
        for (mut part, resumed_at) in parts.into_iter().zip(self.resumed.clone()) {
            watch.only(part.projection);
            let before = watch.times();
            let (outcome, verified) = self.finish(&mut part, watch).await?;
            let after = watch.times();
            let own = |phase: Phase| {
                let of = |times: &[(Phase, f64)]| {
                    times.iter().find(|(known, _)| *known == phase).map_or(0.0, |(_, time)| *time)
                };
                of(&after.0) - of(&before.0) + of(&shared)
            };
            let phases: Vec<_> = after.0.iter().map(|(phase, _)| (*phase, own(*phase))).collect();
            let one = Rebuilt {
                projection: part.projection.name(),
                version: part.projection.version(),
                outcome,
                events: part.position,
                resumed_at,
                seconds: phases.iter().map(|(_, seconds)| seconds).sum(),
                phases,
                verified,
            };
            self.decided(part.projection, one).await?;
        }
        Ok(())
    }

    /// What is done for each by itself: from the common pass to its swap.
    async fn finish(
        &mut self,
        part: &mut Part,
        watch: &mut Watch<'_>,
    ) -> Result<(Outcome, Verified), RebuildError> {
        let projection = part.projection;
        if !self.options.dry_run {
            watch.enter(Phase::Indexing);
            let indexing = tables::create_indexes(&mut self.conn, projection, Generation::New);
            watch.during(indexing).await?;
        }
        let verified = self.compare(part, watch).await?;
        if self.options.dry_run {
            let outcome = if verified.is_equal() { Outcome::Compared } else { Outcome::Differs };
            return Ok((outcome, verified));
        }
        if !verified.is_equal() && !self.options.repair {
            return Ok((Outcome::Differs, verified));
        }
        if !verified.is_equal() {
            let objection = projection.objection(&self.pool, &mut self.conn, part.position);
            if let Some(why) = watch.during(objection).await? {
                return Err(RebuildError::Contradicted { projection: projection.name(), why });
            }
        }
        for attempt in 0..self.options.swap_attempts {
            if attempt > 0 {
                watch
                    .during(async {
                        tokio::time::sleep(STEP_BACK).await;
                        Ok::<_, RebuildError>(())
                    })
                    .await?;
            }
            let head = journal::head(&self.pool).await?.position;
            self.catch_up(part, head - CLOSE, watch).await?;
            watch.enter(Phase::Swapping);
            if self.swap(part, &verified).await? {
                return Ok((Outcome::Swapped, verified));
            }
        }
        Err(RebuildError::Busy(watch.during(Held::read(&mut self.conn, projection)).await?))
    }

    async fn catch_up(
        &mut self,
        part: &mut Part,
        target: i64,
        watch: &mut Watch<'_>,
    ) -> Result<(), RebuildError> {
        let parts = std::slice::from_mut(part);
        fold_until(&mut self.conn, &self.pool, parts, target, Phase::CatchingUp, watch).await
    }

    /// Brings the new tables level with the live ones, and compares both in one snapshot.
    async fn compare(
        &mut self,
        part: &mut Part,
        watch: &mut Watch<'_>,
    ) -> Result<Verified, RebuildError> {
        let projection = part.projection;
        let position = live(&mut self.conn, projection).await?.0;
        self.catch_up(part, position, watch).await?;
        let stored = stored_fold(&mut self.conn, projection).await?;
        // A connection of its own: broken off, a long comparison ends with it, and no pool waits.
        let mut comparing = connect(&self.pool).await?;
        // The live tables stand still only while the new ones take the last steps and the snapshot is
        // taken; the comparison holds up nobody. It reads no table but these two: what it has read it
        // keeps from being altered.
        let mut fence = self.pool.begin().await?;
        let position = watch.during(lock_checkpoint(&mut fence, projection)).await?;
        self.catch_up(part, position, watch).await?;
        watch.enter(Phase::Comparing);
        let mut snapshot = comparing.begin().await?;
        sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            .execute(&mut *snapshot)
            .await?;
        sqlx::query("SELECT pg_current_snapshot()::text").execute(&mut *snapshot).await?;
        fence.rollback().await?;
        let verified = watch.during(compare(&mut snapshot, projection, position, stored)).await?;
        snapshot.rollback().await?;
        let _ = comparing.close().await;
        Ok(verified)
    }

    /// Folds what is left and swaps, in one transaction; `false` if somebody was in the way.
    async fn swap(&mut self, part: &mut Part, verified: &Verified) -> Result<bool, RebuildError> {
        let mended = (!verified.is_equal()).then(|| verified.mended());
        let mut transaction = self.conn.begin().await?;
        match swap(
            &mut transaction,
            part.projection,
            part.position,
            mended.as_deref(),
            self.pool.authenticator(),
        )
        .await
        {
            Ok(position) => {
                transaction.commit().await?;
                part.position = position;
                Ok(true)
            }
            Err(RebuildError::Database(cause)) if lock_timed_out(&cause) => {
                // Now, and not with the next statement: its locks would be held until then.
                transaction.rollback().await?;
                Ok(false)
            }
            Err(cause) => Err(cause),
        }
    }

    /// Writes down what became of one, and drops tables that nobody needs any more.
    async fn decided(
        &mut self,
        projection: &'static dyn Projection,
        rebuilt: Rebuilt,
    ) -> Result<(), RebuildError> {
        let (state, detail) = match rebuilt.outcome {
            Outcome::Swapped => ("swapped", None),
            Outcome::Compared => ("compared", None),
            Outcome::Differs => ("differs", Some(rebuilt.verified.with_rows())),
        };
        // Whatever comes now: it has been found out, and a swap has been made.
        self.decided.push(rebuilt);
        tables::drop_tables(&mut self.conn, projection, Generation::New).await?;
        settle(&mut self.conn, projection, state, detail.as_deref()).await?;
        self.open.retain(|open| open.name() != projection.name());
        Ok(())
    }

    /// Gives the right to build back before it returns; dropping the connection would do so later.
    async fn end(self, result: Result<(), RebuildError>) -> Result<Vec<Rebuilt>, Unfinished> {
        let Self { pool, conn, backend, open, decided, .. } = self;
        let Err(cause) = result else {
            give_back(conn).await;
            return Ok(decided);
        };
        let state = match &cause {
            // The tables and what is written of them are another's.
            RebuildError::Displaced(_) => return Err(Unfinished { cause, decided }),
            RebuildError::Cancelled => "cancelled",
            _ => "failed",
        };
        // If this fails as well, it is found to be interrupted, and the next one goes on.
        if let Err(left) = leave(&pool, conn, backend, &open, state, &cause).await {
            tracing::warn!(cause = %left, "how a rebuild ended could not be written down: {left}");
        }
        Err(Unfinished { cause, decided })
    }
}

/// A connection of the build's own: its locks go with it, however the build ends.
pub(crate) async fn connect(pool: &PgPool) -> Result<PgConnection, sqlx::Error> {
    let mut conn = pool.acquire().await?.detach();
    end_with_us(&mut conn).await?;
    Ok(conn)
}

/// Gives the right to build back. The server would do so some time after the connection is closed.
pub(crate) async fn give_back(mut conn: PgConnection) {
    let given = tables::build_unlock(&mut conn).await;
    if let Err(cause) = given.and(conn.close().await) {
        tracing::debug!(%cause, "a connection broke while it was closed: {cause}");
    }
}

/// Writes down how builds ended early, and gives the right to build back: whoever asks next has it.
pub(crate) async fn leave(
    pool: &PgPool,
    conn: PgConnection,
    backend: i32,
    open: &[&'static dyn Projection],
    state: &str,
    cause: &RebuildError,
) -> Result<(), sqlx::Error> {
    // The statement that was broken off may still run on the connection.
    drop(conn);
    let mut ending = pool.begin().await?;
    // The role that the pool acts with may not end what its login has begun.
    sqlx::query("SET LOCAL ROLE NONE").execute(&mut *ending).await?;
    sqlx::query(
        "SELECT pg_terminate_backend(pid, $3)
           FROM (SELECT DISTINCT pid FROM pg_locks
                  WHERE pid = $1 AND locktype = 'advisory' AND classid = $2::bigint::oid) AS ours",
    )
    .bind(backend)
    .bind(i64::from(tables::BUILD_LOCK))
    .bind(END_WITHIN_MS)
    .execute(&mut *ending)
    .await?;
    ending.commit().await?;
    let mut transaction = pool.begin().await?;
    for projection in open.iter().copied() {
        // Somebody else may have taken over already.
        if !tables::try_build_lock_here(&mut transaction, projection).await? {
            continue;
        }
        settle(&mut transaction, projection, state, Some(&cause.to_string())).await?;
        if !cause.leaves_good_tables() {
            tables::drop_tables(&mut transaction, projection, Generation::New).await?;
        }
    }
    transaction.commit().await
}

/// Folds the lines after `position` and swaps, inside the caller's transaction; the position then.
/// `mended` is written down: what differed, if something did.
async fn swap(
    conn: &mut PgConnection,
    projection: &'static dyn Projection,
    mut position: i64,
    mended: Option<&str>,
    authenticator: &EventAuthenticator,
) -> Result<i64, RebuildError> {
    tables::send_vacuum_away(conn, projection).await?;
    sqlx::query(&format!("SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")).execute(&mut *conn).await?;
    let live = lock_checkpoint(conn, projection).await?;
    // Readers must not see less than before.
    let target = journal::head_of(conn).await?.max(live);
    let mut folding = projection.folding(Generation::New, Start::Exact);
    while position < target {
        let events = journal::read_after(conn, position, CLOSE.min(target - position)).await?;
        let entries: Vec<_> =
            events.into_iter().map(|event| Entry::new(event, authenticator)).collect();
        let Some(last) = entries.last().map(|entry| entry.recorded.position) else {
            return Err(JournalError::Gap { expected: position + 1, found: target }.into());
        };
        folding.absorb(conn, &entries).await?;
        position = last;
    }
    folding.write(conn, usize::MAX).await?;
    tables::swap_tables(conn, projection).await?;
    sqlx::query(
        "UPDATE projections
            SET position = $3, state = 'live', detail = NULL, stopped = NULL, fold = $4,
                updated_at = clock_timestamp()
          WHERE name = $1 AND version = $2",
    )
    .bind(projection.name())
    .bind(projection.version())
    .bind(position)
    .bind(Json(projection.fingerprint()))
    .execute(&mut *conn)
    .await?;
    settle(conn, projection, "swapped", mended).await?;
    Ok(position)
}

/// Finds tables to go on with, or makes new ones; the line up to which they are built.
async fn open_tables(
    conn: &mut PgConnection,
    projection: &dyn Projection,
    dry_run: bool,
) -> Result<i64, sqlx::Error> {
    let mut transaction = conn.begin().await?;
    let checkpoint = match tables::resumable(&mut transaction, projection).await? {
        Some(position) => position,
        None => {
            tables::drop_tables(&mut transaction, projection, Generation::New).await?;
            tables::create_tables(&mut transaction, projection, Generation::New).await?;
            0
        }
    };
    begin(&mut transaction, projection, checkpoint, dry_run).await?;
    transaction.commit().await?;
    Ok(checkpoint)
}

/// Writes down that a build begins.
pub(crate) async fn begin(
    conn: &mut PgConnection,
    projection: &dyn Projection,
    checkpoint: i64,
    dry_run: bool,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO builds (name, version, state, phase, dry_run, fold, position, events_done)
         VALUES ($1, $2, 'running', 'folding', $3, $4, $5, $5)
         ON CONFLICT (name, version) DO UPDATE
            SET state = 'running', phase = 'folding', dry_run = $3, fold = $4, position = $5,
                events_done = $5, events_total = 0, events_per_second = 0, seconds_left = NULL,
                cancel = false, detail = NULL, started_at = clock_timestamp(),
                updated_at = clock_timestamp()",
    )
    .bind(projection.name())
    .bind(projection.version())
    .bind(dry_run)
    .bind(Json(projection.fingerprint()))
    .bind(checkpoint)
    .execute(conn)
    .await
    .map(drop)
}

/// Writes down how a build ended.
pub(crate) async fn settle(
    conn: &mut PgConnection,
    projection: &dyn Projection,
    state: &str,
    detail: Option<&str>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE builds SET state = $3, detail = $4, seconds_left = NULL,
                updated_at = clock_timestamp()
          WHERE name = $1 AND version = $2 AND state = 'running'",
    )
    .bind(projection.name())
    .bind(projection.version())
    .bind(state)
    .bind(detail)
    .execute(conn)
    .await
    .map(drop)
}

/// The position of the live tables, and whether their first build is complete.
pub(crate) async fn live(
    conn: &mut PgConnection,
    projection: &dyn Projection,
) -> Result<(i64, bool), RebuildError> {
    sqlx::query_as("SELECT position, built FROM projections WHERE name = $1 AND version = $2")
        .bind(projection.name())
        .bind(projection.version())
        .fetch_optional(conn)
        .await?
        .ok_or(RebuildError::NotRegistered(projection.name()))
}

/// Locks the fence of a projection; its live position.
async fn lock_checkpoint(
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
