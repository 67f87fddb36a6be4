//! Events of other versions: what an older binary wrote goes on, and what a newer one wrote is an
//! answer to the person concerned and to nobody else.

use ::projections::{ProjectionState, sessions};
use commands::{
    ReadingAggregate, RefreshError, ServiceAggregate, SessionAggregate, StorageError, UserAggregate,
};
use cqrs_es::EventStore;
use domain::{
    Actor, EndReason, Metadata, SessionEvent, SessionId, SignInMethod, TokenHash, fixtures, stream,
};
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

use crate::{
    book::Desk,
    projections::book::Reader,
    support::{
        http::{Api, email_of, password_of},
        shared::{Running, UNTHROTTLED, unique},
    },
};

/// Puts an event at the end of a stream, as another version of Entrybook would have.
async fn append(owner: &PgPool, stream: (&str, &str), event: (&str, &str), payload: Value) {
    let metadata = Metadata {
        actor: Actor::System,
        source: None,
        request_id: "another version".into(),
        at: chrono::DateTime::from_timestamp(1_760_000_000, 0).unwrap(),
    };
    sqlx::query(
        "INSERT INTO events
             (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
         SELECT $1, $2, coalesce(max(sequence), 0) + 1, $3, $4, $5, $6
           FROM events WHERE aggregate_type = $1 AND aggregate_id = $2",
    )
    .bind(stream.0)
    .bind(stream.1)
    .bind(event.0)
    .bind(event.1)
    .bind(payload)
    .bind(json!(metadata.to_map()))
    .execute(owner)
    .await
    .unwrap();
}

#[tokio::test]
async fn a_session_of_version_1_is_refreshed_and_ended() {
    let desk = Desk::open().await;
    let ada = desk.register("ada").await.account.id;
    let session = SessionId(Uuid::from_u128(0xB1));
    let (token, TokenHash(refresh)) = desk.book.tokens().issue_refresh(session);
    let (at, expires_at) = ("2025-10-09T08:00:00Z", "2025-10-10T08:00:00Z");
    let payload = json!({"SessionStarted": {
        "user_id": ada, "user_version": 1, "method": "password", "refresh": refresh,
        "remember_me": false, "at": at, "expires_at": expires_at,
    }});
    let id = session.to_string();
    append(desk.owner(), (stream::SESSION, &id), ("SessionStarted", "1"), payload).await;

    let refreshed = desk.book.refresh(token.expose(), &desk.origin()).await.unwrap();
    assert_eq!(refreshed.session_id, session);
    let again = desk.book.refresh(refreshed.refresh.expose(), &desk.origin()).await.unwrap();
    assert_eq!(again.account.id, ada);
    let reason = EndReason::EndedElsewhere;
    let ended = desk.book.end_session(ada, session, reason, &desk.origin()).await.unwrap();
    assert!(ended.is_some());
    let refused = desk.book.refresh(again.refresh.expose(), &desk.origin()).await.unwrap_err();
    assert!(matches!(refused, RefreshError::Ended(EndReason::EndedElsewhere)), "{refused:?}");

    // cqrs-es reads the same stream.
    let events = EventStore::<SessionAggregate>::load_events(desk.book.store(), &id).await.unwrap();
    assert_eq!(events.len(), 4);
    let SessionEvent::Started { methods, .. } = &events[0].payload else { panic!("{events:?}") };
    assert_eq!(methods, &[SignInMethod::Password]);

    // What is written now is of version 2, and a read table shows both in one way.
    let (version, methods): (String, Value) = sqlx::query_as(
        "SELECT event_version, payload->'SessionStarted'->'methods' FROM events
          WHERE event_type = 'SessionStarted' AND aggregate_id <> $1",
    )
    .bind(&id)
    .fetch_one(&desk.pool)
    .await
    .unwrap();
    assert_eq!((version.as_str(), methods), ("2", json!(["registration"])));
    Reader::new(desk.owner()).await.read().await;
    let row = sessions::get(desk.owner(), session).await.unwrap().unwrap();
    assert_eq!((row.method.as_str(), row.refreshes), ("password", 2));
    assert_eq!(row.end_reason.as_deref(), Some("ended_elsewhere"));
}

#[tokio::test]
async fn the_frozen_history_is_loaded_and_projected() {
    let desk = Desk::open().await;
    for line in fixtures() {
        sqlx::query(
            "INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version,
                                 payload, metadata)
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(&line.aggregate_type)
        .bind(&line.aggregate_id)
        .bind(line.sequence)
        .bind(&line.event_type)
        .bind(&line.event_version)
        .bind(&line.payload)
        .bind(&line.metadata)
        .execute(desk.owner())
        .await
        .unwrap();
    }
    for line in fixtures() {
        let (store, id) = (desk.book.store(), &line.aggregate_id);
        let sequence = match line.aggregate_type.as_str() {
            stream::USER => store.load::<UserAggregate>(id).await.unwrap().sequence(),
            stream::SESSION => store.load::<SessionAggregate>(id).await.unwrap().sequence(),
            stream::SERVICE => store.load::<ServiceAggregate>(id).await.unwrap().sequence(),
            stream::READING => store.load::<ReadingAggregate>(id).await.unwrap().sequence(),
            _ => store.load::<commands::GuardAggregate>(id).await.unwrap().sequence(),
        };
        assert!(sequence >= line.sequence as u64, "{line:?}");
    }
    let reader = Reader::new(desk.owner()).await;
    reader.read().await;
    for status in reader.projector.status().await.unwrap() {
        assert_eq!(status.state, ProjectionState::Live, "{status:?}");
        assert_eq!(status.position, fixtures().len() as i64, "{status:?}");
    }
    let mut versions = std::collections::BTreeSet::new();
    for line in fixtures().iter().filter(|line| line.event_type == "SessionStarted") {
        let started = &line.payload["SessionStarted"];
        let method = started.get("method").unwrap_or(&started["methods"][0]);
        let id = line.aggregate_id.parse().unwrap();
        let row = sessions::get(desk.owner(), id).await.unwrap().unwrap();
        assert_eq!(json!(row.method), *method, "{line:?}");
        versions.insert(line.event_version.as_str());
    }
    assert_eq!(versions, ["1", "2"].into());
}

#[tokio::test]
async fn a_stream_with_an_event_of_a_newer_version_is_not_a_damaged_one() {
    let desk = Desk::open().await;
    let ada = desk.register("ada").await.account.id.to_string();
    let disabled = || json!({"UserDisabled": {}});
    // It looks as today's does, and must not be taken for it.
    append(desk.owner(), (stream::USER, &ada), ("UserDisabled", "2"), disabled()).await;
    let error = desk.book.store().load::<UserAggregate>(&ada).await.err().unwrap();
    assert!(matches!(error, StorageError::Newer { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("event 2: UserDisabled version 2") && text.contains(&ada), "{text}");
    let error =
        EventStore::<UserAggregate>::load_events(desk.book.store(), &ada).await.err().unwrap();
    assert!(error.to_string().contains("newer version of Entrybook"), "{error}");

    let bob = desk.register("bob").await.account.id.to_string();
    append(desk.owner(), (stream::USER, &bob), ("UserEnabled", "1"), disabled()).await;
    let error = desk.book.store().load::<UserAggregate>(&bob).await.err().unwrap();
    assert!(matches!(error, StorageError::Unreadable { .. }), "{error:?}");
}

/// Asks, and asserts the answer of a server that is too old for what it finds.
async fn too_old(running: &Running, path: &str, body: Value) {
    // Not through `Api`, which lets no test take a 5xx for an answer.
    let answer = running.server.post(path, body).await.unwrap();
    assert_eq!(answer.status(), 503);
    assert_eq!(answer.headers()["retry-after"], "5");
    let problem: Value = answer.json().await.unwrap();
    assert_eq!(problem["type"], "/problems/unavailable", "{problem}");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("written by a newer version of Entrybook"), "{detail}");
    assert!(detail.contains("upgrade this server"), "{detail}");
    assert!(!detail.contains("User"), "nothing of the inside: {detail}");
}

#[tokio::test]
async fn what_a_newer_binary_wrote_concerns_its_person_alone() {
    let running = Running::start(&UNTHROTTLED).await;
    let api: Api = running.api();
    let (ada, bob, eve) = (unique("ada"), unique("bob"), unique("eve"));
    let adas = api.register(&ada).await;
    let bobs = api.register(&bob).await;
    let eves = api.register(&eve).await;
    let owner = running.database.pool();
    let erased = json!({"UserMerged": {}});
    append(owner, (stream::USER, &adas.user_id), ("UserMerged", "1"), erased).await;
    let ended = json!({"SessionEnded": {"in": "some other form"}});
    append(owner, (stream::SESSION, &bobs.session_id), ("SessionEnded", "7"), ended).await;

    for identifier in [ada.clone(), email_of(&ada)] {
        let body = json!({"identifier": identifier, "password": password_of(&ada)});
        too_old(&running, "/api/v1/auth/login", body).await;
    }
    for tokens in [&adas, &bobs] {
        let body = json!({"refresh_token": tokens.refresh});
        too_old(&running, "/api/v1/auth/refresh", body).await;
    }
    // Of Bob it is one session that can't be read, and he may open another.
    let again = api.sign_in(&bob).await;
    api.me(&again.access).await.is(200);
    api.refresh(&again.refresh).await.is(200);
    api.refresh(&eves.refresh).await.is(200);
    api.me(&api.sign_in(&eve).await.access).await.is(200);
    api.register(&unique("zoe")).await;
    let log = running.server.log();
    assert!(log.contains("UserMerged version 1") && log.contains("newer version"), "{log}");
}
