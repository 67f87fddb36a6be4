//! Each view: events in, rows out, and the same rows when they are delivered twice.

use crate::support::reading::verify_identifiers;
use ::projections::{
    audit_history::{self, ActorKind, Filter, Order},
    sessions, users,
};
use chrono::TimeDelta;
use domain::{Actor, Change, EndReason, Index, Role, Sealed, UserEvent};
use sqlx::{Connection, Executor, PgPool, Row};

use super::book::{Book, Reader, dawn, identifier, session, user};
use crate::support::database::TestDatabase;

#[tokio::test]
async fn users_are_listed_as_their_events_tell() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let mut book = Book::new(pool);
    book.fill().await;
    book.user(
        user(2),
        UserEvent::PasswordChanged { password: Sealed("new".into()), kept_session: None },
    )
    .await;
    book.user(user(1), UserEvent::RoleRevoked { role: Role::Auditor }).await;
    book.user(user(3), UserEvent::Enabled {}).await;
    book.user(user(3), UserEvent::PasswordRehashed { password: Sealed("again".into()) }).await;
    let email = Some(Change { from: identifier("eve@x"), to: identifier("eve@y") });
    book.user(user(3), UserEvent::ProfileChanged { email, username: None, full_name: None }).await;
    Reader::new(pool).await.read().await;

    let bob = users::get(pool, user(2)).await.unwrap().unwrap();
    assert_eq!(bob.email, Some(identifier("bob@x")));
    assert_eq!(bob.username, Some(identifier("robert")));
    assert_eq!(bob.full_name, Some(Sealed("full name".into())));
    assert_eq!((bob.roles.len(), bob.disabled, bob.version), (1, false, 3));
    assert!(bob.registered_at < bob.updated_at);

    let ada = users::get(pool, user(1)).await.unwrap().unwrap();
    assert_eq!(ada.roles, [Role::User].into());
    assert_eq!(ada.registered_at, dawn() + TimeDelta::seconds(1));

    let eve = users::by_index(pool, &Index("#eve@y".into())).await.unwrap().unwrap();
    assert_eq!((eve.user_id, eve.disabled, eve.version), (user(3), false, 5));
    assert_eq!(users::by_index(pool, &Index("#eve@x".into())).await.unwrap(), None);
    assert_eq!(
        users::by_index(pool, &Index("#robert".into())).await.unwrap().map(|row| row.user_id),
        Some(user(2))
    );
    assert_eq!(users::get(pool, user(9)).await.unwrap(), None);
    assert_eq!(users::count(pool).await.unwrap(), 3);

    let first = users::page(pool, None, 2).await.unwrap();
    let ids = |rows: &[users::Row]| rows.iter().map(|row| row.user_id).collect::<Vec<_>>();
    assert_eq!((ids(&first.rows), first.more), (vec![user(3), user(2)], true));
    let rest = users::page(pool, Some(first.rows[1].cursor()), 2).await.unwrap();
    assert_eq!((ids(&rest.rows), rest.more), (vec![user(1)], false));
}

#[tokio::test]
async fn of_an_erased_person_the_row_stays_and_nothing_of_theirs() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let mut book = Book::new(pool);
    book.fill().await;
    book.user(user(1), UserEvent::Erased {}).await;
    let released = sqlx::query("DELETE FROM identifiers WHERE user_id = $1").bind(user(1).0);
    assert_eq!(released.execute(pool).await.unwrap().rows_affected(), 2);
    assert!(verify_identifiers(pool).await.unwrap().is_equal());
    let reader = Reader::new(pool).await;
    reader.read().await;
    let ada = users::get(pool, user(1)).await.unwrap().unwrap();
    assert_eq!((ada.email, ada.username, ada.full_name), (None, None, None));
    assert!(ada.erased && ada.roles.is_empty());
    assert_eq!(users::by_index(pool, &Index("#ada".into())).await.unwrap(), None);
    assert_eq!(users::count(pool).await.unwrap(), 3);
    // The names are free: whoever takes them has them alone.
    book.register(user(9), "ada").await;
    assert!(verify_identifiers(pool).await.unwrap().is_equal());
    reader.read().await;
    let found = users::by_index(pool, &Index("#ada".into())).await.unwrap();
    assert_eq!(found.map(|row| row.user_id), Some(user(9)));
    let lines = audit_history::page(
        pool,
        &Filter { user: Some(user(1)), ..Filter::default() },
        Order::Newest,
        None,
        1,
    )
    .await
    .unwrap();
    assert_eq!(lines.rows[0].event_type, "UserErased");
}

