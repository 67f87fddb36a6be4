//! The checks of `doctor`. Each looks, and changes nothing.

use super::super::projections::{stopped, unfinished};
use super::{Check, Status};
use crate::bootstrap::{
    Database, Order, Owner, Waiting, login, master_key_of, previous_master_key_of,
};
use crate::config::{Config, ConfigError};
use chrono::Utc;
use commands::clock::{Clock, SystemClock, SystemEntropy};
use commands::keyring::{Keyring, KeyringError, MasterKeys};
use commands::leases::Stalled;
use commands::rights::Difference;
use nix::sys::statvfs::statvfs;
use projections::{ControlRow, ProjectionState, ProjectionStatus, not_authentic};
use sqlx::{Connection, PgConnection, PgPool};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Duration;

const GIBIBYTE: u64 = 1 << 30;

pub(super) async fn all(config: &Config) -> Vec<Check> {
    let mut checks = settings(config);
    checks.push(super::https::check(config));
    checks.extend(super::https::applications(config));
    if config.database_url.is_none() {
        checks.extend(data_dir(config));
    }
    match super::super::require_database(config) {
        Ok(()) => {}
        Err(error) => {
            checks.push(Check::broken("database", error));
            return checks;
        }
    }
    match Database::open_or_join(config).await {
        Err(error) => checks.push(Check {
            name: "database",
            status: Status::Fail,
            finding: super::super::exit::words(&error),
            advice: None,
        }),
        Ok(database) => {
            database.lease().only_look();
            checks.extend(of_database(config, &database).await);
            if let Err(error) = database.close().await {
                checks.push(Check::broken("database", error));
            }
        }
    }
    checks
}

fn settings(config: &Config) -> Vec<Check> {
    if config.warnings.is_empty() {
        return vec![Check::ok(
            "settings",
            "each is one that Entrybook knows, and has a value it can use",
        )];
    }
    let warn =
        |warning: &String| Check::warn("settings", warning.as_str(), "Correct or remove it.");
    config.warnings.iter().map(warn).collect()
}

fn data_dir(config: &Config) -> Vec<Check> {
    let name = "data directory";
    let dir = config.data_dir.display();
    let about = match std::fs::metadata(&config.data_dir) {
        Ok(about) if about.is_dir() => about,
        Ok(_) => {
            return vec![Check::fail(
                name,
                format!("{dir} is no directory"),
                "Set ENTRYBOOK_DATA_DIR to one.",
            )];
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return vec![Check::warn(
                name,
                format!("{dir} is not there"),
                "`entrybook serve` makes it. Are you in the right directory? Set ENTRYBOOK_DATA_DIR to be sure.",
            )];
        }
        Err(error) => return vec![Check::broken(name, error)],
    };
    let mut checks = Vec::new();
    if about.mode() & 0o022 == 0 {
        checks.push(Check::ok(name, format!("{dir}, closed to writing by others")));
    } else {
        checks.push(Check::fail(
            name,
            format!("others may write to {dir} (mode {:o})", about.mode() & 0o777),
            format!("Run: chmod go-w {dir}"),
        ));
    }
    if let Ok(disk) = statvfs(&config.data_dir) {
        #[allow(clippy::useless_conversion, reason = "macOS counts blocks in 32 bits")]
        let free =
            u64::from(disk.blocks_available()).saturating_mul(u64::from(disk.fragment_size()));
        let text = format!("{:.1} GiB free at {dir}", free as f64 / GIBIBYTE as f64);
        checks.push(if free < GIBIBYTE {
            Check::warn("disk", text, "Make room: PostgreSQL stops when the disk is full. Nothing that was answered is lost then.")
        } else {
            Check::ok("disk", text)
        });
    }
    checks
}

