//! `entrybook projections`: how far the read tables are, and building them anew.

use super::table::table;
use super::{Out, Refused, with_services};
use crate::config::Config;
use ::projections::{Progress, Projection, ProjectionState, ProjectionStatus};
use std::io::{IsTerminal, Write, stderr};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Show how far each projection is behind the book
    #[command(
        after_help = "Example:\n  entrybook projections status --json | jq '.[] | select(.lag_events > 0)'"
    )]
    Status {
        /// Answer in JSON: [{"name", "version", "position", "head", "lag_events", "lag_seconds", "state", "detail", "updated_at"}]
        #[arg(long)]
        json: bool,
    },
    /// Build projections anew from the events, beside the live ones, and swap
    #[command(
        long_about = "Builds projections anew from the events, beside the live ones, and swaps them in when they have caught up. Reading goes on \
            meanwhile. Broken off, it leaves the live ones as they are.",
        after_help = "Examples:\n  entrybook projections rebuild users\n  entrybook projections rebuild --all"
    )]
    Rebuild {
        /// Which: see `entrybook projections status`
        #[arg(value_name = "NAME", required_unless_present = "all")]
        names: Vec<String>,
        /// All of them
        #[arg(long, conflicts_with = "names")]
        all: bool,
    },
}

pub(super) async fn run(
    config: &Config,
    arguments: &Arguments,
    out: &mut Out,
) -> anyhow::Result<()> {
    match &arguments.verb {
        Verb::Status { json } => status(config, *json, out).await,
        Verb::Rebuild { names, all } => {
            let chosen = if *all { ::projections::all() } else { named(names)? };
            rebuild(config, &chosen, out).await
        }
    }
}

fn named(names: &[String]) -> anyhow::Result<Vec<&'static dyn Projection>> {
    let find = |name: &String| {
        ::projections::named(name).ok_or_else(|| {
            let known: Vec<_> = ::projections::all().iter().map(|known| known.name()).collect();
            Refused(format!("There is no projection {name:?}; there are {}.", known.join(", ")))
                .into()
        })
    };
    names.iter().map(find).collect()
}

async fn status(config: &Config, json: bool, out: &mut Out) -> anyhow::Result<()> {
    let status =
        with_services(config, async |services| Ok(services.projector.status().await?)).await?;
    if json {
        return Ok(out.json(&status)?);
    }
    let mut lines = table(&["name", "version", "state", "position", "head", "behind", "for"]);
    for one in &status {
        lines.add_row([
            one.name.to_owned(),
            one.version.to_string(),
            one.state.to_string(),
            one.position.to_string(),
            one.head.to_string(),
            one.lag_events.to_string(),
            format!("{:.1} s", one.lag_seconds),
        ]);
    }
    out.table(&lines)?;
    for one in status.iter().filter(|one| one.state == ProjectionState::Stopped) {
        out.line(stopped(one))?;
    }
    Ok(())
}

pub(super) fn stopped(status: &ProjectionStatus) -> String {
    format!(
        "{} is stopped after position {}: {}",
        status.name,
        status.position,
        status.detail.as_deref().unwrap_or("no cause was noted")
    )
}

async fn rebuild(
    config: &Config,
    chosen: &[&'static dyn Projection],
    out: &mut Out,
) -> anyhow::Result<()> {
    with_services(config, async |services| {
        services.sequencer.drain().await?;
        for projection in chosen {
            let name = projection.name();
            let terminal = stderr().is_terminal();
            let rebuilt =
                ::projections::rebuild(&services.pool, *projection, |progress: Progress| {
                    if terminal {
                        // It is for the eye only.
                        let _ = write!(
                            stderr(),
                            "\r{name}: {:?}, position {} of {}\x1b[K",
                            progress.phase,
                            progress.position,
                            progress.head
                        );
                    }
                })
                .await;
            if terminal {
                let _ = write!(stderr(), "\r\x1b[K");
            }
            let rebuilt = rebuilt?;
            out.line(format!("{name}: built anew from {} events.", rebuilt.events))?;
        }
        Ok(())
    })
    .await
}
