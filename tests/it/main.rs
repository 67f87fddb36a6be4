//! Everything that needs more than one crate, on a real PostgreSQL: one binary, a module per noun.

mod api;
mod book;
mod cli;
mod crash;
mod history;
mod keys;
mod old_events;
mod openapi;
mod pages;
mod projections;
mod proof;
mod proxy;
mod replicas;
mod streams;
mod structure;
mod support;
mod upgrades;
