//! `entrybook projections prune`: drops the read tables that no running server is bound to.

use super::table::table;
use super::{Out, origin, with_services};
use crate::config::Config;
use crate::service_events;
use anyhow::Context;

#[derive(Debug, clap::Args)]
#[command(
    about = "Drop versions that no running server uses",
    long_about = "An upgrade builds new versions of read tables beside the old ones, so that servers of both versions can run and you can go \
        back. Once you will not go back, this drops the versions that neither a running server nor this binary is bound to, and what builds \
        that were broken off have left. Nobody follows these, so they hold what they held, of people who were erased since too. A version that \
        is needed again later is built from the book again.\n\n\
        Servers say every 5 seconds that they live; one that has not for 30 seconds counts as dead. Works beside running servers.",
    after_help = "Examples:\n  entrybook projections prune --dry-run\n  entrybook projections prune --json | jq '.[] | select(.dropped)'"
)]
pub(super) struct Arguments {
    /// Say what would be dropped, and drop nothing
    #[arg(long)]
    dry_run: bool,
    /// Answer in JSON: [{"name", "version", "tables", "bytes", "kept_because", "dropped"}]
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(
    config: &Config,
    arguments: &Arguments,
    out: &mut Out,
) -> anyhow::Result<()> {
    let ours = ::projections::all();
    let pruned = with_services(config, async |services| {
        let (book, origin) = (&services.book, origin(services));
        let found = ::projections::prune(&services.pool, &ours, true).await?;
        if arguments.dry_run {
            return Ok(found);
        }
        service_events::prune_begins(book, &found, &origin).await.context(
            "What is dropped is written down first, and that could not be done, so nothing was dropped",
        )?;
        let pruned = ::projections::prune(&services.pool, &ours, false).await?;
        service_events::pruned(book, &pruned, &origin).await;
        Ok(pruned)
    })
    .await?;
    if arguments.json {
        return Ok(out.json(&pruned)?);
    }
    let mut lines = table(&["projection", "version", "size", ""]);
    for one in &pruned {
        let outcome = match &one.kept_because {
            Some(because) => format!("kept: {because}"),
            None if one.dropped => format!("dropped: {}", one.tables.join(", ")),
            None => format!("would be dropped: {}", one.tables.join(", ")),
        };
        let size = match one.kept_because {
            Some(_) => String::new(),
            None => format!("{:.1} MiB", one.bytes as f64 / f64::from(1 << 20)),
        };
        lines.add_row([one.name.clone(), one.version.to_string(), size, outcome]);
    }
    out.table(&lines)?;
    Ok(())
}
