//! What the service tells of itself: health, readiness, numbers, keys and documentation.

use serde_json::Value;

use crate::support::shared::{Running, unique};

#[tokio::test]
async fn it_is_well_and_says_so() {
    let running = Running::shared().await;
    let api = running.api();
    for path in ["/healthz", "/api/v1/health", "/api/health"] {
        let body = api.get(path).send().await.is(200).json();
        assert_eq!(body["status"], "ok");
        assert_eq!(body["version"], env!("CARGO_PKG_VERSION"));
    }
    let report = api.get("/readyz").send().await.is(200).json();
    assert_eq!(report["ready"], true);
    let checks = report["checks"].as_array().unwrap();
    for name in ["database", "migrations", "projection users", "revocations", "sequencer"] {
        assert!(checks.iter().any(|check| check["name"] == name), "{name} in {report}");
    }
}

#[tokio::test]
async fn its_numbers_name_nobody() {
    let running = Running::shared().await;
    let api = running.api();
    let name = unique("metric");
    let ada = api.register(&name).await;
    api.try_sign_in(&name, "not the password").await.is(401);
    api.try_sign_in(&format!("stranger-{name}@example.org"), "not the password").await.is(401);
    api.get(&format!("/api/v1/{name}")).send().await.is(404);
    api.get(&format!("/api/v1/audit?user={}", ada.user_id))
        .bearer(&ada.access)
        .send()
        .await
        .is(200);
    api.delete(&format!("/api/v1/sessions/{}", ada.session_id))
        .bearer(&ada.access)
        .send()
        .await
        .is(204);
    api.ask(reqwest::Method::from_bytes(name.to_uppercase().as_bytes()).unwrap(), "/api/v1/health")
        .send()
        .await
        .is(405);

    let answer =
        api.get("/metrics").header("accept", "application/openmetrics-text").send().await.is(200);
    assert!(answer.header("content-type").starts_with("application/openmetrics-text"));
    let text = answer.text();
    for secret in
        [&name, &ada.user_id, &ada.session_id, "example.org", "127.0.0.1", &name.to_uppercase()]
    {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
    for wanted in [
        "entrybook_http_requests_total{",
        r#"route="/api/v1/sessions/{id}""#,
        r#"entrybook_sign_ins_total{outcome="failed"}"#,
        "entrybook_registrations_total",
        "entrybook_hash_queue_length",
        "entrybook_appends_total",
        "entrybook_append_conflicts_total",
        "entrybook_sequencer_horizon_age_seconds",
        r#"entrybook_projection_lag_events{projection="users"}"#,
        r#"entrybook_projection_lag_seconds{projection="users"}"#,
    ] {
        assert!(text.contains(wanted), "{wanted} in {text}");
    }
    assert!(text.ends_with("# EOF\n"));
}

#[tokio::test]
async fn the_keys_may_be_kept_and_nothing_else() {
    let running = Running::shared().await;
    let api = running.api();
    assert!(
        api.get("/.well-known/jwks.json")
            .send()
            .await
            .is(200)
            .header("cache-control")
            .contains("max-age")
    );
    for path in ["/api/v1/health", "/api/v1/auth/me", "/readyz", "/sign-in", "/nothing-here"] {
        assert_eq!(api.get(path).send().await.header("cache-control"), "no-store", "{path}");
    }
}

/// The page of the API is served from the binary, and asks nobody outside.
#[tokio::test]
async fn the_documentation_is_served_from_here_alone() {
    let running = Running::shared().await;
    let api = running.api();
    let answer = api.get("/api/v1/docs").send().await;
    assert!((301..309).contains(&answer.status), "{}", answer.status);
    assert_eq!(answer.header("location"), "/api/v1/docs/");
    let page = api.get("/api/v1/docs/").send().await.is(200);
    assert!(page.header("content-type").starts_with("text/html"));
    let html = page.text();
    let mut linked = 0;
    for attribute in ["src=\"", "href=\""] {
        for link in html.split(attribute).skip(1).map(|rest| rest.split('"').next().unwrap()) {
            assert!(!link.contains("//"), "{link}");
            let file = link.trim_start_matches("./");
            api.get(&format!("/api/v1/docs/{file}")).send().await.is(200);
            linked += 1;
        }
    }
    assert!(linked >= 3, "{html}");
    for missing in ["nothing.js", "..%2f..%2fetc%2fpasswd", "%ff"] {
        api.get(&format!("/api/v1/docs/{missing}")).send().await.problem(404, "not-found");
    }
    let description: Value = api.get("/api/v1/openapi.json").send().await.is(200).json();
    assert!(description["openapi"].as_str().unwrap().starts_with("3.1"));
}
