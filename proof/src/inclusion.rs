//! The proof of one line, to be kept and checked without the log (C2SP tlog-proof).

use std::fmt::Write as _;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use tlog_tiles::Hash;

use crate::{Checkpoint, CheckpointError};

/// The first line of the format.
const FIRST: &str = "c2sp.org/tlog-proof@v1";
/// No tree is higher.
const MOST_HASHES: usize = 64;

/// That a leaf is in the tree of a signed checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct InclusionProof {
    /// The leaf's index in the tree: its position less one.
    pub index: u64,
    /// From its sibling to the root's child.
    pub hashes: Vec<Hash>,
    /// The checkpoint, a note, with cosignatures if there are any.
    pub checkpoint: Vec<u8>,
    /// Anything else, which is not proved.
    pub extra: Option<Vec<u8>>,
}

/// Why a proof proves nothing.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    #[error("it is not a proof as C2SP tlog-proof has them: {0}")]
    Malformed(&'static str),
    #[error("its checkpoint is not believed: {0}")]
    Checkpoint(#[from] CheckpointError),
    #[error("line {position} is not in a book of {size} lines")]
    Beyond { position: u64, size: u64 },
    #[error("line {position} is not the one that the tree of {size} lines has")]
    OtherLine { position: u64, size: u64 },
}

impl InclusionProof {
    /// The proof as a text.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = format!("{FIRST}\n");
        // Writing to a string can't fail.
        if let Some(extra) = &self.extra {
            let _ = writeln!(text, "extra {}", BASE64.encode(extra));
        }
        let _ = writeln!(text, "index {}", self.index);
        for hash in &self.hashes {
            let _ = writeln!(text, "{hash}");
        }
        text.push('\n');
        text.push_str(&String::from_utf8_lossy(&self.checkpoint));
        text
    }

    /// Reads one; whether it proves anything is another question.
    pub fn parse(text: &str) -> Result<Self, ProofError> {
        use ProofError::Malformed;
        let mut rest = text;
        let mut next = || {
            let (line, after) = rest.split_once('\n').ok_or(Malformed("it ends too early"))?;
            rest = after;
            Ok::<_, ProofError>(line)
        };
        if next()? != FIRST {
            return Err(Malformed("its first line is another"));
        }
        let mut line = next()?;
        let mut extra = None;
        if let Some(encoded) = line.strip_prefix("extra ") {
            let decoded = BASE64.decode(encoded);
            extra = Some(decoded.map_err(|_| Malformed("its extra data is not Base64"))?);
            line = next()?;
        }
        let index = line
            .strip_prefix("index ")
            .and_then(number)
            .ok_or(Malformed("it has no index where one should be"))?;
        let mut hashes = Vec::new();
        loop {
            let line = next()?;
            if line.is_empty() {
                break;
            }
            if hashes.len() == MOST_HASHES {
                return Err(Malformed("it has more hashes than any tree is high"));
            }
            let hash = Hash::parse_hash(line);
            hashes.push(hash.map_err(|_| Malformed("a line of it is no hash"))?);
        }
        Ok(Self { index, hashes, checkpoint: rest.as_bytes().to_vec(), extra })
    }

    /// Checks that the leaf of this hash is in a tree that one of the keys has signed for the log
    /// `origin`; the checkpoint that says so.
    pub fn verify(
        &self,
        leaf_hash: Hash,
        origin: &str,
        keys: &[String],
    ) -> Result<Checkpoint, ProofError> {
        let checkpoint = Checkpoint::verify(&self.checkpoint, origin, keys)?;
        let (size, position) = (checkpoint.size, self.index.saturating_add(1));
        if self.index >= size {
            return Err(ProofError::Beyond { position, size });
        }
        tlog_tiles::check_record(&self.hashes, size, checkpoint.root, self.index, leaf_hash)
            .map_err(|_| ProofError::OtherLine { position, size })?;
        Ok(checkpoint)
    }
}

