//! What is revoked on one replica is refused by the others.

use std::{sync::Arc, time::Duration};

use ::projections::{Revocations, Sequencer, Verdict};
use chrono::{DateTime, TimeDelta, Utc};
use domain::{EndReason, GuardSubject, Index, Role, Roles, Sealed, User, UserEvent, stream};
use sqlx::{Connection, Executor, PgPool};
use tokio::{sync::Notify, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::book::{Book, Reader, eventually, session, user};
use crate::support::database::TestDatabase;

/// What of a server answers for tokens.
struct Replica {
    revocations: Revocations,
    cancel: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Replica {
    async fn start(pool: &PgPool, now: DateTime<Utc>) -> Self {
        let sequencer = Sequencer::new(pool.clone());
        let revocations = Revocations::new(
            crate::support::reading::source_of(pool),
            sequencer.head(),
            Duration::from_secs(900),
        );
        assert!(!revocations.is_ready(), "not before it is loaded");
        let cancel = CancellationToken::new();
        let settling = {
            let cancel = cancel.clone();
            tokio::spawn(async move { sequencer.run(Arc::new(Notify::new()), cancel).await })
        };
        let following = {
            let (revocations, cancel) = (revocations.clone(), cancel.clone());
            tokio::spawn(async move { revocations.run(now, cancel).await })
        };
        eventually("it is ready", || async { revocations.is_ready() }).await;
        Self { revocations, cancel, tasks: vec![settling, following] }
    }

    async fn stop(self) {
        self.cancel.cancel();
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}

const VALID: Verdict = Verdict::Valid { roles: None };

#[tokio::test(flavor = "multi_thread")]
async fn an_end_on_one_replica_is_known_to_the_other() {
    let database = TestDatabase::create().await;
    let mut book = Book::new(database.pool());
    book.fill().await;
    Reader::new(database.pool()).await;
    let first = Replica::start(&database.another_pool("first").await, book.now).await;
    let second = Replica::start(&database.another_pool("second").await, book.now).await;
    for replica in [&first, &second] {
        let check = |s, u, version| replica.revocations.check(session(s), user(u), version);
        assert_eq!(check(1, 1, 2), VALID);
        assert_eq!(check(2, 2, 1), VALID);
        assert_eq!(check(3, 3, 1), Verdict::Revoked, "it ended before the start");
        assert_eq!(check(33, 3, 1), Verdict::Revoked, "the account is disabled");
    }

    // The command of one process feeds that one at once …
    first.revocations.note_session_ended(session(1));
    assert_eq!(first.revocations.check(session(1), user(1), 2), Verdict::Revoked);
    book.end(session(1), user(1), EndReason::EndedElsewhere).await;
    // … and the other by the book.
    eventually("the second refuses it", || async {
        second.revocations.check(session(1), user(1), 2) == Verdict::Revoked
    })
    .await;
    assert_eq!(second.revocations.check(session(2), user(2), 1), VALID);
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_an_account_reach_its_tokens() {
    let database = TestDatabase::create().await;
    let mut book = Book::new(database.pool());
    book.fill().await;
    Reader::new(database.pool()).await;
    let replica = Replica::start(database.pool(), book.now).await;
    let revocations = &replica.revocations;

    // Bob (version 2) changes the password from one of two sessions.
    book.user(
        user(2),
        UserEvent::PasswordChanged {
            password: Sealed("new".into()),
            kept_session: Some(session(2)),
        },
    )
    .await;
    eventually("the other session is cut off", || async {
        revocations.check(session(22), user(2), 2) == Verdict::Revoked
    })
    .await;
    assert_eq!(revocations.check(session(2), user(2), 2), VALID, "the kept one stays");
    assert_eq!(
        revocations.check(session(23), user(2), 3),
        VALID,
        "a new one is of the new version"
    );

    // A role comes with the next check, and not for a token that has it already.
    book.user(user(2), UserEvent::RoleGranted { role: Role::Admin }).await;
    let roles: Roles = [Role::User, Role::Admin].into();
    eventually("the role is known", || async {
        revocations.check(session(2), user(2), 3) == Verdict::Valid { roles: Some(roles.clone()) }
    })
    .await;
    assert_eq!(revocations.check(session(2), user(2), 4), VALID);

    book.user(user(2), UserEvent::Disabled {}).await;
    eventually("a disabled account has no tokens", || async {
        revocations.check(session(2), user(2), 4) == Verdict::Revoked
    })
    .await;
    book.user(user(2), UserEvent::Enabled {}).await;
    eventually("enabled, it has new ones", || async {
        revocations.check(session(24), user(2), 6) == Verdict::Valid { roles: None }
    })
    .await;
    assert_eq!(revocations.check(session(2), user(2), 4), Verdict::Revoked, "but not the old ones");

    // An older state that comes late changes nothing.
    revocations.note_user(user(2), &User { version: 1, ..User::default() });
    assert_eq!(revocations.check(session(2), user(2), 4), Verdict::Revoked);

    // What only a newer binary can read: its older tokens are refused here.
    book.raw("User", &user(1).to_string(), "UserMerged", serde_json::json!({"UserMerged": {}}))
        .await;
    eventually("unreadable, so refused", || async {
        revocations.check(session(1), user(1), 2) == Verdict::Revoked
    })
    .await;
    replica.stop().await;
}

/// Somebody's open transaction keeps events out of the journal. A revocation does not wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_held_horizon_holds_no_revocation_back() {
    let database = TestDatabase::create().await;
    let mut book = Book::new(database.pool());
    book.fill().await;
    Reader::new(database.pool()).await;
    let replica = Replica::start(&database.another_pool("replica").await, book.now).await;
    let mut conn = database.pool().acquire().await.unwrap();
    let mut holding = conn.begin().await.unwrap();
    holding.execute("SELECT pg_current_xact_id()").await.unwrap();
    let ended = book.end(session(2), user(2), EndReason::SignedOut).await;
    eventually("it is refused", || async {
        replica.revocations.check(session(2), user(2), 2) == Verdict::Revoked
    })
    .await;
    let settled = Sequencer::new(database.pool().clone()).drain().await.unwrap();
    assert!(!settled.covers(ended.tx, ended.event_id), "it has no line yet");
    holding.rollback().await.unwrap();
    replica.stop().await;
}

/// What the views lag behind is made up for by the journal.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_with_views_that_lag_misses_nothing() {
    let database = TestDatabase::create().await;
    let mut book = Book::new(database.pool());
    book.fill().await;
    let reader = Reader::new(database.pool()).await;
    reader.read().await;
    book.end(session(1), user(1), EndReason::SignedOut).await;
    book.user(user(2), UserEvent::Disabled {}).await;
    let head = reader.settle().await;
    let replica = Replica::start(database.pool(), book.now).await;
    assert_eq!(replica.revocations.caught_up_to(), head);
    for (s, u) in [(1, 1), (2, 2), (3, 3)] {
        assert_eq!(replica.revocations.check(session(s), user(u), 1), Verdict::Revoked);
    }
    replica.stop().await;
}

/// Where a view is not built or stands still, the journal tells, and only of what a token can outlive.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_without_views_reads_the_journal_from_shortly_before_the_window() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let mut book = Book::new(pool);
    book.fill().await;
    // In it session 3 and account 3 ended.
    book.hold();
    for number in 0..3_000 {
        book.fail(GuardSubject::Identifier(Index(format!("{number}"))), None).await;
    }
    book.write_held().await;
    book.end(session(1), user(1), EndReason::SignedOut).await;
    book.hold();
    for number in 3_000..6_000 {
        book.fail(GuardSubject::Identifier(Index(format!("{number}"))), None).await;
    }
    book.write_held().await;
    book.end(session(2), user(2), EndReason::SignedOut).await;
    let head = Reader::new(pool).await.settle().await;
    sqlx::raw_sql(
        "ALTER TABLE events DISABLE TRIGGER append_only;
         UPDATE events SET recorded_at = now() - CASE
                    WHEN j.position <= (SELECT count(*) - 3002 FROM journal) THEN interval '1 day'
                    ELSE interval '20 minutes' END
           FROM journal AS j WHERE j.tx = events.tx AND j.event_id = events.id;
         ALTER TABLE events ENABLE ALWAYS TRIGGER append_only",
    )
    .execute(pool)
    .await
    .unwrap();
    let (applied, now): (i64, DateTime<Utc>) =
        sqlx::query_as("SELECT max(position), now() FROM projections")
            .fetch_one(pool)
            .await
            .unwrap();
    assert_eq!(applied, 0, "no view knows anything");
    let replica = Replica::start(&database.another_pool("replica").await, now).await;
    assert_eq!(replica.revocations.caught_up_to(), head);
    let check = |number| replica.revocations.check(session(number), user(number), 1);
    assert_eq!(check(1), Verdict::Revoked, "it ended in the window");
    assert_eq!(check(2), Verdict::Revoked, "it ended in the window");
    assert_eq!(check(3), VALID, "what no token can outlive was not read");
    replica.stop().await;

    // A replica whose clock is behind reads further back: its tokens live longer by it.
    let yesterday = now - TimeDelta::days(1);
    let late = Replica::start(&database.another_pool("late").await, yesterday).await;
    assert_eq!(late.revocations.check(session(3), user(3), 1), Verdict::Revoked);
    late.stop().await;
}

#[tokio::test]
async fn a_feed_that_broke_is_not_ready() {
    let database = TestDatabase::create().await;
    Reader::new(database.pool()).await;
    let replica =
        Replica::start(&database.another_pool("replica").await, DateTime::UNIX_EPOCH).await;
    sqlx::raw_sql("ALTER TABLE sequencer RENAME TO gone").execute(database.pool()).await.unwrap();
    eventually("it says so", || async { !replica.revocations.is_ready() }).await;
    sqlx::raw_sql("ALTER TABLE gone RENAME TO sequencer").execute(database.pool()).await.unwrap();
    eventually("it recovers", || async { replica.revocations.is_ready() }).await;
    replica.stop().await;
}

/// So many changes that bear on no token, in one go.
async fn change_name_often(pool: &PgPool, book: &mut Book, number: u128, times: i64) {
    let id = user(number);
    let first = book.leave_numbers(stream::USER, &id.to_string(), times) + 1;
    sqlx::query(
        "INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
         SELECT 'User', $1, sequence, 'UserProfileChanged', '1',
                '{\"UserProfileChanged\": {\"full_name\": {\"from\": null, \"to\": null}}}',
                '{\"actor\": \"system\", \"request_id\": \"r\", \"at\": \"2026-03-01T10:00:00Z\"}'
           FROM generate_series($2::bigint, $3::bigint) AS sequence",
    )
    .bind(id.to_string())
    .bind(first)
    .bind(first + times - 1)
    .execute(pool)
    .await
    .unwrap();
}

/// What was read of the events so far, by whatever way. A session's own share is counted a second late.
async fn events_read(pool: &PgPool) -> i64 {
    let read = "SELECT seq_tup_read + coalesce(idx_tup_fetch, 0) FROM pg_stat_user_tables WHERE relname = 'events'";
    sqlx::query_scalar(read).fetch_one(pool).await.unwrap()
}

/// Accounts with long streams that change again and again: everybody else's tokens are answered for, and their
/// streams are read once.
#[tokio::test(flavor = "multi_thread")]
async fn long_streams_are_read_once_and_hold_nobody_up() {
    const LONG: i64 = 20_000;
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let mut book = Book::new(pool);
    book.fill().await;
    Reader::new(pool).await;
    let replica = Replica::start(&database.another_pool("replica").await, book.now).await;
    let revocations = &replica.revocations;
    for number in 1..=2 {
        change_name_often(pool, &mut book, number, LONG).await;
    }
    let before = events_read(pool).await;
    for round in 0..20 {
        for number in 1..=2 {
            book.user(user(number), UserEvent::SessionsEnded { kept_session: None }).await;
        }
        let version = u64::try_from(LONG).unwrap() + round;
        eventually("both are cut off", || async {
            assert_ne!(revocations.check(session(4), user(4), 1), Verdict::Unknown);
            (1..=2).all(|number| {
                revocations.check(session(number), user(number), version) == Verdict::Revoked
            })
        })
        .await;
    }
    // All that was read was counted when later reading is.
    eventually("what was read is counted", || async {
        events_read(pool).await - before >= 2 * LONG
    })
    .await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let read = events_read(pool).await - before;
    // Some five times: as they come, to be put in order, along the journal and as streams, with a little for each
    // change. Read anew for each change, it would be twenty times more.
    println!("{read} events were read");
    assert!(
        read < 16 * LONG,
        "{read} events were read for two streams of {LONG} that changed 20 times"
    );
    replica.stop().await;
}

/// What waits for an open transaction is read when it comes, and not again at every look.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_an_open_transaction_is_read_once() {
    const WAITING: i64 = 5_000;
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let mut book = Book::new(pool);
    book.fill().await;
    Reader::new(pool).await;
    let replica = Replica::start(&database.another_pool("replica").await, book.now).await;
    let revocations = &replica.revocations;
    let mut conn = pool.acquire().await.unwrap();
    let mut holding = conn.begin().await.unwrap();
    // It is open while others look, and ends a session itself.
    let end = "INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
               VALUES ('Session', $1, 1000, 'SessionEnded', '1', '{}', '{}')";
    sqlx::query(end).bind(session(22).to_string()).execute(&mut *holding).await.unwrap();
    change_name_often(pool, &mut book, 1, WAITING).await;
    let ended = |number| {
        let revocations = revocations.clone();
        async move { revocations.check(session(number), user(2), 2) == Verdict::Revoked }
    };
    book.end(session(2), user(2), EndReason::SignedOut).await;
    eventually("an end among them is known", || ended(2)).await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let before = events_read(pool).await;
    // Each change wakes nobody up, because nothing gets a line: ten polls.
    for number in 0..10 {
        book.end(session(100 + number), user(2), EndReason::SignedOut).await;
        eventually("the next one is known", || ended(100 + number)).await;
    }
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let read = events_read(pool).await - before;
    println!("{read} events were read");
    assert!(read < 2 * WAITING, "{read} events were read in ten looks at {WAITING} that wait");
    assert!(!ended(22).await, "it is not committed");
    holding.commit().await.unwrap();
    eventually("what was open at the last look is seen", || ended(22)).await;
    replica.stop().await;
}
