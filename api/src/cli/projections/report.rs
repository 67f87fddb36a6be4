//! What came of a build, in words.

use super::progress::{count, duration};
use ::projections::{FoldState, Outcome, Rebuilt, RowDifference, TableDifference, Verified};
use serde::Serialize;

/// The last line on one projection, for programs.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename = "result")]
pub(super) struct Result<'a> {
    equal: bool,
    events_per_second: f64,
    #[serde(flatten)]
    rebuilt: &'a Rebuilt,
}

impl<'a> Result<'a> {
    pub(super) fn new(rebuilt: &'a Rebuilt) -> Self {
        let equal = rebuilt.verified.is_equal();
        Self { equal, events_per_second: rate(rebuilt), rebuilt }
    }
}

fn rate(rebuilt: &Rebuilt) -> f64 {
    let folded = (rebuilt.events - rebuilt.resumed_at) as f64;
    if rebuilt.seconds > 0.0 { folded / rebuilt.seconds } else { 0.0 }
}

/// The same for people, line by line.
pub(super) fn lines(rebuilt: &Rebuilt) -> Vec<String> {
    let Rebuilt { projection, outcome, verified, .. } = rebuilt;
    let what = match outcome {
        Outcome::Swapped if verified.is_equal() => "built anew and swapped in",
        Outcome::Swapped if !verified.is_comparable() => {
            "built anew and swapped in; the live one could not be compared"
        }
        Outcome::Swapped => "built anew and swapped in, though it differed",
        Outcome::Compared => "equal; nothing was swapped",
        Outcome::Differs if !verified.is_comparable() => {
            "DAMAGED; the live one can't be read, and nothing was swapped"
        }
        Outcome::Differs => "DIFFERENT; nothing was swapped, the live tables serve as they were",
    };
    let mut lines = vec![
        format!("{projection}: {what}"),
        format!(
            "  {} lines in {}, {} lines/s: {}",
            count(rebuilt.events - rebuilt.resumed_at),
            duration(rebuilt.seconds),
            count(rate(rebuilt) as i64),
            phases(rebuilt)
        ),
    ];
    if rebuilt.resumed_at > 0 {
        lines.push(format!(
            "  It went on after line {}, where an earlier run was broken off.",
            count(rebuilt.resumed_at)
        ));
    }
    lines.push(format!("  {}.", printable(verified.to_string().trim_end_matches('.'))));
    // In an equal table a changed fold shows nowhere else.
    if let (true, FoldState::Changed { events }) = (verified.is_equal(), &verified.fold) {
        lines.push(format!(
            "  Its fold has changed without a new version since the table was made (at {}), which no row shows yet.",
            events.join(", ")
        ));
    }
    lines.extend(differences(verified));
    lines
}

fn phases(rebuilt: &Rebuilt) -> String {
    let each = rebuilt.phases.iter().map(|(phase, seconds)| {
        format!("{} {}", phase.as_str().replace('_', " "), duration(*seconds))
    });
    each.collect::<Vec<_>>().join(", ")
}

fn differences(verified: &Verified) -> Vec<String> {
    let mut lines = Vec::new();
    let differ = |table: &&TableDifference| !table.is_equal() && table.unreadable.is_none();
    for table in verified.tables.iter().filter(differ) {
        let first = if table.first.is_empty() { "." } else { "; the first that differ:" };
        lines.push(format!(
            "  {}: {} rows are live, {} are new{first}",
            table.table,
            count(table.rows_live),
            count(table.rows_new)
        ));
        for RowDifference { key, live, new } in &table.first {
            lines.push(format!("    {}", printable(key)));
            lines.push(format!("      live  {}", row(live.as_deref())));
            lines.push(format!("      new   {}", row(new.as_deref())));
        }
    }
    lines
}

fn row(columns: Option<&[(String, String)]>) -> String {
    let Some(columns) = columns else { return "no such row".to_owned() };
    let each = columns.iter().map(|(column, value)| format!("{column} = {}", printable(value)));
    each.collect::<Vec<_>>().join(", ")
}

/// A table may hold anything; a terminal gets no control characters.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
        .collect()
}

/// What to do about what differs.
pub(super) fn advice(differing: &[&str]) -> String {
    format!(
        "Whether the book is right, entrybook audit verify tells. If so, to put what is folded from it in the place of what differs: entrybook \
         projections rebuild --repair {}",
        differing.join(" ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_gets_no_control_characters() {
        assert_eq!(printable("a\x1b[2J\nä"), "a\\u{1b}[2J\\nä");
    }
}
