//! Files in which each line of the book is a record of its own, in the clear: CSV and OCSF. How they
//! are written, and how it is told that they are whole.

use proof::{Followed, Trust, export::Completeness};
use sha2::{Digest as _, Sha256};

use super::{
    Asked, ExportError, Format, Manifest, ManifestError, Source, csv, manifest::VERSION, ocsf,
    opener::Opener, walker::Walker,
};

/// No record is longer.
const LONGEST: usize = 1 << 20;

/// Writes one.
pub(super) struct Rows {
    format: Format,
    opener: Opener,
    walker: Walker,
    digest: Sha256,
    written: u64,
}

impl Rows {
    pub(super) fn new(_source: &Source, asked: &Asked) -> Self {
        Self::resumed(asked.format, Sha256::default(), 0)
    }

    /// Goes on behind so many lines of the book, which are in bytes of this digest.
    pub(super) fn resumed(format: Format, digest: Sha256, written: u64) -> Self {
        Self { format, opener: Opener::default(), walker: Walker::default(), digest, written }
    }

    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Of all that was written.
    pub(super) fn digest(&self) -> [u8; 32] {
        self.digest.clone().finalize().into()
    }

    pub(super) fn begin(&mut self) -> Vec<u8> {
        let header = if self.format == Format::Csv { csv::header() } else { Vec::new() };
        self.digest.update(&header);
        header
    }

    /// The next lines after a position, and up to which they go.
    pub(super) async fn next(
        &mut self,
        source: &Source,
        asked: &Asked,
        position: u64,
    ) -> Result<(Vec<u8>, u64), ExportError> {
        let (rows, reached) = self.walker.next(source, &asked.filter, position).await?;
        let mut part = Vec::new();
        for line in self.opener.open(&source.book, rows).await? {
            part.extend(match self.format {
                Format::Csv => csv::line(&line),
                Format::Ocsf | Format::Jsonl => ocsf::line(&line, &source.signed.origin)?,
            });
            self.written += 1;
        }
        self.digest.update(&part);
        Ok((part, reached))
    }

    /// The last record. There is none where the lines that were read don't have the root that was signed.
    pub(super) async fn end(
        &mut self,
        source: &Source,
        asked: &Asked,
    ) -> Result<Vec<u8>, ExportError> {
        let size = source.signed.size;
        if !self.walker.is_signed(source).await? {
            return Err(ExportError::OtherRoot { size });
        }
        let lines = self.written;
        if let Some(all) = asked.all(size)
            && all != lines
        {
            return Err(ExportError::Incomplete { lines, all });
        }
        let manifest = Manifest {
            version: VERSION,
            format: self.format,
            origin: source.signed.origin.clone(),
            range: (asked.after + 1, size),
            lines: self.written,
            root: source.signed.root,
            made_at: source.book.clock().now(),
            digest: self.digest(),
            filter: asked.named.clone(),
        };
        let note = manifest.sign(&source.signer)?;
        let checkpoint = source.signed.with_cosignatures();
        let checkpoint = String::from_utf8_lossy(&checkpoint);
        Ok(last_record(&manifest, &note, &checkpoint, &source.hand_overs)?)
    }
}

/// The last record of a file with this manifest. All of it follows from what is signed.
fn last_record(
    manifest: &Manifest,
    note: &str,
    checkpoint: &str,
    hand_overs: &[String],
) -> Result<Vec<u8>, serde_json::Error> {
    match manifest.format {
        Format::Csv => csv::end(note, checkpoint, hand_overs),
        Format::Ocsf | Format::Jsonl => {
            ocsf::end((note, checkpoint, hand_overs), &manifest.origin, manifest.made_at)
        }
    }
}

/// Reads one, line by line.
pub struct TableReader {
    format: Format,
    /// Of all whole records.
    digest: Sha256,
    /// What there is of a record that is not at its end.
    record: Vec<u8>,
    is_quoted: bool,
    header: bool,
    /// How many lines of the book there are.
    records: u64,
    seen: Seen,
    end: Option<End>,
    behind_end: bool,
    too_long: bool,
}

/// What stands in the last record.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Notes {
    pub(super) manifest: String,
    pub(super) checkpoint: String,
    pub(super) hand_overs: Vec<String>,
}

/// Which lines of the book were read, in the order of the file.
#[derive(Default)]
struct Seen {
    first: u64,
    last: u64,
    /// Lines that are not there between those that are: the first and the last of each run.
    holes: Vec<(u64, u64)>,
    /// They don't follow each other, or there are more holes than are told.
    is_odd: bool,
}

/// So many holes are told.
const HOLES: usize = 256;

impl Seen {
    fn line(&mut self, position: Option<u64>) {
        let Some(position) = position.filter(|position| *position > self.last) else {
            self.is_odd = true;
            return;
        };
        if self.first == 0 {
            self.first = position;
        } else if position > self.last + 1 {
            self.is_odd |= self.holes.len() >= HOLES;
            self.holes.truncate(HOLES);
            self.holes.push((self.last + 1, position - 1));
        }
        self.last = position;
    }

    /// The runs of lines that were taken out of a file that had them all; nothing where that is not all that was
    /// done to it.
    fn taken_out(mut self, (first, last): (u64, u64), read: u64) -> Vec<(u64, u64)> {
        if self.first == 0 {
            self.last = first.saturating_sub(1);
        } else if self.first > first {
            self.holes.insert(0, (first, self.first - 1));
        }
        if self.last < last {
            self.holes.push((self.last + 1, last));
        }
        let missing: u64 = self.holes.iter().map(|(from, to)| to - from + 1).sum();
        let adds_up = self.first >= first || self.first == 0;
        let all = last.saturating_add(1).saturating_sub(first);
        let is_all = adds_up && !self.is_odd && self.last <= last && read + missing == all;
        if is_all { self.holes } else { Vec::new() }
    }
}

