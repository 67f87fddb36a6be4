//! Everything that needs more than one crate, on a real PostgreSQL: one binary, a module per noun.

mod api;
mod auditing;
mod book;
mod cli;
mod crash;
mod erasing;
mod history;
mod keys;
mod log;
mod lookalikes;
mod old_events;
mod openapi;
mod pages;
mod projections;
mod proof;
mod proxy;
mod recording;
mod replaying;
mod replicas;
mod session_lifetime;
mod stalled;
mod rights;
mod streams;
mod structure;
mod support;
mod upgrades;
