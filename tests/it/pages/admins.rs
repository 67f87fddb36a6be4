//! Auditors and admins in the browser.

use fantoccini::Locator;

use crate::support::{
    browser::{Browser, JavaScript},
    http::{email_of, password_of},
    server::{ADMIN_PASSWORD, eventually},
    shared::{Running, unique},
    tools,
};

/// The line of the table of accounts that is about somebody.
fn line_of(name: &str) -> String {
    format!("//tr[td//span[normalize-space()={name:?}]]")
}

async fn rows(browser: &Browser) -> Vec<String> {
    let mut texts = Vec::new();
    for row in browser.client.find_all(Locator::Css("tbody tr")).await.unwrap() {
        texts.push(row.text().await.unwrap());
    }
    texts
}

#[tokio::test]
async fn an_auditor_searches_and_an_admin_manages() {
    if !tools::with("browser") {
        return;
    }
    let running = Running::shared().await;
    let (name, api) = (unique("ada"), running.api());
    let ada = api.register(&name).await;
    let browser = super::browser(&running, JavaScript::Off).await;
    browser.open("/sign-in").await;
    browser.sign_in("admin", ADMIN_PASSWORD).await;
    browser.arrives("/").await;

    running.database.settled().await;
    // The history of one person, and of one kind of event.
    browser.press("History").await;
    browser.arrives("/history").await;
    browser.fill("user", &name).await;
    browser.choose("order", "oldest").await;
    browser.press("Show").await;
    let found = eventually("both lines are there", async || {
        browser.client.refresh().await.unwrap();
        let found = rows(&browser).await;
        (found.len() == 2).then_some(found)
    })
    .await;
    assert!(found[0].contains("Registered") && found[1].contains("Signed in"), "{found:?}");
    assert!(found.iter().all(|row| row.contains(&name) && row.contains("127.0.0.1")), "{found:?}");
    browser.choose("type", "SessionStarted").await;
    browser.press("Show").await;
    assert_eq!(rows(&browser).await.len(), 1);
    // The hint beside the field says what may be typed.
    for actor in ["anonymous", "system", "cli", "admin"] {
        browser.open(&format!("/history?actor={actor}")).await;
        let text = browser.text().await;
        assert!(!text.contains("Please give an account"), "{actor}: {text}");
    }
    browser.open("/history?user=nobody-of-that-name").await;
    browser.shows("There is no such account.").await;

    // The account, found by its address, disabled, and enabled again.
    browser.press("Users").await;
    browser.arrives("/users").await;
    browser.fill("q", &email_of(&name)).await;
    browser.press("Find").await;
    browser.shows("Active").await;
    browser.press_within(&line_of(&name), "Manage").await;
    browser.press_within(&line_of(&name), "Disable account").await;
    browser.arrives("/users").await;
    assert_eq!(browser.notice().await, "The account is disabled, and its sessions are ended.");
    api.me(&ada.access).await.problem(401, "invalid-token");
    api.try_sign_in(&name, &password_of(&name)).await.problem(401, "wrong-credentials");
    let act = async |label: &str, notice: &str| {
        browser.open(&format!("/users?q={name}")).await;
        browser.press_within(&line_of(&name), "Manage").await;
        browser.press_within(&line_of(&name), label).await;
        browser.arrives("/users").await;
        assert_eq!(browser.notice().await, notice);
    };
    act("Enable account", "The account is enabled again.").await;
    let ada = api.sign_in(&name).await;
    act("Grant Auditor", "The role is granted.").await;
    assert!(api.me(&ada.access).await.is(200).text().contains("auditor"));
    act("Revoke Auditor", "The role is revoked.").await;
    assert!(!api.me(&ada.access).await.is(200).text().contains("auditor"));
    // Nobody manages themselves.
    browser.open("/users?q=admin").await;
    browser.shows("You").await;
    assert!(browser.client.find(Locator::Css("tbody form")).await.is_err());

    browser.press("Projections").await;
    browser.arrives("/projections").await;
    for projection in ["users", "sessions", "audit_history", "transparency"] {
        let part = Locator::Id(&format!("projection-{projection}"));
        let text = browser.client.find(part).await.unwrap().text().await.unwrap();
        assert!(text.starts_with(projection) && text.contains("Live"), "{text}");
    }
    assert_eq!(browser.complaints().await, Vec::<String>::new());
    browser.close().await;
}
