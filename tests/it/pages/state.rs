//! An auditor looks at how it was, and steps along, without JavaScript.

use fantoccini::Locator;

use crate::support::{
    browser::{Browser, JavaScript},
    http::{email_of, password_of},
    server::{ADMIN_PASSWORD, eventually},
    shared::{Running, unique},
    tools,
};

/// The part of the page under a heading.
async fn part(browser: &Browser, heading: &str) -> String {
    let part = format!("//section[@aria-labelledby='{heading}']");
    browser.client.find(Locator::XPath(&part)).await.unwrap().text().await.unwrap()
}

#[tokio::test]
async fn a_person_is_seen_at_any_moment_and_compared_with_another() {
    if !tools::with("browser") {
        return;
    }
    let running = Running::start(&[]).await;
    let api = running.api();
    let (name, later) = (unique("ada"), unique("augusta"));
    let ada = api.register(&name).await;
    let change = serde_json::json!({
        "username": later, "full_name": "Ada Lovelace", "current_password": password_of(&name),
    });
    api.patch("/api/v1/auth/me").bearer(&ada.access).json(change).send().await.is(200);
    api.post("/api/v1/auth/logout").bearer(&ada.access).send().await.is(204);
    // It changes no state, and is a line of hers all the same.
    api.try_sign_in(&later, "not the password").await.is(401);
    let admin = api.admin().await;
    let lines = eventually("all is in the history", async || {
        let path = format!("/api/v1/audit?user={}&order=oldest", ada.user_id);
        let page = api.get(&path).bearer(&admin.access).send().await.is(200).json();
        let lines = page["lines"].as_array().unwrap().clone();
        (lines.len() == 5).then_some(lines)
    })
    .await;
    let line = |number: usize| lines[number]["position"].as_i64().unwrap();

    let browser = super::browser(&running, JavaScript::Off).await;
    browser.open("/audit/state").await;
    browser.arrives("/sign-in?return_to=%2Faudit%2Fstate").await;
    browser.sign_in("admin", ADMIN_PASSWORD).await;
    browser.arrives("/audit/state").await;
    // Without a person: who is signed in.
    let people = part(&browser, "moment").await;
    assert!(people.contains("One person.") && people.contains("admin"), "{people}");

    // By the address of now, and by the name of before.
    for typed in [&email_of(&name), &name] {
        browser.open("/audit/state").await;
        browser.fill("user", typed).await;
        browser.press("Show").await;
        assert!(part(&browser, "moment").await.starts_with(&format!("{later} at ")));
    }
    let account = part(&browser, "account").await;
    for words in [&later, "Ada Lovelace", &email_of(&name), "Active"] {
        assert!(account.contains(words), "{words}: {account}");
    }
    assert!(part(&browser, "live").await.contains("No session was live."));
    let timeline = part(&browser, "timeline").await;
    assert!(timeline.contains("Sign-in failed · Wrong password Here"), "{timeline}");
    let later_ones = browser.client.find(Locator::Css(".timeline .later")).await;
    assert!(later_ones.is_err(), "nothing of what was is still to come: {timeline}");

    // Back along the events.
    browser.press("Event before").await;
    browser.arrives(&format!("/audit/state?user={}&at={}", ada.user_id, line(3))).await;
    browser.press("Event before").await;
    let profile = format!("/audit/state?user={}&at={}", ada.user_id, line(2));
    browser.arrives(&profile).await;
    assert!(part(&browser, "live").await.contains("One session was live."));
    assert!(part(&browser, "timeline").await.contains("Profile changed Here"));
    browser.press("Event before").await;
    browser.press("Event before").await;
    browser.arrives(&format!("/audit/state?user={}&at={}", ada.user_id, line(0))).await;
    assert!(part(&browser, "moment").await.starts_with(&format!("{name} at ")));
    assert!(part(&browser, "live").await.contains("No session was live."));
    browser.press("Event after").await;
    browser.arrives(&format!("/audit/state?user={}&at={}", ada.user_id, line(1))).await;
    browser.press("Now").await;
    browser.arrives(&format!("/audit/state?user={}", ada.user_id)).await;
    browser.press("First event").await;
    browser.arrives(&format!("/audit/state?user={}&at={}", ada.user_id, line(0))).await;

    // Against another moment.
    browser.press("Now").await;
    browser.fill("against", &line(1).to_string()).await;
    browser.press("Show").await;
    let changes = part(&browser, "changes").await;
    for words in [
        format!("Username {name} {later}"),
        "Name – Ada Lovelace".into(),
        "Session 127.0.0.1".into(),
    ] {
        assert!(changes.contains(&words), "{words}: {changes}");
    }
    // By the slider, which needs no script either.
    browser.press("Go there").await;
    assert!(browser.at().await.contains(&format!("against={}", line(1))));

    // What can't be taken is said beside the field.
    for (field, text, words) in [
        ("user", "nobody at all", "There is no such account, and there was none."),
        ("at", "yesterday", "This is neither a time nor a line"),
        ("at", "0", "This is neither a time nor a line"),
        ("at", "99999999", "This is still to come."),
        ("against", "2999-01-01", "This is still to come."),
    ] {
        browser.open(&profile).await;
        browser.fill(field, text).await;
        browser.press("Show").await;
        let problem =
            browser.client.find(Locator::Css(&format!("#{field}-problem"))).await.unwrap();
        let told = problem.text().await.unwrap();
        assert!(told.contains(words), "{field} {text}: {told}");
    }
    // From a line of the history to the person at that line.
    browser.open(&format!("/history?user={}&order=oldest", ada.user_id)).await;
    browser.shows("5 lines.").await;
    browser.press(&line(2).to_string()).await;
    browser.arrives(&profile).await;
    // And from the event to all that it holds.
    browser.open(&format!("/history?user={}&order=oldest", ada.user_id)).await;
    browser.press("Profile changed").await;
    browser.arrives(&format!("/history/lines/{}", line(2))).await;
    let changes = part(&browser, "changes").await;
    for words in [format!("username {name} {later}"), "full_name – Ada Lovelace".into()] {
        assert!(changes.contains(&words), "{words}: {changes}");
    }
    assert!(part(&browser, "event").await.contains("UserProfileChanged"));
    browser.press("Line before").await;
    browser.arrives(&format!("/history/lines/{}", line(2) - 1)).await;
    browser.press("Line after").await;
    browser.press("Its person at this line").await;
    browser.arrives(&profile).await;
    browser.open("/history/lines/99999999").await;
    browser.shows("There is nothing here").await;
    browser.close().await;
}

