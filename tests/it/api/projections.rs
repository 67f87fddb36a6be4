//! Rebuilding over HTTP, and how the projections are told to who follows them.

use std::time::Duration;

use ::projections::Revocations;
use entrybook::{
    App, HttpSettings, Parts,
    bootstrap::{Database, Services, Size},
    config::{Config, Sources},
    processes, server,
};
use serde_json::{Value, json};
use sqlx::{ConnectOptions, Connection};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::support::{
    held::{Held, never_built, poison, readable_again},
    http::{Answer, Api},
    scratch,
    server::{ADMIN_PASSWORD, PATIENCE, Server, Setup, Tokens, client, eventually},
    shared::{Running, unique},
};

const ALL: &str = "/api/v1/admin/projections";
const PROGRESS: &str = "/api/v1/admin/projections/progress";

fn path(name: &str, action: &str) -> String {
    format!("{ALL}/{name}{action}")
}

/// The view of one projection in the answer that lists all.
fn of<'a>(all: &'a Value, name: &str) -> &'a Value {
    all["projections"].as_array().unwrap().iter().find(|one| one["name"] == name).unwrap()
}

async fn get(api: &Api, name: &str, token: &str) -> Value {
    api.get(&path(name, "")).bearer(token).send().await.is(200).json()
}

/// Waits until the build of a projection is in a state.
async fn comes_to(api: &Api, name: &str, token: &str, state: &str) -> Value {
    eventually(&format!("the build of {name} is {state}"), async || {
        let view = get(api, name, token).await;
        assert_ne!(view["build"]["state"], "failed", "{view}");
        (view["build"]["state"] == state).then_some(view)
    })
    .await
}

#[tokio::test]
async fn nobody_but_an_admin_rebuilds_or_follows() {
    let running = Running::shared().await;
    let api = running.api();
    let (ada, name) = (api.register(&unique("ada")).await, unique("auditor"));
    let admin = api.admin().await;
    let auditor = api.register(&name).await;
    let roles = api.post(&format!("/api/v1/admin/users/{}/roles", auditor.user_id));
    roles.bearer(&admin.access).json(json!({"grant": ["auditor"]})).send().await.is(200);
    let asks = || {
        [
            api.get(&path("sessions", "")),
            api.get(&path("nothing", "")),
            api.get(PROGRESS),
            api.post(&path("sessions", "/rebuild")),
            api.post(&path("sessions", "/verify")),
            api.delete(&path("sessions", "/rebuild")),
            api.post(&path("", "rebuild")).json(json!({"names": ["sessions"]})),
        ]
    };
    for curious in [&ada, &auditor] {
        for ask in asks() {
            ask.bearer(&curious.access).send().await.problem(403, "forbidden");
        }
    }
    for ask in asks() {
        ask.send().await.problem(401, "not-signed-in");
    }
    // An admin's browser, sent by another site's page.
    for ask in [
        api.post(&path("sessions", "/rebuild")),
        api.post(&path("sessions", "/verify")),
        api.delete(&path("sessions", "/rebuild")),
        api.post(&path("", "rebuild")),
    ] {
        let ask = ask.header("cookie", format!("entrybook_access={}", admin.access));
        let ask = ask.header("origin", "https://evil.example");
        ask.header("sec-fetch-site", "cross-site").send().await.problem(403, "cross-site-request");
    }
    assert_eq!(get(&api, "sessions", &admin.access).await["build"]["state"], "built");
}

