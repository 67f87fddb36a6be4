//! `entrybook projections rebuild`.

use super::super::{Exit, Out, origin, require_database, usage, with_services_of};
use super::verify::IDENTIFIERS;
use super::work::{Ended, How, SIZE, Signals, fold};
use super::{identifiers, named, report};
use crate::config::Config;
use crate::service_events;
use ::projections::{Options, Outcome, Rebuilt};
use anyhow::Context;
use std::io::{Write, stderr};

#[derive(Debug, clap::Args)]
#[command(
    about = "Build projections anew beside the live ones, compare, and swap them in",
    long_about = "Builds projections anew from the events, beside the live ones; one pass over the book feeds all that are named. Each is then \
        compared with the live one at one line of the book, and swapped in if they are equal. Reading and signing in go on meanwhile.\n\n\
        If they differ, or the live one can't be read, nothing is swapped: it shows what differs, with personal data masked, whether the \
        table was damaged or the program has changed, and exits with 6. --repair swaps all the same.\n\n\
        The table of who has which e-mail address and username is written with the events and is no read table. Where it was changed \
        (`entrybook projections verify identifiers` says so), `entrybook projections rebuild identifiers --repair` makes it again from the accounts' events, with the \
        login that owns the tables (ENTRYBOOK_OWNER_DATABASE_URL). Nobody can register meanwhile.\n\n\
        Broken off by Ctrl-C, a kill or a lost database, it leaves the live ones as they are, and the next run within a day goes on where it \
        was. Works beside running servers, and without one.",
    after_help = "Examples:\n  entrybook projections rebuild\n  entrybook projections rebuild users sessions --dry-run\n  \
        entrybook projections rebuild users --repair\n  \
        entrybook projections rebuild --json | jq -r 'select(.type == \"result\") | [.projection, .outcome] | @tsv'",
    after_long_help = "In a terminal, bars on standard error show how far it is; elsewhere a line there every two seconds.\n\n\
        With --json, standard output has one object in each line, told apart by \"type\":\n\
        \x20 progress    \"projection\", \"first_build\", \"phase\" (folding, copying, indexing, catching_up, comparing, swapping), \
        \"events_done\", \"events_total\", \"events_per_second\", \"seconds_left\" (null where it can't be told), \"seconds\"\n\
        \x20 result      one for each projection that was decided, also where another failed: \"projection\", \"version\", \"outcome\" (swapped, compared, differs), \"equal\", \"events\" \
        (the last line), \"resumed_at\" (0: from the beginning), \"events_per_second\", \"seconds\", \"phases\" ([[phase, seconds]]), \
        \"verified\" {\"position\", \"fold\" {\"state\" (same, changed, unknown)}, \"tables\" [{\"table\", \"unreadable\" (why the live one can't be compared, or null), \
        \"indexes\" (those that the live one lacks), \"same_rows\", \"rows_live\", \"rows_new\", \"missing\", \"surplus\", \"changed\", \
        \"repeated\" (live rows under a key that another has already), \"first\" [{\"key\", \"live\", \"new\"}]}]}\n\
        \x20 broken_off  after a signal: \"message\", \"decided\" [{\"projection\", \"state\"}]\n\n\
        Exit codes: 0 done, 6 something differs and was not swapped, 130 or 143 broken off by SIGINT or SIGTERM; see `entrybook --help` for the \
        others.\n\n\
        Examples:\n  entrybook projections rebuild\n  entrybook projections rebuild users sessions --dry-run\n  \
        entrybook projections rebuild users --repair\n  \
        entrybook projections rebuild --json | jq -r 'select(.type == \"result\") | [.projection, .outcome] | @tsv'"
)]
pub(super) struct Arguments {
    /// Which: see `entrybook projections status`; all, where none is named. `identifiers` with --repair makes the table of claimed
    /// e-mail addresses and usernames again
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Build and compare, and swap nothing
    #[arg(long, conflicts_with = "repair")]
    dry_run: bool,
    /// Swap although live and new differ, or the live one can't be read; refused where the book is not the one that was signed
    #[arg(long)]
    repair: bool,
    /// Answer in JSON, one object in each line: see --help
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(
    config: &Config,
    arguments: &Arguments,
    out: &mut Out,
) -> anyhow::Result<Exit> {
    let Arguments { names, dry_run, repair, json } = arguments;
    if names.iter().any(|name| name == IDENTIFIERS) {
        if names.len() > 1 || !repair {
            return Err(usage(
                "identifiers is no read table: it is made again alone, and where it differs. Write: entrybook projections rebuild \
                 identifiers --repair; what differs is said by entrybook projections verify identifiers",
            ));
        }
        return identifiers::repair(config, *json, out).await;
    }
    let chosen = named(names, &[])?;
    let options = Options { dry_run: *dry_run, repair: *repair, ..Options::default() };
    require_database(config)?;
    with_services_of(config, SIZE, async |services| {
        let mut signals = Signals::listen()?;
        let (book, origin) = (&services.book, origin(services));
        service_events::rebuild_begins(book, &chosen, options, &origin).await.context(
            "A rebuild is written down first, and that could not be done, so nothing was begun",
        )?;
        let ended = fold(services, &mut signals, &chosen, options, *json, out).await?;
        let (decided, undecided) = (&ended.rebuilt, ended.undecided);
        service_events::rebuilt(book, &chosen, decided, undecided, options, &origin).await;
        told(ended, *json, out)
    })
    .await
}

/// Says what came of it.
pub(super) fn told(ended: Ended, json: bool, out: &mut Out) -> anyhow::Result<Exit> {
    let Ended { rebuilt, undecided: _, how } = ended;
    for one in &rebuilt {
        if json {
            out.json_line(&report::Result::new(one))?;
        } else {
            for line in report::lines(one) {
                out.line(line)?;
            }
        }
    }
    let differs = |one: &&Rebuilt| one.outcome == Outcome::Differs;
    let differing: Vec<_> = rebuilt.iter().filter(differs).map(|one| one.projection).collect();
    if !differing.is_empty() && !json {
        out.line(report::advice(&differing))?;
    }
    match how {
        How::Done if differing.is_empty() => Ok(Exit::Done),
        How::Done => Ok(Exit::Differs),
        How::BrokenOff(exit, broken_off) => {
            if json {
                out.json_line(&broken_off)?;
            }
            // If nobody can read it, the exit code still tells.
            let _ = writeln!(stderr(), "entrybook: {}", broken_off.message);
            Ok(exit)
        }
        How::Failed(error) => Err(error),
    }
}
