//! `entrybook projections status`.

use super::super::table::table;
use super::super::{Out, with_services};
use super::progress::{Step, count, duration};
use super::report::printable;
use super::stopped;
use crate::config::Config;
use ::projections::{Build, BuildState, ProjectionState, ProjectionStatus, Replica};
use chrono::SecondsFormat;
use serde::Serialize;

#[derive(Debug, clap::Args)]
#[command(
    about = "Show how far each projection is behind the book, what is being built, and why one is stopped",
    long_about = "Shows how far each projection is behind the book; the build that is under way, in whatever process, or what came of the last \
        one; where and why one is stopped, and what to do; and the servers that run.",
    after_help = "Example:\n  entrybook projections status --json | jq '.[] | select(.lag_events > 0)'",
    after_long_help = "With --json, one list: [{\"name\", \"version\", \"position\", \"head\", \"lag_events\", \"lag_seconds\", \"state\" (missing, building, \
        live, stopped), \"built\" (its first build is complete), \"detail\", \"stopped\" {\"position\", \"stream\", \"event_type\", \
        \"event_version\", \"kind\" (newer_version, damaged_payload, refused_rows, unreadable_line, other), \"cause\"}, \"advice\" (what to do about that), \"updated_at\", \"build\", \"other_builds\" (of versions of other \
        binaries), \"replicas\" [{\"host\", \"binary\", \"started_at\", \"seen_at\"}] (running servers that use this version)}], and of a \
        build {\"name\", \"version\", \"state\" (running, interrupted, built, swapped, compared, differs, failed, cancelled), \"phase\", \
        \"dry_run\", \"events_done\", \"events_total\", \"events_per_second\", \"seconds_left\", \"seconds\", \"started_at\", \"updated_at\", \
        \"detail\"}.\n\n\
        Example:\n  entrybook projections status --json | jq '.[] | select(.lag_events > 0)'"
)]
pub(super) struct Arguments {
    /// Answer in JSON: see --help
    #[arg(long)]
    json: bool,
}

/// One projection, for programs.
#[derive(Debug, Serialize)]
struct Whole<'a> {
    #[serde(flatten)]
    status: &'a ProjectionStatus,
    advice: Option<&'static str>,
    build: Option<&'a Build>,
    other_builds: Vec<&'a Build>,
    replicas: Vec<&'a Replica>,
}

pub(super) async fn run(
    config: &Config,
    arguments: &Arguments,
    out: &mut Out,
) -> anyhow::Result<()> {
    let (status, builds, mut replicas) = with_services(config, async |services| {
        Ok((
            services.projector.status().await?,
            ::projections::builds(&services.pool).await?,
            ::projections::replicas(&services.pool).await?,
        ))
    })
    .await?;
    replicas.retain(|replica| replica.alive);
    let whole: Vec<_> = status.iter().map(|one| Whole::new(one, &builds, &replicas)).collect();
    if arguments.json {
        return Ok(out.json(&whole)?);
    }
    let mut lines =
        table(&["name", "version", "state", "position", "head", "behind", "for", "build"]);
    for Whole { status: one, build, .. } in &whole {
        lines.add_row([
            one.name.to_owned(),
            one.version.to_string(),
            one.state.to_string(),
            one.position.to_string(),
            one.head.to_string(),
            one.lag_events.to_string(),
            format!("{:.1} s", one.lag_seconds),
            build.map_or_else(String::new, in_short),
        ]);
    }
    out.table(&lines)?;
    for one in &whole {
        for line in one.remarks() {
            out.line(line)?;
        }
    }
    if replicas.is_empty() {
        out.line("No server runs.")?;
        return Ok(());
    }
    let mut servers = table(&["server", "version", "since", "uses"]);
    for replica in &replicas {
        let uses = replica
            .projections
            .iter()
            .map(|(name, version)| format!("{} {version}", printable(name)));
        servers.add_row([
            printable(&replica.host),
            printable(&replica.binary),
            replica.started_at.to_rfc3339_opts(SecondsFormat::Secs, true),
            uses.collect::<Vec<_>>().join(", "),
        ]);
    }
    out.line("")?;
    Ok(out.table(&servers)?)
}

