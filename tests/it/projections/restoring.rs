//! A book that was restored into another cluster.

use ::projections::{
    Adoption, ControlRow, Sequencer, SequencerError, adopt_cluster, check_journal,
};
use serde_json::json;
use sqlx::PgPool;

use super::book::{Book, Reader, user};
use crate::support::database::TestDatabase;

/// Events as a dump brings them: with the transaction ids of another cluster.
async fn restored(pool: &PgPool, id: i64, tx: u64, stream: &str, sequence: i64) {
    sqlx::query(
        "INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version,
                             payload, metadata, id, tx)
         OVERRIDING SYSTEM VALUE
         VALUES ('User', $1, $2, 'UserEnabled', '1', $3, $4, $5, $6::text::xid8)",
    )
    .bind(stream)
    .bind(sequence)
    .bind(json!({"UserEnabled": {}}))
    .bind(json!({}))
    .bind(id)
    .bind(tx.to_string())
    .execute(pool)
    .await
    .unwrap();
}

/// A book from a cluster whose transaction ids are around `tx`: some events have their lines, the last
/// four have none.
async fn foreign_book(pool: &PgPool, tx: u64) {
    for (id, tx, stream, sequence) in
        [(1, tx, "a", 1), (2, tx + 7, "b", 1), (4, tx + 5, "a", 2), (3, tx + 9, "c", 1)]
    {
        restored(pool, id, tx, stream, sequence).await;
    }
    sqlx::query(
        "INSERT INTO journal (position, tx, event_id)
         SELECT row_number() OVER (ORDER BY tx, id), tx, id FROM events",
    )
    .execute(pool)
    .await
    .unwrap();
    sqlx::query(
        "UPDATE sequencer SET position = 4, tx = $1::text::xid8, event_id = 3, system_identifier = 1",
    )
    .bind((tx + 9).to_string())
    .execute(pool)
    .await
    .unwrap();
    for (id, tx, stream, sequence) in
        [(7, tx + 30, "a", 3), (6, tx + 11, "b", 2), (8, tx + 12, "b", 3), (9, tx + 31, "c", 2)]
    {
        restored(pool, id, tx, stream, sequence).await;
    }
}

async fn adopt(pool: &PgPool) -> Adoption {
    adopt_cluster(&mut pool.acquire().await.unwrap()).await.unwrap()
}

async fn next_tx(pool: &PgPool) -> u64 {
    let next: String = sqlx::query_scalar("SELECT pg_snapshot_xmax(pg_current_snapshot())::text")
        .fetch_one(pool)
        .await
        .unwrap();
    next.parse().unwrap()
}

/// The ids of the old cluster may be far ahead of this one's, or behind, or be reached soon.
#[tokio::test]
async fn restored_events_keep_their_lines_and_new_ones_follow() {
    let soon = 5_000;
    for ahead in [Some(1 << 40), None, Some(soon)] {
        let database = TestDatabase::create().await;
        let pool = database.pool();
        let tx = match ahead {
            Some(ahead) => next_tx(pool).await + ahead,
            None => 5,
        };
        foreign_book(pool, tx).await;
        let reader = Reader::of(pool, Vec::new()).await;
        assert!(reader.sequencer.drain().await.is_err(), "not before the book is adopted");

        // Another replica may have appended already; the ids that a dump sets go on.
        sqlx::query("SELECT setval(pg_get_serial_sequence('events', 'id'), 9)")
            .execute(pool)
            .await
            .unwrap();
        let mut book = Book::new(pool);
        book.register(user(1), "ada").await;

        assert_eq!(adopt(pool).await, Adoption::Adopted { events: 5 });
        assert_eq!(adopt(pool).await, Adoption::SameCluster);
        let head = reader.sequencer.drain().await.unwrap();
        assert_eq!(head.position, 9, "with nothing new, nothing more is settled");

        if ahead == Some(soon) {
            // This cluster comes to the ids that the restored events have.
            sqlx::raw_sql(&format!(
                "DO $$ BEGIN
                     FOR i IN 1..{soon} LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP;
                 END $$"
            ))
            .execute(pool)
            .await
            .unwrap();
        }
        for number in 2..=40 {
            book.register(user(number), &format!("user{number}")).await;
        }
        assert_eq!(reader.settle().await, 9 + 39);
        let report = check_journal(pool).await.unwrap();
        assert!(report.is_sound(), "{report:?}");
        assert_eq!((report.lines, report.waiting), (48, 0));
    }
}

#[tokio::test]
async fn ids_go_on_above_the_restored_ones() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    foreign_book(pool, 1 << 40).await;
    // The identity was not brought along, and would give 1, 2, 3 … again.
    adopt(pool).await;
    let receipt = Book::new(pool).register(user(1), "ada").await;
    assert!(receipt.event_id > 9, "{receipt:?}");
    assert_eq!(Reader::of(pool, Vec::new()).await.settle().await, 9);
}

#[tokio::test]
async fn at_home_nothing_changes() {
    let database = TestDatabase::create().await;
    Book::new(database.pool()).fill().await;
    let reader = Reader::new(database.pool()).await;
    reader.read().await;
    let before = check_journal(database.pool()).await.unwrap();
    assert_eq!(adopt(database.pool()).await, Adoption::SameCluster);
    assert_eq!(check_journal(database.pool()).await.unwrap(), before);
}

