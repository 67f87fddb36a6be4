//! A file gets each new checkpoint appended: on another disk, or one that can only be written once.
//!
//! Checkpoints follow each other as they are, each with an empty line after it. The last one there that is
//! whole is looked at before anything is appended: a book that was set back is found out.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use proof::{Checkpoint, CheckpointError};

use super::{
    Anchor, AnchorError,
    evidence::{Evidence, of_another_key, weigh},
};
use crate::{log::Signed, state::App};

/// So much of its end is read: more than one checkpoint is long.
const TAIL: u64 = 16 * 1024;

pub(super) struct AnchorFile {
    app: App,
    path: PathBuf,
}

impl AnchorFile {
    pub(super) fn new(app: &App, path: &Path) -> Self {
        Self { app: app.clone(), path: path.to_owned() }
    }

    /// The last checkpoint there that the log has signed, if the book agrees with it or can't tell; with
    /// whether it agrees.
    pub(super) async fn ask(&self) -> Result<Option<(Checkpoint, bool)>, AnchorError> {
        let (log, path) = (self.app.log(), self.path.clone());
        let tail = on_disk(move || tail(&path)).await?;
        let origin = log.origin()?;
        let read = match last_of(&tail, &origin, &log.verifier_keys()) {
            // Another process may have made the key.
            Some(Last::OfAnotherKey(_)) => {
                log.refresh().await?;
                last_of(&tail, &origin, &log.verifier_keys())
            }
            read => read,
        };
        let evidence = match &read {
            None => return Ok(None),
            Some(Last::Signed(last)) => weigh(&self.app, last).await?,
            Some(Last::OfAnotherKey(last)) => Evidence::Contradicts(of_another_key(last)),
        };
        match (read, evidence) {
            (Some(Last::Signed(last)), Evidence::Agrees) => Ok(Some((last, true))),
            (Some(Last::Signed(last)), Evidence::Nothing) => Ok(Some((last, false))),
            (_, Evidence::Contradicts(contradiction)) => {
                contradiction.note(&self.app).await?;
                Err(AnchorError::Contradicted)
            }
            (_, Evidence::Agrees | Evidence::Nothing) => Ok(None),
        }
    }
}

/// What the file ends with, of this log.
#[derive(Debug, PartialEq)]
enum Last {
    Signed(Checkpoint),
    /// Nobody else writes to the file: the key is one that this database doesn't know.
    OfAnotherKey(Checkpoint),
}

#[async_trait::async_trait]
impl Anchor for AnchorFile {
    fn name(&self) -> String {
        format!("the file {}", self.path.display())
    }

    async fn take(&mut self, signed: &Signed) -> Result<(), AnchorError> {
        if self.ask().await?.is_some_and(|(last, _)| last.size >= signed.size) {
            return Ok(());
        }
        let (path, note) = (self.path.clone(), signed.note.clone());
        on_disk(move || append(&path, &note)).await
    }
}

async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, AnchorError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(io::Error::other).flatten().map_err(AnchorError::File)
}

/// The end of the file; nothing where there is none.
fn tail(path: &Path) -> io::Result<String> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        Err(error) => return Err(error),
    };
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut tail = Vec::new();
    file.take(TAIL).read_to_end(&mut tail)?;
    Ok(String::from_utf8_lossy(&tail).into_owned())
}

/// The last checkpoint of this log that is whole. What a crash has left half-written is passed over, and so
/// are those of a log that went before under another name.
fn last_of(tail: &str, origin: &str, keys: &[String]) -> Option<Last> {
    let parts = tail.split("\n\n").map(|part| part.trim_matches('\n'));
    let parts: Vec<_> = parts.filter(|part| !part.is_empty()).collect();
    parts.windows(2).rev().find_map(|pair| {
        let note = format!("{}\n", pair.join("\n\n"));
        match Checkpoint::verify(note.as_bytes(), origin, keys) {
            Ok(last) => Some(Last::Signed(last)),
            Err(CheckpointError::Unsigned) => {
                let last = Checkpoint::read(note.as_bytes()).ok()?;
                (last.origin == origin).then_some(Last::OfAnotherKey(last))
            }
            Err(_) => None,
        }
    })
}

