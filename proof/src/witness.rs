//! What a witness is asked, and how it judges it (C2SP tlog-witness, `add-checkpoint`). What it remembers,
//! and that it remembers before it answers, is up to whoever runs one.

use signed_note::{Note, Signature, StandardVerifier, Verifier, Verifiers};
use tlog_tiles::{Checkpoint as Head, EMPTY_HASH, check_tree};

use crate::{Checkpoint, CheckpointError, Hash, checkpoint::verifiers};

/// The most hashes of a proof: one for each level of the largest tree.
const MAX_PROOF: usize = 63;

/// A new checkpoint of a log, and the proof that it continues an older one.
#[derive(Debug, Clone, PartialEq)]
pub struct AddCheckpoint {
    /// The size of the checkpoint that the witness is believed to have cosigned last; zero for none.
    pub old: u64,
    pub proof: Vec<Hash>,
    /// The signed note.
    pub checkpoint: Vec<u8>,
}

/// A checkpoint that may be cosigned.
#[derive(Debug, Clone, PartialEq)]
pub struct Accepted {
    pub checkpoint: Checkpoint,
    /// The note, with the signatures of the log alone: anybody may have written others under it.
    pub note: Vec<u8>,
}

/// Why a checkpoint is not cosigned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("it is no request as C2SP tlog-witness has them: {0}")]
    Malformed(&'static str),
    #[error("none of the keys that are known of the log has signed the checkpoint")]
    Unsigned,
    #[error("a signature of the log's own key does not fit")]
    Forged,
    #[error("it goes from {old} lines to {size}, which are fewer")]
    Shrinks { old: u64, size: u64 },
    /// The size of the checkpoint that was cosigned last.
    #[error("the checkpoint that was cosigned last has {0} lines")]
    Conflict(u64),
    #[error("it is not the same tree, grown: {0}")]
    Inconsistent(&'static str),
}

impl AddCheckpoint {
    /// The body of the request.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut head = format!("old {}\n", self.old);
        for hash in &self.proof {
            head.push_str(&format!("{hash}\n"));
        }
        head.push('\n');
        [head.as_bytes(), &self.checkpoint].concat()
    }

    /// Reads the body of a request.
    pub fn parse(body: &[u8]) -> Result<Self, Refusal> {
        let body = std::str::from_utf8(body).map_err(|_| Refusal::Malformed("it is not UTF-8"))?;
        let (head, checkpoint) = body
            .split_once("\n\n")
            .ok_or(Refusal::Malformed("no empty line stands before the checkpoint"))?;
        let mut lines = head.split('\n');
        let old = lines.next().and_then(|line| number(line.strip_prefix("old ")?));
        let old = old.ok_or(Refusal::Malformed("the first line is not `old` and a size"))?;
        let proof = lines.map(Hash::parse_hash).collect::<Result<Vec<_>, _>>();
        let proof = proof.map_err(|_| Refusal::Malformed("a line of the proof is no hash"))?;
        if proof.len() > MAX_PROOF {
            return Err(Refusal::Malformed("the proof has more than 63 hashes"));
        }
        Ok(Self { old, proof, checkpoint: checkpoint.into() })
    }

    /// The log that the checkpoint says it is of. Nothing is verified yet.
    pub fn origin(&self) -> Result<String, Refusal> {
        Ok(head(&note(&self.checkpoint)?)?.origin().to_owned())
    }

    /// Judges it by the keys of its log and by the size and the root of the checkpoint of it that was
    /// cosigned last.
    pub fn judge(&self, keys: &[String], last: Option<(u64, Hash)>) -> Result<Accepted, Refusal> {
        let note = note(&self.checkpoint)?;
        let head = head(&note)?;
        let known = verifiers(head.origin(), keys).map_err(|_| Refusal::Unsigned)?;
        let (signatures, _) = note.verify(&known).map_err(|error| match error {
            signed_note::NoteError::InvalidSignature { .. } => Refusal::Forged,
            _ => Refusal::Unsigned,
        })?;
        // The library looks at the first signature of each key alone. A further one that is wrong makes the note malformed
        // as well (C2SP signed-note), wherever it stands.
        if signs_wrongly(&note, &known) {
            return Err(Refusal::Forged);
        }
        let (size, root) = (head.size(), *head.hash());
        if self.old > size {
            return Err(Refusal::Shrinks { old: self.old, size });
        }
        let (last_size, last_root) = last.unwrap_or((0, EMPTY_HASH));
        if self.old != last_size {
            return Err(Refusal::Conflict(last_size));
        }
        if size == 0 && root != EMPTY_HASH {
            return Err(Refusal::Inconsistent("the root is not that of no lines"));
        }
        if self.old == 0 {
            if !self.proof.is_empty() {
                return Err(Refusal::Inconsistent("from no lines on there is nothing to prove"));
            }
        } else if self.old == size && root != last_root {
            return Err(Refusal::Inconsistent("there are two roots of one size"));
        } else if check_tree(&self.proof, size, root, self.old, last_root).is_err() {
            return Err(Refusal::Inconsistent("the proof does not hold"));
        }
        let note = Note::new(note.text(), &signatures).map_err(|_| malformed())?;
        Ok(Accepted {
            checkpoint: Checkpoint { origin: head.origin().to_owned(), size, root },
            note: note.to_bytes(),
        })
    }
}

