//! One of two servers stands still, at whatever moment: stopped by a signal, or behind a network that swallows
//! what it sends. The other goes on with everything that one did for both, and nothing is lost when it is back.
//!
//! No time is asserted; what the takeover took is printed.

mod gate;

use std::time::{Duration, Instant};

use sqlx::{Connection, PgConnection, PgPool, postgres::PgConnectOptions};

use self::gate::Gate;
use crate::support::{
    database::TestDatabase,
    scratch,
    server::{Server, Setup, eventually},
};

/// Two servers on one database, each with a login of its own, so that the database tells them apart.
struct Stand {
    database: TestDatabase,
    servers: [Server; 2],
    gate: Gate,
    /// Names that were given away.
    names: u32,
    /// Whom a server has told that they are registered.
    registered: Vec<String>,
    _scratch: tempfile::TempDir,
}

const LOGINS: [&str; 2] = ["stalled_one", "stalled_two"];
/// A batch of the projector has begun to send rows.
const COPY: &str = "COPY ledger.";

impl Stand {
    /// The first server reaches the database through the gate.
    async fn new() -> Self {
        let database = TestDatabase::create().await;
        let scratch = scratch();
        let mut logins = Vec::new();
        for login in LOGINS {
            logins.push(make_login(&database, login).await);
        }
        let gate = Gate::before(logins.remove(0), COPY);
        let through: &PgConnectOptions = &gate.options;
        let setup = |options: &PgConnectOptions, name: &str| {
            let url = sqlx::ConnectOptions::to_url_lossy(options).to_string();
            Setup::on(&url, &scratch.path().join(name))
                .known_as("http://localhost:8080")
                .with("ENTRYBOOK_OWNER_DATABASE_URL", &database.url())
                .with("ENTRYBOOK_REGISTRATIONS_PER_HOUR", "100000")
                .with("ENTRYBOOK_CHANGES_PER_HOUR", "1000000")
                .with("ENTRYBOOK_ADDRESS_CHANGES_PER_HOUR", "1000000")
        };
        let (one, two) = (setup(through, "one"), setup(&logins.remove(0), "two"));
        let servers = [one.start().await, two.start().await];
        let mut stand =
            Self { database, servers, gate, names: 0, registered: Vec::new(), _scratch: scratch };
        stand.goes_on(0, "before anything happened").await;
        stand
    }

    fn pool(&self) -> &PgPool {
        self.database.pool()
    }

    /// Which server's sessions match a condition on `pg_stat_activity` as `a` and `pg_locks` as `l`.
    async fn whose(&self, condition: &str) -> Option<usize> {
        let login: Option<String> = sqlx::query_scalar(&format!(
            "SELECT a.usename::text FROM pg_stat_activity AS a JOIN pg_locks AS l USING (pid)
              WHERE a.datname = current_database() AND a.usename::text = ANY ($1) AND ({condition})
              LIMIT 1"
        ))
        .bind(&LOGINS[..])
        .fetch_optional(self.pool())
        .await
        .unwrap();
        login.map(|login| LOGINS.iter().position(|one| *one == login).unwrap())
    }

    fn name(&mut self) -> String {
        self.names += 1;
        format!("person{}", self.names)
    }

    async fn register(&mut self, server: usize) {
        let name = self.name();
        self.registered.push(self.servers[server].register(&name).await.user_id);
    }

    /// Registers people on a server, and waits until all of that is in order, shown and signed.
    async fn goes_on(&mut self, server: usize, when: &str) {
        for _ in 0..3 {
            self.register(server).await;
        }
        let behind = async || {
            sqlx::query_as::<_, (i64, i64, i64, i64)>(
                "SELECT (SELECT count(*) FROM events),
                        (SELECT coalesce(max(position), 0) FROM journal),
                        (SELECT coalesce(min(position), 0) FROM projections WHERE name NOT LIKE 'process:%'),
                        (SELECT coalesce(max(size), 0) FROM checkpoints)",
            )
            .fetch_one(self.pool())
            .await
            .unwrap()
        };
        // Events that come meanwhile are not waited for.
        let (events, ..) = behind().await;
        let began = Instant::now();
        let mut seen = [None; 3];
        eventually(&format!("new events are in order, shown and signed ({when})"), async || {
            let (_, settled, shown, signed) = behind().await;
            for (seen, position) in seen.iter_mut().zip([settled, shown, signed]) {
                if position >= events && seen.is_none() {
                    *seen = Some(began.elapsed());
                }
            }
            seen.iter().all(Option::is_some).then_some(())
        })
        .await;
        let [settled, shown, signed] = seen.map(Option::unwrap_or_default);
        println!(
            "{when}: in order after {settled:?}, shown after {shown:?}, signed after {signed:?}"
        );
    }

