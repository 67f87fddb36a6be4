//! Admins rebuild, check and repair in the browser, with a script and without.

use fantoccini::Locator;
use sqlx::{ConnectOptions, Connection};

use crate::support::{
    browser::{Browser, JavaScript},
    held::{Held, poison, readable_again},
    server::{ADMIN_PASSWORD, eventually},
    shared::Running,
    tools,
};

/// The part of the page that is about a projection.
fn part(name: &str) -> String {
    format!("//li[@id='projection-{name}']")
}

async fn text_of(browser: &Browser, name: &str) -> String {
    // The page may be changed in the very moment.
    eventually(&format!("the page shows {name}"), async || {
        let part = browser.client.find(Locator::XPath(&part(name))).await.ok()?;
        part.text().await.ok()
    })
    .await
}

async fn says(browser: &Browser, name: &str, words: &str) -> String {
    eventually(&format!("{name} says {words:?}"), async || {
        let text = text_of(browser, name).await;
        text.contains(words).then_some(text)
    })
    .await
}

async fn as_admin(browser: &Browser) {
    browser.open("/sign-in").await;
    browser.sign_in("admin", ADMIN_PASSWORD).await;
    browser.arrives("/").await;
    browser.press("Projections").await;
    browser.arrives("/projections").await;
}

/// What the page shows as progress, and what a page that was loaded anew would have lost.
const SEEN: &str = "const bar = document.querySelector('#projection-users progress');
    return [window.seen === true, bar !== null && bar.getAttribute('aria-label')];";

#[tokio::test]
async fn a_rebuild_is_followed_without_loading_the_page_anew() {
    if !tools::with("browser") {
        return;
    }
    let running = Running::start(&[]).await;
    let browser = super::browser(&running, JavaScript::On).await;
    as_admin(&browser).await;
    // What is to be followed is no row that waits for the table.
    running.database.settled().await;
    let held = Held::live_table_of(&running.database, "users").await;
    browser.press_within(&part("users"), "Rebuild").await;
    browser.arrives("/projections").await;
    assert!(browser.notice().await.starts_with("The rebuild has begun."));
    browser.ask("window.seen = true").await;
    let text = says(&browser, "users", "comparing new and old").await;
    assert!(text.contains("Rebuilding:") && text.contains("events"), "{text}");
    assert!(text.contains("Cancel") && !text.contains("Check"), "{text}");
    assert_eq!(browser.ask(SEEN).await, serde_json::json!([true, "Progress of users"]));
    // What was put in focus stays so while the page changes around it.
    browser.ask("document.querySelector('#check-sessions button').focus()").await;
    held.let_go().await;
    let text = says(&browser, "users", "Rebuilt").await;
    assert!(text.contains("Rebuild\n") || text.contains("Check"), "{text}");
    assert_eq!(browser.ask(SEEN).await, serde_json::json!([true, false]));
    let focus = browser.ask("return document.activeElement.closest('form')?.id").await;
    assert_eq!(focus, "check-sessions");

    // Begun elsewhere, and cancelled here.
    let held = Held::live_table_of(&running.database, "users").await;
    let api = running.api();
    let admin = api.admin().await;
    let ask = api.post("/api/v1/admin/projections/users/verify").bearer(&admin.access);
    ask.send().await.is(202);
    says(&browser, "users", "Checking:").await;
    assert_eq!(browser.ask(SEEN).await, serde_json::json!([true, "Progress of users"]));
    browser.press_within(&part("users"), "Cancel").await;
    assert!(browser.notice().await.starts_with("It is told to stop."));
    says(&browser, "users", "was cancelled").await;
    held.let_go().await;

    // Signed out elsewhere, the page leads to the sign-in by itself.
    running.database.settled().await;
    let sessions = api.get("/api/v1/sessions").bearer(&admin.access).send().await.is(200).json();
    assert!(sessions["sessions"].as_array().unwrap().len() > 1);
    api.delete("/api/v1/sessions").bearer(&admin.access).send().await.is(200);
    eventually("the page leads to the sign-in", async || {
        browser.at().await.starts_with("/sign-in").then_some(())
    })
    .await;
    let complaints = browser.complaints().await;
    assert!(complaints.is_empty(), "{complaints:?}");
    browser.close().await;
}

