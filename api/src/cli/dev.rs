//! `entrybook dev`: what helps to try and to measure Entrybook, and has no place in a book that counts.

use super::{Out, Refused, with_new_services};
use crate::bootstrap::{Services, generate_password};
use crate::config::Config;
use chrono::{DateTime, SecondsFormat, Utc};
use commands::history::{self, HistoryError, Plan, Progress};
use domain::Password;
use serde::Serialize;
use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Write a made-up history into an empty book, for trying and measuring
    #[command(
        long_about = "Writes a made-up history into an empty book: some three months of people who come by day more than by night, on several \
            devices, stay for a while, get their passwords wrong, change them, and are guessed at. Everything in it is as real use would have \
            left it: sealed, numbered, with keys, identifiers and snapshots. All accounts have one password, which is generated and printed \
            once. The same seed makes the same people at the same times.\n\n\
            It is for trying and measuring alone: a book that has any event is refused, and nothing takes a history out again but \
            dropping its database.",
        after_help = "Examples:\n  entrybook dev history --events 100000 --data-dir /tmp/trial\n  \
            DATABASE_URL=postgres://entrybook@localhost/trial entrybook dev history --events 1000000 --seed 7 --json"
    )]
    History(History),
}

#[derive(Debug, clap::Args)]
struct History {
    /// How many events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    events: u64,
    /// Which history
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// How many people; one for each 200 events otherwise
    #[arg(long, value_name = "U", value_parser = clap::value_parser!(u32).range(1..=5_000_000))]
    users: Option<u32>,
    /// Leave the journal to the next server
    #[arg(long)]
    unposted: bool,
    /// Answer in JSON: {"events", "accounts", "sessions", "began", "ended", "seconds", "events_per_second", "posted_seconds", "longest_session", "admin", "password"}
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Answer {
    events: u64,
    accounts: u64,
    sessions: u64,
    began: DateTime<Utc>,
    ended: DateTime<Utc>,
    seconds: f64,
    events_per_second: f64,
    /// Seconds that the journal took; none where it was left.
    posted_seconds: Option<f64>,
    /// Refreshes of the longest session.
    longest_session: Option<u64>,
    admin: &'static str,
    password: String,
}

pub(super) async fn run(
    config: &Config,
    arguments: Arguments,
    out: &mut Out,
) -> anyhow::Result<()> {
    let Verb::History(arguments) = arguments.verb;
    let answer =
        with_new_services(config, async |services| write(services, &arguments).await).await?;
    if arguments.json {
        return Ok(out.json(&answer)?);
    }
    tell(&answer, out)
}

async fn write(services: &Services, arguments: &History) -> anyhow::Result<Answer> {
    let mut plan = Plan::new(arguments.events, arguments.seed);
    plan.people = arguments.users.unwrap_or(plan.people);
    let generated = generate_password(services.entropy.as_ref());
    let mut line = ProgressLine::new();
    let written =
        history::write(&services.book, plan, Password::choose(&generated)?, &mut |progress| {
            line.show(&progress);
        })
        .await;
    line.clear();
    let written = written.map_err(|error| match error {
        HistoryError::NotEmpty | HistoryError::Running => Refused(format!("{error}.")).into(),
        other => anyhow::Error::from(other),
    })?;
    let posted_seconds = if arguments.unposted {
        None
    } else {
        let began = Instant::now();
        services.sequencer.drain().await?;
        Some(began.elapsed().as_secs_f64())
    };
    let seconds = written.elapsed.as_secs_f64();
    Ok(Answer {
        events: written.events,
        accounts: written.accounts,
        sessions: written.sessions,
        began: written.began,
        ended: written.ended,
        seconds,
        events_per_second: written.events as f64 / seconds,
        posted_seconds,
        longest_session: written.display.map(|display| display.refreshes),
        admin: history::ADMIN,
        password: generated.to_string(),
    })
}

fn tell(answer: &Answer, out: &mut Out) -> anyhow::Result<()> {
    let day = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Secs, true);
    out.line(format!(
        "{} events of {} accounts and {} sessions, from {} to {}, in {:.1} s ({:.0} events/s).",
        answer.events,
        answer.accounts,
        answer.sessions,
        day(answer.began),
        day(answer.ended),
        answer.seconds,
        answer.events_per_second
    ))?;
    if let Some(refreshes) = answer.longest_session {
        out.line(format!("The longest session has {refreshes} refreshes."))?;
    }
    match answer.posted_seconds {
        Some(seconds) => out.line(format!(
            "The journal has them all, after {seconds:.1} s more ({:.0} events/s). The read tables follow when a server starts.",
            answer.events as f64 / seconds
        ))?,
        None => out.line("The journal and the read tables follow when a server starts.")?,
    }
    Ok(out.line(format!(
        "Sign in as {}, {}, {} …; the password of all is {}",
        answer.admin,
        history::username(1),
        history::username(2),
        answer.password
    ))?)
}

/// One line that is written over in a terminal, and now and then a line where there is none.
struct ProgressLine {
    terminal: bool,
    said: Instant,
}

impl ProgressLine {
    fn new() -> Self {
        Self { terminal: stderr().is_terminal(), said: Instant::now() }
    }

    fn show(&mut self, progress: &Progress) {
        let pause = Duration::from_millis(if self.terminal { 200 } else { 10_000 });
        if self.said.elapsed() < pause {
            return;
        }
        self.said = Instant::now();
        let rate = progress.events as f64 / progress.elapsed.as_secs_f64().max(f64::EPSILON);
        let left = progress.of.saturating_sub(progress.events) as f64 / rate.max(1.0);
        let text = format!(
            "{} of {} events, {rate:.0} events/s, {left:.0} s left; it is {}",
            progress.events,
            progress.of,
            progress.at.format("%Y-%m-%d %H:%M")
        );
        // It is for the eye only.
        let _ = if self.terminal {
            write!(stderr(), "\r{text}\x1b[K")
        } else {
            writeln!(stderr(), "{text}")
        };
    }

    fn clear(&self) {
        if self.terminal {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }
}
