//! Follows the journal for consumers in memory, on every replica.
//!
//! Such a consumer has no checkpoint: it starts at a position of its choice, sees every line after
//! it in order, and begins anew when the process does. What must survive the process is a
//! projection.

use std::time::Duration;

use sqlx::PgPool;

use crate::{
    head::HeadWatch,
    journal::{self, JournalError, RecordedEvent},
    sequencer::back_off,
};

/// How many lines are read at once.
const BATCH: i64 = 1_000;
/// How long a follower trusts the watch to be alive.
const POLL: Duration = Duration::from_millis(500);

/// The lines after a position, as they come.
#[derive(Debug)]
pub struct Follower {
    pool: PgPool,
    head: HeadWatch,
    position: i64,
}

impl Follower {
    /// Follows the lines after the position `after`.
    #[must_use]
    pub fn new(pool: PgPool, head: HeadWatch, after: i64) -> Self {
        Self { pool, head, position: after }
    }

    /// The last line that was delivered.
    #[must_use]
    pub fn position(&self) -> i64 {
        self.position
    }

    /// The next lines, as soon as there are any. Errors are logged and ridden out. Dropping the
    /// future loses nothing.
    pub async fn next_batch(&mut self) -> Vec<RecordedEvent> {
        let mut failures = 0;
        loop {
            match self.read().await {
                Ok(events) if events.is_empty() => {
                    failures = 0;
                    self.wait().await;
                }
                Ok(events) => return events,
                Err(cause) => {
                    let after = self.position;
                    tracing::error!(%cause, after, "the lines after {after} could not be followed: {cause}");
                    failures += 1;
                    tokio::time::sleep(back_off(failures)).await;
                }
            }
        }
    }

    /// The next lines, if there are any now.
    pub async fn read(&mut self) -> Result<Vec<RecordedEvent>, JournalError> {
        let mut conn = self.pool.acquire().await?;
        let events = journal::read_after(&mut conn, self.position, BATCH).await?;
        if let Some(last) = events.last() {
            self.position = last.position;
        }
        Ok(events)
    }

    /// Returns when there may be new lines: the head has moved, or it is time to look.
    pub async fn wait(&mut self) {
        let position = self.position;
        let moved = async {
            // The sender is gone only when the sequencer is, and then the poll remains.
            if self.head.wait_for(|head| head.position > position).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let _elapsed = tokio::time::timeout(POLL, moved).await;
    }
}
