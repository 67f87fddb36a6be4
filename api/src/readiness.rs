//! Whether this replica should be sent requests, and what it waits for if not.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use commands::leases::Stalled;
use projections::{ProjectionState, ProjectionStatus, StopKind, not_authentic};
use serde::Serialize;
use tokio::sync::Mutex;
use utoipa::ToSchema;

use crate::{bootstrap::Order, routes::projections::advice, state::App};

/// For so long one look answers everybody: anybody may ask, and each look costs queries.
const FRESH: Duration = Duration::from_millis(500);
const DATABASE_WAIT: Duration = Duration::from_secs(3);
/// An open transaction older than this is worth a word.
const OLD_HORIZON: Duration = Duration::from_secs(10);
/// A projection that is so far behind is worth a word.
const LAG: i64 = 10_000;
/// Who starts, or was rolled back to, shows what is: so many lines behind, or so many seconds where
/// many are written.
const LAG_AT_START: i64 = 200;
const SECONDS_AT_START: f64 = 2.0;

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

/// The last report, and what this replica has come through.
#[derive(Debug, Default)]
pub struct Readiness {
    last: Mutex<Option<(Instant, Report)>>,
    caught_up: AtomicBool,
    leaving: AtomicBool,
}

impl Readiness {
    /// From now on it is not ready any more: the server is about to end.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }
}

/// Whether this replica is ready.
pub async fn report(app: &App) -> Report {
    if app.readiness().leaving.load(Ordering::Relaxed) {
        let checks = vec![Check::waiting("draining", "this replica is about to stop")];
        return Report { ready: false, checks };
    }
    let mut last = app.readiness().last.lock().await;
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
    checks.push(match Order::read(app.background()).await {
        Ok(order) => sequencer(&order),
        Err(_) => Check::new(
            "sequencer",
            State::Warning,
            Some("the open transactions cannot be looked at".to_owned()),
        ),
    });
    checks.push(replicas(app).await);
    checks.push(authenticity(app).await);
    checks.push(log(app).await);
    checks
}

/// Events that somebody else has added have no effect, so they keep no replica from serving; that somebody
/// writes with the database's login must be looked at. Anybody may ask, so whose streams they are stays inside.
async fn authenticity(app: &App) -> Check {
    match not_authentic::known(app.background()).await {
        Ok(found) => match found.first.first() {
            None => Check::ok("events"),
            Some(first) => Check::new(
                "events",
                State::Warning,
                Some(format!(
                    "{} events were not written by the service and have no effect, the first at line {}: somebody \
                     writes with the database's login. Change its password; `entrybook doctor` names them",
                    found.many(),
                    first.position
                )),
            ),
        },
        Err(error) => {
            tracing::warn!("the authenticity of events cannot be looked at: {error}");
            Check::new("events", State::Warning, Some("they cannot be looked at".to_owned()))
        }
    }
}

/// A process that stands still is told while it holds what others wait for. They end that within moments, where the
/// database lets them.
async fn replicas(app: &App) -> Check {
    match commands::leases::stalled(app.background()).await {
        Ok(stalled) => standing_still(&stalled),
        Err(error) => {
            tracing::warn!("the leases of the other processes cannot be looked at: {error}");
            let detail = "the other processes cannot be looked at".to_owned();
            Check::new("replicas", State::Warning, Some(detail))
        }
    }
}

/// Which process by its id alone: hosts are for the log and `entrybook doctor`.
fn standing_still(stalled: &[Stalled]) -> Check {
    let holding = stalled.iter().filter(|one| !one.holds.is_empty());
    let told: Vec<String> = holding
        .map(|one| {
            format!(
                "the process {} has not been heard of for {} s and holds {}",
                one.process,
                one.silent_for.as_secs(),
                one.holds.join(", ")
            )
        })
        .collect();
    if told.is_empty() {
        return Check::ok("replicas");
    }
    let detail = format!("{}. `entrybook doctor` says more", told.join("; "));
    Check::new("replicas", State::Warning, Some(detail))
}

/// Nothing of the transparency log keeps anybody from signing in, so it is never waited for.
async fn log(app: &App) -> Check {
    let warning = match app.log().status(app.background()).await {
        Ok(status) => status.warning(app.now(), app.settings().log_interval),
        Err(error) => {
            tracing::warn!("the transparency log cannot be looked at: {error}");
            Some(error.warning().to_owned())
        }
    };
    match warning {
        Some(detail) => Check::new("log", State::Warning, Some(detail)),
        None => Check::ok("log"),
    }
}

