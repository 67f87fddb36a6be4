//! A rebuild that is broken off at any moment and in any way never reports success, costs the live
//! tables nothing, and is gone on with by the next one.

use std::{
    future::poll_fn,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use ::projections::{
    BuildState, Options, Outcome, Phase, Progress, RebuildError, Rebuilt, builds, users,
};
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpStream, UnixListener, UnixStream},
    runtime::Handle,
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    book::{Book, Reader, eventually, user},
    projecting::Running,
    random_book::RandomBook,
    rebuilding::{few_rows, rebuild, rebuild_with},
    views::contents,
};
use crate::support::database::TestDatabase;

const LINES: usize = 2_600;
const PHASES: [Phase; 6] = [
    Phase::Folding,
    Phase::Copying,
    Phase::Indexing,
    Phase::CatchingUp,
    Phase::Comparing,
    Phase::Swapping,
];

/// A book, and live tables that are up to it.
struct Stand {
    database: TestDatabase,
    whole: Vec<Vec<String>>,
    /// What the live tables showed last.
    before: Vec<Vec<String>>,
}

impl Stand {
    async fn new(seed: u64) -> Self {
        let database = TestDatabase::create().await;
        let pool = database.pool();
        let mut random = RandomBook::new(Book::new(pool), seed);
        random.write(LINES).await;
        Reader::new(pool).await.read().await;
        let whole = contents(pool).await;
        Self { database, before: whole.clone(), whole }
    }

    /// One projection has applied nothing yet, so that the others have lines to catch up with after
    /// the common pass.
    async fn fall_behind(&mut self) {
        sqlx::raw_sql(
            "TRUNCATE ledger.sessions_v2; UPDATE projections SET position = 0 WHERE name = 'sessions'",
        )
        .execute(self.pool())
        .await
        .unwrap();
        self.before = contents(self.pool()).await;
    }

    /// What a rebuild needs to come to this phase.
    async fn ready_for(&mut self, phase: Phase) {
        if phase == Phase::CatchingUp {
            self.fall_behind().await;
        }
    }

    fn pool(&self) -> &PgPool {
        self.database.pool()
    }

    /// The live tables are what they were, and serve.
    async fn is_untouched(&self, when: &str) {
        let tables = contents(self.pool()).await;
        let shown = tables.iter().zip(&self.before).zip(&self.whole);
        for ((now, before), whole) in shown {
            assert!(now == before || now == whole, "a live table was touched: {when}");
        }
        assert!(users::count(self.pool()).await.unwrap() > 0, "{when}");
    }

