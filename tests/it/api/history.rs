//! The history over HTTP: who sees which lines, and that paging loses none.

use serde_json::{Value, json};

use crate::support::{
    http::{Api, email_of, password_of},
    server::{Tokens, eventually},
    shared::{Running, unique},
};

async fn page(api: &Api, tokens: &Tokens, query: &str) -> Value {
    api.get(&format!("/api/v1/audit?{query}")).bearer(&tokens.access).send().await.is(200).json()
}

async fn lines(api: &Api, tokens: &Tokens, query: &str) -> Vec<Value> {
    page(api, tokens, query).await["lines"].as_array().unwrap().clone()
}

fn types(lines: &[Value]) -> Vec<&str> {
    lines.iter().map(|line| line["type"].as_str().unwrap()).collect()
}

/// Waits until somebody's own history has so many lines.
async fn lines_of(api: &Api, tokens: &Tokens, count: usize) -> Vec<Value> {
    eventually(&format!("the history has {count} lines"), async || {
        let found = lines(api, tokens, "limit=200").await;
        (found.len() >= count).then_some(found)
    })
    .await
}

#[tokio::test]
async fn a_line_says_what_who_when_and_from_where() {
    let running = Running::shared().await;
    let api = running.api();
    let name = unique("ada");
    let body = crate::support::http::registration(&name);
    let agent = "Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0";
    let answer =
        api.post("/api/v1/auth/register").header("user-agent", agent).json(body).send().await;
    let ada = answer.tokens(201);
    running.database.settled().await;
    let found = lines_of(&api, &ada, 2).await;
    assert_eq!(types(&found), ["SessionStarted", "UserRegistered"], "newest first");
    for line in &found {
        assert_eq!(line["person"]["id"], ada.user_id, "{line}");
        assert_eq!(line["address"], "127.0.0.1", "{line}");
        assert_eq!(line["user_agent"], agent, "{line}");
        assert_eq!(line["request_id"], answer.header("x-request-id"), "{line}");
        assert!(line["at"].as_str().unwrap().ends_with('Z'), "{line}");
    }
    assert_eq!(found[0]["session"], ada.session_id);
    assert_eq!(found[0]["person"]["label"], name);
}

#[tokio::test]
async fn whoever_is_no_auditor_sees_their_own_lines_whatever_they_ask_for() {
    let running = Running::shared().await;
    let api = running.api();
    let (ada, eve) = (api.register(&unique("ada")).await, api.register(&unique("eve")).await);
    let boss_name = unique("boss");
    let boss = api.register(&boss_name).await;
    let admin = api.admin().await;
    let path = format!("/api/v1/admin/users/{}/roles", boss.user_id);
    api.post(&path).bearer(&admin.access).json(json!({"grant": ["admin"]})).send().await.is(200);
    // An admin is no auditor.
    let boss = api.sign_in(&boss_name).await;
    api.get("/api/v1/admin/users").bearer(&boss.access).send().await.is(200);
    lines_of(&api, &ada, 2).await;

    for curious in [&eve, &boss] {
        for line in lines_of(&api, curious, 2).await {
            let mine = [&line["person"]["id"], &line["actor"]["id"]]
                .iter()
                .any(|id| **id == curious.user_id.as_str());
            assert!(mine, "{line}");
        }
        for query in [
            format!("user={}", ada.user_id),
            format!("session={}", ada.session_id),
            format!("user={}&session={}&type=SessionStarted", ada.user_id, ada.session_id),
        ] {
            assert_eq!(lines(&api, curious, &query).await, Vec::<Value>::new(), "{query}");
        }
        // What the other did is only shown where it was done to oneself.
        for line in lines(&api, curious, &format!("actor={}", ada.user_id)).await {
            assert_eq!(line["person"]["id"], curious.user_id, "{line}");
        }
    }
    // The grant stands in the history of whom it concerns, without the admin's name and address.
    let grant = eventually("the grant is shown", async || {
        lines(&api, &boss, "type=UserRoleGranted").await.first().cloned()
    })
    .await;
    assert_eq!(grant["outcome"], "admin");
    assert_eq!(grant["actor"]["kind"], "user");
    for hidden in ["/actor/label", "/address", "/user_agent"] {
        assert_eq!(grant.pointer(hidden), Some(&Value::Null), "{hidden} of {grant}");
    }
    api.get("/api/v1/audit").send().await.problem(401, "not-signed-in");
}

