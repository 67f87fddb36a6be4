//! The swap: readers never wait for long, and never fail.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use ::projections::{BuildState, Options, Outcome, Phase, Progress, RebuildError, builds, users};
use sqlx::postgres::PgPoolOptions;
use tokio_util::sync::CancellationToken;

use super::{
    book::{Book, Reader, eventually},
    random_book::RandomBook,
    rebuilding::{leftovers, named, rebuild, rebuild_with},
    views::contents,
};
use crate::support::{database::TestDatabase, held::Held};

#[tokio::test(flavor = "multi_thread")]
async fn a_long_reader_holds_up_the_swap_and_no_other_reader() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    RandomBook::new(Book::new(pool), 21).write(1_500).await;
    Reader::new(pool).await.read().await;
    let before = contents(pool).await;

    let mut holder = pool.begin().await.unwrap();
    sqlx::query("SELECT FROM ledger.users_v2 LIMIT 1").execute(&mut *holder).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let swapping = Arc::new(AtomicBool::new(false));
    // Far longer than the swap waits in front of them, and the database says when that is over.
    let impatient = database.connect_options().options([("lock_timeout", "1s")]);
    let impatient = PgPoolOptions::new().max_connections(3).connect_with(impatient).await.unwrap();
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let (pool, stop, swapping) =
                (impatient.clone(), Arc::clone(&stop), Arc::clone(&swapping));
            tokio::spawn(async move {
                let mut read = 0;
                while !stop.load(Ordering::Relaxed) {
                    assert!(users::page(&pool, None, 5).await.unwrap().more);
                    read += u32::from(swapping.load(Ordering::Relaxed));
                }
                read
            })
        })
        .collect();

    let began = Instant::now();
    let options = Options { swap_attempts: 4, ..Options::default() };
    let mut tell = |progress: &Progress| {
        swapping.store(progress.phase == Phase::Swapping, Ordering::Relaxed);
    };
    let none = CancellationToken::new();
    let busy = rebuild(pool, &[named("users")], options, &none, &mut tell).await;
    swapping.store(false, Ordering::Relaxed);
    assert!(
        matches!(&busy, Err(RebuildError::Busy(held)) if held.projection == "users"),
        "{busy:?}"
    );
    let held = began.elapsed();
    assert_eq!(leftovers(pool).await, 1);
    let told = builds(pool).await.unwrap().into_iter().find(|one| one.name == "users").unwrap();
    assert_eq!((told.state, told.phase.as_str()), (BuildState::Failed, "swapping"));
    assert!(told.detail.unwrap().contains("end that and rebuild again"));

    // The reader goes while it is tried again: what was built is used.
    let users = [named("users")];
    let (rebuilt, ()) = tokio::join!(rebuild_with(pool, &users, Options::default()), async {
        tokio::time::sleep(held / 4).await;
        holder.rollback().await.unwrap();
    });
    let rebuilt = rebuilt.unwrap();
    assert_eq!((rebuilt[0].outcome, rebuilt[0].resumed_at), (Outcome::Swapped, 1_500));
    stop.store(true, Ordering::Relaxed);
    for reader in readers {
        let read = reader.await.unwrap();
        assert!(read >= 4, "between the attempts they read on: {read}");
    }
    assert!(contents(pool).await == before);
    assert_eq!(leftovers(pool).await, 0);
}