#[tokio::test]
async fn sessions_are_listed_as_their_events_tell() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let mut book = Book::new(pool);
    book.fill().await;
    book.start(session(11), user(1), 2).await;
    let now = book.now;
    Reader::new(pool).await.read().await;

    let first = sessions::get(pool, session(1)).await.unwrap().unwrap();
    assert_eq!((first.user_id, first.user_version), (user(1), 1));
    assert_eq!((first.refreshes, first.method.as_str()), (2, "password"));
    assert!(first.started_at < first.last_seen_at);
    assert_eq!(first.expires_at, first.last_seen_at + TimeDelta::hours(24));
    assert_ne!(first.started_source, first.last_source);
    assert_eq!((first.ended_at, first.end_reason), (None, None));

    let ended = sessions::get(pool, session(3)).await.unwrap().unwrap();
    assert_eq!(ended.end_reason.as_deref(), Some(EndReason::SignedOut.as_str()));

    let ids = |rows: &[sessions::Row]| rows.iter().map(|row| row.session_id).collect::<Vec<_>>();
    let live = sessions::live_of_user(pool, user(1), now, 10).await.unwrap();
    assert_eq!(ids(&live), [session(11), session(1)]);
    let live = sessions::live_of_user(pool, user(1), now, 1).await.unwrap();
    assert_eq!(ids(&live), [session(11)]);
    assert!(sessions::live_of_user(pool, user(3), now, 10).await.unwrap().is_empty());
    assert_eq!(sessions::opened_before(pool, user(1), 2, 10).await.unwrap(), [session(1)]);

    assert!(sessions::expired(pool, now, 10).await.unwrap().is_empty());
    let later = now + TimeDelta::hours(25);
    assert!(sessions::live_of_user(pool, user(1), later, 10).await.unwrap().is_empty());
    let expired = sessions::expired(pool, later, 10).await.unwrap();
    assert_eq!(
        expired,
        [(session(2), user(2)), (session(1), user(1)), (session(11), user(1))],
        "the oldest first, and not the one that ended"
    );
    let ended_at = ended.ended_at.unwrap();
    let since = |at| sessions::ended_since(pool, at);
    assert_eq!(since(dawn()).await.unwrap(), [(session(3), ended_at)]);
    assert!(since(ended_at).await.unwrap().is_empty());
}

#[tokio::test]
async fn the_history_has_a_line_for_each_event() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let mut book = Book::new(pool);
    book.fill().await;
    book.actor = Actor::User(user(1));
    book.user(user(2), UserEvent::Disabled {}).await;
    book.actor = Actor::Cli(Sealed("operator".into()));
    book.register(user(4), "zoe").await;
    let reader = Reader::new(pool).await;
    reader.read().await;
    let head = reader.settle().await;

    let all = page(pool, &Filter::default(), Order::Newest, None, 100).await;
    assert_eq!(all, (1..=head).rev().collect::<Vec<_>>());

    // Page by page, both ways.
    for order in [Order::Newest, Order::Oldest] {
        let whole = page(pool, &Filter::default(), order, None, 100).await;
        let mut walked = Vec::new();
        loop {
            let page =
                audit_history::page(pool, &Filter::default(), order, walked.last().copied(), 4)
                    .await
                    .unwrap();
            walked.extend(page.rows.iter().map(|row| row.position));
            if page.next.is_none() {
                break;
            }
        }
        assert_eq!(walked, whole, "{order:?}");
    }

    let lines = |filter: Filter| async move {
        audit_history::page(pool, &filter, Order::Oldest, None, 100)
            .await
            .unwrap()
            .rows
            .into_iter()
            .map(|row| (row.event_type, row.outcome))
            .collect::<Vec<_>>()
    };
    let line = |name: &str, outcome: Option<&str>| (name.to_owned(), outcome.map(str::to_owned));
    let of_bob = Filter { user: Some(user(2)), ..Filter::default() };
    assert_eq!(
        lines(of_bob.clone()).await,
        [
            line("UserRegistered", None),
            line("SessionStarted", Some("password")),
            line("SignInFailed", Some("wrong_password")),
            line("UserProfileChanged", None),
            line("UserDisabled", None),
        ]
    );
    let by_ada = Filter { actor_user: Some(user(1)), ..Filter::default() };
    assert_eq!(lines(by_ada).await, [line("UserDisabled", None)]);
    for (kind, count) in
        [(ActorKind::Anonymous, head - 2), (ActorKind::System, 0), (ActorKind::Cli, 1)]
    {
        let by_kind = Filter { actor_kind: Some(kind), ..Filter::default() };
        let found = lines(by_kind).await.len();
        assert_eq!(i64::try_from(found).unwrap(), count, "{kind:?}");
    }
    let of_session = Filter { session: Some(session(3)), ..Filter::default() };
    assert_eq!(
        lines(of_session).await,
        [line("SessionStarted", Some("password")), line("SessionEnded", Some("signed_out"))]
    );
    let types = Filter {
        event_types: vec!["SignInFailed".into(), "UserRoleGranted".into()],
        ..Filter::default()
    };
    assert_eq!(
        lines(types.clone()).await,
        [
            line("SignInFailed", Some("wrong_password")),
            line("SignInFailed", Some("unknown_identifier")),
            line("UserRoleGranted", Some("auditor")),
        ]
    );
    let types_of_bob = Filter { user: Some(user(2)), ..types };
    assert_eq!(lines(types_of_bob).await.len(), 1);

    // Who may only see what concerns them sees no more, whatever they ask for.
    let seen = Filter { visible_to: Some(user(2)), ..Filter::default() };
    assert_eq!(lines(seen).await, lines(of_bob.clone()).await);
    let prying = Filter { visible_to: Some(user(1)), ..of_bob };
    assert!(lines(prying).await.is_empty());

    let unknown = audit_history::page(
        pool,
        &Filter { event_types: vec!["SignInFailed".into()], ..Filter::default() },
        Order::Newest,
        None,
        1,
    )
    .await
    .unwrap();
    let unknown = &unknown.rows[0];
    assert_eq!(unknown.identifier, Some(Sealed("nobody".into())));
    assert_eq!((unknown.user_id, unknown.address.as_ref()), (None, Some(&Index("address".into()))));
    let whole = ::projections::journal::read_one(pool, unknown.position).await.unwrap().unwrap();
    assert_eq!(whole.event_type, "SignInFailed");
    assert_eq!(whole.metadata().unwrap().at, unknown.at);
    assert!(::projections::journal::read_one(pool, head + 1).await.unwrap().is_none());
}

