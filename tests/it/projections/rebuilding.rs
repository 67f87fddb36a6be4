//! A rebuild beside the live tables, and the comparison with a fold of everything.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use ::projections::{Phase, RebuildError, rebuild, sessions, users, verify, verify_identifiers};
use serde_json::json;

use super::{
    book::{Book, Reader, eventually, session, user},
    views::contents,
};
use crate::support::database::TestDatabase;

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
        let mut phases = Vec::new();
        let rebuilt =
            rebuild(pool, projection, |progress| phases.push(progress.phase)).await.unwrap();
        assert_eq!(rebuilt.events, head);
        assert_eq!(phases.last(), Some(&Phase::Done));
        assert!(verify(pool, projection).await.unwrap().is_equal());
    }
    assert_eq!(contents(pool).await, before);
    // As made by a first start: the same names of tables and indexes, and nothing left over.
    let names = "SELECT coalesce(array_agg(relname::text ORDER BY relname), '{}') FROM pg_class
                  WHERE relnamespace = 'ledger'::regnamespace";
    let rebuilt: Vec<String> = sqlx::query_scalar(names).fetch_one(pool).await.unwrap();
    let fresh = TestDatabase::create().await;
    Reader::new(fresh.pool()).await;
    let made: Vec<String> = sqlx::query_scalar(names).fetch_one(fresh.pool()).await.unwrap();
    assert_eq!(rebuilt, made);
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
            rebuild(&pool, projection, |_| {}).await.unwrap();
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
async fn a_verification_finds_what_differs() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    Book::new(pool).fill().await;
    Reader::new(pool).await.read().await;
    let users = ::projections::named("users").unwrap();

    sqlx::query("UPDATE ledger.users_v1 SET disabled = true WHERE user_id = $1")
        .bind(user(1).0)
        .execute(pool)
        .await
        .unwrap();
    sqlx::query("DELETE FROM ledger.users_v1 WHERE user_id = $1")
        .bind(user(2).0)
        .execute(pool)
        .await
        .unwrap();
    let found = verify(pool, users).await.unwrap();
    assert!(!found.is_equal());
    let table = &found.tables[0];
    assert_eq!((table.rows, table.missing, table.surplus), (2, 2, 1));
    assert_eq!(table.first_keys, [user(1).to_string(), user(2).to_string()]);

    rebuild(pool, users, |_| {}).await.unwrap();
    assert!(verify(pool, users).await.unwrap().is_equal());
}

#[tokio::test]
async fn claimed_identifiers_are_compared_with_their_events() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    Book::new(pool).fill().await;
    let sound = verify_identifiers(pool).await.unwrap();
    assert!(sound.is_equal() && sound.claims == 6, "{sound:?}");
    for damage in [
        "DELETE FROM identifiers WHERE index = '#ada'",
        "INSERT INTO identifiers VALUES ('username', '#bob', gen_random_uuid())",
    ] {
        let mut transaction = pool.begin().await.unwrap();
        sqlx::raw_sql("CREATE TABLE kept AS TABLE identifiers")
            .execute(&mut *transaction)
            .await
            .unwrap();
        sqlx::raw_sql(damage).execute(&mut *transaction).await.unwrap();
        transaction.commit().await.unwrap();
        let found = verify_identifiers(pool).await.unwrap();
        assert!(!found.is_equal() && found.first_keys.len() == 1, "{found:?}");
        sqlx::raw_sql(
            "DELETE FROM identifiers; INSERT INTO identifiers TABLE kept; DROP TABLE kept",
        )
        .execute(pool)
        .await
        .unwrap();
    }
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
    book.raw("User", &user(1).to_string(), "UserErased", json!({"UserErased": {}})).await;
    let head = reader.settle().await;
    let users = ::projections::named("users").unwrap();
    let refused = rebuild(pool, users, |_| {}).await;
    assert!(
        matches!(&refused, Err(RebuildError::Event(cause)) if cause.position == head),
        "{refused:?}"
    );
    assert_eq!(contents(pool).await, before);
    assert_eq!(leftovers(pool).await, 0);
}

#[tokio::test]
async fn what_a_crash_left_behind_is_dropped_at_the_next_start() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let reader = Reader::new(pool).await;
    sqlx::raw_sql(
        "CREATE TABLE ledger.users_v1_new (user_id uuid); CREATE TABLE ledger.sessions_v1_check ()",
    )
    .execute(pool)
    .await
    .unwrap();

    // Not while another process is at it.
    let mut building = pool.acquire().await.unwrap().detach();
    sqlx::query("SELECT pg_advisory_lock(236433410, hashtext('users'))")
        .execute(&mut building)
        .await
        .unwrap();
    reader.projector.ensure().await.unwrap();
    assert_eq!(leftovers(pool).await, 1);
    let users = ::projections::named("users").unwrap();
    let refused = rebuild(pool, users, |_| {}).await;
    assert!(matches!(refused, Err(RebuildError::UnderWay("users"))), "{refused:?}");

    sqlx::Connection::close(building).await.unwrap();
    eventually("the next start drops it", || async {
        reader.projector.ensure().await.unwrap();
        leftovers(pool).await == 0
    })
    .await;
}

async fn leftovers(pool: &sqlx::PgPool) -> i64 {
    sqlx::query_scalar(
        "SELECT count(*) FROM pg_class
          WHERE relnamespace = 'ledger'::regnamespace AND relkind = 'r'
            AND relname ~ '_(new|check)$'",
    )
    .fetch_one(pool)
    .await
    .unwrap()
}
