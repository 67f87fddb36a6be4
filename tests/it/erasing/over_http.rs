use ::proof::ErasureReceipt;
use serde_json::{Value, json};
use sqlx::Connection;

use super::{count, dumped, found};
use crate::{
    log::client::{FAST, all_is_signed, keys},
    support::{
        database::TestDatabase,
        http::{Answer, Api, email_of, password_of},
        scratch,
        server::{Server, Setup, Tokens, eventually},
        shared::Running,
    },
};

async fn erase(api: &Api, admin: &Tokens, id: &str, body: Value) -> Answer {
    api.post(&format!("/api/v1/admin/users/{id}/erase"))
        .bearer(&admin.access)
        .json(body)
        .send()
        .await
}

async fn erasure(api: &Api, admin: &Tokens, id: &str) -> Answer {
    api.get(&format!("/api/v1/admin/users/{id}/erasure")).bearer(&admin.access).send().await
}

async fn receipt(api: &Api, admin: &Tokens, id: &str) -> ErasureReceipt {
    let receipt = eventually("there is a receipt", async || {
        let body = erasure(api, admin, id).await.is(200).json();
        (!body["receipt"].is_null()).then(|| body["receipt"].clone())
    })
    .await;
    serde_json::from_value(receipt).unwrap()
}

async fn user(api: &Api, admin: &Tokens, id: &str) -> Answer {
    api.get(&format!("/api/v1/admin/users/{id}")).bearer(&admin.access).send().await
}

#[tokio::test]
async fn an_admin_erases_a_person_and_has_a_receipt_that_others_can_check() {
    let running = Running::start(&FAST).await;
    let api = running.api();
    let (ada, admin) = (api.register("ada").await, api.admin().await);
    let again = api.sign_in("ada").await;
    let id = ada.user_id.as_str();

    // Nobody but an admin, nobody by mistake.
    let order = || json!({"username": "ada"});
    erase(&api, &ada, id, order()).await.problem(403, "forbidden");
    erasure(&api, &ada, id).await.problem(403, "forbidden");
    for wrong in ["", "adam", "Ada", "ada@example.org"] {
        erase(&api, &admin, id, json!({"username": wrong})).await.refuses(&["username"]);
    }
    erase(&api, &admin, id, json!({})).await.problem(422, "invalid-input");
    erase(&api, &admin, id, json!({"username": "ada", "yes": true}))
        .await
        .problem(422, "invalid-input");
    let nobody = "01890000-0000-7000-8000-000000000000";
    erase(&api, &admin, nobody, order()).await.problem(404, "not-found");
    erasure(&api, &admin, nobody).await.problem(404, "not-found");
    erasure(&api, &admin, id).await.problem(404, "not-found");
    api.me(&ada.access).await.is(200);

    let done = erase(&api, &admin, id, order()).await.is(200).json();
    assert_eq!(done["user_id"], id);
    // At once: the sessions, the sign-in, the names.
    for tokens in [&ada, &again] {
        api.me(&tokens.access).await.problem(401, "invalid-token");
        api.refresh(&tokens.refresh).await.problem(401, "session-ended");
    }
    api.try_sign_in("ada", &password_of("ada")).await.problem(401, "wrong-credentials");
    let next = api.register("ada").await;
    assert_ne!(next.user_id, ada.user_id);
    let erased = user(&api, &admin, id).await.is(200).json();
    assert_eq!(
        (&erased["erased"], &erased["username"], &erased["email"], &erased["roles"]),
        (&json!(true), &json!(""), &json!(""), &json!([]))
    );
    for action in ["disable", "enable"] {
        let path = format!("/api/v1/admin/users/{id}/{action}");
        api.post(&path).bearer(&admin.access).send().await.problem(404, "not-found");
    }

    // The receipt, checked with the log's key alone.
    let receipt = receipt(&api, &admin, id).await;
    let keys = keys(&api).await;
    let proved = receipt.verify(&keys).unwrap();
    let stands = erasure(&api, &admin, id).await.is(200).json();
    assert_eq!((proved.user.as_str(), json!(proved.position)), (id, stands["position"].clone()));
    let other = ErasureReceipt { note: receipt.note.replace(id, &next.user_id), ..receipt.clone() };
    other.verify(&keys).unwrap_err();
    // The history keeps its lines, and says of whom no more.
    let history = eventually("the ends of both sessions are told", async || {
        let path = format!("/api/v1/audit?user={id}&order=oldest&limit=100");
        let page = api.get(&path).bearer(&admin.access).send().await.is(200).json();
        let lines = page["lines"].as_array().unwrap().clone();
        let ends = lines.iter().filter(|line| line["outcome"] == "account_erased").count();
        (ends == 2).then_some(lines)
    })
    .await;
    for line in &history {
        assert_eq!(line["person"]["id"], id);
        assert!(line["person"]["label"].is_null(), "{line}");
        let hers = line["actor"]["id"] == id;
        assert!(!hers || line["address"].is_null(), "{line}");
    }
    let line = history.iter().find(|line| line["type"] == "UserErased").unwrap();
    assert_eq!(line["actor"]["label"], "admin");
    assert!(line["address"].is_string(), "the admin's own: {line}");
    // Asking again changes nothing.
    let events = running.events().await;
    let again = erase(&api, &admin, id, json!({"username": "whatever"})).await.is(200).json();
    assert_eq!(again["position"], stands["position"]);
    assert_eq!(running.events().await, events);

    all_is_signed(&api, running.database.pool()).await;
    let verified = running.setup.command(&["audit", "verify"]).output().unwrap();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
}

