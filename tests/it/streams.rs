//! The connections that streams are loaded and appended with: one that was left in the middle, or that
//! the server has ended, is nobody else's trouble.

use std::{collections::HashMap, time::Duration};

use commands::{
    SessionAggregate, StorageError, UserAggregate,
    store::{AppendError, Loaded, Store},
};
use domain::{IdentifierKind, Index, SessionEvent};
use sqlx::{Executor as _, PgPool, Postgres, Transaction};
use tokio::task::JoinHandle;

use crate::{book::Desk, support::server::eventually};

/// A store with one connection, and the desk that it stands at.
async fn with_one_connection() -> (Desk, Store) {
    let desk = Desk::open().await;
    let store = Store::new(
        desk.pool.clone(),
        1,
        [0; 32].into(),
        [0; 32].into(),
        crate::support::reading::older_than_any_code(),
    );
    (desk, store)
}

async fn nobody(store: &Store) -> Result<(), StorageError> {
    let found = store.find(IdentifierKind::Email, &Index("nobody".into())).await?;
    assert_eq!(found, None);
    Ok(())
}

/// The backend that waits for a lock in this database, as soon as one does.
async fn waiting(owner: &PgPool) -> i32 {
    let sql = "SELECT pid FROM pg_stat_activity
                WHERE datname = current_database() AND wait_event_type = 'Lock'";
    eventually("a statement waits for the lock", async || {
        sqlx::query_scalar(sql).fetch_optional(owner).await.unwrap()
    })
    .await
}

/// Nothing can be loaded or appended as long as this lives.
async fn hold_events(desk: &Desk) -> Transaction<'static, Postgres> {
    let mut transaction = desk.owner().begin().await.unwrap();
    transaction.execute("LOCK TABLE events IN ACCESS EXCLUSIVE MODE").await.unwrap();
    transaction
}

fn load(store: &Store) -> JoinHandle<Result<(), StorageError>> {
    let store = store.clone();
    tokio::spawn(async move { store.load::<SessionAggregate>("none").await.map(|_| ()) })
}

#[tokio::test]
async fn who_stops_waiting_leaves_no_statement_behind() {
    let (desk, store) = with_one_connection().await;
    let user = desk.register("ada").await.account.id;
    let lock = hold_events(&desk).await;
    let loading = load(&store);
    waiting(desk.owner()).await;
    loading.abort();
    assert!(loading.await.unwrap_err().is_cancelled());

    // The lock is still held: on the connection that was left, this would wait behind the load.
    tokio::time::timeout(Duration::from_secs(20), nobody(&store)).await.unwrap().unwrap();
    lock.rollback().await.unwrap();
    assert_eq!(store.load::<UserAggregate>(&user.to_string()).await.unwrap().sequence(), 1);
}

#[tokio::test]
async fn a_connection_that_was_ended_in_the_middle_is_not_used_again() {
    let (desk, store) = with_one_connection().await;
    let lock = hold_events(&desk).await;
    let loading = load(&store);
    let backend = waiting(desk.owner()).await;
    sqlx::query("SELECT pg_terminate_backend($1)")
        .bind(backend)
        .execute(desk.owner())
        .await
        .unwrap();
    // Who was in the middle is told; who comes next has a new connection.
    let error = loading.await.unwrap().unwrap_err();
    assert!(error.is_temporary(), "{error}");
    nobody(&store).await.unwrap();
    lock.rollback().await.unwrap();
}

#[tokio::test]
async fn an_idle_connection_that_was_ended_is_not_noticed() {
    let (desk, store) = with_one_connection().await;
    nobody(&store).await.unwrap();
    assert_eq!(store.connections(), (1, 1));
    let ended: i64 = sqlx::query_scalar(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
          WHERE datname = current_database() AND application_name = 'entrybook' AND state = 'idle'",
    )
    .fetch_one(desk.owner())
    .await
    .unwrap();
    assert!(ended > 0);
    // A connection that was used a moment ago is believed to live.
    tokio::time::sleep(Duration::from_millis(600)).await;
    nobody(&store).await.unwrap();
}

#[tokio::test]
async fn when_all_are_busy_one_waits_and_is_told_so() {
    let (desk, store) = with_one_connection().await;
    let lock = hold_events(&desk).await;
    let loading = load(&store);
    waiting(desk.owner()).await;
    let error = nobody(&store).await.unwrap_err();
    assert!(matches!(error, StorageError::Unavailable(sqlx::Error::PoolTimedOut)), "{error}");
    lock.rollback().await.unwrap();
    loading.await.unwrap().unwrap();
    nobody(&store).await.unwrap();
}

#[tokio::test]
async fn a_refused_statement_costs_no_connection() {
    let (desk, store) = with_one_connection().await;
    let id = desk.register("ada").await.session_id.to_string();
    let stale = Loaded::<SessionAggregate>::new_stream(id.clone());
    assert_eq!(store.load::<SessionAggregate>(&id).await.unwrap().sequence(), 1);
    let payload = sqlx::query_scalar("SELECT payload FROM events WHERE aggregate_id = $1")
        .bind(&id)
        .fetch_one(&desk.pool)
        .await
        .unwrap();
    let event: SessionEvent = serde_json::from_value(payload).unwrap();
    let refused = store.append(&stale, &[event], &HashMap::default()).await;
    assert!(matches!(refused, Err(AppendError::Conflict)), "{refused:?}");
    assert_eq!(store.connections(), (1, 1));
}

#[tokio::test]
async fn a_closed_store_answers_nobody() {
    let (_desk, store) = with_one_connection().await;
    store.close().await;
    assert!(store.load::<SessionAggregate>("none").await.is_err());
    assert!(nobody(&store).await.is_err());
}
