//! What happens to the service stands in the history, and so does who reads it.

use serde_json::{Value, json};
use sqlx::{PgPool, Row};
use tempfile::TempDir;

use crate::support::{
    database::TestDatabase,
    held::Held,
    http::{Answer, Api, password_of},
    scratch,
    server::{ADMIN_PASSWORD, MASTER_KEY, Server, Setup, Tokens, eventually},
    shared::{Running, UNTHROTTLED, unique},
};

/// A database, and how servers are started on it.
struct Stand {
    setup: Setup,
    database: TestDatabase,
    _scratch: TempDir,
}

impl Stand {
    async fn new() -> Self {
        let database = TestDatabase::create().await;
        let scratch = scratch();
        let setup = Setup::on(&database.url(), &scratch.path().join("data"));
        Self { setup, database, _scratch: scratch }
    }

    async fn recorded(&self, event_type: &str) -> Vec<Recorded> {
        recorded(self.database.pool(), event_type).await
    }

    /// Runs a verb, which must succeed.
    fn run(&self, arguments: &[&str]) -> String {
        let output = self.setup.command(arguments).output().unwrap();
        let (out, err) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{arguments:?}: {out}{err}");
        out.into_owned()
    }
}

/// An event, as the table has it.
#[derive(Debug)]
struct Recorded {
    stream: String,
    payload: Value,
    metadata: Value,
}

impl Recorded {
    fn actor(&self) -> &str {
        self.metadata["actor"].as_str().unwrap()
    }
}

/// All events of a type, in the order in which they were written.
async fn recorded(pool: &PgPool, event_type: &str) -> Vec<Recorded> {
    let rows = sqlx::query(
        "SELECT aggregate_id, payload, metadata FROM events WHERE event_type = $1 ORDER BY id",
    )
    .bind(event_type)
    .fetch_all(pool)
    .await
    .unwrap();
    rows.iter()
        .map(|row| {
            let payload: Value = row.get("payload");
            Recorded {
                stream: row.get("aggregate_id"),
                payload: payload[event_type].clone(),
                metadata: row.get("metadata"),
            }
        })
        .collect()
}

/// What an auditor is shown of a type of event, newest first.
async fn shown(api: &Api, auditor: &Tokens, event_type: &str, count: usize) -> Vec<Value> {
    eventually(&format!("the history shows {count} of {event_type}"), async || {
        let answer = audit(api, auditor, &format!("type={event_type}")).await.is(200).json();
        let lines = answer["lines"].as_array().unwrap().clone();
        (lines.len() >= count).then_some(lines)
    })
    .await
}

async fn audit(api: &Api, reader: &Tokens, query: &str) -> Answer {
    api.get(&format!("/api/v1/audit?{query}")).bearer(&reader.access).send().await
}

fn api(server: &Server) -> Api {
    Api::new(server.url(""))
}

