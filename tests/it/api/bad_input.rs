//! What no sane client sends: a clear 4xx, never a 5xx, and nothing changes.

use std::fmt::Write;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    http::{Answer, Api, password_of, registration},
    raw::{exchange, status},
    server::Tokens,
    shared::Running,
};

/// Everything that takes a body, with one that it would take.
fn bodies(tokens: &Tokens) -> Vec<(Method, String, Value)> {
    let post = |path: &str, body| (Method::POST, path.to_owned(), body);
    vec![
        post("/api/v1/auth/register", registration("newcomer")),
        post("/api/v1/auth/login", json!({"identifier": "ada", "password": password_of("ada")})),
        post("/api/auth/login", json!({"identifier": "ada", "password": password_of("ada")})),
        post("/api/v1/auth/refresh", json!({"refresh_token": tokens.refresh})),
        post("/api/v1/auth/logout", json!({"refresh_token": tokens.refresh})),
        post(
            "/api/v1/auth/password",
            json!({"current_password": password_of("ada"), "new_password": "another password"}),
        ),
        (Method::PATCH, "/api/v1/auth/me".to_owned(), json!({"full_name": "Ada"})),
        post(
            &format!("/api/v1/admin/users/{}/roles", tokens.user_id),
            json!({"grant": ["auditor"]}),
        ),
    ]
}

/// Text with something put in place of the first value.
fn with_first_value(body: &Value, value: &str) -> String {
    let (name, _) = body.as_object().unwrap().iter().next().unwrap();
    let mut others = body.clone();
    others.as_object_mut().unwrap().remove(name);
    let others = others.to_string();
    let comma = if others == "{}" { "" } else { "," };
    format!("{{\"{name}\":{value}{comma}{}", &others[1..])
}

/// Bodies that are refused, and with which statuses.
fn refused(good: &Value) -> Vec<(&'static str, &'static str, Vec<u8>, &'static [u16])> {
    let json = "application/json";
    let text = good.to_string();
    let deep = "[".repeat(100_000);
    let mut unknown = good.clone();
    unknown["is_admin"] = true.into();
    let nul = with_first_value(good, "\"a\\u0000b\"");
    let mut invalid = text.clone().into_bytes();
    let at = text.rfind('"').unwrap();
    invalid.insert(at, 0xff);
    let twice = format!("{},{}", &text[..text.len() - 1], &text[1..]);
    vec![
        ("half a body", json, text.as_bytes()[..text.len() / 2].to_vec(), &[400]),
        ("no JSON", json, b"hello".to_vec(), &[400]),
        ("two bodies", json, format!("{text}{text}").into(), &[400]),
        ("a comma too many", json, text.replace('}', ",}").into(), &[400]),
        ("comments", json, format!("/* */{text}").into(), &[400]),
        ("a byte order mark", json, format!("\u{feff}{text}").into(), &[400]),
        ("UTF-16", json, text.encode_utf16().flat_map(u16::to_le_bytes).collect(), &[400]),
        ("invalid UTF-8", json, invalid, &[400]),
        ("half a surrogate pair", json, with_first_value(good, "\"\\ud800\"").into(), &[400]),
        ("deep nesting", json, with_first_value(good, &deep).into(), &[400, 413]),
        (
            "deep and closed",
            json,
            with_first_value(good, &format!("{}{}", "[".repeat(9_000), "]".repeat(9_000))).into(),
            &[400],
        ),
        ("NaN", json, with_first_value(good, "NaN").into(), &[400]),
        ("a huge number", json, with_first_value(good, &"9".repeat(5_000)).into(), &[400, 422]),
        ("a number", json, with_first_value(good, "1").into(), &[422]),
        ("true", json, with_first_value(good, "true").into(), &[422]),
        ("an object", json, with_first_value(good, "{\"a\":1}").into(), &[422]),
        ("an array of arrays", json, with_first_value(good, "[[]]").into(), &[422]),
        ("an array instead", json, b"[]".to_vec(), &[422]),
        ("null instead", json, b"null".to_vec(), &[422]),
        ("a text instead", json, b"\"ada\"".to_vec(), &[422]),
        ("an unknown field", json, unknown.to_string().into(), &[422]),
        ("__proto__", json, format!("{{\"__proto__\":{{}},{}", &text[1..]).into(), &[422]),
        ("a field twice", json, twice.into(), &[422]),
        ("NUL bytes", json, nul.into(), &[422]),
        ("a raw NUL byte", json, text.replacen('"', "\"\0", 1).into(), &[400]),
        ("10 MB", json, format!("{{\"x\":\"{}\"}}", "x".repeat(10_000_000)).into(), &[413]),
        (
            "64 KiB and one",
            json,
            format!("{text}{}", " ".repeat(65_537 - text.len())).into(),
            &[413],
        ),
        ("plain text", "text/plain", text.clone().into(), &[415]),
        (
            "XML",
            "application/xml",
            b"<!DOCTYPE x [<!ENTITY e SYSTEM 'file:///etc/passwd'>]><x>&e;</x>".to_vec(),
            &[415],
        ),
        ("multipart", "multipart/form-data; boundary=x", b"--x--".to_vec(), &[415]),
        ("another charset", "application/json; charset=latin1", text.clone().into(), &[415]),
        ("a content type of bytes", "\u{e9}", text.into(), &[415]),
    ]
}

