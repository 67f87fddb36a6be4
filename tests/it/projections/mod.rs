//! The read side against a real PostgreSQL: its order, its tables, its revocations.

mod book;
mod history_pages;
mod horizon;
mod order;
mod projecting;
mod rebuilding;
mod restoring;
mod revoking;
mod views;
