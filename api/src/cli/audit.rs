//! `entrybook audit`: the history, opened for who has the master key.

mod export;
mod line;
mod replay;
mod verify;

use super::{Exit, Out, Refused, origin, with_services};
use crate::bootstrap::Services;
use crate::config::Config;
use crate::history::ActorFilter;
use crate::readings::{self, Reading};
use crate::sources::{self, Followed, Seen, SourcesError};
use anyhow::Context;
use chrono::{DateTime, NaiveDate, Utc};
use commands::CLI_READER;
use domain::{Identifier, SessionId, UserId};
use indicatif::{HumanCount, ProgressBar, ProgressState, ProgressStyle};
use line::{Opener, shown};
use projections::audit_history::{self, Filter, Order};
use projections::{claims, journal};
use serde_json::Value;
use std::fmt;
use std::io::{IsTerminal, stderr};
use std::time::Duration;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Show the newest lines of the history, and go on as they come
    #[command(
        long_about = "Shows the newest lines of the history, oldest of them first. Personal data is opened for you; what belongs to a person \
            or a month that was erased shows as (erased).",
        after_help = "Examples:\n  entrybook audit tail -n 50\n  entrybook audit tail -f --type SignInFailed --type SignInThrottled\n  \
            entrybook audit tail --user ada --from 2026-01-01 --json | jq .type\n  entrybook audit tail -f --after 4711 --json"
    )]
    Tail(Tail),
    /// Show one line of the history with all it holds
    #[command(
        long_about = "Shows the event at one position, with its payload. Sealed personal data in it is opened; password hashes never are.",
        after_help = "Example:\n  entrybook audit show 42"
    )]
    Show {
        /// The line's number, as `tail` shows it
        position: i64,
        /// Answer in JSON
        #[arg(long)]
        json: bool,
    },
    Replay(replay::Arguments),
    Export(export::Arguments),
    Verify(verify::Arguments),
}

#[derive(Debug, clap::Args)]
struct Tail {
    /// How many lines
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 20, value_parser = clap::value_parser!(i64).range(0..=100_000))]
    lines: i64,
    /// Go on with new lines as they come, until Ctrl-C
    #[arg(short, long)]
    follow: bool,
    /// All lines after this one, instead of the newest: to go on where a tail was broken off
    #[arg(long, value_name = "POSITION", conflicts_with = "lines", value_parser = clap::value_parser!(i64).range(0..))]
    after: Option<i64>,
    #[command(flatten)]
    wanted: Wanted,
    /// Answer in JSON, one line each
    #[arg(long)]
    json: bool,
}

/// Which lines; all that is given must hold.
#[derive(Debug, clap::Args)]
struct Wanted {
    /// Only what concerns this account: username, e-mail address, also a former one, or id
    #[arg(long)]
    user: Option<String>,
    /// Only what this account did: username, e-mail address or id; or cli, system or anonymous
    #[arg(long, value_name = "USER")]
    by: Option<String>,
    /// Only this session
    #[arg(long, value_parser = session)]
    session: Option<SessionId>,
    /// Only events of this type, such as SignInFailed; may be given several times
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<String>,
    /// Only with this reason, method or role, such as wrong_password
    #[arg(long)]
    outcome: Option<String>,
    /// Only from this address or network, such as 192.0.2.0/24
    #[arg(long)]
    address: Option<String>,
    /// Only from this time on: 2026-01-31 or 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = time)]
    from: Option<DateTime<Utc>>,
    /// Only before this time
    #[arg(long, value_name = "TIME", value_parser = time)]
    to: Option<DateTime<Utc>>,
}

fn session(text: &str) -> Result<SessionId, String> {
    text.parse().map_err(|_| {
        "write the id of a session, as `entrybook audit tail --json` shows it".to_owned()
    })
}

/// A day is meant in UTC, as all times here.
fn time(text: &str) -> Result<DateTime<Utc>, String> {
    let day = text.parse::<NaiveDate>().ok().and_then(|day| day.and_hms_opt(0, 0, 0));
    match (day, DateTime::parse_from_rfc3339(text)) {
        (Some(midnight), _) => Ok(midnight.and_utc()),
        (None, Ok(time)) => Ok(time.to_utc()),
        (None, Err(_)) => {
            Err("write a day such as 2026-01-31, or a time such as 2026-01-31T12:00:00Z".to_owned())
        }
    }
}

pub(super) async fn run(
    config: &Config,
    arguments: Arguments,
    out: &mut Out,
) -> anyhow::Result<Exit> {
    match &arguments.verb {
        Verb::Export(arguments) => export::run(config, arguments, out).await?,
        // It minds no keys but those of the log, and starts no more than it must.
        Verb::Verify(arguments) => return verify::run(config, arguments, out).await,
        Verb::Tail(tail) => {
            with_services(config, async |services| self::tail(services, tail, out).await).await?;
        }
        Verb::Replay(arguments) => {
            with_services(config, async |services| replay::run(services, arguments, out).await)
                .await?;
        }
        Verb::Show { position, json } => {
            with_services(config, async |services| show(services, *position, *json, out).await)
                .await?;
        }
    }
    Ok(Exit::Done)
}

