//! Registering, and changing what an account says of itself.

use serde_json::{Value, json};

use crate::support::{
    http::{email_of, has_left, password_of, registration},
    shared::{Running, unique},
};

#[tokio::test]
async fn registering_answers_with_the_account_and_its_first_session() {
    let running = Running::shared().await;
    let api = running.api();
    let name = unique("ada");
    let mut body = registration(&name);
    body["full_name"] = "Ada Lovelace".into();
    let answer = api.post("/api/v1/auth/register").json(body).send().await.is(201);
    let body = answer.json();
    assert_eq!(body["user"]["email"], email_of(&name));
    assert_eq!(body["user"]["username"], name);
    assert_eq!(body["user"]["full_name"], "Ada Lovelace");
    assert_eq!(body["user"]["roles"], json!(["user"]));
    assert_eq!(body["user"]["disabled"], false);
    assert_eq!(body["token_type"], "bearer");
    // Fifteen minutes, and a day.
    has_left(&body, "expires_in", 900);
    has_left(&body, "refresh_expires_in", 86_400);
    assert_eq!(answer.header("cache-control"), "no-store");
    assert!(answer.cookies().is_empty(), "programs get no cookies");

    let me = api.me(body["access_token"].as_str().unwrap()).await.is(200).json();
    assert_eq!(me, body["user"]);
}

#[tokio::test]
async fn a_full_name_may_be_left_out_and_a_session_may_last() {
    let running = Running::shared().await;
    let api = running.api();
    let name = unique("ada");
    let mut body = registration(&name);
    body["full_name"] = Value::Null;
    body["remember_me"] = true.into();
    let body = api.post("/api/v1/auth/register").json(body).send().await.is(201).json();
    assert_eq!(body["user"]["full_name"], Value::Null);
    has_left(&body, "refresh_expires_in", 30 * 86_400);
}

#[tokio::test]
async fn names_are_unique_without_their_case() {
    let running = Running::shared().await;
    let api = running.api();
    let name = unique("grace");
    api.register(&name).await;
    let taken = async |email: String, username: String, field: &str| {
        let body = json!({"email": email, "username": username, "password": "long enough"});
        let answer = api.post("/api/v1/auth/register").json(body).send().await;
        assert_eq!(answer.problem(409, "identifier-taken")["errors"][0]["field"], field);
    };
    taken(email_of(&name), unique("other"), "email").await;
    taken(email_of(&name).to_uppercase(), unique("other"), "email").await;
    taken(email_of(&unique("other")), name.to_uppercase(), "username").await;
    // Full-width letters fold to the same name (NFKC).
    taken(email_of(&unique("other")), name.replacen('g', "ｇ", 1), "username").await;
}

#[tokio::test]
async fn a_refused_registration_holds_no_name() {
    let running = Running::shared().await;
    let api = running.api();
    let (first, second) = (unique("first"), unique("second"));
    api.register(&first).await;
    // The e-mail is free and the username is taken: the e-mail must stay free.
    let body = json!({"email": email_of(&second), "username": first, "password": "long enough"});
    api.post("/api/v1/auth/register").json(body).send().await.problem(409, "identifier-taken");
    api.register(&second).await;
}

#[tokio::test]
async fn what_can_not_be_a_name_or_a_password_is_named() {
    let running = Running::shared().await;
    let api = running.api();
    let refused = async |change: Value, fields: &[&str]| {
        let mut body = registration(&unique("edge"));
        for (key, value) in change.as_object().unwrap() {
            body[key] = value.clone();
        }
        let answer = api.post("/api/v1/auth/register").json(body.clone()).send().await;
        assert_eq!(answer.status, 422, "{body}: {}", answer.text());
        answer.refuses(fields);
        // The hint of how an address looks aside, nothing that was typed is said back.
        let told = answer.text().replace("name@example.org", "");
        for (key, value) in change.as_object().unwrap() {
            let typed = value.as_str().unwrap();
            assert!(typed.len() < 8 || !told.contains(typed), "{key} is repeated: {told}");
        }
    };
    for username in [
        "",
        "ab",
        &"a".repeat(51),
        "a b c",
        "a@b.org",
        ".abc",
        "abc-",
        "a/b",
        "аdmin",
        "\u{202e}abc",
    ] {
        refused(json!({"username": username}), &["username"]).await;
    }
    for email in [
        "",
        "ada",
        "ada@",
        "@example.org",
        "a b@example.org",
        "ada@example.org\r\nBcc: eve@example.org",
    ] {
        refused(json!({"email": email}), &["email"]).await;
    }
    refused(json!({"email": format!("{}@example.org", "a".repeat(300))}), &["email"]).await;
    refused(json!({"password": "1234567"}), &["password"]).await;
    refused(json!({"password": "p".repeat(1025)}), &["password"]).await;
    refused(json!({"full_name": "n".repeat(201)}), &["full_name"]).await;
    refused(json!({"full_name": "line\nbreak"}), &["full_name"]).await;
    // All that is wrong, at once.
    refused(
        json!({"email": "x", "username": "x", "password": "x"}),
        &["email", "username", "password"],
    )
    .await;
}

