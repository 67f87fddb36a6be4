//! What holds for every page at once.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test may stop at what it did not expect"
)]

mod escaping;
mod html;
mod samples;
mod structure;
mod texts;