    /// The next rebuild comes to its end: it waits until the server has noticed that the last one is
    /// gone.
    async fn next_one(&self, when: &str) -> Vec<Rebuilt> {
        let all = ::projections::all();
        let mut rebuilt = Err(RebuildError::UnderWay("users"));
        for _ in 0..6_000 {
            rebuilt = rebuild_with(self.pool(), &all, Options::default()).await;
            if !matches!(rebuilt, Err(RebuildError::UnderWay(_))) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let rebuilt = rebuilt.unwrap_or_else(|cause| panic!("{when}: {cause}"));
        for one in &rebuilt {
            assert_eq!(one.outcome, Outcome::Swapped, "{when}: {}", one.verified);
            assert_eq!(one.events, i64::try_from(LINES).unwrap(), "{when}");
        }
        assert!(contents(self.pool()).await == self.whole, "{when}");
        rebuilt
    }
}

/// Ends the backends of the rebuild that match a condition; how many there were.
async fn end_backends(pool: &PgPool, of: &str, condition: &str) -> i64 {
    sqlx::query_scalar(&format!(
        "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity AS a
          WHERE datname = current_database() AND application_name = '{of}' AND {condition}"
    ))
    .fetch_one(pool)
    .await
    .unwrap()
}

const WRITING: &str = "EXISTS (SELECT FROM pg_locks WHERE pid = a.pid AND locktype = 'advisory')";
const READING: &str = "query ~ 'FROM (journal|events)' AND NOT EXISTS
                       (SELECT FROM pg_locks WHERE pid = a.pid AND locktype = 'advisory')";

fn now<T>(work: impl Future<Output = T>) -> T {
    tokio::task::block_in_place(|| Handle::current().block_on(work))
}

/// Rebuilds everything with few rows in memory, and does something the `nth` time that a phase is told.
async fn rebuild_and(
    pool: &PgPool,
    phase: Phase,
    nth: usize,
    act: impl Fn() + Send + Sync,
) -> Result<Vec<Rebuilt>, RebuildError> {
    let mut told = 0;
    let mut tell = |progress: &Progress| {
        if progress.phase == phase {
            told += 1;
            if told == nth {
                act();
            }
        }
    };
    let all = ::projections::all();
    rebuild(pool, &all, few_rows(100), &CancellationToken::new(), &mut tell).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_whose_writing_connection_is_cut_fails_and_is_gone_on_with() {
    let mut stand = Stand::new(11).await;
    let victim = stand.database.another_pool("victim").await;
    for phase in PHASES {
        stand.ready_for(phase).await;
        let cut = AtomicUsize::new(0);
        let broken = rebuild_and(&victim, phase, 1, || {
            let ended = now(end_backends(stand.pool(), "victim", WRITING));
            cut.store(usize::try_from(ended).unwrap(), Ordering::Relaxed);
        })
        .await;
        let when = format!("the writing connection is cut at {phase:?}");
        assert_eq!(cut.load(Ordering::Relaxed), 1, "{when}");
        assert!(matches!(broken, Err(RebuildError::Database(_))), "{when}: {broken:?}");
        stand.is_untouched(&when).await;
        let rebuilt = stand.next_one(&when).await;
        if !matches!(phase, Phase::Folding | Phase::CatchingUp) {
            assert!(rebuilt.iter().all(|one| one.resumed_at > 0), "{when}: {rebuilt:?}");
        }
    }
}

/// In the middle of the lines: many are read, and many are not.
#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_whose_reading_is_cut_in_the_middle_never_ends_well() {
    let stand = Stand::new(12).await;
    let victim = stand.database.another_pool("victim").await;
    let mut done_at = Vec::new();
    for cut_after in [1, 300, 1_200] {
        let mut cut = 0;
        let mut reached = 0;
        let mut tell = |progress: &Progress| {
            reached = reached.max(progress.events_done);
            if progress.phase == Phase::Folding && cut == 0 && progress.events_done >= cut_after {
                cut = now(end_backends(stand.pool(), "victim", READING));
            }
        };
        let all = ::projections::all();
        let none = CancellationToken::new();
        // Page by page of five lines: so the reader is never far ahead, and it takes its time.
        let broken = rebuild(&victim, &all, few_rows(5), &none, &mut tell).await;
        let when = format!("the reading connection is cut after line {cut_after}");
        assert_eq!(cut, 1, "{when}");
        assert!(reached + 100 < i64::try_from(LINES).unwrap(), "there was more to read, {when}");
        assert!(matches!(broken, Err(RebuildError::Database(_))), "{when}: {broken:?}");
        stand.is_untouched(&when).await;
        let rebuilt = stand.next_one(&when).await;
        done_at.push(rebuilt[0].resumed_at);
    }
    assert!(done_at.is_sorted() && done_at[1] > done_at[0] && done_at[2] < 2_500, "{done_at:?}");
}

/// A way to the server that can be cut like a cable, and mended.
struct Cable {
    options: PgConnectOptions,
    plugged: Arc<std::sync::Mutex<CancellationToken>>,
    _end: (tempfile::TempDir, DropGuard),
}

impl Cable {
    fn lay(to: PgConnectOptions) -> Self {
        let near_end = crate::support::scratch();
        let socket = |folder: &Path| folder.join(format!(".s.PGSQL.{}", to.get_port()));
        let listener = UnixListener::bind(socket(near_end.path())).unwrap();
        let far_end = to.get_socket().map(|folder| socket(folder));
        let server = (to.get_host().to_owned(), to.get_port());
        let options = to.socket(near_end.path()).application_name("victim");
        let plugged = Arc::new(std::sync::Mutex::new(CancellationToken::new()));
        let (current, end) = (plugged.clone(), CancellationToken::new());
        tokio::spawn(end.clone().run_until_cancelled_owned(async move {
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                let cut = current.lock().unwrap().clone();
                let (far_end, server) = (far_end.clone(), server.clone());
                tokio::spawn(cut.run_until_cancelled_owned(async move {
                    let _until_cut = match far_end {
                        Some(path) => {
                            let mut far = UnixStream::connect(path).await.unwrap();
                            copy_bidirectional(&mut near, &mut far).await
                        }
                        None => {
                            let mut far = TcpStream::connect(server).await.unwrap();
                            copy_bidirectional(&mut near, &mut far).await
                        }
                    };
                }));
            }
        }));
        Self { options, plugged, _end: (near_end, end.drop_guard()) }
    }