async fn projections(app: &App) -> Vec<Check> {
    let statuses = match app.projector().status().await {
        Ok(statuses) => statuses,
        Err(error) => {
            tracing::warn!("not ready: the projections cannot be looked at: {error}");
            return vec![Check::waiting("projections", "the projections cannot be looked at")];
        }
    };
    let caught_up = &app.readiness().caught_up;
    if statuses.iter().all(is_level) {
        caught_up.store(true, Ordering::Relaxed);
    }
    let is_starting = !caught_up.load(Ordering::Relaxed);
    statuses.iter().map(|status| projection(status, is_starting)).collect()
}

/// Whether a replica that starts has nothing to wait for here: it has come to the end of the book, or
/// to an event that no waiting will make it apply.
fn is_level(status: &ProjectionStatus) -> bool {
    let close = status.lag_events <= LAG_AT_START || status.lag_seconds <= SECONDS_AT_START;
    status.built && (close || status.state == ProjectionState::Stopped)
}

/// What a projection means for this replica.
///
/// The tables belong to a version and are shared by all replicas of it, so whatever is wrong with them
/// is wrong on each. Taking one out of service for it takes out all, and with them signing in, which
/// reads no projection. So only what waiting here mends, or what others do better meanwhile, is waited
/// for: tables that were never complete (an older version's replicas serve their own until then), and
/// at the start those that nobody has advanced for long (a binary that was rolled back to). Later a lag,
/// or an event that can't be applied, is a warning.
fn projection(status: &ProjectionStatus, is_starting: bool) -> Check {
    let name = format!("projection {}", status.name);
    let behind = || format!("it is {} lines behind", status.lag_events);
    match status.state {
        ProjectionState::Missing => Check::waiting(name, "it was never made"),
        ProjectionState::Stopped => {
            let state = if status.built { State::Warning } else { State::Waiting };
            Check::new(name, state, Some(stopped(status)))
        }
        ProjectionState::Building | ProjectionState::Live if !status.built => {
            Check::waiting(name, format!("it is being built, {} lines are left", status.lag_events))
        }
        ProjectionState::Building | ProjectionState::Live if is_starting && !is_level(status) => {
            Check::waiting(name, behind())
        }
        ProjectionState::Building | ProjectionState::Live if status.lag_events > LAG => {
            Check::new(name, State::Warning, Some(behind()))
        }
        ProjectionState::Building | ProjectionState::Live => Check::new(name, State::Ok, None),
    }
}

/// Where it stopped, why, and what to do, for anybody: whose stream it is stays inside, and of the
/// cause all but its kind, for it may quote what the event holds. The admin page, the log and
/// `entrybook projections status` tell them.
fn stopped(status: &ProjectionStatus) -> String {
    let Some(stopped) = &status.stopped else {
        return format!("it is stopped after line {}", status.position);
    };
    let stream = stopped.stream.as_deref().unwrap_or_default();
    let kind = stream.split(' ').next().unwrap_or_default();
    let event = match (&stopped.event_type, &stopped.event_version) {
        (Some(event_type), Some(version)) => {
            format!(" (an event {event_type} version {version} of a stream {kind})")
        }
        _ => String::new(),
    };
    format!(
        "it waits at line {}{event}: {}. Nothing is skipped, and signing in goes on. {}",
        stopped.position,
        in_words(stopped.kind),
        advice(status)
    )
}

fn in_words(kind: StopKind) -> &'static str {
    match kind {
        StopKind::NewerVersion => "a newer version wrote it",
        StopKind::DamagedPayload => "its payload is damaged",
        StopKind::RefusedRows => "the database refuses its rows",
        StopKind::UnreadableLine => "the journal can't be read there",
        StopKind::Other => "it can't be applied",
    }
}

