//! A key that is gone without the event that destroys it is found, and so is one that is back in spite of it.

use ::projections::destroyed_keys::{KeyFault, key_faults};

use super::{count, erase::admin};
use crate::book::Desk;

async fn run(desk: &Desk, statement: &str) {
    sqlx::raw_sql(statement).execute(desk.owner()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_held_against_the_events_that_destroy_them_both_ways() {
    let desk = Desk::open().await;
    let ada = desk.register("ada").await.account.id;
    let bob = desk.register("bob").await.account.id;
    let carol = desk.register("carol").await.account.id;
    // Somebody to whom no event refers, and a month in which nothing was sealed, are no fault.
    assert_eq!(key_faults(&desk.pool).await.unwrap().first, []);
    run(&desk, &format!("CREATE TABLE kept AS SELECT * FROM sealing_keys WHERE id = 'p:{ada}'"))
        .await;
    desk.book.erase(ada, &admin(bob)).await.unwrap().unwrap();
    assert_eq!(key_faults(&desk.pool).await.unwrap().first, [], "destroyed as it should be");

    let there =
        count(desk.owner(), "SELECT count(*) FROM sealing_keys WHERE starts_with(id, 'm:')").await;
    assert_eq!(there, 1);
    let month: String =
        sqlx::query_scalar("SELECT id FROM sealing_keys WHERE starts_with(id, 'm:')")
            .fetch_one(desk.owner())
            .await
            .unwrap();
    run(
        &desk,
        &format!(
            "ALTER TABLE sealing_keys DISABLE TRIGGER ALL; INSERT INTO sealing_keys SELECT * FROM kept;
             ALTER TABLE sealing_keys ENABLE ALWAYS TRIGGER forfeit;
             DELETE FROM sealing_keys WHERE id IN ('p:{carol}', '{month}')"
        ),
    )
    .await;
    let faults = key_faults(&desk.pool).await.unwrap();
    assert_eq!(
        faults.first,
        [
            KeyFault::Returned(format!("p:{ada}")),
            KeyFault::Missing(format!("p:{carol}")),
            KeyFault::Missing(month),
        ]
    );
    assert_eq!(faults.in_all, 3);
}
