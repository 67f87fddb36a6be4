//! The database of this process: one that was given, a private one of its own, or one that another Entrybook keeps.

use super::DatabaseUnavailable;
use crate::config::{Config, DatabaseUrl};
use commands::clock::{Ids, SystemClock, SystemEntropy};
use commands::leases::{Holder, Lease};
use postgres::{ConnectParts, PrivatePostgres};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{Connection, PgConnection};
use std::path::Path;
use std::sync::Arc;

/// A database to connect to. End it with [`close`](Self::close).
pub struct Database {
    url: DatabaseUrl,
    /// The login that owns the tables, where it is another than the application's and this process may use it.
    owner_url: Option<DatabaseUrl>,
    private: Option<PrivatePostgres>,
    owner: Owner,
    lease: Lease,
}

/// Who keeps it running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Somebody else: `DATABASE_URL`.
    Operator,
    /// This process.
    ThisProcess,
    /// Another Entrybook on the same data directory.
    OtherProcess,
}

impl Database {
    /// For a server: nobody else may have the data directory.
    pub async fn open(config: &Config) -> anyhow::Result<Self> {
        match &config.database_url {
            Some(url) => {
                let (url, lease) = lease(url.options())?;
                let owner_url = config.owner_database_url.as_ref();
                let owner_url = owner_url.map(|owner| named(owner.options(), lease.holder()));
                Ok(Self { url, owner_url, private: None, owner: Owner::Operator, lease })
            }
            None => {
                let database = Self::start(config).await?;
                match database.keep_ownership().await {
                    Ok(()) => Ok(database),
                    Err(error) => {
                        database.close().await?;
                        Err(error)
                    }
                }
            }
        }
    }

    /// For a verb: where a server runs on the data directory, its PostgreSQL is used; else one is started, and stopped again by
    /// [`close`](Self::close).
    pub async fn open_or_join(config: &Config) -> anyhow::Result<Self> {
        if config.database_url.is_some() {
            return Self::open(config).await;
        }
        match Self::open(config).await {
            Err(error) if matches!(error.downcast_ref(), Some(postgres::Error::InUse { .. })) => {
                match postgres::join(&config.data_dir)? {
                    Some(parts) => {
                        let (url, lease) = lease(url(&parts).options())?;
                        let owner = Owner::OtherProcess;
                        Ok(Self { url, owner_url: None, private: None, owner, lease })
                    }
                    None => {
                        Err(error.context("It is still making its database; try again in a moment"))
                    }
                }
            }
            other => other,
        }
    }

    /// Whether there is a database to look into, so that a verb in the wrong directory makes none.
    pub fn exists(config: &Config) -> Result<bool, postgres::Error> {
        Ok(config.database_url.is_some() || postgres::join(&config.data_dir)?.is_some())
    }

