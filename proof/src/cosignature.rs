//! Cosignatures of checkpoints (C2SP tlog-cosignature, Ed25519): a witness says that at some time this was
//! the largest tree it knew of a log, and that it begins with all it had seen of it before.

use std::{fmt, num::NonZeroU64};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ed25519_dalek::{Signature as Ed25519, Signer as _, SigningKey, VerifyingKey};
use signed_note::{Note, NoteError, Signature, Verifier, VerifierList, is_key_name_valid, key_id};

use crate::CheckpointError;

/// The type of these signatures in C2SP signed-note. It is in the key's id, so that one key used for two
/// types is two keys.
const TYPE: u8 = 0x04;
/// The bytes of the time before the signature.
const TIME: usize = 8;

/// Cosigns checkpoints, in the name of a witness.
pub struct CosignatureSigner {
    /// Wiped from memory when it is dropped.
    key: SigningKey,
    verifier: CosignatureVerifier,
}

impl CosignatureSigner {
    /// The key that follows from these 32 secret bytes.
    pub fn from_seed(name: &str, seed: &[u8; 32]) -> Result<Self, CheckpointError> {
        if !is_key_name_valid(name) || name.chars().any(char::is_control) {
            return Err(CheckpointError::Name(name.to_owned()));
        }
        let key = SigningKey::from_bytes(seed);
        let verifier = CosignatureVerifier::of(name, key.verifying_key());
        Ok(Self { key, verifier })
    }

    /// What others verify it with.
    #[must_use]
    pub fn verifier(&self) -> &CosignatureVerifier {
        &self.verifier
    }

    /// The line to be added to this signed checkpoint, with its line feed. The time is in seconds since
    /// 1970; zero would mean that nothing is said about when.
    ///
    /// Whether the checkpoint deserves it is for the caller to know.
    pub fn cosign(&self, note: &[u8], time: NonZeroU64) -> Result<String, CheckpointError> {
        let note = Note::from_bytes(note).map_err(|_| CheckpointError::Malformed)?;
        let signature = self.key.sign(&message(note.text(), time));
        let stamped = [&time.get().to_be_bytes()[..], &signature.to_bytes()[..]].concat();
        let line = Signature::new(self.verifier.name.clone(), self.verifier.id, stamped)
            .map_err(CheckpointError::Signing)?;
        Ok(String::from_utf8_lossy(&line.to_bytes()).into_owned())
    }
}

impl fmt::Debug for CosignatureSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CosignatureSigner({})", self.verifier)
    }
}

/// The public half of a witness. Its text is a verifier key, such as `witness.example.org+1234abcd+BA…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CosignatureVerifier {
    name: String,
    id: u32,
    key: VerifyingKey,
}

/// What a witness has said about a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cosignature {
    /// In seconds since 1970.
    pub time: NonZeroU64,
    /// As it stands under the checkpoint, with its line feed.
    pub line: String,
}

impl CosignatureVerifier {
    /// Reads a verifier key.
    pub fn new(text: &str) -> Result<Self, CheckpointError> {
        Self::read(text).ok_or_else(|| CheckpointError::Key(text.to_owned()))
    }

