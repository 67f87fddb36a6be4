//! An open transaction holds the order back, and is named.

use ::projections::{Horizon, Sequencer};
use sqlx::{Connection, Executor};

use super::book::{Book, eventually, user};
use crate::support::database::TestDatabase;

#[tokio::test]
async fn whoever_holds_the_horizon_is_named() {
    let database = TestDatabase::create().await;
    let holding = database.another_pool("a slow report").await;
    let mut conn = holding.acquire().await.unwrap();
    let mut transaction = conn.begin().await.unwrap();
    transaction.execute("SELECT pg_current_xact_id()").await.unwrap();

    let sequencer = Sequencer::new(database.pool().clone());
    Book::new(database.pool()).register(user(1), "ada").await;
    assert_eq!(sequencer.sequence_batch(10).await.unwrap().settled, 0);
    // Tests beside this one hold the horizon of the cluster too, each for a moment.
    eventually("the holder is named", || async {
        let Some(holder) = Horizon::read(database.pool()).await.unwrap().holder else {
            return false;
        };
        let said = holder.to_string();
        said.contains("\"a slow report\"")
            && said.contains("idle in transaction")
            && said.contains("entrybook_test_")
            && holder.started_at.is_some()
    })
    .await;

    transaction.rollback().await.unwrap();
    eventually("the order goes on", || async { sequencer.drain().await.unwrap().position == 1 })
        .await;
}
