//! Proofs of inclusion and of consistency (RFC 9162 sections 2.1.3 and 2.1.4), from the hashes that are kept.

use std::{
    cell::RefCell,
    collections::{BTreeSet, HashMap},
};

use tlog_tiles::{Hash, HashReader, node_hash, split_stored_hash_index};

use crate::tree::{Node, TILE_HEIGHT};

/// Kept hashes at hand: those that were read so far.
#[derive(Debug, Default)]
pub struct Nodes(HashMap<(u8, u64), Hash>);

/// What else must be read before the answer is known: levels and indexes of [`Node`]s.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing(pub Vec<(u8, u64)>);

/// Why there is no proof.
#[derive(Debug, thiserror::Error)]
pub enum ProveError {
    #[error("{} hashes of the tree were not read yet", .0.0.len())]
    Missing(Missing),
    #[error("a tree of {size} lines proves nothing of {of}")]
    Beyond { size: u64, of: u64 },
    #[error("the proof failed: {0}")]
    Failed(#[from] tlog_tiles::Error),
}

impl Extend<Node> for Nodes {
    fn extend<I: IntoIterator<Item = Node>>(&mut self, nodes: I) {
        self.0.extend(nodes.into_iter().map(|node| ((node.level, node.index), node.hash)));
    }
}

impl Nodes {
    /// That the leaf at `index` is in the tree of `size` leaves.
    pub fn prove_inclusion(&self, size: u64, index: u64) -> Result<Vec<Hash>, ProveError> {
        if index >= size {
            return Err(ProveError::Beyond { size, of: index });
        }
        self.ask(|reader| tlog_tiles::prove_record(size, index, reader))
    }

    /// That the tree of `size` leaves begins with that of `old` leaves. Of an empty one nothing need be
    /// proved.
    pub fn prove_consistency(&self, size: u64, old: u64) -> Result<Vec<Hash>, ProveError> {
        if old > size {
            return Err(ProveError::Beyond { size, of: old });
        }
        if old == 0 {
            return Ok(Vec::new());
        }
        self.ask(|reader| tlog_tiles::prove_tree(size, old, reader))
    }

    /// The root of the tree of `size` leaves.
    pub fn root(&self, size: u64) -> Result<Hash, ProveError> {
        self.ask(|reader| tlog_tiles::tree_hash(size, reader))
    }

    fn ask<T>(
        &self,
        question: impl FnOnce(&Reader<'_>) -> Result<T, tlog_tiles::Error>,
    ) -> Result<T, ProveError> {
        let reader = Reader { nodes: &self.0, missing: RefCell::default() };
        let answer = question(&reader)?;
        let missing = reader.missing.into_inner();
        if missing.is_empty() {
            Ok(answer)
        } else {
            Err(ProveError::Missing(Missing(missing.into_iter().collect())))
        }
    }
}

/// Whether a tree of `size` leaves begins with that of `old` leaves, by this proof. Every tree begins with
/// the empty one.
#[must_use]
pub fn is_consistent(path: Vec<Hash>, size: u64, root: Hash, old: u64, old_root: Hash) -> bool {
    old == 0 || tlog_tiles::check_tree(&path, size, root, old, old_root).is_ok()
}

/// Answers with what is there, and notes what is not.
struct Reader<'a> {
    nodes: &'a HashMap<(u8, u64), Hash>,
    missing: RefCell<BTreeSet<(u8, u64)>>,
}

impl Reader<'_> {
    fn subtree(&self, height: u8, index: u64) -> Hash {
        if height.is_multiple_of(TILE_HEIGHT) {
            let at = (height / TILE_HEIGHT, index);
            return self.nodes.get(&at).copied().unwrap_or_else(|| {
                self.missing.borrow_mut().insert(at);
                tlog_tiles::EMPTY_HASH
            });
        }
        let (left, right) =
            (self.subtree(height - 1, 2 * index), self.subtree(height - 1, 2 * index + 1));
        node_hash(left, right)
    }
}

impl HashReader for Reader<'_> {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<Hash>, tlog_tiles::Error> {
        let at = |index: &u64| {
            let (height, number) = split_stored_hash_index(*index);
            self.subtree(height, number)
        };
        Ok(indexes.iter().map(at).collect())
    }
}

#[cfg(test)]
mod tests {
    use tlog_tiles::{check_record, check_tree, record_hash};

    use super::*;
    use crate::Tree;

    /// A tree, its kept hashes, and its root at each size.
    fn grown(leaves: u64) -> (Vec<Node>, Vec<Hash>) {
        let (mut tree, mut nodes) = (Tree::default(), Vec::new());
        let mut roots = vec![tree.root()];
        for number in 0..leaves {
            tree.push(record_hash(&number.to_be_bytes()), |node| nodes.push(node));
            roots.push(tree.root());
        }
        (nodes, roots)
    }

    /// Asks until nothing is missing, as a database is asked; tells how often.
    fn reading<T>(
        all: &[Node],
        question: impl Fn(&Nodes) -> Result<T, ProveError>,
    ) -> Result<(T, usize), ProveError> {
        let mut nodes = Nodes::default();
        for times in 1.. {
            match question(&nodes) {
                Err(ProveError::Missing(Missing(missing))) => {
                    let at = |node: &Node| (node.level, node.index);
                    nodes.extend(
                        missing.iter().filter_map(|wanted| {
                            all.iter().find(|node| at(node) == *wanted).copied()
                        }),
                    );
                }
                other => return other.map(|answer| (answer, times)),
            }
        }
        unreachable!()
    }

    #[test]
    fn proofs_hold_and_are_read_in_one_go() {
        let (nodes, roots) = grown(700);
        for size in [1, 2, 3, 255, 256, 257, 513, 700_u64] {
            let root = roots[size as usize];
            for index in [0, 1, 2, 254, 255, 256, 257, 510, 511, 512, 699] {
                let proved = reading(&nodes, |nodes| nodes.prove_inclusion(size, index));
                if index >= size {
                    assert!(matches!(proved, Err(ProveError::Beyond { .. })));
                    continue;
                }
                let (proof, times) = proved.expect("a proof");
                assert!(times <= 2);
                let leaf = record_hash(&index.to_be_bytes());
                check_record(&proof, size, root, index, leaf).expect("it holds");
                let other = record_hash(&(index + 1).to_be_bytes());
                check_record(&proof, size, root, index, other).expect_err("of another leaf");
            }
            for old in (1..=size).filter(|old| old % 37 < 3 || size - old < 3) {
                let (proof, times) =
                    reading(&nodes, |nodes| nodes.prove_consistency(size, old)).expect("a proof");
                assert!(times <= 2);
                check_tree(&proof, size, root, old, roots[old as usize]).expect("it holds");
                if old < size {
                    check_tree(&proof, size, root, old, roots[old as usize - 1])
                        .expect_err("of another tree");
                }
            }
            assert_eq!(reading(&nodes, |nodes| nodes.root(size)).expect("a root").0, root);
        }
    }
}
