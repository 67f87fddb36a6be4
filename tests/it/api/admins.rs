//! What admins may do, and that nobody else may.

use serde_json::{Value, json};

use crate::support::{
    http::{Answer, Api, email_of, password_of},
    server::{Tokens, eventually},
    shared::{Running, unique},
};

fn user_path(id: &str, action: &str) -> String {
    format!("/api/v1/admin/users/{id}{action}")
}

async fn change_roles(api: &Api, admin: &Tokens, id: &str, body: Value) -> Answer {
    api.post(&user_path(id, "/roles")).bearer(&admin.access).json(body).send().await
}

#[tokio::test]
async fn nobody_but_an_admin_gets_in() {
    let running = Running::shared().await;
    let api = running.api();
    let (ada, name) = (api.register(&unique("ada")).await, unique("auditor"));
    let admin = api.admin().await;
    let auditor = api.register(&name).await;
    change_roles(&api, &admin, &auditor.user_id, json!({"grant": ["auditor"]})).await.is(200);
    let auditor = api.sign_in(&name).await;
    let events_before =
        api.get(&user_path(&ada.user_id, "")).bearer(&admin.access).send().await.is(200).json();

    let asks = || {
        [
            api.get("/api/v1/admin/users"),
            api.get(&user_path(&ada.user_id, "")),
            api.get(&user_path("01890000-0000-7000-8000-000000000000", "")),
            api.get("/api/v1/admin/projections"),
            api.post(&user_path(&ada.user_id, "/disable")),
            api.post(&user_path(&ada.user_id, "/enable")),
            api.post(&user_path(&ada.user_id, "/roles")).json(json!({"grant": ["admin"]})),
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
    let now =
        api.get(&user_path(&ada.user_id, "")).bearer(&admin.access).send().await.is(200).json();
    assert_eq!(now, events_before);
}

#[tokio::test]
async fn accounts_are_listed_page_by_page_and_found_by_name() {
    let running = Running::shared().await;
    let api = running.api();
    let admin = api.admin().await;
    let names: Vec<String> = (0..5).map(|_| unique("listed")).collect();
    for name in &names {
        api.register(name).await;
    }
    let list = async |query: &str| {
        api.get(&format!("/api/v1/admin/users?{query}"))
            .bearer(&admin.access)
            .send()
            .await
            .is(200)
            .json()
    };
    eventually("all of them are listed, once", async || {
        let (mut found, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = list(&format!("limit=2{cursor}")).await;
            let users = page["users"].as_array().unwrap();
            assert!(users.len() <= 2, "{page}");
            found.extend(users.iter().map(|user| user["username"].as_str().unwrap().to_owned()));
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        let ours: Vec<_> = found.into_iter().filter(|name| names.contains(name)).collect();
        let newest_first: Vec<_> = names.iter().rev().cloned().collect();
        (ours == newest_first).then_some(())
    })
    .await;

    for name in [names[0].clone(), names[0].to_uppercase(), email_of(&names[0])] {
        let page = list(&format!("q={name}")).await;
        assert_eq!(page["users"][0]["username"], names[0].as_str(), "{page}");
        assert_eq!(page["users"][0]["email"], email_of(&names[0]), "{page}");
    }
    assert_eq!(list(&format!("q={}", unique("nobody"))).await["users"], json!([]));
    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("cursor=x", "cursor"),
        ("q=", "q"),
        ("x=1", "x"),
    ] {
        api.get(&format!("/api/v1/admin/users?{query}"))
            .bearer(&admin.access)
            .send()
            .await
            .refuses(&[field]);
    }
}

#[tokio::test]
async fn a_disabled_account_is_out_at_once_and_comes_back_without_its_sessions() {
    let running = Running::shared().await;
    let api = running.api();
    let name = unique("ada");
    let (ada, admin) = (api.register(&name).await, api.admin().await);
    let set = async |action: &str| {
        api.post(&user_path(&ada.user_id, action)).bearer(&admin.access).send().await.is(200).json()
    };
    assert_eq!(set("/disable").await["disabled"], true);
    api.me(&ada.access).await.problem(401, "invalid-token");
    api.get("/api/v1/auth/verify").bearer(&ada.access).send().await.problem(401, "invalid-token");
    api.refresh(&ada.refresh).await.problem(401, "session-ended");
    api.try_sign_in(&name, &password_of(&name)).await.problem(401, "wrong-credentials");
    assert_eq!(set("/disable").await["disabled"], true, "twice is no error");

    assert_eq!(set("/enable").await["disabled"], false);
    assert_eq!(set("/enable").await["disabled"], false);
    api.me(&ada.access).await.problem(401, "invalid-token");
    api.refresh(&ada.refresh).await.is(401);
    let ada = api.sign_in(&name).await;
    let history = format!("/api/v1/audit?user={}&order=oldest", ada.user_id);
    eventually("both are in the history, once", async || {
        let page = api.get(&history).bearer(&admin.access).send().await.is(200).json();
        let lines = page["lines"].as_array().unwrap();
        let count = |kind: &str| lines.iter().filter(|line| line["type"] == kind).count();
        assert!(count("UserDisabled") <= 1 && count("UserEnabled") <= 1, "{page}");
        (count("UserDisabled") == 1 && count("UserEnabled") == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn roles_count_at_once_for_tokens_that_are_out() {
    let running = Running::shared().await;
    let api = running.api();
    let (ben, admin) = (api.register(&unique("ben")).await, api.admin().await);
    api.get("/api/v1/admin/users").bearer(&ben.access).send().await.problem(403, "forbidden");
    let user = change_roles(&api, &admin, &ben.user_id, json!({"grant": ["auditor", "admin"]}))
        .await
        .is(200)
        .json();
    assert_eq!(user["roles"], json!(["user", "auditor", "admin"]));
    api.get("/api/v1/admin/users").bearer(&ben.access).send().await.is(200);
    let user =
        change_roles(&api, &admin, &ben.user_id, json!({"revoke": ["admin"]})).await.is(200).json();
    assert_eq!(user["roles"], json!(["user", "auditor"]));
    api.get("/api/v1/admin/users").bearer(&ben.access).send().await.problem(403, "forbidden");
    // A token that was made while the role was there does not bring it back.
    let refreshed = api.refresh(&ben.refresh).await.tokens(200);
    api.get("/api/v1/admin/users").bearer(&refreshed.access).send().await.problem(403, "forbidden");
}

#[tokio::test]
async fn what_an_admin_can_not_do() {
    let running = Running::shared().await;
    let api = running.api();
    let (ben, admin) = (api.register(&unique("ben")).await, api.admin().await);
    let roles = async |body: Value| change_roles(&api, &admin, &ben.user_id, body).await;
    roles(json!({"revoke": ["user"]})).await.refuses(&["revoke[0]"]);
    roles(json!({"grant": ["auditor"], "revoke": ["auditor"]})).await.refuses(&["revoke"]);
    roles(json!({"grant": ["root"]})).await.refuses(&["grant[0]"]);
    roles(json!({"grant": "admin"})).await.refuses(&["grant"]);
    roles(json!({"grant": ["user", "user", "user", "user"]})).await.refuses(&["grant"]);
    assert_eq!(roles(json!({})).await.is(200).json()["roles"], json!(["user"]));
    assert_eq!(roles(json!({"grant": ["user"]})).await.is(200).json()["roles"], json!(["user"]));

    // One's own account: an admin always remains.
    change_roles(&api, &admin, &admin.user_id, json!({"revoke": ["admin"]}))
        .await
        .problem(409, "not-yourself");
    let disable = api.post(&user_path(&admin.user_id, "/disable")).bearer(&admin.access);
    disable.send().await.problem(409, "not-yourself");
    for id in ["01890000-0000-7000-8000-000000000000", "nobody", "%00"] {
        api.get(&user_path(id, "")).bearer(&admin.access).send().await.problem(404, "not-found");
        for action in ["/disable", "/enable"] {
            api.post(&user_path(id, action))
                .bearer(&admin.access)
                .send()
                .await
                .problem(404, "not-found");
        }
        change_roles(&api, &admin, id, json!({"grant": ["admin"]})).await.problem(404, "not-found");
    }
}

#[tokio::test]
async fn projections_are_shown_with_their_lag() {
    let running = Running::shared().await;
    let api = running.api();
    let admin = api.admin().await;
    // What has been built counts as live a moment later.
    let body = eventually("all are live", async || {
        let ask = api.get("/api/v1/admin/projections").bearer(&admin.access);
        let body = ask.send().await.is(200).json();
        let mut all = body["projections"].as_array().unwrap().iter();
        all.all(|projection| projection["state"] == "live").then_some(body)
    })
    .await;
    let head = body["head"].as_i64().unwrap();
    let projections = body["projections"].as_array().unwrap();
    let names: Vec<_> =
        projections.iter().map(|projection| projection["name"].as_str().unwrap()).collect();
    for name in ["users", "sessions", "audit_history", "transparency"] {
        assert!(names.contains(&name), "{names:?}");
    }
    for projection in projections {
        assert!(projection["version"].as_i64().unwrap() >= 1, "{projection}");
        let (position, lag) =
            (projection["position"].as_i64().unwrap(), projection["lag_events"].as_i64().unwrap());
        assert!(position <= head && lag == head - position, "{projection} of {head}");
        assert!(projection["lag_seconds"].as_f64().unwrap() >= 0.0, "{projection}");
    }
}
