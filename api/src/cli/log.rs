//! `entrybook log`: the transparency log, its keys, and how it stands.

mod status;
pub(super) mod witness;

use super::{Exit, Out, Refused, origin, usage, with_services};
use crate::bootstrap::Services;
use crate::config::Config;
use crate::log::LogError;
use chrono::TimeDelta;
use commands::log_keys::{LogKey, LogKeysError};
use serde_json::{Value, json};
use std::time::Duration;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Print the keys that checkpoints are verified with
    #[command(
        long_about = "Prints the verifier keys of the transparency log, the oldest first, one a line. Give them to whoever checks the log, by \
            a way that does not go through this service: who has them can't be shown another book.",
        after_help = "Examples:\n  entrybook log key\n  entrybook audit verify export.jsonl --key \"$(entrybook log key)\"\n  \
            entrybook log key --all"
    )]
    Key {
        /// Those of the logs before the present one, too: what they have signed is still to be checked
        #[arg(long)]
        all: bool,
        /// Answer in JSON: [{"key", "id", "origin", "signs_from", "retired_at"}]
        #[arg(long)]
        json: bool,
    },
    Status(status::Arguments),
    /// Make a new key, which signs after a while
    #[command(
        long_about = "Makes a new key for the transparency log. The old one signs until then, and is never forgotten: what it has signed stays \
            good. Give the new key to whoever checks the log before it signs. It is an event of the book.",
        after_help = "Example:\n  entrybook log rotate --after 7d"
    )]
    Rotate {
        /// When it begins to sign, from now
        #[arg(long, value_name = "DURATION", default_value = "1d", value_parser = humantime::parse_duration)]
        after: Duration,
        /// Answer in JSON: {"key", "signs_from"}
        #[arg(long)]
        json: bool,
    },
    /// Begin a new log, because the old one can't go on
    #[command(
        long_about = "Begins a new transparency log of the same book: under another name, with a key of its own. That is for a database which \
            was restored from an older backup, when what was signed after that backup is lost. The old log signs nothing more, and what it \
            has signed of the lost lines stays with those who were shown it: tell them. Caches in front of the service keep tiles of the old \
            log for up to a week: empty them. It is an event of the book.",
        after_help = "Example:\n  entrybook log begin --origin login.example.org/log2"
    )]
    Begin {
        /// The name of the new log, which no log had before
        #[arg(long, value_name = "NAME")]
        origin: String,
        /// Begin it although nothing keeps the present log from signing
        #[arg(long)]
        yes: bool,
        /// Answer in JSON: {"origin", "keys": [{"key", "id", "origin", "signs_from", "retired_at"}]}
        #[arg(long)]
        json: bool,
    },
    /// Let the log sign again, after you found out why it stopped
    #[command(
        long_about = "Lets the transparency log sign again, after a witness was wrong, or a server remembered what never was. Take away first what \
            was wrong: the witness or the anchor file from the settings, or the file of that server's memory, which `entrybook log status` \
            names there. The signer looks at everything first, and stops again where something is wrong still.\n\n\
            On a machine that remembers nothing, and has witnesses or an anchor file that can't be asked, it takes what the database says was \
            signed for all that was: be sure that the database is not an older one. Either is an event of the book."
    )]
    Resume {
        /// Answer in JSON: {"taken_for_signed", "refusal": {"text", "since"}}, each null where there was none
        #[arg(long)]
        json: bool,
    },
    /// Watch the logs of other machines, and cosign what is consistent
    #[command(
        long_about = "Runs a witness (C2SP tlog-witness): it remembers the newest checkpoint that it has seen of each log, cosigns the next one \
            if it is consistent with that, and refuses one that is not. Run it where whoever runs the log can't change it. It needs no \
            database and nothing of the server's but the keys of its log.",
        after_help = "Examples:\n  entrybook log witness --name witness.example.com --log-key \"$KEY\" --listen 0.0.0.0:8081\n  \
            entrybook log witness --show-key"
    )]
    Witness(witness::Arguments),
}

impl Arguments {
    /// Whether it runs until it is told to stop.
    pub(super) fn serves(&self) -> bool {
        matches!(self.verb, Verb::Witness(_))
    }
}

