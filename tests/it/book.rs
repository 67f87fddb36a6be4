//! The book itself, on a real PostgreSQL: appended whole, rewritten by nobody, loaded flat.

use std::sync::Arc;

use commands::{
    By, Entrybook, Hourly, NewAccount, Origin, RegisterError, Settings, SignInError,
    clock::{ManualClock, SystemEntropy},
    database,
    hashing::{HashPool, HashSettings},
    keyring::{Keyring, MasterKey, MasterKeys},
    store::SNAPSHOT_EVERY,
    tokens::{TokenSettings, Tokens},
};
use domain::{Email, GuardSubject, Identifier, IdentifierKind, Password, Role, Username};
use sqlx::{PgPool, Row};

use crate::support::database::TestDatabase;

/// The write side on a database of its own, with a clock that the test turns.
pub struct Desk {
    pub book: Entrybook,
    pub clock: Arc<ManualClock>,
    pub pool: PgPool,
    _database: TestDatabase,
}

impl Desk {
    pub async fn open() -> Self {
        Self::open_with(MasterKey::generate(&SystemEntropy)).await
    }

    /// The same with master keys that the test knows.
    pub async fn open_with(master: impl Into<MasterKeys>) -> Self {
        Self::open_on(TestDatabase::create().await, master).await
    }

    /// The same on a database that the test has made.
    pub async fn open_on(database: TestDatabase, master: impl Into<MasterKeys>) -> Self {
        database::migrate(&database.connect_options()).await.unwrap();
        let pool = database::connect(database.connect_options(), 20).await.unwrap();
        let clock =
            Arc::new(ManualClock::new(chrono::DateTime::from_timestamp(1_760_000_000, 0).unwrap()));
        let settings = Settings { changes_per_hour: Hourly::UNBOUNDED, ..Settings::default() };
        let book = Self::sit_down(&pool, master, &clock, settings).await;
        Self { book, clock, pool, _database: database }
    }

    /// The write side as another replica has it, with the settings that are the default.
    pub async fn replica(&self, master: impl Into<MasterKeys>) -> Entrybook {
        Self::sit_down(&self.pool, master, &self.clock, Settings::default()).await
    }

    async fn sit_down(
        pool: &PgPool,
        master: impl Into<MasterKeys>,
        clock: &Arc<ManualClock>,
        settings: Settings,
    ) -> Entrybook {
        let entropy = Arc::new(SystemEntropy);
        let keyring = Arc::new(Keyring::load(pool.clone(), master, entropy.clone()).await.unwrap());
        let tokens = Tokens::load(
            pool.clone(),
            keyring.clone(),
            TokenSettings { issuer: "http://localhost".into(), ..TokenSettings::default() },
            clock.clone(),
            entropy.clone(),
        )
        .await
        .unwrap();
        // Weak hashes: what is tested here is what happens around them.
        let hashing = HashSettings { memory_kib: 64, passes: 1, threads: 2, queue: 1_000 };
        let hasher = Arc::new(HashPool::start(hashing, entropy.clone()).unwrap());
        Entrybook::new(
            pool.clone(),
            keyring,
            Arc::new(tokens),
            hasher,
            clock.clone(),
            entropy,
            settings,
        )
    }

    /// A pool of the database's owner.
    pub fn owner(&self) -> &PgPool {
        self._database.pool()
    }

    pub fn url(&self) -> String {
        self._database.url()
    }

    pub fn origin(&self) -> Origin {
        Origin {
            by: By::Anonymous,
            address: "192.0.2.7".parse().ok(),
            user_agent: Some("Test/1.0".into()),
            request_id: "test-request".into(),
        }
    }

    pub async fn register(&self, name: &str) -> commands::SignedIn {
        self.book.register(account(name), false, &self.origin()).await.unwrap()
    }

    pub async fn sign_in(
        &self,
        name: &str,
        password: &str,
    ) -> Result<commands::SignedIn, SignInError> {
        let password = Password::present(password).unwrap();
        self.book.sign_in(&Identifier::typed(name), password, false, &self.origin()).await
    }

    pub async fn count(&self, event_type: &str) -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM events WHERE event_type = $1")
            .bind(event_type)
            .fetch_one(&self.pool)
            .await
            .unwrap()
    }
}

