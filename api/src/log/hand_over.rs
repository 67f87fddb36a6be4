//! Which key of the log signs: how one hands over to the next, and what keeps a key that the log's own store lacks
//! from being taken for one of them.
//!
//! A hand-over is an event of the book, and a statement that both keys have signed (`proof::HandOver`). It is written
//! by who is about to sign with the new key, on the turn of the signer and before the first checkpoint of that key: so
//! it names the size of the last checkpoint of the old key, and no size may be signed by both. What stands in the book
//! is believed for its signatures alone, because the role of the application may add events.

use std::sync::{Arc, atomic::Ordering};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use commands::{Origin, log_keys::LogKey};
use domain::ServiceEvent;
use projections::book_audit;
use proof::{HandOver, NoteSigner, Trust};
use sqlx::PgConnection;

use super::{Known, Log, LogError, STREAM, signer_of};

/// How the keys of the log have followed each other so far.
pub(super) struct Chain {
    trust: Trust,
    /// The verifier key that signs by the last hand-over.
    current: String,
    /// The notes of the hand-overs, in their order.
    pub(super) notes: Vec<String>,
    /// The last hand-over of the log, if it is to a key that its own store lacks.
    pub(super) stranger: Option<HandOver>,
    /// Why other notes of the book are none.
    ignored: Vec<String>,
}

impl Chain {
    pub(super) async fn read(
        connection: &mut PgConnection,
        known: &Known,
    ) -> Result<Self, LogError> {
        let stored = book_audit::hand_overs(connection).await?;
        let of_this_log = format!("\n{}\n", known.origin());
        let first = known.key_of(known.keys.first_id()).ok_or(LogError::NoKey)?;
        let mut trust = Trust::from(vec![first.clone()]);
        // Those of the logs before this one are theirs.
        let followed = trust
            .follow(stored.iter().map(String::as_str).filter(|note| note.contains(&of_this_log)));
        let is_strange = |hand_over: &&HandOver| !known.verifier_keys.contains(&hand_over.key);
        Ok(Self {
            current: trust.current(&first),
            stranger: followed.believed.iter().find(is_strange).cloned(),
            trust,
            notes: followed.notes,
            ignored: followed.ignored,
        })
    }

    /// What stops the log: the book names a key of it that is not in its store.
    pub(super) fn wrong(&self, origin: &str) -> Option<String> {
        let HandOver { key, old_id, .. } = self.stranger.as_ref()?;
        Some(format!(
            "The key {old_id} of the log {origin} has handed over to {key}, and log_keys of this database has no such key: its row is gone, \
             this database is an older backup, or somebody else has the key {old_id}."
        ))
    }

    /// The key that signs, and those after it up to the one whose turn it is by the clock.
    fn steps<'a>(&self, known: &'a Known, due: &LogKey) -> Vec<(&'a LogKey, &'a str)> {
        let keys = known.keys.iter().zip(known.verifier_keys.iter().map(String::as_str));
        let from_current = keys.skip_while(|(_, line)| *line != self.current);
        let mut steps: Vec<_> = from_current.collect();
        let many = steps.iter().position(|(key, _)| key.id == due.id).unwrap_or(0) + 1;
        steps.truncate(many);
        steps
    }
}

impl Known {
    fn key_of(&self, id: &str) -> Option<String> {
        let mut keys = self.keys.iter().zip(&self.verifier_keys);
        keys.find(|(key, _)| key.id == id).map(|(_, line)| line.clone())
    }
}

impl Log {
    /// The key that signs now, by the hand-overs that there are, and these.
    pub async fn signer_and_hand_overs(&self) -> Result<(NoteSigner, Vec<String>), LogError> {
        let mut connection = self.0.background.acquire().await?;
        let (known, chain) = self.chain(&mut connection).await?;
        if let Some(HandOver { key, .. }) = chain.stranger {
            return Err(LogError::HandedOver { key });
        }
        let mut keys = known.keys.iter().zip(&known.verifier_keys);
        let (key, _) = keys.find(|(_, line)| **line == chain.current).ok_or(LogError::NoKey)?;
        Ok((signer_of(key)?, chain.notes))
    }

