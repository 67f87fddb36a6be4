//! Guessing is slowed down, and nobody who is signed in is bothered by it.

use serde_json::Value;

use crate::support::{
    http::{Api, password_of},
    server::eventually,
    shared::Running,
};

/// Fails until it is told to wait, and gives how often it failed before.
async fn fail_until_throttled(api: &Api, identifier: &str) -> (u32, u64) {
    for failures in 0..20 {
        let answer = api.try_sign_in(identifier, "not the password").await;
        if answer.status == 429 {
            let problem = answer.problem(429, "too-many-attempts");
            let wait: u64 = answer.header("retry-after").parse().unwrap();
            assert!(problem["detail"].as_str().unwrap().contains(&wait.to_string()), "{problem}");
            return (failures, wait);
        }
        answer.problem(401, "wrong-credentials");
    }
    panic!("twenty failures, and no throttle");
}

#[tokio::test]
async fn guessing_one_account_is_slowed_down_and_its_owner_goes_on() {
    let running = Running::start(&[("ENTRYBOOK_THROTTLE_FIRST_DELAY", "60s")]).await;
    let api = running.api();
    let ada = api.register("ada").await;
    let (failures, wait) = fail_until_throttled(&api, "ada").await;
    assert_eq!(failures, 5, "so many are free");
    assert!((1..=60).contains(&wait), "{wait}");

    // While it lasts, the right password is not looked at either, by any of its names.
    api.try_sign_in("ada", &password_of("ada")).await.problem(429, "too-many-attempts");
    api.try_sign_in("ADA@example.org", &password_of("ada")).await.problem(429, "too-many-attempts");
    let password = password_of("ada");
    let form = [("username", "ada"), ("password", password.as_str())];
    api.post("/api/v1/auth/login").form(&form).send().await.problem(429, "too-many-attempts");

    // Whoever is signed in is not locked out: reading, refreshing, ending sessions go on.
    api.me(&ada.access).await.is(200);
    let ada = api.refresh(&ada.refresh).await.tokens(200);
    api.get("/api/v1/sessions").bearer(&ada.access).send().await.is(200);
    // Others are not slowed down.
    api.register("ben").await;
    api.sign_in("ben").await;
}

/// An unknown name is throttled like a known one, or the difference would tell them apart.
#[tokio::test]
async fn an_unknown_name_is_throttled_alike_and_what_is_blocked_is_bounded() {
    let running = Running::start(&[("ENTRYBOOK_THROTTLE_FIRST_DELAY", "60s")]).await;
    let api = running.api();
    api.register("ada").await;
    let known = fail_until_throttled(&api, "ada").await;
    let unknown = fail_until_throttled(&api, "nobody").await;
    assert_eq!(known.0, unknown.0);
    assert!(known.1.abs_diff(unknown.1) <= 5, "{known:?} {unknown:?}");

    let events = running.events().await;
    for _ in 0..50 {
        api.try_sign_in("nobody", "not the password").await.problem(429, "too-many-attempts");
    }
    let appended = running.events().await - events;
    assert!(appended <= 2, "{appended} events for 50 blocked attempts");
}

#[tokio::test]
async fn after_the_delay_the_right_password_counts_again() {
    let running = Running::start(&[("ENTRYBOOK_THROTTLE_FIRST_DELAY", "1s")]).await;
    let api = running.api();
    api.register("ada").await;
    fail_until_throttled(&api, "ada").await;
    eventually("the right password is looked at again", async || {
        let answer = api.try_sign_in("ada", &password_of("ada")).await;
        (answer.status == 200).then_some(())
    })
    .await;

    // All of it is in the history.
    let admin = api.admin().await;
    for kind in ["SignInFailed", "SignInThrottled", "SignInFailuresCleared"] {
        let path = format!("/api/v1/audit?type={kind}");
        eventually(&format!("{kind} is in the history"), async || {
            let page = api.get(&path).bearer(&admin.access).send().await.is(200).json();
            page["lines"].get(0).map(|_: &Value| ())
        })
        .await;
    }
}

#[tokio::test]
async fn one_address_that_guesses_everywhere_is_slowed_down() {
    let running = Running::start(&[
        ("ENTRYBOOK_ADDRESS_THROTTLE_FREE_FAILURES", "10"),
        ("ENTRYBOOK_TRUSTED_PROXIES", "127.0.0.0/8"),
    ])
    .await;
    let api = running.api();
    let ada = api.register("ada").await;
    let attempt = async |n: usize, from: &str| {
        let body = serde_json::json!({"identifier": format!("victim{n}"), "password": "password1"});
        api.post("/api/v1/auth/login").header("x-forwarded-for", from).json(body).send().await
    };
    let mut throttled = None;
    for n in 0..30 {
        let answer = attempt(n, "198.51.100.7").await;
        if answer.status == 429 {
            throttled = Some(n);
            break;
        }
        answer.problem(401, "wrong-credentials");
    }
    let throttled = throttled.expect("one address is never throttled");
    assert!((10..=12).contains(&throttled), "{throttled}");
    attempt(100, "198.51.100.7").await.problem(429, "too-many-attempts");
    attempt(101, "198.51.100.8").await.problem(401, "wrong-credentials");
    // An IPv6 customer has a /64: another address of it is no other customer.
    let mut blocked = false;
    for n in 0..15 {
        blocked = attempt(200 + n, &format!("2001:db8:0:7::{n:x}")).await.status == 429;
    }
    assert!(blocked);
    attempt(300, "2001:db8:0:8::1").await.problem(401, "wrong-credentials");
    // Nor has who has a /56 as many as there are in it: four times as many, and a /48 sixteen times.
    for (third, fourth, most) in [(7, 0x100, 40), (8, 0, 160)] {
        let mut looked_at = 0;
        for n in 0..200 {
            let subnet = if most == 40 { fourth + n } else { n << 8 };
            let from = format!("2001:db8:{third}:{subnet:x}::1");
            looked_at += usize::from(attempt(1_000 * third + n, &from).await.status == 401);
        }
        assert!((most..most + 4).contains(&looked_at), "{looked_at}, and not {most}");
    }
    api.me(&ada.access).await.is(200);
}

#[tokio::test]
async fn registrations_from_one_address_are_bounded() {
    let running = Running::start(&[
        ("ENTRYBOOK_REGISTRATIONS_PER_HOUR", "3"),
        ("ENTRYBOOK_TRUSTED_PROXIES", "127.0.0.1"),
    ])
    .await;
    let api = running.api();
    let register = async |n: usize, from: &str| {
        let body = crate::support::http::registration(&format!("person{n}"));
        api.post("/api/v1/auth/register").header("x-forwarded-for", from).json(body).send().await
    };
    for n in 0..3 {
        register(n, "198.51.100.7").await.is(201);
    }
    let events = running.events().await;
    // It is told once in the hour, and with where it came from.
    for n in 3..6 {
        register(n, "198.51.100.7").await.problem(429, "too-many-attempts");
    }
    assert_eq!(running.events().await, events + 1);
    register(6, "198.51.100.8").await.is(201);
    let auditor = api.admin().await;
    let path = "/api/v1/audit?type=RegistrationsThrottled&address=198.51.100.7";
    let line = eventually("the history shows it", async || {
        let found = api.get(path).bearer(&auditor.access).send().await.is(200).json();
        found["lines"].as_array().unwrap().first().cloned()
    })
    .await;
    assert_eq!(line["actor"]["kind"], "anonymous", "{line}");
    assert_eq!(line["address"], "198.51.100.7", "{line}");
}
