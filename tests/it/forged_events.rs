//! Events that somebody adds who has the application's database login and not the master key: none has an
//! effect, each is named, and nobody is held up.

use commands::{database, keyring::MasterKey};
use serde_json::{Value, json};
use sqlx::{ConnectOptions, Connection, PgConnection, PgPool};

use crate::{
    book::{Desk, account},
    support::{
        database::TestDatabase,
        http::password_of,
        scratch,
        server::{Setup, eventually},
        shared::Running,
    },
};

/// The connection of the attacker, who acts with the application's role.
async fn attacker(database: &TestDatabase) -> PgPool {
    let pool = database::connect(database.connect_options(), 1).await.unwrap();
    assert_eq!(database::acting_role(&pool).await.unwrap(), database::APP_ROLE);
    pool
}

/// Adds an event, as the application would.
async fn forge(pool: &PgPool, stream: (&str, &str), sequence: i64, event_type: &str, body: Value) {
    sqlx::query(
        "INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
         VALUES ($1, $2, $3, $4, CASE $4 WHEN 'SessionStarted' THEN '2' WHEN 'SessionEnded' THEN '2' ELSE '1' END,
                 $5, $6)",
    )
    .bind(stream.0)
    .bind(stream.1)
    .bind(sequence)
    .bind(event_type)
    .bind(json!({ event_type: body }))
    .bind(json!({"actor": "system", "request_id": "x", "at": "2026-01-01T00:00:00.000000Z"}))
    .execute(pool)
    .await
    .unwrap();
}

/// Copies a genuine event with its code to another place.
async fn replay(pool: &PgPool, from: (&str, &str), to: &str, sequence: i64, actor: Option<&str>) {
    let copied = sqlx::query(
        "INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
         SELECT aggregate_type, $3, $4, event_type, event_version, payload,
                metadata || coalesce(jsonb_build_object('actor', $5), '{}')
           FROM events WHERE aggregate_type = $1 AND aggregate_id = $2 AND sequence = 1",
    )
    .bind(from.0)
    .bind(from.1)
    .bind(to)
    .bind(sequence)
    .bind(actor)
    .execute(pool)
    .await
    .unwrap();
    assert_eq!(copied.rows_affected(), 1);
}

async fn run(setup: &Setup, words: &[&str]) -> (i32, String) {
    let mut command = setup.command(words);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code().unwrap(), text + &String::from_utf8_lossy(&output.stderr))
}

