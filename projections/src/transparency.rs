//! The Merkle tree over the lines of the book: one row for each hash that is kept.
//!
//! These are the hashes that tiles are made of (`proof::Tree`); all others follow from them. Rows are only
//! ever added, so what was read of a tree stays true of every larger one. A leaf is hashed as it was
//! recorded and never decoded: an event that only a newer binary can read is a line like any other.

use std::{collections::VecDeque, fmt};

use futures_util::future::BoxFuture;
use proof::{Hash, Leaf, Node, Tree, tree_places};
use sha2::{Digest, Sha256};
use sqlx::{PgConnection, PgPool};

use crate::{
    copy::{Fields, copy_in},
    journal::RecordedEvent,
    projection::{
        ApplyError, CannotApply, Entry, Fingerprint, Folding, Generation, Projection, Start, Table,
    },
    rebuild::RebuildError,
    view::{line_name, short, tables_hash},
};

mod as_kept;
mod read;

pub(crate) use as_kept::{Kept, as_kept};
pub use read::{
    TransparencyError, leaf_hashes, leaves, prove_consistency, prove_inclusion, read_nodes, root,
    size, subtree_hashes, subtree_hashes_of, tile,
};

/// The projection.
#[derive(Debug, Clone, Copy)]
pub struct Transparency;

pub(crate) const NAME: &str = "transparency";
const VERSION: i32 = 1;
const TABLES: &[Table] = &[Table {
    name: NAME,
    // The level of its tile in the first byte, its index in the others: so each level lies together.
    columns: "node bigint NOT NULL, hash bytea NOT NULL",
    key: "node",
    masked: &[],
    indexes: &[],
}];
/// How far the level stands to the left of the index.
const LEVEL: u32 = 56;
/// So many lines are hashed before others may have the thread.
const AT_ONCE: usize = 250;

/// A line as it is hashed: from what was recorded, readable to this binary or not.
#[must_use]
pub fn leaf(event: &RecordedEvent) -> Leaf<'_> {
    Leaf {
        position: event.position.unsigned_abs(),
        stream_type: &event.aggregate_type,
        stream_id: &event.aggregate_id,
        sequence: event.sequence.unsigned_abs(),
        event_type: &event.event_type,
        event_version: &event.event_version,
        recorded_at: event.recorded_at,
        payload: &event.payload,
        metadata: &event.metadata,
    }
}

/// The full name of a generation of its table.
fn table(generation: Generation) -> String {
    let own = TABLES.first().map(|table| table.relation(VERSION, generation));
    format!("ledger.{}", own.unwrap_or_default())
}

/// The key of a row; nothing where no tree comes so far.
fn key(level: u8, index: u64) -> Option<i64> {
    let is_possible = level < 8 && index >> LEVEL == 0;
    is_possible.then(|| i64::from(level) << LEVEL | index.cast_signed())
}

/// Which hash a row is of: its level and index.
fn place(key: i64) -> (u8, u64) {
    let key = key.cast_unsigned();
    ((key >> LEVEL) as u8, key & ((1 << LEVEL) - 1))
}

impl Projection for Transparency {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> i32 {
        VERSION
    }

    fn tables(&self) -> &'static [Table] {
        TABLES
    }

    fn concerns(&self, _aggregate_type: &str) -> bool {
        true
    }

    fn decodes(&self) -> bool {
        false
    }

    fn folding(&self, generation: Generation, start: Start) -> Box<dyn Folding> {
        Box::new(Growing { generation, start, tree: None, unwritten: VecDeque::new() })
    }

    /// What was signed. A tree that is another was hashed from a book that was changed meanwhile, and with
    /// the one that is there it would be lost which of the lines it was.
    fn objection<'a>(
        &'a self,
        _pool: &'a PgPool,
        conn: &'a mut PgConnection,
        position: i64,
    ) -> BoxFuture<'a, Result<Option<String>, RebuildError>> {
        Box::pin(contradicted(conn, position))
    }

    /// Of each sample line the rows that it adds, and the root after it.
    fn fingerprint(&self) -> Fingerprint {
        let (mut tree, mut fingerprint) = (Tree::default(), Fingerprint::new());
        for recorded in RecordedEvent::samples() {
            let mut told = Sha256::new();
            match leaf(&recorded).hash() {
                Ok(hash) => tree.push(hash, |node| {
                    told.update(key(node.level, node.index).unwrap_or(-1).to_be_bytes());
                    told.update(node.hash.0);
                }),
                Err(cause) => told.update(cause.to_string()),
            }
            told.update(tree.root().0);
            fingerprint.insert(line_name(&recorded), short(told));
        }
        fingerprint.insert("tables".to_owned(), tables_hash(TABLES));
        fingerprint
    }
}

/// The tree, growing, and the hashes that are not yet written.
struct Growing {
    generation: Generation,
    start: Start,
    /// Nothing until the first line tells how large it is.
    tree: Option<Tree>,
    unwritten: VecDeque<(i64, Hash)>,
}

