//! The logins of `docker-compose.yml`: one process migrates as the owner, the server has a login that owns nothing.

use super::*;
use crate::log::backup::with_connection;
use crate::support::{database::TestDatabase, scratch, server::MASTER_KEY};
use sqlx::{ConnectOptions, Connection};
use std::process::Command;

#[tokio::test]
async fn a_server_with_a_login_that_owns_nothing_begins_where_migrate_ended() {
    let cluster = TestDatabase::create().await;
    let place = scratch();
    // The script of the image, with names of this test alone.
    let name = format!("entrybook_test_compose_{}", free_port());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/postgres/10-entrybook.sh");
    let text = std::fs::read_to_string(script).unwrap();
    let text = text
        .replace("CREATE ROLE entrybook_owner", &format!("CREATE ROLE {name}_owner"))
        .replace("CREATE ROLE entrybook LOGIN", &format!("CREATE ROLE {name} LOGIN"))
        .replace("CREATE ROLE entrybook_app NOLOGIN;", "")
        .replace("TO entrybook, entrybook_owner", &format!("TO {name}, {name}_owner"))
        .replace(
            "DATABASE entrybook OWNER entrybook_owner",
            &format!("DATABASE {name} OWNER {name}_owner"),
        )
        .replace("DATABASE entrybook ", &format!("DATABASE {name} "))
        .replace("TO entrybook;", &format!("TO {name};"));
    let mut admin = cluster.connect_options().connect().await.unwrap();
    sqlx::raw_sql(
        "DO $$ BEGIN CREATE ROLE entrybook_app NOLOGIN; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$",
    )
    .execute(&mut admin)
    .await
    .unwrap();
    for (file, password) in [("password", "of the server"), ("owner", "of the owner")] {
        std::fs::write(place.path().join(file), password).unwrap();
    }
    let mut init = Command::new("bash");
    init.args(["-c", &text]).env("ENTRYBOOK_DATABASE_PASSWORD_FILE", place.path().join("password"));
    init.env("ENTRYBOOK_OWNER_PASSWORD_FILE", place.path().join("owner"));
    let mut init = with_connection(init, &cluster.url());
    init.env("POSTGRES_USER", cluster.connect_options().get_username());
    let output = init.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let login = |user: &str, password: &str| {
        let options = cluster.connect_options().database(&name).username(user).password(password);
        options.to_url_lossy().to_string()
    };
    let server = login(&name, "of the server");
    let setup = Setup { database_url: Some(server.clone()), ..bare(&place.path().join("data")) }
        .with("ENTRYBOOK_MASTER_KEY", MASTER_KEY)
        .with("ENTRYBOOK_MIGRATE", "no");
    let refused = run(&setup, &["serve"]);
    assert!(refused.code != 0 && refused.err.contains("entrybook migrate"), "{}", refused.err);
    let owner = login(&format!("{name}_owner"), "of the owner");
    let as_owner = setup.clone().with("ENTRYBOOK_OWNER_DATABASE_URL", &owner);
    run(&as_owner, &["migrate"]).ok();

    let serving =
        Serving::start(&setup.clone().with("ENTRYBOOK_ADMIN_PASSWORD", "the password of admin"))
            .await;
    assert_eq!(serving.sign_in("admin", "the password of admin").await, 200);
    let doctor = run(&setup, &["doctor", "--json"]).json();
    let guard =
        doctor["checks"].as_array().unwrap().iter().find(|check| check["name"] == "append-only");
    assert_eq!(guard.unwrap()["status"], "ok", "{doctor}");
    // A second time there is nothing to do, beside the server.
    assert!(run(&as_owner, &["migrate"]).ok().contains("nothing to do"));
    drop(serving);
    sqlx::raw_sql(&format!("DROP DATABASE {name} WITH (FORCE)")).execute(&mut admin).await.unwrap();
    sqlx::raw_sql(&format!("DROP ROLE {name}; DROP ROLE {name}_owner"))
        .execute(&mut admin)
        .await
        .unwrap();
    admin.close().await.unwrap();
}
