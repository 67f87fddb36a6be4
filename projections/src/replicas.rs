//! The servers that run, and what may be dropped because none of them uses it.
//!
//! Each server registers itself with the versions of projections that it is bound to, and beats. One
//! that is not seen for [`DEAD_AFTER`] counts as dead. Registering and [`prune()`] take the same lock, so
//! that a server either registers first, and its tables are kept, or registers afterwards, and makes
//! them again.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{Connection, PgConnection, PgPool, Postgres, Row, Transaction};
use tokio::time::{MissedTickBehavior, sleep, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{projection::Projection, projector::Projector, tables::BUILD_LOCK};

/// How often a server says that it lives.
const BEAT: Duration = Duration::from_secs(5);
/// A server that was not seen for so long is dead.
const DEAD_AFTER: Duration = Duration::from_secs(30);
/// For so long a dead one is still shown.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(24 * 60 * 60);
/// How long one beat, or the goodbye, may take.
const BEAT_TIMEOUT: Duration = Duration::from_secs(5);

/// Shared by who registers, exclusive for who prunes.
const REGISTRY_LOCK: i64 = 0x0E17_B003;
/// How long pruning waits for readers of a table …
const LOCK_TIMEOUT: Duration = Duration::from_secs(1);
/// … how often it tries …
const ATTEMPTS: u32 = 5;
/// … and how long it lets others go first in between.
const PAUSE: Duration = Duration::from_millis(300);

/// A server, as it registered itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Replica {
    pub id: Uuid,
    /// The name of its machine or container.
    pub host: String,
    /// The version of its binary.
    pub binary: String,
    pub started_at: DateTime<Utc>,
    pub seen_at: DateTime<Utc>,
    pub alive: bool,
    /// Name and version of each projection that it is bound to.
    pub projections: Vec<(String, i32)>,
}

/// All servers that run, and those that died of late, by the database's clock.
pub async fn replicas(pool: &PgPool) -> Result<Vec<Replica>, sqlx::Error> {
    registered(&mut *pool.acquire().await?).await
}

async fn registered(connection: &mut PgConnection) -> Result<Vec<Replica>, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT id, host, program, started_at, seen_at, projection_names, projection_versions,
                seen_at > clock_timestamp() - make_interval(secs => $1) AS alive
           FROM replicas ORDER BY started_at, id",
    )
    .bind(DEAD_AFTER.as_secs_f64())
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            let names: Vec<String> = row.try_get("projection_names")?;
            let versions: Vec<i32> = row.try_get("projection_versions")?;
            Ok(Replica {
                id: row.try_get("id")?,
                host: row.try_get("host")?,
                binary: row.try_get("program")?,
                started_at: row.try_get("started_at")?,
                seen_at: row.try_get("seen_at")?,
                alive: row.try_get("alive")?,
                projections: names.into_iter().zip(versions).collect(),
            })
        })
        .collect()
}

/// What a server says of itself.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Drawn at random by each process.
    pub id: Uuid,
    pub host: String,
    /// The version of the binary.
    pub binary: String,
}

/// Keeps a server registered, and with that the tables it uses.
#[derive(Debug)]
pub struct Heartbeat {
    pool: PgPool,
    projector: Projector,
    identity: Identity,
    names: Vec<&'static str>,
    versions: Vec<i32>,
    /// Its tables are there, and nobody may have dropped them since.
    has_tables: bool,
}

impl Heartbeat {
    #[must_use]
    pub fn new(
        pool: PgPool,
        projector: Projector,
        projections: &[&'static dyn Projection],
        identity: Identity,
    ) -> Self {
        let names = projections.iter().map(|projection| projection.name()).collect();
        let versions = projections.iter().map(|projection| projection.version()).collect();
        Self { pool, projector, identity, names, versions, has_tables: false }
    }

    /// Beats until cancelled, then says goodbye. Nothing waits for it: what fails is told once, and
    /// tried again with the next beat.
    pub async fn run(mut self, cancel: CancellationToken) {
        let mut ticks = tokio::time::interval(BEAT);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failing = false;
        loop {
            tokio::select! {
                () = cancel.cancelled() => break,
                _ = ticks.tick() => {}
            }
            match within(self.beat()).await {
                Ok(()) if failing => {
                    tracing::info!("this replica is registered again");
                    failing = false;
                }
                Ok(()) => {}
                Err(cause) if !failing => {
                    tracing::warn!(
                        %cause,
                        "this replica could not register itself and goes on trying; until it can, `entrybook projections prune` does not \
                         know of it: {cause}"
                    );
                    failing = true;
                }
                Err(_) => {}
            }
        }
        if let Err(cause) = within(self.leave()).await {
            tracing::debug!(
                "this replica could not say goodbye, and counts as dead in a while: {cause}"
            );
        }
    }

    /// Says that this server lives.
    pub async fn beat(&mut self) -> Result<(), sqlx::Error> {
        if !self.is_seen().await? {
            // Who was taken for dead, or was not known, may find its tables dropped.
            self.has_tables = false;
            self.register().await?;
        }
        if !self.has_tables {
            let made = self.projector.ensure().await;
            made.map_err(|cause| sqlx::Error::Configuration(cause.into()))?;
            self.has_tables = true;
        }
        Ok(())
    }

    /// Beats where it is sure that nobody takes this server for dead meanwhile, and forgets who has been
    /// dead for long.
    async fn is_seen(&self) -> Result<bool, sqlx::Error> {
        let seen = sqlx::query(
            "WITH forgotten AS (
                 DELETE FROM replicas
                  WHERE id <> $1 AND seen_at < clock_timestamp() - make_interval(secs => $3))
             UPDATE replicas SET seen_at = clock_timestamp()
              WHERE id = $1 AND seen_at > clock_timestamp() - make_interval(secs => $2)",
        )
        .bind(self.identity.id)
        .bind(DEAD_AFTER.as_secs_f64() / 2.0)
        .bind(FORGOTTEN_AFTER.as_secs_f64())
        .execute(&self.pool)
        .await?;
        Ok(seen.rows_affected() == 1)
    }

