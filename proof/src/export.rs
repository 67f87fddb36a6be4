//! Exports: lines of the book in a file that proves them without a database or a network.
//!
//! Every line of the file is a JSON object. Leaves are their canonical bytes, so that a line's hash is
//! that of the file's line. They come in runs of neighbours, each run after the hashes of its lines;
//! between runs, what the filter leaves out is stood for by the hashes of the fewest complete subtrees.
//! So the root of the whole book follows from any export, in one pass. The last line is a manifest,
//! signed over all bytes before it: without it the file was cut off.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};
use signed_note::{Note, Signer};

use crate::{
    Audit, Checkpoint, CheckpointError, Hash, Leaf, Line, Tree, Verdict,
    checkpoint::{believe, verifiers},
    hash_of, subtrees,
};

mod resume;

pub use resume::{ResumeError, Resumed};

/// The version of the form of exports.
const VERSION: u32 = 1;
/// So many lines are in a run at most.
pub const RUN: usize = 256;
/// No book has more lines: their positions are whole numbers of JSON.
const MOST: u64 = (1 << 53) - 1;
/// How a line begins that is a leaf: `event_type` is the first of its members.
const LEAF: &[u8] = b"{\"event_type\":";

/// The first line: of which log it is, and which of its lines it was to hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    pub v: u32,
    /// The name of the log.
    pub origin: String,
    /// What was asked for; nothing where it is the whole book.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<serde_json::Value>,
}

/// A line that is no leaf.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum Control {
    Export(Header),
    /// The leaves that follow: the position of the first, and their hashes, one after the other.
    Run {
        first: u64,
        hashes: String,
    },
    /// Lines that are left out, and the hashes of the subtrees over them.
    Gap {
        first: u64,
        last: u64,
        hashes: String,
    },
    End {
        manifest: String,
        checkpoint: String,
    },
}

/// Writes an export; what it gives back is the next part of the file.
#[derive(Clone)]
pub struct Writer {
    origin: String,
    tree: Tree,
    lines: u64,
    digest: Sha256,
}

/// Why an export could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("a run has at most {RUN} lines, and as many hashes as lines")]
    Run,
    #[error("{given} hashes stand for lines {first} to {last}, and {needed} are needed")]
    Gap { first: u64, last: u64, given: usize, needed: usize },
    #[error("it could not be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error(transparent)]
    Signature(#[from] CheckpointError),
}

impl Writer {
    /// Begins one.
    pub fn new(
        origin: &str,
        filter: Option<serde_json::Value>,
    ) -> Result<(Self, Vec<u8>), WriteError> {
        let mut writer = Self::of(origin);
        let header = Header { v: VERSION, origin: origin.to_owned(), filter };
        let bytes = writer.control(&Control::Export(header))?;
        Ok((writer, bytes))
    }

    fn of(origin: &str) -> Self {
        let (tree, digest) = (Tree::default(), Sha256::default());
        Self { origin: origin.to_owned(), tree, lines: 0, digest }
    }

    /// How many leaves were written.
    #[must_use]
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// The root of the lines so far, those that were left out included.
    #[must_use]
    pub fn root(&self) -> Hash {
        self.tree.root()
    }

    /// The position of the next line.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.tree.size() + 1
    }

    /// The next lines: their hashes as they are kept, and their canonical bytes.
    pub fn run(&mut self, hashes: &[Hash], leaves: &[Vec<u8>]) -> Result<Vec<u8>, WriteError> {
        if hashes.len() != leaves.len() || hashes.len() > RUN {
            return Err(WriteError::Run);
        }
        let first = self.next();
        let mut bytes = self.control(&Control::Run { first, hashes: joined(hashes) })?;
        for (hash, leaf) in hashes.iter().zip(leaves) {
            self.tree.push(*hash, |_| {});
            let begins = bytes.len();
            bytes.extend_from_slice(leaf);
            bytes.push(b'\n');
            self.digest.update(bytes.get(begins..).unwrap_or_default());
        }
        self.lines += leaves.len() as u64;
        Ok(bytes)
    }

    /// Leaves out the next lines up to `last`: the hashes of the [`subtrees`] over them.
    pub fn gap(&mut self, last: u64, hashes: &[Hash]) -> Result<Vec<u8>, WriteError> {
        let first = self.next();
        let cuts: Vec<_> = subtrees(first - 1, last).collect();
        if cuts.len() != hashes.len() || cuts.is_empty() {
            let (given, needed) = (hashes.len(), cuts.len());
            return Err(WriteError::Gap { first, last, given, needed });
        }
        for ((_, height), hash) in cuts.into_iter().zip(hashes) {
            self.tree.push_subtree(height, *hash);
        }
        self.control(&Control::Gap { first, last, hashes: joined(hashes) })
    }

    /// Ends it: signs what was written, and adds the checkpoint that it goes up to.
    pub fn end(mut self, signer: &dyn Signer, checkpoint: &[u8]) -> Result<Vec<u8>, WriteError> {
        let text = manifest(
            &self.origin,
            self.tree.size(),
            self.lines,
            self.tree.root(),
            &self.digest.clone().finalize(),
        );
        let text_of = |note: &[u8]| String::from_utf8_lossy(note).into_owned();
        self.control(&Control::End {
            manifest: text_of(&sign(&text, signer)?),
            checkpoint: text_of(checkpoint),
        })
    }

    fn control(&mut self, control: &Control) -> Result<Vec<u8>, WriteError> {
        let mut bytes = serde_json::to_vec(control)?;
        bytes.push(b'\n');
        self.digest.update(&bytes);
        Ok(bytes)
    }
}

