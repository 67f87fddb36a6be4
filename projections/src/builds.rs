//! What is known of builds: how far one is, told to who waits for it and to everybody else.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{PgPool, Row};
use tokio_util::sync::CancellationToken;

use crate::{projection::Projection, rebuild::RebuildError, tables::BUILD_LOCK};

/// How often progress is told, at most.
const TELL: Duration = Duration::from_millis(200);
/// How often it is written down for others, at most.
const WRITE_DOWN: Duration = Duration::from_millis(500);

/// What a build is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Lines are read and folded.
    Folding,
    /// Rows are written.
    Copying,
    /// Indexes are made.
    Indexing,
    /// Lines that came meanwhile are folded.
    CatchingUp,
    /// Live and new are compared.
    Comparing,
    /// The new tables take the place of the live ones.
    Swapping,
}

impl Phase {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Folding => "folding",
            Self::Copying => "copying",
            Self::Indexing => "indexing",
            Self::CatchingUp => "catching_up",
            Self::Comparing => "comparing",
            Self::Swapping => "swapping",
        }
    }
}

/// How far a build is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Progress {
    pub projection: &'static str,
    pub phase: Phase,
    /// The lines folded.
    pub events_done: i64,
    /// The lines there are to fold.
    pub events_total: i64,
    pub events_per_second: f64,
    /// Until all lines are folded, where that can be told.
    pub seconds_left: Option<f64>,
    /// Since the start.
    pub seconds: f64,
}

/// A build, as it stands in the database: under way on any replica, or the last one.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Build {
    pub name: String,
    pub version: i32,
    pub state: BuildState,
    /// `Phase::as_str`.
    pub phase: String,
    pub dry_run: bool,
    pub events_done: i64,
    pub events_total: i64,
    pub events_per_second: f64,
    pub seconds_left: Option<f64>,
    /// How long it has taken, or took.
    pub seconds: f64,
    pub started_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    /// What came of it, in a sentence or a few.
    pub detail: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BuildState {
    Running,
    /// Its process is gone; the next rebuild goes on where it was.
    Interrupted,
    /// A first build is complete.
    Built,
    /// The new tables took the place of the live ones.
    Swapped,
    /// Live and new are equal; nothing was to be swapped.
    Compared,
    /// Live and new differ; nothing was swapped.
    Differs,
    Failed,
    Cancelled,
}

impl BuildState {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Interrupted => "interrupted",
            Self::Built => "built",
            Self::Swapped => "swapped",
            Self::Compared => "compared",
            Self::Differs => "differs",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    fn from_stored(state: &str, alive: bool) -> Self {
        match state {
            "running" if alive => Self::Running,
            "running" => Self::Interrupted,
            "built" => Self::Built,
            "swapped" => Self::Swapped,
            "compared" => Self::Compared,
            "differs" => Self::Differs,
            "cancelled" => Self::Cancelled,
            _ => Self::Failed,
        }
    }
}

/// The builds under way and the last ones, one for each version of a projection.
pub async fn builds(pool: &PgPool) -> Result<Vec<Build>, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT name, version, state, phase, dry_run, events_done, events_total, events_per_second,
                seconds_left, extract(epoch FROM updated_at - started_at)::float8 AS seconds,
                started_at, updated_at, detail,
                EXISTS (SELECT FROM pg_locks
                         WHERE locktype = 'advisory' AND granted AND objsubid = 2
                           AND database = (SELECT oid FROM pg_database
                                            WHERE datname = current_database())
                           AND classid = $1::bigint::oid
                           AND objid = (hashtext(name)::bigint & 4294967295)::oid)
                -- The lock is that of the name. Whoever began a build of another version of it later
                -- found it free.
                AND NOT EXISTS (SELECT FROM builds AS later
                                 WHERE later.name = b.name AND later.version <> b.version
                                   AND later.started_at > b.started_at) AS alive
           FROM builds AS b ORDER BY name, version",
    )
    .bind(i64::from(BUILD_LOCK))
    .fetch_all(pool)
    .await?;
    rows.iter()
        .map(|row| {
            let state: String = row.try_get("state")?;
            Ok(Build {
                name: row.try_get("name")?,
                version: row.try_get("version")?,
                state: BuildState::from_stored(&state, row.try_get("alive")?),
                phase: row.try_get("phase")?,
                dry_run: row.try_get("dry_run")?,
                events_done: row.try_get("events_done")?,
                events_total: row.try_get("events_total")?,
                events_per_second: row.try_get("events_per_second")?,
                seconds_left: row.try_get("seconds_left")?,
                seconds: row.try_get("seconds")?,
                started_at: row.try_get("started_at")?,
                updated_at: row.try_get("updated_at")?,
                detail: row.try_get("detail")?,
            })
        })
        .collect()
}

