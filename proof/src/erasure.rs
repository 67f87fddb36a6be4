//! The receipt for an erasure: that the book says it, at which line, and that this line is in the log.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use signed_note::{Note, Signer};
use tlog_tiles::Hash;

use crate::{
    CheckpointError, InclusionProof, ProofError,
    checkpoint::{believe, verifiers},
    hash_of,
};

/// The first line of the note.
const FIRST: &str = "entrybook erasure v1";

/// What is signed: whose erasure stands at which line of the book, since when.
#[derive(Debug, Clone, PartialEq)]
pub struct Erasure {
    /// The name of the log.
    pub origin: String,
    /// The id of the account.
    pub user: String,
    /// The line that says it.
    pub position: u64,
    /// When that was written.
    pub recorded_at: DateTime<Utc>,
    /// The hash of that line's leaf.
    pub leaf: Hash,
}

/// All that is handed out: enough to check it with no more than the log's key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ErasureReceipt {
    /// The signed note.
    pub note: String,
    /// The line of the book, byte by byte as it is hashed.
    pub event: String,
    /// That the line is in a signed checkpoint (C2SP tlog-proof).
    pub proof: String,
}

/// Why a receipt proves nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReceiptError {
    #[error("its note is not one of an erasure")]
    Malformed,
    #[error("its note is not believed: {0}")]
    Note(#[from] CheckpointError),
    #[error("its line of the book is not the one that the note tells of")]
    OtherEvent,
    #[error("its line of the book tells of no erasure of this person")]
    NoErasure,
    #[error("its proof does not hold: {0}")]
    Proof(#[from] ProofError),
}

/// The members of a leaf that tell of an erasure.
#[derive(Deserialize)]
struct Line {
    event_type: String,
    position: u64,
    recorded_at: String,
    stream_id: String,
    stream_type: String,
}

impl Erasure {
    /// The note, signed.
    pub fn sign(&self, signer: &dyn Signer) -> Result<String, CheckpointError> {
        let mut note = Note::new(self.text().as_bytes(), &[]).map_err(CheckpointError::Signing)?;
        note.add_sigs(&[signer]).map_err(CheckpointError::Signing)?;
        Ok(String::from_utf8_lossy(&note.to_bytes()).into_owned())
    }

    fn text(&self) -> String {
        let Self { origin, user, position, recorded_at, leaf } = self;
        let recorded_at = moment(*recorded_at);
        format!("{FIRST}\n{origin}\n{user}\n{position}\n{recorded_at}\n{leaf}\n")
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        if lines.next()? != FIRST {
            return None;
        }
        let read = Self {
            origin: lines.next()?.to_owned(),
            user: lines.next()?.to_owned(),
            position: lines.next()?.parse().ok()?,
            recorded_at: DateTime::parse_from_rfc3339(lines.next()?).ok()?.to_utc(),
            leaf: Hash::parse_hash(lines.next()?).ok()?,
        };
        // One way to write it, and nothing behind it.
        (read.text() == text).then_some(read)
    }
}

impl ErasureReceipt {
    /// Checks all of it: the note, that the line tells of this erasure, and that it is in the log. A key
    /// is a line such as `example.org/log+1234abcd+AR…`.
    pub fn verify(&self, keys: &[String]) -> Result<Erasure, ReceiptError> {
        let note = Note::from_bytes(self.note.as_bytes()).map_err(|_| ReceiptError::Malformed)?;
        let text = std::str::from_utf8(note.text()).map_err(|_| ReceiptError::Malformed)?;
        let erasure = Erasure::parse(text).ok_or(ReceiptError::Malformed)?;
        believe(self.note.as_bytes(), &verifiers(&erasure.origin, keys)?)?;
        if hash_of(self.event.as_bytes()) != erasure.leaf {
            return Err(ReceiptError::OtherEvent);
        }
        let line: Line = serde_json::from_str(&self.event).map_err(|_| ReceiptError::NoErasure)?;
        let told = line.event_type == "UserErased"
            && line.stream_type == "User"
            && line.stream_id == erasure.user
            && line.position == erasure.position
            && line.recorded_at == moment(erasure.recorded_at);
        if !told {
            return Err(ReceiptError::NoErasure);
        }
        let proof = InclusionProof::parse(&self.proof)?;
        proof.verify(erasure.leaf, &erasure.origin, keys)?;
        if proof.index.checked_add(1) != Some(erasure.position) {
            return Err(ReceiptError::OtherEvent);
        }
        Ok(erasure)
    }
}

/// As leaves have it: RFC 3339 in UTC with six digits of a second.
fn moment(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Micros, true)
}

#[cfg(test)]
mod tests {
    use tlog_tiles::record_hash;

    use super::*;
    use crate::{Checkpoint, Leaf, Nodes, NoteSigner, Tree};

