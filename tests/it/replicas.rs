//! Two servers on one database: equal, and either may die.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{
    database::TestDatabase,
    scratch,
    server::{Server, Setup, Tokens, eventually},
};

#[tokio::test(flavor = "multi_thread")]
async fn either_replica_may_die_and_the_other_goes_on() {
    let database = TestDatabase::create().await;
    let scratch = scratch();
    let one =
        Setup::on(&database.url(), &scratch.path().join("one")).known_as("http://localhost:8080");
    let two = Setup { data_dir: scratch.path().join("two"), ..one.replica() };
    // Both at once: they migrate, make keys and an admin side by side.
    let (first, second) = tokio::join!(one.start(), two.start());
    let ada = first.register("ada").await;
    second.sign_in("ada").await;
    second.admin().await;

    first.kill();
    // The other sequences and projects alone: what happens now comes to its history.
    let ben = second.register("ben").await;
    eventually("the history shows the registration", async || {
        let answer = second.get("/api/v1/audit?limit=100", &ben.access).await.unwrap();
        let page: Value = answer.json().await.unwrap();
        page["lines"]
            .as_array()
            .unwrap()
            .iter()
            .any(|line| line["type"] == "UserRegistered")
            .then_some(())
    })
    .await;
    let me = second.get("/api/v1/auth/me", &ada.access).await.unwrap();
    assert_eq!(me.status(), 200, "a token of the dead replica is good on the other");

    let first = one.start().await;
    second.kill();
    first.sign_in("ben").await;
    let refreshed = first.refresh(&ada.refresh).await.unwrap();
    Tokens::of(refreshed, 200).await;
}

/// Two servers on one database, each with a data directory of its own.
struct Pair {
    database: TestDatabase,
    one: Setup,
    first: Server,
    second: Server,
    scratch: tempfile::TempDir,
}

impl Pair {
    async fn start() -> Self {
        let database = TestDatabase::create().await;
        let scratch = scratch();
        let one = Setup::on(&database.url(), &scratch.path().join("one"))
            .known_as("http://localhost:8080");
        let two = Setup { data_dir: scratch.path().join("two"), ..one.replica() };
        let (first, second) = (one.start().await, two.start().await);
        Self { database, one, first, second, scratch }
    }
}

/// A second is the promise; here it is only that the other replica comes to refuse. What it took is
/// printed, since machines are shared and no time is asserted.
#[tokio::test(flavor = "multi_thread")]
async fn what_one_replica_ends_the_other_refuses() {
    let Pair { database: _database, one: _, first, second, scratch: _scratch } =
        Pair::start().await;

    let refused = async |what: &str, tokens: &Tokens| {
        let began = Instant::now();
        eventually(&format!("the other replica refuses: {what}"), async || {
            let me = second.get("/api/v1/auth/me", &tokens.access).await.unwrap();
            (me.status() == 401).then_some(())
        })
        .await;
        println!("{what}: refused by the other replica after {:?}", began.elapsed());
    };

    // Signed out.
    let ada = first.register("ada").await;
    assert_eq!(second.get("/api/v1/auth/me", &ada.access).await.unwrap().status(), 200);
    let out =
        first.post("/api/v1/auth/logout", json!({"refresh_token": ada.refresh})).await.unwrap();
    assert_eq!(out.status(), 204);
    assert_eq!(
        first.get("/api/v1/auth/me", &ada.access).await.unwrap().status(),
        401,
        "at once on the same"
    );
    refused("signed out", &ada).await;

    // Ended from another device.
    let (phone, laptop) = (first.sign_in("ada").await, first.sign_in("ada").await);
    let ended = first
        .http
        .delete(first.url(&format!("/api/v1/sessions/{}", phone.session_id)))
        .bearer_auth(&laptop.access)
        .send()
        .await
        .unwrap();
    assert!(ended.status().is_success(), "{}", ended.status());
    refused("ended from another device", &phone).await;

    // The password changed: every other session.
    let phone = first.sign_in("ada").await;
    let body = json!({"current_password": "the password of ada", "new_password": "another password of ada"});
    let changed = first
        .http
        .post(first.url("/api/v1/auth/password"))
        .bearer_auth(&laptop.access)
        .json(&body)
        .send()
        .await
        .unwrap();
    assert!(changed.status().is_success(), "{}", changed.text().await.unwrap());
    refused("the password was changed", &phone).await;
    assert_eq!(
        second.get("/api/v1/auth/me", &laptop.access).await.unwrap().status(),
        200,
        "the own one stays"
    );

    // Disabled.
    let admin = first.admin().await;
    let disabled = first
        .http
        .post(first.url(&format!("/api/v1/admin/users/{}/disable", ada.user_id)))
        .bearer_auth(&admin.access)
        .send()
        .await
        .unwrap();
    assert!(disabled.status().is_success(), "{}", disabled.text().await.unwrap());
    refused("the account was disabled", &laptop).await;
    let refresh = second.refresh(&laptop.refresh).await.unwrap();
    assert_eq!(refresh.status(), 401);
}