impl Growing {
    async fn absorb(
        &mut self,
        conn: &mut PgConnection,
        entries: &[Entry],
    ) -> Result<(), ApplyError> {
        let Some(first) = entries.first().map(|entry| &entry.recorded) else { return Ok(()) };
        let tree = match &mut self.tree {
            Some(tree) => tree,
            none => none.insert(taken_up(conn, self.generation, first).await?),
        };
        for some in entries.chunks(AT_ONCE) {
            for Entry { recorded, .. } in some {
                let position = recorded.position.unsigned_abs();
                // It was absorbed before.
                if position <= tree.size() {
                    continue;
                }
                if position != tree.size() + 1 {
                    let cause =
                        format!("the tree has {} lines, and this is not the next", tree.size());
                    return Err(CannotApply::new(recorded, cause).into());
                }
                let hash = leaf(recorded).hash().map_err(|cause| cannot_apply(recorded, cause))?;
                tree.push(hash, |Node { level, index, hash }| {
                    self.unwritten.extend(key(level, index).map(|key| (key, hash)));
                });
            }
            // Requests are served by the same threads.
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    async fn write(&mut self, conn: &mut PgConnection, limit: usize) -> Result<bool, sqlx::Error> {
        let many = self.unwritten.len().min(limit);
        let rows: Vec<(i64, Hash)> = self.unwritten.drain(..many).collect();
        let table = table(self.generation);
        match self.start {
            _ if rows.is_empty() => {}
            Start::Exact => {
                let write = |(key, hash): &&(i64, Hash), fields: &mut Fields| {
                    fields.put(*key);
                    fields.put(hash.0.as_slice());
                };
                copy_in(conn, &table, rows.iter(), write).await?;
            }
            // A flush may have been broken off: some may be there.
            Start::Careful => {
                sqlx::query(&format!(
                    "INSERT INTO {table} AS kept (node, hash)
                     SELECT * FROM unnest($1::bigint[], $2::bytea[])
                     ON CONFLICT (node) DO UPDATE SET hash = excluded.hash
                      WHERE kept.hash <> excluded.hash"
                ))
                .bind(rows.iter().map(|(key, _)| *key).collect::<Vec<_>>())
                .bind(rows.iter().map(|(_, hash)| hash.0.as_slice()).collect::<Vec<_>>())
                .execute(conn)
                .await?;
            }
        }
        Ok(!self.unwritten.is_empty())
    }
}

impl Folding for Growing {
    fn absorb<'a>(
        &'a mut self,
        conn: &'a mut PgConnection,
        entries: &'a [Entry],
    ) -> BoxFuture<'a, Result<(), ApplyError>> {
        Box::pin(self.absorb(conn, entries))
    }

    fn kept(&self) -> usize {
        self.unwritten.len()
    }

    fn write<'a>(
        &'a mut self,
        conn: &'a mut PgConnection,
        limit: usize,
    ) -> BoxFuture<'a, Result<bool, sqlx::Error>> {
        Box::pin(self.write(conn, limit))
    }
}

/// The tree of the lines before this one, from the hashes that are kept of it.
async fn taken_up(
    conn: &mut PgConnection,
    generation: Generation,
    next: &RecordedEvent,
) -> Result<Tree, ApplyError> {
    let size = next.position.unsigned_abs().saturating_sub(1);
    let places: Vec<_> = tree_places(size).collect();
    let damaged = |cause: &dyn fmt::Display| {
        CannotApply::new(next, format!("the tree of the lines before it is damaged: {cause}"))
    };
    let nodes = match read::nodes(conn, generation, &places).await {
        Ok(nodes) => nodes,
        Err(TransparencyError::Database(cause)) => return Err(cause.into()),
        Err(cause) => return Err(damaged(&cause).into()),
    };
    let mut nodes = nodes.into_iter();
    let kept = |_, _| nodes.next().map(|node| node.hash);
    Tree::restore(size, kept).map_err(|cause| damaged(&cause).into())
}

/// Holds the new tree against the last checkpoint of each log that it comes up to.
async fn contradicted(
    conn: &mut PgConnection,
    position: i64,
) -> Result<Option<String>, RebuildError> {
    let signed: Vec<(String, i64, Vec<u8>)> = sqlx::query_as(
        "SELECT DISTINCT ON (origin) origin, size, root FROM checkpoints
          WHERE size <= $1 ORDER BY origin, size DESC",
    )
    .bind(position)
    .fetch_all(&mut *conn)
    .await?;
    for (origin, size, root) in signed {
        let (lines, new) = (size.unsigned_abs(), Generation::New);
        let places: Vec<_> = tree_places(lines).collect();
        let nodes = match read::nodes(conn, new, &places).await {
            Ok(nodes) => nodes,
            Err(TransparencyError::Database(cause)) => return Err(cause.into()),
            Err(cause) => return Ok(Some(cause.to_string())),
        };
        let mut nodes = nodes.into_iter();
        let tree = Tree::restore(lines, |_, _| nodes.next().map(|node| node.hash));
        if !tree.is_ok_and(|tree| tree.root().0.as_slice() == root) {
            return Ok(Some(format!(
                "its first {size} lines are not those that were signed for {origin}, so lines of the book \
                 were changed. `entrybook audit verify` names them: put them back as they were, from a \
                 backup. The tree that is there tells what was signed, and stays"
            )));
        }
    }
    Ok(None)
}

fn cannot_apply(recorded: &RecordedEvent, cause: proof::LeafError) -> CannotApply {
    CannotApply::new(recorded, format!("it can't be hashed: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_tell_the_place_and_keep_levels_together() {
        for (level, index) in [(0, 0), (0, 1), (0, (1 << 56) - 1), (1, 0), (7, (1 << 56) - 1)] {
            assert_eq!(place(key(level, index).unwrap()), (level, index));
        }
        assert!(key(0, (1 << 56) - 1) < key(1, 0));
        assert_eq!((key(8, 0), key(0, 1 << 56)), (None, None));
    }

    /// What this binary writes can be hashed, all of it.
    #[test]
    fn every_sample_has_a_leaf() {
        for recorded in RecordedEvent::samples() {
            let leaf = leaf(&recorded).to_bytes();
            assert!(leaf.is_ok_and(|bytes| bytes.len() < proof::MAX_LEAF / 4), "{recorded:?}");
        }
    }
}