pub fn account(name: &str) -> NewAccount {
    NewAccount {
        email: Email::parse(&format!("{name}@example.org")).unwrap(),
        username: Username::parse(name).unwrap(),
        full_name: None,
        password: Password::choose(&format!("the password of {name}")).unwrap(),
        roles: [Role::User].into(),
    }
}

#[tokio::test]
async fn the_database_refuses_to_rewrite_the_book() {
    let desk = Desk::open().await;
    desk.register("ada").await;
    assert_eq!(database::acting_role(&desk.pool).await.unwrap(), database::APP_ROLE);
    let attempts = [
        "UPDATE events SET payload = '{}'",
        "DELETE FROM events",
        "TRUNCATE events",
        "UPDATE journal SET event_id = 1",
        "DELETE FROM journal",
        "TRUNCATE journal",
        "INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata, recorded_at)
         VALUES ('User', 'x', 1, 'x', '1', '{}', '{}', '2001-01-01')",
        "INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata, tx)
         VALUES ('User', 'x', 1, 'x', '1', '{}', '{}', '5')",
        "DELETE FROM sealing_keys",
        "UPDATE sealing_keys SET wrapped = ''",
        "ALTER TABLE events DISABLE TRIGGER ALL",
        "DROP TABLE events",
    ];
    for attempt in attempts {
        let error = sqlx::raw_sql(attempt).execute(&desk.pool).await.unwrap_err();
        let code =
            error.as_database_error().and_then(|error| error.code()).map(|code| code.into_owned());
        assert_eq!(code.as_deref(), Some("42501"), "{attempt}: {error}");
    }
    // The owner has the privilege, and is stopped by the trigger.
    let owner = desk._database.pool();
    for attempt in attempts.iter().take(6) {
        let error = sqlx::raw_sql(attempt).execute(owner).await.unwrap_err();
        let code =
            error.as_database_error().and_then(|error| error.code()).map(|code| code.into_owned());
        assert_eq!(code.as_deref(), Some("23001"), "{attempt}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_hundred_registrations_of_one_name_one_succeeds() {
    let desk = Desk::open().await;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..200 {
        let (book, origin) = (desk.book.clone(), desk.origin());
        tasks.spawn(async move {
            // The same name in any case; the e-mail address differs for half of them.
            let name = if n % 2 == 0 { "ada" } else { "ADA" };
            let email = if n % 4 < 2 {
                "ada@example.org".to_owned()
            } else {
                format!("ada{n}@example.org")
            };
            let new = NewAccount { email: Email::parse(&email).unwrap(), ..account(name) };
            book.register(new, false, &origin).await
        });
    }
    let (mut made, mut taken) = (0, 0);
    while let Some(done) = tasks.join_next().await {
        match done.unwrap() {
            Ok(_) => made += 1,
            Err(RegisterError::IdentifierTaken(
                IdentifierKind::Username | IdentifierKind::Email,
            )) => taken += 1,
            Err(other) => panic!("{other:?}"),
        }
    }
    assert_eq!((made, taken), (1, 199));
    assert_eq!(desk.count("UserRegistered").await, 1);
    let keys: i64 = sqlx::query_scalar("SELECT count(*) FROM sealing_keys WHERE id LIKE 'p:%'")
        .fetch_one(&desk.pool)
        .await
        .unwrap();
    assert_eq!(keys, 1, "no key is left of those who were refused");
    let held: i64 =
        sqlx::query_scalar("SELECT count(*) FROM identifiers").fetch_one(&desk.pool).await.unwrap();
    assert_eq!(held, 2);
}

#[tokio::test]
async fn the_ten_thousandth_refresh_loads_what_the_tenth_does() {
    let desk = Desk::open().await;
    let mut signed_in = desk.register("ada").await;
    let stream = signed_in.session_id.to_string();
    let mut rows_at = Vec::new();
    for n in 1..=300 {
        desk.clock.advance(chrono::TimeDelta::minutes(1));
        signed_in = desk.book.refresh(signed_in.refresh.expose(), &desk.origin()).await.unwrap();
        if n == 10 || n == 300 {
            // What a load reads: the snapshot, and the events after it.
            let rows: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM events WHERE aggregate_id = $1
                    AND sequence > coalesce((SELECT sequence FROM snapshots WHERE aggregate_id = $1), 0)",
            )
            .bind(&stream)
            .fetch_one(&desk.pool)
            .await
            .unwrap();
            let size: Option<i32> =
                sqlx::query_scalar("SELECT length(payload) FROM snapshots WHERE aggregate_id = $1")
                    .bind(&stream)
                    .fetch_optional(&desk.pool)
                    .await
                    .unwrap();
            rows_at.push((rows, size.unwrap_or(0)));
        }
    }
    for (rows, size) in rows_at {
        assert!(rows <= SNAPSHOT_EVERY as i64, "{rows} events to load");
        assert!(size < 2_000, "a snapshot of {size} bytes");
    }
}

#[tokio::test]
async fn a_forged_snapshot_is_not_believed() {
    let desk = Desk::open().await;
    let mut signed_in = desk.register("ada").await;
    for _ in 0..SNAPSHOT_EVERY {
        signed_in = desk.book.refresh(signed_in.refresh.expose(), &desk.origin()).await.unwrap();
    }
    let before = desk.book.session(signed_in.session_id).await.unwrap();
    assert!(before.ended.is_none());
    let forged = sqlx::query(
        r#"UPDATE snapshots SET payload = convert_to(replace(convert_from(payload, 'UTF8'),
             '"ended":null', '"ended":"signed_out"'), 'UTF8')"#,
    )
    .execute(&desk.pool)
    .await
    .unwrap();
    assert_eq!(forged.rows_affected(), 1);
    assert_eq!(desk.book.session(signed_in.session_id).await.unwrap(), before);
}

