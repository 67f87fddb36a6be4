//! The order of the book: dense, complete, once, and true to every stream.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use ::projections::{Sequencer, SequencerError, check_journal};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;
use sqlx::{Connection, PgPool};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::book::{Book, INSERT, Reader, eventually, user};
use crate::support::database::TestDatabase;

const WRITERS: u64 = 8;
const COMMITS: u64 = 60;
const SHARED_STREAMS: u64 = 3;

/// One writer: transactions held open in odd ways, several events each, some rolled back, some on
/// streams that others write as well. Returns how many events it committed.
async fn write(pool: PgPool, number: u64, committed: Arc<AtomicU64>) {
    let mut random = StdRng::seed_from_u64(number);
    let mut conn = pool.acquire().await.unwrap();
    let mut pause = |longest: u64| Duration::from_micros(random.random_range(0..=longest));
    let mut dice = StdRng::seed_from_u64(number + 1_000);
    let mut done = 0;
    while done < COMMITS {
        let stream = if dice.random_bool(0.5) {
            format!("shared-{}", dice.random_range(0..SHARED_STREAMS))
        } else {
            format!("own-{number}")
        };
        let mut transaction = conn.begin().await.unwrap();
        // Loaded before anything is written, as an append must.
        let last: i64 = sqlx::query_scalar(
            "SELECT coalesce(max(sequence), 0) FROM events
              WHERE aggregate_type = 'Test' AND aggregate_id = $1",
        )
        .bind(&stream)
        .fetch_one(&mut *transaction)
        .await
        .unwrap();
        tokio::time::sleep(pause(3_000)).await;
        if dice.random_bool(0.5) {
            // A transaction id long before the events.
            sqlx::query("SELECT pg_current_xact_id()").execute(&mut *transaction).await.unwrap();
            tokio::time::sleep(pause(10_000)).await;
        }
        let events = dice.random_range(1..=4);
        let mut conflict = false;
        for sequence in last + 1..=last + events {
            let inserted = sqlx::query(INSERT)
                .bind("Test")
                .bind(&stream)
                .bind(sequence)
                .bind("Tested")
                .bind(json!({}))
                .bind(json!({}))
                .bind("1")
                .execute(&mut *transaction)
                .await;
            if inserted.is_err() {
                conflict = true;
                break;
            }
            tokio::time::sleep(pause(2_000)).await;
        }
        tokio::time::sleep(pause(if dice.random_bool(0.1) { 60_000 } else { 5_000 })).await;
        if conflict || dice.random_bool(0.1) {
            transaction.rollback().await.unwrap();
        } else {
            transaction.commit().await.unwrap();
            committed.fetch_add(u64::try_from(events).unwrap(), Ordering::Relaxed);
            done += 1;
        }
    }
}

fn writers(pool: &PgPool) -> (Vec<tokio::task::JoinHandle<()>>, Arc<AtomicU64>) {
    let committed = Arc::new(AtomicU64::new(0));
    let tasks = (0..WRITERS)
        .map(|number| tokio::spawn(write(pool.clone(), number, Arc::clone(&committed))))
        .collect();
    (tasks, committed)
}

