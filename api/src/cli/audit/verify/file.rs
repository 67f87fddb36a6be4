//! What `entrybook audit export` has written.

use super::super::super::{Refused, usage};
use super::bar;
use super::report::{Answer, Report, sort};
use crate::export::{Format, TableReader, TableReport};
use anyhow::Context as _;
use indicatif::{HumanCount, ProgressBar};
use proof::Checkpoint;
use proof::export::{Completeness, Reader};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::time::Instant;

/// No line is longer.
const LONGEST: u64 = 1 << 20;
const BUFFER: usize = 1 << 20;
/// How often the bar is told, in lines.
const TELL: u64 = 5_000;

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
    let file =
        File::open(path).with_context(|| format!("{} could not be opened", path.display()))?;
    let length = file.metadata().map(|file| file.len()).unwrap_or_default();
    let bar = bar(length, "[{bar:24}] {percent:>3} %  {bytes} of {total_bytes}, {eta} left");
    let mut lines = Lines::new(BufReader::with_capacity(BUFFER, file), bar);
    let reading = || format!("{} could not be read", path.display());
    let first = lines.next().with_context(reading)?.map(<[u8]>::to_vec).unwrap_or_default();
    let mut report = if let Some(mut reader) = TableReader::of(&first) {
        reader.line(&first);
        while let Some(line) = lines.next().with_context(reading)? {
            reader.line(line);
        }
        of_table(reader.end(&keys), lines.cut_off)
    } else if first.starts_with(b"{\"export\":") || first.is_empty() {
        let given = Given::read(notes, &keys);
        let mut reader = Reader::new(keys.clone(), given.believed.clone());
        if !first.is_empty() {
            reader.line(&first);
        }
        while let Some(line) = lines.next().with_context(reading)? {
            reader.line(line);
        }
        of_lines(reader.end(), &given, lines.cut_off)
    } else {
        let name = path.display();
        let why = format!(
            "{name} is no export: it begins otherwise than `entrybook audit export` writes."
        );
        return Err(Refused(why).into());
    };
    lines.bar.finish_and_clear();
    report.keys = keys;
    report.seconds = begun.elapsed().as_secs_f64();
    Ok(report)
}

/// Checkpoints that somebody else has kept.
struct Given {
    believed: Vec<Checkpoint>,
    refused: Vec<String>,
}

impl Given {
    fn read(notes: &[Vec<u8>], keys: &[String]) -> Self {
        let mut given = Self { believed: Vec::new(), refused: Vec::new() };
        for note in notes {
            let origin = note.split(|byte| *byte == b'\n').next().unwrap_or_default();
            let origin = String::from_utf8_lossy(origin);
            match Checkpoint::verify(note, &origin, keys) {
                Ok(checkpoint) => given.believed.push(checkpoint),
                Err(error) => given.refused.push(format!(
                    "a checkpoint that was given, of the log {origin}, is not believed: {error}"
                )),
            }
        }
        given
    }
}

/// JSON Lines.
fn of_lines(read: proof::export::Report, given: &Given, cut_off: bool) -> Report {
    let (mut integrity, mut completeness) = (Answer::sound(), Answer::sound());
    sort(&read.verdict.findings, read.verdict.wrong, &mut integrity, &mut completeness);
    for line in &read.unreadable {
        integrity.wrong("unreadable", format!("line {line} of the file is none of an export"));
    }
    if read.verdict.unhashed > 0 {
        let many = HumanCount(read.verdict.unhashed);
        integrity.wrong(
            "unhashed",
            format!("{many} lines claim places in the book behind its last one"),
        );
    }
    for says in &given.refused {
        integrity.wrong("checkpoint_not_believed", says.as_str());
    }
    let is_cut = cut_off || read.completeness == Completeness::CutOff;
    tell(&read.completeness, is_cut, &mut integrity, &mut completeness);
    let mut own = 0;
    match (&read.checkpoint, is_cut) {
        (Some(why), false) => integrity.wrong(
            "checkpoint_not_believed",
            format!("the checkpoint in the file is not believed: {why}"),
        ),
        (None, false) => own = 1,
        (_, true) => {}
    }
    let header = read.header.as_ref();
    let (lines, left_out) = (read.verdict.lines, read.left_out);
    let mut remarks = Vec::new();
    match header.and_then(|header| header.filter.as_ref()) {
        Some(filter) => remarks
            .push(format!("It holds what passes the filter {filter}, as the server applied it.")),
        None if left_out > 0 => completeness.wrong(
            "left_out",
            format!("{} lines are left out, and the file names no filter", HumanCount(left_out)),
        ),
        None => {}
    }
    Report {
        of: Format::Jsonl.to_string(),
        origins: header.map(|header| header.origin.clone()).into_iter().collect(),
        lines,
        left_out,
        proved: read.verdict.proved,
        unproved: (lines + left_out).saturating_sub(read.verdict.proved),
        checkpoints: own + given.believed.len() as u64,
        keys: Vec::new(),
        trusts_database: false,
        integrity,
        completeness,
        seconds: 0.0,
        remarks,
    }
}

/// CSV and OCSF.
fn of_table(read: TableReport, cut_off: bool) -> Report {
    let (mut integrity, mut completeness) = (Answer::sound(), Answer::sound());
    let is_cut = cut_off || read.completeness == Completeness::CutOff;
    tell(&read.completeness, is_cut, &mut integrity, &mut completeness);
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
    if let Some(filter) = manifest.and_then(|manifest| manifest.filter.as_ref()) {
        remarks
            .push(format!("It holds what passes the filter {filter}, as the server applied it."));
    }
    if let Some((first, last)) = manifest.map(|manifest| manifest.range) {
        let (first, last) = (HumanCount(first), HumanCount(last));
        remarks.push(format!("It was made of the lines {first} to {last} of the book."));
    }
    Report {
        of: read.format.to_string(),
        origins: manifest.map(|manifest| manifest.origin.clone()).into_iter().collect(),
        lines: read.lines,
        left_out: 0,
        proved: 0,
        unproved: 0,
        checkpoints: 0,
        keys: Vec::new(),
        trusts_database: false,
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
            "the file has no end: it was cut off, or the export was broken off. Go on with it: entrybook audit export --resume",
        ),
        Completeness::Whole | Completeness::CutOff => {}
        Completeness::Altered => integrity.wrong(
            "file_altered",
            "the signed manifest at its end is of other bytes: something in the file was changed, added, taken away or moved",
        ),
        Completeness::NotSigned(why) => {
            integrity.wrong("wrong_key", format!("the manifest at its end is not believed: {why}"));
        }
    }
}

/// The lines of a file that are whole.
struct Lines<R> {
    file: R,
    line: Vec<u8>,
    /// The file ends within a line.
    cut_off: bool,
    bar: ProgressBar,
    number: u64,
    bytes: u64,
}

impl<R: BufRead> Lines<R> {
    fn new(file: R, bar: ProgressBar) -> Self {
        Self { file, line: Vec::new(), cut_off: false, bar, number: 0, bytes: 0 }
    }

    /// The next one, with its line feed. What is longer than any line can be comes in parts.
    fn next(&mut self) -> io::Result<Option<&[u8]>> {
        self.line.clear();
        let read = Read::take(&mut self.file, LONGEST).read_until(b'\n', &mut self.line)?;
        self.number += 1;
        self.bytes += read as u64;
        if self.number.is_multiple_of(TELL) {
            self.bar.set_position(self.bytes);
        }
        if !self.line.ends_with(b"\n") && (read as u64) < LONGEST {
            self.cut_off = read > 0;
            return Ok(None);
        }
        Ok(Some(&self.line))
    }
}
