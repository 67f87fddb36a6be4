//! A rebuild beside the live tables, and the comparison with a fold of everything.

use crate::support::reading::{verify, verify_identifiers};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ::projections::{
    BuildState, Options, Outcome, Phase, Progress, Projection, RebuildError, Rebuilt, StopKind,
    builds, sessions, users,
};
use commands::database::{acting_role, connect, migrate};
use serde_json::json;
use sqlx::PgPool;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::{
    book::{Book, Reader, eventually, identifier, session, user},
    projecting::Running,
    random_book::RandomBook,
    views::contents,
};
use crate::support::database::TestDatabase;

pub fn named(name: &str) -> &'static dyn Projection {
    ::projections::named(name).unwrap()
}

/// A rebuild, or why it did not come to its end.
pub async fn rebuild(
    pool: &PgPool,
    chosen: &[&'static dyn Projection],
    options: Options,
    cancel: &CancellationToken,
    tell: &mut (dyn FnMut(&Progress) + Send),
) -> Result<Vec<Rebuilt>, RebuildError> {
    let rebuilt = crate::support::reading::rebuild(pool, chosen, options, cancel, tell).await;
    rebuilt.map_err(|unfinished| unfinished.cause)
}

/// The same where nobody watches.
pub async fn rebuild_with(
    pool: &PgPool,
    chosen: &[&'static dyn Projection],
    options: Options,
) -> Result<Vec<Rebuilt>, RebuildError> {
    rebuild(pool, chosen, options, &CancellationToken::new(), &mut |_| {}).await
}

/// Rows are written after every few lines.
pub fn few_rows(rows_in_memory: usize) -> Options {
    Options { rows_in_memory, ..Options::default() }
}

/// Applies the whole book to emptied tables line after line, as it is done while they serve.
async fn apply_again(reader: &Reader, pool: &PgPool) {
    for projection in ::projections::all() {
        for table in projection.tables() {
            let live = table.relation(projection.version(), ::projections::Generation::Live);
            sqlx::raw_sql(&format!("TRUNCATE ledger.{live}")).execute(pool).await.unwrap();
        }
    }
    sqlx::raw_sql("UPDATE projections SET position = 0, built = true").execute(pool).await.unwrap();
    reader.projector.catch_up().await.unwrap();
}

#[tokio::test]
async fn a_rebuild_equals_the_live_tables() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    Book::new(pool).fill().await;
    let reader = Reader::new(pool).await;
    reader.read().await;
    let before = contents(pool).await;
    let head = reader.settle().await;
    for projection in ::projections::all() {
        let mut told = Vec::new();
        let mut tell = |progress: &Progress| told.push(progress.clone());
        let cancel = CancellationToken::new();
        let rebuilt =
            rebuild(pool, &[projection], Options::default(), &cancel, &mut tell).await.unwrap();
        let [rebuilt] = &rebuilt[..] else { panic!("one was chosen: {rebuilt:?}") };
        assert_eq!(
            (rebuilt.projection, rebuilt.version),
            (projection.name(), projection.version())
        );
        assert_eq!((rebuilt.events, rebuilt.resumed_at), (head, 0));
        assert_eq!(rebuilt.outcome, Outcome::Swapped);
        assert!(rebuilt.verified.is_equal());
        assert_eq!(told.last().unwrap().phase, Phase::Swapping);
        assert!(told.iter().all(|one| one.events_done <= head && one.events_total == head));
        assert!(verify(pool, projection).await.unwrap().is_equal());
    }
    assert_eq!(contents(pool).await, before);
    // As made by a first start: the same names of tables and indexes, and nothing left over.
    let names = "SELECT coalesce(array_agg(relname::text ORDER BY relname), '{}') FROM pg_class
                  WHERE relnamespace = 'ledger'::regnamespace";
    let rebuilt: Vec<String> = sqlx::query_scalar(names).fetch_one(pool).await.unwrap();
    let fresh = TestDatabase::create().await;
    Reader::new(fresh.pool()).await.read().await;
    let made: Vec<String> = sqlx::query_scalar(names).fetch_one(fresh.pool()).await.unwrap();
    assert_eq!(rebuilt, made);
}

/// Whatever is in the book, however few rows are kept in memory: alone, together, while it is written.
#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_of_any_history_equals_what_was_applied_line_by_line() {
    for seed in [1, 2] {
        let database = TestDatabase::create().await;
        let pool = database.pool();
        let mut random = RandomBook::new(Book::new(pool), seed);
        random.write(1_600).await;
        let reader = Reader::new(pool).await;
        reader.read().await;
        let first_built = contents(pool).await;
        apply_again(&reader, pool).await;
        let applied = contents(pool).await;
        assert!(first_built == applied, "a first build equals what is applied line by line");
        for (projection, rows) in ::projections::all().into_iter().zip([3, 7, 50, 20, 5]) {
            let rebuilt = rebuild_with(pool, &[projection], few_rows(rows)).await.unwrap();
            assert_eq!((rebuilt[0].events, rebuilt[0].outcome), (1_600, Outcome::Swapped));
            assert!(contents(pool).await == applied, "{projection:?} with {rows} rows in memory");
        }
        let mut twice = ::projections::all();
        twice.extend(::projections::all());
        let rebuilt = rebuild_with(pool, &twice, few_rows(3)).await.unwrap();
        assert_eq!(rebuilt.len(), ::projections::all().len(), "who is named twice is built once");
        assert!(contents(pool).await == applied, "all in one pass");

        // While the book grows and is applied.
        let running = Running::start(pool, ::projections::all()).await;
        let wake = running.wake.clone();
        let growing = tokio::spawn(async move {
            for _ in 0..40 {
                random.write(20).await;
                wake.notify_one();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            random.book.register(user(1), "last").await
        });
        let mut rounds = 0;
        while !growing.is_finished() {
            let rebuilt = rebuild_with(pool, &::projections::all(), few_rows(300)).await.unwrap();
            for one in &rebuilt {
                assert_eq!(one.outcome, Outcome::Swapped, "{}", one.verified);
            }
            rounds += 1;
        }
        assert!(rounds > 0);
        running.caught_up(growing.await.unwrap()).await;
        running.stop().await;
        let rebuilt = contents(pool).await;
        apply_again(&reader, pool).await;
        assert!(contents(pool).await == rebuilt, "the tables swapped in while the book grew");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_and_the_live_projection_go_on_during_a_rebuild() {
    let database = TestDatabase::create().await;
    let pool = database.pool().clone();
    let reader = Arc::new(Reader::new(&pool).await);
    let mut book = Book::new(&pool);
    book.fill().await;
    reader.read().await;
    let stop = Arc::new(AtomicBool::new(false));
    let growing = tokio::spawn({
        let (reader, stop) = (Arc::clone(&reader), Arc::clone(&stop));
        async move {
            let mut number = 100;
            while !stop.load(Ordering::Relaxed) {
                number += 1;
                book.register(user(number), &format!("user{number}")).await;
                book.start(session(number), user(number), 1).await;
                reader.read().await;
                assert!(users::get(&book.pool(), user(number)).await.unwrap().is_some());
            }
        }
    });
    let reading = tokio::spawn({
        let (pool, stop) = (pool.clone(), Arc::clone(&stop));
        async move {
            let mut least = 0;
            while !stop.load(Ordering::Relaxed) {
                let count = users::count(&pool).await.unwrap();
                assert!(count >= least, "readers see {count} accounts after {least}");
                least = count;
                assert!(sessions::get(&pool, session(1)).await.unwrap().is_some());
            }
        }
    });
    for _ in 0..5 {
        for projection in ::projections::all() {
            let rebuilt = rebuild_with(&pool, &[projection], Options::default()).await.unwrap();
            assert_eq!(rebuilt[0].outcome, Outcome::Swapped, "{}", rebuilt[0].verified);
        }
    }
    stop.store(true, Ordering::Relaxed);
    growing.await.unwrap();
    reading.await.unwrap();
    reader.read().await;
    for projection in ::projections::all() {
        let verified = verify(&pool, projection).await.unwrap();
        assert!(verified.is_equal(), "{verified:?}");
    }
}

#[tokio::test]
async fn claimed_identifiers_are_compared_with_their_events() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    Book::new(pool).fill().await;
    // Keys that a language sorts in another order than bytes do.
    let mut book = Book::new(pool);
    for (number, name) in
        [(11, "Zoe"), (12, "a_b"), (13, "ab"), (14, "a-c"), (15, "äda"), (16, "B")]
    {
        book.register(user(number), name).await;
    }
    let sound = verify_identifiers(pool).await.unwrap();
    assert!(sound.is_equal() && sound.claims == 18, "{sound:?}");
    let bob = user(2);
    for (damage, missing, surplus, first) in [
        ("DELETE FROM identifiers WHERE index = '#ada'".to_owned(), 1, 0, &["username #ada"][..]),
        (
            "INSERT INTO identifiers VALUES ('username', '#bob', gen_random_uuid())".to_owned(),
            0,
            1,
            &["username #bob"],
        ),
        (
            format!("UPDATE identifiers SET user_id = '{bob}' WHERE index IN ('#ab', '#B@x')"),
            2,
            2,
            &["email #B@x", "username #ab"],
        ),
        (
            "INSERT INTO identifiers SELECT 'email', 'x' || n, gen_random_uuid()
               FROM generate_series(10, 40) AS n"
                .to_owned(),
            0,
            31,
            &[
                "email x10",
                "email x11",
                "email x12",
                "email x13",
                "email x14",
                "email x15",
                "email x16",
                "email x17",
                "email x18",
                "email x19",
            ],
        ),
        (
            "DELETE FROM identifiers WHERE kind = 'username' AND index <> '#ada'".to_owned(),
            8,
            0,
            &[
                "username #B",
                "username #Zoe",
                "username #a-c",
                "username #a_b",
                "username #ab",
                "username #eve",
                "username #robert",
                "username #äda",
            ],
        ),
    ] {
        let mut transaction = pool.begin().await.unwrap();
        sqlx::raw_sql("CREATE TABLE kept AS TABLE identifiers")
            .execute(&mut *transaction)
            .await
            .unwrap();
        sqlx::raw_sql(&damage).execute(&mut *transaction).await.unwrap();
        transaction.commit().await.unwrap();
        let found = verify_identifiers(pool).await.unwrap();
        assert!(!found.is_equal(), "{damage}: {found:?}");
        assert_eq!(
            (found.missing, found.surplus, found.doubled),
            (missing, surplus, 0),
            "{damage}"
        );
        assert_eq!(found.first_keys, first, "{damage}");
        assert_eq!(found.claims, 18, "{damage}");
        sqlx::raw_sql(
            "DELETE FROM identifiers; INSERT INTO identifiers TABLE kept; DROP TABLE kept",
        )
        .execute(pool)
        .await
        .unwrap();
    }
    // What must never be: two accounts claim one name.
    sqlx::query(
        "INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
         SELECT aggregate_type, aggregate_id, max(sequence) + 1, 'UserProfileChanged', '1', $2, '{}'
           FROM events WHERE aggregate_id = $1 GROUP BY 1, 2",
    )
    .bind(user(3).to_string())
    .bind(json!({"UserProfileChanged": {
        "username": {"from": identifier("eve"), "to": identifier("ada")}, "email": null, "full_name": null,
    }}))
    .execute(pool)
    .await
    .unwrap();
    let found = verify_identifiers(pool).await.unwrap();
    assert_eq!((found.claims, found.doubled), (17, 1), "{found:?}");
    assert_eq!((found.missing, found.surplus), (1, 1), "{found:?}");
    assert_eq!(found.first_keys, ["username #ada", "username #eve"]);
}

/// As the file for the container's first start leaves a database: nobody may do anything unasked.
#[tokio::test]
async fn identifiers_are_verified_where_everybody_s_rights_were_taken_away() {
    let database = TestDatabase::create().await;
    Book::new(database.pool()).fill().await;
    migrate(&database.connect_options()).await.unwrap();
    sqlx::raw_sql(
        "DO $$ BEGIN
             EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
         END $$",
    )
    .execute(database.pool())
    .await
    .unwrap();
    let pool = connect(database.connect_options(), 4).await.unwrap();
    assert_eq!(acting_role(&pool).await.unwrap(), "entrybook_app");
    let refused = verify_identifiers(&pool).await.unwrap_err();
    assert!(refused.to_string().contains("permission denied"), "{refused}");

    migrate(&database.connect_options()).await.unwrap();
    let found = verify_identifiers(&pool).await.unwrap();
    assert!(found.is_equal() && found.claims > 0, "{found:?}");
}

#[tokio::test]
async fn an_event_of_an_account_that_is_not_known_may_claim_identifiers() {
    let database = TestDatabase::create().await;
    let mut book = Book::new(database.pool());
    book.fill().await;
    let id = user(0xC001).to_string();
    let painted = json!({"UserPainted": {}});
    book.raw("User", &id, "UserPainted", painted.clone()).await;
    for settled in [false, true] {
        if settled {
            Reader::new(database.pool()).await.settle().await;
            // A later one has another line.
            book.raw("User", &id, "UserRegistered", painted.clone()).await;
        }
        let refused = verify_identifiers(database.pool()).await.unwrap_err();
        let RebuildError::Event(cause) = &refused else { panic!("{refused:?}") };
        assert_eq!(cause.stream, format!("User {id} number 1"));
        assert_eq!(
            (cause.event_type.as_str(), cause.kind),
            ("UserPainted", StopKind::NewerVersion)
        );
        let lines: i64 = sqlx::query_scalar("SELECT count(*) FROM journal")
            .fetch_one(database.pool())
            .await
            .unwrap();
        assert_eq!(cause.position, if settled { lines } else { lines + 1 });
    }
}

/// One of several is swapped, and the next can't be: what was done before is told with the error.
#[tokio::test]
async fn what_was_decided_before_a_rebuild_failed_is_told_beside_the_error() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    Book::new(pool).fill().await;
    Reader::new(pool).await.read().await;
    let mut reading = pool.begin().await.unwrap();
    sqlx::query("SELECT FROM ledger.sessions_v2 LIMIT 1").execute(&mut *reading).await.unwrap();
    let options = Options { swap_attempts: 2, ..Options::default() };
    let (all, none) = (::projections::all(), CancellationToken::new());
    let unfinished =
        crate::support::reading::rebuild(pool, &all, options, &none, &mut |_| {}).await;
    let unfinished = unfinished.unwrap_err();
    let RebuildError::Busy(held) = &unfinished.cause else { panic!("{unfinished:?}") };
    assert_eq!(held.projection, "sessions");
    let [users] = &unfinished.decided[..] else { panic!("{unfinished:?}") };
    assert_eq!((users.projection, users.outcome), ("users", Outcome::Swapped));
    let told = builds(pool).await.unwrap();
    let state = |name: &str| told.iter().find(|build| build.name == name).unwrap().state;
    assert_eq!(state("users"), BuildState::Swapped);
    assert_eq!(
        (state("sessions"), state("audit_history")),
        (BuildState::Failed, BuildState::Failed)
    );
}

/// A server of another version has died while it built its own tables.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_build_of_another_version_does_not_run() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    Book::new(pool).fill().await;
    Reader::new(pool).await.read().await;
    sqlx::query(
        "INSERT INTO builds (name, version, state, phase, dry_run) VALUES ('users', 7, 'running', 'folding', false)",
    )
    .execute(pool)
    .await
    .unwrap();
    let mut seen = Vec::new();
    let mut tell = |_: &Progress| {
        let now = tokio::task::block_in_place(|| Handle::current().block_on(builds(pool)));
        let of_users = now.unwrap().into_iter().filter(|build| build.name == "users");
        seen.push(of_users.map(|build| (build.version, build.state)).collect::<Vec<_>>());
    };
    let cancel = CancellationToken::new();
    rebuild(pool, &[named("users")], Options::default(), &cancel, &mut tell).await.unwrap();
    let ours = named("users").version();
    let both = vec![(ours, BuildState::Running), (7, BuildState::Interrupted)];
    assert!(!seen.is_empty() && seen.iter().all(|told| *told == both), "{seen:?}");
}

