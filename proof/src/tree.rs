//! The Merkle tree over the lines of the book (RFC 9162 section 2.1), grown a leaf at a time.
//!
//! What is kept of it are the hashes that tiles are made of (C2SP tlog-tiles): those of every eighth
//! level. They are only ever added, and all others follow from at most 256 of them.

pub use tlog_tiles::Hash;
use tlog_tiles::node_hash;

/// The levels of the tree in one tile, and how many hashes a full tile holds.
pub(crate) const TILE_HEIGHT: u8 = 8;
pub const TILE_WIDTH: u64 = 1 << TILE_HEIGHT;

/// A hash that is kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Node {
    /// The level of its tile: 0 are the hashes of leaves, 1 those of 256 leaves, 2 of 65,536.
    pub level: u8,
    /// Its place in the level, from 0.
    pub index: u64,
    pub hash: Hash,
}

/// Why a tree could not be taken up again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("hash {index} of level {level} is missing, so the tree can't be continued")]
pub struct TreeError {
    pub level: u8,
    pub index: u64,
}

/// A tree by its right edge: all that is needed to grow it and to tell its root.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Tree {
    size: u64,
    /// The hashes of its complete subtrees, from the left. Their sizes are the powers of two that the
    /// size is the sum of.
    edge: Vec<Hash>,
}

impl Tree {
    /// How many leaves it has.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Takes up the tree of so many leaves. `kept` gives the hash at a level and an index; it is asked
    /// for the [`tree_places`].
    pub fn restore(
        size: u64,
        mut kept: impl FnMut(u8, u64) -> Option<Hash>,
    ) -> Result<Self, TreeError> {
        let mut edge = Vec::new();
        for (first, height) in subtrees(0, size) {
            let mut hashes = Vec::new();
            for (level, index) in places_under(first, height) {
                hashes.push(kept(level, index).ok_or(TreeError { level, index })?);
            }
            edge.extend(join(hashes));
        }
        Ok(Self { size, edge })
    }

    /// Adds a leaf, and tells the hashes that are to be kept now.
    pub fn push(&mut self, leaf: Hash, mut keep: impl FnMut(Node)) {
        keep(Node { level: 0, index: self.size, hash: leaf });
        self.join(0, leaf, keep);
    }

    /// Adds a complete subtree of `2^height` leaves, of which nothing is known but its hash. The size
    /// must be a multiple of its own; if it isn't, the tree gets another root than it should have.
    pub fn push_subtree(&mut self, height: u8, hash: Hash) {
        self.join(height, hash, |_| {});
    }

    fn join(&mut self, height: u8, mut hash: Hash, mut keep: impl FnMut(Node)) {
        let mut joined = height;
        // As in adding one to a number: each bit that carries joins two complete subtrees.
        while self.size >> joined & 1 == 1 {
            let Some(left) = self.edge.pop() else { break };
            hash = node_hash(left, hash);
            joined += 1;
            if joined.is_multiple_of(TILE_HEIGHT) {
                keep(Node { level: joined / TILE_HEIGHT, index: self.size >> joined, hash });
            }
        }
        self.edge.push(hash);
        self.size += 1 << height;
    }

    /// The root: of the empty tree the hash of nothing (RFC 9162 section 2.1.1).
    #[must_use]
    pub fn root(&self) -> Hash {
        let mut edge = self.edge.iter().rev().copied();
        match edge.next() {
            Some(last) => edge.fold(last, |right, left| node_hash(left, right)),
            None => tlog_tiles::EMPTY_HASH,
        }
    }
}

/// Cuts the leaves from index `from` to before `to` into the fewest complete subtrees: the first index
/// of each, and its height.
pub fn subtrees(from: u64, to: u64) -> impl Iterator<Item = (u64, u8)> {
    let mut next = from;
    std::iter::from_fn(move || {
        let left = to.checked_sub(next).filter(|left| *left > 0)?;
        let height = next.trailing_zeros().min(left.ilog2());
        let cut = (next, height as u8);
        next += 1 << height;
        Some(cut)
    })
}