impl Checkpoint {
    /// What a note says, whoever has signed it: for one whose signatures are looked at elsewhere.
    pub fn read(note: &[u8]) -> Result<Self, CheckpointError> {
        let head = Note::from_bytes(note).map_err(|_| CheckpointError::Malformed)?;
        let head = Head::from_bytes(head.text()).map_err(|_| CheckpointError::Malformed)?;
        Ok(Self { origin: head.origin().to_owned(), size: head.size(), root: *head.hash() })
    }
}

/// The log that this verifier key is of: its checkpoints bear the key's name as their origin.
pub fn log_of(key: &str) -> Result<String, CheckpointError> {
    let verifier = StandardVerifier::new(key).map_err(|_| CheckpointError::Key(key.to_owned()))?;
    Ok(verifier.name().to_owned())
}

/// Whether any signature that names one of these keys does not fit.
fn signs_wrongly(note: &Note, known: &impl Verifiers) -> bool {
    let bytes = note.to_bytes();
    let lines = bytes.get(note.text().len()..).unwrap_or_default().split(|byte| *byte == b'\n');
    lines.filter(|line| !line.is_empty()).any(|line| {
        // The library has read the note, so each is a signature.
        let Ok(signature) = Signature::from_bytes(line) else { return true };
        let verifier = known.verifier(signature.name(), signature.id());
        verifier.is_ok_and(|verifier| !verifier.verify(note.text(), signature.signature()))
    })
}

/// As C2SP writes sizes: in decimal, without leading zeros.
fn number(text: &str) -> Option<u64> {
    text.parse::<u64>().ok().filter(|number| number.to_string() == text)
}

fn malformed() -> Refusal {
    Refusal::Malformed("what follows the empty line is no checkpoint")
}

fn note(bytes: &[u8]) -> Result<Note, Refusal> {
    Note::from_bytes(bytes).map_err(|_| malformed())
}

