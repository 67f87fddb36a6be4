//! Signed checkpoints of the book (C2SP tlog-checkpoint, signed-note).

use signed_note::{Note, NoteError, Signer, StandardVerifier, Verifier, VerifierList};
use tlog_tiles::{Checkpoint as Head, Hash};

/// What a checkpoint says: how many lines the book has, and the root of the tree over them.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// The log's name, which is its key's too.
    pub origin: String,
    pub size: u64,
    pub root: Hash,
}

/// Why a checkpoint is not believed.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error("it is not a checkpoint as C2SP tlog-checkpoint has them")]
    Malformed,
    #[error("it is of the log {found}, and not of {expected}")]
    OtherLog { found: String, expected: String },
    #[error("none of the log's keys has signed it")]
    Unsigned,
    #[error("the signature of {name} does not fit")]
    Forged { name: String },
    #[error(
        "the key {id} has signed it, which {}",
        turn(*first, *last)
    )]
    OutOfTurn { id: String, size: u64, first: u64, last: Option<u64> },
    #[error("{0:?} is not a verifier key as C2SP signed-note has them")]
    Key(String),
    #[error("{0:?} can't name a log: a name has no spaces, no plus, and at least one character")]
    Name(String),
    #[error("it could not be signed: {0}")]
    Signing(NoteError),
}

/// Which sizes a key may sign.
fn turn(first: u64, last: Option<u64>) -> String {
    match (first, last) {
        (0, Some(last)) => format!("may sign checkpoints of up to {last} lines and no larger ones"),
        (first, Some(last)) => format!("may sign checkpoints of {first} to {last} lines alone"),
        (first, None) => format!("may sign checkpoints of {first} lines and more alone"),
    }
}

impl Checkpoint {
    /// The note, signed.
    pub fn sign(&self, signers: &[&dyn Signer]) -> Result<Vec<u8>, CheckpointError> {
        let head = Head::new(&self.origin, self.size, self.root, "")
            .map_err(|_| CheckpointError::Malformed)?;
        let mut note = Note::new(&head.to_bytes(), &[]).map_err(CheckpointError::Signing)?;
        note.add_sigs(signers).map_err(CheckpointError::Signing)?;
        Ok(note.to_bytes())
    }

    /// Reads a note, and believes it if one of the keys of its log has signed it. A key is a line such as
    /// `example.org/book+1234abcd+AR…`; those of other logs count for nothing.
    pub fn verify(note: &[u8], origin: &str, keys: &[String]) -> Result<Self, CheckpointError> {
        let says = Self::read(note)?;
        if says.origin != origin {
            let expected = origin.to_owned();
            return Err(CheckpointError::OtherLog { found: says.origin, expected });
        }
        believe(note, &verifiers(origin, keys)?)?;
        Ok(says)
    }
}

/// Whether a text is a verifier key, such as `example.org/book+1234abcd+AR…`.
#[must_use]
pub fn is_verifier_key(text: &str) -> bool {
    StandardVerifier::new(text).is_ok()
}

/// Those of the keys that are of the log `origin`: they bear its name. Whoever checks two logs has the keys
/// of both, and neither may sign for the other.
pub(crate) fn verifiers(origin: &str, keys: &[String]) -> Result<VerifierList, CheckpointError> {
    let mut verifiers: Vec<Box<dyn Verifier>> = Vec::new();
    for key in keys {
        let verifier = StandardVerifier::new(key).map_err(|_| CheckpointError::Key(key.clone()))?;
        if verifier.name() == origin {
            verifiers.push(Box::new(verifier));
        }
    }
    Ok(VerifierList::new(verifiers))
}

/// The note, if one of those has signed it.
pub(crate) fn believe(note: &[u8], verifiers: &VerifierList) -> Result<Note, CheckpointError> {
    let note = Note::from_bytes(note).map_err(|_| CheckpointError::Malformed)?;
    note.verify(verifiers).map_err(|error| match error {
        NoteError::InvalidSignature { name, .. } => CheckpointError::Forged { name },
        NoteError::UnverifiedNote => CheckpointError::Unsigned,
        _ => CheckpointError::Malformed,
    })?;
    Ok(note)
}

#[cfg(test)]
pub(crate) mod tests {
    use signed_note::StandardSigner;

    use super::*;
    use crate::NoteSigner;

    /// The keys of the example in the documentation of Go's golang.org/x/mod/sumdb/note.
    pub(crate) const SIGNER: &str =
        "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz";
    pub(crate) const KEY: &str =
        "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";

    fn checkpoint() -> Checkpoint {
        Checkpoint { origin: "PeterNeumann".into(), size: 42, root: Hash([7; 32]) }
    }

    #[test]
    fn what_was_signed_is_believed_and_nothing_else() {
        let signer = StandardSigner::new(SIGNER).expect("a key");
        let note = checkpoint().sign(&[&signer]).expect("signed");
        let keys = [KEY.to_owned()];
        let read = Checkpoint::verify(&note, "PeterNeumann", &keys).expect("it fits");
        assert_eq!(read, checkpoint());

        let text = String::from_utf8(note.clone()).expect("UTF-8");
        assert!(text.starts_with("PeterNeumann\n42\n"), "{text}");
        let edited = text.replace("\n42\n", "\n43\n");
        let refused = Checkpoint::verify(edited.as_bytes(), "PeterNeumann", &keys);
        assert!(matches!(refused, Err(CheckpointError::Forged { .. })), "{refused:?}");
        let refused = Checkpoint::verify(&note, "another", &keys);
        assert!(matches!(refused, Err(CheckpointError::OtherLog { .. })), "{refused:?}");
        let refused = Checkpoint::verify(&note, "PeterNeumann", &[]);
        assert!(matches!(refused, Err(CheckpointError::Unsigned)), "{refused:?}");
        let refused = Checkpoint::verify(b"42", "PeterNeumann", &keys);
        assert!(matches!(refused, Err(CheckpointError::Malformed)), "{refused:?}");
        let refused = Checkpoint::verify(&note, "PeterNeumann", &["x".into()]);
        assert!(matches!(refused, Err(CheckpointError::Key(_))), "{refused:?}");
    }

    #[test]
    fn no_log_signs_for_another() {
        let (ours, theirs) = ["example.org/ours", "example.org/theirs"]
            .map(|name| NoteSigner::from_seed(name, &[1; 32]).expect("a signer"))
            .into();
        let keys = [ours.verifier_key(), theirs.verifier_key()];
        let checkpoint = Checkpoint { origin: "example.org/ours".into(), ..checkpoint() };
        let note = checkpoint.sign(&[&theirs]).expect("signed");
        let refused = Checkpoint::verify(&note, "example.org/ours", &keys);
        assert!(matches!(refused, Err(CheckpointError::Unsigned)), "{refused:?}");
        let note = checkpoint.sign(&[&theirs, &ours]).expect("signed");
        Checkpoint::verify(&note, "example.org/ours", &keys).expect("ours is among them");
    }
}
