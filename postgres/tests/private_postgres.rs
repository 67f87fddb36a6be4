//! The private PostgreSQL, on a real one. They run as root and as an ordinary user; `ENTRYBOOK_POSTGRES_BIN` chooses the PostgreSQL.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

#[path = "support/recovering.rs"]
mod recovering;
mod support;

use nix::sys::signal::Signal;
use postgres::{Error, PrivatePostgres, State};
use sqlx::{Connection, PgConnection};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use support::*;

/// Not a test: what [`Owner`] runs, in a process of its own.
#[tokio::test]
async fn owner_process() {
    be_the_owner().await;
}

#[tokio::test]
async fn commits_are_durable_and_nothing_listens_on_tcp() {
    let dir = dir();
    let mut settings = settings(&dir.data);
    // A parameter of the caller changes what is modest, and nothing of what is promised.
    settings.parameters =
        [("max_connections", "30"), ("fsync", "off"), ("listen_addresses", "127.0.0.1")]
            .map(|(k, v)| (k.into(), v.into()))
            .into();
    let postgres = PrivatePostgres::start(settings).await.unwrap();
    let mut superuser = connect(postgres.superuser_parts()).await.unwrap();
    sqlx::raw_sql("ALTER SYSTEM SET fsync = off").execute(&mut superuser).await.unwrap();
    sqlx::raw_sql("ALTER SYSTEM SET full_page_writes = off").execute(&mut superuser).await.unwrap();
    sqlx::raw_sql("SELECT pg_reload_conf()").execute(&mut superuser).await.unwrap();

    let mut connection = connect(postgres.connect_parts()).await.unwrap();
    for (parameter, value) in [
        ("fsync", "on"),
        ("full_page_writes", "on"),
        ("synchronous_commit", "on"),
        ("data_checksums", "on"),
        ("listen_addresses", ""),
        ("password_encryption", "scram-sha-256"),
        ("server_encoding", "UTF8"),
        ("lc_collate", "C"),
        ("idle_in_transaction_session_timeout", "1min"),
        ("max_connections", "30"),
        ("is_superuser", "off"),
    ] {
        // PostgreSQL 16 dropped it as a parameter.
        let sql = if parameter == "lc_collate" {
            "SELECT datcollate::text FROM pg_database WHERE datname = current_database()".to_owned()
        } else {
            format!("SHOW {parameter}")
        };
        assert_eq!(text(&mut connection, &sql).await, value, "{parameter}");
    }
    assert_eq!(
        text(&mut connection, "SELECT current_user || ' ' || current_database()").await,
        "entrybook entrybook"
    );
    // The database is its own.
    sqlx::raw_sql("CREATE TABLE one (a int); CREATE SCHEMA two")
        .execute(&mut connection)
        .await
        .unwrap();
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn only_the_password_opens_it_and_nobody_else_reads_it() {
    let dir = dir();
    let postgres = start(&dir.data).await;
    let mut wrong = postgres.superuser_parts().clone();
    wrong.password = postgres.connect_parts().password.clone();
    let refusal = connect(&wrong).await.unwrap_err();
    assert!(refusal.to_string().contains("password authentication failed"), "{refusal}");
    PgConnection::connect(&postgres.url()).await.unwrap().close().await.unwrap();
    assert!(!format!("{postgres:?}").contains(postgres.connect_parts().password.expose()));

    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let home = dir.data.join("postgres");
    for closed in [&postgres.connect_parts().socket_dir, &home.join("cluster"), &home.join("log")] {
        assert_eq!(mode(closed), 0o700, "{}", closed.display());
    }
    for secret in ["private-postgres.json", "entrybook.lock"] {
        let path = dir.data.join(secret);
        assert_eq!(mode(&path), 0o600, "{secret}");
        assert_eq!(fs::metadata(&path).unwrap().uid(), nix::unistd::geteuid().as_raw());
    }
    assert_eq!(mode(&dir.data), if is_root() { 0o711 } else { 0o700 });
    assert_ne!(
        fs::metadata(home.join("cluster")).unwrap().uid(),
        0,
        "PostgreSQL never runs as root"
    );
    // No secret on a command line or in PostgreSQL's environment, and none in a file that was to be gone.
    assert!(processes_naming(postgres.connect_parts().password.expose()).is_empty());
    if let Ok(environment) = fs::read(format!("/proc/{}/environ", postgres.pid().unwrap())) {
        let environment = String::from_utf8_lossy(&environment);
        for (key, value) in std::env::vars() {
            let passed_on = ["PATH", "LC_ALL", "LD_LIBRARY_PATH", "PWD"].contains(&key.as_str());
            assert!(
                passed_on || !environment.contains(&format!("{key}={value}")),
                "{key} was passed on"
            );
        }
    }
    assert!(names(&home).iter().all(|name| !name.starts_with("scratch-")), "{:?}", names(&home));
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn a_restart_keeps_the_data_and_stop_leaves_no_process() {
    let dir = dir();
    let postgres = start(&dir.data).await;
    leave_a_row(postgres.connect_parts()).await;
    let first = postgres.pid().unwrap();
    assert_eq!(postgres.state(), State::Running);
    postgres.stop().await.unwrap();
    postgres.stop().await.unwrap();
    assert_eq!(postgres.state(), State::Stopped);
    assert_eq!(postgres.pid(), None);
    assert!(!alive(first));
    until("no process is left", || processes_naming(&dir.data.to_string_lossy()).is_empty()).await;

    let again = start(&dir.data).await;
    assert!(!again.ended_orphan());
    find_the_row(again.connect_parts()).await;
    again.stop().await.unwrap();
}

#[tokio::test]
async fn a_moved_data_directory_still_works() {
    let dir = dir();
    let postgres = start(&dir.data).await;
    leave_a_row(postgres.connect_parts()).await;
    postgres.stop().await.unwrap();
    let moved = dir.temp.path().join("moved");
    fs::rename(&dir.data, &moved).unwrap();
    let again = start(&moved).await;
    find_the_row(again.connect_parts()).await;
    again.stop().await.unwrap();
}

#[tokio::test]
async fn open_connections_do_not_hold_up_a_stop() {
    let dir = dir();
    let postgres = start(&dir.data).await;
    let mut connection = connect(postgres.connect_parts()).await.unwrap();
    sqlx::raw_sql("BEGIN; CREATE TABLE never (a int)").execute(&mut connection).await.unwrap();
    postgres.stop().await.unwrap();
    assert!(processes_naming(&dir.data.to_string_lossy()).is_empty());
}

#[tokio::test]
async fn dropped_without_stop_it_stops_all_the_same() {
    let dir = dir();
    let postgres = start(&dir.data).await;
    let server = postgres.pid().unwrap();
    drop(postgres);
    until("PostgreSQL has ended", || !alive(server)).await;
    until("the watchdog has ended", || processes_naming(&dir.data.to_string_lossy()).is_empty())
        .await;
}

#[tokio::test]
async fn a_start_that_nobody_waits_for_leaves_nothing_behind() {
    let dir = dir();
    {
        let start = PrivatePostgres::start(settings(&dir.data));
        tokio::pin!(start);
        let data = dir.data.clone();
        let begun = until("the start has begun", || data.join("postgres").exists());
        tokio::select! {
            _ = &mut start => {}
            () = begun => {}
        }
    }
    let mut again = PrivatePostgres::start(settings(&dir.data)).await;
    let began = std::time::Instant::now();
    while matches!(again, Err(Error::InUse { .. })) && began.elapsed() < DEADLINE {
        again = PrivatePostgres::start(settings(&dir.data)).await;
    }
    let again = again.unwrap();
    assert!(!again.ended_orphan());
    again.stop().await.unwrap();
    assert!(processes_naming(&dir.data.to_string_lossy()).is_empty());
}

#[tokio::test]
async fn a_second_instance_is_refused_with_a_sentence() {
    let dir = dir();
    let postgres = start(&dir.data).await;
    let refusal = PrivatePostgres::start(settings(&dir.data)).await.unwrap_err();
    assert_eq!(
        refusal.to_string(),
        format!(
            "The data directory {} is in use by another Entrybook (process {}). Stop that one first, or give this one a directory of \
             its own with ENTRYBOOK_DATA_DIR.",
            dir.data.display(),
            std::process::id()
        )
    );
    connect(postgres.connect_parts()).await.unwrap();
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn kill_9_of_the_owner_leaves_no_process_and_keeps_the_data() {
    let dir = dir();
    assert!(postgres::join(&dir.data).unwrap().is_none(), "there is nothing to join yet");
    let mut owner = Owner::start(&dir.data).await;
    leave_a_row(&recorded_parts(&dir.data)).await;
    owner.kill_9();
    until("PostgreSQL has ended", || !alive(owner.server)).await;
    until("the watchdog has ended", || processes_naming(&dir.data.to_string_lossy()).is_empty())
        .await;

    let again = start(&dir.data).await;
    assert!(!again.ended_orphan());
    find_the_row(again.connect_parts()).await;
    again.stop().await.unwrap();
}

#[tokio::test]
async fn a_start_right_after_kill_9_waits_for_the_server_that_is_still_stopping() {
    let dir = dir();
    let mut owner = Owner::start(&dir.data).await;
    leave_a_row(&recorded_parts(&dir.data)).await;
    owner.kill_9();
    let again = start(&dir.data).await;
    assert!(!alive(owner.server));
    find_the_row(again.connect_parts()).await;
    again.stop().await.unwrap();
}

#[tokio::test]
async fn an_orphan_whose_watchdog_was_killed_too_is_ended() {
    let dir = dir();
    let mut owner = Owner::start(&dir.data).await;
    leave_a_row(&recorded_parts(&dir.data)).await;
    // Held still, so that it does not notice.
    kill(owner.child.id(), Signal::SIGSTOP);
    for watchdog in watchdogs(&dir.data) {
        kill(watchdog, Signal::SIGKILL);
    }
    owner.kill_9();
    until("the watchdogs have ended", || watchdogs(&dir.data).is_empty()).await;
    assert!(alive(owner.server));

    let again = start(&dir.data).await;
    assert!(again.ended_orphan());
    assert!(!alive(owner.server));
    find_the_row(again.connect_parts()).await;
    again.stop().await.unwrap();
}

#[tokio::test]
async fn a_killed_watchdog_is_noticed_and_replaced() {
    let dir = dir();
    let postgres = start(&dir.data).await;
    leave_a_row(postgres.connect_parts()).await;
    let first = postgres.pid().unwrap();
    let before = watchdogs(&dir.data);
    assert_eq!(before.len(), 2, "one waits for PostgreSQL, one reads from the pipe");
    for watchdog in &before {
        kill(*watchdog, Signal::SIGKILL);
    }
    until("PostgreSQL runs guarded again", || postgres.pid().is_some_and(|pid| pid != first)).await;
    assert!(!alive(first));
    find_the_row(postgres.connect_parts()).await;
    assert!(watchdogs(&dir.data).iter().all(|watchdog| !before.contains(watchdog)));
    postgres.stop().await.unwrap();
    assert!(processes_naming(&dir.data.to_string_lossy()).is_empty());
}

#[tokio::test]
async fn a_watchdog_that_no_longer_reads_does_not_hold_up_a_stop() {
    let dir = dir();
    let postgres = start(&dir.data).await;
    let server = postgres.pid().unwrap();
    let dogs = watchdogs(&dir.data);
    // The reader is the child of the other.
    let all = processes_naming(&dir.data.to_string_lossy());
    let reader =
        all.iter().find(|(pid, parent)| dogs.contains(pid) && dogs.contains(parent)).unwrap().0;
    kill(reader, Signal::SIGKILL);
    until("the reader has ended", || !alive(reader)).await;
    postgres.stop().await.unwrap();
    assert!(!alive(server));
}

#[tokio::test]
async fn a_stale_pid_file_does_not_get_a_foreign_process_killed() {
    let dir = dir();
    let postgres = start(&dir.data).await;
    leave_a_row(postgres.connect_parts()).await;
    let cluster = dir.data.join("postgres/cluster");
    let file = fs::read_to_string(cluster.join("postmaster.pid")).unwrap();
    let owner = fs::metadata(&cluster).unwrap();
    postgres.stop().await.unwrap();

    // A process of the very account, so that PostgreSQL's own check would take it for a server.
    let mut stranger = Stranger::start(&owner);
    let (_, rest) = file.split_once('\n').unwrap();
    let stale = cluster.join("postmaster.pid");
    fs::write(&stale, format!("{}\n{rest}", stranger.0.id())).unwrap();
    std::os::unix::fs::chown(&stale, Some(owner.uid()), Some(owner.gid())).unwrap();

    let again = start(&dir.data).await;
    assert!(!again.ended_orphan());
    assert!(stranger.lives());
    find_the_row(again.connect_parts()).await;
    again.stop().await.unwrap();
    assert!(stranger.lives());
}

#[tokio::test]
async fn a_server_stopped_from_outside_comes_back_on_the_same_socket() {
    let dir = dir();
    let postgres = start(&dir.data).await;
    leave_a_row(postgres.connect_parts()).await;
    for round in 0..3 {
        let before = postgres.pid().unwrap();
        pg_ctl(&postgres, &dir.data.join("postgres/cluster"), &["stop", "-m", "immediate"]);
        until("another PostgreSQL runs", || postgres.pid().is_some_and(|pid| pid != before)).await;
        until_state(&postgres, State::Running).await;
        assert!(!alive(before), "round {round}");
        find_the_row(postgres.connect_parts()).await;
    }
    // As the kernel does when memory runs out. A session is open, which must notice.
    let _session = connect(postgres.connect_parts()).await.unwrap();
    let before = postgres.pid().unwrap();
    let mut states = postgres.subscribe();
    states.mark_unchanged();
    kill(before, Signal::SIGKILL);
    states.changed().await.unwrap();
    until("another PostgreSQL runs", || postgres.pid().is_some_and(|pid| pid != before)).await;
    find_the_row(postgres.connect_parts()).await;
    postgres.stop().await.unwrap();
    assert!(processes_naming(&dir.data.to_string_lossy()).is_empty());
}

#[tokio::test]
async fn a_half_made_cluster_is_swept_away() {
    let dir = dir();
    let home = dir.data.join("postgres");
    let half = home.join("cluster.new-0123456789ab/base/1");
    postgres::prepare_data_dir(&dir.data).unwrap();
    fs::create_dir_all(&half).unwrap();
    fs::write(half.join("PG_VERSION"), "15\n").unwrap();
    fs::write(home.join("scratch-0123456789ab"), "a password").unwrap();
    let postgres = start(&dir.data).await;
    let left = names(&home);
    assert!(
        left.iter().all(|name| !name.starts_with("cluster.new-") && !name.starts_with("scratch-")),
        "{left:?}"
    );
    leave_a_row(postgres.connect_parts()).await;
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn a_lost_record_means_new_passwords_and_the_same_data() {
    let dir = dir();
    let postgres = start(&dir.data).await;
    leave_a_row(postgres.connect_parts()).await;
    let old = postgres.connect_parts().clone();
    postgres.stop().await.unwrap();
    fs::remove_file(dir.data.join("private-postgres.json")).unwrap();
    let again = start(&dir.data).await;
    assert_ne!(again.connect_parts().password, old.password);
    assert!(connect(&old).await.is_err());
    find_the_row(again.connect_parts()).await;
    again.stop().await.unwrap();
}

#[tokio::test]
async fn a_missing_or_damaged_cluster_is_not_replaced_by_an_empty_one() {
    let dir = dir();
    start(&dir.data).await.stop().await.unwrap();
    let cluster = dir.data.join("postgres/cluster");
    fs::rename(cluster.join("PG_VERSION"), dir.data.join("PG_VERSION")).unwrap();
    let damaged = PrivatePostgres::start(settings(&dir.data)).await.unwrap_err();
    assert!(matches!(&damaged, Error::ClusterDamaged { .. }), "{damaged}");
    fs::rename(&cluster, dir.temp.path().join("away")).unwrap();
    let gone = PrivatePostgres::start(settings(&dir.data)).await.unwrap_err();
    assert!(matches!(&gone, Error::ClusterGone { .. }), "{gone}");
    assert!(gone.to_string().contains("private-postgres.json"), "{gone}");
    assert!(!cluster.exists());
}

#[tokio::test]
async fn a_path_too_long_for_a_socket_gets_a_short_one() {
    let dir = dir();
    let data = dir.data.join("long".repeat(30)).join("data");
    let postgres = start(&data).await;
    let sockets = postgres.connect_parts().socket_dir.clone();
    assert!(!sockets.starts_with(&data), "{}", sockets.display());
    assert_eq!(fs::metadata(&sockets).unwrap().permissions().mode() & 0o777, 0o700);
    leave_a_row(postgres.connect_parts()).await;
    PgConnection::connect(&postgres.url()).await.unwrap().close().await.unwrap();
    postgres.stop().await.unwrap();
    assert!(!sockets.exists(), "nothing is left in a shared directory");
    let again = start(&data).await;
    find_the_row(again.connect_parts()).await;
    again.stop().await.unwrap();
}

#[tokio::test]
async fn odd_characters_in_the_path_do_no_harm() {
    let dir = dir();
    let data = dir.temp.path().canonicalize().unwrap().join("a \"b\", $c 'd' ü");
    let postgres = start(&data).await;
    leave_a_row(postgres.connect_parts()).await;
    let mut connection = PgConnection::connect(&postgres.url()).await.unwrap();
    assert_eq!(text(&mut connection, "SELECT what FROM kept").await, "still here");
    postgres.stop().await.unwrap();
}

/// As root below a closed directory (a clone under /root), the cluster goes elsewhere; an ordinary user needs no such thing.
#[tokio::test]
async fn a_closed_directory_does_not_stop_root() {
    let dir = dir();
    let closed = dir.temp.path().canonicalize().unwrap().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    let fallback = dir.temp.path().canonicalize().unwrap().join("fallback");
    let start = async || {
        let mut settings = settings(&closed.join("data"));
        settings.fallback_dir = fallback.clone();
        PrivatePostgres::start(settings).await.unwrap()
    };
    let postgres = start().await;
    leave_a_row(postgres.connect_parts()).await;
    let sockets = postgres.connect_parts().socket_dir.clone();
    postgres.stop().await.unwrap();
    let again = start().await;
    find_the_row(again.connect_parts()).await;
    again.stop().await.unwrap();
    if is_root() {
        assert!(sockets.starts_with(&fallback), "{}", sockets.display());
        assert_eq!(names(&fallback).len(), 1, "the second start uses the same place");
    } else {
        assert!(sockets.starts_with(&closed), "{}", sockets.display());
        assert!(!fallback.exists());
    }
}

#[tokio::test]
async fn root_needs_an_account_that_exists_and_is_not_root() {
    let dir = dir();
    for (name, why) in [("no-such-account", "does not exist"), ("root", "is root itself")] {
        let mut settings = settings(&dir.data);
        settings.unprivileged_user = Some(name.to_owned());
        match PrivatePostgres::start(settings).await {
            Err(error) if is_root() => {
                let text = error.to_string();
                assert!(
                    text.contains(name)
                        && text.contains(why)
                        && text.contains("ENTRYBOOK_POSTGRES_USER"),
                    "{text}"
                );
            }
            // An ordinary user runs PostgreSQL as itself.
            Ok(postgres) if !is_root() => postgres.stop().await.unwrap(),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_wrong_bin_setting_names_itself_and_nothing_else_is_used() {
    let dir = dir();
    let empty = dir.temp.path().join("bin");
    fs::create_dir(&empty).unwrap();
    for (bin, why) in [
        (empty, "there is no postgres in it"),
        (PathBuf::from("/no/such/dir"), "there is no such directory"),
    ] {
        let mut settings = settings(&dir.data);
        settings.bin_dir = Some(bin.clone());
        let error = PrivatePostgres::start(settings).await.unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("ENTRYBOOK_POSTGRES_BIN is {}, but {why}.", bin.display())),
            "{error}"
        );
    }
    assert!(!dir.data.join("postgres/cluster").exists());
}

#[tokio::test]
async fn an_old_or_mixed_installation_is_refused() {
    let dir = dir();
    let fake = |name: &str, versions: [&str; 3]| {
        let bin = dir.temp.path().join(name);
        fs::create_dir(&bin).unwrap();
        for (program, version) in ["postgres", "initdb", "pg_ctl"].into_iter().zip(versions) {
            let path = bin.join(program);
            fs::write(&path, format!("#!/bin/sh\necho '{program} (PostgreSQL) {version}'\n"))
                .unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::set_permissions(&bin, fs::Permissions::from_mode(0o755)).unwrap();
        bin
    };
    for (bin, why) in [
        (fake("old", ["13.9"; 3]), "PostgreSQL 13.9 is too old: 14 or newer is needed"),
        (
            fake("mixed", ["15.1", "16.1", "15.1"]),
            "its postgres is of version 15.1, but its initdb of 16.1",
        ),
    ] {
        let mut settings = settings(&dir.data);
        settings.bin_dir = Some(bin);
        let error = PrivatePostgres::start(settings).await.unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}

#[tokio::test]
async fn a_cluster_of_another_major_version_says_which_to_install() {
    let dir = dir();
    start(&dir.data).await.stop().await.unwrap();
    let version = dir.data.join("postgres/cluster/PG_VERSION");
    fs::write(&version, "97\n").unwrap();
    let mut any = settings(&dir.data);
    any.bin_dir = None;
    let error = PrivatePostgres::start(any).await.unwrap_err();
    assert!(matches!(&error, Error::OtherMajorVersion { wanted: 97, .. }), "{error}");
    assert!(error.to_string().contains("Install PostgreSQL 97"), "{error}");
    let mut chosen = settings(&dir.data);
    chosen.bin_dir = Some(installed(&dir.temp.path().join("probe")).await);
    let error = PrivatePostgres::start(chosen).await.unwrap_err().to_string();
    assert!(
        error.contains("ENTRYBOOK_POSTGRES_BIN") && error.contains("was made by PostgreSQL 97"),
        "{error}"
    );
}

async fn installed(data_dir: &Path) -> PathBuf {
    let postgres = start(data_dir).await;
    postgres.stop().await.unwrap();
    postgres.bin_dir().to_owned()
}

fn names(dir: &Path) -> Vec<String> {
    dir.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn watchdogs(data_dir: &Path) -> Vec<u32> {
    let named = processes_naming(&data_dir.to_string_lossy());
    let watchdogs = processes_naming("entrybook-watchdog");
    named.into_iter().filter(|process| watchdogs.contains(process)).map(|(pid, _)| pid).collect()
}

/// How to reach the PostgreSQL of another process.
fn recorded_parts(data_dir: &Path) -> postgres::ConnectParts {
    postgres::join(data_dir).unwrap().unwrap()
}
