//! The projector keeps the read tables up with the book.
//!
//! Each projection runs on its own, so that one that stops stops alone. A batch is one transaction:
//! the checkpoint row is locked, lines are read after it, rows are written, the checkpoint moves. The
//! lock is the fence, so any number of replicas may run this; `SKIP LOCKED` lets the others sleep.
//!
//! It never skips. At an event that can't be applied it stops, says so in the registry, and tries
//! again now and then, so that it goes on by itself once a binary that can runs.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sqlx::{PgPool, Row, types::Json};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

mod stopping;

pub(crate) use self::stopping::about_rows;
use self::stopping::{BatchError, explain, refused, took_too_long, unreadable};
use crate::{
    book_source::BookSource,
    first_build::first_build,
    head::HeadWatch,
    journal::{self, JournalError},
    projection::{ApplyError, Entry, Generation, Projection, Start, StopKind},
    rebuild::{Options, RebuildError},
    sequencer::back_off,
    status::{ProjectionStatus, Stopped, status},
    tables,
};

/// How many lines one transaction applies at most.
pub(crate) const BATCH: i64 = 2_000;
/// How long a projection sleeps when nobody wakes it.
const POLL: Duration = Duration::from_millis(500);
/// How long a batch waits for a table that somebody holds, …
const LOCK_TIMEOUT: &str = "5s";
/// … and how long one of its statements may take.
const STATEMENT_TIMEOUT: &str = "60s";
/// How often a stopped projection tries again.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// Why a projection could not be advanced.
#[derive(Debug, thiserror::Error)]
pub enum ProjectorError {
    #[error(
        "the projection {projection} could not be advanced, because the database failed: {cause}"
    )]
    Database { projection: &'static str, cause: sqlx::Error },
    #[error("the projection {projection} is stopped: {detail}")]
    Stopped { projection: &'static str, detail: String },
    #[error(
        "the projection {projection} version {version} is not registered; run `entrybook serve` or `entrybook migrate` first"
    )]
    NotRegistered { projection: &'static str, version: i32 },
}

/// Where an append stands: the transaction that wrote it and the id of its last event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    pub tx: u64,
    pub event_id: i64,
}

/// Advances projections. Clones share what they know.
#[derive(Debug, Clone)]
pub struct Projector {
    pool: BookSource,
    projections: Arc<[&'static dyn Projection]>,
    head: HeadWatch,
    /// How far this process knows each projection to be.
    checkpoints: Arc<HashMap<&'static str, watch::Sender<i64>>>,
    /// Those whose first build this process knows to be complete.
    built: Arc<HashMap<&'static str, AtomicBool>>,
    try_again: Duration,
    rows_in_memory: usize,
}

/// What one attempt came to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// Another replica is advancing it.
    Busy,
    /// It has come to this position; `more` if there may be more lines.
    Advanced {
        position: i64,
        more: bool,
    },
    Stopped {
        detail: String,
    },
    /// Its first build is not complete.
    Unbuilt,
}

impl Projector {
    #[must_use]
    pub fn new(
        pool: BookSource,
        projections: Vec<&'static dyn Projection>,
        head: HeadWatch,
    ) -> Self {
        let checkpoints = projections
            .iter()
            .map(|projection| (projection.name(), watch::Sender::new(0)))
            .collect();
        let built = projections
            .iter()
            .map(|projection| (projection.name(), AtomicBool::new(false)))
            .collect();
        Self {
            pool,
            projections: projections.into(),
            head,
            checkpoints: Arc::new(checkpoints),
            built: Arc::new(built),
            try_again: TRY_AGAIN,
            rows_in_memory: Options::default().rows_in_memory,
        }
    }

    /// Tries stopped projections again after so long.
    #[must_use]
    pub fn trying_again_after(mut self, pause: Duration) -> Self {
        self.try_again = pause;
        self
    }

    /// Keeps so many rows of a projection in memory while it builds it for the first time.
    #[must_use]
    pub fn keeping_in_memory(mut self, rows: usize) -> Self {
        self.rows_in_memory = rows;
        self
    }

