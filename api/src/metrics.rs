//! Numbers for operators, in the text format of Prometheus.
//!
//! Requests are counted as they pass; everything else is read where it lives when somebody scrapes.
//! Labels are from fixed sets: no path, no identifier, nothing that a caller can make up.

mod exposition;
mod process;

pub use exposition::Format;

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use axum::http::{Method, StatusCode};
use chrono::{DateTime, Utc};
use prometheus_client::{
    metrics::{
        counter::Counter,
        family::{Family, MetricConstructor},
        gauge::Gauge,
        histogram::Histogram,
    },
    registry::Registry,
};

use domain::stream;
use projections::{Build, BuildState, ProjectionState, ProjectionStatus, Stopped};

use crate::{
    bootstrap::Order,
    log,
    problem::ApiResult,
    processes,
    readiness::{self, Report, State},
    state::App,
};

type Labels = Vec<(&'static str, String)>;
type GaugeF64 = Gauge<f64, AtomicU64>;

/// What is counted here.
pub struct Metrics {
    registry: Registry,
    requests: Family<Labels, Counter>,
    durations: Family<Labels, Histogram, Buckets>,
}

/// From a token check to a hash under load.
#[derive(Debug, Clone, Copy)]
struct Buckets;

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new([
            0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
        ])
    }
}

impl Metrics {
    #[must_use]
    pub fn new() -> Self {
        let requests = Family::<Labels, Counter>::default();
        let durations = Family::<Labels, Histogram, Buckets>::new_with_constructor(Buckets);
        let mut registry = Registry::with_prefix("entrybook");
        registry.register("http_requests", "Answered requests", requests.clone());
        registry.register(
            "http_request_duration_seconds",
            "Time to the head of the answer",
            durations.clone(),
        );
        Self { registry, requests, durations }
    }

