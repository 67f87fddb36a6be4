//! The swap: readers never wait for long, and never fail.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use ::projections::{BuildState, Options, Outcome, RebuildError, builds, users};

use super::{
    book::{Book, Reader},
    random_book::RandomBook,
    rebuilding::{leftovers, named, rebuild_with},
    views::contents,
};
use crate::support::database::TestDatabase;

#[tokio::test(flavor = "multi_thread")]
async fn a_long_reader_holds_up_the_swap_and_no_other_reader() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    RandomBook::new(Book::new(pool), 21).write(1_500).await;
    Reader::new(pool).await.read().await;
    let before = contents(pool).await;

    let mut holder = pool.begin().await.unwrap();
    sqlx::query("SELECT FROM ledger.users_v1 LIMIT 1").execute(&mut *holder).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let (pool, stop) = (pool.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                let (mut longest, mut waited) = (Duration::ZERO, Duration::ZERO);
                while !stop.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    assert!(users::page(&pool, None, 5).await.unwrap().more);
                    let took = began.elapsed();
                    longest = longest.max(took);
                    if took > Duration::from_millis(50) {
                        waited += took;
                    }
                }
                (longest, waited)
            })
        })
        .collect();

    let began = Instant::now();
    let options = Options { swap_attempts: 4, ..Options::default() };
    let busy = rebuild_with(pool, &[named("users")], options).await;
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
    let all = began.elapsed();
    for reader in readers {
        let (longest, waited) = reader.await.unwrap();
        assert!(longest * 3 < held, "a reader waited {longest:?}, of {held:?} that the swap did");
        assert!(waited * 5 < all * 3, "a reader waited {waited:?} in all, of {all:?}");
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
        let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid() FROM ledger.users_v1 LIMIT 1")
            .fetch_one(&mut *holder)
            .await
            .unwrap();
        pids.push(pid);
        holders.push(holder);
    }
    // Whoever holds other tables is not in the way.
    let elsewhere = database.another_pool("elsewhere").await;
    let mut elsewhere = elsewhere.begin().await.unwrap();
    sqlx::query("SELECT FROM ledger.sessions_v1").execute(&mut *elsewhere).await.unwrap();

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
    sqlx::query("SELECT FROM ledger.users_v1").execute(&mut *reading).await.unwrap();
    let options = Options { swap_attempts: 1, ..Options::default() };
    rebuild_with(pool, &[named("users")], options).await.unwrap_err();
    reading.rollback().await.unwrap();

    let mut holder = others.begin().await.unwrap();
    sqlx::query("SELECT FROM ledger.users_v1_new").execute(&mut *holder).await.unwrap();
    let busy = rebuild_with(pool, &[named("users")], options).await.unwrap_err();
    assert!(busy.to_string().contains(r#"client backend "copying" (process "#), "{busy}");
}
