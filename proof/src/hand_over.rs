//! The statement by which the key of a log hands over to the next one.
//!
//! It is a note (C2SP signed-note) that both keys have signed: the old one, because nobody else may say who signs
//! after it, and the new one, because nobody may hand over to a key that its holder does not have. Its first line
//! keeps it apart from everything else that the keys of a log sign. `docs/transparency-log.md` has its form.

use chrono::{DateTime, SecondsFormat, Utc};
use signed_note::{Note, Signer, StandardVerifier, Verifier};

use crate::{
    CheckpointError, NoteSigner,
    checkpoint::{believe, verifiers},
};

const HEAD: &str = "entrybook log key v1";

/// What a hand-over says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandOver {
    /// The name of the log.
    pub origin: String,
    /// The verifier key that signs from now on.
    pub key: String,
    /// The id of the key that hands over: eight hexadecimal digits.
    pub old_id: String,
    pub at: DateTime<Utc>,
    /// The smallest size of a checkpoint that the new key may sign.
    pub first: u64,
    /// The largest size of a checkpoint that the old key may sign. Sizes from `first` to here are an overlap.
    pub last: u64,
}

/// Why a hand-over is not believed.
#[derive(Debug, thiserror::Error)]
pub enum HandOverError {
    #[error("it is not a hand-over as docs/transparency-log.md has them")]
    Malformed,
    #[error("the key that hands over has not signed it: {0}")]
    Old(CheckpointError),
    #[error("the new key has not signed it: {0}")]
    New(CheckpointError),
}

impl HandOver {
    fn text(&self) -> String {
        let Self { origin, key, old_id, at, first, last } = self;
        let at = at.to_rfc3339_opts(SecondsFormat::Micros, true);
        format!("{HEAD}\n{origin}\n{key}\n{old_id}\n{at}\n{first}\n{last}\n")
    }

    /// The note that says it, signed by both keys.
    pub fn sign(&self, old: &NoteSigner, new: &NoteSigner) -> Result<String, CheckpointError> {
        let mut note = Note::new(self.text().as_bytes(), &[]).map_err(CheckpointError::Signing)?;
        note.add_sigs(&[old as &dyn Signer, new as &dyn Signer])
            .map_err(CheckpointError::Signing)?;
        Ok(String::from_utf8_lossy(&note.to_bytes()).into_owned())
    }

    /// Reads what a note says, whoever has signed it.
    pub fn read(note: &str) -> Result<Self, HandOverError> {
        let read = || {
            let (text, _) = note.split_once("\n\n")?;
            let mut lines = text.split('\n');
            let mut next = || lines.next();
            if next()? != HEAD {
                return None;
            }
            let read = Self {
                origin: next()?.to_owned(),
                key: next()?.to_owned(),
                old_id: next()?.to_owned(),
                at: DateTime::parse_from_rfc3339(next()?).ok()?.to_utc(),
                first: next()?.parse().ok()?,
                last: next()?.parse().ok()?,
            };
            // One form alone, so that two readers find the same in it.
            let key = StandardVerifier::new(&read.key).ok()?;
            let is_so = read.text().strip_suffix('\n') == Some(text)
                && key.name() == read.origin
                && read.old_id != format!("{:08x}", key.key_id())
                && read.first <= read.last.checked_add(1)?;
            is_so.then_some(read)
        };
        read().ok_or(HandOverError::Malformed)
    }

    /// Whether this verifier key is the one that hands over, by its name and its id.
    #[must_use]
    pub fn is_of(&self, key: &str) -> bool {
        StandardVerifier::new(key).is_ok_and(|key| {
            key.name() == self.origin && format!("{:08x}", key.key_id()) == self.old_id
        })
    }

    /// Reads a note, and believes it if this old key and the new one have both signed it.
    pub fn verify(note: &str, old: &str) -> Result<Self, HandOverError> {
        let says = Self::read(note)?;
        if !says.is_of(old) {
            return Err(HandOverError::Old(CheckpointError::Unsigned));
        }
        let by = |key: &str| {
            let verifiers = verifiers(&says.origin, &[key.to_owned()])?;
            believe(note.as_bytes(), &verifiers).map(drop)
        };
        by(old).map_err(HandOverError::Old)?;
        by(&says.key).map_err(HandOverError::New)?;
        Ok(says)
    }
}
