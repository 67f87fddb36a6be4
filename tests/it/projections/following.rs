//! While tables are built, the order of the book and the live tables go on: in each phase, what is
//! appended in it is settled, applied and shown before the phase ends.

use crate::support::reading::rebuild;
use std::{sync::Mutex, time::Duration};

use ::projections::{
    BuildState, CannotApply, Generation, Index, Line, Options, Outcome, Phase, Progress,
    Projection, Projector, Receipt, Sequencer, builds, users,
};
use sqlx::{ConnectOptions, Connection, PgConnection, PgPool};
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
};
use tokio_util::sync::CancellationToken;

use super::{
    book::{Book, Reader, eventually, session, user},
    each_line::{EachLine, Quirk},
    projecting::Running,
    random_book::RandomBook,
};
use crate::support::database::TestDatabase;

const LINES: usize = 24_000;
/// Half of the lines: so rows are written while lines are folded, and at the end.
const ROWS_IN_MEMORY: usize = 12_000;
/// A line that is folded after rows were written.
const IN_THE_MIDDLE: i64 = 15_000;

/// A view whose build waits at each stage for the test.
struct Awaited;

static AWAITED: EachLine<Awaited> = EachLine::VIEW;

impl Quirk for Awaited {
    const NAME: &'static str = "awaited";
    const INDEXES: &'static [Index] =
        &[Index { name: "gate", on: "(public.pass_the_gate(position))" }];

    fn meet(line: &Line<'_>) -> Result<(), CannotApply> {
        if line.recorded.position == IN_THE_MIDDLE {
            wait_here(Stage::Between);
        }
        Ok(())
    }

    async fn write(
        _conn: &mut PgConnection,
        generation: Generation,
        lines: &[&i64],
    ) -> Result<(), sqlx::Error> {
        let watched = *WATCHED.lock().unwrap() == Some(generation);
        if watched {
            wait_at(Stage::Writing(lines.len())).await;
        }
        Ok(())
    }
}

/// Where a build waits.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Stage {
    /// Between two lines, after rows were written.
    Between,
    /// In a transaction that writes so many rows.
    Writing(usize),
    /// It has told that this projection has come to this phase.
    Told(&'static str, Phase),
}

/// A build that waits until this is dropped or let go on.
struct Waiting {
    stage: Stage,
    _go_on: oneshot::Sender<()>,
}

/// Whose writing is waited for.
static WATCHED: Mutex<Option<Generation>> = Mutex::new(None);
/// Whom a build tells that it waits; while there is nobody, it doesn't.
static TEST: Mutex<Option<mpsc::UnboundedSender<Waiting>>> = Mutex::new(None);
/// Tests that use it run one after the other.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

async fn wait_at(stage: Stage) {
    let (_go_on, gone_on) = oneshot::channel();
    let test = TEST.lock().unwrap().clone();
    if let Some(test) = test {
        let _ = test.send(Waiting { stage, _go_on });
        let _ = gone_on.await;
    }
}

fn wait_here(stage: Stage) {
    if TEST.lock().unwrap().is_some() {
        tokio::task::block_in_place(|| Handle::current().block_on(wait_at(stage)));
    }
}

/// From now on the builds of these tables wait.
fn watch(generation: Generation) -> mpsc::UnboundedReceiver<Waiting> {
    let (test, waiting) = mpsc::unbounded_channel();
    *WATCHED.lock().unwrap() = Some(generation);
    *TEST.lock().unwrap() = Some(test);
    waiting
}

fn look_away() {
    *TEST.lock().unwrap() = None;
    *WATCHED.lock().unwrap() = None;
}

/// Holds whoever makes the index of `Awaited` in the middle of it, until it is opened.
struct Gate(PgConnection);

impl Gate {
    const KEY: i64 = 0x6A7E;

    async fn make(pool: &PgPool) {
        sqlx::raw_sql(&format!(
            "CREATE FUNCTION public.pass_the_gate(bigint) RETURNS bigint
                 LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
                     IF $1 = 1 THEN
                         PERFORM pg_advisory_lock_shared({key});
                         PERFORM pg_advisory_unlock_shared({key});
                     END IF;
                     RETURN $1;
                 END $$",
            key = Self::KEY
        ))
        .execute(pool)
        .await
        .unwrap();
    }

    async fn close(database: &TestDatabase) -> Self {
        let mut gate = database.connect_options().connect().await.unwrap();
        let lock = format!("SELECT pg_advisory_lock({})", Self::KEY);
        sqlx::raw_sql(&lock).execute(&mut gate).await.unwrap();
        Self(gate)
    }