    /// Counts one answer. `route` is the pattern of the route.
    pub fn answered(&self, method: &Method, route: &str, status: StatusCode, took: Duration) {
        let method = match method.as_str() {
            known @ ("GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS") => known,
            _ => "other",
        };
        let labels = vec![("method", method.to_owned()), ("route", route.to_owned())];
        self.durations.get_or_create(&labels).observe(took.as_secs_f64());
        let mut labels = labels;
        labels.push(("status", status.as_u16().to_string()));
        self.requests.get_or_create(&labels).inc();
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// Everything, as text. What can't be read just now is left out: the rest is wanted all the more.
pub async fn scrape(app: &App, format: Format) -> ApiResult<String> {
    let order = Order::read(app.background()).await.ok();
    let projections = app.projector().status().await.unwrap_or_default();
    let builds = projections::builds(app.background()).await.unwrap_or_default();
    let processes = processes::positions(app.background()).await.unwrap_or_default();
    let mut sampled = sampled(app, order.as_ref());
    register_projections(&mut sampled, &projections, &builds);
    register_processes(&mut sampled, processes);
    if let Ok(found) = projections::not_authentic::known(app.background()).await {
        register_not_authentic(&mut sampled, found.count);
    }
    register_readiness(&mut sampled, &readiness::report(app).await);
    if let Ok(log) = app.log().status(app.background()).await {
        register_log(&mut sampled, &log, app.now());
    }
    let program = program();
    format
        .encode(&[&app.metrics().registry, &sampled, &program])
        .map_err(crate::problem::ApiError::internal)
}

/// What runs, and what it takes of the machine.
pub fn program() -> Registry {
    let mut registry = Registry::default();
    let build: Labels = vec![
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        // The commit, where whoever built the program told it.
        ("revision", option_env!("BUILD_REVISION").unwrap_or("unknown").to_owned()),
    ];
    let info = Family::<Labels, Gauge>::default();
    info.get_or_create(&build).set(1);
    registry.register("entrybook_build_info", "1, with what this program was built from", info);
    process::register(&mut registry);
    registry
}

fn sampled(app: &App, order: Option<&Order>) -> Registry {
    let mut registry = Registry::with_prefix("entrybook");
    let book = app.book();
    let counters = book.counters();
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);

    let outcomes = Family::<Labels, Counter>::default();
    for (outcome, counter) in [
        ("succeeded", &counters.sign_ins_succeeded),
        ("failed", &counters.sign_ins_failed),
        ("throttled", &counters.sign_ins_throttled),
    ] {
        outcomes.get_or_create(&vec![("outcome", outcome.to_owned())]).inc_by(read(counter));
    }
    registry.register("sign_ins", "Attempts to sign in", outcomes);
    let refusals = Family::<Labels, Counter>::default();
    for (budget, spender, count) in book.budgets().refusals() {
        let labels = vec![("budget", budget.name().to_owned()), ("of", spender.name().to_owned())];
        refusals.get_or_create(&labels).inc_by(count);
    }
    registry.register(
        "over_budget",
        "Requests refused because a person, an address or a stream had appended too much of a kind",
        refusals,
    );
    let connections = app.connections().counts();
    for (name, help, value) in [
        ("registrations", "Accounts registered", read(&counters.registrations)),
        ("refreshes", "Sessions refreshed", read(&counters.refreshes)),
        (
            "token_reuses",
            "Sessions ended because a spent refresh token came back",
            read(&counters.token_reuses),
        ),
        ("appends", "Events appended to the book", read(&counters.appends)),
        (
            "append_conflicts",
            "Commits that another writer was faster than",
            read(&counters.conflicts),
        ),
        ("password_hashes", "Passwords hashed", book.hasher().hashed_total()),
        (
            "http_connections_closed_for_room",
            "Idle connections closed so that others could come",
            connections.closed_for_room,
        ),
        (
            "http_connections_turned_away",
            "Connections closed because all others were busy",
            connections.turned_away,
        ),
    ] {
        let counter = Counter::<u64>::default();
        counter.inc_by(value);
        registry.register(name, help, counter);
    }

    let pool = app.pool();
    let (streams, streams_idle) = book.store().connections();
    let whole = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
    for (name, help, value) in [
        ("hash_queue_length", "Passwords waiting to be hashed", whole(book.hasher().queued())),
        ("hash_queue_capacity", "Passwords that may wait at most", whole(book.hasher().capacity())),
        (
            "database_connections",
            "Connections that answer requests",
            i64::from(pool.size()) + whole(streams),
        ),
        (
            "database_connections_idle",
            "Connections that nobody uses",
            whole(pool.num_idle() + streams_idle),
        ),
        (
            "journal_position",
            "Last line of the book that is in order",
            app.sequencer().head().borrow().position,
        ),
        (
            "revocations_position",
            "Line up to which token revocations are known",
            app.revocations().caught_up_to(),
        ),
        ("http_connections", "Connections that are open", whole(connections.open)),
        ("http_connections_idle", "Connections without a request", whole(connections.idle)),
        (
            "http_connections_crowded",
            "Connections beyond the bound, on which only probes are answered",
            whole(connections.crowded),
        ),
        ("history_streams", "Who follow the history as it is written", whole(app.tails().open())),
    ] {
        let gauge = Gauge::<i64>::default();
        gauge.set(value);
        registry.register(name, help, gauge);
    }
    if let Some(order) = order {
        let stalled = if order.alarm().is_some() { 1.0 } else { 0.0 };
        for (name, help, value) in [
            (
                "sequencer_horizon_age_seconds",
                "Age of the transaction that holds new lines back",
                order.horizon.age.as_secs_f64(),
            ),
            (
                "sequencer_waiting_seconds",
                "For how long the first event has waited that has no position yet",
                order.waiting.seconds,
            ),
            (
                "sequencer_stalled",
                "1 while new events get no position and no open transaction is to blame; /readyz says why",
                stalled,
            ),
        ] {
            let gauge = GaugeF64::default();
            gauge.set(value);
            registry.register(name, help, gauge);
        }
    }

    registry
}

/// What there is a gauge of for each projection.
#[derive(Default)]
struct Gauges {
    position: Family<Labels, Gauge>,
    lag_events: Family<Labels, Gauge>,
    lag_seconds: Family<Labels, GaugeF64>,
    live: Family<Labels, Gauge>,
    built: Family<Labels, Gauge>,
    state: Family<Labels, Gauge>,
    stopped: Family<Labels, Gauge>,
    stopped_position: Family<Labels, Gauge>,
    build_running: Family<Labels, Gauge>,
    build_done: Family<Labels, Gauge>,
    build_total: Family<Labels, Gauge>,
}

const STATES: [ProjectionState; 4] = [
    ProjectionState::Missing,
    ProjectionState::Building,
    ProjectionState::Live,
    ProjectionState::Stopped,
];

fn register_projections(registry: &mut Registry, statuses: &[ProjectionStatus], builds: &[Build]) {
    let gauges = Gauges::default();
    for status in statuses {
        let labels = vec![("projection", status.name.to_owned())];
        gauges.position.get_or_create(&labels).set(status.position);
        gauges.lag_events.get_or_create(&labels).set(status.lag_events);
        gauges.lag_seconds.get_or_create(&labels).set(status.lag_seconds);
        gauges.live.get_or_create(&labels).set(i64::from(status.state == ProjectionState::Live));
        gauges.built.get_or_create(&labels).set(i64::from(status.built));
        for state in STATES {
            let mut labels = labels.clone();
            labels.push(("state", state.as_str().to_owned()));
            gauges.state.get_or_create(&labels).set(i64::from(status.state == state));
        }
        let is_stopped = status.state == ProjectionState::Stopped;
        gauges.stopped.get_or_create(&labels).set(i64::from(is_stopped));
        if let Some(stopped) = status.stopped.as_ref().filter(|_| is_stopped) {
            let mut labels = labels.clone();
            labels.push(("stream", stream_type(stopped).to_owned()));
            labels.push(("cause", stopped.kind.as_str().to_owned()));
            gauges.stopped_position.get_or_create(&labels).set(stopped.position);
        }
        let running = builds.iter().find(|build| {
            (build.name.as_str(), build.version) == (status.name, status.version)
                && build.state == BuildState::Running
        });
        gauges.build_running.get_or_create(&labels).set(i64::from(running.is_some()));
        if let Some(build) = running {
            gauges.build_done.get_or_create(&labels).set(build.events_done);
            gauges.build_total.get_or_create(&labels).set(build.events_total);
        }
    }
    let Gauges { position, lag_events, lag_seconds, live, built, state, .. } = gauges;
    registry.register("projection_position", "Last line that a projection has read", position);
    registry.register(
        "projection_lag_events",
        "Lines that a projection has still to read",
        lag_events,
    );
    registry.register("projection_lag_seconds", "Age of the first of them", lag_seconds);
    registry.register("projection_live", "1 when the projection serves", live);
    registry.register("projection_built", "1 when it has ever been complete", built);
    registry.register("projection_state", "1 for the state that it is in", state);
    registry.register(
        "projection_stopped",
        "1 when it is stopped at an event that it can't apply",
        gauges.stopped,
    );
    registry.register(
        "projection_stopped_position",
        "The line of that event, by the type of its stream and the kind of cause",
        gauges.stopped_position,
    );
    registry.register(
        "projection_build_running",
        "1 while it is being rebuilt or checked, on any replica",
        gauges.build_running,
    );
    registry.register("projection_build_events_done", "Lines that are folded", gauges.build_done);
    registry.register("projection_build_events_total", "Lines to fold", gauges.build_total);
}

/// The type of the stream whose event stopped a projection, from a fixed set: which stream it is has no
/// place in a label, nor has a type that a newer binary made up.
fn stream_type(stopped: &Stopped) -> &'static str {
    let stream = stopped.stream.as_deref().unwrap_or_default();
    let known = [stream::USER, stream::SESSION, stream::SIGN_IN_GUARD];
    known.into_iter().find(|known| stream.split(' ').next() == Some(known)).unwrap_or("other")
}

