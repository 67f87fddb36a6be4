//! How it was, over HTTP: a person at any moment, what differs, and who was signed in then.

use serde_json::{Value, json};

use crate::support::{
    held::{poison, readable_again},
    http::{Api, email_of, password_of},
    server::{Tokens, eventually},
    shared::{Running, unique},
};

const STATE: &str = "/api/v1/audit/state";

async fn get(api: &Api, token: &str, query: &str) -> Value {
    api.get(&format!("{STATE}?{query}")).bearer(token).send().await.is(200).json()
}

/// The lines about somebody, the oldest first, as soon as there are so many.
async fn lines_of(api: &Api, auditor: &Tokens, user: &str, count: usize) -> Vec<Value> {
    eventually(&format!("the history has {count} lines"), async || {
        let path = format!("/api/v1/audit?user={user}&order=oldest&limit=200");
        let page = api.get(&path).bearer(&auditor.access).send().await.is(200).json();
        let lines = page["lines"].as_array().unwrap().clone();
        (lines.len() >= count).then_some(lines)
    })
    .await
}

#[tokio::test]
async fn a_person_is_told_as_they_were_at_any_line_and_time() {
    let running = Running::shared().await;
    let api = running.api();
    let auditor = api.admin().await;
    let (name, other_name) = (unique("ada"), unique("augusta"));
    let ada = api.register(&name).await;
    let second = api.sign_in(&name).await;
    let change = json!({
        "username": other_name, "full_name": "Ada Lovelace", "current_password": password_of(&name),
    });
    api.patch("/api/v1/auth/me").bearer(&ada.access).json(change).send().await.is(200);
    let roles = api.post(&format!("/api/v1/admin/users/{}/roles", ada.user_id));
    roles.bearer(&auditor.access).json(json!({"grant": ["auditor"]})).send().await.is(200);
    api.post("/api/v1/auth/logout").bearer(&second.access).send().await.is(204);
    let lines = lines_of(&api, &auditor, &ada.user_id, 6).await;
    let types: Vec<_> = lines.iter().map(|line| line["type"].as_str().unwrap()).collect();
    assert_eq!(
        types,
        [
            "UserRegistered",
            "SessionStarted",
            "SessionStarted",
            "UserProfileChanged",
            "UserRoleGranted",
            "SessionEnded"
        ]
    );
    let line = |number: usize| lines[number]["position"].as_i64().unwrap();
    let at = async |moment: &str| {
        get(&api, &auditor.access, &format!("user={}&at={moment}", ada.user_id)).await
    };
    let mut seen = Vec::new();
    for number in 0..6 {
        let answer = at(&line(number).to_string()).await;
        let by_position = format!("user={}&position={}", ada.user_id, line(number));
        let state = &answer["state"];
        assert_eq!(get(&api, &auditor.access, &by_position).await["state"], *state);
        assert!(answer["reached"].as_i64() >= Some(line(number)), "{answer}");
        assert_eq!(state["at"], lines[number]["at"], "{answer}");
        assert_eq!(state["position"], line(number), "{answer}");
        assert_eq!((&answer["against"], &answer["changes"]), (&Value::Null, &Value::Null));
        // As of the time of the line it is the same, but that two events of one act have one time.
        let time = lines[number]["at"].as_str().unwrap();
        if lines.get(number + 1).is_none_or(|next| next["at"] != time) {
            assert_eq!(at(time).await["state"], *state);
        }
        let account = &state["account"];
        assert_eq!(account["email"], email_of(&name), "{answer}");
        let sessions = state["sessions"].as_array().unwrap();
        assert_eq!(state["live_sessions"], sessions.len(), "{answer}");
        for session in sessions {
            assert_eq!(session["address"], "127.0.0.1", "{answer}");
        }
        let ids = sessions.iter().map(|session| session["id"].as_str().unwrap().to_owned());
        seen.push((
            account["username"].as_str().unwrap().to_owned(),
            account["roles"].as_array().unwrap().len(),
            ids.collect::<Vec<_>>(),
        ));
    }
    let (first, second) = (ada.session_id.clone(), second.session_id.clone());
    assert_eq!(
        seen,
        [
            (name.clone(), 1, vec![]),
            (name.clone(), 1, vec![first.clone()]),
            (name.clone(), 1, vec![second.clone(), first.clone()]),
            (other_name.clone(), 1, vec![second.clone(), first.clone()]),
            (other_name.clone(), 2, vec![second.clone(), first.clone()]),
            (other_name.clone(), 2, vec![first.clone()]),
        ]
    );

    // Now, and what differs from there to now.
    let now = get(&api, &auditor.access, &format!("user={}", ada.user_id)).await;
    assert_eq!(now["state"]["account"]["username"], other_name);
    let query = format!("user={}&against={}", ada.user_id, line(1));
    let answer = get(&api, &auditor.access, &query).await;
    assert_eq!(answer["against"]["account"]["username"], name);
    assert_eq!(
        answer["changes"],
        json!([
            {"what": "username", "from": name, "to": other_name},
            {"what": "full_name", "from": null, "to": "Ada Lovelace"},
            {"what": "role", "from": null, "to": "auditor"},
        ])
    );
    let query = format!("user={}&at={}&against={}", ada.user_id, line(1), line(2));
    let answer = get(&api, &auditor.access, &query).await;
    assert_eq!(answer["changes"], json!([{"what": "session", "from": second, "to": null}]));

    // A line before it all, and a time.
    if line(0) > 1 {
        let before = at(&(line(0) - 1).to_string()).await;
        assert_eq!(before["state"]["account"], Value::Null);
    }
    let before = at("2020-01-01T00:00:00Z").await;
    assert_eq!(
        (&before["state"]["account"], &before["state"]["position"]),
        (&Value::Null, &json!(0))
    );

    // By what they once were called, without a name in any address.
    let held = async |identifier: &str| {
        let ask = api.post("/api/v1/audit/holders").bearer(&auditor.access);
        ask.json(json!({"identifier": identifier})).send().await.is(200).json()["holders"].clone()
    };
    let former = held(&name.to_uppercase()).await;
    assert_eq!(
        former,
        json!([{"person": {"id": ada.user_id, "label": other_name}, "from": line(0), "to": line(3)}])
    );
    assert_eq!(held(&email_of(&name)).await[0]["to"], Value::Null);
    assert_eq!(held("nobody at all").await, json!([]));
}

