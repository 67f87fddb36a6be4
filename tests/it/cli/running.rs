//! `serve` from its first start to its last, with a private PostgreSQL.

use super::*;
use crate::support::database::TestDatabase;
use crate::support::scratch;
use crate::support::server::MASTER_KEY;
use std::io::Write;
use std::os::unix::fs::MetadataExt;

#[tokio::test]
async fn the_first_start_prints_the_admin_and_no_other_does() {
    let dir = scratch();
    let setup = bare(&dir.path().join("book"));

    let mut first = Serving::start(&setup).await;
    let printed = first.printed();
    let password = printed_password(&printed).unwrap().to_owned();
    assert!(password.len() > 25, "{printed}");
    assert!(printed.contains("Username    admin"), "{printed}");
    assert!(printed.contains(&format!("http://localhost:{}/sign-in", setup.port)), "{printed}");
    assert!(!first.log().contains(&password), "the log keeps no password");
    assert_eq!(first.sign_in("admin", &password).await, 200);
    let key = std::fs::metadata(setup.data_dir.join("master.key")).unwrap();
    assert_eq!(key.mode() & 0o777, 0o600);
    assert!(first.log().contains("a new master key was made"));

    // Killed without a goodbye, it loses nothing, and its PostgreSQL does not stay behind.
    first.signal(Signal::SIGKILL);
    assert_eq!(first.ended().await, None);
    let mut second = Serving::start(&setup).await;
    assert_eq!(printed_password(&second.printed()), None, "{}", second.printed());
    assert!(!second.log().contains("master key was made"));
    assert_eq!(second.sign_in("admin", &password).await, 200);

    second.signal(Signal::SIGTERM);
    assert_eq!(second.ended().await, Some(0), "{}", second.log());
    nothing_left_on(&setup.data_dir).await;
}

#[tokio::test]
async fn a_second_instance_is_refused_and_changes_nothing() {
    let dir = scratch();
    let setup = bare(&dir.path().join("book"));
    let mut server = Serving::start(&setup).await;

    let second = run(&setup.replica(), &["serve"]);
    let said = second.refused(1);
    assert!(said.contains("is in use by another Entrybook"), "{said}");
    assert!(said.contains(&format!("process {}", server.child.id())), "{said}");

    // And one on another directory, but the same port, before it makes anything.
    let elsewhere = dir.path().join("elsewhere");
    let same_port = Setup { data_dir: elsewhere.clone(), ..setup.clone() };
    let said = run(&same_port, &["serve"]).refused(1);
    assert!(said.contains("is in use by another program"), "{said}");
    assert!(!elsewhere.exists());

    server.signal(Signal::SIGINT);
    assert_eq!(server.ended().await, Some(0));
    nothing_left_on(&setup.data_dir).await;
}

#[tokio::test]
async fn told_to_stop_while_it_starts_it_leaves_nothing() {
    let dir = scratch();
    let setup = bare(&dir.path().join("book"));
    let mut child = setup.command(&["serve"]).spawn().unwrap();
    let record = setup.data_dir.join("private-postgres.json");
    eventually("the start has begun", async || record.exists().then_some(())).await;
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGTERM).unwrap();
    let status = eventually("it ends", async || child.try_wait().unwrap()).await;
    assert_eq!(status.code(), Some(0));
    nothing_left_on(&setup.data_dir).await;

    // What was begun is finished by the next start.
    let server = Serving::start(&setup).await;
    assert!(printed_password(&server.printed()).is_some());
}

#[tokio::test]
async fn told_twice_to_stop_it_waits_for_nobody_and_leaves_nothing() {
    let dir = scratch();
    let setup = bare(&dir.path().join("book"));
    let mut server = Serving::start(&setup).await;
    let mut slow = std::net::TcpStream::connect(("127.0.0.1", setup.port)).unwrap();
    slow.write_all(b"POST /api/v1/auth/login HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{")
        .unwrap();

    server.signal(Signal::SIGTERM);
    eventually("it stops", async || server.log().contains("told to stop").then_some(())).await;
    server.signal(Signal::SIGTERM);
    assert_eq!(server.ended().await, Some(0), "{}", server.log());
    assert!(server.log().contains("PostgreSQL has stopped"), "{}", server.log());
    nothing_left_on(&setup.data_dir).await;
}