/// Appends in one write, and waits for the disk. What a crash has left half-written stays, and gets an
/// empty line after it.
fn append(path: &Path, note: &[u8]) -> io::Result<()> {
    let is_new = !path.try_exists()?;
    let mut file = File::options().create(true).append(true).read(true).open(path)?;
    let length = file.metadata()?.len();
    let mut end = Vec::new();
    file.seek(SeekFrom::Start(length.saturating_sub(2)))?;
    (&mut file).take(2).read_to_end(&mut end)?;
    let is_whole = length == 0 || end == b"\n\n";
    let before: &[u8] = if is_whole { b"" } else { b"\n\n" };
    file.write_all(&[before, note, b"\n"].concat())?;
    file.sync_data()?;
    match path.parent() {
        // Its name, too, is to be there after a crash.
        Some(folder) if is_new && !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proof::{Hash, NoteSigner};

    use super::*;

    const ORIGIN: &str = "example.org/log";

    fn note(seed: u8, origin: &str, size: u64) -> String {
        let signer = NoteSigner::from_seed(origin, &[seed; 32]).unwrap();
        let checkpoint = Checkpoint { origin: origin.into(), size, root: Hash([1; 32]) };
        String::from_utf8(checkpoint.sign(&[&signer]).unwrap()).unwrap()
    }

    /// The size of the last one, and whether a key that is known has signed it.
    fn last(path: &Path) -> Option<(u64, bool)> {
        let keys = [NoteSigner::from_seed(ORIGIN, &[1; 32]).unwrap().verifier_key()];
        last_of(&tail(path).unwrap(), ORIGIN, &keys).map(|last| match last {
            Last::Signed(last) => (last.size, true),
            Last::OfAnotherKey(last) => (last.size, false),
        })
    }

    #[test]
    fn checkpoints_follow_each_other_whatever_a_crash_has_left() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("anchors");
        assert_eq!(last(&path), None);
        let ours = |size| note(1, ORIGIN, size);
        append(&path, ours(1).as_bytes()).unwrap();
        assert_eq!(last(&path), Some((1, true)));
        append(&path, ours(2).as_bytes()).unwrap();
        assert_eq!(last(&path), Some((2, true)));
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("{}\n{}\n", ours(1), ours(2)));

        let whole = ours(7);
        let add = |text: &[u8]| {
            File::options().append(true).open(&path).unwrap().write_all(text).unwrap();
        };
        let mut size = 2;
        // All but its last line feed is whole.
        for end in 0..whole.len() - 1 {
            add(&whole.as_bytes()[..end]);
            assert_eq!(last(&path), Some((size, true)), "{:?}", &whole[..end]);
            size += 1;
            let next = note(1, ORIGIN, size);
            append(&path, next.as_bytes()).unwrap();
            assert_eq!(last(&path), Some((size, true)), "after {:?}", &whole[..end]);
        }
        for left in ["\n", "x\n\n", "x\n\n\u{2014} y z\n\n", "\0\0\0\0"] {
            add(left.as_bytes());
            assert_eq!(last(&path), Some((size, true)), "{left:?}");
        }
        std::fs::write(&path, format!("{}\n", ours(5)).repeat(500)).unwrap();
        append(&path, ours(6).as_bytes()).unwrap();
        assert_eq!(last(&path), Some((6, true)));
    }

    #[test]
    fn what_another_key_has_signed_under_this_name_is_not_passed_over() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("anchors");
        append(&path, note(1, ORIGIN, 3).as_bytes()).unwrap();
        append(&path, note(2, ORIGIN, 9).as_bytes()).unwrap();
        File::options().append(true).open(&path).unwrap().write_all(b"example.org/log\n1").unwrap();
        assert_eq!(last(&path), Some((9, false)));
        // A log of another name says nothing of this one.
        append(&path, note(1, ORIGIN, 4).as_bytes()).unwrap();
        append(&path, note(2, "example.org/older", 11).as_bytes()).unwrap();
        assert_eq!(last(&path), Some((4, true)));
    }
}
