//! What is read of the tree: its size, roots, proofs, tiles. Each on a connection of the caller's, who
//! decides which snapshot is read.

use proof::{
    Hash, LeafError, Missing, Node, Nodes, ProveError, TILE_WIDTH, join, places_under, subtrees,
};
use sqlx::{PgConnection, Row};

use super::{NAME, VERSION, key, leaf, place, table};
use crate::{
    journal::{self, JournalError},
    projection::Generation,
};

/// So many hashes are read as one run of neighbours.
const RUN: u64 = 256;

/// Why something of the tree could not be told.
#[derive(Debug, thiserror::Error)]
pub enum TransparencyError {
    #[error("the database failed: {0}")]
    Database(#[from] sqlx::Error),
    #[error("the tree is not made yet; run `entrybook serve` or `entrybook migrate` first")]
    NotRegistered,
    #[error(
        "hash {index} of level {level} of the tree is not there; `entrybook projections verify transparency` \
         tells whether the tree is damaged, or only smaller"
    )]
    Missing { level: u8, index: u64 },
    #[error(
        "hash {index} of level {level} of the tree is none; `entrybook projections verify transparency` tells more"
    )]
    Damaged { level: u8, index: u64 },
    #[error("the book has no line {position}")]
    NoLine { position: u64 },
    #[error("line {position} can't be hashed: {cause}")]
    Leaf { position: i64, cause: LeafError },
    #[error(transparent)]
    Journal(JournalError),
    #[error(transparent)]
    Proof(ProveError),
}

impl From<JournalError> for TransparencyError {
    fn from(cause: JournalError) -> Self {
        match cause {
            JournalError::Database(cause) => Self::Database(cause),
            cause => Self::Journal(cause),
        }
    }
}

/// How many lines the live tree covers.
pub async fn size(conn: &mut PgConnection) -> Result<u64, TransparencyError> {
    let position: Option<i64> =
        sqlx::query_scalar("SELECT position FROM projections WHERE name = $1 AND version = $2")
            .bind(NAME)
            .bind(VERSION)
            .fetch_optional(conn)
            .await?;
    Ok(position.ok_or(TransparencyError::NotRegistered)?.unsigned_abs())
}

/// Kept hashes, by level and index, in the order in which they are asked for: all of them, or an error
/// that names the first that is not there.
pub async fn read_nodes(
    conn: &mut PgConnection,
    places: &[(u8, u64)],
) -> Result<Vec<Node>, TransparencyError> {
    nodes(conn, Generation::Live, places).await
}

/// The same of a generation of the table.
pub(super) async fn nodes(
    conn: &mut PgConnection,
    generation: Generation,
    places: &[(u8, u64)],
) -> Result<Vec<Node>, TransparencyError> {
    let mut found = Vec::with_capacity(places.len());
    // Neighbours are read as one run: each is a single way down the index.
    let (mut firsts, mut pasts) = (Vec::<i64>::new(), Vec::<i64>::new());
    for (level, index) in places.iter().copied() {
        let key = key(level, index).ok_or(TransparencyError::Missing { level, index })?;
        match (firsts.last(), pasts.last_mut()) {
            (Some(first), Some(past)) if *past == key && key - first < RUN.cast_signed() => {
                *past += 1;
            }
            _ => {
                firsts.push(key);
                pasts.push(key + 1);
            }
        }
    }
    if firsts.is_empty() {
        return Ok(found);
    }
    // The limit changes nothing but the plan: that each run is short can't be seen otherwise.
    let rows = sqlx::query(&format!(
        "SELECT node, hash
           FROM unnest($1::bigint[], $2::bigint[]) WITH ORDINALITY AS run (first, past, place)
          CROSS JOIN LATERAL (SELECT node, hash FROM {}
                               WHERE node >= run.first AND node < run.past
                               ORDER BY node LIMIT {RUN}) AS kept
          ORDER BY place, node",
        table(generation)
    ))
    .bind(firsts)
    .bind(pasts)
    .fetch_all(conn)
    .await?;
    let mut rows = rows.iter();
    for (level, index) in places.iter().copied() {
        let row = rows.next().ok_or(TransparencyError::Missing { level, index })?;
        if place(row.try_get(0)?) != (level, index) {
            return Err(TransparencyError::Missing { level, index });
        }
        let hash: &[u8] = row.try_get(1)?;
        let hash = hash.try_into().map_err(|_| TransparencyError::Damaged { level, index })?;
        found.push(Node { level, index, hash: Hash(hash) });
    }
    Ok(found)
}

/// Reads what an answer needs until it is known.
async fn answer<T>(
    conn: &mut PgConnection,
    size: u64,
    question: impl Fn(&Nodes) -> Result<T, ProveError>,
) -> Result<T, TransparencyError> {
    // No tree is larger, whatever somebody asks for.
    if key(0, size).is_none() {
        return Err(TransparencyError::NoLine { position: size });
    }
    let mut nodes = Nodes::default();
    loop {
        let missing = match question(&nodes) {
            Err(ProveError::Missing(Missing(places))) => places,
            other => return other.map_err(TransparencyError::Proof),
        };
        nodes.extend(read_nodes(conn, &missing).await?);
    }
}

