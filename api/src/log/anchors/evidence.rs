//! What others keep of our log, held against the book.
//!
//! Nobody else stops the log by his bare word: what he shows must be signed by a key of the log.
//!
//! What others keep and the book doesn't have was signed either before the book was set back, or by a copy of it that
//! runs elsewhere: a machine that was cloned, a data directory that was copied. Both look alike at first, and what is to
//! be done differs. A copy is sure where others agreed with this server since it started and nothing set its database
//! back meanwhile, and where what others keep still grows while this server signs nothing.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use commands::log_keys::next_name;
use proof::Checkpoint;

use super::super::{
    Log, LogError, Signed,
    memory::{Remembered, disagreement},
    reading::root_within,
    signing::choices,
};
use crate::state::App;

/// What a checkpoint that somebody else keeps says of the book.
pub(super) enum Evidence {
    Agrees,
    Contradicts(Contradiction),
    /// Nothing: the tree is damaged, or not built so far. The signer says so.
    Nothing,
}

/// Both can't be. The text is for a refusal, and names nobody, because anybody may read it.
pub(super) struct Contradiction {
    text: String,
    /// It is known that another server signs.
    is_sure: bool,
}

impl Contradiction {
    /// Stops the log for it.
    pub(super) async fn note(&self, app: &App) -> Result<(), LogError> {
        if self.is_sure {
            app.log().note_more(&self.text).await?;
            app.log().heard().is_sure.store(true, Ordering::Relaxed);
            Ok(())
        } else {
            app.log().note_refusal(&self.text).await
        }
    }
}

/// What this process has heard of others since it started.
#[derive(Default)]
pub(in crate::log) struct Heard {
    agreed: AtomicBool,
    /// It was noted that another server signs.
    is_sure: AtomicBool,
    /// The largest that contradicted the book.
    contradicted: Mutex<Option<u64>>,
}

impl Heard {
    /// Somebody keeps what the book agrees with.
    pub(super) fn agreed(&self) {
        self.agreed.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_sure(&self) -> bool {
        self.is_sure.load(Ordering::Relaxed)
    }

    /// Notes that a checkpoint of so many lines contradicts the book; whether that grows.
    fn contradicted(&self, size: u64) -> bool {
        let mut before = self.contradicted.lock().unwrap_or_else(PoisonError::into_inner);
        let grows = before.is_some_and(|before| size > before);
        *before = (*before).max(Some(size));
        grows
    }
}

impl Log {
    pub(super) fn heard(&self) -> &Heard {
        &self.0.heard
    }
}

/// Who has signed what the book doesn't have.
#[derive(Debug, Clone, Copy, PartialEq)]
enum By {
    /// This service, before its database was set back: the memory of this server doesn't go as far.
    Before,
    /// The same, or a copy that runs elsewhere: the database and what this server remembers were set back together, or
    /// neither was.
    BeforeOrACopy,
    ACopy,
}

/// Weighs what the log has signed, as somebody else keeps it.
pub(super) async fn weigh(app: &App, theirs: &Checkpoint) -> Result<Evidence, LogError> {
    let log = app.log();
    let origin = log.origin()?;
    if theirs.origin != origin {
        return Ok(Evidence::Nothing);
    }
    // After theirs was read: what anybody was shown was stored before.
    let latest = log.latest().await?;
    let within = latest.as_ref().filter(|latest| theirs.size <= latest.size);
    let Some(within) = within else {
        let lines = latest.as_ref().map_or(0, |latest| latest.size);
        let what = format!(
            "The newest checkpoint of the log {origin} in the database has {lines} lines, and others keep one of {} lines, \
             with the root {}.",
            theirs.size, theirs.root
        );
        return contradiction(log, theirs, latest.as_ref(), what).await;
    };
    let mut connection = app.background().acquire().await?;
    let Some(root) = root_within(&mut connection, within, theirs.size).await? else {
        return Ok(Evidence::Nothing);
    };
    drop(connection);
    if root == theirs.root {
        log.heard().agreed();
        return Ok(Evidence::Agrees);
    }
    let what = format!(
        "Others keep a checkpoint of the log {origin} with {} lines and the root {}, and the first {} lines of the book have the \
         root {root}.",
        theirs.size, theirs.root, theirs.size
    );
    contradiction(log, theirs, latest.as_ref(), what).await
}

async fn contradiction(
    log: &Log,
    theirs: &Checkpoint,
    latest: Option<&Signed>,
    what: String,
) -> Result<Evidence, LogError> {
    let origin = log.origin()?;
    let (_, remembered) = log.remembered().await?;
    let is_set_back = disagreement(&origin, &remembered, latest).is_some();
    let grows = log.heard().contradicted(theirs.size);
    let has_agreed = log.heard().agreed.load(Ordering::Relaxed);
    let by = match remembered {
        _ if grows => By::ACopy,
        Remembered::Checkpoint(_) if !is_set_back && has_agreed => By::ACopy,
        Remembered::Checkpoint(_) if !is_set_back => By::BeforeOrACopy,
        _ => By::Before,
    };
    let text = format!("{what} {}", advice(&origin, by));
    Ok(Evidence::Contradicts(Contradiction { text, is_sure: by == By::ACopy }))
}

/// What that means, and what to do.
fn advice(origin: &str, by: By) -> String {
    let next = next_name(origin);
    let begin = format!("`entrybook log begin --origin {next}`");
    match by {
        By::Before => format!(
            "The database was restored from an older backup, maybe written to since, or it is not the one that it was, or lines of it \
             were changed: what was written after the backup is lost, and what others were shown of it can't be taken back. {}",
            choices(origin)
        ),
        By::BeforeOrACopy => format!(
            "Either the database was restored from an older backup together with the data directory of this server, or lines of it were \
             changed; or a copy of both runs elsewhere, such as on a machine that was cloned, and has signed that. Nothing is signed any \
             more, and signing in goes on. First look whether another server runs with this log: if one does, stop the one that is not \
             to go on. If none does, restore the backup that has all of it. If what was signed elsewhere is not to be kept, or this one \
             is to be a service of its own, begin a new log with {begin} and tell those who verify the old one."
        ),
        By::ACopy => format!(
            "Another server signs this log with its key: a copy of this database and of its master key runs elsewhere, such as on a machine \
             that was cloned, or from a data directory that was copied. No backup mends that. Nothing is signed here any more, and signing in goes on. Find \
             the other server, and decide which of both goes on. If it is the other, stop this one. If it is this one, stop the other, \
             and begin a new log here with {begin}: what the other has signed under the old name can't be taken back, so tell those who \
             verify it. Two servers that are both to go on need a log, a master key and a public address each."
        ),
    }
}

/// What a file says that only this service writes to, where it holds what no key of the log has signed.
pub(super) fn of_another_key(theirs: &Checkpoint) -> Contradiction {
    let text = format!(
        "The anchor file keeps a checkpoint of the log {} with {} lines that no key of this database has signed. The database was \
         restored from a backup that is older than the key, or it is a new one under an old name, which whoever verifies would take \
         for a forgery. {} If the file is of a log that nobody checks any more, move it away, and run `entrybook log resume`.",
        theirs.origin,
        theirs.size,
        choices(&theirs.origin)
    );
    Contradiction { text, is_sure: false }
}