    async fn is_waited_at(pool: &PgPool) {
        eventually("the index is being made", || async {
            nothing_is_broken_off(pool).await;
            sqlx::query_scalar(
                "SELECT EXISTS (SELECT FROM pg_locks JOIN pg_database AS d ON d.oid = database
                                 WHERE locktype = 'advisory' AND NOT granted AND objid = $1::bigint
                                   AND datname = current_database())",
            )
            .bind(Self::KEY)
            .fetch_one(pool)
            .await
            .unwrap()
        })
        .await;
    }

    async fn open(self) {
        self.0.close().await.unwrap();
    }
}

/// A book that goes on, and the live tables that follow it.
struct Living {
    running: Running,
    book: Book,
    /// The live projections.
    names: Vec<&'static str>,
    people: u128,
}

impl Living {
    /// With a history, and these projections up to it.
    async fn new(database: &TestDatabase, all: Vec<&'static dyn Projection>) -> Self {
        let pool = database.pool();
        Gate::make(pool).await;
        RandomBook::new(Book::new(pool), 41).write(LINES).await;
        Reader::of(pool, Vec::new()).await.settle().await;
        let names = all.iter().map(|projection| projection.name()).collect();
        let running = Running::start(pool, all).await;
        let mut living = Self { running, book: Book::new(pool), names, people: 0 };
        let first = living.append().await;
        living.running.caught_up(first).await;
        living
    }

    /// Somebody registers and signs in.
    async fn append(&mut self) -> Receipt {
        self.people += 1;
        self.book.register(user(self.people), &format!("user{}", self.people)).await;
        let id = session(self.people);
        let receipt = self.book.start(id, user(self.people), 1).await;
        self.running.wake.notify_one();
        receipt
    }

    /// All live tables come to show what was appended.
    async fn come_to(&self, receipt: Receipt, when: &str) {
        eventually(&format!("what is appended is in order and shown, {when}"), || async {
            nothing_is_broken_off(&self.book.pool()).await;
            let behind: Option<bool> = sqlx::query_scalar(
                "SELECT bool_or(p.position < j.position)
                   FROM journal AS j, projections AS p
                  WHERE j.event_id = $1 AND p.name = ANY($2)",
            )
            .bind(receipt.event_id)
            .bind(&self.names)
            .fetch_one(&self.book.pool())
            .await
            .unwrap();
            behind == Some(false)
        })
        .await;
        let last = users::get(&self.book.pool(), user(self.people)).await.unwrap();
        assert!(last.is_some(), "{when}");
    }

    /// What is appended now is shown now.
    async fn goes_on(&mut self, when: &str) {
        let receipt = self.append().await;
        self.come_to(receipt, when).await;
    }
}

/// A build that holds the order until it is waited for in vain loses its connection in the end.
async fn nothing_is_broken_off(pool: &PgPool) {
    for build in builds(pool).await.unwrap() {
        let broken = matches!(build.state, BuildState::Failed | BuildState::Interrupted);
        assert!(!broken, "{build:?}");
    }
}

fn with_awaited() -> Vec<&'static dyn Projection> {
    let mut all = ::projections::all();
    all.push(&AWAITED);
    all
}

/// Somebody holds a table of a projection, and no transaction id, which would hold the order: with
/// `wal_level = minimal`, as the tests' server has it, an exclusive lock takes none.
async fn hold(database: &TestDatabase, table: &str, mode: &str) -> PgConnection {
    let mut holder = database.connect_options().connect().await.unwrap();
    let lock = format!("BEGIN; LOCK TABLE ledger.{table} IN {mode} MODE");
    sqlx::raw_sql(&lock).execute(&mut holder).await.unwrap();
    holder
}

