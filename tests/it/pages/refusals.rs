//! What people are told when something can't be done.

use crate::support::{
    browser::JavaScript,
    http::{email_of, password_of},
    shared::{Running, unique},
    tools,
};

#[tokio::test]
async fn wrong_passwords_and_too_many_of_them() {
    if !tools::with("browser") {
        return;
    }
    let running = Running::start(&[("ENTRYBOOK_THROTTLE_FIRST_DELAY", "120s")]).await;
    running.api().register("ada").await;
    let browser = super::browser(&running, JavaScript::Off).await;
    browser.open("/sign-in").await;
    browser.sign_in("ada", "not the password").await;
    let wrong = browser.notice().await;
    assert!(wrong.contains("do not match an account"), "{wrong}");
    // Nothing tells an unknown name apart, what was typed as a name stays, and the password does not.
    browser.sign_in("nobody", "not the password").await;
    assert_eq!(browser.notice().await, wrong);
    let typed = "return [document.querySelector('[name=identifier]').value, document.querySelector('[name=password]').value]";
    assert_eq!(browser.ask(typed).await, serde_json::json!(["nobody", ""]));
    for _ in 0..5 {
        browser.sign_in("ada", "not the password").await;
    }
    let notice = browser.notice().await;
    assert!(notice.contains("too many attempts") && notice.contains("2 minutes"), "{notice}");
    browser.sign_in("ada", &password_of("ada")).await;
    let notice = browser.notice().await;
    assert!(notice.contains("too many attempts"), "{notice}");
    browser.close().await;
}

#[tokio::test]
async fn what_was_done_too_often_is_said_above_the_form() {
    if !tools::with("browser") {
        return;
    }
    let running = Running::start(&[("ENTRYBOOK_CHANGES_PER_HOUR", "6")]).await;
    let api = running.api();
    api.register("ada").await;
    api.sign_in("ada").await;
    let browser = super::browser(&running, JavaScript::Off).await;
    browser.open("/sign-in").await;
    browser.sign_in("ada", &password_of("ada")).await;
    let notice = browser.notice().await;
    assert!(notice.contains("too often") && notice.contains("10 minutes"), "{notice}");
    browser.close().await;
}

#[tokio::test]
async fn what_is_wrong_is_said_beside_its_field() {
    if !tools::with("browser") {
        return;
    }
    let running = Running::shared().await;
    let (name, api) = (unique("ada"), running.api());
    api.register(&name).await;
    let browser = super::browser(&running, JavaScript::Off).await;
    browser.open("/register").await;
    browser.fill("email", &email_of(&name)).await;
    browser.fill("username", &name).await;
    browser.fill("password", "long enough").await;
    browser.press("Create the account").await;
    browser.shows("There is already an account with this e-mail.").await;
    browser.fill("email", "someone@example.org").await;
    browser.fill("username", "no spaces, please").await;
    browser.fill("password", "long enough").await;
    browser.press("Create the account").await;
    browser.shows("A username has letters and digits").await;
    browser.arrives("/register").await;
    browser.close().await;
}