    async fn register(&self) -> Result<(), sqlx::Error> {
        let mut transaction = self.pool.begin().await?;
        sqlx::query("SELECT pg_advisory_xact_lock_shared($1)")
            .bind(REGISTRY_LOCK)
            .execute(&mut *transaction)
            .await?;
        sqlx::query(
            "INSERT INTO replicas (id, host, program, projection_names, projection_versions)
             VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (id) DO UPDATE SET seen_at = clock_timestamp()",
        )
        .bind(self.identity.id)
        .bind(&self.identity.host)
        .bind(&self.identity.binary)
        .bind(&self.names)
        .bind(&self.versions)
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await
    }

    /// Says that this server ends.
    pub async fn leave(&self) -> Result<(), sqlx::Error> {
        sqlx::query("DELETE FROM replicas WHERE id = $1")
            .bind(self.identity.id)
            .execute(&self.pool)
            .await
            .map(drop)
    }
}

async fn within<T>(work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    timeout(BEAT_TIMEOUT, work).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
}

/// A version of a projection, or what is left of one, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pruned {
    pub name: String,
    pub version: i32,
    /// In schema `ledger`.
    pub tables: Vec<String>,
    pub bytes: i64,
    /// Why it was not dropped. None: it was, or would have been.
    pub kept_because: Option<String>,
    pub dropped: bool,
}

/// Drops the versions of projections that no server uses, nor `ours`, the projections of this binary; and
/// what broken off builds have left. Says what it kept, and why.
///
/// `dry_run` drops nothing. Each version is dropped whole or not at all; after an error, some may have been.
pub async fn prune(
    pool: &PgPool,
    ours: &[&'static dyn Projection],
    dry_run: bool,
) -> Result<Vec<Pruned>, sqlx::Error> {
    let mut connection = pool.acquire().await?;
    let candidates = candidates(&mut connection).await?;
    let mut pruned = Vec::with_capacity(candidates.len());
    for candidate in candidates {
        let mut attempt = 1;
        pruned.push(loop {
            match drop_unused(&mut connection, &candidate, ours, dry_run).await {
                Ok(outcome) => break outcome,
                Err(error) if !is_locked(&error) => return Err(error),
                Err(_) if attempt >= ATTEMPTS => {
                    break candidate
                        .kept("somebody holds its tables: try again in a while".to_owned());
                }
                Err(_) => {
                    attempt += 1;
                    sleep(PAUSE).await;
                }
            }
        });
    }
    Ok(pruned)
}

/// What may be dropped together.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    name: String,
    version: i32,
    /// The tables of a version are never dropped for being left over, nor the other way round.
    is_version: bool,
    tables: Vec<String>,
}

impl Candidate {
    fn kept(&self, because: String) -> Pruned {
        Pruned { kept_because: Some(because), ..self.found(0) }
    }

    fn found(&self, bytes: i64) -> Pruned {
        Pruned {
            name: self.name.clone(),
            version: self.version,
            tables: self.tables.clone(),
            bytes,
            kept_because: None,
            dropped: false,
        }
    }
}

