//! Servers of several versions on one book: upgrades and ways back under load, what may be dropped
//! afterwards, and who goes on when one dies.

mod draining;
mod load;
mod pruning;
mod rolling;
mod takeover;
