//! The kept hashes as they are found, whatever is wrong with them: for whoever looks for damage.

use std::{collections::HashMap, ops::Range};

use proof::Hash;
use sqlx::{PgConnection, Row};

use super::{key, place, table};
use crate::projection::Generation;

/// Kept hashes, by level and index. What is missing, or no hash, is not among them.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// The index of the first of `leaves`, of which none is missing.
    first: u64,
    leaves: Vec<u8>,
    others: HashMap<(u8, u64), Hash>,
}

impl Kept {
    pub(crate) fn get(&self, level: u8, index: u64) -> Option<Hash> {
        if level == 0
            && let Some(nth) = index.checked_sub(self.first)
            && let Some(hash) = self.leaf(nth)
        {
            return Some(hash);
        }
        self.others.get(&(level, index)).copied()
    }

    fn leaf(&self, nth: u64) -> Option<Hash> {
        let (hashes, _) = self.leaves.as_chunks::<32>();
        hashes.get(usize::try_from(nth).ok()?).copied().map(Hash)
    }
}

/// The hashes of a range of leaves, and of ranges of other levels.
pub(crate) async fn as_kept(
    conn: &mut PgConnection,
    leaves: Range<u64>,
    above: &[(u8, Range<u64>)],
) -> Result<Kept, sqlx::Error> {
    let mut ranges = above.to_vec();
    let mut kept = Kept { first: leaves.start, ..Kept::default() };
    match run(conn, &leaves).await? {
        Some(hashes) => kept.leaves = hashes,
        None => ranges.push((0, leaves)),
    }
    kept.others = each(conn, &ranges).await?;
    Ok(kept)
}

/// The hashes of leaves, one behind the other, if they are all there.
async fn run(conn: &mut PgConnection, leaves: &Range<u64>) -> Result<Option<Vec<u8>>, sqlx::Error> {
    let (Some(first), Some(past)) = (key(0, leaves.start), key(0, leaves.end)) else {
        return Ok(None);
    };
    let hashes: Option<Vec<u8>> = sqlx::query_scalar(&format!(
        "SELECT CASE WHEN count(*) = $2 - $1 AND bool_and(coalesce(octet_length(hash), 0) = 32)
                     THEN string_agg(hash, '') END
           FROM (SELECT hash FROM {} WHERE node >= $1 AND node < $2 ORDER BY node) AS run",
        table(Generation::Live)
    ))
    .bind(first)
    .bind(past)
    .fetch_one(conn)
    .await?;
    Ok(hashes)
}

async fn each(
    conn: &mut PgConnection,
    ranges: &[(u8, Range<u64>)],
) -> Result<HashMap<(u8, u64), Hash>, sqlx::Error> {
    let (mut firsts, mut pasts) = (Vec::new(), Vec::new());
    for (level, range) in ranges {
        let first = key(*level, range.start).zip(key(*level, range.end));
        let Some((first, past)) = first.filter(|(first, past)| first < past) else { continue };
        firsts.push(first);
        pasts.push(past);
    }
    if firsts.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = sqlx::query(&format!(
        "SELECT node, hash
           FROM unnest($1::bigint[], $2::bigint[]) AS run (first, past)
           JOIN {} AS kept ON kept.node >= run.first AND kept.node < run.past",
        table(Generation::Live)
    ))
    .bind(firsts)
    .bind(pasts)
    .fetch_all(conn)
    .await?;
    let mut kept = HashMap::with_capacity(rows.len());
    for row in &rows {
        let hash: Option<&[u8]> = row.try_get(1)?;
        if let Some(hash) = hash.and_then(|hash| hash.try_into().ok()) {
            kept.insert(place(row.try_get(0)?), Hash(hash));
        }
    }
    Ok(kept)
}
