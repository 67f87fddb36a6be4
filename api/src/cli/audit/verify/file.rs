//! What `entrybook audit export` has written.

use super::super::super::{Refused, audit, usage};
use super::reading::{Lines, read};
use super::report::{Answer, NOT_KNOWN, ROTATED, Report, lines_of, sort};
use crate::export::{Format, TableReader, TableReport, only_after};
use anyhow::Context as _;
use indicatif::HumanCount;
use projections::book_audit::is_of_completeness;
use proof::export::{Completeness, Reader};
use proof::{Checkpoint, Finding, Trust};
use serde_json::{Value, json};
use std::fs::File;
use std::path::Path;
use std::time::Instant;

pub(super) async fn verify(
    path: &Path,
    keys: Vec<String>,
    notes: Vec<Vec<u8>>,
) -> anyhow::Result<Report> {
    if keys.is_empty() {
        return Err(usage(
            "A file is proved by a signature: give --key with what `entrybook log key` prints, best as it was kept when the log began.",
        ));
    }
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || verify_here(&path, keys, &notes)).await?
}

fn verify_here(path: &Path, keys: Vec<String>, notes: &[Vec<u8>]) -> anyhow::Result<Report> {
    let begun = Instant::now();
    let given = Trust::from(keys);
    let (mut report, trust) = look_at(path, &given, notes)?;
    // The end of the file says which key follows which: the checkpoints that were given are looked at with that.
    if trust != given && !notes.is_empty() && path.is_file() {
        report = look_at(path, &trust, notes)?.0;
    }
    report.seconds = begun.elapsed().as_secs_f64();
    Ok(report)
}

/// Reads the file once. Besides what it came to, what is trusted with the hand-overs in the file.
fn look_at(path: &Path, trust: &Trust, notes: &[Vec<u8>]) -> anyhow::Result<(Report, Trust)> {
    let file =
        File::open(path).with_context(|| format!("{} could not be opened", path.display()))?;
    let length = file.metadata().map(|file| file.len()).unwrap_or_default();
    let bar = audit::bar(length, "[{bar:24}] {percent:>3} %  {bytes} of {total_bytes}, {eta} left");
    let mut lines = Lines::new(file, bar);
    let given = Given::read(notes, trust);
    let reading = || format!("{} could not be read", path.display());
    let mut first = Vec::new();
    lines.next(&mut first).with_context(reading)?;
    let (mut report, followed, trust) = if let Some(mut reader) = TableReader::of(&first) {
        let mut line = first;
        while !line.is_empty() {
            reader.line(&line);
            line.clear();
            lines.next(&mut line).with_context(reading)?;
        }
        let is_cut = lines.cut_off && !reader.has_ended();
        if lines.cut_off {
            reader.goes_on();
        }
        let mut read = reader.end(trust.clone());
        let (followed, trust) =
            (std::mem::take(&mut read.followed), std::mem::take(&mut read.trust));
        (of_table(read, &given, is_cut), followed, trust)
    } else if first.starts_with(b"{\"export\":") || first.is_empty() {
        let mut reader = Reader::new(trust.clone(), given.believed.clone());
        if !first.is_empty() {
            reader.line(&first);
        }
        read(&mut lines, &mut reader).with_context(reading)?;
        let is_cut = lines.cut_off && !reader.has_ended();
        if lines.cut_off {
            reader.goes_on();
        }
        let mut read = reader.end();
        let (followed, trust) =
            (std::mem::take(&mut read.followed), std::mem::take(&mut read.trust));
        (of_lines(read, &given, is_cut), followed, trust)
    } else if let Some((kind, why)) = spoilt_beginning(&first) {
        let before = if kind == HEADER_MISSING { lines_before(&first) } else { 0 };
        (of_spoilt(kind, why, before), proof::Followed::default(), trust.clone())
    } else {
        let name = path.display();
        let why = if first.starts_with(GZIP) {
            format!("{name} is compressed by gzip: unpack it first, such as with gzip -dk.")
        } else {
            format!(
                "{name} is no export: it begins otherwise than `entrybook audit export` writes."
            )
        };
        return Err(Refused(why).into());
    };
    lines.bar.finish_and_clear();
    report.keys = trust.keys();
    report.remarks.extend(super::report::followed(&followed));
    Ok((report, trust))
}