async fn of_database(config: &Config, database: &Database) -> Vec<Check> {
    let mut connection = match login(database).await {
        Ok(connection) => connection,
        Err(error) => return vec![Check::broken("database", error)],
    };
    let mut checks = Vec::new();
    let kept = match database.owner() {
        Owner::Operator => "given by DATABASE_URL",
        Owner::ThisProcess => "private, started for this check",
        Owner::OtherProcess => "private, kept by a running Entrybook",
    };
    checks.push(version(&mut connection, &format!("{}, {kept}", database.url())).await);
    checks.push(durability(&mut connection).await);
    checks.push(clock(&mut connection).await);
    // Ends politely; that it was closed matters to nobody.
    let _ = connection.close().await;

    let pool = match commands::database::connect(database.url().options().clone(), 2).await {
        Ok(pool) => pool,
        Err(error) => {
            checks.push(Check::broken("database", error));
            return checks;
        }
    };
    match commands::database::pending_migrations(&pool).await {
        Err(error) => checks.push(Check::broken("migrations", error)),
        Ok(pending) if !pending.is_empty() => checks.push(Check::fail(
            "migrations",
            format!("{} to be applied", pending.len()),
            "Run: entrybook migrate",
        )),
        Ok(_) => {
            checks.push(Check::ok("migrations", "all applied"));
            checks.push(restored(&pool).await);
            checks.push(append_only(database, &pool).await);
            checks.extend(rights(&pool).await);
            let (check, keyring) = keys(config, &pool).await;
            checks.push(check);
            checks.push(destroyed_keys(&pool).await);
            if let Some(keyring) = keyring {
                checks.push(permit(&keyring).await);
                checks.extend(super::log::checks(config, &pool, &keyring, SystemClock.now()).await);
            }
            checks.push(sequencer(&pool).await);
            checks.push(replicas(&pool).await);
            checks.push(authenticity(&pool).await);
            checks.extend(read_tables(&pool).await);
        }
    }
    pool.close().await;
    checks
}

async fn version(connection: &mut PgConnection, name: &str) -> Check {
    let found = sqlx::query_as::<_, (i32, String)>(
        "SELECT current_setting('server_version_num')::integer, current_setting('server_version')",
    )
    .fetch_one(connection)
    .await;
    match found {
        Err(error) => Check::broken("database", error),
        Ok((number, text)) if number < 140_000 => Check::fail(
            "database",
            format!("PostgreSQL {text}, {name}"),
            "Entrybook needs PostgreSQL 14 or newer.",
        ),
        Ok((_, text)) => Check::ok("database", format!("PostgreSQL {text}, {name}")),
    }
}

async fn durability(connection: &mut PgConnection) -> Check {
    let off = sqlx::query_scalar::<_, String>(
        "SELECT name FROM pg_settings
          WHERE name IN ('fsync', 'full_page_writes', 'synchronous_commit') AND setting = 'off' ORDER BY name",
    )
    .fetch_all(connection)
    .await;
    match off {
        Err(error) => Check::broken("durability", error),
        Ok(off) if off.is_empty() => Check::ok(
            "durability",
            "what is answered is on disk (fsync, full_page_writes, synchronous_commit)",
        ),
        Ok(off) => Check::fail(
            "durability",
            format!("turned off: {}; a power cut may lose what was answered", off.join(", ")),
            "Turn it on in postgresql.conf, and see that neither the database nor the role turns it off.",
        ),
    }
}

async fn clock(connection: &mut PgConnection) -> Check {
    let before = SystemClock.now();
    let there = sqlx::query_scalar::<_, chrono::DateTime<Utc>>("SELECT clock_timestamp()")
        .fetch_one(connection)
        .await;
    let after = SystemClock.now();
    let there = match there {
        Ok(there) => there,
        Err(error) => return Check::broken("clock", error),
    };
    let skew = (there - (before + (after - before) / 2)).abs();
    let text = format!("{} ms apart from the database's", skew.num_milliseconds());
    let advice = "Keep both machines' clocks by NTP: tokens and sessions end by the clock of the machine that looks.";
    match skew.num_seconds() {
        0 => Check::ok("clock", text),
        1..=9 => Check::warn("clock", text, advice),
        _ => Check::fail("clock", text, advice),
    }
}

/// Transaction ids of another database would confuse the order; `migrate` settles that.
async fn restored(pool: &PgPool) -> Check {
    let name = "cluster";
    let found = async { ControlRow::read(&mut *pool.acquire().await?).await };
    match found.await {
        Ok(ControlRow::Fits) => Check::ok(name, "the book is where it was written"),
        Ok(ControlRow::ForeignCluster) => Check::fail(
            name,
            "the book was restored into another cluster, and not yet taken up there: new events get no position",
            "Run: entrybook migrate",
        ),
        Ok(ControlRow::Restored) => Check::fail(
            name,
            "the book was restored from a dump, or the cluster was set back, and it was not yet taken up: new events get no position",
            "Run: entrybook migrate",
        ),
        Ok(ControlRow::Displaced) => Check::fail(
            name,
            "the row of the table sequencer does not agree with the last line of the journal: new events get no position",
            "Run: entrybook migrate, which goes on after the last line; then entrybook audit verify, and find out who changed it.",
        ),
        Err(error) => Check::broken(name, error),
    }
}