impl<'a> Whole<'a> {
    fn new(status: &'a ProjectionStatus, builds: &'a [Build], replicas: &'a [Replica]) -> Self {
        let of_name = || builds.iter().filter(|build| build.name == status.name);
        let is_used = |replica: &&Replica| {
            replica
                .projections
                .iter()
                .any(|(name, version)| name == status.name && *version == status.version)
        };
        let is_stopped = status.state == ProjectionState::Stopped;
        Self {
            status,
            advice: is_stopped.then(|| stopped(status).1),
            build: of_name().find(|build| build.version == status.version),
            other_builds: of_name().filter(|build| build.version != status.version).collect(),
            replicas: replicas.iter().filter(is_used).collect(),
        }
    }

    /// What needs more than a line of a table.
    fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        let mut remark = |finding: String, advice: &str| {
            remarks.push(finding);
            if !advice.is_empty() {
                remarks.push(format!("  → {advice}"));
            }
        };
        if self.status.state == ProjectionState::Stopped {
            let (finding, advice) = stopped(self.status);
            remark(finding, advice);
        }
        if !self.status.built && self.build.is_none_or(|build| build.state != BuildState::Running) {
            remark(
                format!("{} has not yet been built for the first time.", self.status.name),
                "A server goes on with it.",
            );
        }
        if let Some(build) = self.build {
            if build.state == BuildState::Running {
                remark(
                    format!(
                        "{} is being {}: {}, begun {}",
                        build.name,
                        if !self.status.built {
                            "built for the first time"
                        } else if build.dry_run {
                            "compared with the book"
                        } else {
                            "rebuilt"
                        },
                        printable(&Step::from(build).words()),
                        build.started_at.to_rfc3339_opts(SecondsFormat::Secs, true)
                    ),
                    "",
                );
            } else if let Some((finding, advice)) = unfinished(build) {
                remark(finding, &advice);
            }
        }
        for build in self.other_builds.iter().filter(|build| build.state == BuildState::Running) {
            let words = printable(&Step::from(*build).words());
            remark(
                format!("{} version {}, of another binary: {words}", build.name, build.version),
                "",
            );
        }
        remarks
    }
}

/// For a line of a table.
fn in_short(build: &Build) -> String {
    let step = Step::from(build);
    if build.state != BuildState::Running {
        let when = build.updated_at.to_rfc3339_opts(SecondsFormat::Secs, true);
        return format!("{} {when}", build.state.as_str());
    }
    let mut words = format!("{} {} %", printable(&build.phase).replace('_', " "), step.percent());
    if build.events_per_second >= 1.0 {
        words = format!("{words}, {} lines/s", count(build.events_per_second as i64));
    }
    if let Some(left) = build.seconds_left {
        words = format!("{words}, {} left", duration(left));
    }
    words
}

/// A build that did not come to a good end, and what to do.
pub(in crate::cli) fn unfinished(build: &Build) -> Option<(String, String)> {
    let Build { name, events_done, events_total, .. } = build;
    let what = if build.dry_run { "comparison" } else { "rebuild" };
    let detail = printable(build.detail.as_deref().unwrap_or("why was not noted"));
    let detail = detail.trim_end_matches('.');
    let again = format!("entrybook projections rebuild {name}");
    let at =
        format!("line {} of {}", count(*events_done), count((*events_total).max(*events_done)));
    match build.state {
        BuildState::Running | BuildState::Built | BuildState::Swapped | BuildState::Compared => {
            None
        }
        BuildState::Interrupted => Some((
            format!("The last {what} of {name} was interrupted at {at}: its process is gone."),
            format!("The live tables serve. The next goes on where it was: {again}"),
        )),
        BuildState::Cancelled => Some((
            format!("The last {what} of {name} was cancelled at {at}."),
            format!("The live tables serve. The next goes on where it was: {again}"),
        )),
        BuildState::Failed => Some((
            format!("The last {what} of {name} failed at {at}: {detail}."),
            format!("The live tables serve. When that is mended: {again}"),
        )),
        BuildState::Differs => Some((
            format!("The last {what} found a difference: {detail}."),
            format!("See the rows: entrybook projections verify {name}. Mend: {again} --repair"),
        )),
    }
}