async fn roles(pool: &PgPool, id: &str) -> Vec<String> {
    sqlx::query_scalar("SELECT roles FROM ledger.users_v2 WHERE user_id = $1::uuid")
        .bind(id)
        .fetch_one(pool)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_database_login_adds_has_no_effect_is_named_and_stops_nobody() {
    let running = Running::start_on(TestDatabase::authenticated().await, &[]).await;
    let (api, pool) = (running.api(), running.database.pool());
    let (ada, ben) = (api.register("ada").await, api.register("ben").await);
    let by = attacker(&running.database).await;
    let user = ("User", ada.user_id.as_str());
    let session = ("Session", ada.session_id.as_str());
    let (new_session, new_user) =
        ("01890000-0000-7000-8000-00000000000a", "01890000-0000-7000-8000-00000000000b");
    let guard = format!("account:{}", ben.user_id);

    forge(&by, user, 2, "UserRoleGranted", json!({"role": "admin"})).await;
    forge(&by, user, 3, "UserDisabled", json!({})).await;
    forge(&by, user, 4, "UserPasswordChanged", json!({"password": "x", "kept_session": null}))
        .await;
    forge(&by, user, 5, "UserErased", json!({})).await;
    // Far behind, with a gap before it, and the last that there can be.
    forge(&by, user, 9, "UserSessionsEnded", json!({"kept_session": null})).await;
    forge(&by, user, i64::MAX, "UserDisabled", json!({})).await;
    let ended =
        json!({"user_id": ada.user_id, "reason": "signed_out", "at": "2026-01-01T00:00:00Z"});
    forge(&by, session, 2, "SessionEnded", ended).await;
    let started = json!({
        "user_id": ben.user_id, "user_version": 1, "methods": ["password"], "refresh": "h",
        "remember_me": false, "at": "2026-01-01T00:00:00Z", "expires_at": "2099-01-01T00:00:00Z",
    });
    forge(&by, ("Session", new_session), 1, "SessionStarted", started).await;
    let throttled = json!({
        "subject": {"account": ben.user_id}, "failures": 99,
        "at": "2026-01-01T00:00:00Z", "until": "2099-01-01T00:00:00Z",
    });
    forge(&by, ("SignInGuard", &guard), 1, "SignInThrottled", throttled).await;
    let key = json!({"origin": "localhost", "key": "localhost+00000000+AAAA"});
    forge(&by, ("Service", "log"), 1_000, "LogKeyAdded", key).await;
    // Genuine events elsewhere: another stream, another number, another actor.
    replay(&by, ("User", &ben.user_id), new_user, 1, None).await;
    replay(&by, ("User", &ben.user_id), &ben.user_id, 7, None).await;
    replay(&by, session, &ada.session_id, 40, Some("system")).await;
    let forged = 13;

    // The affected and the bystander: their sessions go on, and so do sign-ins and appends.
    api.me(&ada.access).await.is(200);
    let renewed = api.refresh(&ada.refresh).await.tokens(200);
    let me = api.me(&renewed.access).await.is(200).json();
    assert_eq!(me["roles"], json!(["user"]), "{me}");
    api.get("/api/v1/admin/users").bearer(&renewed.access).send().await.is(403);
    let again = api.sign_in("ada").await;
    api.sign_in("ben").await;
    let changed = json!({"full_name": "Ada"});
    api.patch("/api/v1/auth/me").bearer(&again.access).json(changed).send().await.is(200);
    for name in ["Ada K.", "Ada L.", "Ada M.", "Ada N.", "Ada O."] {
        let changed = json!({"full_name": name});
        api.patch("/api/v1/auth/me").bearer(&again.access).json(changed).send().await.is(200);
    }
    api.me(&ada.access).await.is(200);
    running.database.settled().await;

    // What is read: no table knows of it, and the history has it as what it is.
    assert_eq!(roles(pool, &ada.user_id).await, ["user"]);
    let shown =
        "SELECT count(*) FROM ledger.audit_history_v3 WHERE event_type = 'EventNotAuthentic'";
    assert_eq!(sqlx::query_scalar::<_, i64>(shown).fetch_one(pool).await.unwrap(), forged);
    let admin = api.admin().await;
    let asked = "/api/v1/audit?type=EventNotAuthentic&limit=200";
    let lines = api.get(asked).bearer(&admin.access).send().await.is(200).json();
    let lines = lines["lines"].as_array().unwrap();
    assert_eq!(lines.len(), forged as usize, "{lines:#?}");
    assert!(lines.iter().any(|line| line["outcome"] == "UserRoleGranted"), "{lines:#?}");
    let state = format!("/api/v1/audit/state?user={}", ada.user_id);
    let state = api.get(&state).bearer(&admin.access).send().await;
    assert_ne!(state.status, 500, "{state:?}");

    // Who looks hears of it.
    let ready = eventually("/readyz tells", async || {
        let report = api.get("/readyz").send().await.is(200).json();
        let checks = report["checks"].as_array().unwrap().clone();
        checks.into_iter().find(|check| check["name"] == "events" && check["state"] == "warning")
    })
    .await;
    let detail = ready["detail"].as_str().unwrap();
    assert!(detail.starts_with("13 events were not written by the service"), "{detail}");
    assert!(!detail.contains(&ada.user_id), "{detail}");
    let (_, doctor) = run(&running.setup, &["doctor", "--json"]).await;
    assert!(doctor.contains("13 were not written by the service"), "{doctor}");
    assert!(
        doctor.contains(&format!("User {} number 2, UserRoleGranted", ada.user_id)),
        "{doctor}"
    );
    let (code, verified) = run(&running.setup, &["audit", "verify", "--json"]).await;
    assert_eq!(code, 6, "{verified}");
    assert_eq!(verified.matches("\"not_authentic\"").count(), 13, "{verified}");
    assert!(verified.contains("it claims to be UserErased"), "{verified}");
    // Not `journal`: its check of the order within streams knows no codes, and counts forged numbers as damage.
    let folds = ["projections", "verify", "users", "sessions", "audit_history", "identifiers"];
    let (code, folded) = run(&running.setup, &folds).await;
    assert_eq!(code, 0, "{folded}");
    let (code, whole) = run(&running.setup, &["audit", "replay", "ada"]).await;
    assert_eq!(code, 0, "{whole}");
    api.sign_in_with("ada", &password_of("ada")).await;
}

#[tokio::test]
async fn a_new_process_loads_and_appends_to_a_stream_in_which_somebody_took_numbers() {
    let master = MasterKey::parse(&"0123456789abcdef".repeat(4)).unwrap();
    let desk = Desk::open_on(TestDatabase::authenticated().await, master).await;
    let ada = desk.register("ada").await;
    let id = ada.account.id.to_string();
    let mut taken = 2;
    // Whatever is taken before each append, in runs and with gaps, the account goes on, past snapshots too.
    for round in 0..40 {
        for _ in 0..round % 3 {
            forge(&desk.pool, ("User", &id), taken, "UserDisabled", json!({})).await;
            taken += 1;
        }
        if round % 5 == 4 {
            forge(&desk.pool, ("User", &id), taken + 1, "UserErased", json!({})).await;
        }
        desk.book.end_other_sessions(ada.account.id, ada.kept(), &desk.origin()).await.unwrap();
        taken = sqlx::query_scalar("SELECT max(sequence) + 1 FROM events WHERE aggregate_id = $1")
            .bind(&id)
            .fetch_one(&desk.pool)
            .await
            .unwrap();
    }
    let user = desk.book.user(ada.account.id).await.unwrap();
    assert!(!user.disabled && !user.erased, "{user:?}");
    assert!(user.version > 1, "{user:?}");
    desk.book.refresh(ada.refresh.expose(), &desk.origin()).await.unwrap();
    assert!(desk.book.register(account("ada"), false, &desk.origin()).await.is_err());
}

#[tokio::test]
async fn the_boundary_is_signed_once_and_a_moved_one_stops_the_start() {
    let database = TestDatabase::authenticated().await;
    let master = || MasterKey::parse(&"0123456789abcdef".repeat(4)).unwrap();
    let desk = Desk::open_on(database, master()).await;
    desk.register("ada").await;
    for attempt in [
        "UPDATE event_authentication SET last_without_mac = 1000000",
        "UPDATE event_authentication SET mac = 'x'",
        "DELETE FROM event_authentication",
        "INSERT INTO event_authentication (last_without_mac) VALUES (1000000)",
    ] {
        sqlx::raw_sql(attempt).execute(&desk.pool).await.unwrap_err();
    }
    let mut owner = PgConnection::connect(&desk.url()).await.unwrap();
    for moved in ["last_without_mac = 1000000", "last_without_mac = 1000000, mac = NULL"] {
        let statement = format!(
            "ALTER TABLE event_authentication DISABLE TRIGGER signed_once;
             UPDATE event_authentication SET {moved};
             ALTER TABLE event_authentication ENABLE ALWAYS TRIGGER signed_once"
        );
        sqlx::raw_sql(&statement).execute(&mut owner).await.unwrap();
        let entropy = std::sync::Arc::new(commands::clock::SystemEntropy);
        let refused = commands::keyring::Keyring::load(desk.pool.clone(), master(), entropy).await;
        let told = refused.unwrap_err().to_string();
        assert!(told.starts_with("the row of event_authentication was changed"), "{told}");
    }
    owner.close().await.unwrap();
}

/// Whoever could retire the keys that sign would have every token refused.
#[tokio::test]
async fn a_retirement_that_somebody_else_wrote_retires_no_key() {
    let master = MasterKey::parse(&"0123456789abcdef".repeat(4)).unwrap();
    let desk = Desk::open_on(TestDatabase::authenticated().await, master).await;
    let tokens = desk.book.tokens();
    tokens.refresh_keys().await.unwrap();
    let kid = tokens.signing_keys().await.unwrap()[0].kid.clone();
    let body = json!({"kid": kid});
    forge(&desk.pool, ("Service", &format!("signing_key:{kid}")), 1, "SigningKeyRetired", body)
        .await;
    tokens.refresh_keys().await.unwrap();
    let keys = tokens.signing_keys().await.unwrap();
    assert!(keys.iter().any(|key| key.kid == kid && key.is_accepted && !key.is_retired));
    // Its owner still can.
    let which = commands::Which::Only([kid.clone()].into());
    desk.book.retire_signing_keys(&which, &desk.origin()).await.unwrap();
    let keys = tokens.signing_keys().await.unwrap();
    assert!(keys.iter().any(|key| key.kid == kid && !key.is_accepted && key.is_retired));
}

/// Whoever could make the book look as if it had an account would leave it without an admin.
#[tokio::test(flavor = "multi_thread")]
async fn a_forged_account_does_not_keep_the_first_admin_from_being_made() {
    let (database, scratch) = (TestDatabase::authenticated().await, scratch());
    let setup = Setup::on(&database.url(), &scratch.path().join("data"));
    // A verb that makes the service's keys, and no account.
    for verb in [&["migrate"][..], &["admin", "list"]] {
        let (code, told) = run(&setup, verb).await;
        assert_eq!(code, 0, "{told}");
    }
    let by = attacker(&database).await;
    let user = ("User", "01890000-0000-7000-8000-00000000000b");
    for sequence in 1..=250 {
        forge(&by, user, sequence, "UserRoleGranted", json!({"role": "admin"})).await;
    }
    let server = setup.start().await;
    let admin = server.admin().await;
    assert_ne!(admin.user_id, user.1);
    // Once, also where it starts again.
    assert!(server.stop().await.success());
    let server = setup.start().await;
    server.admin().await;
    let made = "SELECT count(*) FROM events WHERE event_type = 'UserRegistered'";
    let made: i64 = sqlx::query_scalar(made).fetch_one(database.pool()).await.unwrap();
    assert_eq!(made, 1);
    assert!(server.stop().await.success());
}

/// Whoever may add events may add many, and `/readyz` is asked every few seconds.
#[tokio::test(flavor = "multi_thread")]
async fn of_very_many_forged_events_no_more_are_counted_than_tell() {
    let running = Running::start_on(TestDatabase::authenticated().await, &[]).await;
    let by = attacker(&running.database).await;
    sqlx::query(
        r#"INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
           SELECT 'User', '01890000-0000-7000-8000-00000000000b', n, 'UserDisabled', '1', '{"UserDisabled": {}}',
                  '{"actor": "system", "request_id": "x", "at": "2026-01-01T00:00:00.000000Z"}'
             FROM generate_series(1, 1500) AS n"#,
    )
    .execute(&by)
    .await
    .unwrap();
    let api = running.api();
    let detail = eventually("/readyz tells", async || {
        let report = api.get("/readyz").send().await.is(200).json();
        let checks = report["checks"].as_array().unwrap().clone();
        let check = checks.into_iter().find(|check| check["name"] == "events")?;
        let detail = check["detail"].as_str()?.to_owned();
        detail.starts_with("at least").then_some(detail)
    })
    .await;
    assert!(detail.starts_with("at least 1000 events were not written by the service"), "{detail}");
    let (_, doctor) = run(&running.setup, &["doctor"]).await;
    assert!(doctor.contains("at least 1000 were not written by the service"), "{doctor}");
    // A verification counts them all.
    running.database.settled().await;
    let (code, verified) = run(&running.setup, &["audit", "verify", "--json"]).await;
    assert_eq!(code, 6, "{verified}");
    assert!(verified.contains("\"in_all\": 1500"), "{verified}");
}

/// What a verification of the database trusts where no key is given.
#[tokio::test(flavor = "multi_thread")]
async fn a_forged_line_names_no_key_of_the_log() {
    let running = Running::start_on(TestDatabase::authenticated().await, &[]).await;
    running.api().register("ada").await;
    let by = attacker(&running.database).await;
    let forger = ::proof::NoteSigner::from_seed("another.example/log", &[9; 32]).unwrap();
    let key = forger.verifier_key();
    let begun = json!({"origin": "another.example/log", "key": key});
    forge(&by, ("Service", "log"), 1_000, "LogBegun", begun.clone()).await;
    forge(&by, ("Service", "log"), 1_001, "LogKeyAdded", begun).await;
    running.database.settled().await;
    let output = running.setup.command(&["audit", "verify", "--json"]).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let keys = report["keys"].as_array().unwrap();
    assert!(!keys.is_empty() && !keys.contains(&key.into()), "{report:#}");
    assert_eq!(report["integrity"]["in_all"], 2, "{report:#}");
    // Without the master key nobody can tell, and it says that it was not looked at.
    let stranger = running.setup.clone().with("ENTRYBOOK_MASTER_KEY_FILE", "/nowhere");
    let output = stranger.command(&["audit", "verify"]).env_remove("ENTRYBOOK_MASTER_KEY").output();
    let words = String::from_utf8(output.unwrap().stdout).unwrap();
    assert!(words.contains("Whether the service wrote each event was not checked"), "{words}");
}

/// Whoever verifies need not be let in to write.
#[tokio::test(flavor = "multi_thread")]
async fn a_verification_writes_nothing_and_needs_to_read_alone() {
    let running = Running::start_on(TestDatabase::authenticated().await, &[]).await;
    running.api().register("ada").await;
    crate::log::client::all_is_signed(&running.api(), running.database.pool()).await;
    let setup = running.setup.clone();
    let (database, _scratch) = running.stop().await;
    let name = format!("entrybook_test_reader_{}", std::process::id());
    let statements = format!(
        "CREATE ROLE {name} LOGIN PASSWORD 'plain';
         GRANT pg_read_all_data TO {name};
         ALTER TABLE event_authentication DISABLE TRIGGER signed_once;
         UPDATE event_authentication SET mac = NULL;
         ALTER TABLE event_authentication ENABLE ALWAYS TRIGGER signed_once"
    );
    sqlx::raw_sql(&statements).execute(database.pool()).await.unwrap();
    let login = database.connect_options().username(&name).password("plain");
    let reader = Setup { database_url: Some(login.to_url_lossy().to_string()), ..setup.clone() };
    let unsigned = "SELECT mac IS NULL FROM event_authentication";
    for setup in [&reader, &setup] {
        let (code, told) = run(setup, &["audit", "verify"]).await;
        // It may have stopped before the last line was signed.
        assert!([0, 7].contains(&code), "{told}");
        assert!(told.starts_with("integrity: sound"), "{told}");
        assert!(told.contains("nothing is signed yet of where codes begin"), "{told}");
        let unsigned: bool = sqlx::query_scalar(unsigned).fetch_one(database.pool()).await.unwrap();
        assert!(unsigned, "it was signed by who only looks");
    }
    let dropped = format!("DROP OWNED BY {name}; DROP ROLE {name}");
    sqlx::raw_sql(&dropped).execute(database.pool()).await.unwrap();
}
