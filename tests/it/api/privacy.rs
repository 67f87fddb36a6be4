//! Nothing personal and no secret in the log, whatever happens.

use serde_json::json;

use crate::support::{
    http::{email_of, password_of, registration},
    shared::Running,
};

#[tokio::test]
async fn the_log_names_nobody_and_gives_nothing_away() {
    // At its most talkative, which nobody should need.
    let running =
        Running::start(&[("ENTRYBOOK_LOG", "debug"), ("ENTRYBOOK_REFRESH_GRACE", "0s")]).await;
    let api = running.api();
    let name = "adalovelace";
    let agent = "Surveillable/1.0 (of Ada)";
    let mut body = registration(name);
    body["full_name"] = "Augusta Ada King".into();
    let ada = api
        .post("/api/v1/auth/register")
        .header("user-agent", agent)
        .json(body.clone())
        .send()
        .await
        .tokens(201);
    let mut secrets = vec![
        name.to_owned(),
        email_of(name),
        "Augusta".to_owned(),
        password_of(name),
        "Surveillable".to_owned(),
        "a wrong guess".to_owned(),
        "a new password".to_owned(),
        "stranger@example.net".to_owned(),
        crate::support::server::MASTER_KEY.to_owned(),
        crate::support::server::ADMIN_PASSWORD.to_owned(),
        "$argon2id$".to_owned(),
        "in-the-query".to_owned(),
    ];

    // Refusals of all kinds, with what must not be repeated in each.
    api.post("/api/v1/auth/register").json(body.clone()).send().await.is(409);
    api.try_sign_in(name, "a wrong guess").await.is(401);
    api.try_sign_in("stranger@example.net", "a wrong guess").await.is(401);
    api.post("/api/v1/auth/login")
        .body("application/json", format!("{{\"identifier\": \"{name}\", "))
        .send()
        .await
        .is(400);
    let typed = json!({"identifier": {"stranger@example.net": "a wrong guess"}, "password": 1});
    api.post("/api/v1/auth/login").json(typed).send().await.is(422);
    api.get("/api/v1/audit?user=in-the-query&secret=in-the-query")
        .bearer(&ada.access)
        .send()
        .await
        .is(422);
    api.get("/api/v1/in-the-query").send().await.is(404);
    api.me("in-the-query").await.is(401);
    api.me(&format!("{}x", ada.access)).await.is(401);
    api.refresh("in-the-query").await.is(401);
    for _ in 0..6 {
        api.try_sign_in("throttled@example.net", "a wrong guess").await;
    }
    // What succeeds.
    let session = api.sign_in_with(&email_of(name), &password_of(name)).await;
    let next = api.refresh(&session.refresh).await.tokens(200);
    api.refresh(&session.refresh).await.is(401);
    let change = json!({"current_password": password_of(name), "new_password": "a new password"});
    api.post("/api/v1/auth/password").bearer(&ada.access).json(change).send().await.is(204);
    let rename = json!({
        "email": "augusta@example.net", "full_name": "Countess", "current_password": "a new password",
    });
    api.patch("/api/v1/auth/me").bearer(&ada.access).json(rename).send().await.is(200);
    let admin = api.admin().await;
    api.get("/api/v1/audit").bearer(&admin.access).send().await.is(200);
    api.get(&format!("/api/v1/admin/users?q={}", "augusta@example.net"))
        .bearer(&admin.access)
        .send()
        .await
        .is(200);
    // The pages, and their form.
    api.get("/sign-in?return_to=/in-the-query").send().await.is(200);
    api.post("/sign-in").form(&[("identifier", name), ("password", "a wrong guess")]).send().await;

    secrets.extend([
        "throttled@example.net".to_owned(),
        "augusta@example.net".to_owned(),
        "Countess".to_owned(),
    ]);
    for tokens in [&ada, &session, &next, &admin] {
        secrets.extend([tokens.access.clone(), tokens.refresh.clone()]);
        secrets.push(tokens.access.rsplit('.').next().unwrap().to_owned());
    }
    let log = running.server.log();
    assert!(log.lines().count() > 20, "there is a log to look at: {log}");
    assert!(log.contains("/api/v1/auth/login"), "{log}");
    for secret in secrets {
        let line = log.lines().find(|line| line.contains(&secret));
        assert_eq!(line, None, "{secret}");
    }
    // The address of the client is personal, too; the one that is listened on is not.
    for line in log.lines().filter(|line| line.contains("127.0.0.1")) {
        assert!(!line.contains("request_id"), "{line}");
    }
}

/// What stands in the database, whoever gets hold of it.
#[tokio::test]
async fn the_database_has_no_personal_data_in_the_clear() {
    let running = Running::start(&[]).await;
    let api = running.api();
    let name = "adalovelace";
    let mut body = registration(name);
    body["full_name"] = "Augusta Ada King".into();
    let ada = api
        .post("/api/v1/auth/register")
        .header("user-agent", "Surveillable/1.0")
        .json(body)
        .send()
        .await
        .tokens(201);
    api.try_sign_in("stranger@example.net", "a wrong guess").await.is(401);
    api.refresh(&ada.refresh).await.is(200);
    let mut connection =
        sqlx::ConnectOptions::connect(&running.database.connect_options()).await.unwrap();
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables
         WHERE schemaname NOT IN ('pg_catalog', 'information_schema')",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    assert!(tables.len() > 8, "{tables:?}");
    for table in tables {
        let rows: Vec<String> = sqlx::query_scalar(&format!("SELECT t::text FROM {table} AS t"))
            .fetch_all(&mut connection)
            .await
            .unwrap();
        // Where the service itself listens is told, with its port; where people come from is not.
        let text = rows.join("\n").to_lowercase().replace("127.0.0.1:", "");
        for secret in [
            name,
            "example.org",
            "augusta",
            "stranger",
            "surveillable",
            "wrong guess",
            "127.0.0.1",
            "argon2",
        ] {
            assert!(!text.contains(secret), "{secret} in {table}");
        }
        for token in [&ada.access, &ada.refresh] {
            assert!(!text.contains(&token.to_lowercase()), "a token in {table}");
        }
    }
}