#[tokio::test]
async fn a_server_tells_of_its_start_its_stop_and_what_is_set_otherwise() {
    let stand = Stand::new().await;
    let server = stand.setup.start().await;
    let started = stand.recorded("ServerStarted").await;
    let [first] = &started[..] else { panic!("{started:?}") };
    assert_eq!(first.actor(), "system");
    assert!(first.payload["program"].as_str().unwrap().starts_with("entrybook "));
    assert_eq!(first.payload["unstopped"], json!([]));
    let settings = &first.payload["settings"];
    assert_eq!(settings["registration"], "open");
    assert_eq!(settings["listen"], format!("127.0.0.1:{}", server.port()));
    assert_eq!(settings["refresh_lifetime"], "24h");
    assert_eq!(stand.recorded("SchemaMigrated").await.len(), 1);
    assert_eq!(stand.recorded("SigningKeyAdded").await[0].payload["algorithm"], "EdDSA");
    assert!(server.stop().await.success());

    let closed = stand.setup.clone().with("ENTRYBOOK_REGISTRATION", "closed");
    let closed = closed.with("ENTRYBOOK_TOKEN_ALGORITHM", "ES256");
    let server = closed.start().await;
    let stopped = stand.recorded("ServerStopped").await;
    let [stop] = &stopped[..] else { panic!("{stopped:?}") };
    assert_eq!(stop.payload["replica"], first.payload["replica"]);
    let changed = stand.recorded("SettingsChanged").await;
    let [change] = &changed[..] else { panic!("{changed:?}") };
    let expected = json!({
        "registration": {"from": "open", "to": "closed"},
        "token_algorithm": {"from": "EdDSA", "to": "ES256"},
    });
    assert_eq!(change.payload["changed"], expected);
    let keys = stand.recorded("SigningKeyAdded").await;
    let algorithms: Vec<_> = keys.iter().map(|key| &key.payload["algorithm"]).collect();
    assert_eq!(algorithms, ["EdDSA", "ES256"]);
    assert!(server.stop().await.success());

    // The same again is no change, and no key and no migration is told of twice.
    let server = closed.start().await;
    let api = api(&server);
    let auditor = api.admin().await;
    let lines = shown(&api, &auditor, "ServerStarted", 3).await;
    assert!(lines.iter().all(|line| line["actor"]["kind"] == "system"), "{lines:?}");
    assert!(lines[0]["outcome"].as_str().unwrap().starts_with("entrybook "), "{lines:?}");
    assert_eq!(shown(&api, &auditor, "ServerStopped", 2).await.len(), 2);
    let lines = shown(&api, &auditor, "SettingsChanged", 1).await;
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["outcome"], "registration, token_algorithm");
    assert_eq!(shown(&api, &auditor, "SigningKeyAdded", 2).await.len(), 2);
    assert_eq!(shown(&api, &auditor, "SchemaMigrated", 1).await.len(), 1);

    let told: Vec<Value> =
        sqlx::query_scalar("SELECT payload FROM events WHERE aggregate_type = 'Service'")
            .fetch_all(stand.database.pool())
            .await
            .unwrap();
    let told = serde_json::to_string(&told).unwrap();
    let data_dir = stand.setup.data_dir.to_str().unwrap();
    for secret in [MASTER_KEY, ADMIN_PASSWORD, "postgres://", "admin@example.org", data_dir] {
        assert!(!told.contains(secret), "{secret} in {told}");
    }
}