/// Asks the rebuild of a projection to stop, on whichever replica it runs; `false` if none runs.
/// A first build is no rebuild: the projection has nothing else to show.
pub async fn cancel_build(pool: &PgPool, projection: &dyn Projection) -> Result<bool, sqlx::Error> {
    let asked = sqlx::query(
        "UPDATE builds SET cancel = true
          WHERE name = $1 AND version = $2 AND state = 'running'
            AND EXISTS (SELECT FROM projections AS p
                         WHERE p.name = $1 AND p.version = $2 AND p.built)",
    )
    .bind(projection.name())
    .bind(projection.version())
    .execute(pool)
    .await?;
    Ok(asked.rows_affected() > 0)
}

/// Who watches a build: it tells its progress, times its phases, and hears that it should stop.
pub(crate) struct Watch<'a> {
    pool: PgPool,
    projections: Vec<(&'static str, i32)>,
    /// All that are built with it.
    chosen: Vec<(&'static str, i32)>,
    pub(crate) rows_in_memory: usize,
    cancel: &'a CancellationToken,
    tell: &'a mut (dyn FnMut(&Progress) + Send),
    began: Instant,
    phase: Phase,
    phase_began: Instant,
    phases: Vec<(Phase, Duration)>,
    /// The line it started after.
    from: i64,
    done: i64,
    total: i64,
    told: Option<Instant>,
    written_down: Option<Instant>,
}

impl<'a> Watch<'a> {
    pub(crate) fn new(
        pool: PgPool,
        projections: Vec<(&'static str, i32)>,
        rows_in_memory: usize,
        cancel: &'a CancellationToken,
        tell: &'a mut (dyn FnMut(&Progress) + Send),
    ) -> Self {
        let now = Instant::now();
        Self {
            pool,
            chosen: projections.clone(),
            projections,
            rows_in_memory,
            cancel,
            tell,
            began: now,
            phase: Phase::Folding,
            phase_began: now,
            phases: Vec::new(),
            from: 0,
            done: 0,
            total: 0,
            told: None,
            written_down: None,
        }
    }

    /// Where it starts, and how far the book goes.
    pub(crate) fn starts_at(&mut self, from: i64, total: i64) {
        (self.from, self.done, self.total) = (from, from, total);
    }

    /// From now on it tells of this one alone. It still stops when any that is not decided is
    /// cancelled.
    pub(crate) fn only(&mut self, projection: &'static dyn Projection) {
        self.projections = vec![(projection.name(), projection.version())];
    }

    pub(crate) fn enter(&mut self, phase: Phase) {
        if phase != self.phase {
            self.close_phase();
            self.phase = phase;
            self.written_down = None;
            self.tell();
        }
    }

    fn close_phase(&mut self) {
        let took = self.phase_began.elapsed();
        self.phase_began = Instant::now();
        self.spend(self.phase, took);
    }

    fn spend(&mut self, phase: Phase, took: Duration) {
        match self.phases.iter_mut().find(|(known, _)| *known == phase) {
            Some((_, total)) => *total += took,
            None => self.phases.push((phase, took)),
        }
    }

    /// So much of the phase was spent on writing rows.
    pub(crate) fn copied(&mut self, took: Duration) {
        self.close_phase();
        if let Some((_, total)) = self.phases.iter_mut().find(|(known, _)| *known == self.phase) {
            *total = total.saturating_sub(took);
        }
        self.spend(Phase::Copying, took);
    }

    /// The phases so far, in seconds, and the time since the start.
    pub(crate) fn times(&mut self) -> (Vec<(Phase, f64)>, f64) {
        self.close_phase();
        let phases = self.phases.iter().map(|(phase, took)| (*phase, took.as_secs_f64())).collect();
        (phases, self.began.elapsed().as_secs_f64())
    }

    /// Lines up to `position` are folded.
    pub(crate) async fn folded(&mut self, position: i64, target: i64) -> Result<(), RebuildError> {
        self.done = position;
        self.total = self.total.max(target);
        self.report().await
    }

    /// Waits for a long statement, and goes on telling.
    pub(crate) async fn during<T, E: Into<RebuildError>>(
        &mut self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, RebuildError> {
        tokio::pin!(work);
        self.report().await?;
        let cancel = self.cancel;
        loop {
            // Side by side: what is written down may wait for a row that the work holds.
            let telling = async {
                tokio::time::sleep(TELL).await;
                self.report().await
            };
            tokio::select! {
                done = &mut work => return done.map_err(Into::into),
                told = telling => told?,
                () = cancel.cancelled() => return Err(RebuildError::Cancelled),
            }
        }
    }

    /// Tells how far it is, now and then. Fails when the build should stop.
    async fn report(&mut self) -> Result<(), RebuildError> {
        if self.cancel.is_cancelled() {
            return Err(RebuildError::Cancelled);
        }
        let now = Instant::now();
        let due = |last: Option<Instant>, every| last.is_none_or(|last| now - last >= every);
        if due(self.told, TELL) {
            self.tell();
        }
        if due(self.written_down, WRITE_DOWN) {
            self.written_down = Some(now);
            return self.write_down().await;
        }
        Ok(())
    }

    fn tell(&mut self) {
        self.told = Some(Instant::now());
        for progress in self.progress() {
            (self.tell)(&progress);
        }
    }

    fn progress(&self) -> Vec<Progress> {
        let seconds = self.began.elapsed().as_secs_f64();
        let folding = self.phase_began.elapsed()
            + self
                .phases
                .iter()
                .filter(|(phase, _)| matches!(phase, Phase::Folding | Phase::Copying))
                .map(|(_, took)| *took)
                .sum::<Duration>();
        let folding = match self.phase {
            Phase::Folding | Phase::Copying => folding,
            _ => folding.saturating_sub(self.phase_began.elapsed()),
        };
        #[expect(clippy::cast_precision_loss, reason = "for the eye")]
        let (done, left) = ((self.done - self.from) as f64, (self.total - self.done) as f64);
        let rate = if folding.is_zero() { 0.0 } else { done / folding.as_secs_f64() };
        let seconds_left = match self.phase {
            Phase::Folding | Phase::Copying if rate > 0.0 => Some(left / rate),
            _ => None,
        };
        self.projections
            .iter()
            .map(|(projection, _)| Progress {
                projection,
                phase: self.phase,
                events_done: self.done,
                events_total: self.total.max(self.done),
                events_per_second: rate,
                seconds_left,
                seconds,
            })
            .collect()
    }

    /// Writes the progress down for everybody, and asks whether somebody wants it to stop.
    async fn write_down(&mut self) -> Result<(), RebuildError> {
        let Some(progress) = self.progress().into_iter().next() else { return Ok(()) };
        let (names, versions): (Vec<_>, Vec<_>) = self.projections.iter().copied().unzip();
        let stop: Option<bool> = sqlx::query_scalar(
            "WITH told AS (
                 UPDATE builds AS b
                    SET phase = $3, events_done = $4, events_total = $5, events_per_second = $6,
                        seconds_left = $7, updated_at = clock_timestamp()
                   FROM unnest($1::text[], $2::int[]) AS mine (name, version)
                  WHERE b.name = mine.name AND b.version = mine.version AND b.state = 'running'
                 RETURNING b.name)
             SELECT bool_or(b.cancel)
               FROM builds AS b
               JOIN unnest($8::text[], $9::int[]) AS chosen (name, version)
                 ON b.name = chosen.name AND b.version = chosen.version
              WHERE b.state = 'running'",
        )
        .bind(names)
        .bind(versions)
        .bind(progress.phase.as_str())
        .bind(progress.events_done)
        .bind(progress.events_total)
        .bind(progress.events_per_second)
        .bind(progress.seconds_left)
        .bind(self.chosen.iter().map(|(name, _)| *name).collect::<Vec<_>>())
        .bind(self.chosen.iter().map(|(_, version)| *version).collect::<Vec<_>>())
        .fetch_one(&self.pool)
        .await?;
        if stop == Some(true) { Err(RebuildError::Cancelled) } else { Ok(()) }
    }
}