#[tokio::test]
async fn who_was_signed_in_is_told_page_by_page() {
    let running = Running::start(&[]).await;
    let api = running.api();
    let auditor = api.admin().await;
    let mut people = Vec::new();
    for name in ["ada", "grace", "katherine"] {
        people.push(api.register(name).await);
    }
    api.post("/api/v1/auth/logout").bearer(&people[1].access).send().await.is(204);
    let lines = lines_of(&api, &auditor, &people[1].user_id, 3).await;
    let ended = lines[2]["at"].as_str().unwrap();
    lines_of(&api, &auditor, &people[2].user_id, 2).await;
    let signed_in = async |query: &str| {
        let path = format!("/api/v1/audit/signed-in?{query}");
        api.get(&path).bearer(&auditor.access).send().await.is(200).json()
    };
    let names = |answer: &Value| -> Vec<String> {
        let people = answer["people"].as_array().unwrap().iter();
        let mut names: Vec<_> = people
            .map(|person| person["account"]["username"].as_str().unwrap().to_owned())
            .collect();
        names.sort();
        names
    };
    // Another table shows it, which may be a moment behind.
    eventually("grace is gone", async || {
        (names(&signed_in("").await) == ["ada", "admin", "katherine"]).then_some(())
    })
    .await;
    let before =
        chrono::DateTime::parse_from_rfc3339(ended).unwrap() - chrono::TimeDelta::microseconds(1);
    let before = before.to_utc().to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
    let all = signed_in(&format!("at={before}")).await;
    assert_eq!(names(&all), ["ada", "admin", "grace", "katherine"]);
    assert_eq!(all["next"], Value::Null);
    let mut walked = Vec::new();
    let mut query = format!("at={before}&limit=1");
    loop {
        let page = signed_in(&query).await;
        walked.extend(names(&page));
        let Some(next) = page["next"].as_str() else { break };
        query = format!("at={before}&limit=1&after={next}");
    }
    walked.sort();
    assert_eq!(walked, ["ada", "admin", "grace", "katherine"]);
    assert_eq!(names(&signed_in("at=2020-01-01T00:00:00Z").await), Vec::<String>::new());
}

