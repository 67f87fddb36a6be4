//! The projector: live, fenced, stopped by what it can't apply, and never skipping.

use crate::support::reading::verify;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ::projections::{
    CannotApply, Generation, Line, Projection, ProjectionState, ProjectionStatus, Projector,
    Receipt, Sequencer, StopKind, users,
};
use domain::{Actor, UserEvent};
use serde_json::json;
use sqlx::{PgConnection, PgPool};
use tokio::{sync::Notify, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{
    book::{Book, Reader, eventually, session, user},
    each_line::{EachLine, Quirk, is_alone},
};
use crate::support::database::TestDatabase;

/// A view that can't apply one kind of event until its program is mended.
struct Picky;

static MENDED: AtomicBool = AtomicBool::new(false);
/// Whether two have ever written it at once.
static OVERLAPPED: AtomicBool = AtomicBool::new(false);

impl Quirk for Picky {
    const NAME: &'static str = "picky";

    fn meet(line: &Line<'_>) -> Result<(), CannotApply> {
        if line.recorded.event_type == "UserDisabled" && !MENDED.load(Ordering::Relaxed) {
            return Err(line.cannot_apply("this view dislikes it"));
        }
        Ok(())
    }

    async fn write(
        conn: &mut PgConnection,
        _generation: Generation,
        _lines: &[&i64],
    ) -> Result<(), sqlx::Error> {
        if !is_alone::<Self>(conn).await? {
            OVERLAPPED.store(true, Ordering::Relaxed);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
        Ok(())
    }
}

static PICKY: EachLine<Picky> = EachLine::VIEW;

/// A server's read side, running.
pub struct Running {
    pub wake: Arc<Notify>,
    pub sequencer: Sequencer,
    pub projector: Projector,
    cancel: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Running {
    pub async fn start(pool: &PgPool, all: Vec<&'static dyn Projection>) -> Self {
        let Reader { sequencer, projector, .. } = Reader::of(pool, all).await;
        let (wake, cancel) = (Arc::new(Notify::new()), CancellationToken::new());
        let settling = {
            let (sequencer, wake, cancel) = (sequencer.clone(), wake.clone(), cancel.clone());
            tokio::spawn(async move { sequencer.run(wake, cancel).await })
        };
        let projecting = {
            let (projector, cancel) = (projector.clone(), cancel.clone());
            tokio::spawn(async move { projector.run(cancel).await })
        };
        Self { wake, sequencer, projector, cancel, tasks: vec![settling, projecting] }
    }

    pub async fn status(&self, name: &str) -> ProjectionStatus {
        let all = self.projector.status().await.unwrap();
        all.into_iter().find(|status| status.name == name).unwrap()
    }

    pub async fn caught_up(&self, receipt: Receipt) {
        eventually("every projection has come to the head", || async {
            self.sequencer.head().borrow().covers(receipt.tx, receipt.event_id)
                && self
                    .projector
                    .status()
                    .await
                    .unwrap()
                    .iter()
                    .all(|status| status.lag_events == 0 && status.state == ProjectionState::Live)
        })
        .await;
    }

    pub async fn stop(self) {
        self.cancel.cancel();
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}

async fn assert_equal_to_a_fold(pool: &PgPool) {
    for projection in ::projections::all() {
        let verified = verify(pool, projection).await.unwrap();
        assert!(verified.is_equal(), "{verified:?}");
    }
}

#[tokio::test]
async fn a_poisoned_event_stops_one_projection_until_it_can_be_applied() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let mut book = Book::new(pool);
    book.fill().await;
    let mut all = ::projections::all();
    all.push(&PICKY);
    let running = Running::start(pool, all).await;
    eventually("the picky one is stopped", || async {
        running.status("picky").await.state == ProjectionState::Stopped
    })
    .await;
    let poisoned: i64 = sqlx::query_scalar(
        "SELECT position FROM journal JOIN events ON id = event_id WHERE event_type = 'UserDisabled'",
    )
    .fetch_one(pool)
    .await
    .unwrap();
    let last = book.register(user(7), "zoe").await;
    eventually("the others go on", || async {
        running.sequencer.head().borrow().covers(last.tx, last.event_id)
            && running.status("users").await.lag_events == 0
            && running.status("audit_history").await.lag_events == 0
    })
    .await;
    let status = running.status("picky").await;
    assert_eq!(status.position, poisoned - 1, "all before it is applied, and it is not skipped");
    assert_eq!(status.state, ProjectionState::Stopped);
    assert!(status.lag_events >= 2 && status.lag_seconds > 0.0, "{status:?}");
    let detail = status.detail.unwrap();
    for part in [
        format!("line {poisoned} "),
        format!("User {} number 2", user(3)),
        "UserDisabled version 1".to_owned(),
        "this view dislikes it".to_owned(),
        "goes on by itself".to_owned(),
    ] {
        assert!(detail.contains(&part), "{part:?} in {detail:?}");
    }

    MENDED.store(true, Ordering::Relaxed);
    running.caught_up(last).await;
    let status = running.status("picky").await;
    assert_eq!((status.detail, status.lag_seconds), (None, 0.0));
    let rows: i64 =
        sqlx::query_scalar("SELECT count(*) FROM ledger.picky_v1").fetch_one(pool).await.unwrap();
    assert_eq!(rows, status.head);
    running.stop().await;
}

#[tokio::test]
async fn an_event_of_a_newer_binary_stops_what_must_read_it() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let mut book = Book::new(pool);
    book.register(user(1), "ada").await;
    book.raw("User", &user(1).to_string(), "UserMerged", json!({"UserMerged": {}})).await;
    book.start(session(1), user(1), 1).await;
    book.raw("Client", "c1", "ClientAdded", json!({"ClientAdded": {}})).await;
    let last = book.refresh(session(1), user(1)).await;
    let running = Running::start(pool, ::projections::all()).await;
    eventually("sessions go on", || async {
        running.sequencer.head().borrow().covers(last.tx, last.event_id)
            && running.status("sessions").await.lag_events == 0
    })
    .await;
    for name in ["users", "audit_history"] {
        eventually("stopped at the second line", || async {
            let status = running.status(name).await;
            status.state == ProjectionState::Stopped && status.position == 1
        })
        .await;
    }
    running.stop().await;
}

/// Whatever about an event can't be read, and whom it concerns: the rest goes on, and they do as well
/// when it can be read.
#[tokio::test]
async fn what_can_not_be_read_stops_those_concerned_until_it_can() {
    // Its stream, id, name, version, payload and metadata; how it is mended; who is stopped.
    let (ada, started) = (user(1).to_string(), session(1).to_string());
    let disabled = json!({"UserDisabled": {}});
    let begun = json!({"SessionStarted": {
        "user_id": user(1), "user_version": 1, "methods": ["password"], "refresh": "h",
        "remember_me": false, "at": "2026-03-01T10:00:00Z", "expires_at": "2026-03-02T10:00:00Z",
    }});
    let cleared = json!({"SignInFailuresCleared": {
        "subject": {"identifier": "x"}, "at": "2026-03-01T10:00:00Z",
    }});
    let both = |name| match name {
        "users" => vec!["users", "claims", "audit_history"],
        name => vec![name, "audit_history"],
    };
    let cases = [
        (
            "User",
            &ada,
            "UserMerged",
            "1",
            disabled.clone(),
            "event_type = 'UserDisabled'",
            both("users"),
        ),
        ("User", &ada, "UserDisabled", "7", disabled.clone(), "event_version = '1'", both("users")),
        (
            "User",
            &ada,
            "UserDisabled",
            "1",
            json!({"UserDisabled": 5}),
            "payload = '{\"UserDisabled\": {}}'",
            both("users"),
        ),
        (
            "Session",
            &started,
            "SessionStarted",
            "9",
            begun,
            "event_version = '2'",
            both("sessions"),
        ),
        (
            "Client",
            &started,
            "SignInFailuresCleared",
            "1",
            cleared,
            "aggregate_type = 'SignInGuard', aggregate_id = 'identifier:x'",
            vec!["audit_history"],
        ),
    ];
    for (stream, id, name, version, payload, mend, concerned) in cases {
        let what = format!("{stream} {name} version {version} {payload}");
        let database = TestDatabase::create().await;
        let pool = database.pool();
        let mut book = Book::new(pool);
        book.register(user(1), "ada").await;
        let running = Running::start(pool, ::projections::all()).await;
        book.stored(stream, id, (name, version), payload).await;
        let others = book.register(user(2), "bob").await;
        let last = book.start(session(2), user(2), 1).await;
        running.wake.notify_one();
        eventually("all have come as far as they can", || async {
            let head = *running.sequencer.head().borrow();
            let mut done = head.covers(last.tx, last.event_id);
            for projection in ::projections::all() {
                let status = running.status(projection.name()).await;
                done &= if concerned.contains(&status.name) {
                    status.state == ProjectionState::Stopped
                } else {
                    status.position == head.position
                };
            }
            done
        })
        .await;
        assert_eq!(
            users::get(pool, user(2)).await.unwrap().is_none(),
            concerned.contains(&"users")
        );
        for name_of in &concerned {
            let status = running.status(name_of).await;
            assert_eq!((status.position, status.lag_events), (1, 3), "{what}");
            let stopped = status.stopped.unwrap();
            assert_eq!(stopped.position, 2, "{what}");
            assert!(
                stopped.stream.unwrap().starts_with(&format!("{stream} {id} number ")),
                "{what}"
            );
            assert_eq!(stopped.event_type.as_deref(), Some(name), "{what}");
            assert_eq!(stopped.event_version.as_deref(), Some(version), "{what}");
            assert!(!stopped.cause.is_empty(), "{what}");
            let is_known = version == "1" && name != "UserMerged" && stream != "Client";
            let kind = if is_known { StopKind::DamagedPayload } else { StopKind::NewerVersion };
            assert_eq!(stopped.kind, kind, "{what}");
        }

        // As if a binary that can read it had come.
        sqlx::raw_sql(&format!(
            "ALTER TABLE events DISABLE TRIGGER append_only;
             UPDATE events SET {mend} WHERE id = (SELECT event_id FROM journal WHERE position = 2)"
        ))
        .execute(pool)
        .await
        .unwrap();
        running.caught_up(others).await;
        for status in running.projector.status().await.unwrap() {
            assert_eq!((status.stopped, status.detail), (None, None), "{what}");
        }
        assert!(users::get(pool, user(2)).await.unwrap().is_some(), "{what}");
        for projection in ::projections::all() {
            let verified = verify(pool, projection).await.unwrap();
            // The tree has the line as it was written, and so tells that it was changed.
            let is_tree = projection.name() == "transparency";
            assert_eq!(verified.is_equal(), !is_tree, "{what}: {verified:?}");
        }
        running.stop().await;
    }
}

#[tokio::test]
async fn rows_that_the_database_refuses_stop_at_their_event() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let reader = Reader::new(pool).await;
    sqlx::raw_sql(
        "ALTER TABLE ledger.users_v2 ADD CONSTRAINT odd CHECK (username_index <> '#bob')",
    )
    .execute(pool)
    .await
    .unwrap();
    let mut book = Book::new(pool);
    for (number, name) in [(1, "ada"), (2, "eve"), (3, "bob"), (4, "zoe")] {
        book.register(user(number), name).await;
    }
    reader.settle().await;
    assert!(reader.projector.catch_up().await.is_err());
    let status = &reader.projector.status().await.unwrap()[0];
    assert_eq!((status.position, status.state), (2, ProjectionState::Stopped));
    assert!(status.detail.as_ref().unwrap().contains("line 3 "), "{status:?}");
    let kind = async || reader.projector.status().await.unwrap()[0].stopped.as_ref().unwrap().kind;
    assert_eq!(kind().await, StopKind::RefusedRows);
    // What an older binary wrote, and what a newer one may write, is read, and then written anew.
    for stored in ["stopped - 'kind'", "stopped || '{\"kind\": \"of_tomorrow\"}'"] {
        sqlx::raw_sql(&format!("UPDATE projections SET stopped = {stored} WHERE name = 'users'"))
            .execute(pool)
            .await
            .unwrap();
        assert_eq!(kind().await, StopKind::Other, "{stored}");
        assert!(reader.projector.catch_up().await.is_err());
        assert_eq!(kind().await, StopKind::RefusedRows, "{stored}");
    }

    sqlx::raw_sql("ALTER TABLE ledger.users_v2 DROP CONSTRAINT odd").execute(pool).await.unwrap();
    reader.projector.catch_up().await.unwrap();
    let status = &reader.projector.status().await.unwrap()[0];
    assert_eq!((status.position, status.state), (4, ProjectionState::Live));
}

#[tokio::test(flavor = "multi_thread")]
async fn any_number_of_projectors_share_one_database() {
    let database = TestDatabase::create().await;
    let mut replicas = Vec::new();
    for name in ["first", "second", "third"] {
        let pool = database.another_pool(name).await;
        let mut all = ::projections::all();
        all.push(&PICKY);
        replicas.push(Running::start(&pool, all).await);
    }
    // One after the other goes away while the book grows, but for the last.
    let mut book = Book::new(database.pool());
    let mut last = None;
    for number in 1..=120 {
        book.register(user(number), &format!("user{number}")).await;
        book.start(session(number), user(number), 1).await;
        last = Some(book.refresh(session(number), user(number)).await);
        replicas.iter().for_each(|replica| replica.wake.notify_one());
        if number % 40 == 0 && replicas.len() > 1 {
            replicas.remove(0).stop().await;
        }
    }
    let left = replicas.remove(0);
    left.caught_up(last.unwrap()).await;
    assert_equal_to_a_fold(database.pool()).await;
    assert!(!OVERLAPPED.load(Ordering::Relaxed), "each is advanced by one at a time");
    left.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_projector_whose_connections_are_cut_loses_nothing() {
    let database = TestDatabase::create().await;
    let running =
        Running::start(&database.another_pool("victim").await, ::projections::all()).await;
    let cutter = database.another_pool("cutter").await;
    let mut book = Book::new(database.pool());
    let mut last = None;
    let mut cut = 0_i64;
    for number in 1..=150 {
        book.register(user(number), &format!("user{number}")).await;
        book.start(session(number), user(number), 1).await;
        last = Some(book.refresh(session(number), user(number)).await);
        running.wake.notify_one();
        if number % 3 == 0 {
            cut += sqlx::query_scalar::<_, i64>(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                  WHERE datname = current_database() AND application_name = 'victim'",
            )
            .fetch_one(&cutter)
            .await
            .unwrap();
        }
    }
    assert!(cut > 5, "connections were cut");
    running.caught_up(last.unwrap()).await;
    assert_equal_to_a_fold(database.pool()).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_starts_make_the_tables_once() {
    let database = TestDatabase::create().await;
    let starting: Vec<_> = (0..6)
        .map(|_| {
            let pool = database.pool().clone();
            tokio::spawn(async move { drop(Reader::new(&pool).await) })
        })
        .collect();
    for start in starting {
        start.await.unwrap();
    }
    let registered: i64 = sqlx::query_scalar("SELECT count(*) FROM projections")
        .fetch_one(database.pool())
        .await
        .unwrap();
    assert_eq!(registered, i64::try_from(::projections::all().len()).unwrap());
}

#[tokio::test]
async fn what_was_written_can_be_waited_for() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let mut book = Book::new(pool);
    let receipt = book.register(user(1), "ada").await;
    let short = Duration::from_millis(30);
    let long = Duration::from_secs(60);

    let reader = Reader::new(pool).await;
    assert!(!reader.projector.wait_for(receipt, "users", short).await, "nobody settles it");
    reader.settle().await;
    assert!(!reader.projector.wait_for(receipt, "users", short).await, "nobody applies it");
    assert!(!reader.projector.wait_for(receipt, "nonsense", long).await);
    sqlx::query("UPDATE projections SET state = 'stopped'").execute(pool).await.unwrap();
    assert!(!reader.projector.wait_for(receipt, "users", long).await, "a stopped one is given up");

    let running = Running::start(pool, ::projections::all()).await;
    // A process that neither settles nor applies can wait as well.
    let bystander = {
        let sequencer = Sequencer::new(pool.clone());
        Projector::new(
            crate::support::reading::source_of(pool),
            ::projections::all(),
            sequencer.head(),
        )
    };
    running.caught_up(receipt).await;
    for number in 2..=30 {
        let receipt = book.register(user(number), &format!("user{number}")).await;
        let waiting = if number % 2 == 0 { &running.projector } else { &bystander };
        assert!(waiting.wait_for(receipt, "users", long).await);
        assert!(users::get(pool, user(number)).await.unwrap().is_some());
    }
    running.stop().await;
}

#[tokio::test]
async fn a_follower_sees_every_line_once_and_in_order() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let running = Running::start(pool, Vec::new()).await;
    let mut follower = ::projections::Follower::new(pool.clone(), running.sequencer.head(), 0);
    let mut book = Book::new(pool);
    book.actor = Actor::User(user(1));
    let mut expected = 0;
    for round in 1..=10 {
        book.register(user(round), &format!("user{round}")).await;
        book.user(user(round), UserEvent::Disabled {}).await;
        while follower.position() < 2 * i64::try_from(round).unwrap() {
            for event in follower.next_batch().await {
                expected += 1;
                assert_eq!(event.position, expected);
                assert_eq!(event.metadata().unwrap().actor, Actor::User(user(1)));
                event.event(&crate::support::reading::older_than_any_code()).unwrap().unwrap();
            }
        }
    }
    running.stop().await;
}