/// What the bar says where it counts lines.
const LINES: &str =
    "[{bar:24}] {percent:>3} %  line {human_pos} of {human_len}, {rate}, {eta} left";

/// How far it is, on standard error, for people; it fits into a line.
fn bar(total: u64, template: &str) -> ProgressBar {
    if !stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .with_key("rate", |state: &ProgressState, out: &mut dyn fmt::Write| {
            // What can't be written is seen by nobody.
            let _ = write!(out, "{}/s", HumanCount(state.per_sec() as u64));
        })
        .progress_chars("=> ");
    ProgressBar::new(total).with_style(style)
}

const PAUSE: Duration = Duration::from_millis(500);
const PAGE: i64 = 1_000;
/// What shows the lines.
const HISTORY: &[&str] = &["audit_history"];

async fn tail(services: &Services, tail: &Tail, out: &mut Out) -> anyhow::Result<()> {
    services.catch_up(HISTORY).await?;
    let mut filter = without_place(services, &tail.wanted).await?;
    let address = tail.wanted.address.as_deref();
    let mut place = address
        .map(|text| Followed::read(text).map_err(|why| refused(text, why.into())))
        .transpose()?;
    filter.place = address.map(|text| text.trim().to_owned());
    let (reading, asked) = if tail.follow {
        let head = audit_history::reached(&services.pool).await?;
        let after = tail.after.unwrap_or(head.saturating_sub(tail.lines));
        (Reading::Followed, readings::followed(&filter, after, head))
    } else {
        (Reading::Searched, readings::asked(&filter))
    };
    record(services, reading, asked).await?;
    let mut opener = Opener::new(services);
    // The last line that was shown or looked at: from there it goes on.
    let (mut rows, mut last, mut more) = match tail.after {
        Some(after) => (Vec::new(), after, true),
        None => {
            // Taken first: a line that comes between the two looks is shown by the second. It is the
            // end of the history and not that of the book, which may be a moment ahead.
            let reached = audit_history::reached(&services.pool).await?;
            let mut wanted = filter.clone();
            if let (Some(address), 1..) = (address, tail.lines) {
                narrow_to(services, address, &mut wanted).await?;
            }
            (newest(services, &wanted, reached, tail.lines).await?, reached, false)
        }
    };
    if !tail.json {
        out.line(shown::HEAD)?;
    }
    loop {
        for row in rows {
            let line = opener.open(row).await?;
            if tail.json { out.json_line(&line)? } else { out.line(shown::line(&line))? }
        }
        if !more {
            if !tail.follow {
                return Ok(());
            }
            // A server posts new lines; where none runs, this does.
            tokio::time::sleep(PAUSE).await;
            services.post().await?;
            services.needs(HISTORY).await?;
        }
        let reached = audit_history::reached(&services.pool).await?;
        if let (Some(place), Some(text)) = (&mut place, address) {
            let narrowed = place.narrow(&services.book, (last, reached), &mut filter).await;
            narrowed.map_err(|error| refused(text, error))?;
        }
        let oldest = Order::Oldest;
        let found = audit_history::page(&services.pool, &filter, oldest, Some(last), PAGE).await?;
        rows = found.rows;
        // What has come since is for the next look: it may be of a month that is not looked for yet.
        rows.retain(|row| row.position <= reached);
        last = found.next.unwrap_or(reached).min(reached).max(last);
        more = last < reached;
    }
}

/// The newest lines up to one, in the order of the book.
async fn newest(
    services: &Services,
    filter: &Filter,
    reached: i64,
    most: i64,
) -> anyhow::Result<Vec<audit_history::Row>> {
    let (mut rows, mut before) = (Vec::new(), Some(reached.saturating_add(1)));
    while let Some(cursor) = before {
        let missing = most.saturating_sub(i64::try_from(rows.len()).unwrap_or(most));
        if missing <= 0 {
            break;
        }
        let (pool, newest) = (&services.pool, Order::Newest);
        let found = audit_history::page(pool, filter, newest, Some(cursor), missing).await?;
        rows.extend(found.rows);
        before = found.next;
    }
    rows.reverse();
    Ok(rows)
}

/// Writes down that somebody reads the history here, before they see anything of it; once, as on a server, where they do so again within
/// ten minutes.
async fn record(services: &Services, reading: Reading, filter: Value) -> anyhow::Result<()> {
    let (book, filter, origin) = (&services.book, readings::text_of(&filter), origin(services));
    let told = async {
        let is_known =
            readings::is_known(book, &reading, filter.as_deref(), CLI_READER, &origin).await?;
        if is_known {
            return Ok(());
        }
        readings::record(book, reading, filter, CLI_READER, &origin).await
    };
    told.await.context(
        "Who reads the history is written down, and that could not be done, so nothing is shown",
    )
}

/// What is asked for, and how far a search for a place can see.
async fn filter(services: &Services, wanted: &Wanted) -> anyhow::Result<(Filter, Option<Seen>)> {
    let mut filter = without_place(services, wanted).await?;
    let seen = match &wanted.address {
        Some(address) => Some(narrow_to(services, address, &mut filter).await?),
        None => None,
    };
    Ok((filter, seen))
}

