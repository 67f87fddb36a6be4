//! `entrybook log status`: what is signed, and what keeps the rest from it.

use super::super::{Exit, Out, with_services};
use super::told;
use crate::config::Config;
use crate::log::{Refusal, Remembered, Signed, Status};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use std::path::Path;

#[derive(Debug, clap::Args)]
#[command(
    about = "Show what of the book is signed, and what keeps the rest from it",
    long_about = "Shows the newest checkpoint of the transparency log, how many lines are not signed yet, and the keys. Where nothing is signed \
        any more it says what happened and what the choices are, and exits with 5. It looks at the tree and at what this machine remembers \
        to have signed, whether or not a server runs.",
    after_help = "Example:\n  entrybook log status --json | jq .unsigned"
)]
pub(super) struct Arguments {
    /// Answer in JSON: {"origin", "size", "root", "signed_at", "cosignatures", "unsigned", "keys": [{"key", "signs_from", "retired_at"}],
    /// "stopped": {"by", "text", "since"}, "memory": {"lines", "file"}, "memory_problem"}
    #[arg(long, verbatim_doc_comment)]
    json: bool,
}

/// Why it has stopped, or would.
struct Stopped {
    by: Value,
    text: String,
    /// Nothing where it is only seen now.
    since: Option<DateTime<Utc>>,
}

pub(super) async fn run(
    config: &Config,
    arguments: &Arguments,
    out: &mut Out,
) -> anyhow::Result<Exit> {
    with_services(config, async |services| {
        let log = &services.log;
        let mut status = log.status(&services.pool).await.map_err(told)?;
        let stopped = match status.refusal.take() {
            Some(Refusal { by, text, since, .. }) => {
                Some(Stopped { by: json!(by), text, since: Some(since) })
            }
            None => log.check().await.map_err(told)?.map(|(by, text)| Stopped {
                by: json!(by),
                text,
                since: None,
            }),
        };
        let (file, remembered) = log.remembered().await.map_err(told)?;
        let keys = log.keys().map_err(told)?;
        let exit = if stopped.is_some() { Exit::Unhealthy } else { Exit::Done };
        let signed = status.signed.as_ref();
        if arguments.json {
            let keys: Vec<_> = keys
                .iter()
                .map(|(key, line)| {
                    json!({"key": line, "signs_from": key.signs_from, "retired_at": key.retired_at})
                })
                .collect();
            out.json(&json!({
                "origin": status.origin,
                "size": signed.map(|signed| signed.size),
                "root": signed.map(|signed| signed.root.to_string()),
                "signed_at": signed.map(|signed| signed.signed_at),
                "cosignatures": signed.map(|signed| &signed.cosignatures),
                "unsigned": status.numbers().unsigned,
                "keys": keys,
                "stopped": stopped.as_ref().map(|stopped| {
                    json!({"by": stopped.by, "text": stopped.text, "since": stopped.since})
                }),
                "memory": {"lines": lines_of(&remembered), "file": file},
                "memory_problem": status.memory_problem,
            }))?;
            return Ok(exit);
        }
        for line in in_words(&status, &stopped) {
            out.line(line)?;
        }
        let is_anchored = !config.anchors.witnesses.is_empty() || config.anchors.file.is_some();
        out.line(format!("memory    {}", memory(&file, &remembered, &status, is_anchored)))?;
        for (key, line) in keys {
            out.line(format!("key       {line} (signs from {})", time(key.signs_from)))?;
        }
        Ok(exit)
    })
    .await
}

fn in_words(status: &Status, stopped: &Option<Stopped>) -> Vec<String> {
    let mut lines = vec![format!("log       {}", status.origin)];
    match &status.signed {
        Some(Signed { size, root, signed_at, cosignatures, .. }) => {
            lines.push(format!("signed    {size} lines, {}", time(*signed_at)));
            lines.push(format!("root      {root}"));
            // A cosignature begins with a dash and the name of who made it.
            let names = cosignatures.iter().filter_map(|line| line.split_whitespace().nth(1));
            let names = names.collect::<Vec<_>>().join(", ");
            lines.push(format!("witnesses {}", if names.is_empty() { "none" } else { &names }));
        }
        None => lines.push("signed    nothing yet".to_owned()),
    }
    lines.push(format!("unsigned  {} lines", status.numbers().unsigned));
    if let Some(problem) = &status.memory_problem {
        lines.push(format!("unkept    the memory can't be written: {problem}"));
    }
    if let Some(stopped) = stopped {
        let since = stopped.since.map(|since| format!("since {}: ", time(since)));
        lines.push(format!("STOPPED   {}{}", since.unwrap_or_default(), stopped.text));
    }
    lines
}

/// How many lines of this log are remembered on this machine to have been signed.
fn lines_of(remembered: &Remembered) -> Option<u64> {
    match remembered {
        Remembered::Checkpoint(checkpoint) => Some(checkpoint.size),
        Remembered::Nothing | Remembered::Unbelieved | Remembered::Another(_) => None,
    }
}

/// What this machine remembers, and what that means.
fn memory(file: &Path, remembered: &Remembered, status: &Status, is_anchored: bool) -> String {
    let place = file.display();
    match remembered {
        Remembered::Checkpoint(checkpoint) => format!("{} lines, in {place}", checkpoint.size),
        Remembered::Nothing if status.signed.is_none() => format!("nothing yet, to be in {place}"),
        Remembered::Nothing if is_anchored => format!(
            "nothing in {place}: a server here signs when a witness, or the anchor file, has shown that the database is not an older one, or \
             after `entrybook log resume`"
        ),
        Remembered::Nothing => format!(
            "nothing in {place}: that the database was restored from an older backup would not be found out here. A server remembers what \
             is signed from its start on; witnesses remember without it"
        ),
        Remembered::Unbelieved => format!(
            "{place} holds what no key of this database has signed; if it is damaged, remove it, and run `entrybook log resume`"
        ),
        Remembered::Another(lines) => {
            let folder = file.parent().unwrap_or(file).display();
            format!("{lines} lines of another log of this name, in {folder}")
        }
    }
}

fn time(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}
