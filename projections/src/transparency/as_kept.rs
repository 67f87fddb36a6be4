//! The kept hashes as they are found, whatever is wrong with them: for whoever looks for damage.

use std::{collections::HashMap, ops::Range};

use proof::Hash;
use sqlx::{PgConnection, Row};

use super::{key, place, table};
use crate::projection::Generation;

/// The hashes of ranges of indexes, each of a level. What is missing, or no hash, is not among them.
pub(crate) async fn as_kept(
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
