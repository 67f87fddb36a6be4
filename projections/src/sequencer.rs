//! The sequencer settles the order of the book, once for everybody.
//!
//! Appends run side by side, so neither ids nor times tell in which order events became visible.
//! What does is the horizon: no transaction below it can write any more. The sequencer gives the
//! events below the horizon dense positions in the order `(tx, id)`, and everything downstream reads
//! positions. It owns `journal` and `sequencer`, and knows nothing of what an event says.
//!
//! Any number of replicas may run it: the control row is the lock.

use std::{sync::Arc, time::Duration};

use sqlx::{PgConnection, PgPool, Row};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    head::{self, Frontier, Head, HeadWatch, tx_of},
    horizon::Horizon,
};

/// How many events one batch settles at most.
const BATCH: i64 = 10_000;
/// How long the sequencer sleeps when there is nothing to do and nobody wakes it.
const POLL: Duration = Duration::from_millis(500);
/// How soon it looks again at events that stand behind the horizon …
const FIRST_RETRY: Duration = Duration::from_millis(2);
/// … and how slowly at most.
const LAST_RETRY: Duration = Duration::from_millis(100);
/// How long it waits after database errors at most.
const LAST_BACK_OFF: Duration = Duration::from_secs(5);
/// A horizon held for so long is worth a line in the log, with who holds it …
const HELD_TOO_LONG: Duration = Duration::from_secs(5);
/// … and again after so long.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// Why the order could not be settled.
#[derive(Debug, thiserror::Error)]
pub enum SequencerError {
    #[error("the order of the book could not be settled, because the database failed: {0}")]
    Database(#[from] sqlx::Error),
    #[error(
        "the book was restored into another database cluster, where its transaction ids mean \
         nothing; run `entrybook migrate` as the owner of the database, which settles the restored \
         events and lets the order start again"
    )]
    ForeignCluster,
    #[error(
        "the database was restored from a dump, or set back: the order of the events was settled up to a place that this \
         database has not come to; run `entrybook migrate` as the owner of the database, which settles the events that have \
         no position and lets the order start again"
    )]
    Restored,
    #[error(
        "the row that says how far the order is settled does not agree with the last line of the journal: one of them was \
         changed. Nothing new is settled. Run `entrybook migrate` as the owner of the database, which goes on after the last \
         line of the journal, then `entrybook audit verify`, and find out who changed it"
    )]
    Displaced,
}

/// Whether the control row of the sequencer belongs to this database and to its journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlRow {
    Fits,
    /// It was written in another cluster.
    ForeignCluster,
    /// It came with a dump, or names a transaction that this cluster has not come to.
    Restored,
    /// It does not stand at the last line of the journal.
    Displaced,
}

impl ControlRow {
    /// Looks, and changes nothing.
    pub async fn read(conn: &mut PgConnection) -> Result<Self, sqlx::Error> {
        let state: Option<String> =
            sqlx::query_scalar("SELECT sequencer_state()").fetch_one(conn).await?;
        Ok(Self::of(state))
    }

    /// What `sequencer_state` says; nothing, where the row is gone.
    fn of(state: Option<String>) -> Self {
        match state.as_deref() {
            Some("fits") => Self::Fits,
            Some("another cluster") => Self::ForeignCluster,
            Some("another table" | "later transactions") => Self::Restored,
            Some(_) | None => Self::Displaced,
        }
    }

    /// What is wrong with it, if anything is.
    pub fn fits(self) -> Result<(), SequencerError> {
        match self {
            Self::Fits => Ok(()),
            Self::ForeignCluster => Err(SequencerError::ForeignCluster),
            Self::Restored => Err(SequencerError::Restored),
            Self::Displaced => Err(SequencerError::Displaced),
        }
    }
}

/// What one batch did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    /// How many events got their positions.
    pub settled: i64,
    /// The last line of the book after it.
    pub head: Head,
}

/// Settles the order and announces it. Clones share what they know.
#[derive(Debug, Clone)]
pub struct Sequencer {
    pool: PgPool,
    head: Arc<watch::Sender<Head>>,
}

/// What is seen from outside a batch.
struct Outlook {
    head: Head,
    /// Events that are visible and have no position yet, whether below the horizon or not.
    waiting: bool,
}

impl Sequencer {
    #[must_use]
    pub fn new(pool: PgPool) -> Self {
        Self { pool, head: Arc::new(watch::Sender::new(Head::default())) }
    }

    /// The last line of the book, whichever replica settled it; kept up by [`Sequencer::run`].
    #[must_use]
    pub fn head(&self) -> HeadWatch {
        self.head.subscribe()
    }

    /// Settles up to `limit` events in one transaction.
    pub async fn sequence_batch(&self, limit: i64) -> Result<Batch, SequencerError> {
        let batch = sequence(&mut *self.pool.acquire().await?, limit).await?;
        head::publish(&self.head, batch.head);
        Ok(batch)
    }

    /// Settles all that stands below the horizon now.
    pub async fn drain(&self) -> Result<Head, SequencerError> {
        loop {
            let batch = self.sequence_batch(BATCH).await?;
            if batch.settled < BATCH {
                return Ok(batch.head);
            }
        }
    }

