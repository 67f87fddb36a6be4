//! A database of its own for each test, cloned from a migrated template.
//!
//! The server is the one that `ENTRYBOOK_TEST_DATABASE_URL` names (as a superuser), or a private
//! PostgreSQL that is started once for the whole run and ends with it.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
};

use sha2::{Digest, Sha256};
use sqlx::{
    ConnectOptions, Connection, PgConnection, PgPool,
    migrate::Migrator,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::sync::OnceCell;

use super::server::eventually;

static MIGRATIONS: Migrator = sqlx::migrate!("../migrations");
static SERVER: OnceCell<Server> = OnceCell::const_new();
static COUNTER: AtomicU32 = AtomicU32::new(0);

/// The server of this run, and the database that the others are cloned from.
struct Server {
    options: PgConnectOptions,
    template: String,
    /// Ends with this process.
    _private: Option<postgres::PrivatePostgres>,
}

/// A migrated database. It is dropped with this value.
pub struct TestDatabase {
    name: String,
    server: PgConnectOptions,
    pool: PgPool,
}

impl TestDatabase {
    /// A fresh database.
    pub async fn create() -> Self {
        Self::of(&SERVER.get_or_init(Server::start).await.template).await
    }

    /// A fresh database as an installation has it: every event must carry its code.
    pub async fn authenticated() -> Self {
        let database = Self::create().await;
        let boundary = "ALTER TABLE event_authentication DISABLE TRIGGER signed_once;
             UPDATE event_authentication SET last_without_mac = 0;
             ALTER TABLE event_authentication ENABLE ALWAYS TRIGGER signed_once";
        sqlx::raw_sql(boundary).execute(&database.pool).await.unwrap();
        database
    }

    /// Another one with all that this one has. Whoever is connected to this one is disconnected.
    pub async fn copy(&self) -> Self {
        let mut admin = self.server.connect().await.unwrap();
        sqlx::query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1")
            .bind(&self.name)
            .execute(&mut admin)
            .await
            .unwrap();
        admin.close().await.unwrap();
        Self::of(&self.name).await
    }

    async fn of(template: &str) -> Self {
        let server = SERVER.get_or_init(Server::start).await;
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("entrybook_test_{}_{number}", std::process::id());
        let mut admin = server.options.connect().await.unwrap();
        run(&mut admin, &format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await;
        run(&mut admin, &format!("CREATE DATABASE {name} TEMPLATE {template}")).await;
        admin.close().await.unwrap();
        let pool = PgPoolOptions::new()
            .max_connections(10)
            .connect_with(server.options.clone().database(&name))
            .await
            .unwrap();
        Self { name, server: server.options.clone(), pool }
    }

    /// A pool of the database's owner, who is a superuser.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    pub fn connect_options(&self) -> PgConnectOptions {
        self.server.clone().database(&self.name)
    }

    pub fn url(&self) -> String {
        self.connect_options().to_url_lossy().to_string()
    }

    /// Waits until all that is in the book by now is shown by every read table; none may be stopped. A
    /// transaction of another test may hold its order back, for longer than the service waits before it
    /// answers.
    pub async fn settled(&self) {
        // Not through the pool, whose connections belong to the runtime of the test that made it.
        let mut connection = self.connect_options().connect().await.unwrap();
        let (tx, id): (String, i64) =
            sqlx::query_as("SELECT tx::text, id FROM events ORDER BY tx DESC, id DESC LIMIT 1")
                .fetch_one(&mut connection)
                .await
                .unwrap();
        eventually("everything is shown", async || {
            let shown: Option<bool> = sqlx::query_scalar(
                "SELECT (SELECT min(position) FROM projections WHERE name NOT LIKE 'process:%')
                        >= (SELECT position FROM journal
                             WHERE tx = $1::xid8 AND event_id = $2 ORDER BY position DESC LIMIT 1)",
            )
            .bind(&tx)
            .bind(id)
            .fetch_one(&mut connection)
            .await
            .unwrap();
            (shown == Some(true)).then_some(())
        })
        .await;
        connection.close().await.unwrap();
    }

    /// One more pool, as another process would have it.
    pub async fn another_pool(&self, application_name: &str) -> PgPool {
        PgPoolOptions::new()
            .max_connections(10)
            .connect_with(self.connect_options().application_name(application_name))
            .await
            .unwrap()
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let (server, name) = (self.server.clone(), self.name.clone());
        // On a thread with a runtime of its own: the test's is about to end. Best effort.
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let Ok(runtime) = runtime else { return };
            runtime.block_on(async {
                if let Ok(mut admin) = server.connect().await {
                    let statement = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
                    let _best_effort = sqlx::raw_sql(&statement).execute(&mut admin).await;
                }
            });
        });
        let _best_effort = dropping.join();
    }
}

