//! What a witness remembers: a directory with a file for each log, held by one process.
//!
//! A file is the last checkpoint with the log's signature and our own, so that nothing but what we signed
//! is believed when it is read again. It is replaced whole, and on the disk before anybody is answered.

use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use proof::{Checkpoint, CosignatureVerifier};

use super::{Seen, WitnessError};

const LOCK: &str = "lock";
const ENDING: &str = "checkpoint";

/// What is kept of checkpoints that a log has signed and that don't fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Evidence {
    /// Two roots of one size. The first that is found is kept for good.
    Fork,
    /// It was not proved that one continues the other. The newest is kept.
    Suspect,
}

impl Evidence {
    fn ending(self) -> &'static str {
        match self {
            Self::Fork => "fork",
            Self::Suspect => "suspect",
        }
    }
}

/// The directory of a witness.
pub(super) struct Directory {
    path: PathBuf,
    /// Held as long as it is open.
    _lock: File,
}

impl Directory {
    /// Makes it where it is missing, and locks it against other processes.
    pub(super) fn open(path: &Path) -> Result<Self, WitnessError> {
        let failed = |cause| WitnessError::Io { path: path.to_owned(), cause };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        let path = path.canonicalize().map_err(failed)?;
        let mut options = File::options();
        let lock = options.create(true).truncate(false).write(true).mode(0o600);
        let lock = lock.open(path.join(LOCK)).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(WitnessError::InUse(path)),
            Err(TryLockError::Error(cause)) => Err(failed(cause)),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn file(&self, id: &str) -> PathBuf {
        self.path.join(format!("{id}.{ENDING}"))
    }

    /// Whether anything was ever cosigned here.
    pub(super) fn has_memory(&self) -> Result<bool, WitnessError> {
        let failed = |cause| WitnessError::Io { path: self.path.clone(), cause };
        for entry in fs::read_dir(&self.path).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_some_and(|ending| ending == ENDING) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The last checkpoint of this log that we cosigned; none of one that is new here.
    pub(super) fn remembered(
        &self,
        origin: &str,
        id: &str,
        ours: &CosignatureVerifier,
    ) -> Result<Option<Seen>, WitnessError> {
        let file = self.file(id);
        let unusable = |cause: String| WitnessError::Memory {
            origin: origin.to_owned(),
            file: file.clone(),
            cause,
        };
        let note = match fs::read(&file) {
            Ok(note) => note,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(cause) => return Err(WitnessError::Io { path: file, cause }),
        };
        ours.find(&note).map_err(|error| unusable(error.to_string()))?;
        let checkpoint = Checkpoint::read(&note).map_err(|error| unusable(error.to_string()))?;
        if checkpoint.origin != origin {
            return Err(unusable(format!("it is of {}", checkpoint.origin)));
        }
        Ok(Some(Seen { checkpoint, note }))
    }

    /// Replaces what is remembered of a log. When this returns it outlives a power cut; when it fails,
    /// either is there, whole.
    pub(super) fn remember(&self, id: &str, note: &[u8]) -> io::Result<()> {
        self.replace(&self.file(id), note)
    }

    /// What is kept of a log.
    pub(super) fn kept(&self, id: &str, kind: Evidence) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.path.join(format!("{id}.{}", kind.ending()))) {
            Ok(notes) => Ok(Some(notes)),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(cause),
        }
    }

    /// The same, for whoever starts.
    pub(super) fn evidence(
        &self,
        id: &str,
        kind: Evidence,
    ) -> Result<Option<Vec<u8>>, WitnessError> {
        self.kept(id, kind).map_err(|cause| WitnessError::Io { path: self.path.clone(), cause })
    }

    /// Keeps evidence; whether it is new. The proof of a fork is never replaced.
    pub(super) fn keep(&self, id: &str, kind: Evidence, notes: &[u8]) -> io::Result<bool> {
        let file = self.path.join(format!("{id}.{}", kind.ending()));
        if kind == Evidence::Fork && file.try_exists()? {
            return Ok(false);
        }
        self.replace(&file, notes)?;
        Ok(true)
    }

    fn replace(&self, file: &Path, note: &[u8]) -> io::Result<()> {
        let new = file.with_extension("new");
        let mut options = File::options();
        let mut open = options.create(true).truncate(true).write(true).mode(0o600).open(&new)?;
        open.write_all(note)?;
        open.sync_all()?;
        fs::rename(&new, file)?;
        File::open(&self.path)?.sync_all()
    }
}