#[tokio::test]
async fn who_holds_the_tables_is_named_where_they_can_not_be_swapped() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    Book::new(pool).fill().await;
    Reader::new(pool).await.read().await;
    let others = database.another_pool("nightly report").await;
    let mut holders = Vec::new();
    let mut pids = Vec::new();
    for _ in 0..4 {
        let mut holder = others.begin().await.unwrap();
        let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid() FROM ledger.users_v2 LIMIT 1")
            .fetch_one(&mut *holder)
            .await
            .unwrap();
        pids.push(pid);
        holders.push(holder);
    }
    // Whoever holds other tables is not in the way.
    let elsewhere = database.another_pool("elsewhere").await;
    let mut elsewhere = elsewhere.begin().await.unwrap();
    sqlx::query("SELECT FROM ledger.sessions_v2").execute(&mut *elsewhere).await.unwrap();

    let options = Options { swap_attempts: 1, ..Options::default() };
    let busy = rebuild_with(pool, &[named("users")], options).await.unwrap_err();
    let RebuildError::Busy(held) = &busy else { panic!("{busy:?}") };
    let named_pids: Vec<_> = held.by.iter().map(|by| by.pid.unwrap()).collect();
    assert_eq!(named_pids, pids[..3], "those who have held them longest");
    let said = busy.to_string();
    let first = format!(r#"client backend "nightly report" (process {}, since 2"#, pids[0]);
    assert!(said.contains(&first) && said.contains(" UTC)"), "{said}");
    assert!(!said.contains("SELECT") && !said.contains("elsewhere"), "{said}");
    let told = builds(pool).await.unwrap().into_iter().find(|one| one.name == "users").unwrap();
    assert_eq!(told.detail, Some(said));

    for holder in holders {
        holder.rollback().await.unwrap();
    }
    let rebuilt = rebuild_with(pool, &[named("users")], Options::default()).await.unwrap();
    assert_eq!(rebuilt[0].outcome, Outcome::Swapped);
}

/// The new tables are filled and vacuumed, so it is not always a reader that is in the way.
#[tokio::test]
async fn who_holds_the_new_tables_is_named_as_well() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    Book::new(pool).fill().await;
    Reader::new(pool).await.read().await;
    let others = database.another_pool("copying").await;
    let mut reading = pool.begin().await.unwrap();
    sqlx::query("SELECT FROM ledger.users_v2").execute(&mut *reading).await.unwrap();
    let options = Options { swap_attempts: 1, ..Options::default() };
    rebuild_with(pool, &[named("users")], options).await.unwrap_err();
    reading.rollback().await.unwrap();

    let mut holder = others.begin().await.unwrap();
    sqlx::query("SELECT FROM ledger.users_v2_new").execute(&mut *holder).await.unwrap();
    let busy = rebuild_with(pool, &[named("users")], options).await.unwrap_err();
    assert!(busy.to_string().contains(r#"client backend "copying" (process "#), "{busy}");
}

/// What was just written is vacuumed, and a vacuum of many rows takes longer than all attempts.
#[tokio::test(flavor = "multi_thread")]
async fn a_vacuum_of_the_new_tables_is_sent_away() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    RandomBook::new(Book::new(pool), 23).write(6_000).await;
    Reader::new(pool).await.read().await;
    let held = Held::live_table_of(&database, "audit_history").await;
    let rebuilding = tokio::spawn({
        let pool = pool.clone();
        async move {
            let options = Options { swap_attempts: 4, ..Options::default() };
            rebuild_with(&pool, &[named("audit_history")], options).await
        }
    });
    let is_so = async |what: &str| {
        let so = format!("SELECT EXISTS ({what})");
        sqlx::query_scalar::<_, bool>(&so).fetch_one(pool).await.unwrap()
    };
    let comparing = "SELECT FROM builds WHERE name = 'audit_history' AND phase = 'comparing'";
    eventually("it compares", || is_so(comparing)).await;
    for statement in [
        // A page a tenth of a second.
        "ALTER TABLE ledger.audit_history_v3_new SET (autovacuum_vacuum_insert_threshold = 1,
             autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_cost_delay = 100,
             autovacuum_vacuum_cost_limit = 1)",
        "ALTER SYSTEM SET autovacuum_naptime = '1s'",
        "SELECT pg_reload_conf()",
    ] {
        sqlx::raw_sql(statement).execute(pool).await.unwrap();
    }
    let vacuuming = "SELECT FROM pg_stat_progress_vacuum
                      WHERE relid = 'ledger.audit_history_v3_new'::regclass";
    eventually("the new table is vacuumed", || is_so(vacuuming)).await;
    sqlx::raw_sql("ALTER SYSTEM RESET autovacuum_naptime").execute(pool).await.unwrap();
    sqlx::raw_sql("SELECT pg_reload_conf()").execute(pool).await.unwrap();
    held.let_go().await;
    let rebuilt = rebuilding.await.unwrap().unwrap();
    assert_eq!(rebuilt[0].outcome, Outcome::Swapped, "{}", rebuilt[0].verified);
}