impl Server {
    async fn start() -> Self {
        let (options, private) = match std::env::var("ENTRYBOOK_TEST_DATABASE_URL") {
            Ok(url) => {
                (url.parse().expect("ENTRYBOOK_TEST_DATABASE_URL is a PostgreSQL URL"), None)
            }
            Err(_) => {
                let private = start_private().await;
                let options = private.superuser_parts().url().parse().unwrap();
                (options, Some(private))
            }
        };
        let template = migrate_template(&options).await;
        Self { options, template, _private: private }
    }
}

/// The private PostgreSQL of the tests: kept between runs, so that the next one starts sooner.
async fn start_private() -> postgres::PrivatePostgres {
    let mut settings =
        postgres::Settings::new(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("postgres"));
    settings.bin_dir = std::env::var_os("ENTRYBOOK_TEST_POSTGRES_BIN").map(PathBuf::from);
    settings.fallback_dir = std::env::temp_dir().join("entrybook-tests");
    settings.parameters.push(("max_connections".into(), "300".into()));
    // So that a test that locks a table takes no transaction id for it (a standby would have to know of
    // the lock): one that writes holds back the order of the book, in the databases of all tests.
    settings.parameters.push(("wal_level".into(), "minimal".into()));
    settings.parameters.push(("max_wal_senders".into(), "0".into()));
    let private = postgres::PrivatePostgres::start(settings).await.unwrap();
    let options: PgConnectOptions = private.superuser_parts().url().parse().unwrap();
    let mut admin = options.connect().await.unwrap();
    // Nobody else uses this server, so what tests left there is left over.
    let left: Vec<String> = sqlx::query_scalar(
        "SELECT datname::text FROM pg_database WHERE starts_with(datname::text, 'entrybook_test_')",
    )
    .fetch_all(&mut admin)
    .await
    .unwrap();
    for name in left {
        run(&mut admin, &format!("DROP DATABASE {name} WITH (FORCE)")).await;
    }
    private
}

/// The template of these migrations: made once, and used by every later run.
async fn migrate_template(server: &PgConnectOptions) -> String {
    let mut hash = Sha256::new();
    for migration in MIGRATIONS.iter() {
        hash.update(&migration.checksum);
    }
    let start: String = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let name = format!("entrybook_template_{start}");
    let mut admin = server.connect().await.unwrap();
    // Several runs may begin at once.
    sqlx::query("SELECT pg_advisory_lock(7301, 1)").execute(&mut admin).await.unwrap();
    let there: bool =
        sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)")
            .bind(&name)
            .fetch_one(&mut admin)
            .await
            .unwrap();
    if !there {
        // Renamed when complete, so that a half-migrated one is never cloned.
        let unfinished = format!("{name}_unfinished");
        run(&mut admin, &format!("DROP DATABASE IF EXISTS {unfinished} WITH (FORCE)")).await;
        run(&mut admin, &format!("CREATE DATABASE {unfinished} TEMPLATE template0")).await;
        let mut connection = server.clone().database(&unfinished).connect().await.unwrap();
        MIGRATIONS.run(&mut connection).await.unwrap();
        // Most tests write events by SQL as well. To them all events are older than the codes; what is to
        // be forged asks for `authenticated`.
        let older = "ALTER TABLE event_authentication DISABLE TRIGGER signed_once;
             UPDATE event_authentication SET last_without_mac = 9223372036854775807;
             ALTER TABLE event_authentication ENABLE ALWAYS TRIGGER signed_once";
        sqlx::raw_sql(older).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        run(&mut admin, &format!("ALTER DATABASE {unfinished} RENAME TO {name}")).await;
    }
    admin.close().await.unwrap();
    name
}

async fn run(connection: &mut PgConnection, statement: &str) {
    sqlx::raw_sql(statement).execute(connection).await.unwrap();
}
