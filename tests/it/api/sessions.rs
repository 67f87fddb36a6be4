//! A person's own sessions: listed, ended one by one, or all but this.

use serde_json::Value;

use crate::support::{
    http::Api,
    server::Tokens,
    shared::{Running, unique},
};

async fn list(api: &Api, tokens: &Tokens) -> Vec<Value> {
    let body = api.get("/api/v1/sessions").bearer(&tokens.access).send().await.is(200).json();
    body["sessions"].as_array().unwrap_or_else(|| panic!("{body}")).clone()
}

fn ids(sessions: &[Value]) -> Vec<&str> {
    let mut ids: Vec<_> = sessions.iter().map(|session| session["id"].as_str().unwrap()).collect();
    ids.sort_unstable();
    ids
}

fn sorted(mut ids: Vec<&str>) -> Vec<&str> {
    ids.sort_unstable();
    ids
}

#[tokio::test]
async fn each_device_is_a_line_with_its_first_and_last_sight() {
    let running = Running::shared().await;
    let api = running.api();
    let name = unique("ada");
    let first = api.register(&name).await;
    let body = serde_json::json!({"identifier": name, "password": crate::support::http::password_of(&name)});
    let phone = "Mozilla/5.0 (Linux; Android 15) Firefox/140.0";
    let second = api
        .post("/api/v1/auth/login")
        .header("user-agent", phone)
        .json(body)
        .send()
        .await
        .tokens(200);

    running.database.settled().await;
    let sessions = list(&api, &first).await;
    assert_eq!(ids(&sessions), sorted(vec![&first.session_id, &second.session_id]));
    for session in &sessions {
        assert_eq!(session["current"], session["id"] == first.session_id.as_str(), "{session}");
        assert_eq!(session["address"], "127.0.0.1", "{session}");
        let (seen, last) =
            (session["first_seen"].as_str().unwrap(), session["last_seen"].as_str().unwrap());
        assert!(seen <= last && last < session["expires_at"].as_str().unwrap(), "{session}");
    }
    let other =
        sessions.iter().find(|session| session["id"] == second.session_id.as_str()).unwrap();
    assert_eq!(other["user_agent"], phone);
}

#[tokio::test]
async fn one_session_is_ended_from_another() {
    let running = Running::shared().await;
    let api = running.api();
    let name = unique("ada");
    let (here, there) = (api.register(&name).await, api.sign_in(&name).await);
    let path = format!("/api/v1/sessions/{}", there.session_id);
    assert!(api.delete(&path).bearer(&here.access).send().await.is(204).body.is_empty());
    api.me(&there.access).await.problem(401, "invalid-token");
    api.refresh(&there.refresh).await.problem(401, "session-ended");
    running.database.settled().await;
    assert_eq!(ids(&list(&api, &here).await), [&here.session_id]);
    // It is gone, and ending it again says so or does nothing; both are fine, an error is not.
    let again = api.delete(&path).bearer(&here.access).send().await.status;
    assert!(matches!(again, 204 | 404), "{again}");
}

#[tokio::test]
async fn all_others_are_ended_and_this_one_stays() {
    let running = Running::shared().await;
    let api = running.api();
    let name = unique("ada");
    let here = api.register(&name).await;
    let mut others = Vec::new();
    for _ in 0..3 {
        others.push(api.sign_in(&name).await);
    }
    running.database.settled().await;
    let ended = api.delete("/api/v1/sessions").bearer(&here.access).send().await;
    assert!(ended.status < 300, "{}", ended.text());
    for other in &others {
        api.me(&other.access).await.problem(401, "invalid-token");
        api.refresh(&other.refresh).await.problem(401, "session-ended");
    }
    api.me(&here.access).await.is(200);
    running.database.settled().await;
    assert_eq!(ids(&list(&api, &here).await), [&here.session_id]);
}

/// Somebody else's session, one that never was, and what is no id at all: told apart by nobody.
#[tokio::test]
async fn nobody_ends_the_session_of_another() {
    let running = Running::shared().await;
    let api = running.api();
    let (ada, eve) = (api.register(&unique("ada")).await, api.register(&unique("eve")).await);
    let end = async |id: &str| {
        let answer = api.delete(&format!("/api/v1/sessions/{id}")).bearer(&eve.access).send().await;
        let body = answer.problem(404, "not-found");
        (body["title"].clone(), body["detail"].clone())
    };
    let others = end(&ada.session_id).await;
    assert_eq!(end("01890000-0000-7000-8000-000000000000").await, others);
    assert_eq!(end("not-an-id").await, others);
    assert_eq!(end("%2e%2e").await, others);
    assert_eq!(end("%00").await, others);
    assert_eq!(end("%ff").await, others);
    api.me(&ada.access).await.is(200);
    api.refresh(&ada.refresh).await.is(200);
    api.get("/api/v1/sessions").send().await.problem(401, "not-signed-in");
    api.delete("/api/v1/sessions").send().await.problem(401, "not-signed-in");
}