#[tokio::test]
async fn pages_that_are_not_there_or_not_for_everybody() {
    let running = Running::shared().await;
    let api = running.api();
    let ada = api.register(&unique("ada")).await;
    let cookie = format!("entrybook_access={}", ada.access);
    for path in [
        "/nothing-here",
        "/sessions/",
        "/sign-in/",
        "/static/nothing.css",
        "/static/..%2f..%2fCargo.toml",
        "/%ff",
    ] {
        for signed_in in [false, true] {
            let mut ask = api.get(path);
            if signed_in {
                ask = ask.header("cookie", &cookie);
            }
            let page = ask.send().await.is(404);
            if path == "/nothing-here" {
                assert_eq!(page.text().contains("Sign out"), signed_in);
            }
            assert!(page.header("content-type").starts_with("text/html"), "{path}");
            assert!(page.text().contains("There is nothing here"), "{path}");
            assert!(page.text().contains(page.header("x-request-id")), "{path}");
        }
    }
    for path in ["/history", "/users", "/projections"] {
        let page = api.get(path).header("cookie", &cookie).send().await.is(403);
        assert!(page.text().contains("This is not for you to see"), "{path}");
        let to = api.get(path).send().await.is(303);
        assert_eq!(to.header("location"), format!("/sign-in?return_to=%2F{}", &path[1..]));
    }
    // Whoever is signed in can sign out from there too.
    for path in ["/nothing-here", "/history"] {
        let grace = api.register(&unique("grace")).await;
        let cookie = format!("entrybook_access={}", grace.access);
        let page = api.get(path).header("cookie", &cookie).send().await;
        let text = page.text();
        let token = text.split("name=\"csrf\" value=\"").nth(1).unwrap();
        let token = token.split('"').next().unwrap();
        let out = api.post("/sign-out").header("cookie", &cookie).form(&[("csrf", token)]);
        let out = out.header("sec-fetch-site", "same-origin").send().await.is(303);
        assert_eq!(out.header("location"), "/sign-in", "{path}");
        api.get("/").header("cookie", &cookie).send().await.is(303);
    }
    for path in ["/sign-out", "/sessions/end-others"] {
        api.get(path).header("cookie", &cookie).send().await.is(405);
    }
    // A page with a cookie that is none of ours is a page for somebody unknown.
    for wrong in
        ["entrybook_access=x", "entrybook_refresh=x", "entrybook_access=x; entrybook_refresh=x"]
    {
        api.get("/").header("cookie", wrong).send().await.is(303);
    }
    // Filters that can't be read come back with the word beside them, and never as an error of ours.
    for query in [
        "session=x",
        "from=yesterday",
        "to=99999-01-01",
        "from=-262143-01-01",
        "from=2026-02-01&to=2026-01-01",
        "type=x",
        "cursor=x",
        "order=x",
        "from=0000-01-01",
        "nothing=x",
    ] {
        let page = api.get(&format!("/my-history?{query}")).header("cookie", &cookie).send().await;
        assert!(matches!(page.status, 200 | 422), "{query}: {}", page.text());
    }
}

/// What people type is shown as they typed it, and never as markup.
#[tokio::test]
async fn nothing_that_was_typed_becomes_markup() {
    let running = Running::start(&[]).await;
    let api = running.api();
    let evil = r#""><script>alert(1)</script><img src=x onerror=alert(1)>'"#;
    let mut body = crate::support::http::registration("mallory");
    body["full_name"] = evil.into();
    let ask = api.post("/api/v1/auth/register").header("user-agent", evil).json(body);
    let mallory = ask.send().await.tokens(201);
    api.try_sign_in(evil, "not the password").await.is(401);
    let admin = api.admin().await;
    let pages = [
        (&mallory, "/"),
        (&mallory, "/sessions"),
        (&mallory, "/profile"),
        (&mallory, "/my-history"),
        (&admin, "/users"),
        (&admin, "/history"),
        (&admin, "/users?q=%22%3E%3Cscript%3Ealert(1)%3C/script%3E"),
        (&admin, "/history?user=%22%3E%3Cscript%3Ealert(1)%3C/script%3E"),
        (&admin, "/history?type=%22%3E%3Cscript%3Ealert(1)%3C/script%3E"),
    ];
    for (who, path) in pages {
        let page =
            api.get(path).header("cookie", format!("entrybook_access={}", who.access)).send().await;
        assert!(matches!(page.status, 200 | 422), "{path}: {}", page.text());
        let html = page.text();
        assert!(!html.contains("<script") && !html.contains("<img src=x"), "{path}: {html}");
        assert!(
            page.header("content-security-policy")
                .starts_with("default-src 'none'; style-src 'self'"),
            "{path}"
        );
    }
}