/// Signs a text of whole lines: a note (C2SP signed-note). For the manifests of files in other forms.
pub fn sign(text: &str, signer: &dyn Signer) -> Result<Vec<u8>, CheckpointError> {
    let mut note = Note::new(text.as_bytes(), &[]).map_err(CheckpointError::Signing)?;
    note.add_sigs(&[signer]).map_err(CheckpointError::Signing)?;
    Ok(note.to_bytes())
}

/// What is signed of an export.
fn manifest(origin: &str, size: u64, lines: u64, root: Hash, digest: &[u8]) -> String {
    let digest = BASE64.encode(digest);
    format!("entrybook export v{VERSION}\n{origin}\n{size}\n{lines}\n{root}\n{digest}\n")
}

fn joined(hashes: &[Hash]) -> String {
    let mut bytes = Vec::with_capacity(hashes.len() * 32);
    for Hash(hash) in hashes {
        bytes.extend_from_slice(hash);
    }
    BASE64.encode(bytes)
}

fn split(hashes: &str) -> Option<Vec<Hash>> {
    let bytes = BASE64.decode(hashes).ok()?;
    let (hashes, rest) = bytes.as_chunks::<32>();
    rest.is_empty().then(|| hashes.iter().copied().map(Hash).collect())
}

/// Whether a file is all of the export that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Completeness {
    /// The manifest is signed, and is of this file.
    Whole,
    /// It has no end.
    CutOff,
    /// Its manifest is of other bytes: something was added, taken away, or changed.
    Altered,
    /// Nobody who may has signed its manifest.
    NotSigned(String),
}

/// What reading an export came to.
#[derive(Debug)]
pub struct Report {
    pub header: Option<Header>,
    /// Of the lines that it holds.
    pub verdict: Verdict,
    /// How many lines of the book its filter leaves out.
    pub left_out: u64,
    pub completeness: Completeness,
    /// Lines of the file that are none of an export, by their number: the first of them.
    pub unreadable: Vec<u64>,
    /// Why the checkpoint at its end is not believed.
    pub checkpoint: Option<String>,
}

impl Report {
    /// Everything that it holds is proved, and it is all there.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.verdict.is_sound()
            && self.verdict.unhashed == 0
            && self.completeness == Completeness::Whole
            && self.unreadable.is_empty()
            && self.checkpoint.is_none()
    }
}

/// Reads an export, line by line.
pub struct Reader {
    keys: Vec<String>,
    audit: Audit,
    header: Option<Header>,
    /// The hashes of the run that is read.
    hashes: Vec<Hash>,
    run: Vec<Found>,
    left_out: u64,
    lines: u64,
    digest: Sha256,
    number: u64,
    unreadable: Vec<u64>,
    end: Option<(String, String, Vec<u8>)>,
    behind_end: bool,
}

impl Reader {
    /// `keys` are those whose signatures are believed; `checkpoints` come from elsewhere, and are held
    /// against the book beside the one in the file.
    #[must_use]
    pub fn new(keys: Vec<String>, checkpoints: Vec<Checkpoint>) -> Self {
        Self {
            keys,
            audit: Audit::new(checkpoints),
            header: None,
            hashes: Vec::new(),
            run: Vec::new(),
            left_out: 0,
            lines: 0,
            digest: Sha256::default(),
            number: 0,
            unreadable: Vec::new(),
            end: None,
            behind_end: false,
        }
    }

    /// The next line of the file, with its line feed.
    pub fn line(&mut self, line: &[u8]) {
        self.number += 1;
        self.behind_end |= self.end.is_some();
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        if text.starts_with(LEAF) {
            self.digest.update(line);
            self.lines += 1;
            // Its place in the run is what an unreadable one claims.
            let next = self.size() + self.run.len() as u64 + 1;
            let found = Found::read(text, next);
            if !found.is_readable() {
                self.unreadable();
            }
            self.run.push(found);
            // A file with more lines than hashes must not fill the memory.
            if self.run.len() > 4 * RUN {
                self.close_run();
            }
            return;
        }
        self.close_run();
        match serde_json::from_slice(text) {
            Ok(Control::Export(header)) if self.number == 1 && header.v == VERSION => {
                self.header = Some(header);
            }
            Ok(Control::Run { first, hashes }) if first == self.size() + 1 => {
                match split(&hashes) {
                    Some(hashes) if hashes.len() <= RUN => self.hashes = hashes,
                    _ => self.unreadable(),
                }
            }
            Ok(Control::Gap { first, last, hashes }) if first == self.size() + 1 => {
                self.gap(last, &hashes);
            }
            Ok(Control::End { manifest, checkpoint }) if self.end.is_none() => {
                // Of all that stands before it.
                let digest = self.digest.clone().finalize().to_vec();
                self.end = Some((manifest, checkpoint, digest));
            }
            _ => self.unreadable(),
        }
        self.digest.update(line);
    }