async fn control_row(pool: &PgPool) -> ControlRow {
    ControlRow::read(&mut pool.acquire().await.unwrap()).await.unwrap()
}

/// A dump that is put into a cluster with the same system identifier and lower transaction ids, as a copied machine has
/// them: the events to come would stand below what is settled.
#[tokio::test]
async fn a_control_row_from_the_future_is_a_restore() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    Book::new(pool).fill().await;
    let reader = Reader::new(pool).await;
    let lines = reader.settle().await;
    let later = next_tx(pool).await + 100_000;
    sqlx::raw_sql(
        "ALTER TABLE journal DISABLE TRIGGER append_only; ALTER TABLE events DISABLE TRIGGER append_only",
    )
    .execute(pool)
    .await
    .unwrap();
    for statement in [
        "UPDATE events SET tx = $1::text::xid8 WHERE id = (SELECT event_id FROM sequencer)",
        "UPDATE journal SET tx = $1::text::xid8 WHERE event_id = (SELECT event_id FROM sequencer)",
        "UPDATE sequencer SET tx = $1::text::xid8",
    ] {
        sqlx::query(statement).bind(later.to_string()).execute(pool).await.unwrap();
    }
    assert_eq!(control_row(pool).await, ControlRow::Restored);
    let mut book = Book::new(pool);
    for number in 100..105 {
        book.register(user(number), &format!("user{number}")).await;
    }
    // The idle look notices as well: nothing seems to wait.
    let wake = std::sync::Arc::default();
    let running = Sequencer::new(pool.clone());
    let settling = running.run(wake, tokio_util::sync::CancellationToken::new());
    let _ = tokio::time::timeout(std::time::Duration::from_millis(300), settling).await;
    let refused = running.drain().await;
    assert!(matches!(refused, Err(SequencerError::Restored)), "{refused:?}");
    assert_eq!(adopt(pool).await, Adoption::Adopted { events: 5 });
    assert_eq!(control_row(pool).await, ControlRow::Fits);
    book.register(user(200), "grace").await;
    assert_eq!(Reader::of(pool, Vec::new()).await.settle().await, lines + 6);
    let report = check_journal(pool).await.unwrap();
    assert!(report.is_sound() && report.waiting == 0, "{report:?}");
}

/// Whatever its transaction ids are: the tables of a dump are other tables.
#[tokio::test]
async fn a_control_row_of_another_table_is_a_restore() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    Book::new(pool).fill().await;
    let lines = Reader::new(pool).await.settle().await;
    sqlx::raw_sql(
        "CREATE TABLE brought (LIKE sequencer INCLUDING ALL);
         INSERT INTO brought TABLE sequencer;
         DROP TABLE sequencer;
         ALTER TABLE brought RENAME TO sequencer",
    )
    .execute(pool)
    .await
    .unwrap();
    let refused = Sequencer::new(pool.clone()).sequence_batch(10).await;
    assert!(matches!(refused, Err(SequencerError::Restored)), "{refused:?}");
    assert_eq!(adopt(pool).await, Adoption::Adopted { events: 0 });
    Book::new(pool).register(user(200), "grace").await;
    assert_eq!(Reader::of(pool, Vec::new()).await.settle().await, lines + 1);
}

/// Whoever owns the table can still move it. No event may get a second line for that, and none be passed over.
#[tokio::test]
async fn a_control_row_that_was_moved_is_refused_and_mended() {
    for damage in [
        "UPDATE sequencer SET position = position + 5",
        "UPDATE sequencer SET position = position - 2",
        "UPDATE sequencer SET tx = '3', event_id = 1",
        "UPDATE sequencer SET event_id = event_id + 1",
        "DELETE FROM sequencer",
    ] {
        let database = TestDatabase::create().await;
        let pool = database.pool();
        Book::new(pool).fill().await;
        let lines = Reader::new(pool).await.settle().await;
        sqlx::raw_sql(damage).execute(pool).await.unwrap();
        Book::new(pool).register(user(200), "grace").await;
        if !damage.starts_with("DELETE") {
            assert_eq!(control_row(pool).await, ControlRow::Displaced, "{damage}");
            let refused = Sequencer::new(pool.clone()).sequence_batch(10).await;
            assert!(matches!(refused, Err(SequencerError::Displaced)), "{damage}: {refused:?}");
        } else {
            Sequencer::new(pool.clone()).sequence_batch(10).await.unwrap_err();
        }
        assert_eq!(adopt(pool).await, Adoption::Mended { events: 1 }, "{damage}");
        Book::new(pool).register(user(201), "joan").await;
        assert_eq!(Reader::of(pool, Vec::new()).await.settle().await, lines + 2, "{damage}");
        let report = check_journal(pool).await.unwrap();
        assert!(report.is_sound() && report.waiting == 0, "{damage}: {report:?}");
    }
}

/// One snapshot for all its statements could miss what was committed below the horizon.
#[tokio::test]
async fn events_are_settled_in_read_committed_alone() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    Book::new(pool).fill().await;
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        let mut transaction = pool.begin().await.unwrap();
        sqlx::raw_sql(&format!("SET TRANSACTION ISOLATION LEVEL {level}"))
            .execute(&mut *transaction)
            .await
            .unwrap();
        let refused =
            sqlx::query("SELECT settle_events(10)").execute(&mut *transaction).await.unwrap_err();
        assert!(refused.to_string().contains("READ COMMITTED alone"), "{refused}");
    }
}
