//! The first build of a projection on a book that is there already.

use crate::support::reading::verify;
use std::{
    sync::atomic::{AtomicBool, AtomicI64, Ordering},
    time::Duration,
};

use ::projections::{
    BuildState, CannotApply, Generation, Index, Line, Projection, ProjectionState, Projector,
    Sequencer, builds,
};
use sqlx::{PgConnection, PgPool};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{
    book::{Book, Reader, eventually},
    each_line::{EachLine, Quirk, is_alone},
    projecting::Running,
    random_book::RandomBook,
};
use crate::support::database::TestDatabase;

/// A row for each line. It can be held up, and can't apply one line until it is mended.
struct Lines;

/// It may write up to this line; the others wait.
static LET_THROUGH: AtomicI64 = AtomicI64::new(i64::MAX);
static POISONED: AtomicI64 = AtomicI64::new(0);
/// Whether two have ever written it at once.
static OVERLAPPED: AtomicBool = AtomicBool::new(false);
static FOLDED: AtomicI64 = AtomicI64::new(0);
/// Tests that use it run one after the other.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

impl Quirk for Lines {
    const NAME: &'static str = "lines";
    const INDEXES: &'static [Index] = &[Index { name: "again", on: "(position)" }];

    fn meet(line: &Line<'_>) -> Result<(), CannotApply> {
        if line.recorded.position == POISONED.load(Ordering::Relaxed) {
            return Err(line.cannot_apply("this view dislikes it"));
        }
        FOLDED.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    async fn write(
        conn: &mut PgConnection,
        _generation: Generation,
        lines: &[&i64],
    ) -> Result<(), sqlx::Error> {
        if !is_alone::<Self>(conn).await? {
            OVERLAPPED.store(true, Ordering::Relaxed);
        }
        let last = lines.iter().map(|line| **line).max().unwrap_or(0);
        while last > LET_THROUGH.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }
}

static LINES: EachLine<Lines> = EachLine::VIEW;

/// A replica that builds with few rows in memory.
struct Replica {
    projector: Projector,
    task: JoinHandle<()>,
}

impl Replica {
    async fn start(pool: &PgPool) -> Self {
        let projector = Projector::new(
            crate::support::reading::source_of(pool),
            vec![&LINES as &'static dyn Projection],
            Sequencer::new(pool.clone()).head(),
        )
        .trying_again_after(Duration::from_millis(50))
        .keeping_in_memory(100);
        projector.ensure().await.unwrap();
        let task = tokio::spawn({
            let projector = projector.clone();
            async move { projector.run(CancellationToken::new()).await }
        });
        Self { projector, task }
    }
}

async fn shown(pool: &PgPool) -> (i64, i64) {
    sqlx::query_as("SELECT count(*), coalesce(max(position), 0) FROM ledger.lines_v1")
        .fetch_one(pool)
        .await
        .unwrap()
}

async fn build_of_lines(pool: &PgPool) -> (BuildState, i64) {
    let builds = builds(pool).await.unwrap();
    let build = builds.into_iter().find(|one| one.name == "lines").unwrap();
    (build.state, build.events_total)
}

async fn book_of(pool: &PgPool, lines: usize) {
    RandomBook::new(Book::new(pool), 31).write(lines).await;
    Reader::of(pool, Vec::new()).await.settle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_build_is_made_by_one_and_gone_on_with_by_another() {
    let _alone = ALONE.lock().await;
    let database = TestDatabase::create().await;
    let pool = database.pool();
    book_of(pool, 3_000).await;
    FOLDED.store(0, Ordering::Relaxed);
    LET_THROUGH.store(1_500, Ordering::Relaxed);
    let mut replicas = Vec::new();
    for name in ["first", "second"] {
        replicas.push((name, Replica::start(&database.another_pool(name).await).await));
    }
    eventually("half of it is built", || async { shown(pool).await == (1_500, 1_500) }).await;
    for (_, replica) in &replicas {
        assert!(!replica.projector.is_built("lines").await.unwrap());
        let status = &replica.projector.status().await.unwrap()[0];
        assert_eq!((status.built, status.state), (false, ProjectionState::Building));
        assert_eq!((status.position, status.head), (1_500, 3_000));
    }
    assert_eq!(build_of_lines(pool).await, (BuildState::Running, 3_000));
    let refused = verify(pool, &LINES).await;
    assert!(refused.is_err(), "{refused:?}");

    // Whoever is at it dies, and all its connections with it.
    let builder: String = sqlx::query_scalar(
        "SELECT application_name FROM pg_stat_activity JOIN pg_locks USING (pid)
          WHERE locktype = 'advisory' AND datname = current_database() AND application_name <> ''
          LIMIT 1",
    )
    .fetch_one(pool)
    .await
    .unwrap();
    let place = replicas.iter().position(|(name, _)| *name == builder).unwrap();
    replicas.remove(place).1.task.abort();
    sqlx::query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1",
    )
    .bind(&builder)
    .execute(pool)
    .await
    .unwrap();
    LET_THROUGH.store(i64::MAX, Ordering::Relaxed);
    let (_, left) = replicas.pop().unwrap();
    eventually("the other has built it", || async {
        left.projector.is_built("lines").await.unwrap()
            && left.projector.status().await.unwrap()[0].state == ProjectionState::Live
    })
    .await;
    assert_eq!(shown(pool).await, (3_000, 3_000));
    assert_eq!(build_of_lines(pool).await, (BuildState::Built, 3_000));
    assert!(!OVERLAPPED.load(Ordering::Relaxed), "one at a time");
    let folded = FOLDED.load(Ordering::Relaxed);
    assert!(folded < 4_500, "it went on where the other was: {folded} folded");
    assert!(verify(pool, &LINES).await.unwrap().is_equal());
    left.task.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_build_stops_at_the_line_that_it_can_not_apply_and_goes_on_when_it_can() {
    let _alone = ALONE.lock().await;
    let database = TestDatabase::create().await;
    let pool = database.pool();
    book_of(pool, 9_000).await;
    // All of it fits into memory, so nothing was written when it comes to the line.
    POISONED.store(8_500, Ordering::Relaxed);
    FOLDED.store(0, Ordering::Relaxed);
    let running = Running::start(pool, vec![&LINES]).await;
    eventually("it is stopped", || async {
        running.status("lines").await.state == ProjectionState::Stopped
    })
    .await;
    let status = running.status("lines").await;
    assert_eq!((status.position, status.built, status.lag_events), (8_499, false, 501));
    assert!(!running.projector.is_built("lines").await.unwrap());
    assert_eq!(shown(pool).await, (8_499, 8_499), "all before it is shown");
    let stopped = status.stopped.unwrap();
    assert_eq!((stopped.position, stopped.cause.as_str()), (8_500, "this view dislikes it"));
    assert!(stopped.stream.is_some() && stopped.event_type.is_some());
    assert!(status.detail.unwrap().contains("goes on by itself"));
    let folded = FOLDED.load(Ordering::Relaxed);
    eventually("it tries again, from there", || async {
        running.status("lines").await.position == 8_499
            && build_of_lines(pool).await.0 == BuildState::Failed
    })
    .await;
    assert!(folded < 20_000, "it is found soon: {folded} folded");

    POISONED.store(0, Ordering::Relaxed);
    eventually("it goes on", || async {
        running.projector.is_built("lines").await.unwrap()
            && running.status("lines").await.state == ProjectionState::Live
    })
    .await;
    let status = running.status("lines").await;
    assert_eq!((status.position, status.detail, status.stopped), (9_000, None, None));
    assert_eq!(shown(pool).await, (9_000, 9_000));
    running.stop().await;
}