/// An open transaction holds new lines back, and with them what pages show; signing in and ending
/// sessions go on. So it is told, and takes no replica out of service.
fn sequencer(order: &Order) -> Check {
    if let Some(alarm) = order.alarm() {
        return Check::new("sequencer", State::Warning, Some(alarm));
    }
    let horizon = &order.horizon;
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

#[cfg(test)]
mod tests {
    use projections::Stopped;

    use super::*;

    fn status(state: ProjectionState, built: bool, lag_events: i64) -> ProjectionStatus {
        ProjectionStatus {
            name: "users",
            version: 1,
            position: 41,
            head: 41 + lag_events,
            lag_events,
            lag_seconds: if lag_events > 0 { 600.0 } else { 0.0 },
            state,
            detail: None,
            stopped: None,
            built,
            updated_at: None,
        }
    }

    #[test]
    fn only_what_was_never_complete_or_stood_still_at_the_start_is_waited_for() {
        use ProjectionState::{Building, Live, Missing, Stopped};
        use State::{Ok, Waiting, Warning};
        for (state, built, lag, starting, expected) in [
            (Missing, false, 0, false, Waiting),
            (Building, false, 5, false, Waiting),
            (Stopped, false, 5, false, Waiting),
            (Live, true, 0, true, Ok),
            (Live, true, LAG_AT_START, true, Ok),
            (Live, true, LAG_AT_START + 1, true, Waiting),
            (Live, true, LAG_AT_START + 1, false, Ok),
            (Live, true, LAG + 1, false, Warning),
            (Stopped, true, 1, true, Warning),
            (Stopped, true, LAG + 1, true, Warning),
        ] {
            let check = projection(&status(state, built, lag), starting);
            assert_eq!(check.state, expected, "{state} {built} {lag} {starting}: {check:?}");
        }
        // Where a thousand lines are written each second, two hundred are nothing.
        let busy = ProjectionStatus { lag_seconds: 0.5, ..status(Live, true, 900) };
        assert_eq!(projection(&busy, true).state, Ok);
    }

    #[test]
    fn who_asks_hears_why_it_stopped_and_not_whose_event_it_was_or_what_it_holds() {
        let newer = "2 of ada@example.org is not known here";
        insta::assert_snapshot!(stopped_for(StopKind::NewerVersion, newer), @"it waits at line 42 (an event UserRenamed version 2.0 of a stream User): a newer version wrote it. Nothing is skipped, and signing in goes on. Run a version of Entrybook that can apply this event: the projection then goes on by itself, from this line.");
        for (kind, words) in [
            (StopKind::DamagedPayload, "its payload is damaged"),
            (StopKind::RefusedRows, "the database refuses its rows"),
            (StopKind::UnreadableLine, "the journal can't be read there"),
            (StopKind::Other, "it can't be applied"),
        ] {
            // Whatever the cause says.
            let told = stopped_for(kind, "ada@example.org: a newer version of Entrybook wrote it");
            assert!(told.contains(&format!("of a stream User): {words}. Nothing")), "{told}");
            assert!(!told.contains("ada@example.org"), "{told}");
        }
    }

    #[test]
    fn a_process_that_stands_still_is_told_while_it_holds_something() {
        let stalled = |holds: &[&str]| Stalled {
            process: uuid::Uuid::from_u128(7),
            program: "entrybook 1.0.0".to_owned(),
            host: "a-host".to_owned(),
            pid: 4711,
            since: chrono::DateTime::UNIX_EPOCH,
            silent_for: Duration::from_millis(12_300),
            holds: holds.iter().map(ToString::to_string).collect(),
        };
        assert_eq!(standing_still(&[]).state, State::Ok);
        assert_eq!(standing_still(&[stalled(&[])]).state, State::Ok);
        let check = standing_still(&[stalled(&["the order of new events", "the turn to sign"])]);
        assert_eq!(check.state, State::Warning);
        insta::assert_snapshot!(check.detail.unwrap(), @"the process 00000000-0000-0000-0000-000000000007 has not been heard of for 12 s and holds the order of new events, the turn to sign. `entrybook doctor` says more");
    }

    fn stopped_for(kind: StopKind, cause: &str) -> String {
        let id = "0199a0b5-6c00-7000-8000-000000000001";
        let told = stopped(&ProjectionStatus {
            stopped: Some(Stopped {
                position: 42,
                stream: Some(format!("User {id} number 3")),
                event_type: Some("UserRenamed".to_owned()),
                event_version: Some("2.0".to_owned()),
                kind,
                cause: cause.to_owned(),
            }),
            ..status(ProjectionState::Stopped, true, 1)
        });
        assert!(!told.contains(id), "{told}");
        told
    }
}
