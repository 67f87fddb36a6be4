//! Searches of a large history stay on indexes.

use ::projections::{
    audit_history::{self, ActorKind, Filter, Order},
    journal, sessions, users,
};
use chrono::TimeDelta;
use sqlx::{PgPool, postgres::PgPoolOptions};

use super::book::{Reader, dawn, session, user};
use crate::support::database::TestDatabase;

/// A book of some 50,000 events: 2,000 accounts, their sessions and refreshes, and a rare event.
async fn large_book(pool: &PgPool) {
    sqlx::raw_sql(
        r#"INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version,
                               payload, metadata)
           SELECT 'Session', id, sequence,
                  CASE sequence WHEN 1 THEN 'SessionStarted' ELSE 'SessionRefreshed' END, '1',
                  CASE sequence WHEN 1 THEN jsonb_build_object('SessionStarted', common || jsonb_build_object(
                           'user_version', 1, 'method', 'password', 'remember_me', false))
                       ELSE jsonb_build_object('SessionRefreshed', common) END,
                  jsonb_build_object('actor', 'user:' || person, 'request_id', 'r', 'at', at)
             FROM (SELECT *, jsonb_build_object('user_id', person, 'refresh', 'h', 'at', at,
                                                'expires_at', at) AS common
                     FROM (SELECT '00000000-0000-0000-0000-' || lpad(to_hex(45056 + n), 12, '0') AS id,
                                  '00000000-0000-0000-0000-' || lpad(to_hex(40960 + n), 12, '0') AS person,
                                  sequence,
                                  to_char(timestamp '2026-03-01 10:00' + interval '1 second' * (sequence * 2000 + n),
                                          'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS at
                             FROM generate_series(1, 25) AS sequence, generate_series(1, 2000) AS n) AS ids
                  ) AS lines
            ORDER BY sequence, id;
           INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version,
                               payload, metadata)
           SELECT 'Session', '00000000-0000-0000-0000-' || lpad(to_hex(45056 + n), 12, '0'), 26,
                  'SessionEnded', '1',
                  jsonb_build_object('SessionEnded', jsonb_build_object(
                      'user_id', '00000000-0000-0000-0000-' || lpad(to_hex(40960 + n), 12, '0'),
                      'reason', 'signed_out', 'at', '2026-03-02T10:00:00Z')),
                  '{"actor": "anonymous", "request_id": "r", "at": "2026-03-02T10:00:00Z"}'
             FROM generate_series(1001, 1200) AS n;
           INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version,
                               payload, metadata)
           SELECT 'User', '00000000-0000-0000-0000-' || lpad(to_hex(40960 + n), 12, '0'), 1,
                  'UserRegistered', '1',
                  jsonb_build_object('UserRegistered', jsonb_build_object(
                      'email', jsonb_build_object('sealed', 's', 'index', 'e' || n),
                      'username', jsonb_build_object('sealed', 's', 'index', 'u' || n),
                      'full_name', null, 'password', 's', 'roles', jsonb_build_array('user'))),
                  '{"actor": "anonymous", "request_id": "r", "at": "2026-03-02T10:00:00Z"}'
             FROM generate_series(1, 2000) AS n;
           INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version,
                               payload, metadata)
           SELECT 'SignInGuard', 'account:x', 1, 'SignInFailuresCleared', '1',
                  '{"SignInFailuresCleared": {"subject": {"identifier": "x"}, "at": "2026-03-01T10:00:00Z"}}',
                  '{"actor": "system", "request_id": "r", "at": "2026-03-01T10:00:00Z"}'"#,
    )
    .execute(pool)
    .await
    .unwrap();
}

/// The plan of the last statement that this connection has prepared. Generic, since that is what a
/// connection comes to use, and it must be good for any value.
async fn plan(pool: &PgPool, what: &str) -> String {
    let (name, parameters): (String, i32) = sqlx::query_as(
        "SELECT name, cardinality(parameter_types) FROM pg_prepared_statements
          WHERE statement NOT LIKE '%pg_prepared_statements%' ORDER BY prepare_time DESC LIMIT 1",
    )
    .fetch_one(pool)
    .await
    .unwrap();
    let nulls = vec!["NULL"; usize::try_from(parameters).unwrap()].join(", ");
    let lines: Vec<String> = sqlx::Executor::fetch_all(
        pool,
        sqlx::raw_sql(&format!("EXPLAIN EXECUTE {name} ({nulls})")),
    )
    .await
    .unwrap()
    .iter()
    .map(|row| sqlx::Row::get(row, 0))
    .collect();
    let plan = lines.join("\n");
    println!("{what}\n{plan}\n");
    plan
}