/// The promise of a second, held against what the same machine takes for the same thing without any
/// replica: a refresh token that was spent on one is refused on the other at once, because both ask
/// the book itself.
#[tokio::test(flavor = "multi_thread")]
async fn refresh_tokens_are_spent_everywhere_at_once() {
    let database = TestDatabase::create().await;
    let scratch = scratch();
    let one = Setup::on(&database.url(), &scratch.path().join("one"))
        .known_as("http://localhost:8080")
        .with("ENTRYBOOK_REFRESH_GRACE", "0s");
    let two = Setup { data_dir: scratch.path().join("two"), ..one.replica() };
    let (first, second) = tokio::join!(one.start(), two.start());
    let ada = first.register("ada").await;
    Tokens::of(first.refresh(&ada.refresh).await.unwrap(), 200).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    let again = second.refresh(&ada.refresh).await.unwrap();
    assert_eq!(again.status(), 401, "a second use ends the session");
    let me = second.get("/api/v1/auth/me", &ada.access).await.unwrap();
    assert_eq!(me.status(), 401);
}

/// While a server starts it knows nothing of what has ended: it must let nobody in meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_revives_no_token() {
    let database = TestDatabase::create().await;
    let scratch = scratch();
    let setup = Setup::on(&database.url(), &scratch.path().join("data"));
    let server = setup.start().await;
    let ada = server.register("ada").await;
    let out = server.post("/api/v1/auth/logout", json!({"refresh_token": ada.refresh})).await;
    assert_eq!(out.unwrap().status(), 204);
    server.kill();

    let server = setup.launch();
    let mut asked = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let (http, url) = (server.http.clone(), server.url("/api/v1/auth/verify"));
        let token = ada.access.clone();
        asked.spawn(async move {
            let mut seen = Vec::new();
            // Until it has been refused for a while, the start included.
            while seen.iter().filter(|status| **status == 401).count() < 20 {
                match http.get(&url).bearer_auth(&token).send().await {
                    Ok(answer) => seen.push(answer.status().as_u16()),
                    Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
            seen
        });
    }
    while let Some(seen) = asked.join_next().await {
        let seen = seen.unwrap();
        assert!(seen.iter().all(|status| matches!(status, 401 | 503)), "{seen:?}");
    }
}

/// The access token of a key that was retired is refused by every replica, also by one that starts afterwards, and nobody is
/// signed out by it.
#[tokio::test(flavor = "multi_thread")]
async fn the_tokens_of_a_retired_key_are_refused_everywhere_and_people_stay_signed_in() {
    let Pair { database, one, first, second, scratch: _scratch } = Pair::start().await;
    let ada = first.register("ada").await;
    for server in [&first, &second] {
        assert_eq!(server.get("/api/v1/auth/me", &ada.access).await.unwrap().status(), 200);
    }

    let began = Instant::now();
    let retired = one.command(&["keys", "retire", "--all", "--json"]).output().unwrap();
    assert!(retired.status.success(), "{}", String::from_utf8_lossy(&retired.stderr));
    let retired: Value = serde_json::from_slice(&retired.stdout).unwrap();
    let kid = retired["retired"][0].as_str().unwrap().to_owned();
    let ended = Instant::now();
    for (name, server) in [("first", &first), ("second", &second)] {
        eventually(&format!("the {name} replica refuses it"), async || {
            let me = server.get("/api/v1/auth/me", &ada.access).await.unwrap();
            (me.status() == 401).then_some(())
        })
        .await;
        println!(
            "{name}: refused {:?} after the verb ended, which took {:?}",
            ended.elapsed(),
            ended - began
        );
        let keys: Value = server
            .http
            .get(server.url("/.well-known/jwks.json"))
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        assert!(!keys.to_string().contains(&kid), "{keys}");
    }
    // The refresh token is good, on either, and what it gives is accepted by both.
    let anew = Tokens::of(second.refresh(&ada.refresh).await.unwrap(), 200).await;
    for server in [&first, &second] {
        assert_eq!(server.get("/api/v1/auth/me", &anew.access).await.unwrap().status(), 200);
    }

    // Nothing that is written to the table brings it back.
    sqlx::query("UPDATE signing_keys SET retired_at = NULL")
        .execute(database.pool())
        .await
        .unwrap();
    first.kill();
    let first = one.start().await;
    assert_eq!(first.get("/api/v1/auth/me", &ada.access).await.unwrap().status(), 401);
    assert_eq!(first.get("/api/v1/auth/me", &anew.access).await.unwrap().status(), 200);

    let again = one.command(&["keys", "retire", &kid, "--json"]).output().unwrap();
    let again: Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!(again, json!({"retired": [], "made": null}));
    let unknown = one.command(&["keys", "retire", "nobody"]).output().unwrap();
    assert_eq!(unknown.status.code(), Some(4));
    let events: Vec<String> = sqlx::query_scalar(
        "SELECT event_type FROM events WHERE aggregate_id LIKE 'signing_key%' ORDER BY id",
    )
    .fetch_all(database.pool())
    .await
    .unwrap();
    assert_eq!(events, ["SigningKeyAdded", "SigningKeyRetired", "SigningKeyAdded"]);
}
