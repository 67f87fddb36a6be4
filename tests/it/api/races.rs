//! Many at once.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use serde_json::json;

use crate::support::{
    http::{email_of, password_of, registration},
    shared::{Running, unique},
};

#[tokio::test(flavor = "multi_thread")]
async fn of_200_that_register_one_name_one_gets_it() {
    // As it comes, without a setting, and with nobody else in the queue.
    let running = Running::start(&[]).await;
    let api = running.api();
    let name = "contested";
    // The same username, written in two ways, and each with an e-mail of its own.
    let bodies = (0..200).map(|n| {
        let username = if n % 2 == 0 { name.to_owned() } else { name.to_uppercase() };
        json!({"email": format!("{name}.{n}@example.org"), "username": username, "password": password_of(name)})
    });
    let answers =
        join_all(bodies.map(|body| api.post("/api/v1/auth/register").json(body).send())).await;
    let mut statuses = BTreeMap::new();
    for answer in &answers {
        *statuses.entry(answer.status).or_insert(0) += 1;
        if answer.status != 201 {
            let problem = answer.problem(409, "identifier-taken");
            assert_eq!(problem["errors"][0]["field"], "username");
        }
    }
    assert_eq!(statuses, BTreeMap::from([(201, 1), (409, 199)]));
    // And it works.
    let winner = answers.iter().find(|answer| answer.status == 201).unwrap().tokens(201);
    let tokens = api.sign_in(name).await;
    assert_eq!(tokens.user_id, winner.user_id);
    // The e-mail addresses of those who lost are free.
    let losers = answers.iter().position(|answer| answer.status == 409).unwrap();
    let body = json!({
        "email": format!("{name}.{losers}@example.org"), "username": "later", "password": password_of(name)
    });
    api.post("/api/v1/auth/register").json(body).send().await.is(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_that_take_one_email_one_gets_it() {
    let running = Running::shared().await;
    let api = running.api();
    let wanted = email_of(&unique("wanted"));
    let people = join_all((0..20).map(async |_| {
        let name = unique("taker");
        (api.register(&name).await, password_of(&name))
    }))
    .await;
    let answers = join_all(people.iter().map(|(person, password)| {
        let body = json!({"email": wanted, "current_password": password});
        api.patch("/api/v1/auth/me").bearer(&person.access).json(body).send()
    }))
    .await;
    let took = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!(took, 1);
    assert!(answers.iter().all(|answer| matches!(answer.status, 200 | 409)));
}

/// Wherever a person signs out, changes the password or refreshes at the same moment, nothing
/// breaks and no session outlives its end.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_ended_while_it_refreshes_is_over() {
    let running = Running::shared().await;
    let api = running.api();
    let name = unique("ada");
    let here = api.register(&name).await;
    for _ in 0..5 {
        let there = api.sign_in(&name).await;
        let path = format!("/api/v1/sessions/{}", there.session_id);
        let end = api.delete(&path).bearer(&here.access);
        let (ended, refreshed) = tokio::join!(end.send(), api.refresh(&there.refresh));
        assert_eq!(ended.status, 204, "{}", ended.text());
        if refreshed.status == 200 {
            let tokens = refreshed.tokens(200);
            api.me(&tokens.access).await.problem(401, "invalid-token");
            api.refresh(&tokens.refresh).await.problem(401, "session-ended");
        } else {
            refreshed.problem(401, "session-ended");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_body_sent_twice_makes_one_account() {
    let running = Running::shared().await;
    let api = running.api();
    let body = registration(&unique("double"));
    let both =
        join_all((0..2).map(|_| api.post("/api/v1/auth/register").json(body.clone()).send())).await;
    let mut statuses: Vec<_> = both.iter().map(|answer| answer.status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 409]);
}
