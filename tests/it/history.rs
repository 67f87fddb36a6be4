//! The made-up history: as sound as a real one, and the same again for the same seed.

use crate::support::reading::{verify, verify_identifiers};
use std::collections::HashMap;

use commands::{
    GuardAggregate, SessionAggregate, UserAggregate,
    history::{self, HistoryError, Plan, Written},
    store::{Loaded, Stream},
};
use cqrs_es::EventStore;
use domain::{Identifier, Password, SignInGuardEvent, stream};
use projections::{Projector, Sequencer, all, journal};
use serde_json::Value;

use crate::{book::Desk, support::server::eventually};

const PASSWORD: &str = "one for everybody";

async fn write(desk: &Desk, events: u64, seed: u64) -> Result<Written, HistoryError> {
    let password = Password::choose(PASSWORD).unwrap();
    history::write(&desk.book, Plan::new(events, seed), password, &mut |_| {}).await
}

/// Each event as (stream type, sequence, event type, actor's kind, time), in the order of the book.
async fn structure(desk: &Desk) -> Vec<(String, i64, String, String, String)> {
    sqlx::query_as(
        "SELECT aggregate_type, sequence, event_type,
                split_part(metadata->>'actor', '.', 1), metadata->>'at'
           FROM events ORDER BY tx, id",
    )
    .fetch_all(desk.owner())
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_folds_and_its_read_tables_agree() {
    let master = commands::keyring::MasterKey::generate(&commands::clock::SystemEntropy);
    let database = crate::support::database::TestDatabase::authenticated().await;
    let desk = Desk::open_on(database, master).await;
    let written = write(&desk, 12_000, 1).await.unwrap();
    assert_eq!(written.events, 12_000);

    let sequencer = Sequencer::new(desk.pool.clone());
    // Other tests hold the horizon of the cluster for moments.
    eventually("all lines are in order", async || {
        (sequencer.drain().await.unwrap().position == 12_000).then_some(())
    })
    .await;
    let projector =
        Projector::new(crate::support::reading::source_of(&desk.pool), all(), sequencer.head());
    projector.ensure().await.unwrap();
    projector.catch_up().await.unwrap();
    for projection in all() {
        let verified = verify(&desk.pool, projection).await.unwrap();
        assert!(verified.is_equal(), "{verified:#?}");
    }
    assert!(verify_identifiers(&desk.pool).await.unwrap().is_equal());

    // Every stream loads, and by its snapshot as by its events. No throttle is passed by.
    let mut last = HashMap::new();
    let mut throttled = HashMap::new();
    let mut connection = desk.pool.acquire().await.unwrap();
    for event in journal::read_after(&mut connection, 0, 20_000).await.unwrap() {
        let key = (event.aggregate_type.clone(), event.aggregate_id.clone());
        let before = last.insert(key.clone(), event.sequence).unwrap_or(0);
        assert_eq!(event.sequence, before + 1, "{key:?}");
        let domain::Event::SignInGuard(guard) =
            event.event(desk.book.keyring().events()).unwrap().unwrap()
        else {
            continue;
        };
        match guard {
            SignInGuardEvent::Failed { at, .. } => {
                assert!(throttled.get(&key).is_none_or(|until| at >= *until), "{key:?} at {at}");
            }
            SignInGuardEvent::Throttled { until, .. } => {
                throttled.insert(key, until);
            }
            SignInGuardEvent::AttemptsBlocked { .. }
            | SignInGuardEvent::RegistrationsThrottled { .. }
            | SignInGuardEvent::FailuresCleared { .. } => {}
        }
    }
    drop(connection);
    let mut states = Vec::new();
    for ((aggregate_type, id), sequence) in last {
        let state = state(&desk, &aggregate_type, &id, sequence, true).await;
        states.push((aggregate_type, id, sequence, state));
    }
    // Without the events that they stand for, only sound snapshots let a stream load.
    for statement in [
        "ALTER TABLE events DISABLE TRIGGER append_only",
        "DELETE FROM events AS e USING snapshots AS s
          WHERE (e.aggregate_type, e.aggregate_id) = (s.aggregate_type, s.aggregate_id)
            AND e.sequence <= s.sequence",
    ] {
        sqlx::query(statement).execute(desk.owner()).await.unwrap();
    }
    let snapshots: i64 = sqlx::query_scalar("SELECT count(*) FROM snapshots WHERE sequence >= 32")
        .fetch_one(desk.owner())
        .await
        .unwrap();
    assert!(snapshots >= 5, "{snapshots} streams are long enough for a snapshot");
    for (aggregate_type, id, sequence, folded) in states {
        let loaded = state(&desk, &aggregate_type, &id, sequence, false).await;
        assert_eq!(loaded, folded, "{aggregate_type} {id}");
    }
}

/// What a stream comes to: of all its events, or as the store loads it.
async fn state(desk: &Desk, aggregate_type: &str, id: &str, sequence: i64, folded: bool) -> Value {
    match aggregate_type {
        stream::USER => state_of::<UserAggregate>(desk, id, sequence, folded).await,
        stream::SESSION => state_of::<SessionAggregate>(desk, id, sequence, folded).await,
        stream::SIGN_IN_GUARD => state_of::<GuardAggregate>(desk, id, sequence, folded).await,
        other => panic!("{other}"),
    }
}

async fn state_of<A: Stream>(desk: &Desk, id: &str, sequence: i64, folded: bool) -> Value {
    let store = desk.book.store();
    let mut state = A::default();
    if folded {
        for event in EventStore::<A>::load_events(store, id).await.unwrap() {
            state.apply(event.payload);
        }
    } else {
        let loaded: Loaded<A> = store.load(id).await.unwrap();
        assert_eq!(loaded.sequence() as i64, sequence, "{} {id}", A::TYPE);
        state = loaded.aggregate;
    }
    serde_json::to_value(state).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_has_what_a_real_one_has_and_people_can_sign_in() {
    let desk = Desk::open().await;
    let written = write(&desk, 12_000, 1).await.unwrap();
    for (event_type, at_least) in [
        ("UserRegistered", 20),
        ("UserPasswordChanged", 5),
        ("UserProfileChanged", 5),
        ("SessionStarted", 500),
        ("SessionRefreshed", 5_000),
        ("SessionEnded", 300),
        ("SignInFailed", 100),
        ("SignInThrottled", 10),
        ("SignInAttemptsBlocked", 1),
        ("SignInFailuresCleared", 20),
    ] {
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM events WHERE event_type = $1")
            .bind(event_type)
            .fetch_one(desk.owner())
            .await
            .unwrap();
        assert!(count >= at_least, "{count} of {event_type}");
    }
    // In the order of time, but for what one act does a few seconds ahead.
    let back: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM (
             SELECT (metadata->>'at')::timestamptz AS at,
                    max((metadata->>'at')::timestamptz) OVER (ORDER BY tx, id) AS latest
               FROM events) AS times
          WHERE latest - at > interval '1 minute'",
    )
    .fetch_one(desk.owner())
    .await
    .unwrap();
    assert_eq!(back, 0);

    desk.clock.set(written.ended);
    for name in [history::ADMIN.to_owned(), history::username(1)] {
        let password = Password::present(PASSWORD).unwrap();
        let signed_in = desk
            .book
            .sign_in(&Identifier::typed(&name), password, false, &desk.origin())
            .await
            .unwrap();
        assert_eq!(signed_in.account.username, name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_seed_makes_one_history() {
    let (one, again, other) = (Desk::open().await, Desk::open().await, Desk::open().await);
    write(&one, 6_000, 7).await.unwrap();
    write(&again, 6_000, 7).await.unwrap();
    write(&other, 6_000, 8).await.unwrap();
    let (one, again, other) =
        (structure(&one).await, structure(&again).await, structure(&other).await);
    assert_eq!(one.len(), 6_000);
    assert!(one == again, "the same seed");
    assert!(one != other, "another seed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_book_that_is_in_use_is_left_alone() {
    let desk = Desk::open().await;
    desk.register("ada").await;
    let before = structure(&desk).await;
    let refused = write(&desk, 1_000, 1).await.unwrap_err();
    assert!(matches!(refused, HistoryError::NotEmpty), "{refused}");
    assert_eq!(structure(&desk).await, before);
}
