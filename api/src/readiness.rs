//! Whether this replica should be sent requests, and what it waits for if not.

use std::time::{Duration, Instant};

use projections::{Horizon, ProjectionState};
use serde::Serialize;
use tokio::sync::Mutex;
use utoipa::ToSchema;

use crate::state::App;

/// For so long one look answers everybody: anybody may ask, and each look costs queries.
const FRESH: Duration = Duration::from_millis(500);
const DATABASE_WAIT: Duration = Duration::from_secs(3);
/// An open transaction older than this is worth a word.
const OLD_HORIZON: Duration = Duration::from_secs(10);
/// A projection may be so far behind and the replica still serve.
const LAG: i64 = 10_000;

/// The answer of `/readyz`.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Report {
    pub ready: bool,
    pub checks: Vec<Check>,
}

/// One thing that is looked at.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Check {
    #[schema(example = "projection users")]
    pub name: String,
    pub state: State,
    /// What is waited for, or what is worth knowing.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub detail: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Ok,
    /// Serving goes on, and somebody should look at it.
    Warning,
    /// Not ready because of this.
    Waiting,
}

impl Check {
    fn new(name: impl Into<String>, state: State, detail: Option<String>) -> Self {
        Self { name: name.into(), state, detail }
    }

    fn ok(name: &str) -> Self {
        Self::new(name, State::Ok, None)
    }

    fn waiting(name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(name, State::Waiting, Some(detail.into()))
    }
}

/// The last report.
#[derive(Debug, Default)]
pub struct Readiness(Mutex<Option<(Instant, Report)>>);

/// Whether this replica is ready.
pub async fn report(app: &App) -> Report {
    let mut last = app.readiness().0.lock().await;
    if let Some((at, report)) = &*last
        && at.elapsed() < FRESH
    {
        return report.clone();
    }
    let checks = match tokio::time::timeout(DATABASE_WAIT, look(app)).await {
        Ok(checks) => checks,
        Err(_) => vec![Check::waiting("database", "the database does not answer")],
    };
    let ready = checks.iter().all(|check| check.state != State::Waiting);
    let report = Report { ready, checks };
    *last = Some((Instant::now(), report.clone()));
    report
}

async fn look(app: &App) -> Vec<Check> {
    // The causes stay in the log: they name hosts and users, and anybody may ask.
    if let Err(error) = sqlx::query("SELECT 1").execute(app.background()).await {
        tracing::warn!("not ready: the database cannot be reached: {error}");
        return vec![Check::waiting("database", "the database cannot be reached")];
    }
    let mut checks = vec![Check::ok("database")];
    checks.push(match commands::database::pending_migrations(app.background()).await {
        Ok(pending) if pending.is_empty() => Check::ok("migrations"),
        Ok(pending) => Check::waiting(
            "migrations",
            format!("{} migrations are missing; `entrybook migrate` applies them", pending.len()),
        ),
        Err(error) => {
            tracing::warn!("not ready: the migrations cannot be looked at: {error}");
            Check::waiting("migrations", "the migrations cannot be looked at")
        }
    });
    checks.extend(projections(app).await);
    checks.push(if app.revocations().is_ready() {
        Check::ok("revocations")
    } else {
        Check::waiting("revocations", "the ends of sessions are not known up to now")
    });
    checks.push(match Horizon::read(app.background()).await {
        Ok(horizon) => sequencer(&horizon),
        Err(_) => Check::new(
            "sequencer",
            State::Warning,
            Some("the open transactions cannot be looked at".to_owned()),
        ),
    });
    checks
}

async fn projections(app: &App) -> Vec<Check> {
    let statuses = match app.projector().status().await {
        Ok(statuses) => statuses,
        Err(error) => {
            tracing::warn!("not ready: the projections cannot be looked at: {error}");
            return vec![Check::waiting("projections", "the projections cannot be looked at")];
        }
    };
    let check = |status: projections::ProjectionStatus| {
        let name = format!("projection {}", status.name);
        match status.state {
            ProjectionState::Live if status.lag_events > LAG => {
                Check::waiting(name, format!("it is {} lines behind", status.lag_events))
            }
            ProjectionState::Live => Check::new(name, State::Ok, None),
            ProjectionState::Building => Check::waiting(
                name,
                format!("it is being built, {} lines are left", status.lag_events),
            ),
            ProjectionState::Missing => Check::waiting(name, "it was never made"),
            ProjectionState::Stopped => Check::waiting(
                name,
                format!(
                    "it stopped after line {} at an event that it cannot apply",
                    status.position
                ),
            ),
        }
    };
    statuses.into_iter().map(check).collect()
}

/// An open transaction holds new lines back, and with them what pages show; signing in and ending
/// sessions go on. So it is told, and takes no replica out of service.
fn sequencer(horizon: &Horizon) -> Check {
    match &horizon.holder {
        Some(holder) if horizon.age > OLD_HORIZON => Check::new(
            "sequencer",
            State::Warning,
            Some(format!(
                "new lines are held back for {} s by an open transaction{}",
                horizon.age.as_secs(),
                holder.pid.map(|pid| format!(" of the database process {pid}")).unwrap_or_default(),
            )),
        ),
        _ => Check::ok("sequencer"),
    }
}