/// What is wanted, wherever it came from.
async fn without_place(services: &Services, wanted: &Wanted) -> anyhow::Result<Filter> {
    for name in &wanted.types {
        if !ui::EVENT_TYPES.contains(&name.as_str()) {
            return Err(super::usage(format!(
                "--type is {name:?}: write one of {}.",
                ui::EVENT_TYPES.join(", ")
            )));
        }
    }
    if let (Some(from), Some(to)) = (wanted.from, wanted.to)
        && to < from
    {
        return Err(super::usage("--to lies before --from."));
    }
    let mut filter = Filter {
        session: wanted.session,
        event_types: wanted.types.clone(),
        outcome: wanted.outcome.clone(),
        from: wanted.from,
        to: wanted.to,
        ..Filter::default()
    };
    if let Some(user) = &wanted.user {
        filter.user = Some(person(services, user).await?);
    }
    if let Some(by) = &wanted.by {
        match ActorFilter::read(by) {
            Some(actor) => actor.narrow(&mut filter),
            None => filter.actor_user = Some(person(services, by).await?),
        }
    }
    Ok(filter)
}

/// Narrows a filter to a place, under the keys of all months of its time.
async fn narrow_to(
    services: &Services,
    address: &str,
    filter: &mut Filter,
) -> anyhow::Result<Seen> {
    let seen = sources::narrow(&services.book, address.trim(), filter).await;
    let seen = seen.map_err(|error| refused(address, error))?;
    if seen.left_out {
        tracing::warn!(
            "lines of an older version of Entrybook have no network and are not among these; they are found by their address"
        );
    }
    match seen.months {
        Some((first, last)) => tracing::info!(
            "addresses of the months {first} to {last} can be searched: the keys of all others are gone, or not made yet"
        ),
        None => {
            tracing::warn!("no month of that time has a key, so no address can be found in it")
        }
    }
    Ok(seen)
}

fn refused(address: &str, error: SourcesError) -> anyhow::Error {
    match error {
        SourcesError::Place(_) | SourcesError::TooMany => {
            super::usage(format!("--address is {address:?}: {error}."))
        }
        SourcesError::Keyring(error) => error.into(),
    }
}

/// An account by its id, or by an e-mail address or username that it holds or once held.
async fn person(services: &Services, typed: &str) -> anyhow::Result<UserId> {
    if let Ok(id) = typed.parse() {
        return Ok(id);
    }
    let identifier = Identifier::typed(typed);
    let now = services.book.find_account(&identifier).await?;
    if let Err(behind) = services.needs(&["claims"]).await {
        // Who holds it now is known all the same.
        return now.ok_or(behind);
    }
    let index = services.book.keyring().index(identifier.kind(), &identifier.folded());
    let mut held: Vec<UserId> =
        claims::holders(&services.pool, &index).await?.into_iter().map(|(id, _)| id).collect();
    held.sort_unstable();
    held.dedup();
    if let Some(id) = now {
        held.retain(|holder| *holder != id);
        if !held.is_empty() {
            let asked = readings::holders_of(&services.book, &identifier);
            record(services, Reading::Searched, asked).await?;
            let others: Vec<_> = held.iter().map(UserId::to_string).collect();
            tracing::warn!(
                "who is named here is {id}; before, it was the name of others, who are not meant: {}",
                others.join(", ")
            );
        }
        return Ok(id);
    }
    if held.len() != 1 {
        let asked = readings::holders_of(&services.book, &identifier);
        record(services, Reading::Searched, asked).await?;
    }
    match held.as_slice() {
        [] => Err(Refused(format!("There is no account {typed:?}, and there was none.")).into()),
        [one] => Ok(*one),
        several => {
            let ids: Vec<_> = several.iter().map(UserId::to_string).collect();
            let detail = format!(
                "Several accounts once were {typed:?}; name one by its id: {}.",
                ids.join(", ")
            );
            Err(Refused(detail).into())
        }
    }
}

async fn show(services: &Services, position: i64, json: bool, out: &mut Out) -> anyhow::Result<()> {
    // It is read from the journal, and may be there already.
    let mut recorded = journal::read_one(&services.pool, position).await?;
    if recorded.is_none() {
        services.catch_up(&[]).await?;
        recorded = journal::read_one(&services.pool, position).await?;
    }
    let missing = || Refused(format!("There is no line {position} in the book."));
    let recorded = recorded.ok_or_else(missing)?;
    record(services, Reading::Searched, serde_json::json!({ "position": position })).await?;
    let mut opener = Opener::new(services);
    let whole = opener.open_whole(recorded).await?;
    if json {
        return Ok(out.json(&whole)?);
    }
    for text in shown::whole(&whole)? {
        out.line(text)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_days_or_moments() {
        assert_eq!(time("2026-01-31").unwrap().to_rfc3339(), "2026-01-31T00:00:00+00:00");
        assert_eq!(
            time("2026-01-31T12:00:00+02:00").unwrap().to_rfc3339(),
            "2026-01-31T10:00:00+00:00"
        );
        assert!(time("yesterday").is_err());
    }
}