/// A table that is stopped shows the book of then. What is of now, or counted to the end, is not told by it.
#[tokio::test]
async fn what_the_history_does_not_show_yet_is_not_told_as_all() {
    let running = Running::start(&[]).await;
    let api = running.api();
    let admin = api.admin().await;
    let (ada, eve) = (api.register("ada").await, api.register("eve").await);
    let disable = api.post(&format!("/api/v1/admin/users/{}/disable", eve.user_id));
    disable.bearer(&admin.access).send().await.is(200);
    let known = lines_of(&api, &admin, &eve.user_id, 3).await;
    let last = known.last().unwrap()["position"].as_i64().unwrap();
    let state = async |query: &str| {
        let path = format!("{STATE}?user={}{query}", ada.user_id);
        running.server.get(&path, &admin.access).await.unwrap()
    };
    let search = async || {
        let path = format!("/api/v1/audit?user={}&count=true", ada.user_id);
        api.get(&path).bearer(&admin.access).send().await.is(200).json()
    };
    let before = search().await;
    assert_eq!(before["count"], json!({"lines": 2, "exact": true}));
    assert!(before["reached"].as_i64() >= before["head"].as_i64(), "{before}");

    poison(&running.database, &ada.user_id).await;
    let behind = eventually("the history is stopped", async || {
        let found = search().await;
        (found["count"]["exact"] == false).then_some(found)
    })
    .await;
    let (reached, head) = (behind["reached"].as_i64().unwrap(), behind["head"].as_i64().unwrap());
    assert!(last <= reached && reached < head, "{behind}");
    assert_eq!(behind["count"]["lines"], 2, "{behind}");
    let time = known.last().unwrap()["at"].as_str().unwrap();
    for query in [String::new(), format!("&at={time}"), format!("&at={last}&against={time}")] {
        let refused = state(&query).await;
        assert_eq!(refused.status(), 503, "{query}");
        assert_eq!(refused.headers()["retry-after"], "5");
        let problem: Value = refused.json().await.unwrap();
        assert_eq!(problem["type"], "/problems/projection-behind", "{problem}");
        let words = format!("up to line {reached}");
        assert!(problem["detail"].as_str().unwrap().contains(&words), "{problem}");
    }
    let signed_in = running.server.get("/api/v1/audit/signed-in", &admin.access).await.unwrap();
    assert_eq!(signed_in.status(), 503);
    // As of a line that is shown it can be told, and how far that is stands beside it.
    let then: Value = state(&format!("&at={last}")).await.json().await.unwrap();
    assert_eq!((&then["reached"], &then["state"]["live_sessions"]), (&json!(reached), &json!(1)));

    readable_again(&running.database).await;
    eventually("it goes on", async || (state("").await.status() == 200).then_some(())).await;
}