struct End {
    notes: Notes,
    /// All of it.
    record: Vec<u8>,
}

/// What reading one came to.
#[derive(Debug)]
pub struct TableReport {
    pub format: Format,
    /// How many lines of the book it holds.
    pub lines: u64,
    pub completeness: Completeness,
    /// Lines that are not there, of a file that had all lines: the first and the last of each run. Nothing where
    /// something else was done to it as well, as far as that can be told.
    pub taken_out: Vec<(u64, u64)>,
    /// What was signed, if that is believed.
    pub manifest: Option<Manifest>,
    /// Why the checkpoint at its end is not believed.
    pub checkpoint: Option<String>,
    /// What of the hand-overs in the file is believed.
    pub followed: Followed,
    /// The keys that are believed, with those that were handed over to.
    pub trust: Trust,
}

impl TableReader {
    /// A reader for the file that begins with this line; nothing where it is of neither form.
    #[must_use]
    pub fn of(first: &[u8]) -> Option<Self> {
        let format = if first == csv::header() {
            Format::Csv
        } else if ocsf::is_event(first) {
            Format::Ocsf
        } else if csv::position(first).is_some() {
            // Its header was taken away.
            Format::Csv
        } else {
            return None;
        };
        Some(Self {
            format,
            digest: Sha256::default(),
            record: Vec::new(),
            is_quoted: false,
            header: first == csv::header(),
            records: 0,
            seen: Seen::default(),
            end: None,
            behind_end: false,
            too_long: false,
        })
    }

    /// The next line of the file, with its line feed.
    pub fn line(&mut self, line: &[u8]) {
        self.behind_end |= self.end.is_some();
        if self.record.len() + line.len() > LONGEST {
            self.too_long = true;
            self.record.clear();
        }
        self.record.extend_from_slice(line);
        // Each quote ends what is quoted, or begins it; two of them within do both.
        let quotes = line.iter().filter(|byte| **byte == b'"').count();
        self.is_quoted ^= self.format == Format::Csv && quotes % 2 == 1;
        let is_whole = match self.format {
            Format::Csv => !self.is_quoted && line.ends_with(b"\r\n"),
            Format::Ocsf | Format::Jsonl => line.ends_with(b"\n"),
        };
        if is_whole {
            self.record();
        }
    }

    fn record(&mut self) {
        let end = match self.format {
            Format::Csv => csv::read_end(&self.record),
            Format::Ocsf | Format::Jsonl => ocsf::read_end(&self.record),
        };
        if let Some(notes) = end {
            let record = std::mem::take(&mut self.record);
            self.end = Some(End { notes, record });
            return;
        }
        self.digest.update(&self.record);
        if !std::mem::take(&mut self.header) {
            self.records += 1;
            self.seen.line(match self.format {
                Format::Csv => csv::position(&self.record),
                Format::Ocsf | Format::Jsonl => ocsf::position(&self.record),
            });
        }
        self.record.clear();
    }

    /// Whether the last record was read.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.end.is_some()
    }

    /// Something stands behind the last record that is no line.
    pub fn goes_on(&mut self) {
        self.behind_end |= self.has_ended();
    }

    /// What it has come to; `trust` is in the keys whose signatures are believed.
    #[must_use]
    pub fn end(self, trust: impl Into<Trust>) -> TableReport {
        let rest = !self.record.is_empty() || self.behind_end || self.too_long;
        let mut report = TableReport {
            format: self.format,
            lines: self.records,
            completeness: Completeness::CutOff,
            taken_out: Vec::new(),
            manifest: None,
            checkpoint: None,
            followed: Followed::default(),
            trust: trust.into(),
        };
        let Some(End { notes, record }) = self.end else { return report };
        let Notes { manifest: note, checkpoint, hand_overs } = notes;
        report.followed = report.trust.follow(hand_overs.iter().map(String::as_str));
        let manifest = match Manifest::verify(&note, &report.trust) {
            Ok(manifest) => manifest,
            Err(ManifestError::Malformed) => {
                report.completeness = Completeness::Altered;
                return report;
            }
            Err(error) => {
                report.completeness = Completeness::NotSigned(error.to_string());
                return report;
            }
        };
        let digest: [u8; 32] = self.digest.finalize().into();
        let found = (report.format, report.lines, digest);
        let is_so = (manifest.format, manifest.lines, manifest.digest) == found;
        // The last record is not in the digest. Whatever else is in it was put there by somebody.
        let is_end =
            last_record(&manifest, &note, &checkpoint, &hand_overs).is_ok_and(|end| end == record);
        report.checkpoint = match report.trust.checkpoint(checkpoint.as_bytes(), &manifest.origin) {
            Ok(signed) if (signed.size, signed.root) == (manifest.range.1, manifest.root) => None,
            Ok(signed) => Some(format!("it is another one, of {} lines", signed.size)),
            Err(error) => Some(error.to_string()),
        };
        report.completeness =
            if is_so && is_end && !rest { Completeness::Whole } else { Completeness::Altered };
        if report.completeness == Completeness::Altered
            && is_end
            && !rest
            && manifest.format == report.format
            && manifest.has_all()
        {
            report.taken_out = self.seen.taken_out(manifest.range, report.lines);
        }
        report.manifest = Some(manifest);
        report
    }
}