    fn cut(&self) {
        let next = CancellationToken::new();
        std::mem::replace(&mut *self.plugged.lock().unwrap(), next).cancel();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_that_loses_the_network_fails_and_is_gone_on_with() {
    let mut stand = Stand::new(13).await;
    let cable = Cable::lay(stand.database.connect_options());
    let victim = PgPoolOptions::new().connect_with(cable.options.clone()).await.unwrap();
    for phase in PHASES {
        stand.ready_for(phase).await;
        for after in [0, 3] {
            let (broken, cut) = tokio::join!(
                rebuild_and(&victim, phase, 1, || {
                    if after == 0 {
                        cable.cut();
                    }
                }),
                async {
                    if after > 0 {
                        // Somewhere on the way.
                        let moment = 40 * u64::try_from(phase as usize + 1).unwrap();
                        tokio::time::sleep(Duration::from_millis(moment)).await;
                        cable.cut();
                    }
                }
            );
            let () = cut;
            let when = format!("the network is cut at {phase:?}, {after} ms later");
            match broken {
                Err(RebuildError::Database(_)) => {}
                // It came through before.
                Ok(rebuilt) if after > 0 => {
                    assert!(rebuilt.iter().all(|one| one.outcome == Outcome::Swapped), "{when}");
                }
                other => panic!("{when}: {other:?}"),
            }
            stand.is_untouched(&when).await;
        }
        stand.next_one(&format!("after {phase:?}")).await;
    }
}

/// A pool whose sessions have dropped to a role that owns the read tables and little else, as a
/// server's have.
async fn unprivileged(stand: &Stand) -> PgPool {
    sqlx::raw_sql(
        "DO $$ DECLARE live text; BEGIN
             IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'entrybook_test_role') THEN
                 CREATE ROLE entrybook_test_role NOLOGIN;
             END IF;
             GRANT ALL ON SCHEMA ledger TO entrybook_test_role;
             GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO entrybook_test_role;
             FOR live IN SELECT relname FROM pg_class
                          WHERE relnamespace = 'ledger'::regnamespace AND relkind = 'r' LOOP
                 EXECUTE format('ALTER TABLE ledger.%I OWNER TO entrybook_test_role', live);
             END LOOP;
         END $$",
    )
    .execute(stand.pool())
    .await
    .unwrap();
    let options = stand.database.connect_options().options([("role", "entrybook_test_role")]);
    PgPoolOptions::new().connect_with(options).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_that_is_cancelled_in_any_phase_is_gone_on_with() {
    let mut stand = Stand::new(14).await;
    let pool = unprivileged(&stand).await;
    for phase in PHASES {
        stand.ready_for(phase).await;
        let cancel = CancellationToken::new();
        let mut tell = |progress: &Progress| {
            if progress.phase == phase {
                cancel.cancel();
            }
        };
        let all = ::projections::all();
        let broken = rebuild(&pool, &all, few_rows(100), &cancel, &mut tell).await;
        let when = format!("cancelled at {phase:?}");
        match broken {
            Err(RebuildError::Cancelled) => {
                let states: Vec<_> =
                    builds(&pool).await.unwrap().into_iter().map(|build| build.state).collect();
                assert!(states.contains(&BuildState::Cancelled), "{when}: {states:?}");
                for unfit in [BuildState::Running, BuildState::Interrupted] {
                    assert!(!states.contains(&unfit), "it is written down, {when}: {states:?}");
                }
            }
            // What is about to be swapped is swapped, and then there is nothing left to cancel.
            Ok(_) if phase == Phase::Swapping => {}
            other => panic!("{when}: {other:?}"),
        }
        stand.is_untouched(&when).await;
        // At once: nothing is left that would turn the next one away.
        rebuild_with(&pool, &all, Options::default()).await.unwrap();
        assert!(contents(stand.pool()).await == stand.whole, "{when}");
    }
}

/// As Ctrl-C would that drops everything: at each await it can be the last.
#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_that_is_dropped_at_any_await_costs_nothing() {
    let stand = Stand::new(15).await;
    let pool = stand.pool().clone();
    let drop_after = |polls: usize| {
        let pool = pool.clone();
        async move {
            let all = ::projections::all();
            let none = CancellationToken::new();
            let mut tell = |_: &Progress| {};
            let mut work = Box::pin(rebuild(&pool, &all, few_rows(400), &none, &mut tell));
            let mut left = polls;
            poll_fn(|context| {
                if left == 0 {
                    return Poll::Ready(false);
                }
                left -= 1;
                work.as_mut().poll(context).map(|_| true)
            })
            .await
        }
    };
    let mut polls = 3;
    while !drop_after(polls).await {
        let when = format!("dropped at await {polls}");
        stand.is_untouched(&when).await;
        // Some are gone on with by one that is dropped as well.
        if polls % 2 == 0 {
            stand.next_one(&when).await;
        }
        polls += polls / 3 + 1;
    }
    assert!(polls > 50, "there were awaits to drop it at: {polls}");
    stand.next_one("at last").await;
}

/// As a killed process: nothing of it runs any more, and nothing was told to the server.
#[test]
fn a_rebuild_whose_process_is_gone_is_gone_on_with() {
    let runtime = || tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let ours = runtime();
    let mut stand = ours.block_on(Stand::new(16));
    for phase in PHASES {
        ours.block_on(stand.ready_for(phase));
        let killed = runtime();
        let options = stand.database.connect_options().application_name("victim");
        let (tell_here, here) = std::sync::mpsc::channel();
        killed.spawn(async move {
            let pool = PgPoolOptions::new().connect_with(options).await.unwrap();
            rebuild_and(&pool, phase, 1, || {
                let _ = tell_here.send(());
                // It never comes back from here.
                std::thread::park();
            })
            .await
        });
        here.recv().unwrap();
        killed.shutdown_background();
        // Its sockets are still open, as those of a process that hangs: an admin ends it.
        let when = format!("its process is gone at {phase:?}");
        ours.block_on(async {
            stand.is_untouched(&when).await;
            let refused =
                rebuild_with(stand.pool(), &::projections::all(), Options::default()).await;
            assert!(matches!(refused, Err(RebuildError::UnderWay(_))), "{when}: {refused:?}");
            end_backends(stand.pool(), "victim", "true").await;
            stand.next_one(&when).await;
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cutting_everything_again_and_again_loses_nothing() {
    let stand = Stand::new(17).await;
    let victim = stand.database.another_pool("victim").await;
    let running = Running::start(stand.pool(), ::projections::all()).await;
    let mut book = Book::new(stand.pool());
    let mut broken = 0;
    for round in 0..12_u32 {
        let receipt = book.register(user(round.into()), &format!("new{round}")).await;
        running.wake.notify_one();
        let all = ::projections::all();
        let (rebuilt, ended) = tokio::join!(rebuild_with(&victim, &all, few_rows(200)), async {
            tokio::time::sleep(Duration::from_millis(u64::from(round) * 37)).await;
            end_backends(stand.pool(), "victim", "true").await
        });
        if let Err(cause) = &rebuilt {
            assert!(
                matches!(cause, RebuildError::Database(_) | RebuildError::UnderWay(_)),
                "{cause}"
            );
            assert!(ended > 0);
            broken += 1;
        }
        running.caught_up(receipt).await;
        assert!(users::get(stand.pool(), user(round.into())).await.unwrap().is_some());
    }
    assert!(broken > 3, "{broken} were broken off");
    eventually("a rebuild comes to its end", || async {
        let all = ::projections::all();
        rebuild_with(stand.pool(), &all, Options::default())
            .await
            .is_ok_and(|all| all.iter().all(|one| one.outcome == Outcome::Swapped))
    })
    .await;
    running.stop().await;
}