    /// Makes and registers what is missing. Safe from any number of replicas at once.
    pub async fn ensure(&self) -> Result<(), ProjectorError> {
        for projection in self.projections.iter().copied() {
            let database =
                |cause| ProjectorError::Database { projection: projection.name(), cause };
            let mut transaction = self.pool.begin().await.map_err(database)?;
            let made = tables::ensure(&mut transaction, projection).await.map_err(database)?;
            transaction.commit().await.map_err(database)?;
            if made {
                self.forget(projection.name());
            }
        }
        Ok(())
    }

    /// Whether the tables of a projection show a whole book, if not up to its last line. It asks
    /// the database until they do.
    pub async fn is_built(&self, name: &str) -> Result<bool, sqlx::Error> {
        let Some(built) = self.built.get(name) else { return Ok(false) };
        if built.load(Ordering::Relaxed) {
            return Ok(true);
        }
        let Some(projection) = self.projections.iter().find(|one| one.name() == name) else {
            return Ok(false);
        };
        let now: Option<bool> =
            sqlx::query_scalar("SELECT built FROM projections WHERE name = $1 AND version = $2")
                .bind(name)
                .bind(projection.version())
                .fetch_optional(self.pool.pool())
                .await?;
        built.store(now == Some(true), Ordering::Relaxed);
        Ok(now == Some(true))
    }

    /// How the projections stand.
    pub async fn status(&self) -> Result<Vec<ProjectionStatus>, sqlx::Error> {
        status(&self.pool, &self.projections).await
    }

    /// Advances the projections until cancelled. Errors are logged and ridden out.
    pub async fn run(&self, cancel: CancellationToken) {
        let each = self.projections.iter().copied().map(|projection| async move {
            loop {
                let projector = self.clone();
                // A task of its own, so that even an error of the program stops one alone.
                let task = AbortOnDropHandle::new(tokio::spawn(async move {
                    projector.keep_up(projection).await;
                }));
                if let Err(cause) = task.await {
                    let name = projection.name();
                    tracing::error!(projection = name, %cause, "the projection {name} failed: {cause}");
                }
                sleep(self.try_again).await;
            }
        });
        tokio::select! {
            () = cancel.cancelled() => {}
            _ = futures_util::future::join_all(each) => {}
        }
    }

    /// Applies all that is in the journal now, then returns: for the command line and for tests. One
    /// that is stopped keeps none of the others back; the first of those is the error in the end.
    pub async fn catch_up(&self) -> Result<(), ProjectorError> {
        let mut stopped = None;
        for projection in self.projections.iter().copied() {
            match self.catch_up_one(projection).await {
                Err(error @ ProjectorError::Stopped { .. }) => {
                    stopped.get_or_insert(error);
                }
                done => done?,
            }
        }
        stopped.map_or(Ok(()), Err)
    }

    async fn catch_up_one(
        &self,
        projection: &'static dyn Projection,
    ) -> Result<(), ProjectorError> {
        let mut limit = BATCH;
        loop {
            match self.step(projection, &mut limit).await? {
                Step::Busy => sleep(Duration::from_millis(20)).await,
                Step::Advanced { more: true, .. } => {}
                Step::Advanced { more: false, .. } => return Ok(()),
                Step::Stopped { detail } => {
                    let projection = projection.name();
                    return Err(ProjectorError::Stopped { projection, detail });
                }
                Step::Unbuilt => {}
            }
        }
    }

    async fn keep_up(&self, projection: &'static dyn Projection) {
        let name = projection.name();
        let mut head = self.head.clone();
        let mut limit = BATCH;
        let mut failures = 0;
        loop {
            let position = match self.step(projection, &mut limit).await {
                Ok(Step::Advanced { more: true, .. } | Step::Unbuilt) => {
                    failures = 0;
                    continue;
                }
                Ok(Step::Advanced { position, more: false }) => position,
                Ok(Step::Busy) => {
                    // Whoever is at it will see the lines there are; if it dies, the poll finds out.
                    sleep(POLL / 10).await;
                    head.borrow_and_update().position
                }
                Ok(Step::Stopped { detail }) => {
                    tracing::error!(
                        projection = name,
                        "the projection {name} is stopped: {detail}"
                    );
                    failures = 0;
                    sleep(self.try_again).await;
                    continue;
                }
                Err(cause) => {
                    tracing::error!(projection = name, %cause, "{cause}");
                    failures += 1;
                    sleep(back_off(failures)).await;
                    continue;
                }
            };
            failures = 0;
            self.sleep_until_after(name, projection.version(), position, &mut head).await;
        }
    }