#[tokio::test]
async fn registration_can_be_closed() {
    let running = Running::start(&[("ENTRYBOOK_REGISTRATION", "closed")]).await;
    let api = running.api();
    let events = running.events().await;
    let answer = api.post("/api/v1/auth/register").json(registration("ada")).send().await;
    answer.problem(403, "registration-closed");
    assert_eq!(running.events().await, events);
    api.try_sign_in("ada", &password_of("ada")).await.problem(401, "wrong-credentials");
}

#[tokio::test]
async fn a_profile_is_changed_field_by_field() {
    let running = Running::shared().await;
    let api = running.api();
    let (name, new_name) = (unique("ada"), unique("lovelace"));
    let ada = api.register(&name).await;
    let patch = async |body: Value| {
        api.patch("/api/v1/auth/me").bearer(&ada.access).json(body).send().await
    };

    let user = patch(json!({"full_name": "Ada Lovelace"})).await.is(200).json();
    assert_eq!(user["full_name"], "Ada Lovelace");
    assert_eq!(user["username"], name);
    let names = json!({
        "username": new_name, "email": email_of(&new_name), "current_password": password_of(&name),
    });
    let user = patch(names).await.is(200).json();
    assert_eq!(user["username"], new_name);
    assert_eq!(user["email"], email_of(&new_name));
    assert_eq!(user["full_name"], "Ada Lovelace");
    let user = patch(json!({"full_name": null})).await.is(200).json();
    assert_eq!(user["full_name"], Value::Null);
    assert_eq!(api.me(&ada.access).await.is(200).json(), user, "the session goes on");

    api.sign_in_with(&new_name, &password_of(&name)).await;
    api.try_sign_in(&name, &password_of(&name)).await.problem(401, "wrong-credentials");
    // The old name is free again.
    api.register(&name).await;
}

#[tokio::test]
async fn the_case_of_ones_own_name_can_be_changed_and_the_name_of_others_not_taken() {
    let running = Running::shared().await;
    let api = running.api();
    let (name, other) = (unique("ada"), unique("ben"));
    let ada = api.register(&name).await;
    api.register(&other).await;
    let patch = async |mut body: Value| {
        body["current_password"] = password_of(&name).into();
        api.patch("/api/v1/auth/me").bearer(&ada.access).json(body).send().await
    };

    let user = patch(json!({"username": name.to_uppercase()})).await.is(200).json();
    assert_eq!(user["username"], name.to_uppercase());
    for (body, field) in [
        (json!({"username": other.to_uppercase()}), "username"),
        (json!({"email": email_of(&other)}), "email"),
    ] {
        assert_eq!(patch(body).await.problem(409, "identifier-taken")["errors"][0]["field"], field);
    }
    patch(json!({"username": "x"})).await.refuses(&["username"]);
    patch(json!({"email": "x", "full_name": "\u{7}"})).await.refuses(&["email", "full_name"]);
    for unknown in ["roles", "disabled", "id", "password"] {
        patch(json!({unknown: "admin"})).await.refuses(&[unknown]);
    }
}

