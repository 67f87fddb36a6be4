//! Searches of a large history stay on indexes.

use ::projections::{
    audit_history::{self, ActorKind, Filter, Order, Sources},
    claims::{self, Claim},
    journal, sessions, users,
};
use chrono::TimeDelta;
use domain::{Change, FailureReason, GuardSubject, Index, SignInGuardEvent, UserEvent};
use sqlx::{PgPool, postgres::PgPoolOptions};

use super::book::{Book, Reader, dawn, identifier, session, user};
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
                  jsonb_build_object('actor', 'user:' || person, 'request_id', 'r', 'at', at,
                                     'source', 's1.p:' || person || '+m:2026-03.x',
                                     'address', 'address ' || n, 'network', 'network ' || n % 20)
             FROM (SELECT *, jsonb_build_object('user_id', person, 'refresh', 'h', 'at', at,
                                                'expires_at', at) AS common
                     FROM (SELECT '00000000-0000-0000-0000-' || lpad(to_hex(45056 + n), 12, '0') AS id,
                                  '00000000-0000-0000-0000-' || lpad(to_hex(40960 + n), 12, '0') AS person,
                                  sequence, n,
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
           INSERT INTO sealing_keys (id, wrapped, master_key)
           SELECT 'p:00000000-0000-0000-0000-' || lpad(to_hex(40960 + n), 12, '0'), '', 'x'
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
    plan_of(pool, what, "").await
}

/// The same of the last one that has this text in it.
async fn plan_of(pool: &PgPool, what: &str, text: &str) -> String {
    let (name, parameters): (String, i32) = sqlx::query_as(
        "SELECT name, cardinality(parameter_types) FROM pg_prepared_statements
          WHERE statement NOT LIKE '%pg_prepared_statements%' AND strpos(statement, $1) > 0
          ORDER BY prepare_time DESC LIMIT 1",
    )
    .bind(text)
    .fetch_one(pool)
    .await
    .unwrap();
    let nulls = match vec!["NULL"; usize::try_from(parameters).unwrap()].join(", ") {
        none if none.is_empty() => none,
        nulls => format!("({nulls})"),
    };
    let lines: Vec<String> =
        sqlx::Executor::fetch_all(pool, sqlx::raw_sql(&format!("EXPLAIN EXECUTE {name} {nulls}")))
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
        (
            "of an address in two months",
            Filter { sources: addresses(&["address 5", "address of old"]), ..Filter::default() },
            "_address",
        ),
        (
            "of several networks and a type",
            Filter {
                sources: networks(&["network 5", "network 6", "network of old"]),
                event_types: types(&["SessionStarted"]),
                ..Filter::default()
            },
            "_network",
        ),
        (
            "of an outcome",
            Filter { outcome: Some("signed_out".into()), ..Filter::default() },
            "_outcome",
        ),
        (
            "of an outcome, done by nobody known, of a time",
            Filter {
                outcome: Some("signed_out".into()),
                actor_kind: Some(ActorKind::Anonymous),
                from: Some(dawn()),
                ..Filter::default()
            },
            "_outcome",
        ),
        (
            "of a person, an address and an outcome",
            Filter {
                user: Some(user(5)),
                sources: addresses(&["address 5"]),
                outcome: Some("password".into()),
                ..Filter::default()
            },
            "_user",
        ),
    ];
    for (what, filter, index) in filters {
        let count = audit_history::count(&pool, &filter).await.unwrap();
        let counting = plan(&pool, &format!("how many there are {what}")).await;
        assert!(!counting.contains("Seq Scan"), "{counting}");
        assert!(
            counting.contains(&format!("audit_history_v3_{}", index.trim_start_matches('_'))),
            "{counting}"
        );
        let all = audit_history::page(&pool, &filter, Order::Newest, None, 100_000).await.unwrap();
        let there = i64::try_from(all.rows.len()).unwrap();
        assert_eq!(count.exact, count.lines == there, "{what}: {count:?} of {there}");
        assert!(count.lines == there.min(count.lines) && count.lines > 0, "{what}: {count:?}");
        for order in [Order::Newest, Order::Oldest] {
            let page = audit_history::page(&pool, &filter, order, None, 50).await.unwrap();
            assert!(!page.rows.is_empty(), "{what}");
            let cursor = page.rows.first().map(|row| row.position);
            audit_history::page(&pool, &filter, order, cursor, 50).await.unwrap();
            let plan = plan(&pool, &format!("the history {what}, {order:?}")).await;
            assert!(
                plan.contains(&format!("audit_history_v3_{}", index.trim_start_matches('_'))),
                "{plan}"
            );
            assert!(!plan.contains("Seq Scan"), "{plan}");
            // The lines of one session are few enough to be sorted, and those of a person that meet two
            // more conditions.
            let few = plan.contains("audit_history_v3_session")
                || what == "of a person, an address and an outcome";
            if !plan.contains("Nested Loop") && !few {
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
    assert!(own.contains("sessions_v2_open_of_user") && !own.contains("Sort"), "{own}");
    sessions::expired(&pool, dawn(), 10).await.unwrap();
    assert!(plan(&pool, "expired sessions").await.contains("sessions_v2_open_until"));
    sessions::ended_since(&pool, dawn()).await.unwrap();
    assert!(plan(&pool, "ended sessions").await.contains("sessions_v2_ended"));
    let page = users::page(&pool, None, 10).await.unwrap();
    let list = plan(&pool, "the accounts").await;
    assert!(list.contains("users_v2_registered") && !list.contains("Sort"), "{list}");
    users::page(&pool, page.rows.last().map(users::Row::cursor), 10).await.unwrap();
    let list = plan(&pool, "more accounts").await;
    assert!(list.contains("users_v2_registered") && !list.contains("Sort"), "{list}");
    users::get(&pool, user(5)).await.unwrap().unwrap();
    assert!(plan(&pool, "an account").await.contains("users_v2_pkey"));
    sessions::get(&pool, session(5)).await.unwrap().unwrap();
    assert!(plan(&pool, "a session").await.contains("sessions_v2_pkey"));
    let earlier = sessions::opened_before(&pool, user(5), 2, 10).await.unwrap();
    assert_eq!(earlier, [session(5)]);
    let cut = plan(&pool, "the sessions that a change ends").await;
    assert!(cut.contains("sessions_v2_open_of_user") && !cut.contains("Sort"), "{cut}");
    let status = ::projections::status(&pool, &::projections::all()).await.unwrap();
    assert_eq!(status.len(), ::projections::all().len());
    let status = plan(&pool, "how the projections stand").await;
    assert!(status.contains("journal_pkey") && status.contains("events_tx_id"), "{status}");
    users::by_index(&pool, &domain::Index("u5".into())).await.unwrap().unwrap();
    let found = plan(&pool, "an account by an identifier").await;
    assert!(found.contains("users_v2_email") && found.contains("users_v2_username"), "{found}");
    assert_eq!(claims::holders(&pool, &Index("u5".into())).await.unwrap().len(), 1);
    let held = plan(&pool, "who ever held an identifier").await;
    assert!(held.contains("claims_v1_indexes"), "{held}");
    assert_eq!(audit_history::reached(&pool).await.unwrap(), 52_201);
    let (first, last) = audit_history::times(&pool).await.unwrap().unwrap();
    let times = plan(&pool, "the first and the last time").await;
    assert!(times.contains("audit_history_times_v3_pkey"), "{times}");
    assert!(first <= dawn() && last > dawn() + TimeDelta::days(1), "{first} {last}");
    let of_networks = Filter { sources: networks(&["network 5"]), ..Filter::default() };
    assert!(!audit_history::any_without_network(&pool, &of_networks).await.unwrap());
    let older = plan(&pool, "lines of an older version").await;
    assert!(older.contains("audit_history_v3_without_network"), "{older}");
    // What a person's state and who was signed in are folded from.
    let now = ::projections::replay::AsOf::Time(dawn() + TimeDelta::days(2));
    let state = crate::support::reading::replay::state(&pool, user(5), now).await.unwrap();
    assert_eq!((state.sessions.len(), state.account.unwrap().version), (1, 1));
    let lines = plan(&pool, "some lines of the book").await;
    assert!(lines.contains("journal_pkey") && lines.contains("events_tx_id"), "{lines}");
    assert!(!lines.contains("Seq Scan"), "{lines}");
    let then = dawn() + TimeDelta::hours(1);
    let page = crate::support::reading::replay::signed_in(&pool, then, None, 3).await.unwrap();
    assert!(page.more && page.rows.len() == 3, "{page:?}");
    let people = plan_of(&pool, "who may have been signed in", "may_have_been").await;
    assert!(people.contains("sessions_v2_lasted"), "{people}");
    assert!(people.contains("sessions_v2_open_until"), "{people}");
    let lines = plan_of(&pool, "the lines of some sessions", "of_session").await;
    assert!(lines.contains("audit_history_v3_session"), "{lines}");
    let lines = plan_of(&pool, "the lines of an account", "h.aggregate_type = 'User'").await;
    assert!(lines.contains("audit_history_v3_account"), "{lines}");
}

/// What is frequent along an index and seldom passes is not looked for to the end of the book: the page says
/// where to go on, and nothing is left out that way.
#[tokio::test]
async fn a_page_goes_so_far_and_no_further_and_the_next_goes_on_there() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    large_book(pool).await;
    Reader::new(pool).await.read().await;
    let all: Vec<String> = (0..20).map(|number| format!("network {number}")).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    // Twenty keys, of which each has its share; and a single one. All sessions began at the book's beginning.
    let begun = vec!["SessionStarted".to_owned()];
    let of_several =
        Filter { sources: networks(&all), event_types: begun.clone(), ..Filter::default() };
    let of_one = Filter {
        event_types: vec!["SessionRefreshed".to_owned()],
        from: Some(dawn() + TimeDelta::minutes(90)),
        ..Filter::default()
    };
    for (filter, passing) in [(of_several, 2_000), (of_one.clone(), 46_601)] {
        for order in [Order::Newest, Order::Oldest] {
            let (mut seen, mut cursor, mut broken_off) = (Vec::new(), None, 0);
            loop {
                let found = audit_history::page(pool, &filter, order, cursor, 700).await.unwrap();
                seen.extend(found.rows.iter().map(|row| row.position));
                broken_off += usize::from(found.broke_off);
                assert!(!found.broke_off || found.rows.len() < 701 && found.next.is_some());
                assert!(found.next.is_none_or(|next| Some(next) != cursor), "it goes on");
                cursor = found.next;
                if cursor.is_none() {
                    break;
                }
            }
            let mut sorted = seen.clone();
            sorted.sort_unstable();
            sorted.dedup();
            if order == Order::Newest {
                sorted.reverse();
            }
            assert_eq!(seen, sorted, "in order, and each once");
            assert_eq!(seen.len(), passing, "{order:?}");
            assert!(broken_off > 0 || order == Order::Oldest || filter == of_one, "{broken_off}");
        }
    }
}

/// These addresses, or networks, as hashes of some months.
fn addresses(of: &[&str]) -> Option<Sources> {
    Some(Sources::Addresses(of.iter().map(|text| Index((*text).to_owned())).collect()))
}

fn networks(of: &[&str]) -> Option<Sources> {
    Some(Sources::Networks(of.iter().map(|text| Index((*text).to_owned())).collect()))
}

async fn positions(pool: &PgPool, filter: &Filter) -> Vec<i64> {
    let page = audit_history::page(pool, filter, Order::Oldest, None, 100).await.unwrap();
    let count = audit_history::count(pool, filter).await.unwrap();
    let lines = i64::try_from(page.rows.len()).unwrap();
    assert_eq!((count.lines, count.exact), (lines, true), "{filter:?}");
    page.rows.into_iter().map(|row| row.position).collect()
}

#[tokio::test]
async fn a_place_and_an_outcome_are_found_alone_and_with_all_else() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let mut book = Book::new(pool);
    // The same beginning of a hash is not the same hash.
    let far = "0123456789ab of the first";
    book.register(user(1), "ada").await;
    (book.address, book.network) = (far, Some("net"));
    book.start(session(1), user(1), 1).await;
    (book.address, book.network) = ("0123456789ab of another", Some("net"));
    book.refresh(session(1), user(1)).await;
    (book.address, book.network) = (far, None);
    book.end(session(1), user(1), domain::EndReason::SignedOut).await;
    (book.address, book.network) = ("elsewhere", Some("other net"));
    book.start(session(2), user(1), 1).await;
    book.end(session(2), user(1), domain::EndReason::Expired).await;
    let failed = |reason| SignInGuardEvent::Failed {
        subject: GuardSubject::Account(user(1)),
        reason,
        identifier: None,
        at: dawn(),
    };
    book.guard(failed(FailureReason::WrongPassword)).await;
    Reader::new(pool).await.read().await;

    let of = |sources| Filter { sources, ..Filter::default() };
    assert_eq!(positions(pool, &of(addresses(&[far]))).await, [2, 4]);
    assert_eq!(positions(pool, &of(addresses(&[far, "elsewhere", far]))).await, [2, 4, 5, 6, 7]);
    assert_eq!(positions(pool, &of(addresses(&["0123456789ab"]))).await, [0; 0]);
    assert_eq!(positions(pool, &of(addresses(&[]))).await, [0; 0], "no month can be searched");
    assert_eq!(positions(pool, &of(networks(&["net"]))).await, [2, 3]);
    assert_eq!(positions(pool, &of(networks(&["net", "other net"]))).await, [2, 3, 5, 6, 7]);
    let outcome = |text: &str| Filter { outcome: Some(text.into()), ..Filter::default() };
    assert_eq!(positions(pool, &outcome("password")).await, [2, 5]);
    assert_eq!(positions(pool, &outcome("wrong_password")).await, [7]);
    assert_eq!(positions(pool, &outcome("nonsense")).await, [0; 0]);
    let all = Filter {
        user: Some(user(1)),
        session: Some(session(1)),
        sources: addresses(&[far]),
        outcome: Some("signed_out".into()),
        event_types: vec!["SessionEnded".into(), "SessionStarted".into()],
        from: Some(dawn()),
        visible_to: Some(user(1)),
        ..Filter::default()
    };
    assert_eq!(positions(pool, &all).await, [4]);
    for other in [
        Filter { session: Some(session(2)), ..all.clone() },
        Filter { sources: networks(&["net"]), ..all.clone() },
        Filter { outcome: Some("expired".into()), ..all.clone() },
        Filter { visible_to: Some(user(2)), ..all.clone() },
        Filter { actor_kind: Some(ActorKind::Cli), ..all.clone() },
    ] {
        assert_eq!(positions(pool, &other).await, [0; 0], "{other:?}");
    }
    // Each narrowed by another that is walked along.
    let walked = Filter { user: None, session: None, visible_to: None, ..all.clone() };
    assert_eq!(positions(pool, &walked).await, [4]);
    assert_eq!(positions(pool, &Filter { sources: None, ..walked }).await, [4]);
    // An older version wrote lines without their network: at the beginning, and the fourth.
    let any = |from: i64, to: i64| Filter {
        from: Some(dawn() + TimeDelta::minutes(from)),
        to: Some(dawn() + TimeDelta::minutes(to)),
        ..Filter::default()
    };
    assert!(audit_history::any_without_network(pool, &any(0, 10)).await.unwrap());
    assert!(!audit_history::any_without_network(pool, &any(20, 30)).await.unwrap());
}

#[tokio::test]
async fn a_person_is_found_by_what_they_once_were_called() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let mut book = Book::new(pool);
    book.register(user(1), "ada").await; // line 1
    book.rename(user(1), "ada", "augusta").await; // line 2
    book.register(user(2), "eve").await; // line 3
    let change = |from: &str, to: &str| Some(Change { from: identifier(from), to: identifier(to) });
    let renamed = |email, username| UserEvent::ProfileChanged { email, username, full_name: None };
    book.user(user(2), renamed(None, change("eve", "ada"))).await; // line 4
    book.user(user(1), renamed(change("ada@x", "ada@y"), None)).await; // line 5
    book.user(user(1), renamed(change("ada@y", "ada@y"), None)).await; // a letter's case
    book.user(user(1), renamed(change("ada@y", "ada@x"), None)).await; // line 7
    Reader::new(pool).await.read().await;
    let held = async |text: &str| {
        let held = claims::holders(pool, &identifier(text).index).await.unwrap();
        let told = |(user, Claim { from, to, .. })| (user, from, to);
        held.into_iter().map(told).collect::<Vec<_>>()
    };
    assert_eq!(held("ada").await, [(user(1), 1, Some(2)), (user(2), 4, None)]);
    assert_eq!(held("augusta").await, [(user(1), 2, None)]);
    assert_eq!(held("eve").await, [(user(2), 3, Some(4))]);
    assert_eq!(held("ada@x").await, [(user(1), 1, Some(5)), (user(1), 7, None)]);
    assert_eq!(held("ada@y").await, [(user(1), 5, Some(7))]);
    assert_eq!(held("nobody").await, []);

    // Of who is erased nothing is found any more.
    book.user(user(1), UserEvent::Erased {}).await;
    Reader::new(pool).await.read().await;
    assert_eq!(held("ada").await, [(user(2), 4, None)]);
    assert_eq!(held("ada@x").await, []);
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
    // The statement stands in a function, whose plans nobody is shown: it is taken from there.
    let migration = include_str!("../../../migrations/0008_rights.sql");
    let next = migration
        .split("FROM (SELECT e.tx")
        .nth(1)
        .and_then(|rest| rest.split(") AS waiting").next())
        .map(|rest| format!("SELECT e.tx{rest}"))
        .unwrap();
    let mut statement = next.clone();
    for (variable, parameter) in [
        ("head.tx", "$1"),
        ("head.event_id", "$2"),
        ("head.settled_event_id", "$3"),
        ("horizon", "$4"),
        ("most", "$5"),
    ] {
        assert!(statement.contains(variable), "{variable} in {next}");
        statement = statement.replace(variable, parameter);
    }
    let prepare = format!("PREPARE settled (xid8, bigint, bigint, xid8, bigint) AS {statement}");
    sqlx::raw_sql(&prepare).execute(&pool).await.unwrap();
    let lines: Vec<String> =
        sqlx::query_scalar("EXPLAIN EXECUTE settled ('0', 0, 0, '1000000', 100)")
            .fetch_all(&pool)
            .await
            .unwrap();
    let plan = lines.join("\n");
    assert!(plan.contains("events_tx_id"), "{plan}");
    assert!(!plan.contains("Seq Scan"), "{plan}");
}
