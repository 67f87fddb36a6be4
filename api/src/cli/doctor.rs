//! `entrybook doctor`: what is well, what is not, and what to do.

mod checks;
mod https;
mod log;

use super::{Exit, Out};
use crate::config::{Config, ConfigError};
use crate::telemetry;
use serde::Serialize;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Answer in JSON: {"healthy", "checks": [{"name", "status", "finding", "advice"}]}
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Status {
    Ok,
    Warn,
    Fail,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Check {
    name: &'static str,
    status: Status,
    finding: String,
    /// What to do.
    advice: Option<String>,
}

impl Check {
    fn ok(name: &'static str, finding: impl Into<String>) -> Self {
        Self { name, status: Status::Ok, finding: finding.into(), advice: None }
    }

    fn warn(name: &'static str, finding: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, status: Status::Warn, finding: finding.into(), advice: Some(advice.into()) }
    }

    fn fail(name: &'static str, finding: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, status: Status::Fail, finding: finding.into(), advice: Some(advice.into()) }
    }

    fn broken(name: &'static str, error: impl Into<anyhow::Error>) -> Self {
        let finding = super::exit::words(&error.into());
        Self { name, status: Status::Fail, finding, advice: None }
    }
}

pub(super) async fn run(
    config: Result<Config, ConfigError>,
    arguments: &Arguments,
    out: &mut Out,
) -> anyhow::Result<Exit> {
    let checks = match config {
        Err(error) => error
            .problems
            .into_iter()
            .map(|problem| {
                Check::fail("settings", problem, "`entrybook serve --help` explains every setting.")
            })
            .collect(),
        Ok(config) => {
            telemetry::start(&config, "error");
            checks::all(&config).await
        }
    };
    let healthy = checks.iter().all(|check| check.status != Status::Fail);
    if arguments.json {
        out.json(&serde_json::json!({ "healthy": healthy, "checks": checks }))?;
    } else {
        print(&checks, out)?;
    }
    Ok(if healthy { Exit::Done } else { Exit::Unhealthy })
}

/// How wide a line may be where it goes to no terminal, or to a wider one.
const WIDTH: usize = 100;
/// What stands before a finding: the status and the name.
const BEFORE: usize = 22;

fn print(checks: &[Check], out: &mut Out) -> std::io::Result<()> {
    let terminal = terminal_size::terminal_size().map(|(width, _)| usize::from(width.0));
    let width = terminal.map_or(WIDTH, |width| width.clamp(60, WIDTH));
    for check in checks {
        let status = match check.status {
            Status::Ok => "ok",
            Status::Warn => "warn",
            Status::Fail => "FAIL",
        };
        for line in lines(&format!("{status:<5} {:<15} ", check.name), &check.finding, width) {
            out.line(line)?;
        }
        if let Some(advice) = &check.advice {
            for line in lines(&format!("{:<21} → ", ""), advice, width) {
                out.line(line)?;
            }
        }
    }
    let count = |status| checks.iter().filter(|check| check.status == status).count();
    out.line(match (count(Status::Fail), count(Status::Warn)) {
        (0, 0) => "All is well.".to_owned(),
        (0, warnings) => format!("Nothing is broken; to look at: {warnings}."),
        (failures, warnings) => format!("Broken: {failures}; to look at: {warnings}."),
    })
}

/// The text behind `before`, broken between words, each further line below the beginning of the text. What has no spaces (a key, a command's
/// argument) is not broken: it is there to be copied.
fn lines(before: &str, text: &str, width: usize) -> Vec<String> {
    let below = " ".repeat(BEFORE);
    let options = textwrap::Options::new(width)
        .initial_indent(before)
        .subsequent_indent(&below)
        .break_words(false)
        .word_splitter(textwrap::WordSplitter::NoHyphenation);
    textwrap::wrap(text, options).into_iter().map(std::borrow::Cow::into_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_broken_between_words_and_stay_below_one_another() {
        let found = lines(
            "warn  journal         ",
            "events that wait for their place: 1, the first for 402 seconds",
            60,
        );
        assert_eq!(
            found,
            [
                "warn  journal         events that wait for their place: 1,",
                "                      the first for 402 seconds"
            ]
        );
        let key = "k".repeat(120);
        assert_eq!(
            lines("ok    log             ", &key, 60),
            [format!("ok    log             {key}")]
        );
    }
}