    /// Leaves the login of the private database nothing but its membership of the role that it drops to. The superuser owns the
    /// database, its schemas and tables: who owns them may drop them, or turn their triggers off.
    async fn keep_ownership(&self) -> anyhow::Result<()> {
        let Some(owner) = &self.owner_url else { return Ok(()) };
        let mut connection = PgConnection::connect_with(owner.options()).await?;
        sqlx::raw_sql(
            "DO $$ BEGIN
                 IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'entrybook_app') THEN
                     CREATE ROLE entrybook_app NOLOGIN;
                 END IF;
                 IF NOT pg_has_role('entrybook', 'entrybook_app', 'MEMBER') THEN
                     GRANT entrybook_app TO entrybook;
                 END IF;
                 IF NOT pg_has_role('entrybook_app', 'pg_read_all_stats', 'MEMBER') THEN
                     GRANT pg_read_all_stats TO entrybook_app;
                 END IF;
             END $$;
             REASSIGN OWNED BY entrybook TO CURRENT_USER;
             REVOKE CREATE ON SCHEMA public FROM PUBLIC;",
        )
        .execute(&mut connection)
        .await?;
        Ok(connection.close().await?)
    }

    async fn start(config: &Config) -> anyhow::Result<Self> {
        let mut settings = postgres::Settings::new(&config.data_dir);
        settings.bin_dir.clone_from(&config.postgres_bin);
        settings.unprivileged_user.clone_from(&config.postgres_user);
        // What this process may open, some for who repairs, and as many again for verbs beside it.
        let connections = config.database_connections.saturating_add(40).max(100);
        settings.parameters.push(("max_connections".to_owned(), connections.to_string()));
        let private = PrivatePostgres::start(settings).await?;
        let login = private.connect_parts();
        let owner = url(private.superuser_parts()).options().clone().database(&login.database);
        let (url, lease) = lease(url(login).options())?;
        Ok(Self {
            url,
            owner_url: Some(named(&owner, lease.holder())),
            private: Some(private),
            owner: Owner::ThisProcess,
            lease,
        })
    }

    pub fn url(&self) -> &DatabaseUrl {
        &self.url
    }

    /// The login that migrates and owns the tables.
    pub(super) fn owner_url(&self) -> &DatabaseUrl {
        self.owner_url.as_ref().unwrap_or(&self.url)
    }

    /// The name of the application's login, where another one owns the tables.
    pub(super) fn login_without_ownership(&self) -> Option<&str> {
        self.owner_url.is_some().then(|| self.url.options().get_username())
    }

    pub fn owner(&self) -> Owner {
        self.owner
    }

    /// By which others see that this process lives.
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// Stops what this process started.
    pub async fn close(self) -> anyhow::Result<()> {
        self.lease.give_back().await;
        match self.private {
            Some(private) => Ok(private.stop().await?),
            None => Ok(()),
        }
    }

    pub fn unavailable(&self, cause: String) -> DatabaseUnavailable {
        self.unavailable_as(&self.url, cause)
    }

    pub(super) fn unavailable_as(&self, url: &DatabaseUrl, cause: String) -> DatabaseUnavailable {
        DatabaseUnavailable {
            database: url.to_string(),
            cause: cause.trim_end_matches('.').to_owned(),
            advice: match self.owner {
                Owner::Operator
                    if self.owner_url.as_ref().is_some_and(|owner| std::ptr::eq(owner, url)) =>
                {
                    "Check ENTRYBOOK_OWNER_DATABASE_URL, and that this server runs and lets you in."
                }
                Owner::Operator => "Check DATABASE_URL, and that this server runs and lets you in.",
                Owner::ThisProcess => "Look at its log, in the data directory.",
                Owner::OtherProcess => {
                    "It belongs to another Entrybook, which may be starting or stopping; try again in a moment."
                }
            },
        }
    }
}

/// Begins to keep a lease for this process, under whose name its sessions go from now on.
fn lease(login: &PgConnectOptions) -> std::io::Result<(DatabaseUrl, Lease)> {
    let host = nix::unistd::gethostname().ok().and_then(|host| host.into_string().ok());
    let holder = Holder {
        id: Ids::new(Arc::new(SystemClock), Arc::new(SystemEntropy)).uuid_v7(),
        program: format!("entrybook {}", env!("CARGO_PKG_VERSION")),
        host: host.unwrap_or_else(|| "an unnamed host".to_owned()),
    };
    let lease = Lease::keep(login, holder)?;
    Ok((named(login, lease.holder()), lease))
}

fn named(login: &PgConnectOptions, holder: &Holder) -> DatabaseUrl {
    login.clone().application_name(&holder.session_name("entrybook")).into()
}

fn url(parts: &ConnectParts) -> DatabaseUrl {
    let host: &Path = &parts.socket_dir;
    PgConnectOptions::new_without_pgpass()
        .socket(host)
        .port(parts.port)
        .username(&parts.user)
        .password(parts.password.expose())
        .database(&parts.database)
        .ssl_mode(PgSslMode::Disable)
        .into()
}
