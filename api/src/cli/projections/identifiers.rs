//! `entrybook projections rebuild identifiers --repair`.

use super::super::{Exit, Out, Refused, require_database};
use crate::bootstrap::{Database, Migrate, Owner, Services, Size, owner, prepare};
use crate::config::Config;
use ::projections::{RepairError, repair_identifiers};

/// Makes the table of claimed identifiers again from the accounts' events.
pub(super) async fn repair(config: &Config, json: bool, out: &mut Out) -> anyhow::Result<Exit> {
    require_database(config)?;
    let database = Database::open_or_join(config).await?;
    let repaired = repair_in(config, &database).await;
    let closed = database.close().await;
    let (taken, put) = repaired?;
    closed?;
    if json {
        out.json_line(&serde_json::json!({
            "type": "result", "projection": "identifiers", "outcome": "repaired", "taken_away": taken, "put_there": put,
        }))?;
    } else if (taken, put) == (0, 0) {
        out.line("identifiers: as the accounts' events claim them; nothing was changed.")?;
    } else {
        out.line(format!(
            "identifiers: made again from the accounts' events. {taken} rows were taken away, and {put} were put there. Somebody had changed \
             the table: find out who may write to this database."
        ))?;
    }
    Ok(Exit::Done)
}

async fn repair_in(config: &Config, database: &Database) -> anyhow::Result<(u64, u64)> {
    if database.owner() == Owner::OtherProcess {
        return Err(Refused(
            "A server runs on this private PostgreSQL, and keeps the login that may change this table. Stop it, and run this again."
                .to_owned(),
        )
        .into());
    }
    prepare(config, database, Migrate::as_owner(database)).await?;
    let issuer = config.public_url(config.listen.port())?;
    let services = Services::open(config, database, issuer.origin(), Size::ONE_VERB).await?;
    let repaired = async {
        let mut connection = owner(database).await?;
        let may: bool = sqlx::query_scalar("SELECT has_table_privilege('identifiers', 'DELETE')")
            .fetch_one(&mut connection)
            .await?;
        if !may {
            return Err(Refused(
                "The login of DATABASE_URL may not change this table. Give the one that owns the tables with ENTRYBOOK_OWNER_DATABASE_URL."
                    .to_owned(),
            )
            .into());
        }
        match repair_identifiers(&services.source(), &mut connection).await {
            Ok(done) => Ok(done),
            Err(error @ RepairError::Doubled(_)) => Err(Refused(format!(
                "{error}: keep this database as it is, and restore a backup beside it."
            ))
            .into()),
            Err(error) => Err(anyhow::Error::from(error)),
        }
    }
    .await;
    services.close().await;
    repaired
}