#[tokio::test]
async fn auditors_alone_may_ask_and_it_is_written_down() {
    let running = Running::start(&[]).await;
    let api = running.api();
    let ada = api.register("ada").await;
    let boss = api.register("boss").await;
    let admin = api.admin().await;
    let roles = api.post(&format!("/api/v1/admin/users/{}/roles", boss.user_id));
    roles.bearer(&admin.access).json(json!({"grant": ["admin"]})).send().await.is(200);
    let boss = api.sign_in("boss").await;
    let state = format!("{STATE}?user={}", ada.user_id);
    for path in [&*state, "/api/v1/audit/signed-in"] {
        api.get(path).send().await.problem(401, "not-signed-in");
        // Not even of themselves, and an admin is no auditor.
        for curious in [&ada, &boss] {
            api.get(path).bearer(&curious.access).send().await.problem(403, "forbidden");
        }
    }
    let holders = || api.post("/api/v1/audit/holders").json(json!({"identifier": "ada"}));
    holders().bearer(&boss.access).send().await.problem(403, "forbidden");
    let by_address = "/api/v1/audit?address=127.0.0.1";
    api.get(by_address).bearer(&boss.access).send().await.problem(403, "forbidden");

    for moment in ["", "&at=1", "&at=2", "&against=1"] {
        get(&api, &admin.access, &format!("user={}{moment}", ada.user_id)).await;
    }
    api.get("/api/v1/audit/signed-in").bearer(&admin.access).send().await.is(200);
    holders().bearer(&admin.access).send().await.is(200);
    let read = eventually("all of it is in the history", async || {
        let path = format!("/api/v1/audit?actor={}&limit=200", admin.user_id);
        let page = api.get(&path).bearer(&admin.access).send().await.is(200).json();
        let types: Vec<String> = page["lines"]
            .as_array()
            .unwrap()
            .iter()
            .map(|line| line["type"].as_str().unwrap().to_owned())
            .filter(|name| name.starts_with("History"))
            .collect();
        let replayed = types.iter().filter(|name| *name == "HistoryReplayed").count();
        (replayed >= 2 && types.iter().any(|name| name == "HistorySearched")).then_some(replayed)
    })
    .await;
    assert_eq!(read, 2, "who steps along looks at one person");
}

#[tokio::test]
async fn what_can_not_be_asked_for_is_refused_with_the_field() {
    let running = Running::shared().await;
    let api = running.api();
    let auditor = api.admin().await;
    let ada = api.register(&unique("ada")).await;
    for (query, field) in [
        ("user=ada", "user"),
        ("", "user"),
        ("at=0", "at"),
        ("at=-1", "at"),
        ("at=99999999999", "at"),
        ("at=99999999999999999999999", "at"),
        ("at=yesterday", "at"),
        ("at=", "at"),
        ("at=2999-01-01T00:00:00Z", "at"),
        ("at=%2B262142-12-31T23:59:59Z", "at"),
        ("against=never", "against"),
        ("position=0", "position"),
        ("position=-1", "position"),
        ("position=99999999999", "position"),
        ("position=first", "position"),
        ("at=1&position=1", "position"),
        ("line=1", "line"),
    ] {
        let user = if field == "user" { String::new() } else { format!("&user={}", ada.user_id) };
        let path = format!("{STATE}?{query}{user}");
        let answer = api.get(&path).bearer(&auditor.access).send().await;
        assert_eq!(answer.status, 422, "{query}: {}", answer.text());
        answer.refuses(&[field]);
    }
    let nobody = format!("{STATE}?user=00000000-0000-7000-8000-000000000000");
    api.get(&nobody).bearer(&auditor.access).send().await.problem(404, "not-found");
    for (query, field) in [
        ("at=2999-01-01T00:00:00Z", "at"),
        ("at=1", "at"),
        ("limit=0", "limit"),
        ("limit=51", "limit"),
        ("after=ada", "after"),
    ] {
        let path = format!("/api/v1/audit/signed-in?{query}");
        api.get(&path).bearer(&auditor.access).send().await.refuses(&[field]);
    }
    for body in [json!({}), json!({"identifier": ""}), json!({"identifier": "a".repeat(321)})] {
        let ask = api.post("/api/v1/audit/holders").bearer(&auditor.access);
        ask.json(body).send().await.refuses(&["identifier"]);
    }
}

