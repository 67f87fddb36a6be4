//! The table of who has which e-mail address and username, made again where somebody has changed it.

use crate::support::{
    database::TestDatabase,
    http::{Api, password_of},
    server::Setup,
    shared::Running,
};

fn run(setup: &Setup, words: &[&str]) -> (i32, String) {
    let output = setup.command(words).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code().unwrap(), text + &String::from_utf8_lossy(&output.stderr))
}

/// How a sign-in by name and password ends.
async fn status(api: &Api, name: &str) -> u16 {
    let body = serde_json::json!({"identifier": name, "password": password_of(name)});
    api.post("/api/v1/auth/login").json(body).send().await.status
}

#[tokio::test(flavor = "multi_thread")]
async fn identifiers_that_were_given_to_another_are_put_back_from_the_events() {
    let running = Running::start_on(TestDatabase::create().await, &[]).await;
    let (api, setup) = (running.api(), &running.setup);
    let (ada, ben) = (api.register("ada").await, api.register("ben").await);
    assert_eq!(status(&api, "ada").await, 200);
    let verify = ["projections", "verify", "identifiers"];
    assert_eq!(run(setup, &verify).0, 0);
    let statements = format!(
        "UPDATE identifiers SET user_id = '{ben}' WHERE user_id = '{ada}';
         DELETE FROM identifiers WHERE kind = 'email' AND user_id = '{ben}'",
        ada = ada.user_id,
        ben = ben.user_id
    );
    sqlx::raw_sql(&statements).execute(running.database.pool()).await.unwrap();
    assert_eq!(status(&api, "ada").await, 401, "the name is another's");
    let (code, told) = run(setup, &verify);
    assert_eq!(code, 6, "{told}");
    assert!(told.contains("entrybook projections rebuild identifiers --repair"), "{told}");

    let rebuild = ["projections", "rebuild", "identifiers"];
    let (code, told) = run(setup, &rebuild);
    assert_eq!(code, 2, "it is said what it does: {told}");
    assert_eq!(status(&api, "ada").await, 401);
    let repair = [&rebuild[..], &["--repair"]].concat();
    let (code, told) = run(setup, &repair);
    println!("{told}");
    assert_eq!(code, 0, "{told}");
    // Of three rows one is right; ada's name was ben's, and both addresses were gone.
    assert!(told.contains("1 rows were taken away, and 3 were put there"), "{told}");
    for name in ["ada", "ben"] {
        assert_eq!(status(&api, name).await, 200);
    }
    assert_eq!(run(setup, &verify).0, 0);
    let (code, told) = run(setup, &repair);
    assert_eq!(code, 0, "{told}");
    assert!(told.contains("nothing was changed"), "{told}");
}
