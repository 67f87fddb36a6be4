//! Reading the book, its kept hashes and its checkpoints, page by page, and hashing the lines.
//!
//! Several pages are read side by side, each hashed by a thread of its own, and handed on in their order.

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use sqlx::{PgConnection, PgPool, Row};
use tokio::{sync::mpsc, task::spawn_blocking};

use super::{
    AuditError, Unreadable,
    seen::{Hashed, Seen},
};
use crate::{
    journal::{CopiedPage, copy_page, is_of_the_data, read_as_stored},
    transparency::{self, Kept, TransparencyError},
};

/// So many lines are read at once …
const WIDTH: u64 = 4_096;
/// … and so many pages side by side, each on a connection of its own. Each waits now and then, and two
/// processors are kept busy.
pub const CONNECTIONS: u32 = 6;
/// So many kept hashes behind them, among which lines that were moved are looked for.
pub(super) const AHEAD: u64 = proof::REACH;
/// So many lines behind the last kept hash are looked at: those that were moved there.
const BEHIND: u64 = 2 * WIDTH;

/// How far everything goes.
pub(super) struct Extent {
    /// The last line of the journal.
    pub(super) head: u64,
    /// How many lines were given out.
    pub(super) sequenced: u64,
    /// How many of them have a kept hash, or must have had one, because a checkpoint was signed of them.
    pub(super) hashes: u64,
    pub(super) has_kept: bool,
    /// The largest size that was signed.
    signed: u64,
    /// The logs that have checkpoints.
    pub(super) origins: Vec<String>,
}

impl Extent {
    /// The last line that is looked at.
    pub(super) fn end(&self) -> u64 {
        self.head.max(self.hashes).min(self.hashes.saturating_add(BEHIND))
    }

    pub(super) async fn read(
        connection: &mut PgConnection,
        largest: u64,
    ) -> Result<Self, AuditError> {
        // First: what is posted meanwhile comes behind it.
        let kept = match transparency::size(connection).await {
            Ok(size) => size,
            Err(TransparencyError::NotRegistered) => 0,
            Err(TransparencyError::Database(cause)) => return Err(cause.into()),
            Err(cause) => return Err(AuditError::Tree(cause)),
        };
        let origins: Vec<String> = sqlx::query_scalar(
            "WITH RECURSIVE logs AS (
                 (SELECT origin FROM checkpoints ORDER BY origin LIMIT 1)
                 UNION ALL
                 SELECT (SELECT origin FROM checkpoints WHERE origin > logs.origin
                          ORDER BY origin LIMIT 1)
                   FROM logs WHERE logs.origin IS NOT NULL
             ) SELECT origin FROM logs WHERE origin IS NOT NULL",
        )
        .fetch_all(&mut *connection)
        .await?;
        let (head, sequenced, signed): (i64, i64, i64) = sqlx::query_as(
            "SELECT coalesce((SELECT max(position) FROM journal
                               WHERE position <= (SELECT max(position) FROM sequencer) + $2), 0),
                    coalesce((SELECT max(position) FROM sequencer), 0),
                    coalesce((SELECT max(newest.size) FROM unnest($1::text[]) AS logs (origin)
                               CROSS JOIN LATERAL (SELECT max(size) AS size FROM checkpoints
                                                    WHERE origin = logs.origin) AS newest), 0)",
        )
        .bind(&origins)
        .bind(BEHIND.cast_signed())
        .fetch_one(connection)
        .await?;
        let [head, sequenced, signed] = [head, sequenced, signed].map(|n| n.max(0).unsigned_abs());
        let hashes = kept.max(head.min(signed.max(largest)));
        Ok(Self { head, sequenced, hashes, has_kept: kept > 0, signed, origins })
    }
}

/// A part of the book, with everything that is held against it.
pub(super) struct Page {
    /// Its positions.
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) lines: Vec<Seen>,
    pub(super) unreadable: Vec<Unreadable>,
    /// Those of leaves go on behind its last line.
    pub(super) kept: Kept,
    /// Of these sizes, in their order.
    pub(super) checkpoints: Vec<StoredCheckpoint>,
}

pub(super) struct StoredCheckpoint {
    pub(super) origin: String,
    pub(super) size: i64,
    pub(super) root: Vec<u8>,
    pub(super) note: Vec<u8>,
}

