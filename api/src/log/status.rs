//! How the log stands: for `/readyz`, the metrics, and `entrybook log status`.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgPool;

use super::{Log, LogError, Refusal, Refuser, Signed, reading::newest, refusal, signing::unsigned};

/// A line that waits so much longer than a checkpoint may take is worth a word.
const LATE: Duration = Duration::from_secs(60);

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
    /// Whether this process signs nothing, because it remembers nothing and nobody has said what was signed.
    pub waits: bool,
    /// Why what was signed can't be remembered outside of the database.
    pub memory_problem: Option<String>,
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
        let late = |since: &DateTime<Utc>| (now - *since).to_std().unwrap_or_default();
        let waits = self.waiting_since.as_ref().map(late);
        if let Some(waits) = waits.filter(|waits| *waits > LATE + 2 * interval) {
            return Some(format!(
                "{} lines of the book wait to be signed, the first for {} seconds. Signing in goes on; the logs of the \
                 servers say why nobody signs",
                self.numbers().unsigned,
                waits.as_secs()
            ));
        }
        self.memory_problem.as_ref().map(|_| {
            "what was signed can't be remembered outside of the database, so that a restored older backup would not be \
             found out by this server; its log says why"
                .to_owned()
        })
    }
}

impl Log {
    /// How it stands. Give a pool that requests can't use up.
    pub async fn status(&self, pool: &PgPool) -> Result<Status, LogError> {
        if let Some(problem) = self.keys_problem() {
            return Err(LogError::KeysUnusable(problem));
        }
        let known = self.known()?;
        let origin = known.origin().to_owned();
        let mut connection = pool.acquire().await?;
        let mut refusal = refusal::read(&mut connection, &origin).await?;
        let signed = match newest(&mut connection, &known).await {
            // The signer says so too, when it looks next.
            Err(error @ LogError::Unsigned { .. }) => {
                refusal.get_or_insert_with(|| Refusal {
                    text: unsigned(&origin, &error),
                    origin: origin.clone(),
                    by: Refuser::Tree,
                    since: self.0.book.clock().now(),
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
        Ok(Status {
            refusal,
            origin,
            signed,
            lines: lines.unsigned_abs(),
            waiting_since,
            waits: self.waits(),
            memory_problem: self.memory_problem(),
        })
    }
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
            waits: false,
            memory_problem: None,
        };
        let second = Duration::from_secs(1);
        let told = |status: &Status| status.warning(now, second);
        assert_eq!(told(&fine), None);
        assert_eq!(fine.numbers(), Numbers { signed: 0, unsigned: 7 });
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
