//! A file gets each new checkpoint appended: on another disk, or one that can only be written once.
//!
//! Checkpoints follow each other as they are, each with an empty line after it. The last one there is
//! looked at before anything is appended: a book that was set back is found out.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use proof::Checkpoint;

use super::{Anchor, AnchorError, evidence::contradiction};
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

    /// The last checkpoint there that the log has signed, if the book agrees with it.
    pub(super) async fn ask(&self) -> Result<Option<Checkpoint>, AnchorError> {
        let path = self.path.clone();
        let Some(last) = on_disk(move || last_of(&path)).await? else { return Ok(None) };
        let log = self.app.log();
        // What another key has signed may be of an older log of this name.
        let last = Checkpoint::verify(last.as_bytes(), &log.origin()?, &log.verifier_keys());
        let Ok(last) = last else { return Ok(None) };
        if let Some(text) = contradiction(&self.app, &last).await? {
            log.note_refusal(&text).await?;
            return Err(AnchorError::Contradicted);
        }
        Ok(Some(last))
    }
}

#[async_trait::async_trait]
impl Anchor for AnchorFile {
    fn name(&self) -> String {
        format!("the file {}", self.path.display())
    }

    async fn take(&mut self, signed: &Signed) -> Result<(), AnchorError> {
        if self.ask().await?.is_some_and(|last| last.size >= signed.size) {
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

/// The last checkpoint of the file, if it ends with one.
fn last_of(path: &Path) -> io::Result<Option<String>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut tail = Vec::new();
    file.take(TAIL).read_to_end(&mut tail)?;
    let tail = String::from_utf8_lossy(&tail);
    let mut blocks = tail.trim_end_matches('\n').rsplit("\n\n");
    Ok(match (blocks.next(), blocks.next()) {
        (Some(signatures), Some(text)) => Some(format!("{text}\n\n{signatures}\n")),
        _ => None,
    })
}

/// Appends in one write, and waits for the disk. What a crash has left half-written stays, and gets an
/// empty line after it.
fn append(path: &Path, note: &[u8]) -> io::Result<()> {
    let mut file = File::options().create(true).append(true).read(true).open(path)?;
    let length = file.metadata()?.len();
    let mut end = Vec::new();
    file.seek(SeekFrom::Start(length.saturating_sub(2)))?;
    (&mut file).take(2).read_to_end(&mut end)?;
    let is_whole = length == 0 || end == b"\n\n";
    let before: &[u8] = if is_whole { b"" } else { b"\n\n" };
    file.write_all(&[before, note, b"\n"].concat())?;
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkpoints_follow_each_other_whatever_a_crash_has_left() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("anchors");
        assert_eq!(last_of(&path).unwrap(), None);
        let note =
            |size: u64| format!("example.org/log\n{size}\nroot=\n\n\u{2014} example.org/log x\n");
        append(&path, note(1).as_bytes()).unwrap();
        assert_eq!(last_of(&path).unwrap(), Some(note(1)));
        append(&path, note(2).as_bytes()).unwrap();
        assert_eq!(last_of(&path).unwrap(), Some(note(2)));
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("{}\n{}\n", note(1), note(2)));

        for left in
            ["example.org/log\n3", "example.org/log\n3\nroot=\n\n\u{2014} exam", "\n", "x\n\n"]
        {
            File::options().append(true).open(&path).unwrap().write_all(left.as_bytes()).unwrap();
            append(&path, note(4).as_bytes()).unwrap();
            assert_eq!(last_of(&path).unwrap(), Some(note(4)), "{left:?}");
        }
        let many = note(5).repeat(500);
        std::fs::write(&path, many).unwrap();
        append(&path, note(6).as_bytes()).unwrap();
        assert_eq!(last_of(&path).unwrap(), Some(note(6)));
    }
}
