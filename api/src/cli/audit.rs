//! `entrybook audit`: the history, opened for who has the master key.

mod line;

use super::{Out, Refused, with_services};
use crate::bootstrap::Services;
use crate::config::Config;
use chrono::{DateTime, NaiveDate, Utc};
use domain::SessionId;
use line::{Opener, shown};
use projections::audit_history::{self, Filter, Order};
use projections::journal;
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
            entrybook audit tail --user ada --from 2026-01-01 --json | jq .type"
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
}

#[derive(Debug, clap::Args)]
struct Tail {
    /// How many lines
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 20, value_parser = clap::value_parser!(i64).range(0..=100_000))]
    lines: i64,
    /// Go on with new lines as they come, until Ctrl-C
    #[arg(short, long)]
    follow: bool,
    /// Only what concerns this account: username, e-mail address or id
    #[arg(long)]
    user: Option<String>,
    /// Only what this account did: username, e-mail address or id
    #[arg(long, value_name = "USER")]
    by: Option<String>,
    /// Only this session
    #[arg(long)]
    session: Option<SessionId>,
    /// Only events of this type, such as SignInFailed; may be given several times
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<String>,
    /// Only from this time on: 2026-01-31 or 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = time)]
    from: Option<DateTime<Utc>>,
    /// Only before this time
    #[arg(long, value_name = "TIME", value_parser = time)]
    to: Option<DateTime<Utc>>,
    /// Answer in JSON, one line each
    #[arg(long)]
    json: bool,
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
) -> anyhow::Result<()> {
    with_services(config, async |services| match &arguments.verb {
        Verb::Tail(tail) => self::tail(services, tail, out).await,
        Verb::Show { position, json } => show(services, *position, *json, out).await,
    })
    .await
}

const PAUSE: Duration = Duration::from_millis(500);
const PAGE: i64 = 1_000;

async fn tail(services: &Services, tail: &Tail, out: &mut Out) -> anyhow::Result<()> {
    services.catch_up().await?;
    let filter = filter(services, tail).await?;
    let mut opener = Opener::new(services);
    // Taken first: a line that comes between the two looks is shown by the second.
    let head = journal::head(&services.pool).await?.position;
    let mut rows = audit_history::page(
        &services.pool,
        &filter,
        Order::Newest,
        Some(head.saturating_add(1)),
        tail.lines,
    )
    .await?
    .rows;
    rows.reverse();
    if !tail.json {
        out.line(shown::HEAD)?;
    }
    let mut last = head;
    loop {
        for row in rows {
            last = last.max(row.position);
            let line = opener.open(row).await?;
            if tail.json { out.json_line(&line)? } else { out.line(shown::line(&line))? }
        }
        if !tail.follow {
            return Ok(());
        }
        rows = next(services, &filter, last).await?;
    }
}

/// Waits for lines after `last`. A server posts them; where none runs, this does.
async fn next(
    services: &Services,
    filter: &Filter,
    last: i64,
) -> anyhow::Result<Vec<audit_history::Row>> {
    loop {
        tokio::time::sleep(PAUSE).await;
        services.post().await?;
        let page =
            audit_history::page(&services.pool, filter, Order::Oldest, Some(last), PAGE).await?;
        if !page.rows.is_empty() {
            return Ok(page.rows);
        }
    }
}

async fn filter(services: &Services, tail: &Tail) -> anyhow::Result<Filter> {
    for name in &tail.types {
        if !ui::EVENT_TYPES.contains(&name.as_str()) {
            return Err(super::usage(format!(
                "--type is {name:?}: write one of {}.",
                ui::EVENT_TYPES.join(", ")
            )));
        }
    }
    let mut filter = Filter {
        session: tail.session,
        event_types: tail.types.clone(),
        from: tail.from,
        to: tail.to,
        ..Filter::default()
    };
    if let Some(user) = &tail.user {
        filter.user = Some(super::admin::find(services, user).await?);
    }
    if let Some(by) = &tail.by {
        filter.actor_user = Some(super::admin::find(services, by).await?);
    }
    Ok(filter)
}

async fn show(services: &Services, position: i64, json: bool, out: &mut Out) -> anyhow::Result<()> {
    services.catch_up().await?;
    let missing = || Refused(format!("There is no line {position} in the book."));
    let recorded = journal::read_one(&services.pool, position).await?.ok_or_else(missing)?;
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
