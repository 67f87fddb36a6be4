//! Building a running Entrybook from its settings: the database, the keys, the service, the read side.
//!
//! `serve` builds all of it; the other verbs what they need, so that each acts exactly as the server would. It knows nothing of HTTP
//! beyond the address that tokens are issued under.

mod admin;
mod database;
mod master_key;
pub(crate) mod secret_file;
mod waiting;

pub use admin::{FirstAdmin, generate_password, make_first_admin};
pub use database::{Database, Owner};
pub use master_key::{master_key_of, previous_master_key_of};
pub use waiting::{Order, Waiting};

use crate::config::{Config, DatabaseUrl};
use crate::log::Log;
use anyhow::{Context, anyhow, bail};
use commands::clock::{Clock, Entropy, SystemClock, SystemEntropy};
use commands::hashing::{HashPool, HashSettings};
use commands::keyring::Keyring;
use commands::tokens::{TokenSettings, Tokens};
use commands::{Entrybook, StorageError};
use projections::{
    Adoption, BookSource, Head, ProjectionState, ProjectionStatus, Projector, ProjectorError,
    Sequencer,
};
use sqlx::{Connection, PgConnection, PgPool};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// What is wrong lies in the database's being away, not in what was asked.
#[derive(Debug, thiserror::Error)]
#[error("The database {database} cannot be reached: {cause}. {advice}")]
pub struct DatabaseUnavailable {
    pub database: String,
    pub cause: String,
    pub advice: &'static str,
}

/// The service and the read side.
#[derive(Clone)]
pub struct Services {
    /// What requests and verbs ask with.
    pub pool: PgPool,
    /// What keeps the book in order and tells how we are: requests cannot use it up.
    pub background: PgPool,
    pub book: Entrybook,
    pub log: Log,
    pub sequencer: Sequencer,
    pub projector: Projector,
    pub entropy: Arc<dyn Entropy>,
}

/// For the sequencer, the projector, the revocations and the checks of readiness.
const BACKGROUND_CONNECTIONS: u32 = 8;

/// How long a verb waits for transactions that are still open: most are over within moments.
const OPEN_WAIT: Duration = Duration::from_secs(5);
const OPEN_PAUSE: Duration = Duration::from_millis(100);

/// How much of it a process needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub connections: u32,
    /// None: no pool of its own for what goes on in the background.
    pub background: Option<u32>,
    pub hash_threads: usize,
    pub hash_queue: usize,
}

impl Size {
    /// As set, for a server.
    pub fn of_server(config: &Config) -> Self {
        Self {
            connections: config.database_connections.div_ceil(2),
            background: Some(BACKGROUND_CONNECTIONS),
            hash_threads: config.hash_threads,
            hash_queue: config.hash_queue,
        }
    }

    /// For a verb that does one thing.
    pub const ONE_VERB: Self =
        Self { connections: 4, background: None, hash_threads: 1, hash_queue: 4 };
}

impl Services {
    /// Builds them on a database that [`prepare`] has seen. `issuer` is the address that tokens are issued under.
    pub async fn open(
        config: &Config,
        database: &Database,
        issuer: &str,
        size: Size,
    ) -> anyhow::Result<Self> {
        let pool = connect(database, size.connections).await?;
        let background = match size.background {
            Some(connections) => connect(database, connections).await?,
            None => pool.clone(),
        };
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);