    /// Returns when there may be lines after `position` that nobody has applied. It looks at the
    /// registry now and then without a lock, so that an idle replica writes nothing.
    async fn sleep_until_after(
        &self,
        name: &'static str,
        version: i32,
        position: i64,
        head: &mut HeadWatch,
    ) {
        loop {
            let moved = async {
                if head.wait_for(|head| head.position > position).await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            if tokio::time::timeout(POLL, moved).await.is_ok() {
                return;
            }
            match standing(&self.pool, name, version).await {
                Ok((Some(applied), last)) => {
                    self.publish(name, applied);
                    if last > applied {
                        return;
                    }
                }
                // The next step says what is wrong.
                Ok((None, _)) | Err(_) => return,
            }
        }
    }

    /// Its tables are new: what was known of others of this name is not so any more.
    fn forget(&self, name: &str) {
        if let Some(built) = self.built.get(name) {
            built.store(false, Ordering::Relaxed);
        }
        if let Some(checkpoint) = self.checkpoints.get(name) {
            checkpoint.send_replace(0);
        }
    }

    fn publish(&self, name: &str, position: i64) {
        if let Some(checkpoint) = self.checkpoints.get(name) {
            checkpoint.send_if_modified(|known| {
                let newer = position > *known;
                if newer {
                    *known = position;
                }
                newer
            });
        }
    }

    /// Applies one batch of at most `limit` lines. When the database refuses the rows of a batch, the
    /// limit shrinks until the event at fault stands alone.
    async fn step(
        &self,
        projection: &'static dyn Projection,
        limit: &mut i64,
    ) -> Result<Step, ProjectorError> {
        let name = projection.name();
        let mut whatever_is_built = false;
        loop {
            let failed = match self.apply_batch(projection, *limit, whatever_is_built).await {
                Ok(Step::Unbuilt) => {
                    match first_build(&self.pool, projection, self.rows_in_memory).await {
                        Ok(()) => return Ok(Step::Unbuilt),
                        Err(RebuildError::UnderWay(_) | RebuildError::Displaced(_)) => {
                            return Ok(Step::Busy);
                        }
                        Err(RebuildError::Database(cause)) if !about_rows(&cause) => {
                            return Err(ProjectorError::Database { projection: name, cause });
                        }
                        // Step by step from where it came to, the line at fault is found and named.
                        Err(cause) => {
                            tracing::error!(projection = name, %cause, "{name} can't be built: {cause}");
                            whatever_is_built = true;
                            continue;
                        }
                    }
                }
                Ok(step) => {
                    *limit = limit.saturating_mul(2).min(BATCH);
                    if let Step::Advanced { position, more } = step {
                        self.publish(name, position);
                        if whatever_is_built && more {
                            continue;
                        }
                        if whatever_is_built {
                            // It could be applied after all, so the build can be completed.
                            sleep(self.try_again).await;
                            return Ok(Step::Unbuilt);
                        }
                    }
                    return Ok(step);
                }
                Err(failed) => failed,
            };
            match failed {
                BatchError::Unregistered => {
                    let version = projection.version();
                    return Err(ProjectorError::NotRegistered { projection: name, version });
                }
                BatchError::Database(cause) => {
                    if took_too_long(&cause) {
                        *limit = (*limit / 2).max(1);
                    }
                    return Err(ProjectorError::Database { projection: name, cause });
                }
                BatchError::Refused { .. } if *limit > 1 => *limit /= 2,
                BatchError::Refused { event, cause } => {
                    let stopped = Stopped {
                        kind: StopKind::RefusedRows,
                        cause: format!("the database refuses its rows: {cause}"),
                        ..event
                    };
                    let detail = explain(&stopped);
                    self.stop(projection, &stopped, &detail)
                        .await
                        .map_err(|cause| ProjectorError::Database { projection: name, cause })?;
                    return Ok(Step::Stopped { detail });
                }
            }
        }
    }

    async fn apply_batch(
        &self,
        projection: &'static dyn Projection,
        limit: i64,
        whatever_is_built: bool,
    ) -> Result<Step, BatchError> {
        let mut transaction = self.pool.begin().await?;
        let Some(checkpoint) = sqlx::query(
            // The commit need not be waited for: after a crash of the database the last rows may be gone,
            // and the checkpoint with them.
            //
            // A batch holds back the order of the book, so it doesn't wait for long for a table that somebody holds,
            // and doesn't run for long; it is tried again.
            "SELECT position, state, built, set_config('synchronous_commit', 'off', true),
                    set_config('lock_timeout', $3, true), set_config('statement_timeout', $4, true)
               FROM projections WHERE name = $1 AND version = $2 FOR UPDATE SKIP LOCKED",
        )
        .bind(projection.name())
        .bind(projection.version())
        .bind(LOCK_TIMEOUT)
        .bind(STATEMENT_TIMEOUT)
        .fetch_optional(&mut *transaction)
        .await?
        else {
            let (registered, _) =
                standing(&self.pool, projection.name(), projection.version()).await?;
            return if registered.is_some() {
                Ok(Step::Busy)
            } else {
                Err(BatchError::Unregistered)
            };
        };
        let position: i64 = checkpoint.try_get("position")?;
        let state: String = checkpoint.try_get("state")?;
        let built: bool = checkpoint.try_get("built")?;
        if !built && !whatever_is_built {
            return Ok(Step::Unbuilt);
        }

        let (events, mut stopped) =
            match journal::read_after(&mut transaction, position, limit).await {
                Ok(events) => (events, None),
                Err(JournalError::Database(cause)) => return Err(cause.into()),
                Err(cause) => (Vec::new(), Some(unreadable(position, &cause))),
            };
        let more = i64::try_from(events.len()).is_ok_and(|read| read >= limit);
        let entries: Vec<Entry> =
            events.into_iter().map(|event| Entry::new(event, self.pool.authenticator())).collect();
        let mut entries = entries.as_slice();
        while !entries.is_empty() {
            let mut folding = projection.folding(Generation::Live, Start::Careful);
            match folding.absorb(&mut transaction, entries).await {
                Ok(()) => {
                    if let Err(cause) = folding.write(&mut transaction, usize::MAX).await {
                        return Err(refused(entries, cause));
                    }
                    break;
                }
                Err(ApplyError::Event(cause)) => {
                    entries = before(entries, cause.position);
                    stopped = Some(Stopped::from(&cause));
                }
                Err(ApplyError::Database(cause)) => return Err(refused(entries, cause)),
            }
        }

        let position = entries.last().map_or(position, |last| last.recorded.position);
        let detail = stopped.as_ref().map(explain);
        let next_state = match (&detail, more) {
            (Some(_), _) => "stopped",
            (None, _) if !built => "building",
            (None, true) if state == "building" => "building",
            (None, _) => "live",
        };
        if !entries.is_empty() || next_state != state || detail.is_some() {
            sqlx::query(
                "UPDATE projections
                    SET position = $3, state = $4, detail = $5, stopped = $6,
                        updated_at = clock_timestamp()
                  WHERE name = $1 AND version = $2
                    AND (position, state, detail, stopped) IS DISTINCT FROM ($3, $4, $5, $6)",
            )
            .bind(projection.name())
            .bind(projection.version())
            .bind(position)
            .bind(next_state)
            .bind(&detail)
            .bind(stopped.as_ref().map(Json))
            .execute(&mut *transaction)
            .await?;
            transaction.commit().await?;
        } else {
            transaction.rollback().await?;
        }
        Ok(match detail {
            Some(detail) => Step::Stopped { detail },
            None => Step::Advanced { position, more },
        })
    }

    /// Marks a projection as stopped. Whoever can bring it further marks it as live again.
    async fn stop(
        &self,
        projection: &'static dyn Projection,
        stopped: &Stopped,
        detail: &str,
    ) -> Result<(), sqlx::Error> {
        sqlx::query(
            "UPDATE projections
                SET state = 'stopped', detail = $3, stopped = $4, updated_at = clock_timestamp()
              WHERE name = $1 AND version = $2
                AND (state, detail, stopped) IS DISTINCT FROM ('stopped', $3, $4)",
        )
        .bind(projection.name())
        .bind(projection.version())
        .bind(detail)
        .bind(Json(stopped))
        .execute(self.pool.pool())
        .await?;
        Ok(())
    }

    /// Waits until a projection shows an append, at most for `timeout`. `false` when it does not, or
    /// is stopped: the caller then folds the stream itself.
    pub async fn wait_for(&self, receipt: Receipt, name: &str, timeout: Duration) -> bool {
        let Some(projection) = self.named(name) else { return false };
        tokio::time::timeout(timeout, async {
            let position = self.position_of(receipt).await;
            self.shows(projection, position).await
        })
        .await
        .unwrap_or(false)
    }

    pub(crate) fn named(&self, name: &str) -> Option<&'static dyn Projection> {
        self.projections.iter().copied().find(|known| known.name() == name)
    }