/// Ada gave a name up and Eve took it: whoever looks for the name sees both.
#[tokio::test]
async fn whoever_held_a_name_before_is_found_beside_who_holds_it() {
    if !tools::with("browser") {
        return;
    }
    let running = Running::start(&[]).await;
    let api = running.api();
    let ada = api.register("ada").await;
    let change = serde_json::json!({"username": "augusta", "current_password": password_of("ada")});
    api.patch("/api/v1/auth/me").bearer(&ada.access).json(change).send().await.is(200);
    let taken = serde_json::json!({
        "email": "eve@example.org", "username": "ada", "password": password_of("eve"),
    });
    let eve = api.post("/api/v1/auth/register").json(taken).send().await.tokens(201);
    for typed in ["stranger@example.org", r#"{"user": "x"}"#] {
        api.try_sign_in(typed, "not the password").await.is(401);
    }
    let admin = api.admin().await;
    eventually("both are in the history", async || {
        let holders = api.post("/api/v1/audit/holders").bearer(&admin.access);
        let held = holders.json(serde_json::json!({"identifier": "ada"})).send().await.json();
        (held["holders"].as_array()?.len() == 2).then_some(())
    })
    .await;
    let browser = super::browser(&running, JavaScript::Off).await;
    browser.open("/sign-in").await;
    browser.sign_in("admin", ADMIN_PASSWORD).await;
    browser.arrives("/").await;
    for field in ["user", "actor"] {
        browser.open("/history").await;
        browser.fill(field, "ada").await;
        browser.press("Show").await;
        browser.shows("2 lines.").await;
        let holders = part(&browser, "holders").await;
        assert!(holders.contains("augusta") && holders.contains("ada"), "{holders}");
        browser.press_within("//section[@aria-labelledby='holders']", "augusta").await;
        browser.arrives(&format!("/history?{field}={}", ada.user_id)).await;
        browser.shows("3 lines.").await;
        assert!(browser.client.find(Locator::Css("#holders")).await.is_err());
    }
    // What strangers typed, and what readers looked for, stands in the line.
    browser.open("/history?type=SignInFailed").await;
    browser.shows("Typed: ").await;
    browser.shows("stranger@example.org").await;
    browser.shows(r#"Typed: {"user": "x"}"#).await;
    eventually("that her lines were looked for is shown", async || {
        browser.open("/history?type=HistorySearched&order=oldest").await;
        let text = browser.text().await;
        text.contains(&format!("Asked for: user {}", eve.user_id)).then_some(())
    })
    .await;
    browser.close().await;
}

#[tokio::test]
async fn the_history_says_how_far_a_search_by_address_sees() {
    if !tools::with("browser") {
        return;
    }
    let running = Running::start(&[]).await;
    let api = running.api();
    api.register("ada").await;
    api.try_sign_in("ada", "not the password").await.is(401);
    let browser = super::browser(&running, JavaScript::Off).await;
    browser.open("/sign-in").await;
    browser.sign_in("admin", ADMIN_PASSWORD).await;
    browser.arrives("/").await;
    browser.open("/history").await;
    browser.fill("address", "127.0.0.0/24").await;
    browser.choose("outcome", "wrong_password").await;
    browser.press("Show").await;
    browser.shows("One line. Searched for the address in the months ").await;
    browser.shows("Wrong password").await;
    browser.fill("address", "10.0.0.0/8").await;
    browser.press("Show").await;
    browser.shows("Give an address, an IPv4 network from /16 on").await;
    // Somebody who is no auditor has neither the field nor the page.
    browser.press("Sign out").await;
    browser.sign_in("ada", &password_of("ada")).await;
    browser.arrives("/").await;
    browser.open("/my-history").await;
    assert!(browser.client.find(Locator::Css("[name=address]")).await.is_err());
    browser.open("/audit/state").await;
    assert!(!browser.text().await.contains("Signed in at"));
    browser.close().await;
}
