//! What was signed, remembered outside of the database: in a file of the data directory.
//!
//! A database that is restored from an older backup doesn't know what was signed after it, and would
//! sign other lines under the same numbers. The file does know. It is written after the table, so it
//! is never ahead of it, unless the table was set back. Each replica has its own.
//!
//! A file belongs to one log: to its name and the key that it began with. Another log of the same name,
//! which began with another key, is refused where this one is remembered: the database was restored from
//! a backup of before the log began, or is a new one, and nobody who verifies should take one for the other.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use proof::Checkpoint;
use sha2::{Digest, Sha256};
use tokio::time::sleep;

use super::{
    Known, Log, LogError, Refuser, Signed,
    reading::{newest, root_within},
    signing::{AGAIN, choices},
};

/// The folder in the data directory.
pub(super) const FOLDER: &str = "log";

/// What the file says.
#[derive(Debug, Clone, PartialEq)]
pub enum Remembered {
    Nothing,
    Checkpoint(Checkpoint),
    /// No key that this database knows has signed it.
    Unbelieved,
    /// Nothing of this log, and so many lines of another one of its name.
    Another(u64),
}

pub(super) struct Memory {
    directory: PathBuf,
    /// Why it can't be written, if it can't.
    problem: Mutex<Option<String>>,
}

impl Memory {
    pub(super) fn new(data_dir: &Path) -> Self {
        Self { directory: data_dir.join(FOLDER), problem: Mutex::default() }
    }

    fn path(&self, known: &Known) -> PathBuf {
        let digest = Sha256::new()
            .chain_update(known.origin())
            .chain_update("\n")
            .chain_update(known.keys.first_id())
            .finalize();
        let name: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        self.directory.join(format!("{name}.checkpoint"))
    }

    /// What was signed, as far as is known here. Ask it before the table: then the table can't be
    /// behind it by rights.
    pub(super) async fn read(&self, known: &Known) -> Result<Remembered, LogError> {
        let path = self.path(known);
        let note = match tokio::fs::read(&path).await {
            Ok(note) => note,
            Err(error) if is_missing(&error) => {
                let (directory, origin) = (self.directory.clone(), known.origin().to_owned());
                let another = tokio::task::spawn_blocking(move || another(&directory, &origin));
                let another = another.await.map_err(io::Error::other).flatten();
                let failed =
                    |error| LogError::Memory(format!("{}: {error}", self.directory.display()));
                return Ok(another
                    .map_err(failed)?
                    .map_or(Remembered::Nothing, Remembered::Another));
            }
            Err(error) => return Err(LogError::Memory(format!("{}: {error}", path.display()))),
        };
        let read = Checkpoint::verify(&note, known.origin(), &known.verifier_keys);
        Ok(read.map_or(Remembered::Unbelieved, Remembered::Checkpoint))
    }

