//! What nobody can confirm of an erased person through Entrybook, however well they guess.

use serde_json::{Value, json};

use super::count;
use crate::support::{
    http::{Api, email_of, password_of},
    server::{Tokens, eventually},
    shared::Running,
};

async fn search(api: &Api, auditor: &Tokens, body: Value) -> Vec<Value> {
    let ask = api.post("/api/v1/audit/search").bearer(&auditor.access);
    let page = ask.json(body.clone()).send().await.is(200).json();
    let lines = page["lines"].as_array().unwrap().clone();
    let counted = page["count"]["lines"].as_u64();
    assert!(body["count"].is_null() || counted == Some(lines.len() as u64), "{page}");
    lines
}

async fn erase(api: &Api, admin: &Tokens, id: &str, username: &str) {
    let ask = api.post(&format!("/api/v1/admin/users/{id}/erase")).bearer(&admin.access);
    ask.json(json!({"username": username})).send().await.is(200);
}

/// An auditor reads their own searches in the clear, and the lines of others with their keyed hashes.
#[tokio::test]
async fn who_asks_for_a_name_reads_no_hash_of_it_that_an_account_has() {
    let running = Running::start(&[]).await;
    let (api, pool) = (running.api(), running.database.pool());
    let (ada, admin) = (api.register("ada").await, api.admin().await);
    erase(&api, &admin, &ada.user_id, "ada").await;
    running.database.settled().await;
    for name in [email_of("ada"), "ada".to_owned()] {
        let ask = api.post("/api/v1/audit/holders").bearer(&admin.access);
        ask.json(json!({"identifier": name})).send().await.is(200);
    }
    let run = running.setup.command(&["audit", "tail", "--user", "ada"]).output().unwrap();
    assert!(!run.status.success(), "nobody is called that now");
    // Two others are called that, one after the other: who asks for the second is told of the first.
    let ben = api.register("ben").await;
    for name in ["ada", "benjamin"] {
        let rename = api.patch("/api/v1/auth/me").bearer(&ben.access);
        let body = json!({"username": name, "current_password": password_of("ben")});
        rename.json(body).send().await.is(200);
    }
    let taken = json!({
        "email": "eve@example.org", "username": "ada", "password": password_of("eve"),
    });
    api.post("/api/v1/auth/register").json(taken).send().await.tokens(201);
    running.database.settled().await;
    let run = running.setup.command(&["audit", "tail", "--user", "ada"]).output().unwrap();
    assert!(run.status.success() && String::from_utf8_lossy(&run.stderr).contains(&ben.user_id));
    // That is what was asked before, and no line of its own.
    running.database.settled().await;

    let hashes = eventually("the searches are in the history", async || {
        let lines = search(&api, &admin, json!({"type": "HistorySearched"})).await;
        let asked = lines.iter().filter_map(|line| line["identifier"].as_str());
        let asked = asked.filter_map(|asked| serde_json::from_str::<Value>(asked).ok());
        let hashes = asked.filter_map(|asked| Some(asked["holders_of"].as_str()?.to_owned()));
        let hashes: Vec<String> = hashes.collect();
        (hashes.len() == 3).then_some(hashes)
    })
    .await;
    for hash in &hashes {
        let payloads = format!("SELECT count(*) FROM events WHERE payload::text LIKE '%{hash}%'");
        assert_eq!(count(pool, &payloads).await, 0, "{hash}");
    }
    // The same is asked for by all who ask for it, and nothing else is.
    let mut different = hashes.clone();
    different.sort();
    different.dedup();
    assert_eq!(different.len(), 2, "{hashes:?}");
    let registered = "SELECT count(*) FROM events WHERE event_type = 'UserRegistered'
         AND length(payload #>> '{UserRegistered,email,index}') = 64";
    assert!(count(pool, registered).await >= 2, "accounts have hashes of that form");
}

/// Whoever guesses a network, and then ever smaller ones, is told of nobody who was erased.
#[tokio::test]
async fn an_erased_person_is_not_found_by_where_they_came_from() {
    let running = Running::start(&[("ENTRYBOOK_TRUSTED_PROXIES", "127.0.0.1")]).await;
    let api = running.api();
    let (ada, admin) = (api.register("ada").await, api.admin().await);
    let sign_in = async |name: &str, address: &str| {
        let body = json!({"identifier": name, "password": password_of(name)});
        let ask = api.post("/api/v1/auth/login").header("x-forwarded-for", address);
        ask.json(body).send().await
    };
    api.register("ben").await;
    sign_in("ada", "203.0.113.7").await.is(200);
    sign_in("ben", "203.0.113.7").await.is(200);
    sign_in("nobody", "203.0.113.7").await.is(401);
    let places = ["203.0.113.7", "203.0.113.0/29", "203.0.113.0/24", "203.0.0.0/16"];
    let by_place = async |place: &str, more: Value| {
        let mut body = json!({"address": place, "count": true});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        search(&api, &admin, body).await
    };
    for place in places {
        eventually("all three are found", async || {
            let found = search(&api, &admin, json!({"address": place})).await;
            (found.len() == 3).then_some(())
        })
        .await;
        assert_eq!(by_place(place, json!({})).await.len(), 3, "{place}");
        assert_eq!(by_place(place, json!({"user": ada.user_id})).await.len(), 1, "{place}");
        assert_eq!(by_place(place, json!({"actor": ada.user_id})).await.len(), 1, "{place}");
    }
    erase(&api, &admin, &ada.user_id, "ada").await;
    for place in places {
        // At once: before any read table has heard of it.
        assert_eq!(
            by_place(place, json!({"user": ada.user_id})).await,
            [Value::Null; 0],
            "{place}"
        );
        assert_eq!(
            by_place(place, json!({"actor": ada.user_id})).await,
            [Value::Null; 0],
            "{place}"
        );
        let left = by_place(place, json!({})).await;
        assert_eq!(left.len(), 2, "Ben's, and nobody's: {left:?}");
        assert!(left.iter().all(|line| line["person"]["id"] != ada.user_id), "{left:?}");
    }
    let hers = search(&api, &admin, json!({"user": ada.user_id})).await;
    assert!(hers.len() >= 2, "the history keeps its lines: {hers:?}");
}
