//! Connecting, migrating, and the least privilege that the application runs with.
//!
//! Migrations run with the rights of the given login. Afterwards Entrybook drops to the role
//! [`APP_ROLE`], which may add to the book and to nothing else of it: the database itself then
//! refuses to rewrite history, whatever the application is made to say. A login that can't take the
//! role (a managed server without CREATEROLE) keeps its own rights, and the triggers of
//! `0001_book.sql` remain; `doctor` tells which it is.

use std::{sync::LazyLock, time::Duration};

use sqlx::{
    Connection, PgConnection, PgPool, Row,
    migrate::{MigrateError, Migrator},
    postgres::{PgConnectOptions, PgPoolOptions},
};

use crate::{
    StorageError,
    leases::{is_from_before, may_be_kept},
};

/// How often a migration is tried whose tables somebody holds.
const MIGRATION_ATTEMPTS: u32 = 60;
/// How long an idle connection is believed to live.
pub(crate) const FRESH: Duration = Duration::from_millis(500);
/// How long anybody waits for a connection.
pub(crate) const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// The role that the application takes. It owns nothing but the read tables.
pub const APP_ROLE: &str = "entrybook_app";

/// A database may be ahead of this binary, which a newer one has brought up to date: migrations only add,
/// so that the older one still serves, beside it or after it was rolled back.
static MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| {
    let mut migrations = sqlx::migrate!("../migrations");
    migrations.set_ignore_missing(true);
    migrations
});

/// What the application may do, table by table. The columns of `events` that the database fills are
/// left out, so that nobody can set them. Tables that a newer binary has added are not touched.
const GRANTS: &[&str] = &[
    "REVOKE ALL ON events, journal, sequencer, identifiers, snapshots, sealing_keys, signing_keys, \
     projections, builds, replicas, log_keys, checkpoints, cosignatures, write_permit, \
      destroyed_keys, username_lookalikes, leases, hand_overs, event_authentication, \
     _sqlx_migrations FROM entrybook_app",
    "GRANT USAGE ON SCHEMA public TO entrybook_app",
    "GRANT USAGE, CREATE ON SCHEMA ledger TO entrybook_app",
    "GRANT SELECT, INSERT (aggregate_type, aggregate_id, sequence, event_type, event_version, \
     payload, metadata) ON events TO entrybook_app",
    "GRANT SELECT ON journal, sequencer TO entrybook_app",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON snapshots, projections, builds, replicas \
     TO entrybook_app",
    // Their rows come with a permit, which whoever lacks the master key lacks (migrations/0008_rights.sql).
    "GRANT SELECT, INSERT ON identifiers, sealing_keys, signing_keys, checkpoints, cosignatures \
     TO entrybook_app",
    // When a key was made tells which log is the present one, so that is the database's to say.
    "GRANT SELECT, INSERT (id, origin, wrapped, master_key, signs_from, permit) ON log_keys \
     TO entrybook_app",
    "GRANT EXECUTE ON FUNCTION settle_events(bigint), sequencer_state(), permit_holds(bytea), \
     admit_write_permit(bytea), destroy_key(text, bytea), \
     release_identifiers(bytea, uuid, text[], text[]) TO entrybook_app",
    "GRANT SELECT, INSERT, DELETE ON username_lookalikes TO entrybook_app",
    "GRANT SELECT ON leases TO entrybook_app",
    "GRANT SELECT, INSERT (hash, application, browser, user_id, session_id), DELETE ON hand_overs \
     TO entrybook_app",
    "GRANT EXECUTE ON FUNCTION renew_lease(uuid, text, text, integer), give_back_lease(uuid), \
     end_stalled(uuid) TO entrybook_app",
    "GRANT SELECT, UPDATE (mac) ON event_authentication TO entrybook_app",
    "GRANT SELECT ON _sqlx_migrations TO entrybook_app",
    // A verification folds the claimed identifiers into a temporary table. Everybody may make one,
    // unless that was taken from PUBLIC. Where it may not be granted, that one check fails.
    "DO $$ BEGIN
         IF NOT has_database_privilege('entrybook_app', current_database(), 'TEMPORARY') THEN
             EXECUTE format('GRANT TEMPORARY ON DATABASE %I TO entrybook_app', current_database());
         END IF;
     EXCEPTION WHEN insufficient_privilege THEN NULL; END $$",
];

/// What `migrate` did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrationReport {
    /// Versions applied by this call.
    pub applied: Vec<i64>,
    /// Why the application keeps the login's own rights, where it has to.
    pub role_unavailable: Option<String>,
}