#[tokio::test]
async fn a_lost_master_key_is_asked_for_and_not_replaced() {
    let dir = scratch();
    let setup = bare(&dir.path().join("book"));
    let mut server = Serving::start(&setup).await;
    server.signal(Signal::SIGTERM);
    assert_eq!(server.ended().await, Some(0));

    let key = setup.data_dir.join("master.key");
    let aside = dir.path().join("aside.key");
    std::fs::rename(&key, &aside).unwrap();
    let said = run(&setup, &["serve"]).refused(2);
    assert!(said.contains("master.key is missing"), "{said}");
    assert!(!key.exists());

    let said = run(&setup.clone().with("ENTRYBOOK_MASTER_KEY", MASTER_KEY), &["serve"]).refused(2);
    assert!(said.contains("are wrapped by master key"), "{said}");

    let doctor = run(&setup, &["doctor"]);
    assert_eq!(doctor.code, 5, "{}", doctor.out);
    assert!(doctor.out.contains("FAIL  master key"), "{}", doctor.out);

    let given = setup.clone().with("ENTRYBOOK_MASTER_KEY_FILE", aside.to_str().unwrap());
    let listed = run(&given, &["admin", "list", "--json"]).json();
    assert_eq!(listed[0]["username"], "admin");
    nothing_left_on(&setup.data_dir).await;
}

#[tokio::test]
async fn replicas_that_start_together_make_one_admin() {
    let database = TestDatabase::create().await;
    let dir = scratch();
    let one = Setup { database_url: Some(database.url()), ..bare(&dir.path().join("none")) }
        .with("ENTRYBOOK_MASTER_KEY", MASTER_KEY);
    let (first, second) = (one.clone(), one.replica());
    let third = one.replica();
    let servers =
        tokio::join!(Serving::start(&first), Serving::start(&second), Serving::start(&third));
    let printed = [servers.0.printed(), servers.1.printed(), servers.2.printed()];
    let told: Vec<_> = printed.iter().filter_map(|text| printed_password(text)).collect();
    assert_eq!(told.len(), 1, "{printed:?}");
    assert_eq!(servers.2.sign_in("admin", told[0]).await, 200);
    let accounts: i64 =
        sqlx::query_scalar("SELECT count(*) FROM events WHERE event_type = 'UserRegistered'")
            .fetch_one(database.pool())
            .await
            .unwrap();
    assert_eq!(accounts, 1);
    // What the log has signed is remembered there, and nothing else.
    let kept = std::fs::read_dir(dir.path().join("none")).into_iter().flatten();
    let kept: Vec<_> = kept.map(|entry| entry.unwrap().file_name()).collect();
    assert!(kept.iter().all(|name| name == "log"), "DATABASE_URL needs no cluster: {kept:?}");
}

#[tokio::test]
async fn a_given_admin_is_made_and_its_password_not_printed() {
    let database = TestDatabase::create().await;
    let dir = scratch();
    let setup = Setup::on(&database.url(), &dir.path().join("none"))
        .with("ENTRYBOOK_ADMIN_USERNAME", "root-of-all")
        .with("ENTRYBOOK_ADMIN_PASSWORD", "as it was given");
    let server = Serving::start(&setup).await;
    assert!(server.printed().contains("Username    root-of-all"), "{}", server.printed());
    assert!(!server.printed().contains("as it was given"));
    assert!(!server.log().contains("as it was given"));
    assert_eq!(server.sign_in("admin@example.org", "as it was given").await, 200);

    // Another name later on makes nobody.
    let other = setup.replica().with("ENTRYBOOK_ADMIN_USERNAME", "another");
    let second = Serving::start(&other).await;
    assert_eq!(second.sign_in("another", "as it was given").await, 401);
    assert!(!second.printed().contains("Username"));
}
