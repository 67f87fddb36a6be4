//! `entrybook migrate`: the database brought up to date.

use super::{Out, origin};
use crate::bootstrap::{Database, Migrate, Services, Size, login, master_key_of, migrate_or_check};
use crate::config::Config;
use sqlx::Connection;

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
    if let Ok(applied) = &applied
        && let Err(cause) = with_keys(config, &database, !applied.is_empty()).await
    {
        tracing::warn!(
            "what was applied is written into the history by the next server that starts: {cause}"
        );
    }
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

/// Writes down who did it, where there is a key to seal their name with, and corrects what only a holder of the key
/// can (the write permit, when the services are opened). An empty book is begun by its first server.
async fn with_keys(config: &Config, database: &Database, is_new: bool) -> anyhow::Result<()> {
    if master_key_of(config)?.is_none() {
        return Ok(());
    }
    let mut connection = login(database).await?;
    let begun = sqlx::query_scalar("SELECT EXISTS (SELECT FROM events)");
    let begun: bool = begun.fetch_one(&mut connection).await?;
    connection.close().await?;
    if begun {
        let issuer = config.public_url(config.listen.port())?;
        let services = Services::open(config, database, issuer.origin(), Size::ONE_VERB).await?;
        let recorded = match is_new {
            true => services.book.record_migrations(&origin(&services)).await.map(drop),
            false => Ok(()),
        };
        services.close().await;
        recorded?;
    }
    Ok(())
}