    const ORIGIN: &str = "example.org/log";
    const USER: &str = "0197f0c2-6b1e-7a54-9d3c-5e8f1a2b3c4d";

    fn signer() -> NoteSigner {
        NoteSigner::from_seed(ORIGIN, &[3; 32]).expect("a key")
    }

    fn leaf(event_type: &str, user: &str) -> String {
        let leaf = Leaf {
            position: 4,
            stream_type: "User",
            stream_id: user,
            sequence: 3,
            event_type,
            event_version: "1",
            recorded_at: DateTime::from_timestamp_micros(1_767_600_000_001_001).expect("a time"),
            payload: r#"{"UserErased":{}}"#,
            metadata: r#"{"actor":"system"}"#,
        };
        String::from_utf8(leaf.to_bytes().expect("a leaf")).expect("UTF-8")
    }

    /// A receipt over a log of seven lines, whose fourth is this one.
    fn receipt(event: &str, user: &str) -> ErasureReceipt {
        let (mut tree, mut nodes) = (Tree::default(), Nodes::default());
        for index in 0..7_u64 {
            let hash = if index == 3 {
                hash_of(event.as_bytes())
            } else {
                record_hash(&index.to_be_bytes())
            };
            tree.push(hash, |node| nodes.extend([node]));
        }
        let head = Checkpoint { origin: ORIGIN.to_owned(), size: 7, root: tree.root() };
        let proof = InclusionProof {
            index: 3,
            hashes: nodes.prove_inclusion(7, 3).expect("a proof"),
            checkpoint: head.sign(&[&signer()]).expect("signed"),
            extra: None,
        };
        let erasure = Erasure {
            origin: ORIGIN.to_owned(),
            user: user.to_owned(),
            position: 4,
            recorded_at: DateTime::from_timestamp_micros(1_767_600_000_001_001).expect("a time"),
            leaf: hash_of(event.as_bytes()),
        };
        ErasureReceipt {
            note: erasure.sign(&signer()).expect("signed"),
            event: event.to_owned(),
            proof: proof.to_text(),
        }
    }

    #[test]
    fn a_receipt_proves_an_erasure() {
        let receipt = receipt(&leaf("UserErased", USER), USER);
        assert!(
            receipt.note.starts_with(&format!(
                "entrybook erasure v1\n{ORIGIN}\n{USER}\n4\n2026-01-05T08:00:00.001001Z\n"
            )),
            "{}",
            receipt.note
        );
        let keys = [signer().verifier_key()];
        let read = receipt.verify(&keys).expect("it holds");
        assert_eq!((read.user.as_str(), read.position), (USER, 4));
        let text = serde_json::to_string(&receipt).expect("JSON");
        let again: ErasureReceipt = serde_json::from_str(&text).expect("a receipt");
        assert_eq!(again.verify(&keys).expect("it holds"), read);
    }

    #[test]
    fn what_was_made_up_is_refused() {
        let keys = [signer().verifier_key()];
        let event = leaf("UserErased", USER);
        let sound = receipt(&event, USER);
        let refused =
            |receipt: &ErasureReceipt| receipt.verify(&keys).expect_err("refused").to_string();

        let other = receipt(&leaf("UserDisabled", USER), USER);
        assert_eq!(refused(&other), ReceiptError::NoErasure.to_string());
        let somebody = "0197f0c2-6b1e-7a54-9d3c-5e8f1a2b3c4e";
        let other = receipt(&event, somebody);
        assert_eq!(refused(&other), ReceiptError::NoErasure.to_string());

        let edited = ErasureReceipt { note: sound.note.replace(USER, somebody), ..sound.clone() };
        assert!(matches!(edited.verify(&keys), Err(ReceiptError::Note(_))), "{}", refused(&edited));
        let edited = ErasureReceipt { event: event.replace("system", "nobody"), ..sound.clone() };
        assert_eq!(refused(&edited), ReceiptError::OtherEvent.to_string());
        let edited =
            ErasureReceipt { proof: sound.proof.replace("index 3", "index 2"), ..sound.clone() };
        assert!(
            matches!(edited.verify(&keys), Err(ReceiptError::Proof(_))),
            "{}",
            refused(&edited)
        );
        // A checkpoint is a note of the same key, and none of an erasure.
        let checkpoint = InclusionProof::parse(&sound.proof).expect("a proof").checkpoint;
        let note = String::from_utf8(checkpoint).expect("UTF-8");
        let edited = ErasureReceipt { note, ..sound.clone() };
        assert_eq!(refused(&edited), ReceiptError::Malformed.to_string());
        let stranger = NoteSigner::from_seed(ORIGIN, &[4; 32]).expect("a key").verifier_key();
        assert!(sound.verify(&[stranger]).is_err());
    }
}
