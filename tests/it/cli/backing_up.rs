//! `deploy/postgres/backup` and `deploy/postgres/restore`, as compose and operators run them.

use super::*;
use crate::log::backup::with_connection;
use crate::support::shared::Running;
use crate::support::{database::TestDatabase, scratch};
use sqlx::{ConnectOptions, Connection};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

fn script(name: &str, database: &TestDatabase, arguments: &[&str]) -> Answer {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/postgres").join(name);
    let mut command = Command::new(place);
    command.args(arguments);
    Answer::of(with_connection(command, &database.url()).output().unwrap())
}

/// The databases of the cluster whose names begin so.
async fn databases(other: &TestDatabase, prefix: &str) -> Vec<String> {
    sqlx::query_scalar(
        "SELECT datname::text FROM pg_database WHERE starts_with(datname::text, $1) ORDER BY 1",
    )
    .bind(prefix)
    .fetch_all(other.pool())
    .await
    .unwrap()
}

#[tokio::test]
async fn a_backup_is_closed_to_others_and_a_restore_takes_nothing_away() {
    let running = Running::start(&[]).await;
    let other = TestDatabase::create().await;
    let place = scratch();
    let folder = place.path().join("backups");
    let folder = folder.to_str().unwrap();
    running.api().register("ada").await;

    let file = script("backup", &running.database, &[folder]).ok();
    let file = file.trim();
    let mode = |path: &str| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(file), mode(folder)), (0o600, 0o700));
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 1);
    running.api().register("ben").await;

    let said = script("restore", &running.database, &[file]).refused(1);
    assert!(said.contains("--replace"), "{said}");
    let said = script("restore", &other, &[file]).refused(1);
    assert!(said.contains("is a dump of the database"), "{said}");
    let said = script("restore", &running.database, &["--replace", file]).refused(1);
    assert!(said.contains("connected") && said.contains("entrybook"), "{said}");
    for wrong in [&[][..], &["--help"], &["a", "b"], &["--replace"]] {
        assert!(
            script("restore", &running.database, wrong).refused(2).contains("--replace"),
            "{wrong:?}"
        );
    }

    let Running { server, setup, database, _scratch } = running;
    server.stop().await;
    database.pool().close().await;
    // A dump that is cut off: nothing of it is left, and the database of before is there.
    let bytes = std::fs::read(file).unwrap();
    let cut = place.path().join("cut.dump");
    std::fs::write(&cut, &bytes[..bytes.len() - 100]).unwrap();
    let name = database.connect_options().get_database().unwrap().to_owned();
    let said = script("restore", &database, &["--replace", cut.to_str().unwrap()]).refused(1);
    let [kept] = &databases(&other, &name).await[..] else { panic!("{said}") };
    assert!(kept.starts_with(&format!("{name}_until_")) && said.contains(kept), "{said}");

    let out = script("restore", &database, &[file]).ok();
    assert!(out.contains("entrybook audit verify"), "{out}");
    assert_eq!(databases(&other, &name).await, [name.as_str(), kept]);
    let server = setup.start().await;
    server.sign_in("ada").await;
    let body = serde_json::json!({"identifier": "ben", "password": "the password of ben"});
    assert_eq!(server.post("/api/v1/auth/login", body).await.unwrap().status(), 401);
    server.stop().await;
    let mut admin = other.connect_options().connect().await.unwrap();
    sqlx::raw_sql(&format!("DROP DATABASE {kept} WITH (FORCE)")).execute(&mut admin).await.unwrap();
    admin.close().await.unwrap();
}
