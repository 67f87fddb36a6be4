//! To the next version and back, and forward again, with two real builds, under load, through a load
//! balancer that follows `/readyz`: nobody notices.

use std::{
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use serde_json::Value;
use sqlx::PgPool;

use super::load::{Load, Tally};
use crate::support::{
    database::TestDatabase,
    http::Api,
    next_build::{NEXT_VERSION, next_binary},
    ready_proxy::{Backend, ReadyProxy},
    replica::{self, Replica},
    scratch,
    server::{PATIENCE, Setup, binary, eventually},
    shared::UNTHROTTLED,
};

/// Sessions of the history that was there before, of four events each.
const HISTORY: i64 = 2_000;
/// Requests between two steps.
const A_WHILE: u64 = 150;

/// A replica behind the balancer.
struct Member {
    replica: Replica,
    backend: Arc<Backend>,
}

struct Fleet {
    base: Setup,
    proxy: ReadyProxy,
}

impl Fleet {
    fn launch(&self, program: &Path, name: &str) -> Member {
        let data_dir = self.base.data_dir.with_file_name(name);
        let setup = Setup { data_dir, ..self.base.replica() };
        let replica = Replica::launch(program, &setup);
        Member { backend: self.proxy.follow(replica.port), replica }
    }

    /// Waits until the balancer sends requests to it.
    async fn joined(&self, member: &mut Member) {
        let deadline = Instant::now() + 3 * PATIENCE;
        while !member.backend.is_ready() {
            let (backend, log) = (&member.backend, member.replica.log());
            assert!(!member.replica.has_ended(), "it ended:\n{log}");
            assert!(
                Instant::now() < deadline,
                "it is not ready, and waits or waited for {:?}:\n{log}",
                backend.waited_for()
            );
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    async fn stop(&self, member: Member) {
        let Member { replica, backend } = member;
        replica.stop().await;
        let seen = backend.seen();
        assert_eq!(seen.last(), Some(&503), "it said that it leaves: {seen:?}");
        eventually("the balancer has noticed", async || (!backend.is_ready()).then_some(())).await;
        self.proxy.forget(&backend);
    }

    async fn prune(&self, program: &Path, flags: &[&str]) -> Vec<Value> {
        let arguments = [&["projections", "prune", "--json"], flags].concat();
        let printed = replica::run(program, &self.base, &arguments).await;
        serde_json::from_str(&printed).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_and_the_way_back_fail_nobody() {
    let (old, next) = tokio::task::spawn_blocking(|| (binary(), next_binary())).await.unwrap();
    let database = TestDatabase::create().await;
    let scratch = scratch();
    let mut base = Setup::on(&database.url(), &scratch.path().join("verbs"))
        .known_as("http://localhost:8080")
        .with("ENTRYBOOK_DATABASE_CONNECTIONS", "8")
        .with("ENTRYBOOK_SHUTDOWN_DRAIN", "3s");
    for (key, value) in UNTHROTTLED {
        base = base.with(key, value);
    }
    let pool = database.pool();
    let fleet = Fleet { base, proxy: ReadyProxy::start().await };
    let tally = Arc::new(Tally::default());

    let mut one = fleet.launch(old, "one");
    let mut two = fleet.launch(old, "two");
    fleet.joined(&mut one).await;
    fleet.joined(&mut two).await;
    write_history(&fleet.proxy.url, pool).await;
    let load = Load::start(&fleet.proxy.url, "forth", &tally);
    tally.goes_on(A_WHILE).await;

    // The next version comes, and lets the others serve until it has built its tables.
    let before = served(&[&one, &two]);
    let began = Instant::now();
    let mut three = fleet.launch(next, "three");
    fleet.joined(&mut three).await;
    println!("the next version was ready after {:?}", began.elapsed());
    assert_eq!(three.backend.seen().first(), Some(&503), "it was not ready at first");
    assert!(
        three.backend.waited_for().contains("projection sessions"),
        "it waited for its tables: {:?}",
        three.backend.waited_for()
    );
    assert!(served(&[&one, &two]) > before, "the old ones served meanwhile");
    tally.goes_on(A_WHILE).await;
    assert!(three.backend.requests.load(Ordering::Relaxed) > 0);

    let kept = fleet.prune(next, &[]).await;
    assert_kept(&kept, "sessions", 2, "version 0.1.0 on ");
    assert_kept(&kept, "sessions", 3, &format!("version {NEXT_VERSION} on "));

    fleet.stop(one).await;
    tally.goes_on(A_WHILE).await;
    fleet.stop(two).await;
    tally.goes_on(A_WHILE).await;

    // Nobody uses the old tables now; but this is only looked at, since one may want to go back.
    let unused = fleet.prune(next, &["--dry-run"]).await;
    let sessions = version(&unused, "sessions", 2);
    assert_eq!(
        (&sessions["kept_because"], &sessions["dropped"]),
        (&Value::Null, &Value::Bool(false))
    );

    // Back: the old tables are brought up to date before anybody sees them.
    let mut one = fleet.launch(old, "one");
    let mut two = fleet.launch(old, "two");
    fleet.joined(&mut one).await;
    fleet.joined(&mut two).await;
    assert!(
        sqlx::query_scalar("SELECT has_table_privilege('entrybook_app', 'of_the_next', 'SELECT')")
            .fetch_one(pool)
            .await
            .unwrap_or(false),
        "an old binary takes nothing from a newer one"
    );
    fleet.stop(three).await;
    tally.goes_on(A_WHILE).await;
    load.stop().await;
    caught_up(pool, &[("users", 2), ("sessions", 2), ("audit_history", 3)]).await;
    for view in projections::all() {
        let verified = crate::support::reading::verify(pool, view).await.unwrap();
        assert!(verified.is_equal(), "{verified:?}");
    }
    tally.is_in_the_book(pool).await;

    // Forward again, for good.
    let load = Load::start(&fleet.proxy.url, "again", &tally);
    tally.goes_on(A_WHILE).await;
    let mut three = fleet.launch(next, "three");
    fleet.joined(&mut three).await;
    fleet.stop(one).await;
    fleet.stop(two).await;
    tally.goes_on(A_WHILE).await;
    let pruned = fleet.prune(next, &[]).await;
    assert_eq!(version(&pruned, "sessions", 2)["dropped"], true, "{pruned:?}");
    assert_kept(&pruned, "sessions", 3, &format!("version {NEXT_VERSION} on "));
    assert_kept(&pruned, "users", 2, &format!("version {NEXT_VERSION} on "));
    tally.goes_on(A_WHILE).await;
    load.stop().await;

    caught_up(pool, &[("users", 2), ("sessions", 3), ("audit_history", 3)]).await;
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT relname::text FROM pg_class
          WHERE relnamespace = 'ledger'::regnamespace AND relkind = 'r' ORDER BY 1",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    let needed = [
        "audit_history_times_v3",
        "audit_history_v3",
        "claims_v1",
        "sessions_v3",
        "transparency_v1",
        "users_v2",
    ];
    assert_eq!(tables, needed);
    sessions_have_all_lines(pool).await;
    for view in projections::all().into_iter().filter(|view| view.name() != "sessions") {
        let verified = crate::support::reading::verify(pool, view).await.unwrap();
        assert!(verified.is_equal(), "{verified:?}");
    }
    tally.is_in_the_book(pool).await;
    fleet.stop(three).await;

    assert_eq!(fleet.proxy.failures(), Vec::<String>::new());
    assert_eq!(tally.failures(), Vec::<String>::new());
    println!("{} requests, 0 failed", tally.requests());
}

/// Requests that these were sent.
fn served(members: &[&Member]) -> u64 {
    members.iter().map(|member| member.backend.requests.load(Ordering::Relaxed)).sum()
}

fn version<'a>(pruned: &'a [Value], name: &str, version: i32) -> &'a Value {
    let found = pruned.iter().find(|one| one["name"] == name && one["version"] == version);
    found.unwrap_or_else(|| panic!("{name} {version} is not in {pruned:?}"))
}

fn assert_kept(pruned: &[Value], name: &str, number: i32, because: &str) {
    let one = version(pruned, name, number);
    assert_eq!(one["dropped"], false, "{one}");
    assert!(one["kept_because"].as_str().is_some_and(|cause| cause.contains(because)), "{one}");
}

/// Sessions as they are made here, many times over.
async fn write_history(base: &str, pool: &PgPool) {
    let api = Api::new(base);
    let ada = api.register("ada").await;
    let first = api.refresh(&ada.refresh).await.tokens(200);
    let second = api.refresh(&first.refresh).await.tokens(200);
    let body = serde_json::json!({"refresh_token": second.refresh});
    api.post("/api/v1/auth/logout").json(body).send().await.is(204);
    let written = sqlx::query(
        "WITH copy AS MATERIALIZED (SELECT gen_random_uuid()::text AS id FROM generate_series(1, $1))
         INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
         SELECT e.aggregate_type, copy.id, e.sequence, e.event_type, e.event_version, e.payload, e.metadata
           FROM copy
          CROSS JOIN (SELECT * FROM events WHERE aggregate_type = 'Session' AND aggregate_id = $2) AS e
          ORDER BY copy.id, e.sequence",
    )
    .bind(HISTORY)
    .bind(&ada.session_id)
    .execute(pool)
    .await
    .unwrap();
    assert_eq!(written.rows_affected(), 4 * HISTORY as u64);
}

/// Waits until these are up with the book.
async fn caught_up(pool: &PgPool, versions: &[(&str, i32)]) {
    for (name, version) in versions {
        eventually(&format!("{name} {version} is up with the book"), async || {
            let behind: i64 = sqlx::query_scalar(
                "SELECT (SELECT count(*) FROM events)
                      - (SELECT position FROM projections WHERE name = $1 AND version = $2)",
            )
            .bind(name)
            .bind(version)
            .fetch_one(pool)
            .await
            .unwrap();
            (behind == 0).then_some(())
        })
        .await;
    }
}

/// The column that the next version has added, against the book.
async fn sessions_have_all_lines(pool: &PgPool) {
    let (sessions, wrong): (i64, i64) = sqlx::query_as(
        "SELECT count(*), count(*) FILTER (WHERE view.lines IS DISTINCT FROM book.lines)
           FROM (SELECT aggregate_id, count(*) AS lines FROM events
                  WHERE aggregate_type = 'Session' GROUP BY 1) AS book
           FULL JOIN ledger.sessions_v3 AS view ON view.session_id::text = book.aggregate_id",
    )
    .fetch_one(pool)
    .await
    .unwrap();
    assert!(sessions > HISTORY);
    assert_eq!(wrong, 0, "of {sessions} sessions");
}
