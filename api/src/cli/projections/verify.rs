//! `entrybook projections verify`.

use super::super::{Exit, Out, require_database, with_services_of};
use super::progress::count;
use super::work::{SIZE, Signals, advised, fold};
use super::{named, rebuild};
use crate::bootstrap::Services;
use crate::config::Config;
use ::projections::{
    IdentifierDifferences, JournalReport, Options, check_journal, verify_identifiers,
};
use serde::Serialize;

const JOURNAL: &str = "journal";
pub(super) const IDENTIFIERS: &str = "identifiers";

#[derive(Debug, clap::Args)]
#[command(
    about = "Compare the read tables, the journal and the identifiers with the book",
    long_about = "Folds the book anew beside the read tables and compares them at one line of it, as a rebuild does, and changes nothing. It says \
        whether a table that differs was damaged, or the program has changed. It also checks the journal (no line missing, none twice, every \
        stream in its order) and the table that sign-in finds accounts by.\n\n\
        Works beside running servers, and without one.",
    after_help = "Examples:\n  entrybook projections verify\n  entrybook projections verify journal users\n  \
        entrybook projections verify --json | jq 'select(.equal == false)'",
    after_long_help = "With --json, standard output has one object in each line, told apart by \"type\":\n\
        \x20 journal      \"equal\" (it is sound), \"lines\", \"gaps\", \"missing\", \"doubled\", \"without_event\", \"out_of_order\", \"waiting\"\n\
        \x20 identifiers  \"equal\", \"claims\", \"missing\", \"surplus\", \"doubled\"\n\
        \x20 progress, result, broken_off  as of `entrybook projections rebuild`\n\n\
        Exit codes: 0 all is equal, 6 something differs, 130 or 143 broken off by SIGINT or SIGTERM; see `entrybook --help` for the others.\n\n\
        Examples:\n  entrybook projections verify\n  entrybook projections verify journal users\n  \
        entrybook projections verify --json | jq 'select(.equal == false)'"
)]
pub(super) struct Arguments {
    /// Which: a projection, `journal` or `identifiers`; all, where none is named
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Answer in JSON, one object in each line: see --help
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
#[serde(tag = "type", rename = "journal")]
struct Journal {
    equal: bool,
    #[serde(flatten)]
    report: JournalReport,
}

/// Only counts: the keys are keyed hashes of what people sign in with.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename = "identifiers")]
struct Identifiers {
    equal: bool,
    claims: usize,
    missing: usize,
    surplus: usize,
    doubled: usize,
}

pub(super) async fn run(
    config: &Config,
    arguments: &Arguments,
    out: &mut Out,
) -> anyhow::Result<Exit> {
    let Arguments { names, json } = arguments;
    let chosen = named(names, &[JOURNAL, IDENTIFIERS])?;
    let wanted = |name: &str| names.is_empty() || names.iter().any(|given| given == name);
    let (with_journal, with_identifiers) = (wanted(JOURNAL), wanted(IDENTIFIERS));
    let options = Options { dry_run: true, ..Options::default() };
    require_database(config)?;
    with_services_of(config, SIZE, async |services| {
        let mut signals = Signals::listen()?;
        let checked = tokio::select! {
            checked = check(services, with_journal, with_identifiers, *json, out) => checked?,
            exit = signals.next() => return Ok(exit),
        };
        if chosen.is_empty() {
            return Ok(checked);
        }
        let ended = fold(services, &mut signals, &chosen, options, *json, out).await?;
        match rebuild::told(ended, *json, out)? {
            Exit::Done => Ok(checked),
            worse => Ok(worse),
        }
    })
    .await
}

/// What lies beneath the read tables, first: they can be no better than it.
async fn check(
    services: &Services,
    with_journal: bool,
    with_identifiers: bool,
    json: bool,
    out: &mut Out,
) -> anyhow::Result<Exit> {
    let mut exit = Exit::Done;
    if with_journal {
        services.sequencer.drain().await?;
        let report = check_journal(&services.pool).await?;
        if !report.is_sound() {
            exit = Exit::Differs;
        }
        if json {
            out.json_line(&Journal { equal: report.is_sound(), report })?;
        } else {
            out.line(of_journal(&report))?;
        }
    }
    if with_identifiers {
        let found = verify_identifiers(&services.source()).await;
        // It has nothing to go on with.
        let found = found.map_err(|error| {
            if error.leaves_good_tables() { error.into() } else { advised(error) }
        })?;
        if !found.is_equal() {
            exit = Exit::Differs;
        }
        if json {
            out.json_line(&Identifiers {
                equal: found.is_equal(),
                claims: found.claims,
                missing: found.missing,
                surplus: found.surplus,
                doubled: found.doubled,
            })?;
        } else {
            out.line(of_identifiers(&found))?;
        }
    }
    Ok(exit)
}

fn of_journal(report: &JournalReport) -> String {
    let JournalReport { lines, gaps, missing, doubled, without_event, out_of_order, waiting } =
        report;
    if report.is_sound() {
        let waiting = match waiting {
            0 => String::new(),
            waiting => format!("; {} events wait for their line", count(*waiting)),
        };
        return format!(
            "journal: sound\n  {} lines, none missing, none twice, every stream in its order{waiting}.",
            count(*lines)
        );
    }
    format!(
        "journal: DAMAGED\n  Of {} lines {gaps} are missing or beyond its end, {doubled} name an event again, {without_event} name none, and \
         {out_of_order} are out of their stream's order; {missing} events have no line.\n  \
         Nothing of Entrybook can do that. Keep this database as it is, find out who wrote to it, and restore a backup beside it.",
        count(*lines)
    )
}

fn of_identifiers(found: &IdentifierDifferences) -> String {
    if found.is_equal() {
        return format!(
            "identifiers: equal\n  {} identifiers, each as the accounts' events claim it.",
            found.claims
        );
    }
    format!(
        "identifiers: DIFFERENT\n  Of {} identifiers that events claim, {} are missing or another's; {} are there that nobody claims; {} are \
         claimed by two accounts.\n  \
         They are written with the events themselves, so somebody has changed the table. {}",
        found.claims,
        found.missing,
        found.surplus,
        found.doubled,
        if found.doubled > 0 {
            "Keep this database as it is, and restore a backup beside it."
        } else {
            "Make it again from the events, with the login that owns it: entrybook projections rebuild identifiers --repair"
        }
    )
}