/// The registered versions, each with all its tables; then the tables of builds beside those.
async fn candidates(connection: &mut PgConnection) -> Result<Vec<Candidate>, sqlx::Error> {
    // Processes keep their place in the registry as well, and have no tables.
    let rows = sqlx::query(
        "SELECT name, version, tables FROM projections WHERE name NOT LIKE 'process:%'
          ORDER BY name, version",
    )
    .fetch_all(&mut *connection)
    .await?;
    let mut relations: Vec<String> = sqlx::query_scalar(
        "SELECT relname::text FROM pg_class
          WHERE relnamespace = 'ledger'::regnamespace AND relkind = 'r' ORDER BY 1",
    )
    .fetch_all(connection)
    .await?;
    let mut candidates = Vec::new();
    for row in rows {
        let (name, version): (String, i32) = (row.try_get("name")?, row.try_get("version")?);
        let tables: Vec<String> = row.try_get("tables")?;
        let (own, others): (Vec<_>, Vec<_>) = relations
            .into_iter()
            .partition(|relation| tables.iter().any(|table| is_of(relation, table)));
        relations = others;
        let (live, beside): (Vec<_>, Vec<_>) =
            own.into_iter().partition(|relation| tables.contains(relation));
        candidates.push(Candidate { name: name.clone(), version, is_version: true, tables: live });
        if !beside.is_empty() {
            candidates.push(Candidate { name, version, is_version: false, tables: beside });
        }
    }
    Ok(candidates)
}

/// Whether a relation is this table, or one that is built beside it.
fn is_of(relation: &str, table: &str) -> bool {
    relation.strip_prefix(table).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
}

/// Drops a candidate in one transaction, unless somebody uses it.
async fn drop_unused(
    connection: &mut PgConnection,
    candidate: &Candidate,
    ours: &[&'static dyn Projection],
    dry_run: bool,
) -> Result<Pruned, sqlx::Error> {
    let mut transaction = connection.begin().await?;
    sqlx::query("SELECT set_config('lock_timeout', $1, true)")
        .bind(format!("{}ms", LOCK_TIMEOUT.as_millis()))
        .execute(&mut *transaction)
        .await?;
    // From here on nobody registers.
    sqlx::query("SELECT pg_advisory_xact_lock($1)")
        .bind(REGISTRY_LOCK)
        .execute(&mut *transaction)
        .await?;
    if candidate.is_version
        && let Some(user) = used_by(&mut transaction, candidate, ours).await?
    {
        return Ok(candidate.kept(user));
    }
    let idle: bool = sqlx::query_scalar("SELECT pg_try_advisory_xact_lock($1, hashtext($2))")
        .bind(BUILD_LOCK)
        .bind(&candidate.name)
        .fetch_one(&mut *transaction)
        .await?;
    if !idle {
        return Ok(candidate.kept(format!("{} is being built right now", candidate.name)));
    }
    let tables: Vec<(String, i64)> = sqlx::query_as(
        "SELECT format('%I.%I', n.nspname, c.relname), pg_total_relation_size(c.oid)
           FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
          WHERE n.nspname = 'ledger' AND c.relkind = 'r' AND c.relname = ANY($1)",
    )
    .bind(&candidate.tables)
    .fetch_all(&mut *transaction)
    .await?;
    let found = candidate.found(tables.iter().map(|(_, bytes)| bytes).sum());
    if dry_run {
        return Ok(found);
    }
    for (table, _) in &tables {
        // It runs once, so the connection need not remember it. The name was quoted by the database.
        let statement = format!("DROP TABLE {table}");
        sqlx::query(&statement).persistent(false).execute(&mut *transaction).await?;
    }
    if candidate.is_version {
        for registry in ["projections", "builds"] {
            let statement = format!("DELETE FROM {registry} WHERE name = $1 AND version = $2");
            sqlx::query(&statement)
                .bind(&candidate.name)
                .bind(candidate.version)
                .execute(&mut *transaction)
                .await?;
        }
    }
    transaction.commit().await?;
    Ok(Pruned { dropped: true, ..found })
}

/// Who needs this version, in words.
async fn used_by(
    transaction: &mut Transaction<'_, Postgres>,
    candidate: &Candidate,
    ours: &[&'static dyn Projection],
) -> Result<Option<String>, sqlx::Error> {
    let is_meant = |name: &str, version| name == candidate.name && version == candidate.version;
    let replicas = registered(&mut *transaction).await?;
    let user = replicas
        .iter()
        .filter(|replica| replica.alive)
        .find(|replica| replica.projections.iter().any(|(name, version)| is_meant(name, *version)));
    if let Some(Replica { host, binary, .. }) = user {
        return Ok(Some(format!("a running server uses it: version {binary} on {host}")));
    }
    let is_ours = ours.iter().any(|own| is_meant(own.name(), own.version()));
    Ok(is_ours.then(|| "this binary uses it".to_owned()))
}

/// Whether somebody else was in the way: lock_not_available, deadlock_detected.
fn is_locked(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    matches!(code.as_deref(), Some("55P03" | "40P01"))
}

#[cfg(test)]
mod tests {
    use super::is_of;

    #[test]
    fn a_version_is_not_the_beginning_of_another() {
        assert!(is_of("users_v1", "users_v1"));
        assert!(is_of("users_v1_new", "users_v1"));
        assert!(!is_of("users_v10", "users_v1"));
        assert!(!is_of("users_v10_new", "users_v1"));
        assert!(!is_of("audit_history_times_v1", "audit_history_v1"));
    }
}