        let master = master_key::find(config, &pool, entropy.as_ref()).await?;
        let keyring = Arc::new(Keyring::load(pool.clone(), master, entropy.clone()).await?);
        if let Err(cause) = correct_permit(database, &keyring).await {
            tracing::error!("the write permit in the database could not be corrected: {cause}");
        }
        let settings = TokenSettings {
            algorithm: config.token_algorithm,
            access_lifetime: config.access_token_lifetime,
            ..TokenSettings::new(issuer.to_owned(), config.token_audience.clone())
        };
        let tokens =
            Tokens::load(pool.clone(), keyring.clone(), settings, clock.clone(), entropy.clone())
                .await?;
        let hashing = HashSettings {
            threads: size.hash_threads,
            queue: size.hash_queue,
            ..HashSettings::default()
        };
        let hasher = Arc::new(HashPool::start(hashing, entropy.clone())?);
        let book = Entrybook::new(
            pool.clone(),
            keyring,
            Arc::new(tokens),
            hasher,
            clock,
            entropy.clone(),
            service_settings(config),
        );
        let anchors = config.anchors.clone();
        let log = Log::open(book.clone(), background.clone(), &config.data_dir, anchors).await?;
        let sequencer = Sequencer::new(background.clone());
        let read = BookSource::new(background.clone(), book.keyring().events().clone());
        let projector = Projector::new(read, projections::all(), sequencer.head());
        projector.ensure().await.context("The read tables could not be made")?;
        Ok(Self { pool, background, book, log, sequencer, projector, entropy })
    }

    /// What the folds read, through the connections of requests or of the one verb.
    #[must_use]
    pub fn source(&self) -> BookSource {
        BookSource::new(self.pool.clone(), self.book.keyring().events().clone())
    }

    /// Posts all that is written into the journal and the read tables, so that a verb that reads them sees everything, whether or not
    /// a server runs. A table that is stopped is left as it is: [`needs`](Self::needs) says whether that matters.
    pub async fn post(&self) -> anyhow::Result<()> {
        self.sequencer.drain().await.context("The journal could not be brought up to date")?;
        match self.projector.catch_up().await {
            Ok(()) | Err(ProjectorError::Stopped { .. }) => Ok(()),
            Err(error) => Err(error).context("The read tables could not be brought up to date"),
        }
    }

    /// Refuses what reads these projections where one of them is stopped or was never complete: what it shows would be a part as if it
    /// were the whole.
    pub async fn needs(&self, projections: &[&str]) -> anyhow::Result<()> {
        for status in self.projector.status().await? {
            if projections.contains(&status.name) && !is_whole(&status) {
                return Err(not_whole(&status));
            }
        }
        Ok(())
    }

    /// Posts, and sees that what is read is whole. Where a transaction that is still open, of whatever database of the cluster, keeps the
    /// newest events from their places, it is waited for, but not for long. Warns of other projections that are not whole, and where the
    /// newest events are missing all the same.
    pub async fn catch_up(&self, read: &[&str]) -> anyhow::Result<()> {
        let newest = waiting::newest(&self.pool).await?;
        let until = Instant::now() + OPEN_WAIT;
        self.post().await?;
        let is_missing = |head: Head| newest.is_some_and(|(tx, id)| !head.covers(tx, id));
        let mut waited = false;
        while is_missing(*self.sequencer.head().borrow()) && Instant::now() < until {
            sleep(OPEN_PAUSE).await;
            self.sequencer.drain().await?;
            waited = true;
        }
        if waited {
            self.post().await?;
        }
        for status in self.projector.status().await? {
            let ProjectionStatus { name, .. } = status;
            if is_whole(&status) {
                continue;
            }
            if read.contains(&name) {
                return Err(not_whole(&status));
            }
            tracing::warn!(
                projection = name,
                "the projection {name} is stopped or not complete, which changes nothing here: see `entrybook projections status`"
            );
        }
        Ok(waiting::warn_of_missing(&self.pool).await?)
    }

    /// Closes the pools.
    pub async fn close(self) {
        self.background.close().await;
        self.book.store().close().await;
        self.pool.close().await;
    }
}

fn is_whole(status: &ProjectionStatus) -> bool {
    status.built && status.state != ProjectionState::Stopped
}

fn not_whole(status: &ProjectionStatus) -> anyhow::Error {
    let ProjectionStatus { name, detail, .. } = status;
    let why = match (&status.state, detail) {
        (ProjectionState::Stopped, Some(detail)) => format!("is stopped: {detail}"),
        (ProjectionState::Stopped, None) => "is stopped".to_owned(),
        (ProjectionState::Missing | ProjectionState::Building | ProjectionState::Live, _) => {
            "was never complete".to_owned()
        }
    };
    anyhow!(
        "The projection {name}, which is read here, {why}. It does not show all of the book, so nothing is shown. What to do: entrybook \
         projections status"
    )
}

fn service_settings(config: &Config) -> commands::Settings {
    commands::Settings {
        throttle: config.throttle,
        address_throttle: config.address_throttle,
        registrations_per_hour: config.registrations_per_hour,
        changes_per_hour: config.changes_per_hour,
        refresh_lifetime: config.refresh_lifetime,
        remember_lifetime: config.remember_lifetime,
        session_lifetime: config.session_lifetime,
        refresh_grace: config.refresh_grace,
        // The other half answers what reads no stream.
        stream_connections: usize::try_from(config.database_connections / 2).unwrap_or(usize::MAX),
        ..commands::Settings::default()
    }
}

/// Whether a process may bring the database up to date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Migrate {
    Yes,
    /// Then it must be up to date.
    No,
}

impl Migrate {
    /// What verbs other than `serve` and `migrate` do: their own private PostgreSQL is nobody else's.
    pub fn as_owner(database: &Database) -> Self {
        if database.owner() == Owner::ThisProcess { Self::Yes } else { Self::No }
    }
}

/// Puts the permit of this master key in place of another one ([`Keyring::permit`]), where this process has the
/// login that owns the tables.
async fn correct_permit(database: &Database, keyring: &Keyring) -> anyhow::Result<()> {
    if database.owner() == Owner::OtherProcess || keyring.permit_holds().await? {
        return Ok(());
    }
    let mut connection = owner(database).await?;
    let corrected = keyring.correct_permit(&mut connection).await;
    connection.close().await?;
    corrected?;
    tracing::warn!(
        "the write permit in the database was not the one of its master key, and is now; find out who put the other one there"
    );
    Ok(())
}

/// Brings the database up to date, or makes sure that it is. Any number of replicas may do so at once.
///
/// Answers the versions that were applied.
pub async fn prepare(
    config: &Config,
    database: &Database,
    migrate: Migrate,
) -> anyhow::Result<Vec<i64>> {
    master_key::require(config)?;
    migrate_or_check(database, migrate).await
}

