//! What the pages leave in a browser.

use crate::support::{
    browser::JavaScript,
    http::{Answer, Api, password_of},
    shared::{Running, unique},
    tools,
};

#[tokio::test]
async fn cookies_are_out_of_reach_of_scripts_and_of_other_sites() {
    if !tools::with("browser") {
        return;
    }
    let running = Running::shared().await;
    let (name, api) = (unique("ada"), running.api());
    api.register(&name).await;
    let browser = super::browser(&running, JavaScript::On).await;
    for remembered in [false, true] {
        browser.open("/sign-in").await;
        if remembered {
            browser
                .client
                .find(fantoccini::Locator::Css("[name=remember_me]"))
                .await
                .unwrap()
                .click()
                .await
                .unwrap();
        }
        browser.sign_in(&name, &password_of(&name)).await;
        browser.arrives("/").await;
        let now = browser.ask("return Math.floor(Date.now() / 1000)").await.as_i64().unwrap();
        let cookies = browser.cookies().await;
        assert!(cookies.len() >= 2, "{cookies:?}");
        for cookie in &cookies {
            assert!(cookie.http_only, "{cookie:?}");
            assert_eq!(cookie.same_site.as_deref(), Some("Lax"), "{cookie:?}");
            assert_eq!(cookie.path, "/", "{cookie:?}");
            // Not every browser keeps `Secure` ones of http://localhost.
            assert!(!cookie.secure, "{cookie:?}");
            assert!(!cookie.domain.starts_with('.'), "{cookie:?}");
        }
        let expiry = |name: &str| cookies.iter().find(|cookie| cookie.name == name).unwrap().expiry;
        if remembered {
            let days = (expiry("entrybook_refresh").unwrap() - now) / 3600;
            assert!((30 * 24 - 2..=30 * 24).contains(&days), "{days} hours");
        } else {
            assert_eq!(expiry("entrybook_refresh"), None, "it ends with the browser");
            assert_eq!(expiry("entrybook_access"), None);
        }
        assert_eq!(browser.ask("return document.cookie").await, "");
        browser.press("Sign out").await;
        browser.arrives("/sign-in").await;
        // That somebody has signed in here stays.
        let device = browser.cookie("entrybook_device").await.unwrap();
        let days = (device.expiry.unwrap() - now) / 86_400;
        assert!((399..=400).contains(&days), "{days} days");
        assert!(browser.cookie("entrybook_refresh").await.is_none());
    }
    assert_eq!(browser.complaints().await, Vec::<String>::new());
    browser.close().await;
}

async fn signed_in_cookies(api: &Api, origin: &str, name: &str) -> Answer {
    submitted(api, origin, name, "").await.is(303)
}

/// The answer to the form, from a browser that has these cookies.
async fn submitted(api: &Api, origin: &str, name: &str, cookies: &str) -> Answer {
    let form = api.get("/sign-in").send().await.is(200);
    let csrf = super::forgery::csrf_of(&form);
    let visit = form
        .cookies()
        .into_iter()
        .map(|(name, value, _)| format!("{name}={value}"))
        .chain((!cookies.is_empty()).then(|| cookies.to_owned()))
        .collect::<Vec<_>>();
    let password = password_of(name);
    let fields = [
        ("identifier", name),
        ("password", password.as_str()),
        ("remember_me", "on"),
        ("csrf", csrf.as_str()),
    ];
    let ask = api
        .post("/sign-in")
        .header("cookie", visit.join("; "))
        .header("origin", origin)
        .form(&fields);
    ask.send().await
}

/// Somebody else guesses at the account until it is throttled; the person has signed in with this browser before.
#[tokio::test]
async fn a_browser_that_signed_in_before_gets_past_a_throttle_of_its_account() {
    let origin = "http://localhost:8080";
    let running = Running::start(&[
        ("ENTRYBOOK_THROTTLE_FIRST_DELAY", "10m"),
        ("ENTRYBOOK_PUBLIC_URL", origin),
    ])
    .await;
    let api = running.api();
    api.register("ada").await;
    let device = device_of(&signed_in_cookies(&api, origin, "ada").await);
    for _ in 0..6 {
        api.try_sign_in("ada", "a guess").await;
    }
    let stranger = submitted(&api, origin, "ada", "").await;
    assert_eq!(stranger.status, 429);
    let (wait, page) = (stranger.header("retry-after").parse::<u64>().unwrap(), stranger.text());
    assert!((541..=600).contains(&wait) && page.contains("10 minutes"), "{wait}: {page}");
    let forged = submitted(&api, origin, "ada", &format!("{device}A")).await;
    assert_eq!(forged.status, 429);
    let own = submitted(&api, origin, "ada", &device).await.is(303);
    assert_ne!(device_of(&own), device, "each sign-in gives another one");
    // Programs have no device: what they do goes as before, and sets no cookie.
    let body = serde_json::json!({"identifier": "ada", "password": password_of("ada")});
    let ask = api.post("/api/v1/auth/login").header("cookie", &device).json(body);
    let answer = ask.send().await;
    answer.problem(429, "too-many-attempts");
    assert!(answer.cookies().is_empty());
}

/// The cookie as the browser sends it, once it is what it must be.
fn device_of(answer: &Answer) -> String {
    let cookies = answer.cookies();
    let (name, value, attributes) =
        cookies.iter().find(|(name, ..)| name.ends_with("entrybook_device")).unwrap();
    let max_age = format!("max-age={}", 400 * 86_400);
    for wanted in [max_age.as_str(), "httponly", "samesite=lax", "path=/"] {
        assert!(attributes.iter().any(|attribute| attribute == wanted), "{wanted}: {attributes:?}");
    }
    format!("{name}={value}")
}

/// Under an https address no plain connection and no other host can set or read them.
#[tokio::test]
async fn under_https_they_are_secure_and_of_this_host_alone() {
    let running = Running::start(&[("ENTRYBOOK_PUBLIC_URL", "https://login.example.org")]).await;
    let api = running.api();
    api.register("ada").await;
    let form = api.get("/sign-in").send().await;
    assert!(form.header("strict-transport-security").starts_with("max-age="));
    for answer in [form, signed_in_cookies(&api, "https://login.example.org", "ada").await] {
        let cookies = answer.cookies();
        assert!(!cookies.is_empty());
        for (name, _, attributes) in cookies {
            assert!(name.starts_with("__Host-"), "{name}");
            for wanted in ["secure", "httponly", "samesite=lax", "path=/"] {
                assert!(
                    attributes.iter().any(|attribute| attribute == wanted),
                    "{wanted}: {name} {attributes:?}"
                );
            }
            assert!(
                !attributes.iter().any(|attribute| attribute.starts_with("domain")),
                "{name} {attributes:?}"
            );
        }
    }
}