#[tokio::test]
async fn an_auditor_sees_everybody_and_what_strangers_typed() {
    let running = Running::shared().await;
    let api = running.api();
    let name = unique("ada");
    let ada = api.register(&name).await;
    let stranger = email_of(&unique("stranger"));
    api.try_sign_in(&stranger, "not the password").await.is(401);
    let auditor = api.admin().await;
    let query = format!("user={}", ada.user_id);
    // The name is another read table's, which may come a moment later.
    let found = eventually("the auditor sees both lines, and whose they are", async || {
        let found = lines(&api, &auditor, &query).await;
        (found.len() >= 2 && found[0]["person"]["label"] == name.as_str()).then_some(found)
    })
    .await;
    assert_eq!(types(&found), ["SessionStarted", "UserRegistered"]);
    assert_eq!(found[0]["address"], "127.0.0.1");

    let failure = eventually("the stranger's attempt is shown", async || {
        let found = lines(&api, &auditor, "type=SignInFailed&limit=200").await;
        found.into_iter().find(|line| line["identifier"] == stranger.as_str())
    })
    .await;
    assert_eq!(failure["outcome"], "unknown_identifier");
    assert_eq!(failure["person"], Value::Null);
    assert_eq!(failure["actor"]["kind"], "anonymous");
}

#[tokio::test]
async fn filters_narrow_it_down() {
    let running = Running::shared().await;
    let api = running.api();
    let name = unique("ada");
    let ada = api.register(&name).await;
    let other = api.sign_in(&name).await;
    api.try_sign_in(&name, "not the password").await.is(401);
    api.refresh(&other.refresh).await.is(200);
    let all = lines_of(&api, &ada, 5).await;
    assert_eq!(
        types(&all),
        ["SessionRefreshed", "SignInFailed", "SessionStarted", "SessionStarted", "UserRegistered"]
    );
    let some = async |query: &str| types(&lines(&api, &ada, query).await).join(" ");
    assert_eq!(
        some(&format!("session={}", other.session_id)).await,
        "SessionRefreshed SessionStarted"
    );
    assert_eq!(some("type=SignInFailed").await, "SignInFailed");
    assert_eq!(
        some(&format!("type=SessionStarted&session={}", ada.session_id)).await,
        "SessionStarted"
    );
    assert_eq!(some("type=UserDisabled").await, "");
    // Times: from that moment on, and before that moment.
    let middle = all[2]["at"].as_str().unwrap().replace('+', "%2B");
    assert_eq!(
        some(&format!("from={middle}")).await,
        "SessionRefreshed SignInFailed SessionStarted"
    );
    assert_eq!(some(&format!("to={middle}")).await, "SessionStarted UserRegistered");
    assert_eq!(some(&format!("from={middle}&to={middle}")).await, "");
    let backwards = "/api/v1/audit?from=2026-02-01T00:00:00Z&to=2026-01-01T00:00:00Z";
    api.get(backwards).bearer(&ada.access).send().await.problem(422, "invalid-input");
    assert_eq!(
        some("from=0001-01-01T00:00:00Z&to=9999-12-31T23:59:59Z&type=UserRegistered").await,
        "UserRegistered"
    );
    assert_eq!(
        some(&format!("order=oldest&session={}", other.session_id)).await,
        "SessionStarted SessionRefreshed"
    );
}

