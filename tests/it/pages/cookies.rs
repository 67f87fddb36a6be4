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
    }
    assert_eq!(browser.complaints().await, Vec::<String>::new());
    browser.close().await;
}

async fn signed_in_cookies(api: &Api, origin: &str, name: &str) -> Answer {
    let form = api.get("/sign-in").send().await.is(200);
    let csrf = super::forgery::csrf_of(&form);
    let visit = form
        .cookies()
        .into_iter()
        .map(|(name, value, _)| format!("{name}={value}"))
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
    ask.send().await.is(303)
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