/// Digits alone, and no zero before others.
fn number(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

#[cfg(test)]
mod tests {
    use tlog_tiles::record_hash;

    use super::*;
    use crate::{Nodes, NoteSigner, Tree};

    const ORIGIN: &str = "example.org/log";

    fn signer() -> NoteSigner {
        NoteSigner::from_seed(ORIGIN, &[3; 32]).expect("a key")
    }

    fn leaf(index: u64) -> Hash {
        record_hash(&index.to_be_bytes())
    }

    /// A proof in a log of so many lines.
    fn proof(index: u64, size: u64) -> InclusionProof {
        let (mut tree, mut nodes) = (Tree::default(), Nodes::default());
        for index in 0..size {
            tree.push(leaf(index), |node| nodes.extend([node]));
        }
        let checkpoint = Checkpoint { origin: ORIGIN.to_owned(), size, root: tree.root() };
        InclusionProof {
            index,
            hashes: nodes.prove_inclusion(size, index).expect("a proof"),
            checkpoint: checkpoint.sign(&[&signer()]).expect("signed"),
            extra: None,
        }
    }

    #[test]
    fn a_proof_is_written_as_the_specification_has_it() {
        let proof = InclusionProof { extra: Some(b"more".to_vec()), ..proof(2, 5) };
        let text = proof.to_text();
        let lines: Vec<&str> = text.split('\n').collect();
        assert_eq!(lines[..3], ["c2sp.org/tlog-proof@v1", "extra bW9yZQ==", "index 2"]);
        assert_eq!(lines[3], leaf(3).to_string());
        assert_eq!(lines[6..9], ["", ORIGIN, "5"]);
        assert_eq!(InclusionProof::parse(&text).expect("a proof"), proof);
        let plain = InclusionProof { extra: None, ..proof };
        assert_eq!(InclusionProof::parse(&plain.to_text()).expect("a proof"), plain);
    }

    #[test]
    fn it_proves_its_own_leaf_and_no_other() {
        let keys = [signer().verifier_key()];
        for (index, size) in [(0, 1), (0, 2), (255, 256), (256, 257), (3, 700), (699, 700)] {
            let proof = InclusionProof::parse(&proof(index, size).to_text()).expect("a proof");
            let checkpoint = proof.verify(leaf(index), ORIGIN, &keys).expect("it holds");
            assert_eq!(checkpoint.size, size);
            let refused = proof.verify(leaf(index + 1), ORIGIN, &keys);
            assert!(matches!(refused, Err(ProofError::OtherLine { .. })), "{refused:?}");
        }
        let proof = proof(3, 5);
        let moved = InclusionProof { index: 2, ..proof.clone() };
        let refused = moved.verify(leaf(3), ORIGIN, &keys);
        assert!(matches!(refused, Err(ProofError::OtherLine { position: 3, size: 5 })));
        let beyond = InclusionProof { index: 5, ..proof.clone() };
        let refused = beyond.verify(leaf(3), ORIGIN, &keys);
        assert!(matches!(refused, Err(ProofError::Beyond { position: 6, size: 5 })));
        let mut short = proof.clone();
        short.hashes.pop();
        assert!(short.verify(leaf(3), ORIGIN, &keys).is_err());
        let refused = proof.verify(leaf(3), "example.org/other", &keys);
        assert!(matches!(refused, Err(ProofError::Checkpoint(_))), "{refused:?}");
        assert!(proof.verify(leaf(3), ORIGIN, &[]).is_err());
    }

    #[test]
    fn what_is_no_proof_is_refused() {
        let text = proof(2, 5).to_text();
        for (wrong, why) in [
            (text.replace("@v1", "@v2"), "its first line is another"),
            (text.replace("index 2", "index 02"), "it has no index where one should be"),
            (text.replace("index 2", "index +2"), "it has no index where one should be"),
            (text.replace("index 2", "extra !\nindex 2"), "its extra data is not Base64"),
            (text.replace("index 2\n", "index 2\nAAAA\n"), "a line of it is no hash"),
            (
                text.replace(
                    "index 2\n",
                    &format!("index 2\n{}", format!("{}\n", leaf(1)).repeat(70)),
                ),
                "it has more hashes than any tree is high",
            ),
            (String::new(), "it ends too early"),
            (text.lines().take(4).collect::<Vec<_>>().join("\n"), "it ends too early"),
        ] {
            match InclusionProof::parse(&wrong) {
                Err(ProofError::Malformed(told)) => assert_eq!(told, why, "{wrong}"),
                other => panic!("{other:?} of {wrong}"),
            }
        }
    }
}