#[tokio::test]
async fn without_a_script_the_page_is_loaded_anew_while_something_runs() {
    if !tools::with("browser") {
        return;
    }
    let running = Running::start(&[]).await;
    let browser = super::browser(&running, JavaScript::Off).await;
    as_admin(&browser).await;
    browser.press_within(&part("sessions"), "Check").await;
    assert!(browser.notice().await.starts_with("The check has begun."));
    says(&browser, "sessions", "it agrees with the book").await;

    // Damaged, checked, and repaired, which has to be asked for twice.
    let mut connection = running.database.connect_options().connect().await.unwrap();
    sqlx::query("UPDATE ledger.users_v2 SET disabled = true")
        .execute(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
    browser.press_within(&part("users"), "Check").await;
    let text = says(&browser, "users", "it does not agree with the book").await;
    assert!(text.contains("1 with other values"), "{text}");
    assert!(!text.contains("Repair users now"), "{text}");
    browser.press_within(&part("users"), "Repair …").await;
    browser.press_within(&part("users"), "Repair users now").await;
    says(&browser, "users", "Rebuilt").await;

    browser.press("Rebuild all").await;
    // Nothing else begins before the last of them.
    for projection in ::projections::all() {
        says(&browser, projection.name(), "Rebuilt").await;
    }

    // While one runs, the page loads itself anew until it is done; a second one is not begun.
    let held = Held::live_table_of(&running.database, "users").await;
    browser.press_within(&part("users"), "Rebuild").await;
    says(&browser, "users", "comparing new and old").await;
    let api = running.api();
    let page = api.get("/projections").send().await.is(303);
    assert!(page.header("location").starts_with("/sign-in"));
    api.get("/projections/progress").send().await.is(204);
    let ada = api.register("ada").await;
    let ask = api.get("/projections/progress");
    ask.header("cookie", format!("entrybook_access={}", ada.access)).send().await.is(403);
    held.let_go().await;
    says(&browser, "users", "Rebuilt").await;
    let complaints = browser.complaints().await;
    assert!(complaints.is_empty(), "{complaints:?}");
    browser.close().await;
}

async fn execute(running: &Running, statement: &str) {
    let mut connection = running.database.connect_options().connect().await.unwrap();
    sqlx::raw_sql(statement).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

#[tokio::test]
async fn a_stopped_projection_says_why_and_a_rebuild_makes_it_go_on() {
    if !tools::with("browser") {
        return;
    }
    let running = Running::start(&[]).await;
    let api = running.api();
    let (admin, ada) = (api.admin().await, api.register("ada").await);
    let eve = api.register("eve").await;
    let disable = api.post(&format!("/api/v1/admin/users/{}/disable", eve.user_id));
    disable.bearer(&admin.access).send().await.is(200);
    let browser = super::browser(&running, JavaScript::On).await;
    as_admin(&browser).await;
    says(&browser, "users", "Live").await;

    // An event that this binary can't apply: neither can a rebuild, until it can be read.
    let sequence = poison(&running.database, &ada.user_id).await;
    let text = says(&browser, "users", "Stopped").await;
    for words in [
        "It waits at line",
        "Nothing is skipped; signing in and the other projections go on.",
        &format!("User {} number {sequence}", ada.user_id),
        "UserDisabled",
        "newer version",
        "What to do",
        "goes on by itself",
    ] {
        assert!(text.contains(words), "{words:?} in {text}");
    }
    says(&browser, "sessions", "Live").await;
    browser.press_within(&part("users"), "Rebuild").await;
    let text = says(&browser, "users", "failed. What serves is as it was.").await;
    assert!(text.contains("Stopped") && text.contains("What to do"), "{text}");
    readable_again(&running.database).await;
    browser.press_within(&part("users"), "Rebuild").await;
    let text = says(&browser, "users", "Live").await;
    assert!(text.contains("Rebuilt") && !text.contains("What to do"), "{text}");

    // A table that refuses a row stays stopped by itself, and new tables don't refuse it.
    execute(
        &running,
        "ALTER TABLE ledger.users_v2 ADD CONSTRAINT odd CHECK (position < 0) NOT VALID",
    )
    .await;
    api.register("ben").await;
    let text = says(&browser, "users", "Stopped").await;
    for words in ["UserRegistered", "violates check constraint", "What to do"] {
        assert!(text.contains(words), "{words:?} in {text}");
    }
    browser.press_within(&part("users"), "Rebuild").await;
    let text = says(&browser, "users", "Live").await;
    assert!(text.contains("Rebuilt") && !text.contains("What to do"), "{text}");
    browser.press("Users").await;
    browser.arrives("/users").await;
    browser.shows("ben").await;
    let complaints = browser.complaints().await;
    assert!(complaints.is_empty(), "{complaints:?}");
    browser.close().await;
}