/// Times are not in the order of the book; no search by time may hide a line for it.
#[tokio::test]
async fn a_search_by_time_hides_nothing() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let mut book = Book::new(pool);
    let minutes = [0, 30, 5, 90, 31, 29, 30, 200, 10, 95];
    for (number, minute) in (1..).zip(minutes) {
        book.now = dawn() + TimeDelta::minutes(minute) - TimeDelta::seconds(1);
        book.register(user(number), &format!("user{number}")).await;
    }
    Reader::new(pool).await.read().await;
    let edges =
        [None, Some(-10), Some(0), Some(10), Some(29), Some(30), Some(31), Some(95), Some(201)];
    for from in edges {
        for to in edges {
            let filter = Filter {
                from: from.map(|minute| dawn() + TimeDelta::minutes(minute)),
                to: to.map(|minute| dawn() + TimeDelta::minutes(minute)),
                ..Filter::default()
            };
            let expected: Vec<i64> = (1..)
                .zip(minutes)
                .filter(|(_, minute)| from.is_none_or(|from| *minute >= from))
                .filter(|(_, minute)| to.is_none_or(|to| *minute < to))
                .map(|(position, _)| position)
                .collect();
            assert_eq!(
                page(pool, &filter, Order::Oldest, None, 100).await,
                expected,
                "from {from:?} to {to:?}"
            );
        }
    }
}

#[tokio::test]
async fn events_delivered_twice_change_nothing() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    Book::new(pool).fill().await;
    let reader = Reader::new(pool).await;
    reader.read().await;
    let before = contents(pool).await;
    assert!(before.iter().all(|table| !table.is_empty()), "{before:?}");

    // From the start, and from the middle.
    for position in [0, 5] {
        sqlx::query("UPDATE projections SET position = $1")
            .bind(position)
            .execute(pool)
            .await
            .unwrap();
        reader.projector.catch_up().await.unwrap();
        assert_eq!(contents(pool).await, before);
        let statuses = reader.projector.status().await.unwrap();
        assert!(statuses.iter().all(|status| status.lag_events == 0), "{statuses:?}");
    }
}

/// All rows of all live tables, as text.
pub async fn contents(pool: &PgPool) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    for projection in ::projections::all() {
        for table in projection.tables() {
            let name = table.relation(projection.version(), ::projections::Generation::Live);
            let rows =
                sqlx::query(&format!("SELECT t::text AS row FROM ledger.{name} t ORDER BY 1"))
                    .fetch_all(pool)
                    .await
                    .unwrap();
            all.push(rows.iter().map(|row| row.get("row")).collect());
        }
    }
    all
}

async fn page(
    pool: &PgPool,
    filter: &Filter,
    order: Order,
    cursor: Option<i64>,
    limit: i64,
) -> Vec<i64> {
    let page = audit_history::page(pool, filter, order, cursor, limit).await.unwrap();
    page.rows.into_iter().map(|row| row.position).collect()
}

/// That no other session lives is certain only where what the view does not show yet opens none. The session that asks is
/// no other one, also while its own beginning waits behind somebody's open transaction.
#[tokio::test(flavor = "multi_thread")]
async fn no_other_session_is_certain_only_where_none_can_be_hidden() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let mut book = Book::new(pool);
    book.fill().await;
    let reader = Reader::new(pool).await;
    reader.read().await;
    let mut conn = pool.acquire().await.unwrap();
    let mut holding = conn.begin().await.unwrap();
    holding.execute("SELECT pg_current_xact_id()").await.unwrap();
    let alone = |own| sessions::has_surely_no_other(pool, user(4), session(own), 1);
    book.start(session(40), user(4), 1).await;
    assert!(alone(40).await.unwrap(), "its own beginning waits");
    assert!(!alone(41).await.unwrap(), "another one's does");
    book.start(session(41), user(4), 1).await;
    assert!(!alone(40).await.unwrap());
    holding.rollback().await.unwrap();
    reader.settle().await;
    assert!(!alone(40).await.unwrap(), "it has a line that the view does not show");
    reader.read().await;
    assert!(!alone(40).await.unwrap(), "the view shows it");
    book.end(session(41), user(4), EndReason::SignedOut).await;
    reader.read().await;
    assert!(alone(40).await.unwrap());
}