#[tokio::test]
async fn a_rebuild_that_meets_a_poisoned_event_changes_nothing() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let mut book = Book::new(pool);
    book.fill().await;
    let reader = Reader::new(pool).await;
    reader.read().await;
    let before = contents(pool).await;
    book.raw("User", &user(1).to_string(), "UserMerged", json!({"UserMerged": {}})).await;
    let head = reader.settle().await;
    let refused = rebuild_with(pool, &[named("users")], Options::default()).await;
    assert!(
        matches!(&refused, Err(RebuildError::Event(cause)) if cause.position == head),
        "{refused:?}"
    );
    assert_eq!(contents(pool).await, before);
    assert_eq!(leftovers(pool).await, 0);
    let build = builds(pool).await.unwrap().into_iter().find(|one| one.name == "users").unwrap();
    assert_eq!(build.state, BuildState::Failed);
    assert!(build.detail.unwrap().contains(&format!("line {head} ")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_projection_is_rebuilt_by_one_at_a_time_and_others_beside_it() {
    let database = TestDatabase::create().await;
    let pool = database.pool().clone();
    RandomBook::new(Book::new(&pool), 3).write(300).await;
    Reader::new(&pool).await.read().await;
    let before = contents(&pool).await;
    let mut meanwhile = None;
    let mut tell = |_: &Progress| {
        if meanwhile.is_some() {
            return;
        }
        let found = tokio::task::block_in_place(|| {
            Handle::current().block_on(async {
                let running = builds(&pool).await.unwrap();
                (
                    running.into_iter().find(|one| one.name == "users").unwrap().state,
                    rebuild_with(&pool, &[named("users")], Options::default()).await,
                    rebuild_with(&pool, &::projections::all(), Options::default()).await,
                    verify(&pool, named("users")).await,
                    rebuild_with(&pool, &[named("sessions")], Options::default()).await,
                )
            })
        });
        meanwhile = Some(found);
    };
    let cancel = CancellationToken::new();
    let rebuilt =
        rebuild(&pool, &[named("users")], few_rows(50), &cancel, &mut tell).await.unwrap();
    assert_eq!((rebuilt[0].outcome, rebuilt[0].events), (Outcome::Swapped, 300));
    let (state, same, all, verified, other) = meanwhile.unwrap();
    assert_eq!(state, BuildState::Running);
    assert!(matches!(same, Err(RebuildError::UnderWay("users"))), "{same:?}");
    assert!(matches!(all, Err(RebuildError::UnderWay("users"))), "{all:?}");
    assert!(matches!(verified, Err(RebuildError::UnderWay("users"))), "{verified:?}");
    assert_eq!(other.unwrap()[0].outcome, Outcome::Swapped);
    assert!(contents(&pool).await == before);
    // And whoever comes next is turned away by nothing that is left.
    rebuild_with(&pool, &::projections::all(), Options::default()).await.unwrap();
}

/// Breaks a rebuild of `users` off after its first rows are written.
async fn break_off(pool: &PgPool) {
    let cancel = CancellationToken::new();
    let mut tell = |progress: &Progress| {
        if progress.phase == Phase::Indexing {
            cancel.cancel();
        }
    };
    let broken = rebuild(pool, &[named("users")], few_rows(50), &cancel, &mut tell).await;
    assert!(matches!(broken, Err(RebuildError::Cancelled)), "{broken:?}");
    assert_eq!(leftovers(pool).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_rebuild_left_is_used_or_dropped() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    RandomBook::new(Book::new(pool), 4).write(1_500).await;
    let reader = Reader::new(pool).await;
    reader.read().await;
    let before = contents(pool).await;
    let run = |statement: &'static str| async move {
        sqlx::raw_sql(statement).execute(pool).await.unwrap();
    };
    let rebuilt = || async {
        let rebuilt = rebuild_with(pool, &[named("users")], Options::default()).await.unwrap();
        assert_eq!((rebuilt[0].outcome, rebuilt[0].events), (Outcome::Swapped, 1_500));
        assert!(contents(pool).await == before);
        rebuilt[0].resumed_at
    };

    break_off(pool).await;
    let build = builds(pool).await.unwrap().into_iter().find(|one| one.name == "users").unwrap();
    assert_eq!(build.state, BuildState::Cancelled);
    reader.projector.ensure().await.unwrap();
    assert_eq!(leftovers(pool).await, 1, "it may be gone on with");
    assert_eq!(rebuilt().await, 1_500);

    for (why, statement) in [
        ("it is old", "UPDATE builds SET updated_at = updated_at - interval '25 hours'"),
        ("another fold made it", "UPDATE builds SET fold = '{}'"),
        (
            "it is ahead of the live tables",
            "UPDATE projections SET position = 0; TRUNCATE ledger.users_v2",
        ),
    ] {
        break_off(pool).await;
        run(statement).await;
        assert_eq!(rebuilt().await, 0, "{why}");

        break_off(pool).await;
        run(statement).await;
        // Not while another process is at it.
        let mut building = pool.acquire().await.unwrap().detach();
        sqlx::query("SELECT pg_advisory_lock(236433410, hashtext('users'))")
            .execute(&mut building)
            .await
            .unwrap();
        reader.projector.ensure().await.unwrap();
        assert_eq!(leftovers(pool).await, 1, "{why}");
        let refused = rebuild_with(pool, &[named("users")], Options::default()).await;
        assert!(matches!(refused, Err(RebuildError::UnderWay("users"))), "{refused:?}");
        sqlx::Connection::close(building).await.unwrap();
        eventually(why, || async {
            reader.projector.ensure().await.unwrap();
            leftovers(pool).await == 0
        })
        .await;
        reader.projector.catch_up().await.unwrap();
    }
}

pub async fn leftovers(pool: &PgPool) -> i64 {
    sqlx::query_scalar(
        "SELECT count(*) FROM pg_class
          WHERE relnamespace = 'ledger'::regnamespace AND relkind = 'r' AND relname ~ '_new$'",
    )
    .fetch_one(pool)
    .await
    .unwrap()
}
