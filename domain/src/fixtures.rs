//! The frozen history: every form of an event that was ever written, as it was stored.

use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::Value;

const BOOK: &str = include_str!("../fixtures/book.jsonl");

/// One recorded event of the frozen history, as the table `events` has it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fixture {
    pub aggregate_type: String,
    pub aggregate_id: String,
    /// Its place in its stream, from 1.
    pub sequence: i64,
    pub event_type: String,
    pub event_version: String,
    pub payload: Value,
    pub metadata: Value,
}

/// A short history that holds every version of every event ever written, in an order in which it
/// could have happened: each stream is whole, and people come before their sessions.
///
/// Lines are added and never changed or removed (`domain/fixtures/README.md`). So whoever folds it
/// can tell from the result whether the fold has changed.
#[must_use]
pub fn fixtures() -> &'static [Fixture] {
    static LINES: LazyLock<Vec<Fixture>> = LazyLock::new(|| {
        #[expect(clippy::expect_used, reason = "it is compiled in, and the tests read it")]
        let read = |line| serde_json::from_str(line).expect("a line of the frozen history");
        BOOK.lines().map(read).collect()
    });
    &LINES
}

#[cfg(test)]
mod forms;
#[cfg(test)]
mod tests;