fn table_of(name: &str, generation: Generation) -> String {
    let projection = with_awaited().into_iter().find(|one| one.name() == name).unwrap();
    projection.tables()[0].relation(projection.version(), generation)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_live_tables_follow_in_every_phase_of_a_rebuild() {
    let _alone = ALONE.lock().await;
    let database = TestDatabase::create().await;
    let mut living = Living::new(&database, with_awaited()).await;
    let mut gate = Some(Gate::close(&database).await);
    let mut waits = watch(Generation::New);
    let pool = database.another_pool("rebuild").await;
    let rebuilding = tokio::spawn(async move {
        let mut told = Vec::new();
        let mut tell = |progress: &Progress| {
            let now = (progress.projection, progress.phase);
            if !told.contains(&now) {
                told.push(now);
                wait_here(Stage::Told(now.0, now.1));
            }
        };
        let options =
            Options { rows_in_memory: ROWS_IN_MEMORY, swap_attempts: 1_000, ..Options::default() };
        let none = CancellationToken::new();
        let rebuilt = rebuild(&pool, &with_awaited(), options, &none, &mut tell).await;
        look_away();
        rebuilt
    });

    let mut stages = Vec::new();
    // Appended while the rows before were written.
    let mut earlier = living.append().await;
    while let Some(waiting) = waits.recv().await {
        let stage = waiting.stage;
        let when = format!("at {stage:?}");
        stages.push(stage);
        match stage {
            // This transaction holds the order: what came before it is settled.
            Stage::Writing(rows) => {
                assert!(rows * 2 < ROWS_IN_MEMORY, "{rows} rows are written at once");
                living.come_to(earlier, &when).await;
                earlier = living.append().await;
            }
            // May be one of the last steps.
            Stage::Told(_, Phase::CatchingUp) => {
                living.append().await;
            }
            Stage::Told("awaited", Phase::Indexing) => {
                // What is written from now on are the few rows of the last steps: so long the live
                // table stands still.
                *WATCHED.lock().unwrap() = None;
                drop(waiting);
                Gate::is_waited_at(database.pool()).await;
                living.goes_on(&when).await;
                gate.take().unwrap().open().await;
            }
            Stage::Told(name, Phase::Comparing) => {
                let new = table_of(name, Generation::New);
                let holder = hold(&database, &new, "ACCESS EXCLUSIVE").await;
                drop(waiting);
                living.goes_on(&when).await;
                assert!(!rebuilding.is_finished());
                holder.close().await.unwrap();
            }
            // As long as somebody reads, it is tried again and again.
            Stage::Told(name, Phase::Swapping) => {
                let live = table_of(name, Generation::Live);
                let reader = hold(&database, &live, "ACCESS SHARE").await;
                drop(waiting);
                for _ in 0..3 {
                    living.goes_on(&when).await;
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
                assert!(!rebuilding.is_finished());
                reader.close().await.unwrap();
            }
            Stage::Between | Stage::Told(..) => living.goes_on(&when).await,
        }
    }
    for one in rebuilding.await.unwrap().unwrap() {
        assert_eq!(one.outcome, Outcome::Swapped, "{}", one.verified);
        for phase in
            [Phase::Folding, Phase::Copying, Phase::Indexing, Phase::Comparing, Phase::Swapping]
        {
            let told = Stage::Told(one.projection, phase);
            assert!(stages.contains(&told), "{told:?} of {stages:?}");
        }
    }
    assert!(stages.contains(&Stage::Between), "{stages:?}");
    let written = stages.iter().filter(|stage| matches!(stage, Stage::Writing(_))).count();
    assert!(written > LINES / ROWS_IN_MEMORY, "{stages:?}");
    let last = living.append().await;
    living.running.caught_up(last).await;
    living.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_live_tables_follow_in_every_phase_of_a_first_build() {
    let _alone = ALONE.lock().await;
    let database = TestDatabase::create().await;
    let mut living = Living::new(&database, ::projections::all()).await;
    let gate = Gate::close(&database).await;
    // Before there is a builder: what it writes is not to be waited for.
    let mut earlier = living.append().await;
    let mut waits = watch(Generation::Live);
    let pool = database.another_pool("first build").await;
    let projector = Projector::new(
        crate::support::reading::source_of(&pool),
        vec![&AWAITED as &'static dyn Projection],
        Sequencer::new(pool).head(),
    )
    .keeping_in_memory(ROWS_IN_MEMORY);
    projector.ensure().await.unwrap();
    let cancel = CancellationToken::new();
    let building = tokio::spawn({
        let (projector, cancel) = (projector.clone(), cancel.clone());
        async move { projector.run(cancel).await }
    });

    let mut stages = Vec::new();
    loop {
        let waiting = tokio::select! {
            waiting = waits.recv() => waiting.unwrap(),
            () = Gate::is_waited_at(database.pool()) => break,
        };
        let when = format!("at {:?}", waiting.stage);
        stages.push(waiting.stage);
        match waiting.stage {
            Stage::Writing(rows) => {
                assert!(rows * 2 < ROWS_IN_MEMORY, "{rows} rows are written at once");
                living.come_to(earlier, &when).await;
                earlier = living.append().await;
            }
            _ => living.goes_on(&when).await,
        }
    }
    assert!(stages.contains(&Stage::Between), "{stages:?}");
    assert!(stages.len() > LINES / ROWS_IN_MEMORY + 1, "{stages:?}");
    living.goes_on("while its index is made").await;
    assert!(!projector.is_built("awaited").await.unwrap());
    look_away();
    gate.open().await;
    eventually("it is built", || async { projector.is_built("awaited").await.unwrap() }).await;
    living.goes_on("when it is built").await;
    cancel.cancel();
    building.await.unwrap();
    living.running.stop().await;
}