struct Book {
    running: Running,
    api: Api,
    ada: Tokens,
    events: i64,
}

impl Book {
    /// Ada is admin, so that nothing is refused for want of a role.
    async fn open() -> Self {
        let running = Running::start(&[]).await;
        let api = running.api();
        let (ada, admin) = (api.register("ada").await, api.admin().await);
        let path = format!("/api/v1/admin/users/{}/roles", ada.user_id);
        api.post(&path)
            .bearer(&admin.access)
            .json(json!({"grant": ["admin"]}))
            .send()
            .await
            .is(200);
        let events = running.events().await;
        Self { running, api, ada, events }
    }

    /// Nothing was written, nobody was signed out, and the server is as well as before.
    async fn untouched(self) {
        assert_eq!(self.running.events().await, self.events);
        self.api.me(&self.ada.access).await.is(200);
        self.api.refresh(&self.ada.refresh).await.is(200);
        self.api.sign_in("ada").await;
        let log = self.running.server.log();
        assert!(!log.contains("panicked"), "{log}");
        assert!(!log.contains("\"ERROR\"") && !log.contains(" ERROR "), "{log}");
    }
}

#[tokio::test]
async fn bodies_that_can_not_be_taken_change_nothing() {
    let book = Book::open().await;
    let mut wrong = String::new();
    for (method, path, good) in bodies(&book.ada) {
        for (what, content_type, body, expected) in refused(&good) {
            // Where a body may be left out, `null` is none.
            if what == "null instead" && good.get("refresh_token").is_some() {
                continue;
            }
            let ask = book
                .api
                .ask(method.clone(), &path)
                .bearer(&book.ada.access)
                .body(content_type, body);
            let answer = ask.send().await;
            if !expected.contains(&answer.status) {
                writeln!(
                    wrong,
                    "{method} {path}, {what}: {} and not {expected:?}: {}",
                    answer.status,
                    answer.text()
                )
                .unwrap();
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    // A JSON body without saying so, and a body where there should be one.
    for path in ["/api/v1/auth/register", "/api/v1/auth/login"] {
        book.api.post(path).send().await.problem(415, "unsupported-media-type");
        book.api
            .post(path)
            .body("application/json", "")
            .send()
            .await
            .problem(400, "malformed-request");
    }
    book.untouched().await;
}

#[tokio::test]
async fn long_values_are_named_or_bounded() {
    let book = Book::open().await;
    let (x, long) = ("x".repeat(2_000), "x".repeat(60_000));
    for text in [&x, &long] {
        for field in ["email", "username", "password", "full_name"] {
            let mut body = registration("newcomer");
            body[field] = text.as_str().into();
            book.api.post("/api/v1/auth/register").json(body).send().await.refuses(&[field]);
        }
        for (field, body) in [
            ("identifier", json!({"identifier": text, "password": "password1"})),
            ("email", json!({"email": text, "password": "password1"})),
            ("password", json!({"identifier": "ada", "password": text})),
        ] {
            book.api.post("/api/v1/auth/login").json(body).send().await.refuses(&[field]);
        }
        book.api.refresh(text).await.refuses(&["refresh_token"]);
        let name = book
            .api
            .patch("/api/v1/auth/me")
            .bearer(&book.ada.access)
            .json(json!({"username": text}));
        name.send().await.refuses(&["username"]);
    }
    // A password of 1,024 characters may have more bytes than that, and a bomb that unfolds under
    // normalisation (one character becomes eighteen) is only a password.
    let unfolding = "\u{fdfa}".repeat(1_024);
    let answer = book.api.try_sign_in("nobody", &unfolding).await;
    answer.problem(401, "wrong-credentials");
    let book = Book { events: book.events + 1, ..book };
    book.untouched().await;
}

#[tokio::test]
async fn forms_are_read_as_strictly_as_json() {
    let book = Book::open().await;
    let form = async |body: &[u8]| -> Answer {
        let ask =
            book.api.post("/api/v1/auth/login").body("application/x-www-form-urlencoded", body);
        ask.send().await
    };
    for (body, status) in [
        (&b""[..], 422),
        (b"username=ada", 422),
        (b"password=x", 422),
        (b"username=ada&password=x&username=ben", 422),
        (b"username=ada&password=x&extra=1", 422),
        (b"username=ada%00&password=x", 422),
        (b"username=ada%ff&password=x", 400),
        (b"username=ada%zz&password=x", 400),
        (b"username=\xff&password=x", 400),
        (b"username[]=ada&password=x", 422),
    ] {
        let answer = form(body).await;
        assert_eq!(answer.status, status, "{}: {}", String::from_utf8_lossy(body), answer.text());
    }
    form(format!("username=ada&password={}", "x".repeat(70_000)).as_bytes())
        .await
        .problem(413, "too-large");
    book.untouched().await;
}

#[tokio::test]
async fn methods_and_addresses_that_are_not_there() {
    let book = Book::open().await;
    let api = &book.api;
    for (method, path, allowed) in [
        ("GET", "/api/v1/auth/login", "POST"),
        ("DELETE", "/api/v1/auth/login", "POST"),
        ("PUT", "/api/v1/auth/me", "PATCH"),
        ("POST", "/api/v1/sessions", "DELETE"),
        ("POST", "/api/v1/audit", "GET"),
        ("OPTIONS", "/api/v1/auth/login", "POST"),
        ("TRACE", "/api/v1/auth/me", "GET"),
        ("PROPFIND", "/api/v1/auth/me", "GET"),
        ("DELETE", "/api/auth/login", "POST"),
        ("POST", "/api/health", "GET"),
        ("POST", "/.well-known/jwks.json", "GET"),
    ] {
        let answer = api.ask(method.parse().unwrap(), path).send().await;
        answer.problem(405, "method-not-allowed");
        assert!(answer.header("allow").contains(allowed), "{method} {path}: {:?}", answer.headers);
    }
    for path in [
        "/api",
        "/api/",
        "/api/v1",
        "/api/v1/",
        "/api/v2/auth/me",
        "/api/v1/auth",
        "/api/v1/auth/me/",
        "/api/v1//auth/me",
        "/api/V1/auth/me",
        "/api/v1/auth/me%2f",
        "/api/v1/auth/me%00",
        "/api/v1/auth/%ff",
        "/api/v1/auth/me;x=1",
    ] {
        for method in [Method::GET, Method::POST] {
            api.ask(method, path).bearer(&book.ada.access).send().await.problem(404, "not-found");
        }
    }
    // HEAD is GET without a body.
    for path in ["/api/v1/auth/me", "/api/v1/health", "/.well-known/jwks.json", "/api/v1/sessions"]
    {
        let head = api.ask(Method::HEAD, path).bearer(&book.ada.access).send().await.is(200);
        assert!(head.body.is_empty());
        let get = api.get(path).bearer(&book.ada.access).send().await;
        assert_eq!(head.header("content-type"), get.header("content-type"));
    }
    assert!(api.ask(Method::HEAD, "/api/v1/auth/me").send().await.is(401).body.is_empty());
    // Clients tidy such paths up before they send them.
    for path in [
        "/api/v1/../../etc/passwd",
        "/api/v1/%2e%2e/%2e%2e/etc/passwd",
        "//evil.example/api/v1/auth/me",
        "*",
    ] {
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let answer = exchange(book.running.server.port(), request).await;
        assert!(matches!(status(&answer), 400 | 404), "{path}: {answer}");
    }
    let long = format!("/api/v1/audit?user={}", "x".repeat(9_000));
    api.get(&long).bearer(&book.ada.access).send().await.refuses(&["user"]);
    book.untouched().await;
}

#[tokio::test]
async fn heads_that_are_too_much_or_not_http() {
    let book = Book::open().await;
    let port = book.running.server.port();
    let head = |lines: &str| {
        format!(
            "GET /api/v1/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{lines}\r\n"
        )
    };
    assert_eq!(status(&exchange(port, head("")).await), 200);
    let many: String = (0..500).map(|n| format!("X-{n}: {n}\r\n")).collect();
    let login = |lines: &str, body: &str| {
        format!(
            "POST /api/v1/auth/login HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Content-Type: application/json\r\n{lines}\r\n{body}"
        )
    };
    for (what, request) in [
        ("a huge header", head(&format!("X-Huge: {}\r\n", "x".repeat(100_000)))),
        ("a huge cookie", head(&format!("Cookie: a={}\r\n", "x".repeat(100_000)))),
        ("500 headers", head(&many)),
        (
            "a huge target",
            format!(
                "GET /{} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
                "x".repeat(100_000)
            ),
        ),
        ("a header without a name", head(": x\r\n")),
        ("a header with a NUL", head("X-A: a\0b\r\n")),
        ("a space before the colon", head("X-A : a\r\n")),
        ("a folded header", head("X-A: a\r\n b\r\n")),
        ("no HTTP", "hello\r\n\r\n".to_owned()),
        ("HTTP/9.9", "GET / HTTP/9.9\r\n\r\n".to_owned()),
        ("TLS", "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\r\n\r\n".to_owned()),
        ("two lengths", login("Content-Length: 2\r\nContent-Length: 3\r\n", "{}x")),
        ("a negative length", login("Content-Length: -1\r\n", "")),
        ("a length of words", login("Content-Length: ten\r\n", "")),
        ("an unknown coding", login("Transfer-Encoding: gzip\r\n", "{}")),
        ("chunks that are none", login("Transfer-Encoding: chunked\r\n", "zz\r\n{}\r\n0\r\n\r\n")),
        ("a body that ends early", login("Content-Length: 100\r\n", "{}")),
    ] {
        let mut raw = crate::support::raw::Raw::connect(port).await;
        raw.write(&request).await;
        let answer = if what == "a body that ends early" {
            raw.finish().await
        } else {
            raw.read_to_end().await
        };
        let got = status(&answer);
        assert!(got == 0 || (400..500).contains(&got), "{what}: {got} {answer}");
    }
    // Smuggling: the length is not what counts beside chunks, and what follows is no request.
    let smuggled = "0\r\n\r\nGET /api/v1/auth/me HTTP/1.1\r\nHost: a\r\n\r\n";
    let answer =
        exchange(port, login("Transfer-Encoding: chunked\r\nContent-Length: 6\r\n", smuggled))
            .await;
    assert!(answer.matches("HTTP/1.1").count() <= 1, "{answer}");
    book.untouched().await;
}
