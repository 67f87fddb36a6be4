//! Exports: lines of the book in a file that proves them without a database or a network.
//!
//! Every line of the file is a JSON object. Leaves are their canonical bytes, so that a line's hash is
//! that of the file's line. They come in runs of neighbours, each run after the hashes of its lines;
//! between runs, what the filter leaves out is stood for by the hashes of the fewest complete subtrees.
//! So the root of the whole book follows from any export, in one pass. The last line is a manifest,
//! signed over all bytes before it: without it the file was cut off.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use signed_note::{Note, Signer};

use crate::{CheckpointError, Hash, Tree, subtrees};

mod found;
mod reader;
mod resume;

pub use found::{Looked, look};
pub use reader::{Reader, Report};
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
        /// By which an older key of the log proves the one that has signed.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        hand_overs: Vec<String>,
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

    /// The SHA-256 of all bytes that were written.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        self.digest.clone().finalize().into()
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

    /// Ends it: signs what was written, and adds the checkpoint that it goes up to, and the notes by which the keys
    /// of the log have handed over to each other.
    pub fn end(
        mut self,
        signer: &dyn Signer,
        checkpoint: &[u8],
        hand_overs: &[String],
    ) -> Result<Vec<u8>, WriteError> {
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
            hand_overs: hand_overs.to_vec(),
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

#[cfg(test)]
mod tests;
