//! A witness of transparency logs (C2SP tlog-witness): it remembers the last checkpoint of each log that it
//! watches, and cosigns a new one only if that is the same tree, grown.
//!
//! It belongs on a machine that whoever runs the log can't reach into. It needs no database, and trusts
//! nobody: a log proves to it what it says. How one is judged is `proof`'s; here it is remembered, on the
//! disk before anybody is answered ([`state`]), and asked over HTTP ([`routes`]).

mod key;
mod metrics;
mod routes;
mod state;

use std::{
    collections::BTreeMap,
    io,
    num::NonZeroU64,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use commands::clock::{Clock, Entropy};
use proof::{AddCheckpoint, Checkpoint, CheckpointError, CosignatureSigner, CosignatureVerifier};
use sha2::{Digest, Sha256};

pub use routes::serve;
use state::{Directory, Evidence};

/// How often at most it is said of a log that it misbehaves: anybody can make it.
const COMPLAINTS: Duration = Duration::from_secs(60);

/// Why a witness can't start. What it says tells what to do.
#[derive(Debug, thiserror::Error)]
pub enum WitnessError {
    #[error(
        "{0:?} is no verifier key of a log: copy the line that `entrybook log key` prints there"
    )]
    LogKey(String),
    #[error("{0}")]
    Name(CheckpointError),
    #[error("another witness runs on {}: stop it, or give this one a directory of its own", .0.display())]
    InUse(PathBuf),
    #[error("the witness of {} is called {found}, and not {asked}: leave --name out, or take another directory", directory.display())]
    OtherName { directory: PathBuf, found: String, asked: String },
    #[error(
        "{} holds no key of a witness: put it back from your backup, or begin a new witness in another directory",
        .0.display()
    )]
    Key(PathBuf),
    #[error(
        "what it remembers of {origin} can't be used ({cause}): {}. A witness that has forgotten a log would cosign its \
         fork. Put the file back from your backup; or begin a new witness in another directory, and tell its key to \
         whoever verifies",
        file.display()
    )]
    Memory { origin: String, file: PathBuf, cause: String },
    #[error("{} can't be used: {cause}", path.display())]
    Io { path: PathBuf, cause: io::Error },
}