/// Whether the application's role has the rights that it needs, and no others.
async fn rights(pool: &PgPool) -> Option<Check> {
    let name = "rights";
    match commands::database::acting_role(pool).await {
        // Who keeps its login's own rights is told of by the check before.
        Ok(role) if role != commands::database::APP_ROLE => return None,
        Ok(_) => {}
        Err(error) => return Some(Check::broken(name, error)),
    }
    Some(match commands::rights::compare(pool).await {
        Err(error) => Check::broken(name, error),
        Ok(difference) if difference.is_none() => Check::ok(
            name,
            format!(
                "the role {} may do what it needs and nothing else (docs/rights.md)",
                commands::database::APP_ROLE
            ),
        ),
        // Every database of PostgreSQL 14 and older begins like this.
        Ok(Difference { surplus, missing })
            if missing.is_empty() && surplus == ["schema public: CREATE"] =>
        {
            Check::warn(
                name,
                "everybody may make tables in the schema public",
                "Run as its owner: REVOKE CREATE ON SCHEMA public FROM PUBLIC",
            )
        }
        Ok(Difference { surplus, missing }) => {
            let list = |what: &str, rights: &[String]| {
                (!rights.is_empty()).then(|| format!("{what}: {}", rights.join(", ")))
            };
            let found = [list("not needed", &surplus), list("missing", &missing)];
            Check::fail(
                name,
                found.into_iter().flatten().collect::<Vec<_>>().join("; "),
                "Run: entrybook migrate. What it leaves was granted by somebody else: REVOKE it, and find out who did.",
            )
        }
    })
}

/// Whether what only a holder of the master key may write can be written.
async fn permit(keyring: &Keyring) -> Check {
    let name = "write permit";
    match keyring.permit_holds().await {
        Ok(true) => Check::ok(
            name,
            "the database takes keys and names from whoever has the master key alone",
        ),
        Ok(false) => Check::fail(
            name,
            KeyringError::ForeignPermit.to_string(),
            "Run as the owner, with the master key: entrybook migrate",
        ),
        Err(error) => Check::broken(name, error),
    }
}

/// Tries what must be refused; the rows that it names do not exist, and the transaction is rolled back.
async fn append_only(database: &Database, pool: &PgPool) -> Check {
    let name = "append-only";
    let role = match commands::database::acting_role(pool).await {
        Ok(role) => role,
        Err(error) => return Check::broken(name, error),
    };
    // Who owns the schema may drop its tables.
    let owns_the_book = sqlx::query_scalar::<_, bool>(
        "SELECT pg_has_role(session_user, c.relowner, 'MEMBER') OR pg_has_role(session_user, n.nspowner, 'MEMBER')
           FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = 'events'::regclass",
    )
    .fetch_one(pool)
    .await;
    let owns_the_book = match owns_the_book {
        Ok(owns) => owns,
        Err(error) => return Check::broken(name, error),
    };
    let mut by_trigger = false;
    for statement in [
        "UPDATE events SET payload = payload WHERE false",
        "DELETE FROM events WHERE false",
        "UPDATE journal SET tx = tx WHERE false",
        "DELETE FROM journal WHERE false",
    ] {
        let tried = async {
            let mut transaction = pool.begin().await?;
            let done = sqlx::query(statement).execute(&mut *transaction).await;
            transaction.rollback().await?;
            done.map(|_| ())
        };
        match tried.await {
            Ok(()) => {
                return Check::fail(
                    name,
                    format!("the role {role} may run {statement:?}: history could be rewritten"),
                    "The triggers named append_only are missing or disabled. Restore them from migrations/0001_book.sql, and find out who \
                     removed them.",
                );
            }
            Err(sqlx::Error::Database(error)) => match error.code().as_deref() {
                Some("42501") => {}
                Some("23001") => by_trigger = true,
                _ => return Check::broken(name, sqlx::Error::Database(error)),
            },
            Err(error) => return Check::broken(name, error),
        }
    }
    // Another mode than that of the migrations lets `session_replication_role` pass.
    let weak = sqlx::query_scalar::<_, Option<String>>(
        "SELECT string_agg(DISTINCT tgrelid::regclass::text, ', ') FROM pg_trigger
          WHERE tgname = 'append_only' AND tgenabled <> 'A'",
    )
    .fetch_one(pool)
    .await;
    match weak {
        Ok(None) => {}
        Ok(Some(tables)) => {
            return Check::fail(
                name,
                format!("the trigger append_only does not hold against everybody on: {tables}"),
                "Somebody has altered it. Run as the owner, for each of these tables: ALTER TABLE … ENABLE ALWAYS TRIGGER append_only; then \
                 entrybook audit verify, and find out who it was.",
            );
        }
        Err(error) => return Check::broken(name, error),
    }
    if by_trigger {
        Check::warn(
            name,
            format!("the role {role} is stopped by triggers alone, which an owner could remove"),
            "Give the login of DATABASE_URL the right to make roles (CREATEROLE), or make it a member of entrybook_app, and restart.",
        )
    } else if owns_the_book {
        Check::warn(
            name,
            format!(
                "the role {role} is refused, but its login owns the tables (or is a superuser): whoever has its password can turn that off"
            ),
            if database.owner() == Owner::Operator {
                "Give the login that owns the tables in ENTRYBOOK_OWNER_DATABASE_URL, and in DATABASE_URL another that owns nothing and is \
                 a member of entrybook_app."
            } else {
                "Restart Entrybook: at each start the private database takes it from its login."
            },
        )
    } else {
        Check::ok(
            name,
            format!("the database refuses the role {role} to change or delete what is written"),
        )
    }
}