#[tokio::test]
async fn what_can_not_be_asked_for_is_refused_with_the_field() {
    let running = Running::shared().await;
    let api = running.api();
    let admin = api.admin().await;
    let ask = |path: &str| api.post(path).bearer(&admin.access);
    for name in ["nothing", "Users", "users%00", "%FF", "process:end_sessions"] {
        ask(&path(name, "/rebuild")).send().await.problem(404, "not-found");
        ask(&path(name, "/verify")).send().await.problem(404, "not-found");
        let cancel = api.delete(&path(name, "/rebuild")).bearer(&admin.access);
        cancel.send().await.problem(404, "not-found");
        api.get(&path(name, "")).bearer(&admin.access).send().await.problem(404, "not-found");
    }
    let one = async |body: Value| ask(&path("audit_history", "/rebuild")).json(body).send().await;
    one(json!({"dryrun": true})).await.refuses(&["dryrun"]);
    one(json!({"dry_run": "yes"})).await.refuses(&["dry_run"]);
    one(json!({"names": ["users"]})).await.refuses(&["names"]);
    one(json!({"dry_run": true, "repair": true})).await.refuses(&["repair"]);
    one(json!([])).await.refuses(&[""]);
    let garbage = ask(&path("audit_history", "/rebuild")).body("application/json", "{");
    garbage.send().await.problem(400, "malformed-request");
    let form = ask(&path("audit_history", "/rebuild")).form(&[("repair", "true")]);
    form.send().await.problem(415, "unsupported-media-type");
    let several = async |body: Value| ask(&path("", "rebuild")).json(body).send().await;
    several(json!({"names": []})).await.refuses(&["names"]);
    several(json!({"names": ["users", "nothing", "users"]}))
        .await
        .refuses(&["names[1]", "names[2]"]);
    several(json!({"names": "users"})).await.refuses(&["names"]);
    several(json!({"name": "users"})).await.refuses(&["name"]);
    let view = get(&api, "audit_history", &admin.access).await;
    assert_eq!(view["build"]["state"], "built", "nothing was begun since the first: {view}");
    let cancel = api.delete(&path("audit_history", "/rebuild")).bearer(&admin.access);
    cancel.send().await.problem(409, "no-build-under-way");
}

#[tokio::test]
async fn a_rebuild_is_accepted_told_of_and_done() {
    let running = Running::start(&[]).await;
    let api = running.api();
    let admin = api.admin().await;
    let ada = api.register("ada").await;
    let location = |answer: &Answer| answer.header("location").to_owned();

    let answer = api.post(&path("users", "/rebuild")).bearer(&admin.access).send().await.is(202);
    assert_eq!(location(&answer), path("users", ""));
    assert_eq!(answer.json()["build"]["dry_run"], false, "{}", answer.text());
    let view = comes_to(&api, "users", &admin.access, "swapped").await;
    let build = &view["build"];
    assert!(build["events_done"].as_i64().unwrap() > 0, "{view}");
    assert_eq!(build["events_done"], build["events_total"], "{view}");
    assert_eq!(view["built"], true, "{view}");

    let body = json!({"dry_run": true});
    let ask = api.post(&path("sessions", "/rebuild")).bearer(&admin.access).json(body);
    assert_eq!(ask.send().await.is(202).json()["build"]["dry_run"], true);
    comes_to(&api, "sessions", &admin.access, "compared").await;
    api.post(&path("sessions", "/verify")).bearer(&admin.access).send().await.is(202);
    comes_to(&api, "sessions", &admin.access, "compared").await;

    // All at once, without a body.
    let answer = api.post(&path("", "rebuild")).bearer(&admin.access).send().await.is(202);
    assert_eq!(location(&answer), ALL);
    for name in ["users", "sessions", "audit_history"] {
        comes_to(&api, name, &admin.access, "swapped").await;
    }
    api.me(&ada.access).await.is(200);
    let found = api.get("/api/v1/admin/users").bearer(&admin.access).send().await.is(200).json();
    assert!(found["users"].as_array().unwrap().iter().any(|user| user["username"] == "ada"));
}

