//! CSV (RFC 4180), for spreadsheets.
//!
//! A spreadsheet takes a cell that begins like a formula for one, and what strangers type to sign in stands
//! in cells. So such a cell gets an apostrophe in front, which spreadsheets take for "this is text". Where
//! commas separate decimals, they cut at semicolons, or at tabs, and a cell is then what stands behind one.

use chrono::{DateTime, SecondsFormat, Utc};

use super::{opener::Opened, table::Notes};

/// The names of the columns, in their order.
const COLUMNS: [&str; 17] = [
    "position",
    "time",
    "recorded_at",
    "event",
    "outcome",
    "person_id",
    "person",
    "actor_kind",
    "actor_id",
    "actor",
    "session",
    "address",
    "user_agent",
    "identifier",
    "stream",
    "sequence",
    "request_id",
];
/// What stands in the first column of the last record.
const END: &str = "end";
/// What a cell may end at, besides a comma, wherever the file is opened.
const SEPARATORS: [char; 4] = [';', '\t', '\r', '\n'];
/// How formulas begin; some spreadsheets take the wide forms for the narrow ones.
const FORMULA: [char; 8] = ['=', '+', '-', '@', '＝', '＋', '－', '＠'];

pub(super) fn header() -> Vec<u8> {
    record(&COLUMNS)
}

pub(super) fn line(line: &Opened) -> Vec<u8> {
    let id = |person: &Option<super::opener::Person>| {
        person.as_ref().and_then(|person| person.id).map(|id| id.to_string()).unwrap_or_default()
    };
    let name = |person: &Option<super::opener::Person>| {
        person.as_ref().map(|person| person.name.clone()).unwrap_or_default()
    };
    let cells: [String; COLUMNS.len()] = [
        line.position.to_string(),
        moment(line.at),
        moment(line.recorded_at),
        line.event_type.clone(),
        line.outcome.clone().unwrap_or_default(),
        id(&line.person),
        name(&line.person),
        line.actor_kind.to_owned(),
        id(&line.actor),
        name(&line.actor),
        line.session.map(|session| session.to_string()).unwrap_or_default(),
        line.address.clone().unwrap_or_default(),
        line.user_agent.clone().unwrap_or_default(),
        line.identifier.clone().unwrap_or_default(),
        line.stream.clone(),
        line.sequence.to_string(),
        line.request_id.clone(),
    ];
    record(&cells.map(harmless))
}

/// The last record: the manifest and the checkpoint, in the columns behind the word, and behind them the notes by
/// which the keys of the log have followed each other, as an array of JSON, if there are any.
pub(super) fn end(
    manifest: &str,
    checkpoint: &str,
    hand_overs: &[String],
) -> serde_json::Result<Vec<u8>> {
    let notes =
        if hand_overs.is_empty() { String::new() } else { serde_json::to_string(hand_overs)? };
    let mut cells = [""; COLUMNS.len()];
    for (cell, text) in cells.iter_mut().zip([END, manifest, checkpoint, &notes]) {
        *cell = text;
    }
    Ok(record(&cells))
}

/// What stands in it, if this says that it is the last record. It is that if it is [`end`] of these.
pub(super) fn read_end(record: &[u8]) -> Option<Notes> {
    if !record.starts_with(b"end,") {
        return None;
    }
    let mut cells = cells(record)?.into_iter();
    let (end, manifest, checkpoint) = (cells.next()?, cells.next()?, cells.next()?);
    // What is no array makes another record.
    let hand_overs = serde_json::from_str(&cells.next()?).unwrap_or_default();
    (end == END).then_some(Notes { manifest, checkpoint, hand_overs })
}

/// The line of the book that a record is of.
pub(super) fn position(record: &[u8]) -> Option<u64> {
    let cells = cells(record).filter(|cells| cells.len() == COLUMNS.len())?;
    cells.first()?.parse().ok()
}

fn moment(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Micros, true)
}

fn harmless(cell: String) -> String {
    let is_formula =
        |part: &str| part.trim_start_matches([' ', '\u{a0}', '\u{3000}', '"']).starts_with(FORMULA);
    let begins_with_separator = cell.starts_with(['\t', '\r', '\n']);
    if !begins_with_separator && !cell.split(SEPARATORS).any(is_formula) {
        return cell;
    }
    let mut harmless = String::with_capacity(cell.len() + 4);
    if begins_with_separator {
        harmless.push('\'');
    }
    for part in cell.split_inclusive(SEPARATORS) {
        if is_formula(part) {
            harmless.push('\'');
        }
        harmless.push_str(part);
    }
    harmless
}

