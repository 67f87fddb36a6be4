//! The projector keeps the read tables up with the book.
//!
//! Each projection runs on its own, so that one that stops stops alone. A batch is one transaction:
//! the checkpoint row is locked, lines are read after it, rows are written, the checkpoint moves. The
//! lock is the fence, so any number of replicas may run this; `SKIP LOCKED` lets the others sleep.
//!
//! It never skips. At an event that can't be applied it stops, says so in the registry, and tries
//! again now and then, so that it goes on by itself once a binary that can runs.

use std::{collections::HashMap, sync::Arc, time::Duration};

use sqlx::{PgPool, Row};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    head::HeadWatch,
    journal::{self, JournalError, RecordedEvent},
    projection::{ApplyError, Generation, Projection},
    sequencer::back_off,
    status::{ProjectionStatus, status},
    tables,
};

/// How many lines one transaction applies at most.
pub(crate) const BATCH: i64 = 2_000;
/// How long a projection sleeps when nobody wakes it.
const POLL: Duration = Duration::from_millis(500);
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
    pool: PgPool,
    projections: Arc<[&'static dyn Projection]>,
    head: HeadWatch,
    /// How far this process knows each projection to be.
    checkpoints: Arc<HashMap<&'static str, watch::Sender<i64>>>,
    try_again: Duration,
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
}

impl Projector {
    #[must_use]
    pub fn new(pool: PgPool, projections: Vec<&'static dyn Projection>, head: HeadWatch) -> Self {
        let checkpoints = projections
            .iter()
            .map(|projection| (projection.name(), watch::Sender::new(0)))
            .collect();
        Self {
            pool,
            projections: projections.into(),
            head,
            checkpoints: Arc::new(checkpoints),
            try_again: TRY_AGAIN,
        }
    }

    /// Tries stopped projections again after so long.
    #[must_use]
    pub fn trying_again_after(mut self, pause: Duration) -> Self {
        self.try_again = pause;
        self
    }