#[tokio::test]
async fn a_damaged_table_is_found_out_and_repaired_only_when_told() {
    let running = Running::start(&[]).await;
    let api = running.api();
    let admin = api.admin().await;
    api.register("ada").await;
    let disabled = async || {
        let ask = api.get("/api/v1/admin/users").bearer(&admin.access);
        let users = ask.send().await.is(200).json()["users"].clone();
        let ada = users.as_array().unwrap().iter().find(|user| user["username"] == "ada").cloned();
        ada.map(|ada| ada["disabled"] == true)
    };
    eventually("ada is listed", async || disabled().await).await;
    let mut connection = running.database.connect_options().connect().await.unwrap();
    let damaged =
        sqlx::query("UPDATE ledger.users_v2 SET disabled = true").execute(&mut connection);
    assert_eq!(damaged.await.unwrap().rows_affected(), 2);
    connection.close().await.unwrap();

    let rebuild = async |body: Value| {
        let ask = api.post(&path("users", "/rebuild")).bearer(&admin.access).json(body);
        ask.send().await.is(202);
    };
    for body in [json!({"dry_run": true}), json!({})] {
        rebuild(body).await;
        let view = comes_to(&api, "users", &admin.access, "differs").await;
        let detail = view["build"]["detail"].as_str().unwrap();
        assert!(detail.contains("users") && detail.contains('2'), "{detail}");
        assert_eq!(disabled().await, Some(true), "nothing was changed");
    }
    rebuild(json!({"repair": true})).await;
    comes_to(&api, "users", &admin.access, "swapped").await;
    assert_eq!(disabled().await, Some(false));
}

/// Of several that are rebuilt together one fails: the API tells what became of each.
#[tokio::test]
async fn what_was_swapped_before_an_error_is_told_with_the_error_of_the_others() {
    let running = Running::start(&[]).await;
    let api = running.api();
    let admin = api.admin().await;
    // Rows that wait for the table would hold up more than the comparison; of accounts there come none.
    eventually("users is level", async || {
        let view = get(&api, "users", &admin.access).await;
        (view["lag_events"] == 0 && view["state"] == "live").then_some(())
    })
    .await;
    let held = Held::live_table_of(&running.database, "users").await;
    let body = json!({"names": ["sessions", "users"]});
    api.post(&path("", "rebuild")).bearer(&admin.access).json(body).send().await.is(202);
    let mut connection = running.database.connect_options().connect().await.unwrap();
    let cut = "SELECT pg_terminate_backend(l.pid)
                 FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
                WHERE NOT l.granted AND l.relation = 'ledger.users_v2'::regclass
                  AND a.query ~ 'hash_record_extended' LIMIT 1";
    eventually("it compares users", async || {
        sqlx::query_scalar::<_, bool>(cut).fetch_optional(&mut connection).await.unwrap()
    })
    .await;
    connection.close().await.unwrap();
    held.let_go().await;
    let told = eventually("both are decided", async || {
        let all = api.get(ALL).bearer(&admin.access).send().await.is(200).json();
        (of(&all, "users")["build"]["state"] == "failed").then_some(all)
    })
    .await;
    assert_eq!(of(&told, "sessions")["build"]["state"], "swapped", "{told}");
    let detail = of(&told, "users")["build"]["detail"].as_str().unwrap();
    assert!(detail.contains("the database failed"), "{detail}");
    eventually("the log says it", async || {
        running.server.log().contains("sessions was built anew").then_some(())
    })
    .await;
}

/// Server-sent events, as a program reads them.
struct Follower {
    answer: reqwest::Response,
    read: String,
}

impl Follower {
    async fn of(server: &Server, token: &str) -> Self {
        Self::reading(server.get(PROGRESS, token).await.unwrap())
    }

    fn reading(answer: reqwest::Response) -> Self {
        assert_eq!(answer.status(), 200);
        let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(header("content-type"), "text/event-stream");
        assert_eq!(header("cache-control"), "no-store");
        assert_eq!(header("x-accel-buffering"), "no");
        Self { answer, read: String::new() }
    }

