//! Where a request came from: believed of proxies that are trusted, and of nobody else.

use serde_json::Value;

use crate::support::{
    http::{Api, registration},
    server::{Tokens, eventually},
    shared::{Running, unique},
};

/// Registers with these headers, and gives the line of the history.
async fn registered(api: &Api, headers: &[(&str, &str)]) -> Value {
    let mut ask = api.post("/api/v1/auth/register").json(registration(&unique("ada")));
    for (name, value) in headers {
        ask = ask.header(name, value);
    }
    let answer = ask.send().await;
    let tokens: Tokens = answer.tokens(201);
    eventually("the registration is in the history", async || {
        let page = api
            .get("/api/v1/audit?type=UserRegistered")
            .bearer(&tokens.access)
            .send()
            .await
            .is(200)
            .json();
        let line = page["lines"].get(0)?.clone();
        assert_eq!(line["request_id"], answer.header("x-request-id"));
        Some(line)
    })
    .await
}

#[tokio::test]
async fn nobody_invents_an_address_or_a_request_id() {
    let running = Running::shared().await;
    let api = running.api();
    let forged = [
        ("x-forwarded-for", "198.51.100.1"),
        ("forwarded", "for=198.51.100.1"),
        ("x-real-ip", "198.51.100.1"),
        ("x-request-id", "forged"),
    ];
    let line = registered(&api, &forged).await;
    assert_eq!(line["address"], "127.0.0.1");
    assert_ne!(line["request_id"], "forged");
}

#[tokio::test]
async fn a_trusted_proxy_is_believed_as_far_as_it_saw() {
    let running = Running::start(&[("ENTRYBOOK_TRUSTED_PROXIES", "127.0.0.1,10.0.0.0/8")]).await;
    let api = running.api();
    let line = registered(
        &api,
        &[("x-forwarded-for", "198.51.100.1"), ("x-request-id", "of-the-proxy.1")],
    )
    .await;
    assert_eq!(line["address"], "198.51.100.1");
    assert_eq!(line["request_id"], "of-the-proxy.1");
    // What stands left of the first untrusted address is somebody's invention.
    let line =
        registered(&api, &[("x-forwarded-for", "203.0.113.9, 198.51.100.1, 10.1.2.3")]).await;
    assert_eq!(line["address"], "198.51.100.1");
    let line = registered(&api, &[("x-forwarded-for", "2001:db8::7")]).await;
    assert_eq!(line["address"], "2001:db8::7");
    for odd in ["<script>alert(1)</script>", "unknown", "", "198.51.100.1, unknown"] {
        assert_eq!(
            registered(&api, &[("x-forwarded-for", odd)]).await["address"],
            "127.0.0.1",
            "{odd}"
        );
    }
    let answer = api.get("/api/v1/health").header("x-request-id", "a b <c>").send().await.is(200);
    assert_ne!(answer.header("x-request-id"), "a b <c>");
    assert!(!answer.header("x-request-id").is_empty());
}
