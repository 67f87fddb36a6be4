//! `entrybook keys`: the master key, and how to change it.

use super::table::table;
use super::{Out, Refused, exit, origin, with_services};
use crate::bootstrap::{Database, Migrate, Owner, Services, Size, owner, prepare};
use crate::config::Config;
use anyhow::bail;
use commands::keyring::Keyring;
use domain::ServiceEvent;
use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Show how many keys each master key wraps
    #[command(after_help = "Example:\n  entrybook keys status --json")]
    Status {
        /// Answer in JSON: [{"master_key", "keys", "present"}]
        #[arg(long)]
        json: bool,
    },
    /// Wrap all keys by the present master key, while servers run
    #[command(
        long_about = "Changes the master key: opens each key with the one that wrapped it, and wraps it by the present one. Give the new one as \
            ENTRYBOOK_MASTER_KEY and the old one as ENTRYBOOK_PREVIOUS_MASTER_KEY (or their _FILE), here and to every server; docs/erasure.md \
            tells the steps. No value is sealed anew, nobody waits, and whatever breaks it off, running it again goes on.\n\n\
            It needs the login that owns the tables (ENTRYBOOK_OWNER_DATABASE_URL): the application's may not change keys. With a private \
            PostgreSQL, stop the server first.",
        after_help = "Example:\n  ENTRYBOOK_MASTER_KEY_FILE=new.key ENTRYBOOK_PREVIOUS_MASTER_KEY_FILE=old.key entrybook keys rewrap"
    )]
    Rewrap {
        /// Answer in JSON: {"from", "to", "keys"}
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn run(
    config: &Config,
    arguments: Arguments,
    out: &mut Out,
) -> anyhow::Result<()> {
    match arguments.verb {
        Verb::Status { json } => {
            let (present, keys) = with_services(config, async |services| {
                let keyring = services.book.keyring();
                Ok((keyring.master_key_id().to_owned(), keyring.wrapped_by().await?))
            })
            .await?;
            status(&present, &keys, json, out)
        }
        Verb::Rewrap { json } => rewrap(config, json, out).await,
    }
}

fn status(
    present: &str,
    keys: &BTreeMap<String, u64>,
    json: bool,
    out: &mut Out,
) -> anyhow::Result<()> {
    if json {
        let keys: Vec<_> = keys
            .iter()
            .map(|(id, keys)| {
                serde_json::json!({ "master_key": id, "keys": keys, "present": id == present })
            })
            .collect();
        return Ok(out.json(&keys)?);
    }
    let mut lines = table(&["master key", "keys", ""]);
    for (id, keys) in keys {
        let note = if id == present { "the present one" } else { "" };
        lines.add_row([id.clone(), keys.to_string(), note.to_owned()]);
    }
    out.table(&lines)?;
    if keys.keys().any(|id| id != present) {
        out.line("Not all are wrapped by the present one. Run: entrybook keys rewrap")?;
    }
    Ok(())
}

async fn rewrap(config: &Config, json: bool, out: &mut Out) -> anyhow::Result<()> {
    super::require_database(config)?;
    let database = Database::open_or_join(config).await?;
    let done = rewrap_in(config, &database).await;
    let closed = database.close().await;
    let done = done?;
    closed?;
    let Done { from, to, keys } = done;
    if json {
        return Ok(out.json(&serde_json::json!({ "from": from, "to": to, "keys": keys }))?);
    }
    if from.is_empty() {
        return Ok(
            out.line(format!("All keys are wrapped by {to} already; there was nothing to do."))?
        );
    }
    out.line(format!("{keys} keys that {} wrapped are wrapped by {to} now.", from.join(" and ")))?;
    Ok(out.line(
        "Once every server runs with it, the old master key is needed no more, but for backups made before.",
    )?)
}

/// The stream of the service in which the changes are.
const STREAM: &str = "master_key";

struct Done {
    from: Vec<String>,
    to: String,
    keys: u64,
}

async fn rewrap_in(config: &Config, database: &Database) -> anyhow::Result<Done> {
    if database.owner() == Owner::OtherProcess {
        return Err(Refused(
            "A server runs on this private PostgreSQL, and keeps the login that may change keys. Stop it, and run this again."
                .to_owned(),
        )
        .into());
    }
    prepare(config, database, Migrate::as_owner(database)).await?;
    let issuer = config.public_url(config.listen.port())?;
    let services = Services::open(config, database, issuer.origin(), Size::ONE_VERB).await?;
    let done = tokio::select! {
        done = rewrap_all(database, &services) => done,
        _ = tokio::signal::ctrl_c() => Err(exit::Interrupted.into()),
    };
    services.close().await;
    done
}

async fn rewrap_all(database: &Database, services: &Services) -> anyhow::Result<Done> {
    let keyring = services.book.keyring();
    let to = keyring.master_key_id().to_owned();
    let (from, total) = others(keyring, &to).await?;
    if total == 0 {
        return Ok(Done { from, to, keys: 0 });
    }
    let mut connection = owner(database).await?;
    let may: bool = sqlx::query_scalar("SELECT has_table_privilege('sealing_keys', 'UPDATE')")
        .fetch_one(&mut connection)
        .await?;
    if !may {
        return Err(Refused(
            "The login of DATABASE_URL may not change keys. Give the one that owns the tables with ENTRYBOOK_OWNER_DATABASE_URL."
                .to_owned(),
        )
        .into());
    }
    let mut rewrap = keyring.rewrap(connection);
    let mut keys = 0;
    while let Some(some) = rewrap.some().await? {
        keys += some;
        progress(keys, total, "")?;
    }
    let last = rewrap.last().await?;
    keys += last.keys();
    progress(keys, total, "\n")?;
    let event = ServiceEvent::MasterKeyRotated { from: from.join(", "), to: to.clone(), keys };
    services.book.record(STREAM, event, &origin(services)).await?;
    last.commit().await?;
    rewrap.close().await?;
    let (_, left) = others(keyring, &to).await?;
    if left > 0 {
        bail!(
            "{keys} keys are wrapped by {to} now, but {left} came meanwhile that are not: a server runs with the old master key still. Start \
             it with the new one, and run this again"
        );
    }
    Ok(Done { from, to, keys })
}

/// The other master keys that wrap any key, and how many they wrap.
async fn others(keyring: &Keyring, present: &str) -> anyhow::Result<(Vec<String>, u64)> {
    let mut wrapped_by = keyring.wrapped_by().await?;
    wrapped_by.remove(present);
    let total = wrapped_by.values().sum();
    Ok((wrapped_by.into_keys().collect(), total))
}

/// On a terminal alone: a log has no use for it.
fn progress(done: u64, total: u64, end: &str) -> io::Result<()> {
    let mut terminal = io::stderr();
    if terminal.is_terminal() {
        write!(terminal, "\r{done} of {} keys{end}", total.max(done))?;
        terminal.flush()?;
    }
    Ok(())
}
