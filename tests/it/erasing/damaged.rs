//! One key or one value that was changed in the database: the rest is shown, and the person can be erased.

use serde_json::{Value, json};

use super::count;
use crate::{
    log::client::{FAST, fast},
    support::{
        database::TestDatabase,
        http::Api,
        scratch,
        server::{Setup, eventually},
        shared::Running,
    },
};

const DAMAGED: &str = "unreadable (damaged)";

#[tokio::test]
async fn damage_hides_nothing_else_and_keeps_nobody_from_being_erased() {
    let (database, scratch) = (TestDatabase::create().await, scratch());
    let setup = fast(Setup::on(&database.url(), &scratch.path().join("data")));
    let pool = database.pool();
    let server = setup.start().await;
    let api = Api::new(server.url(""));
    let (ada, ben, eve) =
        (api.register("ada").await, api.register("ben").await, api.register("eve").await);
    let lines = "SELECT count(*) FROM ledger.audit_history_v3 WHERE event_type = 'SessionStarted'";
    let names = "SELECT count(*) FROM ledger.users_v2";
    eventually("it is in the history", async || {
        (count(pool, lines).await == 3 && count(pool, names).await == 4).then_some(())
    })
    .await;
    server.stop().await;
    // One byte of Ada's key, and one of where Ben's session came from; and what is nothing sealed. No server remembers either.
    for damage in [
        format!(
            "UPDATE sealing_keys SET wrapped = set_byte(wrapped, 30, get_byte(wrapped, 30) # 1)
              WHERE id = 'p:{}'",
            ada.user_id
        ),
        format!(
            "UPDATE ledger.audit_history_v3 SET source = overlay(source PLACING
                    CASE substr(source, 80, 1) WHEN 'A' THEN 'B' ELSE 'A' END FROM 80)
              WHERE user_id = '{}' AND event_type = 'SessionStarted'",
            ben.user_id
        ),
        format!(
            "UPDATE ledger.audit_history_v3 SET source = 'nonsense'
              WHERE user_id = '{}' AND event_type = 'UserRegistered'",
            ben.user_id
        ),
    ] {
        let done = sqlx::query(&damage).execute(pool).await.unwrap();
        assert_eq!(done.rows_affected(), 1, "{damage}");
    }
    let server = setup.start().await;
    let api = Api::new(server.url(""));
    let admin = api.admin().await;
    let get = async |path: &str| api.get(path).bearer(&admin.access).send().await.is(200);

    // A page of the history, with what is damaged named and all else as it was.
    let page = get("/api/v1/audit?type=SessionStarted&order=oldest").await.json();
    let lines = page["lines"].as_array().unwrap();
    let shown: Vec<(&Value, &Value)> =
        lines.iter().map(|line| (&line["person"]["label"], &line["address"])).collect();
    assert_eq!(shown[0], (&json!(DAMAGED), &json!(DAMAGED)), "{page}");
    assert_eq!(shown[1], (&json!("ben"), &json!(DAMAGED)), "{page}");
    assert_eq!(shown[2], (&json!("eve"), &json!("127.0.0.1")), "{page}");
    let page = get(&format!("/api/v1/audit?type=UserRegistered&user={}", ben.user_id)).await.json();
    assert_eq!(page["lines"][0]["address"], DAMAGED, "{page}");
    // The list of accounts, an export, the command line.
    let users = get("/api/v1/admin/users").await.json();
    let of = |id: &str| users["users"].as_array().unwrap().iter().find(|user| user["id"] == id);
    let hers = of(&ada.user_id).unwrap();
    assert_eq!((&hers["username"], &hers["erased"]), (&json!(DAMAGED), &json!(false)));
    assert_eq!(of(&ben.user_id).unwrap()["username"], "ben");
    let csv = get("/api/v1/audit/export?format=csv&type=SessionStarted").await.text();
    assert!(csv.contains(DAMAGED) && csv.contains("ben") && csv.contains("eve"), "{csv}");
    let run = async |arguments: &[&str]| {
        let mut command = setup.command(arguments);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    for verb in [&["audit", "tail"][..], &["admin", "list", "--all"]] {
        let (code, out, said) = run(verb).await;
        assert_eq!(code, 0, "{said}");
        assert!(out.contains(DAMAGED) && out.contains("ben") && out.contains("eve"), "{out}");
    }
    // The log tells it, and of each but once.
    get("/api/v1/audit?type=SessionStarted").await;
    let log = server.log();
    let key = format!("the key p:{} was changed", ada.user_id);
    assert_eq!(log.matches(&key).count(), 1, "{log}");
    assert_eq!(log.matches("was changed, or moved there").count(), 1, "{log}");

    // She is erased by the id, for her name can't be typed by anybody.
    let erase = async |id: &str, name: &str| {
        let ask = api.post(&format!("/api/v1/admin/users/{id}/erase")).bearer(&admin.access);
        ask.json(json!({"username": name})).send().await
    };
    for wrong in ["ada", "", DAMAGED] {
        erase(&ada.user_id, wrong).await.refuses(&["username"]);
    }
    erase(&ben.user_id, &ben.user_id).await.refuses(&["username"]);
    erase(&ada.user_id, &ada.user_id).await.is(200);
    let key = format!("SELECT count(*) FROM sealing_keys WHERE id = 'p:{}'", ada.user_id);
    assert_eq!(count(pool, &key).await, 0);
    let page = get(&format!("/api/v1/audit?user={}", ada.user_id)).await.json();
    assert!(page["lines"].as_array().unwrap().iter().all(|line| line["person"]["label"].is_null()));
    // The same from the command line.
    let damage =
        format!("UPDATE sealing_keys SET wrapped = '\\x00' WHERE id = 'p:{}'", eve.user_id);
    sqlx::query(&damage).execute(pool).await.unwrap();
    let (code, out, said) = run(&["users", "erase", "eve", "--yes"]).await;
    assert_eq!((code, out.contains(&eve.user_id)), (0, true), "{said}");
}

/// The log's key signs nothing of a line that is not the one that was signed.
#[tokio::test]
async fn a_line_that_was_changed_gets_no_receipt() {
    let running = Running::start(&FAST).await;
    let (api, pool) = (running.api(), running.database.pool());
    let (ada, admin) = (api.register("ada").await, api.admin().await);
    let path = format!("/api/v1/admin/users/{}", ada.user_id);
    let erase = api.post(&format!("{path}/erase")).bearer(&admin.access);
    erase.json(json!({"username": "ada"})).send().await.is(200);
    let erasure = format!("{path}/erasure");
    let ask = async || api.get(&erasure).bearer(&admin.access).send().await;
    let receipt = eventually("there is a receipt", async || {
        let body = ask().await.is(200).json();
        (!body["receipt"].is_null()).then(|| body["receipt"].clone())
    })
    .await;
    let change = async |by: &str| {
        let change = format!(
            "ALTER TABLE events DISABLE TRIGGER append_only;
             UPDATE events SET recorded_at = recorded_at + interval '{by}' WHERE event_type = 'UserErased'"
        );
        sqlx::raw_sql(&change).execute(pool).await.unwrap();
    };
    change("1 second").await;
    let refused = running.server.get(&erasure, &admin.access).await.unwrap();
    assert_eq!(refused.status(), 500);
    assert!(!refused.text().await.unwrap().contains("receipt"), "nothing is told of it");
    let log = running.server.log();
    assert!(log.contains("is not the one that was signed"), "{log}");
    change("-1 second").await;
    assert_eq!(ask().await.is(200).json()["receipt"]["event"], receipt["event"]);
}
