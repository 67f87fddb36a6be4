//! Requests that another site makes a browser send.

use std::sync::Arc;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::support::{
    browser::JavaScript,
    http::{Answer, Api, password_of},
    server::Tokens,
    shared::{Running, unique},
    tools,
};

/// The token in the forms of a page.
pub(super) fn csrf_of(page: &Answer) -> String {
    let html = page.text();
    let rest =
        html.split(r#"name="csrf" value=""#).nth(1).unwrap_or_else(|| panic!("no token in {html}"));
    rest.split('"').next().unwrap().to_owned()
}

fn cookie_of(tokens: &Tokens) -> String {
    format!("entrybook_access={}; entrybook_refresh={}", tokens.access, tokens.refresh)
}

/// Everything of the pages that changes something.
fn forms(id: &str) -> Vec<(String, Vec<(&'static str, &'static str)>)> {
    let user = |action: &str| format!("/users/{id}/{action}");
    vec![
        ("/sign-out".into(), vec![]),
        (format!("/sessions/{id}/end"), vec![]),
        ("/sessions/end-others".into(), vec![]),
        (
            "/password".into(),
            vec![("current_password", "a password"), ("new_password", "another password")],
        ),
        (
            "/profile".into(),
            vec![("full_name", "Eve"), ("username", "evegotin"), ("email", "eve@example.org")],
        ),
        (user("disable"), vec![]),
        (user("enable"), vec![]),
        (user("erase"), vec![("username", "ben"), ("myself", "on")]),
        (user("roles/grant"), vec![("role", "admin")]),
        (user("roles/revoke"), vec![("role", "auditor")]),
    ]
}

#[tokio::test]
async fn no_form_is_taken_from_another_origin_or_without_its_token() {
    let running = Running::start(&[]).await;
    let api = running.api();
    let (admin, other) = (api.admin().await, api.register("ben").await);
    let second = api.admin().await;
    let cookie = cookie_of(&admin);
    let page = api.get("/profile").header("cookie", &cookie).send().await.is(200);
    let token = csrf_of(&page);
    let of_another_session =
        csrf_of(&api.get("/profile").header("cookie", cookie_of(&second)).send().await.is(200));
    assert_ne!(token, of_another_session);
    let ours = format!("http://localhost:{}", running.server.port());
    let events = running.events().await;

    for (path, fields) in forms(&other.user_id) {
        let post = async |csrf: Option<&str>, headers: &[(&str, &str)]| {
            let fields: Vec<_> =
                fields.iter().copied().chain(csrf.map(|csrf| ("csrf", csrf))).collect();
            let mut ask = api.post(&path).header("cookie", &cookie).form(&fields);
            for (name, value) in headers {
                ask = ask.header(name, value);
            }
            ask.send().await
        };
        // Even with the right token, which no other site can know.
        for headers in [
            &[("origin", "https://evil.example"), ("sec-fetch-site", "cross-site")][..],
            &[("origin", "https://evil.example")],
            &[("origin", "null")],
            &[("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "same-site"), ("origin", "http://localhost:1")],
            &[("origin", "http://localhost.evil.example")],
        ] {
            let answer = post(Some(&token), headers).await;
            assert_eq!(answer.status, 403, "{path} {headers:?}: {}", answer.text());
            assert!(answer.header("content-type").starts_with("text/html"), "{path}");
        }
        // From here, without the token or with another's.
        for wrong in
            [None, Some(""), Some("x"), Some(of_another_session.as_str()), Some(&token[1..])]
        {
            let answer = post(wrong, &[("origin", &ours), ("sec-fetch-site", "same-origin")]).await;
            assert!(
                matches!(answer.status, 303 | 403 | 422),
                "{path} {wrong:?}: {}",
                answer.status
            );
        }
        // A browser says what kind of body it is; JSON can't be sent by a form.
        let json =
            api.post(&path).header("cookie", &cookie).json(serde_json::json!({"csrf": token}));
        assert_eq!(json.send().await.status, 415, "{path}");
        api.get(&path).header("cookie", &cookie).send().await;
    }
    assert_eq!(running.events().await, events, "nothing was changed");
    api.me(&admin.access).await.is(200);
}

/// A stranger's browser could be made to sign in to the attacker's account, and be watched there.
#[tokio::test]
async fn nobody_is_signed_in_or_registered_by_another_site() {
    let running = Running::start(&[]).await;
    let api = running.api();
    api.register("eve").await;
    let events = running.events().await;
    let password = password_of("eve");
    let form = api.get("/sign-in").send().await.is(200);
    let (token, visit) = (csrf_of(&form), visit_of(&form));
    let post = async |path: &str, csrf: &str, cookie: &str, origin: &str| {
        let fields = match path {
            "/sign-in" => {
                vec![("identifier", "eve"), ("password", password.as_str()), ("csrf", csrf)]
            }
            _ => {
                vec![
                    ("email", "v@example.org"),
                    ("username", "victim"),
                    ("password", &password),
                    ("csrf", csrf),
                ]
            }
        };
        let ask = api.post(path).header("cookie", cookie).form(&fields);
        if origin.is_empty() { ask } else { ask.header("origin", origin) }.send().await
    };
    for path in ["/sign-in", "/register"] {
        // With the attacker's own token, in the victim's browser.
        let stranger = api.get(path).send().await.is(200);
        for (csrf, cookie) in [
            (&token, String::new()),
            (&token, visit_of(&stranger)),
            (&String::new(), visit.clone()),
        ] {
            let answer = post(path, csrf, &cookie, "").await;
            assert_eq!(answer.status, 422, "{path}: {}", answer.text());
            assert!(answer.text().contains("This form was too old"), "{}", answer.text());
            assert!(!answer.text().contains(&password), "a password is never sent back");
        }
        post(path, &token, &visit, "https://evil.example").await.is(403);
    }
    assert_eq!(running.events().await, events);
    // The control: this is what signs in.
    post("/sign-in", &token, &visit, "").await.is(303);
}

fn visit_of(page: &Answer) -> String {
    let (name, value, _) =
        page.cookies().into_iter().find(|(name, _, _)| name == "entrybook_csrf").unwrap();
    format!("{name}={value}")
}

/// The API takes the cookie of a browser, too, and from this origin alone.
#[tokio::test]
async fn the_api_is_as_careful_with_cookies() {
    let running = Running::shared().await;
    let api = running.api();
    let ada = api.register(&unique("ada")).await;
    let change = |api: &Api, site: &str| {
        let ask = api
            .patch("/api/v1/auth/me")
            .header("cookie", cookie_of(&ada))
            .header("sec-fetch-site", site);
        ask.json(serde_json::json!({"full_name": "Ada"}))
    };
    for site in ["cross-site", "same-site"] {
        change(&api, site)
            .header("origin", "https://evil.example")
            .send()
            .await
            .problem(403, "cross-site-request");
    }
    change(&api, "same-origin").send().await.is(200);
    // No other origin may read anything: there is no CORS here.
    let ask = api
        .get("/api/v1/auth/me")
        .header("cookie", cookie_of(&ada))
        .header("origin", "https://evil.example");
    let answer = ask.send().await;
    assert_eq!(answer.headers.get("access-control-allow-origin"), None);
    let preflight = api
        .ask(reqwest::Method::OPTIONS, "/api/v1/auth/me")
        .header("origin", "https://evil.example")
        .header("access-control-request-method", "PATCH");
    assert_eq!(preflight.send().await.headers.get("access-control-allow-origin"), None);
}

/// A site of somebody else: whatever is asked for, it answers with this page.
pub(super) async fn other_site(html: String) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let html = Arc::new(html);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let html = html.clone();
            tokio::spawn(async move {
                let mut head = [0; 4096];
                let _ = stream.read(&mut head).await;
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{html}",
                    html.len()
                );
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    port
}

/// In a real browser, with its real headers, from the nearest other origin there is: another port,
/// which for cookies is the same site.
#[tokio::test]
async fn a_real_browser_is_led_by_another_site_in_vain() {
    if !tools::with("browser") {
        return;
    }
    let running = Running::shared().await;
    let (name, api) = (unique("ada"), running.api());
    let ada = api.register(&name).await;
    let browser = super::browser(&running, JavaScript::On).await;
    browser.open("/sign-in").await;
    browser.sign_in(&name, &password_of(&name)).await;
    browser.arrives("/").await;

    let ours = format!("http://localhost:{}", running.server.port());
    let html = format!(
        r#"<form method=post action="{ours}/sessions/end-others"><input name=csrf value=x><button>Win a prize</button></form>
           <iframe src="{ours}/"></iframe>"#
    );
    let port = other_site(html).await;
    browser.open(&format!("http://localhost:{port}/")).await;
    browser.press("Win a prize").await;
    browser.arrives("/sessions/end-others").await;
    browser.shows("This was sent by a page of another site").await;
    api.me(&ada.access).await.is(200);
    // It could not be framed, either.
    let complaints = browser.complaints().await.join("\n");
    assert!(
        complaints.contains("frame-ancestors") || complaints.contains("X-Frame-Options"),
        "{complaints}"
    );
    browser.open("/").await;
    browser.shows("Hello, ").await;
    browser.close().await;
}

/// Whoever reads the log must know whom something was refused, and may not learn more than ids.
#[tokio::test]
async fn refusals_are_in_the_log_with_who_asked() {
    let running = Running::start(&[]).await;
    let api = running.api();
    let ada = api.register("ada").await;
    let who = format!("account {}, session {}", ada.user_id, ada.session_id);
    let refused = |answer: &Answer, kind: &str| {
        let (id, log) = (answer.header("x-request-id"), running.server.log());
        let line = log.lines().find(|line| line.contains(&format!("request {id} of")));
        let line = line.unwrap_or_else(|| panic!("{id} is not in {log}")).to_owned();
        assert!(line.contains(kind), "{line}");
        line
    };
    let answer = api.get("/api/v1/admin/users").bearer(&ada.access).send().await.is(403);
    let line = refused(&answer, "forbidden");
    assert!(line.contains(&who), "{line}");
    let cookie = cookie_of(&ada);
    let answer = api.get("/users").header("cookie", &cookie).send().await.is(403);
    let line = refused(&answer, "forbidden");
    assert!(line.contains(&who), "{line}");
    let evil = ("sec-fetch-site", "cross-site");
    let answer = api
        .delete("/api/v1/sessions")
        .header("cookie", &cookie)
        .header(evil.0, evil.1)
        .send()
        .await
        .is(403);
    assert!(refused(&answer, "cross-site-request").contains(&who));
    let form = [("csrf", "x"), ("full_name", "Eve")];
    let answer = api
        .post("/profile")
        .header("cookie", &cookie)
        .header(evil.0, evil.1)
        .form(&form)
        .send()
        .await
        .is(403);
    assert!(refused(&answer, "cross-site-request").contains(&who));
    let answer = api
        .post("/sign-in")
        .header(evil.0, evil.1)
        .form(&[("identifier", "ada")])
        .send()
        .await
        .is(403);
    assert!(refused(&answer, "cross-site-request").contains("nobody who is signed in"));
    api.post("/sign-out").header("cookie", &cookie).form(&[("csrf", "x")]).send().await;
    let log = running.server.log();
    assert!(log.contains(&format!("a form of {who} was refused")), "{log}");
    for secret in ["ada@example.org", &ada.access, "Eve"] {
        assert!(!log.contains(secret), "{secret} in {log}");
    }
}