    /// Settles events until cancelled. `wake` is for the appends of this process: notify it once the
    /// append is committed. Database errors are logged and ridden out.
    pub async fn run(&self, wake: Arc<Notify>, cancel: CancellationToken) {
        tokio::select! {
            () = cancel.cancelled() => {}
            () = self.settle(&wake) => {}
            () = head::listen(&self.pool, &self.head) => {}
        }
    }

    async fn settle(&self, wake: &Notify) {
        let mut failures = 0_u32;
        let mut retry = FIRST_RETRY;
        let mut held = Held::default();
        loop {
            let pause = match self.settle_once().await {
                Ok(Settled::Everything) => {
                    failures = 0;
                    retry = FIRST_RETRY;
                    held = Held::default();
                    POLL
                }
                Ok(Settled::Some) => {
                    failures = 0;
                    retry = FIRST_RETRY;
                    held = Held::default();
                    continue;
                }
                Ok(Settled::Nothing) => {
                    failures = 0;
                    held.tell(&self.pool).await;
                    let pause = retry;
                    retry = (retry * 2).min(LAST_RETRY);
                    pause
                }
                Err(cause) => {
                    tracing::error!(%cause, "{cause}");
                    failures = failures.saturating_add(1);
                    back_off(failures)
                }
            };
            tokio::select! {
                () = wake.notified(), if failures == 0 => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn settle_once(&self) -> Result<Settled, SequencerError> {
        let outlook = self.look().await?;
        head::publish(&self.head, outlook.head);
        if !outlook.waiting {
            return Ok(Settled::Everything);
        }
        let batch = self.sequence_batch(BATCH).await?;
        Ok(if batch.settled > 0 { Settled::Some } else { Settled::Nothing })
    }

    /// Looks without taking the lock or a transaction id, so that an idle replica costs nothing.
    async fn look(&self) -> Result<Outlook, SequencerError> {
        let frontier = Frontier::read(&mut *self.pool.acquire().await?).await?;
        // New events would stand below what is settled, and nobody would find them waiting.
        if frontier.head.tx >= frontier.ceiling {
            return Err(SequencerError::Restored);
        }
        // The first in order, and not any (`EXISTS`): without statistics the planner believes that one is found soon by
        // reading all events.
        let waiting = sqlx::query_scalar(
            "SELECT (SELECT id FROM events
                      WHERE (tx, id) > ($1::text::xid8, $2)
                        AND tx < $3::text::xid8
                        AND id > $4
                      ORDER BY tx, id LIMIT 1) IS NOT NULL",
        )
        .bind(frontier.head.tx.to_string())
        .bind(frontier.head.event_id)
        .bind(frontier.ceiling.to_string())
        .bind(frontier.settled_event_id)
        .fetch_one(&self.pool)
        .await?;
        Ok(Outlook { head: frontier.head, waiting })
    }
}

enum Settled {
    /// Nothing is left.
    Everything,
    /// There may be more.
    Some,
    /// What is left stands behind the horizon.
    Nothing,
}

/// Since when the horizon has stood in the way, and when that was last said.
#[derive(Default)]
struct Held {
    since: Option<Instant>,
    said: Option<Instant>,
}

impl Held {
    async fn tell(&mut self, pool: &PgPool) {
        let now = Instant::now();
        let since = *self.since.get_or_insert(now);
        let quiet = self.said.is_some_and(|said| now - said < SAY_AGAIN);
        if now - since < HELD_TOO_LONG || quiet {
            return;
        }
        self.said = Some(now);
        let waited = (now - since).as_secs();
        match Horizon::read(pool).await {
            Ok(horizon) => match horizon.holder {
                Some(holder) => tracing::warn!(
                    waited,
                    "events have waited {waited} s for their place in the book: {holder}"
                ),
                None => tracing::warn!(
                    waited,
                    "events have waited {waited} s for their place in the book, and nobody was \
                     found that holds the horizon"
                ),
            },
            Err(cause) => tracing::warn!(%cause, "who holds the horizon is not known: {cause}"),
        }
    }
}

/// The pause after so many failures in a row: from 100 ms, doubling.
pub(crate) fn back_off(failures: u32) -> Duration {
    Duration::from_millis(50 << failures.min(7)).min(LAST_BACK_OFF)
}

/// The batch, in one statement and so one transaction. The database does it (`migrations/0008_rights.sql`): the
/// application's role may neither write to the journal nor move the control row.
async fn sequence(conn: &mut PgConnection, limit: i64) -> Result<Batch, SequencerError> {
    let row = sqlx::query(
        "SELECT state, settled, last_position, last_tx::text AS last_tx, last_event_id
           FROM settle_events($1)",
    )
    .bind(limit)
    .fetch_one(conn)
    .await?;
    ControlRow::of(row.try_get("state")?).fits()?;
    let head = Head {
        position: row.try_get("last_position")?,
        tx: tx_of(&row, "last_tx")?,
        event_id: row.try_get("last_event_id")?,
    };
    Ok(Batch { settled: row.try_get("settled")?, head })
}