    fn read(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '+');
        let (name, id, key) = (parts.next()?, parts.next()?, parts.next()?);
        let key = STANDARD.decode(key).ok()?;
        let (kind, key) = key.split_first()?;
        if *kind != TYPE || !is_key_name_valid(name) || name.chars().any(char::is_control) {
            return None;
        }
        let key = VerifyingKey::from_bytes(key.try_into().ok()?).ok()?;
        let read = Self::of(name, key);
        // In the one way of writing it: C2SP has the id as eight lower-case digits.
        (id == format!("{:08x}", read.id)).then_some(read)
    }

    fn of(name: &str, key: VerifyingKey) -> Self {
        let id = key_id(name, &[&[TYPE][..], &key.to_bytes()[..]].concat());
        Self { name: name.to_owned(), id, key }
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its name and id: what tells it from all others, and is shorter than the key.
    #[must_use]
    pub fn short(&self) -> String {
        format!("{}+{:08x}", self.name, self.id)
    }

    /// Its cosignature of this checkpoint. The other signatures of the note are not looked at.
    pub fn find(&self, note: &[u8]) -> Result<Cosignature, CheckpointError> {
        let note = Note::from_bytes(note).map_err(|_| CheckpointError::Malformed)?;
        let known = VerifierList::new(vec![Box::new(self.clone())]);
        let (found, _) = note.verify(&known).map_err(|error| match error {
            NoteError::InvalidSignature { name, .. } => CheckpointError::Forged { name },
            NoteError::UnverifiedNote => CheckpointError::Unsigned,
            _ => CheckpointError::Malformed,
        })?;
        let found = found.first().ok_or(CheckpointError::Unsigned)?;
        let (time, _) = split(found.signature()).ok_or(CheckpointError::Malformed)?;
        let line = String::from_utf8_lossy(&found.to_bytes()).into_owned();
        Ok(Cosignature { time, line })
    }
}

impl Verifier for CosignatureVerifier {
    fn name(&self) -> &str {
        &self.name
    }

    fn key_id(&self) -> u32 {
        self.id
    }

    fn verify(&self, msg: &[u8], sig: &[u8]) -> bool {
        split(sig).is_some_and(|(time, signature)| {
            self.key.verify_strict(&message(msg, time), &signature).is_ok()
        })
    }
}

impl fmt::Display for CosignatureVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = STANDARD.encode([&[TYPE][..], &self.key.to_bytes()[..]].concat());
        write!(f, "{}+{key}", self.short())
    }
}

/// What is signed.
fn message(text: &[u8], time: NonZeroU64) -> Vec<u8> {
    [format!("cosignature/v1\ntime {time}\n").as_bytes(), text].concat()
}