/// The key ring too, where it is opened.
async fn keys(config: &Config, pool: &PgPool) -> (Check, Option<Keyring>) {
    let (id, keyring) = match keyring(config, pool).await {
        Ok(opened) => opened,
        Err(check) => return (check, None),
    };
    let check = match keyring.wrapped_by().await {
        Ok(wrapped_by) if wrapped_by.keys().any(|other| *other != id) => Check::warn(
            MASTER_KEY,
            format!("it is being changed: not all keys are wrapped by {id} yet"),
            "Run: entrybook keys rewrap",
        ),
        Ok(_) => Check::ok(MASTER_KEY, format!("{id} opens the keys of this database")),
        Err(error) => Check::broken(MASTER_KEY, error),
    };
    (check, Some(keyring))
}

/// Whether the keys that are there, and those that are gone, are what the book says.
async fn destroyed_keys(pool: &PgPool) -> Check {
    let name = "erased keys";
    match projections::destroyed_keys::key_faults(pool).await {
        Err(error) => Check::broken(name, error),
        Ok(faults) => match faults.first.first() {
            None => Check::ok(name, "the keys that seal are those that the book says"),
            Some(fault) => {
                let (_, says) = super::super::key_faults::told(fault);
                let more = match faults.in_all {
                    1 => String::new(),
                    many => format!(" (and {} more)", many - 1),
                };
                Check::fail(name, format!("{says}{more}"), "entrybook audit verify names them all.")
            }
        },
    }
}

const MASTER_KEY: &str = "master key";

async fn keyring(config: &Config, pool: &PgPool) -> Result<(String, Keyring), Check> {
    let name = MASTER_KEY;
    match sqlx::query_scalar::<_, bool>("SELECT EXISTS (SELECT FROM sealing_keys)")
        .fetch_one(pool)
        .await
    {
        Err(error) => return Err(Check::broken(name, error)),
        Ok(false) => {
            return Err(Check::warn(
                name,
                "the database has no keys yet",
                "`entrybook serve` makes them.",
            ));
        }
        Ok(true) => {}
    }
    let key = match master_key_of(config) {
        Ok(Some(key)) => key,
        Ok(None) => {
            return Err(Check::fail(
                name,
                "it is missing",
                "Put it back from your backup, or give it with ENTRYBOOK_MASTER_KEY_FILE.",
            ));
        }
        Err(error) => {
            let advice = if error.is::<ConfigError>() {
                "Give the key that belongs to this database."
            } else {
                "Look at the file."
            };
            return Err(Check::fail(name, super::super::exit::words(&error), advice));
        }
    };
    let id = key.id().to_owned();
    let keys = match previous_master_key_of(config) {
        Ok(previous) => MasterKeys::new(key, previous),
        Err(error) => {
            return Err(Check::fail(name, super::super::exit::words(&error), "Look at the file."));
        }
    };
    match Keyring::load(pool.clone(), keys, Arc::new(SystemEntropy)).await {
        Ok(keyring) => Ok((id, keyring)),
        Err(error @ KeyringError::WrongMasterKey { .. }) => Err(Check::fail(
            name,
            error.to_string(),
            "Look for it where you keep copies: a master.key, or what ENTRYBOOK_MASTER_KEY was when the database was made.",
        )),
        Err(error) => Err(Check::broken(name, error)),
    }
}

