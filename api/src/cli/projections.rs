//! `entrybook projections`: how far the read tables are, checking them, and building them anew.

mod identifiers;
mod progress;
mod rebuild;
mod report;
mod status;
mod verify;
mod work;

pub(super) use status::unfinished;

use super::{Exit, Out, Refused, prune};
use crate::config::Config;
use crate::routes::projections::advice;
use ::projections::{Projection, ProjectionStatus};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    Status(status::Arguments),
    Rebuild(rebuild::Arguments),
    Verify(verify::Arguments),
    Prune(prune::Arguments),
}

pub(super) async fn run(
    config: &Config,
    arguments: &Arguments,
    out: &mut Out,
) -> anyhow::Result<Exit> {
    match &arguments.verb {
        Verb::Status(arguments) => status::run(config, arguments, out).await?,
        Verb::Rebuild(arguments) => return rebuild::run(config, arguments, out).await,
        Verb::Verify(arguments) => return verify::run(config, arguments, out).await,
        Verb::Prune(arguments) => prune::run(config, arguments, out).await?,
    }
    Ok(Exit::Done)
}

/// The projections of these names, each once; all, where none is named.
fn named(names: &[String], also: &[&str]) -> anyhow::Result<Vec<&'static dyn Projection>> {
    let all = ::projections::all();
    let unknown = names.iter().find(|name| {
        !also.contains(&name.as_str()) && all.iter().all(|known| known.name() != *name)
    });
    if let Some(name) = unknown {
        let known = all.iter().map(|known| known.name()).chain(also.iter().copied());
        let known = known.collect::<Vec<_>>().join(", ");
        return Err(Refused(format!("There is no projection {name:?}; there are {known}.")).into());
    }
    let wanted = |known: &&'static dyn Projection| {
        names.is_empty() || names.iter().any(|name| name == known.name())
    };
    Ok(all.into_iter().filter(wanted).collect())
}

/// Where and why one is stopped, and what to do, in two sentences.
pub(super) fn stopped(status: &ProjectionStatus) -> (String, &'static str) {
    let name = status.name;
    let finding = match (&status.stopped, &status.detail) {
        (Some(stopped), _) => format!("{name} is stopped at {stopped}"),
        (None, Some(detail)) => {
            format!("{name} is stopped after line {}: {detail}", status.position)
        }
        (None, None) => format!("{name} is stopped after line {}", status.position),
    };
    (report::printable(&finding), advice(status))
}
