//! Settings: what is wrong is named, what is secret is not, and the help knows them all.

use super::*;
use crate::support::database::TestDatabase;
use crate::support::scratch;
use crate::support::server::MASTER_KEY;
use sqlx::ConnectOptions;

fn anywhere() -> (tempfile::TempDir, Setup) {
    let dir = scratch();
    let setup = bare(&dir.path().join("book"));
    (dir, setup)
}

#[test]
fn wrong_settings_are_named_with_what_would_be_right() {
    let (dir, setup) = anywhere();
    let wrong = setup
        .clone()
        .with("ENTRYBOOK_ACCESS_TOKEN_LIFETIME", "9h")
        .with("ENTRYBOOK_REGISTRATION", "ajar");
    let said = run(&wrong, &["serve", "--hash-threads", "many"]).refused(2);
    insta::assert_snapshot!(said, @r#"
    entrybook: ENTRYBOOK_REGISTRATION is "ajar": write open or closed.
    ENTRYBOOK_ACCESS_TOKEN_LIFETIME is "9h": write something from 1m to 8h.
    --hash-threads is "many": write a whole number from 1 to 256.
    "#);

    let file = dir.path().join("entrybook.toml");
    std::fs::write(&file, "lisen = \"127.0.0.1:1\"\n").unwrap();
    let said = run(&setup, &["serve", "--config", file.to_str().unwrap()]).refused(2);
    assert!(said.contains("lisen is no setting. Did you mean listen?"), "{said}");
    assert!(run(&setup, &["serve", "--lisen", "x"]).refused(2).contains("--listen"));

    let doctor = run(&wrong, &["doctor"]);
    assert_eq!(doctor.code, 5);
    assert!(doctor.out.contains("FAIL  settings"), "{}", doctor.out);
    assert!(!setup.data_dir.exists(), "nothing was begun");
}

#[tokio::test]
async fn a_given_database_needs_a_given_key() {
    let database = TestDatabase::create().await;
    let (_dir, mut setup) = anywhere();
    setup.database_url = Some(database.url());
    let said = run(&setup, &["serve"]).refused(2);
    assert!(said.contains("openssl rand -base64 32"), "{said}");
    let both = setup
        .clone()
        .with("ENTRYBOOK_MASTER_KEY", MASTER_KEY)
        .with("ENTRYBOOK_MASTER_KEY_FILE", "/nonexistent");
    assert!(run(&both, &["serve"]).refused(2).contains("Give one of them"));
    let broken = setup.clone().with("ENTRYBOOK_MASTER_KEY", "hunter2");
    let said = run(&broken, &["serve"]).refused(2);
    assert!(said.contains("holds no master key") && !said.contains("hunter2"), "{said}");
}

#[test]
fn a_database_that_is_away_has_an_exit_code_and_its_password_is_kept() {
    let (_dir, mut setup) = anywhere();
    setup.database_url = Some(format!("postgres://ada:hunter2@127.0.0.1:{}/book", free_port()));
    let setup = setup.with("ENTRYBOOK_MASTER_KEY", MASTER_KEY);
    for verb in [&["serve"][..], &["migrate"], &["admin", "list"], &["audit", "tail"]] {
        let said = run(&setup, verb).refused(3);
        assert!(said.contains("cannot be reached") && said.contains("DATABASE_URL"), "{said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
    let doctor = run(&setup, &["doctor"]);
    assert_eq!(doctor.code, 5);
    assert!(!doctor.out.contains("hunter2"), "{}", doctor.out);
}

#[tokio::test]
async fn a_database_may_be_migrated_beforehand() {
    let database = TestDatabase::create().await;
    // The test's own database is migrated already.
    let empty = format!("entrybook_test_empty_{}", std::process::id());
    sqlx::raw_sql(&format!("CREATE DATABASE {empty}")).execute(database.pool()).await.unwrap();
    let (_dir, mut setup) = anywhere();
    let options = database.connect_options().database(&empty);
    setup.database_url = Some(options.to_url_lossy().to_string());
    let keyed =
        setup.clone().with("ENTRYBOOK_MASTER_KEY", MASTER_KEY).with("ENTRYBOOK_MIGRATE", "no");
    assert!(run(&keyed, &["serve"]).refused(1).contains("Run: entrybook migrate"));
    assert!(run(&keyed, &["admin", "list"]).refused(1).contains("Run: entrybook migrate"));
    let applied = run(&setup, &["migrate", "--json"]).json();
    assert_eq!(applied["applied"][0], 1);
    assert_eq!(run(&setup, &["migrate", "--json"]).json()["applied"], serde_json::json!([]));
    let server = Serving::start(&keyed).await;
    assert!(printed_password(&server.printed()).is_some());
    drop(server);
    let drop = format!("DROP DATABASE {empty} WITH (FORCE)");
    sqlx::raw_sql(&drop).execute(database.pool()).await.unwrap();
}

#[test]
fn the_help_knows_every_setting() {
    let (_dir, setup) = anywhere();
    let help = run(&setup, &["serve", "--help"]).ok();
    let mut settings: Vec<_> = help
        .split_whitespace()
        .map(|word| word.split([']', '.', ',', '=']).next().unwrap())
        .filter(|word| word.starts_with("ENTRYBOOK_") || *word == "DATABASE_URL")
        .collect();
    settings.sort_unstable();
    settings.dedup();
    insta::assert_snapshot!(settings.join("\n"), @r"
    DATABASE_URL
    ENTRYBOOK_ACCESS_TOKEN_LIFETIME
    ENTRYBOOK_ADDRESS_CHANGES_PER_HOUR
    ENTRYBOOK_ADDRESS_THROTTLE_FORGET_EACH
    ENTRYBOOK_ADDRESS_THROTTLE_FREE_FAILURES
    ENTRYBOOK_ADMIN_EMAIL
    ENTRYBOOK_ADMIN_PASSWORD
    ENTRYBOOK_ADMIN_USERNAME
    ENTRYBOOK_APPLICATIONS
    ENTRYBOOK_CHANGES_PER_HOUR
    ENTRYBOOK_CONFIG
    ENTRYBOOK_CONNECTIONS_PER_ADDRESS
    ENTRYBOOK_DATABASE_CONNECTIONS
    ENTRYBOOK_DATA_DIR
    ENTRYBOOK_HASH_QUEUE
    ENTRYBOOK_HASH_THREADS
    ENTRYBOOK_LISTEN
    ENTRYBOOK_LOG
    ENTRYBOOK_LOG_ANCHOR_FILE
    ENTRYBOOK_LOG_ANCHOR_URL
    ENTRYBOOK_LOG_CA_FILE
    ENTRYBOOK_LOG_ENTRIES
    ENTRYBOOK_LOG_FORMAT
    ENTRYBOOK_LOG_INTERVAL
    ENTRYBOOK_LOG_ORIGIN
    ENTRYBOOK_LOG_WITNESSES
    ENTRYBOOK_MASTER_KEY
    ENTRYBOOK_MASTER_KEY_FILE
    ENTRYBOOK_MAX_CONNECTIONS
    ENTRYBOOK_MAX_REQUESTS
    ENTRYBOOK_MIGRATE
    ENTRYBOOK_OWNER_DATABASE_URL
    ENTRYBOOK_POSTGRES_BIN
    ENTRYBOOK_POSTGRES_USER
    ENTRYBOOK_PREVIOUS_MASTER_KEY
    ENTRYBOOK_PREVIOUS_MASTER_KEY_FILE
    ENTRYBOOK_PUBLIC_URL
    ENTRYBOOK_REFRESH_GRACE
    ENTRYBOOK_REFRESH_LIFETIME
    ENTRYBOOK_REGISTRATION
    ENTRYBOOK_REGISTRATIONS_PER_HOUR
    ENTRYBOOK_REMEMBER_LIFETIME
    ENTRYBOOK_RETENTION
    ENTRYBOOK_SESSION_LIFETIME
    ENTRYBOOK_SHUTDOWN_DRAIN
    ENTRYBOOK_SHUTDOWN_TIMEOUT
    ENTRYBOOK_THROTTLE_FIRST_DELAY
    ENTRYBOOK_THROTTLE_FORGET
    ENTRYBOOK_THROTTLE_FREE_FAILURES
    ENTRYBOOK_THROTTLE_LONGEST_DELAY
    ENTRYBOOK_TOKEN_ALGORITHM
    ENTRYBOOK_TOKEN_AUDIENCE
    ENTRYBOOK_TRUSTED_PROXIES
    ");
}

#[test]
fn the_exit_codes_are_in_the_help() {
    let (_dir, setup) = anywhere();
    let help = run(&setup, &["--help"]).ok();
    for code in
        ["0  done", "1  failed", "2  wrong usage", "3  the database", "4  refused", "5  doctor"]
    {
        assert!(help.contains(code), "{help}");
    }
    assert_eq!(run(&setup, &[]).code, 2);
    assert_eq!(run(&setup, &["openapi"]).json()["openapi"], "3.1.0");
}
