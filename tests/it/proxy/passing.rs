//! What nginx passes on to Entrybook, and what it adds and keeps to itself.

use crate::support::{
    http::{email_of, password_of, registration},
    raw::{Raw, exchange, status},
    server::eventually,
    tools,
};

use super::Front;

#[tokio::test]
async fn signing_in_works_and_the_right_address_is_written_down() {
    if !tools::with("nginx") {
        return;
    }
    let front = Front::start().await;
    let api = front.api();
    let grace = api.register("grace").await;
    api.sign_in("grace").await;
    api.me(&grace.access).await.is(200);
    // What a client claims of itself ends at nginx.
    let ask = api
        .post("/api/v1/auth/login")
        .header("x-forwarded-for", "198.51.100.1")
        .header("forwarded", "for=198.51.100.1")
        .header("x-real-ip", "198.51.100.1")
        .header("x-request-id", "forged");
    let body =
        serde_json::json!({"identifier": email_of("grace"), "password": password_of("grace")});
    let answer = ask.json(body).send().await.is(200);
    let request_id = answer.header("x-request-id").to_owned();
    assert_ne!(request_id, "forged");
    let line = eventually("it is in the history", async || {
        let page = api.get("/api/v1/audit").bearer(&grace.access).send().await.is(200).json();
        let lines = page["lines"].as_array().unwrap();
        lines.iter().find(|line| line["request_id"] == request_id.as_str()).cloned()
    })
    .await;
    assert_eq!(line["address"], "127.0.0.1");
    // nginx's log leads to it by the same id, and names nobody.
    let log = eventually("nginx has logged it", async || {
        let log = front.nginx.access_log();
        log.contains(&request_id).then_some(log)
    })
    .await;
    // A name that no id can hold by chance: those are hexadecimal.
    for personal in ["grace", "127.0.0.1", "example.org"] {
        assert!(!log.contains(personal), "{personal}: {log}");
    }
}

#[tokio::test]
async fn the_forms_work_behind_it() {
    if !tools::with("nginx") {
        return;
    }
    let front = Front::start().await;
    let api = front.api();
    api.register("ada").await;
    let form = api.get("/sign-in?return_to=/app/").send().await.is(200);
    let csrf = form
        .text()
        .split(r#"name="csrf" value=""#)
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap()
        .to_owned();
    let visit: Vec<_> =
        form.cookies().into_iter().map(|(name, value, _)| format!("{name}={value}")).collect();
    let password = password_of("ada");
    let fields =
        [("identifier", "ada"), ("password", &*password), ("return_to", "/app/"), ("csrf", &*csrf)];
    let post = |origin: &str| {
        let ask = api.post("/sign-in").header("cookie", visit.join("; ")).header("origin", origin);
        ask.form(&fields).send()
    };
    let answer = post(&format!("http://localhost:{}", front.nginx.port)).await.is(303);
    assert_eq!(answer.header("location"), "/app/", "relative: nginx does not know what people see");
    post("https://evil.example").await.is(403);
}

#[tokio::test]
async fn security_headers_are_there_once_and_nothing_private_is_compressed() {
    if !tools::with("nginx") {
        return;
    }
    let front = Front::start().await;
    let api = front.api();
    let ada = api.register("ada").await;
    let cookie = format!("entrybook_access={}", ada.access);
    // `Api` itself sees to it that each header is there once.
    for path in ["/sign-in", "/", "/nothing-here", "/api/v1/health", "/api/v1/nothing-here"] {
        let answer =
            api.get(path).header("cookie", &cookie).header("accept-encoding", "gzip").send().await;
        assert_eq!(answer.header("x-frame-options"), "DENY", "{path}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(
            answer.header("content-encoding"),
            "",
            "{path}: its length would give its secrets away"
        );
        assert_eq!(
            answer.headers.get("server").map(|server| server.to_str().unwrap()),
            Some("nginx"),
            "no version"
        );
    }
    let page = api.get("/sign-in").send().await.text();
    let sheet = page
        .split("href=\"")
        .find_map(|rest| rest.split('"').next().filter(|href| href.ends_with(".css")))
        .unwrap();
    let plain = api.get(sheet).send().await.is(200);
    let zipped = api.get(sheet).header("accept-encoding", "gzip").send().await.is(200);
    assert_eq!(zipped.header("content-encoding"), "gzip");
    assert!(
        zipped.header("vary").to_lowercase().contains("accept-encoding"),
        "{:?}",
        zipped.headers
    );
    assert!(
        zipped.body.len() < plain.body.len() / 2,
        "{} of {}",
        zipped.body.len(),
        plain.body.len()
    );
    assert!(plain.header("cache-control").contains("immutable"), "{:?}", plain.headers);
}

#[tokio::test]
async fn what_is_for_those_who_run_it_stays_inside() {
    if !tools::with("nginx") {
        return;
    }
    let front = Front::start().await;
    let port = front.nginx.port;
    let get = async |path: &str| {
        exchange(
            port,
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"),
        )
        .await
    };
    for path in [
        "/metrics",
        "/readyz",
        "/_entrybook/verify",
        "//metrics",
        "/./metrics",
        "/%6detrics",
        "/metrics?x",
    ] {
        let answer = get(path).await;
        assert_eq!(status(&answer), 404, "{path}: {answer}");
        assert!(!answer.contains("entrybook_"), "{path}: {answer}");
        for header in ["x-frame-options", "x-content-type-options", "referrer-policy"] {
            assert_eq!(
                answer.to_lowercase().matches(header).count(),
                1,
                "{header} of {path}: {answer}"
            );
        }
    }
    assert_eq!(status(&get("/healthz").await), 200);
    // More than nginx takes is refused there, in the words of the API.
    let mut raw = Raw::connect(port).await;
    raw.write(
        "POST /api/v1/auth/login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: 10000000\r\nConnection: close\r\n\r\n",
    )
    .await;
    let answer = raw.read_to_end().await;
    assert_eq!(status(&answer), 413, "{answer}");
    assert!(answer.contains("application/problem+json"), "{answer}");
    // What Entrybook refuses passes through as it is.
    let api = front.api();
    let body = format!("{{\"x\":\"{}\"}}", "x".repeat(100_000));
    api.post("/api/v1/auth/login")
        .body("application/json", body)
        .send()
        .await
        .problem(413, "too-large");
    api.post("/api/v1/auth/register")
        .json(registration("a b"))
        .send()
        .await
        .refuses(&["email", "username"]);
}

/// A replica that ends while nginx is in front: a word about it, and no write sent twice.
#[tokio::test]
async fn when_entrybook_is_gone_nginx_says_so() {
    if !tools::with("nginx") {
        return;
    }
    let front = Front::start().await;
    let super::Front { nginx, application, entrybook } = front;
    entrybook.server.kill();
    let request = "GET /sign-in HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let answer = exchange(nginx.port, request).await;
    assert_eq!(status(&answer), 502, "{answer}");
    // Nobody gets past it because nobody can be asked.
    let request = "GET / HTTP/1.1\r\nHost: app.localhost\r\nConnection: close\r\n\r\n";
    let answer = exchange(nginx.port, request).await;
    assert!(status(&answer) >= 500, "{answer}");
    assert_eq!(application.asked.load(std::sync::atomic::Ordering::Relaxed), 0);
}
