//! Many replicas, and one stream: each counts for itself, and the stream for all of them.

use commands::{By, ChangeProfileError, NewProfile, Spender, StorageError, keyring::MasterKey};
use domain::{FullName, Password};

use crate::book::Desk;

/// Each replica lets through what it would alone; one stream takes no more of it than one replica lets through in an
/// hour, however many there are.
#[tokio::test]
async fn one_stream_takes_no_more_over_many_replicas() {
    let master = || MasterKey::parse(&"0102".repeat(16)).unwrap();
    let desk = Desk::open_with(master()).await;
    let ada = desk.register("ada").await;
    let origin = desk.origin().with(By::User(ada.account.id));
    let name = |round: usize| NewProfile {
        full_name: Some(FullName::parse(&format!("Ada {round}")).unwrap()),
        ..NewProfile::default()
    };
    let mut done = 0;
    for number in 1..=8 {
        let book = desk.replica(master()).await;
        let (mut here, mut over) = (0, None);
        for _ in 0..100 {
            match book.change_profile(ada.account.id, name(done), None, &origin).await {
                Ok(_) => (done, here) = (done + 1, here + 1),
                Err(ChangeProfileError::Storage(StorageError::OverBudget(refused))) => {
                    over = Some(refused);
                    break;
                }
                Err(error) => panic!("{error}"),
            }
        }
        let over = over.unwrap_or_else(|| panic!("{here} changes, and nothing is refused"));
        if number <= 6 {
            assert_eq!((here, over.spender), (60, Spender::Person));
        } else {
            assert_eq!(over.spender, Spender::Stream, "after {done}");
            assert!(over.retry_after.as_secs() <= 3_600, "{over:?}");
        }
    }
    // One more was the registration.
    assert_eq!(done, 419);
    let counted: i64 = sqlx::query_scalar("SELECT count(*) FROM events WHERE aggregate_id = $1")
        .bind(ada.account.id.to_string())
        .fetch_one(&desk.pool)
        .await
        .unwrap();
    assert_eq!(counted, 420);
    // What protects the account goes on.
    let book = desk.replica(master()).await;
    let kept = ada.kept();
    book.end_other_sessions(ada.account.id, kept, &origin).await.unwrap().unwrap();
    let current = Password::present("the password of ada").unwrap();
    let new = Password::choose("another password").unwrap();
    book.change_password(ada.account.id, Some(kept), current, new, &origin).await.unwrap();
}