/// How files begin that gzip has made (RFC 1952, section 2.3.1).
const GZIP: &[u8] = &[0x1f, 0x8b];

/// What is wrong with the first line of a file that is an export behind it.
fn spoilt_beginning(first: &[u8]) -> Option<(&'static str, &'static str)> {
    let without_mark = first.strip_prefix(b"\xef\xbb\xbf").unwrap_or(first);
    let is_line = ["{\"run\":", "{\"gap\":", "{\"end\":", "{\"event_type\":"]
        .iter()
        .any(|begins| without_mark.starts_with(begins.as_bytes()));
    if is_line {
        Some((
            HEADER_MISSING,
            "the first line of the export is missing: the file was cut at its beginning, so nothing in it can be held against what was signed",
        ))
    } else if without_mark.len() < first.len()
        && (without_mark.starts_with(b"{\"export\":") || TableReader::of(without_mark).is_some())
    {
        Some((
            "byte_order_mark",
            "the file begins with a byte order mark, which no export has: a program has saved it anew. Take the file as it was exported, or \
             take away its first three bytes and verify it again",
        ))
    } else {
        None
    }
}

/// The kind of finding where a file has no first line.
const HEADER_MISSING: &str = "header_missing";

/// How many lines of the book come before the first that a file without a header has.
fn lines_before(first: &[u8]) -> u64 {
    let line: Option<Value> = serde_json::from_slice(first).ok();
    let position = line.and_then(|line| {
        let run = line.get("run").or_else(|| line.get("gap"));
        run.map_or_else(|| line.get("position")?.as_u64(), |run| run.get("first")?.as_u64())
    });
    position.unwrap_or_default().saturating_sub(1)
}

/// A file of which nothing more can be said than that; so many lines of the book are missing at its beginning.
fn of_spoilt(kind: &str, why: &str, before: u64) -> Report {
    let (mut integrity, mut completeness) = (Answer::sound(), Answer::sound());
    if before > 0 {
        let says = format!("{why}; lines 1 to {before} of the book are not there either");
        integrity.add(json!({ "kind": kind, "first": 1, "last": before }), says);
    } else {
        integrity.wrong(kind, why);
    }
    completeness.wrong(NOT_KNOWN, "whether lines are missing can't be told");
    Report {
        of: "file".to_owned(),
        origins: Vec::new(),
        lines: 0,
        left_out: 0,
        proved: 0,
        unproved: 0,
        checkpoints: 0,
        keys: Vec::new(),
        trusts_database: false,
        signed: false,
        integrity,
        completeness,
        seconds: 0.0,
        remarks: Vec::new(),
    }
}

/// Checkpoints that somebody else has kept.
struct Given {
    believed: Vec<Checkpoint>,
    refused: Vec<String>,
}

impl Given {
    fn read(notes: &[Vec<u8>], trust: &Trust) -> Self {
        let mut given = Self { believed: Vec::new(), refused: Vec::new() };
        for note in notes {
            let origin = note.split(|byte| *byte == b'\n').next().unwrap_or_default();
            let origin = String::from_utf8_lossy(origin);
            match trust.checkpoint(note, &origin) {
                Ok(checkpoint) => given.believed.push(checkpoint),
                Err(error) => given.refused.push(format!(
                    "a checkpoint that was given, of the log {origin}, is not believed: {error}. {ROTATED}"
                )),
            }
        }
        given
    }

    /// Says which are not believed, or, where none were given, what no file can say.
    fn tell(&self, integrity: &mut Answer, remarks: &mut Vec<String>) {
        for says in &self.refused {
            integrity.wrong("checkpoint_not_believed", says.as_str());
        }
        if self.believed.is_empty() && self.refused.is_empty() {
            remarks.push(
                "Whether the book went on behind it, no file can say: an older export is as sound as a newer one. --checkpoint with one that \
                 somebody else has kept tells."
                    .to_owned(),
            );
        }
    }
}

/// A checkpoint that could not be held against a file.
fn unheld(size: u64, why: &str, completeness: &mut Answer) {
    let says = format!("the checkpoint of {} lines {why}", HumanCount(size));
    completeness.add(json!({ "kind": "checkpoint_not_held", "size": size }), says);
}

