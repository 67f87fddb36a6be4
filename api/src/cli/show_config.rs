//! `entrybook config show`: the settings in force, and where each comes from.

use super::{Exit, Out, table::table};
use crate::config::{Config, Shown, Sources};
use std::io::{self, Write};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Show every setting, its value, and where it comes from
    #[command(
        long_about = "Shows every setting, its value as it was written, and where it comes from: a flag, the environment, the file of settings, or \
            the default. Secrets are shown as set. Exits with 2, after showing them, if a value cannot be used. It opens no database.",
        after_help = "Examples:\n  entrybook config show\n  ENTRYBOOK_CONFIG=/etc/entrybook.toml entrybook config show --changed\n  \
            entrybook config show --json | jq '.settings[] | select(.source != \"default\")'"
    )]
    Show {
        /// Only those that are not the default
        #[arg(long)]
        changed: bool,
        /// Answer in JSON: {"settings": [{"name", "variable", "value", "source", "file"}], "problems": []}
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(sources: &Sources, arguments: &Arguments, out: &mut Out) -> anyhow::Result<Exit> {
    let Verb::Show { changed, json } = arguments.verb;
    let settings: Vec<Shown> = sources
        .shown()
        .into_iter()
        .filter(|setting| !changed || setting.source != "default")
        .collect();
    let problems = Config::read(sources).err().map(|error| error.problems).unwrap_or_default();
    if json {
        out.json(&serde_json::json!({ "settings": settings, "problems": problems }))?;
    } else {
        let mut list = table(&["setting", "value", "from"]);
        for setting in &settings {
            let from = match &setting.file {
                Some(file) => file.display().to_string(),
                None => setting.source.to_owned(),
            };
            list.add_row([setting.variable, setting.value.as_deref().unwrap_or("-"), &from]);
        }
        out.table(&list)?;
        for problem in &problems {
            writeln!(io::stderr(), "entrybook: {problem}")?;
        }
    }
    Ok(if problems.is_empty() { Exit::Done } else { Exit::Usage })
}