    /// What is wrong with what is in the database: nothing is.
    async fn is_whole(&self) {
        self.database.settled().await;
        let journal = projections::check_journal(self.pool()).await.unwrap();
        assert!(journal.is_sound(), "{journal:?}");
        for view in projections::all() {
            let verified = crate::support::reading::verify(self.pool(), view).await.unwrap();
            assert!(verified.is_equal(), "{verified:?}");
        }
        let accounts: Vec<String> = sqlx::query_scalar(
            "SELECT aggregate_id FROM events WHERE event_type = 'UserRegistered' ORDER BY 1",
        )
        .fetch_all(self.pool())
        .await
        .unwrap();
        for user in &self.registered {
            let times = accounts.iter().filter(|account| *account == user).count();
            assert_eq!(times, 1, "{user} was told to be registered");
        }
    }

    /// Stops a server that stands in the middle of something, sees the other go on, and lets it come back.
    async fn stands_still(&mut self, stalled: usize, when: &str) {
        self.servers[stalled].freeze();
        self.goes_on_and_comes_back(stalled, when).await;
    }

    async fn goes_on_and_comes_back(&mut self, stalled: usize, when: &str) {
        self.goes_on(1 - stalled, &format!("stopped {when}")).await;
        self.gate.open();
        self.servers[stalled].thaw();
        self.servers[stalled].ready().await;
        self.goes_on(stalled, "gone on with").await;
        self.is_whole().await;
    }

    /// Holds a table so that nobody writes to it, until one of the servers waits for it with what `condition`
    /// says, and stops that server. Then the table is let go: what the server waited for is done, by a backend
    /// whose client doesn't ask for more.
    async fn stop_before(&mut self, table: &str, condition: &str) -> usize {
        let mut blocking =
            PgConnection::connect_with(&self.database.connect_options()).await.unwrap();
        let mut lock = blocking.begin().await.unwrap();
        let statement = format!("LOCK TABLE {table} IN SHARE MODE");
        sqlx::raw_sql(&statement).execute(&mut *lock).await.unwrap();
        self.register(0).await;
        let waits = format!("l.relation = '{table}'::regclass AND NOT l.granted AND ({condition})");
        let stalled =
            eventually("a server waits for the table", async || self.whose(&waits).await).await;
        self.servers[stalled].freeze();
        lock.rollback().await.unwrap();
        blocking.close().await.unwrap();
        stalled
    }
}

/// A login of an application: no superuser, owner of nothing.
async fn make_login(database: &TestDatabase, name: &str) -> PgConnectOptions {
    sqlx::raw_sql(&format!(
        "DO $$ BEGIN
             CREATE ROLE {name} LOGIN PASSWORD 'of no use elsewhere';
         EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$"
    ))
    .execute(database.pool())
    .await
    .unwrap();
    database.connect_options().username(name).password("of no use elsewhere")
}

/// What `entrybook doctor` says of the other processes.
fn doctor(setup: &Setup) -> Option<(String, String)> {
    let told = setup.command(&["doctor", "--json"]).output().unwrap();
    let told: serde_json::Value = serde_json::from_slice(&told.stdout).ok()?;
    let checks = told["checks"].as_array()?;
    let replicas = checks.iter().find(|check| check["name"] == "replicas")?;
    let text = |key: &str| replicas[key].as_str().map(str::to_owned);
    Some((text("status")?, text("finding")?))
}