/// What missing lines take with them.
const UNPROVED: &str = "With the lines that are missing the proof of the others is gone: that they are those that were signed can't be told \
     from this file. Export it again.";

/// A file that is shorter than the book was.
fn shorter(lines: u64, size: u64) -> String {
    format!(
        "the file goes up to line {}, and a checkpoint is of {} lines: the file is older, or its end was cut off",
        HumanCount(lines),
        HumanCount(size)
    )
}

/// JSON Lines.
fn of_lines(read: proof::export::Report, given: &Given, cut_off: bool) -> Report {
    let (mut integrity, mut completeness) = (Answer::sound(), Answer::sound());
    let verdict = &read.verdict;
    sort(
        &verdict.findings,
        verdict.wrong,
        &mut integrity,
        &mut completeness,
        |found| match found {
            Finding::CutTail { lines, size }
                if given.believed.iter().any(|of| of.size == *size) =>
            {
                shorter(*lines, *size)
            }
            other => other.to_string(),
        },
    );
    for line in &read.unreadable {
        integrity.wrong("unreadable", format!("line {line} of the file is none of an export"));
    }
    if verdict.unhashed > 0 {
        let many = lines_of(verdict.unhashed);
        let claim = if verdict.unhashed == 1 { "claims a place" } else { "claim places" };
        integrity.wrong("unhashed", format!("{many} {claim} in the book behind its last one"));
    }
    let mut remarks = Vec::new();
    given.tell(&mut integrity, &mut remarks);
    for size in &verdict.unheld {
        let why = "can't be held against this export, which leaves out lines on both sides of its end: take all lines";
        unheld(*size, why, &mut completeness);
    }
    let is_cut = cut_off || read.completeness == Completeness::CutOff;
    // That a file of which lines are missing is of other bytes goes without saying.
    let is_explained = read.completeness == Completeness::Altered
        && !verdict.findings.is_empty()
        && verdict.findings.iter().all(is_of_completeness);
    if !is_explained || is_cut {
        tell(&read.completeness, is_cut, &mut integrity, &mut completeness);
    }
    if verdict.rootless {
        remarks.push(UNPROVED.to_owned());
    }
    if let (Some(why), false) = (&read.checkpoint, is_cut) {
        integrity.wrong(
            "checkpoint_not_believed",
            format!("the checkpoint in the file is not believed: {why}. {ROTATED}"),
        );
    }
    let header = read.header.as_ref();
    let (lines, left_out) = (verdict.lines, read.left_out);
    let filter = header.and_then(|header| header.filter.as_ref());
    match (filter, filter.and_then(only_after)) {
        (Some(_), Some(after)) if left_out > after => completeness.wrong(
            "left_out",
            format!(
                "{} lines are left out, and the file says that only the first {} are",
                HumanCount(left_out),
                HumanCount(after)
            ),
        ),
        _ => {}
    }
    match filter {
        Some(filter) => remarks
            .push(format!("It holds what passes the filter {filter}, as the server applied it.")),
        None if left_out > 0 => completeness.wrong(
            "left_out",
            format!(
                "{} {} left out, and the file names no filter",
                lines_of(left_out),
                if left_out == 1 { "is" } else { "are" }
            ),
        ),
        None => {}
    }
    Report {
        of: Format::Jsonl.to_string(),
        origins: header.map(|header| header.origin.clone()).into_iter().collect(),
        lines,
        left_out,
        proved: verdict.proved,
        unproved: (lines + left_out).saturating_sub(verdict.proved),
        checkpoints: verdict.held,
        keys: Vec::new(),
        trusts_database: false,
        signed: verdict.proved > 0 || (lines == 0 && read.completeness == Completeness::Whole),
        integrity,
        completeness,
        seconds: 0.0,
        remarks,
    }
}

