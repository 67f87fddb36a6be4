//! The manifest at the end of a file whose lines do not prove themselves (CSV and OCSF): what was asked for,
//! how many lines there are, and a digest of them, signed by the log.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use chrono::{DateTime, SecondsFormat, Utc};
use proof::{CheckpointError, Hash, NoteSigner, Trust, export};
use serde_json::Value;

use super::Format;

/// The version of these files. In version 1 the time was when the checkpoint was signed, as the database told, and
/// nobody had signed it there.
pub(super) const VERSION: u32 = 2;

/// What is signed of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    pub version: u32,
    pub format: Format,
    /// The name of the log.
    pub origin: String,
    /// The lines that were looked at: the first and the last.
    pub range: (u64, u64),
    /// How many of them the file holds.
    pub lines: u64,
    /// The root of the book up to the last one.
    pub root: Hash,
    /// When the file was made, by the clock of who made it.
    pub made_at: DateTime<Utc>,
    /// The SHA-256 of all bytes before the manifest.
    pub digest: [u8; 32],
    /// What was asked for; nothing where it is everything.
    pub filter: Option<Value>,
}

/// Why a manifest is not believed.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error(transparent)]
    Signature(#[from] CheckpointError),
    #[error("it is not a manifest as docs/export.md has them")]
    Malformed,
}

impl Manifest {
    fn text(&self) -> String {
        let Self { version, format, origin, range, lines, root, made_at, digest, filter } = self;
        let (first, last) = range;
        let made_at = made_at.to_rfc3339_opts(SecondsFormat::Micros, true);
        let digest = BASE64.encode(digest);
        let filter = filter.as_ref().unwrap_or(&Value::Null);
        format!(
            "entrybook export {format} v{version}\n{origin}\n{first} {last}\n{lines}\n{root}\n{made_at}\n{digest}\n{filter}\n"
        )
    }

    pub(super) fn sign(&self, signer: &NoteSigner) -> Result<String, CheckpointError> {
        let note = export::sign(&self.text(), signer)?;
        Ok(String::from_utf8_lossy(&note).into_owned())
    }

    /// Reads one, and believes it if a key of the log that it names has signed it, whose turn was not over at its size.
    pub fn verify(note: &str, trust: &Trust) -> Result<Self, ManifestError> {
        let text = note.split_once("\n\n").map(|(text, _)| format!("{text}\n"));
        let read = text.as_deref().and_then(Self::read).ok_or(ManifestError::Malformed)?;
        let signed = trust.signed(note, &read.origin, read.range.1)?;
        if text.is_some_and(|text| text.as_bytes() == signed) {
            Ok(read)
        } else {
            Err(ManifestError::Malformed)
        }
    }

    /// Whether the file has all lines of its range.
    #[must_use]
    pub fn has_all(&self) -> bool {
        self.filter.as_ref().is_none_or(|filter| only_after(filter).is_some())
    }

    fn read(text: &str) -> Option<Self> {
        let mut lines = text.strip_suffix('\n')?.split('\n');
        let head = lines.next()?.strip_prefix("entrybook export ")?;
        let (format, version) = match head {
            "csv v1" => (Format::Csv, 1),
            "csv v2" => (Format::Csv, 2),
            "ocsf v1" => (Format::Ocsf, 1),
            "ocsf v2" => (Format::Ocsf, 2),
            _ => return None,
        };
        let origin = lines.next()?.to_owned();
        let (first, last) = lines.next()?.split_once(' ')?;
        let many = lines.next()?.parse().ok()?;
        let root = Hash::parse_hash(lines.next()?).ok()?;
        let made_at = DateTime::parse_from_rfc3339(lines.next()?).ok()?.to_utc();
        let digest = BASE64.decode(lines.next()?).ok()?.try_into().ok()?;
        let filter: Value = serde_json::from_str(lines.next()?).ok()?;
        lines.next().is_none().then_some(Self {
            version,
            format,
            origin,
            range: (first.parse().ok()?, last.parse().ok()?),
            lines: many,
            root,
            made_at,
            digest,
            filter: (!filter.is_null()).then_some(filter),
        })
    }
}

/// The line behind which an export begins, where its filter leaves out nothing else.
pub fn only_after(filter: &Value) -> Option<u64> {
    let filter = filter.as_object()?;
    (filter.len() == 1).then(|| filter.get("after")?.as_u64())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_read_as_it_was_written() {
        let signer = NoteSigner::from_seed("example.org/log", &[1; 32]).unwrap();
        let manifest = Manifest {
            version: VERSION,
            format: Format::Csv,
            origin: "example.org/log".to_owned(),
            range: (1, 42),
            lines: 7,
            root: Hash([2; 32]),
            made_at: "2026-01-05T08:00:00.001001Z".parse().unwrap(),
            digest: [3; 32],
            filter: Some(serde_json::json!({"type": ["SignInFailed"], "text": "a\nb"})),
        };
        let note = manifest.sign(&signer).unwrap();
        let keys = Trust::from(vec![signer.verifier_key()]);
        assert_eq!(Manifest::verify(&note, &keys).unwrap(), manifest);
        let everything = Manifest { filter: None, ..manifest };
        let note = everything.sign(&signer).unwrap();
        assert_eq!(Manifest::verify(&note, &keys).unwrap(), everything);
        let edited = note.replace("\n7\n", "\n8\n");
        Manifest::verify(&edited, &keys).unwrap_err();
        Manifest::verify(&note, &Trust::default()).unwrap_err();
        // Files of version 1 are still read.
        let old = Manifest { version: 1, ..everything.clone() };
        assert_eq!(Manifest::verify(&old.sign(&signer).unwrap(), &keys).unwrap(), old);
        // Another log, whose key is given for its own files, can't sign for this one.
        let stranger = NoteSigner::from_seed("example.org/another", &[1; 32]).unwrap();
        let note = everything.sign(&stranger).unwrap();
        let both = Trust::from(vec![signer.verifier_key(), stranger.verifier_key()]);
        Manifest::verify(&note, &both).unwrap_err();
    }
}
