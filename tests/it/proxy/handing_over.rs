//! In a browser: opening an application, signing in on the way, and what the application's scripts can get at.

use serde_json::{Value, json};

use crate::support::{
    browser::{Browser, JavaScript},
    http::password_of,
    server::eventually,
    tools,
};

use super::Front;

/// Runs a script that answers later, by calling `done`.
async fn later(browser: &Browser, script: &str) -> Value {
    let script = format!("const done = arguments[0]; {script}");
    browser.client.execute_async(&script, Vec::new()).await.unwrap()
}

/// What a script of the page gets of an address, with all cookies that the browser would send.
async fn fetched(browser: &Browser, method: &str, url: &str) -> Value {
    let script = format!(
        "fetch({}, {{method: {method:?}, credentials: 'include'}})
             .then(async answer => done({{status: answer.status, text: await answer.text()}}))
             .catch(error => done({{refused: String(error)}}))",
        json!(url)
    );
    later(browser, &script).await
}

async fn whole_url(browser: &Browser) -> String {
    browser.client.current_url().await.unwrap().to_string()
}

async fn arrives(browser: &Browser, url: &str) {
    eventually(&format!("the page is {url}"), async || {
        (whole_url(browser).await == url).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_comes_to_the_application_and_its_scripts_to_nothing_of_the_login() {
    if !tools::with("nginx") || !tools::with("browser") {
        return;
    }
    let front = Front::start().await;
    let api = front.api();
    let ada = api.register("ada").await;
    let login = format!("http://localhost:{}", front.nginx.port);
    let app = format!("http://{}", front.app_host());
    let browser = Browser::start(&login, JavaScript::On).await;

    // To the form, and back to what was asked for, with its query.
    browser.open(&format!("{app}/page?year=2026")).await;
    eventually("the form is there", async || {
        whole_url(&browser).await.starts_with(&format!("{login}/sign-in?")).then_some(())
    })
    .await;
    browser.sign_in("ada", &password_of("ada")).await;
    arrives(&browser, &format!("{app}/page?year=2026")).await;
    // The application shows what it was sent.
    browser.shows(&format!("X-Entrybook-User: {}", ada.user_id)).await;
    assert!(
        !browser.text().await.to_lowercase().contains("cookie: "),
        "no cookie is the application's"
    );
    let cookies = browser.cookies().await;
    let mut names: Vec<_> = cookies.iter().map(|cookie| cookie.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["entrybook_app", "entrybook_start"], "nothing of the login");
    for cookie in &cookies {
        assert!(cookie.http_only && cookie.domain == "app.localhost", "{cookie:?}");
    }

    // What a script of the application gets at.
    assert_eq!(browser.ask("return document.cookie").await, "");
    assert_eq!(fetched(&browser, "GET", "/page").await["status"], 200, "its own application");
    for (method, url) in [
        ("POST", format!("{login}/api/v1/auth/refresh")),
        ("GET", format!("{login}/api/v1/auth/me")),
        ("GET", format!("{login}/api/v1/auth/verify")),
        ("GET", format!("{login}/profile")),
    ] {
        let got = fetched(&browser, method, &url).await;
        assert!(got["refused"].is_string(), "{method} {url}: {got}");
    }
    // On its own host these are the application's addresses, and none of Entrybook's.
    let own = fetched(&browser, "POST", "/api/v1/auth/refresh").await;
    assert!(own["text"].as_str().unwrap().starts_with("POST /api/v1/auth/refresh"), "{own}");
    for token in [&ada.access, &ada.refresh] {
        assert!(!own.to_string().contains(token.as_str()));
    }
    // A cookie that it sets for both hosts, or a frame of the login, is nothing to the login either.
    browser.ask("document.cookie = 'entrybook_access=tossed; domain=localhost; path=/'").await;
    let registered = later(
        &browser,
        &format!(
            "navigator.serviceWorker.register('{login}/worker.js', {{scope: '/'}})
                 .then(() => done('registered')).catch(error => done(String(error)))"
        ),
    )
    .await;
    assert_ne!(registered, "registered");

    // The second time nobody is asked: the application's cookie is gone, the session is not.
    browser.client.delete_all_cookies().await.unwrap();
    browser.open(&format!("{app}/page/again")).await;
    arrives(&browser, &format!("{app}/page/again")).await;
    browser.shows(&format!("X-Entrybook-User: {}", ada.user_id)).await;

    // Signed out at the login, everywhere: the next thing asked of the application leads to the form.
    browser.open("/").await;
    assert_eq!(whole_url(&browser).await, format!("{login}/"), "still signed in there");
    browser.press("Sign out").await;
    browser.arrives("/sign-in").await;
    browser.open(&format!("{app}/page")).await;
    eventually("the form is there", async || {
        whole_url(&browser).await.starts_with(&format!("{login}/sign-in?")).then_some(())
    })
    .await;
    let policy: Vec<_> = browser.complaints().await;
    assert!(!policy.iter().any(|line| line.contains("Content Security Policy")), "{policy:?}");
    browser.close().await;
}

/// With a session that another device ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_ended_elsewhere_is_out_of_the_application_at_once() {
    if !tools::with("nginx") || !tools::with("browser") {
        return;
    }
    let front = Front::start().await;
    let api = front.api();
    let ada = api.register("ada").await;
    let login = format!("http://localhost:{}", front.nginx.port);
    let app = format!("http://{}", front.app_host());
    let browser = Browser::start(&login, JavaScript::On).await;
    browser.open("/sign-in").await;
    browser.sign_in("ada", &password_of("ada")).await;
    browser.arrives("/").await;
    browser.open(&format!("{app}/page")).await;
    arrives(&browser, &format!("{app}/page")).await;
    api.delete("/api/v1/sessions").bearer(&ada.access).send().await.is(200);
    assert_eq!(fetched(&browser, "GET", "/page").await["status"], 401);
    browser.open(&format!("{app}/page")).await;
    eventually("the form is there", async || {
        whole_url(&browser).await.starts_with(&format!("{login}/sign-in?")).then_some(())
    })
    .await;
    browser.close().await;
}
