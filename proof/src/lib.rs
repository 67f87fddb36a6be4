//! The proof of the book: what each line is hashed as, and the tree over the lines.
//!
//! Pure: no database, no network, no clock. `docs/transparency-log.md` describes the same for whoever
//! writes a verifier in another language.

mod audit;
mod authenticity;
mod canonical;
mod checkpoint;
mod cosignature;
mod erasure;
pub mod export;
mod hand_over;
mod inclusion;
mod leaf;
mod prove;
mod signer;
pub mod tile_path;
mod tree;
mod trust;
mod witness;

pub use audit::{Audit, Finding, Line, REACH, Verdict};
pub use authenticity::{EventAuthenticator, EventFields, MAC, NUMBER, number_in_stream};
pub use canonical::{CanonicalError, canonical_json};
pub use checkpoint::{Checkpoint, CheckpointError, is_verifier_key};
pub use cosignature::{Cosignature, CosignatureSigner, CosignatureVerifier};
pub use erasure::{Erasure, ErasureReceipt, ReceiptError};
pub use hand_over::{HandOver, HandOverError};
pub use inclusion::{InclusionProof, ProofError};
pub use leaf::{Leaf, LeafError, MAX_LEAF, hash_of};
pub use prove::{Missing, Nodes, ProveError, is_consistent};
pub use signer::NoteSigner;
pub use tile_path::{TilePath, entry_bundle};
pub use tree::{
    Hash, Node, TILE_WIDTH, Tree, TreeError, join, places_under, subtrees, tree_places,
};
pub use trust::{Followed, Trust};
pub use witness::{Accepted, AddCheckpoint, Refusal, log_of};