/// CSV and OCSF.
fn of_table(read: TableReport, given: &Given, cut_off: bool) -> Report {
    let (mut integrity, mut completeness) = (Answer::sound(), Answer::sound());
    let is_cut = cut_off || read.completeness == Completeness::CutOff;
    let taken_out =
        read.taken_out.iter().map(|(first, last)| Finding::Deleted { first: *first, last: *last });
    let taken_out: Vec<_> = if is_cut { Vec::new() } else { taken_out.collect() };
    let missing = taken_out.len() as u64;
    sort(&taken_out, missing, &mut integrity, &mut completeness, Finding::to_string);
    if taken_out.is_empty() {
        tell(&read.completeness, is_cut, &mut integrity, &mut completeness);
    }
    if !is_cut && taken_out.is_empty() && read.completeness != Completeness::Whole {
        completeness.wrong(
            NOT_KNOWN,
            "whether lines are missing can't be told: only the signature says how many there were, and it is not of this file",
        );
    }
    if let Some(why) = &read.checkpoint {
        let says = format!("the checkpoint in the file is not believed: {why}");
        integrity.wrong("checkpoint_not_believed", says);
    }
    let manifest = read.manifest.as_ref();
    let mut remarks = vec![
        "Its lines are in the clear, so they can't be hashed: the signature says that they are those that the server wrote. JSON Lines prove \
         each line."
            .to_owned(),
    ];
    if !taken_out.is_empty() {
        remarks.push(UNPROVED.to_owned());
    }
    given.tell(&mut integrity, &mut remarks);
    if let Some(filter) = manifest.and_then(|manifest| manifest.filter.as_ref()) {
        remarks
            .push(format!("It holds what passes the filter {filter}, as the server applied it."));
    }
    let mut held = 0;
    if let Some(manifest) = manifest {
        let (first, last) = manifest.range;
        let range = format!(
            "It was made of the lines {} to {} of the book",
            HumanCount(first),
            HumanCount(last)
        );
        remarks.push(match manifest.version {
            // What the database said of a checkpoint, which nobody had signed.
            1 => format!("{range}."),
            _ => format!("{range}, at {}.", manifest.made_at),
        });
        let all = last.saturating_add(1).saturating_sub(first);
        if manifest.has_all() && read.lines != all && read.taken_out.is_empty() {
            completeness.wrong(
                "left_out",
                format!(
                    "it holds {} of the {} lines from {} to {}, and names no filter",
                    HumanCount(read.lines),
                    HumanCount(all),
                    HumanCount(first),
                    HumanCount(last)
                ),
            );
        }
        for Checkpoint { size, root, .. } in &given.believed {
            if *size > last {
                let finding = json!({ "kind": "cut_tail", "lines": last, "size": size });
                completeness.add(finding, shorter(last, *size));
            } else if *size < last {
                let why = "can't be held against this file, which has the root of all its lines alone: take JSON Lines";
                unheld(*size, why, &mut completeness);
            } else {
                held += 1;
                if *root != manifest.root {
                    let forked = Finding::Forked { agrees: 0, differs: *size };
                    let finding = serde_json::to_value(&forked).unwrap_or_default();
                    integrity.add(finding, forked.to_string());
                }
            }
        }
    }
    Report {
        of: read.format.to_string(),
        origins: manifest.map(|manifest| manifest.origin.clone()).into_iter().collect(),
        lines: read.lines,
        left_out: 0,
        proved: 0,
        unproved: 0,
        checkpoints: held,
        keys: Vec::new(),
        trusts_database: false,
        signed: read.completeness == Completeness::Whole && !is_cut,
        integrity,
        completeness,
        seconds: 0.0,
        remarks,
    }
}

/// What the manifest says of the file.
fn tell(told: &Completeness, is_cut: bool, integrity: &mut Answer, completeness: &mut Answer) {
    match told {
        _ if is_cut => completeness.wrong(
            "file_cut_off",
            "the file has no end: it was cut off, or the export was broken off, and nothing signed says what it held. Where the export was \
             broken off and its .resume file is beside it: entrybook audit export --resume; else export it again",
        ),
        Completeness::Whole | Completeness::CutOff => {}
        Completeness::Altered => integrity.wrong(
            "file_altered",
            "the signed manifest at its end is of other bytes: something in the file was changed, added, taken away or moved, or stands behind its end",
        ),
        Completeness::NotSigned(why) => {
            integrity.wrong(
                "wrong_key",
                format!("the manifest at its end is not believed: {why}. {ROTATED}"),
            );
            let says = "only the signature says how many lines there were, and it is not believed";
            completeness.wrong(NOT_KNOWN, says);
        }
    }
}