#[tokio::test]
async fn a_killed_server_leaves_a_start_without_a_stop_and_the_next_start_tells() {
    let stand = Stand::new().await;
    stand.setup.start().await.kill();
    eventually("the database has noticed", async || {
        let left =
            "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
                      AND application_name LIKE 'entrybook-server %')";
        let pool = stand.database.pool();
        sqlx::query_scalar::<_, bool>(left).fetch_one(pool).await.unwrap().then_some(())
    })
    .await;
    let server = stand.setup.start().await;
    let started = stand.recorded("ServerStarted").await;
    let [killed, next] = &started[..] else { panic!("{started:?}") };
    assert_eq!(next.payload["unstopped"], json!([killed.payload["replica"]]));
    assert_eq!(stand.recorded("ServerStopped").await.len(), 0);
    // One beside it finds it alive.
    let beside = stand.setup.replica().start().await;
    let started = stand.recorded("ServerStarted").await;
    assert_eq!(started[2].payload["unstopped"], json!([]));
    assert_eq!(stand.recorded("SettingsChanged").await.len(), 0, "it listens elsewhere, no more");
    let api = api(&server);
    let auditor = api.admin().await;
    let lines = shown(&api, &auditor, "ServerStarted", 3).await;
    let outcomes: Vec<_> = lines.iter().map(|line| line["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes[1], "after_a_kill");
    assert!(outcomes[0].starts_with("entrybook ") && outcomes[2].starts_with("entrybook "));
    assert!(beside.stop().await.success() && server.stop().await.success());
    assert_eq!(stand.recorded("ServerStopped").await.len(), 2);
    let server = stand.setup.start().await;
    assert_eq!(stand.recorded("ServerStarted").await[3].payload["unstopped"], json!([]));
    drop(server);
}

#[tokio::test]
async fn what_is_done_to_the_read_tables_stands_in_the_history_with_who_did_it() {
    let stand = Stand::new().await;
    let server = stand.setup.start().await;
    let api = api(&server);
    let admin = api.admin().await;
    let path = "/api/v1/admin/projections/users/rebuild";
    api.post(path).bearer(&admin.access).send().await.is(202);
    let rebuilt = eventually("the rebuild is written down", async || {
        let rebuilt = stand.recorded("ProjectionsRebuilt").await;
        (!rebuilt.is_empty()).then_some(rebuilt)
    })
    .await;
    let by_admin = json!({"projections": ["users"], "outcome": "swapped", "repair": false});
    assert_eq!(rebuilt[0].payload, by_admin);
    assert_eq!(rebuilt[0].actor(), format!("user:{}", admin.user_id));
    assert!(rebuilt[0].metadata["source"].as_str().unwrap().contains(&admin.user_id));
    // It was written down before anything was done.
    let begun = stand.recorded("ProjectionsRebuildBegun").await;
    let [begun] = &begun[..] else { panic!("{begun:?}") };
    assert_eq!(begun.payload, json!({"projections": ["users"], "repair": false}));
    assert_eq!(begun.actor(), rebuilt[0].actor());
    // A check changes nothing.
    stand.run(&["projections", "verify", "users"]);
    stand.run(&["projections", "rebuild", "users", "sessions", "--repair"]);
    let rebuilt = stand.recorded("ProjectionsRebuilt").await;
    assert_eq!(rebuilt.len(), 2);
    assert_eq!(stand.recorded("ProjectionsRebuildBegun").await.len(), 2);
    let by_cli =
        json!({"projections": ["users", "sessions"], "outcome": "swapped", "repair": true});
    assert_eq!(rebuilt[1].payload, by_cli);
    assert!(rebuilt[1].actor().starts_with("cli:s1."), "{}", rebuilt[1].actor());

    sqlx::raw_sql(
        "CREATE TABLE ledger.users_v1 ();
         ALTER TABLE ledger.users_v1 OWNER TO entrybook_app;
         INSERT INTO projections (name, version, built, tables) VALUES ('users', 1, true, '{users_v1}')",
    )
    .execute(stand.database.pool())
    .await
    .unwrap();
    stand.run(&["projections", "prune", "--dry-run"]);
    assert_eq!(stand.recorded("ProjectionsPruneBegun").await.len(), 0);
    stand.run(&["projections", "prune"]);
    let pruned = stand.recorded("ProjectionsPruned").await;
    assert_eq!(pruned[0].payload, json!({"dropped": ["users version 1"]}));
    assert!(pruned[0].actor().starts_with("cli:s1."));
    let asked = stand.recorded("ProjectionsPruneBegun").await;
    assert_eq!(asked[0].payload, json!({"unused": ["users version 1"]}));
    assert!(asked[0].actor().starts_with("cli:s1."));

    let lines = shown(&api, &admin, "ProjectionsRebuilt", 2).await;
    assert_eq!(lines[0]["actor"]["kind"], "cli");
    assert!(!lines[0]["actor"]["label"].as_str().unwrap().is_empty(), "{lines:?}");
    assert_eq!(lines[1]["actor"]["id"], admin.user_id);
    assert_eq!(
        (&lines[1]["address"], &lines[1]["outcome"]),
        (&json!("127.0.0.1"), &json!("swapped"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_that_is_broken_off_is_not_told_as_an_act_of_who_began_it() {
    let stand = Stand::new().await;
    let server = stand.setup.start().await;
    let api = api(&server);
    let admin = api.admin().await;
    let ben = api.register("ben").await;
    let roles = format!("/api/v1/admin/users/{}/roles", ben.user_id);
    api.post(&roles).bearer(&admin.access).json(json!({"grant": ["admin"]})).send().await.is(200);
    let ben = api.sign_in("ben").await;
    let (by_admin, by_ben) = (format!("user:{}", admin.user_id), format!("user:{}", ben.user_id));
    let path = "/api/v1/admin/projections/users/rebuild";

    // Ben cancels what the admin has begun.
    let held = Held::live_table_of(&stand.database, "users").await;
    api.post(path).bearer(&admin.access).send().await.is(202);
    api.delete(path).bearer(&ben.access).send().await.is(202);
    let ended = async |number: usize| {
        eventually("the end is written down", async || {
            let mut ended = stand.recorded("ProjectionsRebuilt").await;
            (ended.len() == number).then(|| ended.pop().unwrap())
        })
        .await
    };
    let end = ended(1).await;
    assert_eq!((end.actor(), &end.payload["outcome"]), ("system", &json!("cancelled")));
    assert!(end.metadata.get("source").is_none(), "{end:?}");
    let cancelled = stand.recorded("ProjectionsRebuildCancelled").await;
    let [cancelled] = &cancelled[..] else { panic!("{cancelled:?}") };
    assert_eq!(cancelled.payload, json!({"projections": ["users"]}));
    assert_eq!(cancelled.actor(), by_ben);
    assert!(cancelled.metadata["source"].as_str().unwrap().contains(&ben.user_id));
    assert_eq!(stand.recorded("ProjectionsRebuildBegun").await[0].actor(), by_admin);
    // There is nothing to cancel any more, so nobody has.
    api.delete(path).bearer(&ben.access).send().await.is(409);

    // The server stops in the middle of one, and one that is refused is told as such.
    api.post(path).bearer(&admin.access).send().await.is(202);
    api.post(path).bearer(&ben.access).send().await.is(409);
    let refused = ended(2).await;
    assert_eq!((refused.actor(), &refused.payload["outcome"]), (&*by_ben, &json!("refused")));
    assert!(server.stop().await.success());
    let end = ended(3).await;
    assert_eq!((end.actor(), &end.payload["outcome"]), ("system", &json!("interrupted")));
    assert_eq!(stand.recorded("ProjectionsRebuildCancelled").await.len(), 1);
    held.let_go().await;
}

#[tokio::test]
async fn whoever_migrates_a_book_stands_in_it() {
    let stand = Stand::new().await;
    let pool = stand.database.pool();
    stand.run(&["migrate"]);
    let create = ["admin", "create", "--email", "ada@example.org", "--username", "ada"];
    stand.run(&[&create[..], &["--generate-password"]].concat());
    // As if one migration were still to come: of those that there are, one that changes nothing a second time.
    sqlx::raw_sql("DELETE FROM _sqlx_migrations WHERE version = 6").execute(pool).await.unwrap();
    let answer: Value = serde_json::from_str(&stand.run(&["migrate", "--json"])).unwrap();
    assert_eq!(answer["applied"], json!([6]));
    let migrated = stand.recorded("SchemaMigrated").await;
    let [by_cli] = &migrated[..] else { panic!("{migrated:?}") };
    assert!(by_cli.actor().starts_with("cli:s1."), "{}", by_cli.actor());
    assert!(by_cli.payload["versions"].as_array().unwrap().contains(&json!(6)));
    // The server has nothing to add, unless somebody else was there meanwhile.
    stand.setup.start().await.kill();
    assert_eq!(stand.recorded("SchemaMigrated").await.len(), 1);
    sqlx::raw_sql(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (9000, 'of a newer binary', true, '', 0)",
    )
    .execute(pool)
    .await
    .unwrap();
    stand.setup.start().await.kill();
    let migrated = stand.recorded("SchemaMigrated").await;
    assert_eq!((migrated.len(), migrated[1].actor()), (2, "system"));
    assert_eq!(migrated[1].payload["versions"], json!([9000]));
}

#[tokio::test]
async fn an_auditor_who_reads_what_others_did_is_written_down_once_in_ten_minutes() {
    let running = Running::start(&UNTHROTTLED).await;
    let (api, pool) = (running.api(), running.database.pool());
    let ada = api.register(&unique("ada")).await;
    let auditor = api.admin().await;
    let searched = async || recorded(pool, "HistorySearched").await;

    // One's own is one's own.
    audit(&api, &auditor, &format!("user={}", auditor.user_id)).await.is(200);
    assert_eq!(searched().await.len(), 0);
    // The same again, and its next page, is the same.
    let of_ada = format!("user={}&type=UserRegistered", ada.user_id);
    for query in [of_ada.clone(), of_ada.clone(), format!("{of_ada}&limit=1&cursor=before-3")] {
        audit(&api, &auditor, &query).await.is(200);
    }
    let found = searched().await;
    let [one] = &found[..] else { panic!("{found:?}") };
    assert_eq!(one.stream, auditor.user_id);
    assert_eq!(one.actor(), format!("user:{}", auditor.user_id));
    assert!(one.metadata["source"].as_str().unwrap().contains(&auditor.user_id));
    let filter = one.payload["filter"].as_str().unwrap();
    assert!(filter.starts_with("s1.m:"), "{filter}");
    // Another filter is another search, whatever page is asked for; everything is one too.
    audit(&api, &auditor, &format!("session={}&cursor=after-1000", ada.session_id)).await.is(200);
    audit(&api, &auditor, "").await.is(200);
    let found = searched().await;
    assert_eq!(found.len(), 3);
    assert_eq!(found[2].payload, json!({}));

    // The auditors' readings are read by auditors.
    let lines = shown(&api, &auditor, "HistorySearched", 4).await;
    let asked: Vec<Option<Value>> = lines
        .iter()
        .map(|line| line["identifier"].as_str().map(|text| serde_json::from_str(text).unwrap()))
        .collect();
    assert_eq!(asked.len(), 4);
    assert_eq!(asked[0], Some(json!({"types": ["HistorySearched"]})));
    assert_eq!(asked[1], None);
    assert_eq!(asked[2], Some(json!({"session": ada.session_id})));
    assert_eq!(asked[3], Some(json!({"user": ada.user_id, "types": ["UserRegistered"]})));
    assert!(lines.iter().all(|line| line["actor"]["id"] == auditor.user_id), "{lines:?}");
    assert!(lines.iter().all(|line| line["address"] == "127.0.0.1"), "{lines:?}");
    assert!(lines.iter().all(|line| line["person"].is_null()), "{lines:?}");
}

#[tokio::test]
async fn the_command_line_is_a_reader_too() {
    let stand = Stand::new().await;
    let server = stand.setup.start().await;
    let api = api(&server);
    let ada = api.register("ada").await;
    stand.database.settled().await;
    stand.run(&["audit", "tail", "--user", "ada"]);
    stand.run(&["audit", "show", "1"]);
    let found = stand.recorded("HistorySearched").await;
    assert_eq!(found.len(), 2);
    assert!(found.iter().all(|one| one.stream == "cli" && one.actor().starts_with("cli:s1.")));
    let lines = shown(&api, &api.admin().await, "HistorySearched&actor=cli", 2).await;
    let asked: Vec<Value> = lines
        .iter()
        .map(|line| serde_json::from_str(line["identifier"].as_str().unwrap()).unwrap())
        .collect();
    assert_eq!(asked, [json!({"position": 1}), json!({"user": ada.user_id})]);
    // The same again within ten minutes is the same, as over HTTP; another is another.
    stand.run(&["audit", "tail", "--user", "ada", "-n", "5"]);
    stand.run(&["audit", "show", "1", "--json"]);
    assert_eq!(stand.recorded("HistorySearched").await.len(), 3, "two, and that of the auditor");
    stand.run(&["audit", "show", "2"]);
    stand.run(&["audit", "tail"]);
    assert_eq!(stand.recorded("HistorySearched").await.len(), 5);
    stand.run(&["audit", "tail"]);
    assert_eq!(stand.recorded("HistorySearched").await.len(), 5, "everything is one too");
    // What is shown of a reading tells what was looked for.
    let position = lines[1]["position"].to_string();
    let whole = stand.run(&["audit", "show", &position, "--json"]);
    assert!(whole.contains(&ada.user_id), "{whole}");
}

#[tokio::test]
async fn whoever_follows_from_far_back_reads_the_past_and_that_is_told() {
    let running = Running::start(&UNTHROTTLED).await;
    let (api, pool) = (running.api(), running.database.pool());
    let auditor = api.admin().await;
    for number in 0..210 {
        let query = format!("session=00000000-0000-0000-0000-{number:012}");
        audit(&api, &auditor, &query).await.is(200);
    }
    let head = eventually("the history shows them", async || {
        let newest = audit(&api, &auditor, "limit=1").await.is(200).json();
        newest["lines"][0]["position"].as_i64().filter(|position| *position > 210)
    })
    .await;
    let followed = async |query: &str| {
        let path = format!("/api/v1/audit/stream{query}");
        let answer = running.server.get(&path, &auditor.access).await.unwrap();
        assert_eq!(answer.status(), 200, "{query}");
        recorded(pool, "HistoryFollowed").await
    };
    assert_eq!(followed("").await[0].payload, json!({}));
    // Who goes on near the head does what they did.
    let near = format!("?after={}", head - 10);
    assert_eq!(followed(&near).await.len(), 1);
    // From the beginning on is all there is, and the same again is the same.
    assert_eq!(followed("?after=0").await.len(), 2);
    assert_eq!(followed("?after=0").await.len(), 2);
    assert_eq!(followed("?after=1").await.len(), 3);
    let lines = shown(&api, &auditor, "HistoryFollowed", 3).await;
    let asked = |line: &Value| -> Value {
        line["identifier"].as_str().map_or(Value::Null, |text| serde_json::from_str(text).unwrap())
    };
    let asked: Vec<_> = lines.iter().map(asked).collect();
    assert_eq!(asked, [json!({"after": 1}), json!({"after": 0}), Value::Null]);
}

#[tokio::test]
async fn a_line_is_shown_with_all_that_it_holds_to_auditors_who_are_written_down() {
    let running = Running::start(&UNTHROTTLED).await;
    let (api, pool) = (running.api(), running.database.pool());
    let ada = api.register("ada").await;
    let change = json!({
        "username": "augusta", "full_name": "Ada Lovelace", "current_password": password_of("ada"),
    });
    api.patch("/api/v1/auth/me").bearer(&ada.access).json(change).send().await.is(200);
    let admin = api.admin().await;
    let of = |position: i64| format!("/api/v1/audit/{position}");
    running.database.settled().await;
    let changed = shown(&api, &admin, "UserProfileChanged", 1).await.remove(0);
    let position = changed["position"].as_i64().unwrap();
    let read = recorded(pool, "HistorySearched").await.len();
    let line = api.get(&of(position)).bearer(&admin.access).send().await.is(200).json();
    for (name, value) in changed.as_object().unwrap() {
        assert_eq!(line[name], *value, "{name}: {line}");
    }
    assert_eq!(line["stream"], format!("User/{}", ada.user_id));
    assert_eq!((&line["sequence"], &line["version"]), (&json!(2), &json!("1")), "{line}");
    assert_eq!(line["proof"], format!("/log/proof/{position}"));
    let payload = &line["payload"];
    assert_eq!(payload["username"]["from"]["sealed"], "ada", "{payload}");
    assert_eq!(payload["username"]["to"]["sealed"], "augusta", "{payload}");
    assert_eq!(payload["full_name"], json!({"from": null, "to": "Ada Lovelace"}), "{payload}");
    assert_eq!(recorded(pool, "HistorySearched").await.len(), read + 1);
    // The hash of a password is opened for nobody.
    let of_ada = format!("UserRegistered&user={}", ada.user_id);
    let registered = shown(&api, &admin, &of_ada, 1).await;
    let position = registered[0]["position"].as_i64().unwrap();
    let line = api.get(&of(position)).bearer(&admin.access).send().await.is(200).json();
    assert_eq!(line["payload"]["password"], "(sealed)", "{line}");

    api.get(&of(position)).send().await.problem(401, "not-signed-in");
    api.get(&of(position)).bearer(&ada.access).send().await.problem(403, "forbidden");
    for none in ["0", "-1", "99999999", "9223372036854775807", "99999999999999999999", "first"] {
        let path = format!("/api/v1/audit/{none}");
        api.get(&path).bearer(&admin.access).send().await.problem(404, "not-found");
    }
    // Whoever took an event out of the database is not covered up for.
    sqlx::raw_sql(&format!(
        "ALTER TABLE events DISABLE TRIGGER append_only;
         DELETE FROM events USING journal j
          WHERE (events.tx, events.id) = (j.tx, j.event_id) AND j.position = {position}"
    ))
    .execute(pool)
    .await
    .unwrap();
    let damaged = running.server.get(&of(position), &admin.access).await.unwrap();
    assert_eq!(damaged.status(), 500);
    let problem: Value = damaged.json().await.unwrap();
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("not there") && detail.contains("audit verify"), "{problem}");
}

#[tokio::test]
async fn what_cannot_be_written_down_is_not_shown() {
    let running = Running::start(&UNTHROTTLED).await;
    let (api, pool) = (running.api(), running.database.pool());
    let ada = api.register(&unique("ada")).await;
    let auditor = api.admin().await;
    sqlx::raw_sql(
        "CREATE FUNCTION refuse_readings() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE EXCEPTION 'no readings'; END $$;
         CREATE TRIGGER no_readings BEFORE INSERT ON events FOR EACH ROW
             WHEN (NEW.aggregate_type = 'Reading') EXECUTE FUNCTION refuse_readings();",
    )
    .execute(pool)
    .await
    .unwrap();
    let query = format!("user={}", ada.user_id);
    for _ in 0..2 {
        let path = format!("/api/v1/audit?{query}");
        let refused = running.server.get(&path, &auditor.access).await.unwrap();
        assert_eq!(refused.status(), 503);
        assert_eq!(refused.headers()["retry-after"], "2");
        let problem: Value = refused.json().await.unwrap();
        assert_eq!(problem["type"], "/problems/unavailable", "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains("written down"), "{problem}");
        assert!(!problem.to_string().contains(&ada.user_id), "{problem}");
    }
    // One's own is still shown, and so is what was read a moment ago.
    audit(&api, &auditor, &format!("user={}", auditor.user_id)).await.is(200);
    sqlx::raw_sql("DROP TRIGGER no_readings ON events").execute(pool).await.unwrap();
    audit(&api, &auditor, &query).await.is(200);
    assert_eq!(recorded(pool, "HistorySearched").await.len(), 1);
}

#[tokio::test]
async fn readings_are_bounded() {
    let running = Running::start(&UNTHROTTLED).await;
    let (api, pool) = (running.api(), running.database.pool());
    let auditor = api.admin().await;
    let of = |number: u32| format!("session=00000000-0000-0000-0000-{number:012}");
    for number in 0..1_000 {
        audit(&api, &auditor, &of(number)).await.is(200);
    }
    let refused = audit(&api, &auditor, &of(1_000)).await;
    let problem = refused.problem(429, "too-many-attempts");
    assert!(problem["detail"].as_str().unwrap().contains("1000 times"), "{problem}");
    assert!(refused.header("retry-after").parse::<u32>().unwrap() > 600);
    // What was read may be read on, and one's own always.
    audit(&api, &auditor, &of(999)).await.is(200);
    audit(&api, &auditor, &format!("user={}", auditor.user_id)).await.is(200);
    assert_eq!(recorded(pool, "HistorySearched").await.len(), 1_000);
}

#[tokio::test]
async fn an_admin_without_the_role_gets_nothing_of_others_and_leaves_no_reading() {
    let running = Running::start(&UNTHROTTLED).await;
    let (api, pool) = (running.api(), running.database.pool());
    let (ada, boss_name) = (api.register(&unique("ada")).await, unique("boss"));
    let boss = api.register(&boss_name).await;
    let admin = api.admin().await;
    let path = format!("/api/v1/admin/users/{}/roles", boss.user_id);
    api.post(&path).bearer(&admin.access).json(json!({"grant": ["admin"]})).send().await.is(200);
    let boss = api.sign_in(&boss_name).await;
    api.get("/api/v1/admin/users").bearer(&boss.access).send().await.is(200);
    for query in [
        format!("user={}", ada.user_id),
        format!("session={}", ada.session_id),
        "type=ServerStarted".to_owned(),
        "type=HistorySearched".to_owned(),
    ] {
        let answer = audit(&api, &boss, &query).await.is(200).json();
        assert_eq!(answer["lines"], json!([]), "{query}");
    }
    assert_eq!(recorded(pool, "HistorySearched").await.len(), 0);
    // Who grants themselves the role is in the history before they read.
    let path = format!("/api/v1/admin/users/{}/roles", boss.user_id);
    let grant = json!({"grant": ["auditor"]});
    api.post(&path).bearer(&boss.access).json(grant).send().await.is(200);
    let boss = api.sign_in(&boss_name).await;
    audit(&api, &boss, &format!("user={}", ada.user_id)).await.is(200);
    let acts: Vec<(String, String)> = sqlx::query_as(
        "SELECT event_type, coalesce(payload #>> '{UserRoleGranted,role}', '') FROM events
          WHERE event_type IN ('UserRoleGranted', 'HistorySearched') AND metadata->>'actor' = $1
          ORDER BY id",
    )
    .bind(format!("user:{}", boss.user_id))
    .fetch_all(pool)
    .await
    .unwrap();
    let acts: Vec<_> = acts.iter().map(|(name, role)| format!("{name} {role}")).collect();
    assert_eq!(acts, ["UserRoleGranted auditor", "HistorySearched "]);
}

#[test]
fn every_event_is_in_the_documentation() {
    let page = include_str!("../../docs/history.md");
    for line in domain::fixtures() {
        let name = format!("`{}`", line.event_type);
        assert!(page.contains(&name), "docs/history.md says nothing of {name}");
    }
}
