//! The proof of the book: what each line is hashed as, and the tree over the lines.
//!
//! Pure: no database, no network, no key. `docs/transparency-log.md` describes the same for whoever
//! writes a verifier in another language.

mod audit;
mod canonical;
mod checkpoint;
pub mod export;
mod leaf;
mod prove;
mod tree;

pub use audit::{Audit, Finding, Line, Verdict};
pub use canonical::{CanonicalError, canonical_json};
pub use checkpoint::{Checkpoint, CheckpointError};
pub use leaf::{Leaf, LeafError, MAX_LEAF, hash_of};
pub use prove::{Missing, Nodes, ProveError};
pub use tree::{Hash, Node, TILE_WIDTH, Tree, TreeError, subtrees};