    /// How many lines of the book were read or left out.
    fn size(&self) -> u64 {
        self.audit.tree().size()
    }

    fn gap(&mut self, last: u64, hashes: &str) {
        let cuts: Vec<_> = subtrees(self.size(), last.min(MOST)).collect();
        match split(hashes) {
            Some(hashes) if hashes.len() == cuts.len() && !cuts.is_empty() && last <= MOST => {
                let cuts = cuts.into_iter().map(|(_, height)| height);
                let hashes: Vec<_> = cuts.zip(hashes).collect();
                self.left_out += last - self.size();
                self.audit.gap(&hashes);
            }
            _ => self.unreadable(),
        }
    }

    fn close_run(&mut self) {
        let (hashes, run) = (std::mem::take(&mut self.hashes), std::mem::take(&mut self.run));
        if hashes.is_empty() && run.is_empty() {
            return;
        }
        self.audit.window(&run, &hashes, &[]);
    }

    fn unreadable(&mut self) {
        if self.unreadable.len() < RUN {
            self.unreadable.push(self.number);
        }
    }

    /// What it has come to.
    #[must_use]
    pub fn end(mut self) -> Report {
        self.close_run();
        let origin = self.header.as_ref().map(|header| header.origin.clone()).unwrap_or_default();
        let (completeness, checkpoint) = match &self.end {
            None => (Completeness::CutOff, None),
            Some((manifest_note, note, digest)) => {
                let expected =
                    manifest(&origin, self.size(), self.lines, self.audit.tree().root(), digest);
                let completeness = match signed(manifest_note, &self.keys) {
                    Err(error) => Completeness::NotSigned(error.to_string()),
                    Ok(text) if text == expected.as_bytes() && !self.behind_end => {
                        Completeness::Whole
                    }
                    Ok(_) => Completeness::Altered,
                };
                let refused = match Checkpoint::verify(note.as_bytes(), &origin, &self.keys) {
                    Ok(checkpoint) if checkpoint.size == self.size() => {
                        self.audit.hold_against(checkpoint);
                        None
                    }
                    Ok(checkpoint) => Some(format!(
                        "it is of {} lines, and the export goes up to line {}",
                        checkpoint.size,
                        self.size()
                    )),
                    Err(error) => Some(error.to_string()),
                };
                (completeness, refused)
            }
        };
        let Self { header, left_out, unreadable, .. } = self;
        let verdict = self.audit.end();
        Report { header, verdict, left_out, completeness, unreadable, checkpoint }
    }
}

/// The text of a note that one of the keys has signed.
pub fn signed(note: &str, keys: &[String]) -> Result<Vec<u8>, CheckpointError> {
    believe(note.as_bytes(), &verifiers(keys)?).map(|note| note.text().to_owned())
}

/// A leaf as it stands in the file.
struct Found {
    position: u64,
    hash: Hash,
    text: Option<String>,
}

/// The members of a leaf.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Members<'a> {
    event_type: String,
    event_version: String,
    #[serde(borrow)]
    metadata: &'a RawValue,
    #[serde(borrow)]
    payload: &'a RawValue,
    position: u64,
    recorded_at: DateTime<Utc>,
    sequence: u64,
    stream_id: String,
    stream_type: String,
    v: u32,
}

impl Found {
    fn read(text: &[u8], next: u64) -> Self {
        let hash = hash_of(text);
        let text = str::from_utf8(text).ok();
        let members = text.and_then(|text| serde_json::from_str::<Members<'_>>(text).ok());
        match members.filter(|members| members.v == 1) {
            Some(members) => {
                Self { position: members.position, hash, text: text.map(str::to_owned) }
            }
            None => Self { position: next, hash, text: None },
        }
    }

    fn is_readable(&self) -> bool {
        self.text.is_some()
    }
}

impl Line for Found {
    fn position(&self) -> u64 {
        self.position
    }

    fn hash_at(&self, position: u64) -> Hash {
        if position == self.position {
            return self.hash;
        }
        let moved = || {
            let members: Members<'_> = serde_json::from_str(self.text.as_deref()?).ok()?;
            let leaf = Leaf {
                position,
                stream_type: &members.stream_type,
                stream_id: &members.stream_id,
                sequence: members.sequence,
                event_type: &members.event_type,
                event_version: &members.event_version,
                recorded_at: members.recorded_at,
                payload: members.payload.get(),
                metadata: members.metadata.get(),
            };
            leaf.hash().ok()
        };
        // What is no leaf belongs nowhere: its own hash stands at no other position.
        moved().unwrap_or(self.hash)
    }
}

#[cfg(test)]
mod tests;