/// The kept hashes from which that of a complete subtree follows, from the left: levels and indexes. The
/// subtree begins at the leaf of index `first` and is of `2^height` leaves.
pub fn places_under(first: u64, height: u8) -> impl Iterator<Item = (u8, u64)> {
    let (level, many) = (height / TILE_HEIGHT, 1_u64 << (height % TILE_HEIGHT));
    let first = first >> (level * TILE_HEIGHT);
    (first..first.saturating_add(many)).map(move |index| (level, index))
}

/// The kept hashes from which the tree of so many leaves follows.
pub fn tree_places(size: u64) -> impl Iterator<Item = (u8, u64)> {
    subtrees(0, size).flat_map(|(first, height)| places_under(first, height))
}

/// The root of a complete subtree over these hashes, whose number is a power of two.
#[must_use]
pub fn join(mut hashes: Vec<Hash>) -> Option<Hash> {
    while hashes.len() > 1 {
        hashes = hashes
            .chunks_exact(2)
            .filter_map(|pair| Some(node_hash(*pair.first()?, *pair.get(1)?)))
            .collect();
    }
    hashes.first().copied()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tlog_tiles::{HashReader, record_hash, stored_hashes, tree_hash};

    use super::*;

    struct Stored(Vec<Hash>);

    impl HashReader for Stored {
        fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<Hash>, tlog_tiles::Error> {
            Ok(indexes.iter().map(|index| self.0[*index as usize]).collect())
        }
    }

    #[test]
    fn every_root_is_that_of_the_port_of_go_and_can_be_taken_up_again() {
        let (mut tree, mut kept) = (Tree::default(), HashMap::new());
        let mut theirs = Stored(Vec::new());
        for number in 0..1_200_u64 {
            let leaf = number.to_be_bytes();
            tree.push(record_hash(&leaf), |node| {
                assert!(kept.insert((node.level, node.index), node.hash).is_none(), "{node:?}");
            });
            let added = stored_hashes(number, &leaf, &theirs).expect("hashes");
            theirs.0.extend(added);
            assert_eq!(tree.root(), tree_hash(number + 1, &theirs).expect("root"), "{number}");
            let again =
                Tree::restore(number + 1, |level, index| kept.get(&(level, index)).copied());
            assert_eq!(again.as_ref(), Ok(&tree), "{number}");
            let mut asked = tree_places(number + 1);
            let _ = Tree::restore(number + 1, |level, index| {
                assert_eq!(asked.next(), Some((level, index)));
                kept.get(&(level, index)).copied()
            });
            assert_eq!(asked.next(), None);
        }
        assert_eq!(kept.len(), 1_200 + 4);
    }

    #[test]
    fn subtrees_stand_for_their_leaves() {
        let leaf = |number: u64| record_hash(&number.to_be_bytes());
        let whole = (0..100).fold(Tree::default(), |mut tree, number| {
            tree.push(leaf(number), |_| {});
            tree
        });
        for (from, to) in [(0, 1), (0, 100), (1, 100), (3, 4), (5, 96), (64, 96), (7, 7)] {
            let mut tree = Tree::default();
            (0..from).for_each(|number| tree.push(leaf(number), |_| {}));
            for (first, height) in subtrees(from, to) {
                assert_eq!(first, tree.size());
                let hash = join((first..first + (1 << height)).map(leaf).collect());
                tree.push_subtree(height, hash.expect("a subtree"));
            }
            (to..100).for_each(|number| tree.push(leaf(number), |_| {}));
            assert_eq!(tree, whole, "{from} to {to}");
        }
    }

    #[test]
    fn a_missing_hash_is_named() {
        let restored = Tree::restore(257, |_, index| (index == 0).then_some(record_hash(b"x")));
        assert_eq!(restored, Err(TreeError { level: 0, index: 256 }));
    }
}