/// How often each phase is tried: more by hand, see `ENTRYBOOK_TEST_FREEZES`.
fn times() -> usize {
    std::env::var("ENTRYBOOK_TEST_FREEZES").ok().and_then(|n| n.parse().ok()).unwrap_or(1)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stands_still_while_it_copies_rows_stops_nobody() {
    let mut stand = Stand::new().await;
    for _ in 0..times() {
        // Until it is this server that advances a projection.
        let name = stand.name();
        let (gate, server) = (&stand.gate, &stand.servers[0]);
        let registering = async {
            for number in 0.. {
                // The gate may close meanwhile: then there is no answer.
                let name = format!("{name}x{number}");
                let register = server.try_register(&name);
                let _ = tokio::time::timeout(Duration::from_secs(2), register).await;
            }
        };
        tokio::select! {
            () = gate.arm() => {}
            () = registering => {}
        }
        let waits =
            "a.usename = 'stalled_one' AND a.query LIKE 'COPY ledger.%' AND a.state = 'active'";
        eventually("the COPY waits for its rows", async || stand.whose(waits).await).await;
        stand.servers[0].freeze();
        stand.goes_on_and_comes_back(0, "in the middle of a COPY").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stands_still_while_it_settles_the_order_stops_nobody() {
    let mut stand = Stand::new().await;
    for _ in 0..times() {
        let stalled = stand.stop_before("journal", "l.mode = 'RowExclusiveLock'").await;
        stand.goes_on_and_comes_back(stalled, "while it settles the order").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stands_still_while_it_applies_events_stops_nobody() {
    let mut stand = Stand::new().await;
    let tables = "SELECT 'ledger.' || tables[1] FROM projections WHERE name = 'users'";
    let table: String = sqlx::query_scalar(tables).fetch_one(stand.pool()).await.unwrap();
    for _ in 0..times() {
        let stalled = stand.stop_before(&table, "l.mode = 'RowExclusiveLock'").await;
        stand.goes_on_and_comes_back(stalled, "while it applies events").await;
    }
}

/// Where nobody runs who could end what it holds, it is named.
#[tokio::test(flavor = "multi_thread")]
async fn doctor_names_who_stands_still_and_what_they_hold() {
    let mut stand = Stand::new().await;
    let setup = stand.servers[1].setup().clone();
    assert_eq!(
        doctor(&setup),
        Some(("ok".to_owned(), "no process stands still".to_owned())),
        "while both run"
    );
    // Both at once, so that neither ends what the other holds.
    let stalled = stand.stop_before("journal", "l.mode = 'RowExclusiveLock'").await;
    stand.servers[1 - stalled].freeze();
    let finding = eventually("doctor tells what is held", async || {
        let (status, finding) = doctor(&setup)?;
        (status == "fail" && finding.contains("the turn to sign")).then_some(finding)
    })
    .await;
    println!("doctor: {finding}");
    assert!(finding.contains("has not been heard of since"), "{finding}");
    assert!(finding.contains(&format!("(process {})", stand.servers[stalled].pid())), "{finding}");
    stand.servers[0].thaw();
    stand.servers[1].thaw();
    stand.goes_on(0, "both gone on with").await;
    stand.is_whole().await;
}

/// A table that somebody holds for long: the projection waits, and its transaction must not keep the others waiting.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_table_that_is_held_holds_back_no_order() {
    let mut stand = Stand::new().await;
    let tables = "SELECT 'ledger.' || tables[1] FROM projections WHERE name = 'users'";
    let table: String = sqlx::query_scalar(tables).fetch_one(stand.pool()).await.unwrap();
    let mut blocking = PgConnection::connect_with(&stand.database.connect_options()).await.unwrap();
    let mut lock = blocking.begin().await.unwrap();
    sqlx::raw_sql(&format!("LOCK TABLE {table} IN SHARE MODE")).execute(&mut *lock).await.unwrap();
    stand.register(0).await;
    let waits = format!("l.relation = '{table}'::regclass AND NOT l.granted");
    eventually("a projector waits for the table", async || stand.whose(&waits).await).await;
    stand.register(0).await;
    let count = "SELECT (SELECT count(*) FROM events) = (SELECT count(*) FROM journal)";
    eventually("everything is in order, while the table is held", async || {
        let all: bool = sqlx::query_scalar(count).fetch_one(stand.pool()).await.unwrap();
        all.then_some(())
    })
    .await;
    lock.rollback().await.unwrap();
    stand.goes_on(0, "when the table is to be had").await;
    stand.is_whole().await;
}

/// A signer at rest: it holds the lock and does nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_signer_that_stands_still_is_taken_over() {
    let mut stand = Stand::new().await;
    for _ in 0..times() {
        let signs = "l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
                     AND l.objid::bigint = hashtext('process:sign_log')::bigint & 4294967295";
        let signer = eventually("somebody signs", async || stand.whose(signs).await).await;
        stand.stands_still(signer, "while it holds the right to sign").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signer_that_stands_still_while_it_signs_is_taken_over() {
    let mut stand = Stand::new().await;
    for _ in 0..times() {
        let stalled = stand.stop_before("checkpoints", "l.mode = 'RowExclusiveLock'").await;
        stand.goes_on_and_comes_back(stalled, "while it signs").await;
    }
}

/// Nothing comes through any more, and nobody is told; then everything does.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_behind_a_network_that_swallows_packets_stops_nobody() {
    let mut stand = Stand::new().await;
    for _ in 0..times() {
        stand.gate.close();
        stand.goes_on_and_comes_back(0, "by its network").await;
    }
}

/// The same, and what was connected before is never heard of again, at neither end: only new connections come through.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_connections_are_lost_without_a_word_makes_new_ones() {
    let mut stand = Stand::new().await;
    stand.gate.close();
    stand.goes_on(1, "stopped by its network").await;
    stand.gate.open_for_new_ones();
    let server = &stand.servers[0];
    eventually("the server is ready again", async || {
        let answer = server.http.get(server.url("/readyz")).send().await.ok()?;
        answer.status().is_success().then_some(())
    })
    .await;
    // A connection of before may be ended under the first requests, which are told so.
    let mut number = 0;
    eventually("it registers people again", async || {
        number += 1;
        let answer = server.try_register(&format!("again{number}")).await.ok()?;
        (answer.status().as_u16() == 201).then_some(())
    })
    .await;
    // The other one must not do it for both.
    stand.servers[1].freeze();
    stand.goes_on(0, "with new connections").await;
    stand.servers[1].thaw();
    stand.is_whole().await;
}