#[tokio::test]
async fn one_admin_always_remains_and_nobody_erases_themselves_by_mistake() {
    let running = Running::start(&FAST).await;
    let api = running.api();
    let admin = api.admin().await;
    let own = admin.user_id.as_str();
    let myself = || json!({"username": "admin", "myself": true});
    erase(&api, &admin, own, json!({"username": "admin"})).await.problem(409, "not-yourself");
    erase(&api, &admin, own, myself()).await.problem(409, "last-admin");
    // Who is no admin, or may not sign in, doesn't count.
    let (ben, eve) = (api.register("ben").await, api.register("eve").await);
    let grant = async |id: &str| {
        let path = format!("/api/v1/admin/users/{id}/roles");
        api.post(&path)
            .bearer(&admin.access)
            .json(json!({"grant": ["admin"]}))
            .send()
            .await
            .is(200);
    };
    grant(&ben.user_id).await;
    let disable = format!("/api/v1/admin/users/{}/disable", ben.user_id);
    api.post(&disable).bearer(&admin.access).send().await.is(200);
    erase(&api, &admin, own, myself()).await.problem(409, "last-admin");

    // Two admins who erase each other at once: one of them remains.
    grant(&eve.user_id).await;
    let eve = api.sign_in("eve").await;
    let admins = async || {
        let list = api.get("/api/v1/admin/users").bearer(&eve.access).send().await.is(200).json();
        let users = list["users"].as_array().unwrap().clone();
        users.iter().filter(|user| user["roles"].to_string().contains("admin")).count()
    };
    eventually("the list shows all three", async || (admins().await == 3).then_some(())).await;
    let (one, other) = tokio::join!(
        erase(&api, &admin, &eve.user_id, json!({"username": "eve"})),
        erase(&api, &eve, own, json!({"username": "admin"})),
    );
    let done = [&one, &other].iter().filter(|answer| answer.status == 200).count();
    assert_eq!(done, 1, "{} {}", one.text(), other.text());
    let (last, name) = if one.status == 200 { (&admin, "admin") } else { (&eve, "eve") };
    erase(&api, last, &last.user_id, json!({"username": name, "myself": true}))
        .await
        .problem(409, "last-admin");
    api.me(&last.access).await.is(200);
}

/// A server that is killed between the event and whatever else there is to do, and one that finds an
/// event that another program has written.
#[tokio::test]
async fn a_server_finishes_what_was_broken_off() {
    let running = Running::start(&FAST).await;
    let api = running.api();
    let ada = api.register("ada").await;
    let mut owner =
        sqlx::PgConnection::connect_with(&running.database.connect_options()).await.unwrap();
    sqlx::query(
        r#"INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
           VALUES ('User', $1, 2, 'UserErased', '1', '{"UserErased": {}}',
                   '{"actor": "system", "request_id": "x", "at": "2026-01-01T00:00:00.000000Z"}')"#,
    )
    .bind(&ada.user_id)
    .execute(&mut owner)
    .await
    .unwrap();
    let pool = running.database.pool();
    let key = format!("SELECT count(*) FROM sealing_keys WHERE id = 'p:{}'", ada.user_id);
    eventually("her key is destroyed", async || (count(pool, &key).await == 0).then_some(())).await;
    let names = format!("SELECT count(*) FROM identifiers WHERE user_id = '{}'", ada.user_id);
    assert_eq!(count(pool, &names).await, 0);
    eventually("her session is told to have ended", async || {
        let ended = "SELECT count(*) FROM events WHERE payload #>> '{SessionEnded,reason}' = 'account_erased'";
        (count(pool, ended).await == 1).then_some(())
    })
    .await;
    api.me(&ada.access).await.problem(401, "invalid-token");
    api.register("ada").await;
    owner.close().await.unwrap();
}