fn head(note: &Note) -> Result<Head, Refusal> {
    Head::from_bytes(note.text()).map_err(|_| malformed())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tlog_tiles::record_hash;

    use super::*;
    use crate::{Missing, Nodes, NoteSigner, ProveError, Tree};

    const LOG: &str = "example.org/log";

    fn signer(seed: u8) -> NoteSigner {
        NoteSigner::from_seed(LOG, &[seed; 32]).expect("a key")
    }

    fn keys() -> Vec<String> {
        vec![signer(1).verifier_key()]
    }

    /// A log whose leaves are numbers; from `fork` on they are others.
    struct Log {
        nodes: Vec<crate::Node>,
        roots: Vec<Hash>,
    }

    impl Log {
        fn grown(leaves: u64, fork: u64) -> Self {
            let (mut tree, mut nodes) = (Tree::default(), Vec::new());
            let mut roots = vec![tree.root()];
            for number in 0..leaves {
                let leaf = if number < fork { number } else { number + 1_000_000 };
                tree.push(record_hash(&leaf.to_be_bytes()), |node| nodes.push(node));
                roots.push(tree.root());
            }
            Self { nodes, roots }
        }

        fn root(&self, size: u64) -> Hash {
            self.roots[size as usize]
        }

        fn proof(&self, size: u64, old: u64) -> Vec<Hash> {
            let mut nodes = Nodes::default();
            loop {
                match nodes.prove_consistency(size, old) {
                    Err(ProveError::Missing(Missing(missing))) => nodes.extend(
                        self.nodes
                            .iter()
                            .filter(|node| missing.contains(&(node.level, node.index)))
                            .copied(),
                    ),
                    other => return other.expect("a proof"),
                }
            }
        }

        fn note(&self, size: u64, seed: u8) -> Vec<u8> {
            let checkpoint = Checkpoint { origin: LOG.into(), size, root: self.root(size) };
            checkpoint.sign(&[&signer(seed)]).expect("signed")
        }

        fn add(&self, old: u64, size: u64) -> AddCheckpoint {
            AddCheckpoint { old, proof: self.proof(size, old), checkpoint: self.note(size, 1) }
        }
    }

    #[test]
    fn a_request_is_written_as_c2sp_writes_it_and_read_again() {
        let log = Log::grown(40, 40);
        let request = log.add(17, 40);
        let bytes = request.to_bytes();
        let text = String::from_utf8(bytes.clone()).expect("UTF-8");
        assert!(text.starts_with("old 17\n"), "{text}");
        assert!(text.contains("=\n\nexample.org/log\n40\n"), "{text}");
        assert_eq!(AddCheckpoint::parse(&bytes), Ok(request.clone()));
        assert_eq!(request.origin().as_deref(), Ok(LOG));
        let first = log.add(0, 40).to_bytes();
        assert!(first.starts_with(b"old 0\n\nexample.org/log\n"));
        assert_eq!(AddCheckpoint::parse(&first), Ok(log.add(0, 40)));
    }

    #[test]
    fn what_is_no_request_is_malformed() {
        let note = String::from_utf8(Log::grown(3, 3).note(3, 1)).expect("UTF-8");
        let hash = record_hash(b"x").to_string();
        let many = format!("{hash}\n").repeat(64);
        for wrong in [
            String::new(),
            "old 0".into(),
            format!("old 0\n{note}").replacen("\n\n", "\n", 1),
            format!("\n\n{note}"),
            format!("0\n\n{note}"),
            format!("old  0\n\n{note}"),
            format!("old 00\n\n{note}"),
            format!("old 01\n\n{note}"),
            format!("old +1\n\n{note}"),
            format!("old -1\n\n{note}"),
            format!("old 18446744073709551616\n\n{note}"),
            format!("old 0\r\n\n{note}"),
            format!("OLD 0\n\n{note}"),
            format!("old 1\n{}\n\n{note}", &hash[..43]),
            format!("old 1\n{hash}=\n\n{note}"),
            format!("old 1\n {hash}\n\n{note}"),
            format!("old 1\n{}\n\n{note}", "A".repeat(44)),
            format!("old 1\n{many}\n{note}"),
        ] {
            let read = AddCheckpoint::parse(wrong.as_bytes());
            assert!(matches!(read, Err(Refusal::Malformed(_))), "{wrong:?}: {read:?}");
        }
        assert!(matches!(AddCheckpoint::parse(b"old 0\n\n\xff"), Err(Refusal::Malformed(_))));
        for wrong in ["", "x", "a\n1\n", "a\n01\nAAAA\n\n\u{2014} a AAAAAAAA\n"] {
            let request = AddCheckpoint::parse(format!("old 0\n\n{wrong}").as_bytes());
            let request = request.expect("its head is well formed");
            assert!(matches!(request.origin(), Err(Refusal::Malformed(_))), "{wrong:?}");
            assert!(
                matches!(request.judge(&keys(), None), Err(Refusal::Malformed(_))),
                "{wrong:?}"
            );
        }
        assert!(AddCheckpoint::parse(format!("old 1\n{hash}\n\n{note}").as_bytes()).is_ok());
    }

    /// What C2SP tlog-witness says about sizes of zero and about what must match, row by row.
    #[test]
    fn each_row_of_the_specification_is_answered_as_it_says() {
        let log = Log::grown(5, 5);
        let leaf = record_hash(b"leaf");
        let note = |size: u64, root: Hash| {
            let checkpoint = Checkpoint { origin: LOG.into(), size, root };
            checkpoint.sign(&[&signer(1)]).expect("signed")
        };
        let judge = |known: u64, old: u64, proof: Vec<Hash>, checkpoint: Vec<u8>| {
            let last = (known > 0).then(|| (known, log.root(known)));
            let request = AddCheckpoint { old, proof, checkpoint };
            request.judge(&keys(), last).map(|accepted| accepted.checkpoint.size)
        };
        let inconsistent = |judged| matches!(judged, Err(Refusal::Inconsistent(_)));
        assert_eq!(judge(0, 0, vec![], note(0, EMPTY_HASH)), Ok(0));
        assert!(inconsistent(judge(0, 0, vec![], note(0, leaf))));
        assert!(inconsistent(judge(0, 0, vec![], note(0, Hash::default()))));
        assert!(inconsistent(judge(0, 0, vec![leaf], note(0, EMPTY_HASH))));
        assert_eq!(judge(0, 0, vec![], note(1, log.root(1))), Ok(1));
        assert!(inconsistent(judge(0, 0, vec![leaf], note(1, log.root(1)))));
        assert_eq!(judge(1, 0, vec![leaf], note(1, log.root(1))), Err(Refusal::Conflict(1)));
        assert_eq!(judge(3, 0, vec![], note(5, log.root(5))), Err(Refusal::Conflict(3)));
        assert_eq!(judge(0, 3, log.proof(5, 3), note(5, log.root(5))), Err(Refusal::Conflict(0)));
        let shrinks = Err(Refusal::Shrinks { old: 1, size: 0 });
        assert_eq!(judge(1, 1, vec![], note(0, EMPTY_HASH)), shrinks);
        assert_eq!(judge(3, 3, log.proof(5, 3), note(5, log.root(5))), Ok(5));
        assert_eq!(judge(5, 5, vec![], note(5, log.root(5))), Ok(5));
        assert!(inconsistent(judge(5, 5, vec![leaf], note(5, log.root(5)))));
        let two_roots = Err(Refusal::Inconsistent("there are two roots of one size"));
        assert_eq!(judge(5, 5, vec![], note(5, leaf)), two_roots);
        assert!(inconsistent(judge(3, 3, vec![], note(5, log.root(5)))));
        assert!(inconsistent(judge(3, 3, log.proof(5, 2), note(5, log.root(5)))));
        assert!(inconsistent(judge(3, 3, log.proof(5, 3), note(5, leaf))));
    }

    #[test]
    fn only_the_logs_own_signatures_count_and_only_they_are_kept() {
        let log = Log::grown(5, 5);
        let ours = log.add(0, 5);
        let strangers = AddCheckpoint { checkpoint: log.note(5, 2), ..ours.clone() };
        assert_eq!(strangers.judge(&keys(), None), Err(Refusal::Unsigned));
        assert_eq!(ours.judge(&[], None), Err(Refusal::Unsigned));
        let both = [signer(2).verifier_key(), signer(1).verifier_key()];
        assert_eq!(ours.judge(&both, None).expect("accepted").note, ours.checkpoint);

        let text = String::from_utf8(ours.checkpoint.clone()).expect("UTF-8");
        let edited = text.replacen("\n5\n", "\n4\n", 1).into_bytes();
        let edited = AddCheckpoint { checkpoint: edited, ..ours.clone() };
        assert_eq!(edited.judge(&keys(), None), Err(Refusal::Forged));

        // A second signature of the log's own key that does not fit, before the good one or behind it.
        let good = text.lines().last().expect("a signature").to_owned();
        let other = String::from_utf8(log.note(4, 1)).expect("UTF-8");
        let wrong = other.lines().last().expect("a signature").to_owned();
        assert_ne!(good, wrong);
        for both in [format!("{wrong}\n{good}"), format!("{good}\n{wrong}")] {
            let checkpoint = text.replacen(&good, &both, 1).into_bytes();
            let twice = AddCheckpoint { checkpoint, ..ours.clone() };
            assert_eq!(twice.judge(&keys(), None), Err(Refusal::Forged), "{both}");
        }

        // A line of somebody else under it, ahead of the log's.
        let line = String::from_utf8(log.note(5, 2)).expect("UTF-8");
        let line = line.lines().last().expect("a signature").to_owned();
        let busy = text.replacen("\n\n", &format!("\n\n{line}\n"), 1).into_bytes();
        let accepted = AddCheckpoint { checkpoint: busy, ..ours.clone() }.judge(&keys(), None);
        assert_eq!(accepted.expect("accepted").note, ours.checkpoint);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// However a log grows, its witness follows; what forks before what was cosigned never passes.
        #[test]
        fn what_grew_is_accepted_and_what_forked_is_not(
            old in 1_u64..300, more in 0_u64..300, fork in 0_u64..300, edit in any::<usize>(),
        ) {
            let size = old + more;
            let log = Log::grown(size, size);
            let last = Some((old, log.root(old)));
            let request = AddCheckpoint::parse(&log.add(old, size).to_bytes()).expect("a request");
            prop_assert_eq!(request.judge(&keys(), last).expect("it grew").checkpoint.size, size);

            let forked = Log::grown(size, fork % old);
            let judged = forked.add(old, size).judge(&keys(), last);
            prop_assert!(matches!(judged, Err(Refusal::Inconsistent(_))), "{judged:?}");
            // Nor with the proof of the true one, nor with a proof in which a bit is another.
            let mixed = AddCheckpoint { proof: log.proof(size, old), ..forked.add(old, size) };
            prop_assert!(matches!(mixed.judge(&keys(), last), Err(Refusal::Inconsistent(_))));
            let mut edited = request;
            if !edited.proof.is_empty() {
                let at = edit % edited.proof.len();
                edited.proof[at].0[edit % 32] ^= 1;
                prop_assert!(matches!(edited.judge(&keys(), last), Err(Refusal::Inconsistent(_))));
            }
        }

        #[test]
        fn nothing_that_is_sent_makes_it_panic(body in prop::collection::vec(any::<u8>(), 0..400)) {
            if let Ok(request) = AddCheckpoint::parse(&body) {
                let _ = (request.origin(), request.judge(&keys(), None));
            }
        }
    }
}
