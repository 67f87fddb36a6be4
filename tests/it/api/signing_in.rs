//! Signing in with a password: by which names, in which forms, and what the refusals tell.

use serde_json::json;

use crate::support::{
    http::{Answer, Api, email_of, has_left, password_of, registration},
    shared::{Running, unique},
};

#[tokio::test]
async fn by_email_or_username_under_three_names() {
    let running = Running::shared().await;
    let api = running.api();
    let name = unique("ada");
    let ada = api.register(&name).await;
    let sign_in = async |field: &str, identifier: &str| {
        let body = json!({field: identifier, "password": password_of(&name)});
        let tokens = api.post("/api/v1/auth/login").json(body).send().await.tokens(200);
        assert_eq!(tokens.user_id, ada.user_id);
        assert_ne!(tokens.session_id, ada.session_id);
    };
    sign_in("identifier", &name).await;
    sign_in("identifier", &email_of(&name)).await;
    sign_in("identifier", &email_of(&name).to_uppercase()).await;
    sign_in("email", &email_of(&name)).await;
    sign_in("username", &name.to_uppercase()).await;
    sign_in("username", &format!("  {name} ")).await;
}

#[tokio::test]
async fn a_session_lasts_a_day_or_thirty() {
    let running = Running::shared().await;
    let api = running.api();
    let name = unique("ada");
    api.register(&name).await;
    for (remember_me, seconds) in
        [(json!(false), 86_400), (json!(true), 30 * 86_400), (json!(null), 86_400)]
    {
        let body =
            json!({"identifier": name, "password": password_of(&name), "remember_me": remember_me});
        let body = api.post("/api/v1/auth/login").json(body).send().await.is(200).json();
        has_left(&body, "refresh_expires_in", seconds);
        // Refreshing keeps it so.
        let refreshed = api.refresh(body["refresh_token"].as_str().unwrap()).await.is(200).json();
        has_left(&refreshed, "refresh_expires_in", seconds);
    }
}

#[tokio::test]
async fn with_the_form_of_oauth2() {
    let running = Running::shared().await;
    let api = running.api();
    let name = unique("ada");
    api.register(&name).await;
    let password = password_of(&name);
    let form =
        async |fields: &[(&str, &str)]| api.post("/api/v1/auth/login").form(fields).send().await;

    let email = email_of(&name);
    let full = [
        ("grant_type", "password"),
        ("username", email.as_str()),
        ("password", &password),
        ("scope", ""),
        ("client_id", ""),
        ("client_secret", ""),
    ];
    let answer = form(&full).await.is(200);
    assert_eq!(answer.json()["token_type"], "bearer");
    api.me(&answer.tokens(200).access).await.is(200);
    form(&[("username", &name), ("password", &password)]).await.is(200);
    form(&[("username", &name), ("password", "wrong")]).await.problem(401, "wrong-credentials");
    form(&[("username", &name)]).await.refuses(&["password"]);
    form(&[("username", &name), ("password", &password), ("grant_type", "client_credentials")])
        .await
        .refuses(&["grant_type"]);
    form(&[("identifier", &name), ("password", &password)]).await.refuses(&["identifier"]);
}

#[tokio::test]
async fn the_older_paths_answer_as_their_twins() {
    let running = Running::shared().await;
    let api = running.api();
    let name = unique("ada");
    let ada = api.register(&name).await;
    let password = password_of(&name);
    let form = [("username", name.as_str()), ("password", password.as_str())];
    let tokens = api.post("/api/auth/login").form(&form).send().await.tokens(200);
    assert_eq!(tokens.user_id, ada.user_id);
    assert_eq!(tokens.body["token_type"], "bearer");
    let wrong = [("username", name.as_str()), ("password", "wrong")];
    api.post("/api/auth/login").form(&wrong).send().await.problem(401, "wrong-credentials");

    let old = api.get("/api/auth/me").bearer(&tokens.access).send().await.is(200).json();
    assert_eq!(old, api.me(&tokens.access).await.json());
    api.get("/api/auth/me").send().await.problem(401, "not-signed-in");

    let old = api.get("/api/health").send().await.is(200);
    let new = api.get("/api/v1/health").send().await.is(200);
    assert_eq!(old.json(), new.json());
}