/// The same without a look at the master key, which migrating does not need.
pub async fn migrate_or_check(database: &Database, migrate: Migrate) -> anyhow::Result<Vec<i64>> {
    // Who joins another process's database has no login that owns anything.
    let joined = database.owner() == Owner::OtherProcess;
    let migrate = if joined { Migrate::No } else { migrate };
    let mut connection = match migrate {
        Migrate::Yes => owner(database).await?,
        Migrate::No => login(database).await?,
    };
    version_is_supported(&mut connection).await?;
    let applied = match migrate {
        Migrate::No => {
            let pool = connect(database, 1).await?;
            let pending = commands::database::pending_migrations(&pool).await?;
            pool.close().await;
            if !pending.is_empty() {
                bail!(
                    "The database {} is not up to date: {} migration{} to be applied. {}",
                    database.url(),
                    pending.len(),
                    if pending.len() == 1 { " is" } else { "s are" },
                    if joined {
                        "The Entrybook that runs on it is of another version: stop it, and start this one"
                    } else {
                        "Run: entrybook migrate"
                    }
                );
            }
            Vec::new()
        }
        Migrate::Yes => {
            let report = commands::database::migrate(database.owner_url().options()).await;
            let report = match database.login_without_ownership() {
                Some(_) => report?,
                None => report.context(
                    "The database could not be brought up to date by the login of DATABASE_URL. If another login owns its tables, name \
                     that one in ENTRYBOOK_OWNER_DATABASE_URL, or set ENTRYBOOK_MIGRATE=no",
                )?,
            };
            if let Some(why) = &report.role_unavailable {
                tracing::warn!(
                    "the database lets Entrybook make no role of its own ({why}); it keeps the rights of its login, and triggers alone keep \
                     the book append-only"
                );
            }
            if let Some(login) = database.login_without_ownership() {
                let let_in = let_in(&mut connection, login).await;
                if let Err(error) = let_in {
                    tracing::warn!(
                        "the login {login} could not be made a member of {role}: {error}. Run as an administrator of the database: GRANT \
                         {role} TO {login}",
                        role = commands::database::APP_ROLE
                    );
                }
            }
            if !report.applied.is_empty() {
                tracing::info!(versions = ?report.applied, "the database was brought up to date");
            }
            match projections::adopt_cluster(&mut connection).await? {
                Adoption::SameCluster | Adoption::Mended { .. } => {}
                Adoption::Adopted { events } => tracing::warn!(
                    events,
                    "the database was restored; its lines keep their order, {events} events that had no line yet got theirs, \
                     and new ones follow"
                ),
            }
            report.applied
        }
    };
    connection.close().await?;
    Ok(applied)
}

const OLDEST_VERSION: i32 = 14;

async fn version_is_supported(connection: &mut PgConnection) -> anyhow::Result<()> {
    let number: i32 = sqlx::query_scalar("SELECT current_setting('server_version_num')::integer")
        .fetch_one(connection)
        .await?;
    if number / 10_000 < OLDEST_VERSION {
        bail!(
            "The database runs PostgreSQL {}; Entrybook needs {OLDEST_VERSION} or newer",
            number / 10_000
        );
    }
    Ok(())
}

/// Lets the application's login take the application's role.
async fn let_in(connection: &mut PgConnection, login: &str) -> Result<(), sqlx::Error> {
    let missing: Option<String> = sqlx::query_scalar(
        "SELECT format('GRANT %I TO %I', $1, $2) WHERE NOT pg_has_role($2::name, $1::name, 'MEMBER')",
    )
    .bind(commands::database::APP_ROLE)
    .bind(login)
    .fetch_optional(&mut *connection)
    .await?;
    if let Some(grant) = missing {
        sqlx::raw_sql(&grant).execute(connection).await?;
    }
    Ok(())
}

/// A connection with the rights of the login that owns the tables.
pub async fn owner(database: &Database) -> anyhow::Result<PgConnection> {
    connection(database, database.owner_url(), "entrybook-owner").await
}

/// A connection with the rights of the application's login.
pub async fn login(database: &Database) -> anyhow::Result<PgConnection> {
    connection(database, database.url(), "entrybook-login").await
}

async fn connection(
    database: &Database,
    url: &DatabaseUrl,
    name: &str,
) -> anyhow::Result<PgConnection> {
    let name = database.lease().holder().session_name(name);
    let options = url.options().clone().application_name(&name);
    let connection = PgConnection::connect_with(&options);
    match tokio::time::timeout(Duration::from_secs(15), connection).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) => Err(database.unavailable_as(url, error.to_string()).into()),
        Err(_) => {
            Err(database.unavailable_as(url, "it did not answer within 15 seconds".into()).into())
        }
    }
}

async fn connect(database: &Database, connections: u32) -> anyhow::Result<PgPool> {
    commands::database::connect(database.url().options().clone(), connections).await.map_err(
        |error| match error {
            StorageError::Unavailable(cause) => database.unavailable(cause.to_string()).into(),
            other => other.into(),
        },
    )
}
