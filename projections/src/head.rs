//! How far the book is settled, as this process knows it.
//!
//! The sequencer publishes it after its own batches, on the notification of another replica's, and
//! at every poll; whoever reads the journal waits on it. It knows nothing of what an event says.

use std::time::Duration;

use sqlx::{PgConnection, PgPool, Row, postgres::PgListener};
use tokio::sync::watch;

/// The channel on which a batch is announced to the other replicas, once.
pub(crate) const CHANNEL: &str = "entrybook_journal";

/// The last line of the book, and where it stood in the events.
///
/// Everything up to `(tx, event_id)` has its position, so a reader that has passed `position` has
/// seen it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Head {
    pub position: i64,
    pub tx: u64,
    pub event_id: i64,
}

/// The head, and a way to wait for the next one.
pub type HeadWatch = watch::Receiver<Head>;

impl Head {
    /// Whether the event that a transaction wrote under this id is settled.
    #[must_use]
    pub fn covers(&self, tx: u64, event_id: i64) -> bool {
        (tx, event_id) <= (self.tx, self.event_id)
    }

    /// What is announced: `position tx event_id`.
    pub(crate) fn announcement(&self) -> String {
        format!("{} {} {}", self.position, self.tx, self.event_id)
    }

    fn from_announcement(text: &str) -> Option<Self> {
        let mut parts = text.split(' ');
        let head = Self {
            position: parts.next()?.parse().ok()?,
            tx: parts.next()?.parse().ok()?,
            event_id: parts.next()?.parse().ok()?,
        };
        parts.next().is_none().then_some(head)
    }
}

/// Publishes a head unless a later one is known.
pub(crate) fn publish(sender: &watch::Sender<Head>, head: Head) {
    sender.send_if_modified(|known| {
        let newer =
            head.position > known.position || (head.position == known.position && head != *known);
        if newer {
            *known = head;
        }
        newer
    });
}

/// Where the settled events end and the others begin.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frontier {
    pub(crate) head: Head,
    /// Events up to this id were settled when the book was adopted by this cluster.
    pub(crate) settled_event_id: i64,
    /// No visible event has this transaction id or a higher one, restored events aside. It keeps a
    /// search for unsettled events from walking over those.
    pub(crate) ceiling: u64,
}

impl Frontier {
    pub(crate) async fn read(conn: &mut PgConnection) -> Result<Self, sqlx::Error> {
        let row = sqlx::query(
            "SELECT position, tx::text AS tx, event_id, settled_event_id,
                    pg_snapshot_xmax(pg_current_snapshot())::text AS ceiling
               FROM sequencer",
        )
        .fetch_one(conn)
        .await?;
        Ok(Self {
            head: Head {
                position: row.try_get("position")?,
                tx: tx_of(&row, "tx")?,
                event_id: row.try_get("event_id")?,
            },
            settled_event_id: row.try_get("settled_event_id")?,
            ceiling: tx_of(&row, "ceiling")?,
        })
    }
}

/// A transaction id (xid8) that a query returned as text.
pub(crate) fn tx_of(row: &sqlx::postgres::PgRow, column: &str) -> Result<u64, sqlx::Error> {
    let text: String = row.try_get(column)?;
    text.parse().map_err(|cause: std::num::ParseIntError| sqlx::Error::ColumnDecode {
        index: column.to_owned(),
        source: cause.into(),
    })
}

/// Publishes what other replicas announce, for ever. A lost connection is made again; what was
/// announced meanwhile is found by the poll.
pub(crate) async fn listen(pool: &PgPool, sender: &watch::Sender<Head>) {
    loop {
        if let Err(cause) = listen_once(pool, sender).await {
            tracing::warn!(%cause, "no announcements of the journal are heard, polling meanwhile: {cause}");
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn listen_once(pool: &PgPool, sender: &watch::Sender<Head>) -> Result<(), sqlx::Error> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen(CHANNEL).await?;
    while let Some(announced) = listener.try_recv().await? {
        match Head::from_announcement(announced.payload()) {
            Some(head) => publish(sender, head),
            None => tracing::warn!("an announcement of the journal could not be read"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announcement_is_read_back() {
        let head = Head { position: 3, tx: u64::MAX, event_id: 7 };
        assert_eq!(Head::from_announcement(&head.announcement()), Some(head));
        for wrong in ["", "1", "1 2", "1 2 3 4", "a b c"] {
            assert_eq!(Head::from_announcement(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn an_older_head_is_not_published() {
        let (sender, receiver) = watch::channel(Head::default());
        publish(&sender, Head { position: 2, tx: 5, event_id: 2 });
        publish(&sender, Head { position: 1, tx: 4, event_id: 1 });
        assert_eq!(receiver.borrow().position, 2);
    }
}