/// `timestamped_signature`. A time of zero, or beyond 2^63 - 1, is none.
fn split(bytes: &[u8]) -> Option<(NonZeroU64, Ed25519)> {
    let (time, signature) = bytes.split_at_checked(TIME)?;
    let time = u64::from_be_bytes(time.try_into().ok()?);
    let time = NonZeroU64::new(time).filter(|_| i64::try_from(time).is_ok())?;
    Some((time, Ed25519::from_bytes(signature.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::tests::{KEY as LOG_KEY, SIGNER};
    use crate::{Checkpoint, Hash};

    fn time(seconds: u64) -> NonZeroU64 {
        NonZeroU64::new(seconds).expect("a time")
    }

    fn witness() -> CosignatureSigner {
        CosignatureSigner::from_seed("witness.example/w1", &[9; 32]).expect("a key")
    }

    fn checkpoint(size: u64) -> Vec<u8> {
        let signer = signed_note::StandardSigner::new(SIGNER).expect("a key");
        let checkpoint = Checkpoint { origin: "PeterNeumann".into(), size, root: Hash([7; 32]) };
        checkpoint.sign(&[&signer]).expect("signed")
    }

    fn cosigned(size: u64, at: u64) -> Vec<u8> {
        let note = checkpoint(size);
        let line = witness().cosign(&note, time(at)).expect("cosigned");
        [&note[..], line.as_bytes()].concat()
    }

    /// Made with Python's `cryptography` by the words of C2SP tlog-cosignature.
    #[test]
    fn it_signs_what_the_specification_says() {
        let verifier = witness().verifier().to_string();
        assert_eq!(
            verifier,
            "witness.example/w1+24b5d9fe+BP0XJDhaoMdbZPt4zWAvodmR/ev3axPFjtcC6sg16fYY"
        );
        let line = witness().cosign(&checkpoint(42), time(1_679_315_147)).expect("cosigned");
        assert_eq!(
            line,
            "— witness.example/w1 JLXZ/gAAAABkGFDLeWvTTIY4VpuFXwhib4924dAPqaFe3KM+tHnQH4cg5qP2eS5AT9yKf3UUJlY9zp4SaEZAQUOy3PIYvfZemM7UDQ==\n"
        );
    }

    #[test]
    fn a_cosignature_is_found_among_others_and_tells_its_time() {
        let note = cosigned(42, 1_679_315_147);
        let found = witness().verifier().find(&note).expect("it is there");
        assert_eq!(found.time, time(1_679_315_147));
        assert!(note.ends_with(found.line.as_bytes()));
        // The log's own signature counts as before.
        Checkpoint::verify(&note, "PeterNeumann", &[LOG_KEY.to_owned()])
            .expect("signed by the log");
        // The key of a witness is none of a log.
        let key = witness().verifier().to_string();
        let refused = Checkpoint::verify(&note, "PeterNeumann", &[key]);
        assert!(matches!(refused, Err(CheckpointError::Key(_))), "{refused:?}");
    }

    #[test]
    fn another_text_or_another_time_is_not_what_was_cosigned() {
        let verifier = witness().verifier().clone();
        let text = String::from_utf8(cosigned(42, 5)).expect("UTF-8");
        let other = text.replacen("\n42\n", "\n43\n", 1);
        let refused = verifier.find(other.as_bytes());
        assert!(matches!(refused, Err(CheckpointError::Forged { .. })), "{refused:?}");

        // The same line with its time moved on by one.
        let (rest, line) = text.trim_end().rsplit_once(' ').expect("a line");
        for change in [4 + TIME - 1, 4 + TIME, 4 + TIME + 63] {
            let mut bytes = STANDARD.decode(line).expect("Base64");
            bytes[change] ^= 1;
            let changed = format!("{rest} {}\n", STANDARD.encode(&bytes));
            let refused = verifier.find(changed.as_bytes());
            assert!(
                matches!(refused, Err(CheckpointError::Forged { .. })),
                "{change}: {refused:?}"
            );
        }
        let refused = verifier.find(&checkpoint(42));
        assert!(matches!(refused, Err(CheckpointError::Unsigned)), "{refused:?}");
        let refused = verifier.find(b"nothing");
        assert!(matches!(refused, Err(CheckpointError::Malformed)), "{refused:?}");
    }

    #[test]
    fn no_time_is_no_cosignature() {
        let verifier = witness().verifier().clone();
        for at in [0_u64, 1 << 63, u64::MAX] {
            let text = b"any\n".as_slice();
            let message = [format!("cosignature/v1\ntime {at}\n").as_bytes(), text].concat();
            let signature = witness().key.sign(&message);
            let stamped = [&at.to_be_bytes()[..], &signature.to_bytes()[..]].concat();
            assert!(!verifier.verify(text, &stamped), "{at}");
        }
    }

    #[test]
    fn a_verifier_key_is_read_in_the_one_way_it_is_written() {
        let text = witness().verifier().to_string();
        assert_eq!(CosignatureVerifier::new(&text).expect("a key"), *witness().verifier());
        let (name, rest) = text.split_once('+').expect("a key");
        let (id, key) = rest.split_once('+').expect("a key");
        let mut other_type = STANDARD.decode(key).expect("Base64");
        other_type[0] = 1;
        for wrong in [
            format!("{name}+{id}+{}", STANDARD.encode(other_type)),
            String::new(),
            name.to_owned(),
            format!("{name}+{id}"),
            format!("another+{id}+{key}"),
            format!("{name}+{}+{key}", id.to_uppercase()),
            format!("{name}+00000000+{key}"),
            format!("{name}+{id}+{}", &key[..40]),
            format!("{name}+{id}+{key}+"),
            // Of a log: the type is another.
            LOG_KEY.to_owned(),
        ] {
            assert!(CosignatureVerifier::new(&wrong).is_err(), "{wrong}");
        }
        for name in ["", "a b", "a+b", "a\nb", "a\u{7}b"] {
            let refused = CosignatureSigner::from_seed(name, &[1; 32]);
            assert!(matches!(refused, Err(CheckpointError::Name(_))), "{name:?}");
        }
    }

    #[test]
    fn its_secret_is_not_shown() {
        assert_eq!(
            format!("{:?}", witness()),
            format!("CosignatureSigner({})", witness().verifier())
        );
    }
}