/// Whoever asks must not learn whether an account is there.
#[tokio::test]
async fn no_refusal_tells_whether_an_account_is_there() {
    let running = Running::shared().await;
    let api = running.api();
    let (name, disabled) = (unique("ada"), unique("gone"));
    api.register(&name).await;
    let gone = api.register(&disabled).await;
    let admin = api.admin().await;
    let path = format!("/api/v1/admin/users/{}/disable", gone.user_id);
    assert!(api.post(&path).bearer(&admin.access).send().await.status < 300);

    let shape = |answer: &Answer| {
        let mut headers: Vec<_> = answer
            .headers
            .iter()
            .filter(|(name, _)| !["x-request-id", "date"].contains(&name.as_str()))
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        headers.sort();
        (answer.status, headers, answer.text().replace(answer.header("x-request-id"), "…"))
    };
    let wrong = api.try_sign_in(&name, "not the password").await;
    wrong.problem(401, "wrong-credentials");
    assert_eq!(wrong.header("www-authenticate"), r#"Bearer realm="entrybook""#);
    for (identifier, password) in [
        (unique("nobody"), "not the password".to_owned()),
        (email_of(&unique("nobody")), "not the password".to_owned()),
        ("neither name nor e-mail @".to_owned(), "x".to_owned()),
        // The right password of a disabled account.
        (disabled.clone(), password_of(&disabled)),
    ] {
        let other = api.try_sign_in(&identifier, &password).await;
        assert_eq!(shape(&other), shape(&wrong), "{identifier}");
    }
}

async fn register_with(api: &Api, password: &str) -> String {
    let name = unique("ada");
    let mut body = registration(&name);
    body["password"] = password.into();
    api.post("/api/v1/auth/register").json(body).send().await.is(201);
    name
}

#[tokio::test]
async fn a_password_is_never_trimmed_or_cut() {
    let running = Running::shared().await;
    let api = running.api();
    let long = "x".repeat(1023);
    let name = register_with(&api, &format!("{long}a")).await;
    for wrong in [format!("{long}b"), long.clone(), format!("{long}A")] {
        api.try_sign_in(&name, &wrong).await.problem(401, "wrong-credentials");
    }
    api.sign_in_with(&name, &format!("{long}a")).await;
    // 1,024 characters of four bytes each.
    let wide = "\u{1f511}".repeat(1024);
    let name = register_with(&api, &wide).await;
    api.sign_in_with(&name, &wide).await;
    api.try_sign_in(&name, &"\u{1f511}".repeat(1023)).await.problem(401, "wrong-credentials");

    let name = register_with(&api, "  with blanks  ").await;
    for wrong in ["with blanks", "  with blanks", "with blanks  "] {
        api.try_sign_in(&name, wrong).await.problem(401, "wrong-credentials");
    }
    api.sign_in_with(&name, "  with blanks  ").await;
}

/// However a keyboard composes a character, it is the same password (NFKC).
#[tokio::test]
async fn a_password_is_the_same_from_every_keyboard() {
    let running = Running::shared().await;
    let api = running.api();
    let name = register_with(&api, "caf\u{e9} \u{212b} \u{ff46}ull \u{fb01}ne").await;
    for same in ["cafe\u{301} \u{c5} full fine", "caf\u{e9} A\u{30a} \u{ff46}ull fine"] {
        api.sign_in_with(&name, same).await;
    }
    api.try_sign_in(&name, "cafe \u{c5} full fine").await.problem(401, "wrong-credentials");
    let form = [("username", name.as_str()), ("password", "cafe\u{301} \u{c5} full fine")];
    api.post("/api/v1/auth/login").form(&form).send().await.is(200);
}

#[tokio::test]
async fn exactly_one_name_is_given() {
    let running = Running::shared().await;
    let api = running.api();
    let sign_in = async |body| api.post("/api/v1/auth/login").json(body).send().await;
    sign_in(json!({"password": "a password"})).await.refuses(&["identifier"]);
    sign_in(json!({"email": "a@example.org", "username": "ada", "password": "a password"}))
        .await
        .refuses(&["identifier"]);
    sign_in(json!({"identifier": "", "password": "a password"})).await.refuses(&["identifier"]);
    sign_in(json!({"identifier": "a".repeat(321), "password": "a password"}))
        .await
        .refuses(&["identifier"]);
    sign_in(json!({"identifier": "ada"})).await.refuses(&["password"]);
}
