//! `entrybook migrate`: the database brought up to date.

use super::Out;
use crate::bootstrap::{Database, Migrate, migrate_or_check};
use crate::config::Config;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Answer in JSON: {"applied": [1, 2]}
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(
    config: &Config,
    arguments: &Arguments,
    out: &mut Out,
) -> anyhow::Result<()> {
    let database = Database::open_or_join(config).await?;
    let applied = migrate_or_check(&database, Migrate::Yes).await;
    let name = database.url().to_string();
    let closed = database.close().await;
    let applied = applied?;
    closed?;
    if arguments.json {
        out.json(&serde_json::json!({ "applied": applied }))?;
    } else if applied.is_empty() {
        out.line(format!("The database {name} is up to date; there was nothing to do."))?;
    } else {
        let versions: Vec<_> = applied.iter().map(i64::to_string).collect();
        out.line(format!("The database {name} is up to date; applied: {}.", versions.join(", ")))?;
    }
    Ok(())
}
