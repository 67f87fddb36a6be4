//! An application that nginx lets nobody reach but who is signed in (`auth_request`).

use std::sync::atomic::Ordering;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    http::{Api, password_of},
    raw::{exchange, status},
    server::PATIENCE,
    tools,
};

use super::Front;

/// One request to the application as it stands here, with a head of more lines.
async fn get(front: &Front, path: &str, lines: &[(&str, &str)]) -> String {
    let lines: String = lines.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let host = front.app_host();
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{lines}\r\n");
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
    let bearer = format!("Bearer {}", ada.access);
    let of_login = format!("entrybook_access={}; entrybook_refresh={}", ada.access, ada.refresh);
    let in_place = format!("entrybook_app={}", ada.access);
    let application = format!("http://{}", front.app_host());
    for lines in [
        &[][..],
        &[("Authorization", "Bearer nothing")],
        // What is good at the login is not here.
        &[("Authorization", bearer.as_str())],
        &[("Cookie", of_login.as_str())],
        &[("Cookie", in_place.as_str())],
        &[("Cookie", "entrybook_app=nothing")],
        &[("Cookie", of_login.as_str()), ("X-Entrybook-Application", "")],
        &[("Cookie", of_login.as_str()), ("X-Entrybook-Application", application.as_str())],
        &[("X-Entrybook-User", ada.user_id.as_str()), ("X-Entrybook-Roles", "admin")],
        &[("X-Original-URI", "/healthz"), ("X-Rewrite-URL", "/healthz")],
    ] {
        for path in ["/", "/page", "/api/v1/auth/me", "/hand-over/start", "/sign-in"] {
            let answer = get(&front, path, lines).await;
            assert_eq!(status(&answer), 401, "{path} {lines:?}: {answer}");
        }
    }
    // A person in a browser is sent on their way, and comes back to where they wanted to be.
    for (path, back) in [
        ("/", "%2F"),
        ("/reports/7?year=2026&evil=//x", "%2Freports%2F7%3Fyear%3D2026%26evil%3D%2F%2Fx"),
        ("/a%20b", "%2Fa%2520b"),
        ("/%0d%0aSet-Cookie:x", "%2F%250d%250aSet-Cookie%3Ax"),
        ("//evil.example", "%2F"),
    ] {
        let accept = ("Accept", "text/html,*/*");
        let answer = get(&front, path, &[accept, ("X-Original-URI", "/forged")]).await;
        assert_eq!(status(&answer), 303, "{answer}");
        let port = front.nginx.port;
        let location = format!(
            "\r\nlocation: http://localhost:{port}/hand-over?application=http%3A%2F%2Fapp.localhost%3A{port}&return_to={back}&browser="
        );
        assert!(answer.to_lowercase().contains(&location.to_lowercase()), "{path}: {answer}");
    }
    // Nothing of Entrybook is at the application's host but the callback.
    for path in ["/.entrybook/", "/.entrybook/start", "/_entrybook/verify"] {
        assert_eq!(status(&get(&front, path, &[]).await), 404, "{path}");
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
    let own = front.enter(&ada).await;
    let (start, app) = own.split_once("; ").unwrap();
    let cookies = format!("theme=dark; {start}; lang=en; {app}");
    for more in [&[][..], &[("Authorization", bearer.as_str())]] {
        let answer = get(
            &front,
            "/page?x=1",
            &[
                more,
                &[
                    ("Cookie", cookies.as_str()),
                    ("X-Entrybook-User", "somebody-else"),
                    ("X-Entrybook-Roles", "admin"),
                    ("X_Entrybook_User", "somebody-else"),
                    ("X-Entrybook-Session", "none"),
                    ("X-Forwarded-For", "198.51.100.1"),
                    ("X-Entrybook-Cookie", "somebody-else"),
                ],
            ]
            .concat(),
        )
        .await;
        assert_eq!(status(&answer), 200, "{answer}");
        assert!(answer.contains("GET /page?x=1 HTTP/1.1"), "{answer}");
        assert_eq!(sent(&answer, "x-entrybook-user"), [ada.user_id.as_str()]);
        assert_eq!(sent(&answer, "x-entrybook-roles"), ["user"]);
        assert_eq!(sent(&answer, "x-entrybook-session"), [ada.session_id.as_str()]);
        assert_eq!(sent(&answer, "x-forwarded-for"), ["127.0.0.1"]);
        assert_eq!(sent(&answer, "x-forwarded-proto"), ["http"]);
        // Whoever holds a token is the person: the application gets none.
        assert_eq!(sent(&answer, "authorization"), [""; 0]);
        let app_token = app.split_once('=').unwrap().1;
        for token in [&ada.access, &ada.refresh, app_token, "somebody-else"] {
            assert!(!answer.contains(token), "{answer}");
        }
        for header in ["x-frame-options", "x-content-type-options", "referrer-policy"] {
            let head = answer.split_once("\r\n\r\n").unwrap().0.to_lowercase();
            assert_eq!(head.matches(header).count(), 1, "{header}: {answer}");
        }
    }
    let passed = async |cookies: String| {
        let answer = get(&front, "/", &[("Cookie", cookies.as_str())]).await;
        assert_eq!(status(&answer), 200, "{answer}");
        let lines = sent(&answer, "cookie");
        lines.iter().map(|line| line.trim().trim_end_matches(';').to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(passed(cookies.clone()).await, ["theme=dark; lang=en"], "its own it keeps");
    // However many of ours there are, and however they are written.
    let many: String = (0..9).map(|number| format!("; entrybook_x{number}=secret")).collect();
    for more in [
        &many,
        "; entrybook_a=secret; Entrybook_B=secret; __Host-entrybook_c1-d=secret",
        "; __Secure-entrybook_x=secret; entrybook_=secret; entrybook_x =secret",
    ] {
        let kept = passed(format!("theme=dark; {app}{more}")).await.concat();
        assert!(!kept.to_lowercase().contains("entrybook") && !kept.contains("secret"), "{kept}");
    }

    // A role that is granted is told at once; a session that is ended is out at once.
    let admin = api.admin().await;
    let roles = format!("/api/v1/admin/users/{}/roles", ada.user_id);
    api.post(&roles)
        .bearer(&admin.access)
        .json(serde_json::json!({"grant": ["auditor"]}))
        .send()
        .await
        .is(200);
    let answer = get(&front, "/", &[("Cookie", &cookies)]).await;
    assert_eq!(sent(&answer, "x-entrybook-roles"), ["user,auditor"]);
    api.post("/api/v1/auth/logout").bearer(&ada.access).send().await.is(204);
    assert_eq!(status(&get(&front, "/", &[("Cookie", &cookies)]).await), 401);
    api.sign_in_with("ada", &password_of("ada")).await;
    assert_eq!(front.nginx.error_log(), "");
}

/// A connection that is switched over, or that sends on and on.
async fn open(front: &Front, path: &str, lines: &str) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", front.nginx.port)).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n{lines}\r\n", front.app_host());
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

async fn read_until(stream: &mut TcpStream, words: &str) -> String {
    let mut seen = String::new();
    let reading = async {
        while !seen.ends_with(words) {
            let byte = stream.read_u8().await.unwrap();
            seen.push(char::from(byte));
        }
    };
    let read = tokio::time::timeout(PATIENCE, reading).await;
    assert!(read.is_ok(), "waited in vain for {words:?}: {seen}");
    seen
}

const UPGRADE: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

#[tokio::test]
async fn websockets_and_events_pass_as_they_come() {
    if !tools::with("nginx") {
        return;
    }
    let front = Front::start().await;
    let ada = front.api().register("ada").await;
    let cookie = format!("Cookie: {}\r\n", front.enter(&ada).await);
    let mut socket = open(&front, "/socket", &format!("{cookie}{UPGRADE}")).await;
    let head = read_until(&mut socket, "\r\n\r\n").await;
    assert_eq!(status(&head), 101, "{head}");
    read_until(&mut socket, "\r\n\r\n").await;
    socket.write_all(b"hello over there").await.unwrap();
    read_until(&mut socket, "hello over there").await;
    // Signed out, there is no switching.
    let answer = get(&front, "/socket", &[("Upgrade", "websocket")]).await;
    assert_eq!(status(&answer), 401, "{answer}");

    let mut events =
        open(&front, "/events", &format!("{cookie}Accept: text/event-stream\r\n")).await;
    let seen = read_until(&mut events, "data: first\n\n").await;
    assert_eq!(status(&seen), 200, "{seen}");
}

/// Issue 10, number 21: nginx asks when a WebSocket is opened and never again, so the application has to, and is given
/// what it needs for that.
#[tokio::test]
async fn a_websocket_outlives_its_session_and_the_application_can_find_out() {
    if !tools::with("nginx") {
        return;
    }
    let front = Front::start().await;
    let api = front.api();
    let ada = api.register("ada").await;
    let cookies = front.enter(&ada).await;
    let lines = format!("Cookie: theme=dark; {cookies}\r\nX-Entrybook-Cookie: forged\r\n{UPGRADE}");
    let mut socket = open(&front, "/socket", &lines).await;
    let switched = read_until(&mut socket, "\r\n\r\n").await;
    assert_eq!(status(&switched), 101, "{switched}");
    // The head that the application was sent.
    let head = format!("\r\n\r\n{}", read_until(&mut socket, "\r\n\r\n").await);
    let until: Vec<_> = sent(&head, "x-entrybook-until");
    assert!(until[0].parse::<i64>().unwrap() > 1_700_000_000, "{head}");
    let given = sent(&head, "x-entrybook-cookie");
    assert_eq!(
        given,
        [cookies.split("; ").find(|pair| pair.starts_with("entrybook_app=")).unwrap()]
    );

    // As the application asks, on the inner network.
    let inner = Api::new(front.entrybook.server.url(""));
    let application = format!("http://{}", front.app_host());
    let asked_again = async || {
        let ask = inner.get("/api/v1/auth/verify").header("x-entrybook-application", &application);
        ask.header("cookie", given[0]).send().await
    };
    let yes = asked_again().await.is(204);
    assert_eq!(yes.header("x-entrybook-session"), ada.session_id);
    assert_eq!(yes.header("x-entrybook-until"), until[0]);

    api.post("/api/v1/auth/logout").bearer(&ada.access).send().await.is(204);
    socket.write_all(b"still here").await.unwrap();
    read_until(&mut socket, "still here").await;
    asked_again().await.is(401);
    let mut refused = open(&front, "/socket", &lines).await;
    let head = read_until(&mut refused, "\r\n\r\n").await;
    assert_eq!(status(&head), 401, "{head}");
}
