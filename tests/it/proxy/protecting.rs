//! An application that nginx lets nobody reach but who is signed in (`auth_request`).

use std::sync::atomic::Ordering;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    http::password_of,
    raw::{exchange, status},
    server::PATIENCE,
    tools,
};

use super::Front;

/// One request as it stands here, with a head of more lines.
async fn get(front: &Front, path: &str, lines: &[(&str, &str)]) -> String {
    let lines: String = lines.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{lines}\r\n");
    exchange(front.nginx.port, request).await
}

/// The values of a header that the application was sent.
fn sent<'a>(answer: &'a str, name: &str) -> Vec<&'a str> {
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    let lines = body.lines().filter_map(|line| line.split_once(':'));
    lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).collect()
}

#[tokio::test]
async fn nobody_who_is_not_signed_in_gets_to_the_application() {
    if !tools::with("nginx") {
        return;
    }
    let front = Front::start().await;
    let ada = front.api().register("ada").await;
    let wrong = format!("Bearer {}x", ada.access);
    for lines in [
        &[][..],
        &[("Authorization", "Bearer nothing")],
        &[("Authorization", wrong.as_str())],
        &[("Cookie", "entrybook_access=nothing")],
        &[("X-Entrybook-User", ada.user_id.as_str()), ("X-Entrybook-Roles", "admin")],
        &[("X-Original-URI", "/healthz"), ("X-Rewrite-URL", "/healthz")],
    ] {
        let answer = get(&front, "/app/", lines).await;
        assert_eq!(status(&answer), 401, "{lines:?}: {answer}");
    }
    // A person in a browser is shown the way, and comes back.
    for (path, location) in [
        ("/app/", "/sign-in?return_to=/app/"),
        ("/app/reports/7?year=2026&evil=//x", "/sign-in?return_to=/app/reports/7"),
        ("/app/a%20b", "/sign-in?return_to=/app/a%20b"),
        ("/app/%0d%0aSet-Cookie:x", "/sign-in?return_to=/app/%0d%0aSet-Cookie:x"),
    ] {
        let answer = get(&front, path, &[("Accept", "text/html,*/*")]).await;
        assert_eq!(status(&answer), 302, "{answer}");
        assert!(answer.contains(&format!("\r\nLocation: {location}\r\n")), "{path}: {answer}");
    }
    assert_eq!(front.application.asked.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn the_application_is_told_who_it_is_by_nobody_but_nginx() {
    if !tools::with("nginx") {
        return;
    }
    let front = Front::start().await;
    let api = front.api();
    let ada = api.register("ada").await;
    let bearer = format!("Bearer {}", ada.access);
    let cookies = format!(
        "theme=dark; entrybook_access={}; entrybook_refresh={}; entrybook_csrf=x; lang=en; entrybook_notice=y",
        ada.access, ada.refresh
    );
    for proof in [("Authorization", bearer.as_str()), ("Cookie", cookies.as_str())] {
        let answer = get(
            &front,
            "/app/page?x=1",
            &[
                proof,
                ("X-Entrybook-User", "somebody-else"),
                ("X-Entrybook-Roles", "admin"),
                ("X_Entrybook_User", "somebody-else"),
                ("X-Entrybook-Session", "none"),
                ("X-Forwarded-For", "198.51.100.1"),
            ],
        )
        .await;
        assert_eq!(status(&answer), 200, "{answer}");
        assert!(answer.contains("GET /app/page?x=1 HTTP/1.1"), "{answer}");
        assert_eq!(sent(&answer, "x-entrybook-user"), [ada.user_id.as_str()]);
        assert_eq!(sent(&answer, "x-entrybook-roles"), ["user"]);
        assert_eq!(sent(&answer, "x-entrybook-session"), [ada.session_id.as_str()]);
        assert_eq!(sent(&answer, "x-forwarded-for"), ["127.0.0.1"]);
        assert_eq!(sent(&answer, "x-forwarded-proto"), ["http"]);
        // Whoever holds a token is the person: the application gets none.
        assert_eq!(sent(&answer, "authorization"), [""; 0]);
        for token in [&ada.access, &ada.refresh, "somebody-else"] {
            assert!(!answer.contains(token), "{answer}");
        }
        for header in ["x-frame-options", "x-content-type-options", "referrer-policy"] {
            let head = answer.split_once("\r\n\r\n").unwrap().0.to_lowercase();
            assert_eq!(head.matches(header).count(), 1, "{header}: {answer}");
        }
    }
    let answer = get(&front, "/app/", &[("Cookie", &cookies)]).await;
    let kept: Vec<_> =
        sent(&answer, "cookie").iter().map(|line| line.trim_end_matches(';')).collect();
    assert_eq!(kept, ["theme=dark; lang=en"], "its own cookies it keeps");

    // A role that is granted is told at once; a session that is ended is out at once.
    let admin = api.admin().await;
    let roles = format!("/api/v1/admin/users/{}/roles", ada.user_id);
    api.post(&roles)
        .bearer(&admin.access)
        .json(serde_json::json!({"grant": ["auditor"]}))
        .send()
        .await
        .is(200);
    let answer = get(&front, "/app/", &[("Authorization", &bearer)]).await;
    assert_eq!(sent(&answer, "x-entrybook-roles"), ["user,auditor"]);
    api.post("/api/v1/auth/logout").bearer(&ada.access).send().await.is(204);
    assert_eq!(status(&get(&front, "/app/", &[("Authorization", &bearer)]).await), 401);
    assert_eq!(status(&get(&front, "/app/", &[("Cookie", &cookies)]).await), 401);
    api.sign_in_with("ada", &password_of("ada")).await;
    assert_eq!(front.nginx.error_log(), "");
}

#[tokio::test]
async fn websockets_and_events_pass_as_they_come() {
    if !tools::with("nginx") {
        return;
    }
    let front = Front::start().await;
    let ada = front.api().register("ada").await;
    let open = async |path: &str, lines: &str| {
        let mut stream = TcpStream::connect(("127.0.0.1", front.nginx.port)).await.unwrap();
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n{lines}\r\n",
            ada.access
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    };
    let read_until = async |stream: &mut TcpStream, words: &str| {
        let mut seen = String::new();
        let reading = async {
            while !seen.contains(words) {
                let byte = stream.read_u8().await.unwrap();
                seen.push(char::from(byte));
            }
        };
        let read = tokio::time::timeout(PATIENCE, reading).await;
        assert!(read.is_ok(), "waited in vain for {words:?}: {seen}");
        seen
    };
    let upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let mut socket = open("/app/socket", upgrade).await;
    let head = read_until(&mut socket, "\r\n\r\n").await;
    assert_eq!(status(&head), 101, "{head}");
    socket.write_all(b"hello over there").await.unwrap();
    read_until(&mut socket, "hello over there").await;
    // Signed out, there is no switching.
    let answer = get(&front, "/app/socket", &[("Upgrade", "websocket")]).await;
    assert_eq!(status(&answer), 401, "{answer}");

    let mut events = open("/app/events", "Accept: text/event-stream\r\n").await;
    let seen = read_until(&mut events, "data: first\n\n").await;
    assert_eq!(status(&seen), 200, "{seen}");
}
