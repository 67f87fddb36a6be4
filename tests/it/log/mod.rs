//! The transparency log, over a real database.

mod anchors;
pub mod backup;
pub mod client;
mod copies;
mod evidence;
mod lagging;
mod serving;
mod signing;
mod tree;
mod witness;