/// What the history says of events that somebody else has added; a verification looks at each event.
async fn authenticity(pool: &PgPool) -> Check {
    let name = "events";
    let found = match not_authentic::known(pool).await {
        Ok(found) => found,
        Err(error) => return Check::broken(name, error),
    };
    if found.count == 0 {
        return Check::ok(name, "the history shows none that the service did not write");
    }
    let named = found.first.iter().map(|one| {
        format!(
            "line {} ({} number {}, {})",
            one.position, one.stream, one.sequence, one.event_type
        )
    });
    Check::fail(
        name,
        format!(
            "{} were not written by the service and have no effect: {}",
            found.many(),
            named.collect::<Vec<_>>().join("; ")
        ),
        "Somebody writes with the database's login: change its password, and look who had it. See docs/events.md.",
    )
}

/// How long an event may wait for its place in the journal before somebody should look.
const WAITING: Duration = Duration::from_secs(10);

async fn sequencer(pool: &PgPool) -> Check {
    let name = "journal";
    let order = match Order::read(pool).await {
        Ok(order) => order,
        Err(error) => return Check::broken(name, error),
    };
    if order.control == ControlRow::Fits
        && let Some(alarm) = order.alarm()
    {
        return Check::fail(
            name,
            alarm,
            "Does a server run? It settles them within a second. If one does, look into its log.",
        );
    }
    let Order { waiting: Waiting { count, seconds }, horizon, .. } = order;
    if let Some(holder) = horizon.holder.filter(|_| horizon.age > WAITING) {
        return Check::warn(
            name,
            format!("{holder}; events that wait behind it: {count}"),
            "End that transaction: SELECT pg_terminate_backend(PID).",
        );
    }
    if seconds > WAITING.as_secs_f64() {
        return Check::warn(
            name,
            format!(
                "events that wait for their place: {count}, the first for {seconds:.0} seconds"
            ),
            "Does a server run? It posts them within a second.",
        );
    }
    Check::ok(name, format!("events that wait for their place: {count}"))
}

/// Other processes that stand still, and what they hold.
async fn replicas(pool: &PgPool) -> Check {
    let name = "replicas";
    let stalled = match commands::leases::stalled(pool).await {
        Ok(stalled) => stalled,
        Err(error) => return Check::broken(name, error),
    };
    let told = |one: &Stalled| {
        let since = one.since.format("%Y-%m-%d %H:%M:%S UTC");
        let holds = if one.holds.is_empty() { "nothing".to_owned() } else { one.holds.join(", ") };
        format!("{one} has not been heard of since {since}, and holds {holds}")
    };
    let finding = stalled.iter().map(told).collect::<Vec<_>>().join("; ");
    if stalled.iter().any(|one| !one.holds.is_empty()) {
        Check::fail(
            name,
            finding,
            "Look whether that process is stopped, or its machine or network. Another server ends within five seconds what it holds; where \
             none runs, end that process, or its sessions in the database.",
        )
    } else if stalled.is_empty() {
        Check::ok(name, "no process stands still")
    } else {
        Check::warn(
            name,
            finding,
            "Look whether that process is stopped, or its machine or network.",
        )
    }
}

async fn read_tables(pool: &PgPool) -> Vec<Check> {
    let name = "read tables";
    let found = async {
        let status = projections::status(pool, &projections::all()).await?;
        Ok::<_, sqlx::Error>((status, projections::builds(pool).await?))
    };
    let (status, builds) = match found.await {
        Ok(found) => found,
        Err(error) => return vec![Check::broken(name, error)],
    };
    let mut checks = Vec::new();
    for one in &status {
        checks.push(read_table(name, one));
        let build =
            builds.iter().find(|build| build.name == one.name && build.version == one.version);
        if let Some((finding, advice)) = build.and_then(unfinished) {
            checks.push(Check::warn(name, finding, advice));
        }
    }
    checks
}

fn read_table(name: &'static str, one: &ProjectionStatus) -> Check {
    match one.state {
        ProjectionState::Missing => {
            Check::warn(name, format!("{} was never made", one.name), "`entrybook serve` makes it.")
        }
        ProjectionState::Stopped => {
            let (finding, advice) = stopped(one);
            Check::fail(name, finding, advice)
        }
        ProjectionState::Building => Check::warn(
            name,
            format!("{} is being built: {} of {} events", one.name, one.position, one.head),
            "A server goes on with it.",
        ),
        ProjectionState::Live if !one.built => Check::warn(
            name,
            format!("{} has not yet been built for the first time", one.name),
            "A server goes on with it.",
        ),
        ProjectionState::Live if one.lag_seconds > WAITING.as_secs_f64() => Check::warn(
            name,
            format!(
                "{} is {} events behind, for {:.0} seconds",
                one.name, one.lag_events, one.lag_seconds
            ),
            "Does a server run? It posts them within a second.",
        ),
        ProjectionState::Live => {
            Check::ok(name, format!("{}, events behind: {}", one.name, one.lag_events))
        }
    }
}
