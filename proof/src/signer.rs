//! The key of a log: what it signs with, and how it is told to others (C2SP signed-note).

use std::fmt;

use ed25519_dalek::{SignatureError, Signer as _, SigningKey};
use signed_note::{Signer, is_key_name_valid, new_ed25519_verifier_key};

use crate::CheckpointError;

/// Signs notes with Ed25519, in the name of a log.
pub struct NoteSigner {
    name: String,
    id: u32,
    /// Wiped from memory when it is dropped.
    key: SigningKey,
    verifier_key: String,
}

impl NoteSigner {
    /// The key that follows from these 32 secret bytes.
    pub fn from_seed(name: &str, seed: &[u8; 32]) -> Result<Self, CheckpointError> {
        if !is_key_name_valid(name) || name.chars().any(char::is_control) {
            return Err(CheckpointError::Name(name.to_owned()));
        }
        let key = SigningKey::from_bytes(seed);
        let verifier_key = new_ed25519_verifier_key(name, &key.verifying_key());
        let id = verifier_key.split('+').nth(1).and_then(|id| u32::from_str_radix(id, 16).ok());
        let id = id.ok_or_else(|| CheckpointError::Key(verifier_key.clone()))?;
        Ok(Self { name: name.to_owned(), id, key, verifier_key })
    }

    /// The line by which others know it: `example.org/log+1234abcd+AR…`. It is no secret.
    #[must_use]
    pub fn verifier_key(&self) -> String {
        self.verifier_key.clone()
    }

    /// Its id in signatures: 8 hexadecimal digits.
    #[must_use]
    pub fn key_id(&self) -> String {
        format!("{:08x}", self.id)
    }
}

impl Signer for NoteSigner {
    fn name(&self) -> &str {
        &self.name
    }

    fn key_id(&self) -> u32 {
        self.id
    }

    fn sign(&self, msg: &[u8]) -> Result<Vec<u8>, SignatureError> {
        Ok(self.key.try_sign(msg)?.to_vec())
    }
}

impl fmt::Debug for NoteSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NoteSigner({})", self.verifier_key)
    }
}

#[cfg(test)]
mod tests {
    use signed_note::StandardSigner;

    use super::*;
    use crate::Checkpoint;

    /// The keys of the example in the documentation of Go's golang.org/x/mod/sumdb/note.
    const GO: &str =
        "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz";
    const KEY: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";

    fn seed() -> [u8; 32] {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        let key = STANDARD.decode(&GO[GO.len() - 44..]).expect("Base64");
        key[1..].try_into().expect("32 bytes behind the algorithm")
    }

    #[test]
    fn it_signs_as_the_port_of_go_does() {
        let (ours, theirs) = (
            NoteSigner::from_seed("PeterNeumann", &seed()).expect("a key"),
            StandardSigner::new(GO).expect("a key"),
        );
        assert_eq!((ours.verifier_key().as_str(), ours.key_id().as_str()), (KEY, "c74f20a3"));
        let checkpoint =
            Checkpoint { origin: "PeterNeumann".into(), size: 42, root: tlog_tiles::Hash([7; 32]) };
        let note = checkpoint.sign(&[&ours]).expect("signed");
        assert_eq!(note, checkpoint.sign(&[&theirs]).expect("signed"));
        let read = Checkpoint::verify(&note, "PeterNeumann", &[ours.verifier_key()]);
        assert_eq!(read.expect("it fits"), checkpoint);
    }

    #[test]
    fn a_name_that_no_note_can_have_is_refused() {
        for name in ["", "a b", "a+b", "a\nb", "a\u{2003}b", "a\u{7}b"] {
            let refused = NoteSigner::from_seed(name, &[1; 32]);
            assert!(matches!(refused, Err(CheckpointError::Name(_))), "{name:?}");
        }
    }

    #[test]
    fn its_secret_is_not_shown() {
        let signer = NoteSigner::from_seed("PeterNeumann", &seed()).expect("a key");
        assert_eq!(format!("{signer:?}"), format!("NoteSigner({KEY})"));
    }
}
