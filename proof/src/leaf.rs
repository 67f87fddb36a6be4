//! The bytes that a line of the book is hashed as.

use chrono::{DateTime, SecondsFormat, Utc};
use sha2::{Digest, Sha256};

use crate::{CanonicalError, Hash, canonical_json};

/// An entry of an entry bundle has a length of 16 bits (C2SP tlog-tiles, "Log entries").
pub const MAX_LEAF: usize = 65_535;

/// A line of the book as it is proved. Every field is as it is stored; payload and metadata are JSON,
/// in which personal data is sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leaf<'a> {
    /// Its line, from 1; its index in the tree is one less.
    pub position: u64,
    pub stream_type: &'a str,
    pub stream_id: &'a str,
    /// Its place in its stream, from 1.
    pub sequence: u64,
    pub event_type: &'a str,
    pub event_version: &'a str,
    /// When the database wrote it, to the microsecond.
    pub recorded_at: DateTime<Utc>,
    pub payload: &'a str,
    pub metadata: &'a str,
}

/// Why a line can't be proved.
#[derive(Debug, thiserror::Error)]
pub enum LeafError {
    #[error("its {part} has no canonical form: {cause}")]
    NotCanonical { part: &'static str, cause: CanonicalError },
    #[error("it takes {0} bytes, and an entry has at most {MAX_LEAF}")]
    TooLong(usize),
}

impl Leaf<'_> {
    /// The canonical bytes: JSON by RFC 8785, with the members of `docs/transparency-log.md`.
    pub fn to_bytes(&self) -> Result<Vec<u8>, LeafError> {
        let mut out = Vec::with_capacity(512 + self.payload.len() + self.metadata.len());
        // The names in their canonical order.
        open(&mut out, b'{', "event_type");
        string(&mut out, self.event_type);
        open(&mut out, b',', "event_version");
        string(&mut out, self.event_version);
        open(&mut out, b',', "metadata");
        json(&mut out, "metadata", self.metadata)?;
        open(&mut out, b',', "payload");
        json(&mut out, "payload", self.payload)?;
        open(&mut out, b',', "position");
        out.extend_from_slice(self.position.to_string().as_bytes());
        open(&mut out, b',', "recorded_at");
        string(&mut out, &self.recorded_at.to_rfc3339_opts(SecondsFormat::Micros, true));
        open(&mut out, b',', "sequence");
        out.extend_from_slice(self.sequence.to_string().as_bytes());
        open(&mut out, b',', "stream_id");
        string(&mut out, self.stream_id);
        open(&mut out, b',', "stream_type");
        string(&mut out, self.stream_type);
        out.extend_from_slice(b",\"v\":1}");
        if out.len() > MAX_LEAF {
            return Err(LeafError::TooLong(out.len()));
        }
        Ok(out)
    }

    /// The hash of the leaf (RFC 9162 section 2.1.1): SHA-256 of a zero byte and the canonical bytes.
    pub fn hash(&self) -> Result<Hash, LeafError> {
        Ok(hash_of(&self.to_bytes()?))
    }
}

/// The hash of a leaf that is at hand as canonical bytes.
#[must_use]
pub fn hash_of(leaf: &[u8]) -> Hash {
    let digest = Sha256::new().chain_update([0]).chain_update(leaf).finalize();
    Hash(digest.into())
}

fn open(out: &mut Vec<u8>, before: u8, name: &str) {
    out.push(before);
    string(out, name);
    out.push(b':');
}

fn string(out: &mut Vec<u8>, text: &str) {
    // A string can always be written to memory.
    if serde_json::to_writer(&mut *out, text).is_err() {
        out.extend_from_slice(b"\"\"");
    }
}

fn json(out: &mut Vec<u8>, part: &'static str, text: &str) -> Result<(), LeafError> {
    canonical_json(text, out).map_err(|cause| LeafError::NotCanonical { part, cause })
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::Value;

    use super::*;

    /// A line of `vectors/leaves.jsonl`.
    #[derive(Deserialize)]
    struct Vector {
        position: u64,
        stream_type: String,
        stream_id: String,
        sequence: u64,
        event_type: String,
        event_version: String,
        recorded_at: DateTime<Utc>,
        /// As PostgreSQL hands jsonb out.
        payload: String,
        metadata: String,
        leaf: String,
        hash: String,
    }

    fn vectors() -> Vec<Vector> {
        let text = include_str!("../vectors/leaves.jsonl");
        text.lines().map(|line| serde_json::from_str(line).expect("a vector")).collect()
    }

    fn leaf(vector: &Vector) -> Leaf<'_> {
        Leaf {
            position: vector.position,
            stream_type: &vector.stream_type,
            stream_id: &vector.stream_id,
            sequence: vector.sequence,
            event_type: &vector.event_type,
            event_version: &vector.event_version,
            recorded_at: vector.recorded_at,
            payload: &vector.payload,
            metadata: &vector.metadata,
        }
    }

    #[test]
    fn the_vectors_hold() {
        assert!(vectors().len() >= 5);
        for vector in vectors() {
            let bytes = leaf(&vector).to_bytes().expect("a leaf");
            assert_eq!(String::from_utf8(bytes.clone()).expect("UTF-8"), vector.leaf);
            assert_eq!(hash_of(&bytes).to_string(), vector.hash);
            assert_eq!(leaf(&vector).hash().expect("a hash"), hash_of(&bytes));
        }
    }

    #[test]
    fn a_leaf_is_rfc_8785_as_a_whole() {
        for vector in vectors() {
            let value: Value = serde_json::from_str(&vector.leaf).expect("JSON");
            assert_eq!(serde_json_canonicalizer::to_string(&value).expect("JSON"), vector.leaf);
        }
    }

    /// Whatever of a line is changed, its hash is another.
    #[test]
    fn every_field_is_bound() {
        let vectors = vectors();
        let line = leaf(vectors.first().expect("a vector"));
        let hash = line.hash().expect("a hash");
        let later = line.recorded_at + chrono::TimeDelta::microseconds(1);
        for changed in [
            Leaf { position: line.position + 1, ..line },
            Leaf { stream_type: "Session", ..line },
            Leaf { stream_id: "other", ..line },
            Leaf { sequence: line.sequence + 1, ..line },
            Leaf { event_type: "Other", ..line },
            Leaf { event_version: "99", ..line },
            Leaf { recorded_at: later, ..line },
            Leaf { payload: "{}", ..line },
            Leaf { metadata: "{}", ..line },
        ] {
            assert_ne!(changed.hash().expect("a hash"), hash, "{changed:?}");
        }
    }

    #[test]
    fn what_fits_no_entry_is_refused() {
        let vectors = vectors();
        let line = leaf(vectors.first().expect("a vector"));
        let long = format!(r#"{{"x":"{}"}}"#, "x".repeat(MAX_LEAF));
        let refused = Leaf { payload: &long, ..line }.to_bytes();
        assert!(
            matches!(refused, Err(LeafError::TooLong(bytes)) if bytes > MAX_LEAF),
            "{refused:?}"
        );
        let refused = Leaf { metadata: "{\"n\":1.5}", ..line }.to_bytes();
        let told = refused.expect_err("no leaf").to_string();
        assert_eq!(
            told,
            "its metadata has no canonical form: 1.5 is not a whole number between -(2^53 - 1) and 2^53 - 1"
        );
    }
}