/// Who has the e-mail address has the account, and a session may be stolen.
#[tokio::test]
async fn an_email_address_and_a_username_change_with_the_password_alone() {
    let running = Running::shared().await;
    let api = running.api();
    let (name, taken) = (unique("ada"), unique("ben"));
    let ada = api.register(&name).await;
    api.register(&taken).await;
    let patch = async |body: Value| {
        api.patch("/api/v1/auth/me").bearer(&ada.access).json(body).send().await
    };
    let events = running.events_of(&ada.user_id).await;
    for body in [
        json!({"username": unique("eve")}),
        json!({"email": email_of(&unique("eve"))}),
        json!({"username": name.to_uppercase()}),
        // Nobody learns without it whether a name is taken.
        json!({"username": taken}),
        json!({"email": email_of(&unique("eve")), "full_name": "Eve", "current_password": null}),
    ] {
        patch(body).await.refuses(&["current_password"]);
    }
    for current in ["", "not the password", &password_of(&taken)] {
        let body = json!({"email": email_of(&unique("eve")), "current_password": current});
        let wrong = patch(body).await.problem(422, "wrong-password");
        assert_eq!(wrong["errors"][0]["field"], "current_password");
    }
    assert_eq!(running.events_of(&ada.user_id).await, events, "nothing was changed");

    // The same as it is, and the full name, need none.
    let same = json!({"username": name, "email": email_of(&name), "full_name": "Ada"});
    assert_eq!(patch(same).await.is(200).json()["full_name"], "Ada");
    let body = json!({"email": email_of(&unique("ada")), "current_password": password_of(&name)});
    patch(body).await.is(200);
    api.me(&ada.access).await.is(200);
}

/// As guesses at a sign-in are.
#[tokio::test]
async fn guesses_at_the_password_for_a_new_email_address_are_counted() {
    let running = Running::start(&[
        ("ENTRYBOOK_THROTTLE_FIRST_DELAY", "10m"),
        ("ENTRYBOOK_THROTTLE_LONGEST_DELAY", "10m"),
    ])
    .await;
    let api = running.api();
    let ada = api.register("ada").await;
    let patch = async |current: &str| {
        let body = json!({"email": "eve@example.org", "current_password": current});
        api.patch("/api/v1/auth/me").bearer(&ada.access).json(body).send().await
    };
    for guess in 0..5 {
        patch(&format!("guess number {guess}")).await.problem(422, "wrong-password");
    }
    patch(&password_of("ada")).await.problem(429, "too-many-attempts");
    // It stands in nobody's way at the front door.
    api.sign_in("ada").await;
}

/// The answer tells whether a name is taken, as that of a registration does.
#[tokio::test]
async fn asking_for_another_name_is_counted_as_a_registration_is() {
    let running = Running::start(&[("ENTRYBOOK_REGISTRATIONS_PER_HOUR", "4")]).await;
    let api = running.api();
    api.register("ada").await;
    let eve = api.register("eve").await;
    let patch = async |body: Value| {
        api.patch("/api/v1/auth/me").bearer(&eve.access).json(body).send().await
    };
    let probe = json!({"username": "ada", "current_password": password_of("eve")});
    let mail = json!({"email": email_of("ada"), "current_password": password_of("eve")});
    patch(probe.clone()).await.problem(409, "identifier-taken");
    patch(mail.clone()).await.problem(409, "identifier-taken");
    for body in [probe, mail] {
        let answer = patch(body).await;
        answer.problem(429, "too-many-attempts");
        let wait: u64 = answer.header("retry-after").parse().unwrap();
        assert!((1..=3_600).contains(&wait), "{wait}");
    }
    let body = registration("ben");
    let answer = api.post("/api/v1/auth/register").json(body).send().await;
    answer.problem(429, "too-many-attempts");
    // What claims no name is taken as before.
    patch(json!({"full_name": "Eve"})).await.is(200);
}

#[tokio::test]
async fn changing_the_password_ends_the_other_sessions_at_once() {
    let running = Running::shared().await;
    let api = running.api();
    let name = unique("ada");
    let here = api.register(&name).await;
    let there = api.sign_in(&name).await;
    let change = async |current: &str, new: &str| {
        let body = json!({"current_password": current, "new_password": new});
        api.post("/api/v1/auth/password").bearer(&here.access).json(body).send().await
    };

    let wrong = change("not the password", "a new password").await;
    assert_eq!(wrong.problem(422, "wrong-password")["errors"][0]["field"], "current_password");
    change(&password_of(&name), "short").await.refuses(&["new_password"]);
    api.me(&there.access).await.is(200);

    assert!(change(&password_of(&name), "a new password").await.status < 300);
    api.me(&here.access).await.is(200);
    api.me(&there.access).await.problem(401, "invalid-token");
    api.refresh(&there.refresh).await.problem(401, "session-ended");
    api.refresh(&here.refresh).await.is(200);
    api.try_sign_in(&name, &password_of(&name)).await.problem(401, "wrong-credentials");
    api.sign_in_with(&name, "a new password").await;
}