    /// Remembers a checkpoint that is in the table. A log whose memory can't be written signs all the
    /// same, and says so: the table is the record, and this its guard.
    pub(super) async fn keep(&self, known: &Known, signed: &Signed) {
        let (directory, path) = (self.directory.clone(), self.path(known));
        let note = signed.note.clone();
        let written = tokio::task::spawn_blocking(move || write(&directory, &path, &note)).await;
        let problem = match written {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        let mut before = self.problem.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = &problem
            && *before != problem
        {
            tracing::warn!(
                "what the transparency log has signed can't be remembered in {}: {error}. Without that a database \
                 that was restored from an older backup is not found out here",
                self.directory.display()
            );
        }
        *before = problem;
    }

    /// Why it can't be written, if it can't.
    pub(super) fn problem(&self) -> Option<String> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Replaces the file, whole or not at all, unless it knows more already: replicas may share a data
/// directory. Sizes are those that the notes say.
fn write(directory: &Path, path: &Path, note: &[u8]) -> io::Result<()> {
    let none = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let size = size_of(note).ok_or_else(|| none("what is to be remembered is no checkpoint"))?;
    fs::create_dir_all(directory)?;
    let lock = File::options()
        .create(true)
        .write(true)
        .truncate(false)
        .open(path.with_extension("lock"))?;
    lock.lock()?;
    match fs::read(path) {
        Ok(before) => {
            // What is damaged may be evidence all the same: somebody has to look.
            let before = size_of(&before).ok_or_else(|| none("what is there is no checkpoint"))?;
            if before >= size {
                return Ok(());
            }
        }
        Err(error) if is_missing(&error) => {}
        Err(error) => return Err(error),
    }
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(note)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(directory)?.sync_all()
}

/// How many lines of a log of this name are remembered, whatever key it began with.
fn another(directory: &Path, origin: &str) -> io::Result<Option<u64>> {
    let files = match fs::read_dir(directory) {
        Err(error) if is_missing(&error) => return Ok(None),
        files => files?,
    };
    let mut largest = None;
    for file in files {
        let path = file?.path();
        if path.extension().is_some_and(|extension| extension == "checkpoint") {
            let note = fs::read(&path)?;
            let name = note.split(|byte| *byte == b'\n').next();
            if name == Some(origin.as_bytes()) {
                largest = largest.max(size_of(&note));
            }
        }
    }
    Ok(largest)
}

/// The second line of a checkpoint.
fn size_of(note: &[u8]) -> Option<u64> {
    std::str::from_utf8(note).ok()?.lines().nth(1)?.parse().ok()
}

/// What is wrong between the memory and the newest checkpoint in the table, if anything is.
pub(super) fn disagreement(
    origin: &str,
    remembered: &Remembered,
    last: Option<&Signed>,
) -> Option<String> {
    let lines = last.map_or(0, |last| last.size);
    let newest = match last {
        Some(last) => format!(
            "The newest checkpoint of the log {origin} in the database has {lines} lines (signed {})",
            last.signed_at.format("%Y-%m-%d %H:%M:%S UTC")
        ),
        None => format!("The database has no checkpoint of the log {origin}"),
    };
    let choices = choices(origin);
    match remembered {
        Remembered::Nothing => None,
        Remembered::Unbelieved => Some(format!(
            "{newest}, and a server remembers one that no key of this database has signed. Either the database was \
             restored from a backup that is older than the key, or the file of that memory was damaged. {choices} If it was damaged, \
             remove it on that server, where `entrybook log status` names it, and run `entrybook log resume` there."
        )),
        Remembered::Another(size) => Some(format!(
            "A server remembers {size} lines of another log of the name {origin}, which began with another key. Either the database was \
             restored from a backup of before the log began, and what was written after it is lost; or it is a new database under an old \
             name, which whoever verifies would take for a forgery. {choices}"
        )),
        Remembered::Checkpoint(checkpoint) if checkpoint.size > lines => Some(format!(
            "{newest}, and a server remembers that one of {} lines was signed. The database was restored from an \
             older backup: what was written after it is lost, and what others were shown of it can't be taken back. {choices}",
            checkpoint.size
        )),
        Remembered::Checkpoint(checkpoint)
            if last.is_some_and(|last| {
                last.size == checkpoint.size && last.root != checkpoint.root
            }) =>
        {
            Some(format!(
                "{newest}, and a server remembers another one of as many lines. The database is not the one that it \
                 was, or was changed. {choices}"
            ))
        }
        Remembered::Checkpoint(_) => None,
    }
}

/// What was signed last doesn't follow from what is remembered.
pub(super) fn other_lines(origin: &str, kept: &Checkpoint, lines: u64) -> String {
    format!(
        "A server remembers a checkpoint of the log {origin} with {} lines, and the newest of {lines} lines doesn't follow from it. The \
         database was restored from an older backup and written on, or is not the one that it was. {}",
        kept.size,
        choices(origin)
    )
}

impl Log {
    /// Remembers what any replica has signed, and stops the log if this one knows better.
    pub(super) async fn remember(&self) -> Result<(), LogError> {
        if let Some(text) = self.compare_with_memory().await? {
            // A key, or a tree, may have become another between two questions.
            sleep(AGAIN).await;
            self.refresh().await?;
            if self.compare_with_memory().await?.is_some() {
                return self.refuse(Refuser::Memory, &text).await;
            }
        }
        Ok(())
    }

    /// What this replica knows better; else it remembers what is newer.
    async fn compare_with_memory(&self) -> Result<Option<String>, LogError> {
        let known = self.known()?;
        let remembered = self.0.memory.read(&known).await?;
        let mut connection = self.0.background.acquire().await?;
        let last = match newest(&mut connection, &known).await {
            // The signer says so, and it is no reason to forget anything.
            Err(LogError::Unsigned { .. }) => return Ok(None),
            last => last?,
        };
        if let Some(text) = disagreement(known.origin(), &remembered, last.as_ref()) {
            return Ok(Some(text));
        }
        let Some(last) = last else { return Ok(None) };
        // What is remembered is evidence: it is replaced by what follows from it, and by nothing else.
        if let Remembered::Checkpoint(kept) = &remembered {
            if kept.size >= last.size {
                return Ok(None);
            }
            match root_within(&mut connection, &last, kept.size).await? {
                None => return Ok(None),
                Some(root) if root != kept.root => {
                    return Ok(Some(other_lines(known.origin(), kept, last.size)));
                }
                Some(_) => {}
            }
        }
        if self.is_firm() {
            self.0.memory.keep(&known, &last).await;
        }
        Ok(None)
    }

    /// What is remembered here, and in which file.
    pub async fn remembered(&self) -> Result<(PathBuf, Remembered), LogError> {
        let known = self.known()?;
        Ok((self.0.memory.path(&known), self.0.memory.read(&known).await?))
    }

    /// Why what was signed can't be remembered outside of the database, if it can't.
    #[must_use]
    pub fn memory_problem(&self) -> Option<String> {
        self.0.memory.problem()
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use proof::Hash;

    use super::*;

    fn signed(size: u64, root: u8) -> Signed {
        Signed {
            origin: "example.org/log".into(),
            size,
            root: Hash([root; 32]),
            note: format!("example.org/log\n{size}\nroot\n").into_bytes(),
            signed_at: DateTime::UNIX_EPOCH,
            cosignatures: Vec::new(),
        }
    }

    fn remembered(size: u64, root: u8) -> Remembered {
        let origin = "example.org/log".into();
        Remembered::Checkpoint(Checkpoint { origin, size, root: Hash([root; 32]) })
    }

    #[test]
    fn a_table_that_is_behind_the_memory_or_differs_is_found_out() {
        let told = |remembered, last: Option<Signed>| {
            disagreement("example.org/log", &remembered, last.as_ref())
        };
        assert_eq!(told(Remembered::Nothing, None), None);
        assert_eq!(told(Remembered::Nothing, Some(signed(5, 1))), None);
        assert_eq!(told(remembered(5, 1), Some(signed(5, 1))), None);
        // What only the tree can tell.
        assert_eq!(told(remembered(4, 2), Some(signed(5, 1))), None);
        assert!(told(remembered(5, 2), Some(signed(5, 1))).unwrap().contains("another one"));
        assert!(told(Remembered::Unbelieved, None).unwrap().contains("no key of this database"));
        assert!(told(remembered(1, 1), None).is_some());
        insta::assert_snapshot!(told(remembered(6, 1), Some(signed(5, 1))).unwrap(), @"The newest checkpoint of the log example.org/log in the database has 5 lines (signed 1970-01-01 00:00:00 UTC), and a server remembers that one of 6 lines was signed. The database was restored from an older backup: what was written after it is lost, and what others were shown of it can't be taken back. Nothing is signed any more, and signing in goes on. Choose: restore the backup that has all of it; or, if it is lost, begin a new log with `entrybook log begin --origin example.org/log2` and tell those who verify the old one.");
    }

    #[test]
    fn another_log_of_the_same_name_is_found_by_what_is_remembered_of_it() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = scratch.path().join("log");
        assert_eq!(another(&directory, "example.org/log").unwrap(), None);
        write(&directory, &directory.join("x.checkpoint"), &signed(3, 1).note).unwrap();
        write(&directory, &directory.join("y.checkpoint"), &signed(9, 1).note).unwrap();
        assert_eq!(another(&directory, "example.org/log").unwrap(), Some(9));
        assert_eq!(another(&directory, "example.org/log2").unwrap(), None);
        let told = disagreement("example.org/log", &Remembered::Another(9), None).unwrap();
        assert!(told.contains("9 lines of another log") && told.contains("log begin"), "{told}");
    }

    #[test]
    fn the_file_is_replaced_as_a_whole_and_never_goes_back() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = scratch.path().join("log");
        let path = directory.join("x.checkpoint");
        let keep = |size| write(&directory, &path, &signed(size, 1).note).unwrap();
        let kept = || size_of(&fs::read(&path).unwrap());
        keep(3);
        assert_eq!(kept(), Some(3));
        keep(7);
        keep(5);
        assert_eq!(kept(), Some(7));
        // What a crash has left half-written is in no one's way.
        fs::write(path.with_extension("new"), "half").unwrap();
        keep(8);
        assert_eq!(kept(), Some(8));
        // What is no checkpoint is neither put there nor replaced.
        assert!(write(&directory, &path, b"example.org/log\nmany\n").is_err());
        assert_eq!(kept(), Some(8));
        fs::write(&path, "damaged").unwrap();
        assert!(write(&directory, &path, &signed(9, 1).note).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"damaged");
    }
}