    /// The next event; none when the stream has ended.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some((event, rest)) = self.read.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.read = rest;
                if event.starts_with(':') {
                    continue;
                }
                assert!(event.lines().any(|line| line == "event: projections"), "{event}");
                let data: Vec<_> =
                    event.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
                return Some(serde_json::from_str(&data.join("\n")).unwrap());
            }
            self.read.push_str(std::str::from_utf8(&self.answer.chunk().await.ok()??).unwrap());
        }
    }

    /// Waits until it is told what is looked for.
    async fn hears(&mut self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let heard = async {
            loop {
                let told =
                    self.next().await.unwrap_or_else(|| panic!("the stream ended before: {what}"));
                if is_it(&told) {
                    return told;
                }
            }
        };
        tokio::time::timeout(PATIENCE, heard)
            .await
            .unwrap_or_else(|_| panic!("never heard: {what}"))
    }

    async fn ends(mut self, why: &str) {
        let ended = async { while self.next().await.is_some() {} };
        assert!(tokio::time::timeout(PATIENCE, ended).await.is_ok(), "it does not end: {why}");
    }
}

fn is_running(told: &Value) -> bool {
    of(told, "users")["build"]["state"] == "running"
}

/// One build, run by one replica, seen and cancelled from the other.
#[tokio::test(flavor = "multi_thread")]
async fn every_replica_tells_of_a_rebuild_and_can_cancel_it() {
    let running = Running::start(&[("ENTRYBOOK_PUBLIC_URL", "http://localhost:8080")]).await;
    let place = scratch();
    let other = Setup { data_dir: place.path().join("other"), ..running.setup.replica() };
    let other = other.start().await;
    let (api, there) = (running.api(), Api::new(other.url("")));
    let admin = api.admin().await;
    let mut here = Follower::of(&running.server, &admin.access).await;
    let mut elsewhere = Follower::of(&other, &admin.access).await;
    for follower in [&mut here, &mut elsewhere] {
        let first = follower.next().await.unwrap();
        assert_eq!(of(&first, "users")["build"]["state"], "built", "{first}");
        assert!(first["head"].as_i64().unwrap() > 0, "{first}");
    }

    running.database.settled().await;
    let held = Held::live_table_of(&running.database, "users").await;
    api.post(&path("users", "/rebuild")).bearer(&admin.access).send().await.is(202);
    here.hears("it runs", is_running).await;
    let is_comparing = |told: &Value| {
        let build = &of(told, "users")["build"];
        is_running(told)
            && build["phase"] == "comparing"
            && build["events_done"] == build["events_total"]
    };
    elsewhere.hears("it compares", is_comparing).await;
    for api in [&api, &there] {
        let again = api.post(&path("users", "/rebuild")).bearer(&admin.access).send().await;
        again.problem(409, "build-under-way");
        let all = api.post(&path("", "rebuild")).bearer(&admin.access).json(json!({})).send().await;
        all.problem(409, "build-under-way");
        let check = api.post(&path("users", "/verify")).bearer(&admin.access).send().await;
        check.problem(409, "build-under-way");
    }
    let metrics = api.get("/metrics").send().await.is(200).text();
    assert!(
        metrics.contains("entrybook_projection_build_running{projection=\"users\"} 1"),
        "{metrics}"
    );
    assert!(metrics.contains("entrybook_projection_build_running{projection=\"sessions\"} 0"));
    assert!(metrics.contains("entrybook_projection_build_events_total{projection=\"users\"}"));
    // Meanwhile everything else goes on.
    api.admin().await;

    there.delete(&path("users", "/rebuild")).bearer(&admin.access).send().await.is(202);
    let is_cancelled = |told: &Value| of(told, "users")["build"]["state"] == "cancelled";
    here.hears("it was cancelled", is_cancelled).await;
    elsewhere.hears("it was cancelled", is_cancelled).await;
    held.let_go().await;

    // From the command line, too.
    let command = running.setup.command(&["projections", "rebuild", "users"]).spawn().unwrap();
    here.hears("it is rebuilt", |told| of(told, "users")["build"]["state"] == "swapped").await;
    assert!(command.wait_with_output().unwrap().status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_the_session_the_role_and_the_server() {
    let running = Running::start(&[]).await;
    let api = running.api();
    let admin = api.admin().await;
    let body =
        json!({"email": "ben@example.org", "username": "ben", "password": "the password of ben"});
    let ben = api.post("/api/v1/auth/register").json(body).send().await.tokens(201);
    let roles = async |change: Value| {
        let ask = api.post(&format!("/api/v1/admin/users/{}/roles", ben.user_id));
        ask.bearer(&admin.access).json(change).send().await.is(200);
    };
    roles(json!({"grant": ["admin"]})).await;

    let follower = Follower::of(&running.server, &ben.access).await;
    roles(json!({"revoke": ["admin"]})).await;
    follower.ends("ben is no admin any more").await;
    api.get(PROGRESS).bearer(&ben.access).send().await.problem(403, "forbidden");

    let session = api.admin().await;
    let follower = Follower::of(&running.server, &session.access).await;
    api.post("/api/v1/auth/logout").bearer(&session.access).send().await.is(204);
    follower.ends("it was signed out").await;
    api.get(PROGRESS).bearer(&session.access).send().await.problem(401, "invalid-token");

    // So many and no more, and room again when they have gone.
    let mut followers = Vec::new();
    for _ in 0..64 {
        followers.push(Follower::of(&running.server, &admin.access).await);
    }
    let one_more = running.server.get(PROGRESS, &admin.access).await.unwrap();
    assert_eq!(one_more.status(), 503);
    assert!(one_more.headers().contains_key("retry-after"));
    api.get(ALL).bearer(&admin.access).send().await.is(200);
    followers.truncate(2);
    let mut late = eventually("there is room again", async || {
        let answer = running.server.get(PROGRESS, &admin.access).await.unwrap();
        (answer.status() == 200).then(|| Follower { answer, read: String::new() })
    })
    .await;
    assert!(
        late.next().await.unwrap()["head"].as_i64().unwrap() > 0,
        "who comes late hears how it is"
    );

    let Running { server, database: _database, .. } = running;
    let log = server.log_path.clone();
    assert!(server.stop().await.success());
    late.ends("the server stops").await;
    let log = std::fs::read_to_string(log).unwrap();
    assert!(!log.contains("were not finished"), "it did not wait for who follows:\n{log}");
}

/// How long an answer may take here, and whatever else of a request.
const DEADLINE: Duration = Duration::from_secs(2);

/// A replica in this process, with limits that no setting has.
async fn impatient_replica(running: &Running, cancel: &CancellationToken) -> String {
    let environment = running.setup.extra.iter().map(|(key, value)| (key.into(), value.into()));
    let places = [
        ("DATABASE_URL".into(), running.database.url().into()),
        // The default is where the tests run.
        ("ENTRYBOOK_DATA_DIR".into(), running.setup.data_dir.with_file_name("impatient").into()),
    ];
    let sources = Sources::gather(&[], None, environment.chain(places)).unwrap();
    let config = Config::read(&sources).unwrap();
    let database = Database::open(&config).await.unwrap();
    let public_url = config.public_url(0).unwrap();
    let size = Size::of_server(&config);
    let services = Services::open(&config, &database, public_url.origin(), size).await.unwrap();
    let lifetime = config.access_token_lifetime.to_std().unwrap();
    let revocations = Revocations::new(
        crate::support::reading::source_of(&services.background),
        services.sequencer.head(),
        lifetime,
    );
    let app = App::new(Parts {
        book: services.book,
        background: services.background,
        sequencer: services.sequencer,
        projector: services.projector,
        revocations,
        log: services.log,
        settings: HttpSettings {
            header_timeout: DEADLINE,
            body_timeout: DEADLINE,
            request_timeout: DEADLINE,
            ..config.http(public_url)
        },
        lease_news: database.lease().news(),
    });
    processes::spawn(&app, &TaskTracker::new(), cancel);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(server::serve(listener, app, cancel.clone().cancelled_owned()));
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_outlives_the_deadline_of_other_answers() {
    let running = Running::start(&[("ENTRYBOOK_PUBLIC_URL", "http://localhost:8080")]).await;
    let admin = running.api().admin().await;
    let cancel = CancellationToken::new();
    let url = impatient_replica(&running, &cancel).await;
    let there = Api::new(&*url);
    eventually("tokens are good there", async || {
        let ask = client().get(there.url("/api/v1/auth/me")).bearer_auth(&admin.access);
        (ask.send().await.unwrap().status() == 200).then_some(())
    })
    .await;
    let ask = client().get(format!("{url}{PROGRESS}")).bearer_auth(&admin.access);
    let mut follower = Follower::reading(ask.send().await.unwrap());
    let head = follower.next().await.unwrap()["head"].as_i64().unwrap();

    // Asked for later, and its time is over.
    let held = Held::live_table_of(&running.database, "users").await;
    let late = client().get(there.url("/api/v1/admin/users")).bearer_auth(&admin.access);
    let late = late.send().await.unwrap();
    assert_eq!(late.status(), 503);
    let late = late.text().await.unwrap();
    assert!(late.contains("took too long"), "{late}");
    held.let_go().await;

    running.api().register("ada").await;
    let heard = |told: &Value| told["head"].as_i64().unwrap() > head;
    follower.hears("the book has grown", heard).await;
    cancel.cancel();
    follower.ends("the server stops").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poisoned_event_stops_its_projections_alone_and_is_told_everywhere() {
    let running = Running::start(&[]).await;
    let api = running.api();
    let admin = api.admin().await;
    let (ada, eve) = (api.register("ada").await, api.register("eve").await);
    let disable = api.post(&format!("/api/v1/admin/users/{}/disable", eve.user_id));
    disable.bearer(&admin.access).send().await.is(200);
    let sequence = poison(&running.database, &ada.user_id).await;
    let view = eventually("users is stopped", async || {
        let view = get(&api, "users", &admin.access).await;
        (view["state"] == "stopped").then_some(view)
    })
    .await;
    let stopped = &view["stopped"];
    let position = stopped["position"].as_i64().unwrap();
    assert_eq!(position, view["position"].as_i64().unwrap() + 1, "{view}");
    assert_eq!(stopped["stream"], format!("User {} number {sequence}", ada.user_id), "{view}");
    assert_eq!(stopped["event_type"], "UserDisabled", "{view}");
    assert_eq!(stopped["event_version"], "99.0", "{view}");
    assert!(stopped["cause"].as_str().unwrap().contains("newer version"), "{view}");
    assert!(stopped["advice"].as_str().unwrap().contains("goes on by itself"), "{view}");

    // The replica stays in service, and says what is wrong to anybody, but not with whom.
    let ready = eventually("/readyz warns", async || {
        // One look answers everybody for half a second.
        let ready = api.get("/readyz").send().await.is(200);
        ready.text().contains("warning").then_some(ready)
    })
    .await;
    let report = ready.json();
    assert_eq!(report["ready"], true, "{report}");
    let check = |name: &str| {
        let checks = report["checks"].as_array().unwrap();
        checks.iter().find(|check| check["name"] == name).unwrap().clone()
    };
    assert_eq!(check("projection users")["state"], "warning", "{report}");
    assert_eq!(check("projection sessions")["state"], "ok", "{report}");
    let detail = check("projection users")["detail"].as_str().unwrap().to_owned();
    for word in
        [&*format!("line {position}"), "UserDisabled", "99.0", "newer version", "goes on by itself"]
    {
        assert!(detail.contains(word), "{word}: {detail}");
    }
    assert!(!ready.text().contains(&ada.user_id), "{report}");
    let metrics = api.get("/metrics").send().await.is(200).text();
    for line in [
        "entrybook_projection_stopped{projection=\"users\"} 1".to_owned(),
        format!(
            "entrybook_projection_stopped_position{{projection=\"users\",stream=\"User\",cause=\"newer_version\"}} {position}"
        ),
        "entrybook_projection_state{projection=\"users\",state=\"stopped\"} 1".to_owned(),
        "entrybook_projection_stopped{projection=\"sessions\"} 0".to_owned(),
        "entrybook_process_position{process=\"end_sessions\"}".to_owned(),
    ] {
        assert!(metrics.contains(&line), "{line}\n{metrics}");
    }
    let status = running.setup.command(&["projections", "status"]).output().unwrap();
    let printed = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(printed.contains("stopped") && printed.contains(&ada.user_id), "{printed}");

    // Signing in and all that does not read them goes on.
    let ben = api.register("ben").await;
    api.sign_in("ben").await;
    api.refresh(&ben.refresh).await.tokens(200);
    let sessions = api.get("/api/v1/sessions").bearer(&admin.access).send().await.is(200).json();
    assert!(!sessions["sessions"].as_array().unwrap().is_empty());

    // Once a binary can apply it (here: once the event is as this one knows it), it goes on by itself.
    readable_again(&running.database).await;
    for name in ["users", "audit_history"] {
        eventually(&format!("{name} goes on"), async || {
            let view = get(&api, name, &admin.access).await;
            let level = view["state"] == "live" && view["lag_events"] == 0;
            (level && view["stopped"] == Value::Null).then_some(())
        })
        .await;
    }
    let user = api.get("/api/v1/admin/users?q=ben").bearer(&admin.access).send().await;
    assert_eq!(user.json()["users"][0]["username"], "ben");
}

/// While a version's tables are made for the first time, nobody is shown a half of them.
#[tokio::test(flavor = "multi_thread")]
async fn what_reads_a_half_built_table_waits_and_signing_in_does_not() {
    let running = Running::start(&[]).await;
    running.api().register("ada").await;
    let Running { server, setup, database, .. } = running;
    assert!(server.stop().await.success());
    let builder = never_built(&database).await;

    let server = setup.launch();
    eventually("it answers", async || server.http.get(server.url("/healthz")).send().await.ok())
        .await;
    let admin = eventually("signing in goes on", async || {
        let body = json!({"identifier": "admin", "password": ADMIN_PASSWORD});
        let answer = server.post("/api/v1/auth/login", body).await.unwrap();
        if answer.status() != 200 {
            return None;
        }
        let body: Value = answer.json().await.unwrap();
        Tokens::read(body)
    })
    .await;
    eventually("tokens are good", async || {
        let me = server.get("/api/v1/auth/me", &admin.access).await.unwrap();
        (me.status() == 200).then_some(())
    })
    .await;
    assert_eq!(server.refresh(&admin.refresh).await.unwrap().status(), 200);
    let ready = server.http.get(server.url("/readyz")).send().await.unwrap();
    assert_eq!(ready.status(), 503);
    let report: Value = ready.json().await.unwrap();
    assert!(report.to_string().contains("it is being built"), "{report}");
    let reads = ["/api/v1/sessions", "/api/v1/audit", "/api/v1/admin/users"];
    for path in reads {
        let answer = server.get(path, &admin.access).await.unwrap();
        assert_eq!(answer.status(), 503, "{path}");
        let again: u64 = answer.headers()["retry-after"].to_str().unwrap().parse().unwrap();
        assert!(again > 0);
        let problem: Value = answer.json().await.unwrap();
        assert_eq!(problem["type"], "/problems/projection-building", "{path}");
    }
    let page = async |path: &str| {
        let cookie = format!("entrybook_access={}", admin.access);
        let answer =
            server.http.get(server.url(path)).header("cookie", cookie).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let (status, overview) = page("/").await;
    assert!(
        status == 200 && overview.contains("It will be here in a moment"),
        "{status}: {overview}"
    );
    let (status, history) = page("/my-history").await;
    assert!(
        status == 503 && history.contains("being put together from the history"),
        "{status}: {history}"
    );
    let (status, projections) = page("/projections").await;
    assert!(status == 200 && projections.contains("Building"), "{status}: {projections}");
    let api = Api::new(server.url(""));
    let rebuild = api.post(&path("users", "/rebuild")).bearer(&admin.access).send().await;
    rebuild.problem(409, "build-under-way");

    builder.close().await.unwrap();
    server.ready().await;
    for path in reads {
        api.get(path).bearer(&admin.access).send().await.is(200);
    }
    let found = api.get("/api/v1/admin/users").bearer(&admin.access).send().await.json();
    assert_eq!(found["users"].as_array().unwrap().len(), 2, "the whole of it: {found}");
}