pub(super) async fn run(
    config: &Config,
    arguments: Arguments,
    out: &mut Out,
) -> anyhow::Result<Exit> {
    match arguments.verb {
        Verb::Status(arguments) => return status::run(config, &arguments, out).await,
        // It needs no database.
        Verb::Witness(arguments) => witness::run(&arguments, out).await?,
        Verb::Key { all, json } => {
            with_services(config, async |services| print_keys(services, all, json, out).await)
                .await?
        }
        Verb::Rotate { after, json } => {
            with_services(config, async |services| rotate(services, after, json, out).await).await?
        }
        Verb::Begin { origin, yes, json } => {
            with_services(config, async |services| begin(services, &origin, yes, json, out).await)
                .await?
        }
        Verb::Resume { json } => {
            with_services(config, async |services| resume(services, json, out).await).await?
        }
    }
    Ok(Exit::Done)
}

/// What the operator can do something about.
fn told(error: LogError) -> anyhow::Error {
    match error {
        LogError::Keys(error @ LogKeysError::InvalidOrigin(_)) => usage(error.to_string()),
        LogError::Keys(
            error @ (LogKeysError::Taken { .. }
            | LogKeysError::NotBegun
            | LogKeysError::Pending { .. }),
        ) => Refused(format!("Not done: {error}.")).into(),
        error => error.into(),
    }
}

async fn print_keys(
    services: &Services,
    all: bool,
    json: bool,
    out: &mut Out,
) -> anyhow::Result<()> {
    let keys = match all {
        true => services.log.keys_of_all_logs().await,
        false => services.log.keys(),
    };
    let keys = keys.map_err(told)?;
    if json {
        return Ok(out.json(&as_json(&keys))?);
    }
    for (_, line) in keys {
        out.line(line)?;
    }
    Ok(())
}

fn as_json(keys: &[(LogKey, String)]) -> Vec<Value> {
    keys.iter()
        .map(|(key, line)| {
            json!({
                "key": line,
                "id": key.id,
                "origin": key.origin,
                "signs_from": key.signs_from,
                "retired_at": key.retired_at,
            })
        })
        .collect()
}

async fn rotate(
    services: &Services,
    after: Duration,
    json: bool,
    out: &mut Out,
) -> anyhow::Result<()> {
    let after = TimeDelta::from_std(after).map_err(|_| usage("--after is too long"))?;
    let (key, line) = services.log.rotate(after, &origin(services)).await.map_err(told)?;
    services.post().await?;
    if json {
        return Ok(out.json(&json!({ "key": line, "signs_from": key.signs_from }))?);
    }
    out.line(format!(
        "The new key signs from {} on. Give it to whoever checks the log:",
        key.signs_from.format("%Y-%m-%d %H:%M:%S UTC")
    ))?;
    Ok(out.line(line)?)
}

async fn begin(
    services: &Services,
    name: &str,
    yes: bool,
    json: bool,
    out: &mut Out,
) -> anyhow::Result<()> {
    // One whose keys can't be read can do with another.
    if let (false, Ok(None)) = (yes, services.log.refusal().await) {
        return Err(Refused(
            "Nothing keeps the present log from signing. A new one has another name and another key, which all who verify the old one must \
             be told, and there is no way back. If that is meant, add --yes."
                .to_owned(),
        )
        .into());
    }
    services.log.begin(name, &origin(services)).await.map_err(told)?;
    services.post().await?;
    if json {
        let keys = services.log.keys().map_err(told)?;
        return Ok(out.json(&json!({ "origin": name, "keys": as_json(&keys) }))?);
    }
    out.line(format!(
        "The log {name} begins. Empty the caches that keep /log/tile/: its tiles are at the addresses of the old one's. Tell whoever \
         checked that, and give them the new key (`entrybook log key --all` prints the old ones):"
    ))?;
    print_keys(services, false, false, out).await
}

async fn resume(services: &Services, json: bool, out: &mut Out) -> anyhow::Result<()> {
    let by = origin(services);
    let taken = services.log.take_for_signed(&by).await.map_err(told)?;
    let refusal = services.log.resume(&by).await.map_err(told)?;
    if taken.is_some() || refusal.is_some() {
        services.post().await?;
    }
    if json {
        let refusal =
            refusal.map(|refusal| json!({ "text": refusal.text, "since": refusal.since }));
        return Ok(out.json(&json!({ "taken_for_signed": taken, "refusal": refusal }))?);
    }
    if let Some(lines) = taken {
        out.line(format!(
            "Nothing was remembered here: from now on that the {lines} lines were signed that the database says. The server here signs again \
             within some seconds."
        ))?;
    }
    let Some(refusal) = refusal else {
        return Ok(out.line("Nothing keeps the log from signing.")?);
    };
    out.line(format!(
        "It had stopped since {}: {}",
        refusal.since.format("%Y-%m-%d %H:%M:%S UTC"),
        refusal.text
    ))?;
    Ok(out.line("It signs again, if nothing is wrong any more: entrybook log status")?)
}
