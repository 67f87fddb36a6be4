//! The read side against a real PostgreSQL: its order, its tables, its revocations.

pub mod book;
mod cutting;
mod damage;
mod first_builds;
mod history_pages;
mod horizon;
mod order;
mod projecting;
mod random_book;
pub mod rebuilding;
mod restoring;
mod revoking;
mod swapping;
mod views;
