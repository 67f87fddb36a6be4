//! `entrybook keys`: the master key, and how to change it.

mod signing;

use super::table::table;
use super::{Out, Refused, exit, origin, with_services};
use crate::bootstrap::{Database, Migrate, Owner, Services, Size, owner, prepare};
use crate::config::Config;
use anyhow::bail;
use commands::keyring::Keyring;
use commands::{RetiredKeys, Which};
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
    /// List the keys that sign access tokens
    #[command(after_help = "Example:\n  entrybook keys list --json")]
    List {
        /// Answer in JSON: [{"kid", "algorithm", "signs_from", "state"}]
        #[arg(long)]
        json: bool,
    },
    /// Retire keys that sign access tokens: what they signed is refused from then on
    #[command(
        long_about = "Retires keys that sign access tokens. Every server refuses what they signed within a second, and leaves them out of \
            the published keys; if the key that signs is among them, a new one signs at once. People stay signed in: their refresh tokens \
            are not signed by these keys. It is an event of the history, SigningKeyRetired, and can't be taken back.\n\n\
            Do this where a signing key may be known to somebody: its private half is wrapped by the master key, so after a master key was \
            seen by somebody, change it (entrybook keys rewrap) and then retire all signing keys.",
        after_help = "Examples:\n  entrybook keys retire --all\n  entrybook keys retire kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
    )]
    Retire {
        /// The ids of keys, as `entrybook keys list` prints them
        #[arg(value_name = "KID", required_unless_present = "all")]
        kids: Vec<String>,
        /// All keys that there are
        #[arg(long, conflicts_with = "kids")]
        all: bool,
        /// Answer in JSON: {"retired", "made"}
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
        /// Retire all keys that sign access tokens afterwards: where somebody may know the old master key
        #[arg(long)]
        retire_signing_keys: bool,
        /// Answer in JSON: {"from", "to", "keys"}, and with --retire-signing-keys "retired" and "made"
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
        Verb::List { json } => {
            let list =
                async |services: &Services| Ok(services.book.tokens().signing_keys().await?);
            let keys = with_services(config, list).await?;
            signing::list(&keys, json, out)
        }
        Verb::Retire { kids, all, json } => {
            let which = if all { Which::All } else { Which::Only(kids.into_iter().collect()) };
            let retire = async |services: &Services| signing::retire(services, &which).await;
            let done = with_services(config, retire).await?;
            if json { Ok(out.json(&signing::told(&done))?) } else { signing::say(&done, out) }
        }
        Verb::Rewrap { retire_signing_keys, json } => {
            rewrap(config, retire_signing_keys, json, out).await
        }
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

async fn rewrap(config: &Config, retire: bool, json: bool, out: &mut Out) -> anyhow::Result<()> {
    super::require_database(config)?;
    let database = Database::open_or_join(config).await?;
    let done = rewrap_in(config, &database, retire).await;
    let closed = database.close().await;
    let done = done?;
    closed?;
    let (Done { from, to, keys }, retired) = done;
    if json {
        let mut answer = serde_json::json!({ "from": from, "to": to, "keys": keys });
        if let (Some(retired), Some(answer)) = (&retired, answer.as_object_mut()) {
            answer.insert("retired".to_owned(), serde_json::json!(retired.retired));
            answer.insert("made".to_owned(), serde_json::json!(retired.made));
        }
        return Ok(out.json(&answer)?);
    }
    if from.is_empty() {
        out.line(format!("All keys are wrapped by {to} already; there was nothing to do."))?;
    } else {
        let (many, are) = match keys {
            1 => ("1 key".to_owned(), "is"),
            _ => (format!("{keys} keys"), "are"),
        };
        out.line(format!("{many} that {} wrapped {are} wrapped by {to} now.", from.join(" and ")))?;
        out.line(
            "Once every server runs with it, the old master key is needed no more, but for backups made before.",
        )?;
    }
    match retired {
        Some(retired) => signing::say(&retired, out),
        None => Ok(out.line(
            "If somebody may know the old master key and a copy of the database, they may have the keys that sign access tokens. Retire these, \
             which signs nobody out: entrybook keys retire --all. docs/erasure.md tells what else to do.",
        )?),
    }
}

/// The stream of the service in which the changes are.
const STREAM: &str = "master_key";

struct Done {
    from: Vec<String>,
    to: String,
    keys: u64,
}

async fn rewrap_in(
    config: &Config,
    database: &Database,
    retire: bool,
) -> anyhow::Result<(Done, Option<RetiredKeys>)> {
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
    let both = async {
        let done = rewrap_all(database, &services).await?;
        // Also where nothing was left to wrap: whoever was broken off before runs it again.
        let retired =
            if retire { Some(signing::retire(&services, &Which::All).await?) } else { None };
        Ok((done, retired))
    };
    let done = tokio::select! {
        done = both => done,
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
