//! An admin erases a person in the browser.

use ::proof::ErasureReceipt;
use fantoccini::Locator;

use crate::support::{
    browser::{Browser, JavaScript},
    http::{email_of, password_of},
    server::{ADMIN_PASSWORD, eventually},
    shared::Running,
    tools,
};

/// The line of the table of accounts that names somebody.
fn line_of(name: &str) -> String {
    format!("//tr[td//span[normalize-space()={name:?}]]")
}

async fn signed_in(running: &Running) -> Browser {
    let browser = super::browser(running, JavaScript::Off).await;
    browser.open("/sign-in").await;
    browser.sign_in("admin", ADMIN_PASSWORD).await;
    browser.arrives("/").await;
    browser
}

#[tokio::test]
async fn an_admin_erases_a_person_by_typing_their_name() {
    if !tools::with("browser") {
        return;
    }
    let running = Running::start(&[("ENTRYBOOK_LOG_INTERVAL", "100ms")]).await;
    let api = running.api();
    let ada = api.register("ada").await;
    let here = format!("/users/{}/erase", ada.user_id);
    let browser = signed_in(&running).await;
    browser.open("/users?q=ada").await;
    browser.press_within(&line_of("ada"), "Manage").await;
    browser.press_within(&line_of("ada"), "Erase this person").await;
    browser.arrives(&here).await;
    browser.shows("This is for good").await;
    browser.shows("To confirm it, type the username: ada").await;

    // Not by mistake.
    browser.fill("username", "adam").await;
    browser.press("Erase for good").await;
    browser.arrives(&here).await;
    browser.shows("This is not the username of this account; nothing was erased.").await;
    let field = browser.client.find(Locator::Css("main [name=username]")).await.unwrap();
    assert_eq!(field.prop("value").await.unwrap().as_deref(), Some("adam"), "it is kept");
    browser.press("Cancel").await;
    browser.arrives("/users").await;
    api.me(&ada.access).await.is(200);

    browser.open(&here).await;
    browser.fill("username", "ada").await;
    browser.press("Erase for good").await;
    browser.arrives(&here).await;
    browser.shows("This person is erased").await;
    browser.shows(&ada.user_id).await;
    api.me(&ada.access).await.problem(401, "invalid-token");
    api.try_sign_in("ada", &password_of("ada")).await.problem(401, "wrong-credentials");

    // The receipt comes with the next signature, and is a file for others.
    eventually("the receipt can be had", async || {
        browser.open(&here).await;
        browser.text().await.contains("Download the receipt").then_some(())
    })
    .await;
    let link = browser.client.find(Locator::LinkText("Download the receipt")).await.unwrap();
    let link = link.attr("href").await.unwrap().unwrap();
    let cookie = browser.cookie("entrybook_access").await.unwrap().value;
    let cookie = format!("entrybook_access={cookie}");
    let answer = api.get(&link).header("cookie", &cookie).send().await.is(200);
    assert!(answer.header("content-disposition").starts_with("attachment; filename=\"erasure-"));
    let receipt: ErasureReceipt = serde_json::from_slice(&answer.body).unwrap();
    let keys = api.get("/log/key").send().await.is(200).text();
    let keys: Vec<String> = keys.lines().map(str::to_owned).collect();
    assert_eq!(receipt.verify(&keys).unwrap().user, ada.user_id);

    // In the list and in the history there is somebody without a name.
    let short = &ada.user_id[ada.user_id.len() - 8..];
    let erased = format!("Erased person {short}");
    browser.open("/users").await;
    browser.shows(&erased).await;
    browser.press_within(&line_of(&erased), "Receipt").await;
    browser.arrives(&here).await;
    browser.open(&format!("/history?user={}", ada.user_id)).await;
    browser.shows("Person erased").await;
    browser.shows(&erased).await;
    assert!(!browser.text().await.contains(&email_of("ada")));
    browser.open("/users?q=ada").await;
    browser.shows("There is no account with exactly this e-mail or username.").await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());
    browser.close().await;
}

#[tokio::test]
async fn an_admin_erases_themselves_only_on_purpose_and_never_the_last_one() {
    if !tools::with("browser") {
        return;
    }
    let running = Running::start(&[]).await;
    let api = running.api();
    let (ben, admin) = (api.register("ben").await, api.admin().await);
    let here = format!("/users/{}/erase", admin.user_id);
    let browser = signed_in(&running).await;
    let tick = async || {
        let tick = browser.client.find(Locator::Css("main [name=myself]")).await.unwrap();
        tick.click().await.unwrap();
    };
    browser.open(&here).await;
    browser.fill("username", "admin").await;
    tick().await;
    browser.press("Erase for good").await;
    browser.arrives("/users").await;
    assert_eq!(browser.notice().await, "Nothing was changed: one admin must remain.");

    let path = format!("/api/v1/admin/users/{}/roles", ben.user_id);
    let body = serde_json::json!({"grant": ["admin"]});
    api.post(&path).bearer(&admin.access).json(body).send().await.is(200);
    // Whatever the browser lets pass, the server asks for the tick.
    browser.open(&here).await;
    browser.ask("document.querySelector('main [name=myself]').removeAttribute('required')").await;
    browser.fill("username", "admin").await;
    browser.press("Erase for good").await;
    browser.arrives(&here).await;
    browser.shows("Please tick this as well, if you mean your own account.").await;
    api.me(&admin.access).await.is(200);
    eventually("the list shows the other admin", async || {
        browser.open("/users?q=ben").await;
        browser.open("/users").await;
        let row = browser.client.find(Locator::XPath(&line_of("ben"))).await.ok()?;
        row.text().await.ok()?.contains("Admin").then_some(())
    })
    .await;
    browser.open(&here).await;
    browser.fill("username", "admin").await;
    tick().await;
    browser.press("Erase for good").await;
    browser.arrives("/sign-in").await;
    assert_eq!(
        browser.notice().await,
        "Your account is erased, and nothing of yours can be read any more."
    );
    api.me(&admin.access).await.problem(401, "invalid-token");
    api.try_sign_in("admin", ADMIN_PASSWORD).await.problem(401, "wrong-credentials");
    assert_eq!(browser.complaints().await, Vec::<String>::new());
    browser.close().await;
}
