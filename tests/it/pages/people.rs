//! A life in the browser, without JavaScript.

use crate::support::{
    browser::JavaScript,
    http::{email_of, password_of},
    server::eventually,
    shared::{Running, unique},
    tools,
};

#[tokio::test]
async fn everything_a_person_does_works_without_javascript() {
    if !tools::with("browser") {
        return;
    }
    let running = Running::shared().await;
    let browser = super::browser(&running, JavaScript::Off).await;
    browser.open("data:text/html,<title>off</title><script>document.title='on'</script>").await;
    assert_eq!(browser.client.title().await.unwrap(), "off", "scripts don't run here");
    let (name, api) = (unique("ada"), running.api());

    // Somebody comes for the first time, and registers.
    browser.open("/").await;
    browser.arrives("/sign-in").await;
    browser.press_within("//main", "Register").await;
    browser.arrives("/register").await;
    browser.fill("email", &email_of(&name)).await;
    browser.fill("username", &name).await;
    browser.fill("full_name", "Ada Lovelace").await;
    browser.fill("password", &password_of(&name)).await;
    browser.press("Create the account").await;
    browser.arrives("/").await;
    assert_eq!(browser.notice().await, "Your account is ready, and you are signed in.");
    browser.shows("Hello, Ada Lovelace").await;
    browser.shows(&email_of(&name)).await;
    running.database.settled().await;
    browser.client.refresh().await.unwrap();
    assert_eq!(browser.notice().await, "", "a notice is told once");
    browser.shows("This one").await;
    browser.shows("Registered").await;

    // Another device signs in; it is seen, and ended from here.
    let body = serde_json::json!({"identifier": name, "password": password_of(&name)});
    let agent = "Mozilla/5.0 (iPhone; CPU iPhone OS 19_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) \
                 Version/19.0 Mobile/15E148 Safari/604.1";
    let phone = api
        .post("/api/v1/auth/login")
        .header("user-agent", agent)
        .json(body)
        .send()
        .await
        .tokens(200);
    running.database.settled().await;
    browser.press("My sessions").await;
    browser.arrives("/sessions").await;
    browser.shows("Safari on iPhone").await;
    browser.press("End session").await;
    browser.arrives("/sessions").await;
    assert_eq!(browser.notice().await, "The session is ended.");
    api.me(&phone.access).await.problem(401, "invalid-token");
    running.database.settled().await;
    browser.client.refresh().await.unwrap();
    browser.shows("No other device is signed in.").await;

    // All others at once.
    let others = [api.sign_in(&name).await, api.sign_in(&name).await];
    running.database.settled().await;
    browser.client.refresh().await.unwrap();
    browser.press("End all other sessions").await;
    browser.arrives("/sessions").await;
    assert_eq!(browser.notice().await, "All your other sessions are ended.");
    for other in &others {
        api.me(&other.access).await.problem(401, "invalid-token");
    }

    // A new password: the wrong one first.
    browser.open("/").await;
    browser.press("Change password").await;
    browser.arrives("/password").await;
    browser.fill("current_password", "not the password").await;
    browser.fill("new_password", "a new password").await;
    browser.press("Change the password").await;
    browser.shows("This is not your current password.").await;
    browser.fill("current_password", &password_of(&name)).await;
    browser.fill("new_password", "a new password").await;
    browser.press("Change the password").await;
    browser.arrives("/").await;
    assert_eq!(
        browser.notice().await,
        "Your password is changed, and your other sessions are ended."
    );

    // Out, and in again, to be remembered.
    browser.press("Sign out").await;
    browser.arrives("/sign-in").await;
    assert_eq!(browser.notice().await, "You are signed out.");
    assert!(browser.cookie("entrybook_access").await.is_none());
    assert!(browser.cookie("entrybook_refresh").await.is_none());
    browser.open("/profile").await;
    browser.arrives("/sign-in?return_to=%2Fprofile").await;
    assert_eq!(browser.notice().await, "Please sign in to go on.");
    browser
        .client
        .find(fantoccini::Locator::Css("[name=remember_me]"))
        .await
        .unwrap()
        .click()
        .await
        .unwrap();
    browser.sign_in(&email_of(&name), "a new password").await;
    browser.arrives("/profile").await;

    // The profile.
    browser.fill("full_name", "Countess of Lovelace").await;
    browser.press("Save").await;
    browser.arrives("/").await;
    assert_eq!(browser.notice().await, "Your profile is changed.");
    browser.shows("Countess of Lovelace").await;

    // All of it is in the person's history.
    eventually("the history shows it", async || {
        browser.open("/my-history").await;
        let text = browser.text().await;
        [
            "Profile changed",
            "Password changed",
            "Ended with all others",
            "Ended from another session",
            "Registered",
        ]
        .iter()
        .all(|words| text.contains(words))
        .then_some(())
    })
    .await;
    browser.choose("type", "UserPasswordChanged").await;
    browser.press("Show").await;
    let rows = browser.client.find_all(fantoccini::Locator::Css("tbody tr")).await.unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!(browser.complaints().await, Vec::<String>::new());
    browser.close().await;
}

/// Nobody who is there is signed out because an access token has run out.
#[tokio::test]
async fn a_page_refreshes_the_session_on_the_way() {
    if !tools::with("browser") {
        return;
    }
    let running = Running::shared().await;
    let browser = super::browser(&running, JavaScript::Off).await;
    let (name, api) = (unique("ada"), running.api());
    api.register(&name).await;
    browser.open("/sign-in").await;
    browser.sign_in(&name, &password_of(&name)).await;
    browser.arrives("/").await;
    let before = browser.cookie("entrybook_refresh").await.unwrap().value;

    // As if the access token's time had come.
    browser.client.delete_cookie("entrybook_access").await.unwrap();
    running.database.settled().await;
    browser.open("/sessions").await;
    browser.arrives("/sessions").await;
    browser.shows("This one").await;
    assert!(browser.cookie("entrybook_access").await.is_some());
    assert_ne!(browser.cookie("entrybook_refresh").await.unwrap().value, before);

    // And a form that was open meanwhile still counts.
    browser.open("/profile").await;
    browser.fill("full_name", "Ada King").await;
    browser.client.delete_cookie("entrybook_access").await.unwrap();
    browser.press("Save").await;
    browser.arrives("/").await;
    browser.shows("Ada King").await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());
    browser.close().await;
}