/// The root of the tree of the first `size` lines.
pub async fn root(conn: &mut PgConnection, size: u64) -> Result<Hash, TransparencyError> {
    answer(conn, size, |nodes| nodes.root(size)).await
}

/// That the leaf at `index` is in the tree of the first `size` lines.
pub async fn prove_inclusion(
    conn: &mut PgConnection,
    size: u64,
    index: u64,
) -> Result<Vec<Hash>, TransparencyError> {
    answer(conn, size, |nodes| nodes.prove_inclusion(size, index)).await
}

/// That the tree of the first `size` lines begins with that of the first `old`.
pub async fn prove_consistency(
    conn: &mut PgConnection,
    size: u64,
    old: u64,
) -> Result<Vec<Hash>, TransparencyError> {
    answer(conn, size, |nodes| nodes.prove_consistency(size, old)).await
}

/// The hashes of the complete subtrees over the leaves from index `from` to before `to`, as
/// [`proof::subtrees`] cuts them: what stands for lines that are left out.
pub async fn subtree_hashes(
    conn: &mut PgConnection,
    from: u64,
    to: u64,
) -> Result<Vec<Hash>, TransparencyError> {
    let hashes = subtree_hashes_of(conn, &[(from, to)]).await?;
    Ok(hashes.into_iter().next().unwrap_or_default())
}

/// The same of several ranges, with one question to the database.
pub async fn subtree_hashes_of(
    conn: &mut PgConnection,
    ranges: &[(u64, u64)],
) -> Result<Vec<Vec<Hash>>, TransparencyError> {
    let mut places = Vec::new();
    for (from, to) in ranges.iter().copied() {
        if key(0, to).is_none() {
            return Err(TransparencyError::NoLine { position: to });
        }
        for (first, height) in subtrees(from, to) {
            places.extend(places_under(first, height));
        }
    }
    let mut nodes = read_nodes(conn, &places).await?.into_iter().map(|node| node.hash);
    let mut hashes = Vec::with_capacity(ranges.len());
    for (from, to) in ranges.iter().copied() {
        let mut of_range = Vec::new();
        for (first, height) in subtrees(from, to) {
            let many = places_under(first, height).count();
            of_range.extend(join(nodes.by_ref().take(many).collect()));
        }
        hashes.push(of_range);
    }
    Ok(hashes)
}

/// The hashes of so many leaves, from an index on: all of them, or an error.
pub async fn leaf_hashes(
    conn: &mut PgConnection,
    first_index: u64,
    count: u64,
) -> Result<Vec<Hash>, TransparencyError> {
    let past = first_index.saturating_add(count);
    if key(0, past).is_none() {
        return Err(TransparencyError::NoLine { position: past });
    }
    let places: Vec<_> = (first_index..past).map(|index| (0, index)).collect();
    Ok(read_nodes(conn, &places).await?.into_iter().map(|node| node.hash).collect())
}

/// The first `width` hashes of a tile (C2SP tlog-tiles); nothing where the tree has not so many.
pub async fn tile(
    conn: &mut PgConnection,
    level: u8,
    index: u64,
    width: u16,
) -> Result<Option<Vec<u8>>, TransparencyError> {
    let Some(first) = index.checked_mul(TILE_WIDTH) else { return Ok(None) };
    let past = first.saturating_add(u64::from(width));
    let places: Vec<_> = (first..past).map(|index| (level, index)).collect();
    match read_nodes(conn, &places).await {
        Ok(nodes) if !nodes.is_empty() => {
            Ok(Some(nodes.into_iter().flat_map(|node| node.hash.0).collect()))
        }
        Ok(_) | Err(TransparencyError::Missing { .. }) => Ok(None),
        Err(cause) => Err(cause),
    }
}

/// The canonical bytes of so many lines, from an index on: all of them, or an error.
pub async fn leaves(
    conn: &mut PgConnection,
    first_index: u64,
    count: u64,
) -> Result<Vec<Vec<u8>>, TransparencyError> {
    let past = first_index.saturating_add(count);
    let past = key(0, past).ok_or(TransparencyError::NoLine { position: past })?;
    let mut position = first_index.cast_signed();
    let mut leaves = Vec::new();
    while position < past {
        // The lines before one that can't be read come by themselves.
        for event in journal::read_page(conn, position, past - position, &[]).await? {
            let cause = |cause| TransparencyError::Leaf { position: event.position, cause };
            leaves.push(leaf(&event).to_bytes().map_err(cause)?);
        }
        let read = first_index.cast_signed() + i64::try_from(leaves.len()).unwrap_or(i64::MAX);
        if read == position {
            return Err(TransparencyError::NoLine { position: position.unsigned_abs() + 1 });
        }
        position = read;
    }
    Ok(leaves)
}
