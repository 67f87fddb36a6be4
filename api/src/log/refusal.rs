//! Why nothing is signed any more, kept where every replica sees it: in the registry, in the row of
//! the process.
//!
//! What the database itself shows to be wrong is looked at again and again, and forgotten when it is
//! right again. What only this replica's memory or a witness knows binds all replicas until somebody
//! has decided: another replica would find nothing wrong, and sign.

use chrono::{DateTime, Utc};
use commands::Origin;
use domain::ServiceEvent;
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, PgPool};

use super::{Log, LogError, STREAM, signing::NAME};

/// Who found it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refuser {
    /// The tree, or the table of checkpoints.
    Tree,
    /// What a replica remembers outside of the database.
    Memory,
    /// A witness.
    Witness,
}

impl Refuser {
    /// Whether it stays until somebody decides.
    fn binds(self) -> bool {
        match self {
            Self::Tree => false,
            Self::Memory | Self::Witness => true,
        }
    }
}

/// What keeps the log from signing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    pub origin: String,
    pub by: Refuser,
    /// What happened, and the choices. It names nobody and no file: anybody may read it.
    pub text: String,
    pub since: DateTime<Utc>,
}

impl Refusal {
    /// What keeps a log from signing, whichever it is: for who looks at a database and has no keys.
    pub async fn of_any(pool: &PgPool) -> Result<Option<Self>, sqlx::Error> {
        let Stopped(detail) = Stopped::read(&mut *pool.acquire().await?).await?;
        Ok(detail.and_then(|detail| serde_json::from_str(&detail).ok()))
    }
}

/// The text that stands in the registry while nothing is signed.
pub(super) struct Stopped(Option<String>);

impl Stopped {
    pub(super) async fn read(connection: &mut PgConnection) -> Result<Self, sqlx::Error> {
        let detail = sqlx::query_scalar(
            "SELECT coalesce(detail, '') FROM projections
              WHERE name = $1 AND version = 1 AND state = 'stopped'",
        );
        Ok(Self(detail.bind(NAME).fetch_optional(connection).await?))
    }

    /// What it says of this log; of one before it nothing.
    pub(super) fn refusal(&self, origin: &str) -> Option<Refusal> {
        let refusal = serde_json::from_str::<Refusal>(self.0.as_ref()?).ok()?;
        (refusal.origin == origin).then_some(refusal)
    }

    /// What no later look may lift.
    pub(super) fn binding(&self, origin: &str) -> Option<Refusal> {
        self.refusal(origin).filter(|refusal| refusal.by.binds())
    }

    pub(super) fn is_there(&self) -> bool {
        self.0.is_some()
    }

    /// Signing goes on, up to this line by now, unless something else has stopped it since.
    pub(super) async fn lift(
        &self,
        connection: &mut PgConnection,
        size: u64,
    ) -> Result<(), sqlx::Error> {
        sqlx::query(
            "INSERT INTO projections (name, version, position) VALUES ($1, 1, $2)
             ON CONFLICT (name, version) DO UPDATE
                 SET state = 'live', detail = NULL, position = excluded.position,
                     updated_at = clock_timestamp()
               WHERE projections.state <> 'stopped' OR coalesce(projections.detail, '') = $3",
        )
        .bind(NAME)
        .bind(i64::try_from(size).unwrap_or(i64::MAX))
        .bind(&self.0)
        .execute(connection)
        .await?;
        Ok(())
    }
}

/// What keeps this log from signing.
pub(super) async fn read(
    connection: &mut PgConnection,
    origin: &str,
) -> Result<Option<Refusal>, sqlx::Error> {
    Ok(Stopped::read(connection).await?.refusal(origin))
}

/// Writes it down, unless something that binds stands there already.
pub(super) async fn write(
    connection: &mut PgConnection,
    refusal: &Refusal,
) -> Result<(), sqlx::Error> {
    match read(connection, &refusal.origin).await? {
        Some(before) if before.by.binds() || before.text == refusal.text => Ok(()),
        _ => replace(connection, refusal).await,
    }
}

async fn replace(connection: &mut PgConnection, refusal: &Refusal) -> Result<(), sqlx::Error> {
    let detail =
        serde_json::to_string(refusal).map_err(|error| sqlx::Error::Encode(Box::new(error)))?;
    sqlx::query(
        "INSERT INTO projections (name, version, state, detail) VALUES ($1, 1, 'stopped', $2)
         ON CONFLICT (name, version) DO UPDATE
             SET state = 'stopped', detail = excluded.detail, updated_at = clock_timestamp()",
    )
    .bind(NAME)
    .bind(detail)
    .execute(connection)
    .await?;
    tracing::error!("the transparency log {} signs nothing more: {}", refusal.origin, refusal.text);
    Ok(())
}

impl Log {
    /// What keeps the log from signing, if anything does.
    pub async fn refusal(&self) -> Result<Option<Refusal>, LogError> {
        let origin = self.origin()?;
        let mut connection = self.0.background.acquire().await?;
        Ok(read(&mut connection, &origin).await?)
    }

    /// Stops the log, on all replicas: a witness has seen what can't be. The text says what, and names
    /// nobody.
    pub async fn note_refusal(&self, text: &str) -> Result<(), LogError> {
        self.refuse(Refuser::Witness, text).await
    }

    /// The same, where more is known than what it was stopped for before. What another replica or the tree has said
    /// stays.
    pub(super) async fn note_more(&self, text: &str) -> Result<(), LogError> {
        let by = Refuser::Witness;
        let (origin, since) = (self.origin()?, self.0.book.clock().now());
        let mut connection = self.0.background.acquire().await?;
        let refusal = match read(&mut connection, &origin).await? {
            Some(before) if before.by != by || before.text == text => return Ok(()),
            Some(before) => Refusal { text: text.to_owned(), ..before },
            None => Refusal { origin, by, text: text.to_owned(), since },
        };
        Ok(replace(&mut connection, &refusal).await?)
    }

    pub(super) async fn refuse(&self, by: Refuser, text: &str) -> Result<(), LogError> {
        let refusal = Refusal {
            origin: self.origin()?,
            by,
            text: text.to_owned(),
            since: self.0.book.clock().now(),
        };
        let mut connection = self.0.background.acquire().await?;
        Ok(write(&mut connection, &refusal).await?)
    }

    /// Lets the log sign again, if nothing is wrong any more: the signer looks at everything first.
    /// What is lifted stands in the book before it is, with who did so. Answers what it was.
    pub async fn resume(&self, by: &Origin) -> Result<Option<Refusal>, LogError> {
        let origin = self.origin()?;
        let size = self.latest().await?.map_or(0, |signed| signed.size);
        let mut connection = self.0.background.acquire().await?;
        let stopped = Stopped::read(&mut connection).await?;
        let refusal = stopped.refusal(&origin);
        if let Some(Refusal { text, .. }) = refusal.clone() {
            let event = ServiceEvent::LogResumed { origin, refusal: text };
            self.0.book.record(STREAM, event, by).await?;
        }
        stopped.lift(&mut connection, size).await?;
        Ok(refusal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_kept_as_json_that_says_who_found_what() {
        let refusal = Refusal {
            origin: "example.org/log".into(),
            by: Refuser::Memory,
            text: "set back".into(),
            since: DateTime::UNIX_EPOCH,
        };
        let text = serde_json::to_string(&refusal).unwrap();
        insta::assert_snapshot!(text, @r#"{"origin":"example.org/log","by":"memory","text":"set back","since":"1970-01-01T00:00:00Z"}"#);
        assert_eq!(serde_json::from_str::<Refusal>(&text).unwrap(), refusal);
    }
}