/// An account that can't be folded, of whom the book says that they are erased.
#[tokio::test]
async fn what_can_not_be_finished_holds_nobody_up() {
    let running = Running::start(&FAST).await;
    let (api, pool) = (running.api(), running.database.pool());
    let (ada, ben, admin) =
        (api.register("ada").await, api.register("ben").await, api.admin().await);
    // Its second event is missing.
    sqlx::query(
        r#"INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
           VALUES ('User', $1, 3, 'UserErased', '1', '{"UserErased": {}}',
                   '{"actor": "system", "request_id": "x", "at": "2026-01-01T00:00:00.000000Z"}')"#,
    )
    .bind(&ada.user_id)
    .execute(pool)
    .await
    .unwrap();
    erase(&api, &admin, &ben.user_id, json!({"username": "ben"})).await.is(200);
    eventually("both sessions are told to have ended", async || {
        let ended = "SELECT count(*) FROM events WHERE payload #>> '{SessionEnded,reason}' = 'account_erased'";
        (count(pool, ended).await == 2).then_some(())
    })
    .await;
}

/// Whoever follows the history on the command line is a process of its own, with names of its own.
#[tokio::test]
async fn who_follows_the_history_is_told_no_name_after_the_erasure() {
    let running = Running::start(&FAST).await;
    let (api, admin) = (running.api(), running.api().admin().await);
    let ada = api.register("ada").await;
    let place = scratch();
    let out = place.path().join("followed");
    let mut following = running
        .setup
        .command(&["audit", "tail", "--follow", "--json", "--user", &ada.user_id])
        .stdout(std::fs::File::create(&out).unwrap())
        .spawn()
        .unwrap();
    let lines = || -> Vec<Value> {
        let text = std::fs::read_to_string(&out).unwrap();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    let label = |event_type: &str| {
        let lines = lines();
        let line = lines.iter().rev().find(|line| line["type"] == event_type)?;
        Some(line["person"]["label"].clone())
    };
    eventually("her sign-in is told, with her name", async || {
        (label("SessionStarted")? == "ada").then_some(())
    })
    .await;
    erase(&api, &admin, &ada.user_id, json!({"username": "ada"})).await.is(200);
    let ended = eventually("the end of her session is told", async || label("SessionEnded")).await;
    assert_eq!(ended, Value::Null, "{:?}", lines());
    assert_eq!(label("UserErased"), Some(Value::Null));
    following.kill().unwrap();
    following.wait().unwrap();
}

/// An admin is found, an erasure done and its receipt made without any read table.
#[tokio::test]
async fn people_are_erased_where_projections_are_stopped() {
    let running = Running::start(&FAST).await;
    let (api, pool) = (running.api(), running.database.pool());
    let (ada, ben, admin) =
        (api.register("ada").await, api.register("ben").await, api.admin().await);
    let grant = format!("/api/v1/admin/users/{}/roles", ben.user_id);
    let grant = api.post(&grant).bearer(&admin.access).json(json!({"grant": ["admin"]}));
    grant.send().await.is(200);
    // What no program can read stops whatever is made of accounts.
    sqlx::query(
        r#"INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
           VALUES ('User', '01890000-0000-7000-8000-000000000000', 1, 'UserEnabled', '1', '"nonsense"',
                   '{"actor": "system", "request_id": "x", "at": "2026-01-01T00:00:00.000000Z"}')"#,
    )
    .execute(pool)
    .await
    .unwrap();
    eventually("they are stopped", async || {
        let stopped = "SELECT count(*) FROM projections WHERE state = 'stopped' AND name = 'users'";
        (count(pool, stopped).await == 1).then_some(())
    })
    .await;
    let run = async |arguments: &[&str]| {
        let mut command = running.setup.command(arguments);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    let (code, _, said) = run(&["users", "erase", "ada", "--yes"]).await;
    assert_eq!(code, 0, "{said}");
    // The list knows Ben as no admin yet, and the book does.
    let (code, _, said) = run(&["users", "erase", "admin", "--yes"]).await;
    assert_eq!(code, 0, "{said}");
    let (code, _, said) = run(&["users", "erase", "ben", "--yes"]).await;
    assert_eq!((code, said.contains("Make one first")), (4, true), "{said}");
    for erased in [&ada.user_id, &admin.user_id] {
        let (code, receipt, said) = run(&["users", "receipt", erased]).await;
        assert_eq!(code, 0, "{said}");
        let receipt: ErasureReceipt = serde_json::from_str(&receipt).unwrap();
        assert_eq!(&receipt.verify(&keys(&api).await).unwrap().user, erased);
    }
}

/// One replica has just used her key when the other destroys it.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_remembers_a_key_forgets_it() {
    let database = TestDatabase::create().await;
    let scratch = scratch();
    let one =
        Setup::on(&database.url(), &scratch.path().join("one")).known_as("http://localhost:8080");
    let two = Setup { data_dir: scratch.path().join("two"), ..one.replica() };
    let (first, second) = tokio::join!(one.start(), two.start());
    let ada = first.register("ada").await;
    let admin = first.admin().await;
    let address_on = async |server: &Server| {
        let path = format!("/api/v1/audit?user={}&type=UserRegistered", ada.user_id);
        let page = server.get(&path, &admin.access).await.unwrap();
        let page: Value = page.json().await.unwrap();
        page["lines"].as_array()?.first().map(|line| line["address"].is_string())
    };
    for server in [&first, &second] {
        eventually("her address is shown", async || {
            (address_on(server).await == Some(true)).then_some(())
        })
        .await;
    }
    let body = json!({"username": "ada"});
    let path = format!("/api/v1/admin/users/{}/erase", ada.user_id);
    let done = first.http.post(first.url(&path)).bearer_auth(&admin.access).json(&body);
    assert_eq!(done.send().await.unwrap().status(), 200);
    assert_eq!(address_on(&first).await, Some(false), "at once on the same");
    let began = std::time::Instant::now();
    eventually("the other replica shows it no more", async || {
        (address_on(&second).await == Some(false)).then_some(())
    })
    .await;
    println!("forgotten by the other replica after {:?}", began.elapsed());
    eventually("and her session is known to have ended there", async || {
        let me = second.get("/api/v1/auth/me", &ada.access).await.unwrap();
        (me.status() == 401).then_some(())
    })
    .await;
}

/// The same from the command line, beside a server, and the receipt checked with no database.
#[tokio::test]
async fn the_command_line_erases_and_checks_receipts() {
    let running = Running::start(&FAST).await;
    let (api, setup) = (running.api(), &running.setup);
    let ada = api.register("ada").await;
    let run = async |arguments: &[&str]| {
        let mut command = setup.command(arguments);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    let (code, _, said) = run(&["users", "erase", "ada"]).await;
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("add --yes"), "{said}");
    let (code, _, said) = run(&["users", "erase", "nobody", "--yes"]).await;
    assert_eq!((code, said.contains("no account")), (4, true), "{said}");
    let (code, _, said) = run(&["users", "erase", "admin", "--yes"]).await;
    assert_eq!((code, said.contains("Make one first")), (4, true), "{said}");
    let (code, _, said) = run(&["users", "receipt", &ada.user_id]).await;
    assert_eq!((code, said.contains("that is erased")), (4, true), "{said}");
    api.me(&ada.access).await.is(200);

    let (code, out, said) = run(&["users", "erase", &email_of("ada"), "--yes", "--json"]).await;
    assert_eq!(code, 0, "{said}");
    let out: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(out, json!({"id": ada.user_id, "erased": true}));
    eventually("her token is refused", async || {
        (api.me(&ada.access).await.status == 401).then_some(())
    })
    .await;
    let (code, out, _) = run(&["users", "erase", &ada.user_id, "--yes"]).await;
    assert_eq!((code, out.contains("erased before")), (0, true), "{out}");

    let (code, receipt, said) = run(&["users", "receipt", &ada.user_id]).await;
    assert_eq!(code, 0, "{said}");
    let place = scratch();
    let file = place.path().join("receipt.json");
    std::fs::write(&file, &receipt).unwrap();
    let file = file.to_str().unwrap();
    let key = keys(&api).await.remove(0);
    // As anybody would, elsewhere.
    let check = async |file: &str, key: &str| {
        let mut command = setup.command(&["users", "check-receipt", file, "--key", key]);
        command.env("DATABASE_URL", "postgres://nobody@localhost:1/none");
        let output = command.output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, out) = check(file, &key).await;
    assert_eq!((code, out.contains(&ada.user_id)), (0, true), "{out}");
    let kept = place.path().join("log.keys");
    std::fs::write(&kept, format!("# kept since the first day\n{key}\n")).unwrap();
    assert_eq!(check(file, kept.to_str().unwrap()).await.0, 0);
    assert_eq!(check(file, "no key").await.0, 2);
    std::fs::write(file, receipt.replace(&ada.user_id, "01890000-0000-7000-8000-000000000000"))
        .unwrap();
    assert_eq!(check(file, &key).await.0, 6);
    std::fs::write(file, "{}").unwrap();
    assert_eq!(check(file, &key).await.0, 2);

    let dump = dumped(&running.database.url()).await;
    assert_eq!(found(&dump, &[&email_of("ada"), &password_of("ada")]), [""; 0]);
    assert_eq!(found(&dump, &[&ada.user_id]).len(), 1);
}