/// What of the book is signed, and whether anything keeps the rest from it.
fn register_log(registry: &mut Registry, status: &log::Status, now: DateTime<Utc>) {
    let (lines, seconds) = (Family::<Labels, Gauge>::default(), Family::<Labels, Gauge>::default());
    // Witnesses are those of the settings, whatever stands in the database.
    for one in &status.witnesses {
        let labels = vec![("witness", one.witness.clone())];
        lines.get_or_create(&labels).set(i64::try_from(one.lag).unwrap_or(i64::MAX));
        let waits = one.waiting_since.map_or(0, |since| (now - since).num_seconds().max(0));
        seconds.get_or_create(&labels).set(waits);
    }
    registry.register(
        "log_witness_lag_lines",
        "Signed lines that a witness of the settings has not cosigned; at least so many, where it is long away",
        lines,
    );
    registry.register(
        "log_witness_lag_seconds",
        "How long ago the first checkpoint was signed that it has not cosigned, nor any after it",
        seconds,
    );
    let numbers = status.numbers();
    let whole = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let signed_at = status.signed.as_ref().map_or(0, |signed| signed.signed_at.timestamp());
    for (name, help, value) in [
        ("log_size", "Lines of the newest signed checkpoint", whole(numbers.signed)),
        (
            "log_unsigned_lines",
            "Lines of the book that are not signed yet",
            whole(numbers.unsigned),
        ),
        ("log_signed_timestamp_seconds", "When that checkpoint was signed", signed_at),
        (
            "log_refused",
            "1 while the log refuses to sign; /readyz says why",
            i64::from(status.refusal.is_some()),
        ),
    ] {
        let gauge = Gauge::<i64>::default();
        gauge.set(value);
        registry.register(name, help, gauge);
    }
}

/// What `/readyz` answers, as numbers that an alert can wait for.
fn register_readiness(registry: &mut Registry, report: &Report) {
    let warnings = report.checks.iter().filter(|check| check.state == State::Warning).count();
    for (name, help, value) in [
        ("ready", "1 when this replica should be sent requests", i64::from(report.ready)),
        (
            "readiness_warnings",
            "Checks of /readyz that somebody should look at, while serving goes on",
            i64::try_from(warnings).unwrap_or(i64::MAX),
        ),
    ] {
        let gauge = Gauge::<i64>::default();
        gauge.set(value);
        registry.register(name, help, gauge);
    }
}

/// A process that falls behind the journal is stuck: sessions that should have ended are still listed.
fn register_not_authentic(registry: &mut Registry, count: u64) {
    let gauge: Gauge = Gauge::default();
    gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
    registry.register(
        "events_not_authentic",
        "Events in the book that the service did not write; they have no effect, and somebody writes with the database's login",
        gauge,
    );
}

fn register_processes(registry: &mut Registry, positions: Vec<(String, i64)>) {
    let family = Family::<Labels, Gauge>::default();
    for (process, position) in positions {
        family.get_or_create(&vec![("process", process)]).set(position);
    }
    registry.register(
        "process_position",
        "Last line after which a process has done what is asked for; compare with the journal's",
        family,
    );
}
