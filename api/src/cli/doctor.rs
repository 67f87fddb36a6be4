//! `entrybook doctor`: what is well, what is not, and what to do.

mod checks;
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

fn print(checks: &[Check], out: &mut Out) -> std::io::Result<()> {
    for check in checks {
        let status = match check.status {
            Status::Ok => "ok",
            Status::Warn => "warn",
            Status::Fail => "FAIL",
        };
        out.line(format!("{status:<5} {:<15} {}", check.name, check.finding))?;
        if let Some(advice) = &check.advice {
            out.line(format!("{:<21} → {advice}", ""))?;
        }
    }
    let count = |status| checks.iter().filter(|check| check.status == status).count();
    out.line(match (count(Status::Fail), count(Status::Warn)) {
        (0, 0) => "All is well.".to_owned(),
        (0, warnings) => format!("Nothing is broken; to look at: {warnings}."),
        (failures, warnings) => format!("Broken: {failures}; to look at: {warnings}."),
    })
}