/// The metadata of the newest event of a type.
async fn latest(desk: &Desk, event_type: &str) -> domain::Metadata {
    let text: String = sqlx::query_scalar(
        "SELECT metadata::text FROM events WHERE event_type = $1 ORDER BY id DESC LIMIT 1",
    )
    .bind(event_type)
    .fetch_one(&desk.pool)
    .await
    .unwrap();
    domain::Metadata::from_text(&text).unwrap()
}

/// Who is erased leaves no address behind, whatever waits in memory.
#[tokio::test]
async fn blocked_attempts_on_who_is_erased_are_posted_without_an_address() {
    let desk = Desk::open().await;
    let ada = desk.register("ada").await;
    for _ in 0..10 {
        let _ = desk.sign_in("ada", "not the password").await;
    }
    desk.book.erase(ada.account.id, &desk.origin()).await.unwrap();
    desk.book.post_blocked().await;
    let posted = latest(&desk, "SignInAttemptsBlocked").await;
    assert_eq!((posted.actor, posted.source), (domain::Actor::System, None));
}

#[tokio::test]
async fn guessing_is_slowed_down_and_what_it_appends_is_bounded() {
    let desk = Desk::open().await;
    let ada = desk.register("ada").await;
    let mut wrong = 0;
    let mut throttled = 0;
    for _ in 0..200 {
        match desk.sign_in("ada", "not the password").await {
            Err(SignInError::WrongCredentials) => wrong += 1,
            Err(SignInError::Throttled { retry_after }) => {
                assert!(retry_after.as_millis() > 0);
                throttled += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((wrong, throttled), (5, 195), "the clock stands still, so the first delay holds");
    // Not even the right password gets in now …
    assert!(matches!(
        desk.sign_in("ada", "the password of ada").await,
        Err(SignInError::Throttled { .. })
    ));
    // … but who is in already stays in.
    desk.book.refresh(ada.refresh.expose(), &desk.origin()).await.unwrap();
    desk.book.post_blocked().await;
    assert_eq!(desk.count("SignInFailed").await, 5);
    assert_eq!(desk.count("SignInThrottled").await, 1);
    assert_eq!(desk.count("SignInAttemptsBlocked").await, 1);
    let counted: i64 = sqlx::query_scalar(
        "SELECT (payload->'SignInAttemptsBlocked'->>'count')::bigint FROM events WHERE event_type = 'SignInAttemptsBlocked'",
    )
    .fetch_one(&desk.pool)
    .await
    .unwrap();
    assert_eq!(counted, 196);
    // They are found by where the last one came from, as a failure is.
    let last = latest(&desk, "SignInAttemptsBlocked").await;
    let failed = latest(&desk, "SignInFailed").await;
    assert_eq!(last.actor, domain::Actor::Anonymous);
    let (last, failed) = (last.source.unwrap(), failed.source.unwrap());
    assert_eq!((last.address, last.network), (failed.address, failed.network));
    let stream = GuardSubject::Account(ada.account.id).stream_id();
    let opened =
        desk.book.open_source(&last.sealed, "SignInGuard", &stream).await.unwrap().unwrap();
    assert_eq!(opened.address.as_deref(), Some("192.0.2.7"));
    desk.clock.advance(chrono::TimeDelta::seconds(2));
    desk.sign_in("ada", "the password of ada").await.unwrap();
    assert_eq!(desk.count("SignInFailuresCleared").await, 1);
}

#[tokio::test]
async fn an_unknown_name_is_throttled_alike_and_never_stored_in_the_clear() {
    let desk = Desk::open().await;
    for _ in 0..10 {
        let _ = desk.sign_in("my-secret-typo", "a password typed in the wrong field").await;
    }
    assert_eq!(desk.count("SignInFailed").await, 5);
    assert!(matches!(
        desk.sign_in("MY-SECRET-TYPO", "x").await,
        Err(SignInError::Throttled { .. })
    ));
    let text = everything(desk.owner()).await;
    for clear in ["my-secret-typo", "MY-SECRET-TYPO", "wrong field", "192.0.2.7", "Test/1.0"] {
        assert!(!text.contains(clear), "{clear} is in the database in the clear");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_guesses_does_not_outrun_its_count() {
    let desk = Desk::open().await;
    desk.register("ada").await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let (book, origin) = (desk.book.clone(), desk.origin());
        tasks.spawn(async move {
            let password = Password::present("not the password").unwrap();
            book.sign_in(&Identifier::typed("ada"), password, false, &origin).await
        });
    }
    let mut looked_at = 0;
    while let Some(done) = tasks.join_next().await {
        match done.unwrap() {
            Err(SignInError::WrongCredentials) => looked_at += 1,
            Err(SignInError::Throttled { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
    // Five are free; those that were being looked at beside the fifth count as well.
    assert!((5..=8).contains(&looked_at), "{looked_at} guesses were looked at");
}

#[tokio::test]
async fn many_accounts_from_one_address_throttle_the_address() {
    let desk = Desk::open().await;
    let mut turned_away = 0;
    for n in 0..120 {
        match desk.sign_in(&format!("nobody{n}"), "a guess at random").await {
            Err(SignInError::WrongCredentials) => {}
            Err(SignInError::Throttled { .. }) => turned_away += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(turned_away, 20);
    assert_eq!(desk.count("SignInFailed").await, 100);
    // Another address is not concerned.
    let elsewhere = Origin { address: "198.51.100.1".parse().ok(), ..desk.origin() };
    let password = Password::present("a guess at random").unwrap();
    let answer = desk.book.sign_in(&Identifier::typed("nobody"), password, false, &elsewhere).await;
    assert!(matches!(answer, Err(SignInError::WrongCredentials)));
}

#[tokio::test]
async fn no_personal_data_and_no_secret_is_in_the_database_in_the_clear() {
    let desk = Desk::open().await;
    let new = NewAccount {
        full_name: domain::FullName::parse("Augusta Ada King").unwrap(),
        ..account("countess")
    };
    let signed_in = desk.book.register(new, true, &desk.origin()).await.unwrap();
    desk.sign_in("countess", "the password of countess").await.unwrap();
    let _ = desk.sign_in("countess@example.org", "something else").await;
    let change = commands::NewProfile {
        email: Some(Email::parse("lovelace@example.org").unwrap()),
        ..commands::NewProfile::default()
    };
    let current = Password::present("the password of countess").ok();
    desk.book.change_profile(signed_in.account.id, change, current, &desk.origin()).await.unwrap();
    let cli = Origin { by: By::Cli { os_user: "operator-name".into() }, ..desk.origin() };
    desk.book.grant_role(signed_in.account.id, Role::Auditor, &cli).await.unwrap();
    let text = everything(desk.owner()).await;
    assert!(text.contains("UserRegistered"), "the scan sees the events");
    let secrets = [
        "countess",
        "lovelace",
        "Augusta",
        "example.org",
        "192.0.2.7",
        "Test/1.0",
        "argon2",
        "operator-name",
        signed_in.refresh.expose(),
        &signed_in.access.token,
    ];
    for clear in secrets {
        assert!(!text.contains(clear), "{clear} is in the database in the clear");
    }
}

/// Every row of every table, as text.
async fn everything(pool: &PgPool) -> String {
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname IN ('public', 'ledger')",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    let mut text = String::new();
    for table in tables {
        let rows = sqlx::query(&format!("SELECT t::text FROM {table} AS t"))
            .fetch_all(pool)
            .await
            .unwrap();
        for row in rows {
            text.push_str(row.get(0));
            text.push('\n');
        }
    }
    text
}

#[tokio::test]
async fn a_renamed_account_frees_its_old_name() {
    let desk = Desk::open().await;
    let ada = desk.register("ada").await;
    desk.register("ben").await;
    let rename = |to: &str| commands::NewProfile {
        username: Some(Username::parse(to).unwrap()),
        ..commands::NewProfile::default()
    };
    let rename_ada = async |to: &str| {
        let current = Password::present("the password of ada").ok();
        desk.book.change_profile(ada.account.id, rename(to), current, &desk.origin()).await
    };
    let taken = rename_ada("BEN").await.unwrap_err();
    assert!(
        matches!(taken, commands::ChangeProfileError::IdentifierTaken(IdentifierKind::Username)),
        "{taken:?}"
    );
    let (renamed, _) = rename_ada("countess").await.unwrap();
    assert_eq!(renamed.username, "countess");
    desk.sign_in("Countess", "the password of ada").await.unwrap();
    let email = Email::parse("other@example.org").unwrap();
    desk.book
        .register(NewAccount { email, ..account("ada") }, false, &desk.origin())
        .await
        .unwrap();
}

#[tokio::test]
async fn streams_load_through_postgres_es_too() {
    let desk = Desk::open().await;
    let ada = desk.register("ada").await;
    let events = cqrs_es::EventStore::<commands::UserAggregate>::load_events(
        desk.book.store(),
        &ada.account.id.to_string(),
    )
    .await
    .unwrap();
    let mut folded = domain::User::default();
    events.into_iter().for_each(|envelope| folded.apply(envelope.payload));
    assert_eq!(folded, desk.book.user(ada.account.id).await.unwrap());
}

#[tokio::test]
async fn a_login_that_may_not_take_the_role_is_told_and_the_triggers_remain() {
    let database = TestDatabase::create().await;
    let name = format!("plain_{}", std::process::id());
    let statement = format!(
        "CREATE ROLE {name} LOGIN NOSUPERUSER NOCREATEROLE PASSWORD 'plain';
         DROP SCHEMA public CASCADE; DROP SCHEMA ledger CASCADE; CREATE SCHEMA public;
         GRANT ALL ON SCHEMA public TO {name};
         DO $$ BEGIN EXECUTE format('GRANT ALL ON DATABASE %I TO {name}', current_database()); END $$"
    );
    sqlx::raw_sql(&statement).execute(database.pool()).await.unwrap();
    let login = database.connect_options().username(&name).password("plain");
    let report = database::migrate(&login).await.unwrap();
    assert!(report.role_unavailable.is_some(), "{report:?}");
    let pool = database::connect(login, 2).await.unwrap();
    assert_eq!(database::acting_role(&pool).await.unwrap(), name);
    sqlx::raw_sql(
        "INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
         VALUES ('User', 'x', 1, 'x', '1', '{}', '{}')",
    )
    .execute(&pool)
    .await
    .unwrap();
    let refused = sqlx::raw_sql("DELETE FROM events").execute(&pool).await.unwrap_err();
    assert!(refused.to_string().contains("append-only"), "{refused}");
    pool.close().await;
    let gone = format!("DROP OWNED BY {name}; DROP ROLE {name}");
    sqlx::raw_sql(&gone).execute(database.pool()).await.unwrap();
}

#[tokio::test]
async fn a_session_that_was_refreshed_does_not_expire_by_an_old_list() {
    let desk = Desk::open().await;
    let ada = desk.register("ada").await;
    let (id, session) = (ada.account.id, ada.session_id);
    desk.clock.advance(chrono::TimeDelta::hours(23));
    let ada = desk.book.refresh(ada.refresh.expose(), &desk.origin()).await.unwrap();
    desk.clock.advance(chrono::TimeDelta::hours(2));
    let reason = domain::EndReason::Expired;
    let ended = desk.book.end_session(id, session, reason, &desk.origin()).await.unwrap();
    assert_eq!(ended, None);
    desk.book.refresh(ada.refresh.expose(), &desk.origin()).await.unwrap();
}
