//! A PostgreSQL of the benchmark's own, and the databases in it.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use postgres::{PrivatePostgres, Settings};
use sqlx::{
    ConnectOptions as _, Connection as _, Executor as _, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};

/// What is set otherwise than Entrybook sets it; for all that is measured alike. Durability is as it
/// is in use: `fsync`, `full_page_writes` and `synchronous_commit` are on.
pub(crate) const PARAMETERS: [(&str, &str); 8] = [
    ("shared_buffers", "2GB"),
    ("effective_cache_size", "12GB"),
    ("maintenance_work_mem", "256MB"),
    ("max_connections", "120"),
    ("max_wal_size", "4GB"),
    ("checkpoint_timeout", "15min"),
    ("checkpoint_completion_target", "0.9"),
    ("autovacuum_naptime", "10s"),
];

pub(crate) struct Cluster {
    postgres: PrivatePostgres,
    superuser: PgConnectOptions,
}

impl Cluster {
    pub(crate) async fn start(dir: &Path) -> Result<Self> {
        let mut settings = Settings::new(dir);
        settings.bin_dir = std::env::var_os("ENTRYBOOK_POSTGRES_BIN").map(PathBuf::from);
        settings.fallback_dir = std::env::temp_dir().join("entrybook-benchmarks");
        for (name, value) in PARAMETERS {
            settings.parameters.push((name.to_owned(), value.to_owned()));
        }
        let postgres = PrivatePostgres::start(settings).await?;
        let superuser = postgres.superuser_parts().url().parse()?;
        Ok(Self { postgres, superuser })
    }

    /// A migrated database without an event.
    pub(crate) async fn create(&self, name: &str) -> Result<Database> {
        let mut admin = self.superuser.connect().await?;
        for statement in [
            format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"),
            format!("CREATE DATABASE {name} TEMPLATE template0"),
        ] {
            sqlx::raw_sql(&statement).execute(&mut admin).await?;
        }
        admin.close().await?;
        let options = self.superuser.clone().database(name);
        commands::database::migrate(&options).await?;
        Ok(Database { name: name.to_owned(), options })
    }

    /// A copy of a database that nobody is connected to.
    pub(crate) async fn copy(&self, database: &Database, name: &str) -> Result<Database> {
        let mut admin = self.superuser.connect().await?;
        sqlx::raw_sql(&format!("CREATE DATABASE {name} TEMPLATE {}", database.name))
            .execute(&mut admin)
            .await?;
        admin.close().await?;
        Ok(Database { name: name.to_owned(), options: self.superuser.clone().database(name) })
    }

    /// Nobody needs it any more, and others need its room.
    pub(crate) async fn drop(&self, database: Database) -> Result<()> {
        let mut admin = self.superuser.connect().await?;
        sqlx::raw_sql(&format!("DROP DATABASE {} WITH (FORCE)", database.name))
            .execute(&mut admin)
            .await?;
        Ok(admin.close().await?)
    }

    /// Where the data is, which may be elsewhere than where it was asked for.
    pub(crate) async fn data_directory(&self) -> Result<PathBuf> {
        let mut admin = self.superuser.connect().await?;
        let directory: String =
            sqlx::query_scalar("SHOW data_directory").fetch_one(&mut admin).await?;
        admin.close().await?;
        Ok(directory.into())
    }

    /// What a program of PostgreSQL needs in its environment to connect.
    pub(crate) fn environment(&self, database: &Database) -> Vec<(&'static str, String)> {
        let parts = self.postgres.superuser_parts();
        vec![
            ("PGHOST", parts.socket_dir.display().to_string()),
            ("PGPORT", parts.port.to_string()),
            ("PGUSER", parts.user.clone()),
            ("PGPASSWORD", parts.password.expose().to_owned()),
            ("PGDATABASE", database.name.clone()),
        ]
    }

    /// pgbench: the server's own, or that of any PostgreSQL of Debian's here, for some builds come
    /// without it, and it speaks with a server of any version.
    pub(crate) fn pgbench(&self) -> Result<PathBuf> {
        let of_debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        let mut places: Vec<PathBuf> = of_debian.map(|major| major.path().join("bin")).collect();
        places.sort();
        places.push(self.postgres.bin_dir().to_owned());
        places.into_iter().rev().map(|place| place.join("pgbench")).find(|program| program.exists()).context(
            "pgbench is missing: install PostgreSQL's own packages (Debian: postgresql and postgresql-contrib)",
        )
    }

    pub(crate) fn version(&self) -> String {
        self.postgres.version().to_string()
    }

    pub(crate) async fn stop(self) -> Result<()> {
        Ok(self.postgres.stop().await?)
    }
}

/// One database of the cluster.
#[derive(Clone)]
pub(crate) struct Database {
    pub(crate) name: String,
    options: PgConnectOptions,
}

impl Database {
    /// As the application connects: with the role that may only add to the book.
    pub(crate) async fn connect(&self, connections: u32) -> Result<PgPool> {
        commands::database::connect(self.options.clone(), connections)
            .await
            .with_context(|| format!("connecting to {}", self.name))
    }

    /// As the owner.
    pub(crate) async fn owner(&self) -> Result<PgConnection> {
        Ok(self.options.connect().await?)
    }

    /// As the owner, each connection prepared by a statement.
    pub(crate) async fn owner_pool(&self, prepare: &'static str) -> Result<PgPool> {
        let pool = PgPoolOptions::new().max_connections(4).after_connect(move |connection, _| {
            Box::pin(async move {
                connection.execute(prepare).await?;
                Ok(())
            })
        });
        Ok(pool.connect_with(self.options.clone()).await?)
    }

    /// For a child process. It holds a password.
    pub(crate) fn url(&self) -> String {
        self.options.to_url_lossy().to_string()
    }

    /// Whatever was written is on disk and its statistics are known, so that no measurement pays for
    /// what was done before it.
    pub(crate) async fn settle(&self) -> Result<()> {
        let mut owner = self.owner().await?;
        sqlx::raw_sql("VACUUM (ANALYZE)").execute(&mut owner).await?;
        sqlx::raw_sql("CHECKPOINT").execute(&mut owner).await?;
        Ok(owner.close().await?)
    }

    pub(crate) async fn count(&self, sql: &str) -> Result<i64> {
        let mut owner = self.owner().await?;
        let count = sqlx::query_scalar(sql).fetch_one(&mut owner).await?;
        owner.close().await?;
        Ok(count)
    }
}