    /// A position at which the append is settled: its own, or that of a line soon after it.
    async fn position_of(&self, receipt: Receipt) -> i64 {
        let mut watched = self.head.clone();
        let mut pause = Duration::from_millis(5);
        loop {
            let known = *watched.borrow_and_update();
            if known.covers(receipt.tx, receipt.event_id) {
                return known.position;
            }
            // Where no sequencer runs in this process, the control row tells.
            if tokio::time::timeout(pause, watched.changed()).await.is_ok_and(|moved| moved.is_ok())
            {
                continue;
            }
            match journal::head(&self.pool).await {
                Ok(head) if head.covers(receipt.tx, receipt.event_id) => return head.position,
                Ok(_) | Err(_) => sleep(pause).await,
            }
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    /// Whether the projection comes to a position; `false` once it is stopped before it.
    pub(crate) async fn shows(&self, projection: &'static dyn Projection, position: i64) -> bool {
        let checkpoint = self.checkpoints.get(projection.name()).map(watch::Sender::subscribe);
        let Some(mut checkpoint) = checkpoint else { return false };
        let started = Instant::now();
        let mut pause = Duration::from_millis(5);
        loop {
            let moved = checkpoint.wait_for(|applied| *applied >= position);
            if tokio::time::timeout(pause, moved).await.is_ok_and(|moved| moved.is_ok()) {
                return true;
            }
            // Another replica may be the one that advances it.
            let row: Result<Option<(i64, String)>, _> = sqlx::query_as(
                "SELECT position, state FROM projections WHERE name = $1 AND version = $2",
            )
            .bind(projection.name())
            .bind(projection.version())
            .fetch_optional(self.pool.pool())
            .await;
            match row {
                Ok(Some((applied, _))) if applied >= position => {
                    self.publish(projection.name(), applied);
                    return true;
                }
                Ok(Some((_, state))) if state == "stopped" => return false,
                Ok(None) => return false,
                Ok(Some(_)) | Err(_) => {}
            }
            if started.elapsed() > Duration::from_millis(50) {
                pause = (pause * 2).min(Duration::from_millis(50));
            }
        }
    }
}

/// How far a projection is, if it is registered, and where the book ends.
pub(crate) async fn standing(
    pool: &PgPool,
    name: &str,
    version: i32,
) -> Result<(Option<i64>, i64), sqlx::Error> {
    sqlx::query_as(
        "SELECT p.position, s.position FROM sequencer s
           LEFT JOIN projections p ON p.name = $1 AND p.version = $2",
    )
    .bind(name)
    .bind(version)
    .fetch_one(pool)
    .await
}

/// The entries before a position.
fn before(entries: &[Entry], position: i64) -> &[Entry] {
    let end = entries.partition_point(|entry| entry.recorded.position < position);
    entries.get(..end).unwrap_or_default()
}