#[tokio::test]
async fn what_can_not_be_asked_for_is_refused() {
    let running = Running::shared().await;
    let api = running.api();
    let ada = api.register(&unique("ada")).await;
    for (query, field) in [
        ("user=ada", "user"),
        ("actor=1", "actor"),
        ("session=x", "session"),
        ("type=Nothing", "type"),
        ("type=", "type"),
        ("from=yesterday", "from"),
        ("to=2026-13-01T00:00:00Z", "to"),
        ("order=sideways", "order"),
        ("cursor=1", "cursor"),
        ("cursor=after--1", "cursor"),
        ("cursor=after-99999999999999999999", "cursor"),
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=-1", "limit"),
        ("limit=99999999999", "limit"),
        ("user=%27%3B--", "user"),
        ("usr=x", "usr"),
        ("limit=1&limit=2", "limit"),
    ] {
        let answer = api.get(&format!("/api/v1/audit?{query}")).bearer(&ada.access).send().await;
        assert_eq!(answer.status, 422, "{query}: {}", answer.text());
        answer.refuses(&[field]);
    }
    for query in ["user=%ff", "user=%zz", "%", "type=%"] {
        api.get(&format!("/api/v1/audit?{query}"))
            .bearer(&ada.access)
            .send()
            .await
            .problem(400, "malformed-request");
    }
    // Times at the ends of what can be written, and beyond what a database holds.
    for time in [
        "-262143-01-01T00:00:00Z",
        "-4713-01-01T00:00:00Z",
        "-0001-01-01T00:00:00Z",
        "0000-01-01T00:00:00Z",
        "9999-12-31T23:59:60Z",
        "%2B262142-12-31T23:59:59Z",
        "%2B294277-01-01T00:00:00Z",
    ] {
        for side in ["from", "to"] {
            let answer =
                api.get(&format!("/api/v1/audit?{side}={time}")).bearer(&ada.access).send().await;
            assert!(matches!(answer.status, 200 | 422), "{side}={time}: {}", answer.text());
        }
    }
}

/// Reads on from page to page.
async fn walk(
    api: &Api,
    tokens: &Tokens,
    order: &str,
    way: &str,
    mut cursor: Option<String>,
) -> Vec<i64> {
    let mut positions = Vec::new();
    loop {
        let after = cursor.map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
        let page = page(api, tokens, &format!("limit=3&order={order}{after}")).await;
        let lines = page["lines"].as_array().unwrap();
        assert!(lines.len() <= 3, "{page}");
        let found = lines.iter().map(|line| line["position"].as_i64().unwrap());
        if way == "previous" {
            positions.splice(0..0, found);
        } else {
            positions.extend(found);
        }
        match page[way].as_str() {
            Some(next) => cursor = Some(next.to_owned()),
            None => return positions,
        }
    }
}

#[tokio::test]
async fn paging_repeats_and_leaves_out_nothing() {
    let running = Running::shared().await;
    let api = running.api();
    let name = unique("ada");
    let ada = api.register(&name).await;
    let mut tokens = ada.clone();
    for _ in 0..14 {
        tokens = api.refresh(&tokens.refresh).await.tokens(200);
    }
    let all = lines_of(&api, &ada, 16).await;
    let newest: Vec<i64> = all.iter().map(|line| line["position"].as_i64().unwrap()).collect();
    assert!(newest.is_sorted_by(|a, b| a > b), "{newest:?}");
    assert_eq!(newest.len(), 16);
    let oldest: Vec<i64> = newest.iter().rev().copied().collect();
    assert_eq!(walk(&api, &ada, "newest", "next", None).await, newest);
    assert_eq!(walk(&api, &ada, "oldest", "next", None).await, oldest);
    // And back again from the last page.
    for (order, expected) in [("newest", &newest), ("oldest", &oldest)] {
        let last = format!("before-{}", expected.last().unwrap());
        let mut back = walk(&api, &ada, order, "previous", Some(last)).await;
        back.push(*expected.last().unwrap());
        assert_eq!(&back, expected, "{order}");
    }
    // New lines don't move what is behind a cursor.
    let first = page(&api, &ada, "limit=5").await;
    let next = first["next"].as_str().unwrap();
    let before = lines(&api, &ada, &format!("limit=5&cursor={next}")).await;
    api.sign_in_with(&name, &password_of(&name)).await;
    lines_of(&api, &ada, 17).await;
    assert_eq!(lines(&api, &ada, &format!("limit=5&cursor={next}")).await, before);
}

/// Each search is a line itself, which comes while it is answered.
#[tokio::test]
async fn as_many_lines_are_counted_as_are_shown() {
    let running = Running::start(&[]).await;
    let api = running.api();
    let admin = api.admin().await;
    for second in 0..60 {
        let query = format!("count=true&limit=200&from=2020-01-01T00:00:{second:02}Z");
        let page = api.get(&format!("/api/v1/audit?{query}")).bearer(&admin.access).send().await;
        let page = page.is(200).json();
        let shown = page["lines"].as_array().unwrap();
        assert_eq!(page["count"]["lines"], shown.len(), "search {second}: {page}");
        assert_eq!(page["reached"], shown[0]["position"], "search {second}: {page}");
    }
}
