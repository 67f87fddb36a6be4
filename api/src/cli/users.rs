//! `entrybook users`: erasing a person, and the receipt for it.

mod again;

use super::{Out, Refused, admin, origin, tame, usage, verifier_keys, with_services};
use crate::admins::{Lookup, TakeAwayError};
use crate::bootstrap::Services;
use crate::config::Config;
use crate::erasure::{self, Erasure};
use anyhow::{Context, bail};
use commands::Origin;
use domain::{Role, UserId};
use projections::Projector;
use proof::ErasureReceipt;
use std::fs::File;
use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Erase a person, for good
    #[command(
        long_about = "Erases a person: destroys the key that their e-mail address, username, name and password are sealed under, and the addresses \
            and devices they came from, so that nobody can read these any more; ends their sessions; frees their names. The history keeps \
            its lines, and is proved as before. Nothing undoes it, and backups made before still hold the person: docs/erasure.md tells \
            what to do with them.\n\n\
            On a terminal the username must be typed once more; elsewhere --yes is needed.\n\n\
            --receipts erases again, after an older backup was restored, everybody of whom a folder holds a receipt that this log has signed.",
        after_help = "Examples:\n  entrybook users erase ada\n  entrybook users erase 0197f0c2-6b1e-7a54-9d3c-5e8f1a2b3c4d --yes --json\n  \
            entrybook users erase --receipts receipts/ --yes"
    )]
    Erase(Erase),
    /// Print the receipt for an erasure
    #[command(
        long_about = "Prints the receipt for the erasure of a person: JSON that somebody else can check with the key of the transparency log \
            alone. It comes with the next checkpoint that a server signs; this waits some seconds for it.",
        after_help = "Example:\n  entrybook users receipt 0197f0c2-6b1e-7a54-9d3c-5e8f1a2b3c4d > receipt.json"
    )]
    Receipt {
        /// The id of the account: its names are erased
        user: UserId,
    },
    /// Check a receipt, without a database
    #[command(
        long_about = "Checks the receipt for an erasure: that the log has signed it, that the line of the book in it tells of the erasure of \
            that account, and that the line is in a signed checkpoint. Needs no database and no network. Exits with 6 if it does not hold.",
        after_help = "Example:\n  entrybook users check-receipt receipt.json --key example.org/log+1234abcd+AR…"
    )]
    CheckReceipt {
        /// The receipt; - for standard input
        file: PathBuf,
        /// The key of the log, as `entrybook log key` prints it, or a file with one on each line; may be given several times
        #[arg(long = "key", value_name = "KEY", required = true)]
        keys: Vec<String>,
        /// Answer in JSON: {"origin", "user_id", "position", "recorded_at"}
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, clap::Args)]
struct Erase {
    /// Username, e-mail address or id of the account
    #[arg(required_unless_present = "receipts")]
    user: Option<String>,
    /// Erase again the people of all receipts (*.json) in this folder
    #[arg(long, value_name = "DIR", conflicts_with = "user")]
    receipts: Option<PathBuf>,
    /// With --receipts: a key of the log that this database does not have, because it was made after the backup; or a file with some
    #[arg(long = "key", value_name = "KEY", requires = "receipts")]
    keys: Vec<String>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Answer in JSON: {"id", "erased"}; `erased` is false if it was erased before. With --receipts: {"erased", "erased_before",
    /// "unknown", "refused": [{"file", "reason"}]}
    #[arg(long)]
    json: bool,
}

/// The list of accounts, as projections are called.
const USERS: &str = "users";
/// How long a receipt is waited for.
const WAIT: Duration = Duration::from_secs(15);
const LOOK: Duration = Duration::from_millis(250);
/// More than any receipt has.
const MOST_BYTES: u64 = 1 << 20;

pub(super) async fn run(
    config: &Config,
    arguments: Arguments,
    out: &mut Out,
) -> anyhow::Result<super::Exit> {
    match arguments.verb {
        Verb::Erase(erase) => self::erase(config, &erase, out).await?,
        Verb::Receipt { user } => receipt(config, user, out).await?,
        Verb::CheckReceipt { file, keys, json } => return check(&file, &keys, json, out),
    }
    Ok(super::Exit::Done)
}

async fn erase(config: &Config, erase: &Erase, out: &mut Out) -> anyhow::Result<()> {
    let Some(typed) = &erase.user else {
        let directory = erase.receipts.as_deref().unwrap_or(Path::new("."));
        return with_services(config, async |services| {
            let arguments =
                again::Arguments { directory, keys: &erase.keys, yes: erase.yes, json: erase.json };
            again::run(services, arguments, out).await
        })
        .await;
    };
    if !erase.yes && !io::stdin().is_terminal() {
        return Err(usage("Nobody can be asked here whether it is meant. If it is, add --yes."));
    }
    let (id, erased) = with_services(config, async |services| {
        let id = find(services, typed).await?;
        if !erase.yes {
            confirm(services, id).await?;
        }
        Ok((id, erase_account(services, id, &origin(services)).await?))
    })
    .await?;
    if erase.json {
        return Ok(out.json(&serde_json::json!({ "id": id, "erased": erased }))?);
    }
    if !erased {
        return Ok(out.line(format!("The person {id} was erased before."))?);
    }
    out.line(format!("Erased. What is left of the person is a number: {id}"))?;
    Ok(out.line(format!("For the receipt, run: entrybook users receipt {id}"))?)
}

/// Erases an account; whether it was not erased before.
async fn erase_account(services: &Services, id: UserId, origin: &Origin) -> anyhow::Result<bool> {
    let lookup = lookup(services, id).await?;
    match erasure::erase(&services.book, id, origin, lookup).await {
        Ok(receipt) => Ok(receipt.is_some()),
        Err(TakeAwayError::LastAdmin) => Err(Refused(
            "Nobody else is an admin who can sign in. Make one first: entrybook admin create"
                .to_owned(),
        )
        .into()),
        Err(TakeAwayError::Command(error)) => Err(error.into()),
        Err(busy @ TakeAwayError::Busy) => Err(busy.into()),
    }
}

/// The account of a username, an e-mail address or an id, erased or not.
async fn find(services: &Services, typed: &str) -> anyhow::Result<UserId> {
    if let Ok(id) = typed.parse::<UserId>()
        && services.book.user(id).await?.erased
    {
        return Ok(id);
    }
    admin::find(services, typed).await
}

/// Where other admins are looked for, which must be known of an admin alone: in the list, once it shows
/// everything. Neither a table that is stopped nor one that is being built keeps anybody from being erased.
async fn lookup(services: &Services, id: UserId) -> anyhow::Result<Lookup> {
    if !services.book.user(id).await?.roles.contains(&Role::Admin) {
        return Ok(Lookup::List);
    }
    if !services.projector.is_built(USERS).await? {
        return Ok(Lookup::Book);
    }
    let list = projections::named(USERS).into_iter().collect();
    let projector = Projector::new(services.source(), list, services.sequencer.head());
    let shown = async {
        services.sequencer.drain().await?;
        Ok::<_, anyhow::Error>(projector.catch_up().await?)
    };
    match shown.await {
        Ok(()) => Ok(Lookup::List),
        Err(error) => {
            tracing::warn!(
                "the list of accounts can't be brought up to date, so other admins are looked for in the whole book: {error}"
            );
            Ok(Lookup::Book)
        }
    }
}

/// Asks for the username once more. Who is erased already has none.
async fn confirm(services: &Services, id: UserId) -> anyhow::Result<()> {
    let Some(account) = services.book.account(id).await? else { return Ok(()) };
    let name = erasure::name_to_type(&account);
    let what = if name == account.username { "username" } else { "id of the account" };
    let mut terminal = io::stderr();
    writeln!(
        terminal,
        "This erases {} ({}), account {id}, for good.",
        tame::line(&account.username),
        tame::line(&account.email)
    )?;
    write!(terminal, "To go on, type the {what}: ")?;
    terminal.flush()?;
    // In a thread of its own, so that Ctrl-C is minded meanwhile.
    let typed = tokio::task::spawn_blocking(|| {
        let mut typed = String::new();
        io::stdin().lock().read_line(&mut typed).map(|_| typed)
    });
    let typed = typed.await??;
    if typed.trim() != name {
        return Err(Refused(format!("That is not the {what}. Nothing was erased.")).into());
    }
    Ok(())
}

async fn receipt(config: &Config, user: UserId, out: &mut Out) -> anyhow::Result<()> {
    let receipt = with_services(config, async |services| {
        let mut waited = Duration::ZERO;
        loop {
            services.sequencer.drain().await?;
            services.log.refresh().await?;
            let erasure = erasure::of(&services.book, &services.log, &services.pool, user).await?;
            match erasure {
                None => {
                    return Err(Refused(format!("There is no account {user} that is erased.")).into());
                }
                Some(Erasure { receipt: Some(receipt), .. }) => return Ok(receipt),
                Some(_) if waited >= WAIT => bail!(
                    "The transparency log has not signed the erasure yet. Where a server runs it does within seconds, unless it had to stop: \
                     look at `entrybook log status`. Where none runs, start one: entrybook serve"
                ),
                Some(_) => {}
            }
            tokio::time::sleep(LOOK).await;
            waited += LOOK;
        }
    })
    .await?;
    Ok(out.json(&receipt)?)
}

/// The text of a receipt; - is standard input.
fn read_receipt(file: &Path) -> anyhow::Result<String> {
    let cannot = || format!("The receipt {} cannot be read", file.display());
    let source: Box<dyn Read> = match file == Path::new("-") {
        true => Box::new(io::stdin()),
        false => Box::new(File::open(file).with_context(cannot)?),
    };
    let mut text = String::new();
    source.take(MOST_BYTES).read_to_string(&mut text).with_context(cannot)?;
    Ok(text)
}

fn check(file: &Path, keys: &[String], json: bool, out: &mut Out) -> anyhow::Result<super::Exit> {
    let text = read_receipt(file)?;
    let receipt: ErasureReceipt = serde_json::from_str(&text)
        .map_err(|error| usage(format!("{} is no receipt: {error}.", file.display())))?;
    match receipt.verify(&verifier_keys::given(keys)?) {
        Ok(erasure) => {
            let proof::Erasure { origin, user, position, recorded_at, .. } = erasure;
            if json {
                out.json(&serde_json::json!({
                    "origin": origin, "user_id": user, "position": position, "recorded_at": recorded_at,
                }))?;
            } else {
                out.line(format!(
                    "It holds: the person {user} was erased at line {position} of {origin}, {recorded_at}."
                ))?;
            }
            Ok(super::Exit::Done)
        }
        Err(error) => {
            // Standard output is for what holds.
            writeln!(
                io::stderr(),
                "entrybook: The receipt does not hold: {error}. If the log's key was rotated, give the new one as well."
            )?;
            Ok(super::Exit::Differs)
        }
    }
}