/// Why a checkpoint was not cosigned.
#[derive(Debug, thiserror::Error)]
pub enum Declined {
    #[error("this witness does not watch that log")]
    UnknownLog,
    #[error(transparent)]
    Refused(#[from] proof::Refusal),
    /// Of this machine.
    #[error("it could not be remembered: {0}")]
    Storage(#[from] io::Error),
    #[error("it could not be cosigned: {0}")]
    Cosigning(#[from] CheckpointError),
    #[error("the clock of this machine stands before 1970")]
    Clock,
}

/// A log that is watched.
struct Watched {
    /// The verifier keys of which one must have signed.
    keys: Vec<String>,
    /// The name of the log in paths.
    id: String,
    /// Locked from the look at it until the new one is on the disk: no checkpoint comes between.
    memory: Mutex<Memory>,
}

#[derive(Default)]
struct Memory {
    seen: Option<Seen>,
    complained: Option<Instant>,
}

/// The last checkpoint that was cosigned.
struct Seen {
    checkpoint: Checkpoint,
    /// Signed by the log and cosigned by us.
    note: Vec<u8>,
}

/// A witness. It holds its directory against every other process.
pub struct Witness {
    signer: CosignatureSigner,
    directory: Directory,
    logs: BTreeMap<String, Watched>,
    clock: Arc<dyn Clock>,
    metrics: metrics::Metrics,
}

impl Witness {
    /// Takes up the witness of a directory, or makes one there under this name, to watch the logs of these
    /// verifier keys. Keys of one name are of one log.
    pub fn open(
        directory: &Path,
        name: Option<&str>,
        log_keys: &[String],
        clock: Arc<dyn Clock>,
        entropy: &dyn Entropy,
    ) -> Result<Self, WitnessError> {
        let logs = logs_of(log_keys)?;
        let directory = Directory::open(directory)?;
        let signer = key::find(&directory, name, entropy)?;
        let mut watched = BTreeMap::new();
        let metrics = metrics::Metrics::new();
        for (origin, keys) in logs {
            let id = id_of(&origin);
            let seen = directory.remembered(&origin, &id, signer.verifier())?;
            metrics.cosigned(&origin, seen.as_ref().map_or(0, |seen| seen.checkpoint.size));
            metrics.fork(&origin, directory.evidence(&id, Evidence::Fork)?.is_some());
            let memory = Mutex::new(Memory { seen, complained: None });
            watched.insert(origin, Watched { keys, id, memory });
        }
        Ok(Self { signer, directory, logs: watched, clock, metrics })
    }

    /// The key of the witness in this directory, if one was made, whether or not it runs.
    pub fn known(directory: &Path) -> Result<Option<CosignatureVerifier>, WitnessError> {
        key::shown(directory)
    }

    /// The key that its cosignatures are verified with.
    #[must_use]
    pub fn verifier(&self) -> &CosignatureVerifier {
        self.signer.verifier()
    }

    /// The logs, with how many keys of each are known and how many lines were cosigned last.
    pub fn logs(&self) -> impl Iterator<Item = (&str, usize, u64)> {
        self.logs.iter().map(|(origin, log)| {
            let memory = log.memory.lock().unwrap_or_else(PoisonError::into_inner);
            let size = memory.seen.as_ref().map_or(0, |seen| seen.checkpoint.size);
            (origin.as_str(), log.keys.len(), size)
        })
    }

    /// Answers the body of an `add-checkpoint`: the line to be added to the checkpoint. Waits for the disk.
    pub fn add(&self, body: &[u8]) -> Result<String, Declined> {
        let answer = self.answer(body);
        self.metrics.answered(match &answer {
            Ok(_) => "cosigned",
            Err(Declined::UnknownLog) => "unknown_log",
            Err(Declined::Refused(refusal)) => match refusal {
                proof::Refusal::Malformed(_) => "malformed",
                proof::Refusal::Unsigned => "unsigned",
                proof::Refusal::Forged => "forged",
                proof::Refusal::Shrinks { .. } => "shrinks",
                proof::Refusal::Conflict(_) => "conflict",
                proof::Refusal::Inconsistent(_) => "inconsistent",
            },
            Err(Declined::Storage(_) | Declined::Cosigning(_) | Declined::Clock) => "failed",
        });
        answer
    }

    fn answer(&self, body: &[u8]) -> Result<String, Declined> {
        let request = AddCheckpoint::parse(body)?;
        let origin = request.origin()?;
        let log = self.logs.get(&origin).ok_or(Declined::UnknownLog)?;
        let mut memory = log.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let last = memory.seen.as_ref().map(|seen| (seen.checkpoint.size, seen.checkpoint.root));
        let accepted = match request.judge(&log.keys, last) {
            Ok(accepted) => accepted,
            Err(refusal) => {
                self.keep_evidence(&origin, log, &mut memory, &request.checkpoint, &refusal)?;
                return Err(refusal.into());
            }
        };
        let time = u64::try_from(self.clock.now().timestamp()).ok().and_then(NonZeroU64::new);
        let line = self.signer.cosign(&accepted.note, time.ok_or(Declined::Clock)?)?;
        let (size, root) = (accepted.checkpoint.size, accepted.checkpoint.root);
        // Of what is remembered already nothing need be written: the first cosignature of it is as good.
        if last != Some((size, root)) {
            let note = [&accepted.note[..], line.as_bytes()].concat();
            self.directory.remember(&log.id, &note)?;
            self.metrics.cosigned(&origin, size);
            memory.seen = Some(Seen { checkpoint: accepted.checkpoint, note });
            tracing::debug!(origin, size, %root, "cosigned {origin} at {size} lines, root {root}");
        }
        Ok(line)
    }

    /// Keeps what a log has signed that does not fit what was cosigned last. Of two roots of one size, both notes
    /// together prove the fork to anybody; they are kept for good. Where the sizes differ, either the proof that was sent was
    /// wrong, which anybody can send, or the log has forked: the newest of these are kept, at most once a minute.
    fn keep_evidence(
        &self,
        origin: &str,
        log: &Watched,
        memory: &mut Memory,
        note: &[u8],
        refusal: &proof::Refusal,
    ) -> Result<(), Declined> {
        let is_signed = !matches!(
            refusal,
            proof::Refusal::Malformed(_) | proof::Refusal::Unsigned | proof::Refusal::Forged
        );
        let (Some(seen), Ok(found)) = (&memory.seen, Checkpoint::read(note)) else { return Ok(()) };
        let is_fork = found.size == seen.checkpoint.size && found.root != seen.checkpoint.root;
        let is_suspect = matches!(refusal, proof::Refusal::Inconsistent(_));
        if !is_signed || !(is_fork || is_suspect) {
            tracing::debug!(origin, "refused a checkpoint of {origin}: {refusal}");
            return Ok(());
        }
        let both = [&seen.note[..], b"\n", note].concat();
        let (size, root) = (seen.checkpoint.size, seen.checkpoint.root);
        let is_time = memory.complained.is_none_or(|at| at.elapsed() > COMPLAINTS);
        if is_fork && self.directory.keep(&log.id, Evidence::Fork, &both)? {
            self.metrics.fork(origin, true);
        } else if !is_time {
            return Ok(());
        } else if !is_fork {
            self.directory.keep(&log.id, Evidence::Suspect, &both)?;
        }
        memory.complained = Some(Instant::now());
        let (other_size, other_root) = (found.size, found.root);
        tracing::error!(
            origin, size, %root, other_size, %other_root,
            "a checkpoint signed by {origin} was refused: {refusal}. It has {other_size} lines and the root {other_root}; cosigned last: \
             {size} lines with the root {root}. {}",
            if is_fork {
                "The log has signed two histories; both checkpoints are kept, and prove it"
            } else {
                "Either its proof was wrong, or the log shows different people different histories; both checkpoints are kept"
            }
        );
        Ok(())
    }

    /// What is kept of a log that does not fit, by its name in paths: what was cosigned last by then, and what was refused.
    fn evidence(&self, id: &str, kind: Evidence) -> io::Result<Option<Vec<u8>>> {
        match self.logs.values().find(|log| log.id == id) {
            Some(log) => Ok(self.directory.kept(&log.id, kind)?),
            None => Ok(None),
        }
    }

    /// The last checkpoint of a log, by its name in paths.
    #[must_use]
    pub fn last(&self, id: &str) -> Option<Vec<u8>> {
        let log = self.logs.values().find(|log| log.id == id)?;
        let memory = log.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.seen.as_ref().map(|seen| seen.note.clone())
    }
}

/// The logs of these keys, by their names.
fn logs_of(keys: &[String]) -> Result<BTreeMap<String, Vec<String>>, WitnessError> {
    let mut logs = BTreeMap::<String, Vec<String>>::new();
    for key in keys {
        let key = key.trim();
        let name = proof::log_of(key).map_err(|_| WitnessError::LogKey(key.to_owned()))?;
        let keys = logs.entry(name).or_default();
        if !keys.iter().any(|known| known == key) {
            keys.push(key.to_owned());
        }
    }
    Ok(logs)
}

/// The name of a log in paths: the SHA-256 of its origin, in hexadecimal.
#[must_use]
pub fn id_of(origin: &str) -> String {
    Sha256::digest(origin).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