    /// Makes and registers what is missing. Safe from any number of replicas at once.
    pub async fn ensure(&self) -> Result<(), ProjectorError> {
        for projection in self.projections.iter().copied() {
            let database =
                |cause| ProjectorError::Database { projection: projection.name(), cause };
            let mut transaction = self.pool.begin().await.map_err(database)?;
            tables::ensure(&mut transaction, projection).await.map_err(database)?;
            transaction.commit().await.map_err(database)?;
        }
        Ok(())
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

    /// Applies all that is in the journal now, then returns: for the command line and for tests.
    pub async fn catch_up(&self) -> Result<(), ProjectorError> {
        for projection in self.projections.iter().copied() {
            let name = projection.name();
            let mut limit = BATCH;
            loop {
                match self.step(projection, &mut limit).await? {
                    Step::Busy => sleep(Duration::from_millis(20)).await,
                    Step::Advanced { more: true, .. } => {}
                    Step::Advanced { more: false, .. } => break,
                    Step::Stopped { detail } => {
                        return Err(ProjectorError::Stopped { projection: name, detail });
                    }
                }
            }
        }
        Ok(())
    }

    async fn keep_up(&self, projection: &'static dyn Projection) {
        let name = projection.name();
        let mut head = self.head.clone();
        let mut limit = BATCH;
        let mut failures = 0;
        loop {
            let position = match self.step(projection, &mut limit).await {
                Ok(Step::Advanced { more: true, .. }) => {
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
        loop {
            let failed = match self.apply_batch(projection, *limit).await {
                Ok(step) => {
                    *limit = limit.saturating_mul(2).min(BATCH);
                    if let Step::Advanced { position, .. } = step {
                        self.publish(name, position);
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
                    return Err(ProjectorError::Database { projection: name, cause });
                }
                BatchError::Refused { .. } if *limit > 1 => *limit /= 2,
                BatchError::Refused { event, cause } => {
                    let detail =
                        explain(&format!("{event}: the database refuses its rows: {cause}"));
                    self.stop(projection, &detail)
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
    ) -> Result<Step, BatchError> {
        let mut transaction = self.pool.begin().await?;
        let Some(checkpoint) = sqlx::query(
            "SELECT position, state FROM projections WHERE name = $1 AND version = $2
                FOR UPDATE SKIP LOCKED",
        )
        .bind(projection.name())
        .bind(projection.version())
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

        let (events, mut stopped) =
            match journal::read_after(&mut transaction, position, limit).await {
                Ok(events) => (events, None),
                Err(JournalError::Database(cause)) => return Err(cause.into()),
                Err(cause) => (Vec::new(), Some(cause.to_string())),
            };
        let more = i64::try_from(events.len()).is_ok_and(|read| read >= limit);
        let mut events = events.as_slice();
        while !events.is_empty() {
            match projection.apply(&mut transaction, Generation::Live, events).await {
                Ok(()) => break,
                Err(ApplyError::Event(cause)) => {
                    events = before(events, cause.position);
                    stopped = Some(cause.to_string());
                }
                Err(ApplyError::Database(cause)) => return Err(refused(events, cause)),
            }
        }

        let position = events.last().map_or(position, |last| last.position);
        let detail = stopped.map(|cause| explain(&cause));
        let next_state = match (&detail, more) {
            (Some(_), _) => "stopped",
            (None, true) if state == "building" => "building",
            (None, _) => "live",
        };
        if !events.is_empty() || next_state != state || detail.is_some() {
            sqlx::query(
                "UPDATE projections
                    SET position = $3, state = $4, detail = $5, updated_at = clock_timestamp()
                  WHERE name = $1 AND version = $2
                    AND (position, state, detail) IS DISTINCT FROM ($3, $4, $5)",
            )
            .bind(projection.name())
            .bind(projection.version())
            .bind(position)
            .bind(next_state)
            .bind(&detail)
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
        detail: &str,
    ) -> Result<(), sqlx::Error> {
        sqlx::query(
            "UPDATE projections SET state = 'stopped', detail = $3, updated_at = clock_timestamp()
              WHERE name = $1 AND version = $2 AND (state, detail) IS DISTINCT FROM ('stopped', $3)",
        )
        .bind(projection.name())
        .bind(projection.version())
        .bind(detail)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Waits until a projection shows an append, at most for `timeout`. `false` when it does not, or
    /// is stopped: the caller then folds the stream itself.
    pub async fn wait_for(&self, receipt: Receipt, name: &str, timeout: Duration) -> bool {
        let Some((name, checkpoint)) = self.checkpoints.get_key_value(name) else { return false };
        let Some(projection) = self.projections.iter().find(|known| known.name() == *name) else {
            return false;
        };
        tokio::time::timeout(timeout, async {
            let position = self.position_of(receipt).await;
            self.shows(*projection, checkpoint.subscribe(), position).await
        })
        .await
        .unwrap_or(false)
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
    async fn shows(
        &self,
        projection: &'static dyn Projection,
        mut checkpoint: watch::Receiver<i64>,
        position: i64,
    ) -> bool {
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
            .fetch_optional(&self.pool)
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

#[derive(Debug)]
enum BatchError {
    Unregistered,
    Database(sqlx::Error),
    /// The database can't take the rows of these events; the first is named.
    Refused {
        event: String,
        cause: sqlx::Error,
    },
}

impl From<sqlx::Error> for BatchError {
    fn from(cause: sqlx::Error) -> Self {
        Self::Database(cause)
    }
}

/// How far a projection is, if it is registered, and where the book ends.
async fn standing(
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

/// The events before a position.
pub(crate) fn before(events: &[RecordedEvent], position: i64) -> &[RecordedEvent] {
    let end = events.partition_point(|event| event.position < position);
    events.get(..end).unwrap_or_default()
}

/// Tells rows that the database can't take from a database that is in trouble.
fn refused(events: &[RecordedEvent], cause: sqlx::Error) -> BatchError {
    let about_the_rows = match &cause {
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Encode(_) | sqlx::Error::Decode(_) => true,
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            // Cardinality, data, integrity, and what does not exist (SQLSTATE classes, PostgreSQL
            // documentation, appendix A).
            ["21", "22", "23", "42"].iter().any(|class| code.starts_with(class))
        }),
        _ => false,
    };
    match events.first() {
        Some(event) if about_the_rows => BatchError::Refused {
            event: format!(
                "line {} ({} {} number {}, {})",
                event.position,
                event.aggregate_type,
                event.aggregate_id,
                event.sequence,
                event.event_type
            ),
            cause,
        },
        _ => BatchError::Database(cause),
    }
}

/// What is said of a projection that is stopped.
fn explain(cause: &str) -> String {
    format!(
        "{cause}. Nothing was skipped, and sign-in goes on. Run a version of Entrybook that can \
         apply this event (or mend the table): the projection then goes on by itself"
    )
}