/// Reads page after page until there are no more, or nobody takes them.
pub(super) async fn read(
    pool: &PgPool,
    extent: &Extent,
    sender: mpsc::Sender<Page>,
) -> Result<(), AuditError> {
    let end = extent.end();
    let pages = (0..end.div_ceil(WIDTH)).map(|page| page * WIDTH);
    let mut pages = stream::iter(pages)
        .map(|after| page(pool, extent, after, end.min(after + WIDTH)))
        .buffered(CONNECTIONS as usize);
    while let Some(page) = pages.try_next().await? {
        if sender.send(page).await.is_err() {
            return Ok(());
        }
    }
    // Of what is not there any more, if anything is.
    let from = if end == 0 { -1 } else { end.cast_signed() };
    let checkpoints = checkpoints(
        &mut *pool.acquire().await?,
        &extent.origins,
        from,
        extent.signed.cast_signed(),
        1,
    )
    .await?;
    let beyond = Page {
        first: end + 1,
        last: end,
        lines: Vec::new(),
        unreadable: Vec::new(),
        kept: Kept::default(),
        checkpoints,
    };
    // Whoever does not take it has ended, and says so.
    let _ = sender.send(beyond).await;
    Ok(())
}

/// The lines after a position up to another, hashed, and what is held against them.
async fn page(pool: &PgPool, extent: &Extent, after: u64, last: u64) -> Result<Page, AuditError> {
    let range = (after.cast_signed(), last.cast_signed());
    let copied = copied(pool, range).await?;
    let hashing = spawn_blocking(move || copied.and_then(Hashed::of_copy));
    let mut connection = pool.acquire().await?;
    let kept = kept(&mut connection, extent, after, last).await?;
    let from = if after == 0 { -1 } else { after.cast_signed() };
    // What is signed meanwhile may be of lines whose hashes are not looked at.
    let to = last.min(extent.hashes).cast_signed();
    let checkpoints = checkpoints(&mut connection, &extent.origins, from, to, WIDTH).await?;
    let Hashed { lines, unreadable } = match hashing.await? {
        Some(hashed) => hashed,
        // One by one, where something is wrong with them.
        None => Hashed::of_stored(read_as_stored(&mut connection, range.0, range.1).await?),
    };
    Ok(Page { first: after + 1, last, lines, unreadable, kept, checkpoints })
}

/// All lines at once, if they are sound.
async fn copied(
    pool: &PgPool,
    (after, last): (i64, i64),
) -> Result<Option<CopiedPage>, sqlx::Error> {
    let mut connection = pool.acquire().await?;
    let copied = copy_page(&mut connection, after, last).await;
    if copied.is_err() {
        // In the middle of a COPY.
        connection.close_on_drop();
    }
    match copied {
        Err(cause) if is_of_the_data(&cause) => Ok(None),
        copied => copied,
    }
}

/// The kept hashes of the lines after a position, and of the subtrees that become complete with them.
async fn kept(
    connection: &mut PgConnection,
    extent: &Extent,
    after: u64,
    last: u64,
) -> Result<Kept, sqlx::Error> {
    if !extent.has_kept {
        return Ok(Kept::default());
    }
    let leaves = after..extent.hashes.min(last + AHEAD);
    let above: Vec<_> =
        (1..8).map(|level| (level, after >> (8 * level)..last >> (8 * level))).collect();
    transparency::as_kept(connection, leaves, &above).await
}

/// The checkpoints of sizes after one and up to another: of each log so many, the largest.
async fn checkpoints(
    connection: &mut PgConnection,
    origins: &[String],
    after: i64,
    up_to: i64,
    most: u64,
) -> Result<Vec<StoredCheckpoint>, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT c.origin, c.size, c.root, c.note
           FROM unnest($1::text[]) AS logs (origin)
          CROSS JOIN LATERAL (SELECT * FROM checkpoints
                               WHERE origin = logs.origin AND size > $2 AND size <= $3
                               ORDER BY size DESC LIMIT $4) AS c
          ORDER BY c.size",
    )
    .bind(origins)
    .bind(after)
    .bind(up_to)
    .bind(most.saturating_add(1).cast_signed())
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(StoredCheckpoint {
                origin: row.try_get(0)?,
                size: row.try_get(1)?,
                root: row.try_get(2)?,
                note: row.try_get(3)?,
            })
        })
        .collect()
}