/// Brings the database up to date. Safe to run by any number of replicas at once: sqlx holds an
/// advisory lock meanwhile.
pub async fn migrate(options: &PgConnectOptions) -> Result<MigrationReport, StorageError> {
    let mut connection = PgConnection::connect_with(options).await?;
    let before = pending(&mut connection).await?;
    apply(&mut connection).await?;
    // A newer binary has granted what it needs, of tables that this one doesn't know as they are now.
    clear_statistics(&mut connection).await?;
    let role_unavailable = if is_newer(&mut connection).await? {
        None
    } else {
        grant(&mut connection).await.err().map(|error| error.to_string())
    };
    connection.close().await?;
    Ok(MigrationReport { applied: before, role_unavailable })
}

/// The columns of which PostgreSQL must keep no sample (`0010_statistics.sql`), with their types.
const NEVER_SAMPLED: [(&str, &str, &str); 6] = [
    ("sealing_keys", "wrapped", "bytea"),
    ("signing_keys", "wrapped", "bytea"),
    ("log_keys", "wrapped", "bytea"),
    ("snapshots", "payload", "bytea"),
    ("snapshots", "mac", "bytea"),
    ("identifiers", "index", "text"),
];

/// Clears the statistics of columns that must have none. The migration did that once; there are some again where somebody
/// set a target, or brought statistics back with a restore. Deleting them takes the lock of the table for a moment, so it is
/// done only where there are any.
async fn clear_statistics(connection: &mut PgConnection) -> Result<(), StorageError> {
    for (table, column, kind) in NEVER_SAMPLED {
        let there: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM pg_stats WHERE schemaname = 'public' AND tablename = $1 AND attname = $2)",
        )
        .bind(table)
        .bind(column)
        .fetch_one(&mut *connection)
        .await?;
        if !there {
            continue;
        }
        tracing::warn!(
            "PostgreSQL had sampled the column {column} of {table}, which holds secrets; the sample is deleted"
        );
        let clear = format!(
            "SET lock_timeout = '2s'; ALTER TABLE public.{table} ALTER COLUMN {column} SET STATISTICS 0, ALTER COLUMN {column} TYPE {kind}; \
             RESET lock_timeout"
        );
        if let Err(error) = sqlx::raw_sql(&clear).execute(&mut *connection).await {
            tracing::warn!(
                "the sample of {table}.{column} could not be deleted, and is tried again at the next start: {error}"
            );
        }
    }
    Ok(())
}

/// Applies what is missing. Servers run meanwhile, and what waits for a table's lock holds up who comes
/// after it: so it steps back, and tries again.
async fn apply(connection: &mut PgConnection) -> Result<(), StorageError> {
    sqlx::query("SELECT set_config('lock_timeout', '2s', false)").execute(&mut *connection).await?;
    for attempt in 1.. {
        let error = match MIGRATIONS.run(&mut *connection).await {
            Ok(()) => break,
            Err(MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)) => error,
            Err(other) => return Err(StorageError::Migration(other.to_string())),
        };
        let code = error.as_database_error().and_then(|error| error.code());
        if attempt >= MIGRATION_ATTEMPTS || code.as_deref() != Some("55P03") {
            return Err(error.into());
        }
        tokio::time::sleep(FRESH).await;
    }
    sqlx::query("RESET lock_timeout").execute(connection).await?;
    Ok(())
}

/// Whether the database holds migrations that this binary doesn't know.
async fn is_newer(connection: &mut PgConnection) -> Result<bool, StorageError> {
    let applied: Vec<i64> =
        sqlx::query_scalar("SELECT version FROM _sqlx_migrations WHERE success")
            .fetch_all(connection)
            .await?;
    Ok(applied.iter().any(|version| !MIGRATIONS.version_exists(*version)))
}

/// The versions that this binary has and the database lacks.
pub async fn pending_migrations(pool: &PgPool) -> Result<Vec<i64>, StorageError> {
    let mut connection = pool.acquire().await?;
    pending(&mut connection).await
}

async fn pending(connection: &mut PgConnection) -> Result<Vec<i64>, StorageError> {
    let exists: bool = sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
        .fetch_one(&mut *connection)
        .await?;
    let applied: Vec<i64> = if exists {
        sqlx::query_scalar("SELECT version FROM _sqlx_migrations WHERE success")
            .fetch_all(&mut *connection)
            .await?
    } else {
        Vec::new()
    };
    let known = MIGRATIONS.iter().map(|migration| migration.version);
    Ok(known.filter(|version| !applied.contains(version)).collect())
}

