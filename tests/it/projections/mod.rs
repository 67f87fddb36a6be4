//! The read side against a real PostgreSQL: its order, its tables, its revocations.

pub mod book;
mod cutting;
mod damage;
mod each_line;
mod first_builds;
mod following;
mod history_pages;
mod horizon;
mod identifiers;
mod order;
pub mod projecting;
pub mod random_book;
pub mod rebuilding;
mod restoring;
mod revoking;
mod swapping;
mod views;