async fn assert_whole(pool: &PgPool, committed: u64) {
    let report = check_journal(pool).await.unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!(report.waiting, 0, "{report:?}");
    assert_eq!(u64::try_from(report.lines).unwrap(), committed, "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_event_is_skipped_however_writers_and_sequencers_race() {
    let database = TestDatabase::create().await;
    let (tasks, committed) = writers(database.pool());

    // One as a server runs it, and one of another process that never rests and takes odd batches.
    let cancel = CancellationToken::new();
    let resting = Sequencer::new(database.another_pool("resting").await);
    let running = tokio::spawn({
        let (resting, cancel) = (resting.clone(), cancel.clone());
        async move { resting.run(Arc::new(Notify::new()), cancel).await }
    });
    let restless = Sequencer::new(database.another_pool("restless").await);
    let stop = Arc::new(AtomicBool::new(false));
    let other = tokio::spawn({
        let stop = Arc::clone(&stop);
        async move {
            let mut limits = (1..=7).cycle();
            while !stop.load(Ordering::Relaxed) {
                restless.sequence_batch(limits.next().unwrap()).await.unwrap();
            }
        }
    });

    for task in tasks {
        task.await.unwrap();
    }
    let all = i64::try_from(committed.load(Ordering::Relaxed)).unwrap();
    let head = resting.head();
    eventually("every event has its line", || async { head.borrow().position >= all }).await;
    stop.store(true, Ordering::Relaxed);
    other.await.unwrap();
    cancel.cancel();
    running.await.unwrap();
    assert_whole(database.pool(), committed.load(Ordering::Relaxed)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sequencer_whose_connections_are_cut_loses_nothing() {
    let database = TestDatabase::create().await;
    let (tasks, committed) = writers(database.pool());
    let cancel = CancellationToken::new();
    let sequencer = Sequencer::new(database.another_pool("victim").await);
    let running = tokio::spawn({
        let (sequencer, cancel) = (sequencer.clone(), cancel.clone());
        async move { sequencer.run(Arc::new(Notify::new()), cancel).await }
    });
    let stop = Arc::new(AtomicBool::new(false));
    let cutting = tokio::spawn({
        let (pool, stop) = (database.another_pool("cutter").await, Arc::clone(&stop));
        async move {
            let mut cut = 0_i64;
            while !stop.load(Ordering::Relaxed) {
                cut += sqlx::query_scalar::<_, i64>(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                      WHERE datname = current_database() AND application_name = 'victim'",
                )
                .fetch_one(&pool)
                .await
                .unwrap();
                tokio::time::sleep(Duration::from_millis(7)).await;
            }
            cut
        }
    });
    for task in tasks {
        task.await.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    assert!(cutting.await.unwrap() > 5, "the sequencer's connections were cut");
    let head = sequencer.head();
    let all = i64::try_from(committed.load(Ordering::Relaxed)).unwrap();
    eventually("it goes on by itself", || async { head.borrow().position >= all }).await;
    cancel.cancel();
    running.await.unwrap();
    assert_whole(database.pool(), committed.load(Ordering::Relaxed)).await;
}

#[tokio::test]
async fn an_append_is_settled_as_soon_as_it_is_told_of() {
    let database = TestDatabase::create().await;
    let sequencer = Sequencer::new(database.pool().clone());
    let (wake, cancel) = (Arc::new(Notify::new()), CancellationToken::new());
    let running = tokio::spawn({
        let (sequencer, wake, cancel) = (sequencer.clone(), Arc::clone(&wake), cancel.clone());
        async move { sequencer.run(wake, cancel).await }
    });
    // Another replica hears of it as well.
    let other = Sequencer::new(database.another_pool("other").await);
    let hearing = tokio::spawn({
        let (other, cancel) = (other.clone(), cancel.clone());
        async move { other.run(Arc::new(Notify::new()), cancel).await }
    });
    let mut book = Book::new(database.pool());
    for number in 1..=20 {
        let receipt = book.register(user(number), &format!("user{number}")).await;
        wake.notify_one();
        for head in [sequencer.head(), other.head()] {
            eventually("the append has its line", || async {
                head.borrow().covers(receipt.tx, receipt.event_id)
            })
            .await;
        }
    }
    cancel.cancel();
    running.await.unwrap();
    hearing.await.unwrap();
}

#[tokio::test]
async fn a_check_of_the_journal_finds_what_is_wrong() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    Book::new(pool).fill().await;
    Reader::new(pool).await.read().await;
    let sound = check_journal(pool).await.unwrap();
    assert!(sound.is_sound() && sound.waiting == 0 && sound.lines > 10, "{sound:?}");

    // Only a superuser who switches the guard off can do this.
    for (damage, found) in [
        ("DELETE FROM journal WHERE position = 3", "a gap"),
        ("UPDATE journal SET event_id = 999 WHERE position = 3", "a line without an event"),
        (
            "UPDATE journal SET position = -position + 100 WHERE position > 1",
            "streams the wrong way round",
        ),
        (
            "WITH first AS (SELECT tx, event_id FROM journal WHERE position = 1)
             UPDATE journal SET (tx, event_id) = (SELECT tx, event_id FROM first) WHERE position = 2",
            "an event twice",
        ),
    ] {
        let mut transaction = pool.begin().await.unwrap();
        sqlx::raw_sql("ALTER TABLE journal DISABLE TRIGGER append_only")
            .execute(&mut *transaction)
            .await
            .unwrap();
        sqlx::raw_sql("CREATE TABLE kept AS TABLE journal").execute(&mut *transaction).await.unwrap();
        sqlx::raw_sql(damage).execute(&mut *transaction).await.unwrap();
        transaction.commit().await.unwrap();
        let report = check_journal(pool).await.unwrap();
        assert!(!report.is_sound(), "{found}: {report:?}");
        sqlx::raw_sql(
            "DELETE FROM journal; INSERT INTO journal TABLE kept; DROP TABLE kept;
             ALTER TABLE journal ENABLE ALWAYS TRIGGER append_only",
        )
        .execute(pool)
        .await
        .unwrap();
        assert_eq!(check_journal(pool).await.unwrap(), sound);
    }
}

#[tokio::test]
async fn a_foreign_book_is_not_sequenced() {
    let database = TestDatabase::create().await;
    sqlx::query("UPDATE sequencer SET system_identifier = 1")
        .execute(database.pool())
        .await
        .unwrap();
    let refused = Sequencer::new(database.pool().clone()).sequence_batch(10).await;
    assert!(matches!(refused, Err(SequencerError::ForeignCluster)), "{refused:?}");
}
