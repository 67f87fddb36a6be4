//! `entrybook audit replay`: how it was, folded from the book.

use super::{person, record, time};
use crate::bootstrap::Services;
use crate::cli::tame::line as safe;
use crate::cli::{Out, Refused};
use crate::readings::Reading;
use crate::replay::{self, AsOf, Session, Then};
use crate::routes::audit::state::{StateAnswer, StateView};
use chrono::{DateTime, SecondsFormat, Utc};
use projections::replay::ReplayError;
use serde_json::json;

/// Show how it was with a person at a time, or who was signed in then
#[derive(Debug, clap::Args)]
#[command(
    long_about = "Folds the book up to a time or a line, and shows the account of a person with its roles and live sessions as they were then, \
        and what differs from another moment. Without a person it shows who was signed in. As of a time, each stream is read up to its \
        first event that happened later.",
    after_help = "Examples:\n  entrybook audit replay ada --at 2026-01-31T12:00:00Z\n  entrybook audit replay ada --at 4711 --against 2026-01-01\n  \
        entrybook audit replay --at 2026-01-31 --json | jq '.[].account.username'"
)]
pub(super) struct Arguments {
    /// Username, e-mail address, also a former one, or id of the account; who was signed in, if none is given
    user: Option<String>,
    /// A time such as 2026-01-31 or 2026-01-31T12:00:00Z, or the number of a line; now, if none is given
    #[arg(long, value_name = "MOMENT", value_parser = moment)]
    at: Option<AsOf>,
    /// Another moment, to be told what differs from there to --at
    #[arg(long, value_name = "MOMENT", value_parser = moment, requires = "user")]
    against: Option<AsOf>,
    /// Fold the whole book, and look nobody up in a read table. Slower
    #[arg(long, conflicts_with = "user")]
    whole_book: bool,
    /// Answer in JSON, as the API does
    #[arg(long)]
    json: bool,
}

/// So many people are looked up at once.
const PEOPLE: i64 = 50;

fn moment(text: &str) -> Result<AsOf, String> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(position) if digits => Ok(AsOf::Position(position)),
        _ => time(text)
            .map(AsOf::Time)
            .map_err(|why| format!("{why}, or the number of a line such as 4711")),
    }
}

pub(super) async fn run(
    services: &Services,
    arguments: &Arguments,
    out: &mut Out,
) -> anyhow::Result<()> {
    // With --whole-book, no table is read at all.
    let read: &[&str] = match &arguments.user {
        Some(_) => &["audit_history"],
        None if arguments.whole_book => &[],
        None => &["audit_history", "sessions"],
    };
    services.catch_up(read).await?;
    match &arguments.user {
        Some(user) => one(services, arguments, user, out).await,
        None => everybody(services, arguments, out).await,
    }
}

async fn one(
    services: &Services,
    arguments: &Arguments,
    user: &str,
    out: &mut Out,
) -> anyhow::Result<()> {
    let user = person(services, user).await?;
    record(services, Reading::Replayed, json!({ "user": user })).await?;
    let then = async |as_of: AsOf| -> anyhow::Result<Then> {
        let state = projections::replay::state(&services.source(), user, as_of).await;
        Ok(replay::open(&services.book, &state.map_err(told)?).await?)
    };
    let now = AsOf::Time(services.book.clock().now());
    let state = then(arguments.at.unwrap_or(now)).await?;
    let other = match arguments.against {
        Some(against) => Some(then(against).await?),
        None => None,
    };
    if arguments.json {
        let reached = projections::audit_history::reached(&services.pool).await?;
        return Ok(out.json(&StateAnswer::new(state, other, reached))?);
    }
    show(&state, out)?;
    if let Some(other) = &other {
        out.line("")?;
        out.line(format!("Since {} (line {}):", written(other.at), other.position))?;
        let changes = replay::changes(other, &state);
        if changes.is_empty() {
            out.line("  nothing differs")?;
        }
        for change in changes {
            let side = |side: Option<String>| side.map_or("-".to_owned(), |text| safe(&text));
            let (from, to) = (side(change.from), side(change.to));
            out.line(format!("  {:<11} {from} -> {to}", change.what.as_str()))?;
        }
    }
    Ok(())
}

/// What is asked for and isn't there is no failure.
fn told(error: ReplayError) -> anyhow::Error {
    match error {
        ReplayError::Ahead { .. } => Refused(format!("{error}.")).into(),
        ReplayError::LeftOut { .. } | ReplayError::Event(_) | ReplayError::Journal(_) => {
            error.into()
        }
    }
}

