//! Files in which each line of the book is a record of its own, in the clear: CSV and OCSF. How they
//! are written, and how it is told that they are whole.

use projections::{
    audit_history::{self, Order},
    transparency,
};
use proof::{Checkpoint, export::Completeness};
use sha2::{Digest as _, Sha256};

use super::{
    Asked, ExportError, Format, Manifest, ManifestError, Source, csv, ocsf, opener::Opener,
};

/// So many lines are read at once.
const PAGE: i64 = 256;
/// No record is longer.
const LONGEST: usize = 1 << 20;

/// Writes one.
pub(super) struct Rows {
    format: Format,
    opener: Opener,
    digest: Sha256,
    written: u64,
}

impl Rows {
    pub(super) fn new(_source: &Source, asked: &Asked) -> Self {
        let (digest, opener) = (Sha256::default(), Opener::default());
        Self { format: asked.format, opener, digest, written: 0 }
    }

    /// Goes on behind so many lines of the book, which are in bytes of this digest.
    pub(super) fn resumed(format: Format, digest: Sha256, written: u64) -> Self {
        Self { format, opener: Opener::default(), digest, written }
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
        let size = source.signed.size;
        let after = Some(position.cast_signed());
        let found =
            audit_history::page(&source.pool, &asked.filter, Order::Oldest, after, PAGE).await?;
        let reached = found.next.map_or(size, |next| size.min(next.unsigned_abs()));
        let mut rows = found.rows;
        rows.retain(|row| row.position.unsigned_abs() <= size);
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

    /// The last record. There is none for a book whose kept hashes don't have the root that was signed.
    pub(super) async fn end(
        &mut self,
        source: &Source,
        asked: &Asked,
    ) -> Result<Vec<u8>, ExportError> {
        let size = source.signed.size;
        let root = transparency::root(&mut *source.pool.acquire().await?, size).await?;
        if root != source.signed.root {
            return Err(ExportError::OtherRoot { size });
        }
        let manifest = Manifest {
            format: self.format,
            origin: source.signed.origin.clone(),
            range: (asked.after + 1, size),
            lines: self.written,
            root,
            signed_at: source.signed.signed_at,
            digest: self.digest(),
            filter: asked.named.clone(),
        };
        let note = manifest.sign(&source.signer)?;
        let checkpoint = source.signed.with_cosignatures();
        Ok(last_record(&manifest, &note, &String::from_utf8_lossy(&checkpoint))?)
    }
}

/// The last record of a file with this manifest. All of it follows from what is signed.
fn last_record(
    manifest: &Manifest,
    note: &str,
    checkpoint: &str,
) -> Result<Vec<u8>, serde_json::Error> {
    match manifest.format {
        Format::Csv => Ok(csv::end(note, checkpoint)),
        Format::Ocsf | Format::Jsonl => {
            ocsf::end(note, checkpoint, &manifest.origin, manifest.signed_at)
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
    end: Option<End>,
    behind_end: bool,
    too_long: bool,
}

struct End {
    manifest: String,
    checkpoint: String,
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
    /// What was signed, if that is believed.
    pub manifest: Option<Manifest>,
    /// Why the checkpoint at its end is not believed.
    pub checkpoint: Option<String>,
}

impl TableReader {
    /// A reader for the file that begins with this line; nothing where it is of neither form.
    #[must_use]
    pub fn of(first: &[u8]) -> Option<Self> {
        let format = if first == csv::header() {
            Format::Csv
        } else if ocsf::is_event(first) {
            Format::Ocsf
        } else {
            return None;
        };
        Some(Self {
            format,
            digest: Sha256::default(),
            record: Vec::new(),
            is_quoted: false,
            header: format == Format::Csv,
            records: 0,
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
        if let Some((manifest, checkpoint)) = end {
            let record = std::mem::take(&mut self.record);
            self.end = Some(End { manifest, checkpoint, record });
            return;
        }
        self.digest.update(&self.record);
        self.record.clear();
        if !std::mem::take(&mut self.header) {
            self.records += 1;
        }
    }

    /// What it has come to; `keys` are those whose signatures are believed.
    #[must_use]
    pub fn end(self, keys: &[String]) -> TableReport {
        let rest = !self.record.is_empty() || self.behind_end || self.too_long;
        let Self { format, records: lines, .. } = self;
        let report = |completeness, manifest, checkpoint| TableReport {
            format,
            lines,
            completeness,
            manifest,
            checkpoint,
        };
        let Some(End { manifest: note, checkpoint, record }) = self.end else {
            return report(Completeness::CutOff, None, None);
        };
        let manifest = match Manifest::verify(&note, keys) {
            Ok(manifest) => manifest,
            Err(ManifestError::Malformed) => return report(Completeness::Altered, None, None),
            Err(error) => {
                return report(Completeness::NotSigned(error.to_string()), None, None);
            }
        };
        let digest: [u8; 32] = self.digest.finalize().into();
        let is_so = (manifest.format, manifest.lines, manifest.digest) == (format, lines, digest);
        // The last record is not in the digest. Whatever else is in it was put there by somebody.
        let is_end = last_record(&manifest, &note, &checkpoint).is_ok_and(|end| end == record);
        let refused = match Checkpoint::verify(checkpoint.as_bytes(), &manifest.origin, keys) {
            Ok(signed) if (signed.size, signed.root) == (manifest.range.1, manifest.root) => None,
            Ok(signed) => Some(format!("it is another one, of {} lines", signed.size)),
            Err(error) => Some(error.to_string()),
        };
        let completeness =
            if is_so && is_end && !rest { Completeness::Whole } else { Completeness::Altered };
        report(completeness, Some(manifest), refused)
    }
}