#[tokio::test]
async fn searches_stay_on_indexes() {
    let database = TestDatabase::create().await;
    large_book(database.pool()).await;
    let reader = Reader::new(database.pool()).await;
    reader.read().await;
    sqlx::raw_sql("ANALYZE").execute(database.pool()).await.unwrap();

    // One connection, whose statements can be explained.
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .connect_with(
            database.connect_options().options([("plan_cache_mode", "force_generic_plan")]),
        )
        .await
        .unwrap();
    let types = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let filters = [
        ("everything", Filter::default(), "pkey"),
        ("of a person", Filter { user: Some(user(5)), ..Filter::default() }, "_user"),
        ("seen by a person", Filter { visible_to: Some(user(5)), ..Filter::default() }, "_user"),
        ("done by a person", Filter { actor_user: Some(user(5)), ..Filter::default() }, "_actor"),
        (
            "done by the system",
            Filter { actor_kind: Some(ActorKind::System), ..Filter::default() },
            "_actor_kind",
        ),
        ("of a session", Filter { session: Some(session(5)), ..Filter::default() }, "_session"),
        (
            "of a rare type",
            Filter { event_types: types(&["SignInFailuresCleared"]), ..Filter::default() },
            "_type",
        ),
        (
            "of several types",
            Filter {
                event_types: types(&["SignInFailuresCleared", "SessionRefreshed", "UserDisabled"]),
                ..Filter::default()
            },
            "_type",
        ),
        (
            "of a person and several types",
            Filter {
                user: Some(user(5)),
                event_types: types(&["SessionRefreshed", "UserDisabled"]),
                ..Filter::default()
            },
            "_user",
        ),
        (
            "of a time",
            Filter {
                from: Some(dawn() + TimeDelta::minutes(90)),
                to: Some(dawn() + TimeDelta::minutes(95)),
                ..Filter::default()
            },
            "pkey",
        ),
        (
            "of a person, a type and a time",
            Filter {
                visible_to: Some(user(5)),
                event_types: types(&["SessionRefreshed"]),
                from: Some(dawn()),
                to: Some(dawn() + TimeDelta::minutes(950)),
                ..Filter::default()
            },
            "_user",
        ),
        (
            "of a session, done by a person, of a time",
            Filter {
                session: Some(session(5)),
                actor_user: Some(user(5)),
                from: Some(dawn()),
                ..Filter::default()
            },
            "_session",
        ),
    ];
    for (what, filter, index) in filters {
        for order in [Order::Newest, Order::Oldest] {
            let page = audit_history::page(&pool, &filter, order, None, 50).await.unwrap();
            assert!(!page.rows.is_empty(), "{what}");
            let cursor = page.rows.first().map(|row| row.position);
            audit_history::page(&pool, &filter, order, cursor, 50).await.unwrap();
            let plan = plan(&pool, &format!("the history {what}, {order:?}")).await;
            assert!(
                plan.contains(&format!("audit_history_v1_{}", index.trim_start_matches('_'))),
                "{plan}"
            );
            assert!(!plan.contains("Seq Scan"), "{plan}");
            // The lines of one session are few enough to be sorted.
            if !plan.contains("Nested Loop") && !plan.contains("audit_history_v1_session") {
                assert!(!plan.contains("Sort"), "the index has the order: {plan}");
            }
        }
    }

    let mut conn = pool.acquire().await.unwrap();
    journal::read_after(&mut conn, 20_000, 1_000).await.unwrap();
    drop(conn);
    let reading = plan(&pool, "the journal after a position").await;
    assert!(reading.contains("journal_pkey") && reading.contains("events_tx_id"), "{reading}");
    assert!(!reading.contains("Seq Scan"), "{reading}");

    sessions::live_of_user(&pool, user(5), dawn(), 10).await.unwrap();
    let own = plan(&pool, "the sessions of a person").await;
    assert!(own.contains("sessions_v1_open_of_user") && !own.contains("Sort"), "{own}");
    sessions::expired(&pool, dawn(), 10).await.unwrap();
    assert!(plan(&pool, "expired sessions").await.contains("sessions_v1_open_until"));
    sessions::ended_since(&pool, dawn()).await.unwrap();
    assert!(plan(&pool, "ended sessions").await.contains("sessions_v1_ended"));
    let page = users::page(&pool, None, 10).await.unwrap();
    let list = plan(&pool, "the accounts").await;
    assert!(list.contains("users_v1_registered") && !list.contains("Sort"), "{list}");
    users::page(&pool, page.rows.last().map(users::Row::cursor), 10).await.unwrap();
    let list = plan(&pool, "more accounts").await;
    assert!(list.contains("users_v1_registered") && !list.contains("Sort"), "{list}");
    users::get(&pool, user(5)).await.unwrap().unwrap();
    assert!(plan(&pool, "an account").await.contains("users_v1_pkey"));
    sessions::get(&pool, session(5)).await.unwrap().unwrap();
    assert!(plan(&pool, "a session").await.contains("sessions_v1_pkey"));
    let earlier = sessions::opened_before(&pool, user(5), 2, 10).await.unwrap();
    assert_eq!(earlier, [session(5)]);
    let cut = plan(&pool, "the sessions that a change ends").await;
    assert!(cut.contains("sessions_v1_open_of_user") && !cut.contains("Sort"), "{cut}");
    let status = ::projections::status(&pool, &::projections::all()).await.unwrap();
    assert_eq!(status.len(), 3);
    let status = plan(&pool, "how the projections stand").await;
    assert!(status.contains("journal_pkey") && status.contains("events_tx_id"), "{status}");
    users::by_index(&pool, &domain::Index("u5".into())).await.unwrap().unwrap();
    let found = plan(&pool, "an account by an identifier").await;
    assert!(found.contains("users_v1_email") && found.contains("users_v1_username"), "{found}");
}

/// The sequencer walks along the index from where it stands to the horizon.
#[tokio::test]
async fn the_sequencer_stays_on_its_index() {
    let database = TestDatabase::create().await;
    large_book(database.pool()).await;
    Reader::of(database.pool(), Vec::new()).await.settle().await;
    sqlx::raw_sql("ANALYZE").execute(database.pool()).await.unwrap();
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .connect_with(
            database.connect_options().options([("plan_cache_mode", "force_generic_plan")]),
        )
        .await
        .unwrap();
    ::projections::Sequencer::new(pool.clone()).sequence_batch(100).await.unwrap();
    let plan = plan(&pool, "a batch of the sequencer").await;
    assert!(plan.contains("events_tx_id"), "{plan}");
    assert!(!plan.contains("Seq Scan"), "{plan}");
}