async fn everybody(
    services: &Services,
    arguments: &Arguments,
    out: &mut Out,
) -> anyhow::Result<()> {
    let at = match arguments.at {
        Some(AsOf::Time(at)) => at,
        Some(AsOf::Position(_)) => {
            return Err(crate::cli::usage(
                "--at is a line: who was signed in is told as of a time.",
            ));
        }
        None => services.book.clock().now(),
    };
    // Now is now, whenever it is asked.
    let asked = arguments.at.map_or(json!("now"), |_| json!(at));
    record(services, Reading::Replayed, json!({ "signed_in": asked })).await?;
    let mut people = People { json: arguments.json, count: 0, out };
    if !arguments.json {
        people.out.line(format!("Signed in at {}:", written(at)))?;
    }
    if arguments.whole_book {
        let whole = projections::replay::whole(&services.source(), AsOf::Time(at)).await;
        for state in whole.map_err(told)?.signed_in(at) {
            people.tell(replay::open(&services.book, &state).await?)?;
        }
    } else {
        let mut after = None;
        loop {
            let page = projections::replay::signed_in(&services.source(), at, after, PEOPLE)
                .await
                .map_err(told)?;
            after = page.rows.last().map(|state| state.user_id);
            for state in page.rows.iter().filter(|state| state.live().next().is_some()) {
                people.tell(replay::open(&services.book, state).await?)?;
            }
            if !page.more {
                break;
            }
        }
    }
    people.end()
}

/// Those who were signed in, told one by one: there may be very many of them.
struct People<'a> {
    json: bool,
    count: u64,
    out: &'a mut Out,
}

impl People<'_> {
    fn tell(&mut self, then: Then) -> anyhow::Result<()> {
        let is_first = self.count == 0;
        self.count += 1;
        if self.json {
            return Ok(self.out.json_part(is_first, &StateView::from(then))?);
        }
        self.out.line("")?;
        self.out.line(named(&then))?;
        sessions(&then.sessions, self.out)
    }

    fn end(self) -> anyhow::Result<()> {
        if self.json {
            return Ok(self.out.json_end(self.count == 0)?);
        }
        let people = if self.count == 1 { "person" } else { "people" };
        self.out.line("")?;
        Ok(self.out.line(format!("{} {people}", self.count))?)
    }
}

fn show(then: &Then, out: &mut Out) -> anyhow::Result<()> {
    out.line(format!("{} at {} (line {})", named(then), written(then.at), then.position))?;
    let Some(account) = &then.account else {
        return Ok(out.line("  not registered yet")?);
    };
    let text = |text: &Option<String>| text.as_deref().map_or("-".to_owned(), safe);
    let state = match (account.erased, account.disabled) {
        (true, _) => "erased",
        (false, true) => "disabled",
        (false, false) => "active",
    };
    let roles: Vec<_> = account.roles.iter().map(|role| role.as_str()).collect();
    for (name, value) in [
        ("e-mail", text(&account.email)),
        ("username", text(&account.username)),
        ("name", text(&account.full_name)),
        ("roles", roles.join(", ")),
        ("state", state.to_owned()),
        ("registered", written(account.registered_at)),
        ("changed", written(account.updated_at)),
        ("events", account.version.to_string()),
    ] {
        out.line(format!("  {name:<11} {value}"))?;
    }
    out.line("")?;
    let live = then.live.len();
    out.line(match then.begun {
        Some(begun) => format!("{live} of {begun} sessions live"),
        None => format!("{live} sessions live"),
    })?;
    sessions(&then.sessions, out)
}

fn named(then: &Then) -> String {
    let username = then.account.as_ref().and_then(|account| account.username.as_deref());
    match username {
        Some(username) => format!("{} ({})", safe(username), then.user),
        None => then.user.to_string(),
    }
}

fn sessions(sessions: &[Session], out: &mut Out) -> anyhow::Result<()> {
    for session in sessions {
        let from = session.address.as_deref().map_or("-".to_owned(), safe);
        out.line(format!(
            "  {}  since {}, last seen {}, until {}, from {from}",
            session.id,
            written(session.started_at),
            written(session.last_seen_at),
            written(session.expires_at),
        ))?;
    }
    Ok(())
}

fn written(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_line_or_a_time() {
        assert_eq!(moment("4711"), Ok(AsOf::Position(4711)));
        let midnight = "2026-01-31T00:00:00Z".parse().unwrap();
        assert_eq!(moment("2026-01-31"), Ok(AsOf::Time(midnight)));
        for wrong in ["", "-1", "+1", "line 7", "yesterday"] {
            assert!(moment(wrong).is_err(), "{wrong}");
        }
    }
}