/// Makes the role where it is missing, lets this login take it, and gives it what it needs.
async fn grant(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    // Several databases of one cluster, and several replicas, may come here at once.
    sqlx::raw_sql(
        "DO $$ BEGIN
             IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'entrybook_app') THEN
                 CREATE ROLE entrybook_app NOLOGIN;
             END IF;
         EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$",
    )
    .execute(&mut *connection)
    .await?;
    // Who makes a role is a member of it from PostgreSQL 16 on, and yet may not take it before it has
    // granted it to itself.
    if !can_take_the_role(connection).await? {
        sqlx::raw_sql("GRANT entrybook_app TO CURRENT_USER").execute(&mut *connection).await?;
    }
    // To name who holds the horizon back; a convenience, so its refusal is no failure.
    sqlx::raw_sql(
        "DO $$ BEGIN
             IF NOT pg_has_role('entrybook_app', 'pg_read_all_stats', 'MEMBER') THEN
                 GRANT pg_read_all_stats TO entrybook_app;
             END IF;
         EXCEPTION WHEN insufficient_privilege OR unique_violation THEN NULL; END $$",
    )
    .execute(&mut *connection)
    .await?;
    // One replica at a time: concurrent GRANTs on one table fail with "tuple concurrently updated".
    let mut transaction = connection.begin().await?;
    sqlx::query("SELECT pg_advisory_xact_lock(hashtext('entrybook grants'))")
        .execute(&mut *transaction)
        .await?;
    for statement in GRANTS {
        sqlx::raw_sql(statement).execute(&mut *transaction).await?;
    }
    transaction.commit().await
}

/// Whether the login may act as [`APP_ROLE`]. Only a refusal is a no; whatever else fails is a fault,
/// so that nobody runs with more rights than they need because a connection broke.
async fn can_take_the_role(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let taken = sqlx::raw_sql("SET ROLE entrybook_app").execute(&mut *connection).await;
    let code = match &taken {
        Ok(_) => {
            sqlx::raw_sql("RESET ROLE").execute(&mut *connection).await?;
            return Ok(true);
        }
        Err(error) => error.as_database_error().and_then(|error| error.code()),
    };
    // 42501: it is no member. 22023: there is no such role.
    if matches!(code.as_deref(), Some("42501" | "22023")) {
        return Ok(false);
    }
    taken.map(|_| false)
}

/// A pool whose sessions have dropped to [`APP_ROLE`] where the login can.
pub async fn connect(
    options: PgConnectOptions,
    max_connections: u32,
) -> Result<PgPool, StorageError> {
    let mut probe = PgConnection::connect_with(&options).await?;
    let can_take = can_take_the_role(&mut probe).await?;
    probe.close().await?;
    let mut session = vec![("idle_in_transaction_session_timeout", "30s")];
    if can_take {
        session.push(("role", APP_ROLE));
    }
    // The sessions of a process that keeps a lease bear its name.
    let name = options.get_application_name().filter(|name| name.starts_with("entrybook "));
    let name = name.unwrap_or("entrybook").to_owned();
    let options = noticing_a_lost_peer(options).application_name(&name).options(session);
    let pool = PgPoolOptions::new()
        .max_connections(max_connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .after_connect(|connection, _| {
            Box::pin(async move {
                end_with_the_client(connection).await;
                Ok(())
            })
        })
        // A connection that was used a moment ago is not asked whether it lives: that would be a second
        // round trip for every statement.
        .test_before_acquire(false)
        .before_acquire(|connection, meta| {
            Box::pin(async move {
                if is_from_before(meta.age) {
                    return Ok(false);
                }
                if meta.idle_for >= FRESH {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
        // sqlx asks what is given back whether it lives, and waits for the answer as long as that takes.
        .after_release(|_, meta| {
            Box::pin(async move {
                if may_be_kept(meta.age) { Ok(true) } else { Err(sqlx::Error::PoolClosed) }
            })
        })
        .connect_with(options)
        .await?;
    Ok(pool)
}

/// Has the server end a session soon after the machine at its other end is gone, or the network to it: within ten
/// seconds or so. Left to itself it waits for hours, with whatever the session holds.
#[must_use]
pub fn noticing_a_lost_peer(options: PgConnectOptions) -> PgConnectOptions {
    options.options([
        // The server asks an idle peer, also one that it waits for in the middle of a COPY …
        ("tcp_keepalives_idle", "5"),
        ("tcp_keepalives_interval", "2"),
        ("tcp_keepalives_count", "3"),
        // … and gives up on what is not acknowledged.
        ("tcp_user_timeout", "10s"),
    ])
}

/// Has the server end a statement soon after its client is gone, where the system that it runs on can tell.
pub(crate) async fn end_with_the_client(connection: &mut PgConnection) {
    let _ = sqlx::query("SELECT set_config('client_connection_check_interval', '1s', false)")
        .execute(connection)
        .await;
}

/// The role that the pool's sessions act with.
pub async fn acting_role(pool: &PgPool) -> Result<String, StorageError> {
    let row = sqlx::query("SELECT current_user::text").fetch_one(pool).await?;
    Ok(row.try_get(0)?)
}