fn record(cells: &[impl AsRef<str>]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256);
    for (number, cell) in cells.iter().enumerate() {
        if number > 0 {
            bytes.push(b',');
        }
        let cell = cell.as_ref();
        if cell.contains(['"', ',', '\r', '\n']) {
            bytes.push(b'"');
            bytes.extend_from_slice(cell.replace('"', "\"\"").as_bytes());
            bytes.push(b'"');
        } else {
            bytes.extend_from_slice(cell.as_bytes());
        }
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}

/// The cells of a record; nothing where it is none.
fn cells(record: &[u8]) -> Option<Vec<String>> {
    let mut rest = std::str::from_utf8(record).ok()?.strip_suffix("\r\n")?;
    let mut cells = Vec::new();
    loop {
        let after = match rest.strip_prefix('"') {
            Some(quoted) => {
                let mut cell = String::new();
                let mut quoted = quoted;
                loop {
                    let (text, after) = quoted.split_once('"')?;
                    cell.push_str(text);
                    match after.strip_prefix('"') {
                        Some(further) => {
                            cell.push('"');
                            quoted = further;
                        }
                        None => {
                            cells.push(cell);
                            break after;
                        }
                    }
                }
            }
            None => {
                let length = rest.find(',').unwrap_or(rest.len());
                let (cell, after) = rest.split_at_checked(length)?;
                cells.push(cell.to_owned());
                after
            }
        };
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None => return after.is_empty().then_some(cells),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_as_they_were_written() {
        for given in [
            vec![""],
            vec!["", ""],
            vec!["a", "b,c", "d\"e", "\"", "f\r\ng", "'h", " i "],
            vec!["ä", "\"\"", ","],
        ] {
            let written = record(&given);
            assert_eq!(cells(&written).unwrap(), given, "{}", String::from_utf8_lossy(&written));
        }
        assert_eq!(record(&["a", "say \"x\"", "1,2"]), b"a,\"say \"\"x\"\"\",\"1,2\"\r\n");
        for broken in ["a", "\"a\r\n", "\"a\"b\r\n"] {
            assert_eq!(cells(broken.as_bytes()), None, "{broken}");
        }
    }

    #[test]
    fn nothing_is_a_formula() {
        for cell in
            ["=1+1", "+1", "-1", "@SUM(A1)", " =1", "\"=1", "＝1", "＋1", "－1", "＠1", "\tx"]
        {
            assert_eq!(harmless(cell.to_owned()), format!("'{cell}"));
        }
        for (cell, written) in [
            ("\t=1", "'\t'=1"),
            ("\r\n=1", "'\r\n'=1"),
            ("x;=HYPERLINK(\"http://example.org\")", "x;'=HYPERLINK(\"http://example.org\")"),
            ("x;;  @1;-1", "x;;'  @1;'-1"),
            ("x\t+1\n=2", "x\t'+1\n'=2"),
            ("x;\"=1\"", "x;'\"=1\""),
            ("x;＝1", "x;'＝1"),
        ] {
            assert_eq!(harmless(cell.to_owned()), written);
        }
        for cell in ["a=1", "Mozilla/5.0 (X11; Linux x86_64; rv:1)", "a; b", ";", "a-b;c+d"] {
            assert_eq!(harmless(cell.to_owned()), cell);
        }
    }

    #[test]
    fn the_end_is_found() {
        let note = "entrybook export csv v1\na, \"b\"\n\n— x y\n";
        for hand_overs in [vec![], vec!["a\n\n— \"b\", c\n".to_owned(), "d".to_owned()]] {
            let written = end(note, "checkpoint\n", &hand_overs).unwrap();
            let (manifest, checkpoint) = (note.to_owned(), "checkpoint\n".to_owned());
            assert_eq!(read_end(&written).unwrap(), Notes { manifest, checkpoint, hand_overs });
            assert_eq!(cells(&written).unwrap().len(), COLUMNS.len());
        }
        assert_eq!(read_end(&header()), None);
    }
}
