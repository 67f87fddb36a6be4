//! How the log stands: for `/readyz`, the metrics, and `entrybook log status`.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{PgConnection, PgPool};

use super::{
    Known, Log, LogError, Refusal, Refuser, Signed, reading::newest, refusal, signing::unsigned,
};

/// A line that waits so much longer than a checkpoint may take is worth a word.
const LATE: Duration = Duration::from_secs(60);
/// A witness that has cosigned nothing for so long, too.
const AWAY: Duration = Duration::from_secs(300);
/// So many checkpoints are looked through for what a witness has cosigned.
const LOOKED_THROUGH: i64 = 1000;

/// What there is of it, and what keeps it from going on.
#[derive(Debug, Clone)]
pub struct Status {
    pub origin: String,
    pub signed: Option<Signed>,
    /// How many lines the book has.
    pub lines: u64,
    /// When the first line was written that is not signed yet.
    pub waiting_since: Option<DateTime<Utc>>,
    pub refusal: Option<Refusal>,
    /// The witnesses of the settings.
    pub witnesses: Vec<Witnessed>,
    /// Whether this process signs nothing, because it remembers nothing and nobody has said what was signed.
    pub waits: bool,
    /// Why what was signed can't be remembered outside of the database.
    pub memory_problem: Option<String>,
}

/// A witness of the settings, as the database knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Witnessed {
    /// Its name, and the id of its key.
    pub witness: String,
    /// How many of the signed lines it has not cosigned; at least so many, where it is long away.
    pub lag: u64,
    /// When the first checkpoint was signed that it should have cosigned since; it may cosign a later one.
    pub waiting_since: Option<DateTime<Utc>>,
}

/// The same in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Numbers {
    /// How many lines are signed.
    pub signed: u64,
    /// How many are not yet.
    pub unsigned: u64,
}

impl Status {
    #[must_use]
    pub fn numbers(&self) -> Numbers {
        let signed = self.signed.as_ref().map_or(0, |signed| signed.size);
        Numbers { signed, unsigned: self.lines.saturating_sub(signed) }
    }

    /// How long the first line has waited to be signed, where that is worth a word.
    #[must_use]
    pub fn late(&self, now: DateTime<Utc>, interval: Duration) -> Option<Duration> {
        let waits = (now - self.waiting_since?).to_std().unwrap_or_default();
        (waits > LATE + 2 * interval).then_some(waits)
    }

    /// What is worth a word, for anybody: it names no file and nobody.
    #[must_use]
    pub fn warning(&self, now: DateTime<Utc>, interval: Duration) -> Option<String> {
        if let Some(refusal) = &self.refusal {
            return Some(refusal.text.clone());
        }
        if self.waits {
            return Some(
                "this server remembers nothing of what the log has signed, and none of its witnesses, nor its anchor file, has shown yet \
                 that the database is not an older one. Until then it signs nothing, and signing in goes on. See to it that one of them \
                 can be asked; or, if none is left and the database is the newest that there is, run `entrybook log resume` on this server"
                    .to_owned(),
            );
        }
        if let Some(waits) = self.late(now, interval) {
            return Some(format!(
                "{} lines of the book wait to be signed, the first for {} seconds. Signing in goes on; the logs of the \
                 servers say why nobody signs",
                self.numbers().unsigned,
                waits.as_secs()
            ));
        }
        if self.memory_problem.is_some() {
            return Some(
            "what was signed can't be remembered outside of the database, so that a restored older backup would not be \
             found out by this server; its log says why"
                    .to_owned(),
            );
        }
        let late = self.witnesses.iter().filter_map(|one| one.waits(now, interval));
        let longest = late.clone().max()?;
        Some(format!(
            "{} of {} witnesses have cosigned nothing for {} minutes. Nothing waits for them; the logs of the servers say what keeps \
             them from it",
            late.count(),
            self.witnesses.len(),
            longest.as_secs() / 60
        ))
    }
}

impl Witnessed {
    /// For how long it has cosigned nothing, where that is worth a word.
    #[must_use]
    pub fn waits(&self, now: DateTime<Utc>, interval: Duration) -> Option<Duration> {
        let waits = (now - self.waiting_since?).to_std().unwrap_or_default();
        (waits > AWAY + 2 * interval).then_some(waits)
    }
}

impl Log {
    /// How it stands. Give a pool that requests can't use up.
    pub async fn status(&self, pool: &PgPool) -> Result<Status, LogError> {
        if let Some(problem) = self.keys_problem() {
            return Err(LogError::KeysUnusable(problem));
        }
        let (known, now) = (self.known()?, self.0.book.clock().now());
        let mut connection = pool.acquire().await?;
        let status = read(&mut connection, &known, &self.0.anchors.shorts(), now).await?;
        Ok(Status { waits: self.waits(), memory_problem: self.memory_problem(), ..status })
    }
}