#[tokio::test]
async fn the_history_is_searched_by_place_outcome_and_counted() {
    let running = Running::start(&[("ENTRYBOOK_TRUSTED_PROXIES", "127.0.0.1")]).await;
    let api = running.api();
    let admin = api.admin().await;
    let from = |address: &'static str| {
        let api = api.clone();
        async move |name: &str| {
            let body = json!({"identifier": name, "password": "not the password"});
            let ask = api.post("/api/v1/auth/login").header("x-forwarded-for", address);
            ask.json(body).send().await.is(401);
        }
    };
    api.register("ada").await;
    from("192.0.2.7")("ada").await;
    from("192.0.2.200")("ada").await;
    from("192.0.3.7")("nobody").await;
    from("2001:db8:42:7::1")("ada").await;
    let search = async |body: Value| {
        let ask = api.post("/api/v1/audit/search").bearer(&admin.access);
        ask.json(body).send().await.is(200).json()
    };
    eventually("all is in the history", async || {
        let found = search(json!({"type": "SignInFailed"})).await;
        (found["lines"].as_array().unwrap().len() == 4).then_some(())
    })
    .await;
    for (address, count) in [
        ("192.0.2.7", 1),
        (" 192.0.2.7/32 ", 1),
        ("192.0.2.0/29", 1),
        ("192.0.2.0/25", 1),
        ("192.0.2.0/24", 2),
        ("192.0.2.0/23", 3),
        ("192.0.0.0/16", 3),
        ("198.51.100.0/24", 0),
        ("2001:db8:42:7::1", 1),
        ("2001:db8:42:7::2", 0),
        ("2001:db8:42::/48", 1),
        ("2001:db8:4200::/40", 0),
        ("2001:db8::/40", 1),
    ] {
        let found = search(json!({"address": address, "count": true})).await;
        let lines = found["lines"].as_array().unwrap();
        assert_eq!(lines.len(), count, "{address}: {found}");
        assert_eq!(found["count"], json!({"lines": count, "exact": true}), "{address}: {found}");
        assert_eq!(found["searched"]["older_left_out"], false, "{address}: {found}");
        assert!(found["searched"]["first_month"].as_str().unwrap().len() == 7, "{found}");
        // The same in the query.
        let query = address.trim().replace('/', "%2F").replace(':', "%3A");
        let path = format!("/api/v1/audit?address={query}");
        let same = api.get(&path).bearer(&admin.access).send().await.is(200).json();
        assert_eq!(same["lines"], found["lines"]);
        assert_eq!(same["count"], Value::Null, "it is counted where that is asked for");
    }
    let found = search(json!({"address": "192.0.0.0/16", "outcome": "unknown_identifier"})).await;
    assert_eq!(found["lines"][0]["address"], "192.0.3.7", "{found}");
    assert_eq!(found["lines"].as_array().unwrap().len(), 1, "{found}");
    let past = search(json!({"address": "192.0.2.7", "to": "2020-01-01T00:00:00Z"})).await;
    assert_eq!(past["lines"], json!([]));
    assert_eq!(past["searched"]["first_month"], Value::Null, "{past}");
    for (body, field) in [
        (json!({"address": "10.0.0.0/8"}), "address"),
        (json!({"address": "2001:db8::/64"}), "address"),
        (json!({"address": "here"}), "address"),
        (json!({"outcome": "a".repeat(201)}), "outcome"),
        (json!({"limit": 0}), "limit"),
        (json!({"adress": "192.0.2.7"}), "adress"),
    ] {
        let ask = api.post("/api/v1/audit/search").bearer(&admin.access);
        ask.json(body).send().await.refuses(&[field]);
    }
}
