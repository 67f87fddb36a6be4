//! Everything that needs more than one crate, on a real PostgreSQL: one binary, a module per noun.

mod api;
mod book;
mod crash;
mod keys;
mod projections;
mod replicas;
mod structure;
mod support;