/// What the database says.
pub(super) async fn read(
    connection: &mut PgConnection,
    known: &Known,
    witnesses: &[String],
    now: DateTime<Utc>,
) -> Result<Status, LogError> {
    let origin = known.origin().to_owned();
    let mut refusal = refusal::read(connection, &origin).await?;
    let signed = match newest(connection, known).await {
        // The signer says so too, when it looks next.
        Err(error @ LogError::Unsigned { .. }) => {
            refusal.get_or_insert_with(|| Refusal {
                text: unsigned(&origin, &error),
                origin: origin.clone(),
                by: Refuser::Tree,
                since: now,
            });
            None
        }
        signed => signed?,
    };
    let size = signed.as_ref().map_or(0, |signed| signed.size);
    let lines: i64 = sqlx::query_scalar("SELECT coalesce(max(position), 0) FROM journal")
        .fetch_one(&mut *connection)
        .await?;
    let waiting_since = sqlx::query_scalar(
        "SELECT recorded_at FROM journal JOIN events
             ON (events.tx, events.id) = (journal.tx, journal.event_id)
          WHERE position = $1",
    )
    .bind(i64::try_from(size).unwrap_or(i64::MAX).saturating_add(1))
    .fetch_optional(&mut *connection)
    .await?;
    let witnesses = match witnesses {
        [] => Vec::new(),
        witnesses => witnessed(connection, &origin, witnesses, size).await?,
    };
    Ok(Status {
        origin,
        signed,
        lines: lines.unsigned_abs(),
        waiting_since,
        refusal,
        witnesses,
        waits: false,
        memory_problem: None,
    })
}

async fn witnessed(
    connection: &mut PgConnection,
    origin: &str,
    witnesses: &[String],
    size: u64,
) -> Result<Vec<Witnessed>, sqlx::Error> {
    let rows: Vec<(String, i64, Option<DateTime<Utc>>)> = sqlx::query_as(
        "WITH latest AS (
             SELECT size, signed_at FROM checkpoints WHERE origin = $1 ORDER BY size DESC LIMIT $3
         ), first AS (
             SELECT CASE WHEN count(*) < $3 THEN 0 ELSE min(size) END AS size FROM latest
         )
         SELECT asked.witness, greatest(its.size, first.size),
                (SELECT min(signed_at) FROM latest WHERE latest.size > coalesce(its.size, 0))
           FROM first, unnest($2::text[]) AS asked (witness)
          CROSS JOIN LATERAL (
                SELECT max(size) AS size FROM cosignatures
                 WHERE origin = $1 AND cosignatures.witness = asked.witness
                   AND cosignatures.size >= (SELECT size FROM first)) AS its
          ORDER BY asked.witness",
    )
    .bind(origin)
    .bind(witnesses)
    .bind(LOOKED_THROUGH)
    .fetch_all(connection)
    .await?;
    let row = |(witness, cosigned, waiting_since): (String, i64, _)| Witnessed {
        witness,
        lag: size.saturating_sub(cosigned.unsigned_abs()),
        waiting_since,
    };
    Ok(rows.into_iter().map(row).collect())
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    #[test]
    fn what_keeps_it_from_signing_is_told_first_and_files_never() {
        let now = DateTime::UNIX_EPOCH + TimeDelta::days(1);
        let fine = Status {
            origin: "example.org/log".into(),
            signed: None,
            lines: 7,
            waiting_since: Some(now - TimeDelta::seconds(60)),
            refusal: None,
            witnesses: Vec::new(),
            waits: false,
            memory_problem: None,
        };
        let second = Duration::from_secs(1);
        let told = |status: &Status| status.warning(now, second);
        assert_eq!(told(&fine), None);
        assert_eq!(fine.numbers(), Numbers { signed: 0, unsigned: 7 });
        let since = now - TimeDelta::minutes(7);
        let away = |since| Witnessed { witness: "w".into(), lag: 3, waiting_since: since };
        let witnesses = vec![away(None), away(Some(since)), away(Some(now))];
        let lonely = Status { witnesses, ..fine.clone() };
        assert!(told(&lonely).is_some_and(|told| {
            told.starts_with("1 of 3 witnesses have cosigned nothing for 7 minutes")
        }));
        let problem = Some("/var/lib/x: read-only".to_owned());
        let forgetful = Status { memory_problem: problem, ..fine.clone() };
        assert!(told(&forgetful).is_some_and(|told| !told.contains("/var")));
        let late = Status { waiting_since: Some(now - TimeDelta::seconds(63)), ..forgetful };
        assert!(told(&late).is_some_and(|told| told.starts_with("7 lines")));
        let alone = Status { waits: true, ..late.clone() };
        assert!(told(&alone).is_some_and(|told| told.contains("log resume")));
        let refusal = Refusal {
            origin: fine.origin.clone(),
            by: Refuser::Tree,
            text: "changed".into(),
            since: now,
        };
        let refused = Status { refusal: Some(refusal), ..alone };
        assert_eq!(told(&refused).as_deref(), Some("changed"));
    }
}