    /// How the keys have followed each other. Where the book names a key that is not known here, the keys are read
    /// once more first: another process may just have made it.
    pub(super) async fn chain(
        &self,
        connection: &mut PgConnection,
    ) -> Result<(Arc<Known>, Chain), LogError> {
        let known = self.known()?;
        let chain = Chain::read(connection, &known).await?;
        if chain.stranger.is_none() {
            return Ok((known, chain));
        }
        self.refresh().await?;
        let known = self.known()?;
        let chain = Chain::read(connection, &known).await?;
        Ok((known, chain))
    }

    /// The key that signs now.
    pub async fn signer(&self) -> Result<NoteSigner, LogError> {
        Ok(self.signer_and_hand_overs().await?.0)
    }

    /// The key to sign the next checkpoint with. Hands over where it is another one's turn, and tells how often: to
    /// be asked by who holds the turn of the signer.
    pub(super) async fn next_signer(
        &self,
        connection: &mut PgConnection,
        known: &Known,
    ) -> Result<(NoteSigner, usize), LogError> {
        let chain = Chain::read(connection, known).await?;
        self.name_ignored(&chain.ignored);
        let now = self.0.book.clock().now();
        let due = known.keys.signer(now).ok_or(LogError::NoKey)?;
        let steps = chain.steps(known, due);
        // One that has handed over never signs again, and one whose turn has not come by a clock that is behind does
        // not take it back.
        let (last, _) = steps.last().ok_or(LogError::NoKey)?;
        if last.is_retired(now) {
            return Err(LogError::NoKey);
        }
        let mut first = chain.trust.first_of(&chain.current).unwrap_or_default();
        for pair in steps.windows(2) {
            let [(old, _), (new, line)] = pair else { continue };
            // Where it never signed, it hands over where it would have begun.
            let last = signed_by(connection, old).await?.max(first.saturating_sub(1));
            first = last + 1;
            self.hand_over((*old, *new), line, last).await?;
        }
        Ok((signer_of(last)?, steps.len() - 1))
    }

    async fn hand_over(
        &self,
        (old, new): (&LogKey, &LogKey),
        key: &str,
        last: u64,
    ) -> Result<(), LogError> {
        let hand_over = HandOver {
            origin: old.origin.clone(),
            key: key.to_owned(),
            old_id: old.id.clone(),
            at: self.0.book.clock().now(),
            first: last + 1,
            last,
        };
        let note = hand_over.sign(&signer_of(old)?, &signer_of(new)?)?;
        let event = ServiceEvent::LogKeyHandedOver {
            origin: old.origin.clone(),
            key: key.to_owned(),
            hand_over: note,
        };
        let by = Origin::system(self.0.book.ids().uuid_v7().to_string());
        self.0.book.record(STREAM, event, &by).await?;
        tracing::info!(
            old = old.id,
            new = new.id,
            "the key {} of the transparency log {} has handed over to {}, from {} lines on",
            old.id,
            old.origin,
            new.id,
            last + 1
        );
        Ok(())
    }

    /// Names what stands in the book as a hand-over and is none, once.
    fn name_ignored(&self, ignored: &[String]) {
        let named = self.0.ignored_hand_overs.fetch_max(ignored.len(), Ordering::Relaxed);
        for why in ignored.iter().skip(named) {
            tracing::warn!(
                "ignored what stands in the book as a hand-over of the log's key: {why}"
            );
        }
    }
}

/// The largest size that a key has signed, by the table; 0 where it has signed none.
async fn signed_by(connection: &mut PgConnection, key: &LogKey) -> Result<u64, LogError> {
    let id = u32::from_str_radix(&key.id, 16).unwrap_or_default().to_be_bytes();
    // The id is four bytes, and five letters are all that follow from these alone.
    let encoded = BASE64.encode(id);
    let line = format!("\n— {} {}", key.origin, encoded.get(..5).unwrap_or_default());
    let size: Option<i64> = sqlx::query_scalar(
        "SELECT size FROM checkpoints WHERE origin = $1 AND position($2 IN note) > 0
          ORDER BY size DESC LIMIT 1",
    )
    .bind(&key.origin)
    .bind(line.as_bytes())
    .fetch_optional(connection)
    .await?;
    Ok(size.and_then(|size| u64::try_from(size).ok()).unwrap_or_default())
}
